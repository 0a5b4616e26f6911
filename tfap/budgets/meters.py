"""What exported models measure: the bytes of their files, and their time in a runtime."""

import pathlib
import shutil
import statistics
import tempfile
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from tfap.budgets.budget import Budget
from tfap.exporting.export import export
from tfap.exporting.formats import FORMATS, load_runtime
from tfap.exporting.runtime import Runtime
from tfap.exporting.sizes import disk_size
from tfap.keras_compat.inputs import random_arrays
from tfap.keras_compat.types import Model
from tfap.reporting import latency

UNDEFINED_SIZE = 32  # of undefined dimensions other than the batch, as in `tfap.export`
_SECONDS = 1.5  # per load of both files
_MOST_ROUNDS = 20_000
_LOADS, _MOST_LOADS = 3, 7  # more if the ratios differ
_SPREAD = 0.03  # of the ratios of several loads, from end to end


class Meter(Protocol):
    """Measures models in the unit of a budget's limit: bytes, or milliseconds per call."""

    def own(self) -> float:
        """Returns what the given model measures, which is known after the first measurement."""

    def of(self, model: Model) -> float:
        """Returns what a model measures."""


class Files:
    """Exports models to a temporary folder, which is deleted with this object, or after a `with` statement.

    Args:
        runtime: String. The format of the files.
    """

    def __init__(self, runtime: str) -> None:
        self._format, self._count = runtime, 0
        self._folder = tempfile.mkdtemp(prefix="tfap-")
        self._delete = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __enter__(self) -> "Files":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._delete()

    def write(self, model: Model) -> pathlib.Path:
        """Exports a model. Returns the path of the file."""
        self._count += 1
        path = pathlib.Path(self._folder, f"model_{self._count}{FORMATS[self._format].suffix}")
        return export(model, path, self._format, verify=False)  # type: ignore[arg-type]


def call_of(runtime: Runtime, batch_size: int) -> Callable[[], Any]:
    """Returns a function without arguments that runs a model on random inputs of a batch size."""
    if runtime.batch_size not in (None, batch_size):
        raise ValueError(
            f"The model has the fixed batch size {runtime.batch_size}: received a budget with batch_size="
            f"{batch_size}."
        )
    arrays = random_arrays(runtime.inputs, batch_size, UNDEFINED_SIZE)
    return lambda: runtime(*arrays)


class SizeMeter:
    """Measures the bytes of exported models.

    Args:
        model: The model that the budget compares with.
        budget: The `Budget`.
    """

    def __init__(self, model: Model, budget: Budget) -> None:
        self._model, self._budget = model, budget
        self._own: float | None = None

    def own(self) -> float:
        """Returns the bytes of the given model."""
        if self._own is None:
            self._own = self.of(self._model)
        return self._own

    def of(self, model: Model) -> float:
        """Returns the bytes of a model's file."""
        with Files(self._budget.runtime) as files:
            return float(disk_size(files.write(model)).raw)


class LatencyMeter:
    """Measures the time of exported models in turns with the given one, in milliseconds per call.

    The speed of a machine changes over time. A time is therefore the ratio to the given model in the same
    rounds, times the median of all times of the given model so far. It also depends on where a file happens
    to be in memory, so both are loaded several times.

    Args:
        model: The model that the budget compares with.
        budget: The `Budget`.
    """

    def __init__(self, model: Model, budget: Budget) -> None:
        self._budget, self._model = budget, model
        self._files = Files(budget.runtime)
        self._own_path: pathlib.Path | None = None
        self._own_times: list[float] = []

    def own(self) -> float:
        """Returns the median time of the given model."""
        if not self._own_times:
            calls = {"own": self._call(self._own_file())}
            self._own_times.append(latency.measure(calls, seconds=_SECONDS)["own"].median * 1e3)
        return statistics.median(self._own_times)

    def of(self, model: Model) -> float:
        """Returns the time of a model."""
        own, ratios = self._own_file(), []
        with Files(self._budget.runtime) as files:
            path = files.write(model)
            while len(ratios) < _LOADS or (len(ratios) < _MOST_LOADS and not _agree(ratios)):
                ratios.append(self._ratio(own, path))
        return statistics.median(ratios) * self.own()

    def _own_file(self):
        if self._own_path is None:
            self._own_path = self._files.write(self._model)
        return self._own_path

    def _ratio(self, own, path):
        calls = {"own": self._call(own), "model": self._call(path)}
        found = latency.measure(calls, "own", seconds=_SECONDS, most_rounds=_MOST_ROUNDS)
        self._own_times.append(found["own"].median * 1e3)
        ratio = found["model"].ratio
        assert ratio is not None  # of a model to the baseline
        return ratio.median

    def _call(self, path):
        return call_of(load_runtime(path, self._budget.threads), self._budget.batch_size)


def _agree(ratios):
    return max(ratios) - min(ratios) <= _SPREAD * statistics.median(ratios)


def meter_of(model: Model, budget: Budget) -> Meter:
    """Makes the `Meter` of a budget that needs exported files."""
    return LatencyMeter(model, budget) if budget.is_timed else SizeMeter(model, budget)
