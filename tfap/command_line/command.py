"""What a command of `tfap` is, and the error for a user's mistake."""

import dataclasses
from collections.abc import Callable, Sequence

from absl import flags

CRITERIA = (
    *("activation_count", "magnitude", "lamp", "lookahead", "gradient", "group_taylor", "hessian_diagonal"),
    *("fpgm", "wanda", "ap", "reconstruction"),
)


class UserError(Exception):
    """A mistake of the user's: one line on stderr, and the exit code 2."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Describes a command.

    Attributes:
        name: String. Its name on the command line.
        arguments: String. What it takes besides flags, such as `MODEL...`.
        summary: String. One line.
        examples: Tuple of strings. Command lines.
        define: Function of an `absl.flags.FlagValues` that defines its flags.
        run: Function of `(arguments, flags)`, the list of what is no flag and the parsed flags.
        details: String. More help.
    """

    name: str
    arguments: str
    summary: str
    examples: tuple[str, ...]
    define: Callable[[flags.FlagValues], None]
    run: Callable[[Sequence[str], flags.FlagValues], None]
    details: str = ""

    def flags(self) -> flags.FlagValues:
        """Returns the flags of the command, not parsed yet. Arguments and flags may come in any order."""
        values = flags.FlagValues()
        values.set_gnu_getopt(True)
        self.define(values)
        return values

    def help(self) -> str:
        """Returns the text of `tfap COMMAND --help`."""
        values = self.flags()
        parts = [f"{self.summary}\n\nUsage: tfap {self.name} {self.arguments} [flags]", self.details]
        parts.append("Examples:\n" + "\n".join(f"  {example}" for example in self.examples))
        parts.append("Flags:\n" + "\n".join(_flag_help(values[name]) for name in sorted(values)))
        return "\n\n".join(filter(None, parts))


def _flag_help(flag):
    sign = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}=..."
    default = (flag.default_as_str or "").strip("'")
    default = f" [{default}]" if default and flag.default is not False else ""
    return f"  {sign:<20} {' '.join(flag.help.split())}{default}"


def only(arguments: Sequence[str], what: str) -> str:
    """Returns the only argument.

    Raises:
        UserError: If there is another number of arguments.
    """
    if len(arguments) != 1:
        received = " ".join(map(repr, arguments)) or "none"
        raise UserError(f"expected one argument, {what}: received {received}")
    return arguments[0]
