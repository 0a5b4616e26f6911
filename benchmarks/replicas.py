"""Measures the cost of counting with replicas: the time of a training step and the bytes it sends.

The script trains on the same global batch with one CPU device and with two under a MirroredStrategy, with and
without tfap, in interleaved blocks of steps. The two devices are logical ones that share the cores of the
machine. Two replicas are therefore not faster than one here: the table shows the overhead.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import importlib
import time

import numpy as np
import step_overhead
import tensorflow as tf
from absl import app, flags

from tfap.layers.find import counting_layers

FLAGS = flags.FLAGS  # the flags of step_overhead.py: --net, --keras, --pairs, --block_seconds


def bytes_a_step(model):
    """Returns the bytes that a replica all-reduces: int64 counts and the number of activations."""
    counted = [layer.own_counts() for layer in counting_layers(model)]
    return sum(8 * (len(each.counts) + 1) for each in counted if each is not None)


def stepper(strategy, model, batch):
    """Returns a function that runs n training steps."""
    data = tf.data.Dataset.from_tensors(batch).repeat()
    iterator = iter(strategy.experimental_distribute_dataset(data))
    with strategy.scope():
        step = model.make_train_function() or model.train_function  # Keras 3 returns None and stores it

    def steps(n):
        with strategy.scope():
            for _ in range(n):
                logs = step(iterator)
        float(tf.nest.flatten(logs)[0])  # waits for the last step

    return steps


def variants(keras, strategy, build):
    with strategy.scope():
        return {
            "dense": step_overhead.compiled(keras, build(keras)),
            "dense again": step_overhead.compiled(keras, build(keras)),
            "tfap": step_overhead.with_tfap(keras, build(keras)),
        }


def measured(run):
    """Returns the seconds per step of each variant, in interleaved blocks."""
    for steps in run.values():
        steps(5)
    start = time.perf_counter()
    run["dense", 1](10)
    block = max(3, round(FLAGS.block_seconds / ((time.perf_counter() - start) / 10)))
    generator = np.random.default_rng(0)
    times = {variant: [] for variant in run}
    for _ in range(FLAGS.pairs):
        for at in generator.permutation(len(run)):
            variant = list(run)[at]
            start = time.perf_counter()
            run[variant](block)
            times[variant].append((time.perf_counter() - start) / block)
    return {variant: np.array(values) for variant, values in times.items()}


def interval(ratios):
    resampled = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{np.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def main(_):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    keras = importlib.import_module(FLAGS.keras)
    build, batch_size = step_overhead.NETS[FLAGS.net]
    strategies = {1: tf.distribute.get_strategy(), 2: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}
    run = {}
    for replicas, strategy in strategies.items():
        models = variants(keras, strategy, build)
        shape = (batch_size, *models["tfap"].inputs[0].shape[1:])
        batch = tf.random.uniform(shape, seed=0), tf.random.uniform((batch_size,), 0, 10, tf.int64, seed=0)
        run |= {(name, replicas): stepper(strategy, model, batch) for name, model in models.items()}
    weights = sum(int(np.prod(weight.shape)) for weight in models["dense"].trainable_weights)
    times = measured(run)
    counts = bytes_a_step(models["tfap"])
    print(f"{FLAGS.net}, {FLAGS.keras}: {FLAGS.pairs} blocks of each variant, total batch {batch_size}")
    print(f"counts {counts:,} bytes per step, gradients {4 * weights:,}: {counts / (4 * weights):.2%}")
    print("| replicas | dense, ms per step | tfap, ms per step | control / dense | tfap / dense |")
    print("|---:|---:|---:|---|---|")
    for replicas in strategies:
        dense, again, ours = (times[name, replicas] for name in ("dense", "dense again", "tfap"))
        row = f"{1000 * np.median(dense):.1f} | {1000 * np.median(ours):.1f}"
        print(f"| {replicas} | {row} | {interval(again / dense)} | {interval(ours / dense)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
