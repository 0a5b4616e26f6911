"""TimeDistributed: its channels are those of the layer inside, and they are removed like these."""

import keras
import numpy as np
import pytest

import tfap
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras


def random_weights(model, seed=0):
    generator = np.random.default_rng(seed)
    model.set_weights([generator.uniform(-0.7, 0.8, size=w.shape) for w in model.get_weights()])
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)
        if hasattr(inner, "moving_variance"):
            *others, variance = inner.get_weights()
            inner.set_weights([*others, np.abs(variance) + 0.5])
    return model


def video(keras_module):
    """Every kind of layer that may be inside, then an LSTM."""
    layers = keras_module.layers
    each = layers.TimeDistributed
    stack = [
        layers.Input((3, 9, 9, 2)),
        each(layers.Conv2D(6, 3, activation="relu"), name="first"),
        each(layers.BatchNormalization(), name="norm"),
        each(layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"), name="depthwise"),
        each(layers.MaxPooling2D()),
        each(layers.Dropout(0.2)),
        each(layers.Conv2D(5, 1, use_bias=False), name="second"),
        each(layers.ReLU()),
        each(layers.Flatten()),
        each(layers.Dense(8, activation="relu"), name="dense"),
        layers.LSTM(4, name="lstm"),
        layers.Dense(2, name="output"),
    ]
    return random_weights(keras_module.Sequential(stack))


def videos():
    return np.random.default_rng(1).normal(size=(6, 3, 9, 9, 2)).astype("float32")


def without_outputs(layer, channels):
    kernel, *bias = layer.get_weights()
    kernel[..., channels] = 0
    layer.set_weights([kernel, *bias])


def shapes(model, *names):
    return [model.get_layer(name).get_weights()[0].shape for name in names]


def assert_equal_outputs(model, other, x):
    expected = np.asarray(model(x, training=False))
    assert np.abs(np.asarray(other(x, training=False)) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_constant_channels_go(keras_module, tmp_path):
    model = video(keras_module)
    for name, channels in (("first", [1, 4]), ("second", [3]), ("dense", [2])):
        without_outputs(model.get_layer(name), channels)
    small = tfap.compact(model)
    assert shapes(small, "first", "depthwise", "second", "dense", "lstm") == [
        (3, 3, 2, 4),
        (3, 3, 4, 2),
        (1, 1, 8, 4),
        (16, 7),
        (7, 16),
    ]
    assert small.get_layer("first").layer.filters == 4
    assert_equal_outputs(model, small, videos())
    assert tfap.compaction_report(model, small).exact
    small.save(tmp_path / "small.keras")
    loaded = keras_module.models.load_model(tmp_path / "small.keras")
    assert_equal_outputs(small, loaded, videos())


def test_whole_channels_are_pruned_and_go(keras_module):
    model = video(keras_module)
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="neuron", target="neurons", scope="local")
    tfap.update_masks(pruned, 0.5)
    stripped = tfap.strip_pruning(pruned)
    small = tfap.compact(stripped)
    assert shapes(small, "first", "second", "dense") == [(3, 3, 2, 3), (1, 1, 6, 3), (12, 4)]
    assert_equal_outputs(stripped, small, videos())
    rows = tfap.plan(model, 0.5, "magnitude", granularity="neuron")
    assert all(row.pruned and not row.reason for row in rows if row.path != "output" and row.weight)


@pytest.mark.slow
def test_named_and_chosen_channels_go(keras_module):
    model, x = video(keras_module), videos()
    removed = tfap.remove(model, {"first": [0, 1], "dense": [1]})
    assert shapes(removed, "first", "dense") == [(3, 3, 2, 4), (20, 7)]
    for options in ({}, {"criterion": "magnitude"}, {"compensate": False}):
        small = tfap.prune_once(model, x, 0.5, target="neurons", **options)
        assert shapes(small, "first", "second")[0][-1] == 3
        assert small.get_layer("dense").layer.units == 4
    assert tfap.flops(removed) < tfap.flops(model)


@pytest.mark.slow
def test_a_redundant_channel_is_refitted(keras_module):
    """Channel 1 repeats channel 0, so its consumers, an inner convolution and a Dense, take over."""
    layers = keras_module.layers
    first = layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu"), name="first")
    second = layers.TimeDistributed(layers.Conv2D(3, 3), name="second")
    model = random_weights(
        keras_module.Sequential(
            [layers.Input((3, 9, 9, 2)), first, second, layers.GlobalAveragePooling3D(), layers.Dense(2)]
        )
    )
    kernel, bias = first.get_weights()
    kernel[..., 1], bias[1] = kernel[..., 0], bias[0]
    first.set_weights([kernel, bias])
    small = tfap.prune_once(model, videos(), tfap.Allocation({"first": 0.25}), ridge=1e-9)
    assert small.get_layer("first").layer.filters == 3
    np.testing.assert_allclose(small(videos()), model(videos()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "inner, words",
    [
        ("SimpleRNN", "the TimeDistributed 'each' around the SimpleRNN, which tfap does not analyze"),
        ("PReLU", "the TimeDistributed 'each' around the PReLU"),
        ("LayerNormalization", "the TimeDistributed 'each' around the LayerNormalization"),
    ],
)
def test_other_layers_inside_keep_the_channels(keras_module, inner, words):
    layers = keras_module.layers
    inside = layers.SimpleRNN(3) if inner == "SimpleRNN" else getattr(layers, inner)()
    stack = [layers.Dense(5, name="before"), layers.TimeDistributed(inside, name="each"), layers.Flatten()]
    model = random_weights(keras_module.Sequential([layers.Input((3, 4, 2)), *stack, layers.Dense(2)]))
    without_outputs(model.get_layer("before"), [1])
    (kept,) = [each for each in Liveness(model).kept() if each.path == "before"]
    assert words in kept.reason
    (row,) = [row for row in tfap.plan(model, 0.5, "magnitude", granularity="neuron") if row.path == "before"]
    assert words in row.reason


@pytest.mark.tensorflow_only("TensorFlow runs convolutions of channels_first on the CPU with oneDNN")
def test_channels_first_inside(keras_module):
    layers = keras_module.layers
    conv = layers.TimeDistributed(layers.Conv2D(4, 3, data_format="channels_first"), name="conv")
    inputs = keras_module.Input((3, 2, 7, 7))
    made = layers.TimeDistributed(layers.GlobalAveragePooling2D(data_format="channels_first"))(conv(inputs))
    model = random_weights(keras_module.Model(inputs, layers.Dense(2)(made)))
    without_outputs(conv, [0, 3])
    liveness = Liveness(model)
    produced = liveness.channels.of(liveness.graph.calls_of["conv"][0].outputs[0])
    assert produced.axis == 2 and len(produced.groups) == 4
    assert liveness.alive[produced.groups].tolist() == [False, True, True, False]


def test_a_layer_without_inputs_on_the_channel_axis_keeps_them():
    """A Flatten inside that moves the channels."""
    layers = keras.layers
    flatten = layers.TimeDistributed(layers.Flatten(data_format="channels_first"), name="each")
    model = keras.Sequential(
        [layers.Input((3, 4, 2)), layers.Dense(5, name="before"), flatten, layers.Dense(2)]
    )
    assert "'each' moves the channels of each time step" in str(
        tfap.plan(model, 0.5, "magnitude", granularity="neuron")[0].reason
    )
