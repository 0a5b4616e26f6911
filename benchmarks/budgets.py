"""Measures whether budgets hold: of time, bytes, FLOPs and weights, and what multiples of 8 bring.

    python benchmarks/budgets.py                   # everything, some hours; resumes
    python benchmarks/budgets.py --models mobilenet_v2 --rows speedup,flops
    python benchmarks/budgets.py --table           # only prints the tables of the rows that there are
    python benchmarks/budgets.py --write docs/results/budgets.md

Models of keras.applications have random weights and images of 96 x 96; those for Fashion-MNIST (an MLP
784-300-100-10 with batches of 64, and a residual CNN) are trained for a few epochs. `tfap.prune_once` gets
the budget; the criterion is magnitude, every layer loses the same fraction of its channels, and nothing is
refitted except in the rows of accuracy. The final latency is measured in a new process, in which the dense
and the smaller file run in turns, each loaded five times; the ratio is the median of the loads.

Rows, one file each in DIRECTORY/rows:

- speedup: `{"speedup": 2.0}` in LiteRT and ONNX Runtime.
- latency: `{"latency_ms": half}`, where half is half of the dense model's latency in a process before.
- bytes: `{"bytes": n}` with n a third of the dense file.
- flops: `{"flops": 0.5}`. weights: `{"weights": 0.4}`.
- multiples: `round_to=8` against none at `{"flops": 0.5}`: latency ratio, and for trained models accuracy.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import importlib.metadata
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import keras
import numpy as np
from absl import app, flags

import tfap
from tfap.budgets.latency_table import cpu_name
from tfap.budgets.parts import weight_count
from tfap.datasets import load
from tfap.exporting.sizes import disk_size

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import networks

FLAGS = flags.FLAGS
APPLICATIONS = {
    "mobilenet": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_small": "MobileNetV3Small",
    "efficientnet_b0": "EfficientNetB0",
    "efficientnet_v2_b0": "EfficientNetV2B0",
    "resnet50": "ResNet50",
    "resnet50_v2": "ResNet50V2",
    "densenet121": "DenseNet121",
    "vgg16": "VGG16",
    "xception": "Xception",
}
TRAINED = ("mlp", "residual_cnn")
ROWS = ("speedup", "latency", "bytes", "flops", "weights", "multiples")
RUNTIMES = ("tflite", "onnx")
NAMES = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}
BATCH = {"mlp": 64}
LOADS, THREADS = 5, 1

flags.DEFINE_string("directory", "build/budgets", "Folder of the rows and models.")
flags.DEFINE_list("models", [*TRAINED, *APPLICATIONS], "Models.")
flags.DEFINE_list("rows", list(ROWS), "Kinds of rows.")
flags.DEFINE_integer("epochs", 4, "Epochs of the trained models.", 1)
flags.DEFINE_float("seconds", 2.0, "Measurement time per load in the new process.", 0.01)
flags.DEFINE_bool("table", False, "Only print the tables.")
flags.DEFINE_string("write", None, "File for the page of the tables.")
flags.DEFINE_string("measure", None, "Internal: measures two files in a new process.")


# -- models ------------------------------------------------------------------------------------------------


class Subject:
    """A dense model, its data, and the folder of its files."""

    def __init__(self, name):
        self.name, self.batch = name, BATCH.get(name, 1)
        self.folder = pathlib.Path(FLAGS.directory) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(0)
        self.test = None
        if name in TRAINED:
            self._load_trained()
        else:
            make = getattr(keras.applications, APPLICATIONS[name])
            self.model = make(input_shape=(96, 96, 3), weights=None, classes=10)
            self.x = np.random.default_rng(0).normal(size=(16, 96, 96, 3)).astype("float32")

    def _load_trained(self):
        data = load("fashion_mnist")
        x, x_test = (part.reshape(-1, 28, 28, 1) for part in (data.x_train, data.x_test))
        self.x, self.test = x[:2048], (x_test, data.y_test)
        path = self.folder / "dense.keras"
        if path.exists():
            self.model = keras.models.load_model(path)
            return
        if self.name == "mlp":
            self.model = networks.mlp(keras, (28, 28, 1), 10)
        else:
            self.model = networks.small_resnet(keras, (28, 28, 1), 10)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=self.name != "mlp")
        self.model.compile(keras.optimizers.Adam(1e-3), loss)
        self.model.fit(x, data.y_train, batch_size=128, epochs=FLAGS.epochs, verbose=2)
        self.model.save(path)

    def accuracy(self, model):
        """Returns the accuracy on the test images in percent, or None without data."""
        if self.test is None:
            return None
        x, y = self.test
        return 100 * float((model.predict(x, 500, verbose=0).argmax(axis=1) == y).mean())

    def file(self, model, name, runtime):
        path = self.folder / f"{name}.{runtime}"
        if name != "dense" or not path.exists():
            tfap.export(model, path, runtime, verify=False)
        return path

    def measured(self, small, name, runtime):
        """Measures the dense file and a smaller one in a new process: `{dense, small, ratio}`."""
        files = [
            str(self.file(model, each, runtime)) for model, each in ((self.model, "dense"), (small, name))
        ]
        task = json.dumps({"files": files, "batch": self.batch, "seconds": FLAGS.seconds})
        done = subprocess.run(
            [sys.executable, __file__, f"--measure={task}"], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])

    def pruned(self, budget, **options):
        """Returns the smaller model, its report, and the seconds."""
        start = time.monotonic()
        small, report = tfap.prune_once(
            self.model,
            self.x,
            budget,
            **{"criterion": "magnitude", "compensate": False, "recalibrate": False, **options},
            return_report=True,
        )
        return small, report, time.monotonic() - start


def measure(task):
    """Measures two files: prints medians in ms, and the median of the ratios over several loads."""
    task = json.loads(task)
    ratios, times = [], {"dense": [], "small": []}
    for _ in range(LOADS):
        calls = {}
        for name, path in zip(("dense", "small"), task["files"]):
            runtime = tfap.load_runtime(path, THREADS)
            shape = (task["batch"], *runtime.inputs[0].shape[1:])
            x = np.random.default_rng(0).normal(size=shape).astype(runtime.inputs[0].dtype)
            calls[name] = lambda runtime=runtime, x=x: runtime(x)
        found = tfap.measure_latency(calls, "dense", seconds=task["seconds"], most_rounds=20_000)
        ratios.append(found["small"].ratio.median)
        for name, entry in found.items():
            times[name].append(1e3 * entry.median)
    result = {name: statistics.median(values) for name, values in times.items()}
    print(json.dumps({**result, "ratio": statistics.median(ratios)}))


# -- rows --------------------------------------------------------------------------------------------------


def speedup_row(subject, runtime):
    budget = {"speedup": 2.0, "runtime": runtime, "batch_size": subject.batch, "threads": THREADS}
    small, report, seconds = subject.pruned(budget)
    fresh = subject.measured(small, f"speedup_{runtime}", runtime)
    return {
        "asked": 2.0,
        "in_search": report.budget.own / report.budget.reached,
        "fresh": 1 / fresh["ratio"],
        "dense_ms": fresh["dense"],
        "rounds": report.budget.rounds,
        "weights": weight_count(small) / weight_count(subject.model),
        "seconds": seconds,
    }


def latency_row(subject, runtime):
    before = subject.measured(subject.model, "same", runtime)
    half = before["dense"] / 2
    budget = {"latency_ms": half, "runtime": runtime, "batch_size": subject.batch, "threads": THREADS}
    small, report, seconds = subject.pruned(budget)
    fresh = subject.measured(small, f"latency_{runtime}", runtime)
    return {
        "asked": half,
        "in_search": report.budget.reached,
        "fresh": fresh["small"],
        "dense_ms": fresh["dense"],
        "dense_ms_before": before["dense"],
        "rounds": report.budget.rounds,
        "weights": weight_count(small) / weight_count(subject.model),
        "seconds": seconds,
    }


def bytes_row(subject, runtime):
    own = disk_size(subject.file(subject.model, "dense", runtime)).raw
    small, report, seconds = subject.pruned({"bytes": own // 3, "runtime": runtime})
    measured = disk_size(subject.file(small, f"bytes_{runtime}", runtime)).raw
    return {"asked": own // 3, "fresh": measured, "rounds": report.budget.rounds, "seconds": seconds}


def counted_row(unit, share):
    def row(subject, runtime):
        small, _, seconds = subject.pruned({unit: share})
        count = tfap.flops if unit == "flops" else weight_count
        return {"asked": share * count(subject.model), "fresh": count(small), "seconds": seconds}

    return row


def multiples_row(subject, runtime):
    row = {}
    for name, round_to in (("any", 1), ("multiples", 8)):
        refit = subject.test is not None
        small, report, _ = subject.pruned(
            {"flops": 0.5}, round_to=round_to, compensate=refit, recalibrate=refit
        )
        row[name] = {
            **subject.measured(small, f"{name}_{runtime}", runtime),
            "flops": tfap.flops(small) / tfap.flops(subject.model),
            "weights": weight_count(small),
            "accuracy": subject.accuracy(small),
            "channels": report.rounded and report.rounded.channels,
        }
    return row


MAKERS = {
    "speedup": (speedup_row, RUNTIMES),
    "latency": (latency_row, RUNTIMES),
    "bytes": (bytes_row, RUNTIMES),
    "flops": (counted_row("flops", 0.5), (None,)),
    "weights": (counted_row("weights", 0.4), (None,)),
    "multiples": (multiples_row, RUNTIMES),
}


def rows_folder():
    return pathlib.Path(FLAGS.directory) / "rows"


def run():
    rows_folder().mkdir(parents=True, exist_ok=True)
    for model in FLAGS.models:
        subject = None
        for kind in FLAGS.rows:
            make, runtimes = MAKERS[kind]
            for runtime in runtimes:
                path = rows_folder() / f"{model}-{kind}{'-' + runtime if runtime else ''}.json"
                if path.exists():
                    continue
                subject = subject or Subject(model)
                try:
                    row = make(subject, runtime)
                except ValueError as error:
                    row = {"error": str(error)}
                row = {"model": model, "kind": kind, "runtime": runtime, **row}
                print(row, flush=True)
                path.write_text(json.dumps(row, indent=1))


# -- tables ------------------------------------------------------------------------------------------------


def found_rows(kind):
    order = [*TRAINED, *APPLICATIONS]
    rows = [json.loads(path.read_text()) for path in rows_folder().glob(f"*-{kind}*.json")]
    return sorted(rows, key=lambda row: (order.index(row["model"]), row["runtime"] or ""))


def label(row):
    return APPLICATIONS.get(
        row["model"], {"mlp": "MLP, batch 64", "residual_cnn": "Residual CNN"}.get(row["model"])
    )


def table(headings, lines):
    lines = list(lines)
    if not lines:
        return "No rows yet.\n"
    right = ["---"] + ["---:"] * (len(headings) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, right, *lines)) + "\n"


def time_table(kind, unit):
    def lines():
        for row in found_rows(kind):
            if "error" in row:
                yield label(row), NAMES[row["runtime"]], row["error"].split(":")[1].split(";")[0], *[""] * 5
                continue
            off = row["fresh"] / row["asked"] - 1
            yield (
                label(row),
                NAMES[row["runtime"]],
                f"{row['asked']:.3g}{unit}",
                f"{row['in_search']:.3g}{unit}",
                f"{row['fresh']:.3g}{unit}",
                f"{100 * off:+.1f}%",
                f"{row['rounds']}",
                f"{row['seconds']:.0f}",
            )

    return table(
        ("Model", "Runtime", "Asked", "In the search", "New process", "Off", "Rounds", "Seconds"), lines()
    )


def counted_table():
    def lines():
        for kind in ("bytes", "flops", "weights"):
            for row in found_rows(kind):
                used = row["fresh"] / row["asked"]
                yield (
                    label(row),
                    kind + (f" in {NAMES[row['runtime']]}" if row["runtime"] else ""),
                    f"{row['asked']:,.0f}",
                    f"{row['fresh']:,.0f}",
                    f"{100 * used:.2f}%",
                )

    return table(("Model", "Budget", "At most", "Reached", "Used"), lines())


def multiples_table():
    def lines():
        for row in found_rows("multiples"):
            free, rounded = row["any"], row["multiples"]
            accuracy = "" if free["accuracy"] is None else f"{rounded['accuracy'] - free['accuracy']:+.2f}"
            yield (
                label(row),
                NAMES[row["runtime"]],
                f"{100 * free['flops']:.1f}% / {100 * rounded['flops']:.1f}%",
                f"{1 / free['ratio']:.2f}x",
                f"{1 / rounded['ratio']:.2f}x",
                f"{rounded['ratio'] / free['ratio']:.2f}",
                accuracy,
            )

    return table(
        (
            "Model",
            "Runtime",
            "FLOPs, any / multiples",
            "Any",
            "Multiples of 8",
            "Latency ratio",
            "Accuracy, points",
        ),
        lines(),
    )


PAGE = """# Budgets: requests and measurements

