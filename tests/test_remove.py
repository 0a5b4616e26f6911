"""Removing the neurons that the user names."""

import keras
import nets
import numpy as np
import pytest

import tfap
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras

APPLICATIONS = (
    *("DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionV3", "MobileNet"),
    *("MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception"),
)


def outputs(model, x):
    return np.asarray(model(x, training=False), np.float64)


def residual(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    y = layers.Conv2D(12, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, padding="same", name="second")(y))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return keras_module.Model(inputs, layers.Dense(4, name="output")(x))


@pytest.mark.smoke
@pytest.mark.parametrize("as_mask", [False, True])
def test_named_neurons_and_no_others_go(keras_module, as_mask):
    model = nets.mlp(keras_module, (12, 16, 8, 4))
    first, second = (model.get_layer(name) for name in ("hidden_0", "hidden_1"))
    kernel, bias = first.get_weights()
    kernel[:, 5] = bias[5] = 0  # dead, but not named
    first.set_weights([kernel, bias])
    named = np.isin(np.arange(16), [0, 4, 15]) if as_mask else [15, 0, 4, 4]
    before = [np.array(weight) for weight in model.get_weights()]
    small = tfap.remove(model, {"hidden_0": named, "hidden_1": [2]})
    assert small.get_layer("hidden_0").units == 13 and small.get_layer("hidden_1").units == 7
    rest = np.delete(np.arange(16), [0, 4, 15])
    np.testing.assert_array_equal(small.get_layer("hidden_0").get_weights()[0], kernel[:, rest])
    expected = np.delete(second.get_weights()[0][rest], 2, axis=1)
    np.testing.assert_array_equal(small.get_layer("hidden_1").get_weights()[0], expected)
    assert type(small) is type(model) and small.optimizer is not None
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_coupled_channels_go_too(keras_module):
    model = residual(keras_module)
    small = tfap.remove(model, {"second": [1, 3], "inner": [0]})
    assert [small.get_layer(name).filters for name in ("first", "inner", "second")] == [6, 11, 6]
    assert small.get_layer("norm").get_weights()[0].shape == (6,)


def test_neurons_of_nested_models(keras_module):
    inner = nets.mlp(keras_module, (5, 6, 4))
    model = keras_module.Sequential([keras_module.Input((5,)), inner, keras_module.layers.Dense(2)])
    small = tfap.remove(model, {f"{inner.name}/hidden_0": [1, 3]})
    assert small.layers[-2].get_layer("hidden_0").units == 4


def test_no_neurons(keras_module):
    model = nets.mlp(keras_module, (12, 16, 4))
    same = tfap.remove(model, {"hidden_0": []})
    for old, new in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "neurons, error, message",
    [
        ([0, 1], TypeError, "must be a dict of layer path to neurons"),
        ({"fist": [0]}, ValueError, "'fist', which is not in the model. It has: \\['first'\\]"),
        (
            {"first": [8]},
            ValueError,
            "names \\[8\\], but the layer has 8 neurons: use integers in \\[0, 8\\)",
        ),
        ({"first": [-1]}, ValueError, "names \\[-1\\]"),
        ({"first": 0.5}, TypeError, "sequence of integers or a boolean array: received 0.5"),
        ({"first": [0.5]}, TypeError, "sequence of integers or a boolean array"),
        ({"first": [True]}, ValueError, "has the shape \\(1,\\), expected \\(8,\\)"),
        ({"first": [0, 1, 2, 3], "second": [4, 5, 6, 7]}, ValueError, "would lose all its channels"),
        ({"output": [0]}, ValueError, "are not removable. The reason: it is an output layer"),
    ],
)
def test_bad_input(keras_module, neurons, error, message):
    with pytest.raises(error, match=message):
        tfap.remove(residual(keras_module), neurons)


def test_groups_of_a_convolution_stay_even(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((6, 6, 4))
    x = layers.Conv2D(8, 3, groups=2, activation="relu", name="grouped")(inputs)
    model = keras_module.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    with pytest.raises(ValueError, match="The 2 groups of the convolution 'grouped'"):
        tfap.remove(model, {"grouped": [0, 1]})
    assert tfap.remove(model, {"grouped": [0, 7]}).get_layer("grouped").filters == 6


def random_neurons(model, generator):
    """About a tenth of the removable channels of some layers."""
    liveness, neurons = Liveness(model), {}
    pinned = list(liveness.channels.pinned)
    pruned = {row.path for row in tfap.plan(model, granularity="neuron").pruned}
    for path in liveness.linear_maps:
        groups = liveness.groups(path)[1]
        at = np.flatnonzero(~np.isin(groups, pinned))
        if path in pruned and len(at) == len(groups) > 8 and generator.random() < 0.5:
            neurons[path] = generator.choice(at, len(at) // 10 + 1, replace=False)
    return neurons


def with_zero_channels(model, neurons):
    """The model, but every layer that mixes channels reads zeros for the named ones."""
    liveness = Liveness(model)
    removed = np.zeros(liveness.channels.size, bool)
    for path, indices in neurons.items():
        removed[liveness.groups(path)[1][indices]] = True
    read = {}
    for path in liveness.linear_maps:
        consumed = liveness.groups(path)[0]
        if consumed is not None and removed[consumed].any():
            read[path] = np.where(removed[consumed], 0.0, 1.0).astype("float32")

    def call(layer, *arguments, **options):
        if layer.name in read:
            arguments = (arguments[0] * read[layer.name], *arguments[1:])
        return layer(*arguments, **options)

    reference = keras.models.clone_model(model, call_function=call)
    for layer in model.layers:  # the clone may have them in another order
        if layer.weights:
            reference.get_layer(layer.name).set_weights(layer.get_weights())
    return reference


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications_as_with_zero_channels(name):
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(75, 75, 3), classes=10, classifier_activation=None)
    generator = np.random.default_rng(1)
    neurons = random_neurons(model, generator)
    assert len(neurons) > 1
    small = tfap.remove(model, neurons)
    assert small.count_params() < model.count_params()
    x = generator.normal(size=(2, 75, 75, 3)).astype("float32")
    expected = outputs(with_zero_channels(model, neurons), x)
    scale = np.abs(expected).max()  # random weights make small outputs
    assert np.abs(expected - outputs(model, x)).max() > 0.01 * scale > 0
    np.testing.assert_allclose(outputs(small, x), expected, rtol=0, atol=1e-4 * scale)
