"""Compares pruning methods on the same models, sparsities, and seeds, with confidence intervals."""

from tfap.comparison.methods import Method
from tfap.comparison.results import Comparison
from tfap.comparison.runner import compare
from tfap.comparison.runs import Row, Run

__all__ = ["Comparison", "Method", "Row", "Run", "compare"]
