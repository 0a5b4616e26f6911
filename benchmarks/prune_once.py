"""Measures what `tfap.prune_once` keeps of the accuracy, by criterion, refit, and number of samples.

    python benchmarks/prune_once.py                # everything, about an hour on one core; resumes
    python benchmarks/prune_once.py --table        # only prints the tables of the rows that there are
    python benchmarks/prune_once.py --applications  # seconds and memory on ResNet50 and MobileNetV2

The models are trained on Fashion-MNIST with Keras 3, once per seed: an MLP (784-300-200-100-50-10), a
residual model with BatchNormalization, and a MobileNet on images of 14 x 14. The same weights are used in
tf_keras. The rows are in DIRECTORY/rows.jsonl, the models beside it.

Every layer loses the same fraction of its channels (`scope="local"`). The sparsity is a fraction of the
neurons for the MLP, and of the FLOPs for the others. Arms:

- plain: channels are removed, nothing else.
- mean: the mean of what is removed goes to the biases.
- refit: the weights that are kept are refitted.
- recalibrated: the same, with new BatchNormalization statistics.
- epoch: one epoch of training from there, for one criterion, started from plain or from recalibrated.

Accuracies are means over seeds on the 10,000 test images, with 95% CIs (Student's t). Differences are paired
by seed.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import json
import pathlib
import resource
import sys
import time

import keras
import numpy as np
from absl import app, flags

import tfap
from tfap.datasets import load
from tfap.utils.statistics import interval

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import networks

FLAGS = flags.FLAGS
flags.DEFINE_string("directory", "build/prune_once", "Folder of the models and rows.")
flags.DEFINE_integer("seeds", 5, "Number of seeds.", 1)
flags.DEFINE_list("nets", ["mlp", "resnet", "mobilenet"], "Models.")
flags.DEFINE_bool("table", False, "Only print the tables.")
flags.DEFINE_bool("applications", False, "Measure seconds and memory on models of keras.applications.")
flags.DEFINE_bool("quick", False, "One seed, few images: to try the script.")

SPARSITIES = {"mlp": (0.5, 0.7), "resnet": (0.3, 0.5), "mobilenet": (0.3, 0.5)}
EPOCHS = {"mlp": 8, "resnet": 2, "mobilenet": 4}
RATE = {"mlp": 1e-3, "resnet": 3e-3, "mobilenet": 3e-3}
CRITERIA = ("random", "magnitude", "lamp", "lookahead", "activation_count", "gradient", "reconstruction")
FEW = ("magnitude", "activation_count", "reconstruction")
MOST, FEWEST, MEDIUM = 2048, 128, 512
BATCH = 128


class Random(tfap.Criterion):
    """Scores channels at random."""

    def __init__(self, seed):
        self.seed = seed

    def scores(self, kernel):
        generator = np.random.default_rng([self.seed, *kernel.path.encode()])
        return kernel.per_neuron(generator.random(kernel.weights.shape[-1])) + 0 * kernel.weights


class Data:
    """Fashion-MNIST in the shape that a model takes."""

    def __init__(self, net):
        data = load("fashion_mnist")
        limit = 2000 if FLAGS.quick else None
        self.x, self.x_test = (self._shaped(x[:limit], net) for x in (data.x_train, data.x_test))
        self.y, self.y_test = data.y_train[:limit], data.y_test[:limit]

    def _shaped(self, x, net):
        if net == "mobilenet":
            x = x.reshape(len(x), 14, 2, 14, 2).mean(axis=(2, 4))
        return x[..., None]

    def accuracy(self, model):
        chunks = [self.x_test[start : start + 1000] for start in range(0, len(self.x_test), 1000)]
        outputs = np.concatenate([np.asarray(model(chunk, training=False)) for chunk in chunks])
        return 100 * float(np.mean(outputs.argmax(axis=-1) == self.y_test))


def build(module, net):
    if net == "mlp":
        return networks.mlp(module, (28, 28, 1), 10, (300, 200, 100, 50))
    if net == "resnet":
        return networks.small_resnet(module, (28, 28, 1), 10)
    return networks.mobilenet(module, (14, 14, 1), 10)


def compile_for(module, model, net, rate):
    loss = module.losses.SparseCategoricalCrossentropy(from_logits=net == "resnet")
    model.compile(module.optimizers.Adam(rate), loss)


def dense(net, seed, data, module=keras):
    """The trained model of a seed, from its file if there is one."""
    file = pathlib.Path(FLAGS.directory) / f"{net}-{seed}.npz"
    module.utils.set_random_seed(seed)
    model = build(module, net)
    if file.exists():
        saved = np.load(file)
        model.set_weights([saved[f"arr_{at}"] for at in range(len(saved.files))])
    else:
        steps = EPOCHS[net] * len(data.x) // BATCH
        compile_for(module, model, net, module.optimizers.schedules.CosineDecay(RATE[net], steps))
        model.fit(data.x, data.y, BATCH, EPOCHS[net], verbose=0)
        np.savez(file, *model.get_weights())
    compile_for(module, model, net, 1e-3)
    return model


class Rows:
    """The results so far, one line of JSON each."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "rows.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.rows = {self._key(row): row for row in map(json.loads, lines)}

    def _key(self, row):
        return tuple(
            row[name] for name in ("net", "seed", "keras", "criterion", "samples", "sparsity", "arm")
        )

    def missing(self, **row):
        return self._key(row) not in self.rows

    def add(self, **row):
        self.rows[self._key(row)] = row
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


