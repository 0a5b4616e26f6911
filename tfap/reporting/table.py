"""Reports as data: one row of figures per model, printed as a table with a verdict."""

import collections.abc
import csv
import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any, overload

import rich.filesize

from tfap.graph.counts import ActivationCounts
from tfap.reporting.html import page
from tfap.reporting.latency import Latency, Ratio
from tfap.reporting.layers import LayerFigures
from tfap.utils import tables

# Fraction by which two measurements of one model differ on a busy machine.
_NOISE = 0.05
# Fraction of zeros, in addition to the baseline's, from which the verdict mentions them.
_MANY_ZEROS = 0.1


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """Holds the figures of one model. Unknown figures are None.

    Attributes:
        name: String. Name of the model.
        format: String. "keras", "saved_model", "tflite" or "onnx".
        weights: Integer. Number of weights, including biases and moving averages.
        nonzero: Integer. Number of weights that are not zero.
        bytes: Integer. Size on disk. For a Keras model, that of its SavedModel.
        gzipped_bytes: Integer. Size of a `.tar.gz` archive of it.
        flops: Integer. FLOPs of one sample. See `tfap.flops`.
        latency: Dict of batch size to `tfap.reporting.latency.Latency`.
        score: Float. The accuracy, or the result of the metric.
        layers: Tuple of `tfap.reporting.layers.LayerFigures`. Empty for files without a Keras model.
    """

    name: str
    format: str
    weights: int | None = None
    nonzero: int | None = None
    bytes: int | None = None
    gzipped_bytes: int | None = None
    flops: int | None = None
    latency: dict[int, Latency] = dataclasses.field(default_factory=dict)
    score: float | None = None
    layers: tuple[LayerFigures, ...] = ()

    @property
    def sparsity(self) -> float | None:
        """Float in [0, 1]. Fraction of weights that are zero."""
        return None if not self.weights or self.nonzero is None else 1 - self.nonzero / self.weights

    def to_dict(self) -> dict[str, Any]:
        """Converts the figures to a flat dict.

        Returns:
            A dict of name to figure. For each batch size n, it has the latency in milliseconds
            (`batch_n_ms`), its percentiles (`_p5` and `_p95`), and its ratio to the baseline's
            (`batch_n_ratio`) with its 95% CI (`_low` and `_high`).
        """
        row: dict[str, Any] = {"format": self.format, "weights": self.weights, "nonzero": self.nonzero}
        row |= {"sparsity": self.sparsity, "bytes": self.bytes, "gzipped_bytes": self.gzipped_bytes}
        row |= {"flops": self.flops}
        for batch_size, latency in self.latency.items():
            row |= _flat(f"batch_{batch_size}", latency)
        return row


def _flat(name, latency):
    ratio = latency.ratio or Ratio(None, None, None)
    return {
        f"{name}_ms": 1000 * latency.median,
        f"{name}_ms_p5": 1000 * latency.low,
        f"{name}_ms_p95": 1000 * latency.high,
        f"{name}_ratio": ratio.median,
        f"{name}_ratio_low": ratio.low,
        f"{name}_ratio_high": ratio.high,
    }


def check_metric_name(name: str, batch_sizes: Iterable[int]) -> None:
    """Checks that a score has a column of its own in `Report.to_dict` and `Report.to_csv`.

    Args:
        name: String. Name of the score.
        batch_sizes: Batch sizes whose latency is reported.

    Raises:
        ValueError: If another figure has the name.
    """
    latencies = {batch_size: Latency(0.0, 0.0, 0.0, 0) for batch_size in batch_sizes}
    taken = ["model", *ModelReport("", "", latency=latencies).to_dict()]
    if name in taken:
        raise ValueError(
            f"The metric is named '{name}', like another column of the report. Expected a name that is not "
            f"among {', '.join(taken)}: rename the function."
        )


