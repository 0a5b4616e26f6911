"""What exported models measure: the bytes of their files, and their time in a runtime."""

import pathlib
import statistics
import tempfile
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
_SECONDS = (3.0, 8.0)  # the second if the first leaves a CI that is too wide
_MOST_ROUNDS = 20_000
_WIDE = 0.03  # of the 95% CI of a ratio, from end to end


class Meter(Protocol):
    """Measures models in the unit of a budget's limit: bytes, or milliseconds per call."""

    def own(self) -> float:
        """Returns what the given model measures, which is known after the first measurement."""

    def of(self, model: Model) -> float:
        """Returns what a model measures."""


class Files:
    """Exports models to a temporary folder. Use it in a `with` statement.

    Args:
        runtime: String. The format of the files.
    """

    def __init__(self, runtime: str) -> None:
        self._format, self._count = runtime, 0
        self._folder = tempfile.TemporaryDirectory(prefix="tfap-")

    def __enter__(self) -> "Files":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def write(self, model: Model) -> pathlib.Path:
        """Exports a model. Returns the path of the file."""
        self._count += 1
        path = pathlib.Path(self._folder.name, f"model_{self._count}{FORMATS[self._format].suffix}")
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
    rounds, times the median of all times of the given model so far.

    Args:
        model: The model that the budget compares with.
        budget: The `Budget`.
    """

    def __init__(self, model: Model, budget: Budget) -> None:
        self._model, self._budget = model, budget
        self._call: Callable[[], Any] | None = None
        self._own_times: list[float] = []

    def own(self) -> float:
        """Returns the median time of the given model."""
        if not self._own_times:
            self._own_times.append(self._measured({"own": self._own_call()})["own"].median * 1e3)
        return statistics.median(self._own_times)

    def of(self, model: Model) -> float:
        """Returns the time of a model."""
        own = self._own_call()
        with Files(self._budget.runtime) as files:
            found = self._measured({"own": own, "model": self._call_of(model, files)}, "own")
        self._own_times.append(found["own"].median * 1e3)
        ratio = found["model"].ratio
        assert ratio is not None  # of a model to the baseline
        return ratio.median * self.own()

    def _own_call(self):
        if self._call is None:
            with Files(self._budget.runtime) as files:
                self._call = self._call_of(self._model, files)
                self._call()  # LiteRT reads the file when it is first run
        return self._call

    def _call_of(self, model, files):
        runtime = load_runtime(files.write(model), self._budget.threads)
        return call_of(runtime, self._budget.batch_size)

    def _measured(self, calls, baseline=None):
        for seconds in _SECONDS:
            found = latency.measure(calls, baseline, seconds=seconds, most_rounds=_MOST_ROUNDS)
            ratios = [entry.ratio for entry in found.values() if entry.ratio is not None]
            if all(ratio.high - ratio.low <= _WIDE * ratio.median for ratio in ratios):
                break
        return found


def meter_of(model: Model, budget: Budget) -> Meter:
    """Makes the `Meter` of a budget that needs exported files."""
    return LatencyMeter(model, budget) if budget.is_timed else SizeMeter(model, budget)
