"""The comparison of the command line: its flags, and what it does with them."""

import contextlib
import functools
import pathlib
from typing import Any

from absl import flags, logging

from tfap.comparison import images
from tfap.comparison.images import Images
from tfap.comparison.methods import Method
from tfap.comparison.runner import compare
from tfap.criteria import ActivationCount
from tfap.pruning.prune import strip_pruning

METHODS: dict[str, Any] = {
    "activation_count": "activation_count",
    "count_x_weight": {"criterion": ActivationCount(), "granularity": "weight"},
    "count": {"criterion": ActivationCount(weighted=False), "granularity": "weight"},
    "input_count_x_weight": {"criterion": ActivationCount(side="input"), "granularity": "weight"},
    "magnitude": "magnitude",
    "magnitude_local": {"criterion": "magnitude", "scope": "local"},
    "magnitude_neurons": {"criterion": "magnitude", "granularity": "neuron"},
    "gradient": Method(images.prune_by_gradient, list, strip_pruning),
    **{
        name: Method(functools.partial(images.prune_by_gradient, criterion=name), list, strip_pruning)
        for name in images.BY_GRADIENTS[1:]
    },
    "fpgm": {"criterion": "fpgm", "scope": "local"},
    "wanda": "wanda",
    "lamp": "lamp",
    "lookahead": "lookahead",
    "ap": "ap",
    "tfmot": "tfmot",
}
EPOCHS = {"digits": 20, "fashion_mnist": 10}


def define(values: flags.FlagValues) -> None:
    """Defines the flags.

    Args:
        values: The `absl.flags.FlagValues` to define them in.
    """
    given: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum("dataset", "digits", list(EPOCHS), "Images to train on.", **given)
    flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras (Keras 2).", **given)
    text = f"Methods to compare: {', '.join(METHODS)}. All by default."
    flags.DEFINE_list("methods", None, text, **given)
    text = "Fractions of the hidden layers' weights to prune."
    flags.DEFINE_list("sparsities", ["0.5", "0.8", "0.9"], text, **given)
    flags.DEFINE_integer("seeds", 3, "Number of seeds. They also split digits.", 1, **given)
    flags.DEFINE_integer("epochs", None, "Epochs per run. The default depends on the data set.", 1, **given)
    text = "Directory for finished runs, rows.csv and figures."
    flags.DEFINE_string("directory", "build/comparison", text, **given)
    flags.DEFINE_integer("workers", None, "Number of processes. One per core by default.", 1, **given)


def methods(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the methods that the flags select, by name.

    Args:
        values: Parsed flags.

    Raises:
        ValueError: If a name is unknown.
    """
    if values.methods is None:
        return {name: each for name, each in METHODS.items() if values.keras == "tf_keras" or name != "tfmot"}
    unknown = sorted(set(values.methods) - set(METHODS))
    if unknown:
        raise ValueError(f"Unknown methods: {', '.join(unknown)}. Known: {', '.join(METHODS)}.")
    return {name: METHODS[name] for name in values.methods}


def sparsities(values: flags.FlagValues) -> list[float]:
    """Returns the sparsities that the flags name.

    Args:
        values: Parsed flags.

    Raises:
        ValueError: If one is not a number in [0, 1).
    """
    numbers = []
    for text in values.sparsities:
        try:
            numbers.append(float(text))
        except ValueError:
            numbers.append(-1.0)
        if not 0 <= numbers[-1] < 1:
            raise ValueError(f"--sparsities must be numbers in [0, 1): received '{text}'.")
    return numbers


def run(values: flags.FlagValues) -> None:
    """Compares the methods and writes rows.csv and the figures.

    Args:
        values: Parsed flags.

    Raises:
        ValueError: If a flag is invalid.
    """
    chosen, fractions = methods(values), sparsities(values)
    epochs = values.epochs or EPOCHS[values.dataset]
    experiment = Images(values.dataset, values.keras, epochs)
    folder = pathlib.Path(values.directory) / f"{values.dataset}-{values.keras}-{epochs}"
    with _errors_only():
        compared = compare(
            experiment.build_model,
            experiment.fit,
            experiment.evaluate,
            chosen,
            fractions,
            values.seeds,
            directory=folder,
            workers=values.workers,
        )
    print(compared)
    compared.to_csv(folder / "rows.csv")
    compared.plot_sparsity().savefig(folder / "sparsity.png")
    compared.plot_size().savefig(folder / "size.png")
    print(f"rows.csv, sparsity.png and size.png are in {folder}")


@contextlib.contextmanager
def _errors_only():
    """Hides logs below errors, and shows them again: the process may go on with other work."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
