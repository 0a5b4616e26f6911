"""tfap: prunes Keras networks by what their neurons do."""

import importlib
import itertools
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from tfap.version import __version__

if TYPE_CHECKING:
    from tfap import layers, low_rank
    from tfap.activations.dead_neurons import DeadNeuronMonitor, dead_neuron_report
    from tfap.activations.measure import measure_activations
    from tfap.activations.recalibration import recalibrate
    from tfap.compaction.allocate import allocate
    from tfap.compaction.allocation import Allocation
    from tfap.compaction.compact import compact
    from tfap.compaction.fit import fit_and_compact
    from tfap.compaction.prune_once import prune_once
    from tfap.compaction.remove import remove
    from tfap.compaction.report import compaction_report
    from tfap.compaction.sensitivity import sensitivity
    from tfap.comparison import compare
    from tfap.criteria import (
        AP,
        FPGM,
        LAMP,
        ActivationCount,
        Criterion,
        Gradient,
        GroupTaylor,
        HessianDiagonal,
        Lookahead,
        Magnitude,
        Reconstruction,
        Wanda,
    )
    from tfap.exporting.export import export
    from tfap.exporting.formats import load_runtime
    from tfap.graph.counts import ActivationCounts
    from tfap.graph.flops import flops, layer_flops
    from tfap.graph.kernel import Kernel, KernelSpec
    from tfap.graph.registration import (
        register_composite_layer,
        register_pass_through_layer,
        register_prunable_layer,
    )
    from tfap.graph.units import Units
    from tfap.iterative import prune_iteratively
    from tfap.layers.find import prunable_layers
    from tfap.pruning.policy import PruneForLatencyOnXNNPack, PruningPolicy
    from tfap.pruning.prune import plan, prune, prune_scope, strip_pruning
    from tfap.pruning.prune_low_magnitude import prune_low_magnitude
    from tfap.regularization.demon import DemonPruning
    from tfap.regularization.group_lasso import GroupLasso
    from tfap.regularization.growing import GrowingRegularization
    from tfap.regularization.regularizer import NeuronRegularizer
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
    from tfap.shrinking.shrink import shrink
    from tfap.training.callbacks import UpdatePruningStep
    from tfap.training.disconnected import unremovable_neurons
    from tfap.training.mask_update import update_masks
    from tfap.training.stopping import StopWhenPruned, pruning_is_over
    from tfap.training.summaries import PruningSummaries

__all__ = [
    "AP",
    "FPGM",
    "LAMP",
    "AccuracyIntervals",
    "ActivationCount",
    "ActivationCounts",
    "Allocation",
    "ConstantSparsity",
    "Criterion",
    "DeadNeuronMonitor",
    "DemonPruning",
    "Gradient",
    "GroupLasso",
    "GroupTaylor",
    "GrowingRegularization",
    "HessianDiagonal",
    "IterativeSparsity",
    "Kernel",
    "KernelSpec",
    "Lookahead",
    "Magnitude",
    "NeuronRegularizer",
    "PolynomialDecay",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "Reconstruction",
    "StopWhenPruned",
    "Units",
    "UpdatePruningStep",
    "Wanda",
    "__version__",
    "allocate",
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
    "prune_low_magnitude",
    "prune_once",
    "prune_scope",
    "pruning_is_over",
    "recalibrate",
    "register_composite_layer",
    "register_pass_through_layer",
    "register_prunable_layer",
    "remove",
    "report",
    "sensitivity",
    "shrink",
    "strip_pruning",
    "unremovable_neurons",
    "update_masks",
]

# The module of each name above, which is imported when the name is first used. Names here are those that
# type checkers see above: tests/test_lazy_imports.py compares them.
_MODULE_OF = {
    name: module
    for module, names in {
        "activations.dead_neurons": ("DeadNeuronMonitor", "dead_neuron_report"),
        "activations.measure": ("measure_activations",),
        "compaction.allocate": ("allocate",),
        "compaction.allocation": ("Allocation",),
        "compaction.compact": ("compact",),
        "compaction.fit": ("fit_and_compact",),
        "compaction.report": ("compaction_report",),
        "compaction.sensitivity": ("sensitivity",),
        "comparison": ("compare",),
        "criteria": (
            "AP",
            "FPGM",
            "LAMP",
            "ActivationCount",
            "Criterion",
            "Gradient",
            "GroupTaylor",
            "HessianDiagonal",
            "Lookahead",
            "Magnitude",
            "Reconstruction",
            "Wanda",
        ),
        "exporting.export": ("export",),
        "exporting.formats": ("load_runtime",),
        "graph.counts": ("ActivationCounts",),
        "graph.flops": ("flops", "layer_flops"),
        "graph.kernel": ("Kernel", "KernelSpec"),
        "graph.registration": (
            "register_composite_layer",
            "register_pass_through_layer",
            "register_prunable_layer",
        ),
        "graph.units": ("Units",),
        "iterative": ("prune_iteratively",),
        "layers.find": ("prunable_layers",),
        "pruning.prune": ("plan", "prune", "prune_scope", "strip_pruning"),
        "reporting.report": ("report",),
        "schedules": (
            *("AccuracyIntervals", "ConstantSparsity", "IterativeSparsity"),
            *("PolynomialDecay", "PruningSchedule"),
        ),
        "activations.recalibration": ("recalibrate",),
        "compaction.prune_once": ("prune_once",),
        "compaction.remove": ("remove",),
        "pruning.policy": (
            "PruneForLatencyOnXNNPack",
            "PruningPolicy",
        ),
        "pruning.prune_low_magnitude": ("prune_low_magnitude",),
        "regularization.demon": ("DemonPruning",),
        "regularization.group_lasso": ("GroupLasso",),
        "regularization.growing": ("GrowingRegularization",),
        "regularization.regularizer": ("NeuronRegularizer",),
        "reporting.export_report": ("export_report",),
        "shrinking.shrink": ("shrink",),
        "training.callbacks": ("UpdatePruningStep",),
        "training.disconnected": ("unremovable_neurons",),
        "training.mask_update": ("update_masks",),
        "training.stopping": ("StopWhenPruned", "pruning_is_over"),
        "training.summaries": ("PruningSummaries",),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    """Imports what is used."""
    if name in ("comparison", "datasets", "layers", "low_rank"):
        return importlib.import_module(f"tfap.{name}")
    if name == "measure_latency":
        return importlib.import_module("tfap.reporting.latency").measure
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'tfap' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"tfap.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command() -> bool:
    """Whether this process is the command `tfap`, or `python -m tfap`, and not a program that imports it."""
    if "keras" in sys.modules:
        return False
    program = next(iter(sys.argv), "")
    if program != "-m":  # what it is while Python looks for the module of `python -m`
        return pathlib.Path(program).stem == "tfap"
    modules = [name for option, name in itertools.pairwise(sys.orig_argv) if _ends_in_m(option)]
    return modules[:1] == ["tfap"]


def _ends_in_m(option: str) -> bool:
    """Whether the next argument of Python is a module: `-m`, or after other letters, such as `-um`."""
    return option.startswith("-") and not option.startswith("--") and option.endswith("m")


if not _is_command():
    importlib.import_module("tfap.loading")
