"""Products of tensors that sum over axes: Dot, matmul and einsum, by the labels of their axes.

The axes of `matmul(a, b)` with shapes `(batch, n, k)` and `(batch, k, m)` have the labels `[0, n, k]` and
`[0, k, m]`, and those of the result `[0, n, m]`. Channels on a label of the result pass through. Channels on
a label that is summed over can go if they are zero in one of the tensors.
"""

import numpy as np

from tfap.graph import functions
from tfap.graph.values import Value

_BATCH = "batch"


def operands(call):
    """Finds the labels of the axes of a call.

    Args:
        call: A `calls.Call` of a layer or function of `ChannelRule.CONTRACTED`.

    Returns:
        Tuple of a list of `(Value, labels)`, and the labels of the result. Or the reason why they are
        unknown, a string about `it`.
    """
    name = functions.name_of(call)
    found = {None: _dot, "Einsum": _einsum, "einsum": _einsum}.get(name, _matmul)(call)
    if found is None:
        return f"'{call.path}' multiplies it with constants, or in a way that tfap does not analyze"
    values, result = found
    if any(labels[:1] != result[:1] or labels.count(labels[0]) > 1 for _, labels in values):
        return f"'{call.path}' moves the batch axis or combines samples"
    return found


def _dot(call):
    layer, shapes = call.layer, [value.shape for value in call.inputs]
    if layer.normalize or len(shapes) != 2:
        return None
    axes = [layer.axes] * 2 if isinstance(layer.axes, int) else list(layer.axes)
    labels = [[_BATCH, *((side, axis) for axis in range(1, len(shape)))] for side, shape in enumerate(shapes)]
    for its, axis in zip(labels, axes):
        its[axis % len(its)] = "sum"
    rest = [label for its in labels for label in its[1:] if label != "sum"]
    return list(zip(call.inputs, labels)), [_BATCH, *(rest or ["one"])]


def _matmul(call):
    given = functions.arguments(call)
    pair = [given.get(name, given.get(other)) for name, other in (("x1", "a"), ("x2", "b"))]
    other = ("adjoint", "a_is", "b_is", "output", "grad")
    flags = [name for name, value in given.items() if name.startswith(other) and value]
    if not all(isinstance(value, Value) for value in pair) or flags:
        return None
    ranks = {len(value.shape) for value in pair}
    if len(ranks) > 1 or min(ranks) < 3 or pair[0].shape[1:-2] != pair[1].shape[1:-2]:
        return None
    common = [_BATCH, *(("common", axis) for axis in range(1, min(ranks) - 2))]
    labels = [[*common, "row", "sum"], [*common, "sum", "column"]]
    for its, name in zip(labels, ("transpose_a", "transpose_b")):
        if given.get(name):
            its[-2:] = its[:-3:-1]
    return list(zip(pair, labels)), [*common, "row", "column"]


def _einsum(call):
    held = functions.arguments(call)
    subscripts = held.get("subscripts", held.get("equation"))
    if not isinstance(subscripts, str) or "->" not in subscripts or "." in subscripts:
        return None
    consumed, result = subscripts.replace(" ", "").split("->")
    labels = [list(each) for each in consumed.split(",")]
    if len(labels) != len(call.inputs) or not result:
        return None
    return list(zip(call.inputs, labels)), list(result)


def zeros(call, axis, channels_of, constants_of):
    """Returns which channels of the result are always zero: boolean array.

    Args:
        call: As in `operands`.
        axis: Integer. The axis of the channels of the result.
        channels_of: Function `(Value)` that returns its `coupled_channels.Channels`, or None.
        constants_of: Function `(Value)` that returns its `constants.Constants`, or None.
    """
    values, result = operands(call)
    return _zero_in_any(values, result[axis], channels_of, constants_of)


def summed_zeros(call, channels_of, constants_of):
    """Yields the groups of the channels that a call sums over, and which of them are zero in a tensor."""
    found = operands(call)
    if isinstance(found, str):
        return
    values, result = found
    for value, labels in values:
        channels = channels_of(value)
        if channels is not None and labels[channels.axis] not in result:
            yield channels.groups, _zero_in_any(values, labels[channels.axis], channels_of, constants_of)


def _zero_in_any(values, label, channels_of, constants_of):
    zero = []
    for value, labels in values:
        channels = channels_of(value)
        if channels is not None and labels[channels.axis] == label:
            zero.append(constants_of(value).zero)
    return np.logical_or.reduce(zero)
