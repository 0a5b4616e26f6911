"""Branches of sums: takes whole ones out of a model, such as those of residual blocks."""

from collections.abc import Sequence
from typing import Any

from tfap import keras_compat
from tfap.graph import functions, layer_types
from tfap.graph.calls import Call, Graph
from tfap.graph.layer_types import ChannelRule
from tfap.graph.values import Value
from tfap.keras_compat import Replacement
from tfap.keras_compat.types import Model

_SUMS = ("Add", "add", "add_n")


def without_branches(model: Model, paths: Sequence[str]) -> Model:
    """Takes branches out of the sums that they end in. What only they need is not in the new model.

    A sum of two becomes its other input. Layers before the sum that act on each channel for itself, such as
    BatchNormalization, go too.

    Args:
        model: A model of either Keras without wrappers. Unchanged.
        paths: Paths of the last layers, or nested models, of the branches.

    Returns:
        A new model, compiled alike.

    Raises:
        ValueError: If a path does not end in a sum with values of the same shape, or all inputs of a sum
            would be removed.
    """
    graph = Graph(model)
    removed: dict[int, set[int]] = {}  # id of the call of a sum -> positions of its inputs
    sums: dict[int, Call] = {}
    for path in paths:
        for value in _results(graph, path):
            call, position = _sum_after(graph, path, value)
            sums[id(call)] = call
            removed.setdefault(id(call), set()).add(position)
    for key, call in sums.items():
        _check_rest(call, removed[key])
    tied = keras_compat.tied_layers(layer for _, layer in graph.layers())
    shorter = _Shorter(graph, {key: (call, removed[key]) for key, call in sums.items()})
    return keras_compat.rebuild(
        model,
        lambda layer: Replacement(layer) if id(layer) in tied else keras_compat.copied(layer),
        call=shorter.call,
    )


def _results(graph: Graph, path: str) -> list[Value]:
    """The outputs of all calls of a layer or nested model."""
    if path in graph.exits:
        return [value for values in graph.exits[path] for value in values]
    return [value for call in graph.calls_of[path] for value in call.outputs]


def _sum_after(graph: Graph, path: str, value: Value) -> tuple[Call, int]:
    """The call of the sum in which a branch ends, and the position of the branch among its inputs."""
    while True:
        if value in graph.outputs:
            raise ValueError(f"{_cannot(path)}: its output is an output of the model.")
        if len(value.consumers) != 1:
            names = ", ".join(f"'{call.path}'" for call, _ in value.consumers) or "no layer"
            raise ValueError(f"{_cannot(path)}: its output is consumed by {names}, expected one sum.")
        ((call, position),) = value.consumers
        if _kind(call) in _SUMS and len(call.inputs) > 1:
            return call, position
        rule = layer_types.of(call.layer).channels
        if rule not in (ChannelRule.SAME, ChannelRule.ALONG_AXIS) or len(call.inputs) > 1:
            raise ValueError(f"{_cannot(path)}: '{call.path}' consumes its output before a sum.")
        value = call.outputs[0]


def _kind(call: Call) -> str | None:
    return functions.name_of(call) or keras_compat.kind_of(call.layer)


def _cannot(path: str) -> str:
    return f"\"all\" cannot remove the layer '{path}', because its output is not only added to others"


def _check_rest(call: Call, positions: set[int]) -> None:
    """A sum keeps an input of the shape of its output."""
    rest = [value for at, value in enumerate(call.inputs) if at not in positions]
    if not rest:
        raise ValueError(f"All inputs of the sum '{call.path}' would be removed: leave one of them.")
    shape = call.outputs[0].shape
    if not any(value.shape[1:] == shape[1:] for value in rest):
        shapes = ", ".join(str(value.shape) for value in rest)
        raise ValueError(
            f"The sum '{call.path}' has the shape {shape}, but what would be left of its inputs {shapes}: "
            "remove only branches that are added to a value of the same shape."
        )
    if len(rest) > 1 and functions.name_of(call) is not None:
        raise ValueError(f"tfap cannot take one of several inputs out of the function '{call.path}'.")


class _Shorter:
    """Makes the calls of sums without some of their inputs, for `keras_compat.rebuild`."""

    def __init__(self, graph: Graph, removed: dict[int, tuple[Call, set[int]]]) -> None:
        self._graph, self._removed = graph, removed
        self._made: dict[str, int] = {}  # path of a layer -> how many of its calls have been made

    def call(self, layer: Any, new_layer: Any, args: tuple, kwargs: dict) -> Any:
        path = self._graph.path_of(layer)
        calls = self._graph.calls_of.get(path, []) if path is not None else []
        if not any(id(call) in self._removed for call in calls):
            return new_layer(*args, **kwargs)
        call = calls[self._made.get(path, 0) % len(calls)]
        self._made[path] = self._made.get(path, 0) + 1
        if id(call) not in self._removed:
            return new_layer(*args, **kwargs)
        tree, positions = keras_compat.tree_of(layer), self._removed[id(call)][1]
        values = tree.flatten(call.arguments)
        tensors = tree.flatten((args, kwargs))
        given = [tensor for value, tensor in zip(values, tensors) if isinstance(value, Value)]
        rest = [tensor for at, tensor in enumerate(given) if at not in positions]
        return rest[0] if len(rest) == 1 else new_layer(rest)
