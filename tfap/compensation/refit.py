"""Least-squares refits: new weights for the units that are kept, so that a layer's sums stay as they were.

A layer consumes the units `x` and computes `W^T x + b`. If some units are removed, the weights of the others
change by the ridge regression of what the removed ones contributed:

    W_kept += (G_kept,kept + lambda I)^-1 G_kept,removed W_removed

`G` is the matrix of second moments of `x`. If the layer has a bias, the bias changes too: `G` is then that of
`x` minus its mean, which is the same as a constant unit that is not regularized.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfap.compensation.moments import SecondMoments

RIDGE = 1e-3  # lambda, as a fraction of the mean diagonal element of G
# Activations are float32. Squared, their rounding is 4e-15 of their mean square: not a signal to fit.
_ROUNDING = 1e-12
_CONSTANT = 1e-8  # fraction of the squared sums below which their variance is that of a constant


@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares:
    """The sums of a layer, or of a part of it, over some data.

    Attributes:
        gram: float64 array, shape `(units, units)`. The second moments `G`, without the ridge.
        ridge: Float. `lambda`.
        mean: float64 array, shape `(units,)`. What the bias takes over per unit. Zero if there is no bias.
        weights: float64 array, shape `(units, outputs)`.
        groups: Integer array, shape `(units,)`. Units with the same number are removed together; a negative
            number stands for a unit that is never removed.
        scale: Float. Errors are divided by it.
        rows: Integer. The number of rows.
    """

    gram: np.ndarray
    ridge: float
    mean: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    scale: float = 1.0
    rows: int = 0

    @classmethod
    def of(
        cls,
        moments: SecondMoments,
        weights: np.ndarray,
        groups: np.ndarray,
        has_bias: bool,
        ridge: float = RIDGE,
    ) -> "LeastSquares":
        """Makes the problem from second moments.

        Args:
            moments: `SecondMoments` of the units.
            weights: Array, shape `(units, outputs)`.
            groups: See the attribute.
            has_bias: Boolean. Whether a bias may change.
            ridge: Float >= 0. `lambda` as a fraction of the mean diagonal element of `G`.
        """
        gram = moments.covariance() if has_bias else moments.gram
        typical, whole = (float(np.mean(np.diagonal(each))) for each in (gram, moments.gram))
        return cls(
            gram,
            max(ridge * typical, _ROUNDING * whole) or 1.0,  # units that are always zero have no moments
            moments.mean if has_bias else np.zeros(len(gram)),
            np.asarray(weights, np.float64),
            np.asarray(groups),
            rows=moments.count,
        )

    def regularized(self) -> np.ndarray:
        """Computes `G + lambda I`."""
        return self.gram + self.ridge * np.eye(len(self.gram))

    def energy(self) -> float:
        """Computes the squared sums of the layer over the data: the largest error there can be."""
        return self.squared(self.weights)

    def squared(self, weights: np.ndarray) -> float:
        """Computes the squared sums of other weights over the data."""
        return float(np.einsum("uo,uo->", self.gram @ weights, weights))

    def error(self, weights: np.ndarray) -> float:
        """Computes the squared difference of the sums with other weights and the bias that fits them."""
        return max(0.0, self.squared(self.weights - weights))

    def without(self, removed: np.ndarray) -> np.ndarray:
        """Returns the weights with those of some units set to zero. `removed` is a boolean array."""
        return np.where(removed[:, None], 0.0, self.weights)

    def refit(self, removed: np.ndarray) -> np.ndarray:
        """Computes new weights for the units that are kept.

        Args:
            removed: Boolean array, shape `(units,)`.

        Returns:
            float64 array, shape `(units, outputs)`: zero for removed units. Unchanged weights if no unit is
            removed.

        Example:

        >>> moments = SecondMoments(2)
        >>> moments.add(np.array([[1.0, 2.0], [3.0, 6.0], [-1.0, -2.0]]))  # unit 1 is twice unit 0
        >>> problem = LeastSquares.of(moments, np.array([[1.0], [1.0]]), np.arange(2), True, ridge=1e-9)
        >>> problem.refit(np.array([False, True])).round(6)
        array([[3.],
               [0.]])
        """
        weights = self.without(removed)
        kept = np.flatnonzero(~removed)
        if not removed.any() or not len(kept):
            return weights
        lost = self.gram[np.ix_(kept, np.flatnonzero(removed))] @ self.weights[removed]
        matrix = self.gram[np.ix_(kept, kept)]
        matrix[np.diag_indices_from(matrix)] += self.ridge
        weights[kept] += _solved(matrix, lost)
        return weights

    def bias_change(self, weights: np.ndarray) -> np.ndarray:
        """Computes what to add to the bias with new weights, so that the mean of the sums stays."""
        return self.mean @ (self.weights - weights)


def _solved(matrix, right):
    """Solves a symmetric system; units that depend on each other get the smallest weights."""
    try:
        solution = np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, right, rcond=None)[0]
    return solution if np.isfinite(solution).all() else np.linalg.lstsq(matrix, right, rcond=None)[0]


def relative(error: float, energy: float) -> float:
    """Returns the error as a fraction of the energy; 0 if there is no energy."""
    return error / energy if energy > 0 else 0.0


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverts a symmetric positive definite matrix."""
    try:
        inverted = np.linalg.inv(matrix)
    except np.linalg.LinAlgError:  # within rounding of singular
        inverted = np.linalg.pinv(matrix, hermitian=True)
    return (inverted + inverted.T) / 2


def scaled(problems: Sequence[LeastSquares]) -> list[LeastSquares]:
    """Returns the problems of one layer with errors relative to the energy of them all.

    Without any energy, all units are always zero, and every error is 0.
    """
    energy = sum(problem.energy() for problem in problems)
    means = sum(problem.rows * np.square(problem.mean @ problem.weights).sum() for problem in problems)
    energy = max(energy, _CONSTANT * float(energy + means))
    return [dataclasses.replace(problem, scale=energy if energy > 0 else np.inf) for problem in problems]
