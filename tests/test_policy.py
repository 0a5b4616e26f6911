"""Pruning policies: tfmot's rules for XNNPACK in both Kerases, and errors that say what to change."""

import nets
import numpy as np
import pytest
import tf_keras

import tfap
from tfap.keras_compat import tfmot

THEIRS = tfmot.sparsity.keras


def start(keras):
    return [keras.layers.ZeroPadding2D(1), keras.layers.Conv2D(4, 3, strides=2, name="start")]


def end(keras):
    return [keras.layers.GlobalAveragePooling2D(name="end"), keras.layers.Dense(3, name="output")]


def net(keras, between, begin=start, finish=end, channels=3):
    layers = [*begin(keras), *between(keras), *finish(keras)]
    return keras.Sequential([keras.Input((16, 16, channels)), *layers])


def mobile(keras):
    layers = keras.layers
    return [
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Conv2D(8, 1, name="pointwise_a"),
        layers.Activation("relu"),
        layers.ZeroPadding2D(2),
        layers.DepthwiseConv2D(5, strides=2),
        layers.Dropout(0.1),
        layers.Conv2D(8, 1, name="pointwise_b"),
        layers.UpSampling2D(interpolation="bilinear"),
    ]


def residual(keras):
    """A Functional model with additions, as a layer and as a function."""
    layers = keras.layers
    inputs = x = keras.Input((16, 16, 3))
    for layer in start(keras):
        x = layer(x)
    branch = layers.Conv2D(4, 1, name="pointwise_a")(x)
    x = layers.Add()([x, branch])
    x = x + layers.Conv2D(4, 1, name="pointwise_b")(x)
    for layer in end(keras):
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("make", [lambda keras: net(keras, mobile), residual], ids=["mobile", "residual"])
@pytest.mark.one_keras
def test_the_pointwise_convolutions_of_a_supported_model(keras_module, make):
    policies = [tfap.PruneForLatencyOnXNNPack()]
    policies += [THEIRS.PruneForLatencyOnXNNPack()] * (keras_module is tf_keras)
    for policy in policies:
        pruned = tfap.prune_low_magnitude(make(keras_module), pruning_policy=policy)
        names = [wrapper.name for wrapper in tfap.prunable_layers(pruned)]
        assert names == ["pointwise_a", "pointwise_b"]
    schedule = tfap.ConstantSparsity(0.5, 1, 1, 1)
    pruned = tfap.prune_low_magnitude(make(keras_module), schedule, pruning_policy=policies[0])
    pruned.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 3))
    pruned.fit(x, np.ones((8, 3)), verbose=0, callbacks=[tfap.UpdatePruningStep()])
    plain = tfap.strip_pruning(pruned)
    shares = {layer.name: np.mean(layer.get_weights()[0] == 0) for layer in plain.layers if layer.weights}
    assert shares["pointwise_a"] == shares["pointwise_b"] == 0.5 and shares["start"] == 0


def one(name, *arguments, **options):
    return lambda keras: [getattr(keras.layers, name)(*arguments, name="middle", **options)]


# What stands between the start and the end, and what the error says to change.
UNSUPPORTED = {
    "3x3 convolution": (one("Conv2D", 4, 3), "use a 1x1 kernel"),
    "stride": (one("Conv2D", 4, 1, strides=2), "use a 1x1 kernel with stride 1"),
    "transposed": (one("Conv2DTranspose", 4, 1), "replace it"),
    "depth multiplier": (one("DepthwiseConv2D", 3, padding="same", depth_multiplier=2), "depth_multiplier=1"),
    "depthwise stride": (
        one("DepthwiseConv2D", 3, strides=2, padding="same"),
        "padding='valid' after ZeroPad",
    ),
    "depthwise valid": (one("DepthwiseConv2D", 3), "padding='valid' after ZeroPadding2D"),
    "depthwise size": (one("DepthwiseConv2D", 2, padding="same"), "3x3 or 5x5"),
    "nearest": (one("UpSampling2D"), "interpolation='bilinear'"),
    "activation": (one("Activation", "tanh"), "relu, relu6"),
    "pooling": (one("MaxPooling2D"), "replace it, or move it"),
    "normalization": (one("BatchNormalization", axis=1), "normalize the last axis"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_stands_in_the_way(keras_module, case):
    """tfmot refuses the same models, except that it takes a transposed convolution for a convolution."""
    between, message = UNSUPPORTED[case]
    model = net(keras_module, between)
    with pytest.raises(ValueError, match=f"- 'middle' .* is not supported: .*{message}"):
        tfap.prune_low_magnitude(model, pruning_policy=tfap.PruneForLatencyOnXNNPack())
    if keras_module is tf_keras and case != "transposed":
        with pytest.raises(ValueError, match="is not supported"):
            THEIRS.prune_low_magnitude(model, pruning_policy=THEIRS.PruneForLatencyOnXNNPack())


@pytest.mark.parametrize(
    "begin, finish, channels, message",
    [
        (lambda keras: start(keras)[1:], end, 3, r"no sparse inference begins .*ZeroPadding2D\(1\)"),
        (start, end, 1, "on an input of 3 channels"),
        (start, lambda keras: end(keras)[1:], 3, "no sparse inference ends .*GlobalAveragePooling2D"),
    ],
    ids=["no padding", "one channel", "no pooling"],
)
def test_a_model_without_a_start_or_an_end(keras_module, begin, finish, channels, message):
    model = net(keras_module, one("Conv2D", 4, 1), begin, finish, channels)
    with pytest.raises(ValueError, match=message):
        tfap.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(model)
    if keras_module is tf_keras:
        with pytest.raises(ValueError, match="Could not find"):
            THEIRS.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(model)


def test_all_that_stands_in_the_way_is_told_at_once(keras_module):
    layers = keras_module.layers
    model = net(
        keras_module, lambda keras: [layers.Conv2D(4, 3, name="a"), layers.Activation("tanh", name="b")]
    )
    with pytest.raises(ValueError, match=r"- 'a' \(Conv2D\) (.|\n)*- 'b' \(Activation\)"):
        tfap.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(model)


def test_a_policy_of_ones_own(keras_module):
    class OnlyOutput(tfap.PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name == "output"

        def ensure_model_supports_pruning(self, model):
            assert len(model.layers) == 3

    pruned = tfap.prune_low_magnitude(nets.mlp(keras_module), pruning_policy=OnlyOutput())
    assert [wrapper.name for wrapper in tfap.prunable_layers(pruned)] == ["output"]
