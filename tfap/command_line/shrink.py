"""`tfap shrink`: a trained model to a budget."""

from collections.abc import Sequence

from absl import flags

from tfap.command_line import data, models
from tfap.command_line.command import Command, only


def _define(values: flags.FlagValues) -> None:
    data.define(values, "Samples.")


def _run(arguments: Sequence[str], values: flags.FlagValues) -> None:
    only(arguments, "MODEL")


COMMAND = Command("shrink", "MODEL", "Shrinks a trained model to a budget.", (), _define, _run, models.FILES)
