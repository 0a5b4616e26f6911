"""Files and stops: what is saved comes back, and a training that goes on ends as if it had never stopped."""

import os
import pathlib
import subprocess
import sys

import nets
import numpy as np
import pytest

import tfap

ROOT = pathlib.Path(__file__).parent.parent
SCHEDULE = tfap.PolynomialDecay(0.0, 0.8, 2, 14, frequency=2)  # of 16 steps in four epochs

TWO_EPOCHS = """
import sys, numpy as np, {keras} as keras, nets, tfap
first, source, target = int(sys.argv[1]), sys.argv[2], sys.argv[3]
keras.utils.set_random_seed(7)
model = keras.models.load_model(source)
nets.fit(model, epochs=first + 2, initial_epoch=first)
model.save(target)
"""


def with_dropout(keras):
    """With random layers on Keras 3, where their state is restored; on tf_keras it cannot be."""
    layers = keras.layers
    stack = [layers.Input((12,)), layers.Dense(16, activation="relu", name="a")]
    stack += (
        [layers.Dropout(0.3, seed=5), layers.GaussianNoise(0.1, seed=6)] if keras.__name__ == "keras" else []
    )
    stack += [
        layers.Dense(8, name="b"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dense(4, "softmax"),
    ]
    model = keras.Sequential(stack)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return tfap.prune(model, SCHEDULE, granularity="weight")


def assert_same_state(first, second):
    assert nets.pruned_weights(first) > 0
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(tfap.prunable_layers(first), tfap.prunable_layers(second), strict=True):
        np.testing.assert_array_equal(ours.activation_counts.numpy(), theirs.activation_counts.numpy())


@pytest.mark.slow
def test_two_epochs_and_two_in_new_processes_equal_four(keras_module, tmp_path):
    straight = with_dropout(keras_module)
    straight.save(tmp_path / "0.keras")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    code = TWO_EPOCHS.format(keras=keras_module.__name__)
    for first in (0, 2):
        files = [str(tmp_path / f"{epoch}.keras") for epoch in (first, first + 2)]
        command = [sys.executable, "-c", code, str(first), *files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    nets.fit(straight, epochs=4)
    resumed = keras_module.models.load_model(tmp_path / "4.keras", safe_mode=True)
    assert_same_state(straight, resumed)
    for ours, theirs in zip(straight.optimizer.variables, resumed.optimizer.variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("order", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_an_update_due_at_the_stop_happens_once(keras_module, tmp_path, order):
    """The file is written before or after the update at step 8, the end of the second epoch."""
    straight = with_dropout(keras_module)
    stopped = with_dropout(keras_module)
    stopped.set_weights(straight.get_weights())
    nets.fit(straight, epochs=4)

    checkpoint = keras_module.callbacks.ModelCheckpoint(str(tmp_path / "stop.keras"), save_freq=8)
    callbacks = [checkpoint, tfap.UpdatePruningStep()]
    nets.fit(stopped, epochs=2, callbacks=callbacks if order == "before" else callbacks[::-1])
    resumed = keras_module.models.load_model(tmp_path / "stop.keras")
    updated = [int(layer.last_update_step.numpy()) for layer in tfap.prunable_layers(resumed)]
    assert updated == ([6, 6] if order == "before" else [8, 8])
    nets.fit(resumed, epochs=4, initial_epoch=2)
    assert_same_state(straight, resumed)


@pytest.mark.one_keras
def test_a_checkpoint_is_sparse_whatever_the_order_of_the_callbacks(keras_module, tmp_path):
    checkpoint = keras_module.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    nets.fit(with_dropout(keras_module), epochs=4, callbacks=[checkpoint, tfap.UpdatePruningStep()])
    for epoch in (2, 3, 4):
        model = keras_module.models.load_model(tmp_path / f"{epoch}.keras")
        for layer in tfap.prunable_layers(model):
            pruned = layer.mask.numpy() == 0
            assert pruned.any() and not layer.layer.get_weights()[0][pruned].any()


@pytest.mark.parametrize(
    "keras_module, suffix",  # Keras 3 writes no TensorFlow checkpoints
    [("keras", ".weights.h5"), ("tf_keras", ".weights.h5"), ("tf_keras", ".tf")],
    indirect=["keras_module"],
)
@pytest.mark.one_keras
def test_weights_only_files(keras_module, tmp_path, suffix):
    trained, fresh = with_dropout(keras_module), with_dropout(keras_module)
    fresh.optimizer.build(fresh.trainable_variables)  # Keras 3 loads no optimizer that is not there
    nets.fit(trained, epochs=4)
    trained.save_weights(str(tmp_path / f"model{suffix}"))
    fresh.load_weights(str(tmp_path / f"model{suffix}"))
    assert_same_state(trained, fresh)


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_that_is_not_built_yet(keras_module, tmp_path):
    layers = keras_module.layers
    hidden = tfap.prune(layers.Dense(8, activation="relu"), 0.5, granularity="weight")
    keras_module.Sequential([hidden, layers.Dense(3, "softmax")]).save(tmp_path / "model.keras")
    model = nets.compiled(keras_module, keras_module.models.load_model(tmp_path / "model.keras"))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model.fit(x, np.zeros(64), epochs=4, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    assert nets.pruned_weights(model) == 16


def test_a_file_that_does_not_fit_says_why(keras_module, tmp_path):
    trained = tfap.prune(nets.mlp(keras_module), 0.5)
    trained.save_weights(str(tmp_path / "model.weights.h5"))
    other = tfap.prune(nets.mlp(keras_module, (12, 16, 9, 4)), 0.5)
    with pytest.raises(Exception, match="hidden_1"):
        other.load_weights(str(tmp_path / "model.weights.h5"))


def test_masks_take_one_bit_on_disk(keras_module, tmp_path):
    import h5py

    wrapped = tfap.prune(nets.mlp(keras_module, (64, 128, 4)), 0.5, "magnitude")
    tfap.update_masks(wrapped, 0.5)
    wrapped.save_weights(str(tmp_path / "model.weights.h5"))
    sizes = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: sizes.append(item.nbytes) if name.endswith("kernel_mask") else None
        )
    assert sizes == [64 * 128 // 8]


@pytest.mark.slow
def test_kill_and_resume():
    """Two kills here; benchmarks/kill_and_resume.py does twenty."""
    script = ROOT / "benchmarks/kill_and_resume.py"
    done = subprocess.run(
        [sys.executable, script, "--kills=2", "--epochs=20"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ", 0 different" in done.stdout
