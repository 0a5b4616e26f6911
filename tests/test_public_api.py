import inspect

import pytest

import tfap

PUBLIC = [
    *("ActivationCount", "ConstantSparsity", "Criterion", "IterativeSparsity", "KernelSpec", "Magnitude"),
    *("PolynomialDecay", "PruningSchedule", "UpdatePruningStep", "__version__", "compact", "export"),
    *("AP", "ActivationCounts", "Gradient", "Kernel", "LAMP", "Lookahead", "Reconstruction"),
    *("FPGM", "GroupTaylor", "HessianDiagonal", "Wanda"),
    *("PruneForLatencyOnXNNPack", "PruningPolicy", "PruningSummaries", "prune_low_magnitude"),
    *("flops", "layer_flops", "load_runtime", "measure_latency", "pruning_is_over", "unremovable_neurons"),
    *("AccuracyIntervals", "DeadNeuronMonitor", "StopWhenPruned", "Units", "low_rank"),
    *("DemonPruning", "GroupLasso", "GrowingRegularization", "NeuronRegularizer"),
    *(
        "compaction_report",
        "Allocation",
        "allocate",
        "compare",
        "dead_neuron_report",
        "export_report",
        "fit_and_compact",
        "layers",
        "measure_activations",
        "plan",
        "prunable_layers",
        "prune",
        "prune_iteratively",
        "prune_once",
        "prune_scope",
        "recalibrate",
        "remove",
        "register_composite_layer",
        "register_pass_through_layer",
        "register_prunable_layer",
        "report",
        "sensitivity",
        "shrink",
        "strip_pruning",
        "update_masks",
    ),
]
OURS = [name for name in PUBLIC if getattr(getattr(tfap, name), "__module__", "tfmot").startswith("tfap")] + [
    "layers.PruneByActivation",
    "layers.CountActivations",
    *(f"low_rank.{name}" for name in tfap.low_rank.__all__),
]


def test_the_list_of_public_names():
    assert sorted(tfap.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", OURS)
def test_docstrings_say_what_goes_in(name):
    thing = tfap
    for part in name.split("."):
        thing = getattr(thing, part)
    text = inspect.getdoc(thing)
    parameters = [p for p in inspect.signature(thing.__init__ if inspect.isclass(thing) else thing).parameters
                  if p not in ("self", "args", "kwargs")]  # fmt: skip
    assert len(text) > 40
    if "arguments are those of `tfap.prune`" in text:
        parameters = parameters[:1]
    for parameter in parameters:
        assert parameter in text, f"{name}: {parameter} is not explained"


def test_plan_takes_the_arguments_of_prune():
    assert (
        list(inspect.signature(tfap.plan).parameters)[1:]
        == list(inspect.signature(tfap.prune).parameters)[1:]
    )
