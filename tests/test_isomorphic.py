"""scope="isomorphic": layers of the same structure are ranked together."""

import nets
import numpy as np
import pytest

import tfap
from tfap.graph.calls import Graph
from tfap.graph.channels import ChannelMap
from tfap.graph.structure import Structures

pytestmark = pytest.mark.one_keras


def two_kinds(keras):
    """Two convolutions whose second has the smaller weights, then two Dense layers with weights of ones."""
    layers = keras.layers
    convolutions = [layers.Conv2D(4, 3, padding="same", use_bias=False, name=name) for name in ("c_1", "c_2")]
    dense = [layers.Dense(8, use_bias=False, name=name) for name in ("d_1", "d_2")]
    last = layers.Conv2D(4, 3, padding="same", name="c_3")
    stack = [*convolutions, last, layers.GlobalAveragePooling2D(), *dense, layers.Dense(2, name="output")]
    model = keras.Sequential([layers.Input((6, 6, 4)), *stack])
    for layer, scale in zip((*convolutions, *dense), (100.0, 1.0, 0.01, 0.02)):
        shape = layer.get_weights()[0].shape
        layer.set_weights([scale * np.broadcast_to(np.arange(1, shape[-1] + 1), shape)])
    model.compile("sgd", "mse")
    return model


def kept(model):
    return {
        wrapper.name: int(wrapper.mask.numpy().any(axis=tuple(range(len(wrapper.mask.shape) - 1))).sum())
        for wrapper in tfap.prunable_layers(model)
    }


def structures(model):
    graph = Graph(model)
    found = ChannelMap(graph)
    of = Structures(graph, found).of
    return {
        path: of(found.of(graph.calls_of[path][0].outputs[0]).groups)
        for path, layer in graph.layers()
        if layer.weights and found.of(graph.calls_of[path][0].outputs[0]) is not None
    }


def test_equal_structures_whatever_the_widths(keras_module):
    found = structures(two_kinds(keras_module))
    assert found["c_1"] == found["c_2"] and found["d_1"] == found["d_2"]
    assert len({found["c_1"], found["c_3"], found["d_1"]}) == 3  # a Dense layer consumes the last convolution
    others = structures(nets.cnn(keras_module))
    assert others["conv_a"] != others["dense"]
    for coupled in ("conv_b", "norm_a", "depthwise"):
        assert others[coupled] == others["conv_a"]


def test_every_structure_loses_the_same_fraction(keras_module):
    """In each, the layer with the smaller weights loses more; a global ranking empties the Dense layers."""
    model = two_kinds(keras_module)
    options = {"criterion": "magnitude", "granularity": "neuron", "skip": ["c_3"], "target": "neurons"}
    wrapped = tfap.prune(model, 0.25, scope="isomorphic", **options)
    tfap.update_masks(wrapped, 0.25)
    # By scores 0.01, 0.02, 0.02, 0.03: d_1 loses 3 and d_2 one of 16.
    assert kept(wrapped) == {"c_1": 4, "c_2": 2, "d_1": 5, "d_2": 7}
    together = tfap.prune(model, 0.25, scope="global", **options)
    tfap.update_masks(together, 0.25)
    assert kept(together)["c_1"] == kept(together)["c_2"] == 4


def test_single_weights_are_ranked_by_kind(keras_module):
    wrapped = tfap.prune(two_kinds(keras_module), 0.25, "magnitude", "isomorphic", skip=["c_3"])
    tfap.update_masks(wrapped, 0.25)
    pruned = {
        wrapper.name: int((wrapper.mask.numpy() == 0).sum()) for wrapper in tfap.prunable_layers(wrapped)
    }
    assert pruned["c_1"] == 0 and pruned["c_2"] == 2 * 9 * 4 * 4 // 4
    assert pruned["d_1"] + pruned["d_2"] == (4 * 8 + 8 * 8) // 4


def test_prune_once_ranks_equal_structures_together(keras_module):
    model = two_kinds(keras_module)
    x = np.random.default_rng(0).normal(size=(20, 6, 6, 4)).astype("float32")
    options = {"criterion": "magnitude", "skip": ["c_3"], "target": "neurons"}
    small = tfap.prune_once(model, x, 0.25, scope="isomorphic", **options)
    widths = {layer.name: layer.get_weights()[0].shape[-1] for layer in small.layers if layer.get_weights()}
    assert widths == {"c_1": 4, "c_2": 2, "c_3": 4, "d_1": 5, "d_2": 7, "output": 2}


@pytest.mark.slow
def test_a_budget_with_an_isomorphic_ranking(keras_module):
    model = two_kinds(keras_module)
    x = np.random.default_rng(0).normal(size=(20, 6, 6, 4)).astype("float32")
    for criterion in ("magnitude", "reconstruction"):
        small, report = tfap.prune_once(
            model, x, {"weights": 0.6}, criterion, scope="isomorphic", return_report=True
        )
        assert report.weights[1] <= 0.6 * report.weights[0]
        assert np.isfinite(np.asarray(small(x, training=False))).all()


@pytest.mark.slow
def test_in_fit_and_compact(keras_module):
    model = nets.cnn(keras_module)
    x, y = nets.data(model)
    fit = tfap.fit_and_compact(
        model, 0.4, x, y, stages=2, criterion="magnitude", scope="isomorphic", epochs=4, verbose=0
    )
    assert tfap.flops(fit.model) < tfap.flops(model)
    with pytest.raises(ValueError, match="With scope='isomorphic', training decides .* pass scope='local'"):
        tfap.fit_and_compact(model, {"flops": 0.5}, x, y, scope="isomorphic", epochs=2, verbose=0)
