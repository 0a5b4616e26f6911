"""Imports tensorflow-model-optimization (tfmot), which supports tf_keras only."""

import os
import warnings

import tensorflow as tf


def _import_tfmot():
    """Imports tfmot without its side effects on the user's process.

    On import, tfmot sets TF_USE_LEGACY_KERAS. If `tf.keras` has not been accessed yet, it then means Keras 2
    in the whole process. So this accesses `tf.keras` first and restores the variable afterwards. It also
    restores the warnings filters, to which a dependency of tfmot adds one.
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
