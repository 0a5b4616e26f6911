"""Which fraction of its channels each layer loses, so that the outputs change little within a budget."""

import collections
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.table

from tfap.budgets.budget import UNITS
from tfap.budgets.search import BudgetResult
from tfap.compaction.planned_units import HEADS_SUFFIX
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.sensitivity_table import CoupledSet, Sensitivity
from tfap.graph.calls import Graph
from tfap.keras_compat.types import Model
from tfap.utils import checks, tables

_MOST_CHANGED = 0.999  # a larger change of the outputs counts like this one: nothing is left of them


@dataclasses.dataclass(frozen=True)
class AllocatedSet:
    """A layer, or coupled layers, of an allocation.

    Attributes:
        layers: Tuple of strings. Paths of the layers.
        channels: Integer. The number of their channels that can be removed together.
        losses: Tuple of floats. The loss if so many channels are removed: 0, 1, and so on.
    """

    layers: tuple[str, ...]
    channels: int
    losses: tuple[float, ...]


class Allocation(collections.UserDict[str, float]):
    """The fraction of channels to remove per layer, by its path. Prints as a table.

    It is a dict that can be changed. A new fraction for one of several coupled layers is that of all of them.
    `tfap.prune_once` takes it in place of a sparsity, and takes a plain dict of paths the same way. Layers
    that it does not name keep all channels.

    Args:
        fractions: Mapping of layer path to a float in [0, 1).
        sets: The `AllocatedSet`s that `tfap.allocate` chose from.
        cost: Tuple `(before, after, limit)` in the unit of the budget. None if unknown.
        budget: String. The budget that the allocation meets.

    Attributes:
        sets: As given.
        cost: As given, for the fractions at first.
        budget: As given.

    Raises:
        TypeError: If a path is not a string, or a fraction not a number.
        ValueError: If a fraction is not in [0, 1).

    Example:

    >>> import tfap
    >>> allocation = tfap.Allocation({"conv": 0.25, "dense": 0.5})
    >>> allocation["dense"] = 0.75
    >>> dict(allocation)
    {'conv': 0.25, 'dense': 0.75}
    """

    def __init__(
        self,
        fractions: Mapping[str, float] | None = None,
        sets: Sequence[AllocatedSet] = (),
        cost: tuple[float, float, float] | None = None,
        budget: str = "",
    ) -> None:
        self.sets, self.cost, self.budget = tuple(sets), cost, budget
        super().__init__(fractions or {})

    def __setitem__(self, path: str, fraction: float) -> None:
        checks.text("a layer of an allocation", path)
        if not 0 <= checks.number(f"the fraction of '{path}'", fraction) < 1:
            raise ValueError(f"The fraction of '{path}' must be in [0, 1): received {fraction}.")
        coupled = next((each.layers for each in self.sets if path in each.layers), (path,))
        self.data.update(dict.fromkeys(coupled, float(fraction)))

    def to_dict(self) -> dict[str, Any]:
        """Returns the allocation as plain data, for `from_dict`."""
        return {
            "fractions": dict(self.data),
            "sets": [dataclasses.asdict(each) for each in self.sets],
            "cost": self.cost,
            "budget": self.budget,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Allocation":
        """Makes an allocation from what `to_dict` returned, also after a round trip through JSON."""
        sets = [
            AllocatedSet(tuple(each["layers"]), each["channels"], tuple(each["losses"]))
            for each in values["sets"]
        ]
        cost = None if values["cost"] is None else tuple(values["cost"])
        return cls(values["fractions"], sets, cost, values["budget"])

    def table(self) -> rich.table.Table:
        """Returns a rich table with one line per coupled set."""
        table = tables.table_of(["layers"], ["removed", "channels", "kept", "loss"])
        named = set()
        for each in self.sets:
            fraction = self.data.get(each.layers[0], 0.0)
            removed = removed_at(fraction, each.channels)
            numbers = f"{fraction:.1%}", f"{each.channels:,}", f"{each.channels - removed:,}"
            table.add_row("\n+ ".join(each.layers), *numbers, f"{each.losses[removed]:.4g}")
            named |= {*each.layers}
        for path, fraction in self.data.items():
            if path not in named:
                table.add_row(path, f"{fraction:.1%}", "", "", "")
        return table

    def __str__(self) -> str:
        return tables.as_text(self.table(), *self._lines())

    __repr__ = __str__

    def _lines(self):
        if self.cost is not None:
            costs = [f"{cost:,.0f}" if cost >= 1000 else f"{cost:.4g}" for cost in self.cost]
            yield f"Budget: {self.budget}. {costs[0]} before, {costs[1]} after, at most {costs[2]}."
        if self.sets:
            yield f"Loss, the sum of -log(1 - change of the outputs): {self.loss:.4g}."

    @property
    def loss(self) -> float:
        """Float >= 0. The sum of the losses of the sets, with the fractions as they are now."""
        return sum(
            each.losses[removed_at(self.data.get(each.layers[0], 0.0), each.channels)] for each in self.sets
        )


def allocation_of(
    removable: RemovableChannels,
    kept: np.ndarray,
    sets: Sequence[AllocatedSet],
    result: BudgetResult | None = None,
) -> Allocation:
    """Makes the `Allocation` of kept groups: boolean array, shape `(groups,)`."""
    fractions = {
        path: int((~kept[groups]).sum()) / len(groups)
        for groups, each in zip(removable.sets, sets, strict=True)
        for path in each.layers
    }
    if result is None:
        return Allocation(fractions, sets)
    return Allocation(fractions, sets, (result.own, result.reached, result.limit), str(result.budget))


def allocated_sets(
    removable: RemovableChannels, sensitivity: Sensitivity, compensate: bool | None = None
) -> list[AllocatedSet]:
    """Lists the coupled sets of a model, each with its losses.

    Raises:
        ValueError: If the sensitivity has no row for one of them.
    """
    refit = sensitivity.compensate[-1] if compensate is None else compensate
    if refit not in sensitivity.compensate:
        raise ValueError(
            f"The sensitivity was measured with compensate={sensitivity.compensate}: received "
            f"compensate={compensate!r}. Pass both to tfap.sensitivity."
        )
    found = []
    for groups in removable.sets:
        layers = tuple(removable.layers_of(groups))
        row = next((row for row in sensitivity.rows if row.layers == layers), None)
        if row is None or row.channels != len(groups):
            raise ValueError(
                f"The sensitivity has no row of {' + '.join(layers)} with {len(groups)} channels: it is of "
                "another model, or skip named these layers. Measure it again."
            )
        found.append(AllocatedSet(layers, row.channels, tuple(map(float, losses_of(row, refit)))))
    return found


def losses_of(row: CoupledSet, compensate: bool) -> np.ndarray:
    """Computes the loss by the number of removed channels, from 0 to all but one.

    Args:
        row: A row of a `Sensitivity`.
        compensate: Boolean. Whether to use the changes with the refit.

    Returns:
        float64 array, shape `(channels,)`. It starts at 0 and never falls. Between the rates it is linear.
        Beyond the last one it rises as before, or as on average if that is more.
    """
    removed, losses = [0], [0.0]
    for each in row.of(compensate):
        loss = -math.log1p(-min(each.change, _MOST_CHANGED))
        if each.removed > removed[-1]:
            removed.append(each.removed)
            losses.append(max(loss, losses[-1]))
        elif each.removed:
            losses[-1] = max(loss, losses[-1])
    last = row.channels - 1
    if removed[-1] < last and len(removed) > 1:
        slope = max(
            (losses[-1] - losses[-2]) / (removed[-1] - removed[-2]),
            losses[-1] / removed[-1],
        )
        losses.append(losses[-1] + slope * (last - removed[-1]))
        removed.append(last)
    return np.interp(np.arange(row.channels), removed, losses)


def removed_at(fraction: float, channels: int) -> int:
    """Returns how many of some channels a fraction removes: at most all but one."""
    return min(channels - 1, math.floor(fraction * channels + 1e-9))


def is_allocation(value: Any, model: Model) -> bool:
    """Returns whether a sparsity is fractions by layer: an `Allocation`, or a dict that names a layer.

    A dict with a unit of a budget, such as "weights", is a budget, even if a layer has that name.
    """
    if isinstance(value, Allocation):
        return True
    if not isinstance(value, Mapping) or any(unit in value for unit in UNITS):
        return False
    layers = Graph(model).calls_of
    return any(str(path).removesuffix(HEADS_SUFFIX) in layers for path in value)


def removed_counts(removable: RemovableChannels, fractions: Mapping[str, float]) -> list[int]:
    """Reads how many groups of each set are removed.

    Args:
        removable: The `RemovableChannels` of the model.
        fractions: An `Allocation`, or a mapping of layer path to fraction.

    Returns:
        List of integers, one per set.

    Raises:
        ValueError: If a layer is not in the model or cannot be pruned, or coupled layers differ.
    """
    given = dict(Allocation(fractions))
    counts = []
    for groups in removable.sets:
        its = {path: given.pop(path) for path in removable.layers_of(groups) if path in given}
        if len(set(its.values())) > 1:
            listed = ", ".join(f"'{path}': {fraction:g}" for path, fraction in its.items())
            raise ValueError(
                f"These layers are coupled, so they lose the same channels: received {{{listed}}}. Give them "
                "the same fraction, or name one of them."
            )
        counts.append(removed_at(next(iter(its.values()), 0.0), len(groups)))
    for path, fraction in given.items():
        _check_unpruned(removable, path, fraction)
    return counts


def _check_unpruned(removable, path, fraction):
    paths = removable.paths()
    if path not in paths:
        near = difflib.get_close_matches(path, paths, 1, 0.5)
        advice = f"Did you mean '{near[0]}'?" if near else f"Layers: {', '.join(paths)}."
        raise ValueError(f"The allocation names the layer '{path}', which is not in the model. {advice}")
    if fraction:
        raise ValueError(
            f"The channels of '{path}' cannot be removed: expected a fraction of 0, received {fraction:g}. "
            "tfap.plan says why."
        )
