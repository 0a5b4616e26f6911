"""How often a model is right."""

import numpy as np


def accuracy(labels, outputs):
    """The share of outputs whose largest entry is that of the label, an integer or one-hot."""
    chosen = outputs.argmax(axis=-1)
    expected = labels.argmax(axis=-1) if labels.shape == outputs.shape else labels.reshape(chosen.shape)
    return np.mean(chosen == expected)


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
