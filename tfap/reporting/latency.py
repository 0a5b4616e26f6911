"""Measured time of functions beside each other, on a machine whose speed changes by the minute."""

import dataclasses
import time

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Time in units of the baseline's: the median of paired ratios and its 95% bootstrap interval."""

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """Seconds a call.

    Attributes:
        median: of all rounds.
        low, high: 5th and 95th percentile of the rounds.
        rounds: how many there were.
        ratio: `Ratio` to the baseline; None for the baseline itself, and without one.
    """

    median: float
    low: float
    high: float
    rounds: int
    ratio: Ratio | None = None


def measure(
    calls,
    baseline=None,
    *,
    seconds=3.0,
    least_rounds=20,
    most_rounds=1000,
    warm_up=3,
    clock=time.perf_counter,
    seed=0,
):
    """Measures how long functions take, in rounds in which each of them runs once, in random order.

    All functions see the same moods of the machine, and ratios are taken within a round. Each timed call
    follows an untimed one, since the functions before it have filled the caches with what is theirs.

    Args:
        calls: dict of name to a function without arguments that returns when its work is done.
        baseline: name of the one that the others are compared with, or None.
        seconds: rounds go on for so long,
        least_rounds, most_rounds: but so many at least and at most.
        warm_up: untimed calls of each function before the first round.
        clock: function that gives the time in seconds.
        seed: of the order of the calls and of the bootstrap.

    Returns:
        Dict of name to `Latency`.

    Raises:
        ValueError: `baseline` is not among `calls`, or there is no round.

    >>> calls = {"sum": lambda: sum(range(100)), "sort": lambda: sorted(range(100))}
    >>> times = measure(calls, "sum", seconds=0)
    >>> times["sort"].rounds, times["sort"].ratio.median > 0, times["sum"].ratio
    (20, True, None)
    """
    if baseline is not None and baseline not in calls:
        raise ValueError(f"The baseline '{baseline}' is not among the calls: {', '.join(calls)}.")
    if not 1 <= least_rounds <= most_rounds:
        raise ValueError(f"There must be 1 <= {least_rounds=} <= {most_rounds=}.")
    for call in calls.values():
        for _ in range(warm_up):
            call()
    generator = np.random.default_rng(seed)
    times = _rounds(calls, seconds, least_rounds, most_rounds, clock, generator)
    return {
        name: _latency(taken, times[baseline] if baseline not in (None, name) else None, generator)
        for name, taken in times.items()
    }


def _rounds(calls, seconds, least, most, clock, generator):
    """Arrays of seconds, one entry a round, by name."""
    times = {name: [] for name in calls}
    end = clock() + seconds
    for done in range(most):
        if done >= least and clock() >= end:
            break
        for name in generator.permutation(list(calls)):
            calls[name]()
            start = clock()
            calls[name]()
            times[name].append(clock() - start)
    return {name: np.array(taken) for name, taken in times.items()}


def _latency(taken, baseline, generator):
    low, median, high = np.quantile(taken, [0.05, 0.5, 0.95])
    ratio = None if baseline is None else _ratio(taken / baseline, generator)
    return Latency(float(median), float(low), float(high), len(taken), ratio)


def _ratio(ratios, generator):
    resampled = np.median(generator.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))
