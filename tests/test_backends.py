"""The same counts and masks on every backend, and pruned weights that are zero after every step."""

import itertools
import os
import pathlib
import subprocess
import sys

import backends
import keras
import nets
import numpy as np
import pytest

import tfap
from tfap.keras_compat.backends import of_keras3

HERE = keras.config.backend()
OTHER = "jax" if HERE == "tensorflow" else "tensorflow"
FOLDER = pathlib.Path(__file__).parent


def in_process(backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parent), str(FOLDER)])
    command = [sys.executable, str(FOLDER / "backends.py"), *map(str, arguments)]
    subprocess.run(command, env=environment, check=True)


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype, name
        np.testing.assert_array_equal(found[name], expected[name], name)


@pytest.mark.slow
def test_counts_masks_and_files_are_those_of_another_backend(tmp_path):
    pytest.importorskip(OTHER)
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir(), other.mkdir()
    backends.train(tmp_path / "here.npz", here)
    in_process(OTHER, "train", tmp_path / "other.npz", other)
    found, expected = np.load(tmp_path / "here.npz"), np.load(tmp_path / "other.npz")
    assert_equal(found, expected)
    assert all(np.any(found[name] == 0) for name in found if name.endswith("dense mask"))
    backends.read(tmp_path / "read_here.npz", other)
    in_process(OTHER, "read", tmp_path / "read_other.npz", here)
    of_files = {name: found[name] for name in found if not name.startswith(("gradient", "measured"))}
    assert_equal(np.load(tmp_path / "read_here.npz"), of_files)
    assert_equal(np.load(tmp_path / "read_other.npz"), of_files)


# -- zeros after every step --------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {},
    "AdamW": {"clipnorm": 1.0},
    "RMSprop": {},
    "Adagrad": {},
    "Adadelta": {},
    "Adamax": {},
    "Nadam": {},
    "Ftrl": {},
    "Lion": {},
}
MODES = {
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "steps": {"steps_per_execution": 3},
    "mixed": {},
    "accumulation": {},
    "ema": {},
}
OF_OPTIMIZER = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "ema": {"use_ema": True, "ema_overwrite_frequency": 2},
}
QUICK = {("SGD", "jit"), ("Adam", "eager"), ("AdamW", "accumulation"), ("SGD", "ema"), ("Adam", "steps"),
         ("Adam", "mixed")}  # fmt: skip
TABLE = [
    pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow)
    for pair in itertools.product(OPTIMIZERS, MODES)
    if HERE != "torch" or pair[1] != "steps"  # Keras has none there
]


class Watch(keras.callbacks.Callback):
    """Counts the zeros of the masks after each batch, and finds pruned weights that are not zero."""

    def __init__(self):
        super().__init__()
        self.pruned = []

    def on_train_batch_end(self, batch, logs=None):
        self.pruned.append(0)
        for wrapper in tfap.prunable_layers(self.model):
            kernel, gone = wrapper.layer.get_weights()[0], wrapper.mask.numpy() == 0
            assert not kernel[gone].any(), wrapper.name
            assert kernel[~gone].any()
            self.pruned[-1] += int(gone.sum())


@pytest.mark.parametrize("optimizer,mode", TABLE)
def test_zeros_are_zero_after_every_step(optimizer, mode):
    policy = "mixed_bfloat16" if mode == "mixed" else "float32"
    layers = keras.layers
    model = keras.Sequential([
        layers.Input((5,)),
        layers.Dense(8, "relu", dtype=policy),
        layers.Dense(8, "relu", dtype=policy),
        layers.Dense(3, "softmax", dtype="float32"),
    ])  # fmt: skip
    arguments = {"learning_rate": 0.05, **OPTIMIZERS[optimizer], **OF_OPTIMIZER.get(mode, {})}
    model.compile(getattr(keras.optimizers, optimizer)(**arguments), "sparse_categorical_crossentropy",
                  **MODES[mode])  # fmt: skip
    schedule = tfap.PolynomialDecay(0.0, 0.8, 1, 9, frequency=1)
    model, watch = tfap.prune(model, schedule, granularity="weight"), Watch()
    before = [wrapper.layer.get_weights()[0] for wrapper in tfap.prunable_layers(model)]
    nets.fit(model, epochs=3, callbacks=[watch, tfap.UpdatePruningStep()])
    assert watch.pruned == sorted(watch.pruned) and watch.pruned[-1] > 0
    for wrapper, earlier in zip(tfap.prunable_layers(model), before):
        kept = wrapper.mask.numpy() == 1
        assert (wrapper.layer.get_weights()[0] != earlier)[kept].any()  # it has trained


# -- state -------------------------------------------------------------------------------------------


def test_counts_are_exact_beyond_32_bits():
    model = tfap.prune(nets.mlp(keras), tfap.ConstantSparsity(0.5, 1000))
    wrapper = tfap.prunable_layers(model)[0]
    start = 2**40 + 2**30 - 1
    nets.set_counts(wrapper, np.full(16, start), start)
    nets.fit(model)
    counts = wrapper.activation_counts.numpy()
    assert counts.dtype == "int64" and int(wrapper.activations_seen) == start + 64
    assert (counts >= start).all() and (counts > start).any() and (counts <= start + 64).all()


