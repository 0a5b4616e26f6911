"""Pruning schedules, which decide when to prune and to which sparsity."""

from tfap.schedules.base import PruningSchedule, by_epochs, get, is_over, serialize
from tfap.schedules.by_epoch import AccuracyIntervals
from tfap.schedules.by_step import ConstantSparsity, IterativeSparsity, PolynomialDecay, over_fit

__all__ = [
    "AccuracyIntervals",
    "ConstantSparsity",
    "IterativeSparsity",
    "PolynomialDecay",
    "PruningSchedule",
    "by_epochs",
    "get",
    "is_over",
    "over_fit",
    "serialize",
]
