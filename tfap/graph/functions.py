"""Functions in a graph, such as `keras.ops.split` or `tf.reshape`: what their arguments do to the channels.

Keras 3 holds some arguments in the operation and others in the call; tf_keras holds all in the call. A tensor
among the arguments is a `calls.Value` here. All axes count from the front, and the batch is on axis 0.
"""

import inspect
import itertools

import numpy as np

from tfap import keras_compat
from tfap.graph.values import Value


def name_of(call):
    """Returns the name of the function of a call: that of a Keras 3 operation, or `relu6` for `tf.nn.relu6`.

    None for a layer.
    """
    return keras_compat.function_name(call.layer)


def arguments(call, given=None):
    """Returns a dict of all arguments of a function by name, those that a Keras 3 operation holds included.

    Args:
        call: A `calls.Call`.
        given: Tuple `(args, kwargs)` in place of those of the call.
    """
    held = {} if keras_compat.is_layer(call.layer) else vars(call.layer)
    return {
        **{name: value for name, value in held.items() if name[0] != "_"},
        **_bound(call, given).arguments,
    }


def _bound(call, given=None):
    args, kwargs = given or call.arguments
    bound = inspect.signature(keras_compat.function_of(call.layer)).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound


def _first(call, *names):
    """Returns the first argument that one of these names has."""
    found = arguments(call)
    return next((found[name] for name in names if name in found), None)


def _axes(axis, ndim):
    axes = axis if isinstance(axis, list | tuple) else [axis]
    return [int(each) % ndim for each in axes]


# -- elementwise functions ---------------------------------------------------------------------------


def operand_shapes(call):
    """Returns the shapes of the constants among the arguments. None if one of them is a variable."""
    shapes = []
    for name, value in arguments(call).items():
        if name in ("name", "dtype") or value is None or _is_value(value) or isinstance(value, str | bool):
            continue
        if any(map(_is_value, keras_compat.tree_of(call.layer).flatten(value))):
            if not isinstance(value, list | tuple) or not all(map(_is_value, value)):
                return None
        elif keras_compat.is_variable(value):
            return None
        else:
            shapes.append(np.shape(value))
    return shapes


def applied(call, arrays):
    """Applies a function to arrays of shape `(1, channels)` in place of its tensors."""
    values = iter(arrays)

    def filled(value):
        if _is_value(value):
            return next(values)
        if not keras_compat.is_array(value):
            return value
        array = keras_compat.to_numpy(value)
        if array.dtype.kind != "f":
            return array.item()
        return keras_compat.float_tensor(call.layer, array.item())  # as a tensor: it may come first

    args, kwargs = keras_compat.tree_of(call.layer).map_structure(filled, call.arguments)
    return keras_compat.function_of(call.layer)(*args, **kwargs)


def _is_value(thing):
    return isinstance(thing, Value)


# -- functions that move channels --------------------------------------------------------------------


def concatenation_axis(call):
    """Returns the axis on which a layer or function concatenates its inputs. None if not all are tensors."""
    ndim = len(call.outputs[0].shape)
    if name_of(call) is None:
        return call.layer.axis % ndim
    parts = _first(call, "xs", "values")
    axis = _first(call, "axis")
    if not isinstance(parts, list | tuple) or not all(map(_is_value, parts)) or not isinstance(axis, int):
        return None
    return axis % ndim


def stacking_axis(call):
    """Returns the new axis on which a function stacks its inputs. None if not all are tensors."""
    parts, axis = _first(call, "x", "values"), _first(call, "axis")
    if not isinstance(parts, list | tuple) or not all(map(_is_value, parts)) or not isinstance(axis, int):
        return None
    return axis % len(call.outputs[0].shape)


def moved_axes(call):
    """Returns the input axis that each output axis was, in a layer or function that only moves axes.

    None stands for a new axis. A reduction drops axes.
    """
    name, ndim = name_of(call), len(call.inputs[0].shape)
    if name is None:
        return [0, *call.layer.dims]
    given = arguments(call)
    if name in _REDUCTIONS:
        axis = given.get("axis")
        reduced = _axes([*range(ndim)] if axis is None else axis, ndim)
        if given.get("initial") is not None:  # a maximum over more values than those of the channel
            return [0]
        if given.get("keepdims"):
            return [None if axis in reduced else axis for axis in range(ndim)]
        return [axis for axis in range(ndim) if axis not in reduced]
    if name in ("Squeeze", "squeeze"):
        axis = given.get("axis")
        ones = [at for at, size in enumerate(call.inputs[0].shape) if size == 1]
        dropped = ones if axis is None or axis == [] else _axes(axis, ndim)
        return [at for at in range(ndim) if at not in dropped]
    shape = tuple(range(2, ndim + 2))  # each axis has another size, which shows where it is afterwards
    moved = _MOVES[name](np.broadcast_to(0, shape), given).shape
    return [None if size == 1 else size - 2 for size in moved]


