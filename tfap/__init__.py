"""tfap: prunes Keras networks by what their neurons do."""

from tfap import layers, low_rank
from tfap.callbacks import StopWhenPruned, UpdatePruningStep
from tfap.compaction import compact
from tfap.compaction_reports import compaction_report
from tfap.comparison import compare
from tfap.criteria import AP, LAMP, ActivationCount, Criterion, Gradient, Lookahead, Magnitude
from tfap.dead_neuron_reports import dead_neuron_report
from tfap.exporting import export
from tfap.iterative import prune_iteratively
from tfap.kernels import KernelSpec, register_prunable_layer
from tfap.measuring import measure_activations
from tfap.monitors import DeadNeuronMonitor
from tfap.pruning import plan, prune, prune_scope, strip_pruning
from tfap.reporting import report
from tfap.schedules import (
    AccuracyIntervals,
    ConstantSparsity,
    IterativeSparsity,
    PolynomialDecay,
    PruningSchedule,
)
from tfap.shrinking import fit_and_compact
from tfap.updater import update_masks
from tfap.version import __version__
from tfap.wrapped import prunable_layers

__all__ = [
    "AP",
    "LAMP",
    "AccuracyIntervals",
    "ActivationCount",
    "ConstantSparsity",
    "Criterion",
    "DeadNeuronMonitor",
    "Gradient",
    "IterativeSparsity",
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
    "fit_and_compact",
    "layers",
    "low_rank",
    "measure_activations",
    "plan",
    "prunable_layers",
    "prune",
    "prune_iteratively",
    "prune_scope",
    "register_prunable_layer",
    "report",
    "strip_pruning",
    "update_masks",
]
