"""The constraint that keeps pruned weights at zero."""

import sys


class ZeroPruned:
    """Keeps pruned weights at zero: a constraint, which optimizers apply after every step.

    Where steps are stateless, the optimizer does not know the value of the mask. So the forward pass of the
    same step notes it.
    """

    def __init__(self, mask, backend, users=None):
        self.mask = mask
        self.backend = backend.__name__  # by name: a layer is copied with its constraints
        self.users = users  # the constraint that the weight had before
        self.noted = None

    def note(self):
        self.noted = sys.modules[self.backend].noted(self.mask)

    def __call__(self, weight):
        noted, self.noted = self.noted, None  # the next step notes it again
        weight = self.users(weight) if self.users else weight
        return sys.modules[self.backend].masked(weight, self.mask, noted)

    def __getstate__(self):
        return {**vars(self), "noted": None}
