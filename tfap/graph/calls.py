"""The graph of a model: which layers consume which values, and where neurons fire."""

import collections
import dataclasses

from tfap import keras_compat
from tfap.graph import functions, layer_types
from tfap.graph.activation import fires
from tfap.graph.layer_types import ChannelRule
from tfap.graph.values import Value


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer. A shared layer has several.

    Attributes:
        layer: The layer, or a function such as `keras.ops.add`.
        path: Path of the layer, such as `inner/dense`.
        inputs: List of the `Value`s that the call consumes.
        outputs: List of the `Value`s that it produces.
        arguments: Tuple `(args, kwargs)` of the call, with its constants, and a `Value` for each tensor.
        training: The `training` argument that the graph fixes for this call. None if it does not.
    """

    layer: object
    path: str
    inputs: list[Value]
    outputs: list[Value]
    arguments: tuple
    training: bool | None = None


@dataclasses.dataclass(frozen=True)
class FiringSite:
    """A place where neurons fire: channels `start` to `stop` of the output of the layer at `path`."""

    path: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Firing:
    """The sites where the neurons of a layer fire, one per call, or the reason why there are none."""

    sites: tuple[FiringSite, ...] = ()
    reason: str | None = None


class Graph:
    """The layer calls of a built Sequential or Functional model, including those in nested models.

    Each layer has one path, such as `inner/dense`. A layer that several nested models share has the path of
    its first call. Casts between float types are left out: input and output of a cast are the same `Value`.

    Args:
        model: A built Sequential or Functional model, with or without tfap's wrappers.
        plain: Whether the calls hold the layers inside tfap's wrappers. Paths are those of the wrappers.

    Attributes:
        calls: List of every `Call`, inputs first.
        calls_of: Dict of path to the calls of that layer.
        inputs: List of the model's input `Value`s.
        outputs: List of the model's output `Value`s.
        entries: List of `(nested model, input Values)`, one per call of a nested model.
        models: Dict of path to nested model.
        exits: Dict of path of a nested model to lists of output `Value`s, one per call.
    """

    def __init__(self, model, plain=False):
        self._plain = plain
        self.calls = []
        self.entries = []
        self.models = {}
        self.exits = collections.defaultdict(list)
        self._paths = {}
        self.inputs = [Value(tensor.shape) for tensor in model.inputs]
        self.outputs = self._trace(model, "", self.inputs)
        self.calls_of = collections.defaultdict(list)
        for call in self.calls:
            self.calls_of[call.path].append(call)

    def _trace(self, model, prefix, inputs, inherited=None):
        """Adds the calls of a model and of the models nested in it. Returns its output `Value`s."""
        values, tree = dict(zip(map(id, model.inputs), inputs)), keras_compat.tree_of(model)
        for layer, tensors, results, training, arguments in keras_compat.calls(model):
            if not tensors or any(id(tensor) not in values for tensor in tensors):
                continue  # an input, or a call of a shared layer outside this model
            consumed = [values[id(tensor)] for tensor in tensors]
            if _is_float_cast(layer, tensors, results):
                values[id(results[0])] = consumed[0]
                continue
            training = inherited if training is None else training
            if keras_compat.is_graph_model(layer):
                self.entries.append((layer, consumed))
                self.models.setdefault(prefix + layer.name, layer)
                produced = self._trace(layer, f"{prefix}{layer.name}/", consumed, training)
                self.exits[prefix + layer.name].append(produced)
            else:
                produced = [Value(result.shape) for result in results]
                path = self._unique_path(layer, prefix + layer.name)
                named = unwrap(layer) if self._plain else layer
                given = tree.map_structure(lambda thing: values.get(id(thing), thing), arguments)
                self._add(Call(named, path, consumed, produced, given, training))
            values.update(zip(map(id, results), produced))
        return [values[id(tensor)] for tensor in model.outputs]

    def _unique_path(self, layer, path):
        if id(layer) not in self._paths:
            while path in self._paths.values():  # tf_keras allows "/" in layer names
                path += "'"
            self._paths[id(layer)] = path
        return self._paths[id(layer)]

    def path_of(self, layer):
        """Returns the path of a layer. None if the layer is not in the model."""
        return self._paths.get(id(layer))

    def _add(self, call):
        self.calls.append(call)
        for index, value in enumerate(call.inputs):
            value.consumers.append((call, index))

    def layers(self):
        """Returns a list of `(path, layer)`, each layer once, in graph order."""
        return [(path, calls[0].layer) for path, calls in self.calls_of.items()]

    def never_trains(self, path):
        """Returns whether the graph fixes `training=False` for every call of a tf_keras layer.

        In Keras 3, the `training` argument of the whole model takes precedence.
        """
        calls = self.calls_of[path]
        return not keras_compat.is_keras3(calls[0].layer) and all(call.training is False for call in calls)

    def firing(self, path, heads=0):
        """Finds where the neurons of a layer fire. Heads of an attention layer fire in it.

        A neuron fires at its activation: that of the layer itself, or the nearest one after normalization,
        merging, dropout, and pooling. The output of a layer without an activation does not count.

        Args:
            path: Path of the layer.
            heads: Integer. The number of heads, if they are its neurons.

        Returns:
            A `Firing`.
        """
        if heads:
            return Firing((FiringSite(path, 0, heads),))
        layer = unwrap(self.calls_of[path][0].layer)
        if fires(layer):
            neurons = self.calls_of[path][0].outputs[0].shape[channel_axis(layer)]
            return Firing((FiringSite(path, 0, neurons),))
        walks = [_nearest_activation(call) for call in self.calls_of[path]]
        for walk in walks:
            if isinstance(walk, str):
                return Firing(reason=walk)
        return self._unless_shared(path, tuple(dict.fromkeys(walks)))

    def _unless_shared(self, path, sites):
        """Returns the `Firing` at some sites. A shared activation layer counts all its calls together."""
        for site in sites:
            if len(self.calls_of[site.path]) > len(self.calls_of[path]):
                return Firing(
                    reason=f"its activation layer '{site.path}' is also called elsewhere: use a separate "
                    "activation layer for each call"
                )
        return Firing(sites)

    def output_paths(self):
        """Returns the set of paths of output layers: layers whose units are outputs of the model.

        Between an output layer and the output there are no other layers with kernels, and at most one
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
            for consumer, _ in value.consumers:
                activates = fires(unwrap(consumer.layer))
                if not _makes_units(consumer.layer) and not (activated and activates):
                    pending += [(output, activated or activates) for output in consumer.outputs]
        return False


