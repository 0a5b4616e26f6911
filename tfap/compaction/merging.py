"""Merges similar neurons and channels without data: one is kept, and takes over what the others contributed.

If channel d is `s` times channel r for every input, then the weights that consume d can be added to those
that consume r, times `s`, and d removed: the outputs do not change. If the two are only similar, the outputs
change by what is left over. How similar they are is read from the weights; see `graph/features.py`.

References:
    - Srinivas and Babu, *Data-free parameter pruning for deep neural networks*, BMVC 2015 (arXiv 1507.06149)
    - *Cut Less, Fold More* (arXiv 2602.18116)
"""

import dataclasses
import time

import numpy as np

from tfap.budgets.budget import Budget
from tfap.budgets.rounding import Rounded
from tfap.budgets.search import BudgetResult
from tfap.compaction.choosing import Choice
from tfap.compaction.compact import compact, compact_to
from tfap.compaction.planned_units import PlannedUnits
from tfap.compaction.removable import RemovableChannels
from tfap.compensation.consumers import Consumer
from tfap.graph.features import features_of
from tfap.keras_compat.types import Model

EXACT = 1e-6  # left over of a channel, relative to its norm: within rounding of float32


@dataclasses.dataclass(frozen=True)
class Merge:
    """A channel that was removed, and the one that took over.

    Attributes:
        path: String. Path of the first layer that produces the two.
        removed: Integer. The channel that was removed, by its index in that layer.
        kept: Integer. The channel that took over. None if none was similar: what it contributed is lost.
        scale: Float. How many times the kept channel the removed one is.
        left_over: Float in [0, 1]. The part of the removed channel that is not taken over, relative to its
            norm: 0 is a duplicate.
    """

    path: str
    removed: int
    kept: int | None
    scale: float
    left_over: float

    @property
    def is_exact(self) -> bool:
        """Whether the outputs do not change, within float tolerance."""
        return self.left_over <= EXACT


@dataclasses.dataclass(frozen=True)
class MergedLayer:
    """What merging did to a layer that consumes removed channels.

    Attributes:
        path: String. Path of the layer.
        inputs: Tuple `(before, after)`. Channels that it consumes.
        error_before: Float. The squared change of its sums if removed channels were left out, relative to
            their squares. Both are what the weights tell for inputs of equal size, not measured.
        error_after: Float. The same after merging.
        seconds: Float. Time of the merge.
    """

    path: str
    inputs: tuple[int, int]
    error_before: float
    error_after: float
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Merging:
    """The result of `merge_similar`.

    Attributes:
        model: The new model, with fewer units.
        merges: List of `Merge`, one per removed channel, or per set of coupled ones.
        layers: List of `MergedLayer`, in graph order.
        budget: `BudgetResult`. None without a budget.
        rounded: `Rounded`: what rounding kept. None without it.
    """

    model: Model
    merges: list[Merge]
    layers: list[MergedLayer]
    budget: BudgetResult | None = None
    rounded: Rounded | None = None


def merge_similar(
    model: Model,
    sparsity: float | Budget,
    planned: PlannedUnits,
    target: str = "weights",
    scope: str = "global",
    round_to: int | None = None,
) -> Merging:
    """Removes the channels that other ones can take over best.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        sparsity: Float in [0, 1). The fraction of the target that is removed at most. Or a `Budget`.
        planned: The `PlannedUnits` of the model: which layers may lose channels.
        target: Unit of the sparsity: "weights", "flops", or "neurons".
        scope: "global" ranks all channels together; "local" removes the same fraction from every layer.
        round_to: As in `Choice`.

    Returns:
        A `Merging`.

    Raises:
        ValueError: If nothing can be removed.
    """
    merger = _Merger(model, planned)
    choice = Choice(model, merger.removable, sparsity, target, scope, round_to)
    kept = choice.kept(merger.scores(scope))
    merges = merger.merge(kept)
    small = compact(merger.model) if choice.round_to == 1 else compact_to(merger.model, kept)
    choice.finish(small)
    return Merging(small, merges, merger.layers, choice.result, choice.rounded)