Whether [budgets](../budgets.md) hold. `python benchmarks/budgets.py --write docs/results/budgets.md`
measures everything and writes this page. Machine: MACHINE, of which the script had one and other work
had the other.

The models of keras.applications have random weights and inputs of 96 x 96. The MLP (784-300-100-10) and
the residual CNN are trained on Fashion-MNIST. Batches have one sample except for the MLP. Latencies are
measured with one thread in a new process, in which the dense and the smaller file run in turns.

## Twice as fast

`tfap.prune_once(model, x, {"speedup": 2.0, "runtime": runtime})`. "In the search" is what
`report.budget` says.

SPEEDUP
## Half of the latency

`{"latency_ms": half}`, where half is half of the latency of the dense model in a process before.

LATENCY
## Bytes, FLOPs and weights

A third of the bytes of the file, half of the FLOPs, and 40% of the weights.

COUNTED
## Multiples of 8

`round_to=8` against any number of channels, both with `{"flops": 0.5}`. A latency ratio below 1 means
that multiples are faster. The trained models are refitted; their accuracies are on the 10,000 test
images.

MULTIPLES"""


def page():
    packages = {"LiteRT": "ai-edge-litert", "ONNX Runtime": "onnxruntime", "Keras": "keras"}
    versions = [f"{name} {importlib.metadata.version(package)}" for name, package in packages.items()]
    parts = {
        "MACHINE": f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}, {', '.join(versions)}",
        "SPEEDUP": time_table("speedup", "x"),
        "LATENCY": time_table("latency", " ms"),
        "COUNTED": counted_table(),
        "MULTIPLES": multiples_table(),
    }
    text = PAGE
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


def main(_):
    if FLAGS.measure:
        measure(FLAGS.measure)
        return
    if not FLAGS.table:
        run()
    if FLAGS.write:
        pathlib.Path(FLAGS.write).write_text(page())
    else:
        print(page())


if __name__ == "__main__":
    app.run(main)
