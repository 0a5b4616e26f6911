"""The callback that stops `fit` once a metric is reached and pruning is complete."""

from tfap import schedules
from tfap.keras_compat import Callback
from tfap.keras_compat.types import Model
from tfap.layers.find import prunable_layers
from tfap.utils import checks


class StopWhenPruned(Callback):
    """Stops `fit` when a metric reaches a value, but not before pruning is complete.

    Pruning is complete after the last update of the schedule and one more epoch, in which the model can
    recover. On a model without pruning wrappers, such as a dense baseline, only the metric counts.

    Args:
        metric: The name of a logged metric, such as "accuracy" or "val_loss".
        value: A float. The value at which to stop.
        mode: "max" if the metric rises, "min" if it falls. "auto" knows losses, errors, accuracies, AUC,
            precision and recall by name.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the mode is unknown, "auto" does not know the metric, the metric is not logged, or a
            schedule does not tell its last step.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = tfap.prune(keras.Sequential(layers), tfap.ConstantSparsity(0.5, 8, end_step=8, frequency=1))
    >>> model.compile("sgd", "mse")
    >>> callbacks = [tfap.UpdatePruningStep(), tfap.StopWhenPruned("loss", 100.0)]
    >>> data = {"x": numpy.ones((32, 4)), "y": numpy.ones((32, 1)), "batch_size": 8, "verbose": 0}
    >>> len(model.fit(**data, epochs=9, callbacks=callbacks).epoch)  # 4 steps an epoch
    3
    """

    def __init__(self, metric: str = "accuracy", value: float = 0.98, mode: str = "auto"):
        super().__init__()
        checks.choice("mode", mode, ("auto", "max", "min"))
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


def _direction(metric: str) -> str:
    found = {mode for mode, names in (("min", _FALLING), ("max", _RISING)) for n in names if n in metric}
    if len(found) != 1:
        raise ValueError(f'Whether \'{metric}\' rises or falls is unknown: pass mode="max" or mode="min".')
    return found.pop()


def pruning_is_over(model: Model) -> bool:
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
        return False  # the callback has not spread it over a fit yet
    step, updates = wrapper.pruning_step.numpy(), wrapper.updates_made.numpy()
    return schedules.is_over(schedule, int(step), int(updates))
