"""What `import tfap` loads: Keras 3, the layers, and the names of classes that files hold.

The command `tfap` imports it only if it has work to do, so that its help does not wait for TensorFlow.
"""

import importlib

from tfap import keras_compat, layers, moved

__all__ = ["keras_compat", "layers"]

# Files name these classes, which `import tfap` does not load.
for _name, _module in (
    ("AccuracyIntervals", "schedules"),
    ("IterativeSparsity", "schedules"),
    ("SingularValueRegularizer", "low_rank.regularizer"),
):
    keras_compat.register_lazily(
        _name, lambda name=_name, module=_module: getattr(importlib.import_module(f"tfap.{module}"), name)
    )

moved.alias()
