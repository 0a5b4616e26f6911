"""By a clock of our own: a call takes as long as it says."""

import numpy as np
import pytest

from tfap.reporting import latency


class Clock:
    """Functions that take given seconds, times the mood of the machine, which changes every round."""

    def __init__(self, moods=(1,)):
        self.now = 0.0
        self.moods = moods
        self.called = []

    def __call__(self):
        return self.now

    def function(self, name, seconds):
        def call():
            self.now += seconds * self.moods[len(self.called) // 4 % len(self.moods)]
            self.called.append(name)

        return call

    def measure(self, baseline="dense", **settings):
        calls = {"dense": self.function("dense", 0.25), "small": self.function("small", 0.125)}
        return latency.measure(calls, baseline, warm_up=0, clock=self, **settings)


def test_times_and_ratios():
    times = Clock().measure(seconds=0)
    assert times["dense"] == latency.Latency(0.25, 0.25, 0.25, 20, None)
    assert times["small"] == latency.Latency(0.125, 0.125, 0.125, 20, latency.Ratio(0.5, 0.5, 0.5))


def test_ratios_are_of_the_same_round():
    """The machine is up to 8 times slower in some rounds; the ratio does not see it."""
    times = Clock(moods=(1, 1, 8, 4)).measure(seconds=0)
    assert times["dense"].low == 0.25 and times["dense"].high == 2
    assert times["small"].ratio == latency.Ratio(0.5, 0.5, 0.5)


def test_each_round_calls_all_in_random_order_and_once_untimed():
    clock = Clock()
    clock.measure(seconds=0, least_rounds=50)
    rounds = np.reshape(clock.called, (50, 2, 2))
    assert (rounds[:, :, 0] == rounds[:, :, 1]).all()
    firsts = (rounds[:, 0, 0] == "dense").sum()
    assert (np.sort(rounds[:, :, 0]) == ["dense", "small"]).all() and 10 < firsts < 40


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 5), (7.4, 10), (1e9, 30)])
def test_rounds(seconds, rounds):
    """A round takes 2 x (0.25 + 0.125) seconds."""
    times = Clock().measure(seconds=seconds, least_rounds=5, most_rounds=30)
    assert {taken.rounds for taken in times.values()} == {rounds}


def test_without_a_baseline_there_are_no_ratios():
    assert [taken.ratio for taken in Clock().measure(None, seconds=0).values()] == [None, None]


def test_the_interval_holds_the_ratio_of_noisy_times():
    generator = np.random.default_rng(0)
    clock = Clock()

    def noisy(seconds):
        def call():
            clock.now += seconds * generator.lognormal(0, 0.2)

        return call

    calls = {"a": noisy(1), "b": noisy(0.7)}
    ratio = latency.measure(calls, "a", seconds=0, least_rounds=200, clock=clock)["b"].ratio
    assert ratio.low < 0.7 < ratio.high and ratio.low < ratio.median < ratio.high
    assert ratio.high - ratio.low < 0.2


def test_the_same_seed_gives_the_same_order():
    orders = []
    for seed in (0, 0, 1):
        clock = Clock()
        clock.measure(seconds=0, seed=seed)
        orders.append(clock.called)
    assert orders[0] == orders[1] != orders[2]


def test_bad_arguments():
    with pytest.raises(ValueError, match="'gone' is not among the calls: dense, small"):
        Clock().measure("gone")
    with pytest.raises(ValueError, match="least_rounds=9"):
        Clock().measure(least_rounds=9, most_rounds=8)
