"""Measures the time of one mask update by model size: tfap, its ranking alone, np.partition, and tfmot.

    python benchmarks/mask_update.py

The weights are in four kernels. The update prunes 50% of them by magnitude, starting from a dense model. Runs
are interleaved, and the table has the medians of the ratios, because the speed of a machine varies by the
minute.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

import tfap
from tfap.keras_compat import TfmotPruning
from tfap.masks.weights import Scored, prune_weights

FLAGS = flags.FLAGS
flags.DEFINE_multi_integer("size", [270_000, 2_500_000, 25_000_000], "Numbers of weights.")
flags.DEFINE_integer("runs", 7, "Interleaved runs per size.", 3)
KERNELS = 4


def arrays(size):
    generator = np.random.default_rng(0)
    shape = (size // KERNELS // 500, 500)
    return [generator.normal(size=shape).astype("float32") for _ in range(KERNELS)]


def whole(weights):
    """Times tfap.update_masks on a wrapped model, including device reads and writes."""
    inputs = tf_keras.Input((len(weights[0]),))
    outputs = [tf_keras.layers.Dense(500, use_bias=False, name=f"d{i}")(inputs) for i in range(KERNELS)]
    model = tf_keras.Model(inputs, outputs)
    model.set_weights(weights)

    def fresh():
        return tfap.prune(model, 0.5, "magnitude", include=lambda layer: True)

    return fresh, lambda wrapped: tfap.update_masks(wrapped, 0.5)


def ranking(weights):
    """Times the step from scores to masks."""
    kernels = [tfap.Kernel("k", tfap.KernelSpec(), w, np.ones(w.shape, np.uint8)) for w in weights]
    scored = [Scored(kernel, np.abs(kernel.weights)) for kernel in kernels]
    return lambda: None, lambda _: prune_weights(scored, 0.5)


def partition(weights):
    """Times np.partition on the array of all scores, a lower bound for any ranking."""
    scores = np.concatenate([np.abs(w).ravel() for w in weights])
    return lambda: None, lambda _: np.partition(scores, len(scores) // 2)


def tfmot(weights):
    """Times the mask update of tfmot: top_k per kernel."""
    variables = [(tf.Variable(w), tf.Variable(np.ones_like(w)), tf.Variable(0.0)) for w in weights]
    schedule = tfap.ConstantSparsity(0.5, 0, frequency=1)
    pruning = TfmotPruning(lambda: tf.constant(1), variables, schedule, (1, 1), "AVG")

    def update(_):
        pruning.conditional_mask_update()
        pruning.weight_mask_op()

    return lambda: None, update


def seconds(prepare, run):
    argument = prepare()
    start = time.perf_counter()
    run(argument)
    return time.perf_counter() - start


def main(_):
    heads = ("weights", "np.partition", "ranking", "whole update", "tfmot", "ranking / partition")
    print("| " + " | ".join((*heads, "tfmot / ranking", "tfmot / whole")) + " |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in FLAGS.size:
        contenders = [make(arrays(size)) for make in (partition, ranking, whole, tfmot)]
        times = np.array([[seconds(*c) for c in contenders] for _ in range(FLAGS.runs + 1)])[1:]  # warm-up
        partitioned, ranked, updated, tfmot_time = np.median(times, axis=0) * 1000
        over, faster, whole_faster = (
            np.median(times[:, a] / times[:, b]) for a, b in ((1, 0), (3, 1), (3, 2))
        )
        print(
            f"| {size:,} | {partitioned:.1f} ms | {ranked:.1f} ms | {updated:.1f} ms | {tfmot_time:.1f} ms "
            f"| {over:.2f} | {faster:.1f} | {whole_faster:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
