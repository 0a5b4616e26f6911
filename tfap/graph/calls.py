"""Who feeds whom in a model, where a layer's neurons fire, and which layers make the outputs."""

import collections
import dataclasses

import tensorflow as tf

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.activation import fires
from tfap.graph.layer_types import ChannelRule


class Value:
    """One tensor of the graph: its static shape and the calls that read it."""

    def __init__(self, shape):
        self.shape = tuple(shape)
        self.readers = []  # (Call, position among its inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer; a shared layer has several. `training` is what the model gives it for good."""

    layer: object
    path: str
    inputs: list[Value]
    outputs: list[Value]
    training: bool | None = None


@dataclasses.dataclass(frozen=True)
class FiringSite:
    """Channels `start` to `stop` of the output of the layer at `path`: where neurons fire."""

    path: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Firing:
    """Where a layer's neurons fire: a site for each of its calls, or the reason why there is none."""

    sites: tuple[FiringSite, ...] = ()
    reason: str | None = None


class Graph:
    """The calls of a built Sequential or Functional model, nested models opened, inputs first.

    A layer goes by one path, such as `inner/dense`: the first, where it is shared between nested models.
    Casts between float types are no calls: what they give is the value that they read.

    Args:
        model: the model.
        plain: have the calls name the layers inside tfap's wrappers; their paths are those of the wrappers.

    Attributes:
        calls: every `Call`.
        calls_of: path -> the calls of that layer.
        inputs, outputs: the model's `Value`s.
        entries: `(nested model, the Values that one call of it reads)`.
        models: path -> nested model.
    """

    def __init__(self, model, plain=False):
        self._plain = plain
        self.calls = []
        self.entries = []
        self.models = {}
        self._paths = {}
        self.inputs = [Value(tensor.shape) for tensor in model.inputs]
        self.outputs = self._read(model, "", self.inputs)
        self.calls_of = collections.defaultdict(list)
        for call in self.calls:
            self.calls_of[call.path].append(call)

    def _read(self, model, prefix, inputs, inherited=None):
        values = dict(zip(map(id, model.inputs), inputs))
        for layer, tensors, results, training in keras_compat.calls(model):
            if not tensors or any(id(tensor) not in values for tensor in tensors):
                continue  # an input, or a part of the layer's other life outside this model
            read = [values[id(tensor)] for tensor in tensors]
            if _is_float_cast(layer, tensors, results):
                values[id(results[0])] = read[0]
                continue
            training = inherited if training is None else training
            if keras_compat.is_graph_model(layer):
                self.entries.append((layer, read))
                self.models.setdefault(prefix + layer.name, layer)
                written = self._read(layer, f"{prefix}{layer.name}/", read, training)
            else:
                written = [Value(result.shape) for result in results]
                path = self._name(layer, prefix + layer.name)
                self._add(Call(unwrap(layer) if self._plain else layer, path, read, written, training))
            values.update(zip(map(id, results), written))
        return [values[id(tensor)] for tensor in model.outputs]

    def _name(self, layer, path):
        if id(layer) not in self._paths:
            while path in self._paths.values():  # tf_keras allows "/" in layer names
                path += "'"
            self._paths[id(layer)] = path
        return self._paths[id(layer)]

    def path_of(self, layer):
        """The path of a layer of the model, None for others."""
        return self._paths.get(id(layer))

    def _add(self, call):
        self.calls.append(call)
        for position, value in enumerate(call.inputs):
            value.readers.append((call, position))

    def layers(self):
        """`(path, layer)` of every layer, each once, in graph order."""
        return [(path, calls[0].layer) for path, calls in self.calls_of.items()]

    def never_trains(self, path):
        """True for a layer of tf_keras that its model, or one around it, calls with training=False for good.

        Keras 3 lets the training of the whole model go before.
        """
        calls = self.calls_of[path]
        return not keras_compat.is_keras3(calls[0].layer) and all(call.training is False for call in calls)

    def firing(self, path):
        """Where the neurons of the layer at `path` fire.

        A neuron fires at its true activation: the layer's own, or the nearest one downstream past
        normalisation, merging, dropout and pooling, never at the raw output of a convolution.
        """
        layer = unwrap(self.calls_of[path][0].layer)
        if fires(layer):
            neurons = self.calls_of[path][0].outputs[0].shape[channel_axis(layer)]
            return Firing((FiringSite(path, 0, neurons),))
        walks = [_nearest_activation(call) for call in self.calls_of[path]]
        for walk in walks:
            if isinstance(walk, str):
                return Firing(reason=walk)
        return self._unless_mixed(path, tuple(dict.fromkeys(walks)))

    def _unless_mixed(self, path, sites):
        """An activation layer object used in several places counts them all together."""
        for site in sites:
            if len(self.calls_of[site.path]) > len(self.calls_of[path]):
                return Firing(
                    reason=f"its activation layer '{site.path}' is shared with other places: use one each"
                )
        return Firing(sites)

    def output_paths(self):
        """Paths of the layers whose units are the model's outputs.

        Between such a layer and an output there is no other layer with a kernel and at most one
        activation.
        """
        return {
            path for path, calls in self.calls_of.items() if any(self._reaches_output(call) for call in calls)
        }

    def _reaches_output(self, call):
        pending = [(value, fires(unwrap(call.layer))) for value in call.outputs]
        visited = set()
        while pending:
            value, activated = pending.pop()
            if value in self.outputs:
                return True
            if (value, activated) in visited:
                continue
            visited.add((value, activated))
            for reader, _ in value.readers:
                activates = fires(unwrap(reader.layer))
                if not _has_own_units(reader.layer) and not (activated and activates):
                    pending += [(output, activated or activates) for output in reader.outputs]
        return False


