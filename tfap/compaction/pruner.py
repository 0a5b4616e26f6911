"""Removes channels from a copy of a model, and refits the layers that consumed them."""

import functools
import time

import numpy as np

from tfap.compaction.allocation import allocated_sets
from tfap.compaction.channel_scores import ChannelScores
from tfap.compaction.prune_once_report import RefittedLayer
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.sensitivity import output_sensitivity
from tfap.compensation.consumers import Consumer
from tfap.compensation.normalizers import Normalizer
from tfap.compensation.refit import relative
from tfap.compensation.removal import Repeatable, consuming, removal_errors
from tfap.compensation.selection import removal_order
from tfap.compensation.sweep import Sweep
from tfap.graph.linear import Grouped
from tfap.utils.progress import Progress


class Pruner:
    """Decides which channels of a copy of a model are removed, and takes them out of their consumers.

    Attributes:
        model: The copy. Its shapes stay; the weights that consume removed channels become zero.
        removable: Its `RemovableChannels`.
        kept: Boolean array: the channel groups that are kept, after `remove`.
    """

    def __init__(self, model, batches, settings, planned, ridge):
        self._settings, self._planned, self._ridge = settings, planned, ridge
        self._inputs = Repeatable(batches.inputs)
        self.removable = RemovableChannels(model, planned)
        self.model, self._liveness = self.removable.model, self.removable.liveness
        self._consumers, self._sets = self.removable.consumers, self.removable.sets

    @property
    def _measures_errors(self):
        return "removal_errors" in self._settings.criterion.needs

    # -- which channels --------------------------------------------------------------------------------

    def scores(self, data):
        """Returns the scores of the groups of each set: those with the lowest are removed first."""
        with Progress("Pruning", len(self._consumers)) as progress:
            errors = self._removal_errors(progress) if self._measures_errors else None
            scores = ChannelScores(
                self.model, self._settings.criterion, self._planned, self._liveness, errors
            )
            by_group = scores.by_group(self._inputs, data)
        return [by_group[groups] for groups in self._sets]

    def _removal_errors(self, progress):
        """Returns what the removal of each group adds to the errors of its consumers: float array.

        With the same fraction for every layer, sets that are chosen again need no errors before.
        """
        is_local = self._settings.scope == "local"
        only = self._only_consumers
        sets = [groups for at, groups in enumerate(self._sets) if not (is_local and only[at])]
        readers = self.removable.readers
        found = removal_errors(self.model, self._inputs, sets, readers, self._ridge, progress.advance)
        errors = np.zeros(self.removable.channels.size)
        errors[list(found)] = list(found.values())
        return errors

    def allocated_sets(self, model, data, batches, compensate):
        """Measures the losses of the coupled sets of the given model. Returns a list of `AllocatedSet`."""
        settings = self._settings
        sensitivity = output_sensitivity(
            model, self.removable, data, batches, self._planned, settings.criterion, compensate, self._ridge
        )
        return allocated_sets(self.removable, sensitivity)

    def _sweep(self, consumers, done):
        if consumers:
            paths = [consumer.path for consumer in consumers]
            Sweep(self.model, self._inputs, paths).run(consumers, done)

    # -- the refit -------------------------------------------------------------------------------------

    def remove(self, kept, compensate):
        """Takes removed channels out of their consumers. Returns a list of `RefittedLayer`."""
        self.kept = kept.copy()  # `_choose_again` changes it
        self.removable.clear_reads(kept)
        rows = []
        readers = [each for each in self.removable.readers.values() if not self.kept[each.groups].all()]
        with Progress("Refitting", len(self._consumers)) as progress:

            def done(reader):
                if isinstance(reader, Normalizer):
                    return
                rows.append(self._refit(reader, compensate))
                reader.forget()
                progress.advance()

            self._sweep(readers, done)
        self.removable.clear_made(kept)
        if compensate is True:
            self.removable.scale_kept(kept, self._ridge)
        return rows

    def _refit(self, consumer: Consumer, compensate):
        start = time.monotonic()
        problems = consumer.problems(self._ridge)
        if self._measures_errors:
            self._choose_again(consumer, problems)
        removed = [~self.kept[problem.groups] for problem in problems]
        plain = [problem.without(marks) for problem, marks in zip(problems, removed)]
        fitted = plain
        if compensate is True:
            fitted = [problem.refit(marks) for problem, marks in zip(problems, removed)]
        consumer.write(fitted, problems, fold=bool(compensate))
        consumer.clear(~self.kept[consumer.groups])
        errors = [
            sum(relative(problem.error(weights), problem.scale) for problem, weights in zip(problems, each))
            for each in (plain, fitted)
        ]
        return RefittedLayer(
            path=consumer.path,
            inputs=(len(consumer.groups), int(self.kept[consumer.groups].sum())),
            units=(0, 0),
            error_before=errors[0],
            error_after=errors[1],
            rows=consumer.rows,
            fitted_units=consumer.most_units,
            seconds=time.monotonic() - start,
        )

    @functools.cached_property
    def _only_consumers(self):
        """Lists `_only_consumer` of each set."""
        return [self._only_consumer(groups) for groups in self._sets]

    def _only_consumer(self, groups):
        """Returns the path of the only layer that consumes a set, or None.

        None also if a grouped convolution needs as many channels of every group, if a recurrent layer reads
        some of them itself, or if they are normalized together.
        """
        if not self.removable.normalized.isdisjoint(groups.tolist()):
            return None
        for path, matrix in self._liveness.linear_maps.items():
            sides = self._liveness.groups(path) if isinstance(matrix, Grouped) else ()
            if self._liveness.is_recurrent(path):
                sides = self._liveness.groups(path)[1:]
            if any(side is not None and np.isin(side, groups).any() for side in sides):
                return None
        paths = consuming(groups, self._consumers)
        return paths[0] if len(paths) == 1 else None

    def _choose_again(self, consumer, problems):
        """Chooses as many channels as before, on the activations of the layers before as they are now."""
        for groups, path in zip(self._sets, self._only_consumers):
            removed = int((~self.kept[groups]).sum())
            if removed and path == consumer.path:
                order = removal_order(problems, groups, removed)
                self.kept[groups] = True
                self.kept[order.groups] = False
