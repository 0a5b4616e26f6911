import importlib
import itertools

import nets
import numpy as np
import pytest
from examples_per_run import examples
from hypothesis import given, settings
from hypothesis import strategies as st

import tfap
from tfap.compaction import compact
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras

ACTIVATIONS = ["relu", "tanh", "sigmoid", "gelu", "linear"]


def dead_units(model, generator, share=0.5):
    """Zeroes the incoming or outgoing weights of random hidden units; returns how many each layer lost."""
    dense = [layer for layer in model.layers if hasattr(layer, "units")]
    weights = [layer.get_weights() for layer in dense]
    for incoming, outgoing in itertools.pairwise(weights):
        units = incoming[0].shape[1]
        dead = generator.permutation(units)[: int(share * units)]
        into = generator.random(len(dead)) < 0.5
        incoming[0][:, dead[into]] = 0
        outgoing[0][dead[~into]] = 0
    for layer, values in zip(dense, weights):
        values[1:] = [generator.normal(size=bias.shape).astype("float32") for bias in values[1:]]
        layer.set_weights(values)
    return [int(share * layer.units) for layer in dense[:-1]]


@pytest.mark.parametrize("world", ["keras", "tf_keras"])
@settings(max_examples=examples(10, 1 / 3))
@given(
    seed=st.integers(0, 10**6),
    activation=st.sampled_from(ACTIVATIONS),
    use_bias=st.booleans(),
    functional=st.booleans(),
)
def test_outputs_stay_and_every_planted_unit_goes(world, seed, activation, use_bias, functional):
    keras = importlib.import_module(world)
    model = nets.mlp(keras, (6, 10, 8, 6, 3), activation, use_bias)
    if functional:
        inputs = keras.Input((6,))
        model = keras.Model(inputs, model(inputs))  # the chain in a nested model
    chain = model.layers[-1] if functional else model
    planted = dead_units(chain, np.random.default_rng(seed))
    smaller = tfap.compact(model)
    x = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    np.testing.assert_allclose(np.asarray(smaller(x)), np.asarray(model(x)), rtol=1e-5, atol=1e-6)
    left = [
        layer.units
        for layer in (smaller.layers[-1] if functional else smaller).layers
        if hasattr(layer, "units")
    ]
    assert all(now <= units - gone for now, units, gone in zip(left, (10, 8, 6), planted))


