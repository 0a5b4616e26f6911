"""Whole neurons: coupled ones are pruned together, never more than the target, by what they cost."""

import numpy as np
import pytest
from examples_per_run import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from tfap.graph.kernel import Kernel, KernelSpec
from tfap.masks.neurons import prune_neurons, without_dead_inputs
from tfap.masks.weights import Scored


def scored(weights, mask=None, scores=None, spec=None, **fields):
    """`masks.Scored`, by default with absolute weights as scores; `fields` are others of its Kernel."""
    weights = np.asarray(weights, "float32")
    mask = np.ones(weights.shape, "uint8") if mask is None else np.asarray(mask, "uint8")
    scores = np.abs(weights) if scores is None else np.broadcast_to(scores, weights.shape)
    fields = {name: np.asarray(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Scored(Kernel("layer", spec or KernelSpec(), weights, mask, **fields), scores)


def pruned(layers, sparsity, floor=0):
    """The masks of one update."""
    made = prune_neurons(layers, sparsity, floor)
    return without_dead_inputs([item.kernel for item in layers], made)


def rows(mask):
    """Which inputs of a kernel are alive."""
    return mask.any(axis=tuple(axis for axis in range(mask.ndim) if axis != mask.ndim - 2))


def columns(mask):
    """Which neurons of a kernel are alive."""
    return mask.any(axis=tuple(range(mask.ndim - 1)))


# -- coupling --------------------------------------------------------------------------------------


def test_coupled_neurons_are_pruned_together_by_the_mean_of_all_their_weights():
    # Means over both kernels, of 2 + 4 weights: 10/6, 3, 14/6.
    first = scored([[1, 3, 5]] * 2, neuron_groups=[7, 8, 9])
    second = scored([[2, 3, 1]] * 4, neuron_groups=[7, 8, 9])
    for sparsity, alive in [(0.3, [1, 1, 1]), (0.34, [0, 1, 1]), (0.67, [0, 1, 0])]:
        made = pruned([first, second], sparsity)
        assert [columns(mask).tolist() for mask in made] == [[bool(part) for part in alive]] * 2


def test_neurons_of_one_kernel_may_be_coupled():
    """As by Flatten or Reshape in front of a sum."""
    made = pruned([scored([[1, 5, 2, 1, 1, 1]] * 2, neuron_groups=[0, 1, 2, 0, 1, 2])], 0.4)
    np.testing.assert_array_equal(columns(made[0]), [0, 1, 1, 0, 1, 1])


def test_uncoupled_kernels_have_neurons_of_their_own():
    coupled = scored([[9, 1]] * 2, neuron_groups=[0, 1])
    made = pruned([coupled, scored([[1, 9]] * 2), scored([[9, 1]] * 2)], 0.51)
    assert [columns(mask).tolist() for mask in made] == [[True, False], [False, True], [True, False]]


# -- inputs ----------------------------------------------------------------------------------------


def test_the_weights_of_dead_inputs_go_too_and_cost_once():
    first = scored([[1, 9, 8]] * 2, neuron_groups=[0, 1, 2])
    second = scored(np.full((3, 4), 5.0), neuron_groups=[3, 4, 5, 6], input_groups=[0, 1, 2])
    assert [mask.sum() for mask in pruned([first, second], 5 / 18)] == [6, 12]  # a channel costs 2 + 4
    made = pruned([first, second], 6 / 18)
    np.testing.assert_array_equal(columns(made[0]), [0, 1, 1])
    np.testing.assert_array_equal(rows(made[1]), [0, 1, 1])
    # The first neuron of the second kernel has lost an input, so it costs 2.
    assert [mask.sum() for mask in pruned([first, second], 8 / 18)] == [4, 6]
    assert [mask.sum() for mask in pruned([first, second], 7.4 / 18)] == [4, 8]


def test_a_group_that_feeds_and_reads_the_same_kernel():
    """A convolution whose input and output are joined by an Add."""
    block = scored(np.full((3, 3), 4.0), neuron_groups=[0, 1, 2], input_groups=[0, 1, 2])
    stem = scored([[1, 2, 9]], neuron_groups=[0, 1, 2])
    made = pruned([stem, block], 6 / 12)  # 1 in the stem, 3 + 3 - 1 in the block
    np.testing.assert_array_equal(made[0], [[0, 1, 1]])
    np.testing.assert_array_equal(made[1], [[0, 0, 0], [0, 1, 1], [0, 1, 1]])
    assert pruned([stem, block], 5 / 12)[1].all()
    made = pruned([stem, block], 10 / 12)  # then 1 + 3
    np.testing.assert_array_equal(made[1], np.diag([0, 0, 1]))


def test_inputs_that_no_kernel_feeds_stay():
    reader = scored(np.ones((3, 4)), neuron_groups=[3, 4, 5, 6], input_groups=[0, 1, 2])
    assert rows(pruned([reader], 0.5)[0]).all()


def test_inputs_go_with_neurons_that_were_ranked_elsewhere():
    """In a local scope each kernel is ranked by itself, and an update puts the masks together."""
    feeder = scored([[1, 9]] * 2, neuron_groups=[0, 1])
    reader = scored(np.ones((2, 3)), neuron_groups=[2, 3, 4], input_groups=[0, 1])
    made = [*prune_neurons([feeder], 0.5), *prune_neurons([reader], 0)]
    assert made[1].all()
    _, mask = without_dead_inputs([feeder.kernel, reader.kernel], made)
    np.testing.assert_array_equal(rows(mask), [0, 1])


@pytest.mark.parametrize("window", [(), (3,), (2, 3)])
def test_grouped_convolutions_read_each_input_in_one_group(window):
    """Kernel (..., inputs a group, outputs): the first 3 outputs read inputs 0 and 1."""
    points = int(np.prod(window))
    feeder = scored([[9, 1, 2, 9]], neuron_groups=[0, 1, 2, 3])
    grouped = scored(np.full((*window, 2, 6), 5.0), neuron_groups=np.arange(4, 10), input_groups=[0, 1, 2, 3])
    one = (1 + 3 * points) / (4 + 12 * points)
    made = pruned([feeder, grouped], one)[1]
    np.testing.assert_array_equal(made[(0,) * len(window)], [[1] * 6, [0] * 3 + [1] * 3])
    assert pruned([feeder, grouped], 0.85 * one)[1].all()
    made = pruned([feeder, grouped], 2 * one)[1]
    np.testing.assert_array_equal(made[(-1,) * len(window)], [[1] * 3 + [0] * 3, [0] * 3 + [1] * 3])


def test_pair_sums_of_grouped_and_transposed_kernels():
    values = np.arange(2 * 2 * 6).reshape(2, 2, 6)
    grouped = scored(values).kernel
    expected = np.zeros((4, 3), int)  # input x pair of outputs
    for tap, row, output in np.ndindex(values.shape):
        expected[row + 2 * (output // 3), output // 2] += values[tap, row, output]
    pairs = np.repeat(np.arange(3), 2)
    np.testing.assert_array_equal(grouped.pair_sums(values, np.arange(4), pairs), expected)
    np.testing.assert_array_equal(grouped.pair_sums(values, None, pairs), expected.sum(0, keepdims=True))

    transposed = scored(values, spec=KernelSpec(neuron_axes=(-2,), input_axes=(-1,))).kernel
    sums = transposed.pair_sums(values, np.arange(6), np.arange(2))
    np.testing.assert_array_equal(sums, values.sum(axis=0).T)


# -- what is kept ----------------------------------------------------------------------------------


def test_every_kernel_keeps_a_neuron_and_an_input():
    weak = scored(np.full((2, 3), 0.1), neuron_groups=[0, 1, 2])
    strong = scored(np.full((3, 3), 9.0), neuron_groups=[3, 4, 5], input_groups=[0, 1, 2])
    made = pruned([weak, strong], 0.99)
    assert [columns(mask).sum() for mask in made] == [1, 1]
    assert rows(made[1]).sum() == 1


def test_min_weights_count_also_what_goes_with_the_inputs():
    feeder = scored([[1, 2, 3, 4]], neuron_groups=[0, 1, 2, 3])
    reader = scored(np.full((4, 3), 9.0), neuron_groups=[4, 5, 6], input_groups=[0, 1, 2, 3])
    made = pruned([feeder, reader], 0.99, floor=6)
    assert made[0].sum() == 4  # it has fewer than 6
    made = pruned([scored([[1, 2, 3, 4]] * 4, neuron_groups=[0, 1, 2, 3]), reader], 0.99, floor=6)
    assert [mask.sum() for mask in made] == [8, 6]


def test_a_group_that_must_stay_does_not_stop_others():
    narrow = scored([[1.0]] * 2, neuron_groups=[0])
    made = pruned([narrow, scored([[2, 3]] * 2, neuron_groups=[1, 2])], 0.5)
    assert made[0].all()
    np.testing.assert_array_equal(columns(made[1]), [0, 1])


# -- cost ------------------------------------------------------------------------------------------


def test_cost_in_operations():
    """A weight of the first kernel is used at 4 positions: 8 of 16 operations go with its neuron."""
    dear = scored([[1, 9]], cost=4.0, neuron_groups=[0, 1])
    cheap = scored([[2, 3, 4, 5, 6, 7, 8, 9]], neuron_groups=np.arange(2, 10))
    for sparsity, left in [(0.2, [2, 8]), (0.25, [1, 8]), (0.32, [1, 7]), (0.5, [1, 4])]:
        assert [mask.sum() for mask in pruned([dear, cheap], sparsity)] == left


def test_cost_in_neurons():
    """Each counts one, whatever its inputs, and whether or not they are alive."""
    wide = scored(np.full((27, 4), 1.0), cost=0, neuron_cost=1, neuron_groups=[0, 1, 2, 3])
    reader = scored(
        np.full((4, 6), 2.0), cost=0, neuron_cost=1, neuron_groups=np.arange(4, 10), input_groups=[0, 1, 2, 3]
    )
    for sparsity, left in [(0.1, [3, 6]), (0.24, [2, 6]), (0.5, [1, 4]), (0.7, [1, 2])]:
        made = pruned([wide, reader], sparsity)
        assert [columns(mask).sum() for mask in made] == left
        assert rows(made[1]).sum() == left[0]


def test_fractions_of_cost_do_not_stop_at_rounding():
    layers = [scored(np.arange(1, 11)[None], cost=0.1)]
    assert pruned(layers, 1.0)[0].sum() == 1
    layers = [scored(np.arange(1, 31)[None], cost=1 / 3)]
    assert pruned(layers, 0.5)[0].sum() == 15


# -- any kernels -----------------------------------------------------------------------------------


@st.composite
def chains(draw):
    """Kernels in a row, each reading the one before; some share their neurons' groups, as in a ResNet."""
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    widths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    cost, before, layers = draw(st.sampled_from([1, 2.5])), np.arange(3), []
    for at, width in enumerate(widths):
        groups = 10 * (at + 1) + np.arange(width)
        if draw(st.booleans()):
            groups, width = before, len(before)
        shape = (*draw(st.sampled_from([(), (2,)])), len(before), width)
        reads = before if len(shape) > 2 else None
        layers.append({"shape": shape, "cost": cost, "neuron_groups": groups, "input_groups": reads})
        before = groups
    return generator, layers


@settings(max_examples=examples(60, 10))
@given(chains(), st.lists(st.floats(0, 0.95), min_size=1, max_size=4))
def test_never_more_than_the_target_and_never_back(chain, sparsities):
    generator, layers = chain
    current = [np.ones(layer["shape"], "uint8") for layer in layers]
    total = sum(layer["cost"] * mask.size for layer, mask in zip(layers, current))
    for sparsity in np.maximum.accumulate(sparsities):
        items = [
            scored(
                generator.normal(size=mask.shape), mask, **{k: v for k, v in layer.items() if k != "shape"}
            )
            for layer, mask in zip(layers, current)
        ]
        before, current = current, pruned(items, float(sparsity))
        assert all((new <= old).all() for new, old in zip(current, before))
        gone = sum(layer["cost"] * (mask == 0).sum() for layer, mask in zip(layers, current))
        assert gone <= round(sparsity * total) + 1e-6
        assert all(columns(mask).any() for mask in current)
        assert_groups_are_whole(layers, current)


def assert_groups_are_whole(layers, made):
    state = {}
    for layer, mask in zip(layers, made):
        for group, alive in zip(layer["neuron_groups"], columns(mask)):
            assert state.setdefault(int(group), bool(alive)) == alive
    for layer, mask in zip(layers, made):
        if layer["input_groups"] is not None:
            read = [state.get(int(group), True) for group in layer["input_groups"]]
            np.testing.assert_array_equal(rows(mask), read)
