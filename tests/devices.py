"""The training of tests/replicas.py on JAX: on one device, on two, and in two processes.

    export KERAS_BACKEND=jax
    python tests/devices.py FILE one 1                        one CPU device
    python tests/devices.py FILE data 2                       each device has a part of the batch
    python tests/devices.py FILE model 2                      each device has a part of a kernel
    python tests/devices.py FILE data 1 INDEX PROCESSES PORT  one of several processes

JAX wants to know its devices before it starts, so every script is a process. The module itself must not
choose the backend: pytest imports it to look for examples in docstrings.
"""

import os
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
    keras.utils.set_random_seed(0)  # Keras wants the same first weights in every process
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


def distribution(how, processes):
    """Batches or kernels over all devices; None for one device."""
    if how == "one":
        return None
    if how == "data":  # with several processes, each has its own part of the data already
        return keras.distribution.DataParallel(auto_shard_dataset=processes == 1)
    layouts = keras.distribution.LayoutMap(keras.distribution.DeviceMesh((1, 2), ("batch", "model")))
    layouts[".*dense/kernel.*"] = (None, "model")  # and dense/kernel_mask
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def main(file, how, devices, index=0, processes=1, port=None):
    devices, index, processes = int(devices), int(index), int(processes)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"  # older JAX has no setting
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", processes, index)
    assert (jax.device_count(), jax.process_count()) == (devices * processes, processes)
    keras.distribution.set_distribution(distribution(how, processes))
    model = train(index, processes)
    ((_, kernel, mask),) = tfap.prunable_layers(model)[1].kernel_and_mask()
    sharded = how == "model"
    assert kernel.value.sharding.is_fully_replicated == mask.value.sharding.is_fully_replicated != sharded
    found = state(model)
    stripped = tfap.strip_pruning(model)
    keras.distribution.set_distribution(None)  # the sizes that are left need not divide by the devices
    found["units"] = [layer.units for layer in tfap.compact(stripped).layers if hasattr(layer, "units")]
    np.savez(file, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
