"""The import of tensorflow-model-optimization (tfmot), which serves tf_keras alone."""

import os
import warnings

import tensorflow as tf


def _import_tfmot():
    """Imports tfmot without its side effect on the user's process.

    On import tfmot sets TF_USE_LEGACY_KERAS, which turns `tf.keras` into Keras 2 for everyone if it
    has not been looked at yet. So `tf.keras` is resolved first and the variable put back afterwards, as are
    the filters of warnings, to which a package of tfmot's adds one.
    """
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    _ = tf.keras.__name__
    try:
        with warnings.catch_warnings():
            import tensorflow_model_optimization
            from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_wrapper
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return tensorflow_model_optimization, pruning_wrapper.PruneLowMagnitude, pruning_impl.Pruning


tfmot, PruneLowMagnitude, TfmotPruning = _import_tfmot()
