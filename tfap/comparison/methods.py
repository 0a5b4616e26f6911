"""What is compared: ways to make a model that prunes itself while it trains, under their names."""

import collections
import dataclasses
import functools
import inspect
import json
import re

from tfap import criteria, keras_compat
from tfap.comparison import tfmot
from tfap.comparison.runs import DENSE
from tfap.criteria import Criterion
from tfap.layers.settings import PruningSettings
from tfap.pruning.prune import prune, strip_pruning
from tfap.training.callbacks import UpdatePruningStep


@dataclasses.dataclass(frozen=True)
class Method:
    """Any way of pruning, for `tfap.compare`.

    Attributes:
        prune: function of `(model, sparsity)` that returns the model to train; the sparsity is in (0, 1).
        callbacks: function without arguments that returns the list of callbacks for a fit.
        strip: function of the trained model that returns a plain one with the pruned weights zero. It
            must be compiled if `evaluate` needs that.

    >>> nothing = Method(lambda model, sparsity: model, callbacks=list, strip=lambda model: model)
    """

    prune: collections.abc.Callable
    callbacks: collections.abc.Callable
    strip: collections.abc.Callable

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not callable(getattr(self, field.name)):
                raise TypeError(f"Method.{field.name} must be a function: {getattr(self, field.name)!r}.")

    def settings(self, sparsity):
        return {"Method": vars(self)}


@dataclasses.dataclass(frozen=True)
class _Tfap:
    """`tfap.prune` with these arguments."""

    arguments: dict
    pruning_schedule: object

    def _schedule(self, sparsity):
        return self.pruning_schedule(sparsity) if self.pruning_schedule else sparsity

    def prune(self, model, sparsity):
        return prune(model, self._schedule(sparsity), **self.arguments)

    def callbacks(self):
        return [UpdatePruningStep()]

    def strip(self, model):
        return strip_pruning(model)

    def settings(self, sparsity):
        return {"tfap.prune": {**self.arguments, "pruning_schedule": self._schedule(sparsity)}}

    def check(self, sparsity):
        """Raises TypeError or ValueError for arguments that `tfap.prune` would refuse."""
        arguments = {key: value for key, value in self.arguments.items() if key not in ("include", "skip")}
        settings = PruningSettings(self._schedule(sparsity), **arguments)
        if "gradients" in settings.criterion.needs:
            raise ValueError(
                f"{settings.criterion} needs data for gradients, which the callback gets: give a "
                "tfap.comparison.Method whose callbacks() are [tfap.UpdatePruningStep(gradient_data=...)]."
            )


@dataclasses.dataclass(frozen=True)
class _Dense:
    """No pruning."""

    def prune(self, model, sparsity):
        return model

    def callbacks(self):
        return []

    def strip(self, model):
        return model

    def settings(self, sparsity):
        return {}


# -- from arguments --------------------------------------------------------------------------------


def named(methods, sparsities, pruning_schedule=None):
    """Dict of name to method, "dense" first, from the arguments of `tfap.compare`.

    Raises:
        TypeError, ValueError: which method or argument cannot be used.
    """
    if pruning_schedule is not None and not callable(pruning_schedule):
        raise TypeError(
            f"pruning_schedule must be a function from a sparsity to a PruningSchedule: {pruning_schedule!r}."
        )
    found = {DENSE: _Dense()}
    for name, thing in _pairs(methods):
        _check_name(name, found)
        try:
            found[name] = _method_of(thing, pruning_schedule)
            for sparsity in sparsities:
                if isinstance(found[name], _Tfap):
                    found[name].check(sparsity)
        except (TypeError, ValueError) as error:
            raise type(error)(f"The method '{name}': {error}") from error
    if len(found) == 1:
        raise ValueError("There are no methods to compare.")
    return found


def _pairs(methods):
    if isinstance(methods, dict):
        return list(methods.items())
    if isinstance(methods, str | Criterion | Method) or not isinstance(methods, collections.abc.Iterable):
        raise TypeError(f"methods must be a list of criteria or a dict of name to method: {methods!r}.")
    return [
        (keras_compat.snake_case(type(thing).__name__) if isinstance(thing, Criterion) else thing, thing)
        for thing in methods
    ]


def _check_name(name, taken):
    if not isinstance(name, str) or not re.fullmatch(r"[\w .,+=()-]+", name):
        raise ValueError(
            "The name of a method is made of letters, digits, spaces and _ . , + = ( ) -, since files are "
            f"named after it: received {name!r}."
        )
    if name == DENSE:
        raise ValueError(f"'{DENSE}' is run in any case: give the method another name.")
    if name in taken:
        raise ValueError(f"There are two methods '{name}': give a dict of name to criterion.")


def _method_of(thing, pruning_schedule):
    if isinstance(thing, Method):
        return thing
    if thing == "tfmot":
        return tfmot.Magnitude(pruning_schedule)
    arguments = dict(thing) if isinstance(thing, dict) else {"criterion": thing}
    pruning_schedule = arguments.pop("pruning_schedule", pruning_schedule)
    if pruning_schedule is not None and not callable(pruning_schedule):
        raise TypeError(
            f"pruning_schedule must be a function from a sparsity to a PruningSchedule: {pruning_schedule!r}."
        )
    known = list(inspect.signature(prune).parameters)[2:]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise TypeError(f"tfap.prune has no argument {', '.join(unknown)}. It has {', '.join(known)}.")
    return _Tfap(
        arguments | {"criterion": criteria.get(arguments.get("criterion", "activation_count"))},
        pruning_schedule,
    )


# -- as text ---------------------------------------------------------------------------------------


def settings_text(method, sparsity):
    """A method's settings at a sparsity as text, to tell whether a file was made with the same ones.

    Only what was given counts, so a new argument of `tfap.prune` changes nothing. Of functions it holds
    the names: what they do cannot be seen.
    """
    return json.dumps(_described(method.settings(sparsity)), sort_keys=True)


def _described(thing):
    """JSON for settings: no addresses, so that it is the same in every process."""
    if thing is None or isinstance(thing, str | bool | int | float):
        return thing
    if hasattr(thing, "tolist"):  # NumPy's numbers and arrays
        return thing.tolist()
    if isinstance(thing, dict):
        return {str(key): _described(value) for key, value in thing.items()}
    if isinstance(thing, set):  # in another order in every process
        return sorted(json.dumps(_described(value), sort_keys=True) for value in thing)
    if isinstance(thing, list | tuple):
        return [_described(value) for value in thing]
    if isinstance(thing, functools.partial):
        return [_described(part) for part in (thing.func, thing.args, thing.keywords)]
    if hasattr(thing, "__qualname__"):
        return f"{thing.__module__}.{thing.__qualname__}"
    return {"class": type(thing).__qualname__, **_described(getattr(thing, "__dict__", {}))}
