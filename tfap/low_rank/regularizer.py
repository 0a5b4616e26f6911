"""Regularizer that adds the singular values of a kernel to the loss."""

import math
import numbers
from typing import Any

import numpy as np
from absl import logging

from tfap import keras_compat
from tfap.keras_compat import private
from tfap.keras_compat.lazy import tensorflow as tf


@keras_compat.register
class SingularValueRegularizer(keras_compat.Regularizer):
    """Adds the sum of the singular values of a kernel to the loss.

    Use it as the `kernel_regularizer` of a layer of either Keras. The loss is `strength * sum(s_i)`, or
    `strength * sum(i * s_i)` if `weighted`. Here `s_1, s_2, ...` are the singular values in descending
    order. The weighted loss lowers the smallest singular values most.

    The kernel of a convolution is a matrix of shape `(everything else, last axis)`. Singular values that are
    zero within float32 tolerance have no gradient. With TensorFlow, the loss computes the eigenvectors of the
    smaller Gram matrix of the kernel in float64, which is slow in XLA on CPUs. There, use
    `compile(jit_compile=False)`. With JAX and PyTorch, it computes the singular values in float32.

    Args:
        strength: Float >= 0. Factor of the loss.
        weighted: Whether to multiply each singular value by its index, as in the code of Ganguli and Chong.
            Their paper uses the sum without weights.

    Raises:
        TypeError: If `strength` is not a number.
        ValueError: If `strength` is negative or not finite, or the weight has fewer than two axes.

    Example:

    >>> import numpy
    >>> kernel = numpy.diag([3.0, 4.0])
    >>> [round(float(SingularValueRegularizer(0.5, weighted)(kernel)), 6) for weighted in (False, True)]
    [3.5, 5.0]

    References:
        - [Ganguli and Chong, 2024](https://doi.org/10.3390/a17010048)
    """

    strength: float
    weighted: bool

    def __init__(self, strength: float, weighted: bool = False) -> None:
        if not isinstance(strength, numbers.Real) or isinstance(strength, bool):
            raise TypeError(f"strength must be a number: received {strength!r}.")
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength must be a finite number >= 0: received {strength}.")
        self.strength = float(strength)
        self.weighted = bool(weighted)

    def __call__(self, kernel: Any) -> Any:
        """Computes the loss of a kernel.

        Args:
            kernel: Tensor with two or more axes.

        Returns:
            A scalar tensor of the dtype of the kernel.
        """
        if len(kernel.shape) < 2:
            raise ValueError(
                f"SingularValueRegularizer takes kernels of two axes or more: received the shape "
                f"{tuple(kernel.shape)}."
            )
        in_tensorflow = keras_compat.is_instance(kernel, "tensorflow.Tensor", "tensorflow.Variable")
        if in_tensorflow or keras_compat.backend_name(None) == "tensorflow":
            return self._in_tensorflow(kernel)
        ops = keras_compat.ops
        kernel = ops.convert_to_tensor(kernel)
        total = _sum_of_svd(ops.cast(ops.reshape(kernel, (-1, kernel.shape[-1])), "float32"), self.weighted)
        return ops.cast(self.strength * total, kernel.dtype)

    def _in_tensorflow(self, kernel):
        kernel = tf.convert_to_tensor(kernel)
        if private.is_in_xla() and not tf.config.list_physical_devices("GPU"):
            logging.log_first_n(
                logging.WARNING,
                "SingularValueRegularizer is slow in XLA on CPUs: use compile(..., jit_compile=False).",
                1,
            )
        matrix = tf.cast(tf.reshape(kernel, (-1, kernel.shape[-1])), tf.float64)
        # The smaller Gram matrix is on the right.
        matrix = matrix if matrix.shape[0] >= matrix.shape[1] else tf.transpose(matrix)
        factors = np.arange(matrix.shape[1], 0, -1.0) if self.weighted else np.ones(matrix.shape[1])
        total = tf.custom_gradient(lambda tall: _weighted_sum(tall, factors))(matrix)
        return tf.cast(self.strength * total, kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, for serialization."""
        return {"strength": self.strength, "weighted": self.weighted}


def _sum_of_svd(matrix, weighted):
    """Computes the sum of the singular values of a float32 matrix, in the operations of Keras 3."""
    ops = keras_compat.ops
    finite = ops.all(ops.isfinite(matrix))  # PyTorch raises on NaN
    values = ops.svd(ops.where(finite, matrix, 0.0), full_matrices=False, compute_uv=False)
    tolerance = max(matrix.shape) * float(np.finfo(np.float32).eps) * ops.stop_gradient(values[0])
    positive = ops.where(values > tolerance, values, 0.0)  # 0 is a subgradient of others
    factors = ops.arange(1, len(values) + 1, dtype="float32") if weighted else 1.0
    return ops.where(finite, ops.sum(factors * positive), float("nan"))


def _weighted_sum(matrix, factors):
    """Computes `sum(f_i * s_i)` and its gradient, for the ascending singular values of a tall float64 matrix.

    Let A = U diag(s) V^T. The eigenvalues and eigenvectors of A^T A are s^2 and V. The gradient
    U diag(f) V^T equals A V diag(f / s) V^T, which does not need U. Where s is 0 within float tolerance,
    0 is a subgradient. Sum and gradient are NaN if A is not finite.
    """
    gram = tf.matmul(matrix, matrix, transpose_a=True)
    finite = tf.reduce_all(tf.math.is_finite(gram))
    squares, vectors = tf.linalg.eigh(tf.where(finite, gram, 0))  # eigh raises on NaN
    values = tf.where(finite, tf.sqrt(tf.maximum(squares, 0)), np.nan)

    def gradient(upstream):
        tolerance = max(matrix.shape) * float(np.finfo(np.float32).eps) * values[-1]
        is_positive = values > tolerance
        ratios = tf.where(is_positive, factors / tf.where(is_positive, values, 1), 0)
        return upstream * tf.matmul(matrix, tf.matmul(vectors * ratios, vectors, transpose_b=True))

    return tf.reduce_sum(factors * values), gradient
