"""Measures the cost of pruning per training step: dense, dense again as the control, tfmot, tfap.

    python benchmarks/step_overhead.py --net mlp --keras keras

Every variant trains the same model on the same batch in memory. Blocks of steps are interleaved, so that all
variants share the speed variation of the machine. The table has the median over pairs of blocks of the ratio
to the dense model, with a 95% CI (bootstrap of the median). tfap counts in every step and keeps half of the
weights at zero. tfmot does the same by magnitude. Mask updates are not part of these steps: see
mask_update.py.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import pathlib
import sys
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

import tfap
from tfap.keras_compat import tfmot
from tfap.layers.find import counting_layers
from tfap.layers.session import PruningSession

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import networks

FLAGS = flags.FLAGS
flags.DEFINE_enum("net", "mlp", ["mlp", "resnet20", "mobilenet_v2"], "Network.")
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras.")
flags.DEFINE_integer("pairs", 25, "Interleaved blocks per variant.", 15)
flags.DEFINE_float("block_seconds", 0.4, "Duration of a block of steps.")


def mlp(keras):
    layers = [keras.layers.Input((784,))]
    layers += [keras.layers.Dense(units, activation="relu") for units in (300, 200, 100, 50)]
    return keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])


def mobilenet_v2(keras):
    return keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), classes=10)


NETS = {"mlp": (mlp, 128), "resnet20": (networks.resnet20, 32), "mobilenet_v2": (mobilenet_v2, 16)}


def compiled(keras, model):
    model.compile(keras.optimizers.SGD(0.001), "sparse_categorical_crossentropy")
    return model


def with_tfap(keras, model):
    """Wraps the model with counting on and half of the weights pruned. No mask update is due."""
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 10**9), granularity="weight")
    PruningSession.begin(wrapped, counting_layers(wrapped))
    for wrapper in tfap.prunable_layers(wrapped):
        wrapper.mask.assign(np.random.default_rng(0).integers(0, 2, wrapper.mask.shape))
    return compiled(keras, wrapped)


def with_tfmot(keras, model):
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 10**9)
    targets = {layer.name for layer in model.layers if layer.name in _pruned_names(model)}

    def wrap(layer):
        return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule) if layer.name in targets else layer

    wrapped = keras.models.clone_model(model, clone_function=wrap)
    for layer in wrapped.layers:
        if hasattr(layer, "pruning_step"):
            layer.pruning_step.assign(0)
    return compiled(keras, wrapped)


def _pruned_names(model):
    """Returns the layers that tfap prunes and whose weights tfmot knows."""
    return {row.path for row in tfap.plan(model).pruned if row.weight == "kernel"}


def stepper(model, batch):
    """Returns a function that runs n training steps."""
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    step = model.make_train_function() or model.train_function  # Keras 3 returns None and stores it

    def steps(n):
        for _ in range(n):
            logs = step(iterator)
        float(tf.nest.flatten(logs)[0])  # waits for the last step

    return steps


def main(_):
    keras = importlib.import_module(FLAGS.keras)
    build, batch_size = NETS[FLAGS.net]
    keras.utils.set_random_seed(0)
    model = build(keras)
    shape = (batch_size, *model.inputs[0].shape[1:])
    batch = tf.random.uniform(shape, seed=0), tf.random.uniform((batch_size,), 0, 10, tf.int64, seed=0)
    variants = {"dense": compiled(keras, build(keras)), "dense again": compiled(keras, build(keras))}
    if FLAGS.keras == "tf_keras":
        variants["tfmot"] = with_tfmot(keras, build(keras))
    variants["tfap"] = with_tfap(keras, model)

    run = {name: stepper(variant, batch) for name, variant in variants.items()}
    for steps in run.values():
        steps(5)
    start = time.perf_counter()
    run["dense"](10)
    block = max(3, round(FLAGS.block_seconds / ((time.perf_counter() - start) / 10)))
    times = {name: [] for name in run}
    generator = np.random.default_rng(0)
    for _ in range(FLAGS.pairs):
        for name in generator.permutation(list(run)):
            start = time.perf_counter()
            run[name](block)
            times[name].append((time.perf_counter() - start) / block)

    print(f"{FLAGS.net}, {FLAGS.keras}: {FLAGS.pairs} pairs of blocks of {block} steps, batch {batch_size}")
    dense = np.array(times["dense"])
    ratios = {name: np.array(values) / dense for name, values in times.items() if name != "dense"}
    if "tfmot" in ratios:
        ratios["tfap / tfmot"] = np.array(times["tfap"]) / np.array(times["tfmot"])
    ratios["tfap / dense again"] = np.array(times["tfap"]) / np.array(times["dense again"])
    print("| variant | ms per step | ratio to dense | 95% CI |\n|---|---:|---:|---|")
    print(f"| dense | {1000 * np.median(dense):.2f} | 1 | |")
    for name, values in ratios.items():
        resampled = np.median(generator.choice(values, (2000, len(values))), axis=1)
        low, high = np.quantile(resampled, [0.025, 0.975])
        milliseconds = f"{1000 * np.median(times[name]):.2f}" if name in times else ""
        print(f"| {name} | {milliseconds} | {np.median(values):.3f} | {low:.3f} to {high:.3f} |", flush=True)


if __name__ == "__main__":
    app.run(main)
