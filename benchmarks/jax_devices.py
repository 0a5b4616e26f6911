"""Measures the cost of counting and masking per training step on JAX, with one CPU device and with two.

    python benchmarks/jax_devices.py --pairs 15

With two devices, `keras.distribution.DataParallel` splits the batch. The devices share the cores of the
machine, so two are not faster than one here: the table shows the overhead. JAX wants to know its devices
before it starts, so each number of devices has its own process. Blocks of steps of the dense model, the
dense model again as the control, and the wrapped model are interleaved. The wrapped model counts in every
step and keeps half of its weights at zero.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import subprocess
import sys
import time

import jax
import keras
import numpy as np
from absl import app, flags

import tfap

FLAGS = flags.FLAGS
flags.DEFINE_integer("pairs", 15, "Interleaved blocks per variant.", 3)
flags.DEFINE_integer("steps", 200, "Training steps per block.", 10)
flags.DEFINE_integer("batch", 128, "Samples per step, of all devices together.", 2)
flags.DEFINE_integer("devices", None, "Set by the script itself: the devices of this process.")


class SameBatch(keras.utils.PyDataset):
    """One batch, again and again."""

    def __init__(self, batch, steps):
        super().__init__()
        self.batch, self.steps = batch, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return self.batch


def mlp():
    layers = [keras.layers.Dense(units, activation="relu") for units in (300, 200, 100, 50)]
    return keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10, activation="softmax")])


def compiled(model):
    model.compile(keras.optimizers.SGD(0.001), "sparse_categorical_crossentropy")
    return model


def wrapped():
    model = tfap.prune(mlp(), tfap.ConstantSparsity(0.5, 10**9), granularity="weight")
    return compiled(model)


def seconds_per_step(model, batch, steps):
    callbacks = [tfap.UpdatePruningStep()] if tfap.prunable_layers(model) else []
    start = time.perf_counter()
    model.fit(SameBatch(batch, steps), verbose=0, callbacks=callbacks)
    return (time.perf_counter() - start) / steps


def measure():
    """Returns the seconds per step of each variant, one per pair."""
    jax.config.update("jax_num_cpu_devices", FLAGS.devices)
    if FLAGS.devices > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    batch = generator.random((FLAGS.batch, 784), "float32"), generator.integers(0, 10, FLAGS.batch)
    variants = {"dense": compiled(mlp()), "dense again": compiled(mlp()), "tfap": wrapped()}
    times = {name: [] for name in variants}
    for model in variants.values():
        seconds_per_step(model, batch, 5)
    tfap.update_masks(variants["tfap"], 0.5)
    for _ in range(FLAGS.pairs):
        for name in generator.permutation(list(variants)):
            times[name].append(seconds_per_step(variants[name], batch, FLAGS.steps))
    return times


def interval(ratios):
    resampled = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{np.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def row(devices):
    arguments = [f"--{name}={FLAGS[name].value}" for name in ("pairs", "steps", "batch")]
    command = [sys.executable, __file__, f"--devices={devices}", *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    times = {name: np.array(values) for name, values in json.loads(printed.splitlines()[-1]).items()}
    dense = times["dense"]
    milliseconds = [f"{1000 * np.median(times[name]):.1f}" for name in ("dense", "tfap")]
    ratios = [interval(times[name] / dense) for name in ("dense again", "tfap")]
    return f"| JAX | {devices} | {' | '.join(milliseconds)} | {' | '.join(ratios)} |"


def main(_):
    if FLAGS.devices:
        print(json.dumps(measure()))
        return
    print("| Backend | Devices | Dense, ms per step | tfap, ms per step | control / dense | tfap / dense |")
    print("|---|---:|---:|---:|---|---|")
    for devices in (1, 2):
        print(row(devices), flush=True)


if __name__ == "__main__":
    app.run(main)
