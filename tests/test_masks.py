import nets
import numpy as np
import pytest
from examples_per_run import examples
from hypothesis import given, settings
from hypothesis import strategies as st

import tfap
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.masks.neurons import prune_neurons
from tfap.masks.patterns import PATTERNS, Pattern
from tfap.masks.weights import Scored, lowest, prune_weights


def scored(weights, scores=None, mask=None):
    weights = np.asarray(weights, "float32")
    mask = np.ones(weights.shape, "uint8") if mask is None else np.asarray(mask, "uint8")
    scores = np.abs(weights) if scores is None else np.asarray(scores, "float64")
    return Scored(Kernel("layer", KernelSpec(), weights, mask), scores)


@settings(max_examples=examples(100, 10))
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_lowest_equals_a_stable_sort(rows, count):
    first, second = np.array(rows).T
    order = np.lexsort((np.arange(len(rows)), second, first))
    expected = np.zeros(len(rows), bool)
    expected[order[:count]] = True
    np.testing.assert_array_equal(lowest(count, first, second), expected)


def test_ties_go_by_weight_then_layer_then_index():
    layers = [scored([[3, 1], [2, 1]], scores=np.ones((2, 2))), scored([[1, 9]], scores=np.ones((1, 2)))]
    by_weight = prune_weights(layers, 2 / 6)
    np.testing.assert_array_equal(by_weight[0], [[1, 0], [1, 0]])  # both 1s, before the other layer's 1
    np.testing.assert_array_equal(by_weight[1], [[1, 1]])
    np.testing.assert_array_equal(prune_weights(layers, 3 / 6)[1], [[0, 1]])


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9999, 1 - 1 / 20000])
def test_exact_number_globally_even_if_all_scores_are_equal(sparsity):
    layers = [scored(np.ones((100, 150))), scored(np.ones((50, 100)))]
    made = prune_weights(layers, sparsity)
    assert sum((mask == 0).sum() for mask in made) == round(sparsity * 20000)


@settings(max_examples=examples(50, 10))
@given(st.data())
def test_masks_are_monotone_and_exact(data):
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3))
    sparsities = data.draw(st.lists(st.floats(0, 0.99), min_size=1, max_size=4))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    current = [np.ones(shape, "uint8") for shape in shapes]
    total = sum(mask.size for mask in current)
    for sparsity in sparsities:
        layers = [scored(generator.normal(size=mask.shape), mask=mask) for mask in current]
        before, current = current, prune_weights(layers, sparsity)
        assert all((new <= old).all() for new, old in zip(current, before))
    assert sum((mask == 0).sum() for mask in current) == max(round(s * total) for s in sparsities)


def test_less_sparsity_than_before_changes_nothing():
    layer = scored([[1, 2], [3, 4]], mask=[[0, 0], [1, 1]])
    assert prune_weights([layer], 0.25)[0] is layer.kernel.mask


def test_floor_keeps_the_best_of_each_layer():
    weak, strong = scored([[1, 2, 3]]), scored([[10, 20, 30]])
    made = prune_weights([weak, strong], 0.5, min_weights_per_layer=1)
    np.testing.assert_array_equal(made[0], [[0, 0, 1]])
    np.testing.assert_array_equal(made[1], [[0, 1, 1]])


def test_floors_that_leave_too_few_prune_what_there_is():
    made = prune_weights([scored([[1, 2]]), scored([[3, 4]])], 0.9, min_weights_per_layer=1)
    assert [int(mask.sum()) for mask in made] == [1, 1]


@given(st.data())
def test_weights_that_score_infinity_stay(data):
    """Of 12 weights, those with finite scores are pruned in their order, as many as may be."""
    numbers = st.one_of(st.integers(0, 3), st.just(np.inf))
    scores = np.array(data.draw(st.lists(numbers, min_size=12, max_size=12)), "float64")
    mask = np.array(data.draw(st.lists(st.integers(0, 1), min_size=12, max_size=12)), "uint8")
    floor, sparsity = data.draw(st.integers(0, 4)), data.draw(st.sampled_from([0, 0.3, 0.5, 0.9]))
    weights = -np.arange(12.0)
    (made,) = prune_weights([scored(weights, scores, mask)], sparsity, floor)
    order = [at for at in np.lexsort((abs(weights), scores)) if mask[at] and scores[at] < np.inf]
    spare = max(int(mask.sum()) - floor, 0)
    expected = mask.copy()
    expected[order[: min(max(round(sparsity * 12) - int((mask == 0).sum()), 0), spare)]] = 0
    np.testing.assert_array_equal(made, expected)


def test_neurons_go_whole_by_their_mean_score():
    kernel = [[1, 5, 2], [1, 5, 2]]  # means 1, 5, 2
    np.testing.assert_array_equal(
        prune_neurons([scored(kernel)], 0.5)[0], [[0, 1, 1], [0, 1, 1]]
    )  # 3 weights may go: one neuron of 2
    np.testing.assert_array_equal(prune_neurons([scored(kernel)], 0.67)[0], [[0, 1, 0], [0, 1, 0]])


def test_wide_and_narrow_neurons_are_ranked_alike():
    """A sum over weights would prune all neurons with few inputs before any with many."""
    narrow, wide = scored(np.full((2, 4), 3.0)), scored(np.full((10, 4), 1.0))
    made = prune_neurons([narrow, wide], 0.5)
    assert narrow.kernel.mask.all() and (made[0] == 1).all()
    assert (made[1] == 0).sum() == 20


def test_neurons_take_the_most_that_do_not_exceed_the_sparsity():
    generator = np.random.default_rng(0)
    layers = [scored(generator.normal(size=(7, 5))), scored(generator.normal(size=(4, 6)))]
    for sparsity in np.linspace(0, 0.8, 30):
        made = prune_neurons(layers, sparsity)
        pruned = sum((mask == 0).sum() for mask in made)
        assert pruned <= round(sparsity * 59) < pruned + 7  # the next neuron has 4 or 7 weights
        assert all({column.mean() for column in mask.T} <= {0.0, 1.0} for mask in made)


def test_a_new_pattern_is_one_class(keras_module, monkeypatch):
    """Every second weight in memory order goes with the one before it."""

    class Pairs(Pattern):
        granularity = "pair"

        def new_masks(self, scored, sparsity):
            halves = [self._first_of_pairs(item) for item in scored]
            masks = prune_weights(halves, sparsity, self.min_weights_per_layer)
            return [np.repeat(mask, 2).reshape(item.scores.shape) for mask, item in zip(masks, scored)]

        def _first_of_pairs(self, item):
            kernel = Kernel("pairs", None, item.kernel.weights.ravel()[::2], item.kernel.mask.ravel()[::2])
            return Scored(kernel, item.scores.reshape(-1, 2).sum(axis=1))

    monkeypatch.setitem(PATTERNS, Pairs.granularity, Pairs)
    model = tfap.prune(nets.mlp(keras_module), 0.5, "magnitude", granularity="pair")
    tfap.update_masks(model, 0.25)
    tfap.update_masks(model, 0.5)
    assert nets.pruned_weights(model) == nets.prunable_weights(model) / 2
    for mask in nets.masks(model).values():
        first, second = mask.reshape(-1, 2).T
        np.testing.assert_array_equal(first, second)


def test_floor_for_neurons():
    made = prune_neurons([scored([[1, 2, 3]] * 2), scored([[9, 9]] * 2)], 0.6, 4)
    assert [int(mask.sum()) for mask in made] == [4, 4]
