"""Refits at mask updates in training: exact where they can be; masks, zeros and optimizer stay the same."""

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap import datasets

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 6, 6, 2)).astype("float32")
Y = RANDOM.normal(size=(96, 3)).astype("float32")


def repeated(layer):
    """The second half of the outputs are those of the first, a tenth as large: magnitude prunes these."""
    kernel, *bias = layer.get_weights()
    half = kernel.shape[-1] // 2
    kernel[..., half:] = 0.1 * kernel[..., :half]
    for values in bias:
        values[:] = np.random.default_rng(1).normal(size=values.shape)
        values[half:] = 0.1 * values[:half]
    layer.set_weights([kernel, *bias])


def convolutions(keras):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="a")(inputs)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="b")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(8, activation="relu", name="c")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(3, name="output")(x))
    for name in "abc":
        repeated(model.get_layer(name))
    return model


def pruned(keras, rate=0.0, update=1):
    schedule = tfap.ConstantSparsity(0.5, update, frequency=10**6)
    options = {"criterion": "magnitude", "granularity": "neuron", "scope": "local", "target": "neurons"}
    model = tfap.prune(convolutions(keras), schedule, **options)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse")
    return model


def fit(model, epochs=1, **options):
    callback = tfap.UpdatePruningStep(**options)
    data = {"batch_size": 32, "shuffle": False, "verbose": 0, "epochs": epochs}
    model.fit(X, Y, callbacks=[callback], **data)
    return model


def outputs(model, recalibrated):
    """In inference, with statistics that do not lag behind if asked."""
    plain = tfap.strip_pruning(model)
    return (tfap.recalibrate(plain, X) if recalibrated else plain).predict(X, verbose=0)


@pytest.mark.one_keras
def test_what_kept_neurons_can_take_over_is_not_lost(keras_module):
    before = outputs(pruned(keras_module), recalibrated=True)
    plain, compensated = (fit(pruned(keras_module), compensate=data) for data in (None, X))

    for path, mask in nets.masks(compensated).items():
        np.testing.assert_array_equal(mask, nets.masks(plain)[path])
        assert not np.array(compensated.get_layer(path).layer.kernel)[mask == 0].any()
        assert (mask == 0).mean() >= 0.5
    size = abs(before).max()
    assert abs(outputs(compensated, True) - before).max() < 0.02 * size  # the ridge is 0.1%
    assert abs(outputs(plain, True) - before).max() > 0.1 * size


@pytest.mark.one_keras
def test_the_optimizer_keeps_its_state(keras_module):
    models = [fit(nets.build_optimizer(pruned(keras_module, 0.01, 3)), compensate=data) for data in (None, X)]
    states = []
    for model in models:
        variables = model.optimizer.variables
        states.append([np.array(v) for v in (variables() if callable(variables) else variables)])
    for one, other in zip(*states, strict=True):  # the update comes after the last step
        np.testing.assert_array_equal(one, other)
    assert any(abs(values).max() > 0 for values in states[0])
    kernels = [np.array(model.get_layer("output").kernel) for model in models]
    assert (kernels[0] != kernels[1]).any()


@pytest.mark.one_keras
@pytest.mark.slow
def test_an_interrupted_fit_goes_on_to_the_same_weights(keras_module, tmp_path):
    whole = fit(pruned(keras_module, 0.01, 5), epochs=3, compensate=X)
    part = fit(pruned(keras_module, 0.01, 5), epochs=1, compensate=X)
    part.save(tmp_path / "model.keras")
    loaded = keras_module.models.load_model(tmp_path / "model.keras")
    data = {"batch_size": 32, "shuffle": False, "verbose": 0, "initial_epoch": 1, "epochs": 3}
    loaded.fit(X, Y, callbacks=[tfap.UpdatePruningStep(compensate=X)], **data)
    assert nets.pruned_weights(loaded)
    for one, other in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_fit_and_compact(keras_module):
    """One update at the end of a short training: with the refit, accuracy stays."""
    data = datasets.load("digits")
    x, x_test = (each.reshape(len(each), -1) for each in (data.x_train, data.x_test))
    found = []
    for samples in (None, x):
        keras_module.utils.set_random_seed(0)
        model = nets.mlp(keras_module, (64, 64, 32, 10))
        model.compile(keras_module.optimizers.Adam(0.003), model.loss, metrics=["accuracy"])
        options = {"criterion": "magnitude", "epochs": 2, "stages": 1, "batch_size": 32, "verbose": 0}
        schedule = tfap.ConstantSparsity(0.7, 2 * 45, frequency=10**6)
        small = tfap.fit_and_compact(model, schedule, x, data.y_train, compensate=samples, **options).model
        assert small.get_layer("hidden_0").units < 64 * 0.5
        found.append(small.evaluate(x_test, data.y_test, verbose=0)[1])
    assert found[1] > found[0] + 0.1 and found[1] > 0.75


BAD = {
    "compensate=: The data does not fit the inputs": np.zeros((8, 5, 6, 2)),
    "compensate=: The dataset has no end": tf.data.Dataset.from_tensors(X).repeat(),
    "compensate=: The data is empty": X[:0],
    "compensate=: the data contains NaN or infinity": np.full_like(X, np.nan),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.one_keras
def test_bad_data_raises_before_training(keras_module, message):
    model = pruned(keras_module, 0.1)
    before = np.array(model.get_layer("output").kernel)
    with pytest.raises(ValueError, match=message):
        fit(model, compensate=BAD[message])
    np.testing.assert_array_equal(np.array(model.get_layer("output").kernel), before)


@pytest.mark.one_keras
def test_bad_arguments(keras_module):
    with pytest.raises(ValueError, match="compensate must be re-iterable, but a generator"):
        tfap.UpdatePruningStep(compensate=(x for x in ()))
    with pytest.raises(TypeError, match="compensate=: data must be an array"):
        fit(pruned(keras_module), compensate=3)
    weights = tfap.prune(nets.mlp(keras_module), 0.5, criterion="magnitude")
    with pytest.raises(ValueError, match='compensate=: no layer is pruned by neurons.*granularity="neuron"'):
        nets.fit(weights, callbacks=[tfap.UpdatePruningStep(compensate=np.zeros((8, 12)))])