def unwrap(layer):
    """Returns the layer inside one of tfap's wrappers, or the layer itself if it is not wrapped."""
    return layer.layer if keras_compat.is_tfap_wrapper(layer) else layer


def channel_axis(layer):
    """Returns the axis of a layer's output that indexes its neurons: 1 for channels_first, or else -1."""
    inner = layer_types.inner(layer)
    if getattr(inner, "data_format", None) != "channels_first":
        return -1
    return 1 if inner is layer else 2


def _makes_units(layer):
    """Returns whether a layer has weights and its output units are not those of its input."""
    layer = unwrap(layer)
    return bool(getattr(layer, "weights", None)) and not layer_types.of(layer).keeps_neurons


def _is_float_cast(layer, tensors, results):
    """Returns whether a call casts between float types, as older Keras 3 does in mixed precision."""
    dtypes = [getattr(tensor.dtype, "name", tensor.dtype) for tensor in (*tensors, *results)]
    return keras_compat.function_name(layer) in ("Cast", "cast") and all("float" in dtype for dtype in dtypes)


def _nearest_activation(call):
    """Returns the `FiringSite` nearest to a call, by breadth-first search, or why there is none."""
    axis = channel_axis(unwrap(call.layer))
    neurons = call.outputs[0].shape[axis]
    pending = collections.deque([(call.outputs[0], 0)])
    visited, reason = set(), "no activation follows it"
    while pending:
        value, start = pending.popleft()
        for consumer, index in value.consumers:
            layer = unwrap(consumer.layer)
            if _is_activation(layer):
                return FiringSite(consumer.path, start, start + neurons)
            if id(consumer) in visited:
                continue
            visited.add(id(consumer))
            row = layer_types.of(layer)
            if (
                row.channels is ChannelRule.CONCATENATED
                and functions.concatenation_axis(consumer) is not None
            ):
                pending.append((consumer.outputs[0], start + _concatenated_before(consumer, index, axis)))
            elif _passes(layer, row) and consumer.outputs[0].shape[axis] == value.shape[axis]:
                pending.append((consumer.outputs[0], start))
            else:
                reason = _why_stopped(layer, consumer.path)
    return reason


def _is_activation(layer):
    """Returns whether the neurons of layers before this one fire in it."""
    known = layer_types.of(layer) is not layer_types.UNKNOWN
    return keras_compat.is_layer(layer) and known and fires(layer) and not _makes_units(layer)


def _passes(layer, row):
    """Returns whether the search continues after a layer."""
    return row.keeps_neurons and (not fires(layer) or not keras_compat.is_layer(layer))


def _why_stopped(layer, path):
    if keras_compat.function_name(layer) is not None:
        return f"the function '{path}' follows it, but tfap counts only at layers: use an activation layer"
    custom = "" if keras_compat.kind_of(layer) else "custom layer "
    return f"no activation follows it before the {custom}{type(layer).__name__} '{path}'"


def _concatenated_before(call, index, axis):
    """Returns how many channels a Concatenate puts before those of its input number `index`."""
    if functions.concatenation_axis(call) != axis % len(call.outputs[0].shape):
        return 0
    return sum(value.shape[axis] for value in call.inputs[:index])
