"""Weights that are pruned together, by steps or at the ends of epochs."""

from tfap import schedules
from tfap.schedules.timetable import Timetable
from tfap.training import mask_update

_OF_TRAINING = ("accuracy", "acc", "loss")  # logged after the first batch, if ever


def group_of(weights, schedule, step):
    """Makes the group of some `PrunedWeight`s with the same schedule after some training steps."""
    return (EpochGroup if schedules.by_epochs(schedule) else StepGroup)(weights, schedule, step)


class Group:
    """Weights that are pruned together.

    Attributes:
        next_step: The step before which no update is due.
        has_pruned: Whether a mask update was made.
    """

    def __init__(self, weights, schedule, step):
        self.has_pruned = False
        self._weights = weights
        self._schedule = schedule
        for weight in weights:
            weight.wrapper.session.schedules[weight.wrapper] = schedule

    def check_logs(self, logs):
        """Raises ValueError if the schedule needs a metric that is not logged."""

    def due_at_step(self, step):
        """Returns the sparsity to prune to at a step, or None; the same again until `write` is called."""

    def due_at_epoch_end(self, logs):
        """Returns the sparsity to prune to at the end of an epoch, or None."""

    def missing(self):
        """Returns the warning for a fit that ends before the last update, or None."""

    def decide(self, sparsity, gradients, errors=None):
        """Returns the `MaskUpdate` to a sparsity; the other arguments as in `mask_update.decide_update`."""
        return mask_update.decide_update(self._weights, sparsity, gradients, errors)

    def write(self, update, step):
        """Writes a `MaskUpdate` after some training steps."""
        self.has_pruned = True
        update.write()
        for weight in self._weights:
            weight.wrapper.last_update_step.assign(step)


class StepGroup(Group):
    """A group that is pruned when a step of its schedule has passed."""

    def __init__(self, weights, schedule, step):
        super().__init__(weights, schedule, step)
        self._timetable = Timetable(schedule)
        self._wait(step)

    def due_at_step(self, step):
        sparsity = self._timetable.sparsity_due(self._seen_until, step)
        if sparsity is None:
            self._wait(step)
        return sparsity

    def write(self, update, step):
        super().write(update, step)
        self._wait(step)

    def _wait(self, step):
        self._seen_until = step
        self.next_step = self._timetable.next_step(step)


class EpochGroup(Group):
    """A group that is pruned when the metrics of an epoch meet its schedule."""

    next_step = float("inf")

    def __init__(self, weights, schedule, step):
        super().__init__(weights, schedule, step)
        self._seen = []

    @property
    def _updates(self):
        return int(self._weights[0].wrapper.updates_made.numpy())

    def check_logs(self, logs):
        if self._schedule.metric in _OF_TRAINING:  # callbacks may log others at the end of an epoch
            self._schedule.check_logs(logs)

    def due_at_epoch_end(self, logs):
        if self._schedule.metric.startswith("val_") and self._schedule.metric not in logs:
            return None  # not validated in this epoch
        sparsity = self._schedule.on_epoch_end(logs, self._updates)
        self._seen.append(logs[self._schedule.metric])
        return sparsity

    def missing(self):
        return self._schedule.missing(self._updates, self._seen)
