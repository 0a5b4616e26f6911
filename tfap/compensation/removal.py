"""How much the removal of each channel changes the sums of its consumers, measured on data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfap.activations.batches import Batches, can_repeat
from tfap.compensation.allocation import coupled_sets
from tfap.compensation.consumers import Consumer
from tfap.compensation.finding import consumers_of
from tfap.compensation.normalizers import Normalizer, in_order, normalizers_of
from tfap.compensation.refit import RIDGE, LeastSquares
from tfap.compensation.selection import removal_order
from tfap.compensation.sweep import Sweep
from tfap.graph import layer_types
from tfap.graph.calls import Graph
from tfap.graph.channels import ChannelMap
from tfap.graph.layer_types import ChannelRule

_OPEN_BYTES = 2**29  # of second moments that are measured at the same time
_BATCH = 128
MISSING = (
    "{criterion} needs inputs to measure on: pass tfap.UpdatePruningStep(reconstruction_data=x) to fit, or "
    "reconstruction_data=x to the function that prunes."
)


class RemovalErrors:
    """Measures what `tfap.Reconstruction` scores, in a model in training.

    Args:
        model: A Sequential or Functional model, with or without wrappers.
        data: Inputs, as in `tfap.measure_activations`. They are read at every mask update.

    Raises:
        TypeError: If the data has the wrong type, or can be read only once.
        ValueError: If the data is empty or infinite, or has another number of arrays than the model.
    """

    def __init__(self, model: Any, data: Any) -> None:
        if not can_repeat(data):
            raise TypeError(
                "reconstruction_data is needed at every mask update, and an iterator can be read only once: "
                "pass arrays or a tf.data.Dataset."
            )
        self._model, self._batches = model, Batches(model, data, _BATCH)

    def by_path(self) -> dict[str, np.ndarray]:
        """Returns the errors of the neurons of each layer: dict of path to array, shape `(neurons,)`."""
        graph = Graph(self._model, plain=True)
        channel_map = ChannelMap(graph)
        produced = {
            path: channel_map.of(graph.calls_of[path][0].outputs[0])
            for path, layer in graph.layers()
            if layer_types.of(layer).channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE)
        }
        groups = {path: channels.groups for path, channels in produced.items() if channels is not None}
        removable = np.ones(channel_map.size, bool)
        removable[list(channel_map.pinned)] = False
        heads = {path: its for path in graph.calls_of if (its := channel_map.heads(path)) is not None}
        sets = coupled_sets([*groups.values(), *heads.values()], removable)
        consumers = consumers_of(graph, channel_map)
        readers = in_order(graph, consumers, normalizers_of(graph, channel_map, consumers))
        errors = removal_errors(self._model, self._batches, sets, readers)
        return {
            path: np.array([errors.get(int(group), np.inf) for group in its])
            for path, its in {**groups, **{f"{path}:heads": its for path, its in heads.items()}}.items()
        }


def removal_errors(
    model: Any,
    batches: Iterable[Any],
    sets: Sequence[np.ndarray],
    consumers: Mapping[str, Consumer | Normalizer],
    ridge: float = RIDGE,
    done: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Measures what the removal of each channel group adds to the errors of its consumers.

    Groups of a set are removed in the order of `selection.removal_order`, and later ones have larger errors.

    Args:
        model: The model.
        batches: Model inputs, which can be read again.
        sets: The groups of each set of coupled layers, as integer arrays.
        consumers: Dict of path to `Consumer` or `Normalizer`, in graph order.
        ridge: See `refit.LeastSquares.of`.
        done: Called after each consumer.

    Returns:
        Dict of group to error.
    """
    errors: dict[int, float] = {}

    def ready(at: int, problems: Mapping[str, Sequence[LeastSquares]]) -> None:
        its = [problem for each in problems.values() for problem in each]
        order = removal_order(its, sets[at])
        errors.update(zip(order.groups.tolist(), _increasing(order.errors).tolist()))

    visit_problems(model, batches, sets, consumers, ready, ridge, done)
    return errors


def visit_problems(
    model: Any,
    batches: Iterable[Any],
    sets: Sequence[np.ndarray],
    consumers: Mapping[str, Consumer | Normalizer],
    ready: Callable[[int, dict[str, list[LeastSquares]]], None],
    ridge: float = RIDGE,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Measures what layers consume, in one pass through the model, and visits the problems of each set.

    Problems that no set needs any more are freed, so that not all of a large model are in memory at once.

    Args:
        model: The model.
        batches: Model inputs, which can be read again.
        sets: The groups of each set of coupled layers, as integer arrays.
        consumers: Dict of path to `Consumer` or `Normalizer`, in graph order.
        ready: Function `(position of the set, dict of path to the problems of a consumer)`. It may change
            weights of the model if it restores them.
        ridge: See `refit.LeastSquares.of`.
        done: Called after each consumer.
    """
    waiting = {at: consuming(groups, consumers) for at, groups in enumerate(sets)}
    problems: dict[str, list[LeastSquares]] = {}

    def measured(consumer: Consumer | Normalizer) -> None:
        problems[consumer.path] = consumer.problems(ridge)
        consumer.forget()
        for at, paths in list(waiting.items()):
            if all(path in problems for path in paths):
                del waiting[at]
                ready(at, {path: problems[path] for path in paths})
        needed = {path for paths in waiting.values() for path in paths}
        for path in set(problems) - needed:
            problems[path] = []  # frees its matrices
        done()

    def may_open(consumer: Consumer | Normalizer, open_ones: Sequence[Consumer | Normalizer]) -> bool:
        return not open_ones or consumer.bytes + sum(other.bytes for other in open_ones) <= _OPEN_BYTES

    paths = {path for paths in waiting.values() for path in paths}
    Sweep(model, batches, paths).run(
        [consumers[path] for path in consumers if path in paths], measured, may_open
    )


def consuming(groups: np.ndarray, consumers: Mapping[str, Consumer | Normalizer]) -> list[str]:
    """Lists the paths of the layers that consume some of these channel groups."""
    return [path for path, consumer in consumers.items() if np.isin(consumer.groups, groups).any()]


def _increasing(errors):
    """Returns errors that increase, so that their order is that of the removals."""
    rising = np.maximum.accumulate(errors)
    return rising + (rising[-1] or 1.0) * 1e-9 * np.arange(len(rising))


class Repeatable:
    """Batches that each pass reads from the beginning.

    Args:
        make: Function that returns an iterator.
    """

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return self._make()
