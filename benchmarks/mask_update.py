"""How long one mask update takes, by size: tfap whole, tfap's ranking alone, np.partition, tfmot.

    python benchmarks/mask_update.py

Weights are spread over four kernels; 50% are pruned by magnitude, once from nothing and then to 60%. Runs
are interleaved and the median of the ratios is given: the machine's speed changes by the minute.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

import tfap
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.keras_compat import TfmotPruning
from tfap.masks.weights import Scored, prune_weights

FLAGS = flags.FLAGS
flags.DEFINE_multi_integer("size", [270_000, 2_500_000, 25_000_000], "Numbers of weights.")
flags.DEFINE_integer("runs", 7, "Interleaved runs of each size.", 3)
KERNELS = 4


def arrays(size):
    generator = np.random.default_rng(0)
    shape = (size // KERNELS // 500, 500)
    return [generator.normal(size=shape).astype("float32") for _ in range(KERNELS)]


def whole(weights):
    """tfap.update_masks on a wrapped model, device reads and writes included."""
    inputs = tf_keras.Input((len(weights[0]),))
    outputs = [tf_keras.layers.Dense(500, use_bias=False, name=f"d{i}")(inputs) for i in range(KERNELS)]
    model = tf_keras.Model(inputs, outputs)
    model.set_weights(weights)

    def fresh():
        return tfap.prune(model, 0.5, "magnitude", include=lambda layer: True)

    return fresh, lambda wrapped: tfap.update_masks(wrapped, 0.5)


def ranking(weights):
    """From scores to masks."""
    scored = [Scored(Kernel("k", KernelSpec(), w, np.ones(w.shape, np.uint8)), np.abs(w)) for w in weights]
    return lambda: None, lambda _: prune_weights(scored, 0.5)


def partition(weights):
    """np.partition on the array of all scores, the least that a ranking can do."""
    scores = np.concatenate([np.abs(w).ravel() for w in weights])
    return lambda: None, lambda _: np.partition(scores, len(scores) // 2)


def tfmot(weights):
    """tfmot's own mask update: its top_k, for each kernel."""
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
        partitioned, ranked, updated, theirs = np.median(times, axis=0) * 1000
        over, faster, whole_faster = (
            np.median(times[:, a] / times[:, b]) for a, b in ((1, 0), (3, 1), (3, 2))
        )
        print(
            f"| {size:,} | {partitioned:.1f} ms | {ranked:.1f} ms | {updated:.1f} ms | {theirs:.1f} ms "
            f"| {over:.2f} | {faster:.1f} | {whole_faster:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
