"""The training of tests/replicas.py on JAX: on one device, on two, and in two processes.

    python tests/jax_devices.py FILE DEVICES                        one process with so many CPU devices
    python tests/jax_devices.py FILE DEVICES INDEX PROCESSES PORT   one of several such processes

JAX wants to know its devices before it starts, so every script is a process.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import pathlib
import sys
import tempfile

import jax
import keras
import numpy as np

import tfap

GRID = 1 / 64
SAMPLES, BATCH = 56, 8  # seven steps an epoch


def data(index, processes):
    """A process's share: its part of each batch, as keras.distribution wants it."""
    generator = np.random.default_rng(0)
    x = generator.integers(-2, 3, (SAMPLES, 5, 5, 2)).astype("float32")
    y = generator.integers(0, 3, SAMPLES)
    mine = np.arange(SAMPLES).reshape(-1, processes, BATCH // processes)[:, index].ravel()
    return x[mine], y[mine]


def pruned_model():
    generator = np.random.default_rng(0)
    layers = keras.layers
    stack = [layers.Input((5, 5, 2)), layers.Dense(4, name="pointwise"), layers.ReLU(name="relu")]
    stack += [layers.Flatten(), layers.Dense(16, activation="relu", name="dense")]
    stack += [layers.Dense(3, name="output")]
    model = keras.Sequential(stack)
    model.set_weights([GRID * generator.integers(-16, 17, w.shape) for w in model.get_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Lion(GRID), loss)
    schedule = tfap.PolynomialDecay(0.0, 0.7, 2, 26, frequency=2)
    return tfap.prune(model, schedule, scope="local", granularity="weight")


def train(index=0, processes=1):
    """Four epochs of seven steps; between two of them, the model is saved and another one is loaded."""
    x, y = data(index, processes)
    fit = {"batch_size": BATCH // processes, "shuffle": False, "verbose": 0}
    model = pruned_model()
    model.fit(x, y, epochs=2, **fit, callbacks=[tfap.UpdatePruningStep()])
    with tempfile.TemporaryDirectory() as folder:  # every process writes and reads a file of its own
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        model = keras.models.load_model(path)
    model.fit(x, y, epochs=4, initial_epoch=2, **fit, callbacks=[tfap.UpdatePruningStep()])
    return model


def state(model):
    """What is to be equal, by name."""
    found = {}
    for wrapper in tfap.prunable_layers(model):
        ((_, kernel, mask),) = wrapper.kernel_and_mask()
        found[f"{wrapper.name} kernel"] = keras.ops.convert_to_numpy(kernel)
        found[f"{wrapper.name} mask"] = keras.ops.convert_to_numpy(mask)
        found[f"{wrapper.name} step"] = int(wrapper.pruning_step)
        found[f"{wrapper.name} updates"] = int(wrapper.updates_made)
    for counter in (model.layers[1], tfap.prunable_layers(model)[1]):
        found[f"{counter.name} counts"] = np.asarray(counter.activation_counts)
        found[f"{counter.name} seen"] = int(counter.activations_seen)
    return found


def main(file, devices, index=0, processes=1, port=None):
    devices, index, processes = int(devices), int(index), int(processes)
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", processes, index)
    assert (jax.device_count(), jax.process_count()) == (devices * processes, processes)
    if devices * processes > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    np.savez(file, **state(train(index, processes)))


if __name__ == "__main__":
    main(*sys.argv[1:])