def unwrap(layer):
    """The user's layer inside one of tfap's wrappers, or the layer itself."""
    return layer.layer if keras_compat.is_tfap_wrapper(layer) else layer


def channel_axis(layer):
    """The axis of a layer's output that numbers its neurons."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def _has_own_units(layer):
    """Whether a layer has weights and makes units of its own, not those that it consumes."""
    layer = unwrap(layer)
    return bool(getattr(layer, "weights", None)) and not layer_types.of(layer).keeps_neurons


def _is_float_cast(layer, tensors, results):
    """True for `keras.ops.cast`, which older releases of Keras 3 call by themselves in mixed precision."""
    dtypes = [tf.as_dtype(tensor.dtype) for tensor in (*tensors, *results)]
    return keras_compat.kind_of(layer) == "Cast" and all(dtype.is_floating for dtype in dtypes)


def _nearest_activation(call):
    """Breadth-first walk to the `FiringSite` of one call, or the reason why there is none."""
    axis = channel_axis(unwrap(call.layer))
    neurons = call.outputs[0].shape[axis]
    pending = collections.deque([(call.outputs[0], 0)])
    visited, reason = set(), "no activation follows it"
    while pending:
        value, start = pending.popleft()
        for reader, position in value.readers:
            layer = unwrap(reader.layer)
            if _is_activation(layer):
                return FiringSite(reader.path, start, start + neurons)
            if id(reader) in visited:
                continue
            visited.add(id(reader))
            row = layer_types.of(layer)
            if row.channels is ChannelRule.CONCATENATED:
                pending.append((reader.outputs[0], start + _concatenated_before(reader, position, axis)))
            elif _passes(layer, row) and reader.outputs[0].shape[axis] == value.shape[axis]:
                pending.append((reader.outputs[0], start))
            else:
                reason = _why_stopped(layer, reader.path)
    return reason


def _is_activation(layer):
    """Whether neurons of layers before this one fire in it."""
    known = layer_types.of(layer) is not layer_types.UNKNOWN
    return keras_compat.is_layer(layer) and known and fires(layer) and not _has_own_units(layer)


def _passes(layer, row):
    return row.keeps_neurons and (not fires(layer) or not keras_compat.is_layer(layer))


def _why_stopped(layer, path):
    if not keras_compat.is_layer(layer) or keras_compat.kind_of(layer) == "TFOpLambda":
        return f"the function '{path}' follows it, and only layers can count: use a ReLU layer there"
    custom = "" if keras_compat.kind_of(layer) else "custom layer "
    return f"no activation follows it before the {custom}{type(layer).__name__} '{path}'"


def _concatenated_before(reader, position, axis):
    """Channels that a Concatenate puts before those of its input number `position`."""
    ndim = len(reader.outputs[0].shape)
    if unwrap(reader.layer).axis % ndim != axis % ndim:
        return 0
    return sum(value.shape[axis] for value in reader.inputs[:position])