class _Merger:
    """A copy of a model whose channels are merged.

    Attributes:
        model: The copy.
        removable: Its `RemovableChannels`.
        layers: List of `MergedLayer` so far.
    """

    def __init__(self, model, planned):
        # No other unit takes the place of a recurrent one, or of one that is normalized with others.
        self.removable = RemovableChannels(model, planned, without_data=True)
        self.model = self.removable.model
        self.layers: list[MergedLayer] = []
        self._liveness, self._sets = self.removable.liveness, self.removable.sets
        features = features_of(self._liveness.graph, self._liveness.channels)
        self._sides = [_Side(consumer, features) for consumer in self.removable.consumers.values()]

    def scores(self, scope):
        """Returns an array per set: groups with the lowest values are merged first."""
        scores = []
        for groups in self._sets:
            order, errors = _merge_order(self._costs(groups))
            values = np.empty(len(groups))
            # Within a set, errors relative to what is left rise, so that both follow the order.
            values[order] = (
                _of_what_is_left(errors, self._consumers_of(groups))
                if scope == "global"
                else np.arange(len(order))
            )
            scores.append(values)
        return scores

    def _costs(self, groups):
        """Returns the error of letting channel r take over channel d: array, shape `(d, r)`."""
        costs = np.zeros((len(groups), len(groups)))
        for side in self._sides:
            if np.isin(side.consumer.groups, groups).any():
                costs += side.costs(groups)
        return costs

    def _consumers_of(self, groups):
        return sum(np.isin(side.consumer.groups, groups).any() for side in self._sides)

    def merge(self, kept):
        """Merges the groups that are not kept into the nearest ones that are. Returns a list of `Merge`."""
        merges, partners = [], {}
        for groups in self._sets:
            removed, staying = groups[~kept[groups]], groups[kept[groups]]
            if len(removed):
                costs = self._costs(groups)[np.ix_(~kept[groups], kept[groups])]
                partners |= dict(zip(removed.tolist(), staying[np.argmin(costs, axis=1)].tolist()))
        scales = {}
        for side in self._sides:
            start = time.monotonic()
            own = {d: r for d, r in partners.items() if d in side.members}
            if own:
                before, after = side.merge(own, scales)
                self.layers.append(
                    MergedLayer(
                        side.consumer.path,
                        (len(side.consumer.groups), int(kept[side.consumer.groups].sum())),
                        before,
                        after,
                        time.monotonic() - start,
                    )
                )
        for removed, staying in partners.items():
            merges.append(self._described(removed, staying, scales.get(removed, [(0.0, 0.0)])))
        return merges

    def _described(self, removed, staying, scales):
        """Describes a merge by the consumer where most is left over."""
        path, groups = next(
            (path, groups)
            for path in self._liveness.linear_maps
            for groups in (self._liveness.groups(path)[1],)
            if removed in groups
        )
        scale, left_over = max(scales, key=lambda pair: pair[1])
        taken_over = staying in groups and scale > 0
        index = [
            int(np.flatnonzero(groups == group)[0]) if group in groups else None
            for group in (removed, staying)
        ]
        return Merge(path, index[0], index[1] if taken_over else None, float(scale), float(left_over))


