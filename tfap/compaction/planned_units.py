"""The kinds of units that a granularity prunes, each with its plan: channels, and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tfap import criteria
from tfap.criteria import Criterion
from tfap.graph.kernel import KernelSpec
from tfap.keras_compat.types import Model
from tfap.layers.settings import PruningSettings
from tfap.masks.patterns import Pattern
from tfap.pruning.plan import NAMED_IN_SKIP, LayerPlan, LayerSelection, PruningPlan, make_plan

CHANNELS, HEADS = "channels", "heads"
HEADS_SUFFIX = ":heads"  # of the path of a layer, in the name of its heads
# By kind: the granularity of its units. "unit" has all kinds.
_GRANULARITIES = {CHANNELS: "neuron", HEADS: "head"}


def every_unit(criterion: Criterion | str) -> str:
    """Returns the granularity of all units that a criterion can rank: "unit", or "neuron" without heads."""
    supported = criteria.get(criterion).granularities
    return "neuron" if supported is not None and "head" not in supported else "unit"


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedUnits:
    """The plans of the kinds of units that may be pruned together.

    An attention layer has both: its output channels, and its heads.

    Attributes:
        plans: Dict of kind, "channels" or "heads", to the `PruningPlan` of these units.
        patterns: Dict of kind to their `Pattern`.
    """

    plans: Mapping[str, PruningPlan]
    patterns: Mapping[str, Pattern]

    @classmethod
    def of(cls, model: Model, settings: PruningSettings, skip: LayerSelection = ()) -> PlannedUnits:
        """Makes the plans.

        Args:
            model: The model without wrappers.
            settings: `PruningSettings` with granularity "neuron", "head", or "unit".
            skip: Layers whose units are kept, as in `tfap.prune`.
        """
        kinds = {
            kind: dataclasses.replace(settings, granularity=granularity)
            for kind, granularity in _GRANULARITIES.items()
            if settings.granularity in (granularity, "unit")
        }
        return cls(
            {kind: make_plan(model, its, (), skip) for kind, its in kinds.items()},
            {kind: its.pattern for kind, its in kinds.items()},
        )

    def paths(self, kind: str) -> set[str]:
        """Returns the paths of the layers whose units of a kind may be pruned. Empty if it is not planned."""
        return {row.path for row in self.plans[kind].pruned} if kind in self.plans else set()

    def skipped(self) -> list[str]:
        """Lists the paths of the layers that `skip` names."""
        return list(dict.fromkeys(row.path for row in self.rows() if row.reason == NAMED_IN_SKIP))

    def unpruned(self) -> Iterator[tuple[str, str]]:
        """Yields `(path, reason)` of the layers whose units are all kept."""
        for row in self.rows():
            if row.weight and row.reason:
                yield row.path, row.reason

    def rows(self) -> Iterator[LayerPlan]:
        """Yields the rows of all plans."""
        for plan in self.plans.values():
            yield from plan

    def weights(self, layer_of: Any) -> Iterator[tuple[str, KernelSpec, Any]]:
        """Yields the path, `KernelSpec` and variable of each weight of the units that may be pruned.

        Args:
            layer_of: Function of a path that returns the layer.
        """
        for kind, plan in self.plans.items():
            for row in plan.pruned:
                layer = layer_of(row.path)
                for spec in self.patterns[kind].kernel_specs(layer):
                    if spec.name == row.weight:
                        yield row.path, spec, spec.find(layer)

    def __str__(self) -> str:
        return "\n".join(map(str, self.plans.values()))
