"""Couplings of channels, collected while the calls of a model are followed.

A group starts with one channel. Couplings between groups are collected first and joined once at the end, by
`ChannelMap`, because a later call may couple the channels of any earlier ones.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The channels of one `Value`.

    Attributes:
        axis: Integer. The axis that indexes them, counted from the front.
        groups: Integer array, shape `(channels,)`. The group of each channel.
    """

    axis: int
    groups: np.ndarray


def is_on_last_axis(channels, value):
    """Returns whether the channels of a value are known, and on its last axis."""
    return channels is not None and channels.axis == len(value.shape) - 1


class CoupledChannels:
    """The channels of values, and what couples or pins their groups.

    Attributes:
        channels: Dict of `Value` to `Channels`, or to None if they are unknown.
        heads: Dict of path to the groups of the heads of an attention layer.
        units: Dict of path to the groups of the units inside a layer, by config entry.
        pins: List of `(groups, reason)`: groups that are not removable.
        centering: List of the same for groups that are removable if a LayerNormalization does not need the
            mean.
        normalized: List of groups that are only removable if they are zero.
    """

    def __init__(self):
        self.channels, self.heads, self.units = {}, {}, {}
        self.pins, self.centering, self.normalized = [], [], []
        self._size = 0
        self._couplings = []  # pairs of arrays of groups: entry i of one is coupled with entry i of the other

    def of(self, value):
        """Returns the `Channels` of a value. None if they are unknown."""
        return self.channels[value]

    def known(self, values):
        """Lists the `Channels` of the values that have known ones."""
        return [self.of(value) for value in values if self.of(value) is not None]

    def new(self, count):
        """Returns new groups: integer array, shape `(count,)`."""
        groups = np.arange(self._size, self._size + count)
        self._size += count
        return groups

    def couple(self, some, others):
        """Couples two arrays of groups, entry by entry."""
        self._couplings.append((np.asarray(some), np.asarray(others)))

    def pin(self, groups, reason):
        """Marks groups as not removable."""
        self.pins.append((groups, reason))

    def pin_value(self, value, reason):
        """Marks the channels of a value as not removable."""
        if self.of(value) is not None:
            self.pin(self.of(value).groups, reason)

    def along(self, value, axis, reason):
        """Returns the groups of a value's channels on an axis. Unknown channels get new groups, pinned."""
        channels = self.of(value)
        if channels is not None and channels.axis == axis % len(value.shape):
            return channels.groups
        self.pin_value(value, reason)
        groups = self.new(value.shape[axis] or 0)
        self.pin(groups, reason)
        return groups

    def couple_values(self, value, other):
        """Couples the channels of two values that a shared layer or model consumes or produces."""
        a, b = self.of(value), self.of(other)
        if a is None or b is None or a.axis != b.axis or len(a.groups) != len(b.groups):
            for each in (value, other):
                self.pin_value(each, "the calls of a shared layer or model have different channels")
        elif value is not other:
            self.couple(a.groups, b.groups)

    def joined(self):
        """Returns the number of each group once coupled ones are joined: integer array, numbered from 0."""
        labels = np.arange(self._size)
        if self._couplings:
            some, others = (np.concatenate(side) for side in zip(*self._couplings))
            labels = _connected(labels, some, others)
        return np.unique(labels, return_inverse=True)[1]


def _connected(labels, some, others):
    """Returns labels where connected entries share the lowest label among them."""
    while True:
        before = labels
        lower = np.minimum(labels[some], labels[others])
        labels = labels.copy()
        np.minimum.at(labels, before[some], lower)
        np.minimum.at(labels, before[others], lower)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels
