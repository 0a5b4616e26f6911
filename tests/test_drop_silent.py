"""compact(model, counts, drop_silent=True): exact on the data that was counted, and only there."""

import nets
import numpy as np
import pytest

import tfap
from tfap.graph.counts import ActivationCounts

pytestmark = pytest.mark.one_keras

SAMPLES = 50


def inputs(model, scale=1.0):
    generator = np.random.default_rng(0)
    return scale * generator.normal(size=(SAMPLES, *model.inputs[0].shape[1:])).astype("float32")


def without_silent(model, x):
    return tfap.compact(model, counts=tfap.measure_activations(model, x), drop_silent=True)


def assert_same(first, second, x):
    expected = np.asarray(first(x))
    np.testing.assert_allclose(np.asarray(second(x)), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def differ(first, second, x):
    return not np.allclose(np.asarray(first(x)), np.asarray(second(x)), rtol=1e-3)


def add_to_bias(layer, channels, value):
    """Moves some channels of a layer's bias, or of a BatchNormalization's beta."""
    weights = layer.get_weights()
    weights[1][channels] += value
    layer.set_weights(weights)


def residual_net(keras):
    """`stem` and the block's last convolution share their channels; `inner` has its own."""
    layers = keras.layers

    def normalized(x, filters, name):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
        return layers.BatchNormalization(name=f"{name}_norm")(x)

    given = keras.Input((6, 6, 3))
    stem = layers.ReLU(name="stem_relu")(normalized(given, 8, "stem"))
    x = layers.ReLU(name="inner_relu")(normalized(stem, 10, "inner"))
    x = layers.Add(name="add")([stem, normalized(x, 8, "last")])
    x = layers.GlobalAveragePooling2D()(layers.ReLU(name="last_relu")(x))
    return keras.Model(given, layers.Dense(3, name="output")(x))


def test_dense_nets_lose_what_never_fires(keras_module):
    model = nets.mlp(keras_module)
    add_to_bias(model.layers[0], [1, 4, 7], -100)
    add_to_bias(model.layers[1], [0], -100)
    x = inputs(model)
    smaller = without_silent(model, x)
    assert [layer.units for layer in smaller.layers] == [13, 7, 4]
    assert_same(model, smaller, x)
    assert [layer.units for layer in model.layers] == [16, 8, 4]


def test_on_other_data_they_may_fire(keras_module):
    model = nets.mlp(keras_module)
    x = inputs(model)
    kernel, bias = model.layers[0].get_weights()
    bias[2] = -(x @ kernel[:, 2]).max() - 0.01  # never on x, but on larger inputs
    model.layers[0].set_weights([kernel, bias])
    smaller = without_silent(model, x)
    assert smaller.layers[0].units == 15
    assert_same(model, smaller, x)
    assert differ(model, smaller, 5 * x)
    assert without_silent(model, 5 * x).layers[0].units == 16


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_residual_nets(keras_module, scale):
    model = residual_net(keras_module)
    add_to_bias(model.get_layer("stem_norm"), [0, 5], -100)
    add_to_bias(model.get_layer("last_norm"), [5, 6], -100)
    add_to_bias(model.get_layer("inner_norm"), [1, 2, 3], -100)
    x = inputs(model, scale)
    smaller = without_silent(model, x)
    # Channel 5 is silent behind the stem and behind the sum, 0 and 6 in one of them only.
    assert [smaller.get_layer(name).filters for name in ("stem", "inner", "last")] == [7, 7, 7]
    assert_same(model, smaller, x)


def test_layers_that_fire_at_one_relu(keras_module):
    layers = keras_module.layers
    given = keras_module.Input((8, 2))
    a, b = (layers.Conv1D(4, 3, padding="same", name=name)(given) for name in "ab")
    joined = layers.ReLU(name="relu")(layers.Concatenate()([a, b]))
    model = keras_module.Model(given, layers.Dense(2)(layers.Flatten()(joined)))
    add_to_bias(model.get_layer("a"), [3], -100)
    add_to_bias(model.get_layer("b"), [0, 1], -100)
    x = inputs(model)
    smaller = without_silent(model, x)
    assert [smaller.get_layer(name).filters for name in "ab"] == [3, 2]
    assert_same(model, smaller, x)


def test_a_shared_layer_must_be_silent_in_all_its_calls(keras_module):
    layers = keras_module.layers
    shared = layers.Dense(5, activation="relu", name="shared")
    left, right = keras_module.Input((4,)), keras_module.Input((4,))
    model = keras_module.Model([left, right], layers.Dense(2)(layers.Add()([shared(left), shared(right)])))
    add_to_bias(shared, [0, 1], -10)
    x = inputs(model)
    assert without_silent(model, [x, x]).get_layer("shared").units == 3
    larger = x.copy()
    larger[0] = 100 * np.sign(shared.get_weights()[0][:, 0])  # fires unit 0 in the second call only
    counts = tfap.measure_activations(model, [x, larger])["shared"].counts
    smaller = without_silent(model, [x, larger])
    assert counts[0] and smaller.get_layer("shared").units == np.count_nonzero(counts)
    assert_same(model, smaller, [x, larger])


@pytest.mark.smoke
def test_nested_models(keras_module):
    model = nets.nested(keras_module)
    inner = model.get_layer("middle").get_layer("inner").get_layer("dense")
    add_to_bias(inner, [0, 3], -100)
    x = inputs(model)
    smaller = without_silent(model, x)
    fired = [counted.counts > 0 for counted in tfap.measure_activations(model, x).values()]
    middle = smaller.get_layer("middle")
    left = [smaller, middle.get_layer("inner"), middle]
    assert [part.get_layer("dense").units for part in left] == [alive.sum() for alive in fired]
    assert_same(model, smaller, x)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "elu"])
