"""How good a model is: its accuracy, and what the user's own function says of it."""

import numpy as np


def accuracy(labels, outputs):
    """The share of outputs whose largest entry is that of the label, an integer or one-hot."""
    chosen = outputs.argmax(axis=-1)
    expected = labels.argmax(axis=-1) if labels.shape == outputs.shape else labels.reshape(chosen.shape)
    return np.mean(chosen == expected)


def metrics_of(found):
    """`{name: float}` of what a user's `evaluate` returned, a single number being the "score".

    Raises:
        TypeError: something else than a number, or a dict of name to number. ValueError: an empty dict.

    >>> metrics_of(0.5), metrics_of({"loss": 1})
    ({'score': 0.5}, {'loss': 1.0})
    """
    found = found if isinstance(found, dict) else {"score": found}
    if not found:
        raise ValueError("evaluate must return a number or a dict of name to number: received an empty dict.")
    return {name: _number(name, value) for name, value in found.items()}


def _number(name, value):
    array = np.asarray(value)
    if not isinstance(name, str) or array.ndim or array.dtype.kind not in "iuf":
        raise TypeError(
            f"evaluate must return a number or a dict of name to number: {name!r} is {value!r} of type "
            f"{type(value).__name__}. model.evaluate(..., return_dict=True) gives a dict."
        )
    return float(array)


def check_labels(name, labels, outputs):
    """Raises a ValueError where `accuracy` has no meaning for a model's outputs and these labels."""
    if isinstance(outputs, list):
        raise ValueError(f"'{name}' has {len(outputs)} outputs: give a metric of (y, list of outputs).")
    if outputs.shape[-1] == 1:
        raise ValueError(f"'{name}' has one output a sample, which has no largest: give a metric.")
    if labels.shape not in (outputs.shape, outputs.shape[:-1], (*outputs.shape[:-1], 1)):
        raise ValueError(
            f"Labels of shape {labels.shape} do not fit outputs of shape {outputs.shape} of '{name}': "
            f"give integers or one-hot labels, or a metric."
        )
