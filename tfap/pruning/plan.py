"""Decides for each layer whether `tfap.prune` prunes it, and why not."""

import collections
import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import TypeAlias

from tfap import keras_compat
from tfap.graph import attention, layer_types, recurrent
from tfap.graph.calls import Firing, Graph, unwrap
from tfap.graph.channels import ChannelMap
from tfap.graph.units import InnerKernel
from tfap.keras_compat.types import Layer, Model
from tfap.layers.settings import PruningSettings
from tfap.utils import tables

_Selector: TypeAlias = str | Layer | Callable[[Layer], bool]
# What `include` and `skip` take.
LayerSelection: TypeAlias = _Selector | Iterable[_Selector]


# Reasons that are the choice of the caller, or the default.
NAMED_IN_SKIP = "it is named in skip"
IS_OUTPUT = "it is an output layer: name it in include to prune it"


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """The decision on one prunable weight, or on a layer without prunable weights.

    Attributes:
        path: String. Path of the layer, such as `"inner/dense"`.
        weight: String. Name of the weight, or None if the layer has no prunable weight.
        shape: Tuple of integers. Shape of the weight, or None if the layer has no prunable weight.
        firing: Where tfap counts the activations of the layer, or None if the criterion does not count them.
        pruned: Boolean. Whether `tfap.prune` prunes the weight.
        reason: String. Why the weight is not pruned, or why its neurons are not removable. Empty if there is
            nothing to say.
        trainable: Boolean. Whether the weight trains. For a layer without prunable weights, whether any of
            its weights does.
        has_kernel: Boolean. False for a layer that has only elementwise weights, such as BatchNormalization.
    """

    path: str
    weight: str | None
    shape: tuple[int, ...] | None
    firing: Firing | None
    pruned: bool
    reason: str = ""
    trainable: bool = True
    has_kernel: bool = True

    @property
    def fires_at(self) -> str:
        """Paths of the layers at which tfap counts the activations, separated by commas."""
        return ", ".join(site.path for site in self.firing.sites) if self.firing else ""


class PruningPlan(collections.abc.Sequence):
    """A sequence of `LayerPlan` rows in graph order. Prints as a table.

    The table leaves out layers without a kernel, such as BatchNormalization.

    Args:
        rows: Iterable of `LayerPlan`.
    """

    def __init__(self, rows: Iterable[LayerPlan]) -> None:
        self._rows = tuple(rows)

    def __getitem__(self, index):
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def pruned(self) -> list[LayerPlan]:
        """The rows of the weights that `tfap.prune` prunes."""
        return [row for row in self._rows if row.pruned]

    def __str__(self) -> str:
        columns = ("layer", "weight", "shape", "fires at", "trainable", "decision", "reason")
        table = tables.table_of(columns)
        for row in self._rows:
            if not row.has_kernel:
                continue
            shape = "x".join(map(str, row.shape)) if row.shape else ""
            decision = "prune" if row.pruned else "skip"
            trainable = "yes" if row.trainable else "no"
            table.add_row(row.path, row.weight or "", shape, row.fires_at, trainable, decision, row.reason)
        return tables.as_text(table)

    __repr__ = __str__


def make_plan(
    model: Model, settings: PruningSettings, include: LayerSelection = (), skip: LayerSelection = ()
) -> PruningPlan:
    """Makes the `PruningPlan` of a built Sequential or Functional model. See `tfap.plan`."""
    graph = Graph(model)
    included = _SelectedLayers("include", include, graph, model)
    skipped = _SelectedLayers("skip", skip, graph, model)
    output_paths = graph.output_paths()
    channel_map = ChannelMap(graph) if settings.pattern.couples_neurons else None
    weight_tying = keras_compat.tied_layers(layer for _, layer in graph.layers())
    trained = {id(weight) for weight in model.trainable_weights}
    rows: list[LayerPlan] = []
    heads: set[str] = set()  # paths of the layers of which heads are pruned, and no channels
    for path, layer in graph.layers():
        if keras_compat.is_layer(layer) and layer.weights:
            has_heads = bool(layer_types.head_specs(layer))
            by_heads = has_heads and any(spec.heads for spec in settings.pattern.kernel_specs(layer))
            heads |= {path} if by_heads else set()
            is_output = path in output_paths and layer not in included and not by_heads
            why_shared = weight_tying.get(id(layer)) or keras_compat.why_shared(layer)
            rows += [
                _with_details(row, layer, trained, channel_map, graph.calls_of[path][0], by_heads)
                for row in _layer_rows(graph, path, settings, is_output, layer in skipped, why_shared)
            ]
    return PruningPlan(rows if channel_map is None else _with_coupling(rows, graph, channel_map, heads))