def test_only_a_relu_is_zero_when_it_does_not_fire(keras_module, activation):
    model = nets.mlp(keras_module, activation=activation)
    add_to_bias(model.layers[0], [1, 4, 7], -2)
    add_to_bias(model.layers[1], [0], -100)
    x = inputs(model)
    assert not all(counted.counts.all() for counted in tfap.measure_activations(model, x).values())
    smaller = without_silent(model, x)
    assert [layer.units for layer in smaller.layers] == [16, 8, 4]
    np.testing.assert_array_equal(np.asarray(smaller(x)), np.asarray(model(x)))


@pytest.mark.parametrize("kind, left", [("relu", 13), ("relu6", 13), ("capped", 13), ("leaky", 16)])
def test_kinds_of_relu(keras_module, kind, left):
    layers = keras_module.layers
    activation = {
        "relu": lambda: layers.Activation("relu"),
        "relu6": lambda: layers.Activation("relu6" if keras_module.__name__ == "keras" else _relu6()),
        "capped": lambda: layers.ReLU(max_value=2.0, threshold=0.1),
        "leaky": lambda: layers.ReLU(negative_slope=0.1),
    }[kind]
    model = keras_module.Sequential([layers.Input((6,)), layers.Dense(16), activation(), layers.Dense(3)])
    add_to_bias(model.layers[0], slice(None), 2)
    add_to_bias(model.layers[0], [1, 4, 7], -102)
    x = inputs(model)
    smaller = without_silent(model, x)
    assert smaller.layers[0].units == left
    assert_same(model, smaller, x)


def _relu6():
    import tensorflow as tf

    return tf.nn.relu6


def test_a_layer_that_never_fires_keeps_one_unit(keras_module):
    model = nets.mlp(keras_module)
    add_to_bias(model.layers[0], slice(None), -100)
    x = inputs(model)
    smaller = without_silent(model, x)
    assert smaller.layers[0].units == 1
    assert_same(model, smaller, x)


def test_after_pruning(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module, (12, 32, 16, 4)), 0.5)
    nets.fit(wrapped, epochs=4)
    plain = tfap.strip_pruning(wrapped)
    add_to_bias(plain.layers[0], slice(None), -2.5)
    x = inputs(plain)
    exact, smaller = tfap.compact(plain), without_silent(plain, x)
    assert smaller.count_params() < exact.count_params() < plain.count_params()
    assert_same(plain, smaller, x)
    assert_same(exact, without_silent(exact, x), x)


def test_counts_of_some_layers_only(keras_module):
    model = nets.mlp(keras_module)
    for layer in model.layers[:2]:
        add_to_bias(layer, [0], -100)
    counts = tfap.measure_activations(model, inputs(model))
    smaller = tfap.compact(model, {"hidden_1": counts["hidden_1"]}, drop_silent=True)
    assert [layer.units for layer in smaller.layers] == [16, 7, 4]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, neurons, seen, message",
    [
        ("other", 16, 8, "names the layer 'other', which is not in the model"),
        ("hidden_0", 15, 8, "15 neurons for the layer 'hidden_0', which has 16"),
        ("hidden_0", 16, 0, "seen no activations of the layer 'hidden_0'"),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_counts_that_do_not_fit(keras_module, path, neurons, seen, message, activation):
    counts = {path: ActivationCounts(np.zeros(neurons, int), seen)}
    with pytest.raises(ValueError, match=message):
        tfap.compact(nets.mlp(keras_module, activation=activation), counts, drop_silent=True)


def test_counts_and_drop_silent_go_together(keras_module):
    model = nets.mlp(keras_module)
    counts = tfap.measure_activations(model, inputs(model))
    for arguments in ({"counts": counts}, {"drop_silent": True}, {"counts": {}}):
        with pytest.raises(ValueError, match="go together"):
            tfap.compact(model, **arguments)


@pytest.mark.parametrize("threshold", [100.0, -1.0])
def test_counts_of_another_threshold(keras_module, threshold):
    """A ReLU neuron that stays below the threshold may still be active."""
    model = nets.mlp(keras_module)
    counts = tfap.measure_activations(model, inputs(model), threshold=threshold)
    with pytest.raises(ValueError, match=f"threshold {threshold} for the layer 'hidden_0', expected 0"):
        tfap.compact(model, counts=counts, drop_silent=True)


@pytest.mark.parametrize("separate_relu", [False, True])
def test_counts_of_a_wrapper_with_another_threshold(keras_module, separate_relu):
    layers = keras_module.layers
    hidden = [layers.Dense(8, name="hidden"), layers.ReLU()] if separate_relu else [
        layers.Dense(8, "relu", name="hidden")
    ]  # fmt: skip
    model = nets.compiled(
        keras_module, keras_module.Sequential([layers.Input((4,)), *hidden, layers.Dense(2)])
    )
    criterion = tfap.ActivationCount(threshold=100.0)
    wrapped = tfap.prune(model, 0.5, criterion)
    nets.fit(wrapped, callbacks=[tfap.UpdatePruningStep()])
    (wrapper,) = tfap.prunable_layers(wrapped)
    with pytest.raises(ValueError, match="has the threshold 100.0"):
        tfap.compact(model, counts={"hidden": wrapper.counted()}, drop_silent=True)
