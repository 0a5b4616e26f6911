"""Compares a pruned model with models of the same rank, to test a claim of activation-based pruning.

    python examples/activation_based_pruning.py        # first: stores the trained models in build/abp
    python benchmarks/rank_controls.py --percent 90 --seeds 5

Ganguli and Chong (2024, section 5) replace the kernels of the dense model by their PCA reconstructions with
the ranks of the pruned kernels, and find the pruned model more accurate. However, the pruned model was
trained at its rank. The script therefore evaluates these controls for each seed and each pruned model
(`--methods`):

- pca, svd: the dense model with hidden kernels reconstructed at the ranks of the pruned model, as in the
  paper, without training.
- pca trained, svd trained: the same models, then trained at that rank as products of low-rank factors. They
  train for as many epochs as the pruned model did from its first mask update on. A layer that factors would
  not make smaller is projected to its rank after every epoch.
- random neurons: the dense model without random neurons, with the widths of the pruned model, trained for as
  many epochs.
- pruned: the pruned model itself.

The optimizer is that of the experiment, and the accuracy is that of the last epoch on the 10,000 test images.
Differences from the pruned model are means over seeds with 95% CIs (Student's t). The script writes the rows
to DIRECTORY/rank_controls.csv, so a second call resumes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import csv
import pathlib
import sys

import keras
import numpy as np
from absl import app, flags

from tfap import low_rank
from tfap.comparison import Run
from tfap.utils import tables
from tfap.utils.statistics import interval

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import activation_based_pruning as experiment

FLAGS = flags.FLAGS
flags.DEFINE_string("controls", "pca,svd,pca trained,svd trained,random neurons,pruned", "Controls.")
FIELDS = ("method", "percent", "seed", "control", "epochs", "ranks", "accuracy")


class Models:
    """Loads the dense model and a pruned model of a seed from the files of the experiment."""

    def __init__(self, setting, method, percent, seed):
        self.setting = setting
        self.run = Run(method, setting.share(percent), seed)
        self.dense = self._weights(Run("dense", 0.0, seed))
        self.pruned = self._weights(self.run)
        self.generator = np.random.default_rng(seed)

    def _weights(self, run):
        saved = np.load(self.setting.file(run, "weights"))
        return [saved[f"arr_{number}"] for number in range(2 * len(self.setting.widths) - 2)]

    @property
    def ranks(self):
        """`{layer path: rank}` of the hidden kernels of the pruned model."""
        kernels = self.pruned[:-2:2]
        return {f"hidden_{n}": int(np.linalg.matrix_rank(kernel)) for n, kernel in enumerate(kernels, 1)}

    @property
    def widths(self):
        """Number of neurons with incoming weights in each hidden layer of the pruned model."""
        return [int(kernel.any(axis=0).sum()) for kernel in self.pruned[:-2:2]]

    @property
    def epochs(self):
        """Number of epochs that the pruned model trained from its first mask update on."""
        sparsity = np.load(self.setting.file(self.run, "fit"))["history/sparsity"]
        return int((sparsity > 0).sum())

    def model(self, weights):
        model = experiment.network(keras, [len(weights[0]), *(len(bias) for bias in weights[1::2])])
        model.set_weights(weights)
        return model

    def random_neurons(self):
        """Returns the weights of the dense model between random neurons, as many as the pruned model has."""
        weights, kept = [], np.arange(len(self.dense[0]))
        for number, count in enumerate([*self.widths, self.setting.widths[-1]]):
            kernel, bias = self.dense[2 * number : 2 * number + 2]
            chosen = np.sort(self.generator.choice(len(bias), max(1, count), replace=False))
            weights += [kernel[np.ix_(kept, chosen)], bias[chosen]]
            kept = chosen
        return weights


class KeepRank(keras.callbacks.Callback):
    """Projects kernels to the nearest ones of a rank at the end of every epoch."""

    def __init__(self, ranks):
        super().__init__()
        self._ranks = ranks

    def on_epoch_end(self, epoch, logs=None):
        for layer in self.model.layers:
            if layer.name in self._ranks:
                left, values, right = np.linalg.svd(
                    layer.kernel.numpy().astype("float64"), full_matrices=False
                )
                rank = self._ranks[layer.name]
                layer.kernel.assign((left[:, :rank] * values[:rank]) @ right[:rank])


def factored(model, ranks):
    """Returns the model with low-rank factors where these save weights, and the ranks of the other layers."""
    try:
        found = low_rank.factorize(model, rank=ranks)
    except ValueError:  # nothing saves weights
        return model, ranks
    names = {layer.name for layer in found.layers}
    return found, {path: rank for path, rank in ranks.items() if f"{path}_factor" not in names}


def accuracy(models, model, epochs=0, ranks=None):
    """Returns the test accuracy after training for `epochs` at `ranks`."""
    (x, y), _, test = models.setting.data
    if epochs:
        if ranks:
            model, ranks = factored(model, ranks)
        model.compile(
            keras.optimizers.SGD(0.01),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=50,
        )
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[KeepRank(ranks or {})])
    return model.evaluate(*test, batch_size=1000, verbose=0)[1]


def measure(models, control):
    """Returns `(epochs, ranks, accuracy)` of one control."""
    ranks = models.ranks
    centered = {path: rank + 1 for path, rank in ranks.items()}  # the mean adds one rank
    trained = models.epochs if control.endswith("trained") or control == "random neurons" else 0
    if control == "pruned":
        return 0, ranks, accuracy(models, models.model(models.pruned))
    if control == "random neurons":
        return trained, {}, accuracy(models, models.model(models.random_neurons()), trained)
    dense = models.model(models.dense)
    if control.startswith("pca"):
        reconstructed = low_rank.pca_reconstruction(dense, ranks)
        return trained, centered, accuracy(models, reconstructed, trained, centered)
    return trained, ranks, accuracy(models, low_rank.svd_reconstruction(dense, ranks), trained, ranks)


def measured(path, setting, keys):
    """Returns the stored rows and the missing ones, each of which is stored when it is done."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(row["method"], float(row["percent"]), int(row["seed"]), row["control"]) for row in rows}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not rows:
            writer.writeheader()
        for key in keys:
            if key in done:
                continue
            method, percent, seed, control = key
            keras.utils.set_random_seed(seed)
            found = measure(Models(setting, method, percent, seed), control)
            row = dict(zip(FIELDS, (*key, found[0], " ".join(map(str, found[1].values())), found[2])))
            writer.writerow(row)
            file.flush()
            print(row, flush=True)
    return list(csv.DictReader(path.open()))


