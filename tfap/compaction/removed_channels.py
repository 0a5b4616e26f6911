"""Channels taken out of a model for a while: the weights that consume them are zero."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tfap.compensation.consumers import Consumer
from tfap.compensation.refit import LeastSquares


@contextlib.contextmanager
def channels_removed(
    consumers: Iterable[Consumer],
    kept: np.ndarray,
    problems: Mapping[str, Sequence[LeastSquares]] | None = None,
) -> Iterator[None]:
    """Takes channel groups out of the layers that consume them, and puts them back at the end.

    The shapes of the model stay, so that a compiled function of it can be called in between.

    Args:
        consumers: The consumers of the model.
        kept: Boolean array, shape `(groups,)`: which channel groups are kept.
        problems: Dict of path to the problems of the consumer, to refit its weights. None does not.
    """
    changed = [consumer for consumer in consumers if not kept[consumer.groups].all()]
    layers = {id(layer): layer for consumer in changed for layer in consumer.layers_written()}
    before = [(layer, layer.get_weights()) for layer in layers.values()]
    try:
        for consumer in changed:
            own = consumer.renewed()
            if problems is not None:
                its = problems[consumer.path]
                fitted = [problem.refit(~kept[problem.groups]) for problem in its]
                own.write(fitted, list(its), fold=True)
            own.clear(~kept[own.groups])
        yield
    finally:
        for layer, weights in before:
            layer.set_weights(weights)
