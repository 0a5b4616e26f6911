"""What pruning brought, as data: rows of figures, printed as a table with a verdict in words."""

import collections
import csv
import dataclasses

import rich.filesize

from tfap.reporting.latency import Latency, Ratio
from tfap.utils import tables

# Two measurements of one model differ by this share on a busy machine; less is no difference.
_NOISE = 0.05
# A share of zeros, beyond the baseline's, that deserves a word.
_MANY_ZEROS = 0.1


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The figures of one model; None for what is not known of it.

    Attributes:
        name: its row.
        format: what it runs as, such as "keras", "saved_model" or "tflite".
        weights: all its weights, biases and moving averages included.
        nonzero: how many of them are not zero.
        bytes: on disk; of a live model those of its SavedModel.
        gzipped_bytes: of the same in a `.tar.gz`.
        flops: floating-point operations of one sample; see `tfap.flops`.
        latency: `latency.Latency` by batch size.
        score: accuracy, or what the metric gave.
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

    @property
    def sparsity(self):
        """The share of weights that are zero."""
        return 1 - self.nonzero / self.weights if self.weights else None

    def to_dict(self):
        """The figures by name, flat: of each batch size milliseconds, percentiles and ratio."""
        row = {"format": self.format, "weights": self.weights, "nonzero": self.nonzero}
        row |= {"sparsity": self.sparsity, "bytes": self.bytes, "gzipped_bytes": self.gzipped_bytes}
        row |= {"flops": self.flops}
        for batch, taken in self.latency.items():
            row |= _flat(f"batch_{batch}", taken)
        return row


def _flat(name, taken):
    ratio = taken.ratio or Ratio(None, None, None)
    return {
        f"{name}_ms": 1000 * taken.median,
        f"{name}_ms_p5": 1000 * taken.low,
        f"{name}_ms_p95": 1000 * taken.high,
        f"{name}_ratio": ratio.median,
        f"{name}_ratio_low": ratio.low,
        f"{name}_ratio_high": ratio.high,
    }


class Report(collections.abc.Sequence):
    """The `ModelReport`s of models side by side. Prints as a table with the verdict.

    Attributes:
        baseline: name of the model that the others are compared with, or None.
        metric: name of the score.
        notes: what the figures leave out, as sentences.
    """

    def __init__(self, rows, baseline=None, metric="accuracy", notes=()):
        self._rows = tuple(rows)
        self.baseline = baseline
        self.metric = metric
        self.notes = tuple(notes)

    def __getitem__(self, index):
        """A row by its number or by the model's name."""
        if isinstance(index, str):
            return {row.name: row for row in self._rows}[index]
        return self._rows[index]

    def __len__(self):
        return len(self._rows)

    @property
    def verdict(self):
        """What pruning brought each model, in plain words, a line each."""
        base = None if self.baseline is None else self[self.baseline]
        return "\n".join(filter(None, (_verdict(row, base) for row in self._rows if row is not base)))

    def to_dict(self):
        """`{model: {figure: value}}`; None for what is not known."""
        return {row.name: {**row.to_dict(), self.metric: row.score} for row in self._rows}

    def to_csv(self, path):
        """Writes `to_dict()` as a CSV file, a line for a model; what is not known is empty.

        Args:
            path: of the file.
        """
        rows = [{"model": name, **figures} for name, figures in self.to_dict().items()]
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def __str__(self):
        batches = list(self._rows[0].latency)
        headings = ["weights", "non-zero", "sparsity", "on disk", "gzipped", "FLOPs"]
        headings += [f"ms, batch {batch}" for batch in batches]
        table = tables.table_of(["model"], [*headings, self.metric])
        for row in self._rows:
            table.add_row(*_cells(row, batches), self._score(row))
        return tables.as_text(table, *filter(None, (*self.verdict.splitlines(), *self.notes)))

    __repr__ = __str__

    def _score(self, row):
        return _or_dash(f"{{:{'.2%' if self.metric == 'accuracy' else '.4g'}}}".format, row.score)


# -- the table -------------------------------------------------------------------------------------


