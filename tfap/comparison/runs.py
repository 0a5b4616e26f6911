"""One run of a comparison: which it is, and what came out."""

import dataclasses
import json
import pathlib

from tfap.utils import files

DENSE = "dense"
BEFORE_METRICS = ("method", "sparsity", "seed")
AFTER_METRICS = ("zeros", "weights", "weights_compacted", "flops_compacted", "fit_seconds")


@dataclasses.dataclass(frozen=True)
class Run:
    """Which run it is.

    Attributes:
        method: its name; "dense" is the training without pruning.
        sparsity: asked for, in (0, 1); 0.0 if dense.
        seed: whole number.

    >>> Run("magnitude", 0.9, 2).name
    'magnitude-0.9-2'
    """

    method: str
    sparsity: float
    seed: int

    @property
    def name(self):
        """Can be the name of a file."""
        return f"{self.method}-{self.sparsity!r}-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of a finished run; see `Run` for the first three attributes.

    Attributes:
        metrics: name to number: what `evaluate` gave.
        zeros: share of all kernel weights (weights of at least two axes) of the plain model that are
            exactly 0: the same denominator for all methods.
        weights: of the plain model, biases and moving averages included.
        weights_compacted: of what `tfap.compact` makes of it.
        flops_compacted: of one sample through that; see `tfap.flops`. None if they are not known.
        fit_seconds: that `fit` took. Two rows that differ in nothing else are equal.
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
    def run(self):
        return Run(self.method, self.sparsity, self.seed)

    def to_dict(self):
        """The figures by name, flat, in the order of the CSV file's columns."""
        flat = {name: getattr(self, name) for name in BEFORE_METRICS} | self.metrics
        return flat | {name: getattr(self, name) for name in AFTER_METRICS}


def check_metric_names(names):
    """Raises ValueError where a metric has the name of another figure."""
    taken = sorted({*BEFORE_METRICS, *AFTER_METRICS} & set(names))
    if taken:
        raise ValueError(f"evaluate names a metric like another column: {', '.join(taken)}.")


_FIGURES = {
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
    """A folder of finished runs.

    Args:
        directory: made with its parents when the first run is written; None keeps nothing.
    """

    def __init__(self, directory):
        self._folder = None if directory is None else pathlib.Path(directory)
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"'{directory}' is no folder.")

    def write(self, row, settings):
        """Writes a `Row` with the text of its method's settings; a kill leaves no half of a file."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**vars(row), "settings": settings}, indent=1)
        files.replace(self._path(row.run), lambda file: file.write(text.encode()))

    def read(self, run, settings):
        """The `Row` of a run, None if it is not there.

        Raises:
            ValueError: the file is no such run, or its method had other settings.
        """
        if self._folder is None or not self._path(run).exists():
            return None
        row, made_with = _read(self._path(run))
        if row.run != run:
            raise ValueError(f"{self._path(run)} holds another run, {row.run}. {_AWAY}")
        if made_with != settings:
            raise ValueError(
                f"{self._path(run)} was made with other settings of the method '{run.method}'. There: "
                f"{made_with}; now: {settings}. Give the method another name, or use another directory."
            )
        return row

    def read_all(self):
        """The `Row`s of all runs in the folder.

        Raises:
            FileNotFoundError: there are none. ValueError: another JSON file is among them.
        """
        paths = sorted(self._folder.glob("*.json"))
        if not paths:
            raise FileNotFoundError(f"There are no finished runs in '{self._folder}'.")
        return [_read(path)[0] for path in paths]

    def _path(self, run):
        return self._folder / f"{run.name}.json"


_AWAY = "Move it away, or use another directory."


def _read(path):
    """`(Row, text of settings)`."""
    try:
        found = json.loads(path.read_text())
        settings = found.pop("settings")
        row = Row(**found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no finished run of tfap.compare ({error}). {_AWAY}") from error
    for name, kind in _FIGURES.items():
        if not isinstance(getattr(row, name), kind):
            raise ValueError(f"{path} is no finished run of tfap.compare: {name} is no {kind}. {_AWAY}")
    return row, settings
