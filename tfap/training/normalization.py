"""What a fit with pruning does about the moving statistics of BatchNormalization layers."""

from typing import Any

from absl import logging

from tfap import keras_compat
from tfap.activations import batch_norm, recalibration
from tfap.activations.batches import check_repeatable
from tfap.graph.parts import parts_of
from tfap.layers.find import is_pruning_wrapper

STALE = 0.001  # share of a moving average that is from before the last mask change; see docs/recalibrate.md
_BATCH = 128  # samples, if data are arrays


class NormalizationStatistics:
    """Recomputes the statistics at the end of a fit, or, without data, warns if they are old.

    Args:
        data: Data as in `tfap.recalibrate`. None for no data.

    Raises:
        ValueError: If the data is a one-shot iterator.
    """

    def __init__(self, data: Any = None) -> None:
        check_repeatable("recalibrate", data)
        self._data = data
        self._last: int | None = None  # the step of the last mask update that has pruned

    def check(self, model: Any) -> None:
        """Checks at the beginning of a fit that the data fits the model.

        Raises:
            TypeError: If the data has the wrong type.
            ValueError: If it does not fit the model, or the model has no statistics to recompute.
        """
        unbuilt = keras_compat.is_graph_model(model) and not keras_compat.is_built(model)
        if self._data is None or unbuilt:
            return
        try:
            recalibration.check(_measured(model), self._data, _BATCH)
        except (TypeError, ValueError) as error:
            raise type(error)(f"recalibrate=: {error}") from error

    def note_update(self, step: int, has_pruned: bool) -> None:
        """Notes a mask update after a training step. One that prunes nothing makes no statistics old."""
        if has_pruned:
            self._last = step

    def end(self, model: Any, step: int) -> None:
        """Recomputes the statistics, or warns, after the last training step, number `step`."""
        if self._data is not None:
            recalibration.recalibrate_in_place(_measured(model), self._data, _BATCH)
        elif self._last is not None:
            warn_of_old_statistics(model, step - self._last)


def warn_of_old_statistics(model: Any, steps: int) -> None:
    """Warns if moving averages are still made of values from before the last mask update.

    Args:
        model: The model with pruning wrappers.
        steps: Integer. Training steps since that update.
    """
    shares = {
        path: float(layer.momentum) ** steps
        for part in parts_of(model)
        for path, layer in _after_pruned_layers(part).items()
    }
    old = {path: share for path, share in shares.items() if share > STALE}
    if old:
        others = f" and {len(old) - 1} more" if len(old) > 1 else ""
        oldest = max(old, key=lambda path: old[path])
        logging.warning(
            "The moving statistics of '%s'%s are %.0f%% those from before the last mask update, %d steps "
            "ago, so the model is worse in inference than in training. Recompute them: "
            "UpdatePruningStep(recalibrate=data), or tfap.recalibrate(model, data) after strip_pruning().",
            oldest,
            others,
            100 * old[oldest],
            steps,
        )


def _after_pruned_layers(part):
    """`{path: layer}` of each BatchNormalization that consumes what a pruned layer has changed."""
    changed, paths = set(), set()
    for call in part.graph.calls:
        if is_pruning_wrapper(call.layer) or not changed.isdisjoint(call.inputs):
            changed.update(call.outputs)
            paths.add(call.path)
    found = batch_norm.normalizations(part.model)
    return {part.prefix + path: layer for path, layer in found.items() if _outer(path, paths)}


def _outer(path, paths):
    return path in paths or path.rpartition("/")[0] in paths


def _measured(model):
    """Returns the model or, in a subclassed one, the only model that it trains."""
    parts = [] if keras_compat.is_graph_model(model) else parts_of(model)
    if len(parts) > 1:
        raise ValueError(
            f"The model '{model.name}' is subclassed and holds several models "
            f"({', '.join(part.prefix[:-1] for part in parts)}): call tfap.recalibrate on each of them "
            "instead of passing recalibrate=."
        )
    return parts[0].model if parts else model
