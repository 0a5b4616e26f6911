"""Which fraction of its channels each layer loses within a budget."""

import itertools
import json
import math

import nets
import numpy as np
import pytest

import tfap
from tfap.budgets.allocated import AllocatedProposals
from tfap.budgets.rounding import Rounding
from tfap.compaction.allocation import losses_of, removed_counts
from tfap.compaction.planned_units import PlannedUnits
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.sensitivity_table import CoupledSet, Removal, Sensitivity
from tfap.compensation.allocation import Allocation
from tfap.layers.settings import PruningSettings

pytestmark = pytest.mark.one_keras


def table(changes, rates=(0.25, 0.5, 0.75)):
    """A `Sensitivity` of `{layers: (channels, changes at the rates)}`."""
    rows = [
        CoupledSet(
            layers,
            channels,
            tuple(
                Removal(rate, math.floor(rate * channels), True, change, None)
                for rate, change in zip(rates, each)
            ),
        )
        for layers, (channels, each) in changes.items()
    ]
    return Sensitivity(tuple(rows), rates, (True,), "by hand", 1, None, None, 0.0)


def removable_of(model):
    return RemovableChannels(model, PlannedUnits.of(model, PruningSettings(0.0, "reconstruction", "local")))


class Cost:
    """Weights of an MLP without biases: kept inputs x kept outputs of each layer."""

    def __init__(self, sizes, sets, limit=0.0):
        self.sizes, self.sets, self.limit = sizes, sets, limit
        self.total = self.of(np.ones(1 + max(int(groups.max()) for groups in sets), bool))

    def of(self, kept):
        widths = [self.sizes[0], *(int(kept[groups].sum()) for groups in self.sets), self.sizes[-1]]
        return float(sum(before * after for before, after in itertools.pairwise(widths)))

    def at(self, counts):
        widths = [self.sizes[0], *(n - k for n, k in zip(self.sizes[1:-1], counts)), self.sizes[-1]]
        return float(sum(before * after for before, after in itertools.pairwise(widths)))


def proposals(keras_module, sizes, losses, round_to=1):
    model = nets.mlp(keras_module, sizes)
    removable = removable_of(model)
    cost = Cost(sizes, removable.sets)
    return (
        AllocatedProposals(
            cost,
            Allocation(cost, removable.liveness, removable.sets),
            [np.arange(len(groups), dtype=float) for groups in removable.sets],
            losses,
            Rounding(removable.liveness, round_to, removable.evened),
            round_to,
        ),
        cost,
    )


# -- the steps ----------------------------------------------------------------------------------------


def test_the_layer_that_bears_it_is_pruned(keras_module):
    """Both layers save as much per channel. The second one costs nothing up to half, and then everything."""
    losses = [np.arange(8) * 1.0, np.array([0, 0, 0, 0, 0, 100, 200, 300.0])]
    found, cost = proposals(keras_module, (8, 8, 8, 8), losses)
    kept = found.within(0.75 * cost.total)
    assert found.removed(kept) == [0, 3] and cost.of(kept) == 64 + 2 * 8 * 5 <= 0.75 * cost.total
    assert found.removed(found.within(cost.total)) == [0, 0]


def test_a_limit_that_is_out_of_reach(keras_module):
    found, cost = proposals(keras_module, (8, 8, 8, 8), [np.arange(8.0)] * 2)
    least = cost.of(found.least())
    assert least == 8 + 1 + 8 and found.within(least - 1) is None
    assert cost.of(found.within(least)) == least


