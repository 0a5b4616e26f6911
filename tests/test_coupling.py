"""Channels that are tied in a graph are pruned together, so that compaction can remove all of them."""

import nets
import networks
import numpy as np
import pytest

import tfap
from tfap.graph import flops
from tfap.graph.calls import Graph
from tfap.graph.coupling import Coupling
from tfap.graph.liveness import Liveness
from tfap.training import mask_update

pytestmark = pytest.mark.one_keras


def mobilenet(keras):
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=5)


NETS = {
    "cnn": nets.cnn,
    "small_resnet": lambda keras: networks.small_resnet(keras, (16, 16, 3), 5),
    "resnet20": lambda keras: networks.resnet20(keras, (16, 16, 1)),
    "mobilenet": mobilenet,
}


def built(keras, name):
    """A net whose normalizations do something, as after training."""
    model, generator = NETS[name](keras), np.random.default_rng(0)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            values = [generator.normal(scale=0.1, size=value.shape) for value in layer.get_weights()]
            layer.set_weights([1 + values[0], values[1], values[2], 1 + abs(values[3])])
    return model


def alive(wrapped):
    """`{path: bool array}`: which neurons the masks leave alive."""
    return {
        weight.path: weight.gather().neuron_sums(weight.mask.numpy().astype(int)) > 0
        for weight in mask_update.pruned_weights(wrapped)
    }


def assert_all_that_was_pruned_goes(wrapped):
    """Returns the compacted model."""
    plain = tfap.strip_pruning(wrapped)
    assert Liveness(plain).kept() == []
    smaller = tfap.compact(plain)
    calls = Graph(smaller).calls_of
    left = alive(wrapped)
    assert {path: calls[path][0].outputs[0].shape[-1] for path in left} == {
        path: neurons.sum() for path, neurons in left.items()
    }
    assert any(not neurons.all() for neurons in left.values())
    x = np.random.default_rng(0).normal(size=(8, *wrapped.inputs[0].shape[1:])).astype("float32")
    expected = np.asarray(plain(x))
    np.testing.assert_allclose(np.asarray(smaller(x)), expected, atol=1e-5 * np.abs(expected).max())
    return smaller


