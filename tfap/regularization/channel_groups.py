"""The weights of each group of coupled channels: what produces, normalizes, and consumes the channels."""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.calls import Graph, unwrap
from tfap.graph.channels import ChannelMap, consumed_by
from tfap.graph.counts import ActivationCounts
from tfap.graph.kernel import Kernel, neuron_count
from tfap.graph.layer_types import ChannelRule, ConstantRule

NONE_REMOVABLE = (
    "The model '{name}' has no channels to regularize, expected some that can be removed: they are its "
    "outputs, consumed by layers that tfap does not analyze, or named in skip."
)


class Role(enum.Enum):
    """What a weight does for a channel."""

    INCOMING = "a kernel that produces it"
    BIAS = "the bias of the layer that produces it"
    SCALE = "the scale of a normalization"
    SHIFT = "the shift of a normalization"
    OUTGOING = "a kernel that consumes it"


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A weight whose entries belong to groups of channels.

    Attributes:
        path: String. Path of its layer.
        variable: The variable.
        role: A `Role`.
        groups: Integer array of the rank of the variable, which broadcasts against it: the group of each
            entry. The number of groups for entries that belong to none.
    """

    path: str
    variable: Any
    role: Role
    groups: np.ndarray

    def sums(self, values: np.ndarray, count: int) -> np.ndarray:
        """Sums values of the shape of the variable over each group: float64 array, shape `(count,)`."""
        axes = tuple(axis for axis, size in enumerate(self.groups.shape) if size == 1)
        along = values.sum(axis=axes, dtype=np.float64)
        return np.bincount(self.groups.ravel(), along.ravel(), count + 1)[:count]


class ChannelGroups:
    """The removable groups of coupled channels of a model, numbered from 0, and their weights.

    Args:
        model: A built Sequential or Functional model of either Keras, with or without tfap's wrappers.
        skip: Names or paths of layers. Groups with a channel that one of them produces are left out.

    Attributes:
        count: Integer. The number of groups.
        members: List of every `Member`, inputs first.
        layer_of: Integer array, shape `(count,)`. The number of the first layer that produces each group.

    Raises:
        ValueError: If no channel can be removed, or `skip` names a layer that the model does not have.
    """

    def __init__(self, model: Any, skip: Iterable[str] = ()) -> None:
        self._graph = Graph(model, plain=True)
        self._channels = ChannelMap(self._graph)
        found = [
            member
            for path, calls in self._graph.calls_of.items()
            if keras_compat.is_layer(calls[0].layer)
            for member in self._members(path, calls[0])
        ]
        self._ids = self._numbered(found, self._skipped(skip))
        self.count = int((self._ids >= 0).sum())
        if not self.count:
            raise ValueError(NONE_REMOVABLE.format(name=model.name))
        self._ids[self._ids < 0] = self.count
        found = [dataclasses.replace(member, groups=self._ids[member.groups]) for member in found]
        self.members = [member for member in found if (member.groups < self.count).any()]
        self.layer_of = self._layers_of_groups()

    def _numbered(self, members, skipped):
        """Returns the number of each group of the `ChannelMap`; -1 for those to leave out."""
        produced = np.zeros(self._channels.size, bool)
        for member in members:
            if member.role is Role.INCOMING:
                produced[np.unique(member.groups)] = True
        produced[list(self._channels.pinned)] = False
        produced[skipped] = False
        ids = np.full(self._channels.size, -1)
        ids[produced] = np.arange(produced.sum())
        return ids

    def _skipped(self, skip):
        groups = np.zeros(self._channels.size, bool)
        for name in skip:
            paths = [path for path in self._graph.calls_of if name in (path, path.split("/")[-1])]
            if not paths:
                raise ValueError(
                    f"skip names the layer {name!r}, which is not in the model: its layers are "
                    f"{', '.join(self._graph.calls_of)}."
                )
            for path in paths:
                produced = self._channels.of(self._graph.calls_of[path][0].outputs[0])
                if produced is not None:
                    groups[produced.groups] = True
        return groups

    def _layers_of_groups(self):
        layers = np.full(self.count + 1, -1)
        for number, member in enumerate(self.members):
            if member.role is Role.INCOMING:
                groups = np.unique(member.groups)
                layers[groups] = np.where(layers[groups] < 0, number, layers[groups])
        return layers[:-1]

    # -- the weights of one layer ----------------------------------------------------------------------

    def _members(self, path, call):
        """Yields the `Member`s of a layer, with the groups of the `ChannelMap`."""
        layer, row = unwrap(call.layer), layer_types.of(unwrap(call.layer))
        produced = self._channels.of(call.outputs[0])
        if produced is None:
            return
        if row.channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE) or row.recurrent:
            for spec in layer_types.kernel_specs(layer):
                yield from self._of_kernel(path, call, spec, spec.find(layer), produced.groups)
            yield from _vector(path, getattr(layer, "bias", None), Role.BIAS, produced.groups)
        elif row.constants is ConstantRule.NORMALIZED:
            yield from _vector(path, getattr(layer, "gamma", None), Role.SCALE, produced.groups)
            yield from _vector(path, getattr(layer, "beta", None), Role.SHIFT, produced.groups)

    def _of_kernel(self, path, call, spec, variable, produced):
        shape = tuple(variable.shape)
        kernel = Kernel(path, spec, np.broadcast_to(np.float32(0), shape), np.ones((), np.uint8))
        neurons = neuron_count(spec, shape)
        made = spec.of_output(produced, neurons)
        if spec.makes_channels and len(made) == neurons:
            yield Member(path, variable, Role.INCOMING, kernel.per_neuron(made))
        consumed = consumed_by(call, self._channels) if spec.reads_input else None
        if consumed is not None and not layer_types.is_depthwise(spec):
            inputs = kernel.per_input(consumed.groups)
            inputs = np.reshape(inputs, (1,) * (len(shape) - inputs.ndim) + inputs.shape)
            yield Member(path, variable, Role.OUTGOING, inputs)

    # -- groups ----------------------------------------------------------------------------------------

    def having(self, role: Role) -> np.ndarray:
        """Returns which groups have a weight of a role: boolean array, shape `(count,)`."""
        found = np.zeros(self.count + 1, bool)
        for member in self.members:
            if member.role is role:
                found[member.groups.ravel()] = True
        return found[:-1]

    def chosen(self, keeps: Callable[[Role], np.ndarray | bool]) -> list[Member]:
        """Returns the members of some groups only.

        Args:
            keeps: Function of a `Role` that returns which groups keep the weights of that role: a boolean
                array of shape `(count,)`, or True or False for all.
        """
        kept = []
        for member in self.members:
            keep = np.append(np.broadcast_to(keeps(member.role), self.count), False)
            groups = np.where(keep[member.groups], member.groups, self.count)
            if (groups < self.count).any():
                kept.append(dataclasses.replace(member, groups=groups))
        return kept

    def sizes(self, members: list[Member]) -> np.ndarray:
        """Returns the number of entries of each group: float64 array, shape `(count,)`."""
        entries = [np.broadcast_to(1.0, tuple(member.variable.shape)) for member in members]
        return sum(member.sums(ones, self.count) for member, ones in zip(members, entries))

    def mean_squares(self, members: list[Member]) -> np.ndarray:
        """Returns the mean square of the entries of each group: float64 array, shape `(count,)`."""
        squares = [np.square(member.variable.numpy(), dtype=np.float64) for member in members]
        totals = sum(member.sums(values, self.count) for member, values in zip(members, squares))
        return totals / np.maximum(self.sizes(members), 1)

    def clear(self, members: list[Member], groups: np.ndarray) -> None:
        """Sets the entries of some groups to zero.

        Args:
            members: List of the `Member`s to write.
            groups: Boolean array, shape `(count,)`.
        """
        cleared = np.append(groups, False)
        for member in members:
            at, values = cleared[member.groups], member.variable.numpy()
            if np.any(np.where(at, values, 0)):
                member.variable.assign(np.where(at, np.zeros_like(values), values))

    def fired(self, counts: Mapping[str, ActivationCounts]) -> np.ndarray:
        """Returns which groups have fired somewhere, or have not been counted.

        Args:
            counts: Dict of layer path to `ActivationCounts`.
        """
        counted, fired = np.zeros((2, self.count + 1), bool)
        for path, its in counts.items():
            produced = self._channels.of(self._graph.calls_of[path][0].outputs[0])
            if produced is not None and len(produced.groups) == len(its.counts):
                groups = self._ids[produced.groups]
                counted[groups] = True
                fired[groups] |= np.asarray(its.counts) > 0
        return (fired | ~counted)[:-1]

    def of_layer(self, path: str) -> np.ndarray:
        """Returns the group of each output channel of a layer; `count` for those that belong to none."""
        return self._ids[self._channels.of(self._graph.calls_of[path][0].outputs[0]).groups]


def _vector(path, variable, role, groups):
    """Yields the `Member` of a vector with one entry per channel."""
    if variable is not None and tuple(variable.shape) == groups.shape:
        yield Member(path, variable, role, groups)