def _transposed(array, given):
    return np.transpose(array, given.get("axes", given.get("perm")))


_MOVES = {
    "Transpose": _transposed,
    "transpose": _transposed,
    "Swapaxes": lambda array, given: np.swapaxes(array, given["axis1"], given["axis2"]),
    "Moveaxis": lambda array, given: np.moveaxis(array, given["source"], given["destination"]),
    "ExpandDims": lambda array, given: np.expand_dims(array, given["axis"]),
    "expand_dims": lambda array, given: np.expand_dims(array, given["axis"]),
}
_REDUCTIONS = {"Mean", "Max", "Min", "Sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_sum"}


def adds_up(call):
    """Returns whether a function that moves axes also adds up values, so that constants change."""
    return name_of(call) in ("Sum", "reduce_sum")


def axes_of(call):
    """Returns the axes along which a softmax works, a layer or a function."""
    axis = call.layer.axis if name_of(call) is None else _first(call, "axis")
    return _axes(-1 if axis is None else axis, len(call.inputs[0].shape))


def selected(call, axis):
    """Finds which channels each output of a split, unstack, or slice holds.

    Args:
        call: A `calls.Call`.
        axis: Integer. The axis of the channels of its input.

    Returns:
        Tuple of the axis of the channels of the outputs, and a list with one integer array per output: which
        input channels it holds. Or the reason why they are unknown, a string about `it`.
    """
    name, shape = name_of(call), call.inputs[0].shape
    if name in ("GetItem", "getitem"):
        return _sliced(call, axis, shape[axis])
    along = arguments(call)["axis"]
    if not isinstance(along, int):
        return f"'{call.path}' splits it on an axis that tfap does not know"
    along %= len(shape)
    everything = [np.arange(shape[axis])] * len(call.outputs)
    if along == 0:
        return f"'{call.path}' splits it along the batch"
    if name in ("Unstack", "unstack"):
        if along == axis:
            return f"'{call.path}' returns one tensor per channel"
        return axis - (along < axis), everything
    if along != axis:
        return axis, everything
    stops = np.cumsum([0, *(value.shape[axis] for value in call.outputs)])
    return axis, [np.arange(start, stop) for start, stop in itertools.pairwise(stops)]


def _sliced(call, axis, channels):
    produced, kept = None, None
    for at, part, out in _slice_parts(call):
        if at == 0 and not _is_whole(part):
            return f"'{call.path}' slices the batch"
        if not isinstance(part, int | slice):
            return f"'{call.path}' selects it with a tensor"
        if at != axis:
            continue
        if isinstance(part, int):
            return f"'{call.path}' takes one of its channels by number"
        if part.step not in (None, 1):
            return f"'{call.path}' takes its channels in steps of {part.step}"
        if not all(isinstance(bound, int | None) for bound in (part.start, part.stop)):
            return f"'{call.path}' selects it with a tensor"
        produced, kept = out, np.arange(channels)[part]
    return (produced, [kept]) if len(kept) else f"'{call.path}' takes none of its channels"


def _slice_parts(call):
    """Yields `(input axis, int, slice or something else, output axis)` of a slice, for every input axis."""
    key = _key(call)
    wanted = [part for part in key if part is not None and part is not Ellipsis]
    rest = [slice(None)] * (len(call.inputs[0].shape) - len(wanted))
    at = next((at for at, part in enumerate(key) if part is Ellipsis), len(key))
    axis = out = 0
    for part in [*key[:at], *rest, *key[at + 1 :]]:
        if part is not None:
            yield axis, part, out
            axis += 1
        out += part is None or isinstance(part, slice)


def _is_whole(part):
    return isinstance(part, slice) and all(each is None for each in (part.start, part.stop, part.step))


def _key(call):
    key = _first(call, "key", "slice_spec")
    return [_as_slice(part) for part in (key if isinstance(key, list | tuple) else [key])]


def _as_slice(part):
    return slice(part["start"], part["stop"], part["step"]) if isinstance(part, dict) else part


