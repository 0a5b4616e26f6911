"""Compares ways to spread a budget over the layers: allocated by sensitivity, uniform, and ranked globally.

    python benchmarks/allocation.py --write docs/results/allocation.md  # everything, hours; resumes
    python benchmarks/allocation.py --table                             # only prints the rows that there are
    python benchmarks/allocation.py --quick --seeds 1                   # to try the script

The models are the residual model and the MobileNet of `prune_once.py`, trained on Fashion-MNIST once per
seed. They are in the folder of that script, and the rows in ROWS/rows.jsonl.

Every arm prunes the same dense model with `tfap.prune_once` to the same budget:

- allocated: `scope="allocated"`, with a sensitivity that is measured once per model.
- uniform: `scope="local"`, the same fraction of every layer.
- global: `scope="global"`, the channels of all layers ranked together.

Budgets are a share of the FLOPs, or a measured speedup in LiteRT at batch 1. The MobileNet is too small for
the speedups: its images are 14 x 14, and with the fewest channels it is 1.2 times as fast. Accuracies are
those of the test images, after the refit alone and after two more epochs. Differences are paired by seed,
with 95% CIs.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import pathlib
import platform
import time
import warnings

import keras
import prune_once as dense_models
from absl import app, flags
from recipes import without_tuning

import tfap
from tfap.utils.statistics import interval

FLAGS = flags.FLAGS
flags.DEFINE_string("rows", "build/allocation", "Folder of the rows.")
flags.DEFINE_string("write", None, "Page to write.")
flags.DEFINE_list("only", ["flops", "speedup"], "Units of the budgets to measure.")
flags.DEFINE_list("amounts", ["0.5", "0.3", "1.5", "2.0"], "Amounts of the budgets to measure.")
flags.FLAGS.set_default("nets", ["resnet", "mobilenet"])

SCOPES = ("allocated", "uniform", "global")
BUDGETS = (("flops", 0.5), ("flops", 0.3), ("speedup", 1.5), ("speedup", 2.0))
SAMPLES, EPOCHS = 2048, 2


class Rows:
    """The results so far, one line of JSON each."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "rows.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.rows = list(map(json.loads, lines))

    def missing(self, **wanted):
        return not self.found(**wanted)

    def found(self, **wanted):
        return [row for row in self.rows if all(row[name] == value for name, value in wanted.items())]

    def add(self, **row):
        self.rows.append(row)
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


class Model:
    """A dense model, and what is measured of it."""

    def __init__(self, net, seed):
        self.net, self.seed = net, seed
        self.data = dense_models.Data(net)
        self.dense = dense_models.dense(net, seed, self.data)
        self.accuracy = self.data.accuracy(self.dense)
        self.samples = 256 if FLAGS.quick else SAMPLES
        self._sensitivity = None

    def scope(self, name):
        if name != "allocated":
            return {"uniform": "local", "global": "global"}[name]
        if self._sensitivity is None:
            x = self.data.x[: self.samples]
            self._sensitivity = tfap.sensitivity(
                self.dense, x, compensate=(True,), samples=self.samples, batch_size=dense_models.BATCH
            )
        return self._sensitivity

    def pruned(self, scope, unit, amount):
        budget = {unit: amount} if unit == "flops" else {unit: amount, "runtime": "tflite"}
        return tfap.prune_once(
            self.dense,
            self.data.x[: self.samples],
            budget,
            scope=self.scope(scope),
            samples=self.samples,
            batch_size=dense_models.BATCH,
            return_report=True,
        )

    def trained(self, model):
        dense_models.compile_for(keras, model, self.net, 1e-3)
        keras.utils.set_random_seed(self.seed)
        model.fit(self.data.x, self.data.y, dense_models.BATCH, EPOCHS, verbose=0)
        return model


def measure(rows):
    for seed in range(FLAGS.seeds):
        for net in FLAGS.nets:
            wanted = [
                (unit, amount, scope)
                for unit, amount in BUDGETS
                if unit in FLAGS.only and amount in map(float, FLAGS.amounts)
                for scope in SCOPES
                if rows.missing(net=net, seed=seed, unit=unit, amount=amount, scope=scope)
            ]
            if wanted:
                model = Model(net, seed)
                for unit, amount, scope in wanted:
                    try:
                        rows.add(**row_of(model, unit, amount, scope))
                    except ValueError as error:  # such as more speed than the fewest channels bring
                        print(f"{net}: left out: {error}", flush=True)


