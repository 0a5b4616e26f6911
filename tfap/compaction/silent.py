"""The neurons that never fired in an epoch of training, for `fit_and_compact`."""

from collections.abc import Mapping
from typing import Any

from tfap.compaction.compact import silent_channels
from tfap.graph.calls import Graph
from tfap.graph.counts import ActivationCounts
from tfap.graph.liveness import Liveness
from tfap.layers.find import with_paths
from tfap.training.epoch_counts import why_not_exact


def check_counted(model: Any) -> None:
    """Checks that the wrappers of a model count which neurons are silent. Those that count heads need not.

    Raises:
        ValueError: If one does not.
    """
    for path, wrapper in with_paths(model):
        reason = None if wrapper.counts_heads else why_not_exact(wrapper)
        if reason is not None:
            raise ValueError(
                f"drop_silent=True needs the activation counts of every step, and in '{path}' {reason}: pass "
                "criterion=tfap.ActivationCount(), whose threshold is 0, and sample_every=1."
            )


def liveness_of(model: Any, counts: Mapping[str, ActivationCounts] | None) -> Liveness:
    """Returns the `Liveness` of a model, in which the channels that are silent in `counts` are zero."""
    return Liveness(model, None if counts is None else silent_channels(Graph(model), dict(counts)))