def _cells(row, batches):
    return [
        row.name,
        _or_dash("{:,}".format, row.weights),
        _or_dash("{:,}".format, row.nonzero),
        _or_dash("{:.1%}".format, row.sparsity),
        _or_dash(rich.filesize.decimal, row.bytes),
        _or_dash(rich.filesize.decimal, row.gzipped_bytes),
        _or_dash("{:,}".format, row.flops),
        *(_time(row.latency[batch]) for batch in batches),
    ]


def _or_dash(write, value):
    return "-" if value is None else write(value)


def _time(taken):
    """Median and percentiles; below them the ratio to the baseline with its interval."""
    text = f"{1000 * taken.median:.3g} ({1000 * taken.low:.3g} to {1000 * taken.high:.3g})"
    return f"{text}\n{_times(taken.ratio)}" if taken.ratio else text


def _times(ratio):
    return f"x {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


# -- the verdict -----------------------------------------------------------------------------------

_NO_FASTER = "not measurably faster"
_LIKE_ANY_NUMBER = "The zeros are stored and computed like any number: compact() removes whole neurons."


def _verdict(row, base):
    """A line on one model, None if there is nothing to say."""
    said = _alone(row) if base is None else _compared(row, base)
    return f"{row.name}: {said}" if said else None


def _alone(row):
    if not row.weights or row.sparsity < _MANY_ZEROS:
        return None
    return f"{row.sparsity:.1%} of its weights are zero. {_LIKE_ANY_NUMBER}"


def _compared(row, base):
    sentences = [_zeros(row, base), _savings(row, base), _speed(row)]
    if _has_more_zeros(row, base):
        # A runtime that skips zeros would be faster with kernels of the same size.
        skips_zeros = _same_size(row, base) and "faster" in _speeds(row).values()
        sentences += [None if skips_zeros else _LIKE_ANY_NUMBER, _compression(row, base)]
    return " ".join(filter(None, sentences))


def _has_more_zeros(row, base):
    return None not in (row.sparsity, base.sparsity) and row.sparsity - base.sparsity >= _MANY_ZEROS


def _same_size(row, base):
    return row.weights is not None and row.weights == base.weights


def _zeros(row, base):
    same = f"its kernels are of the same size as those of '{base.name}'"
    if not _has_more_zeros(row, base):
        return f"{same[0].upper()}{same[1:]}." if _same_size(row, base) else None
    zeros = f"{row.sparsity:.1%} of its weights are zero"
    return f"{zeros}, but {same}." if _same_size(row, base) else f"{zeros}."


def _savings(row, base):
    sizes = (
        ("weights", base.weights, row.weights),
        ("FLOPs", base.flops, row.flops),
        ("bytes", base.bytes, row.bytes),
    )
    fewer = [
        f"{old / new:.1f} times fewer {what}"
        for what, old, new in sizes
        if old and new and old / new >= 1 + _NOISE
    ]
    return f"It has {', '.join(fewer)}." if fewer else None


def _speed(row):
    """How the time compares with the baseline's, by batch size."""
    speeds = _speeds(row)
    times = {batch: _times(row.latency[batch].ratio) for batch in speeds}
    if set(speeds.values()) == {_NO_FASTER}:
        figures = "; ".join(f"batch {batch}: {ratio}" for batch, ratio in times.items())
        return f"It is {_NO_FASTER} ({figures})."
    said = [f"{speed} at batch {batch} ({times[batch]})" for batch, speed in speeds.items()]
    return f"It is {', '.join(said)}." if said else None


def _speeds(row):
    """What the times say, by batch size; a difference within the noise says nothing."""
    return {batch: _speed_of(taken.ratio) for batch, taken in row.latency.items() if taken.ratio}


def _speed_of(ratio):
    if ratio.high < 1 - _NOISE:
        return "faster"
    return "slower" if ratio.low > 1 + _NOISE else _NO_FASTER


def _compression(row, base):
    if not (base.gzipped_bytes and row.gzipped_bytes and _same_size(row, base)):
        return None
    times = base.gzipped_bytes / row.gzipped_bytes
    return f"Only its gzipped file is smaller, {times:.1f} times." if times >= 1 + _NOISE else None
