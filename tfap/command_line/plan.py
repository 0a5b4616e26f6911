"""`tfap plan`: what would be pruned in each layer, and why not."""

import math
from collections.abc import Sequence

from absl import flags

from tfap.command_line import models, output
from tfap.command_line.command import CRITERIA, Command, only


def _define(values: flags.FlagValues) -> None:
    text = "Fraction of the prunable weights to prune, in [0, 1)."
    flags.DEFINE_float("sparsity", 0.5, text, 0.0, 0.999999, flag_values=values)
    text = "How weights or neurons are ranked."
    flags.DEFINE_enum("criterion", "activation_count", CRITERIA, text, flag_values=values)
    text = "What is pruned. By default that of the criterion."
    flags.DEFINE_enum("granularity", None, ["weight", "neuron", "head", "unit"], text, flag_values=values)
    flags.DEFINE_list("include", [], "Output layers to prune, by name.", flag_values=values)
    flags.DEFINE_list("skip", [], "Layers not to prune, by name.", flag_values=values)


def _run(arguments: Sequence[str], values: flags.FlagValues) -> None:
    path = only(arguments, f"the file of a Keras model ({models.KERAS_FILES})")
    with output.working("Loading"):
        model = models.load(path)
    from tfap.graph.flops import flops as flops_of
    from tfap.pruning.prune import plan

    made = plan(
        model,
        values.sparsity,
        values.criterion,
        granularity=values.granularity,
        include=values.include,
        skip=values.skip,
    )
    print(made)
    weights = sum(math.prod(weight.shape) for weight in model.weights)
    prunable = sum(math.prod(row.shape or ()) for row in made.pruned)
    pruned = round(values.sparsity * prunable)
    print(f"{prunable:,} of {weights:,} weights are prunable, in {len(made.pruned)} kernels.")
    print(f"Of these, {pruned:,} would be pruned (--sparsity={values.sparsity:g}).")
    try:
        print(f"FLOPs per sample: {flops_of(model):,}.")
    except ValueError as error:
        print(f"FLOPs per sample: unknown. {error}")


COMMAND = Command(
    "plan",
    "MODEL",
    "Says layer by layer what would be pruned, where its neurons fire, and why it is not pruned.",
    (
        "tfap plan model.keras",
        "tfap plan model.keras --criterion=magnitude --granularity=neuron --sparsity=0.8",
        "tfap plan model.h5 --skip=stem,head",
    ),
    _define,
    _run,
    f"MODEL is a file of either Keras: {models.KERAS_FILES}.",
)
