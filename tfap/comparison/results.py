"""What a comparison found."""

import csv
import math

from tfap.comparison import runs, store
from tfap.comparison.runs import Row


class Comparison:
    """The rows of a comparison.

    Attributes:
        rows: list of `Row`, "dense" first, then method by method.
        metrics: their names; the first is the main one.

    Raises:
        ValueError: there are no rows, or not all have the same metrics.
    """

    def __init__(self, rows):
        self.rows = list(rows)
        if not self.rows:
            raise ValueError("A comparison needs rows.")
        self.metrics = list(self.rows[0].metrics)
        for row in self.rows:
            if list(row.metrics) != self.metrics:
                raise ValueError(
                    f"The runs have different metrics: {row.run.name} has {', '.join(row.metrics)}, "
                    f"{self.rows[0].run.name} {', '.join(self.metrics)}."
                )

    @classmethod
    def from_directory(cls, path):
        """All finished runs in the `directory` of a `tfap.compare`, methods in the order of the alphabet.

        Raises:
            FileNotFoundError: there are none. ValueError: another JSON file is among them.
        """
        rows = store.Store(path).read_all()
        return cls(sorted(rows, key=lambda row: (row.method != runs.DENSE, *vars(row.run).values())))

    def to_csv(self, path):
        """Writes a line for each row; what is not known is empty."""
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0].to_dict()))
            writer.writeheader()
            writer.writerows(row.to_dict() for row in self.rows)

    @classmethod
    def from_csv(cls, path):
        """What `to_csv` wrote.

        Raises:
            ValueError: the file is another one.
        """
        with open(path, newline="") as file:
            try:
                return cls([_row(line) for line in csv.DictReader(file)])
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path} was not written by Comparison.to_csv: {error!r}.") from error


def _row(line):
    figures = {name: line.pop(name) for name in (*runs.BEFORE_METRICS, *runs.AFTER_METRICS)}
    flops = figures["flops_compacted"]
    return Row(
        figures["method"],
        float(figures["sparsity"]),
        int(figures["seed"]),
        {name: float(value or math.nan) for name, value in line.items()},
        float(figures["zeros"]),
        int(figures["weights"]),
        int(figures["weights_compacted"]),
        int(flops) if flops else None,
        float(figures["fit_seconds"]),
    )
