"""Prunes iteratively: cycles of training, pruning, and rewinding."""

import dataclasses
import json
import numbers
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations.batches import can_repeat
from tfap.criteria import Criterion
from tfap.iterative.cycles import Cycle, Trainer, seed_of
from tfap.iterative.results import IterativePruning
from tfap.iterative.state import (
    PackedMasks,
    Weights,
    check_copied,
    flatten,
    read,
    reinitialized,
    unflatten,
    write,
)
from tfap.iterative.store import Store, cycle_name
from tfap.keras_compat.types import Data, Model
from tfap.layers.settings import PruningSettings
from tfap.pruning.plan import LayerSelection
from tfap.utils import checks

_FUNCTION = "tfap.prune_iteratively"


def prune_iteratively(
    model: Model,
    fit: Callable[..., Any],
    criterion: Criterion | str = "magnitude",
    rate: float = 0.2,
    cycles: int = 10,
    rewind: str | int | None = "init",
    evaluate: Callable[..., Any] | None = None,
    data: Data = None,
    scope: str = "global",
    granularity: str | None = None,
    include: LayerSelection = (),
    skip: LayerSelection = (),
    min_weights_per_layer: int = 0,
    gradient_data: Data = None,
    gradient_steps: int | None = None,
    seed: int = 0,
    directory: str | os.PathLike | None = None,
) -> IterativePruning:
    """Trains a model, prunes a fraction of its kept weights, rewinds it, and repeats.

    Cycle 0 trains the dense model. Before every other cycle, the criterion prunes `round(rate * alive)`
    weights of the model that the previous cycle trained. Then the model is rewound.

    Every cycle trains a new copy of the model with a fresh optimizer. The random seeds (both Kerases, NumPy,
    Python, random layers) depend only on `seed` and the number of the cycle. So cycles are reproducible if
    `fit` and `evaluate` are deterministic and keep no state between calls.

    Args:
        model: A built Sequential or Functional model of either Keras, compiled if `fit` needs that.
            Unchanged.
        fit: Function of `(model, callbacks)` that trains the model with these callbacks. If it returns a
            History, the rows contain the logs of the last epoch.
        criterion: As in `tfap.prune`. Activation counts, and the movement for `tfap.AP`, are from the
            training of one cycle.
        rate: Float in (0, 1). Fraction of the kept weights to prune per cycle. Weights that a criterion could
            not prune are requested again in the next cycle.
        cycles: Integer >= 1. Number of times to prune. With cycle 0 there are `cycles + 1` training runs.
        rewind: Initial weights of a cycle, before its masks. "init": the first weights, biases, and
            BatchNormalization statistics. An integer n: those after epoch n of cycle 0. "reinit":
            reinitialized weights (an initializer with a fixed seed repeats its values). None: those after the
            previous cycle.
        evaluate: Function of a model without wrappers that returns a number, or a dict of name to number
            whose first entry is the main metric. None evaluates nothing.
        data: Inputs on which to count dead neurons after each cycle, as in `tfap.measure_activations`, but
            not a one-shot iterator. None counts no dead neurons.
        scope: "global", "local" or "isomorphic", as in `tfap.prune`.
        granularity: As in `tfap.prune`.
        include: As in `tfap.prune`.
        skip: As in `tfap.prune`.
        min_weights_per_layer: As in `tfap.prune`.
        gradient_data: As in `tfap.update_masks`, for criteria that need gradients.
        gradient_steps: As in `tfap.update_masks`.
        seed: Integer >= 0.
        directory: Directory in which to store every finished cycle. A second call with the same arguments
            resumes after the last finished cycle, also after an interruption, and ends with the same weights
            and masks. It may ask for more cycles. It uses the stored first weights instead of those of
            `model`. tfap cannot detect changes to functions or data. None stores nothing.

    Returns:
        An `IterativePruning` with `rows`, `masks(cycle)`, the last `model`, `to_csv(path)`, and `plot()`. It
        prints as a table.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, the directory was created with other settings, or cycle 0 trains
            fewer epochs than `rewind`. Only the last is raised after training has started.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential(layers)
    >>> model.compile("sgd", "mse")
    >>> x, y = numpy.ones((32, 4)), numpy.ones((32, 1))
    >>> def fit(model, callbacks):
    ...     return model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    >>> pruned = tfap.prune_iteratively(model, fit, rate=0.5, cycles=2)
    >>> [(row.alive, row.sparsity) for row in pruned.rows]
    [(32, 0.0), (16, 0.5), (8, 0.75)]

    References:
        - [Liu et al., 2023](https://arxiv.org/abs/2212.06145)
    """
    _check(model, fit, evaluate, data, rate, cycles, rewind, scope, seed)
    options: dict[str, Any] = {
        "criterion": criterion,
        "scope": scope,
        "granularity": granularity,
        "min_weights_per_layer": min_weights_per_layer,
    }
    trainer = Trainer(
        model,
        fit,
        evaluate,
        data,
        int(seed),
        gradients={"gradient_data": gradient_data, "gradient_steps": gradient_steps},
        pruning={**options, "include": include, "skip": skip},
    )
    settings = {
        **PruningSettings(0.0, **options).get_config(),
        **{"rate": float(rate), "rewind": rewind, "seed": int(seed)},
    }
    dense_masks = PackedMasks.of(trainer.wrapped_model())
    store = Store(directory, _settings_text(settings, dense_masks, model))
    return _Cycles(trainer, store, rewind, alive_weights(dense_masks.total, rate, cycles), dense_masks).run()


