"""Channels taken out of a model for a while: the weights that consume them are zero."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tfap.compaction.removable import RemovableChannels
from tfap.compensation.refit import LeastSquares
from tfap.graph import composite, linear_maps


@contextlib.contextmanager
def channels_removed(
    removable: RemovableChannels,
    kept: np.ndarray,
    problems: Mapping[str, Sequence[LeastSquares]] | None = None,
) -> Iterator[None]:
    """Takes channel groups out of the layers that read them, and puts them back at the end.

    The shapes of the model stay, so that a compiled function of it can be called in between.

    Args:
        removable: The `RemovableChannels` of the model.
        kept: Boolean array, shape `(groups,)`: which channel groups are kept.
        problems: Dict of path to the problems of the consumer, to refit its weights. None does not.
    """
    changed = [each for each in removable.consumers.values() if not kept[each.groups].all()]
    recurrent = [
        (removable.liveness.linear_maps[path].layer, removed)
        for path, removed in removable.recurrent_reads(kept)
    ]
    written = [layer for consumer in changed for layer in consumer.layers_written()]
    zeroed = [
        (removable.liveness.linear_maps[path].layer, removed) for path, removed in removable.made_zero(kept)
    ]
    inner = [
        (removable.liveness.graph.calls_of[path][0].layer, entry, removed)
        for path, entry, removed in removable.units_removed(kept)
    ]
    written += [layer for layer, _ in recurrent + zeroed] + [layer for layer, *_ in inner]
    layers = {id(layer): layer for layer in written}
    before = [(layer, layer.get_weights()) for layer in layers.values()]
    try:
        for consumer in changed:
            own = consumer.renewed()
            if problems is not None:
                its = problems[consumer.path]
                fitted = [problem.refit(~kept[problem.groups]) for problem in its]
                own.write(fitted, list(its), fold=True)
            own.clear(~kept[own.groups])
        for layer, removed in recurrent:
            linear_map = linear_maps.from_layer(layer)
            linear_map.clear_recurrence(removed)
            layer.set_weights(linear_map.weights())
        for layer, outputs in zeroed:
            linear_map = linear_maps.from_layer(layer)
            linear_map.clear_outputs(outputs)
            layer.set_weights(linear_map.weights())
        for layer, entry, removed in inner:
            composite.clear_reads(layer, entry, removed)
        yield
    finally:
        for layer, weights in before:
            layer.set_weights(weights)
