"""A loss on singular values: it pushes kernels towards a low rank while they train."""

import math
import numbers

import numpy as np
import tensorflow as tf
from absl import logging

from tfap import keras_compat


@keras_compat.register
class SingularValueRegularizer(keras_compat.Regularizer):
    """Adds the singular values of a kernel to the loss: `strength * sum(values)`.

    As kernel_regularizer of a layer of either Keras. With `weighted` it is `strength * sum(i * value_i)`,
    i = 1, 2, ... from the largest value down, as in the code of Ganguli and Chong (Algorithms 17(1):48,
    2024), whose paper has the plain sum: so the smallest values are pushed most.

    Convolutions count as matrices `(everything else, last axis)`. Singular values below the largest one x
    the longer side x the precision of float32 are not pushed further. A training step needs the
    eigenvectors of the smaller of the matrix's two Gram matrices, in float64. XLA is slow at them on CPUs:
    tell Keras 3, which uses XLA by itself, `compile(..., jit_compile=False)` there; a warning reminds you.

    Args:
        strength: of the loss, a number >= 0.
        weighted: weigh each singular value by its place.

    Raises:
        TypeError, ValueError: a strength that is no number, or negative or not finite; when the layer is
            built: a weight with less than two axes.

    >>> import numpy
    >>> kernel = numpy.diag([3.0, 4.0])
    >>> [round(float(SingularValueRegularizer(0.5, weighted)(kernel)), 6) for weighted in (False, True)]
    [3.5, 5.0]
    """

    def __init__(self, strength, weighted=False):
        if not isinstance(strength, numbers.Real) or isinstance(strength, bool):
            raise TypeError(f"strength must be a number: received {strength!r}.")
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength must be a finite number >= 0: received {strength}.")
        self.strength = float(strength)
        self.weighted = bool(weighted)

    def __call__(self, kernel):
        kernel = tf.convert_to_tensor(kernel)
        if kernel.shape.rank < 2:
            raise ValueError(
                f"SingularValueRegularizer takes kernels of two axes or more: received the shape "
                f"{tuple(kernel.shape)}."
            )
        if _in_xla() and not tf.config.list_physical_devices("GPU"):
            logging.log_first_n(
                logging.WARNING,
                "SingularValueRegularizer is slow in XLA on CPUs: use compile(..., jit_compile=False).",
                1,
            )
        matrix = tf.cast(tf.reshape(kernel, (-1, kernel.shape[-1])), tf.float64)
        # The smaller Gram matrix is on the right.
        matrix = matrix if matrix.shape[0] >= matrix.shape[1] else tf.transpose(matrix)
        places = np.arange(matrix.shape[1], 0, -1.0) if self.weighted else np.ones(matrix.shape[1])
        total = tf.custom_gradient(lambda tall: _weighted_sum(tall, places))(matrix)
        return tf.cast(self.strength * total, kernel.dtype)

    def get_config(self):
        return {"strength": self.strength, "weighted": self.weighted}


def _weighted_sum(matrix, factors):
    """`sum(f_i * s_i)` over the singular values s_i, ascending, of a tall float64 matrix, and its gradient.

    With A = U diag(s) V^T the squares of s and V are the eigenvalues and eigenvectors of A^T A. The
    gradient U diag(f) V^T is A V diag(f / s) V^T, which needs no U. Where s is 0 to rounding, 0 is a
    subgradient. Both are NaN where A is not finite.
    """
    gram = tf.matmul(matrix, matrix, transpose_a=True)
    finite = tf.reduce_all(tf.math.is_finite(gram))
    squares, vectors = tf.linalg.eigh(tf.where(finite, gram, 0))  # it raises errors on NaN
    values = tf.where(finite, tf.sqrt(tf.maximum(squares, 0)), np.nan)

    def gradient(upstream):
        zero = max(matrix.shape) * float(np.finfo(np.float32).eps) * values[-1]
        over = tf.where(values > zero, factors / tf.where(values > zero, values, 1), 0)
        return upstream * tf.matmul(matrix, tf.matmul(vectors * over, vectors, transpose_b=True))

    return tf.reduce_sum(factors * values), gradient


def _in_xla():
    """True while a `tf.function(jit_compile=True)` is traced."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