def alive_weights(total: int, rate: float, cycles: int) -> list[int]:
    """Computes the number of weights that each cycle keeps.

    Each cycle prunes `round(rate * alive)` weights and keeps at least one.

    >>> alive_weights(1000, 0.2, 4)
    [1000, 800, 640, 512, 410]
    """
    alive = [total]
    for _ in range(cycles):
        alive.append(alive[-1] - min(round(rate * alive[-1]), alive[-1] - 1))
    return alive


class _Cycles:
    """All cycles of a call: reads the stored cycles, and trains and stores the others."""

    def __init__(self, trainer, store, rewind, alive, dense_masks):
        self._trainer, self._store, self._rewind, self._alive = trainer, store, rewind, alive
        self._masks = [dense_masks]
        self._rewind_weights = self._trained_weights = None

    def run(self) -> IterativePruning:
        self._first_weights = self._read_first_weights()
        rows = []
        for number in range(len(self._alive)):
            cycle = self._stored(number) or self._trained(number)
            rows.append(cycle.row)
            self._trained_weights = cycle.weights
            if number == 0:
                self._rewind_weights = cycle.rewind_weights
            if not self._is_last(number):
                self._masks.append(cycle.next_masks)
        final_model = keras_compat.rebuild(self._trainer.model, keras_compat.copied)
        write(final_model, self._trained_weights)
        return IterativePruning(rows, self._masks, final_model)

    def _is_last(self, number):
        return number == len(self._alive) - 1

    def _read_first_weights(self) -> Weights:
        given_weights = read(self._trainer.model)
        groups = self._store.read_arrays("first")
        if groups is None:
            self._store.write_arrays("first", {"weights": flatten(given_weights)})
            return given_weights
        return unflatten(groups["weights"], given_weights, self._store.arrays_path("first"))

    def _stored(self, number) -> Cycle | None:
        """A stored `Cycle`. None if it is not finished, or was the last one but no longer is."""
        row, groups = self._store.read_row(number), self._store.read_arrays(cycle_name(number))
        if row is None or groups is None:
            return None
        path = self._store.arrays_path(cycle_name(number))
        weights = unflatten(groups["weights"], self._first_weights, path)
        if self._is_last(number):
            return Cycle(row, weights)
        if "masks" not in groups:
            return None
        rewind_weights = unflatten(groups["kept"], self._first_weights, path) if "kept" in groups else None
        return Cycle(row, weights, PackedMasks(self._masks[0].places, groups["masks"]), rewind_weights)

    def _trained(self, number) -> Cycle:
        begin = time.perf_counter()
        rewinds_to_epoch = isinstance(self._rewind, numbers.Integral)
        cycle = self._trainer.train(
            number,
            self._initial_weights(number),
            self._masks[number],
            keep_epoch=self._rewind if rewinds_to_epoch and number == 0 else None,
            next_alive=None if self._is_last(number) else self._alive[number + 1],
        )
        groups = {"weights": flatten(cycle.weights)}
        if cycle.next_masks:
            groups["masks"] = cycle.next_masks.bits
        if cycle.rewind_weights:
            groups["kept"] = flatten(cycle.rewind_weights)
        self._store.write_arrays(cycle_name(number), groups)
        user_seconds = cycle.row.fit_seconds + cycle.row.evaluate_seconds
        row = dataclasses.replace(cycle.row, other_seconds=time.perf_counter() - begin - user_seconds)
        self._store.write_row(row)  # from here on the cycle counts as finished
        return dataclasses.replace(cycle, row=row)

    def _initial_weights(self, number) -> Weights | None:
        """The initial weights of a cycle, before its masks."""
        if number == 0 or self._rewind == "init":
            return self._first_weights
        if self._rewind == "reinit":
            return reinitialized(self._trainer.model, seed_of(self._trainer.seed, number, use=1))
        return self._trained_weights if self._rewind is None else self._rewind_weights


def _settings_text(settings, dense_masks, model):
    """Settings, model, and optimizer as text. Shapes identify the model: names differ between copies."""
    optimizer = getattr(model, "optimizer", None)
    described = {
        **settings,
        "keras": keras_compat.keras_of(model).__name__,
        "optimizer": {**optimizer.get_config(), "name": type(optimizer).__name__} if optimizer else None,
        "shapes": [list(array.shape) for array in flatten(read(model))],
        "pruned": [[name, list(shape)] for _, name, shape in dense_masks.places],
    }
    return json.dumps(described, sort_keys=True, default=_jsonable)


def _jsonable(value):
    return np.asarray(value).tolist() if hasattr(value, "dtype") else str(value)


def _check(model, fit, evaluate, data, rate, cycles, rewind, scope, seed):
    keras_compat.check_plain(model, _FUNCTION)
    check_copied(model)
    for name, function in (("fit", fit), ("evaluate", evaluate)):
        if not callable(function) and (name == "fit" or function is not None):
            raise TypeError(f"{name} must be a function: received {function!r}.")
    if data is not None and not can_repeat(data):
        raise ValueError("data is a one-shot iterator, but every cycle reads it: pass arrays or a Dataset.")
    if not 0 < checks.number("rate", rate) < 1:
        raise ValueError(f"rate must be in (0, 1): received {rate!r}.")
    checks.integer("cycles", cycles)
    checks.integer("seed", seed, least=0)
    if isinstance(rewind, str) and rewind not in ("init", "reinit"):
        raise ValueError(f'rewind must be "init", "reinit", None or an epoch: received {rewind!r}.')
    if rewind is not None and not isinstance(rewind, str):
        checks.integer('rewind must be "init", "reinit", None or an epoch; an epoch', rewind)
    checks.choice("scope", scope, ("global", "local", "isomorphic"))
