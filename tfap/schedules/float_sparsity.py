"""The schedule that a float as `pruning_schedule` stands for."""

from tfap.schedules.own import ConstantSparsity, PolynomialDecay, PruningSchedule


def over_fit(final_sparsity: float, steps: int, after: int = 0) -> PruningSchedule:
    """Creates the schedule that a float stands for: cubic decay between 10% and 70% of a fit.

    There are about 30 updates, or fewer in a very short fit. The last one is exactly at `end_step`.

    Args:
        final_sparsity: Float in [0, 1).
        steps: Integer. Number of training steps in the fit.
        after: Integer. Number of training steps done before the fit.

    Returns:
        A `PolynomialDecay` of `own`, which needs no TensorFlow, or a `ConstantSparsity` of one update if the
        fit is too short for a decay.

    Example:

    >>> schedule = over_fit(0.9, steps=1000)
    >>> schedule.begin_step, schedule.end_step, schedule.frequency
    (100, 700, 20)
    """
    begin = max(1, round(0.1 * steps))
    end = max(begin, round(0.7 * steps))
    frequency = max(1, (end - begin) // 30)
    begin = end - (end - begin) // frequency * frequency
    if begin == end:
        return ConstantSparsity(final_sparsity, after + begin, end_step=after + end, frequency=1)
    return PolynomialDecay(0.0, final_sparsity, after + begin, after + end, frequency=frequency)
