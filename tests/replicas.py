"""A training whose result does not depend on how many replicas share it, and scripts that run it on two.

Weights are multiples of 1/64 and Lion moves them by 1/64 a step, so sums are exact in any order; samples are
whole numbers. TensorFlow wants to know its devices before it starts, so every script is a process:

    python tests/replicas.py mirrored FILE            two CPU devices, both Kerases
    python tests/replicas.py worker FILE INDEX PORTS  one of two workers of tf_keras
"""

import importlib
import json
import os
import pathlib
import sys
import tempfile

import numpy as np
import tensorflow as tf

GRID = 1 / 64
MIRRORED = {  # of each Keras, with the arguments of `train`; tf_keras refuses gradients
    "keras, whole": {},
    "keras, stopped": {"stop": True},
    "keras, by gradient": {"criterion": "gradient"},
    "tf_keras, whole": {},
    "tf_keras, stopped": {"stop": True},
}
SAMPLE_EVERY = {"keras": 1, "tf_keras": 2}  # counts outside and inside a tf.cond


def train(keras, strategy=None, criterion="activation_count", stop=False):
    """Four epochs of seven steps, the last one smaller; three steps in eager mode, the last of one sample.

    With a stop the model is saved after two epochs, and another loaded in the strategy's scope goes on.
    """
    import tfap  # a MultiWorkerMirroredStrategy must come first

    generator = np.random.default_rng(0)
    x, y = generator.integers(-2, 3, (52, 5, 5, 2)).astype("float32"), generator.integers(0, 3, 52)
    layers = keras.layers
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        stack = [layers.Input((5, 5, 2)), layers.Dense(4, name="pointwise"), layers.ReLU(name="relu")]
        stack += [layers.Flatten(), layers.Dense(16, activation="relu", name="dense")]
        stack += [layers.Dense(3, name="output")]
        model = keras.Sequential(stack)
        model.set_weights([GRID * generator.integers(-16, 17, w.shape) for w in model.get_weights()])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Lion(GRID), loss)
        every = SAMPLE_EVERY[keras.__name__]
        schedule = tfap.PolynomialDecay(0.0, 0.7, 2, 26, frequency=2)
        model = tfap.prune(
            model, schedule, criterion, scope="local", granularity="weight", sample_every=every
        )
    callback = tfap.UpdatePruningStep(gradient_data=(x, y))
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0, "callbacks": [callback]}
    if stop:
        model.fit(x, y, epochs=2, **fit)
        with tempfile.TemporaryDirectory() as folder, strategy.scope():
            path = pathlib.Path(folder, "model.keras")
            model.save(path)
            model = keras.models.load_model(path)
    model.fit(x, y, epochs=4, initial_epoch=2 if stop else 0, **fit)
    with strategy.scope():  # no updates: a mean over replicas of which one has no sample is another mean
        model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    model.fit(x[:17], y[:17], **fit)
    return model


def state(model):
    """What is to be equal, by name; of every variable a row for each of its replicas."""
    import tfap

    found = {}
    for wrapper in tfap.prunable_layers(model):
        ((_, kernel, mask),) = wrapper.kernel_and_mask()
        name = wrapper.name
        found |= {f"{name} kernel": rows(kernel), f"{name} mask": rows(mask)}
        found |= {f"{name} step": rows(wrapper.pruning_step), f"{name} updates": rows(wrapper.updates_made)}
    for counter in (model.layers[1], tfap.prunable_layers(model)[1]):
        if getattr(counter, "activation_counts", None) is None:
            continue  # another criterion
        found |= {f"{counter.name} counts": rows(counter.activation_counts)}
        found |= {f"{counter.name} seen": rows(counter.activations_seen)}
    return found


def rows(variable):
    inner = getattr(variable, "value", variable)  # Keras 3's variable holds TensorFlow's
    inner = inner if isinstance(inner, tf.Variable) else variable
    return np.stack([one.numpy() for one in getattr(inner, "values", [inner])])


def mirrored(file):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {}
    for how, arguments in MIRRORED.items():
        model = train(importlib.import_module(how.split(",")[0]), strategy, **arguments)
        found |= {f"{how}: {what}": value for what, value in state(model).items()}
    np.savez(file, **found)


def worker(file, index, *ports):
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": int(index)}}
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    np.savez(file, **state(train(importlib.import_module("tf_keras"), strategy)))


if __name__ == "__main__":
    {"mirrored": mirrored, "worker": worker}[sys.argv[1]](*sys.argv[2:])
