"""Callbacks for the `fit` of either Keras: when masks are updated."""

import numbers

from tfap import schedules, updater, wrapped
from tfap.keras_compat import Callback
from tfap.layers.base import CALLBACK_MISSING


class UpdatePruningStep(Callback):
    """Prunes during `fit`: updates the masks when the model's pruning schedule says so.

    A model with pruning wrappers cannot be trained without it. It adds `sparsity`, the pruned share of
    the prunable weights, to the logs of every epoch, so History, the progress bar and callbacks behind
    it in the list see it. It runs in several fits in a row: the steps and masks go on.

    Args:
        total_steps: training steps of the fit, needed only where a float was given as the schedule and
            fit cannot tell the length, as with a generator without `steps_per_epoch`.

    Raises:
        ValueError: at the begin of the fit, if the model has no pruning wrappers or the length of the fit
            is needed and unknown.

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = tfap.prune(keras.Sequential(layers), 0.5)
    >>> model.compile("sgd", "mse")
    >>> data = {"x": numpy.ones((32, 4)), "y": numpy.ones((32, 1)), "batch_size": 8, "verbose": 0}
    >>> history = model.fit(**data, epochs=4, callbacks=[tfap.UpdatePruningStep()])
    >>> history.history["sparsity"][-1]
    0.5
    """

    def __init__(self, total_steps=None):
        super().__init__()
        if total_steps is not None and (not isinstance(total_steps, numbers.Integral) or total_steps < 1):
            raise ValueError(f"total_steps must be a whole number >= 1: received {total_steps!r}.")
        self._total_steps = total_steps

    def on_train_begin(self, logs=None):
        self._wrappers = wrapped.prunable_layers(self.model)
        if not self._wrappers:
            raise ValueError(
                f"The model '{self.model.name}' has no pruning wrappers: call tfap.prune(model, schedule) "
                "and fit its result."
            )
        self._schedules = {wrapper.settings.key: self._schedule_of(wrapper) for wrapper in self._wrappers}
        self._groups = None  # made after the first batch: a subclassed model is not built before
        self._batches = 0
        self._repair_train_function()
        self._set_active(True)

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = 0

    def on_train_batch_end(self, batch, logs=None):
        passed = batch + 1 - self._batches  # several with steps_per_execution
        if passed <= 0:  # a training loop that counts from 0 again without calling on_epoch_begin
            passed = batch + 1
        self._batches = batch + 1
        if self._groups is None:
            self._start(passed)
        else:
            self._step += passed
        if any(self._step >= group.next_step for group in self._groups):
            self._update()

    def on_epoch_end(self, epoch, logs=None):
        if self._groups is not None:
            self._step = self._current_step()
            if logs is not None:
                logs["sparsity"] = updater.sparsity_of(self._weights)

    def on_train_end(self, logs=None):
        self._set_active(False)
        _NeedsCallback.impose(self.model, self._wrappers[0].name)

    def _start(self, passed):
        """After the first batch, when everything is built and other callbacks have restored their state."""
        self._weights = updater.pruned_weights(self.model)
        self._clock = next((wrapper for wrapper in self._wrappers if wrapper.called_in_training), None)
        if self._clock is None:
            raise RuntimeError(
                f"The model '{self.model.name}' trains without calling its layers with training=True, so "
                "nothing can be counted or pruned. Give its call() a `training` argument, which Keras 3 then "
                "passes on to the layers."
            )
        self._step = self._current_step()
        self._groups = []
        for weights in updater.groups(self._weights):
            schedule = self._schedules[weights[0].wrapper.settings.key]
            self._groups.append(_Group(weights, schedule, self._step - passed))

    def _update(self):
        # The steps counted here overshoot at a short last execution; those in the model do not.
        self._step = self._current_step()
        for group in self._groups:
            group.update(self._step)

    def _current_step(self):
        return int(self._clock.pruning_step.numpy())

    def _repair_train_function(self):
        if any(wrapper.callback_missed for wrapper in self._wrappers):
            # A fit without this callback died in the middle of tracing: that function is of no use.
            self.model.make_train_function(force=True)
            for wrapper in self._wrappers:
                wrapper.callback_missed = False
        _NeedsCallback.lift(self.model)

    def _set_active(self, active):
        for wrapper in self._wrappers:
            wrapper.callback_active = active
            wrapper.begin_steps()

    def _schedule_of(self, wrapper):
        schedule = wrapper.pruning_schedule
        return schedules.over_fit(schedule, self._fit_length()) if isinstance(schedule, float) else schedule

    def _fit_length(self):
        if self._total_steps:
            return self._total_steps
        epochs, steps = (self.params or {}).get("epochs"), (self.params or {}).get("steps")
        if not epochs or not steps:
            raise ValueError(
                "A float as the pruning schedule is spread over the fit, whose length is unknown here. Pass "
                "steps_per_epoch to fit(), or use tfap.UpdatePruningStep(total_steps=...)."
            )
        return epochs * steps


class _Group:
    """Weights with equal settings, and when they are due."""

    def __init__(self, weights, schedule, step):
        self._weights = weights
        self._timetable = schedules.Timetable(schedule)
        self._wait(step)

    def update(self, step):
        sparsity = self._timetable.sparsity_due(self._updated, step)
        if sparsity is not None:
            updater.update_group(self._weights, sparsity)
        self._wait(step)

    def _wait(self, step):
        self._updated = step
        self.next_step = self._timetable.next_step(step)


class _NeedsCallback:
    """Stands for a model's train function between fits, so that a fit without the callback fails.

    The layers' own check runs when the training step is traced; a second fit does not trace again.
    """

    def __init__(self, train_function, layer):
        self.train_function = train_function
        self._layer = layer

    def __call__(self, iterator):
        raise RuntimeError(CALLBACK_MISSING.format(name=self._layer))

    @classmethod
    def impose(cls, model, layer):
        function = getattr(model, "train_function", None)
        if function is not None and not isinstance(function, cls):
            model.train_function = cls(function, layer)

    @classmethod
    def lift(cls, model):
        if isinstance(getattr(model, "train_function", None), cls):
            model.train_function = model.train_function.train_function
