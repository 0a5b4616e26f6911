"""Compares structured pruning with its controls on Fashion-MNIST, at real size, paired by seed.

    python benchmarks/real_size.py --net mlp --seeds 5
    python benchmarks/real_size.py --net resnet --seeds 3
    python benchmarks/real_size.py --net mlp --summarize

Arms:

- `dense` is trained once.
- `count`, `l1`, `random`, and `most` train the dense model for the same number of epochs again and prune
  whole neurons: those that fire least, those with the smallest weights, random ones, or those that fire most.
  They end with the same widths.
- `magnitude` does the same with the unstructured pruning of tfmot (tf_keras) and keeps the size of the dense
  model.
- `scratch` is the small model of `count`, trained from random weights for the epochs of both trainings.
- `count_distilled` and the other distilled arms train on the outputs of the dense model for the images and
  for copies shifted by a pixel, twice the samples per epoch. `scratch_distilled` trains for as many steps as
  `scratch`.
- `shrunk` is one training from random weights that prunes by counts and compacts on the way. `shrunk_70`
  prunes 70%.

Optimizer, batches, and the cosine decay of the learning rate are the same for all arms.

The script stores the rows in FOLDER/NET.csv and the models in FOLDER, so an interrupted run resumes.
--summarize prints means over seeds with 95% CIs (Student's t, paired by seed), sizes of SavedModels, and
latencies in LiteRT on one thread. Fit times are processor time with one thread.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import csv
import importlib
import pathlib
import sys
import time

import numpy as np
import scipy.stats
import tensorflow as tf
from absl import app, flags
from ai_edge_litert.interpreter import Interpreter

import tfap
from tfap.datasets import load
from tfap.exporting.sizes import exported_size
from tfap.keras_compat import load_model, tfmot

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from recipes import BATCH, Mlp, Random, Resnet

FLAGS = flags.FLAGS
flags.DEFINE_enum("net", "mlp", ["mlp", "resnet"], "Network.")
flags.DEFINE_integer("seeds", 5, "Number of seeds: 0 to n - 1.", 1)
flags.DEFINE_list("arms", None, "Only these arms.")
flags.DEFINE_string("folder", "build/real_size", "Folder for rows and models.")
flags.DEFINE_integer("threads", 1, "Threads of TensorFlow.", 1)
flags.DEFINE_float("seconds", 3.0, "Measurement time per latency.")
flags.DEFINE_bool("summarize", False, "Print the tables of the finished runs.")

FIELDS = ("arm", "seed", "accuracy", "weights", "flops", "fit_seconds", "widths")


class MostFiring(tfap.Criterion):
    """Ranks neurons by activation counts in reverse."""

    granularity, counts, threshold = "neuron", "output", 0.0

    def scores(self, kernel):
        rate = kernel.per_neuron(kernel.activations.firing_rate)
        return np.broadcast_to(-rate, kernel.weights.shape).copy()


CRITERIA = {
    "count": tfap.ActivationCount(),
    "l1": tfap.Magnitude(),
    "random": Random(),
    "most": MostFiring(),
}


def train(recipe, arm, model_of, x, y):
    """Trains the model of an arm. `model_of` returns models that were trained before with this seed."""
    name, distilled = arm.removesuffix("_distilled"), arm.endswith("_distilled")
    if distilled:
        x, y = taught(model_of("dense"), x, y)
    if name == "dense":
        return recipe.fitted(recipe.build(), x, y)
    if name == "scratch":  # as many epochs as the dense training and the pruning together
        return recipe.fitted(recipe.from_scratch(model_of("count")), x, y, times=1 if distilled else 2)
    if name == "magnitude":
        return magnitude(recipe, model_of("dense"), x, y)
    if name == "shrunk":  # one training from random weights
        return recipe.pruned(recipe.build(), x, y, recipe.rate)
    if name == "shrunk_70":
        return recipe.pruned(
            recipe.build(), x, y, recipe.rate, pruning_schedule=recipe.decay(0.7, 0.5, 3), stages=7
        )
    stages = {"stages": 7} if distilled else {}
    criterion = CRITERIA[name]
    return recipe.pruned(
        recipe.copied(model_of("dense")), x, y, recipe.rate / 2, criterion=criterion, **stages
    )


def taught(teacher, x, y, fraction=0.9):
    """Returns the images and randomly shifted copies, with labels mixed from teacher outputs and `y`."""
    generator = np.random.default_rng(0)
    shifted = np.stack([np.roll(image, generator.integers(-1, 2, 2), (0, 1)) for image in x])
    x, y = np.concatenate([x, shifted]), np.concatenate([y, y])
    outputs = tf.nn.softmax(teacher.predict(x, batch_size=1000, verbose=0)).numpy()
    return x, (fraction * outputs + (1 - fraction) * y).astype("float32")


def magnitude(recipe, dense, x, y):
    """Trains with the unstructured pruning of tfmot, in tf_keras."""
    tf_keras = importlib.import_module("tf_keras")
    model = recipe.build(keras=tf_keras)
    model.set_weights(dense.get_weights())
    *hidden, last = model.layers
    prune = tfmot.sparsity.keras.prune_low_magnitude
    stack = [prune(layer, recipe.schedule()) if layer.weights else layer for layer in hidden]
    model = tf_keras.Sequential([tf_keras.layers.Input((28, 28)), *stack, last])
    recipe.compiled(model, recipe.rate / 2, recipe.epochs * recipe.steps, tf_keras)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    model.fit(x, y, epochs=recipe.epochs, callbacks=callbacks, batch_size=BATCH, verbose=0)
    return tfmot.sparsity.keras.strip_pruning(model)


def accuracy(model, x, y):
    return float(np.mean(model.predict(x, batch_size=1000, verbose=0).argmax(axis=-1) == y))


def widths(model):
    return "-".join(str(layer.get_weights()[0].shape[-1]) for layer in model.layers if layer.weights)


def run(recipe, folder):
    rows = folder / f"{FLAGS.net}.csv"
    done = {(row["arm"], int(row["seed"])) for row in read(rows)}
    data = recipe.data
    x, y = recipe.inputs(data.x_train), np.eye(10, dtype="float32")[data.y_train]
    for seed in range(FLAGS.seeds):

        def model_of(arm, seed=seed):
            return load_model(folder / f"{FLAGS.net}-{arm}-{seed}.keras")

        for arm in FLAGS.arms or recipe.arms:
            if (arm, seed) in done:
                continue
            recipe.keras.utils.set_random_seed(seed)
            start = time.process_time()
            model = train(recipe, arm, model_of, x, y)
            seconds = time.process_time() - start
            model.save(folder / f"{FLAGS.net}-{arm}-{seed}.keras")
            score = accuracy(model, recipe.inputs(data.x_test), data.y_test)
            size, operations = model.count_params(), tfap.flops(model)
            row = (arm, seed, f"{score:.4f}", size, operations, f"{seconds:.1f}", widths(model))
            append(rows, row)
            print(*row, flush=True)


def read(path):
    return list(csv.DictReader(path.open())) if path.exists() else []


def append(path, row):
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([FIELDS, row] if new else [row])


def interval(values):
    """Formats the mean and half the width of the 95% CI."""
    values = np.asarray(values, float)
    half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
    return f"{values.mean():.2f} +- {half:.2f}"


def summarize(recipe, folder):
    rows = read(folder / f"{FLAGS.net}.csv")
    dense = {row["seed"]: row for row in rows if row["arm"] == "dense"}
    print(
        "| arm | seeds | accuracy | points below dense | times fewer weights | times fewer FLOPs | fit time |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for arm in recipe.arms:
        pairs = [(row, dense[row["seed"]]) for row in rows if row["arm"] == arm]
        if pairs:
            print(f"| {arm} | {len(pairs)} | " + " | ".join(_cells(pairs)) + " |")
    print("\nTimes smaller or faster than dense:")
    print("| arm | SavedModel | invoke, batch 1 | invoke, batch 64 | from arrays, 1 | from arrays, 64 |")
    print("|---|---:|---:|---:|---:|---:|")
    for arm in ("count", "count_distilled", "magnitude"):
        seeds = [row["seed"] for row in rows if row["arm"] == arm]
        figures = np.array([_smaller_and_faster(folder, arm, seed) for seed in seeds])
        if seeds:
            print(f"| {arm} | " + " | ".join(interval(column) for column in figures.T) + " |")


def _cells(pairs):
    points = [100 * (float(whole["accuracy"]) - float(row["accuracy"])) for row, whole in pairs]
    ratios = {
        name: [float(whole[name]) / float(row[name]) for row, whole in pairs] for name in ("weights", "flops")
    }
    times = [float(row["fit_seconds"]) / float(whole["fit_seconds"]) for row, whole in pairs]
    accuracies = [100 * float(row["accuracy"]) for row, _ in pairs]
    return [interval(values) for values in (accuracies, points, *ratios.values(), times)]


def _smaller_and_faster(folder, arm, seed):
    models = {name: load_model(folder / f"{FLAGS.net}-{name}-{seed}.keras") for name in ("dense", arm)}
    files = {
        name: tfap.export(model, folder / f"{FLAGS.net}-{name}-{seed}.tflite", format="tflite")
        for name, model in models.items()
    }
    sizes = {name: exported_size(model).raw for name, model in models.items()}
    report = tfap.report(files, "dense", seconds=FLAGS.seconds, threads=1)
    whole = [1 / report[arm].latency[batch].ratio.median for batch in (1, 64)]
    alone = [1 / _invocations(files, batch)[arm].ratio.median for batch in (1, 64)]
    return sizes["dense"] / sizes[arm], *alone, *whole


def _invocations(files, batch):
    """Measures invoke() of the interpreter alone, without copying arrays in and out."""
    calls = {}
    for name, path in files.items():
        interpreter = Interpreter(str(path), num_threads=1)
        (entry,) = interpreter.get_input_details()
        shape = (batch, *entry["shape"][1:])
        interpreter.resize_tensor_input(entry["index"], shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], np.random.default_rng(0).random(shape, "float32"))
        calls[name] = interpreter.invoke
    return tfap.measure_latency(calls, "dense", seconds=FLAGS.seconds)


def main(_):
    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    keras = importlib.import_module("keras")
    recipe = {"mlp": Mlp, "resnet": Resnet}[FLAGS.net](keras, load("fashion_mnist"))
    folder = pathlib.Path(FLAGS.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (summarize if FLAGS.summarize else run)(recipe, folder)


if __name__ == "__main__":
    app.run(main)
