"""A copy of a model, and which of its channels can be removed together."""

from collections.abc import Iterator

import numpy as np

from tfap import keras_compat
from tfap.compaction.planned_units import CHANNELS, HEADS, HEADS_SUFFIX, PlannedUnits
from tfap.compensation.allocation import coupled_sets
from tfap.compensation.consumers import Consumer
from tfap.compensation.finding import consumers_of
from tfap.compensation.inner import inner_consumers_of
from tfap.compensation.normalizers import Normalizer, in_order, normalizers_of, scale_kept
from tfap.graph import composite, constants, contractions, layer_types, linear_maps, norms
from tfap.graph.calls import Graph
from tfap.graph.evening import evened
from tfap.graph.layer_types import ChannelRule
from tfap.graph.liveness import Liveness
from tfap.graph.scaling import ChannelScales
from tfap.keras_compat import Replacement
from tfap.keras_compat.types import Model


class RemovableChannels:
    """The channels and heads of a model that plans let go.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        planned: The `PlannedUnits` of the model: which layers may lose channels, and which heads.
        without_data: Whether channels are merged by their weights alone. Those then stay that have to be set
            to zero before they are removed, such as units of recurrent layers and channels that are
            normalized together, and those that attention consumes.

    Attributes:
        model: A copy of the model, whose weights may be changed. Tied layers are shared with the given one.
        liveness: The `Liveness` of the copy.
        consumers: Dict of path to `Consumer`.
        normalizers: Dict of path to `Normalizer`.
        scales: The `ChannelScales` of the copy.
        prunable: Set of paths of the layers whose channels the plan prunes.
        with_heads: Set of paths of the layers whose heads the plan prunes.
        sets: List of arrays of channel groups. The groups of a set compete: they are those of one layer, of
            coupled layers, or the heads of one layer.

    Raises:
        ValueError: If no channel can be removed.
    """

    def __init__(
        self,
        model: Model,
        planned: PlannedUnits,
        without_data: bool = False,
    ) -> None:
        graph = Graph(model)
        tied = keras_compat.tied_layers(layer for _, layer in graph.layers())
        self.model = keras_compat.rebuild(
            model, lambda layer: Replacement(layer) if id(layer) in tied else keras_compat.copied(layer)
        )
        self.liveness = Liveness(self.model)
        given = {id(layer) for _, layer in graph.layers()}
        self._shared = {path for path, layer in self.liveness.graph.layers() if id(layer) in given}
        self.consumers = consumers_of(self.liveness.graph, self.liveness.channels, fixed=given)
        if not without_data:
            inner = inner_consumers_of(self.liveness.graph, self.channels)
            self.consumers = in_order(self.liveness.graph, self.consumers, inner)
        self.scales = ChannelScales(self.liveness, self._shared)
        self.normalizers = normalizers_of(self.liveness.graph, self.channels, self.consumers, self.scales)
        self.prunable = planned.paths(CHANNELS)
        self.with_heads = {path for path in planned.paths(HEADS) if self.channels.heads(path) is not None}
        self._without_data = without_data
        if without_data:
            self.consumers = {
                path: each for path, each in self.consumers.items() if self.channels.heads(path) is None
            }
        self.sets = self._removable_sets()
        if not self.sets:
            raise ValueError(f"Nothing in the model '{model.name}' can be removed:\n{planned}")

    @property
    def readers(self) -> dict[str, Consumer | Normalizer]:
        """Dict of path to all that the removal of channels changes, in graph order."""
        return in_order(self.liveness.graph, self.consumers, self.normalizers)

    def scale_kept(self, kept: np.ndarray, ridge: float) -> None:
        """Makes up for removed channels in what layers divide by; see `normalizers.scale_kept`."""
        scale_kept(list(self.normalizers.values()), kept, self.scales, self._shared, ridge)

    @property
    def channels(self):
        return self.liveness.channels

    @property
    def normalized(self) -> set[int]:
        """The channel groups that are normalized together, which are set to zero before they are removed."""
        return self.channels.normalized

    def _removable_sets(self):
        removable = np.ones(self.channels.size, bool)
        removable[list(self.channels.pinned)] = False
        removable[list(self.normalized if self._without_data else never_zero(self.liveness))] = False
        produced = []
        for path in self.liveness.linear_maps:
            consumed, groups = self.liveness.groups(path)
            heads = self.channels.heads(path)
            stays = self._without_data and (self.liveness.is_recurrent(path) or heads is not None)
            if path not in self.prunable or (self.liveness.is_recurrent(path) and stays):
                removable[groups] = False
            if consumed is not None and (path in self._shared or (heads is not None and stays)):
                removable[consumed] = False  # its weights are those of the given model
            if heads is not None and (path in self._shared or path not in self.with_heads):
                removable[heads] = False
            produced.append(groups)
        for path, _, groups in self.liveness.inner_units():
            stay = self._without_data or path in self._shared
            removable[groups] = path in self.prunable and not stay
            produced.append(groups)
        heads = filter(lambda its: its is not None, map(self.channels.heads, self.liveness.linear_maps))
        return coupled_sets([*produced, *heads], removable)

    def layers_of(self, groups: np.ndarray) -> list[str]:
        """Lists the paths of the layers that produce some of these channel groups, in graph order.

        They also include composite layers of which some of these groups are units. Heads of an attention
        layer have its path and ":heads".
        """
        return [path for path, made in self._made if np.isin(made, groups).any()]

    @property
    def _made(self):
        """The groups of which a layer keeps one at least: of its output, of its heads, of its units."""
        made = [each for path in self._producers for each in self._made_by(path)]
        return made + [(path, inside) for path, _, inside in self.liveness.inner_units()]

    def _made_by(self, path):
        heads = self.channels.heads(path)
        own = (path, self.liveness.groups(path)[1])
        return [own, *([] if heads is None else [(path + HEADS_SUFFIX, heads)])]

    def paths(self) -> list[str]:
        """Lists the names that `layers_of` may return, and the paths of layers without such channels."""
        names = [path for path, _ in self._made]
        return [*names, *(path for path in self.liveness.graph.calls_of if path not in names)]

    @property
    def _producers(self):
        maps = {*self.liveness.linear_maps, *self.liveness.depthwise}
        return [path for path, _ in self.liveness.graph.layers() if path in maps]

    def without_first(self, order: np.ndarray, count: int) -> np.ndarray:
        """Removes the first groups of a set, but keeps a channel of every layer.

        Args:
            order: Integer array. The groups of the set, first the one to remove first.
            count: Integer. How many to remove at most.

        Returns:
            A boolean array, shape `(groups,)`: which channel groups are kept.
        """
        kept = np.ones(self.channels.size, bool)
        kept[order[:count]] = False
        rank = {int(group): at for at, group in enumerate(order)}
        for _, groups in self._made:
            if not kept[groups].any():
                kept[max(groups, key=lambda group: rank.get(int(group), -1))] = True
        return self.evened(kept)

    def recurrent_reads(self, kept: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Lists the recurrent layers that read units of their own that are removed.

        Args:
            kept: Boolean array: which channel groups are kept.

        Yields:
            Tuples of the path of a layer and a boolean array, True for its units that are removed.
        """
        for path in self.liveness.linear_maps:
            removed = ~kept[self.liveness.groups(path)[1]]
            if self.liveness.is_recurrent(path) and removed.any():
                yield path, removed

    def made_zero(self, kept: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Lists the layers that make removed channels that are normalized together with others.

        Args:
            kept: Boolean array: which channel groups are kept.

        Yields:
            Tuples of the path of a layer and a boolean array, True for the outputs to set to zero.
        """
        removed = np.flatnonzero(~kept)
        removed = removed[np.isin(removed, list(self.normalized))]
        for path in self.liveness.linear_maps if len(removed) else ():
            outputs = np.isin(self.liveness.groups(path)[1], removed)
            if outputs.any():
                yield path, outputs

    def units_removed(self, kept: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yields the path, the config entry, and a mask of the removed units inside composite layers.

        Args:
            kept: Boolean array: which channel groups are kept.
        """
        for path, entry, groups in self.liveness.inner_units():
            if not kept[groups].all():
                yield path, entry, ~kept[groups]

    def clear_reads(self, kept: np.ndarray) -> None:
        """Sets the weights to zero with which layers read their own units that are removed.

        These are recurrent layers, and composite layers that are no consumers.

        Args:
            kept: Boolean array: which channel groups are kept.
        """
        for path, entry, removed in self.units_removed(kept):
            if path in self.consumers:
                continue
            composite.clear_reads(self.liveness.graph.calls_of[path][0].layer, entry, removed)
        for path, removed in self.recurrent_reads(kept):
            linear_map, consumer = self.liveness.linear_maps[path], self.consumers.get(path)
            if consumer is None:
                linear_map.clear_recurrence(removed)
                linear_map.layer.set_weights(linear_map.weights())
            else:
                consumer.clear_recurrence(removed)

    def clear_made(self, kept: np.ndarray) -> None:
        """Sets the weights to zero that make removed channels which are normalized together with others.

        Args:
            kept: Boolean array: which channel groups are kept.
        """
        for path, outputs in self.made_zero(kept):
            linear_map, consumer = self.liveness.linear_maps[path], self.consumers.get(path)
            if consumer is None:
                linear_map.clear_outputs(outputs)
                linear_map.layer.set_weights(linear_map.weights())
            else:
                consumer.clear_outputs(outputs)

    def evened(self, kept: np.ndarray) -> np.ndarray:
        """Keeps as many channels of every group of a grouped convolution.

        Args:
            kept: Boolean array: which channel groups are kept.

        Returns:
            A boolean array of which at least as many are kept.
        """
        return evened(self.liveness, kept)


def never_zero(liveness: Liveness) -> set[int]:
    """Finds channels that are not zero behind the layers that make them, even if all their weights are.

    An activation such as sigmoid, or the shift of a BatchNormalization, is the reason.

    Args:
        liveness: The `Liveness` of a model.

    Returns:
        The set of those channel groups that are normalized together with others.
    """
    normalized = list(liveness.channels.normalized)
    if not normalized:
        return set()
    maps = {**liveness.linear_maps, **liveness.depthwise}
    for path in liveness.linear_maps:
        if liveness.is_recurrent(path):
            continue  # its units stay
        maps[path] = linear_maps.from_layer(maps[path].layer)
        maps[path].clear_outputs(np.isin(liveness.groups(path)[1], normalized))
    made = constants.ConstantMap(liveness.graph, liveness.channels, maps)
    found: set[int] = set()
    for call in liveness.graph.calls:
        if norms.is_over_channels(call.layer) and made.of(call.inputs[0]) is not None:
            groups = liveness.channels.of(call.inputs[0]).groups
            found |= set(groups[~made.of(call.inputs[0]).zero].tolist())
        if layer_types.of(call.layer).channels is ChannelRule.CONTRACTED:
            for groups, zero in contractions.summed_zeros(call, liveness.channels.of, made.of):
                found |= set(groups[~zero].tolist())
    return found
