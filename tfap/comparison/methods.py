"""Pruning methods to compare: how each wraps a model, trains it, and strips it."""

import collections
import dataclasses
import functools
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from tfap import criteria, keras_compat
from tfap.comparison.runs import DENSE
from tfap.criteria import Criterion
from tfap.criteria.gradient import NEEDS
from tfap.keras_compat.types import Model
from tfap.layers.settings import PruningSettings
from tfap.pruning.prune import prune, strip_pruning
from tfap.training.callbacks import UpdatePruningStep


@dataclasses.dataclass(frozen=True)
class Method:
    """A custom pruning method for `tfap.compare`.

    Attributes:
        prune: Function of `(model, sparsity)` that returns the model to train. The sparsity is in (0, 1).
        callbacks: Function without arguments that returns the list of callbacks for `fit`.
        strip: Function of the trained model that returns a model without wrappers, with zeros for the pruned
            weights. It must be compiled if `evaluate` needs that.

    Raises:
        TypeError: If an argument is not a function.

    Example:

    >>> dense = Method(lambda model, sparsity: model, callbacks=list, strip=lambda model: model)
    """

    prune: Callable[[Model, float], Model]
    callbacks: Callable[[], list]
    strip: Callable[[Model], Model]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            function = getattr(self, field.name)
            if not callable(function):
                raise TypeError(f"Method.{field.name} must be a function: received {function!r}.")

    def settings(self, sparsity: float) -> dict[str, Any]:
        """Returns what identifies the method at a sparsity in a stored run."""
        return {"Method": vars(self)}


_MethodSpec: TypeAlias = Criterion | str | Mapping[str, Any] | Method
# What `tfap.compare` takes as `methods`.
Methods: TypeAlias = Sequence[Criterion | str] | Mapping[str, _MethodSpec]


@dataclasses.dataclass(frozen=True)
class _TfapMethod:
    """`tfap.prune` with these arguments."""

    arguments: dict[str, Any]
    pruning_schedule: Callable[[float], Any] | None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the callback

    def _schedule(self, sparsity):
        return self.pruning_schedule(sparsity) if self.pruning_schedule else sparsity

    def prune(self, model, sparsity):
        return prune(model, self._schedule(sparsity), **self.arguments)

    def callbacks(self):
        return [UpdatePruningStep(**self.data)]

    def strip(self, model):
        return strip_pruning(model)

    def settings(self, sparsity):
        return {"tfap.prune": {**self.arguments, "pruning_schedule": self._schedule(sparsity)}}

    def check(self, sparsity):
        """Raises TypeError or ValueError for arguments that `tfap.prune` rejects."""
        arguments = {key: value for key, value in self.arguments.items() if key not in ("include", "skip")}
        settings = PruningSettings(self._schedule(sparsity), **arguments)
        wanted = {"gradient_data": NEEDS, "reconstruction_data": {"removal_errors"}}
        for name, needs in wanted.items():
            if settings.criterion.needs & needs and self.data.get(name) is None:
                raise ValueError(
                    f"{settings.criterion} needs data in its callback: pass {name} to tfap.compare, or a "
                    f"tfap.comparison.Method whose callbacks() are [tfap.UpdatePruningStep({name}=...)]."
                )


@dataclasses.dataclass(frozen=True)
class _DenseMethod:
    """Trains without pruning."""

    def prune(self, model, sparsity):
        return model

    def callbacks(self):
        return []

    def strip(self, model):
        return model

    def settings(self, sparsity):
        return {}


# -- from the arguments of `compare` ---------------------------------------------------------------


def named(
    methods: Methods,
    sparsities: Iterable[float],
    pruning_schedule: Callable[[float], Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Makes a dict of name to method, "dense" first, from the arguments of `tfap.compare`.

    `data` has the arguments of `tfap.UpdatePruningStep` for criteria that need data, by name.

    Raises:
        TypeError: If a method or an argument has the wrong type.
        ValueError: If a method or an argument is invalid.
    """
    _check_schedule_function(pruning_schedule)
    by_name: dict[str, Any] = {DENSE: _DenseMethod()}
    for name, spec in _names_and_specs(methods):
        _check_name(name, by_name)
        try:
            by_name[name] = _method_from(spec, pruning_schedule, data or {})
            for sparsity in sparsities:
                if isinstance(by_name[name], _TfapMethod):
                    by_name[name].check(sparsity)
        except (TypeError, ValueError) as error:
            raise type(error)(f"The method '{name}': {error}") from error
    if len(by_name) == 1:
        raise ValueError("There are no methods to compare: pass at least one.")
    return by_name


def _check_schedule_function(pruning_schedule):
    if pruning_schedule is not None and not callable(pruning_schedule):
        raise TypeError(
            "pruning_schedule must be a function from a sparsity to a PruningSchedule: received "
            f"{pruning_schedule!r}."
        )


def _names_and_specs(methods):
    if isinstance(methods, dict):
        return list(methods.items())
    if isinstance(methods, str | Criterion | Method) or not isinstance(methods, collections.abc.Iterable):
        raise TypeError(
            f"methods must be a list of criteria or a dict of name to method: received {methods!r}."
        )
    return [
        (keras_compat.snake_case(type(spec).__name__) if isinstance(spec, Criterion) else spec, spec)
        for spec in methods
    ]


def _check_name(name, taken):
    if not isinstance(name, str) or not re.fullmatch(r"[\w .,+=()-]+", name):
        raise ValueError(
            "The name of a method may have only letters, digits, spaces and _ . , + = ( ) -, because files "
            f"are named after it: received {name!r}."
        )
    if name == DENSE:
        raise ValueError(f"'{DENSE}' is always compared: give the method another name.")
    if name in taken:
        raise ValueError(f"There are two methods '{name}': pass a dict of name to criterion.")


def _method_from(spec, pruning_schedule, data):
    if isinstance(spec, Method):
        return spec
    if spec == "tfmot":
        return importlib.import_module("tfap.comparison.tfmot").Magnitude(pruning_schedule)  # imports tfmot
    arguments = dict(spec) if isinstance(spec, dict) else {"criterion": spec}
    pruning_schedule = arguments.pop("pruning_schedule", pruning_schedule)
    _check_schedule_function(pruning_schedule)
    known = list(inspect.signature(prune).parameters)[2:]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise TypeError(
            f"tfap.prune has no argument {', '.join(unknown)}. Its arguments are: {', '.join(known)}."
        )
    return _TfapMethod(
        arguments | {"criterion": criteria.get(arguments.get("criterion", "activation_count"))},
        pruning_schedule,
        data,
    )


# -- settings as text ------------------------------------------------------------------------------


def settings_text(method: Any, sparsity: float) -> str:
    """Returns the settings of a method at a sparsity as text, to compare with those of a stored run.

    The text contains only arguments that were passed, so new arguments of `tfap.prune` do not change it. It
    contains the names of functions, not what they do.
    """
    return json.dumps(_jsonable(method.settings(sparsity)), sort_keys=True)


def _jsonable(value):
    """Settings as JSON values without memory addresses, which differ between processes."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, set):  # the order differs between processes
        return sorted(json.dumps(_jsonable(item), sort_keys=True) for item in value)
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, functools.partial):
        return [_jsonable(part) for part in (value.func, value.args, value.keywords)]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return {"class": type(value).__qualname__, **_jsonable(getattr(value, "__dict__", {}))}
