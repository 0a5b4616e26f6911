"""The callback that stops `fit` once a metric is reached and pruning is complete."""

from tfap import schedules
from tfap.keras_compat import Callback
from tfap.layers.find import prunable_layers
from tfap.utils import checks


class StopWhenPruned(Callback):
    """Stops `fit` when a metric is good enough, but not before the pruning is over.

    That is after the last prune of the schedule and one further epoch, in which the net can recover. On a
    model without pruning wrappers, such as the dense net that one compares with, only the metric counts.

    Args:
        metric: name of a logged metric, such as "accuracy" or "val_loss".
        value: where to stop.
        mode: "max" if the metric rises, "min" if it falls; "auto" knows losses, errors, accuracies, AUC,
            precision and recall by their names.

    Raises:
        ValueError: an unknown mode, or a metric that "auto" does not know; a schedule that does not tell its
            last step; a metric that is not logged.

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = tfap.prune(keras.Sequential(layers), tfap.ConstantSparsity(0.5, 8, end_step=8, frequency=1))
    >>> model.compile("sgd", "mse")
    >>> callbacks = [tfap.UpdatePruningStep(), tfap.StopWhenPruned("loss", 100.0)]
    >>> data = {"x": numpy.ones((32, 4)), "y": numpy.ones((32, 1)), "batch_size": 8, "verbose": 0}
    >>> len(model.fit(**data, epochs=9, callbacks=callbacks).epoch)  # 4 steps an epoch
    3
    """

    def __init__(self, metric="accuracy", value=0.98, mode="auto"):
        super().__init__()
        if mode not in ("auto", "max", "min"):
            raise ValueError(f'mode must be "auto", "max" or "min": received {mode!r}.')
        self.metric = checks.text("metric", metric)
        self.value = checks.number("value", value)
        self.mode = _direction(metric) if mode == "auto" else mode

    def on_train_begin(self, logs=None):
        pruning_is_over(self.model)  # a schedule that cannot tell should say so now

    def on_epoch_begin(self, epoch, logs=None):
        self._was_over = pruning_is_over(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if self.metric.startswith("val_") and self.metric not in (logs or {}):
            return  # not validated in this epoch
        if self.metric not in (logs or {}):
            raise ValueError(
                f"StopWhenPruned waits for the metric '{self.metric}', and fit logs "
                f"{', '.join(sorted(logs or {})) or 'none'}."
            )
        value = logs[self.metric]
        if self._was_over and (value <= self.value if self.mode == "min" else value >= self.value):
            self.model.stop_training = True


_RISING = ("acc", "auc", "precision", "recall", "f1", "iou")


_FALLING = ("loss", "error", "mae", "mse", "mape", "msle", "rmse")


def _direction(metric):
    found = {mode for mode, names in (("min", _FALLING), ("max", _RISING)) for n in names if n in metric}
    if len(found) != 1:
        raise ValueError(f'Whether \'{metric}\' rises or falls is not known: give mode="max" or mode="min".')
    return found.pop()


def pruning_is_over(model):
    """Tells whether the schedules of all pruning wrappers have made their last update.

    Args:
        model: A wrapped model of either Keras. One without pruning wrappers is over from the start.

    Returns:
        True or False.

    Raises:
        ValueError: If a schedule has no `end_step`.
    """
    wrappers = prunable_layers(model)
    trained = [wrapper for wrapper in wrappers if wrapper.trained]  # none before a fit
    return all(_is_over(wrapper) for wrapper in trained or wrappers)


def _is_over(wrapper):
    schedule = wrapper.session.schedules.get(wrapper, wrapper.pruning_schedule)
    if isinstance(schedule, float) or not wrapper.built:
        return False  # to be spread over this fit
    step, updates = wrapper.pruning_step.numpy(), wrapper.updates_made.numpy()
    return schedules.is_over(schedule, int(step), int(updates))