class Runs:
    """The runs of one dense model."""

    def __init__(self, rows, net, seed, world):
        self.rows, self.net, self.seed, self.world = rows, net, seed, world
        self.module = importlib.import_module(world)
        self.data = Data(net)
        self.model = dense(net, seed, self.data, self.module)
        self.common = dict(net=net, seed=seed, keras=world)
        self._add("dense", 0, 0.0, "dense", lambda: self.model)

    def _add(self, criterion, samples, sparsity, arm, make):
        row = dict(self.common, criterion=criterion, samples=samples, sparsity=sparsity, arm=arm)
        if not self.rows.missing(**row):
            return None
        start = time.process_time()
        model = make()
        seconds = time.process_time() - start
        share = tfap.flops(model) / tfap.flops(self.model)
        self.rows.add(**row, accuracy=self.data.accuracy(model), flops=share, seconds=seconds)
        return model

    def pruned(self, criterion, samples, sparsity, compensate):
        x, y = self.data.x[:samples], self.data.y[:samples]
        return tfap.prune_once(
            self.model,
            (x, y) if criterion == "gradient" else x,
            sparsity,
            Random(self.seed) if criterion == "random" else criterion,
            target="neurons" if self.net == "mlp" else "flops",
            compensate=compensate,
            recalibrate=False,
            samples=samples,
            batch_size=BATCH,
        )

    def recalibrated(self, model, samples):
        if self.net == "mlp":
            return model
        return tfap.recalibrate(model, self.data.x[:samples], batch_size=BATCH)

    def arms(self, criterion, samples, sparsity, names=("plain", "mean", "refit")):
        options = {"plain": False, "mean": "mean", "refit": True}
        for arm in names:
            refitted = self._add(
                criterion,
                samples,
                sparsity,
                arm,
                lambda arm=arm: self.pruned(criterion, samples, sparsity, options[arm]),
            )
            if refitted is not None and arm == "refit" and self.net != "mlp":
                self._add(
                    criterion,
                    samples,
                    sparsity,
                    "recalibrated",
                    lambda refitted=refitted: self.recalibrated(refitted, samples),
                )

    def epoch(self, criterion, sparsity):
        """One epoch of training from either start."""
        for arm, compensate in (("epoch from plain", False), ("epoch from refit", True)):

            def train(compensate=compensate):
                start = self.pruned(criterion, MOST, sparsity, compensate)
                start = self.recalibrated(start, MOST) if compensate else start
                compile_for(self.module, start, self.net, 1e-3)
                self.module.utils.set_random_seed(self.seed)
                start.fit(self.data.x, self.data.y, BATCH, 1, verbose=0)
                return start

            self._add(criterion, MOST, sparsity, arm, train)


