"""The entry: cycles of training, pruning and rewinding around the user's own training."""

import dataclasses
import json
import numbers
import time

import numpy as np

from tfap import keras_compat
from tfap.activations.batches import can_repeat
from tfap.iterative.cycles import Cycle, Trainer, seed_of
from tfap.iterative.results import IterativePruning
from tfap.iterative.state import PackedMasks, check_copied, drawn, flat, like, read, write
from tfap.iterative.store import Store, name_of
from tfap.layers.settings import PruningSettings
from tfap.utils import checks

_USER = "tfap.prune_iteratively"


def prune_iteratively(
    model,
    fit,
    criterion="magnitude",
    rate=0.2,
    cycles=10,
    rewind="init",
    evaluate=None,
    data=None,
    scope="global",
    granularity=None,
    include=(),
    skip=(),
    min_weights_per_layer=0,
    gradient_data=None,
    gradient_steps=None,
    seed=0,
    directory=None,
):
    """Trains a model, prunes a share of what is left, rewinds it and trains again, cycle after cycle.

    Cycle 0 only trains. Before each other cycle `round(rate * alive)` weights go, chosen by the criterion in
    the net that the cycle before has trained, and the net is rewound. Every cycle is trained in a new copy of
    the model, with a fresh optimizer, whose learning-rate schedule begins again, and with seeds (both
    Kerases', NumPy's, Python's, those of random layers) that follow from `seed` and its number. So it is a
    function of weights, masks, seed and number, if `fit` and `evaluate` keep nothing from one call to the
    next. A `fit` that is not deterministic by itself, as on many GPUs, is not made so.

    Args:
        model: a built Sequential or Functional model of either Keras, compiled if `fit` needs that. It is not
            changed.
        fit: function of `(model, callbacks)` that trains the model with these callbacks: one training of a
            cycle. If it returns the History, its last metrics are kept.
        criterion: as for `tfap.prune`. Counts are those of the cycle's own training, and for `tfap.AP`
            movement counts from its begin.
        rate: share of the weights still alive that each cycle prunes, in (0, 1). What a criterion could not
            prune, or whole neurons did not fit, is asked for again in the next cycle.
        cycles: how many prunes, at least 1: with cycle 0 there are `cycles + 1` trainings.
        rewind: what a cycle begins with, always times its masks: "init" the first weights, biases and
            BatchNormalization statistics; a whole number n those after epoch n of cycle 0; "reinit" newly
            drawn ones (an initializer with a seed of its own draws the same again); None those of the end of
            the cycle before.
        evaluate: function of a plain model that returns a number or a dict of name to number; the first is
            the main metric. None evaluates nothing.
        data: inputs on which dead neurons are counted after each cycle, as for `tfap.measure_activations`, in
            inference mode; no iterator. None counts none.
        scope: "global" or "local", as for `tfap.prune`.
        granularity, include, skip, min_weights_per_layer: as for `tfap.prune`.
        gradient_data, gradient_steps: as for `tfap.update_masks`, for criteria that need gradients.
        seed: whole number >= 0.
        directory: folder in which every finished cycle is kept, so that a second call goes on where the first
            was stopped, also by a kill, and ends with the same weights and masks. The first weights are kept
            there too: a call that goes on begins with those, not with the model's. Other settings are an
            error, but for more cycles, for which the last one is trained again; that a function or data are
            not what they were cannot be seen. None keeps nothing.

    Returns:
        An `IterativePruning`: it prints as a table, has `rows`, `masks(cycle)`, `model`, the plain model
        after the last cycle, `to_csv(path)` and `plot()`.

    Raises:
        TypeError, ValueError: before anything is trained, an argument that cannot be used, or a directory
            that was made with other settings. ValueError: `rewind` is an epoch that cycle 0 did not reach.

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
    """
    _check(model, fit, evaluate, data, rate, cycles, rewind, scope, seed)
    options = {
        "criterion": criterion,
        "scope": scope,
        "granularity": granularity,
        "min_weights_per_layer": min_weights_per_layer,
    }
    settings = PruningSettings(0.0, **options)
    trainer = Trainer(
        model,
        fit,
        evaluate,
        data,
        int(seed),
        {"gradient_data": gradient_data, "gradient_steps": gradient_steps},
        {**options, "include": include, "skip": skip},
    )
    ones = PackedMasks.of(trainer.untrained())
    plan = {"rate": float(rate), "rewind": rewind, "seed": int(seed)}
    store = Store(directory, _text({**settings.get_config(), **plan}, ones, model))
    alive = alive_weights(ones.total, rate, cycles)
    return _Run(trainer, store, rewind, alive, ones).all()


