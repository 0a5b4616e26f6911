"""Tests every layer type in Keras 3 and tf_keras: prune, two updates, save, load, strip, export.

    python benchmarks/layer_table.py > docs/layers.md

Every entry is a small model around the layer. The script trains it for four steps with two mask updates. A
cell is "yes" if the step ran and its result passed the checks. Otherwise, it contains the error.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import importlib
import pathlib
import tempfile
import warnings

import numpy as np
import tensorflow as tf
from absl import app, logging

import tfap

HEAD = """# Look up a layer type

Use this table to see what works with a layer type. `python benchmarks/layer_table.py > docs/layers.md`
generates it.

- Each layer is pruned by magnitude and, if tfap can count when its neurons fire, by activation counts.
- "weights" is the number of kernels that the criterion can prune.
- "yes" means that the step ran and that its result passed the checks.
- "no firing" means that tfap cannot count when the neurons fire, so the criterion cannot prune the layer.
- On tf_keras, "save and load" also covers `.h5` files.

To prune other layer types, [register](pruning.md#register-a-custom-layer-type) them.
"""
STEPS = ("prune", "two updates", "save and load", "strip", "export")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer type under test.

    Attributes:
        name: Row heading.
        shape: Shape of the input, without the batch.
        layer: Function from `keras.layers` to a layer or to a function of the input tensor.
        kernels: Number of prunable weights of the layer.
        counted: Number of weights that activation counts can rank.
        eager: Whether it is trained without tf.function.
        kerases: The Kerases that have the layer.
    """

    name: str
    shape: tuple
    layer: object
    kernels: int = 1
    counted: int = 1
    eager: bool = False
    kerases: tuple = ("keras", "tf_keras")

    def model(self, keras):
        inputs = keras.Input(self.shape, dtype="int32" if self.name == "Embedding" else "float32")
        x = self.layer(keras.layers)(inputs)
        outputs = keras.layers.Dense(2, name="output")(keras.layers.Flatten()(x))
        model = keras.Model(inputs, outputs)
        model.compile("adam", "mse", run_eagerly=self.eager)
        return model

    def data(self):
        generator = np.random.default_rng(0)
        if self.name == "Embedding":
            return generator.integers(0, 10, (32, *self.shape)), np.ones((32, 2), "float32")
        return generator.normal(size=(32, *self.shape)).astype("float32"), np.ones((32, 2), "float32")


def _attention(layers):
    attention = layers.MultiHeadAttention(2, 4)
    return lambda x: attention(x, x)


def _grouped_attention(layers):
    attention = layers.GroupQueryAttention(4, num_query_heads=4, num_key_value_heads=2)
    return lambda x: attention(x, x)


ENTRIES = [
    Entry("Dense", (4,), lambda k: k.Dense(6, "relu")),
    Entry("Dense on (time, features)", (5, 4), lambda k: k.Dense(6, "relu")),
    Entry("EinsumDense", (5, 4), lambda k: k.EinsumDense("abc,cd->abd", (5, 6), "relu")),
    Entry("EinsumDense, two axes", (5, 4), lambda k: k.EinsumDense("abc,cde->abde", (5, 2, 3), "relu"), 1, 0),
    Entry("Conv1D", (9, 4), lambda k: k.Conv1D(6, 3, activation="relu")),
    Entry("Conv2D", (9, 9, 4), lambda k: k.Conv2D(6, 3, activation="relu")),
    Entry("Conv2D, grouped", (9, 9, 4), lambda k: k.Conv2D(6, 3, groups=2, activation="relu")),
    Entry("Conv3D", (5, 5, 5, 2), lambda k: k.Conv3D(4, 3, activation="relu")),
    Entry("Conv1DTranspose", (9, 4), lambda k: k.Conv1DTranspose(6, 3, activation="relu")),
    Entry("Conv2DTranspose", (5, 5, 4), lambda k: k.Conv2DTranspose(6, 3, activation="relu")),
    Entry("Conv3DTranspose", (4, 4, 4, 2), lambda k: k.Conv3DTranspose(4, 3, activation="relu")),
    Entry("DepthwiseConv1D", (9, 4), lambda k: k.DepthwiseConv1D(3, depth_multiplier=2, activation="relu")),
    Entry(
        "DepthwiseConv2D", (9, 9, 4), lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")
    ),
    Entry("SeparableConv1D", (9, 4), lambda k: k.SeparableConv1D(6, 3, activation="relu"), 2, 1),
    Entry("SeparableConv2D", (9, 9, 4), lambda k: k.SeparableConv2D(6, 3, activation="relu"), 2, 1),
    Entry("Embedding", (7,), lambda k: k.Embedding(10, 6), 1, 0),
    Entry("SimpleRNN", (5, 4), lambda k: k.SimpleRNN(6), 2, 0),
    Entry("GRU", (5, 4), lambda k: k.GRU(6), 2, 0),
    Entry("LSTM", (5, 4), lambda k: k.LSTM(6), 2, 0),
    Entry("ConvLSTM2D", (3, 5, 5, 2), lambda k: k.ConvLSTM2D(4, 3), 2, 0),
    Entry("RNN, stacked cells", (5, 4), lambda k: k.RNN([k.LSTMCell(6), k.GRUCell(4)]), 4, 0),
    Entry("Bidirectional(LSTM)", (5, 4), lambda k: k.Bidirectional(k.LSTM(6)), 4, 0),
    Entry("TimeDistributed(Dense)", (5, 4), lambda k: k.TimeDistributed(k.Dense(6, "relu"))),
    Entry("MultiHeadAttention", (5, 4), _attention, 4, 0),
    Entry("GroupedQueryAttention", (5, 4), _grouped_attention, 4, 0, kerases=("keras",)),
    Entry("LocallyConnected1D", (9, 4), lambda k: k.LocallyConnected1D(6, 3), 1, 0, kerases=("tf_keras",)),
    Entry("LocallyConnected2D", (5, 5, 4), lambda k: k.LocallyConnected2D(6, 3), 1, 0, kerases=("tf_keras",)),
]


def run(entry, keras, criterion, folder):
    """Yields the name of each step after its checks. Raises an error if a step fails."""
    model, (x, y) = entry.model(keras), entry.data()
    schedule = tfap.IterativeSparsity(0.3, updates=2, frequency=2)
    wrapped = tfap.prune(model, schedule, criterion, granularity="weight")
    np.testing.assert_array_equal(wrapped.predict(x, verbose=0), model.predict(x, verbose=0))
    (wrapper,) = tfap.prunable_layers(wrapped)
    yield "prune"

    wrapped.fit(x, y, batch_size=8, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    masks = wrapper.mask if isinstance(wrapper.mask, dict) else {"": wrapper.mask}
    sizes = [mask.numpy().size for mask in masks.values()]
    zeros = sum(int((mask.numpy() == 0).sum()) for mask in masks.values())
    assert zeros == round((1 - 0.7**2) * sum(sizes)) > 0
    assert len(sizes) == (entry.counted if wrapper.criterion.counts else entry.kernels)
    yield "two updates"

    for suffix in ("keras", "h5") if keras.__name__ == "tf_keras" else ("keras",):
        wrapped.save(folder / f"wrapped.{suffix}")
        loaded = keras.models.load_model(folder / f"wrapped.{suffix}")
        for saved, restored in zip(wrapped.get_weights(), loaded.get_weights()):
            np.testing.assert_array_equal(saved, restored)
        loaded.fit(x, y, batch_size=8, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    yield "save and load"

    plain = tfap.strip_pruning(wrapped)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), wrapped.predict(x, verbose=0))
    assert sum(int((weight == 0).sum()) for weight in plain.get_weights() if weight.ndim > 1) >= zeros
    yield "strip"

    tfap.export(plain, folder / "saved")
    saved_model = tf.saved_model.load(str(folder / "saved"))
    served = saved_model.serve(tf.constant(x, plain.inputs[0].dtype))
    np.testing.assert_allclose(served, plain.predict(x, verbose=0), atol=1e-5)
    yield "export"


def outcome(entry, keras, criterion):
    """Returns `yes` or the error for every step."""
    done = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            done.extend(run(entry, keras, criterion, pathlib.Path(folder)))
        except Exception as error:  # the table shows it
            first_line = (str(error).strip() or "no message").splitlines()[0]
            return ["yes"] * len(done) + [f"{type(error).__name__}: {first_line}"]
    return ["yes"] * len(done)


def main(_):
    logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", "You are saving your model as an HDF5 file")
    print(HEAD)
    print("| layer | weights | Keras | criterion | " + " | ".join(STEPS) + " |")
    print("|---|---:|---|---|" + "---|" * len(STEPS))
    for entry in ENTRIES:
        for name in entry.kerases:
            for criterion in ("magnitude", "activation_count"):
                weights = entry.kernels if criterion == "magnitude" else entry.counted
                cells = ["no firing"] * len(STEPS)
                if weights:
                    cells = outcome(entry, importlib.import_module(name), criterion)
                    cells += [""] * (len(STEPS) - len(cells))
                print(
                    f"| {entry.name} | {weights} | {name} | {criterion} | " + " | ".join(cells) + " |",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
