"""GroupNormalization: whole groups of channels are removed, and stay exact."""

import numpy as np
import pytest

import tfap
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras


def net(keras_module, groups, filters=6, bias=True, **options):
    """conv - GroupNormalization - relu - conv - output, with random weights."""
    layers = keras_module.layers
    stack = [
        layers.Input((7, 7, 2)),
        layers.Conv2D(filters, 3, use_bias=bias, name="conv"),
        layers.GroupNormalization(groups, name="norm", **options),
        layers.ReLU(),
        layers.Conv2D(4, 3, name="reader"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="output"),
    ]
    model = keras_module.Sequential(stack)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def change(layer, **weights):
    """Sets some entries of a layer's weights to zero: `name=index`."""
    values = dict(zip([weight.name.split("/")[-1].split(":")[0] for weight in layer.weights], layer.weights))
    for name, index in weights.items():
        array = np.array(values[name])
        array[index] = 0
        values[name].assign(array)


def check(model, small):
    x = np.random.default_rng(1).normal(size=(5, 7, 7, 2)).astype("float32")
    expected = np.asarray(model(x))
    assert np.abs(np.asarray(small(x)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "groups, zero, expected",
    [
        (1, [0, 1, 2], 6),  # no group is constant
        (2, [0, 1, 2], 3),
        (2, [0, 1, 2, 3], 3),
        (3, [0, 1, 2], 4),
        (6, [0, 1, 2], 3),
    ],
)
def test_groups_that_are_constant_go(keras_module, groups, zero, expected):
    model = net(keras_module, groups)
    change(model.get_layer("conv"), kernel=(..., zero))
    small = tfap.compact(model)
    assert small.get_layer("conv").filters == expected
    assert small.get_layer("norm").groups == groups * expected // 6
    check(model, small)


def test_groups_that_nothing_reads_go(keras_module):
    model = net(keras_module, 3)
    change(model.get_layer("reader"), kernel=(slice(None), slice(None), [2, 3, 4]))
    small = tfap.compact(model)
    assert (small.get_layer("conv").filters, small.get_layer("norm").groups) == (4, 2)
    check(model, small)


def test_channels_of_scale_zero_are_constant(keras_module):
    """Their input still counts for the statistics of the others in the group."""
    model = net(keras_module, 3)
    change(model.get_layer("norm"), gamma=[0, 1, 2])
    small = tfap.compact(model)
    assert (small.get_layer("conv").filters, small.get_layer("norm").groups) == (4, 2)
    check(model, small)


def test_instance_normalization(keras_module):
    """With as many groups as channels, each channel goes for itself."""
    model = net(keras_module, 6, center=False)
    assert tfap.remove(model, {"conv": [1, 3]}).get_layer("norm").groups == 4
    small = tfap.prune_once(model, np.ones((4, 7, 7, 2), "float32"), 0.5, "magnitude", target="neurons")
    assert (small.get_layer("conv").filters, small.get_layer("norm").groups) == (3, 3)


def test_pruning_takes_whole_groups(keras_module):
    model = net(keras_module, 3)
    pruned = tfap.prune(model, 0.4, "magnitude", granularity="neuron", include=["conv"], target="neurons")
    tfap.update_masks(pruned, 0.4)
    mask = tfap.prunable_layers(pruned)[0].mask.numpy().any(axis=(0, 1, 2)).reshape(3, 2)
    assert sorted(mask.tolist()) == [[False, False], [True, True], [True, True]]
    stripped = tfap.strip_pruning(pruned)
    small = tfap.compact(stripped)
    assert (small.get_layer("conv").filters, small.get_layer("norm").groups) == (4, 2)
    check(stripped, small)
    removed = tfap.remove(model, {"conv": [0]})  # and channel 1, which is coupled
    assert removed.get_layer("conv").filters == 4


def test_one_group_keeps_all_channels(keras_module):
    model = net(keras_module, 1)
    change(model.get_layer("conv"), kernel=(..., [1]))
    reason = "'norm' normalizes all channels together"
    (kept,) = [each for each in Liveness(model).kept() if each.path == "conv"]
    assert kept.reason == reason
    plan = tfap.plan(model, 0.5, "magnitude", granularity="neuron")
    assert reason in next(row.reason for row in plan if row.path == "conv")
    with pytest.raises(ValueError, match=reason):
        tfap.remove(model, {"conv": [1]})


@pytest.mark.parametrize("kind", ["SeparableConv1D", "SeparableConv2D"])
def test_separable_convolutions_lose_inputs_and_outputs(keras_module, kind):
    """The depthwise windows are pruned with the channels that they read."""
    layers = keras_module.layers
    rank = int(kind[-2])
    stack = [
        layers.Input((8,) * rank + (2,)),
        getattr(layers, f"Conv{rank}D")(6, 3, activation="relu", name="conv"),
        getattr(layers, kind)(8, 3, depth_multiplier=2, activation="relu", name="separable"),
        layers.Flatten(),
        layers.Dense(2, name="output"),
    ]
    model = keras_module.Sequential(stack)
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="neuron", target="neurons", scope="local")
    tfap.update_masks(pruned, 0.5)
    stripped = tfap.strip_pruning(pruned)
    small = tfap.compact(stripped)
    filters, separable = small.get_layer("conv").filters, small.get_layer("separable")
    depthwise, pointwise, _ = separable.get_weights()
    assert (filters, separable.filters) == (3, 4)
    assert depthwise.shape[-2:] == (3, 2) and pointwise.shape[-2:] == (6, 4)
    x = np.random.default_rng(1).normal(size=(5, *model.input_shape[1:])).astype("float32")
    np.testing.assert_allclose(small(x), stripped(x), atol=1e-5)