def row_of(model, unit, amount, scope):
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a budget that is missed is in the row
        small, report = model.pruned(scope, unit, amount)
    seconds, refitted = time.monotonic() - start, model.data.accuracy(small)
    return {
        "net": model.net,
        "seed": model.seed,
        "unit": unit,
        "amount": amount,
        "scope": scope,
        "dense": model.accuracy,
        "refitted": refitted,
        "flops": tfap.flops(small) / tfap.flops(model.dense),
        "weights": small.count_params() / model.dense.count_params(),
        "reached": report.budget.own / report.budget.reached,
        "seconds": seconds,
        "trained": model.data.accuracy(model.trained(small)),
    }


_HEADER = """# Allocation: which layers bear a budget

Accuracy on the 10,000 test images of Fashion-MNIST at equal FLOPs, and at equal measured latency in LiteRT at
batch 1. `python benchmarks/allocation.py --write docs/results/allocation.md` trains the dense models,
measures everything with 5 seeds, and writes this page. The rows below are those of
`--seeds 3 --nets resnet --only speedup --amounts 2.0` and of
`--seeds 3 --nets mobilenet --only flops --amounts 0.5`. The MobileNet is too small for a speedup: with the
fewest channels it is 1.2 times as fast. [Shrink](../shrink.md) and [Sensitivity](../sensitivity.md) explain
the functions.

The arms prune the same dense model with `tfap.prune_once`:

- allocated: by the sensitivity of the layers, `scope="allocated"`.
- uniform: the same fraction of every layer, `scope="local"`.
- global: the channels of all layers ranked together, `scope="global"`.

Means are in percent, with 95% CIs over seeds. Differences are in points and paired by seed. Machine:
{machine}.
"""

# -- the page -----------------------------------------------------------------------------------------


def cell(values, sign=""):
    if not values:
        return "-"
    found = interval(values)
    if len(values) == 1:
        return f"{found.mean:{sign}.1f}"
    return f"{found.mean:{sign}.1f} ± {found.high - found.mean:.1f}"


def differences(rows, other, figure, **wanted):
    """Returns the figure of allocated minus that of another arm, per seed."""
    mine, others = (
        {row["seed"]: row[figure] for row in rows.found(scope=scope, **wanted)}
        for scope in ("allocated", other)
    )
    return [mine[seed] - others[seed] for seed in sorted(mine.keys() & others.keys())]


def tables(rows):
    for net in FLAGS.nets:
        seeds = {row["seed"]: row["dense"] for row in rows.found(net=net)}
        if not seeds:
            continue
        yield f"\n## {net}: dense {cell(list(seeds.values()))}%, {len(seeds)} seeds\n"
        yield "| Budget | Arm | Speedup or FLOPs | Weights | Refitted | After 2 epochs |"
        yield "|---|---|---:|---:|---:|---:|"
        for unit, amount in BUDGETS:
            yield from _lines(rows, net, unit, amount)


def _lines(rows, net, unit, amount):
    wanted = dict(net=net, unit=unit, amount=amount)
    budget = f"{amount:.0%} of the FLOPs" if unit == "flops" else f"{amount}x as fast"
    for scope in SCOPES:
        found = rows.found(scope=scope, **wanted)
        if found:
            reached = [row["reached"] if unit == "speedup" else 100 * row["flops"] for row in found]
            mean = interval(reached).mean
            text = f"{mean:.2f}x" if unit == "speedup" else f"{mean:.1f}%"
            weights = interval([100 * row["weights"] for row in found]).mean
            accuracies = [cell([row[figure] for row in found]) for figure in ("refitted", "trained")]
            yield f"| {budget} | {scope} | {text} | {weights:.0f}% | {' | '.join(accuracies)} |"
    for other in ("uniform", "global"):
        cells = [cell(differences(rows, other, figure, **wanted), "+") for figure in ("refitted", "trained")]
        if set(cells) != {"-"}:
            yield f"| {budget} | allocated minus {other} | | | {' | '.join(cells)} |"


def page(rows):
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return "\n".join([_HEADER.format(machine=machine), *tables(rows)]) + "\n"


def main(_):
    without_tuning()
    rows = Rows(pathlib.Path(FLAGS.rows))
    pathlib.Path(FLAGS.directory).mkdir(parents=True, exist_ok=True)
    if not FLAGS.table:
        measure(rows)
    text = page(rows)
    print(text)
    if FLAGS.write:
        pathlib.Path(FLAGS.write).write_text(text)


if __name__ == "__main__":
    app.run(main)