class Report(collections.abc.Sequence[ModelReport]):
    """Holds the `ModelReport`s of several models. Prints as a table with the verdict.

    Args:
        rows: Iterable of `ModelReport`s.
        baseline: String. Name of the model to compare the others with. None for no comparison.
        metric: String. Name of the score, which no other figure has.
        notes: Iterable of strings. Sentences on what the figures leave out.
        samples: Integer. Number of samples of the score. None if unknown.

    Raises:
        ValueError: If `metric` is the name of another figure.

    Attributes:
        baseline: The argument.
        metric: The argument.
        notes: Tuple of strings.
        samples: The argument.
    """

    def __init__(
        self,
        rows: Iterable[ModelReport],
        baseline: str | None = None,
        metric: str = "accuracy",
        notes: Iterable[str] = (),
        samples: int | None = None,
    ) -> None:
        self._rows = tuple(rows)
        check_metric_name(metric, {batch_size for row in self._rows for batch_size in row.latency})
        self.baseline = baseline
        self.metric = metric
        self.notes = tuple(notes)
        self.samples = samples

    @overload
    def __getitem__(self, index: int | str) -> ModelReport: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ModelReport, ...]: ...

    def __getitem__(self, index):
        """Returns a row by its index or by the name of its model."""
        if isinstance(index, str):
            return {row.name: row for row in self._rows}[index]
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def verdict(self) -> str:
        """String. What pruning saves, in sentences, with one line per model."""
        base = None if self.baseline is None else self[self.baseline]
        return "\n".join(filter(None, (_verdict(row, base) for row in self._rows if row is not base)))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Converts the report to plain data.

        Returns:
            A dict of model name to a flat dict of its figures and its score. Unknown figures are None.
        """
        return {row.name: {**row.to_dict(), self.metric: row.score} for row in self._rows}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the report to a CSV file, with one line per model. Unknown figures are empty.

        Args:
            path: Path of the file.
        """
        rows = [{"model": name, **figures} for name, figures in self.to_dict().items()]
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        activations: Mapping[str, Any] | None = None,
        sensitivity: Any = None,
    ) -> None:
        """Writes the report to a page of HTML: one file, which loads nothing from elsewhere.

        The page has the verdict, the figures, accuracy against latency with intervals, and a bar per layer
        and model. It follows the light or dark mode of the reader, and can be printed and read on a phone.

        Args:
            path: Path of the file. It is complete or unchanged, also after an interruption.
            title: String. Title of the page. None for one with the names of the models.
            activations: Dict of model name to the result of `tfap.measure_activations`, for histograms of
                firing rates and a table of dead neurons. For a single model, the result itself.
            sensitivity: Result of `tfap.sensitivity`, for a heat map.

        Raises:
            ValueError: If `activations` names a model that is not in the report.
            OSError: If the file cannot be written.

        Example:

        >>> import keras, pathlib, tempfile, tfap
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tfap.report(model, batch_sizes=()).to_html(f"{folder}/report.html")
        ...     page = pathlib.Path(f"{folder}/report.html").read_text()
        >>> page[:15], "At a glance" in page
        ('<!DOCTYPE html>', True)
        """
        given = dict(activations or {})
        if given and all(isinstance(counts, ActivationCounts) for counts in given.values()):
            given = {self._rows[0].name: given}
        unknown = sorted(set(given) - {row.name for row in self._rows})
        if unknown:
            raise ValueError(
                f"activations has {', '.join(map(repr, unknown))}; expected names of models of the report: "
                f"{', '.join(row.name for row in self._rows)}."
            )
        page.write(path, page.of_report(self, title, given, sensitivity))

    def __str__(self) -> str:
        batch_sizes = list(self._rows[0].latency)
        headings = ["weights", "non-zero", "sparsity", "on disk", "gzipped", "FLOPs"]
        headings += [f"ms, batch {batch_size}" for batch_size in batch_sizes]
        table = tables.table_of(["model"], [*headings, self.metric])
        for row in self._rows:
            table.add_row(*_cells(row, batch_sizes), self._score(row))
        return tables.as_text(table, *filter(None, (*self.verdict.splitlines(), *self.notes)))

    __repr__ = __str__

    def _score(self, row):
        return _or_dash("{:.2%}".format if self.metric == "accuracy" else "{:.4g}".format, row.score)


# -- the table -------------------------------------------------------------------------------------


