"""Identifies the runs of a comparison, and stores their results."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from tfap.utils import files

DENSE = "dense"
BEFORE_METRICS = ("method", "sparsity", "seed")
AFTER_METRICS = ("zeros", "weights", "weights_compacted", "flops_compacted", "fit_seconds")


@dataclasses.dataclass(frozen=True)
class Run:
    """Identifies one run of a comparison.

    Attributes:
        method: String. Name of the method. "dense" is the training without pruning.
        sparsity: Float in (0, 1). Requested sparsity, or 0.0 for "dense".
        seed: Integer >= 0.

    Example:

    >>> Run("magnitude", 0.9, 2).name
    'magnitude-0.9-2'
    """

    method: str
    sparsity: float
    seed: int

    @property
    def name(self) -> str:
        """A name for files of the run."""
        return f"{self.method}-{self.sparsity!r}-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of one run. Rows are equal if they differ only in `fit_seconds`.

    Attributes:
        method: As in `Run`.
        sparsity: As in `Run`.
        seed: As in `Run`.
        metrics: Dict of name to float: the result of `evaluate`.
        zeros: Float. Fraction of zeros among all kernel weights (weights with two or more axes) of the model
            without wrappers. All methods have the same denominator.
        weights: Integer. Number of weights of the model without wrappers, biases and moving averages
            included.
        weights_compacted: Integer. Number of weights after `tfap.compact`.
        flops_compacted: Integer. FLOPs per sample after `tfap.compact`, as in `tfap.flops`. None if unknown.
        fit_seconds: Float. Time in `fit`.
    """

    method: str
    sparsity: float
    seed: int
    metrics: dict[str, float]
    zeros: float
    weights: int
    weights_compacted: int
    flops_compacted: int | None
    fit_seconds: float = dataclasses.field(compare=False)

    @property
    def run(self) -> Run:
        """The `Run` of the row."""
        return Run(self.method, self.sparsity, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Returns the values by name as a flat dict, in the order of the columns of the CSV file."""
        flat = {name: getattr(self, name) for name in BEFORE_METRICS} | self.metrics
        return flat | {name: getattr(self, name) for name in AFTER_METRICS}


def check_metric_names(names: Iterable[str]) -> None:
    """Raises ValueError if a metric has the name of another column."""
    taken = sorted({*BEFORE_METRICS, *AFTER_METRICS} & set(names))
    if taken:
        raise ValueError(f"evaluate returned metrics with the names of other columns: {', '.join(taken)}.")


_TYPES = {
    "method": str,
    "sparsity": float,
    "seed": int,
    "metrics": dict,
    "zeros": float,
    "weights": int,
    "weights_compacted": int,
    "flops_compacted": int | None,
    "fit_seconds": float,
}


class Store:
    """A directory of finished runs.

    Args:
        directory: Path of the directory, which is created with its parents when the first run is written.
            None stores nothing.

    Raises:
        NotADirectoryError: If `directory` is a file.
    """

    def __init__(self, directory: str | os.PathLike | None) -> None:
        self._folder = None if directory is None else pathlib.Path(directory)
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"'{directory}' is not a directory: pass another directory.")

    def write(self, row: Row, settings: str) -> None:
        """Writes a `Row` and the settings of its method to a file, atomically."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**vars(row), "settings": settings}, indent=1)
        files.replace(self._path(row.run), lambda file: file.write(text.encode()))

    def read(self, run: Run, settings: str) -> Row | None:
        """Reads the `Row` of a run, or returns None if it is not stored.

        Raises:
            ValueError: If the file is not this run, or its method had other settings.
        """
        if self._folder is None or not self._path(run).exists():
            return None
        row, stored_settings = _read(self._path(run))
        if row.run != run:
            raise ValueError(f"{self._path(run)} holds another run, {row.run}. {_FIX}")
        if stored_settings != settings:
            raise ValueError(
                f"{self._path(run)} was made with other settings of the method '{run.method}'. There: "
                f"{stored_settings}; now: {settings}. Give the method another name, or use another directory."
            )
        return row

    def read_all(self) -> list[Row]:
        """Reads the `Row`s of all runs in the directory.

        Raises:
            FileNotFoundError: If there are no runs.
            ValueError: If the directory contains another JSON file.
        """
        paths = [] if self._folder is None else sorted(self._folder.glob("*.json"))
        if not paths:
            raise FileNotFoundError(f"There are no finished runs in '{self._folder}'.")
        return [_read(path)[0] for path in paths]

    def _path(self, run):
        return self._folder / f"{run.name}.json"


_FIX = "Move it away, or use another directory."


def _read(path) -> tuple[Row, str]:
    """`(row, settings)` from a file."""
    try:
        fields = json.loads(path.read_text())
        settings = fields.pop("settings")
        row = Row(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a finished run of tfap.compare ({error}). {_FIX}") from error
    for name, expected in _TYPES.items():
        if not isinstance(getattr(row, name), expected):
            raise ValueError(
                f"{path} is not a finished run of tfap.compare: {name} is not of type {expected}. {_FIX}"
            )
    return row, settings
