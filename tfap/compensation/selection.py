"""Which channels to remove: those whose removal changes the sums of their consumers least.

It is the optimal brain surgeon, for whole columns: with the refit of `refit.py`, removing the units `j` of a
channel changes the sums by `tr(W_j^T ((G + lambda I)^-1_jj)^-1 W_j)`. The channel with the smallest change is
removed, the weights of the others are refitted, and so on.

References:
    - Hassibi and Stork, *Second order derivatives for network pruning: optimal brain surgeon*, NeurIPS 1992
    - Kurtic et al., *ZipLM*, NeurIPS 2023 (arXiv 2302.04089), section 3.1
    - Meng et al., *OSSCAR*, ICML 2024 (arXiv 2403.12983)
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfap.compensation.refit import LeastSquares, inverse

_PENDING = 128  # columns of eliminated units that are subtracted at a time


@dataclasses.dataclass(frozen=True, eq=False)
class RemovalOrder:
    """The groups of units in the order in which to remove them.

    Attributes:
        groups: Integer array. The groups, first the one to remove first.
        errors: float64 array of the same shape. The squared error that removing the group adds after those
            before it, relative to the scales of the problems.
    """

    groups: np.ndarray
    errors: np.ndarray


def removal_order(
    problems: Sequence[LeastSquares], groups: np.ndarray, count: int | None = None
) -> RemovalOrder:
    """Finds the order in which to remove groups of units, each chosen after the refit of the earlier ones.

    Args:
        problems: The `LeastSquares` of all consumers of the groups. Errors are summed over them.
        groups: Integer array. The groups that may be removed.
        count: Integer. How many to remove. None for all.

    Returns:
        A `RemovalOrder` of `count` groups.

    Example:

    >>> gram = np.diag([1.0, 4.0, 9.0])
    >>> weights = np.array([[4.0], [1.0], [1.0]])
    >>> problem = LeastSquares(gram, 1e-9, np.zeros(3), weights, np.arange(3))
    >>> order = removal_order([problem], np.arange(3), count=2)
    >>> order.groups, order.errors.round(6)
    (array([1, 2]), array([4., 9.]))
    """
    groups = np.asarray(groups)
    eliminations = [_Elimination(problem, groups) for problem in problems]
    left = np.ones(len(groups), bool)
    order, errors = [], []
    for _ in range(len(groups) if count is None else min(count, len(groups))):
        costs = sum((elimination.costs() for elimination in eliminations), np.zeros(len(groups)))
        costs[~left] = np.inf
        chosen = int(np.argmin(costs))
        left[chosen] = False
        order.append(chosen)
        errors.append(max(0.0, costs[chosen]))
        for elimination in eliminations:
            elimination.remove(chosen)
    return RemovalOrder(groups[np.array(order, int)], np.array(errors))


class _Elimination:
    """One problem while groups of its units are removed, one after the other.

    It holds two symmetric matrices of the units that are left: `inverse`, which is `(G + lambda I)^-1`, and
    `products`, which is `W W^T` of the refitted weights. Only their diagonal blocks, one per group, are up to
    date. What the last removals change in the rest is pending, and subtracted as a product of matrices.
    """

    def __init__(self, problem, groups):
        self._scale = problem.scale
        self._inverse = inverse(problem.regularized())
        self._products = problem.weights @ problem.weights.T
        self._members = [np.flatnonzero(problem.groups == group) for group in groups]
        self._others = np.flatnonzero(~np.isin(problem.groups, groups))
        self._number_units()
        self._inverse_blocks = self._blocks_of(self._inverse)
        empty = self._index == len(self._inverse)
        both = empty[:, :, None] & empty[:, None, :]
        self._inverse_blocks += both * np.eye(self._index.shape[1])
        self._product_blocks = self._blocks_of(self._products)

    def _number_units(self):
        """Fills up rows of units, one per group, with a unit that nothing depends on; nothing is pending."""
        units = len(self._inverse)
        self._index = np.full((len(self._members), max(map(len, self._members), default=0)), units)
        for row, members in zip(self._index, self._members):
            row[: len(members)] = members
        self._pending = np.zeros((3, _PENDING + self._index.shape[1], units))  # rows are contiguous
        self._count = 0

    def _blocks_of(self, matrix):
        within = np.minimum(self._index, len(matrix) - 1)
        filled = self._index < len(matrix)
        blocks = matrix[within[:, :, None], within[:, None, :]]
        return blocks * (filled[:, :, None] & filled[:, None, :])

    def costs(self):
        """Computes the error of removing each group."""
        if self._index.shape[1] == 1:
            return self._product_blocks[:, 0, 0] / self._inverse_blocks[:, 0, 0] / self._scale
        solved = np.linalg.solve(self._inverse_blocks, self._product_blocks)
        return np.einsum("gii->g", solved) / self._scale

    def remove(self, group):
        members = self._members[group]
        if not len(members):
            return
        before, factored, crossed = self._pending[:, : self._count]
        columns = (self._inverse[members] - before[:, members].T @ before).T
        products = self._products[members] - factored[:, members].T @ crossed
        products = (products - crossed[:, members].T @ factored).T
        lower = _cholesky(columns[members])
        columns = np.linalg.solve(lower, columns.T).T
        factors = np.linalg.solve(lower.T, columns.T).T
        # W becomes W - factors W_members, so W W^T loses factors crossed^T and its transpose.
        crossed = products - factors @ products[members] / 2
        self._update_blocks(columns, factors, crossed)
        self._inverse_blocks[group] = np.eye(self._index.shape[1])
        self._product_blocks[group] = 0.0
        self._members[group] = members[:0]
        self._index[group] = len(self._inverse)
        added = slice(self._count, self._count + len(members))
        for pending, part in zip(self._pending, (columns, factors, crossed)):
            pending[added] = part.T
        self._count += len(members)
        if self._count >= _PENDING:
            self._subtract_pending()

    def _update_blocks(self, columns, factors, crossed):
        columns, factors, crossed = (
            np.pad(part, ((0, 1), (0, 0)))[self._index] for part in (columns, factors, crossed)
        )
        self._inverse_blocks -= columns @ columns.transpose(0, 2, 1)
        change = factors @ crossed.transpose(0, 2, 1)
        self._product_blocks -= change + change.transpose(0, 2, 1)

    def _subtract_pending(self):
        """Brings both matrices up to date, and leaves out the units that have been removed."""
        left = np.sort(np.concatenate([self._others, *self._members]))
        columns, factors, crossed = self._pending[:, : self._count, left]
        self._inverse = self._inverse[np.ix_(left, left)]
        self._inverse -= columns.T @ columns
        change = factors.T @ crossed
        self._products = self._products[np.ix_(left, left)]
        self._products -= change
        self._products -= change.T
        self._members = [np.searchsorted(left, members) for members in self._members]
        self._others = np.searchsorted(left, self._others)
        widest = self._index.shape[1]
        self._number_units()
        missing = widest - self._index.shape[1]
        self._index = np.pad(self._index, ((0, 0), (0, missing)), constant_values=len(left))


def _cholesky(block):
    """Returns a lower factor of a block that is positive definite but for rounding."""
    try:
        return np.linalg.cholesky(block)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(block)
        floor = np.finfo(float).eps * max(abs(values).max(), 1e-300)
        return np.linalg.cholesky(
            (vectors * np.maximum(values, floor)) @ vectors.T + floor * np.eye(len(block))
        )
