"""Arrays that a variable holds in another form, because the backend has no dtype for them."""

import numpy as np


class ExactArray(np.ndarray):
    """A NumPy array that is read like a variable or tensor, by `numpy()`."""

    def numpy(self):
        return np.asarray(self)

    @classmethod
    def of(cls, values):
        return np.asarray(values).view(cls)


class StoredArray:
    """An array in a variable of another dtype and shape. It is read and written like a variable.

    A subclass converts in `_to_rows` and `_from_rows`.

    Attributes:
        variable: The variable of Keras 3.
        shape: The shape of the array.
        dtype: The dtype of the array.
    """

    dtype: np.dtype

    def __init__(self, variable, shape):
        self.variable, self.shape = variable, tuple(shape)

    def _to_rows(self, values):
        raise NotImplementedError

    def _from_rows(self, rows):
        raise NotImplementedError

    def numpy(self):
        return self._from_rows(self.variable.numpy())

    def assign(self, values):
        values = np.asarray(values, self.dtype)
        if values.shape != self.shape:
            raise ValueError(f"Expected an array of the shape {self.shape}: received {values.shape}.")
        self.variable.assign(self._to_rows(values))
        return self

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.numpy(), dtype)

    def __getitem__(self, key):
        return ExactArray.of(self.numpy()[key])

    def __len__(self):
        return self.shape[0]

    def __int__(self):
        return int(self.numpy())

    def __float__(self):
        return float(self.numpy())

    def __repr__(self):
        return f"<{type(self).__name__} shape={self.shape} dtype={self.dtype}>"
