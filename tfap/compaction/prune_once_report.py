"""What `tfap.prune_once` removed, and how well the sums of the layers are reproduced."""

import dataclasses
from typing import Any

from tfap.budgets.rounding import Rounded
from tfap.budgets.search import BudgetResult
from tfap.compaction.allocation import Allocation
from tfap.compaction.merging import Merge
from tfap.utils import tables


@dataclasses.dataclass(frozen=True)
class RefittedLayer:
    """A layer that consumed removed channels.

    Errors are the squared changes of the layer's sums, before its activation, relative to their variance on
    the data: 0 is exact, 1 is as bad as the mean.

    Attributes:
        path: String. Path of the layer, such as `"inner/dense"`.
        inputs: Tuple `(before, after)`. Units that the layer consumes: after a Flatten, several per channel.
        units: Tuple `(before, after)`. Units or channels of the layer itself.
        error_before: Float. The error without a refit.
        error_after: Float. The error afterwards.
        rows: Integer. Number of samples x positions of the fit.
        fitted_units: Integer. Number of units that are fitted together.
        seconds: Float. Time of the refit.
    """

    path: str
    inputs: tuple[int, int]
    units: tuple[int, int]
    error_before: float
    error_after: float
    rows: int
    fitted_units: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class PruneOnceReport:
    """The report of `tfap.prune_once`. Prints as a table.

    Attributes:
        layers: Tuple of `RefittedLayer`, one per layer that consumed removed channels, in graph order.
        unpruned: Tuple of `(path, reason)` of layers whose neurons are all kept.
        weights: Tuple `(before, after)`. Number of weights of the model.
        flops: Tuple `(before, after)`. FLOPs per sample; None if they are unknown.
        samples: Integer. Number of inputs that were used.
        recalibrated: Boolean. Whether BatchNormalization statistics were computed anew.
        seconds: Float. Time of everything.
        merges: Tuple of `tfap.compaction.merging.Merge`, one per channel that was merged into a similar one,
            without data. Errors of the layers are then what the weights tell, not measured.
        budget: `BudgetResult`: what the budget asked for, what was predicted, and what the model measures.
            None without a budget.
        rounded: `Rounded`: what `round_to` kept, and what it would be without. None if `round_to` is 1.
        allocation: `tfap.Allocation`: the fraction of channels per layer that was given, or that
            `scope="allocated"` chose. None for other scopes.
    """

    layers: tuple[RefittedLayer, ...]
    unpruned: tuple[tuple[str, str], ...]
    weights: tuple[int, int]
    flops: tuple[int | None, int | None]
    samples: int
    recalibrated: bool
    seconds: float
    merges: tuple[Merge, ...] = ()
    budget: BudgetResult | None = None
    rounded: Rounded | None = None
    allocation: Allocation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data: a dict of numbers, strings, tuples, and dicts."""
        allocation = None if self.allocation is None else self.allocation.to_dict()
        return {**dataclasses.asdict(self), "allocation": allocation}

    def __str__(self) -> str:
        table = tables.table_of(
            ["layer"], ["units", "kept", "inputs", "kept", "error without refit", "error", "seconds"]
        )
        for layer in self.layers:
            table.add_row(
                layer.path,
                *(f"{count:,}" for count in (*layer.units, *layer.inputs)),
                *(f"{error:.4f}" for error in (layer.error_before, layer.error_after)),
                f"{layer.seconds:.1f}",
            )
        return tables.as_text(table, *self._lines())

    __repr__ = __str__

    def _lines(self):
        before, after = self.weights
        yield f"Weights: {before:,} before, {after:,} after."
        if None not in self.flops:
            yield "FLOPs per sample: {:,} before, {:,} after.".format(*self.flops)
        done = "BatchNormalization statistics computed anew." if self.recalibrated else ""
        yield f"{self.samples:,} samples, {self.seconds:.1f} seconds. {done}".strip()
        if self.budget is not None:
            yield str(self.budget)
        if self.rounded is not None:
            yield str(self.rounded)
        if self.merges:
            exact = sum(merge.is_exact for merge in self.merges)
            yield (
                f"Merged without data: {exact:,} of {len(self.merges):,} removed channels are exact "
                f"multiples of kept ones"
                f"{'.' if exact == len(self.merges) else '; the outputs change by the others.'}"
            )
        few = [layer for layer in self.layers if layer.rows < layer.fitted_units]
        if few:
            yield (
                f"Fewer samples than units in {', '.join(layer.path for layer in few)}: the ridge decides "
                "there, so pass more samples if you have them."
            )
        for path, reason in self.unpruned:
            yield f"{path}: not pruned: {reason}."
