"""Blocks and m by n sparsity: tfmot's own masks on tf_keras, the same on Keras 3, by every criterion."""

import functools

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.keras_compat import TfmotPruning
from tfap.layers.settings import PruningSettings
from tfap.masks.blocks import as_matrix
from tfap.masks.patterns import Blocks, MByN, SingleWeights
from tfap.masks.weights import Scored

SPARSITIES = (0.1, 0.3, 0.5, 0.8, 0.95)
DEPTHWISE = KernelSpec(neuron_axes=(-2, -1))
# Some axes are multiples of the blocks and groups, some are not.
KERNELS = {
    "Dense": [(KernelSpec(), (64, 48)), (KernelSpec(), (21, 37)), (KernelSpec(), (7, 18))],
    "Conv2D": [(KernelSpec(), (3, 3, 8, 32)), (KernelSpec(), (1, 1, 24, 34)), (KernelSpec(), (3, 3, 5, 18))],
    "DepthwiseConv2D": [(DEPTHWISE, (3, 3, 32, 1)), (DEPTHWISE, (5, 5, 11, 2))],
}
LAYERS = [(spec, shape) for kernels in KERNELS.values() for spec, shape in kernels]


@functools.cache
def kernel(spec, shape):
    weights = np.random.default_rng(0).normal(size=shape).astype("float32")
    return Kernel("layer", spec, weights, np.ones(shape, "uint8"))


def magnitude(spec, shape):
    made = kernel(spec, shape)
    return Scored(made, np.abs(made.weights))


def of_tfmot(weights, sparsity, block_size=(1, 1), pooling="AVG", m_by_n=None):
    """The mask that tfmot's own implementation makes."""
    schedule = tfap.ConstantSparsity(sparsity, 0)
    pruning = TfmotPruning(lambda: tf.constant(1, tf.int64), [], schedule, block_size, pooling, m_by_n)
    _, mask = pruning._maybe_update_block_mask(tf.constant(weights))
    return mask.numpy().astype("uint8")


@pytest.mark.parametrize("spec, shape", LAYERS, ids=[str(shape) for _, shape in LAYERS])
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("block_size", [(1, 4), (4, 4), (1, 16), (2, 3)], ids=str)
def test_blocks_are_those_of_tfmot(spec, shape, block_size, pooling):
    item = magnitude(spec, shape)
    matrix = as_matrix(item.kernel, item.kernel.weights)
    for sparsity in SPARSITIES:
        expected = of_tfmot(matrix, sparsity, block_size, pooling)
        (mask,) = Blocks(block_size, pooling, rounds_kept=True).new_masks([item], sparsity)
        assert mask.dtype == np.uint8 and mask.shape == shape
        np.testing.assert_array_equal(as_matrix(item.kernel, mask), expected)
        if shape[:2] == (1, 1):  # the only convolution kernels that tfmot's own code can partition
            theirs = of_tfmot(item.kernel.weights, sparsity, block_size, pooling)
            np.testing.assert_array_equal(mask, theirs)
        assert mask.any() and (sparsity < 0.3 or not mask.all())


@pytest.mark.parametrize("spec, shape", LAYERS, ids=[str(shape) for _, shape in LAYERS])
@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 2), (4, 8), (1, 4), (3, 5)], ids=str)
def test_m_by_n_is_that_of_tfmot(spec, shape, m_by_n):
    item, zeros = magnitude(spec, shape), m_by_n[0] / m_by_n[1]
    expected = of_tfmot(item.kernel.weights, 0.5, m_by_n=m_by_n)
    for sparsity in (zeros, np.float32(zeros), 0.99):
        (mask,) = MByN(m_by_n).new_masks([item], sparsity)
        np.testing.assert_array_equal(mask, expected)
    assert (mask == 0).any() or shape[-2] <= m_by_n[1] - m_by_n[0]


@pytest.mark.parametrize("spec, shape", LAYERS, ids=[str(shape) for _, shape in LAYERS])
def test_single_weights_are_those_of_tfmot(spec, shape):
    for sparsity in (*SPARSITIES, 0.0, 0.999999):
        (mask,) = SingleWeights(rounds_kept=True).new_masks([magnitude(spec, shape)], sparsity)
        np.testing.assert_array_equal(mask, of_tfmot(kernel(spec, shape).weights, sparsity))


@pytest.mark.parametrize("size", range(1, 12))
def test_the_number_of_kept_weights_is_rounded_as_in_tfmot(size):
    item = magnitude(KernelSpec(), (1, size))
    for sparsity in np.arange(0, 1, 0.05):
        (mask,) = SingleWeights(rounds_kept=True).new_masks([item], sparsity)
        np.testing.assert_array_equal(mask, of_tfmot(item.kernel.weights, sparsity))


def test_equal_weights_in_a_group_are_kept_in_the_order_of_tfmot():
    weights = np.array([[1, 1, 1, 1, 0, 2, 0, 2, 3]], "float32").T
    item = Scored(Kernel("a", KernelSpec(), weights, np.ones(weights.shape, "uint8")), np.abs(weights))
    (mask,) = MByN((2, 4)).new_masks([item], 0.5)
    np.testing.assert_array_equal(mask.T, [[1, 1, 0, 0, 0, 1, 0, 1, 1]])
    np.testing.assert_array_equal(mask, of_tfmot(weights, 0.5, m_by_n=(2, 4)))


