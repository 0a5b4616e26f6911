"""What works with which model: plan, prune, train, save, load, strip, compact, export, in both Kerases.

    python benchmarks/model_table.py --write docs/models.md

Models are the families of keras.applications and others that people prune, with random weights and small
inputs. Each takes the steps twice, pruned by magnitude (whole neurons and channels of every kernel) and by
activation counts, and the steps that need no tfap once more without it. A cell says "yes" or a figure if the
step ran and its result was checked; otherwise the error. Every model and Keras has a process of its own.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import importlib
import importlib.metadata
import json
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import tfap
from tfap import keras_compat
from tfap.exporting import runtime
from tfap.graph import layer_types
from tfap.graph.calls import Graph
from tfap.keras_compat import equality
from tfap.utils import files

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import model_zoo

FLAGS = flags.FLAGS
flags.DEFINE_list("models", [], "Only these models; all if empty.")
flags.DEFINE_list("keras", ["keras", "tf_keras"], "Only these Kerases.")
flags.DEFINE_string("write", None, "File for the page; without it the page is printed.")
flags.DEFINE_string("one", None, "Used by the script itself: the one model to run in this process.")
flags.DEFINE_string("into", None, "Used by the script itself: the file for that model's outcomes.")
flags.DEFINE_string("results", "build/models", "Folder for outcomes; what is there is not run again.")
flags.DEFINE_bool("run", True, "False writes the page of the outcomes that are there.")
flags.DEFINE_integer("seconds", 1800, "A model that takes longer is ended.", 1)

CRITERIA = ("magnitude", "activation_count")
WITHOUT = "without tfap"
# step -> the steps that it builds on
STEPS = {
    "plan": (),
    "prune": (),
    "two steps": ("prune",),
    "save": ("two steps",),
    "load": ("save",),
    "strip": ("two steps",),
    "compact": ("strip",),
    "export": ("strip",),
}
PLAIN_STEPS = {"two steps": (), "save": ("two steps",), "load": ("save",), "export": ("two steps",)}
SPARSITY = 0.3
BATCH = 4

HEAD = """# Models

Made by `python benchmarks/model_table.py --write docs/models.md` with {versions}.
Every model has random weights. It is pruned to {sparsity} of whole neurons and channels in every layer;
weights that read a pruned neuron go too.