def table(rows):
    found = tables.table_of(
        ["method", "control"], ["percent", "seeds", "ranks (seed 0)", "accuracy", "pruned minus this"]
    )
    accuracies = {}
    for row in rows:
        key = row["method"], float(row["percent"]), row["control"]
        accuracies.setdefault(key, {})[int(row["seed"])] = 100 * float(row["accuracy"])
    ranks = {(row["method"], float(row["percent"]), row["control"]): row["ranks"] for row in reversed(rows)}
    for (method, percent, control), by_seed in accuracies.items():
        pruned = accuracies.get((method, percent, "pruned"), {})
        found_interval = interval([pruned[seed] - value for seed, value in by_seed.items() if seed in pruned])
        cells = f"{percent:g}", str(len(by_seed)), ranks[method, percent, control]
        mean = f"{np.mean(list(by_seed.values())):.2f}%"
        found.add_row(
            method, control, *cells, mean, "" if control == "pruned" else found_interval.text("{:.2f}".format)
        )
    return tables.as_text(found)


def main(_):
    setting = experiment.setting_of_flags()
    keys = [
        (method, float(percent), seed, control)
        for percent in FLAGS.percent
        for method in FLAGS.methods
        if method != "tfmot"  # its fit stores no sparsities
        for seed in range(FLAGS.seeds)
        for control in FLAGS.controls.split(",")
    ]
    print(table(measured(pathlib.Path(setting.directory) / "rank_controls.csv", setting, keys)))


if __name__ == "__main__":
    app.run(main)
