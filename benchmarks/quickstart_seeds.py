"""Runs the quickstart over several seeds, with 95% CIs of the accuracy lost and the weights saved.

    python benchmarks/quickstart_seeds.py [--seeds 10] [--keras tf_keras]

Each seed sets the split of digits, the initial weights, and the order of the batches. The pruned model starts
from the dense model of the same seed, so differences are paired by seed.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import importlib
import pathlib
import sys

import numpy as np
import scipy.stats
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import quickstart

from tfap.datasets import load

flags.DEFINE_integer("seeds", 10, "Number of seeds.", 2)
FLAGS = flags.FLAGS


def interval(values):
    """Returns the mean and half the width of its 95% CI (Student's t)."""
    half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1)
    return np.mean(values), half


def main(_):
    keras = importlib.import_module(FLAGS.keras)
    epochs = FLAGS.epochs or quickstart.EPOCHS[FLAGS.dataset]
    dense_accuracy, points, times = [], [], []
    for seed in range(FLAGS.seeds):
        data = load(FLAGS.dataset, seed)
        dense, _, compacted = quickstart.train_and_prune(keras, data, epochs, FLAGS.sparsity, seed)
        dense_accuracy.append(100 * quickstart.accuracy(dense, data))
        points.append(100 * quickstart.accuracy(compacted, data) - dense_accuracy[-1])
        times.append(dense.count_params() / compacted.count_params())
        print(
            f"seed {seed}: {dense_accuracy[-1]:.2f} {points[-1]:+.2f} points, {times[-1]:.1f} times",
            flush=True,
        )
    for name, values in (("dense accuracy", dense_accuracy), ("points", points), ("times fewer", times)):
        print("{}: {:.2f} +- {:.2f} (95% CI)".format(name, *interval(values)))


if __name__ == "__main__":
    app.run(main)
