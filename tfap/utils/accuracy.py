"""Scores of a model: classification accuracy, and the metrics that a user's function returns."""

from typing import Any

import numpy as np


def accuracy(labels: np.ndarray, outputs: np.ndarray) -> np.floating:
    """Computes the classification accuracy.

    Args:
        labels: Array of integers, of shape `(samples, ...)` or `(samples, ..., 1)`, or one-hot labels of the
            shape of `outputs`.
        outputs: Array of shape `(samples, ..., classes)`.

    Returns:
        Fraction of the outputs, in [0, 1], whose largest entry is at the label.

    Example:

    >>> float(accuracy(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])))
    0.5
    """
    predicted = outputs.argmax(axis=-1)
    expected = labels.argmax(axis=-1) if labels.shape == outputs.shape else labels.reshape(predicted.shape)
    return np.mean(predicted == expected)


def check_labels(name: str, labels: np.ndarray, outputs: Any) -> None:
    """Checks that `accuracy` is defined for a model's outputs and labels.

    Args:
        name: String. Name of the model, for the message.
        labels: Array.
        outputs: Array, or a list of arrays if the model has several outputs.

    Raises:
        ValueError: If there are several outputs or one class, or if the shapes do not match.
    """
    if isinstance(outputs, list):
        raise ValueError(f"'{name}' has {len(outputs)} outputs: pass a metric of (y, list of outputs).")
    if outputs.shape[-1] == 1:
        raise ValueError(
            f"'{name}' has one output per sample, for which accuracy is not defined: pass a metric."
        )
    if labels.shape not in (outputs.shape, outputs.shape[:-1], (*outputs.shape[:-1], 1)):
        raise ValueError(
            f"Labels of shape {labels.shape} do not fit outputs of shape {outputs.shape} of '{name}': "
            f"pass integer or one-hot labels, or a metric."
        )


def metrics_of(metrics: Any) -> dict[str, float]:
    """Converts the result of a user's `evaluate` function.

    Args:
        metrics: A number, which is named "score", or a dict of name to number.

    Returns:
        Dict of name to float.

    Raises:
        TypeError: If the result is neither a number nor a dict of name to number.
        ValueError: If the dict is empty.

    Example:

    >>> metrics_of(0.5), metrics_of({"loss": 1})
    ({'score': 0.5}, {'loss': 1.0})
    """
    metrics = metrics if isinstance(metrics, dict) else {"score": metrics}
    if not metrics:
        raise ValueError("evaluate must return a number or a dict of name to number: received an empty dict.")
    return {name: _number(name, value) for name, value in metrics.items()}


def _number(name, value):
    array = np.asarray(value)
    if not isinstance(name, str) or array.ndim or array.dtype.kind not in "iuf":
        raise TypeError(
            f"evaluate must return a number or a dict of name to number: {name!r} is {value!r} of type "
            f"{type(value).__name__}. model.evaluate(..., return_dict=True) returns a dict."
        )
    return float(array)
