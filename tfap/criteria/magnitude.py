"""Magnitude: small weights go first."""

import numpy as np

from tfap.criteria.base import Criterion
from tfap.criteria.known import built_in


@built_in
class Magnitude(Criterion):
    """The absolute weight, as in tfmot's `prune_low_magnitude`."""

    def scores(self, kernel):
        return np.abs(kernel.weights)
