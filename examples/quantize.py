"""Trains a pruned model for int8 with tfmot, keeps its zeros, and writes the files.

    python examples/quantize.py [--dataset fashion_mnist] [--epochs 4]

Needs tf_keras.
"""
import tensorflow_model_optimization as tfmot


def quantization_aware(model):
    """Wraps a model without pruning wrappers for prune-preserving quantization-aware training (PQAT)."""
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    return tfmot.quantization.keras.quantize_apply(annotated, scheme)
