"""The experiment of activation-based pruning (Ganguli and Chong, 2024, section 4) on Fashion-MNIST.

    python examples/activation_based_pruning.py --percent 80,85,90 --seeds 3
    python examples/activation_based_pruning.py --percent 90 --seeds 5
    python examples/activation_based_pruning.py --quick     # a minute on digits, to see what it does

784-300-200-100-50-10 with ReLU, SGD with a rate of 0.01 and batches of 32; the first tenth of the training
images is for validation. Pruned at the ends of epochs, when the training accuracy passes the next of five
thresholds, the first 0.80; training ends at 0.98 but not before an epoch after the last prune, or by early
stopping on the validation loss. A percentage is of all kernel weights, also of the output layer's, which
are never pruned.

Methods: "neuron" ranks by the count of a weight's neuron, "neuron x weight" multiplies by the weight,
"magnitude" is the same schedule with absolute weights, "tfmot" tensorflow-model-optimization's magnitude
pruning, layer by layer, with its PolynomialDecay over 30 epochs (in tf_keras, from the same initial
weights), "input x weight" counts the neurons that a weight reads, "whole neurons" prunes neurons with all
of their weights. Runs are kept in a folder in --directory, so a second call goes on; then come the table,
rows.csv and the figures. Needs the extras examples and comparison.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts to talk

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
    "Which: also input x weight, whole neurons.",
)
flags.DEFINE_integer("seeds", 3, "Seeds 0 to n - 1.", 1)
flags.DEFINE_integer("prunes", 5, "How many; 5 or 10 in the paper.", 1)
flags.DEFINE_integer("epochs", 500, "At most so many.", 1)
flags.DEFINE_integer("workers", None, "Processes; by default one a core.", 1)
flags.DEFINE_string("directory", "build/abp", "Where runs, table and figures go.")
flags.DEFINE_bool("impatient", False, "Let early stopping come before the last prune, as in the paper.")
flags.DEFINE_bool("quick", False, "Digits, 6 epochs, two methods at 80%, one seed.")

HIDDEN = (300, 200, 100, 50)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all runs share; sent to the processes that run them."""

    dataset: str
    prunes: int
    epochs: int
    begin: float
    directory: str
    impatient: bool = False

    @property
    def data(self):
        """`(x, y)` for training, validation and test, images as rows."""
        return _data(self.dataset)

    @property
    def widths(self):
        return {"digits": 64}.get(self.dataset, 784), *HIDDEN, 10

    @property
    def steps(self):
        """Batches an epoch."""
        return -(-len(self.data[0][0]) // 32)

    def share(self, percent):
        """A percentage of all kernel weights as a share of those that are pruned, all but the output's."""
        sizes = [inputs * units for inputs, units in zip(self.widths, self.widths[1:])]
        return percent / 100 * sum(sizes) / sum(sizes[:-1])

    def build_model(self, run):
        model = network(keras, self.widths)
        if run.method != "tfmot":
            return model
        twin = network(tf_keras, self.widths)  # tfmot serves tf_keras only
        twin.set_weights(model.get_weights())
        return twin

    def schedule(self, sparsity):
        return tfap.AccuracyIntervals(sparsity, self.prunes, self.begin)

    def tfmots_schedule(self, sparsity):
        return tfap.PolynomialDecay(0.0, sparsity, 0, min(30, self.epochs // 2) * self.steps)

    def fit(self, model, callbacks, run):
        """Trains; keeps the epochs' metrics and, before and after every prune, the singular values."""
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
        """Test accuracy; keeps the weights and how often each neuron fires on the training images."""
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


def network(world, widths, **options):
    """The paper's net of Dense layers with these options, compiled."""
    inputs, *hidden, classes = widths
    layers = [world.layers.Input((inputs,))]
    layers += [
        world.layers.Dense(units, activation="relu", name=f"hidden_{number}", **options)
        for number, units in enumerate(hidden, start=1)
    ]
    model = world.Sequential(
        [*layers, world.layers.Dense(classes, activation="softmax", name="output", **options)]
    )
    model.compile(
        world.optimizers.SGD(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=50,
    )
    return model


def _stopping(model, patient):
    """The paper's early stopping for the model's Keras; a patient one waits for the last prune."""
    world = keras if isinstance(model, keras.Model) else tf_keras

    class StopOnValidationLoss(world.callbacks.Callback):
        """A tick for each epoch whose loss rises beyond 1.1 times the lowest; the third stops."""

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
    """Arguments for `tfap.compare`."""
    known = {
        "neuron x weight": {"criterion": tfap.ActivationCount(), "granularity": "weight"},
        "neuron": {"criterion": tfap.ActivationCount(weighted=False), "granularity": "weight"},
        "input x weight": {"criterion": tfap.ActivationCount(side="input"), "granularity": "weight"},
        "whole neurons": {"criterion": tfap.ActivationCount()},
        "magnitude": {"criterion": tfap.Magnitude()},
        "tfmot": _tfmots(setting.tfmots_schedule),
    }
    return {name: known[name] for name in names}


def _tfmots(schedule):
    magnitude = tfmot.Magnitude(schedule)
    return Method(magnitude.prune, magnitude.callbacks, magnitude.strip)


def setting_of_flags():
    """The `Setting` that the flags ask for; each has a folder of its own."""
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