def _cells(row, batch_sizes):
    return [
        row.name,
        _or_dash("{:,}".format, row.weights),
        _or_dash("{:,}".format, row.nonzero),
        _or_dash("{:.1%}".format, row.sparsity),
        _or_dash(rich.filesize.decimal, row.bytes),
        _or_dash(rich.filesize.decimal, row.gzipped_bytes),
        _or_dash("{:,}".format, row.flops),
        *(_latency_text(row.latency[batch_size]) for batch_size in batch_sizes),
    ]


def _or_dash(write, value):
    return "-" if value is None else write(value)


def _latency_text(latency):
    """Formats the median and percentiles and, on a second line, the ratio to the baseline."""
    text = f"{1000 * latency.median:.3g} ({1000 * latency.low:.3g} to {1000 * latency.high:.3g})"
    return f"{text}\n{_ratio_text(latency.ratio)}" if latency.ratio else text


def _ratio_text(ratio):
    return f"x {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


# -- the verdict -----------------------------------------------------------------------------------

_FASTER = "faster"
_NOT_FASTER = "not measurably faster"
_LIKE_ANY_NUMBER = "The zeros are stored and computed like any number: compact() removes whole neurons."


def _verdict(row, base):
    """Returns the verdict on one model, or None if it is not worth a line."""
    sentences = _verdict_alone(row) if base is None else _verdict_against_base(row, base)
    return f"{row.name}: {sentences}" if sentences else None


def _verdict_alone(row):
    if not row.weights or row.sparsity < _MANY_ZEROS:
        return None
    return f"{row.sparsity:.1%} of its weights are zero. {_LIKE_ANY_NUMBER}"


def _verdict_against_base(row, base):
    sentences = [_zeros(row, base), _savings(row, base), _speed(row)]
    if _has_more_zeros(row, base):
        # If kernels of the same size run faster, the runtime skips zeros.
        skips_zeros = _same_size(row, base) and _FASTER in _speeds(row).values()
        sentences += [None if skips_zeros else _LIKE_ANY_NUMBER, _compression(row, base)]
    return " ".join(filter(None, sentences))


def _has_more_zeros(row, base):
    return None not in (row.sparsity, base.sparsity) and row.sparsity - base.sparsity >= _MANY_ZEROS


def _same_size(row, base):
    return row.weights is not None and row.weights == base.weights


def _zeros(row, base):
    kernels = f"kernels are of the same size as those of '{base.name}'"
    if not _has_more_zeros(row, base):
        return f"Its {kernels}." if _same_size(row, base) else None
    zeros = f"{row.sparsity:.1%} of its weights are zero"
    return f"{zeros}, but its {kernels}." if _same_size(row, base) else f"{zeros}."


def _savings(row, base):
    sizes = (
        ("weights", base.weights, row.weights),
        ("FLOPs", base.flops, row.flops),
        ("bytes", base.bytes, row.bytes),
    )
    fewer = [
        f"{before / after:.1f} times fewer {unit}"
        for unit, before, after in sizes
        if before and after and before / after >= 1 + _NOISE
    ]
    return f"It has {', '.join(fewer)}." if fewer else None


def _speed(row):
    """Compares the latency with the baseline's, for each batch size."""
    speeds = _speeds(row)
    ratios = {batch_size: _ratio_text(row.latency[batch_size].ratio) for batch_size in speeds}
    if set(speeds.values()) == {_NOT_FASTER}:
        figures = "; ".join(f"batch {batch_size}: {ratio}" for batch_size, ratio in ratios.items())
        return f"It is {_NOT_FASTER} ({figures})."
    clauses = [f"{speed} at batch {size} ({ratios[size]})" for size, speed in speeds.items()]
    return f"It is {', '.join(clauses)}." if clauses else None


def _speeds(row):
    """Returns `{batch size: adjective}`."""
    return {size: _speed_of(latency.ratio) for size, latency in row.latency.items() if latency.ratio}


def _speed_of(ratio):
    if ratio.high < 1 - _NOISE:
        return _FASTER
    return "slower" if ratio.low > 1 + _NOISE else _NOT_FASTER


def _compression(row, base):
    if not (base.gzipped_bytes and row.gzipped_bytes and _same_size(row, base)):
        return None
    factor = base.gzipped_bytes / row.gzipped_bytes
    return f"Only its gzipped file is smaller, {factor:.1f} times." if factor >= 1 + _NOISE else None
