"""Many small random nets of the kinds with heads, units and normalized channels: what was planted goes.

`make test-all` counts at least 200 nets of each kind from which something of that kind was removed.
"""

import importlib

import numpy as np
import pytest
import random_forests
import random_nets
from examples_per_run import LONG, examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import tfap

BRANCHES = 25  # so that four fifths of ten forests are ENOUGH
ENOUGH = 200  # nets of a kind in both Kerases
CASES = [(world, kind) for kind, (_, worlds) in random_forests.KINDS.items() for world in worlds]


def check(world, kind, seed, branches=BRANCHES):
    """Compacts a forest; returns the number of branches that lost what was planted in their kind."""
    maker = random_forests.Maker(importlib.import_module(world), np.random.default_rng(seed), kind)
    forest = maker.forest(branches)
    smaller = tfap.compact(forest.model)
    assert random_nets.apart(forest.model, smaller) < 1e-5
    sizes = random_forests.sizes(smaller)
    assert {name: sizes[name] for name in forest.left} == forest.left
    return sum(count > 0 for count in forest.planted)


@pytest.mark.slow
@pytest.mark.parametrize("world, kind", CASES)
def test_many_nets_of_a_kind(world, kind):
    worlds = len(random_forests.KINDS[kind][1])
    removed = []

    @settings(max_examples=examples(1, 1 / 30 / worlds), phases=[Phase.generate])  # shrinking takes minutes
    @given(seed=st.integers(0, 10**6))
    def run(seed):
        removed.append(check(world, kind, seed))

    run()
    assert sum(removed) >= 0.8 * BRANCHES * len(removed)
    if LONG >= 300:
        assert sum(removed) >= ENOUGH / worlds


def test_a_forest_of_two():
    assert check("keras", "GRU", seed=1, branches=2) == 2
