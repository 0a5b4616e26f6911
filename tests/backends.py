"""A training at fixed weights whose counts and masks every backend must give, and the table of masks.

Each backend of Keras 3 needs a process of its own:

    KERAS_BACKEND=jax python tests/backends.py train FILE FOLDER    trains; writes arrays and .keras files
    KERAS_BACKEND=jax python tests/backends.py read FILE FOLDER     reads those files of another backend
"""

import pathlib
import sys

import keras
import nets
import numpy as np
import pytest

import tfap
from tfap.layers.find import with_paths

SAMPLES, BATCH = 40, 16  # the last batch is smaller
CRITERIA = {
    "counts": "activation_count",
    "decaying": tfap.ActivationCount(decay=0.5, weighted=False),
    "magnitude": "magnitude",
    "ap": "ap",
    "lookahead": "lookahead",
}


def net():
    """Weights are multiples of 1/8 and samples whole numbers, so that sums are exact in any order."""
    layers = keras.layers
    inputs = keras.Input((6, 6, 2))
    x = a = layers.ReLU(name="relu_a")(layers.Conv2D(4, 3, padding="same", name="conv_a")(inputs))
    x = layers.Conv2D(4, 3, padding="same", name="conv_b")(x)
    x = layers.Activation("relu", name="relu_b")(layers.Add(name="add")([a, x]))
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(x)
    x = layers.Dense(10, activation="relu", name="dense")(layers.Flatten(name="flatten")(x))
    model = keras.Model(inputs, layers.Dense(3, name="output")(x))
    generator = np.random.default_rng(0)
    model.set_weights([generator.integers(-4, 5, w.shape) / 8 for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def data():
    generator = np.random.default_rng(1)
    return generator.integers(-2, 3, (SAMPLES, 6, 6, 2)).astype("float32"), np.zeros((SAMPLES, 3), "float32")


def trained(criterion):
    schedule = tfap.PolynomialDecay(0.0, 0.6, 2, 8, frequency=2)
    model = tfap.prune(net(), schedule, criterion, granularity="weight")
    model.fit(
        *data(), batch_size=BATCH, epochs=3, shuffle=False, verbose=0, callbacks=[tfap.UpdatePruningStep()]
    )
    return model


def state(model):
    """What is to be equal, by name."""
    found = {}
    for path, wrapper in with_paths(model):
        found[f"{path} mask"] = wrapper.mask.numpy()
        found[f"{path} step"] = np.asarray(wrapper.pruning_step.numpy(), "int64")
        found[f"{path} updates"] = np.asarray(wrapper.updates_made.numpy(), "int64")
        counted = wrapper.remembered()
        if counted is not None:
            found[f"{path} counts"] = np.asarray(wrapper.activation_counts.numpy())
            found[f"{path} remembered"] = np.asarray(counted.counts, "float64")
            found[f"{path} seen"] = np.asarray(counted.seen, "float64")
    return found


def measured():
    return {
        f"{positions} {path}": np.append(counts.counts, counts.seen)
        for positions in (False, True)
        for path, counts in tfap.measure_activations(net(), data()[0], BATCH, positions=positions).items()
    }


def train(file, folder):
    found = {f"measured {name}": value for name, value in measured().items()}
    for name, criterion in CRITERIA.items():
        model = trained(criterion)
        model.save(pathlib.Path(folder, f"{name}.keras"))
        found |= {f"{name} {what}": value for what, value in state(model).items()}
    gradient = tfap.prune(net(), 0.5, "gradient")
    tfap.update_masks(gradient, 0.5, data())
    found |= {f"gradient {what}": value for what, value in state(gradient).items()}
    np.savez(file, **found)


def read(file, folder):
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.keras")):
        model = keras.models.load_model(path)
        found |= {f"{path.stem} {what}": value for what, value in state(model).items()}
        if "backend.torch" in type(model.optimizer).__module__ and keras.config.backend() != "torch":
            with pytest.raises(ValueError, match="computes on PyTorch: .* Call compile"):
                model.fit(*data(), verbose=0, callbacks=[tfap.UpdatePruningStep()])
            model.compile(keras.optimizers.SGD(0.0), "mse")
        model.fit(*data(), batch_size=BATCH, verbose=0, shuffle=False, callbacks=[tfap.UpdatePruningStep()])
        assert int(tfap.prunable_layers(model)[0].pruning_step.numpy()) == 12
        assert nets.pruned_weights(model) > 0
    np.savez(file, **found)


if __name__ == "__main__":
    {"train": train, "read": read}[sys.argv[1]](*sys.argv[2:])