def is_size_of_other_axes(call, axis):
    """Returns whether only sizes of other axes than one are read from the output of a shape function."""
    for consumer, _ in call.outputs[0].consumers:
        if name_of(consumer) != "getitem":
            return False
        key = _key(consumer)
        if len(key) != 1 or not isinstance(key[0], int) or key[0] % len(call.inputs[0].shape) == axis:
            return False
    return True


def has_fixed_shape(call):
    """Returns whether a reshape names the sizes of its output, so that they can be changed."""
    shape = None if name_of(call) is None else _sizes(_first(call, "newshape", "shape"))
    return name_of(call) is None or shape is not None


def _sizes(shape):
    """Returns a shape as a list of integers and of scalar tensors. None if it is one tensor of the graph."""
    if keras_compat.is_array(shape):
        shape = keras_compat.to_numpy(shape).tolist()
    return list(shape) if isinstance(shape, list | tuple) else None


# -- functions with fewer channels -------------------------------------------------------------------


def has_sizes(call):
    """Returns whether arguments of a function may change with the number of channels."""
    return name_of(call) in _RESIZED


def resizer(graph, channel_map, kept):
    """Returns the function `call` for `keras_compat.rebuild`, which fits arguments to the kept channels.

    Args:
        graph: A `calls.Graph`.
        channel_map: The `channels.ChannelMap` of the graph.
        kept: Boolean array, shape `(channel groups,)`.
    """

    def resized(layer, new_layer, args, kwargs):
        calls = graph.calls_of.get(graph.path_of(layer), ())
        changes = _changes(calls[0], (args, kwargs), channel_map, kept) if calls else {}
        if not changes:
            return new_layer(*args, **kwargs)
        bound = _bound(calls[0], (args, kwargs))
        held = {name: value for name, value in changes.items() if name not in bound.arguments}
        bound.arguments.update({name: changes[name] for name in changes.keys() - held.keys()})
        resized_layer = keras_compat.from_config(new_layer, held) if held else new_layer
        return resized_layer(*bound.args, **bound.kwargs)

    return resized


def _changes(call, given, channel_map, kept):
    """Returns which of the arguments given to a function change with the number of channels, by name."""
    name, consumed = name_of(call), channel_map.of(call.inputs[0]) if call.inputs else None
    produced = [channel_map.of(value) for value in call.outputs]
    if name not in _RESIZED or consumed is None or None in produced:
        return {}
    if all(kept[channels.groups].all() for channels in (consumed, *produced)):
        return {}
    return _RESIZED[name](call, arguments(call, given), consumed, produced, kept)


def _resized_split(call, given, consumed, produced, kept):
    if given["axis"] % len(call.inputs[0].shape) != consumed.axis:
        return {}
    sizes = [int(kept[channels.groups].sum()) for channels in produced]
    if "num_or_size_splits" in given:
        return {"num_or_size_splits": sizes}
    return {"indices_or_sections": [int(stop) for stop in np.cumsum(sizes)[:-1]]}


def _resized_slice(call, given, consumed, produced, kept):
    name = "key" if "key" in given else "slice_spec"
    parts = given[name] if isinstance(given[name], list | tuple) else [given[name]]
    (old,) = (part for axis, part, _ in _slice_parts(call) if axis == consumed.axis)
    if _is_whole(old):
        return {}
    start, stop, _ = old.indices(len(consumed.groups))
    start, stop = (int(kept[consumed.groups[:bound]].sum()) for bound in (start, stop))
    new = slice(start, stop)
    if any(isinstance(part, dict) for part in parts):
        new = {"start": start, "stop": stop, "step": None}
    at = _position(call, consumed.axis)
    return {name: (*parts[:at], new, *parts[at + 1 :])}


def _position(call, axis):
    """Returns which part of the key of a slice is about an axis."""
    key, ndim = _key(call), len(call.inputs[0].shape)
    wanted = sum(part is not None and part is not Ellipsis for part in key)
    at = 0
    for position, part in enumerate(key):
        if part is Ellipsis:
            at += ndim - wanted
        elif part is not None:
            if at == axis:
                return position
            at += 1
    return None


def _resized_reshape(call, given, consumed, produced, kept):
    name = "newshape" if "newshape" in given else "shape"
    axis, shape = produced[0].axis, _sizes(given[name])
    if shape[axis] != -1:
        shape[axis] = int(kept[produced[0].groups].sum())
    return {name: tuple(shape)}


_RESIZED = {
    **dict.fromkeys(("Split", "split"), _resized_split),
    **dict.fromkeys(("GetItem", "getitem"), _resized_slice),
    **dict.fromkeys(("Reshape", "reshape"), _resized_reshape),
}
