"""A plain function as a pruning schedule, as tfmot accepts it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.keras_compat import registry
from tfap.schedules.base import PruningSchedule


@keras_compat.register
class FunctionSchedule(PruningSchedule):
    """Prunes as a function says: `step -> (should_prune, sparsity)`.

    Files hold the name of the function. To load one, register the function with
    `keras.saving.register_keras_serializable()` (or that of tf_keras).

    Args:
        function: Function of the step, an integer tensor, that returns whether to prune, and the sparsity.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, step: Any) -> tuple[Any, Any]:
        should_prune, sparsity = self.function(step)
        # TensorFlow's cond does not accept Python's own True and False.
        return np.bool_(should_prune) if isinstance(should_prune, bool) else should_prune, sparsity

    def get_config(self) -> dict[str, Any]:
        """Returns the class name and the name of the function, in the form of tfmot's schedules."""
        return {
            "class_name": keras_compat.registered_name(type(self)),
            "config": {"function": keras_compat.registered_name(self.function)},
        }

    @classmethod
    def from_config(cls, config):
        """Finds the function by its registered name.

        Raises:
            ValueError: If no function is registered under the name.
        """
        function = config["function"]
        found = function if callable(function) else registry.registered_class(function)
        if found is None:
            raise ValueError(
                f"The pruning schedule is the function '{function}', which is not registered. Decorate it "
                "with @keras.saving.register_keras_serializable() (or tf_keras's) before loading."
            )
        return cls(found)
