"""Prunes transformers and recurrent nets by magnitude: weights, equal outputs, and latency.

    python benchmarks/transformer_sizes.py                            # all rows; resumes
    python benchmarks/transformer_sizes.py --models vit --rows size   # some
    python benchmarks/transformer_sizes.py --rows latency --again     # measures latencies again
    python benchmarks/transformer_sizes.py --table                    # prints the page
    python benchmarks/transformer_sizes.py --table --write docs/results/transformers.md

The models of KerasHub need `pip install keras-hub`. Their weights, like all others here, are random, with
nonzero biases: sizes, equality and latencies do not depend on training. transformer_accuracy.py trains.

Rows, one JSON file each in DIRECTORY/rows:

- size: weights before and after `tfap.compact`, and how far its outputs are from those of the masked model.
- latency: dense against compacted in a new process, in turns, each file loaded several times.
- text: the same as size for stacked recurrent layers, and how far exported files are from the Keras model.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import transformer_nets as nets
from absl import app, flags
from transformer_page import page

import tfap
from tfap.budgets.latency_table import cpu_name

FLAGS = flags.FLAGS
RUNTIMES = ("tflite", "onnx")
LOADS, THREADS = 5, 1

flags.DEFINE_string("directory", "build/transformers", "Folder of the rows and models.")
flags.DEFINE_list("models", None, "Only these models, in this order.")
flags.DEFINE_list("rows", ["size", "text", "latency"], "Kinds of rows.")
flags.DEFINE_float("seconds", 0.5, "Processor time per load in the new process.", 0.01)
flags.DEFINE_bool("again", False, "Makes rows that exist again.")
flags.DEFINE_bool("table", False, "Makes no rows.")
flags.DEFINE_string("write", None, "File for the page.")
flags.DEFINE_string("measure", None, "Internal: measures two files in a new process.")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and what is pruned.

    Attributes:
        title: String. Name in the tables.
        build: Function that takes keras or tf_keras and returns the dense model.
        steps: Tuple of `(granularity, fraction, prefixes of layer names)`.
        encoder: Prefixes of the names of the layers whose weights count as the encoder's.
        keras_names: Which of keras and tf_keras have all its layers.
        recurrent: Boolean. Whether it is a row of recurrent layers, with no latency.
    """

    title: str
    build: Callable
    steps: tuple
    encoder: tuple
    keras_names: tuple = ("keras", "tf_keras")
    recurrent: bool = False

    @property
    def also(self):
        """What is pruned besides units."""
        return {1: "", 2: "heads", 3: "heads, width"}[len(self.steps)]


def bert(keras):
    import keras_hub

    names = ("padding_mask", "segment_ids", "token_ids")
    sizes = {"vocabulary_size": 1000, "hidden_dim": 128, "intermediate_dim": 512, "max_sequence_length": 128}
    backbone = keras_hub.models.BertBackbone(num_layers=2, num_heads=2, **sizes)
    outputs = keras.layers.Dense(4, name="output")(backbone.output["pooled_output"])
    inputs = {name: keras.Input((128,), dtype="int32", name=name) for name in names}  # of one length
    return keras.models.clone_model(keras.Model(backbone.input, outputs), inputs)


def hub_vit(keras):
    import keras_hub

    sizes = {"num_layers": 4, "num_heads": 4, "hidden_dim": 192, "mlp_dim": 768}
    backbone = keras_hub.models.ViTBackbone(image_shape=(64, 64, 3), patch_size=(8, 8), **sizes)
    x = keras.layers.GlobalAveragePooling1D()(backbone.output)
    return keras.Model(backbone.input, keras.layers.Dense(10, name="output")(x))


def vit(**options):
    return lambda keras: nets.vit(keras, (64, 64, 3), patch=8, width=192, heads=4, depth=4, **options)


def decoder(**options):
    sizes = {"length": 64, "vocabulary": 1000, "width": 192, "heads": 4, "depth": 4}
    return lambda keras: nets.decoder(keras, **sizes, **options)


def text(kind):
    def build(keras):
        return nets.text(keras, kind, units=64)

    steps = (("neuron", 0.5, ("first", "second")),)
    return Subject(f"{kind}, 2 x 64 units", build, steps, ("first", "second"), recurrent=True)