def _with_coupling(rows, graph, channel_map, heads):
    """The rows, with a reason for those whose channels are coupled with channels that nothing prunes."""

    def groups_of(row):
        call = graph.calls_of[row.path][0]
        produced = channel_map.of(call.outputs[0])
        is_linear = layer_types.of(unwrap(call.layer)).channels is layer_types.ChannelRule.LINEAR
        return [] if produced is None or not is_linear else produced.groups.tolist()

    kept = [row for row in rows if row.weight and (not row.pruned or row.path in heads)]
    unpruned = {group: row.path for row in kept for group in groups_of(row)}

    def with_reason(row):
        coupled = [unpruned.get(group) for group in groups_of(row)] if row.pruned and not row.reason else []
        if not coupled or None in coupled or row.path in heads:
            return row
        why = f"they are coupled with those of '{coupled[0]}', which is not pruned"
        return dataclasses.replace(row, reason=f"its channels are not removable: {why}")

    return [with_reason(row) for row in rows]


def _with_details(row, layer, trained, channel_map, call, by_heads):
    """A row with what it says beside the decision: trainable, has_kernel, why neurons are not removable."""
    weights = layer.weights if row.weight is None else [_found(layer, row.weight)]
    reason = row.reason
    if channel_map is not None and row.pruned and not _is_inside(layer, row):
        reason = _why_not_removable(call, channel_map, row.weight, by_heads) or reason
    return dataclasses.replace(
        row,
        reason=reason,
        trainable=any(id(weight) in trained for weight in weights),
        has_kernel=_has_kernel(layer, row),
    )


def _is_inside(layer, row):
    """Whether a row is about the units inside a composite layer."""
    specs = layer_types.kernel_specs(layer)
    return any(isinstance(spec, InnerKernel) and spec.name == row.weight for spec in specs)


def _found(layer, name):
    return next(spec.find(layer) for spec in layer_types.kernel_specs(layer) if spec.name == name)


def _has_kernel(layer, row):
    if row.weight is not None:
        return True
    elementwise = layer_types.of(layer).elementwise_weights
    return not elementwise and any(len(weight.shape) > 1 for weight in keras_compat.weights_of(layer))


def _why_not_removable(call, channel_map, weight, by_heads):
    """Why `tfap.compact` can remove none of a layer's neurons, or None."""
    produced, heads = channel_map.of(call.outputs[0]), channel_map.heads(call.path)
    if heads is not None and by_heads:
        reasons = [channel_map.pinned.get(int(group)) for group in heads]
        return f"its heads are not removable: {reasons[0]}" if all(reasons) else None
    if heads is not None and not attention.makes_output(weight):
        return None  # the dimensions of heads
    if produced is None:
        layer = unwrap(call.layer)
        which = _which_not_analyzed(layer, call)
        kind = f"this {type(layer).__name__}" if which is None else f"{type(layer).__name__} layers {which}"
        return f"its neurons are not removable: tfap does not resize {kind}"
    reasons = [channel_map.pinned.get(int(group)) for group in produced.groups]
    return f"its channels are not removable: {reasons[0]}" if all(reasons) else None


def _which_not_analyzed(layer, call):
    row = layer_types.of(layer)
    if row.recurrent:
        return recurrent.why_not_analyzed(layer, call)
    return attention.why_not_analyzed(layer, call) if row.attention else None


