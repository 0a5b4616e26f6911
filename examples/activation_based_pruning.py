"""Runs the experiment of activation-based pruning (Ganguli and Chong, 2024, section 4) on Fashion-MNIST.

    python examples/activation_based_pruning.py --percent 80,85,90 --seeds 3
    python examples/activation_based_pruning.py --percent 90 --seeds 5
    python examples/activation_based_pruning.py --quick     # a one-minute demo on digits

The model is 784-300-200-100-50-10 with ReLU. It trains with SGD at a learning rate of 0.01 in batches of 32.
The first tenth of the training images is for validation. Masks are updated at the ends of epochs, when the
training accuracy passes the next of five thresholds, the first of which is 0.80. Training ends at an accuracy
of 0.98, but at least one epoch after the last mask update, or by early stopping on the validation loss. A
percentage is of all kernel weights, including those of the output layer, which are never pruned.

Methods:

- "neuron" ranks weights by the activation count of their neuron.
- "neuron x weight" multiplies the count by the weight.
- "input x weight" counts the activations of the neuron that a weight consumes.
- "whole neurons" prunes neurons with all of their weights.
- "magnitude" ranks by absolute weight, with the same schedule.
- "tfmot" is the magnitude pruning of tensorflow-model-optimization, per layer, with PolynomialDecay over 30
  epochs (in tf_keras, from the same initial weights).

Runs are stored in a folder in --directory, so a second call resumes. The script then writes the table,
rows.csv, and the figures. It needs the extras examples and comparison.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow logs

import dataclasses
import pathlib

import abp_figures
import keras
import numpy as np
import tf_keras
from absl import app, flags

import tfap
from tfap.comparison import Comparison, Method, tfmot
from tfap.datasets import load
from tfap.low_rank import RecordSingularValues

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "fashion_mnist", ["fashion_mnist", "mnist", "digits"], "Images to train on.")
flags.DEFINE_list("percent", ["80", "85", "90"], "Percentages of all kernel weights to prune.")
flags.DEFINE_list(
    "methods",
    ["neuron x weight", "neuron", "magnitude", "tfmot"],
    "Methods to run; also: input x weight, whole neurons.",
)
flags.DEFINE_integer("seeds", 3, "Number of seeds: 0 to n - 1.", 1)
flags.DEFINE_integer("prunes", 5, "Number of mask updates; 5 or 10 in the paper.", 1)
flags.DEFINE_integer("epochs", 500, "Maximum number of epochs.", 1)
flags.DEFINE_integer("workers", None, "Processes; one per core by default.", 1)
flags.DEFINE_string("directory", "build/abp", "Folder for runs, table, and figures.")
flags.DEFINE_bool("impatient", False, "Allow early stopping before the last mask update, as in the paper.")
flags.DEFINE_bool("quick", False, "Use digits, 6 epochs, two methods at 80%, and one seed.")

HIDDEN = (300, 200, 100, 50)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The settings that all runs share, pickled for their processes."""

    dataset: str
    prunes: int
    epochs: int
    begin: float
    directory: str
    impatient: bool = False

    @property
    def data(self):
        """`(x, y)` for training, validation, and test, with images as rows."""
        return _data(self.dataset)

    @property
    def widths(self):
        return {"digits": 64}.get(self.dataset, 784), *HIDDEN, 10

    @property
    def steps(self):
        """Batches per epoch."""
        return -(-len(self.data[0][0]) // 32)

    def share(self, percent):
        """Converts a percentage of all kernel weights to a fraction of the prunable ones (without output)."""
        sizes = [inputs * units for inputs, units in zip(self.widths, self.widths[1:])]
        return percent / 100 * sum(sizes) / sum(sizes[:-1])

    def build_model(self, run):
        model = network(keras, self.widths)
        if run.method != "tfmot":
            return model
        twin = network(tf_keras, self.widths)  # tfmot supports tf_keras only
        twin.set_weights(model.get_weights())
        return twin

    def schedule(self, sparsity):
        return tfap.AccuracyIntervals(sparsity, self.prunes, self.begin)

    def tfmot_schedule(self, sparsity):
        return tfap.PolynomialDecay(0.0, sparsity, 0, min(30, self.epochs // 2) * self.steps)

    def fit(self, model, callbacks, run):
        """Trains, and stores the metrics and the singular values before and after every mask update."""
        (x, y), validation, _ = self.data
        recorder = RecordSingularValues()
        callbacks = [recorder if type(one) is tfap.UpdatePruningStep else one for one in callbacks]
        history = model.fit(
            *(x, y),
            batch_size=32,
            epochs=self.epochs,
            verbose=0,
            validation_data=validation,
            validation_batch_size=1000,
            callbacks=[
                *callbacks,
                tfap.StopWhenPruned("accuracy", 0.98),
                _stopping(model, patient=recorder in callbacks and not self.impatient),
            ],
        )
        arrays = {f"history/{name}": values for name, values in history.history.items()}
        for number, update in enumerate(recorder.history if recorder in callbacks else ()):
            for moment in ("before", "after"):
                for path, values in getattr(update, moment).items():
                    arrays[f"{moment}/{number}/{path}"] = values
        np.savez(self.file(run, "fit"), **arrays)

    def evaluate(self, model, run):
        """Returns the test accuracy, and stores the weights and the firing rates on the training images."""
        (x, _), _, (x_test, y_test) = self.data
        loss, accuracy = model.evaluate(x_test, y_test, batch_size=1000, verbose=0)
        rates = {
            f"rates/{path}": counts.firing_rate
            for path, counts in tfap.measure_activations(model, x, batch_size=1000).items()
        }
        np.savez(self.file(run, "weights"), *model.get_weights(), **rates)
        history = np.load(self.file(run, "fit"))
        ranks = [np.linalg.matrix_rank(kernel) for kernel in model.get_weights()[:-2:2]]
        return {
            "accuracy": accuracy,
            "loss": loss,
            "training accuracy": history["history/accuracy"][-1],
            "epochs": len(history["history/accuracy"]),
            **{f"rank {number}": int(rank) for number, rank in enumerate(ranks, start=1)},
        }

    def file(self, run, kind):
        folder = pathlib.Path(self.directory) / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{run.name}.npz"


def _data(dataset):
    data = load(dataset)
    x, x_test = (images.reshape(len(images), -1) for images in (data.x_train, data.x_test))
    held_out = len(x) // 10
    return (
        (x[held_out:], data.y_train[held_out:]),
        (x[:held_out], data.y_train[:held_out]),
        (x_test, data.y_test),
    )


def network(keras, widths, **options):
    """Builds and compiles the paper's model of Dense layers with these options."""
    inputs, *hidden, classes = widths
    layers = [keras.layers.Input((inputs,))]
    layers += [
        keras.layers.Dense(units, activation="relu", name=f"hidden_{number}", **options)
        for number, units in enumerate(hidden, start=1)
    ]
    model = keras.Sequential(
        [*layers, keras.layers.Dense(classes, activation="softmax", name="output", **options)]
    )
    model.compile(
        keras.optimizers.SGD(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=50,
    )
    return model


def _stopping(model, patient):
    """Returns the early stopping of the paper. If `patient`, it waits for the last mask update."""
    owner = keras if isinstance(model, keras.Model) else tf_keras

    class StopOnValidationLoss(owner.callbacks.Callback):
        """Counts epochs whose loss rises above 1.1 times the lowest, and stops at the third."""

        lowest = last = float("inf")
        ticks = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.waits = patient and not tfap.pruning_is_over(self.model)

        def on_epoch_end(self, epoch, logs=None):
            loss = logs["val_loss"]
            if loss < self.lowest:
                self.lowest = loss
            elif loss > 1.1 * self.lowest and loss > self.last:
                self.ticks += not self.waits
            elif loss < 1.1 * self.lowest:
                self.ticks = 0
            self.last = loss
            self.model.stop_training |= self.ticks >= 3

    return StopOnValidationLoss()


def methods_of(setting, names):
    """Returns the methods for `tfap.compare`."""
    known = {
        "neuron x weight": {"criterion": tfap.ActivationCount(), "granularity": "weight"},
        "neuron": {"criterion": tfap.ActivationCount(weighted=False), "granularity": "weight"},
        "input x weight": {"criterion": tfap.ActivationCount(side="input"), "granularity": "weight"},
        "whole neurons": {"criterion": tfap.ActivationCount()},
        "magnitude": {"criterion": tfap.Magnitude()},
        "tfmot": _tfmot(setting.tfmot_schedule),
    }
    return {name: known[name] for name in names}


def _tfmot(schedule):
    magnitude = tfmot.Magnitude(schedule)
    return Method(magnitude.prune, magnitude.callbacks, magnitude.strip)


def setting_of_flags():
    """Returns the `Setting` for the flags, with its own folder."""
    folder = f"{FLAGS.directory}/{FLAGS.dataset}-{FLAGS.prunes}-{FLAGS.epochs}"
    folder += "-impatient" if FLAGS.impatient else ""
    begin = 0.2 if FLAGS.dataset == "digits" else 0.80
    return Setting(FLAGS.dataset, FLAGS.prunes, FLAGS.epochs, begin, folder, FLAGS.impatient)


def main(_):
    if FLAGS.quick:
        FLAGS.dataset, FLAGS.prunes, FLAGS.epochs = "digits", 2, 6
    setting = setting_of_flags()
    if FLAGS.quick:
        names, percents, seeds = ["neuron x weight", "magnitude"], [80], 1
    else:
        names, percents, seeds = FLAGS.methods, [float(percent) for percent in FLAGS.percent], FLAGS.seeds
    tfap.compare(
        setting.build_model,
        setting.fit,
        setting.evaluate,
        methods_of(setting, names),
        [setting.share(percent) for percent in percents],
        seeds,
        setting.schedule,
        setting.directory,
        FLAGS.workers,
    )
    compared = Comparison.from_directory(setting.directory)
    print(compared)
    compared.to_csv(f"{setting.directory}/rows.csv")
    abp_figures.draw(compared, setting)


if __name__ == "__main__":
    app.run(main)
