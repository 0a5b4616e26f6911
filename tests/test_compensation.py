"""Second moments, the refit of the weights that are kept, and the order in which channels are removed."""

import numpy as np
import pytest

from tfap.compensation.moments import SecondMoments, Window
from tfap.compensation.refit import LeastSquares, inverse, scaled
from tfap.compensation.selection import removal_order


def moments_of(rows):
    moments = SecondMoments(rows.shape[1])
    moments.add(rows)
    return moments


def problem_of(seed=0, units=12, outputs=5, rows=200, groups=None, has_bias=True, ridge=1e-3):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, units)) @ generator.normal(size=(units, units)) + 1
    groups = np.arange(units) if groups is None else groups
    weights = generator.normal(size=(units, outputs))
    return x, LeastSquares.of(moments_of(x), weights, groups, has_bias, ridge)


def test_batches_are_summed_in_float64():
    rows = np.random.default_rng(0).normal(size=(100, 3)).astype("float32") + 1000
    moments = SecondMoments(3)
    for start in range(0, 100, 7):
        moments.add(rows[start : start + 7])
    exact = rows.astype("float64")
    assert moments.count == 100
    np.testing.assert_allclose(moments.gram, exact.T @ exact, rtol=1e-14)
    np.testing.assert_allclose(moments.covariance() / 100, np.cov(exact.T, bias=True), rtol=1e-5)


def test_rows_that_are_not_finite_are_refused():
    moments = SecondMoments(2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        moments.add(np.array([[1.0, np.nan]]))
    assert moments.count == 0 and not moments.gram.any()


@pytest.mark.parametrize("strides, dilation", [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (2, 3))])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_patches_are_what_a_convolution_reads(keras_module, strides, dilation, padding):
    layer = keras_module.layers.Conv2D(4, (3, 2), strides=strides, dilation_rate=dilation, padding=padding)
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype("float32")
    expected = np.asarray(layer(x))
    patches = Window((3, 2), strides, dilation, padding).patches(x)
    kernel, bias = layer.get_weights()
    sums = patches.reshape(len(patches), -1) @ kernel.reshape(-1, 4) + bias
    np.testing.assert_allclose(sums.reshape(expected.shape), expected, atol=1e-5)


def test_patches_of_a_causal_convolution(keras_module):
    layer = keras_module.layers.Conv1D(4, 3, dilation_rate=2, padding="causal")
    x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype("float32")
    expected = np.asarray(layer(x))
    patches = Window((3,), (1,), (2,), "causal").patches(x)
    sums = patches.reshape(len(patches), -1) @ layer.get_weights()[0].reshape(-1, 4)
    np.testing.assert_allclose(sums.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_refit_is_a_ridge_regression(has_bias):
    """The same as a least-squares fit in which rows of sqrt(lambda) stand for the ridge."""
    x, problem = problem_of(has_bias=has_bias)
    removed = np.arange(12) % 3 == 0
    fitted = problem.refit(removed)
    values = x - x.mean(axis=0) if has_bias else x
    rows = np.vstack([values[:, ~removed], np.sqrt(problem.ridge) * np.eye(8)])
    lost = np.vstack([values[:, removed] @ problem.weights[removed], np.zeros((8, 5))])
    change = np.linalg.lstsq(rows, lost, rcond=None)[0]
    np.testing.assert_allclose(fitted[~removed] - problem.weights[~removed], change, rtol=1e-6)
    assert not fitted[removed].any()
    before, after = x @ problem.weights, x @ fitted + problem.bias_change(fitted)
    if has_bias:
        np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), rtol=1e-9)
    else:
        assert not problem.bias_change(fitted).any()
    np.testing.assert_allclose(problem.error(fitted), np.square(before - after).sum(), rtol=1e-6)
    assert problem.error(fitted) < problem.error(problem.without(removed))


def test_nothing_removed_changes_nothing():
    _, problem = problem_of()
    assert np.array_equal(problem.refit(np.zeros(12, bool)), problem.weights)


def test_units_that_depend_on_others_are_replaced_exactly():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 6))
    x = np.hstack([x, x @ generator.normal(size=(6, 3)) + 2])
    problem = LeastSquares.of(moments_of(x), generator.normal(size=(9, 4)), np.arange(9), True, 1e-12)
    order = removal_order([problem], np.arange(9), 4)
    assert order.errors[:3].max() < 1e-6 * order.errors[3]
    removed = np.isin(np.arange(9), order.groups[:3])
    fitted = problem.refit(removed)
    after = x @ fitted + problem.bias_change(fitted)
    np.testing.assert_allclose(after, x @ problem.weights, rtol=1e-4, atol=1e-6)


def test_constant_units_go_into_the_bias():
    x = np.tile([[2.0, 3.0]], (5, 1))
    problem = LeastSquares.of(moments_of(x), np.array([[1.0], [10.0]]), np.arange(2), True)
    fitted = problem.refit(np.array([False, True]))
    assert fitted.tolist() == [[1.0], [0.0]] and problem.bias_change(fitted).tolist() == [30.0]


def greedy(problems, candidates, count):
    """Tries each group at every step, with a refit from the beginning."""
    gone, errors, before = [], [], 0.0
    for _ in range(count):
        costs = {}
        for group in set(candidates) - set(gone):
            costs[group] = 0.0
            for problem in problems:
                change = problem.weights - problem.refit(np.isin(problem.groups, [*gone, group]))
                whole = problem.regularized()
                costs[group] += np.einsum("uo,uo->", whole @ change, change) / problem.scale
        best = min(costs, key=costs.get)
        gone.append(best)
        errors.append(costs[best] - before)
        before = costs[best]
    return gone, errors


GROUPS = {
    "one unit each": np.arange(12),
    "three units each": np.repeat(np.arange(4), 3),
    "of other sizes": np.array([0, 0, 1, 2, 2, 2, 3, 3, 4, 5, -1, -1]),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_the_order_is_that_of_the_optimal_brain_surgeon(groups):
    problems = [problem_of(seed, groups=groups, has_bias=seed == 1)[1] for seed in (1, 2)]
    problems = [scaled([problem])[0] for problem in problems]
    candidates = np.unique(groups[groups >= 0])
    count = len(candidates) - 1
    order = removal_order(problems, candidates, count)
    expected, errors = greedy(problems, candidates.tolist(), count)
    assert order.groups.tolist() == expected
    np.testing.assert_allclose(order.errors, errors, rtol=1e-6)


def test_many_removals_stay_exact():
    """More than are kept pending, of one unit and of two."""
    for groups in (np.arange(300), np.repeat(np.arange(150), 2)):
        _, problem = problem_of(units=300, rows=1000, groups=groups)
        order = removal_order([problem], np.unique(groups))
        removed = np.isin(groups, order.groups[:-20])
        change = problem.weights - problem.refit(removed)
        whole = np.einsum("uo,uo->", problem.regularized() @ change, change)
        np.testing.assert_allclose(order.errors[:-20].sum(), whole, rtol=1e-6)


def test_a_group_that_nothing_consumes_is_removed_first():
    _, problem = problem_of(groups=np.array([0] * 6 + [1] * 6))
    order = removal_order([problem], np.array([1, 7, 0]))
    assert order.groups[0] == 7 and order.errors[0] == 0


def test_the_inverse_of_a_singular_matrix():
    assert np.isfinite(inverse(np.ones((3, 3)))).all()
