"""Second moments of what a layer consumes, summed over batches."""

import dataclasses

import numpy as np

_CHUNK_BYTES = 2**25  # of float64 rows that are multiplied at a time


class SecondMoments:
    """The sums of `x` and of `x x^T` over rows `x`, such as the units that a Dense layer consumes.

    Sums are in float64, so their precision does not depend on the number of rows. Memory is that of a square
    matrix of the units, and time is linear in the rows.

    Args:
        units: Integer. The number of units in a row.

    Attributes:
        count: Integer. The number of rows.
        sums: float64 array, shape `(units,)`.
        gram: float64 array, shape `(units, units)`. The Gram matrix.

    Example:

    >>> moments = SecondMoments(2)
    >>> moments.add(np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> moments.gram
    array([[10., 14.],
           [14., 20.]])
    >>> moments.mean
    array([2., 3.])
    """

    def __init__(self, units: int) -> None:
        self.count = 0
        self.sums = np.zeros(units)
        self.gram = np.zeros((units, units))

    def add(self, rows: np.ndarray) -> None:
        """Adds rows.

        Args:
            rows: Float array, shape `(rows, units)`.

        Raises:
            ValueError: If a value is NaN or infinite. Nothing is added then.
        """
        size = max(1, _CHUNK_BYTES // (8 * max(1, rows.shape[1])))
        for start in range(0, len(rows), size):
            chunk = np.asarray(rows[start : start + size], np.float64)
            sums = chunk.sum(axis=0)
            if not np.isfinite(sums).all():
                raise ValueError("an activation is NaN or infinite")
            self.gram += chunk.T @ chunk
            self.sums += sums
            self.count += len(chunk)

    @property
    def mean(self) -> np.ndarray:
        """float64 array, shape `(units,)`. The mean of the rows."""
        return self.sums / max(self.count, 1)

    def covariance(self) -> np.ndarray:
        """Computes the Gram matrix of the rows minus their mean: float64 array, shape `(units, units)`."""
        return self.gram - np.outer(self.sums, self.mean)


# -- the rows that layers consume --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Window:
    """The window of a convolution: which positions of its input each position of its output reads.

    Attributes:
        size: Tuple of integers. The kernel size, one entry per spatial axis.
        strides: Tuple of integers.
        dilation: Tuple of integers.
        padding: String. "valid", "same" or "causal", as in Keras.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str = "valid"

    def _paddings(self, shape):
        """Returns `(before, after)` per spatial axis, as TensorFlow pads."""
        for length, size, stride, step in zip(shape, self.size, self.strides, self.dilation):
            reach = (size - 1) * step + 1
            if self.padding == "valid":
                yield 0, 0
            elif self.padding == "causal":
                yield reach - 1, 0
            else:
                total = max((-(-length // stride) - 1) * stride + reach - length, 0)
                yield total // 2, total - total // 2

    def patches(self, values: np.ndarray) -> np.ndarray:
        """Collects what each output position reads (im2col).

        Args:
            values: Array, shape `(samples, positions..., channels)`.

        Returns:
            Array, shape `(samples * output positions, taps, channels)`. Taps are in the order of the kernel.

        Example:

        >>> Window((2,), (1,), (1,)).patches(np.arange(6.0).reshape(1, 3, 2)).tolist()
        [[[0.0, 1.0], [2.0, 3.0]], [[2.0, 3.0], [4.0, 5.0]]]
        """
        ndim = len(self.size)
        axes = tuple(range(1, ndim + 1))
        paddings = list(self._paddings(values.shape[1:-1]))
        if any(map(any, paddings)):
            values = np.pad(values, [(0, 0), *paddings, (0, 0)])
        reach = [(size - 1) * step + 1 for size, step in zip(self.size, self.dilation)]
        seen = np.lib.stride_tricks.sliding_window_view(values, reach, axes)
        strided = tuple(slice(None, None, stride) for stride in self.strides)
        dilated = tuple(slice(None, None, step) for step in self.dilation)
        seen = seen[(slice(None), *strided, slice(None), *dilated)]  # (samples, positions, channels, taps)
        seen = np.moveaxis(seen, ndim + 1, -1)
        return seen.reshape(-1, int(np.prod(self.size)), values.shape[-1])
