"""Compares training that empties neurons with plain training, and counts with L1 in finding these neurons.

    python benchmarks/silence.py --seeds 3 --write docs/results/silence.md
    python benchmarks/silence.py --net mlp --seeds 1
    python benchmarks/silence.py --table        # only prints the tables of the rows that there are

Each row trains a model from random weights, plainly or with a regularizer, for the same epochs. Then it
counts on all training images which ReLU neurons never fire, and removes them with
`tfap.compact(model, counts, drop_silent=True)`. As a control it removes, in each of these layers, as many
neurons with the lowest L1 norm of the incoming weights. Nothing is trained after the removal. Where there is
BatchNormalization, a second control has the norms of the weights as it scales them.

The script stores one JSON file per row in FOLDER, so an interrupted run resumes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import json
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from recipes import BATCH, Mlp, Resnet, without_tuning

import tfap
from tfap.datasets import load
from tfap.utils.statistics import interval

FLAGS = flags.FLAGS
flags.DEFINE_list("net", ["mlp", "resnet"], "Networks: mlp, resnet.")
flags.DEFINE_list("arms", None, "Only these arms.")
flags.DEFINE_integer("seeds", 3, "Number of seeds: 0 to n - 1.", 1)
flags.DEFINE_integer("epochs", 5, "Epochs of each training.", 1)
flags.DEFINE_string("folder", "build/silence", "Folder of the rows.")
flags.DEFINE_bool("table", False, "Only prints the tables.")
flags.DEFINE_string("write", None, "Writes the tables as a page to this file.")

NETS = {"mlp": Mlp, "resnet": Resnet}
NAMES = {"mlp": "MLP 784-300-200-100-50-10", "resnet": "Residual CNN"}
ARMS = {
    "plain": lambda: None,
    "group lasso, 1e-4": lambda: tfap.GroupLasso(1e-4),
    "growing, 0.3, half": lambda: tfap.GrowingRegularization(0.3, sparsity=0.5),
    "Demon pruning, 1e-4": lambda: tfap.DemonPruning(1e-4),
    "Demon pruning, 3e-4": lambda: tfap.DemonPruning(3e-4),
    "Demon pruning, 3e-3": lambda: tfap.DemonPruning(3e-3),
    "Demon pruning, 1e-4, no noise": lambda: tfap.DemonPruning(1e-4, noise=0.0),
    "Demon pruning, 3e-4, no noise": lambda: tfap.DemonPruning(3e-4, noise=0.0),
    "Demon pruning, 1e-2": lambda: tfap.DemonPruning(1e-2),
}


def silent_neurons(model, counts):
    """Returns `{path of a layer with weights: indices of its neurons that never fired}`."""
    silent = {path: np.flatnonzero(np.asarray(its.counts) == 0) for path, its in counts.items()}
    return {path: indices for path, indices in silent.items() if len(indices)}


def lowest(model, silent, scales=None):
    """Returns as many neurons of each layer, with the lowest L1 norm of the incoming weights."""
    found = {}
    for path, indices in silent.items():
        kernel = np.abs(model.get_layer(path).get_weights()[0])
        norms = kernel.sum(axis=tuple(range(kernel.ndim - 1)))
        norms = norms if scales is None else norms * scales.get(path, 1.0)
        found[path] = np.sort(np.argsort(norms, kind="stable")[: len(indices)])
    return found


def scales_of(model):
    """Returns `{path of a layer: by what the BatchNormalization that reads it multiplies its channels}`."""
    read = {
        layer.input: layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    }
    norms = {layer.name: read[layer.output] for layer in model.layers if layer.output in read}
    scales = {}
    for path, norm in norms.items():
        scale, _, _, variance = norm.get_weights()
        scales[path] = np.abs(scale) / np.sqrt(variance + norm.epsilon)
    return scales


def control(recipe, data, model, silent, low):
    """Returns how many of the silent neurons are among others, and the accuracy without those."""
    by_l1 = tfap.remove(model, {path: its.tolist() for path, its in low.items()}) if low else model
    found = sum(len(np.intersect1d(silent[path], low[path])) for path in silent)
    return found, accuracy(recipe, data, by_l1)


def row_of(net, arm, seed, recipe, data):
    keras.utils.set_random_seed(seed)
    x, y = recipe.inputs(data.x_train), np.eye(10, dtype="float32")[data.y_train]
    model, regularizer = recipe.build(), ARMS[arm]()
    recipe.compiled(model, recipe.rate, recipe.epochs * recipe.steps)
    start = time.process_time()
    callbacks = [] if regularizer is None else [regularizer]
    model.fit(x, y, batch_size=BATCH, epochs=recipe.epochs, verbose=0, callbacks=callbacks)
    seconds = time.process_time() - start
    counts = tfap.measure_activations(model, x)
    silent = silent_neurons(model, counts)
    by_count = tfap.compact(model, counts, drop_silent=True)
    found, accuracy_l1 = control(recipe, data, model, silent, lowest(model, silent))
    scaled = {}
    if scales := scales_of(model):
        names = ("found_by_scaled_l1", "accuracy_scaled_l1")
        scaled = dict(zip(names, control(recipe, data, model, silent, lowest(model, silent, scales))))
    return {
        **{"net": net, "arm": arm, "seed": seed, "seconds": seconds},
        "neurons": sum(len(its.counts) for its in counts.values()),
        "silent": sum(map(len, silent.values())),
        "found_by_l1": found,
        "accuracy": accuracy(recipe, data, model),
        "accuracy_count": accuracy(recipe, data, by_count),
        "accuracy_l1": accuracy_l1,
        **scaled,
        "weights": by_count.count_params() / model.count_params(),
        "flops": tfap.flops(by_count) / tfap.flops(model),
    }


def accuracy(recipe, data, model):
    outputs = model.predict(recipe.inputs(data.x_test), 500, verbose=0)
    return 100 * float((outputs.argmax(axis=1) == data.y_test).mean())


def measure():
    data, folder = load("fashion_mnist"), pathlib.Path(FLAGS.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(FLAGS.seeds):
        for net in FLAGS.net:
            recipe = NETS[net](keras, data)
            recipe.epochs = FLAGS.epochs
            for at, arm in enumerate(ARMS):
                file = folder / f"{net}-{at}-{seed}.json"
                if not file.exists() and (FLAGS.arms is None or arm in FLAGS.arms):
                    row = row_of(net, arm, seed, recipe, data)
                    file.write_text(json.dumps(row, indent=1))
                    print(json.dumps(row), flush=True)


# -- the page -----------------------------------------------------------------------------------------

HEADINGS = (
    *("training", "seeds", "accuracy, %", "silent neurons", "of them also lowest in L1"),
    *("weights left", "FLOPs left", "accuracy without the silent, %", "without as many by L1, %"),
    "time over plain",
)
SCALED = ("of the silent lowest in scaled L1", "without as many by scaled L1, %")


def tables():
    rows = [json.loads(path.read_text()) for path in sorted(pathlib.Path(FLAGS.folder).glob("*.json"))]
    lines = []
    for net in NETS:
        plain = {row["seed"]: row["seconds"] for row in rows if row["net"] == net and row["arm"] == "plain"}
        if not plain:
            continue
        headings = HEADINGS + (SCALED if net == "resnet" else ())
        lines += [f"\n## {NAMES[net]}\n", _line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
        for arm in ARMS:
            its = [row for row in rows if (row["net"], row["arm"]) == (net, arm) and row["seed"] in plain]
            if its:
                lines.append(_line(_cells(arm, its, plain) + (_scaled(its) if net == "resnet" else [])))
    return "\n".join(lines)


def _cells(arm, rows, plain):
    silent = sum(row["silent"] for row in rows)
    return [
        *(arm, str(len(rows))),
        cell([row["accuracy"] for row in rows]),
        cell([100 * row["silent"] / row["neurons"] for row in rows], 1) + "%",
        f"{sum(row['found_by_l1'] for row in rows) / silent:.0%}" if silent else "-",
        *(cell([100 * row[name] for row in rows], 1) + "%" for name in ("weights", "flops")),
        *(cell([row[name] for row in rows]) for name in ("accuracy_count", "accuracy_l1")),
        cell([row["seconds"] / plain[row["seed"]] for row in rows]),
    ]


def _scaled(rows):
    """Returns the cells of the second control, of the rows that silenced neurons and have it."""
    its = [row for row in rows if row["silent"] and "found_by_scaled_l1" in row]
    if not its:
        return ["-", "-"]
    share = sum(row["found_by_scaled_l1"] for row in its) / sum(row["silent"] for row in its)
    return [f"{share:.0%}", cell([row["accuracy_scaled_l1"] for row in its])]


def cell(values, digits=2):
    """Formats a mean and half the width of its 95% interval over seeds."""
    found = interval(values)
    half = f" ± {found.high - found.mean:.{digits}f}" if len(values) > 1 else ""
    return f"{found.mean:.{digits}f}{half}"


def _line(cells):
    return f"| {' | '.join(cells)} |"


def main(_):
    without_tuning()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if not FLAGS.table:
        measure()
    made = tables()
    print(made)
    if FLAGS.write:
        explained = "\n\n".join(__doc__.split("\n\n")[2:-1])
        settings = f"--net {','.join(FLAGS.net)} --seeds {FLAGS.seeds} --epochs {FLAGS.epochs}"
        command = f"Made by `python benchmarks/silence.py {settings}`."
        text = f"# Silence: train neurons to never fire\n\n{explained}\n\n{command}\n{made}\n"
        pathlib.Path(FLAGS.write).write_text(text)


if __name__ == "__main__":
    app.run(main)
