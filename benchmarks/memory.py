"""Measures the bytes per prunable weight of tfap's state: in memory, in the optimizer, and on disk.

    python benchmarks/memory.py

The model has two Dense layers with a million weights. It is pruned by activation counts and trained for one
step with Adam.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import pathlib
import tempfile

import numpy as np
from absl import app

import tfap


def build(keras):
    layers = [keras.layers.Input((1000,)), keras.layers.Dense(500, activation="relu")]
    layers += [keras.layers.Dense(1000, activation="relu"), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    return model


def bytes_of(variables):
    return sum(np.asarray(variable.numpy()).nbytes for variable in variables)


def file_size(model):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.weights.h5")
        model.save_weights(str(path))
        return path.stat().st_size


def optimizer_bytes(model):
    variables = model.optimizer.variables
    return bytes_of(variables() if callable(variables) else variables)


def main(_):
    print("| Keras | masks in memory | counts and steps in memory | added in the optimizer | added on disk |")
    print("|---|---:|---:|---:|---:|")
    for name in ("keras", "tf_keras"):
        keras = importlib.import_module(name)
        dense = build(keras)
        wrapped = tfap.prune(dense, tfap.ConstantSparsity(0.5, 1), granularity="weight")
        x, y = np.ones((8, 1000), "float32"), np.ones((8, 2), "float32")
        dense.fit(x, y, verbose=0)
        wrapped.fit(x, y, verbose=0, callbacks=[tfap.UpdatePruningStep()])
        masks = [layer.mask for layer in tfap.prunable_layers(wrapped)]
        weights = sum(mask.numpy().size for mask in masks)
        all_state = bytes_of(wrapped.weights) - bytes_of(dense.weights)
        figures = (
            bytes_of(masks),
            all_state - bytes_of(masks),
            optimizer_bytes(wrapped) - optimizer_bytes(dense),
            file_size(wrapped) - file_size(dense),
        )
        print(f"| {name} | " + " | ".join(f"{figure / weights:.3f} B" for figure in figures) + " |")


if __name__ == "__main__":
    app.run(main)
