"""Scores of the blocks of a kernel, and masks in which whole blocks are pruned.

A kernel of two axes is partitioned as it is. Any other kernel is partitioned as a matrix with one column per
neuron or channel, and one row per position on the other axes. So a convolution kernel `(height, width,
inputs, outputs)` has `height * width * inputs` rows, and a depthwise kernel has one column per channel.

Blocks start at the first row and column, so the last ones may be smaller. Their scores are pooled as tfmot
pools them, with the padding "SAME" of TensorFlow: half of the padding comes before the first row or column.
If an axis is not a multiple of the block, the pooled window of each block is therefore shifted towards the
start by that half. Padding never counts: it is neither in a mean nor a largest value.
"""

import dataclasses

import numpy as np

from tfap.graph.kernel import Kernel
from tfap.masks.weights import Scored

POOLING_TYPES = ("AVG", "MAX")


def pooled(item: Scored, block_size: tuple[int, int], pooling_type: str) -> Scored:
    """Returns the blocks of a kernel as a kernel of one weight per block, with its scores.

    Args:
        item: A `masks.weights.Scored` kernel of at least two axes.
        block_size: Tuple of two integers: rows and columns of a block.
        pooling_type: "AVG" for the mean over a window, or "MAX". A pruned weight counts as 0.

    Returns:
        A `Scored`, shape `(blocks of rows, blocks of columns)`. A block is pruned if all its weights are.
    """
    mask = as_matrix(item.kernel, item.kernel.mask)
    kept = mask.astype(bool)

    def pool(values):
        matrix = np.where(kept, as_matrix(item.kernel, values), 0)
        for axis, size in enumerate(block_size):
            matrix = _pooled_axis(matrix, size, axis, pooling_type)
        return matrix

    kernel = dataclasses.replace(
        item.kernel, weights=pool(np.abs(item.kernel.weights)), mask=_any_kept(mask, block_size)
    )
    return Scored(kernel, pool(item.scores))


def expanded(mask: np.ndarray, kernel: Kernel, block_size: tuple[int, int]) -> np.ndarray:
    """Returns the mask of a kernel from a mask of its blocks. Pruned weights stay pruned."""
    rows, columns = as_matrix(kernel, kernel.mask).shape
    matrix = mask.repeat(block_size[0], axis=0).repeat(block_size[1], axis=1)[:rows, :columns]
    order = _axis_order(kernel)
    shape = [kernel.mask.shape[axis] for axis in order]
    return kernel.mask * matrix.reshape(shape).transpose(np.argsort(order))


def as_matrix(kernel: Kernel, values: np.ndarray) -> np.ndarray:
    """Returns values of a kernel's shape as the matrix that is partitioned into blocks."""
    if values.ndim == 2:
        return values
    columns = _neuron_axes(kernel)
    order = _axis_order(kernel)
    width = np.prod([values.shape[axis] for axis in columns], dtype=int)
    return values.transpose(order).reshape(-1, width)


def _neuron_axes(kernel):
    return sorted(axis % kernel.mask.ndim for axis in kernel.spec.neuron_axes)


def _axis_order(kernel):
    """Lists the axes of a kernel, those of its rows first."""
    if kernel.mask.ndim == 2:
        return [0, 1]
    columns = _neuron_axes(kernel)
    return [axis for axis in range(kernel.mask.ndim) if axis not in columns] + columns


def _pooled_axis(matrix, size, axis, pooling_type):
    """Pools one axis of a matrix by windows of a size, as TensorFlow does with padding "SAME"."""
    length = matrix.shape[axis]
    padding = -length % size
    widths = [(0, 0), (0, 0)]
    widths[axis] = padding // 2, padding - padding // 2
    fill = 0 if pooling_type == "AVG" else -np.inf
    padded = np.pad(matrix, widths, constant_values=fill)
    windows = _split(padded, size, axis)
    if pooling_type == "MAX":
        return windows.max(axis=axis + 1)
    counts = _split(np.pad(np.ones_like(matrix), widths), size, axis).sum(axis=axis + 1)
    return windows.sum(axis=axis + 1) / counts


def _any_kept(mask, block_size):
    for axis, size in enumerate(block_size):
        widths = [(0, 0), (0, 0)]
        widths[axis] = 0, -mask.shape[axis] % size
        mask = _split(np.pad(mask, widths), size, axis).max(axis=axis + 1)
    return mask


def _split(matrix, size, axis):
    """Splits an axis into windows: `(windows, size)` in its place."""
    shape = list(matrix.shape)
    shape[axis : axis + 1] = [shape[axis] // size, size]
    return matrix.reshape(shape)
