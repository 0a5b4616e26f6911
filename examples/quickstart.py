"""Prunes a small model by activation counts, removes the pruned neurons, and exports it.

    python examples/quickstart.py [--dataset fashion_mnist] [--keras tf_keras]

The script trains a dense model, prunes whole neurons in a second training, and removes them. It then checks
that the exported SavedModel has the same outputs.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow logs

import importlib

import numpy as np
import rich
import rich.table
import tensorflow as tf
from absl import app, flags, logging

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", ["digits", "fashion_mnist"], "Images to train on.")
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras (Keras 2).")
flags.DEFINE_float("sparsity", 0.75, "Fraction of the weights in hidden layers to prune.", 0, 0.999)
flags.DEFINE_integer("epochs", None, "Epochs per training; depends on the dataset by default.", 1)
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("export_dir", "build/quickstart", "Folder for the SavedModel.")

EPOCHS = {"digits": 30, "fashion_mnist": 8}
HIDDEN = (256, 128)


def build(keras, data):
    model = keras.Sequential(
        [
            keras.layers.Input(data.x_train.shape[1:]),
            keras.layers.Flatten(),
            *[keras.layers.Dense(units, activation="relu") for units in HIDDEN],
            keras.layers.Dense(data.classes, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def accuracy(model, data):
    return model.evaluate(data.x_test, data.y_test, verbose=0, return_dict=True)["accuracy"]


def layer_table(pruned, compacted):
    table = rich.table.Table(title="Layers", title_justify="left")
    table.add_column("layer")
    for heading in ("kernel", "sparsity", "neurons", "kept"):
        table.add_column(heading, justify="right")
    for layer in pruned.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.get_weights()[0]
            shape, sparsity = "x".join(map(str, kernel.shape)), f"{np.mean(kernel == 0):.1%}"
            kept = compacted.get_layer(layer.name).units
            table.add_row(layer.name, shape, sparsity, str(layer.units), str(kept))
    return table


def summary_table(dense, pruned, compacted, data):
    table = rich.table.Table(title="Model", title_justify="left")
    table.add_column("")
    table.add_column("weights", justify="right")
    table.add_column("test accuracy", justify="right")
    for name, model in (("dense", dense), ("pruned", pruned), ("compacted", compacted)):
        table.add_row(name, f"{model.count_params():,}", f"{accuracy(model, data):.2%}")
    return table


def train_and_prune(keras, data, epochs, sparsity, seed):
    """Returns the dense, pruned, and compacted models."""
    keras.utils.set_random_seed(seed)
    dense = build(keras, data)
    dense.fit(data.x_train, data.y_train, epochs=epochs, verbose=0)

    wrapped = tfap.prune(dense, sparsity)
    callbacks = [tfap.UpdatePruningStep()]
    wrapped.fit(data.x_train, data.y_train, epochs=epochs, verbose=0, callbacks=callbacks)
    pruned = tfap.strip_pruning(wrapped)
    return dense, pruned, tfap.compact(pruned)


def main(_):
    logging.set_verbosity(logging.ERROR)  # hides the messages of Keras's exporters
    keras = importlib.import_module(FLAGS.keras)
    data = load(FLAGS.dataset)
    epochs = FLAGS.epochs or EPOCHS[FLAGS.dataset]
    dense, pruned, compacted = train_and_prune(keras, data, epochs, FLAGS.sparsity, FLAGS.seed)

    rich.print(layer_table(pruned, compacted))
    rich.print(summary_table(dense, pruned, compacted, data))
    expected = compacted.predict(data.x_test, verbose=0)
    difference = np.abs(pruned.predict(data.x_test, verbose=0) - expected).max()
    times = dense.count_params() / compacted.count_params()
    print(f"{times:.1f} times fewer weights; largest output difference {difference:.1e}")
    np.testing.assert_array_less(difference, 1e-5)

    tfap.export(compacted, FLAGS.export_dir)
    saved_model = tf.saved_model.load(FLAGS.export_dir)
    np.testing.assert_allclose(saved_model.serve(data.x_test), expected, atol=1e-5)
    print(f"SavedModel in {FLAGS.export_dir}: reloaded, same outputs")


if __name__ == "__main__":
    app.run(main)