def of_hub(title, build, fraction, layers):
    return Subject(title, build, (("neuron", fraction, layers),), layers, keras_names=("keras",))


UNITS, HEADS = ("neuron", 0.5, ("up_",)), ("head", 0.25, ("attention_",))
WIDTH = ("neuron", 0.25, ("stem", "positions", "attention_", "down_"))
BLOCKS = ("norm_a", "norm_b", "attention_", "up_", "down_")
RMS = {"norm": "RMSNormalization"}
BERT, VIT = ("transformer_",), ("vit_encoder",)
SUBJECTS = {
    "bert": of_hub("KerasHub BERT", bert, 0.5, BERT),
    "bert_more": of_hub("KerasHub BERT, 3/4 of the units", bert, 0.75, BERT),
    "hub_vit": of_hub("KerasHub ViT", hub_vit, 0.5, VIT),
    "hub_vit_more": of_hub("KerasHub ViT, 3/4 of the units", hub_vit, 0.75, VIT),
    "vit": Subject("ViT", vit(), (UNITS, HEADS), BLOCKS),
    "vit_rms": Subject("ViT with RMSNormalization", vit(**RMS), (UNITS, HEADS, WIDTH), BLOCKS, ("keras",)),
    "decoder": Subject("GPT-like decoder", decoder(), (UNITS, HEADS), BLOCKS),
    "decoder_rms": Subject(
        "Decoder with RMSNormalization and gated units",
        decoder(ratio=3, gated=True, **RMS),
        (UNITS, HEADS, WIDTH),
        BLOCKS,
        ("keras",),
    ),
    "lstm": text("LSTM"),
    "gru": text("GRU"),
}


# -- models ------------------------------------------------------------------------------------------------


class Made:
    """A subject: dense, masked and compacted model, and inputs."""

    def __init__(self, subject, keras_name):
        keras = importlib.import_module(keras_name)
        self.subject, self.keras_name = subject, keras_name
        keras.utils.set_random_seed(0)
        self.dense = with_biases(subject.build(keras))
        self.masked = self.dense
        for granularity, fraction, prefixes in subject.steps:
            self.masked = masked(self.masked, granularity, fraction, prefixes)
        self.small = tfap.compact(self.masked)

    def inputs(self, samples):
        """Returns one array per input, in the order of the model."""
        return [sample(each, samples) for each in tfap.load_runtime(self.dense).inputs]

    def weights(self, model, prefixes):
        return sum(layer.count_params() for layer in layers_of(model) if layer.name.startswith(prefixes))


def with_biases(model):
    """Adds noise to all vectors, or zero biases would make every net easy."""
    generator = np.random.default_rng(0)
    noisy = [w if w.ndim > 1 else w + generator.normal(size=w.shape, scale=0.1) for w in model.get_weights()]
    model.set_weights(noisy)
    return model


def layers_of(model):
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from layers_of(layer)
        else:
            yield layer


def masked(model, granularity, fraction, prefixes):
    """Returns a copy of the model in which the fraction of smallest magnitude is zero."""

    def others(layer):
        return not hasattr(layer, "layers") and not layer.name.startswith(prefixes)

    options = {"granularity": granularity, "scope": "local", "target": "neurons", "skip": others}
    pruned = tfap.prune(model, fraction, "magnitude", **options)
    tfap.update_masks(pruned, fraction)
    return tfap.strip_pruning(pruned)


def sample(given, samples):
    generator, shape = np.random.default_rng(1), (samples, *given.shape[1:])
    if given.dtype.kind == "f":
        return generator.normal(size=shape).astype("float32")
    if "mask" in given.name:
        return np.ones(shape, given.dtype)
    if "positions" in given.name:
        return np.broadcast_to(np.arange(shape[1], dtype=given.dtype), shape).copy()
    return generator.integers(0, 2 if "segment" in given.name else 1000, shape).astype(given.dtype)


def off(outputs, expected):
    """Returns the largest difference relative to the largest value."""
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


# -- rows --------------------------------------------------------------------------------------------------


def size_row(made, folder):
    x = made.inputs(8)
    dense, exact, small = (tfap.load_runtime(model)(*x)[0] for model in (made.dense, made.masked, made.small))
    counts = {
        name: {
            "weights": model.count_params(),
            "encoder": made.weights(model, made.subject.encoder),
            "flops": tfap.flops(model),
        }
        for name, model in (("dense", made.dense), ("small", made.small))
    }
    return {**counts, "off": off(small, exact), "changed": off(small, dense)}


