"""Compares tfap with the libraries that users would otherwise take, on Fashion-MNIST, paired by seed.

    python benchmarks/peers.py --net resnet20 --seeds 5 --torch_python .venv-torch/bin/python
    python benchmarks/peers.py --net mlp --seeds 5
    python benchmarks/peers.py --table                          # the tables of the rows that there are
    python benchmarks/peers.py --write docs/results/peers.md    # the same as a page
    python benchmarks/peers.py --net resnet --epochs 5          # fewer epochs, before and after pruning
    python benchmarks/peers.py --quick                          # 2,000 images and one epoch: does it run?

Every arm starts from the same dense model of a seed, has the same budget, data and batches, and trains for as
many epochs as the dense model did, with a cosine decay from half of the rate. `dense_twice` trains the dense
model as long without pruning it. `scratch` is the small model of `l1` with random weights, trained for the
epochs of both trainings. The arms whole_ and twice_ have no dense model: they prune from random weights, with
its rate, and its epochs or those of both trainings. The arms _taught also learn the outputs of the dense
model; whole_growing_taught and scratch_taught have random weights and the epochs of one training, as their
teacher had those of the other. `growing_once` trains the dense model with a regularizer for half of the
epochs, and `demon_once` a model from random weights in place of the dense training; both then prune once,
refit and train. tfmot and PQuantML make masks only, so their models keep the size of the dense one; their
sparsity is the fraction of the weights that the budget takes. No arm keeps multiples of 8 channels, so a
smaller model can be slower in ONNX Runtime. Points below the dense model are paired by seed; some rows have
fewer seeds.

Torch-Pruning runs in an environment of its own (--torch_python, or one that the script makes), on the same
weights: the script checks that the dense outputs, before a softmax, are equal to 1e-4 of the largest.
Accuracy is that of the exported ONNX file in ONNX Runtime for every arm. Latencies are medians of ratios to
the dense file of the same runtime, of one thread and batch 1. Times of pruning and training are processor
time with one thread; pruning that is part of the training, as in `tfap.fit_and_compact`, is in the latter.

The script stores one JSON file per row in FOLDER/rows, so an interrupted run resumes. Rows of a network with
other epochs or images need another folder.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import dataclasses
import importlib
import json
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np
import peers_libraries as libraries
import tensorflow as tf
from absl import app, flags
from recipes import BATCH, Mlp, Random, Resnet, Resnet20, without_tuning

import tfap
from tfap.datasets import load
from tfap.keras_compat import load_model
from tfap.keras_compat.lazy import tfmot
from tfap.utils.statistics import interval

FLAGS = flags.FLAGS
flags.DEFINE_list("net", ["resnet20", "mlp"], "Networks: resnet20, mlp, resnet.")
flags.DEFINE_integer("seeds", 3, "Number of seeds.", 1)
flags.DEFINE_integer("first_seed", 0, "The first seed.", 0)
flags.DEFINE_integer("epochs", None, "Epochs of each training. The default depends on the network.", 1)
flags.DEFINE_integer("images", 60000, "Train on the first so many images.", 1, 60000)
flags.DEFINE_list("arms", None, "Only these arms.")
flags.DEFINE_list("times", None, "How many times smaller. The default depends on the network.")
flags.DEFINE_bool("quick", False, "2,000 images and one epoch, in a folder of its own.")
flags.DEFINE_bool("table", False, "Only prints the tables of the rows that there are.")
flags.DEFINE_string("write", None, "Writes the tables as a page to this file.")
flags.DEFINE_string("folder", "build/peers", "Folder for rows, models, and the other libraries.")
flags.DEFINE_string("torch_python", None, "Interpreter with PyTorch and onnx. None makes an environment.")
flags.DEFINE_list("pip_options", [], "Further arguments of pip install for PyTorch.")
flags.DEFINE_float("seconds", 3.0, "Measurement time per latency.", 0.0)

# The unit of the budget, and how many times less of it than the dense model has.
NETS = {
    "resnet20": (Resnet20, "flops", (2.1, 4.0)),
    "resnet": (Resnet, "flops", (2.1, 4.0)),
    "mlp": (Mlp, "weights", (13.0,)),
}
SAMPLES = 2048  # for criteria that read data
FEW = 64  # images on which both dense models are compared


@dataclasses.dataclass
class Made:
    """What an arm has made: a Keras model, or an ONNX file with its figures."""

    model: object = None
    onnx: pathlib.Path | None = None
    figures: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Job:
    """One row: a network, a budget, an arm, and a seed."""

    net: str
    times: float
    arm: str
    seed: int
    recipe: object
    unit: str

    @property
    def name(self):
        return f"{self.net}-{self.times:g}-{self.arm}-{self.seed}"

    @property
    def budget(self):
        return {self.unit: 1 / self.times}

    @property
    def data(self):
        """Returns images in the shape of the model, and one-hot labels."""
        data = self.recipe.data
        return self.recipe.inputs(data.x_train), np.eye(10, dtype="float32")[data.y_train]

    def model_of(self, arm, times=None):
        """Returns the model of another arm of this seed, which the rows before have made."""
        other = dataclasses.replace(self, arm=arm, times=1.0 if arm == "dense" else self.times)
        path = _folder() / "models" / f"{other.name}.keras"
        if not path.exists():
            raise libraries.Unavailable(f"it starts from the model of {arm}, so run that arm too")
        return load_model(path)


# -- the arms -----------------------------------------------------------------------------------------


def dense(job):
    return Made(job.recipe.fitted(job.recipe.build(), *job.data))


def dense_twice(job):
    model = job.recipe.copied(job.model_of("dense"))
    return Made(job.recipe.fitted(model, *job.data, rate=job.recipe.rate / 2))


def in_fit(criterion, regularizer=None, whole=0, taught=False, **options):
    """Prunes while training, in stages that compact the model, with a regularizer if one is given.

    If whole is not 0, there is no dense training: a fit from random weights, of so many times its epochs.
    If taught, the smaller models also learn the outputs of the dense model.

    The unit of the schedule is neurons: with weights, those of pruned inputs count too after the first
    update, and the model ends larger than the budget that the schedule was made for.
    """

    def make(job):
        recipe = job.recipe
        model, epochs = recipe.build() if whole else recipe.copied(job.model_of("dense")), recipe.epochs
        rate, epochs = (recipe.rate, whole * epochs) if whole else (recipe.rate / 2, epochs)
        recipe.compiled(model, rate, epochs * recipe.steps)
        fit = {"batch_size": BATCH, "epochs": epochs, "stages": min(4, epochs), "verbose": 0}
        callbacks = [] if regularizer is None else [regularizer(recipe, epochs * recipe.steps)]
        given = {"criterion": criterion, "target": "neurons", "callbacks": callbacks, **options, **fit}
        if taught:
            given["teacher"] = job.model_of("dense")
        return Made(tfap.fit_and_compact(model, job.budget, *job.data, **given).model)

    return make


def _growing(recipe, steps):
    return tfap.GrowingRegularization(0.1, rank_by="criterion", end_step=steps // 3)


def _demon(recipe, steps):
    return tfap.DemonPruning(recipe.demon_strength)


def once(criterion, regularizer=None, whole=False, **options):
    """Prunes and refits with `tfap.prune_once`, then trains.

    With a regularizer, it first trains with it: the dense model for half of the epochs, as Torch-Pruning's
    GroupNorm does, or if `whole`, a model from random weights for all epochs, in place of the dense training.
    """

    def make(job):
        (x, y), recipe = job.data, job.recipe
        epochs = 0 if regularizer is None else recipe.epochs if whole else recipe.epochs // 2
        model = recipe.build() if whole else job.model_of("dense")
        rate = recipe.rate if whole else recipe.rate / 2
        recipe.compiled(model, rate, max(epochs, 1) * recipe.steps)
        start = time.process_time()
        if epochs:
            callbacks = [regularizer(recipe, epochs * recipe.steps)]
            model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=callbacks)
        trained = time.process_time()
        small = tfap.prune_once(model, (x[:SAMPLES], y[:SAMPLES]), job.budget, criterion, **options)
        pruned = time.process_time()
        times = 1 if whole else 1 - epochs / recipe.epochs
        small = recipe.fitted(small, x, y, times=times, rate=recipe.rate / 2)
        training = trained - start + time.process_time() - pruned
        return Made(small, figures={"prune_seconds": pruned - trained, "fit_seconds": training})

    return make


def _growing_most(recipe, steps):
    return tfap.GrowingRegularization(0.1, sparsity=0.8)


def scratch(job):
    small = job.recipe.from_scratch(job.model_of("l1"))
    return Made(job.recipe.fitted(small, *job.data, times=2))


def scratch_taught(job):
    """Trains for the epochs of one training, as the teacher has been trained for the others."""
    recipe, small = job.recipe, job.recipe.from_scratch(job.model_of("l1"))
    recipe.compiled(small, recipe.rate, recipe.epochs * recipe.steps)
    fit = {"batch_size": BATCH, "epochs": recipe.epochs, "stages": 1, "verbose": 0}
    return Made(tfap.fit_and_compact(small, 0.0, *job.data, teacher=job.model_of("dense"), **fit).model)


def tfmot_magnitude(job):
    keras, recipe = importlib.import_module("tf_keras"), job.recipe
    model = recipe.build(keras=keras)
    model.set_weights(job.model_of("dense").get_weights())
    steps = recipe.epochs * recipe.steps
    prune = tfmot.sparsity.keras
    begin, end = int(0.1 * steps), max(int(0.7 * steps), 1)
    schedule = prune.PolynomialDecay(0.0, 1 - 1 / job.times, begin, end, frequency=max(steps // 30, 1))
    model = prune.prune_low_magnitude(model, schedule)
    recipe.compiled(model, recipe.rate / 2, steps, keras)
    callbacks, (x, y) = [prune.UpdatePruningStep()], job.data
    model.fit(x, y, epochs=recipe.epochs, callbacks=callbacks, batch_size=BATCH, verbose=0)
    return Made(prune.strip_pruning(model))


def in_torch(job):
    """Torch-Pruning: the arm of the same name in peers_torch.py."""
    folder, environment = _folder(), _torch_environment()
    given = _written(job, _channels_first)
    given["onnx"] = str(folder / "models" / f"{job.name}.onnx")
    figures = libraries.run_job("peers_torch.py", given, environment, folder)
    return Made(onnx=pathlib.Path(given["onnx"]), figures={**figures, "channels_first": True})


def in_pquant(job):
    """PQuantML: masks without quantization, in peers_pquant.py."""
    folder, environment = _folder(), libraries.environment_of_pquant(pathlib.Path(FLAGS.folder))
    given = _written(job, lambda x: x)
    given["model"] = str(folder / "models" / f"{dataclasses.replace(job, arm='dense', times=1.0).name}.keras")
    given["saved"] = str(folder / "models" / f"{job.name}-weights.npz")
    figures = libraries.run_job("peers_pquant.py", given, environment, folder)
    model, arrays = job.model_of("dense"), np.load(given["saved"])
    model.set_weights([arrays[f"arr_{at}"] for at in range(len(arrays.files))])
    return Made(model, figures=figures)


@dataclasses.dataclass(frozen=True)
class Arm:
    """How a row is made, and the library that does it."""

    library: str
    make: Callable[[Job], Made]


# One line per arm. Those that start from another arm come after it.
ARMS = {
    "dense": Arm("Keras", dense),
    "dense_twice": Arm("Keras", dense_twice),
    "count": Arm("tfap", in_fit("activation_count")),
    "l1": Arm("tfap", in_fit("magnitude")),
    "random": Arm("tfap", in_fit(Random())),
    "group_lasso": Arm("tfap", in_fit("magnitude", lambda recipe, steps: tfap.GroupLasso(3e-5))),
    "growing": Arm("tfap", in_fit("magnitude", _growing)),
    "growing_count": Arm("tfap", in_fit("activation_count", _growing)),
    "demon": Arm("tfap", in_fit("activation_count", _demon, drop_silent=True)),
    "reconstruction": Arm("tfap", once("reconstruction")),
    "reconstruction_allocated": Arm("tfap", once("reconstruction", scope="allocated")),
    "reconstruction_isomorphic": Arm("tfap", once("reconstruction", scope="isomorphic")),
    "demon_once": Arm("tfap", once("reconstruction", _demon, whole=True, scope="isomorphic")),
    "growing_once": Arm("tfap", once("reconstruction", _growing_most, scope="isomorphic")),
    "group_taylor": Arm("tfap", once("group_taylor")),
    "group_taylor_isomorphic": Arm("tfap", once("group_taylor", scope="isomorphic")),
    "hessian_diagonal": Arm("tfap", once("hessian_diagonal")),
    "fpgm": Arm("tfap", once("fpgm")),
    "whole_l1": Arm("tfap", in_fit("magnitude", whole=1)),
    "whole_growing": Arm("tfap", in_fit("magnitude", _growing, whole=1)),
    "whole_demon": Arm("tfap", in_fit("activation_count", _demon, whole=1, drop_silent=True)),
    "twice_l1": Arm("tfap", in_fit("magnitude", whole=2)),
    "twice_growing": Arm("tfap", in_fit("magnitude", _growing, whole=2)),
    "twice_growing_count": Arm("tfap", in_fit("activation_count", _growing, whole=2)),
    "l1_taught": Arm("tfap", in_fit("magnitude", taught=True)),
    "growing_taught": Arm("tfap", in_fit("magnitude", _growing, taught=True)),
    "whole_growing_taught": Arm("tfap", in_fit("magnitude", _growing, whole=1, taught=True)),
    "scratch": Arm("Keras", scratch),
    "scratch_taught": Arm("Keras", scratch_taught),
    "tfmot": Arm("tfmot", tfmot_magnitude),
    "pquant": Arm("PQuantML", in_pquant),
    "tp_magnitude": Arm("Torch-Pruning", in_torch),
    "tp_group_norm": Arm("Torch-Pruning", in_torch),
    "tp_taylor": Arm("Torch-Pruning", in_torch),
    "tp_taylor_isomorphic": Arm("Torch-Pruning", in_torch),
}


def _torch_environment():
    python = None if FLAGS.torch_python is None else pathlib.Path(FLAGS.torch_python).absolute()
    return libraries.environment_of_torch(pathlib.Path(FLAGS.folder).absolute(), python, FLAGS.pip_options)


def _channels_first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x


def _written(job, arranged):
    """Writes weights and data for another process. Returns the job as a dict."""
    model, recipe, folder = job.model_of("dense"), job.recipe, _folder()
    (x, _), path = job.data, folder / "arrays.npz"
    few = {"x_few": arranged(x[:FEW]), "y_few": np.asarray(model(x[:FEW], training=False))}
    last = model.layers[-1]  # before a softmax, which can hide differences
    features = recipe.keras.Model(model.inputs, last.input)(x[:FEW], training=False)
    few["logits_few"] = np.asarray(features) @ np.asarray(last.kernel) + np.asarray(last.bias)
    data = {"x_train": arranged(x), "y_train": recipe.data.y_train}
    np.savez(path, **libraries.weights_of(model), **few, **data)
    return {
        "arm": job.arm,
        "seed": job.seed,
        "arrays": str(path),
        "layers": libraries.layers_of(model),
        "softmax": not recipe.from_logits,
        "dense": {"flops": tfap.flops(model), "weights": model.count_params()},
        **{"unit": job.unit, "times": job.times},
        **{"epochs": recipe.epochs, "rate": recipe.rate / 2, "batch": BATCH},
    }


# -- the rows -----------------------------------------------------------------------------------------


def _folder():
    return pathlib.Path(FLAGS.folder, "quick") if FLAGS.quick else pathlib.Path(FLAGS.folder)


def row_of(job):
    """Makes a row: trains, exports, and measures."""
    job.recipe.keras.utils.set_random_seed(job.seed)
    start = time.process_time()
    made = ARMS[job.arm].make(job)
    seconds = time.process_time() - start
    figures = {"prune_seconds": None, **made.figures}
    figures.setdefault("fit_seconds", seconds - (figures["prune_seconds"] or 0.0))
    if made.model is not None:
        made.model.save(_folder() / "models" / f"{job.name}.keras")
        made.onnx = _exported(job, made.model, "onnx")
        figures.update(weights=made.model.count_params(), flops=tfap.flops(made.model))
        figures["zeros"] = _zeros(made.model)
        figures["litert"] = _speed(job, _exported(job, made.model, "tflite"), "tflite")
    figures["onnx"] = _speed(job, made.onnx, "onnx", figures.get("channels_first", False))
    figures["accuracy"] = _accuracy(job, made.onnx, figures.get("channels_first", False))
    settings = {name: getattr(job, name) for name in ("net", "times", "arm", "seed")}
    return {**settings, "epochs": job.recipe.epochs, "images": len(job.recipe.data.x_train), **figures}


def _exported(job, model, format):
    return pathlib.Path(tfap.export(model, _folder() / "models" / f"{job.name}.{format}", format))


def _zeros(model):
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    return 1 - sum(map(np.count_nonzero, kernels)) / sum(kernel.size for kernel in kernels)


def _accuracy(job, path, channels_first):
    data, run = job.recipe.data, tfap.load_runtime(path, threads=1)
    x = job.recipe.inputs(data.x_test)
    x = _channels_first(x) if channels_first else x
    outputs = [run(x[start : start + 500])[0] for start in range(0, len(x), 500)]
    return 100 * float(np.mean(np.concatenate(outputs).argmax(axis=1) == data.y_test))


def _speed(job, path, format, channels_first=False):
    """Returns the milliseconds of a file, and how many times as fast as the dense model it is."""
    x = job.recipe.inputs(job.recipe.data.x_test)[:1]
    reference = _folder() / "models" / f"{dataclasses.replace(job, arm='dense', times=1.0).name}.{format}"
    whole, own = (tfap.load_runtime(file, threads=1) for file in (reference, path))
    its = _channels_first(x) if channels_first else x
    calls = {"dense": lambda: whole(x), "own": lambda: own(its)}
    found = tfap.measure_latency(calls, "dense", seconds=FLAGS.seconds)
    return {"milliseconds": 1e3 * found["own"].median, "times": 1 / found["own"].ratio.median}


def jobs(net, data):
    """Yields the missing jobs of a network, those of a seed together, so that all arms have some seeds."""
    keras = importlib.import_module("keras")
    make, unit, times = NETS[net]
    recipe = make(keras, data)
    if FLAGS.quick:
        recipe.epochs = 1
    recipe.epochs = FLAGS.epochs or recipe.epochs
    _check_rows(net, recipe.epochs, len(data.x_train))
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + (1 if FLAGS.quick else FLAGS.seeds)):
        for factor in [1.0, *(map(float, FLAGS.times) if FLAGS.times else times)]:
            for arm in ARMS:
                wanted = FLAGS.arms is None or arm in FLAGS.arms or arm == "dense"
                job = Job(net, factor, arm, seed, recipe, unit)
                if (arm == "dense") == (factor == 1.0) and wanted and not _row_file(job).exists():
                    yield job


def _check_rows(net, epochs, images):
    for row in _rows(net):
        if (row["epochs"], row["images"]) != (epochs, images):
            raise app.UsageError(
                f"{FLAGS.folder} has rows of {net} with {row['epochs']} epochs and {row['images']} images, "
                f"not {epochs} and {images}: give another --folder."
            )


def _row_file(job):
    return _folder() / "rows" / f"{job.name}.json"


def measure():
    data, images = load("fashion_mnist"), 2000 if FLAGS.quick else FLAGS.images
    few = {"x_train": images, "y_train": images}
    few |= {"x_test": 1000, "y_test": 1000} if FLAGS.quick else {}
    data = dataclasses.replace(data, **{name: getattr(data, name)[:size] for name, size in few.items()})
    for name in ("rows", "models"):
        (_folder() / name).mkdir(parents=True, exist_ok=True)
    for net in FLAGS.net:
        for job in jobs(net, data):
            try:
                row = row_of(job)
            except libraries.Unavailable as error:
                print(f"{job.name}: left out: {error}", file=sys.stderr, flush=True)
                continue
            file = _row_file(job)
            file.with_suffix(".part").write_text(json.dumps(row, indent=1))
            file.with_suffix(".part").replace(file)
            print(json.dumps(row), flush=True)


# -- the tables ---------------------------------------------------------------------------------------

HEADINGS = (
    *("arm", "library", "seeds", "accuracy, %", "points below dense", "times fewer weights"),
    *("times fewer FLOPs", "zeros", "ONNX Runtime, times as fast", "LiteRT, times as fast"),
    *("pruning, s", "training, s"),
)


def tables():
    """Returns the tables as Markdown."""
    parts = []
    for net in NETS:
        rows = _rows(net)
        whole = {row["seed"]: row for row in rows if row["arm"] == "dense"}
        for times in sorted({row["times"] for row in rows} - {1.0}):
            its = [row for row in rows if row["times"] in (1.0, times)]
            parts += [*_heading(its, net, times), _line(HEADINGS)]
            parts.append(_line(["---", "---", *["---:"] * (len(HEADINGS) - 2)]))
            for arm in ARMS:
                of_arm = [row for row in its if row["arm"] == arm]
                if of_arm:
                    parts.append(_line(_cells(arm, of_arm, whole)))
    return "\n".join(parts)


def _rows(net):
    """Returns the stored rows of a network."""
    rows = [json.loads(path.read_text()) for path in sorted((_folder() / "rows").glob("*.json"))]
    return [row for row in rows if row["net"] == net]


def _heading(rows, net, times):
    """Yields the heading of a table, what its rows share, and the command that makes them."""
    epochs, images, seeds = rows[0]["epochs"], rows[0]["images"], 1 + max(row["seed"] for row in rows)
    arms = ",".join(arm for arm in ARMS if arm in {row["arm"] for row in rows})
    training = f"--epochs {epochs} --images {images} --seeds {seeds}"
    yield f"\n## {net}, {times:g} times fewer {NETS[net][1]}\n"
    yield f"The dense model is trained for {epochs} epochs on {images:,} images.\n"
    yield f"```\npython benchmarks/peers.py --net {net} --times {times:g} {training} --arms {arms}\n```\n"


def _line(cells):
    return f"| {' | '.join(cells)} |"


def _cells(arm, rows, whole):
    pairs = [(row, whole[row["seed"]]) for row in rows]
    fewer = {name: [dense[name] / row[name] for row, dense in pairs] for name in ("weights", "flops")}
    speeds = [[row[name]["times"] for row in rows if name in row] for name in ("onnx", "litert")]
    zeros = [row["zeros"] for row in rows if "zeros" in row]
    times = [
        [row[name] for row in rows if row[name] is not None] for name in ("prune_seconds", "fit_seconds")
    ]
    return [
        *(arm, ARMS[arm].library, str(len(rows))),
        _cell([row["accuracy"] for row in rows], 2),
        "" if arm == "dense" else _cell([dense["accuracy"] - row["accuracy"] for row, dense in pairs], 2),
        *(_cell(values, 2) for values in fewer.values()),
        _cell([100 * value for value in zeros], 0) + ("%" if zeros else ""),
        *(_cell(values, 2) for values in speeds),
        _cell(times[0], 1) if times[0] else ("" if arm in ("dense", "scratch") else "in training"),
        _cell(times[1], 0),
    ]


def _cell(values, digits):
    """Formats a mean and half the width of its 95% interval over seeds."""
    if not values:
        return "-"
    found = interval(values)
    half = f" ± {found.high - found.mean:.{digits}f}" if len(values) > 1 else ""
    return f"{found.mean:.{digits}f}{half}"


def main(_):
    for name in (*FLAGS.net, *(FLAGS.arms or ())):
        if name not in (*NETS, *ARMS):
            raise app.UsageError(f"Unknown: {name}. Nets: {', '.join(NETS)}; arms: {', '.join(ARMS)}.")
    without_tuning()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if not FLAGS.table:
        measure()
    made = tables()
    print(made)
    if FLAGS.write:
        heading = "# Compare tfap with other libraries\n\n"
        text = f"{heading}{__doc__.split(chr(10) * 2)[2]}\n{made}\n"
        pathlib.Path(FLAGS.write).write_text(text)


if __name__ == "__main__":
    app.run(main)
