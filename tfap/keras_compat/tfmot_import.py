"""Classes of tfmot that are not in its public API. Importing this file imports tfmot."""

from tfap.keras_compat.lazy import imported

imported("tensorflow_model_optimization")

from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import (  # noqa: E402
    Pruning as TfmotPruning,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (  # noqa: E402
    PruneLowMagnitude,
)

__all__ = ["PruneLowMagnitude", "TfmotPruning"]