DTYPE = {"jax": "float32"}.get(HERE, "float64")


def test_small_numbers_add_to_large_sums():
    """200 times 1/3, beside a sum to which float32 could not add it."""
    model = tfap.prune(nets.mlp(keras), 0.5, tfap.ActivationCount(statistic="sum"))
    wrapper, (backend, total) = tfap.prunable_layers(model)[0], (of_keras3(), np.full(16, 2.0**30))
    wrapper.activation_counts.assign(total)
    for _ in range(200):
        backend.add_to(wrapper._counts, keras.ops.full((16,), np.float32(1 / 3), dtype=DTYPE))
    expected = total + 200 * np.float64(np.float32(1 / 3))
    np.testing.assert_allclose(wrapper.activation_counts.numpy(), expected, rtol=1e-12)


# -- errors in the first step ------------------------------------------------------------------------


def test_an_error_in_the_first_step_loses_no_weights():
    class Failing(keras.layers.Layer):
        def call(self, inputs, training=None):
            if training and failing:
                raise RuntimeError("mine")
            return inputs

    failing = True
    layers = keras.layers
    stack = [layers.Input((12,)), layers.Dense(8, "relu"), Failing(), layers.Dense(4, "softmax")]
    model = tfap.prune(nets.compiled(keras, keras.Sequential(stack)), 0.5, granularity="weight")
    # PyTorch runs what comes before the error: the first layer has counted the batch.
    kept = model.trainable_variables if HERE == "torch" else model.weights
    before = [variable.numpy() for variable in kept]
    with pytest.raises(RuntimeError, match="mine"):
        nets.fit(model)
    for variable, earlier in zip(kept, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), earlier)
    failing = False
    assert nets.fit(model, epochs=4).history["sparsity"][-1] == 0.5


def test_a_loaded_model_without_the_callback_keeps_its_weights(tmp_path):
    model = nets.build_optimizer(tfap.prune(nets.mlp(keras), 0.5))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(RuntimeError, match="nothing prunes it"):
        nets.fit(loaded, callbacks=[])
    with pytest.raises(RuntimeError, match="nothing prunes it"):
        loaded.train_on_batch(*nets.data(loaded, 16))
    for value, earlier in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, earlier)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch.compile
@pytest.mark.skipif(HERE != "torch", reason="torch.compile")
def test_files_from_jax_are_trained_without_torch_compile(tmp_path, caplog):
    """Keras compiles models on JAX by itself, and their files say so."""
    saved = tfap.prune(nets.mlp(keras), tfap.PolynomialDecay(0.0, 0.5, 1, 4, frequency=1))
    saved.compile("sgd", saved.loss, jit_compile=True)
    saved.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert model.jit_compile
    assert nets.fit(model, epochs=2).history["sparsity"][-1] == 0.5
    assert not model.jit_compile
    assert caplog.text.count("is compiled with jit_compile=True. tfap sets it to False") == 1
    stripped = tfap.strip_pruning(model)
    assert not stripped.jit_compile and tfap.compact(stripped).count_params() < stripped.count_params()


@pytest.mark.skipif(HERE != "torch", reason="torch.compile")
def test_models_that_are_to_be_compiled_are_pruned_without(caplog):
    model = nets.mlp(keras)
    model.compile("sgd", model.loss, jit_compile=True)
    assert not tfap.prune(model, 0.5).jit_compile
    assert model.jit_compile
    assert caplog.text.count("is compiled with jit_compile=True. tfap sets it to False") == 1


@pytest.mark.skipif(HERE != "jax", reason="only JAX takes the values of variables as arguments of a step")
def test_a_step_that_does_not_know_the_mask_is_an_error():
    import jax

    model = tfap.prune(nets.mlp(keras), 0.5, "magnitude")
    tfap.update_masks(model, 0.5)
    weights, slots = model.trainable_variables, nets.build_optimizer(model).optimizer.variables
    values = [[variable.value for variable in group] for group in (slots, weights, weights)]
    with pytest.raises(RuntimeError, match="is unknown in this step"):
        jax.jit(model.optimizer.stateless_apply)(*values)
    others = [variable.value for variable in model.non_trainable_variables]
    tfap.prunable_layers(model)[0].session.running = True

    def with_a_frozen_mask(slots, gradients, weights):
        model.stateless_call(weights, others, nets.data(model)[0])
        return model.optimizer.stateless_apply(slots, gradients, weights)

    with pytest.raises(RuntimeError, match="is a constant of the compiled step"):
        jax.jit(with_a_frozen_mask)(*values)


@pytest.mark.tensorflow_only(reason="AutoGraph is TensorFlow's")
def test_tf_keras_converts_all_that_a_step_calls(caplog):
    """AutoGraph logs a warning for a function that it cannot convert, such as one of a docstring only."""
    tf_keras = pytest.importorskip("tf_keras")
    wrapped = tfap.prune(nets.mlp(tf_keras), 0.5, granularity="weight")
    assert nets.fit(wrapped, epochs=12).history["sparsity"][-1] == 0.5
    assert "AutoGraph" not in caplog.text
