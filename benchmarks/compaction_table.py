"""Measures what compact() does with the models of keras.applications.

    python benchmarks/compaction_table.py

Every model has random weights and random BatchNormalization statistics. The script prunes random channels
that make half of the FLOPs of every layer, or of every group of layers whose channels are coupled by residual
sums. The layers that consume these channels become cheaper too. Then it calls strip_pruning() and compact().

The table has the weights and FLOPs before and after, the largest output difference relative to the largest
output, the number of constant channels that are not removable, and the seconds that compact() took.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import time

import numpy as np
from absl import app, flags, logging
from real_size import Random

import tfap

FLAGS = flags.FLAGS
flags.DEFINE_integer("size", 64, "Height and width of the input.", 32)
flags.DEFINE_float("sparsity", 0.5, "Fraction of the FLOPs to prune.", 0, 0.99)
MODELS = ("ResNet50", "ResNet50V2", "MobileNetV2", "DenseNet121", "EfficientNetB0")


def randomize(model, generator):
    """Sets statistics and biases as after training, so that pruned channels are constant but not zero."""
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            gamma, _, mean, variance = layer.get_weights()
            count = len(gamma)
            layer.set_weights(
                [
                    generator.uniform(0.5, 1.5, count),
                    generator.normal(0, 0.3, count),
                    mean + generator.normal(0, 0.1, count),
                    variance * generator.uniform(0.5, 2, count),
                ]
            )


def row(keras, name):
    keras.backend.clear_session()
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(FLAGS.size, FLAGS.size, 3), classes=10
    )
    randomize(model, np.random.default_rng(0))
    wrapped = tfap.prune(model, 0.5, Random(), scope="local", granularity="neuron", target="flops")
    tfap.update_masks(wrapped, FLAGS.sparsity)
    plain = tfap.strip_pruning(wrapped)
    start = time.perf_counter()
    smaller = tfap.compact(plain)
    seconds = time.perf_counter() - start
    report = tfap.compaction_report(plain, smaller)
    weights, operations = report.weights, report.flops
    relative = report.difference.relative
    constant = sum(kept.channels for kept in report.kept)
    return (
        f"| {name} | {keras.__name__} | {weights[0]:,} | {weights[1]:,} | {weights[0] / weights[1]:.2f} | "
        f"{operations[0] / operations[1]:.2f} | {relative:.0e} | {constant} | {seconds:.1f} |"
    )


def main(_):
    logging.set_verbosity(logging.ERROR)
    print(
        "| model | Keras | weights | kept | times fewer | times fewer FLOPs | relative difference |", end=""
    )
    print(" constant channels kept | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for keras_name in ("keras", "tf_keras"):
        for name in MODELS:
            print(row(importlib.import_module(keras_name), name), flush=True)


if __name__ == "__main__":
    app.run(main)
