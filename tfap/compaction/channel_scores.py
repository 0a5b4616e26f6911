"""The scores of channel groups by a criterion, for pruning once."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfap.activations.counting import count_activations
from tfap.compaction.planned_units import PlannedUnits
from tfap.criteria import AP, Criterion, Wanda
from tfap.criteria.gradient import MISSING, NEEDS, MeanGradients
from tfap.criteria.lookahead import AdjacentLayers
from tfap.criteria.taylor import CoupledParameters
from tfap.graph.channels import produced_by
from tfap.graph.kernel import Kernel, neuron_count
from tfap.graph.liveness import Liveness
from tfap.masks.weights import score

_FROM_LAYERS = {"input_norms", "neuron_norms"}


def check_labeled(criterion: Criterion, data: Any) -> None:
    """Checks that data has the labels that a criterion needs.

    Raises:
        ValueError: If it has not.
    """
    if criterion.needs & NEEDS and (isinstance(data, list | dict) or hasattr(data, "__array__")):
        raise ValueError(
            MISSING.format(criterion=criterion).split(":")[0]
            + ", and so data with labels: pass (x, y) or batches of (x, y) to tfap.prune_once."
        )


class ChannelScores:
    """Scores channels by the mean score of the weights that produce them, as `tfap.prune` does.

    Args:
        model: The model without wrappers.
        criterion: A `tfap.Criterion`.
        planned: The `PlannedUnits` of the model.
        liveness: The `Liveness` of the model.
        errors: Array with what `tfap.Reconstruction` scores, per channel group. None for other criteria.
    """

    def __init__(
        self,
        model: Any,
        criterion: Criterion,
        planned: PlannedUnits,
        liveness: Liveness,
        errors: np.ndarray | None,
    ) -> None:
        self._model, self._criterion, self._liveness, self._errors = model, criterion, liveness, errors
        # (path, KernelSpec, variable, groups of the neurons)
        self._weights: list[tuple[str, Any, Any, np.ndarray]] = []
        calls_of = liveness.graph.calls_of
        for path, spec, variable in planned.weights(lambda path: calls_of[path][0].layer):
            neurons = neuron_count(spec, variable.shape)
            groups = produced_by(calls_of[path][0], spec, neurons, liveness.channels)
            if groups is not None:
                self._weights.append((path, spec, variable, groups))
        # These two rank whole neurons by their scores.
        ranks_neurons = (Criterion.new_masks, AP.new_masks, Wanda.new_masks)
        chooses = type(criterion).new_masks not in ranks_neurons
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
        needs = self._criterion.needs
        counts = self._counts(batches) if self._criterion.counts else {}
        norms = AdjacentLayers(self._model).norms() if needs & _FROM_LAYERS else {}
        measured = self._gradients(data) if needs & NEEDS else [{}] * len(self._weights)
        for (path, spec, variable, groups), its in zip(self._weights, measured):
            weights = np.array(variable)
            kernel = Kernel(
                path,
                spec,
                weights,
                np.ones(weights.shape, np.uint8),
                activations=_its_counts(spec, counts.get((path, spec.heads)), len(groups)),
                previous=weights,
                removal_errors=None if self._errors is None else self._errors[groups],
                **norms.get((path, spec.name), {}),
                **its,
            )
            yield kernel, groups

    def _counts(self, batches):
        """Returns the counts by `(path, whether they are those of heads)`."""
        criterion, found = self._criterion, {}
        for heads in sorted({spec.heads for _, spec, _, _ in self._weights}):
            by_path = count_activations(
                self._model,
                batches,
                side=criterion.counts,
                statistic=criterion.statistic,
                threshold=criterion.threshold,
                heads=heads,
            )
            found |= {(path, heads): counts for path, counts in by_path.items()}
        return found

    def _gradients(self, data):
        check_labeled(self._criterion, data)
        gradients, needs = MeanGradients(self._model, data), self._criterion.needs
        variables = [variable for _, _, variable, _ in self._weights]
        if "loss_changes" in needs:
            changes = self._loss_changes(gradients)
            return [{"loss_changes": changes[path, spec.name]} for path, spec, _, _ in self._weights]
        measured = {}
        if "gradients" in needs:
            measured["gradients"] = gradients.of(variables)
        if "squared_gradients" in needs:
            measured["squared_gradients"] = gradients.squares_of(variables)
        return [dict(zip(measured, its)) for its in zip(*measured.values())]

    def _loss_changes(self, gradients):
        coupled = CoupledParameters(self._liveness.graph, self._liveness.channels)
        return coupled.changes(gradients.of(coupled.variables))


def _its_counts(spec, counts, neurons):
    """Returns the counts of a kernel's neurons among those of a layer's output."""
    return counts if counts is None else spec.of_output(counts, neurons)
