"""Policies: which layers of a model `tfap.prune_low_magnitude` prunes, and which models it accepts."""

import abc
import dataclasses
from typing import Any

from tfap import keras_compat
from tfap.graph.calls import Call, Graph
from tfap.keras_compat.types import Layer, Model


class PruningPolicy(abc.ABC):
    """Chooses the layers that `tfap.prune_low_magnitude` prunes.

    Custom policies subclass it. Objects of tfmot's class of this name are accepted too.

    Example:

    >>> import keras, tfap
    >>> class OnlyWide(PruningPolicy):
    ...     def allow_pruning(self, layer):
    ...         return getattr(layer, "units", 0) >= 8
    ...     def ensure_model_supports_pruning(self, model):
    ...         pass
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> len(tfap.prunable_layers(tfap.prune_low_magnitude(model, pruning_policy=OnlyWide())))
    1
    """

    @abc.abstractmethod
    def allow_pruning(self, layer: Layer) -> bool:
        """Returns whether to prune a layer of the model."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: Model) -> None:
        """Raises ValueError if the model does not suit the policy."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes the 1x1 convolutions that the sparse inference of XNNPACK speeds up, as tfmot's policy does.

    XNNPACK runs a part of a model sparsely. The part begins with a `Conv2D(filters, 3, strides=2,
    padding="valid")` on 3 channels after a `ZeroPadding2D(1)`, and ends with `GlobalAveragePooling2D`. Every
    layer in between must be one that the sparse inference supports. The error names all layers that stand in
    the way, and what to change.

    Example:

    >>> import keras, tfap
    >>> layers = [keras.layers.ZeroPadding2D(1), keras.layers.Conv2D(8, 3, 2), keras.layers.Conv2D(16, 1)]
    >>> end = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    >>> model = keras.Sequential([keras.Input((32, 32, 3)), *layers, *end])
    >>> pruned = tfap.prune_low_magnitude(model, pruning_policy=tfap.PruneForLatencyOnXNNPack())
    >>> [wrapper.layer.kernel_size for wrapper in tfap.prunable_layers(pruned)]
    [(1, 1)]

    References:
        - [Elsen et al., *Fast Sparse ConvNets*, 2019](https://arxiv.org/abs/1911.09723)
    """

    def allow_pruning(self, layer: Layer) -> bool:
        """Returns whether the layer is a 1x1 convolution."""
        return _is_conv2d(layer) and tuple(layer.kernel_size) == (1, 1)

    def ensure_model_supports_pruning(self, model: Model) -> None:
        """Checks the layers of a model.

        Args:
            model: A built Sequential or Functional model of either Keras.

        Raises:
            TypeError: If it is not a Keras model.
            ValueError: If it is subclassed or not built, or has layers that stand in the way.
        """
        keras_compat.check_readable(model, type(self).__name__)
        problems = _Walk(model).problems()
        if problems:
            raise ValueError(
                f"The model '{model.name}' does not suit {type(self).__name__}:\n" + "\n".join(problems)
            )


_START = (
    "begin the model with keras.layers.ZeroPadding2D(1) and Conv2D(filters, 3, strides=2, padding='valid') "
    "on an input of 3 channels"
)
_END = "end it with keras.layers.GlobalAveragePooling2D before the classifier"


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What the sparse inference supports of a layer type.

    Attributes:
        supports: Function of a `_Step` that returns whether it is supported.
        change: What to change if it is not.
    """

    supports: Any
    change: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """A call in the graph, with the calls whose outputs it consumes."""

    call: Call
    producers: list[Call]

    @property
    def layer(self):
        return _unwrapped(self.call.layer)

    def padded_by(self, size):
        """Whether the call consumes the output of a `ZeroPadding2D(size)` and nothing else."""
        layers = [_unwrapped(call.layer) for call in self.producers]
        expected = ((size, size), (size, size))
        return (
            len(layers) == 1 and _is_a(layers[0], "ZeroPadding2D") and _pairs(layers[0].padding) == expected
        )


class _Walk:
    """The way of the values through a model, from its inputs to its outputs."""

    def __init__(self, model):
        self._graph = Graph(model)
        self._producer = {id(value): call for call in self._graph.calls for value in call.outputs}

    def problems(self):
        """Lists what stands in the way, one text per line. Empty if nothing does."""
        starts, lost = self._search(self._graph.inputs, self._consumers, _is_start)
        found = (
            [f"- no sparse inference begins on the way {_of(lost)}: {_START}."] if lost is not None else []
        )
        ends, lost = self._search(self._graph.outputs, self._produced_by, _is_end)
        found += [f"- no sparse inference ends on the way {_of(lost)}: {_END}."] if lost is not None else []
        if found:
            return found
        return [self._problem(step) for step in self._between(starts, {id(step.call) for step in ends})]

    def _problem(self, step):
        rule = _RULES.get(_kind(step.layer))
        change = rule.change if rule else "replace it, or move it out of the part between both"
        return f"- '{step.call.path}' ({type(step.layer).__name__}) is not supported: {change}."

    def _search(self, values, following, stops):
        """Follows values until calls that stop the search: returns these, and the end of a way without."""
        pending, visited, found = [(value, None) for value in values], set(), []
        while pending:
            value, last = pending.pop(0)
            calls = following(value)
            if not calls:
                return found, (last or "")
            for call in calls:
                if id(call) in visited:
                    continue
                visited.add(id(call))
                step = self._step(call)
                if stops(step):
                    found.append(step)
                else:
                    onward = call.outputs if following == self._consumers else call.inputs
                    pending += [(value, step) for value in onward]
        return found, None

    def _between(self, starts, ends):
        """Lists the calls after the starts and before the ends that are not supported."""
        pending, visited, found = [value for step in starts for value in step.call.outputs], set(), []
        while pending:
            for call in self._consumers(pending.pop(0)):
                if id(call) in visited or id(call) in ends:
                    continue
                visited.add(id(call))
                if not _supports(self._step(call)):
                    found.append(self._step(call))
                pending += call.outputs
        return found

    def _step(self, call):
        producers = [self._producer[id(value)] for value in call.inputs if id(value) in self._producer]
        return _Step(call, producers)

    @staticmethod
    def _consumers(value):
        return [call for call, _ in value.consumers]

    def _produced_by(self, value):
        call = self._producer.get(id(value))
        return [call] if call else []


def _of(step):
    return f"that reaches '{step.call.path}'" if step else "from the input"


def _unwrapped(layer):
    return layer.layer if keras_compat.is_any_wrapper(layer) else layer


def _is_a(layer, name):
    """Whether a layer is one of Keras of this name, or a subclass of it."""
    return any(base.__name__ == name and keras_compat.is_keras_class(base) for base in type(layer).__mro__)


def _is_conv2d(layer):
    return _is_a(layer, "Conv2D") and not _is_a(layer, "Conv2DTranspose")


def _kind(layer):
    """The name of the rule for a layer or function."""
    if keras_compat.function_name(layer) is not None:
        return "function"
    if _is_conv2d(layer):
        return "Conv2D"
    return next((name for name in _RULES if name != "Conv2D" and _is_a(layer, name)), None)


def _pairs(padding):
    return tuple(tuple(pair) for pair in padding)


def _is_start(step):
    layer = step.layer
    return (
        _is_conv2d(layer)
        and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
        and tuple(layer.strides) == (2, 2)
        and layer.padding.lower() == "valid"
        and step.padded_by(1)
    )


def _is_end(step):
    return _is_a(step.layer, "GlobalAveragePooling2D")


def _supports(step):
    rule = _RULES.get(_kind(step.layer))
    return rule is not None and bool(rule.supports(step))


def _supports_depthwise(step):
    layer, padding = step.layer, step.layer.padding.lower()
    size, strides = tuple(layer.kernel_size), tuple(layer.strides)
    if layer.depth_multiplier != 1 or tuple(layer.dilation_rate) != (1, 1) or size not in ((3, 3), (5, 5)):
        return False
    if padding == "same":
        return strides == (1, 1)
    return strides in ((1, 1), (2, 2)) and step.padded_by(size[0] // 2)


def _supports_conv2d(step):
    layer = step.layer
    sizes = [tuple(getattr(layer, name)) for name in ("kernel_size", "strides", "dilation_rate")]
    return sizes == [(1, 1)] * 3 and layer.groups == 1


def _is_on_last_axis(step):
    axis = step.layer.axis
    return (axis[0] if isinstance(axis, list | tuple) else axis) in (3, -1)


_ALWAYS = _Rule(lambda step: True, "")
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
_FUNCTIONS = ("Add", "Subtract", "Multiply", "identity", "add", "subtract", "multiply")
_RULES = {
    **dict.fromkeys(("Add", "Multiply", "ZeroPadding2D", "ReLU", "LeakyReLU", "ELU", "Dropout"), _ALWAYS),
    "DepthwiseConv2D": _Rule(
        _supports_depthwise,
        "use depth_multiplier=1, no dilation, and a 3x3 or 5x5 kernel, with stride 1 and padding='same', or "
        "with stride 1 or 2 and padding='valid' after ZeroPadding2D(1) for 3x3, ZeroPadding2D(2) for 5x5",
    ),
    "Conv2D": _Rule(_supports_conv2d, "use a 1x1 kernel with stride 1, without dilation and groups"),
    "GlobalAveragePooling2D": _Rule(lambda step: step.layer.keepdims, "use keepdims=True"),
    "BatchNormalization": _Rule(_is_on_last_axis, "normalize the last axis, that of the channels"),
    "UpSampling2D": _Rule(
        lambda step: step.layer.interpolation == "bilinear", "use interpolation='bilinear'"
    ),
    "Activation": _Rule(
        lambda step: getattr(step.layer.activation, "__name__", "") in _ACTIVATIONS,
        f"use one of the activations {', '.join(_ACTIVATIONS)}",
    ),
    "function": _Rule(
        lambda step: keras_compat.function_name(step.layer) in _FUNCTIONS,
        "use additions, subtractions and multiplications only",
    ),
}