@pytest.mark.parametrize("seed", range(12))
def test_random_tables(keras_module, seed):
    """The limit holds, no channel could stay, the loss is at most that of uniform and near the least."""
    generator = np.random.default_rng(seed)
    sizes = (6, 9, 7, 8, 4)
    losses = [
        np.concatenate([[0], np.cumsum(generator.random(n - 1) ** generator.integers(1, 6))])
        for n in sizes[1:-1]
    ]
    found, cost = proposals(keras_module, sizes, losses)
    limit = generator.uniform(0.2, 0.9) * cost.total
    kept = found.within(limit)
    counts = found.removed(kept)
    assert cost.of(kept) == cost.at(counts) <= limit
    for at, count in enumerate(counts):
        assert not count or cost.at([*counts[:at], count - 1, *counts[at + 1 :]]) > limit
    every_fraction = [
        [min(n - 1, int(fraction * n + 1e-9)) for n in sizes[1:-1]] for fraction in np.linspace(0, 1, 500)
    ]
    uniform = next(each for each in every_fraction if cost.at(each) <= limit)
    assert found.loss(counts) <= found.loss(uniform)
    every = [each for each in itertools.product(*map(range, sizes[1:-1])) if cost.at(each) <= limit]
    assert found.loss(counts) <= 1.6 * min(map(found.loss, every))


@pytest.mark.parametrize("round_to", [2, 4])
def test_kept_channels_are_multiples(keras_module, round_to):
    losses = [np.arange(n) ** 2.0 for n in (16, 12)]
    found, cost = proposals(keras_module, (6, 16, 12, 4), losses, round_to)
    kept = found.within(0.5 * cost.total)
    assert cost.of(kept) <= 0.5 * cost.total
    left = [n - k for n, k in zip((16, 12), found.removed(kept))]
    assert all(count % round_to == 0 for count in left)


# -- the losses ---------------------------------------------------------------------------------------


def test_losses_are_interpolated_never_fall_and_go_on():
    (row,) = table({("a",): (8, (0.1, 0.3, 0.2))}).rows
    losses = losses_of(row, True)
    first, second = -math.log(0.9), -math.log(0.7)
    expected = [0, first / 2, first, (first + second) / 2, second, second, second]
    np.testing.assert_allclose(losses, [*expected, second + second / 6])


def test_a_change_beyond_one_is_finite_and_no_channel_is_no_loss():
    (row,) = table({("a",): (3, (0.0, 5.0, 7.0))}).rows  # removes 0, 1 and 2
    np.testing.assert_allclose(losses_of(row, True), [0, -math.log(0.001), -math.log(0.001)])


# -- tfap.allocate ------------------------------------------------------------------------------------


def test_budgets_hold_and_prune_once_does_as_told(keras_module):
    model = nets.cnn(keras_module)
    x = nets.data(model, 64)[0]
    found = tfap.sensitivity(model, x, rates=(0.25, 0.5, 0.75))
    allocation = tfap.allocate(model, found, {"weights": 0.6})
    before, after, limit = allocation.cost
    assert before == model.count_params() and after <= limit == 0.6 * before
    assert allocation["conv_a"] == allocation["conv_b"] == allocation["depthwise"]
    small = tfap.prune_once(model, x, allocation, recalibrate=False)
    assert small.count_params() == after
    assert small.get_layer("conv_b").filters == 6 - round(6 * allocation["conv_a"])
    plain = tfap.prune_once(model, x, dict(allocation), recalibrate=False)
    assert all(map(np.array_equal, small.get_weights(), plain.get_weights()))
    flops = tfap.allocate(model, found, {"flops": 0.5})
    assert tfap.flops(tfap.prune_once(model, x, flops)) == flops.cost[1] <= 0.5 * tfap.flops(model)


def test_a_table_by_hand(keras_module):
    model = nets.mlp(keras_module, (12, 16, 16, 4))
    found = table({("hidden_0",): (16, (0.5, 0.6, 0.7)), ("hidden_1",): (16, (0.0, 0.0, 0.001))})
    allocation = tfap.allocate(model, found, {"weights": 0.7})
    assert allocation["hidden_0"] == 0 and 0.4 < allocation["hidden_1"] < 0.8
    assert allocation.loss < 0.001
    assert "hidden_1" in str(allocation) and "at most 383.6" in str(allocation)


