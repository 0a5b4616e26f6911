"""Budgets: how much of one resource a smaller model may use."""

import dataclasses
import difflib
import numbers
from collections.abc import Mapping
from typing import Any, TypeGuard

from tfap.budgets import costs
from tfap.exporting.formats import FORMATS
from tfap.graph.liveness import Liveness
from tfap.keras_compat.types import Model
from tfap.utils import checks

COUNTED = ("weights", "bytes", "flops")  # an integer is absolute, a float a fraction
TIMED = ("latency_ms", "speedup")
UNITS = (*COUNTED, *TIMED)
RUNTIMES = ("tflite", "onnx", "saved_model")
_OPTIONS = {"weights": (), "flops": (), "bytes": ("runtime",)}
_NAMES = {"flops": "FLOPs"}
_TIMED_OPTIONS = ("runtime", "batch_size", "threads")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much of one resource a whole model may use: all layers, with biases and statistics.

    Attributes:
        unit: String. "weights", "bytes" (of the exported file), "flops" (of one sample), "latency_ms" (of one
            call), or "speedup" (how many times as fast as the given model).
        amount: Number > 0. For the first three, an integer is absolute, and a float in (0, 1] is a fraction
            of what the given model uses. A `speedup` is at least 1.
        runtime: String. "tflite", "onnx" or "saved_model": the format of the file, and what runs it.
        batch_size: Integer >= 1. Samples per call.
        threads: Integer >= 1. Threads of the runtime. None for its default.
    """

    unit: str
    amount: float
    runtime: str = "tflite"
    batch_size: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        checks.choice("the unit of a budget", self.unit, UNITS)
        checks.choice("runtime", self.runtime, RUNTIMES)
        checks.integer("batch_size", self.batch_size)
        if self.threads is not None:
            checks.integer("threads", self.threads)
        _check_amount(self.unit, self.amount)
        if self.is_timed and self.runtime == "saved_model" and self.threads is not None:
            raise ValueError(
                f"threads must be None for runtime='saved_model', because TensorFlow has one setting per "
                f"process: received {self.threads}. Set it with tf.config.threading."
            )

    @classmethod
    def of(cls, value: "Budget | Mapping[str, Any]") -> "Budget":
        """Reads a budget from a dict, such as `{"flops": 0.5}` or `{"speedup": 2.0, "runtime": "onnx"}`.

        Args:
            value: Dict with one of the units, and options: `runtime` for "bytes"; `runtime`, `batch_size` and
                `threads` for "latency_ms" and "speedup". A `Budget` is returned as it is.

        Returns:
            A `Budget`.

        Raises:
            TypeError: If a value has the wrong type.
            ValueError: If a key is unknown, the units are not exactly one, an option does not fit the unit,
                or a value is out of its range.
            ImportError: If the runtime is not installed. The message has the pip command.

        Example:

        >>> from tfap.budgets.budget import Budget
        >>> Budget.of({"speedup": 2.0, "runtime": "onnx"})
        Budget(unit='speedup', amount=2.0, runtime='onnx', batch_size=1, threads=None)
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"A budget is a dict such as {{'flops': 0.5}}: received {value!r}.")
        for key in value:
            _check_key(key)
        units = [key for key in value if key in UNITS]
        if len(units) != 1:
            found = f"{len(units)}: {', '.join(units)}" if units else "none"
            raise ValueError(f"A budget has exactly one of {', '.join(UNITS)}: received {found}.")
        (unit,) = units
        options = {key: value[key] for key in value if key != unit}
        usable = _OPTIONS.get(unit, _TIMED_OPTIONS)
        for key in options:
            if key not in usable:
                raise ValueError(
                    f"A budget in {unit} has no {key}: received {dict(value)}. "
                    f"{f'It takes {_listed(usable)}' if usable else 'It takes no options'}."
                )
        budget = cls(unit, value[unit], **options)
        if budget.is_exported:
            FORMATS[budget.runtime].require()
        return budget

    @property
    def is_timed(self) -> bool:
        """Whether the budget is one of time, which only a measurement tells."""
        return self.unit in TIMED

    @property
    def is_exported(self) -> bool:
        """Whether models are exported to know whether they meet the budget."""
        return self.is_timed or self.unit == "bytes"

    @property
    def is_share(self) -> bool:
        """Whether the amount is a fraction of what the given model uses."""
        return self.unit in COUNTED and not isinstance(self.amount, numbers.Integral)

    def limit(self, own: float) -> float:
        """Returns the largest amount that meets the budget.

        Args:
            own: Number. What the given model uses: weights, bytes, FLOPs, or milliseconds per call.

        Returns:
            Float, in the same unit.
        """
        if self.unit == "speedup":
            return own / self.amount
        return self.amount * own if self.is_share else float(self.amount)

    def check_reachable(self, least: float, own: float) -> None:
        """Checks that a model with the fewest channels meets the budget.

        Args:
            least: Number. What it uses, in the unit of `limit`: weights, bytes, FLOPs, or milliseconds.
            own: Number. What the given model uses.

        Raises:
            ValueError: If it does not. The message has the least value that can be asked for.
        """
        if least > self.limit(own) * (1 + 1e-9):
            batch = (
                " A call of a small model is mostly overhead: a larger batch_size has less." * self.is_timed
            )
            raise ValueError(
                f"The budget of {self} cannot be met: with the fewest channels, {self._reached(least, own)}; "
                f"the given model has {self.amount_of(own)}. Ask for less, skip fewer layers, or round to a "
                f"smaller number of channels.{batch}"
            )

    def _reached(self, least, own):
        if self.unit == "speedup":
            return f"the model is {own / least:.2f}x as fast"
        share = f", {least / own:.1%} of its own" if self.is_share else ""
        return f"the model has {self.amount_of(least)}{share}"

    def amount_of(self, value: float) -> str:
        """Writes a value in the unit of `limit`, such as "1,024 bytes"."""
        if self.is_timed:
            return f"{value:.4g} ms"
        return f"{value:,.0f} {_NAMES.get(self.unit, self.unit)}"

    def cost(self, model: Model, liveness: Liveness) -> "costs.Cost":
        """Makes the cost of a model in the unit of the budget, by its kept channels.

        Args:
            model: The model without wrappers.
            liveness: Its `Liveness`.

        Returns:
            An object with `total`, what the whole model uses; `of(kept)`, what it uses with the kept channel
            groups, a boolean array; and `limit`, the largest value that meets the budget.

        Raises:
            ValueError: If FLOPs depend on undefined dimensions.
        """
        if self.unit == "flops":
            return costs.flops_cost(model, liveness, self.limit)
        return costs.weight_cost(model, liveness, self.limit)

    def __str__(self) -> str:
        amount = f"{self.amount:,}" if isinstance(self.amount, numbers.Integral) else f"{self.amount:g}"
        if self.is_share:
            return f"{self.amount:.1%} of the {_NAMES.get(self.unit, self.unit)}"
        where = f" in {self.runtime}" if self.is_exported else ""
        if self.is_timed:
            where += f", batch size {self.batch_size}"
        return {
            "latency_ms": f"{amount} ms{where}",
            "speedup": f"{amount}x as fast{where}",
        }.get(self.unit, f"{amount} {_NAMES.get(self.unit, self.unit)}{where}")


def is_budget(value: Any) -> "TypeGuard[Budget | Mapping[str, Any]]":
    """Returns whether an argument that also takes a sparsity, or a saved schedule, is a budget."""
    return isinstance(value, Budget) or (isinstance(value, Mapping) and "class_name" not in value)


def _check_key(key):
    known = (*UNITS, *_TIMED_OPTIONS)
    if key in known:
        return
    near = difflib.get_close_matches(str(key), known, 1, 0.5)
    advice = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(known)}."
    raise ValueError(f"A budget has no {key!r}. {advice}")


def _check_amount(unit, amount):
    value = checks.number(unit, amount)
    if unit == "speedup":
        if value < 1:
            raise ValueError(f"speedup must be at least 1: received {amount}.")
    elif value <= 0:
        raise ValueError(f"{unit} must be greater than 0: received {amount}.")
    elif unit in COUNTED and not isinstance(amount, numbers.Integral) and value > 1:
        raise ValueError(
            f"{unit} must be an integer, or a float in (0, 1], a fraction of the model's own: "
            f"received {amount}."
        )


def _listed(names):
    return ", ".join(names)