- plan: kernels that tfap can prune (trainable weights with two axes or more that are no biases; the output
  layer's too), and those that can be ranked by activation counts. The others stand
  [below](#kernels-that-are-not-pruned).
- prune: how many layers are wrapped; the outputs are those of the given model, bit by bit.
- two steps: `fit` for two steps with a mask update after the first; the pruned weights of those in wrapped
  layers, which are zero after the second step too.
- save, load: a `.keras` file of the wrapped model, loaded in safe mode, with equal weights and outputs, bit
  by bit.
- strip: outputs are equal to those of the wrapped model, bit by bit.
- compact: outputs on random inputs are equal to rounding, which `compact` itself makes sure of; the weights
  removed.
- export: a SavedModel of the compacted model, loaded and compared.

A cell is empty where a step before it has failed. The last columns are the same steps of the same net without
tfap.
Models of keras.applications train with `run_eagerly=True`, others in a graph (`jit_compile=False`).
"""
NOTES = """
## What fails, and why

- In safe mode Keras 3 loads no Lambda layer around a Python lambda, and tf_keras no Lambda layer at all.
- tf_keras's own ConvNeXt does not load from a `.keras` file, without tfap either.
- KerasHub's ViT: the config of its layer `ViTPatchingAndEmbedding` has arguments that the class does not
  take, so no Functional model with that layer in its graph loads. tfap makes a Functional model of a nested
  backbone too, whose file then does not load either, while that of a plain `ViTBackbone` does: use
  `save_weights` there.
- `compact` compares outputs on random inputs with 16 positions where a model leaves their number open,
  `export` on 32 if it is given no `data`: position embeddings must have as many.
- What tfap knows of KerasHub's layers the table's script tells it (`tfap.register_prunable_layer`).
"""
OTHERS = """
## Kernels that are not pruned

By magnitude, as the plan tells it:

| model | Keras | kernel | reason |
|---|---|---|---|"""


def outcomes(steps, walk):
    """`{step: text}`: what `walk` says about each step, or its error, or "" after one that failed."""
    found, failed = {}, set()
    for step, needs in steps.items():
        if failed & set(needs):
            failed.add(step)
            found[step] = ""
            continue
        try:
            found[step] = getattr(walk, step.replace(" ", "_"))()
        except Exception as error:  # the table tells it
            failed.add(step)
            found[step] = f"{type(error).__name__}: {first_line(error)}"
    return found


def first_line(error):
    """The first line of an error's text, short enough for a cell."""
    line = (str(error).strip() or "no message").splitlines()[0].replace("|", "\\|")
    return line if len(line) <= 160 else f"{line[:157]}..."


class Plain:
    """The steps of a net without tfap."""

    def __init__(self, entry, keras, folder):
        self.entry, self.keras, self.folder = entry, keras, folder
        self.model = entry.model(keras)
        self.x, self.y = entry.data(self.model, 2 * BATCH)

    def two_steps(self):
        before = self.model.get_weights()
        self._fit(self.model)
        check_trained(before, self.model.get_weights())
        return "yes"

    def _fit(self, model, **kwargs):
        model.fit(self.x, self.y, batch_size=BATCH, shuffle=False, verbose=0, **kwargs)

    def save(self):
        self.model.save(self.folder / "plain.keras")
        return "yes"

    def load(self):
        loaded = self.keras.models.load_model(self.folder / "plain.keras")
        check_equal(self.outputs(self.model), self.outputs(loaded))
        return "yes"

    def export(self):
        keras_compat.write_saved_model(self.model, self.folder / "plain")
        served = runtime.load(self.folder / "plain")(*tf.nest.flatten(self.x))
        check_equal(self.outputs(self.model), served, exactly=False)
        return "yes"

    def outputs(self, model):
        return [np.asarray(output) for output in tf.nest.flatten(model(self.x, training=False))]


class Pruned(Plain):
    """The same and the other steps of a net that is pruned by a criterion."""

    def __init__(self, entry, keras, folder, criterion):
        super().__init__(entry, keras, folder)
        self.criterion = criterion
        self.others = {}

    def plan(self):
        if not keras_compat.is_graph_model(self.model):
            return "layer by layer"
        found, self.others = kernels(self.model, "magnitude")
        counted, _ = kernels(self.model, "activation_count")
        return f"{len(found)} of {len(found) + len(self.others)}, {len(counted)} counted"

    def prune(self):
        schedule = tfap.ConstantSparsity(SPARSITY, begin_step=1, end_step=1, frequency=1)
        arguments = dict(criterion=self.criterion, granularity="neuron", scope="local")
        self.wrapped = self.entry.prune(self.model, schedule, **arguments)
        check_equal(self.outputs(self.model), self.outputs(self.wrapped))
        return f"{len(tfap.prunable_layers(self.wrapped))} layers"

    def two_steps(self):
        before = self.wrapped.get_weights()
        self._fit(self.wrapped, callbacks=[tfap.UpdatePruningStep()])
        check_trained(before, self.wrapped.get_weights())
        pruned = total = 0
        for wrapper in tfap.prunable_layers(self.wrapped):
            assert int(wrapper.updates_made.numpy()) == 1
            assert wrapper.criterion.counts is None or int(wrapper.activations_seen.numpy()) > 0
            for _, kernel, mask in wrapper.kernel_and_mask():
                dead = mask.numpy() == 0
                assert not np.asarray(kernel)[dead].any(), f"pruned weights of {wrapper.name} are not zero"
                pruned, total = pruned + int(dead.sum()), total + dead.size
        assert pruned, "no weight has been pruned"
        self.pruned = pruned
        return f"{pruned:,} of {total:,}"

    def save(self):
        self.wrapped.save(self.folder / "wrapped.keras")
        return "yes"

    def load(self):
        loaded = self.keras.models.load_model(self.folder / "wrapped.keras")
        for ours, theirs in zip(self.wrapped.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        check_equal(self.outputs(self.wrapped), self.outputs(loaded))
        return "equal"

    def strip(self):
        self.plain = self.entry.strip(self.wrapped)
        zeros = sum(int((weight == 0).sum()) for weight in self.plain.get_weights() if weight.ndim > 1)
        assert zeros >= self.pruned, f"{zeros} zeros, where {self.pruned} weights were pruned"
        assert not tfap.prunable_layers(self.plain)
        check_equal(self.outputs(self.wrapped), self.outputs(self.plain))
        return "equal"

    def compact(self):
        self.smaller = self.plain
        if not keras_compat.is_graph_model(self.plain):
            return "not subclassed models"
        self.smaller = tfap.compact(self.plain)  # raises if outputs differ by more than rounding
        before, after = (model.count_params() for model in (self.plain, self.smaller))
        if before == after:
            return "equal, nothing removed"
        return f"equal, {before - after:,} of {before:,} removed"

    def export(self):
        smaller = getattr(self, "smaller", self.plain)
        tfap.export(smaller, self.folder / "pruned")  # loads the file and compares
        return "equal"


def check_trained(before, after):
    changed = sum(not np.array_equal(old, new) for old, new in zip(before, after))
    assert changed > len(before) / 4, f"training changed only {changed} of {len(before)} weights"


def check_equal(ours, theirs, exactly=True):
    """Outputs of what must be the same net: to the last bit, or to what rounding explains."""
    for one, other in zip(ours, theirs, strict=True):
        assert np.isfinite(one).all(), "outputs are not finite"
        apart, largest = equality.largest_difference(other, one), np.abs(one).max()
        allowed = 0 if exactly else 1e-6 + 1e-4 * largest
        assert apart <= allowed, f"outputs are {apart:.1e} apart, the largest is {largest:.1e}"


def kernels(model, criterion):
    """Names of the kernels that a criterion can prune, output layers too; `{name: reason}` of the others.

    A kernel is a trainable weight with two axes or more that is no bias, wherever in a layer it is.
    """
    plan = tfap.plan(model, criterion=criterion, include=lambda layer: True)
    prunable, others = [], {}
    for path, layer in Graph(model).layers():
        rows = [row for row in plan if row.path == path]
        specs = {spec.name: spec for spec in layer_types.kernel_specs(layer)}
        found = {id(specs[row.weight].find(layer)) for row in rows if row.pruned}
        reasons = [row.reason for row in rows if not row.pruned]
        for weight in getattr(layer, "trainable_weights", ()):
            name = getattr(weight, "path", weight.name)
            if len(weight.shape) < 2 or "bias" in name.split("/")[-1]:
                continue
            if id(weight) in found:
                prunable.append(name)
            else:
                others[name] = reasons[0] if reasons else "it is none of the layer's kernels that tfap knows"
    return prunable, others


# -- one process -----------------------------------------------------------------------------------


def run_one(entry, keras, folder):
    """Every outcome of a model in one Keras, as plain data."""
    start = time.perf_counter()
    found, others = {}, {}
    for name in (WITHOUT, *entry.criteria):
        keras_compat.start_afresh(seed=0)
        inside = folder / name.replace(" ", "_")
        inside.mkdir()
        if name == WITHOUT:
            found[name] = outcomes(PLAIN_STEPS, Plain(entry, keras, inside))
        else:
            walk = Pruned(entry, keras, inside, name)
            found[name], others = outcomes(STEPS, walk), walk.others
    return {"outcomes": found, "others": others, "seconds": time.perf_counter() - start}


def main_of_one(name, world, path):
    """What a process does that the script has started."""
    logging.set_verbosity(logging.ERROR)
    warnings.simplefilter("ignore")
    entry = next(entry for entry in model_zoo.ENTRIES if entry.name == name)
    with tempfile.TemporaryDirectory() as folder:
        found = run_one(entry, importlib.import_module(world), pathlib.Path(folder))
    files.replace(pathlib.Path(path), lambda file: file.write(json.dumps(found, indent=1).encode()))


# -- all of them -----------------------------------------------------------------------------------


def result(entry, world, path):
    """The outcomes of one model and Keras; run in a process of its own unless the file is there already."""
    if not path.exists() and not FLAGS.run:
        return {"problem": "not run yet"}
    if not path.exists():
        command = [sys.executable, __file__, "--one", entry.name, "--keras", world, "--into", str(path)]
        log = path.with_suffix(".log")
        with log.open("w") as stream:
            try:
                ended = subprocess.run(command, stdout=stream, stderr=stream, timeout=FLAGS.seconds)
                problem = f"the process ended with {ended.returncode}: {last_line(log)}"
            except subprocess.TimeoutExpired:
                problem = f"not ready after {FLAGS.seconds} s"
        if not path.exists():
            return {"problem": problem}
    return json.loads(path.read_text())


def last_line(log):
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def rows(entry, world, found):
    """The table's rows of one model and Keras: one for each criterion."""
    if "problem" in found:
        yield f"| {entry.name} | {world} | | {found['problem']} |"
        return
    plain = [found["outcomes"][WITHOUT][step] for step in PLAIN_STEPS]
    for criterion, outcome in found["outcomes"].items():
        if criterion == WITHOUT:
            continue
        cells = [outcome[step] for step in STEPS]
        yield f"| {' | '.join([entry.name, world, criterion, *cells, *plain])} |"


def page(results):
    """The page: its head, the table, and the kernels that no criterion prunes with the reasons."""
    versions = {
        name: importlib.import_module(name).__version__ for name in ("tensorflow", "keras", "tf_keras")
    }
    if model_zoo.KERAS_HUB:
        versions["keras_hub"] = importlib.metadata.version("keras_hub")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield HEAD.format(versions=f"Python {platform.python_version()}, {listed}", sparsity=f"{SPARSITY:.0%}")
    titles = ["model", "Keras", "pruned by", *STEPS, *(f"{step} without tfap" for step in PLAIN_STEPS)]
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for entry, world, found in results:
        yield from rows(entry, world, found)
    if not model_zoo.KERAS_HUB:
        yield "\nKerasHub is not installed, so its models are missing: `pip install '.[models]'`."
    yield NOTES + OTHERS
    others = {}
    for entry, world, found in results:
        for name, reason in found.get("others", {}).items():
            others.setdefault((entry.name, name, reason), []).append(world)
    for (model, name, reason), worlds in others.items():
        yield f"| {model} | {', '.join(worlds)} | `{name}` | {reason} |"
    if not others:
        yield "| none | | | |"


def wanted():
    """`(entry, name of the Keras)` of what the flags ask for.

    Raises:
        app.UsageError: a model that is not there.
    """
    known = {entry.name for entry in model_zoo.ENTRIES}
    for name in FLAGS.models:
        if name not in known:
            raise app.UsageError(f"There is no model '{name}'. There are: {', '.join(sorted(known))}.")
    for entry in model_zoo.ENTRIES:
        for world in FLAGS.keras:
            if world in entry.kerases and (entry.name in FLAGS.models or not FLAGS.models):
                yield entry, world


def main(_):
    if FLAGS.one:
        return main_of_one(FLAGS.one, FLAGS.keras[0], FLAGS.into)
    folder = pathlib.Path(FLAGS.results)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for entry, world in wanted():
        found = result(entry, world, folder / f"{slug(entry.name)}-{world}.json")
        results.append((entry, world, found))
        seconds = f"{found['seconds']:.0f} s" if "seconds" in found else found["problem"]
        print(f"{entry.name}, {world}: {seconds}", file=sys.stderr, flush=True)
    text = "\n".join(page(results)) + "\n"
    if FLAGS.write:
        pathlib.Path(FLAGS.write).write_text(text)
    else:
        print(text)
    return None


def slug(name):
    return re.sub(r"\W+", "_", name).lower()


if __name__ == "__main__":
    app.run(main)
