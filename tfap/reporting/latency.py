"""Latency of functions, measured in turns because the speed of a machine varies over time."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Holds a latency in units of the baseline's.

    Attributes:
        median: Float. Median of the ratios within a round.
        low: Float. Lower limit of the 95% bootstrap CI of the median.
        high: Float. Upper limit of the 95% bootstrap CI of the median.
    """

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """Holds the latency of one call, in seconds.

    Attributes:
        median: Float. Median of all rounds.
        low: Float. 5th percentile of the rounds.
        high: Float. 95th percentile of the rounds.
        rounds: Integer. Number of rounds.
        ratio: `Ratio` to the baseline. None for the baseline itself, or if there is none.
    """

    median: float
    low: float
    high: float
    rounds: int
    ratio: Ratio | None = None


def measure(
    calls: Mapping[str, Callable[[], Any]],
    baseline: str | None = None,
    *,
    seconds: float = 3.0,
    least_rounds: int = 20,
    most_rounds: int = 1000,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
) -> dict[str, Latency]:
    """Measures the latency of functions, in rounds that call each of them once, in random order.

    All functions share any change in machine speed, because ratios are computed within a round. An untimed
    call precedes each timed one, because other functions have filled the caches with their own data.

    Args:
        calls: Dict of name to function. The functions take no arguments, and return when their work is done.
        baseline: String. Name of the function to compare the others with. None for no comparison.
        seconds: Float >= 0. Time budget of all rounds together. The limits on the rounds take precedence.
        least_rounds: Integer >= 1. Minimum number of rounds.
        most_rounds: Integer >= `least_rounds`. Maximum number of rounds.
        warm_up: Integer >= 0. Untimed calls of each function before the first round.
        clock: Function that returns the time in seconds.
        seed: Integer. Seed of the order of the calls and of the bootstrap.

    Returns:
        Dict of name to `tfap.reporting.latency.Latency`.

    Raises:
        ValueError: If `baseline` is not in `calls`, or the limits on the rounds are invalid.

    Example:

    >>> import tfap
    >>> calls = {"sum": lambda: sum(range(100)), "sort": lambda: sorted(range(100))}
    >>> latencies = tfap.measure_latency(calls, "sum", seconds=0)
    >>> latencies["sort"].rounds, latencies["sort"].ratio.median > 0, latencies["sum"].ratio
    (20, True, None)
    """
    if baseline is not None and baseline not in calls:
        raise ValueError(f"The baseline '{baseline}' is not among the calls: {', '.join(calls)}.")
    if not 1 <= least_rounds <= most_rounds:
        raise ValueError(
            f"Expected 1 <= least_rounds <= most_rounds: received {least_rounds=} and {most_rounds=}."
        )
    for call in calls.values():
        for _ in range(warm_up):
            call()
    generator = np.random.default_rng(seed)
    seconds_of = _rounds(calls, seconds, least_rounds, most_rounds, clock, generator)
    return {
        name: _latency(times, seconds_of[baseline] if baseline not in (None, name) else None, generator)
        for name, times in seconds_of.items()
    }


def _rounds(calls, seconds, least, most, clock, generator):
    """Returns `{name: array of seconds, one per round}`."""
    seconds_of = {name: [] for name in calls}
    end = clock() + seconds
    for done in range(most):
        if done >= least and clock() >= end:
            break
        for name in generator.permutation(list(calls)):
            calls[name]()
            start = clock()
            calls[name]()
            seconds_of[name].append(clock() - start)
    return {name: np.array(times) for name, times in seconds_of.items()}


def _latency(times, baseline_times, generator):
    low, median, high = np.quantile(times, [0.05, 0.5, 0.95])
    ratio = None if baseline_times is None else _ratio(times / baseline_times, generator)
    return Latency(float(median), float(low), float(high), len(times), ratio)


def _ratio(ratios, generator):
    medians = np.median(generator.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))