def test_the_padding_of_tfmot_shifts_the_windows():
    """Six columns make two blocks of 4: one column of padding on each side, so the windows begin at -1."""
    weights = np.array([[1, 1, 1, 5, 8, 8], [2, 3, 4, 9, 9, 9]], "float32")
    item = Scored(Kernel("a", KernelSpec(), weights, np.ones(weights.shape, "uint8")), weights)
    pooled = Blocks((1, 4))._blocks(item)
    np.testing.assert_array_equal(pooled.scores, [[1, 7], [3, 9]])  # means of columns 0 to 2, and 3 to 5
    (mask,) = Blocks((1, 4)).new_masks([item], 0.5)
    np.testing.assert_array_equal(mask, [[0, 0, 0, 0, 1, 1]] * 2)  # blocks themselves begin at column 0
    np.testing.assert_array_equal(mask, of_tfmot(weights, 0.5, (1, 4)))


def test_sparsities_in_between_are_exact_and_pruned_weights_stay_pruned():
    first, second = magnitude(KernelSpec(), (32, 16)), magnitude(KernelSpec(), (16, 8))
    for pattern, unit in ((MByN((2, 4)), 1), (Blocks((1, 4)), 4), (Blocks((4, 4), "MAX"), 16)):
        masks = [item.kernel.mask for item in (first, second)]
        for sparsity in (0.1, 0.3, 0.25, 0.5):
            items = [
                Scored(Kernel("a", KernelSpec(), item.kernel.weights, mask), item.scores)
                for item, mask in zip((first, second), masks)
            ]
            before, masks = masks, pattern.new_masks(items, sparsity)
            assert all((new <= old).all() for new, old in zip(masks, before))
            if sparsity != 0.25:
                assert sum((mask == 0).sum() for mask in masks) == unit * round(sparsity * 640 / unit)


def groups_of(mask, size):
    return np.moveaxis(mask, -2, -1).reshape(-1, size)


SUMS_OF_INPUTS = tfap.ActivationCount(side="input", statistic="sum", decay=0.5)
CRITERIA = [
    *("activation_count", "gradient", tfap.AP(share=0.25)),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("magnitude", "lamp", "lookahead")),
    pytest.param(SUMS_OF_INPUTS, marks=pytest.mark.slow, id="sums of inputs"),
]


@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
@pytest.mark.parametrize(
    "structure",
    [{"block_size": (1, 4)}, {"sparsity_m_by_n": (2, 4)}],
    ids=lambda structure: next(iter(structure)),
)
@pytest.mark.one_keras
def test_every_criterion(keras_module, criterion, structure):
    model = nets.mlp(keras_module, (12, 16, 8, 4))
    if "block_size" in structure and isinstance(criterion, tfap.AP):
        with pytest.raises(ValueError, match="does not support block_size"):
            tfap.prune(model, 0.5, criterion, **structure)
        return
    pruned = tfap.prune(model, 0.5, criterion, **structure)
    data = {"gradient_data": nets.data(model)} if criterion == "gradient" else {}
    nets.fit(pruned, epochs=3, callbacks=[tfap.UpdatePruningStep(**data)])
    masks = nets.masks(pruned)
    if "block_size" in structure:
        assert sum((mask == 0).sum() for mask in masks.values()) == 160
        for mask in masks.values():
            assert set(np.unique(mask.reshape(-1, 4).sum(axis=1))) <= {0, 4}
    else:
        fewer = isinstance(criterion, tfap.AP)  # it prunes negative weights only
        for mask in masks.values():
            kept = groups_of(mask, 4).sum(axis=1)
            assert kept.min() >= 2 and (fewer or kept.max() == 2)
    plain = tfap.strip_pruning(pruned)
    for name, mask in masks.items():
        np.testing.assert_array_equal(plain.get_layer(name).get_weights()[0] != 0, mask)


def kinds(keras):
    """A layer of every prunable kind that the Keras has, with the shape of its input."""
    layers, cells = keras.layers, [keras.layers.GRUCell(4), keras.layers.LSTMCell(4)]
    yield layers.Dense(8), (6,)
    yield layers.EinsumDense("abc,cd->abd", (None, 8)), (5, 6)
    yield layers.Embedding(9, 8), (5,)
    for rank, shape in ((1, (9, 6)), (2, (9, 9, 6)), (3, (9, 9, 9, 6))):
        yield getattr(layers, f"Conv{rank}D")(8, 3), shape
        yield getattr(layers, f"Conv{rank}DTranspose")(8, 3), shape
        if rank < 3:
            yield getattr(layers, f"SeparableConv{rank}D")(8, 3), shape
            yield getattr(layers, f"DepthwiseConv{rank}D")(3, depth_multiplier=2), shape
    for layer in (layers.SimpleRNN(8), layers.GRU(8), layers.LSTM(8), *map(layers.RNN, cells)):
        yield layer, (5, 6)
    yield layers.Bidirectional(layers.LSTM(4)), (5, 6)
    yield layers.TimeDistributed(layers.Dense(8)), (5, 6)


