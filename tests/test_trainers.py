"""Every way to train: counts stay exact and pruned weights zero, on one replica and on two."""

import functools
import importlib
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import replicas
import tensorflow as tf

import tfap

ROOT = pathlib.Path(__file__).parent.parent

# -- replicas --------------------------------------------------------------------------------------


def start(*arguments):
    command = [sys.executable, ROOT / "tests/replicas.py", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(*processes):
    for process in processes:
        printed, _ = process.communicate()
        assert process.returncode == 0, printed.decode()


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    file = tmp_path_factory.mktemp("replicas") / "mirrored.npz"
    finish(start("mirrored", file))
    return np.load(file)


@functools.cache
def on_one_device(keras, criterion="activation_count"):
    """The state after the same training, which did count and prune."""
    expected = replicas.state(replicas.train(keras, criterion=criterion))
    for name in ("pointwise", "dense"):
        assert 0.6 < np.mean(expected[f"{name} mask"] == 0) < 0.8
        assert expected[f"{name} updates"] == 13 and expected[f"{name} step"] == 4 * 7 + 3
    if criterion != "activation_count":
        return expected
    # All steps, or 1, 3, ...; the last one has one sample, on one replica.
    samples = {"keras": 4 * 52 + 17, "tf_keras": 2 * (28 + 24) + 9}[keras.__name__]
    assert expected["dense seen"] == samples and expected["relu seen"] == 25 * samples
    assert all(0 < expected[f"{name} counts"].max() < expected[f"{name} seen"] for name in ("relu", "dense"))
    return expected


def assert_replicas_equal(found, expected, replicas_here):
    """Weights, masks, counts and steps of every replica, to the last bit."""
    for what, (value,) in expected.items():
        assert len(found[what]) == replicas_here, what
        for of_one in found[what]:
            np.testing.assert_array_equal(of_one, value, what)


@pytest.mark.tensorflow_only(reason="MirroredStrategy")
@pytest.mark.parametrize("how", replicas.MIRRORED)
@pytest.mark.slow
def test_two_replicas_equal_one(how, mirrored):
    found = {name.removeprefix(f"{how}: "): mirrored[name] for name in mirrored if name.startswith(how)}
    criterion = replicas.MIRRORED[how].get("criterion", "activation_count")
    assert_replicas_equal(found, on_one_device(importlib.import_module(how.split(",")[0]), criterion), 2)


@pytest.mark.tensorflow_only(reason="MirroredStrategy")
@pytest.mark.one_keras
def test_a_strategy_of_one_replica(keras_module):
    found = replicas.state(replicas.train(keras_module, tf.distribute.MirroredStrategy(["CPU:0"])))
    assert_replicas_equal(found, on_one_device(keras_module), 1)


@pytest.mark.tensorflow_only(reason="MultiWorkerMirroredStrategy")
@pytest.mark.slow
def test_two_workers_equal_one(tmp_path):
    ports = [free_port(), free_port()]
    files = [tmp_path / f"{index}.npz" for index in range(2)]
    finish(*(start("worker", file, index, *ports) for index, file in enumerate(files)))
    for file in files:
        assert_replicas_equal(np.load(file), on_one_device(importlib.import_module("tf_keras")), 1)


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


# -- counts ----------------------------------------------------------------------------------------

SAMPLES, BATCH = 52, 8  # seven steps, the last one smaller


def on_a_grid(keras, policy=None, **compile_arguments):
    """A net of which sums are exact in any precision and weights do not move, data, and its counts."""
    layers, generator = keras.layers, np.random.default_rng(0)
    hidden = layers.Dense(16, activation="relu", name="hidden", dtype=policy)
    model = keras.Sequential([layers.Input((12,)), hidden, layers.Dense(3, "softmax", dtype="float32")])
    model.set_weights([generator.integers(-16, 17, w.shape) / 64 for w in model.get_weights()])
    optimizer = compile_arguments.pop("optimizer", None) or keras.optimizers.SGD(0.0)
    model.compile(optimizer, "sparse_categorical_crossentropy", **compile_arguments)
    x = generator.integers(-2, 3, (SAMPLES, 12)).astype("float32")
    kernel, bias = model.get_layer("hidden").get_weights()
    return model, x, generator.integers(0, 3, SAMPLES), (x @ kernel + bias > 0).sum(axis=0)


HOW = {
    "compiled, in float16": {"policy": "mixed_float16", "jit_compile": True},
    "in bfloat16, several steps at once": {"policy": "mixed_bfloat16", "steps_per_execution": 3},
    "eager, several steps at once": {"run_eagerly": True, "steps_per_execution": 3},
}


SEVERAL = pytest.mark.not_on_torch(reason="Keras takes one step per execution there")


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=SEVERAL if "several steps" in how else []) for how in HOW]
)
@pytest.mark.filterwarnings("ignore:.*mixed_float16 may run slowly.*")
def test_counts_are_exact_however_steps_run(keras_module, how):
    model, x, y, fired = on_a_grid(keras_module, **HOW[how])
    last = tfap.ConstantSparsity(0.5, 14, end_step=14, frequency=1)
    wrapped = tfap.prune(model, last, granularity="weight")
    wrapped.fit(x, y, epochs=2, batch_size=BATCH, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    (wrapper,) = tfap.prunable_layers(wrapped)
    np.testing.assert_array_equal(wrapper.activation_counts.numpy(), 2 * fired)
    assert 0 < fired.min() < fired.max() < SAMPLES
    assert int(wrapper.activations_seen.numpy()) == 2 * SAMPLES
    assert int(wrapper.pruning_step.numpy()) == int(wrapper.last_update_step.numpy()) == 14
    assert (wrapper.layer.get_weights()[0] == 0).sum() >= (wrapper.mask.numpy() == 0).sum() == 96


@pytest.mark.one_keras
def test_every_sample_counts_once_whatever_its_weight_and_however_it_comes(keras_module):
    model, x, y, fired = on_a_grid(keras_module)
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 10**6))
    (wrapper,) = tfap.prunable_layers(wrapped)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(SAMPLES, seed=0).batch(BATCH)

    class Batches(getattr(keras_module.utils, "PyDataset", keras_module.utils.Sequence)):
        def __len__(self):
            return 7

        def __getitem__(self, index):
            rows = slice(BATCH * index, BATCH * (index + 1))
            return x[rows], y[rows]

    weights = np.arange(SAMPLES) % 3.0  # a third of the samples weighs nothing
    ways = [
        {"x": x, "y": y, "batch_size": BATCH, "sample_weight": weights},
        {"x": x, "y": y, "batch_size": BATCH, "class_weight": {0: 0.0, 1: 1.0, 2: 5.0}},
        {"x": dataset},
        {"x": Batches()},
    ]
    for number, way in enumerate(ways, 1):
        wrapped.fit(**way, shuffle=False, verbose=0, callbacks=[tfap.UpdatePruningStep()])
        np.testing.assert_array_equal(wrapper.activation_counts.numpy(), number * fired)
        assert int(wrapper.activations_seen.numpy()) == number * SAMPLES
        assert int(wrapper.pruning_step.numpy()) == 7 * number