def test_it_can_be_edited(keras_module):
    model = nets.cnn(keras_module)
    x = nets.data(model, 64)[0]
    found = tfap.sensitivity(model, x, rates=(0.5,), compensate=(True,))
    allocation = tfap.allocate(model, found, {"weights": 0.9})
    allocation["conv_b"] = 0.5
    allocation.update(dense=0.2)
    assert allocation["conv_a"] == 0.5 and "50.0%" in str(allocation)
    small = tfap.prune_once(model, x, allocation)
    assert small.get_layer("conv_a").filters == 3 and small.get_layer("dense").units == 8
    again = tfap.Allocation.from_dict(json.loads(json.dumps(allocation.to_dict())))
    assert again == allocation and again.sets == allocation.sets and again.loss == allocation.loss
    alone = tfap.Allocation({"dense": 0.3})
    assert "30.0%" in str(alone)
    assert tfap.prune_once(model, x, alone).get_layer("dense").units == 7


def test_the_scope_allocated(keras_module):
    """It measures and allocates by itself, and channels are those of the allocation."""
    model = nets.mlp(keras_module, (12, 24, 16, 4))
    x = nets.data(model, 128)[0]
    small, report = tfap.prune_once(model, x, {"weights": 0.5}, scope="allocated", return_report=True)
    assert small.count_params() <= 0.5 * model.count_params()
    allocation = tfap.allocate(model, tfap.sensitivity(model, x, compensate=(True,)), {"weights": 0.5})
    by_hand = tfap.prune_once(model, x, allocation)
    assert [layer.units for layer in small.layers if hasattr(layer, "units")] == [
        layer.units for layer in by_hand.layers if hasattr(layer, "units")
    ]
    assert dict(report.allocation) == dict(allocation)


# -- errors -------------------------------------------------------------------------------------------


def test_fractions_that_do_not_fit_the_model(keras_module):
    model = nets.cnn(keras_module)
    x = nets.data(model, 32)[0]
    for fractions, message in (
        ({"conv_a": 0.5, "conv_b": 0.25}, r"are coupled.*received \{'conv_a': 0.5, 'conv_b': 0.25\}"),
        ({"conv_a": 0.5, "conv_c": 0.25}, "'conv_c', which is not in the model. Did you mean 'conv_"),
        ({"output": 0.5}, "The channels of 'output' cannot be removed"),
        ({"dense": 1.0}, r"The fraction of 'dense' must be in \[0, 1\): received 1.0"),
        ({"dense": -0.1}, r"The fraction of 'dense' must be in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            tfap.prune_once(model, x, fractions)
    with pytest.raises(TypeError, match="the fraction of 'dense' must be a number"):
        tfap.prune_once(model, x, {"dense": "half"})
    with pytest.raises(TypeError, match="a layer of an allocation must be a string"):
        tfap.Allocation({3: 0.5})
    assert removed_counts(removable_of(model), {"conv_a": 0.5, "conv_b": 0.5, "output": 0}) == [3, 0]


def test_tables_that_do_not_fit(keras_module):
    model = nets.mlp(keras_module, (12, 16, 16, 4))
    found = table({("hidden_0",): (16, (0.1, 0.2, 0.3)), ("hidden_1",): (8, (0.1, 0.2, 0.3))})
    with pytest.raises(ValueError, match="no row of hidden_1 with 16 channels: it is of another model"):
        tfap.allocate(model, found, {"weights": 0.5})
    fitting = table({("hidden_0",): (16, (0.1, 0.2, 0.3)), ("hidden_1",): (16, (0.1, 0.2, 0.3))})
    with pytest.raises(ValueError, match=r"measured with compensate=\(True,\)"):
        tfap.allocate(model, fitting, {"weights": 0.5}, compensate=False)
    with pytest.raises(ValueError, match="cannot be met: with the fewest channels, the model has 23 weights"):
        tfap.allocate(model, fitting, {"weights": 20})
    with pytest.raises(ValueError, match="A budget has no 'weight'. Did you mean 'weights'"):
        tfap.allocate(model, fitting, {"weight": 20})
    with pytest.raises(TypeError, match="must be the result of tfap.sensitivity: received dict"):
        tfap.allocate(model, {}, {"weights": 20})
    with pytest.raises(ValueError, match="round_to must be an integer >= 1"):
        tfap.allocate(model, fitting, {"weights": 200}, round_to=0)
