"""M by n sparsity: at most `n - m` kept weights in every group of n consecutive ones.

Groups run along the axis before the last, which holds the input channels of Dense and convolution layers.
That is the rule of tfmot, for kernels of two and of four axes. In kernels of other ranks, groups run along
the input axes. If the length is not a multiple of n, the last group is padded with zeros, as in tfmot: the
`n - m` best of its weights are kept.
"""

import numpy as np

from tfap.graph.kernel import Kernel
from tfap.masks.weights import Scored


def protected(item: Scored, m_by_n: tuple[int, int]) -> Scored:
    """Returns the kernel with the score infinity for the weights that m by n sparsity keeps.

    These are the `n - m` best of every group. Of equal scores, the larger absolute weight is the better one,
    then the one with the lower index, as in tfmot.

    Args:
        item: A `masks.weights.Scored` kernel of at least two axes.
        m_by_n: Tuple of two integers: pruned weights, and weights of a group.
    """
    zeros, size = m_by_n
    kept = in_groups(item.kernel, item.kernel.mask, size).astype(bool)
    scores = np.where(kept, in_groups(item.kernel, item.scores, size), -np.inf)
    sizes = in_groups(item.kernel, np.abs(item.kernel.weights), size)
    best = np.lexsort((-sizes, -scores))[:, : size - zeros]  # lexsort is stable
    scores = np.where(kept, scores, 0).astype(np.result_type(scores, np.float32))
    np.put_along_axis(scores, best, np.inf, axis=1)
    return Scored(item.kernel, _from_groups(item.kernel, scores))


def in_groups(kernel: Kernel, values: np.ndarray, size: int) -> np.ndarray:
    """Returns values of a kernel's shape with one row per group, padded with zeros."""
    order, length = _axis_order(kernel)
    lines = values.transpose(order).reshape(-1, length)
    return np.pad(lines, ((0, 0), (0, -length % size))).reshape(-1, size)


def _from_groups(kernel, groups):
    order, length = _axis_order(kernel)
    lines = groups.reshape(kernel.mask.size // length, -1)[:, :length]
    shape = [kernel.mask.shape[axis] for axis in order]
    return lines.reshape(shape).transpose(np.argsort(order))


def _axis_order(kernel):
    """Lists the axes of a kernel, those of the groups last, and returns the length of these."""
    ndim = kernel.mask.ndim
    axes = kernel.spec.input_axes if ndim not in (2, 4) and kernel.spec.input_axes else (-2,)
    along = sorted(axis % ndim for axis in axes)
    order = [axis for axis in range(ndim) if axis not in along] + along
    return order, int(np.prod([kernel.mask.shape[axis] for axis in along]))
