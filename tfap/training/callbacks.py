"""The callback that updates masks during the `fit` of either Keras."""

import weakref
from typing import Any

from absl import logging

from tfap import keras_compat, schedules
from tfap.keras_compat import Callback
from tfap.layers.base import CALLBACK_MISSING, LOOP_NEVER_PRUNES
from tfap.layers.find import counting_layers, prunable_layers
from tfap.layers.session import PruningSession
from tfap.training import disconnected, gather, mask_update
from tfap.training.compensation import Compensation
from tfap.training.normalization import NormalizationStatistics
from tfap.training.update_groups import group_of
from tfap.utils import checks


class UpdatePruningStep(Callback):
    """Updates the masks during `fit` when the model's pruning schedule says so.

    A model with pruning wrappers cannot be trained without it. It adds `sparsity`, the pruned fraction of the
    prunable weights, to the logs of every epoch. History, the progress bar and later callbacks in the list
    see it. In several fits in a row, steps and masks continue.

    In a training loop of your own, call `on_train_begin()`, `on_train_batch_end(batch)` and
    `on_epoch_end(epoch)`. On JAX, write the results of a step into the model's variables before
    `on_train_batch_end`, and read them again after it.

    Args:
        total_steps: Integer. Training steps of the fit: batches, however often a layer trains in each. Needed
            only if the schedule is a float and `fit` does not know its length, as with a generator without
            `steps_per_epoch`.
        gradient_data: Data for a criterion such as `tfap.Gradient`, which computes gradients at every mask
            update: a tuple of arrays `(x, y)` or `(x, y, sample_weight)`, or a re-iterable of such batches,
            such as a list or a `tf.data.Dataset`. None for other criteria.
        gradient_steps: Integer. The largest number of its batches to read, of 128 samples each if arrays are
            given. None reads all.
        reconstruction_data: Inputs for `tfap.Reconstruction`, which measures on them at every mask update, as
            in `tfap.measure_activations`. A few hundred suffice. None for other criteria.
        recalibrate: Data as in `tfap.recalibrate`, which can be iterated repeatedly. At the end of the fit,
            the moving statistics of BatchNormalization layers are computed anew over it. With None, there is
            a warning if they are old then.
        compensate: Unlabeled data as in `tfap.recalibrate`, which can be iterated repeatedly; the first 2,048
            samples are used. At each mask update that prunes neurons, the layers that consume them are
            refitted on it, as in `tfap.prune_once`. With None, they are not.

    Raises:
        TypeError: If an argument has the wrong type, or gradients are needed and the data is not iterable, or
            is a one-shot iterator.
        ValueError: If a number is less than 1. At the beginning of the fit, if the model has no pruning
            wrappers, there are two of these callbacks, the length of the fit is needed and unknown, a wrapper
            with `remove_disconnected=True` is in no Sequential or Functional model, gradients are needed
            without data or without a compiled loss, or `recalibrate` or `compensate` does not fit the
            model.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = tfap.prune(keras.Sequential(layers), 0.5)
    >>> model.compile("sgd", "mse")
    >>> data = {"x": numpy.ones((32, 4)), "y": numpy.ones((32, 1)), "batch_size": 8, "verbose": 0}
    >>> history = model.fit(**data, epochs=4, callbacks=[tfap.UpdatePruningStep()])
    >>> history.history["sparsity"][-1]
    0.5
    """

    def __init__(
        self,
        total_steps: int | None = None,
        gradient_data: Any = None,
        gradient_steps: int | None = None,
        reconstruction_data: Any = None,
        recalibrate: Any = None,
        compensate: Any = None,
    ):
        super().__init__()
        if total_steps is not None:
            checks.integer("total_steps", total_steps)
        if gradient_steps is not None:
            checks.integer("gradient_steps", gradient_steps)
        self._total_steps = total_steps
        self._gradient_data, self._gradient_steps = gradient_data, gradient_steps
        self._reconstruction_data = reconstruction_data
        self._statistics = NormalizationStatistics(recalibrate)
        self._compensation = Compensation(compensate)

    _groups = _session = None
    _step_ended = False

    def on_train_begin(self, logs=None):
        self._wrappers = prunable_layers(self.model)
        self._backend = keras_compat.backend_of(self.model)
        if not self._wrappers:
            raise ValueError(
                f"The model '{self.model.name}' has no pruning wrappers: call tfap.prune(model, schedule) "
                "and fit its result."
            )
        self._check_alone()
        for wrapper in self._wrappers:
            wrapper.check_still_prunable()
        disconnected.check(self.model, self._wrappers)
        self._statistics.check(self.model)
        self._compensation.begin(self.model, self._wrappers)
        self._gradients = gather.gradients_for(
            self.model, self._wrappers, self._gradient_data, self._gradient_steps
        )
        self._errors = gather.errors_for(self.model, self._wrappers, self._reconstruction_data)
        if any(isinstance(wrapper.pruning_schedule, float) for wrapper in self._wrappers):
            self._check_fit_length()
        self._first_epoch = None
        self._groups = None  # made after the first batch: a subclassed model is not built before
        self._batches = 0
        self._steps_before = _most_steps(self._wrappers)
        self._keep_seed_states()
        keras_compat.check_optimizer(self.model)
        self._repair_train_function()
        self._backend.prepared(self.model)
        self._begin_session()
        self._note_first_weights()
        self._backend.protected(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = 0
        if self._first_epoch is None:
            self._first_epoch = epoch
            self._resume()
        elif not self._is_in_session():  # a fit within this one has ended
            self._begin_session()
            _NeedsCallback.lift(self.model)
            self._groups = None  # it may have pruned
            self._steps_before = _most_steps(self._wrappers)

    def on_train_batch_end(self, batch, logs=None):
        passed = batch + 1 - self._batches  # several with steps_per_execution
        if passed <= 0:  # a training loop that counts from 0 again without calling on_epoch_begin
            passed = batch + 1
        self._batches = batch + 1
        self._step_ended = True
        self._pass(passed, logs)
        self._session.end_batch()

    def _pass(self, passed, logs):
        """Counts the steps that have ended, and makes the update that they make due."""
        if self._groups is None:
            self._start(passed, logs)
        else:
            self._step += passed
        if any(self._step >= group.next_step for group in self._groups):
            self._update()

    def on_epoch_end(self, epoch=None, logs=None, batch=None):
        # A loop for tfmot's callback calls on_epoch_end(batch=-1), and never on_train_batch_end.
        if self.params is None and not self._step_ended:
            self._pass(self._steps_of_epoch(), logs)
            self._session.ends_epochs = True
        self._step_ended = False
        if self._groups is not None:
            self._step = self._current_step()
            logs = {} if logs is None else logs
            self._update_by_epoch(logs)
            logs["sparsity"] = mask_update.sparsity_of(self._weights)

    def on_train_end(self, logs=None):
        self._session.end()
        if self._groups is None and self.params is None and _most_steps(self._wrappers) > self._steps_before:
            raise RuntimeError(LOOP_NEVER_PRUNES.format(name=self.model.name))
        if self._groups is not None:
            for weight in self._weights:
                weight.zero_pruned()  # an optimizer's moving average has brought back old weights
            self._warn_of_missing_updates()
            self._end_statistics()
        _NeedsCallback.impose(self.model, self._wrappers)

    # -- for subclasses ------------------------------------------------------------------------------

    def before_update(self) -> None:
        """Called before every mask update. Override it to read `self.model`."""

    def after_update(self) -> None:
        """Called after every mask update."""

    # -- the fit -------------------------------------------------------------------------------------

    def _end_statistics(self):
        self._statistics.end(self.model, self._step)

    def _warn_of_missing_updates(self):
        missing = [text for text in (group.missing() for group in self._groups) if text]
        if missing:
            logging.warning("%s", missing[0])
        elif not any(group.has_pruned for group in self._groups) and not mask_update.sparsity_of(
            self._weights
        ):
            logging.warning(
                "Nothing was pruned: the schedule's first update comes after step %d, this fit's last. Train "
                "longer, or pass a schedule with an earlier begin_step or a smaller frequency.",
                self._step,
            )

    def _start(self, passed, logs):
        """Makes the groups after the first batch: all is built, and other callbacks have restored state."""
        self._backend.sync(self.model)
        self._weights = [w for w in mask_update.pruned_weights(self.model) if w.wrapper.trained]
        if not self._weights:
            raise RuntimeError(
                f"The model '{self.model.name}' trains without calling its layers with training=True, so "
                "nothing can be counted or pruned. Give its call() a `training` argument, which Keras 3 then "
                "passes on to the layers."
            )
        for wrapper in self._wrappers:
            if not wrapper.trained:
                logging.warning("'%s' is not pruned: it is called with training=False.", wrapper.name)
        self._note_first_weights()  # those of a subclassed model have just been made
        # A first batch that runs a step's graph several times has counted as many.
        self._step = min(max(self._steps_counted()), self._steps_before + passed)
        self._step = self._current_step()
        before = self._step - passed
        self._groups = [
            group_of(
                weights, self._schedule_of(weights[0].wrapper, before), _not_updated_since(weights, before)
            )
            for weights in mask_update.groups(self._weights)
        ]
        if logs:
            for group in self._groups:
                group.check_logs(logs)

    def _steps_of_epoch(self):
        """Returns how many steps the layers have counted since the last epoch, in a loop that ends no steps.

        Raises:
            RuntimeError: If they have counted none, or `on_train_begin` was not called.
        """
        if self._session is None:
            raise RuntimeError("Call the callback's on_train_begin() before on_epoch_end().")
        steps = _most_steps(self._wrappers) - (self._steps_before if self._groups is None else self._step)
        if steps <= 0:
            raise RuntimeError(
                f"No layer of '{self.model.name}' was called with training=True in this epoch, so nothing "
                "can be pruned: call model(x, training=True) in the training step."
            )
        if self._groups is None:
            logging.warning(
                "The training loop does not call on_train_batch_end(batch), so masks are updated at the "
                "end of epochs only. Call it after every step to prune at the steps of the schedule."
            )
        return steps

    def _note_first_weights(self):
        for wrapper in self._wrappers:
            if wrapper.built and wrapper.previous_unknown:
                wrapper.note_weights()

    def _keep_seed_states(self):
        states = keras_compat.SeedStates(self.model)
        if states:
            self._wrappers[0].keep_seed_states(states)

    def _resume(self):
        """Makes up for what an interruption has cut off: seed states, and a mask update that was due."""
        self._steps_before = _most_steps(self._wrappers)  # other callbacks may have restored them
        self._wrappers[0].restore_seed_states()
        if not all(wrapper.built for wrapper in self._wrappers):
            return  # never trained
        trained = [
            w for w in mask_update.pruned_weights(self.model) if int(w.wrapper.pruning_step.numpy()) > 0
        ]
        due = []
        for weights in mask_update.groups(trained):
            step = int(weights[0].wrapper.pruning_step.numpy())
            schedule = self._schedule_of(weights[0].wrapper, step)
            cut_off = group_of(weights, schedule, int(weights[0].wrapper.last_update_step.numpy()))
            due.append((cut_off, cut_off.due_at_step(step), step))
        self._prune(due, trained)

    def _update(self):
        self._backend.sync(self.model)
        self._step = self._current_step()
        due = [(group, group.due_at_step(self._step), self._step) for group in self._groups]
        self._prune(due, self._weights)

    def _update_by_epoch(self, logs):
        for weight in self._weights:
            weight.wrapper.weigh_epoch(logs)
        due = [(group, group.due_at_epoch_end(logs), self._step) for group in self._groups]
        self._prune(due, self._weights)

    def _prune(self, due, weights):
        """Prunes the groups of `(group, sparsity, step)`; `weights` are those of all groups."""
        due = [entry for entry in due if entry[1] is not None]
        if not due:
            return
        self.before_update()
        sparsity_before = mask_update.sparsity_of(weights)
        updates = [
            (group, group.decide(sparsity, self._gradients, self._errors), step)
            for group, sparsity, step in due
        ]
        wrappers = [weight.wrapper for weight in weights]
        with disconnected.undone_on_error(wrappers), self._compensation.around(self.model):
            for group, update, step in updates:
                group.write(update, step)
            # After all groups: what one group prunes may disconnect weights of another.
            disconnected.remove(self.model, wrappers)
        self._statistics.note_update(updates[-1][2], mask_update.sparsity_of(weights) > sparsity_before)
        self.after_update()

    def _current_step(self):
        """Returns the steps so far, and sets layers back that have counted more steps than batches.

        A layer counts every run of its graph, so the discriminator of a custom loop counts two steps in a
        batch that trains it twice. `self._step` counts batches, and overshoots if the last execution of
        several steps was short.
        """
        counted = self._steps_counted()
        if not self._is_in_session():
            return max(counted)  # a fit within this one has trained the layers too
        step = min(self._step, max(counted))
        if max(counted) > step:
            for wrapper in {id(weight.wrapper): weight.wrapper for weight in self._weights}.values():
                wrapper.pruning_step.assign(min(step, int(wrapper.pruning_step.numpy())))
        return step

    def _steps_counted(self):
        return [int(weight.wrapper.pruning_step.numpy()) for weight in self._weights]

    def _repair_train_function(self):
        if any(wrapper.session.callback_missed for wrapper in self._wrappers):
            # A fit without this callback has failed while it traced this function, which cannot be used.
            self.model.make_train_function(force=True)
        _NeedsCallback.lift(self.model)

    def _check_alone(self):
        """Raises if the fit has two of these callbacks, which would make every update twice."""
        other = self._wrappers[0].session
        if other.running and self.params and other.params is self.params:  # one dict per fit
            raise ValueError("There are two UpdatePruningStep callbacks in this fit: leave one out.")

    def _begin_session(self):
        self._session = PruningSession.begin(self.model, counting_layers(self.model), self.params)
        for wrapper in self._wrappers:
            wrapper.begin_steps()

    def _is_in_session(self):
        return self._session.running and self._wrappers[0].session is self._session

    def _schedule_of(self, wrapper, before):
        """Returns the wrapper's schedule; a float is spread over this fit, or over the one it resumes."""
        schedule = wrapper.pruning_schedule
        if not isinstance(schedule, float):
            return schedule
        if self._total_steps:
            return schedules.over_fit(
                schedule, self._total_steps, 0 if before < self._total_steps else before
            )
        steps, first = self.params["steps"], self._first_epoch or 0
        if first and first * steps <= before < (first + 1) * steps:  # resumes an interrupted fit
            return schedules.over_fit(schedule, self.params["epochs"] * steps)
        return schedules.over_fit(schedule, (self.params["epochs"] - first) * steps, before)

    def _check_fit_length(self):
        params = self.params or {}
        if not self._total_steps and not (params.get("epochs") and params.get("steps")):
            raise ValueError(
                "A float as the pruning schedule is spread over the fit, whose length is unknown here. Pass "
                "steps_per_epoch to fit(), or use tfap.UpdatePruningStep(total_steps=...)."
            )


def _most_steps(wrappers):
    """Returns the training steps of the wrapper that has counted most. 0 if none has been called."""
    return max([0, *(int(each.pruning_step.numpy()) for each in wrappers if each.built)])


def _not_updated_since(weights, before):
    """The step up to which updates are done: tf_keras resumes within an epoch, at its n-th batch."""
    return max(before, int(weights[0].wrapper.last_update_step.numpy()))


class _NeedsCallback:
    """Replaces a model's train function between fits, so that a fit without the callback fails.

    The layers' own check runs when the training step is traced, and a second fit does not trace again. If
    tfmot's callback suffices, it traces a step that prunes in its graph.
    """

    def __init__(self, model, wrappers):
        self.train_function = model.train_function
        self._model = weakref.ref(model)
        self._needing = [wrapper.name for wrapper in wrappers if not wrapper.prunes_in_graph]

    def __call__(self, *arguments):
        if self._needing:
            keras_compat.backend_of(self._model()).restored(self._model(), arguments)
            raise RuntimeError(CALLBACK_MISSING.format(name=self._needing[0]))
        return self._model().make_train_function(force=True)(*arguments)

    @classmethod
    def impose(cls, model, wrappers):
        function = getattr(model, "train_function", None)
        if function is not None and not isinstance(function, cls):
            model.train_function = cls(model, wrappers)

    @classmethod
    def lift(cls, model):
        if isinstance(getattr(model, "train_function", None), cls):
            model.train_function = model.train_function.train_function