def test_a_constant_goes_through_activation_layers_into_a_new_bias(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(3, name="a"),
            layers.LeakyReLU(),
            layers.Dropout(0.5),
            layers.Activation("tanh"),
            layers.Dense(2, use_bias=False, name="b"),
        ]
    )
    kernel, _ = model.get_layer("a").get_weights()
    kernel[:, 1] = 0
    model.get_layer("a").set_weights([kernel, np.array([0.1, -3.0, 0.2])])
    smaller = tfap.compact(model)
    assert smaller.get_layer("a").units == 2 and smaller.get_layer("b").use_bias
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(smaller.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.smoke
def test_units_go_until_nothing_changes(keras_module):
    """b reads only one dead unit of a, so b's unit dies with it, and so does c's."""
    model = nets.mlp(keras_module, (4, 2, 2, 2, 3))
    kernels = [layer.get_weights() for layer in model.layers]
    kernels[0][0][:, 0] = 0
    kernels[1][0][1, 0] = 0  # unit 0 of hidden_1 reads unit 0 alone
    kernels[2][0][1, 0] = 0
    for layer, weights in zip(model.layers, kernels):
        layer.set_weights(weights)
    assert [layer.units for layer in tfap.compact(model).layers] == [1, 1, 1, 3]


def test_a_layer_keeps_one_unit(keras_module):
    model = nets.mlp(keras_module)
    for layer in model.layers[:-1]:
        layer.set_weights([np.zeros_like(layer.get_weights()[0]), np.ones_like(layer.get_weights()[1])])
    smaller = tfap.compact(model)
    assert [layer.units for layer in smaller.layers] == [1, 1, 4]
    x, _ = nets.data(model)
    np.testing.assert_allclose(smaller.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_what_it_does_not_know_stays(keras_module):
    model = nets.cnn(keras_module)
    smaller = tfap.compact(model)
    x, _ = nets.data(model)
    np.testing.assert_array_equal(smaller.predict(x, verbose=0), model.predict(x, verbose=0))
    assert smaller.count_params() == model.count_params()


def test_units_that_others_read_too_stay(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((4,))
    a = layers.Dense(3, name="a")(inputs)
    model = keras_module.Model(inputs, [layers.Dense(2, name="b")(a), a])
    model.get_layer("b").set_weights([np.zeros((3, 2)), np.zeros(2)])
    assert tfap.compact(model).get_layer("a").units == 3


@pytest.mark.parametrize("criterion", ["activation_count", "magnitude"])
def test_after_pruning(keras_module, criterion):
    wrapped = tfap.prune(nets.mlp(keras_module, (12, 32, 16, 4)), 0.6, criterion, granularity="neuron")
    nets.fit(wrapped, epochs=4)
    plain = tfap.strip_pruning(wrapped)
    smaller = tfap.compact(plain)
    assert smaller.count_params() < 0.6 * plain.count_params()
    x, y = nets.data(plain)
    np.testing.assert_allclose(smaller.predict(x, verbose=0), plain.predict(x, verbose=0), atol=1e-6)
    assert smaller.evaluate(x, y, verbose=0) == pytest.approx(plain.evaluate(x, y, verbose=0), rel=1e-4)


@pytest.mark.parametrize("where", ["fused", "separate"])
def test_activations_that_mix_units_break_the_chain(keras_module, where):
    layers = keras_module.layers
    fused = {"activation": "softmax"} if where == "fused" else {}
    stack = [layers.Input((6,)), layers.Dense(8, name="a", **fused)]
    stack += [layers.Activation("softmax")] if where == "separate" else []
    model = keras_module.Sequential([*stack, layers.Dense(3)])
    kernel, bias = model.get_layer("a").get_weights()
    kernel[:, :4] = 0
    model.get_layer("a").set_weights([kernel, bias])
    smaller = tfap.compact(model)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.testing.assert_array_equal(smaller.predict(x, verbose=0), model.predict(x, verbose=0))
    assert smaller.get_layer("a").units == 8


@pytest.mark.parametrize("activation", ["hard_sigmoid", "gelu", "elu"])
def test_fused_activations_of_either_keras(keras_module, activation):
    model = nets.mlp(keras_module, (6, 10, 3), activation)
    dead_units(model, np.random.default_rng(0))
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    smaller = tfap.compact(model)
    np.testing.assert_allclose(smaller.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    assert smaller.layers[0].units == 5


@pytest.mark.smoke
def test_random_layers_that_stay_random_keep_their_neurons(keras_module):
    """Monte-Carlo dropout: what is a constant in inference is not one there."""
    layers = keras_module.layers
    inputs = keras_module.Input((4,))
    hidden = layers.Dense(8, activation="relu", name="a")(inputs)
    outputs = layers.Dense(2)(layers.Dropout(0.5)(hidden, training=True))
    model = keras_module.Model(inputs, outputs)
    kernel, bias = model.get_layer("a").get_weights()
    model.get_layer("a").set_weights([np.zeros_like(kernel), bias + 1])
    smaller = compact.remove_dead_channels(model, Liveness(model)).model
    assert smaller.get_layer("a").units == 8
    # predict() says training=False, which Keras 3 lets count for all layers.
    assert np.std(np.asarray(smaller(np.zeros((50, 4), "float32"))), axis=0).min() > 0.01


def test_stateful_models_are_refused_before_they_are_trained(keras_module):
    layers = keras_module.layers
    stack = [layers.Dense(8, activation="relu"), layers.GRU(4, stateful=True, name="gru"), layers.Dense(3)]
    model = keras_module.Sequential([keras_module.Input(batch_shape=(8, 5, 6)), *stack])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="'gru' in .* is stateful: outputs depend on earlier calls"):
        tfap.compact(model)
    with pytest.raises(ValueError, match="'gru' in .* is stateful"):
        tfap.fit_and_compact(model, 0.5, np.ones((8, 5, 6)), np.ones((8, 3)))


@pytest.mark.smoke
def test_what_the_config_of_a_model_does_not_tell_stays(keras_module):
    layers = keras_module.layers
    base = keras_module.Sequential([layers.Input((4,)), layers.Dense(5, name="a"), layers.Dense(3, name="b")])
    base.trainable = False
    base.layers[-1].trainable = True
    model = keras_module.Sequential([layers.Input((4,)), base, layers.Dense(3)])
    optimizer = keras_module.optimizers.AdamW(weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    scaled = getattr(keras_module, "mixed_precision", keras_module.optimizers).LossScaleOptimizer
    model.compile(scaled(optimizer), "mse")
    smaller = tfap.compact(model)
    assert len(smaller.trainable_weights) == len(model.trainable_weights)
    model.trainable = False
    assert not tfap.compact(model).trainable
    x, y = np.ones((8, 4)), np.ones((8, 3))
    smaller.compile(smaller.optimizer, "mse")
    before = smaller.layers[-1].get_weights()
    smaller.fit(x, y, verbose=0)
    assert not np.array_equal(before[0], smaller.layers[-1].get_weights()[0])
    inner = smaller.optimizer.inner_optimizer
    excluded = [name for name in vars(inner) if name.startswith("_exclude_from_weight_decay")]
    assert any(getattr(inner, name) for name in excluded)


@pytest.mark.parametrize("wrong", [None, "model.keras", 3])
def test_what_is_no_model(wrong):
    with pytest.raises(TypeError, match="tfap.compact takes a Keras model: received an object of type"):
        tfap.compact(wrong)


def test_counts_must_be_counts(keras_module):
    with pytest.raises(TypeError, match="counts must be"):
        tfap.compact(nets.mlp(keras_module), counts={"hidden_0": np.zeros(16)}, drop_silent=True)
