"""What `tfap.sensitivity` measured: a table, a CSV file, and a heat map."""

import csv
import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import rich.table

from tfap.compaction.planned_units import HEADS_SUFFIX
from tfap.utils import plots, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Removal:
    """What removing some channels of one coupled set changes.

    Attributes:
        rate: Float in (0, 1). The fraction of channels that was asked for.
        removed: Integer. The number of channels that were removed.
        compensate: Boolean. Whether the weights that are kept were refitted.
        change: Float >= 0. Squared change of the outputs relative to their variance: 0 is no change, 1 is as
            bad as the mean.
        score: Float. The metric. None without labels.
    """

    rate: float
    removed: int
    compensate: bool
    change: float
    score: float | None


@dataclasses.dataclass(frozen=True)
class CoupledSet:
    """The sensitivity of one layer, or of coupled layers, whose channels are removed together.

    Attributes:
        layers: Tuple of strings. Paths of all layers that have these channels as outputs. For heads, the path
            of the attention layer and ":heads".
        channels: Integer. The number of channels that can be removed together with their coupled ones.
        removals: Tuple of `Removal`, by `compensate` and rate.
    """

    layers: tuple[str, ...]
    channels: int
    removals: tuple[Removal, ...]

    @property
    def name(self) -> str:
        """String. The paths of all layers."""
        return " + ".join(self.layers)

    def of(self, compensate: bool) -> list[Removal]:
        """Lists the removals with or without the refit, by their number of channels."""
        return sorted(
            (each for each in self.removals if each.compensate is compensate), key=lambda each: each.removed
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Sensitivity:
    """The result of `tfap.sensitivity`. Prints as a table.

    Attributes:
        rows: Tuple of `CoupledSet`, in graph order.
        rates: Tuple of floats. The fractions of channels.
        compensate: Tuple of booleans. Whether weights were refitted.
        criterion: String. The criterion that chose the channels.
        samples: Integer. The number of samples on which outputs were compared.
        metric: String. Name of the metric. None without labels.
        score: Float. The metric of the given model. None without labels.
        seconds: Float. Time of everything.
    """

    rows: tuple[CoupledSet, ...]
    rates: tuple[float, ...]
    compensate: tuple[bool, ...]
    criterion: str
    samples: int
    metric: str | None
    score: float | None
    seconds: float = dataclasses.field(compare=False)

    def __getitem__(self, path: str) -> CoupledSet:
        """Returns the row of a layer by its path, also if it is coupled to others.

        Raises:
            KeyError: If no row has the layer.
        """
        for row in self.rows:
            if path in row.layers:
                return row
        raise KeyError(f"'{path}' is in no row: the rows are {', '.join(row.name for row in self.rows)}.")

    @property
    def has_heads(self) -> bool:
        """Boolean. Whether heads of attention layers are among the rows."""
        return any(row.name.endswith(HEADS_SUFFIX) for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain data: a dict of numbers, strings, tuples, and dicts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Sensitivity":
        """Makes the result from what `to_dict` returned, also after a round trip through JSON."""
        rows = tuple(row_from_dict(row) for row in values["rows"])
        fields = {
            name: value for name, value in values.items() if name not in ("rows", "rates", "compensate")
        }
        return cls(rows, tuple(values["rates"]), tuple(values["compensate"]), **fields)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one line per removal to a CSV file.

        Args:
            path: Path of the file.
        """
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            columns = [field.name for field in dataclasses.fields(Removal)]
            writer.writerow(["layers", "channels", *columns])
            for row in self.rows:
                for removal in row.removals:
                    writer.writerow([row.name, row.channels, *dataclasses.astuple(removal)])

    def plot(self, path: str | os.PathLike[str] | None = None, compensate: bool | None = None) -> "Figure":
        """Plots a heat map: a row per coupled set, a column per rate.

        Args:
            path: Path of an image file to write. None writes none.
            compensate: Boolean. Whether to plot the changes with the refit. None for with, if measured.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed. The message has the pip command.
            ValueError: If this was not measured.
        """
        refit = self._measured(compensate)
        values = [[self._shown(removal) for removal in self._by_rate(row, refit)] for row in self.rows]
        figure = plots.heat_map(
            np.array(values, float),
            [row.name for row in self.rows],
            [f"{rate:.0%}" for rate in self.rates],
            "channels removed",
            self._measure() + (" with the refit" if refit else " without the refit"),
        )
        if path is not None:
            figure.savefig(path)
        return figure

    def table(self) -> rich.table.Table:
        """Returns a rich table with one line per coupled set, with and without the refit."""
        table = tables.table_of(["layers"], ["channels", "refit", *(f"{rate:.0%}" for rate in self.rates)])
        for row in self.rows:
            for at, refit in enumerate(self.compensate):
                cells = [self._text(removal) for removal in self._by_rate(row, refit)]
                names = ("", "") if at else ("\n+ ".join(row.layers), f"{row.channels:,}")
                table.add_row(*names, "yes" if refit else "no", *cells)
        return table

    def __str__(self) -> str:
        return tables.as_text(self.table(), *self._lines())

    __repr__ = __str__

    def _lines(self):
        yield f"{self._measure()[0].upper()}{self._measure()[1:]}, of pruning each row alone."
        if self.score is not None:
            yield f"Without pruning: {self._score_text(self.score)}."
        yield f"{self.samples:,} samples, channels chosen by {self.criterion}, {self.seconds:.1f} seconds."

    def _measured(self, compensate):
        refit = self.compensate[-1] if compensate is None else compensate
        if refit not in self.compensate:
            raise ValueError(
                f"This was measured with compensate={self.compensate}: received compensate={compensate!r}. "
                "Pass both to tfap.sensitivity."
            )
        return refit

    def _by_rate(self, row, refit):
        found = {removal.rate: removal for removal in row.removals if removal.compensate is refit}
        return [found[rate] for rate in self.rates]

    def _measure(self):
        return "relative squared change of the outputs" if self.score is None else str(self.metric)

    def _shown(self, removal):
        return removal.change if self.score is None else removal.score

    def _text(self, removal):
        return f"{removal.change:.3g}" if self.score is None else self._score_text(removal.score)

    def _score_text(self, score):
        return f"{score:.1%}" if self.metric == "accuracy" else f"{score:.4g}"


def row_from_dict(row: Mapping[str, Any]) -> CoupledSet:
    """Makes a row from plain data.

    Raises:
        KeyError: If a field is missing.
        TypeError: If a field is unknown.
    """
    removals: Iterable[Mapping[str, Any]] = row["removals"]
    return CoupledSet(
        tuple(row["layers"]), int(row["channels"]), tuple(Removal(**removal) for removal in removals)
    )
