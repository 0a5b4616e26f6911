"""Accuracy at real size: whole-neuron pruning against its controls, on Fashion-MNIST, paired seeds.

    python benchmarks/real_size.py --net mlp --seeds 5
    python benchmarks/real_size.py --net resnet --seeds 3
    python benchmarks/real_size.py --net mlp --summarize

Every arm trains for the same number of epochs with the same optimizer, learning rates and batches. The pruned
ones end at the same widths: `count` and `count_distilled` by activation counts, `l1` by the size of weights,
`random`, `most` with the neurons pruned that fire most. `scratch` is the small net itself, trained from
the start. `magnitude` is tfmot's pruning of single weights, which stays as large as the dense net. Rows
go to build/real_size/NET.csv and the models beside it, so a run that was stopped goes on; --summarize
prints means over seeds with 95% intervals (Student's t over paired differences) and measures latency.
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

import tfap
from tfap import datasets
from tfap.flops import flops as count_flops
from tfap.keras_compat import tfmot

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import networks

FLAGS = flags.FLAGS
flags.DEFINE_enum("net", "mlp", ["mlp", "resnet"], "Network.")
flags.DEFINE_integer("seeds", 5, "Seeds 0 to n - 1.", 1)
flags.DEFINE_list("arms", None, "Only these arms.")
flags.DEFINE_string("folder", "build/real_size", "Where rows and models go.")
flags.DEFINE_integer("threads", 1, "Threads of TensorFlow.", 1)
flags.DEFINE_bool("summarize", False, "Print the table of what has been run.")

BATCH = 128
HIDDEN = (300, 200, 100, 50)
FIELDS = ("arm", "seed", "accuracy", "weights", "flops", "fit_seconds", "widths")


class Random(tfap.Criterion):
    """Every neuron at random, the same one in every update."""

    granularity, counts = "neuron", None

    def scores(self, kernel):
        generator = np.random.default_rng(abs(int(kernel.weights.size)))
        neurons = kernel.neuron_sums(np.ones_like(kernel.weights)).size
        return np.broadcast_to(kernel.per_neuron(generator.random(neurons)), kernel.weights.shape).copy()


class MostFiring(tfap.Criterion):
    """The reverse of activation counts."""

    granularity, counts, threshold = "neuron", "output", 0.0

    def scores(self, kernel):
        rate = kernel.per_neuron(kernel.activations.firing_rate)
        return np.broadcast_to(-rate, kernel.weights.shape).copy()


class Recipe:
    """One net's training: what all of its arms share."""

    def __init__(self, keras, data, epochs, rate):
        self.keras, self.data, self.epochs, self.rate = keras, data, epochs, rate
        self.steps = -(-len(data.x_train) // BATCH)

    def compiled(self, model, keras=None):
        keras = keras or self.keras
        rate = keras.optimizers.schedules.CosineDecay(self.rate, self.epochs * self.steps)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss)
        return model

    def fit_options(self):
        return {"batch_size": BATCH, "epochs": self.epochs, "verbose": 0}

    def decay(self, sparsity, begin, end):
        """Cubic decay between two epochs, twice an epoch."""
        begin, end = int(begin * self.steps), int(end * self.steps)
        return tfap.PolynomialDecay(0.0, sparsity, begin, end, frequency=self.steps // 2)


class Mlp(Recipe):
    """784-300-200-100-50-10, 90% of the hidden layers' weights pruned, each layer to a tenth."""

    arms = (
        "dense", "count", "count_distilled", "l1", "l1_distilled", "random", "most", "scratch",
        "scratch_distilled", "magnitude",
    )  # fmt: skip

    def __init__(self, keras, data):
        super().__init__(keras, data, epochs=20, rate=0.1)

    def build(self, widths=HIDDEN, keras=None):
        layers = (keras or self.keras).layers
        hidden = [layers.Dense(units, activation="relu") for units in widths]
        stack = [layers.Input((28, 28)), layers.Flatten(), *hidden, layers.Dense(10)]
        return (keras or self.keras).Sequential(stack)

    def pruned(self, criterion, x, y):
        model = self.compiled(self.build())
        return tfap.fit_and_compact(
            model,
            self.decay(0.9, 1, 10),
            x,
            y,
            stages=2,
            criterion=criterion,
            scope="local",
            **self.fit_options(),
        ).model

    def from_scratch(self, small):
        return self.build([layer.units for layer in small.layers if hasattr(layer, "units")][:-1])


class Resnet(Recipe):
    """A small residual net with BatchNormalization, 65% of its operations pruned."""

    arms = ("dense", "count", "l1", "scratch")

    def __init__(self, keras, data):
        super().__init__(keras, data, epochs=8, rate=0.1)

    def build(self):
        return networks.small_resnet(self.keras, (28, 28, 1), 10)

    def pruned(self, criterion, x, y):
        model = self.compiled(self.build())
        return tfap.fit_and_compact(
            model,
            self.decay(0.65, 0.5, 4),
            x[..., None],
            y,
            stages=4,
            criterion=criterion,
            target="flops",
            **self.fit_options(),
        ).model

    def from_scratch(self, small):
        return self.keras.models.clone_model(small)


CRITERIA = {
    "count": tfap.ActivationCount(),
    "l1": tfap.Magnitude(),
    "random": Random(),
    "most": MostFiring(),
}


def softened(teacher, x, y, temperature=2.0, share=0.7):
    """Labels mixed with what a teacher says: distillation at a temperature, computed once."""
    logits = teacher.predict(x, batch_size=1000, verbose=0) / temperature
    return (share * tf.nn.softmax(logits).numpy() + (1 - share) * y).astype("float32")


def train(recipe, arm, models, x, y):
    """One arm's model; `models` has those that were trained before with this seed."""
    name, distilled = arm.removesuffix("_distilled"), arm.endswith("_distilled")
    if distilled:
        y = softened(models("dense"), x, y)
    if name == "magnitude":
        return magnitude(recipe, x, y)
    if name in CRITERIA:
        return recipe.pruned(CRITERIA[name], x, y)
    model = recipe.build() if name == "dense" else recipe.from_scratch(models("count"))
    recipe.compiled(model).fit(x, y, **recipe.fit_options())
    return model


def magnitude(recipe, x, y):
    """tfmot's own pruning of single weights, on tf_keras."""
    tf_keras = importlib.import_module("tf_keras")
    *hidden, last = recipe.build(keras=tf_keras).layers
    prune, schedule = tfmot.sparsity.keras.prune_low_magnitude, recipe.decay(0.9, 1, 10)
    stack = [prune(layer, schedule) if layer.weights else layer for layer in hidden]
    model = recipe.compiled(tf_keras.Sequential([tf_keras.layers.Input((28, 28)), *stack, last]), tf_keras)
    model.fit(x, y, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()], **recipe.fit_options())
    return tfmot.sparsity.keras.strip_pruning(model)


