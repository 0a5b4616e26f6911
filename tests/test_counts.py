"""Counts are exact: equal to a brute-force NumPy count, in both Kerases, and the same in both."""

import itertools

import nets
import numpy as np
import pytest

import tfap
from tfap.training import mask_update

BATCH, SAMPLES = 16, 40  # the last batch is smaller


def brute_force(keras, model, layer_names, x, threshold=0.0):
    """Counts, by layer, of activations above the threshold in batches with fixed weights."""
    outputs = [model.get_layer(name).output for name in layer_names]
    taps = keras.Model(model.inputs[0], outputs)
    counts = dict.fromkeys(layer_names, 0)
    for start in range(0, len(x), BATCH):
        activations = taps(x[start : start + BATCH], training=False)
        for name, values in zip(layer_names, activations if len(layer_names) > 1 else [activations]):
            fired = np.asarray(values) > threshold
            counts[name] = counts[name] + fired.reshape(-1, fired.shape[-1]).sum(axis=0)
    return counts


def freeze(keras, model):
    """Weights do not move, so that every batch sees the same ones."""
    model.compile(keras.optimizers.SGD(0.0), model.loss)


def still_cnn(keras):
    """The CNN without layers that behave differently in training."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = a = layers.ReLU(name="relu_a")(layers.Conv2D(6, 3, padding="same", name="conv_a")(inputs))
    x = layers.Conv2D(6, 3, padding="same", name="conv_b")(x)
    x = layers.Activation("relu", name="relu_b")(layers.Add(name="add")([a, x]))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")(x)
    x = layers.Dense(10, activation="relu", name="dense")(layers.GlobalAveragePooling2D()(x))
    return nets.compiled(keras, keras.Model(inputs, layers.Dense(5, activation="softmax", name="output")(x)))


NETS = {
    "dense": (nets.mlp, {"hidden_0": "hidden_0", "hidden_1": "hidden_1"}, {"hidden_0": 1, "hidden_1": 1}),
    "convolutional": (
        still_cnn,
        {"conv_a": "relu_a", "conv_b": "relu_b", "depthwise": "depthwise", "dense": "dense"},
        {"conv_a": 64, "conv_b": 64, "depthwise": 36, "dense": 1},
    ),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.one_keras
def test_counts_equal_brute_force(keras_module, net):
    build, fires_at, positions = NETS[net]
    model = build(keras_module)
    freeze(keras_module, model)
    x, _ = nets.data(model, SAMPLES)
    expected = brute_force(keras_module, model, list(dict.fromkeys(fires_at.values())), x)
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 1000))
    nets.fit(wrapped, epochs=2, batch_size=BATCH, samples=SAMPLES)
    found = {layer.name: layer for layer in tfap.prunable_layers(wrapped)}
    assert set(found) == set(fires_at)
    for name, layer in found.items():
        np.testing.assert_array_equal(layer.activation_counts.numpy(), 2 * expected[fires_at[name]])
        assert int(layer.activations_seen.numpy()) == 2 * SAMPLES * positions[name]
        assert (
            0
            < layer.activation_counts.numpy().sum()
            < 2 * SAMPLES * positions[name] * len(expected[fires_at[name]])
        )


def test_counts_come_before_the_weight_update(keras_module):
    """One step with a huge learning rate: the count is that of the weights before it."""
    model = nets.mlp(keras_module)
    x, _ = nets.data(model, BATCH)
    expected = brute_force(keras_module, model, ["hidden_0", "hidden_1"], x)
    model.compile(keras_module.optimizers.SGD(100.0), model.loss)
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 1000))
    nets.fit(wrapped, samples=BATCH)
    for layer in tfap.prunable_layers(wrapped):
        np.testing.assert_array_equal(layer.activation_counts.numpy(), expected[layer.name])
        assert not np.allclose(layer.layer.get_weights()[0], model.get_layer(layer.name).get_weights()[0])


def test_sample_every_counts_every_nth_step(keras_module):
    model = nets.mlp(keras_module)
    freeze(keras_module, model)
    x, _ = nets.data(model, 5 * BATCH)
    sampled = np.concatenate([x[:BATCH], x[2 * BATCH : 3 * BATCH], x[4 * BATCH :]])  # steps 1, 3 and 5
    expected = brute_force(keras_module, model, ["hidden_0"], sampled)["hidden_0"]
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 1000), sample_every=2)
    nets.fit(wrapped, samples=5 * BATCH)
    layer = tfap.prunable_layers(wrapped)[0]
    np.testing.assert_array_equal(layer.activation_counts.numpy(), expected)
    assert int(layer.activations_seen.numpy()) == len(sampled)
    assert int(layer.pruning_step.numpy()) == 5


@pytest.mark.parametrize("activation,threshold", [("tanh", 0.0), ("sigmoid", 0.5), ("gelu", 0.1)])
@pytest.mark.one_keras
def test_smooth_activations_fire_above_the_threshold(keras_module, activation, threshold):
    model = nets.mlp(keras_module, activation=activation)
    freeze(keras_module, model)
    x, _ = nets.data(model, SAMPLES)
    expected = brute_force(keras_module, model, ["hidden_0"], x, threshold)["hidden_0"]
    criterion = tfap.ActivationCount(threshold=threshold)
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 1000), criterion)
    nets.fit(wrapped, batch_size=BATCH, samples=SAMPLES)
    np.testing.assert_array_equal(tfap.prunable_layers(wrapped)[0].activation_counts.numpy(), expected)


def test_the_input_side_counts_what_the_layer_reads(keras_module):
    model = nets.mlp(keras_module)
    freeze(keras_module, model)
    x, _ = nets.data(model, SAMPLES)
    hidden = brute_force(keras_module, model, ["hidden_0"], x)["hidden_0"]
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 1000), tfap.ActivationCount(side="input"))
    nets.fit(wrapped, batch_size=BATCH, samples=SAMPLES)
    first, second = tfap.prunable_layers(wrapped)
    np.testing.assert_array_equal(first.activation_counts.numpy(), (x > 0).sum(axis=0))
    np.testing.assert_array_equal(second.activation_counts.numpy(), hidden)


@pytest.mark.one_keras
def test_validation_and_prediction_do_not_count(keras_module):
    model = tfap.prune(nets.mlp(keras_module), tfap.ConstantSparsity(0.5, 1000))
    x, y = nets.data(model)
    nets.fit(model, validation_data=(x, y))
    model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert [int(layer.activations_seen.numpy()) for layer in tfap.prunable_layers(model)] == [64, 64]


@pytest.mark.one_keras
def test_no_counters_where_nobody_needs_them(keras_module):
    model = tfap.prune(nets.cnn(keras_module), 0.5, criterion="magnitude")
    assert all(layer.activation_counts is None for layer in tfap.prunable_layers(model))
    assert not [layer for layer in model.layers if isinstance(layer, tfap.layers.CountActivations)]


WAYS = list(itertools.product(("weight", "neuron"), ("global", "local")))


@pytest.mark.parametrize(
    "build, granularity, scope",
    [
        *((nets.mlp, *way) for way in WAYS),
        *(pytest.param(still_cnn, *way, marks=pytest.mark.slow) for way in WAYS[:-1]),
        (still_cnn, *WAYS[-1]),
    ],
)
def test_both_kerases_give_the_same_counts_scores_and_masks(both_kerases, build, granularity, scope):
    models = [build(module) for module in both_kerases]
    models[1].set_weights(models[0].get_weights())
    for module, model in zip(both_kerases, models):
        freeze(module, model)
    counts, scores, masks = [], [], []
    for model in models:
        wrapped = tfap.prune(
            model, tfap.ConstantSparsity(0.6, 3, frequency=1), scope=scope, granularity=granularity
        )
        nets.fit(wrapped)
        counts.append([layer.activation_counts.numpy() for layer in tfap.prunable_layers(wrapped)])
        kernels = [weight.gather() for weight in mask_update.pruned_weights(wrapped)]
        scores.append([tfap.ActivationCount().scores(kernel) for kernel in kernels])
        masks.append(list(nets.masks(wrapped).values()))
    for kind in (counts, scores, masks):
        for first, second in zip(*kind):
            np.testing.assert_array_equal(first, second)
    assert any((mask == 0).any() for mask in masks[0])
