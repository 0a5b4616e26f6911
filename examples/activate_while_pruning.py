"""Runs the experiment of AP, activate while pruning (S. Liu et al., TMLR 2023): AP + X against X alone.

    python examples/activate_while_pruning.py --seeds 5                  # the MLP on Fashion-MNIST
    python examples/activate_while_pruning.py --model vgg --samples 12000 --rate 0.4 --cycles 7
    python examples/activate_while_pruning.py --bases lamp,lookahead --rate 0.6 --cycles 4
    python examples/activate_while_pruning.py --quick     # a one-minute demo on digits

Every cycle trains, prunes a fraction --rate of the kept weights, and rewinds. With AP, a fraction
--ap_rate / --rate of the removals are the negative weights that changed least. X chooses the others.

The training is that of the paper, but shorter:

- SGD with momentum 0.9. The learning rate rises linearly to its peak during the first half, is a tenth of the
  peak until 64% of the steps, and a hundredth from there on.
- Batches of 128 images (64 in the paper), without augmentation.
- A weight decay of 5e-3 in Keras, which equals 5e-4 in PyTorch: Keras decays weights outside of the momentum,
  PyTorch inside of it, which multiplies the decay by ten.
- Small models (networks.py), for which two cores are enough.

Each run has its own process and a folder in --directory, so a second call resumes. The script then writes the
table, rows.csv, and the figures of all runs in the folder. It needs Python 3.11 and the extras examples and
comparison.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow logs

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import pathlib

import ap_results
import keras
import networks
import tensorflow as tf
from absl import app, flags

import tfap
from tfap.datasets import load

MODELS = ["mlp", "vgg", "resnet20", "densenet", "mobilenet", "vit"]
# X: criterion and scope.
BASES = {
    "global magnitude": ("magnitude", "global"),
    "layer magnitude": ("magnitude", "local"),
    "global gradient": ("gradient", "global"),
    "layer gradient": ("gradient", "local"),
    "lamp": ("lamp", "global"),
    "lookahead": ("lookahead", "local"),
}
# Arguments of tfap.AP.
ARMS = {
    "X": {"share": 0.0},
    "AP + X": {},
    "random negative + X": {"which": "random"},
    "positive + X": {"sign": "positive"},
    "AP alone": {"share": 1.0},
}
REWINDS = {"init": "init", "none": None, "reinit": "reinit"}

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "mlp", MODELS, "Model to prune.")
flags.DEFINE_enum("dataset", "fashion_mnist", ["fashion_mnist", "digits", "cifar10"], "Images.")
flags.DEFINE_integer("samples", None, "Number of training images; all by default.", 1)
flags.DEFINE_enum(
    "inputs", "unit", ["unit", "standardised"], "Images in [0, 1] or with mean 0 and variance 1."
)
flags.DEFINE_bool("batch_normalization", True, "For the VGG. The MLP has none; the others always have it.")
flags.DEFINE_list("bases", ["global magnitude"], f"Criteria and scopes for X: {', '.join(BASES)}.")
flags.DEFINE_list("arms", ["X", "AP + X"], f"Arms to compare: {', '.join(ARMS)}.")
flags.DEFINE_list("rewinds", ["init"], f"Weights that a cycle starts from: {', '.join(REWINDS)}.")
flags.DEFINE_float("rate", 0.2, "Fraction of the kept weights that a cycle prunes.")
flags.DEFINE_float("ap_rate", None, "The part of --rate that AP chooses; a tenth of it by default.")
flags.DEFINE_integer("cycles", 20, "Number of cycles that prune. Cycle 0 only trains.", 1)
flags.DEFINE_integer("epochs", 4, "Epochs per cycle; 50 in the paper.", 1)
flags.DEFINE_integer("batch", 128, "Images per step; 64 in the paper.", 1)
flags.DEFINE_float("learning_rate", 0.1, "Peak of the learning rate.")
flags.DEFINE_integer("seeds", 3, "Number of seeds: 0 to n - 1.", 1)
flags.DEFINE_integer("workers", None, "Processes; one per core by default.", 1)
flags.DEFINE_string("directory", "build/ap", "Folder for runs, table, and figures.")
flags.DEFINE_bool("quick", False, "Use digits, 3 epochs, 2 cycles of 60%, and one seed.")

for name, known in (("bases", BASES), ("arms", ARMS), ("rewinds", REWINDS)):
    flags.register_validator(name, set(known).issuperset, f"must be among {', '.join(known)}")

GRADIENT_IMAGES = 1280  # for the gradients of X


@dataclasses.dataclass(frozen=True)
class Setting:
    """The settings that the runs of a folder share."""

    model: str
    dataset: str
    samples: int | None
    inputs: str
    batch_normalization: bool
    rate: float
    ap_rate: float
    cycles: int
    epochs: int
    batch: int
    learning_rate: float

    @property
    def name(self):
        """A valid folder name."""
        fields = dataclasses.asdict(self)
        fields["batch_normalization"] = None if self.batch_normalization else "plain"
        return "-".join(str(value) for value in fields.values() if value is not None)

    def data(self):
        """Returns `(x, y)` for training and test, with a channel axis."""
        data = load(self.dataset)
        x, x_test = data.x_train[: self.samples], data.x_test
        if x.ndim == 3:
            x, x_test = x[..., None], x_test[..., None]
        if self.inputs == "standardised":
            mean, scale = x.mean((0, 1, 2)), x.std((0, 1, 2))
            x, x_test = (x - mean) / scale, (x_test - mean) / scale
        return (x, data.y_train[: self.samples]), (x_test, data.y_test)

    def network(self, shape, classes, samples):
        """Returns the compiled model."""
        options = {} if self.batch_normalization else {"batch_normalization": False}
        model = getattr(networks, self.model)(keras, shape, classes, **options)
        steps = self.epochs * -(-samples // self.batch)
        model.compile(
            keras.optimizers.SGD(RiseAndSteps(self.learning_rate, steps), momentum=0.9, weight_decay=5e-3),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=50,
        )
        return model


@keras.saving.register_keras_serializable(package="examples")
class RiseAndSteps(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to the peak at half of the steps, is a tenth of it until 64%, then a hundredth."""

    def __init__(self, peak, steps):
        self.peak, self.steps = peak, steps

    def __call__(self, step):
        done = keras.ops.cast(step, "float32") / self.steps
        late = keras.ops.where(done < 0.64, 0.1, 0.01)
        return self.peak * keras.ops.where(done < 0.5, 2 * done, late)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