# -- zeros -----------------------------------------------------------------------------------------

OPTIMIZERS = {
    "Adam": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    "AdamW": {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3},
    "RMSprop": {"momentum": 0.9, "weight_decay": 0.1},
    "Lion": {"weight_decay": 0.1},
    "SGD": {"momentum": 0.9, "weight_decay": 0.1, "gradient_accumulation_steps": 3},
}


@pytest.mark.one_keras
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.smoke if name in ("Adam", "SGD") else []) for name in OPTIMIZERS],
)
@pytest.mark.slow
def test_zeros_stay_zero_through_every_optimizer(keras_module, name):
    """After every step, before and behind the callback in the list, and after averages have taken over."""
    settings = OPTIMIZERS[name]
    if keras_module.__name__ == "tf_keras":
        settings = {key: value for key, value in settings.items() if key != "gradient_accumulation_steps"}

    class Watch(keras_module.callbacks.Callback):
        pruned = steps = 0

        def on_train_batch_end(self, batch, logs=None):
            (wrapper,) = tfap.prunable_layers(self.model)
            gone = wrapper.mask.numpy() == 0
            assert not wrapper.layer.get_weights()[0][gone].any()
            self.pruned, self.steps = self.pruned + gone.sum(), self.steps + 1

    optimizer = getattr(keras_module.optimizers, name)(0.01, **settings)
    model, x, y, _ = on_a_grid(keras_module, optimizer=optimizer)
    before = model.get_weights()[0]
    schedule = tfap.PolynomialDecay(0.0, 0.75, 1, 9, frequency=1)
    wrapped = tfap.prune(model, schedule, granularity="weight")
    watches = [Watch(), Watch()]
    callbacks = [watches[0], tfap.UpdatePruningStep(), watches[1]]
    wrapped.fit(x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=callbacks)
    assert [watch.steps for watch in watches] == [14, 14] and min(watch.pruned for watch in watches) > 500
    (wrapper,) = tfap.prunable_layers(wrapped)
    kernel, alive = wrapper.layer.get_weights()[0], wrapper.mask.numpy() == 1
    assert (kernel == 0).sum() >= (~alive).sum() == 144 and not kernel[~alive].any()
    assert (kernel[alive] != before[alive]).mean() > 0.9  # and the others were trained
    assert int(wrapper.activations_seen.numpy()) == 2 * SAMPLES
