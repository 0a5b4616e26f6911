"""tfap: prunes Keras networks by what their neurons do."""

from tfap import layers, low_rank, moved
from tfap.activations.dead_neurons import DeadNeuronMonitor, dead_neuron_report
from tfap.activations.measure import measure_activations
from tfap.compaction.compact import compact
from tfap.compaction.fit import fit_and_compact
from tfap.compaction.report import compaction_report
from tfap.comparison import compare
from tfap.criteria import AP, LAMP, ActivationCount, Criterion, Gradient, Lookahead, Magnitude
from tfap.exporting.export import export
from tfap.exporting.formats import load_runtime
from tfap.graph.counts import ActivationCounts
from tfap.graph.flops import flops, layer_flops
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.graph.registration import register_pass_through_layer, register_prunable_layer
from tfap.iterative import prune_iteratively
from tfap.layers.find import prunable_layers
from tfap.pruning.prune import plan, prune, prune_scope, strip_pruning
from tfap.reporting.export_report import export_report
from tfap.reporting.latency import measure as measure_latency
from tfap.reporting.report import report
from tfap.schedules import (
    AccuracyIntervals,
    ConstantSparsity,
    IterativeSparsity,
    PolynomialDecay,
    PruningSchedule,
)
from tfap.training.callbacks import UpdatePruningStep
from tfap.training.disconnected import unremovable_neurons
from tfap.training.mask_update import update_masks
from tfap.training.stopping import StopWhenPruned, pruning_is_over
from tfap.version import __version__

__all__ = [
    "AP",
    "LAMP",
    "AccuracyIntervals",
    "ActivationCount",
    "ActivationCounts",
    "ConstantSparsity",
    "Criterion",
    "DeadNeuronMonitor",
    "Gradient",
    "IterativeSparsity",
    "Kernel",
    "KernelSpec",
    "Lookahead",
    "Magnitude",
    "PolynomialDecay",
    "PruningSchedule",
    "StopWhenPruned",
    "UpdatePruningStep",
    "__version__",
    "compact",
    "compaction_report",
    "compare",
    "dead_neuron_report",
    "export",
    "export_report",
    "fit_and_compact",
    "flops",
    "layer_flops",
    "layers",
    "load_runtime",
    "low_rank",
    "measure_activations",
    "measure_latency",
    "plan",
    "prunable_layers",
    "prune",
    "prune_iteratively",
    "prune_scope",
    "pruning_is_over",
    "register_pass_through_layer",
    "register_prunable_layer",
    "report",
    "strip_pruning",
    "unremovable_neurons",
    "update_masks",
]

moved.alias()
