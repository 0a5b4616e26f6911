"""What the wrappers of a model share while `fit` runs: the object of one fit."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from tfap import keras_compat


class PruningSession:
    """The state of one `fit` under `tfap.UpdatePruningStep`.

    The callback begins a session for all wrappers of a model and ends it with the fit. The wrappers keep the
    ended session until the next one begins, for the schedules that were in use. A wrapper that no callback
    has found yet has a session of its own, which does not run. The copy of a session does not run either.

    Attributes:
        running: Whether the fit runs.
        params: The fit's parameters as Keras gives them to callbacks. None in a custom training loop.
        ends_steps: Whether the callback has been told of the end of a step.
        ends_epochs: Whether it has been told of the end of an epoch.
        callback_missed: Whether a wrapper was called in training while the session did not run.
        schedules: The schedules in use by wrapper. A float is there as the schedule that spreads it.
    """

    def __init__(self):
        self.running = False
        self.params: Mapping[str, Any] | None = None
        self.ends_steps = self.ends_epochs = False
        self.callback_missed = False
        self.schedules: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._model = None  # weak reference to the model, if an execution takes several steps
        self._stepped: dict = {}  # (layer, replica) -> its last step in this batch

    @classmethod
    def begin(cls, model, layers: Iterable, params: Mapping[str, Any] | None = None) -> PruningSession:
        """Begins a session.

        Args:
            model: The model that is trained.
            layers: All its wrappers that count.
            params: The fit's parameters.

        Returns:
            The session, which the layers now hold.
        """
        session = cls()
        session.running, session.params = True, params
        if keras_compat.steps_per_execution(model) > 1:
            session._model = weakref.ref(model)
        for layer in layers:
            if layer in layer.session.schedules:
                session.schedules[layer] = layer.session.schedules[layer]
            layer.session = session
        return session

    def end(self):
        self.running = False

    @property
    def is_left_alone(self) -> bool:
        """Whether a custom training loop has begun the session but has never ended a step or an epoch."""
        return self._counts_calls and self.running and not self.ends_epochs

    @property
    def _counts_calls(self):
        """Whether nothing signals the end of a step, so that every call of a layer is one, as in tfmot."""
        return not self.running or (self.params is None and not self.ends_steps)

    def end_batch(self):
        """Ends the step, or the several steps of one execution."""
        self.ends_steps = True
        self._stepped.clear()

    def begins_step(self, layer) -> bool:
        """Tells whether this is the layer's first call in a training step."""
        backend = keras_compat.backend_of(layer)
        step = backend.step_identity()
        if step is None:
            if self._counts_calls:
                return True
            step = self._eager_step()
        caller = id(layer), backend.replica()
        if self._stepped.get(caller) == step:
            return False
        self._stepped[caller] = step
        return True

    def _eager_step(self):
        """A number that differs between the steps of one execution."""
        return 0 if self._model is None else keras_compat.optimizer_updates(self._model())

    def __reduce__(self):
        return PruningSession, ()