def train(setting, run, folder):
    """Runs all cycles and writes their rows to `<folder>/rows.csv`."""
    (x, y), (x_test, y_test) = setting.data()
    keras.utils.set_random_seed(run.seed)
    model = setting.network(x.shape[1:], int(y.max()) + 1, len(x))

    def fit(model, callbacks):
        return model.fit(x, y, setting.batch, setting.epochs, verbose=0, callbacks=callbacks)

    def evaluate(model):
        loss, accuracy = model.evaluate(x_test, y_test, batch_size=1000, verbose=0)
        return {"accuracy": accuracy, "loss": loss}

    base, scope = BASES[run.base]
    some = x[:GRADIENT_IMAGES], y[:GRADIENT_IMAGES]
    pruned = tfap.prune_iteratively(
        model,
        fit,
        tfap.AP(base, **{"share": setting.ap_rate / setting.rate, "seed": run.seed, **ARMS[run.arm]}),
        setting.rate,
        setting.cycles,
        REWINDS[run.rewind],
        evaluate,
        data=x_test,
        scope=scope,
        seed=run.seed,
        directory=folder / "cycles",
        gradient_data=some if base == "gradient" else None,
    )
    pruned.to_csv(folder / "rows.part")
    (folder / "rows.part").replace(folder / "rows.csv")  # atomic: the file is complete or missing


def train_all(setting, runs, folder, workers):
    """Trains the missing runs, each in its own process to free the memory that TensorFlow keeps."""
    missing = [run for run in runs if not (folder / run.name / "rows.csv").exists()]
    with concurrent.futures.ThreadPoolExecutor(workers or multiprocessing.cpu_count()) as pool:
        trained = {pool.submit(in_a_process, train, setting, run, folder / run.name): run for run in missing}
        for number, future in enumerate(concurrent.futures.as_completed(trained), start=1):
            future.result()
            print(f"{number} of {len(missing)}: {trained[future].name}", flush=True)


def in_a_process(function, *arguments):
    """Calls the function in a new process that exits afterwards."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=use_one_core) as alone:
        return alone.submit(function, *arguments).result()


def use_one_core():
    """Limits TensorFlow to one thread, so that parallel runs do not compete for cores."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def setting_of_flags():
    """Returns the `Setting` for the flags."""
    if FLAGS.quick:
        FLAGS.dataset, FLAGS.rate, FLAGS.cycles, FLAGS.epochs, FLAGS.seeds = "digits", 0.6, 2, 3, 1
    if not FLAGS.batch_normalization and FLAGS.model != "vgg":
        raise app.UsageError("--nobatch_normalization needs --model vgg.")
    values = {field.name: getattr(FLAGS, field.name) for field in dataclasses.fields(Setting)}
    values["ap_rate"] = FLAGS.rate / 10 if FLAGS.ap_rate is None else FLAGS.ap_rate
    return Setting(**values)


def main(_):
    setting = setting_of_flags()
    # The seed is the outermost loop, so an interrupted experiment has complete seeds.
    runs = [
        ap_results.Run(base, arm, rewind, seed)
        for seed in range(FLAGS.seeds)
        for rewind, base, arm in itertools.product(FLAGS.rewinds, FLAGS.bases, FLAGS.arms)
    ]
    folder = pathlib.Path(FLAGS.directory) / setting.name
    train_all(setting, runs, folder, FLAGS.workers)
    ap_results.write(folder)


if __name__ == "__main__":
    app.run(main)