def accuracy(model, x, y):
    return float(np.mean(model.predict(x, batch_size=1000, verbose=0).argmax(axis=-1) == y))


def widths(model):
    return "-".join(str(layer.get_weights()[0].shape[-1]) for layer in model.layers if layer.weights)


def run(recipe, folder):
    rows = folder / f"{FLAGS.net}.csv"
    done = {(row["arm"], int(row["seed"])) for row in read(rows)}
    data, world = recipe.data, {}
    x, y = data.x_train, np.eye(10, dtype="float32")[data.y_train]
    for seed in range(FLAGS.seeds):

        def model_of(arm, seed=seed):
            path = folder / f"{FLAGS.net}-{arm}-{seed}.keras"
            return world.get(path) or recipe.keras.models.load_model(path, compile=False)

        for arm in FLAGS.arms or recipe.arms:
            if (arm, seed) in done:
                continue
            recipe.keras.utils.set_random_seed(seed)
            start = time.perf_counter()
            model = train(recipe, arm, model_of, x, y)
            seconds = time.perf_counter() - start
            model.save(folder / f"{FLAGS.net}-{arm}-{seed}.keras")
            score = accuracy(model, data.x_test, data.y_test)
            size, operations = model.count_params(), count_flops(model)
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
    """`mean +- half of the 95% interval`."""
    values = np.asarray(values, float)
    half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
    return f"{values.mean():.2f} +- {half:.2f}"


def summarize(recipe, folder):
    rows = read(folder / f"{FLAGS.net}.csv")
    print(
        "| arm | seeds | accuracy | points below dense | times fewer weights | times fewer FLOPs | fit time |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    dense = {row["seed"]: row for row in rows if row["arm"] == "dense"}
    for arm in recipe.arms:
        pairs = [(row, dense[row["seed"]]) for row in rows if row["arm"] == arm and row["seed"] in dense]
        if not pairs:
            continue
        cells = [
            interval([100 * float(row["accuracy"]) for row, _ in pairs]),
            interval([100 * (float(whole["accuracy"]) - float(row["accuracy"])) for row, whole in pairs]),
            *(
                interval([float(whole[name]) / float(row[name]) for row, whole in pairs])
                for name in ("weights", "flops")
            ),
            interval([float(row["fit_seconds"]) / float(whole["fit_seconds"]) for row, whole in pairs]),
        ]
        print(f"| {arm} | {len(pairs)} | " + " | ".join(cells) + " |")


def main(_):
    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    keras = importlib.import_module("keras")
    recipe = {"mlp": Mlp, "resnet": Resnet}[FLAGS.net](keras, datasets.load("fashion_mnist"))
    folder = pathlib.Path(FLAGS.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (summarize if FLAGS.summarize else run)(recipe, folder)


if __name__ == "__main__":
    app.run(main)