def text_row(made, folder):
    x = made.inputs(8)
    expected = tfap.load_runtime(made.small)(*x)[0]
    files = {runtime: file_of(made, "small", runtime, folder) for runtime in RUNTIMES}
    exported = {name: off(tfap.load_runtime(file, THREADS)(*x)[0], expected) for name, file in files.items()}
    return {**size_row(made, folder), "exported": exported}


def file_of(made, name, runtime, folder):
    path = folder / f"{name}.{runtime}"
    if not path.exists():
        tfap.export(getattr(made, name), path, runtime)
    return path


def latency_row(runtime):
    def row(made, folder):
        np.savez(folder / "inputs.npz", *made.inputs(1))
        files = [str(file_of(made, name, runtime, folder)) for name in ("dense", "small")]
        task = json.dumps({"files": files, "inputs": str(folder / "inputs.npz"), "seconds": FLAGS.seconds})
        command = [sys.executable, __file__, f"--measure={task}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    return row


def measure(task):
    """Measures two files: prints medians in ms, and the median and the range of the ratios over the loads."""
    task = json.loads(task)
    x = list(np.load(task["inputs"]).values())
    ratios, times = [], {"dense": [], "small": []}
    for _ in range(LOADS):
        runs = {name: tfap.load_runtime(path, THREADS) for name, path in zip(times, task["files"])}
        calls = {name: lambda run=run: run(*x) for name, run in runs.items()}
        # Of one thread, processor time is the latency on a core that does nothing else.
        found = tfap.measure_latency(calls, "dense", seconds=task["seconds"], clock=time.process_time)
        ratios.append(1 / found["small"].ratio.median)
        for name, entry in found.items():
            times[name].append(1e3 * entry.median)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    print(json.dumps({**medians, **ratio}))


def kinds(subject):
    """Yields the rows of a subject: kind, runtime or None, and how to make it."""
    if subject.recurrent:
        yield "text", None, text_row
        return
    yield "size", None, size_row
    for runtime in RUNTIMES:
        yield "latency", runtime, latency_row(runtime)


def run(directory):
    names = FLAGS.models or list(SUBJECTS)
    for keras_name in ("keras", "tf_keras"):
        for name in names:
            subject = SUBJECTS[name]
            if keras_name not in subject.keras_names:
                continue
            if subject.build in (bert, hub_vit) and not importlib.util.find_spec("keras_hub"):
                print(f"{name}: left out without KerasHub: pip install keras-hub", file=sys.stderr)
                continue
            rows_of(directory, name, subject, keras_name)


def rows_of(directory, name, subject, keras_name):
    made, folder = None, directory / "models" / f"{name}-{keras_name}"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, runtime, make in kinds(subject):
        path = directory / "rows" / f"{'-'.join(filter(None, (kind, name, keras_name, runtime)))}.json"
        if kind not in FLAGS.rows or (path.exists() and not FLAGS.again):
            continue
        made = made or Made(subject, keras_name)
        row = {"kind": kind, "model": name, "keras": keras_name, "runtime": runtime}
        row |= make(made, folder)
        print(row, flush=True)
        path.write_text(json.dumps(row, indent=1))


def machine():
    packages = {"LiteRT": "ai-edge-litert", "ONNX Runtime": "onnxruntime", "Keras": "keras"}
    packages |= {"tf_keras": "tf_keras", "KerasHub": "keras-hub"}
    found = [f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}"]
    for name, package in packages.items():
        try:
            found.append(f"{name} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def main(_):
    if FLAGS.measure:
        measure(FLAGS.measure)
        return
    directory = pathlib.Path(FLAGS.directory)
    (directory / "rows").mkdir(parents=True, exist_ok=True)
    if not FLAGS.table:
        run(directory)
    rows = [json.loads(path.read_text()) for path in sorted((directory / "rows").glob("*.json"))]
    made = page(rows, SUBJECTS, machine())
    if FLAGS.write:
        pathlib.Path(FLAGS.write).write_text(made)
    else:
        print(made)


if __name__ == "__main__":
    app.run(main)
