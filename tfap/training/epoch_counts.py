"""Activation counts of one epoch of training: the differences of the counters, which are never reset."""

from typing import Any

from tfap.graph.counts import ActivationCounts
from tfap.layers.find import find_wrappers


def why_not_exact(wrapper: Any) -> str | None:
    """Returns why the counts of a pruning wrapper do not tell which neurons are silent, or None."""
    criterion = wrapper.criterion
    if criterion.counts != "output":
        return f"the criterion {criterion} does not count which neurons fire"
    if criterion.statistic != "count":
        return f"the criterion {criterion} adds up activations and does not count them"
    if criterion.threshold:
        return f"the criterion {criterion} counts activations above {criterion.threshold}, not above 0"
    if wrapper.counts_heads:
        return "heads are counted, not neurons"
    if wrapper.settings.sample_every != 1:
        return f"only every step number {wrapper.settings.sample_every} is counted (sample_every)"
    return None


class EpochCounts:
    """Counts which neurons of a wrapped model fire in an epoch.

    Args:
        model: A model with pruning wrappers. Those whose counts do not tell it are left out.

    Attributes:
        last: What `end` has returned last.
    """

    def __init__(self, model: Any) -> None:
        self._found = [found for found in find_wrappers(model) if why_not_exact(found.wrapper) is None]
        self._before: dict[str, ActivationCounts] = {}
        self.last: dict[str, ActivationCounts] = {}

    def begin(self) -> None:
        """Notes the counters at the beginning of an epoch."""
        self._before = self._read()

    def end(self) -> dict[str, ActivationCounts]:
        """Returns the counts since `begin`, by the path of the layer; without layers that were not called."""
        self.last = found = {}
        for path, its in self._read().items():
            before = self._before.get(path)
            counts, seen = (
                (its.counts, its.seen)
                if before is None
                else (
                    its.counts - before.counts,
                    its.seen - before.seen,
                )
            )
            if seen > 0:
                found[path] = ActivationCounts(counts, seen, its.threshold)
        return found

    def _read(self):
        built = [found for found in self._found if found.wrapper.built]
        read = {found.path: found.wrapper.counted() for found in built}
        return {path: counted for path, counted in read.items() if counted is not None}