def dense_net(keras, groups=1):
    """Two convolutions, the second one grouped, a 1x1 convolution, a transposed one and a Dense layer."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(6, 3, activation="relu", name="first"),
            layers.Conv2D(8, 3, groups=groups, activation="relu", name="second"),
            layers.Conv2D(5, 1, activation="relu", name="pointwise"),
            layers.Conv2DTranspose(4, 1, activation="relu", name="transposed"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(7, activation="relu", name="dense"),
            layers.Dense(3, name="output"),
        ]
    )


# -- which neurons belong together -----------------------------------------------------------------


@pytest.mark.smoke
def test_groups_of_neurons(keras_module):
    wrapped = tfap.prune(nets.cnn(keras_module), 0.5, "magnitude", granularity="neuron")
    groups = {weight.path: weight.neuron_groups for weight in mask_update.pruned_weights(wrapped)}
    np.testing.assert_array_equal(groups["conv_a"], groups["conv_b"])  # joined by the Add
    np.testing.assert_array_equal(groups["depthwise"], np.repeat(groups["conv_a"], 2))
    assert len(set(groups["conv_a"])) == 6
    assert not set(groups["dense"]) & set(groups["conv_a"])


def test_inputs_go_where_a_bias_cannot_take_their_constants(keras_module):
    wrapped = tfap.prune(dense_net(keras_module), 0.5, "magnitude", granularity="neuron")
    weights = {weight.path: weight for weight in mask_update.pruned_weights(wrapped)}
    inputs = {path: weight.input_groups is not None for path, weight in weights.items()}
    assert inputs == {
        "first": False, "second": True, "pointwise": False, "transposed": True, "dense": False,
    }  # fmt: skip
    np.testing.assert_array_equal(weights["second"].input_groups, weights["first"].neuron_groups)


def test_models_without_a_graph_have_no_ties(keras_module):
    hidden = tfap.prune(keras_module.layers.Dense(4, activation="relu"), 0.5)
    model = nets.subclassed(keras_module, hidden)
    model(np.zeros((1, 3), "float32"))
    ties = Coupling(model)
    (spec, _, mask), *_ = hidden.kernel_and_mask()
    assert ties.of_neurons("dense", spec, 4) is None
    assert ties.of_inputs("dense", spec, mask.shape) is None


def test_single_weights_are_not_tied(keras_module):
    wrapped = tfap.prune(nets.cnn(keras_module), 0.5, "magnitude", granularity="weight")
    assert all(weight.neuron_groups is None for weight in mask_update.pruned_weights(wrapped))


# -- everything that is pruned can be removed ------------------------------------------------------


@pytest.mark.parametrize(
    "name, target",
    [
        ("cnn", "neurons"),
        ("small_resnet", "weights"),
        pytest.param("mobilenet", "weights", marks=pytest.mark.slow),
    ],
)
def test_compaction_removes_every_pruned_group(keras_module, name, target):
    wrapped = tfap.prune(built(keras_module, name), 0.6, "magnitude", granularity="neuron", target=target)
    for sparsity in (0.3, 0.6):
        before = alive(wrapped)
        tfap.update_masks(wrapped, sparsity)
        assert all((before[path] >= neurons).all() for path, neurons in alive(wrapped).items())
    assert_all_that_was_pruned_goes(wrapped)


def test_after_training(keras_module):
    model = nets.compiled(keras_module, networks.small_resnet(keras_module, (16, 16, 3), 5, (4, 8)), "mse")
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 1, frequency=1))
    nets.fit(wrapped, samples=32)  # two steps
    assert_all_that_was_pruned_goes(wrapped)


@pytest.mark.smoke
def test_grouped_and_transposed_convolutions(keras_module):
    wrapped = tfap.prune(dense_net(keras_module, groups=2), 0.4, "magnitude", granularity="neuron")
    tfap.update_masks(wrapped, 0.4)
    weights = {weight.path: weight.mask.numpy() for weight in mask_update.pruned_weights(wrapped)}
    dead = ~weights["first"].any(axis=(0, 1, 2))
    assert dead.any()
    for number, outputs in ((0, slice(0, 4)), (1, slice(4, 8))):
        part = weights["second"][..., outputs]
        read = part[..., part.any(axis=(0, 1, 2))].any(axis=(0, 1, 3))
        np.testing.assert_array_equal(read, ~dead[3 * number : 3 * number + 3])
    plain = tfap.strip_pruning(wrapped)
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32")
    np.testing.assert_allclose(np.asarray(tfap.compact(plain)(x)), np.asarray(plain(x)), atol=1e-5)


# -- what the target is a share of -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_resnet", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_flops(keras_module, name):
    model = built(keras_module, name)
    wrapped = tfap.prune(model, 0.6, "magnitude", granularity="neuron", target="flops")
    tfap.update_masks(wrapped, 0.6)
    smaller = assert_all_that_was_pruned_goes(wrapped)
    assert flops.flops(smaller) / flops.flops(model) == pytest.approx(0.4, abs=0.02)


def test_neurons_and_weights(keras_module):
    model = built(keras_module, "small_resnet")
    wrapped = tfap.prune(model, 0.5, "magnitude", granularity="neuron", target="neurons")
    tfap.update_masks(wrapped, 0.5)
    left = np.concatenate(list(alive(wrapped).values()))
    assert 0 <= left.sum() - len(left) / 2 < 3  # at most three convolutions share a group
    wrapped = tfap.prune(model, 0.5, "magnitude", granularity="neuron")
    tfap.update_masks(wrapped, 0.5)
    assert nets.pruned_weights(wrapped) / nets.prunable_weights(wrapped) == pytest.approx(0.5, abs=0.01)


def test_local_scope_ranks_tied_kernels_together(keras_module):
    model = nets.cnn(keras_module)
    kernel, bias = model.get_layer("dense").get_weights()
    model.get_layer("dense").set_weights([100 * kernel, bias])  # in a global scope it would lose nothing
    wrapped = tfap.prune(model, 0.5, "magnitude", "local", granularity="neuron")
    tfap.update_masks(wrapped, 0.5)
    left = alive(wrapped)
    assert left["dense"].sum() == 5
    np.testing.assert_array_equal(left["conv_a"], left["conv_b"])
    np.testing.assert_array_equal(left["depthwise"], np.repeat(left["conv_a"], 2))
    assert 3 <= left["conv_a"].sum() < 6
    assert_all_that_was_pruned_goes(wrapped)


# -- the setting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["neurons", "flops"])
def test_targets_need_whole_neurons(keras_module, target):
    model = nets.mlp(keras_module)
    for arguments in ({"criterion": "magnitude"}, {"granularity": "weight"}):
        with pytest.raises(ValueError, match=f"target='{target}' counts whole neurons"):
            tfap.prune(model, 0.5, target=target, **arguments)
    assert len(tfap.prunable_layers(tfap.prune(model, 0.5, target=target))) == 2
    with pytest.raises(ValueError, match="target must be one of"):
        tfap.prune(model, 0.5, target="bytes")


@pytest.mark.smoke
def test_saved_and_loaded(keras_module, tmp_path):
    wrapped = tfap.prune(nets.cnn(keras_module), 0.5, "magnitude", "local", "neuron", target="flops")
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras_module.models.load_model(tmp_path / "wrapped.keras", compile=False)
    for ours, theirs in zip(tfap.prunable_layers(wrapped), tfap.prunable_layers(loaded), strict=True):
        assert theirs.settings.target == "flops"
        assert theirs.settings.key == ours.settings.key
    for model in (wrapped, loaded):
        tfap.update_masks(model, 0.5)
    for path, mask in nets.masks(wrapped).items():
        np.testing.assert_array_equal(nets.masks(loaded)[path], mask)
