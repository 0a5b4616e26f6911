"""Is a pruned net better than nets of the same rank? The claim of activation-based pruning with controls.

    python examples/activation_based_pruning.py        # first: it leaves the trained nets in build/abp
    python benchmarks/rank_controls.py --percent 90 --seeds 5

Ganguli and Chong (2024, section 5) replace the kernels of the unpruned net by their PCA reconstructions of
the pruned kernels' ranks and find the pruned net more accurate. But that one was trained at its rank. So,
for each seed and each pruned net (`--methods`):

- pca, svd: the dense net's hidden kernels reconstructed at the pruned net's ranks, as in the paper; no
  training;
- pca trained, svd trained: then trained at that rank, as products of two thin matrices, for as many epochs
  as the pruned net from that of its first prune on (a layer where two thin layers have more weights is set
  back to its rank after every epoch);
- random neurons: the dense net without random neurons, of the pruned net's widths, trained for as many
  epochs;
- pruned: the net itself.

The optimizer is the experiment's, and like there the last epoch counts. Accuracies are those on the 10,000
test images; differences to the pruned net are means over seeds with 95% intervals (Student's t). Rows go to
DIRECTORY/rank_controls.csv; a second call goes on.
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
flags.DEFINE_string("controls", "pca,svd,pca trained,svd trained,random neurons,pruned", "Which.")
FIELDS = ("method", "percent", "seed", "control", "epochs", "ranks", "accuracy")


class Nets:
    """The dense net and a pruned one of a seed, as the experiment has left them."""

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
        """Of the pruned net's hidden kernels, `{layer path: rank}`."""
        kernels = self.pruned[:-2:2]
        return {f"hidden_{n}": int(np.linalg.matrix_rank(kernel)) for n, kernel in enumerate(kernels, 1)}

    @property
    def widths(self):
        """How many neurons of each hidden layer have incoming weights left."""
        return [int(kernel.any(axis=0).sum()) for kernel in self.pruned[:-2:2]]

    @property
    def epochs(self):
        """Of the pruned net's training, from its first prune on."""
        sparsity = np.load(self.setting.file(self.run, "fit"))["history/sparsity"]
        return int((sparsity > 0).sum())

    def model(self, weights):
        model = experiment.network(keras, [len(weights[0]), *(len(bias) for bias in weights[1::2])])
        model.set_weights(weights)
        return model

    def random_neurons(self):
        """The dense net's weights between randomly chosen neurons, as many as the pruned net has."""
        weights, kept = [], np.arange(len(self.dense[0]))
        for number, count in enumerate([*self.widths, self.setting.widths[-1]]):
            kernel, bias = self.dense[2 * number : 2 * number + 2]
            chosen = np.sort(self.generator.choice(len(bias), max(1, count), replace=False))
            weights += [kernel[np.ix_(kept, chosen)], bias[chosen]]
            kept = chosen
        return weights


class KeepRank(keras.callbacks.Callback):
    """Sets kernels back to the nearest ones of a rank at the end of every epoch."""

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


def thin(model, ranks):
    """The model with thin layers where that saves weights; the ranks that are left to keep."""
    try:
        found = low_rank.factorize(model, rank=ranks)
    except ValueError:  # nothing saves weights
        return model, ranks
    names = {layer.name for layer in found.layers}
    return found, {path: rank for path, rank in ranks.items() if f"{path}_factor" not in names}


def accuracy(nets, model, epochs=0, ranks=None):
    """On test images, after training for some epochs at some ranks."""
    (x, y), _, test = nets.setting.data
    if epochs:
        if ranks:
            model, ranks = thin(model, ranks)
        model.compile(
            keras.optimizers.SGD(0.01),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=50,
        )
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[KeepRank(ranks or {})])
    return model.evaluate(*test, batch_size=1000, verbose=0)[1]


def measure(nets, control):
    """`(epochs, ranks, accuracy)` of one control."""
    ranks = nets.ranks
    centred = {path: rank + 1 for path, rank in ranks.items()}  # the mean is one rank more
    trained = nets.epochs if control.endswith("trained") or control == "random neurons" else 0
    if control == "pruned":
        return 0, ranks, accuracy(nets, nets.model(nets.pruned))
    if control == "random neurons":
        return trained, {}, accuracy(nets, nets.model(nets.random_neurons()), trained)
    dense = nets.model(nets.dense)
    if control.startswith("pca"):
        return trained, centred, accuracy(nets, low_rank.pca_reconstruction(dense, ranks), trained, centred)
    return trained, ranks, accuracy(nets, low_rank.svd_reconstruction(dense, ranks), trained, ranks)


def measured(path, setting, keys):
    """Rows that are on file, then the missing ones, each written when it is done."""
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
            found = measure(Nets(setting, method, percent, seed), control)
            row = dict(zip(FIELDS, (*key, found[0], " ".join(map(str, found[1].values())), found[2])))
            writer.writerow(row)
            file.flush()
            print(row, flush=True)
    return list(csv.DictReader(path.open()))


def table(rows):
    found = tables.table_of(
        ["net", "control"], ["percent", "seeds", "ranks (seed 0)", "accuracy", "pruned net minus this"]
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
        if method != "tfmot"  # whose fit keeps no sparsities
        for seed in range(FLAGS.seeds)
        for control in FLAGS.controls.split(",")
    ]
    print(table(measured(pathlib.Path(setting.directory) / "rank_controls.csv", setting, keys)))


if __name__ == "__main__":
    app.run(main)
