"""What compact() does with keras.applications: random channels pruned, removed, outputs compared.

    python benchmarks/compaction_table.py

Every model has random weights and random BatchNormalization statistics. In every layer (or all layers tied by
residual sums together) channels chosen at random are pruned that make half of its operations; what reads
them gets cheaper too. Then strip_pruning() and compact(). Given are weights and FLOPs before and after, the
largest difference of an output relative to the largest output, constant channels that could not go, and the
seconds that compact() took.
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
flags.DEFINE_float("sparsity", 0.5, "Share of the operations to prune.", 0, 0.99)
MODELS = ("ResNet50", "ResNet50V2", "MobileNetV2", "DenseNet121", "EfficientNetB0")


def randomize(model, generator):
    """Statistics and biases as after training, so that pruned channels are constants other than zero."""
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
    stayed = sum(kept.channels for kept in report.kept)
    return (
        f"| {name} | {keras.__name__} | {weights[0]:,} | {weights[1]:,} | {weights[0] / weights[1]:.2f} | "
        f"{operations[0] / operations[1]:.2f} | {report.difference.relative:.0e} | {stayed} | {seconds:.1f} |"
    )


def main(_):
    logging.set_verbosity(logging.ERROR)
    print(
        "| model | Keras | weights | left | times fewer | times fewer FLOPs | relative difference |", end=""
    )
    print(" constant channels that stay | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for world in ("keras", "tf_keras"):
        for name in MODELS:
            print(row(importlib.import_module(world), name), flush=True)


if __name__ == "__main__":
    app.run(main)