class _Side:
    """A consumer, with the descriptions of the channel groups that it consumes.

    Attributes:
        consumer: The `Consumer`.
        members: Dict of channel group to the positions of its channels among the consumer's inputs.
    """

    def __init__(self, consumer: Consumer, features) -> None:
        self.consumer = consumer
        self.members: dict[int, np.ndarray] = {}
        order = np.argsort(consumer.groups, kind="stable")
        for positions in np.split(order, np.flatnonzero(np.diff(consumer.groups[order])) + 1):
            if len(positions):
                self.members[int(consumer.groups[positions[0]])] = positions
        full = [features[call.inputs[0]].full() for call in consumer.calls]
        # The channels after a Flatten share their arrays, which `description` relies on.
        joined: dict[tuple[int, ...], np.ndarray] = {}
        self._full = [
            joined.setdefault(tuple(map(id, rows)), rows[0] if len(rows) == 1 else np.concatenate(rows))
            for rows in zip(*full)
        ]
        self._descriptions: dict[int, np.ndarray] = {}
        self._energies = self._outgoing()

    def _outgoing(self):
        """Returns the squared weights that consume each group: dict of group to float."""
        squares = np.zeros(int(self.consumer.groups.max()) + 1)
        for at, units in enumerate(self.consumer.blocks):
            its = (self.consumer.matrix(at) ** 2).sum(axis=1)
            squares += np.bincount(self.consumer.unit_groups[units], its, len(squares))
        return squares

    def description(self, group):
        """Returns the description of a group: those of its channels, each different one once."""
        if group not in self._descriptions:
            rows = {id(row): row for row in (self._full[at] for at in self.members[group])}
            joined = np.concatenate(list(rows.values()))
            self._descriptions[group] = self.consumer.reach(self.members[group], joined)
        return self._descriptions[group]

    def _total(self):
        """Returns the squared sums of the layer, for inputs of equal size."""
        rows = {group: self.description(group) for group in self.members}
        return sum(self._energies[group] * (row @ row) for group, row in rows.items()) or 1.0

    def costs(self, groups):
        """Returns what is left over if r takes over d, as a fraction of the energy: array, shape `(d, r)`."""
        costs = np.zeros((len(groups), len(groups)))
        held = [at for at, group in enumerate(groups) if int(group) in self.members]
        rows = [self.description(int(groups[at])) for at in held]
        energies = self._energies[groups[held]]
        total = self._total()
        for length in {len(row) for row in rows}:
            same = [index for index, row in enumerate(rows) if len(row) == length]
            its = np.array(held)[same]
            left = _left_over(np.array([rows[index] for index in same])) * energies[same][:, None]
            others = np.setdiff1d(np.arange(len(groups)), its)
            costs[np.ix_(its, its)] += left / total
            alone = np.array([rows[index] @ rows[index] for index in same]) * energies[same]
            costs[np.ix_(its, others)] += alone[:, None] / total
        return costs

    def merge(self, partners, scales):
        """Adds the weights that consume removed groups to those of their partners, and clears them.

        Args:
            partners: Dict of removed group to kept group.
            scales: Dict of removed group to a list of `(scale, left over)`, to which these are added.

        Returns:
            Tuple of the relative errors without and with merging.
        """
        consumer, total, before, after = self.consumer, self._total(), 0.0, 0.0
        matrices = [consumer.matrix(at) for at in range(len(consumer.blocks))]
        for removed, kept in partners.items():
            row = self.description(removed)
            other = self.description(kept) if kept in self.members else np.zeros(0)
            scale, left = _fit(row, other)
            for at, units in enumerate(consumer.blocks):
                groups = consumer.unit_groups[units]
                mine, theirs = np.flatnonzero(groups == removed), np.flatnonzero(groups == kept)
                if len(mine) and len(mine) == len(theirs):
                    matrices[at][theirs] += scale * matrices[at][mine]
                elif len(mine):  # consumed by another group of outputs
                    scale, left = 0.0, row @ row
                matrices[at][mine] = 0
            before += self._energies[removed] * (row @ row)
            after += self._energies[removed] * left
            if self._energies[removed]:
                size = row @ row
                scales.setdefault(removed, []).append((scale, float(np.sqrt(left / size)) if size else 0.0))
        consumer.set_matrices(matrices)
        consumer.clear(np.isin(consumer.groups, list(partners)))
        return before / total, after / total


def _fit(row, other):
    """Returns the scale >= 0 with which one description is nearest to another, and the square of the rest."""
    if len(row) != len(other) or not other.any():
        return 0.0, float(row @ row)
    scale = max(0.0, float(row @ other) / float(other @ other))
    rest = row - scale * other
    return scale, float(rest @ rest)


def _left_over(rows: np.ndarray) -> np.ndarray:
    """Returns the square of what is left of each row d without its part along row r: shape `(d, r)`."""
    gram = rows @ rows.T
    squares = np.diagonal(gram)
    shared = np.maximum(gram, 0) ** 2 / np.where(squares > 0, squares, 1.0)[None, :]
    return np.maximum(squares[:, None] - shared, 0)


def _of_what_is_left(errors: np.ndarray, total: float) -> np.ndarray:
    """Returns errors relative to what is left of the sums then, so that no layer loses nearly everything.

    >>> _of_what_is_left(np.array([0.1, 0.1, 0.4, np.inf]), 1.0).round(3)
    array([0.1  , 0.111, 0.5  ,   inf])
    """
    lost = np.cumsum([0.0, *errors[:-1]])
    return np.maximum.accumulate(errors / np.maximum(total - lost, 1e-9))


def _merge_order(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the order in which to merge channels, each into one that is left.

    Args:
        costs: Array, shape `(d, r)`: the error of letting r take over d.

    Returns:
        Tuple of the order and the errors. The last channel is left over, with an infinite error.

    Example:

    >>> costs = np.array([[0.0, 1.0, 9.0], [1.0, 0.0, 4.0], [9.0, 3.0, 0.0]])
    >>> _merge_order(costs)
    (array([0, 2, 1]), array([ 1.,  3., inf]))
    """
    costs = np.array(costs, np.float64)
    np.fill_diagonal(costs, np.inf)
    nearest, order, errors = costs.argmin(axis=1), [], []
    lowest = costs[np.arange(len(costs)), nearest]
    left = np.ones(len(costs), bool)
    while left.sum() > 1:
        chosen = int(np.argmin(np.where(left, lowest, np.inf)))
        order.append(chosen)
        errors.append(lowest[chosen])
        left[chosen] = False
        costs[:, chosen] = np.inf
        for at in np.flatnonzero(left & (nearest == chosen)):
            nearest[at] = costs[at].argmin()
            lowest[at] = costs[at, nearest[at]]
    order.append(int(np.flatnonzero(left)[0]))
    return np.array(order), np.array([*errors, np.inf])
