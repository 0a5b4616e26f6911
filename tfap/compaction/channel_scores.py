"""The scores of channel groups by a criterion, for pruning once."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfap.activations.counting import count_activations
from tfap.criteria import AP, Criterion
from tfap.criteria.gradient import MISSING, MeanGradients
from tfap.criteria.lookahead import AdjacentLayers
from tfap.graph import layer_types
from tfap.graph.kernel import Kernel, neuron_count
from tfap.graph.liveness import Liveness
from tfap.graph.units import InnerKernel
from tfap.masks.weights import score

_FROM_LAYERS = {"input_norms", "neuron_norms"}


class ChannelScores:
    """Scores channels by the mean score of the weights that produce them, as `tfap.prune` does.

    Args:
        model: The model without wrappers.
        criterion: A `tfap.Criterion`.
        plan: The `PruningPlan` of the model.
        liveness: The `Liveness` of the model.
        errors: Array with what `tfap.Reconstruction` scores, per channel group. None for other criteria.
    """

    def __init__(
        self, model: Any, criterion: Criterion, plan: Any, liveness: Liveness, errors: np.ndarray | None
    ) -> None:
        self._model, self._criterion, self._liveness, self._errors = model, criterion, liveness, errors
        # (path, KernelSpec, variable, groups of the neurons)
        self._weights: list[tuple[str, Any, Any, np.ndarray]] = []
        for row in plan.pruned:
            call = liveness.graph.calls_of[row.path][0]
            produced = liveness.channels.of(call.outputs[0])
            for spec in layer_types.kernel_specs(call.layer):
                variable = spec.find(call.layer)
                if isinstance(spec, InnerKernel) and spec.name == row.weight:
                    self._weights.append(
                        (row.path, spec, variable, liveness.channels.units_of(row.path)[spec.units])
                    )
                    continue
                if spec.name != row.weight or not spec.makes_channels or produced is None:
                    continue
                neurons = neuron_count(spec, variable.shape)
                groups = spec.of_output(produced.groups, neurons)
                if len(groups) == neurons:
                    self._weights.append((row.path, spec, variable, groups))
        chooses = type(criterion).new_masks not in (Criterion.new_masks, AP.new_masks)
        if chooses:
            raise ValueError(
                f"{criterion} chooses masks itself, with new_masks(), but tfap.prune_once ranks channels by "
                "scores(): use another criterion."
            )

    def by_group(self, batches: Iterable[Any], data: Any) -> np.ndarray:
        """Computes the scores.

        Args:
            batches: Model inputs, which can be read again.
            data: What `tfap.Gradient` takes: inputs and labels.

        Returns:
            float64 array, shape `(groups,)`.
        """
        size = self._liveness.channels.size
        total, count = np.zeros(size), np.zeros(size)
        for kernel, groups in self._kernels(batches, data):
            scores = np.asarray(score(self._criterion, kernel).scores, np.float64)
            total += np.bincount(groups, kernel.neuron_sums(scores), size)
            count += np.bincount(groups, kernel.neuron_sums(np.ones(scores.shape)), size)
        return total / np.maximum(count, 1)

    def _kernels(self, batches, data):
        needs, counts = self._criterion.needs, {}
        if self._criterion.counts:
            counts = count_activations(
                self._model,
                batches,
                side=self._criterion.counts,
                statistic=self._criterion.statistic,
                threshold=self._criterion.threshold,
            )
        norms = AdjacentLayers(self._model).norms() if needs & _FROM_LAYERS else {}
        gradients = self._gradients(data) if "gradients" in needs else [None] * len(self._weights)
        for (path, spec, variable, groups), gradient in zip(self._weights, gradients):
            weights = np.array(variable)
            kernel = Kernel(
                path,
                spec,
                weights,
                np.ones(weights.shape, np.uint8),
                activations=_its_counts(spec, counts.get(path), len(groups)),
                gradients=gradient,
                previous=weights,
                removal_errors=None if self._errors is None else self._errors[groups],
                **norms.get((path, spec.name), {}),
            )
            yield kernel, groups

    def _gradients(self, data):
        if isinstance(data, list | dict) or hasattr(data, "__array__"):
            raise ValueError(
                MISSING.format(criterion=self._criterion).split(":")[0]
                + ", and so data with labels: pass (x, y) or batches of (x, y) to tfap.prune_once."
            )
        return MeanGradients(self._model, data).of([variable for _, _, variable, _ in self._weights])


def _its_counts(spec, counts, neurons):
    """Returns the counts of a kernel's neurons among those of a layer's output."""
    return counts if counts is None else spec.of_output(counts, neurons)
