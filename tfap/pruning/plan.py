"""What would be pruned, layer by layer, and why not: the plan behind `tfap.prune`."""

import collections
import dataclasses

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.calls import Firing, Graph
from tfap.utils import tables


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """The decision on one prunable weight, or on a layer that has none.

    Attributes:
        path: of the layer, such as `inner/dense`.
        weight: the weight's name, None if the layer has none to prune.
        shape: of the weight.
        firing: where the layer's neurons fire; None if nobody needs to know.
        pruned: True if it will be pruned.
        reason: why not, or what else there is to know; "" if nothing.
    """

    path: str
    weight: str | None
    shape: tuple[int, ...] | None
    firing: Firing | None
    pruned: bool
    reason: str = ""

    @property
    def fires_at(self):
        """Paths of the layers whose activations are counted for this one, as text."""
        return ", ".join(site.path for site in self.firing.sites) if self.firing else ""


class PruningPlan(collections.abc.Sequence):
    """The rows of `LayerPlan`s in graph order. Prints as a table; `pruned` are the rows that will be."""

    def __init__(self, rows):
        self._rows = tuple(rows)

    def __getitem__(self, index):
        return self._rows[index]

    def __len__(self):
        return len(self._rows)

    @property
    def pruned(self):
        return [row for row in self._rows if row.pruned]

    def __str__(self):
        table = tables.table_of(("layer", "weight", "shape", "fires at", "decision", "reason"))
        for row in self._rows:
            shape = "x".join(map(str, row.shape)) if row.shape else ""
            decision = "prune" if row.pruned else "skip"
            table.add_row(row.path, row.weight or "", shape, row.fires_at, decision, row.reason)
        return tables.as_text(table)

    __repr__ = __str__


def make_plan(model, settings, include=(), skip=()):
    """The `PruningPlan` for a built Sequential or Functional model; see `tfap.plan`."""
    layers = Graph(model)
    include, skip = (_Choice(*chosen, layers, model) for chosen in (("include", include), ("skip", skip)))
    outputs = layers.output_paths()
    tied = keras_compat.tied_layers(layer for _, layer in layers.layers())
    rows = []
    for path, layer in layers.layers():
        if keras_compat.is_layer(layer) and layer.weights:
            is_output = path in outputs and not include.chooses(layer)
            shared = tied.get(id(layer)) or keras_compat.why_shared(layer)
            rows += _rows_for(layers, path, layer, settings, is_output, skip.chooses(layer), shared)
    return PruningPlan(rows)


def _rows_for(layers, path, layer, settings, is_output, skipped, shared):
    reason = layer_types.why_not_prunable(layer)
    if shared:
        shared = f"{shared}, so it is shared with the given model"
    if reason:
        return [LayerPlan(path, None, None, None, False, "; ".join(filter(None, (reason, shared))))]
    side = settings.criterion.counts
    specs = layer_types.kernel_specs(layer)
    fires = side == "output" and any(spec.feeds_output for spec in specs)
    firing = layers.firing(path) if fires else None
    if skipped:
        reason = "named in skip"
    elif layers.never_trains(path):
        reason = "it is called with training=False"
    elif is_output:
        reason = "an output layer: name it in include to prune it"
    elif firing and firing.reason:
        reason = firing.reason
    elif shared:
        reason = shared
    return [_row(path, layer, spec, firing, side, reason) for spec in specs]


def _row(path, layer, spec, firing, side, reason):
    if not reason and not spec.countable(side):
        reason, firing = layer_types.NOT_COUNTABLE[side], None
    return LayerPlan(path, spec.name, tuple(spec.find(layer).shape), firing, not reason, reason or "")


class _Choice:
    """Layers chosen by name, by path, as objects or by predicate; a nested model means all layers in it."""

    def __init__(self, argument, chosen, layers, model):
        if isinstance(chosen, str) or callable(chosen):  # layers are callable too
            chosen = [chosen]
        elif not isinstance(chosen, collections.abc.Iterable):
            raise TypeError(f"{argument} takes layer names, layers and predicates: received {chosen!r}.")
        self._argument, self._known = argument, [*layers.layers(), *layers.models.items()]
        self._inside = {id(layer) for layer in keras_compat.all_layers(model)}
        self._predicates, self._chosen = [], set()
        for choice in chosen:
            if isinstance(choice, str) or keras_compat.is_layer(choice):
                self._chosen |= {id(layer) for layer in self._named(choice)}
            elif callable(choice):
                self._predicates.append(choice)
            else:
                raise TypeError(f"{argument} takes layer names, layers and predicates: received {choice!r}.")

    def chooses(self, layer):
        return id(layer) in self._chosen or any(predicate(layer) for predicate in self._predicates)

    def _named(self, choice):
        """The layers that a name, a path or an object means."""
        if keras_compat.is_layer(choice):
            if id(choice) not in self._inside:
                raise ValueError(
                    f"{self._argument} has the layer '{choice.name}', which is none of the model's."
                )
            found = [choice]
        else:
            found = [layer for path, layer in self._known if choice in (path, layer.name)]
            if not found:
                raise ValueError(
                    f"{self._argument} names the layer '{choice}', which the model does not have. "
                    f"Its layers are: {', '.join(path for path, _ in self._known)}."
                )
        nested = [layer for layer in found if keras_compat.is_model(layer)]
        return found + [layer for each in nested for layer in keras_compat.all_layers(each)]
