"""Pruning schedules, which decide when to prune and to which sparsity."""

import importlib
from typing import TYPE_CHECKING, Any

from tfap.schedules.base import by_epochs, get, is_over, serialize
from tfap.schedules.float_sparsity import over_fit

if TYPE_CHECKING:
    from tfap.schedules.base import ConstantSparsity, PolynomialDecay, PruningSchedule
    from tfap.schedules.by_epoch import AccuracyIntervals
    from tfap.schedules.by_step import IterativeSparsity

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

# Subclasses of tfmot's class, which is imported when one of them is first used.
_FILES = {
    "AccuracyIntervals": "by_epoch",
    "ConstantSparsity": "base",
    "IterativeSparsity": "by_step",
    "PolynomialDecay": "base",
    "PruningSchedule": "base",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tfap.schedules.{_FILES[name]}"), name)