@pytest.mark.parametrize(
    "structure",
    [
        {"sparsity_m_by_n": (1, 2)},
        pytest.param({"block_size": (2, 3), "block_pooling_type": "MAX"}, marks=pytest.mark.slow),
    ],
    ids=["groups", "blocks"],
)
def test_every_layer_kind(both_kerases, structure):
    """The masks are the same in both Kerases, and zeros are where they say."""
    for ours, theirs in zip(*(kinds(keras) for keras in both_kerases), strict=True):
        made = []
        for keras, (layer, shape) in zip(both_kerases, (ours, theirs)):
            wrapper = tfap.layers.PruneByActivation(layer, 0.5, "magnitude", **structure)
            model = keras.Sequential([keras.Input(shape), wrapper])
            generator = np.random.default_rng(0)
            layer.set_weights([generator.normal(size=weight.shape) for weight in layer.get_weights()])
            tfap.update_masks(model, 0.5)
            made.append([mask.numpy() for _, _, mask in wrapper.kernel_and_mask()])
            for _, kernel_variable, mask in wrapper.kernel_and_mask():
                np.testing.assert_array_equal(np.array(kernel_variable) != 0, mask.numpy())
        assert [mask.shape for mask in made[0]] == [mask.shape for mask in made[1]]
        for first, second in zip(*made, strict=True):
            np.testing.assert_array_equal(first, second)
        assert 0.3 < np.mean(np.concatenate([mask.ravel() == 0 for mask in made[0]])) < 0.6, ours[0]


def test_no_kernel_loses_all_its_weights():
    """By default, every kernel keeps one weight, one block or one neuron in every scope."""
    weak = Scored(kernel(KernelSpec(), (5, 8)), np.zeros((5, 8)))
    strong = Scored(kernel(KernelSpec(), (5, 8)), np.ones((5, 8)))
    for pattern, least in ((SingleWeights(), 1), (Blocks((1, 4)), 4), (MByN((4, 5)), 8)):
        assert pattern.new_masks([strong], 0.9999)[0].sum() == least
        assert pattern.new_masks([weak, strong], 0.9999)[0].sum() == least
    masks = SingleWeights().new_masks([weak, strong], 0.5)
    assert [int(mask.sum()) for mask in masks] == [1, 39]  # the number is exact all the same


@pytest.mark.parametrize("scope", ["local", "global", "layerwise"])
@pytest.mark.one_keras
def test_the_default_floor_in_a_model(keras_module, scope):
    model = keras_module.Sequential(
        [keras_module.Input((5,)), keras_module.layers.Dense(8), keras_module.layers.Dense(8)]
    )
    model.layers[0].set_weights([np.full((5, 8), 1e-3), np.zeros(8)])
    pruned = tfap.prune(model, 0.5, "magnitude", scope=scope, include=[model.layers[-1]])
    for _ in range(2):
        tfap.update_masks(pruned, 0.999)
    assert [mask.sum() for mask in nets.masks(pruned).values()] == [1, 1]


def test_settings_are_saved_and_loaded(keras_module, tmp_path):
    for settings in ({"block_size": [2, 4], "block_pooling_type": "MAX"}, {"sparsity_m_by_n": [1, 4]}):
        sparsity = 0.25
        model = tfap.prune(nets.mlp(keras_module), sparsity, "magnitude", **settings)
        tfap.update_masks(model, sparsity)
        nets.build_optimizer(model)
        model.save(tmp_path / "model.keras")
        loaded = keras_module.models.load_model(tmp_path / "model.keras")
        for before, after in zip(tfap.prunable_layers(model), tfap.prunable_layers(loaded), strict=True):
            assert before.settings == after.settings or before.settings.key == after.settings.key
            for name, value in settings.items():
                assert getattr(after.settings, name) == (tuple(value) if isinstance(value, list) else value)
        for path, mask in nets.masks(model).items():
            np.testing.assert_array_equal(nets.masks(loaded)[path], mask)
    assert "block_size" not in PruningSettings(0.5).get_config()  # older releases load such files


def test_the_wrapper_does_not_swallow_the_arguments(keras_module):
    """On tf_keras the base class, tfmot's, has arguments of these names."""
    layer = keras_module.layers.Dense(8)
    wrapper = tfap.layers.PruneByActivation(layer, 0.5, "magnitude", sparsity_m_by_n=(2, 4))
    model = keras_module.Sequential([keras_module.Input((8,)), wrapper])
    tfap.update_masks(model, 0.5)
    assert (groups_of(wrapper.mask.numpy(), 4).sum(axis=1) == 2).all()
    with pytest.raises(TypeError, match="block_size must be a tuple"):
        tfap.layers.PruneByActivation(keras_module.layers.Dense(8), 0.5, "magnitude", block_size=4)
    with pytest.raises(ValueError, match="block_pooling_type must be one of"):
        tfap.layers.PruneByActivation(
            keras_module.layers.Dense(8), 0.5, "magnitude", block_pooling_type="SUM"
        )
