"""Criteria that look further than at one weight, against the simplest NumPy that can be right."""

import nets
import numpy as np
import pytest

import tfap
from tfap import updater
from tfap.criteria import LAMP
from tfap.kernels import Kernel, KernelSpec
from tfap.neighbours import Neighbours


def scores_of(model):
    """`{path: scores}` as a mask update would see them."""
    weights = updater.pruned_weights(model)
    kernels = updater.gathered(weights)
    return {kernel.path: weights[0].wrapper.criterion.scores(kernel) for kernel in kernels}


def kernels_of(model):
    return [layer.get_weights()[0] for layer in tfap.strip_pruning(model).layers if layer.get_weights()]


# -- LAMP ------------------------------------------------------------------------------------------


def test_lamp_is_the_share_among_the_alive_weights_that_are_not_smaller():
    generator = np.random.default_rng(0)
    weights = generator.integers(-5, 6, (6, 7)).astype(float)  # with ties and zeros
    mask = generator.integers(0, 2, weights.shape).astype("uint8")
    scores = LAMP().scores(Kernel("dense", KernelSpec(), weights, mask))
    for at in zip(*np.nonzero(mask)):
        others = weights[(mask == 1) & (np.abs(weights) >= np.abs(weights[at]))]
        expected = weights[at] ** 2 / np.sum(others**2) if weights[at] else 0
        assert scores[at] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value,expected", [(0.0, 0.0), (2.0, 0.25)])
def test_lamp_of_equal_weights(value, expected):
    kernel = Kernel("dense", KernelSpec(), np.full((2, 2), value, "float32"), np.ones((2, 2), "uint8"))
    np.testing.assert_array_equal(LAMP().scores(kernel), np.full((2, 2), expected))


def test_lamp_does_not_see_the_scale_of_a_layer(keras_module):
    """Global magnitude empties the layer of small weights, LAMP prunes both alike."""
    model = nets.mlp(keras_module, (8, 8, 8, 4))
    for layer, scale in zip(model.layers, (1.0, 1e-3, 1.0)):
        layer.set_weights([np.arange(1, 1 + layer.kernel.shape[1] * 8).reshape(8, -1) * scale, layer.bias])
    wrapped = {name: tfap.prune(model, 0.5, name) for name in ("lamp", "magnitude")}
    for each in wrapped.values():
        tfap.update_masks(each, 0.5)
    assert [int((mask == 0).sum()) for mask in nets.masks(wrapped["magnitude"]).values()] == [0, 64]
    assert [int((mask == 0).sum()) for mask in nets.masks(wrapped["lamp"]).values()] == [32, 32]


# -- Lookahead -------------------------------------------------------------------------------------


def test_lookahead_in_a_chain(keras_module):
    """The output layer is not pruned but counts; the data and the model's output do not."""
    wrapped = tfap.prune(nets.mlp(keras_module, (5, 6, 7, 3)), 0.5, "lookahead")
    tfap.update_masks(wrapped, 0.3)
    first, second, output = kernels_of(wrapped)
    into, out_of = np.linalg.norm(first, axis=0), np.linalg.norm(output, axis=1)
    scores = scores_of(wrapped)
    np.testing.assert_allclose(scores["hidden_0"], abs(first) * np.linalg.norm(second, axis=1), rtol=1e-6)
    np.testing.assert_allclose(scores["hidden_1"], abs(second) * np.outer(into, out_of), rtol=1e-6)
    assert nets.pruned_weights(wrapped) == round(0.3 * nets.prunable_weights(wrapped))


def test_lookahead_of_the_output_layer(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module, (5, 6, 3)), 0.5, "lookahead", include=["output"])
    first, output = kernels_of(wrapped)
    expected = abs(output) * np.linalg.norm(first, axis=0)[:, None]
    np.testing.assert_allclose(scores_of(wrapped)["output"], expected, rtol=1e-6)


def convolutions(keras):
    """A grouped convolution, pooling and Flatten: three channels become twelve units."""
    layers = keras.layers
    stack = [layers.Conv2D(4, 3, name="a", activation="relu"), layers.BatchNormalization()]
    stack += [layers.Conv2D(6, 1, groups=2, name="b"), layers.ReLU(), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dense(2, name="c")]
    return nets.compiled(keras, keras.Sequential([layers.Input((6, 6, 3)), *stack]))


def test_lookahead_through_groups_and_flatten(keras_module):
    wrapped = tfap.prune(convolutions(keras_module), 0.5, "lookahead")
    kernels = {layer.name: layer.get_weights()[0] for layer in tfap.strip_pruning(wrapped).layers
               if layer.name in "abc"}  # fmt: skip
    a, b, c = (kernels[name] for name in "abc")
    reads = [c[channel::6] for channel in range(6)]  # units of a channel: every sixth one
    behind = np.array([np.linalg.norm(rows) for rows in reads])
    halves = [b[..., :3], b[..., 3:]]  # inputs 0 and 1 feed the first three channels, 2 and 3 the others
    out_of = [np.linalg.norm(halves[channel // 2][:, :, channel % 2]) for channel in range(4)]
    scores = scores_of(wrapped)
    np.testing.assert_allclose(scores["a"], abs(a) * out_of, rtol=1e-6)
    into = np.linalg.norm(a.reshape(-1, 4), axis=0)
    before = np.stack([np.repeat(into[[0, 2]], 3), np.repeat(into[[1, 3]], 3)])
    np.testing.assert_allclose(scores["b"], abs(b) * before * behind, rtol=1e-6)


def test_all_branches_of_an_add_count_together(keras_module):
    model = nets.cnn(keras_module)
    norms = Neighbours(model).norms()
    both = [model.get_layer(name).get_weights()[0].reshape(-1, 6) for name in ("conv_a", "conv_b")]
    depthwise = model.get_layer("depthwise").get_weights()[0].reshape(-1, 6, 2)
    fed = np.sum([np.sum(kernel**2, axis=0) for kernel in both], axis=0) + np.sum(depthwise**2, axis=(0, 2))
    np.testing.assert_allclose(norms["conv_b", "kernel"]["input_norms"].ravel(), np.sqrt(fed), rtol=1e-6)
    assert norms["conv_a", "kernel"]["input_norms"] == 1
    assert norms["output", "kernel"]["neuron_norms"].tolist() == [[1] * 5]


def test_lookahead_without_a_graph_is_magnitude(keras_module):
    hidden = tfap.prune(keras_module.layers.Dense(8, activation="relu"), 0.5, "lookahead")
    model = nets.subclassed(keras_module, hidden)
    model(np.zeros((1, 4)))
    np.testing.assert_array_equal(*scores_of(model).values(), abs(hidden.layer.get_weights()[0]))


@pytest.mark.parametrize("criterion", ["lamp", "lookahead"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_in_fit(keras_module, criterion, scope):
    wrapped = tfap.prune(nets.cnn(keras_module), 0.6, criterion, scope)
    nets.fit(wrapped, epochs=4)
    assert nets.pruned_weights(wrapped) == pytest.approx(0.6 * nets.prunable_weights(wrapped), abs=3)