def _layer_rows(graph, path, settings, is_output, is_skipped, why_shared):
    layer = graph.calls_of[path][0].layer
    reason = layer_types.why_not_prunable(layer) or (None if why_shared else why_not_built(layer))
    if why_shared:
        why_shared = f"{why_shared}, so it is shared with the given model"
    if reason:
        return [LayerPlan(path, None, None, None, False, "; ".join(filter(None, (reason, why_shared))))]
    side = settings.criterion.counts
    specs = settings.pattern.kernel_specs(layer)
    if not specs:
        kind, inside = type(layer).__name__, layer_types.of(layer).inner_units
        why = f"tfap removes no heads inside {kind} layers" if inside else f"{kind} layers have no heads"
        return [LayerPlan(path, None, None, None, False, why)]
    whole_neurons = settings.pattern.couples_neurons
    counts_outputs = side == "output" and any(spec.countable(side, whole_neurons) for spec in specs)
    heads = layer_types.query_heads(layer) if any(spec.heads for spec in specs) else 0
    firing = graph.firing(path, heads) if counts_outputs else None
    if is_skipped:
        reason = NAMED_IN_SKIP
    elif graph.never_trains(path):
        reason = "it is called with training=False"
    elif is_output:
        reason = IS_OUTPUT
    elif firing and firing.reason:
        reason = firing.reason
    elif why_shared:
        reason = why_shared
    return [_weight_row(path, layer, spec, firing, settings, reason) for spec in specs]


def why_not_built(layer):
    """Returns why a copy of a layer has no kernel before it is called, as a wrapper needs. None if it has."""
    if keras_compat.is_keras_class(type(layer)) or not layer.built:
        return None
    copy, config = keras_compat.copy_of(layer), layer.get_build_config()
    if copy is None or config is None:
        return None
    try:
        if not copy.built:
            with warnings.catch_warnings():  # Keras 3 warns of a missing build(), which the reason tells
                warnings.simplefilter("ignore")
                copy.build_from_config(config)
    except Exception as error:  # build is the user's code
        return f"it cannot be built on its input shape: {error}"
    for spec in layer_types.kernel_specs(layer):
        if spec.find(copy) is None:
            return f"its {spec.name} is not made by build(): give its class a build() that makes it"
    return None


def _weight_row(path, layer, spec, firing, settings, reason):
    side, shape = settings.criterion.counts, tuple(spec.find(layer).shape)
    if not reason and not spec.countable(side, settings.pattern.couples_neurons):
        reason, firing = layer_types.NOT_COUNTABLE[side], None
    reason = reason or settings.pattern.why_not(shape) or ""
    return LayerPlan(path, spec.name, shape, firing, not reason, reason)


class _SelectedLayers:
    """The layers that `include` or `skip` selects. A nested model selects all layers in it."""

    def __init__(self, argument, selection, graph, model):
        if isinstance(selection, str) or callable(selection):  # layers are callable too
            selection = [selection]
        elif not isinstance(selection, collections.abc.Iterable):
            raise TypeError(_wrong_selection(argument, selection))
        self._argument, self._known = argument, [*graph.layers(), *graph.models.items()]
        self._layer_ids = {id(layer) for layer in keras_compat.all_layers(model)}
        self._predicates, self._selected_ids = [], set()
        for selector in selection:
            if isinstance(selector, str) or keras_compat.is_layer(selector):
                self._selected_ids |= {id(layer) for layer in self._find(selector)}
            elif callable(selector):
                self._predicates.append(selector)
            else:
                raise TypeError(_wrong_selection(argument, selector))

    def __contains__(self, layer):
        return id(layer) in self._selected_ids or any(predicate(layer) for predicate in self._predicates)

    def _find(self, selector):
        """The layers that a name, a path or a layer object selects."""
        if keras_compat.is_layer(selector):
            if id(selector) not in self._layer_ids:
                raise ValueError(
                    f"{self._argument} has the layer '{selector.name}', which is not in the model."
                )
            found = [selector]
        else:
            found = [layer for path, layer in self._known if selector in (path, layer.name)]
            if not found:
                raise ValueError(
                    f"{self._argument} names the layer '{selector}', which is not in the model. "
                    f"Its layers are: {', '.join(path for path, _ in self._known)}."
                )
        nested_models = [layer for layer in found if keras_compat.is_model(layer)]
        return found + [layer for nested in nested_models for layer in keras_compat.all_layers(nested)]


def _wrong_selection(argument, received):
    return f"{argument} takes layer names, layers and predicates: received {received!r}."
