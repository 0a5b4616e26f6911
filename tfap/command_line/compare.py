"""`tfap compare`: pruning methods over sparsities and seeds."""

import importlib
import pathlib
from collections.abc import Sequence

from absl import flags

from tfap.command_line import output
from tfap.command_line.command import Command, UserError


def _define(values: flags.FlagValues) -> None:
    importlib.import_module("tfap.loading")  # the flags name the methods
    from tfap.comparison import command

    command.define(values)


def _run(arguments: Sequence[str], values: flags.FlagValues) -> None:
    from tfap.comparison import command

    if arguments:
        raise UserError(f"expected flags only: received {' '.join(map(repr, arguments))}")
    output.check_parent(pathlib.Path(values.directory, "rows.csv"))
    try:
        command.methods(values), command.sparsities(values)
    except ValueError as error:
        raise UserError(str(error)) from error
    command.run(values)


COMMAND = Command(
    "compare",
    "",
    "Compares pruning methods on images, over sparsities and seeds, with a table and two figures.",
    (
        "tfap compare",
        "tfap compare --dataset=fashion_mnist --keras=tf_keras --methods=magnitude,activation_count",
        "tfap compare --epochs=5 --seeds=5 --directory=build/comparison",
    ),
    _define,
    _run,
    "A second call with the same data, Keras and epochs trains only missing runs. "
    "Needs pip install 'tfap[comparison]'. Your own models: tfap.compare in Python.",
)
