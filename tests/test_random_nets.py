"""The maker of random nets against nets in which a reader sees which channels are dead."""

import keras
import nets
import numpy as np
import pytest
import random_nets

SEEDS = range(5)


def made(seed, build, shape=(6,)):
    """A `Net` of `build(maker, value)` on one input, and its kernels by layer name."""
    maker = random_nets.Maker(keras, np.random.default_rng(seed), "Pooling")
    value = build(maker, maker.input(shape))
    output = maker.dense(value, 3, activation="linear", name="output")
    maker.pinned.update(output.channels)
    net = maker._finish([output.tensor])
    return net, {
        layer.name: layer.get_weights()[0] for layer in random_nets.all_layers(net.model) if layer.weights
    }


def lost(net, kernels, name):
    """How many of a layer's channels the maker says that it planted."""
    return kernels[name].shape[-1] - net.left[name]


def into(kernel):
    """Which outputs of a kernel have weights that are not zero."""
    return kernel.any(axis=tuple(range(kernel.ndim - 1)))


def out_of(kernel, channels):
    """Which inputs of a kernel have such weights; rows repeat the channels."""
    return kernel.reshape(-1, channels, kernel.shape[-1]).any(axis=(0, 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain(seed):
    net, kernels = made(seed, lambda maker, x: maker.dense(maker.dense(x, 5, name="a"), 4, name="b"))
    for name, reader, units in (("a", "b", 5), ("b", "output", 4)):
        alive = into(kernels[name]) & out_of(kernels[reader], units)
        assert 0 < lost(net, kernels, name) == units - alive.sum() < units


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sum_of_two_layers(seed):
    """A channel is dead if both layers make a constant; one that a single layer makes constant stays."""

    def build(maker, x):
        a = maker.dense(x, 6, name="a")
        b = maker.dense(x, channels=a.channels, name="b")
        return random_nets.Value(keras.layers.Add()([a.tensor, b.tensor]), a.channels)

    net, kernels = made(seed, build)
    alive = (into(kernels["a"]) | into(kernels["b"])) & out_of(kernels["output"], 6)
    assert 0 < lost(net, kernels, "a") == lost(net, kernels, "b") == 6 - alive.sum() < 6


@pytest.mark.parametrize("seed", SEEDS)
def test_flatten_repeats_channels(seed):
    def build(maker, x):
        return maker.Flatten(maker.apply(keras.layers.Conv2D(4, 1, name="conv"), x))

    net, kernels = made(seed, build, (2, 3, 2))
    alive = into(kernels["conv"]) & out_of(kernels["output"], 4)
    assert 0 < lost(net, kernels, "conv") == 4 - alive.sum() < 4


@pytest.mark.parametrize("seed", SEEDS)
def test_a_depthwise_convolution_multiplies_channels(seed):
    """Outputs 2i and 2i + 1 are of input i: it is dead if nothing reads either."""

    def build(maker, x):
        x = maker.Depthwise(maker.apply(keras.layers.Conv2D(4, 1, name="conv"), x), multiplier=2)
        return maker.GlobalPooling(x)

    net, kernels = made(seed, build, (4, 4, 2))
    read = kernels["output"].reshape(4, 2, 3).any(axis=(1, 2))
    assert 0 < lost(net, kernels, "conv") == 4 - (into(kernels["conv"]) & read).sum() < 4


@pytest.mark.parametrize("seed", SEEDS)
def test_as_many_channels_of_every_group(seed):
    def build(maker, x):
        before = maker.apply(keras.layers.Conv2D(6, 1, name="before"), x, groups=2)
        return maker.GlobalPooling(
            maker.apply(keras.layers.Conv2D(4, 1, groups=2, name="grouped"), before, groups=2)
        )

    net, kernels = made(seed, build, (4, 4, 2))
    grouped = kernels["grouped"][0, 0]  # (inputs of a group, outputs): the first two outputs are of group 0
    read = np.concatenate([grouped[:, :2].any(axis=1), grouped[:, 2:].any(axis=1)])
    dead = ~(into(kernels["before"]) & read)
    assert 0 < lost(net, kernels, "before") == dead.sum()
    assert dead[:3].sum() == dead[3:].sum() < 3
    dead = ~(into(kernels["grouped"]) & out_of(kernels["output"], 4))
    assert lost(net, kernels, "grouped") == dead.sum() == 2 and dead[:2].sum() == 1


def test_outputs_and_what_is_not_analyzed_keep_their_channels():
    net, kernels = made(0, lambda maker, x: maker.Unknown(maker.dense(x, 5, name="a")))
    assert lost(net, kernels, "a") == lost(net, kernels, "output") == 0
    assert not into(kernels["a"]).all()  # a constant, which looks dead


def test_sizes_and_distances():
    model = nets.cnn(keras)
    sizes = {"conv_a": 6, "norm_a": 6, "conv_b": 6, "dense": 10, "output": 5}
    assert random_nets.sizes(model) == sizes  # a depthwise convolution makes no channels
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    assert random_nets.apart(model, other) == 0
    kernel, bias = other.layers[-1].get_weights()
    other.layers[-1].set_weights([kernel, bias + np.array([9, 0, 0, 0, 0])])
    assert random_nets.apart(model, other) > 0.1