def measure(rows):
    """In an order in which the first rows of every table come first."""
    for seed in range(1 if FLAGS.quick else FLAGS.seeds):
        for net in FLAGS.nets:
            runs = Runs(rows, net, seed, "keras")
            for sparsity in SPARSITIES[net]:
                for criterion in FEW:
                    runs.arms(criterion, MOST, sparsity)
                for criterion in CRITERIA:
                    runs.arms(criterion, MEDIUM, sparsity)
                for criterion in FEW:
                    runs.arms(criterion, FEWEST, sparsity, ["refit"])
            runs.epoch("magnitude", SPARSITIES[net][-1])
            other = Runs(rows, net, seed, "tf_keras")
            for sparsity in SPARSITIES[net]:
                for criterion in FEW:
                    other.arms(criterion, MEDIUM, sparsity)


# -- the tables ---------------------------------------------------------------------------------------

ARMS = ("plain", "mean", "refit", "recalibrated")


def cell(values):
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    found = interval(values)
    return f"{found.mean:.1f} ± {found.high - found.mean:.1f}"


def by_seed(rows, **wanted):
    found = {}
    for row in rows.rows.values():
        if all(row[name] == value for name, value in wanted.items()):
            found[row["seed"]] = row["accuracy"]
    return found


def tables(rows):
    for net in FLAGS.nets:
        dense_accuracies = by_seed(rows, net=net, keras="keras", arm="dense")
        if not dense_accuracies:
            continue
        for sparsity in SPARSITIES[net]:
            removed = "neurons" if net == "mlp" else "FLOPs"
            accuracy = cell(list(dense_accuracies.values()))
            print(f"\n**{net}**, dense {accuracy}, {sparsity:.0%} of the {removed} removed\n")
            print("| criterion | samples | Keras |", " | ".join(ARMS), "|")
            print("|---|---:|---|" + "---:|" * len(ARMS))
            for samples, world in (
                (MOST, "keras"),
                (MEDIUM, "keras"),
                (MEDIUM, "tf_keras"),
                (FEWEST, "keras"),
            ):
                for criterion in CRITERIA:
                    wanted = dict(
                        net=net, keras=world, criterion=criterion, samples=samples, sparsity=sparsity
                    )
                    cells = [cell(list(by_seed(rows, **wanted, arm=arm).values())) for arm in ARMS]
                    if set(cells) != {"-"}:
                        print(f"| {criterion} | {samples:,} | {world} |", " | ".join(cells), "|")
        wanted = dict(net=net, keras="keras", criterion="magnitude", samples=MOST)
        starts = [by_seed(rows, **wanted, arm=f"epoch from {start}") for start in ("refit", "plain")]
        both = sorted(set(starts[0]) & set(starts[1]))
        if both:
            differences = [starts[0][seed] - starts[1][seed] for seed in both]
            print(
                f"\nOne epoch of training after magnitude, {SPARSITIES[net][-1]:.0%} removed: "
                f"{cell([starts[1][seed] for seed in both])} from plain, "
                f"{cell([starts[0][seed] for seed in both])} from the refit, difference {cell(differences)}."
            )


def applications():
    """ResNet50 and MobileNetV2 without trained weights on 256 random images of 64 x 64."""
    print("| model | sparsity | seconds | CPU seconds | peak memory beyond the model, MiB |")
    print("|---|---:|---:|---:|---:|")
    for name in ("MobileNetV2", "ResNet50"):
        keras.utils.set_random_seed(0)
        model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
        x = np.random.default_rng(0).normal(size=(256, 64, 64, 3)).astype("float32")
        model(x[:32], training=False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.monotonic(), time.process_time()
        small = tfap.prune_once(model, x, 0.3)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        share = 1 - small.count_params() / model.count_params()
        print(f"| {name} | {share:.0%} | {wall:.0f} | {cpu:.0f} | {peak / 1024:,.0f} |", flush=True)


def main(_):
    if FLAGS.applications:
        applications()
        return
    rows = Rows(pathlib.Path(FLAGS.directory))
    if not FLAGS.table:
        measure(rows)
    tables(rows)


if __name__ == "__main__":
    app.run(main)