def alive_weights(total, rate, cycles):
    """How many weights are alive in each cycle: `round(rate * alive)` go each time, and one always stays.

    >>> alive_weights(1000, 0.2, 4)
    [1000, 800, 640, 512, 410]
    """
    alive = [total]
    for _ in range(cycles):
        alive.append(alive[-1] - min(round(rate * alive[-1]), alive[-1] - 1))
    return alive


class _Run:
    """All cycles of a call: those on file are read, the others trained and kept."""

    def __init__(self, trainer, store, rewind, alive, ones):
        self._trainer, self._store, self._rewind, self._alive = trainer, store, rewind, alive
        self._masks = [ones]
        self._kept = self._weights = None

    def all(self):
        self._first = self._first_weights()
        rows = []
        for number in range(len(self._alive)):
            done = self._on_file(number) or self._trained(number)
            rows.append(done.row)
            self._weights = done.weights
            if number == 0:
                self._kept = done.kept
            if not self._is_last(number):
                self._masks.append(done.next_masks)
        last = keras_compat.rebuild(self._trainer.model, keras_compat.copied)
        write(last, self._weights)
        return IterativePruning(rows, self._masks, last)

    def _is_last(self, number):
        return number == len(self._alive) - 1

    def _first_weights(self):
        given = read(self._trainer.model)
        found = self._store.read_arrays("first")
        if found is None:
            self._store.write_arrays("first", {"weights": flat(given)})
            return given
        return like(given, found["weights"], self._store.arrays_path("first"))

    def _on_file(self, number):
        """A `Cycle` that was finished before; None if it was not, or was the last and is so no longer."""
        row, arrays = self._store.read_row(number), self._store.read_arrays(name_of(number))
        if row is None or arrays is None:
            return None
        path = self._store.arrays_path(name_of(number))
        weights = like(self._first, arrays["weights"], path)
        if self._is_last(number):
            return Cycle(row, weights)
        if "masks" not in arrays:
            return None
        kept = like(self._first, arrays["kept"], path) if "kept" in arrays else None
        return Cycle(row, weights, PackedMasks(self._masks[0].places, arrays["masks"]), kept)

    def _trained(self, number):
        begin = time.perf_counter()
        late = isinstance(self._rewind, numbers.Integral)
        done = self._trainer.perform(
            number,
            self._start(number),
            self._masks[number],
            keep_epoch=self._rewind if late and number == 0 else None,
            next_alive=None if self._is_last(number) else self._alive[number + 1],
        )
        groups = {"weights": flat(done.weights)}
        if done.next_masks:
            groups["masks"] = done.next_masks.bits
        if done.kept:
            groups["kept"] = flat(done.kept)
        self._store.write_arrays(name_of(number), groups)
        users = done.row.fit_seconds + done.row.evaluate_seconds
        row = dataclasses.replace(done.row, other_seconds=time.perf_counter() - begin - users)
        self._store.write_row(row)  # from here on the cycle is there
        return dataclasses.replace(done, row=row)

    def _start(self, number):
        """The weights that a cycle begins with, before its masks."""
        if number == 0 or self._rewind == "init":
            return self._first
        if self._rewind == "reinit":
            return drawn(self._trainer.model, seed_of(self._trainer.seed, number, use=1))
        return self._weights if self._rewind is None else self._kept


def _text(settings, ones, model):
    """Settings, net and optimizer as text; the net by shapes, since a second model has other names."""
    optimizer = getattr(model, "optimizer", None)
    found = {
        **settings,
        "keras": keras_compat.keras_of(model).__name__,
        "optimizer": {**optimizer.get_config(), "name": type(optimizer).__name__} if optimizer else None,
        "shapes": [list(array.shape) for array in flat(read(model))],
        "pruned": [[name, list(shape)] for _, name, shape in ones.places],
    }
    return json.dumps(found, sort_keys=True, default=_plain)


def _plain(value):
    return np.asarray(value).tolist() if hasattr(value, "dtype") else str(value)


def _check(model, fit, evaluate, data, rate, cycles, rewind, scope, seed):
    keras_compat.check_plain(model, _USER)
    check_copied(model)
    for name, function in (("fit", fit), ("evaluate", evaluate)):
        if not callable(function) and (name == "fit" or function is not None):
            raise TypeError(f"{name} must be a function: received {function!r}.")
    if data is not None and not can_repeat(data):
        raise ValueError("data is an iterator, which is used up after one cycle: pass arrays or a Dataset.")
    if not isinstance(rate, numbers.Real) or not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1): received {rate!r}.")
    checks.whole("cycles", cycles)
    checks.whole("seed", seed, least=0)
    if rewind is not None and rewind not in ("init", "reinit"):
        checks.whole('rewind must be "init", "reinit", None or an epoch; an epoch', rewind)
    if scope not in ("global", "local"):
        raise ValueError(f'scope must be "global" or "local": received {scope!r}.')
