"""Tests whether pruning removes from the singular values what a loss on their sum would remove.

    python examples/activation_based_pruning.py        # first: stores the spectra around every mask update
    python benchmarks/singular_value_loss.py --percent 90 --seeds 3

Ganguli and Chong (2024, abstract) claim this. Their code adds the loss to all kernels, including that of the
output layer, on every other epoch once the training accuracy has reached 0.70. The strength is 1, and each
singular value is multiplied by its place (`weighted`). The abstract uses the plain sum.

The script trains the dense model of the experiment in this way for `--loss_epochs` epochs. It also trains
each epoch with the loss a second time without it: the difference is what the loss removes. The script
compares this with what the mask updates of the pruned model of the same seed remove, both summed over the
training. For each hidden layer, it prints the ratio of the sums and Spearman's rank correlation over the
places. Besides 1, it uses strengths at which the model continues to learn.

The results are means over seeds with 95% CIs (Student's t). Spectra are stored in DIRECTORY/loss, so a second
call resumes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import sys

import keras
import numpy as np
import scipy.stats
from absl import app, flags

from tfap import low_rank
from tfap.comparison import Run
from tfap.utils import tables
from tfap.utils.statistics import interval

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import activation_based_pruning as experiment

FLAGS = flags.FLAGS
flags.DEFINE_integer("loss_epochs", 5, "Epochs per training with the loss.", 2)
flags.DEFINE_float("from_accuracy", 0.70, "Training accuracy from which the loss is used.")
flags.DEFINE_list(
    "losses", ["plain 1", "plain 0.01", "weighted 1", "weighted 0.0001"], "Kinds and strengths of the loss."
)


class Training:
    """Trains the dense model with or without the loss. SGD without momentum has no state to transfer."""

    def __init__(self, setting, loss, seed):
        kind, strength = loss.split()
        keras.utils.set_random_seed(seed)
        self._plain = experiment.network(keras, setting.widths)
        regularizer = low_rank.SingularValueRegularizer(float(strength), weighted=kind == "weighted")
        self._with_loss = experiment.network(keras, setting.widths, kernel_regularizer=regularizer)
        for model in (self._plain, self._with_loss):
            model.compile(
                keras.optimizers.SGD(0.01),
                "sparse_categorical_crossentropy",
                metrics=["accuracy"],
                steps_per_execution=50,
                jit_compile=False,
            )
        self._data = setting.data[0]
        self.weights = self._plain.get_weights()

    def epoch(self, number, with_loss):
        """Returns `(weights, training accuracy)` after one epoch from the current weights."""
        keras.utils.set_random_seed(number)  # the same batches with and without the loss
        model = self._with_loss if with_loss else self._plain
        model.set_weights(self.weights)
        history = model.fit(*self._data, batch_size=32, epochs=1, verbose=0).history
        return model.get_weights(), history["accuracy"][0]


def spectra(weights):
    """Returns the singular values of the hidden kernels."""
    return [np.linalg.svd(kernel.astype("float64"), compute_uv=False) for kernel in weights[:-2:2]]


def removed_by_loss(setting, loss, seed):
    """Returns what the loss removes from the singular values of each hidden layer, and the accuracies."""
    training = Training(setting, loss, seed)
    sizes = [len(values) for values in spectra(training.weights)]
    removed, accuracies, last_had_loss = np.zeros(sum(sizes)), [0.0], True
    for number in range(FLAGS.loss_epochs):
        with_loss = accuracies[-1] >= FLAGS.from_accuracy and not last_had_loss
        weights, accuracy = training.epoch(number, with_loss)
        if with_loss:
            without, _ = training.epoch(number, False)
            removed = removed + np.concatenate(spectra(without)) - np.concatenate(spectra(weights))
        last_had_loss = with_loss
        training.weights = weights
        accuracies.append(accuracy)
    return np.split(removed, np.cumsum(sizes)[:-1]), accuracies[1:]


def on_file(setting, loss, seed):
    """Returns the same, from the file if it exists."""
    path = pathlib.Path(setting.directory) / "loss" / f"{loss}-{seed}.npz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        removed, accuracies = removed_by_loss(setting, loss, seed)
        np.savez(path, *removed, accuracies=accuracies)
        print(loss, seed, accuracies, flush=True)
    saved = np.load(path)
    return [saved[f"arr_{number}"] for number in range(len(saved.files) - 1)], saved["accuracies"]


def removed_by_pruning(setting, run):
    """Returns what all mask updates of a run remove from the singular values of each hidden layer."""
    saved = np.load(setting.file(run, "fit"))
    found = {}
    for name in saved.files:
        if name.startswith("before/"):
            path = name.split("/")[2]
            found[path] = found.get(path, 0) + saved[name] - saved[name.replace("before", "after")]
    return [found[path] for path in sorted(found)]


def main(_):
    setting = experiment.setting_of_flags()
    fraction = setting.share(float(FLAGS.percent[-1]))
    table = tables.table_of(
        ["pruned by", "loss", "layer"],
        ["removed by pruning / by loss", "rank correlation", "accuracy with loss"],
    )
    for loss in FLAGS.losses:
        losses = [on_file(setting, loss, seed) for seed in range(FLAGS.seeds)]
        for method in FLAGS.methods:
            if method == "tfmot":
                continue  # its fit stores no spectra
            prunes = [removed_by_pruning(setting, Run(method, fraction, seed)) for seed in range(FLAGS.seeds)]
            for layer in range(len(setting.widths) - 2):
                pairs = [(pruned[layer], lost[layer]) for pruned, (lost, _) in zip(prunes, losses)]
                ratio = interval([pruned.sum() / lost.sum() for pruned, lost in pairs])
                same_order = interval([scipy.stats.spearmanr(*pair).statistic for pair in pairs])
                last = np.mean([accuracies[-1] for _, accuracies in losses])
                texts = (part.text("{:.2f}".format) for part in (ratio, same_order))
                table.add_row(method, loss, f"hidden {layer + 1}", *texts, f"{last:.1%}")
    print(tables.as_text(table))


if __name__ == "__main__":
    app.run(main)
