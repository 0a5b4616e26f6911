"""Pruning methods side by side: the same nets, sparsities, seeds and training for all of them."""

from tfap.comparison.comparing import compare
from tfap.comparison.methods import Method
from tfap.comparison.results import Comparison
from tfap.comparison.runs import Row, Run

__all__ = ["Comparison", "Method", "Row", "Run", "compare"]
