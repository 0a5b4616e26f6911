"""The entry point: finds the command, runs it, and turns its errors into a line and an exit code."""

import contextlib
import importlib
import logging
import os
import pathlib
import sys
import traceback
import warnings
from collections.abc import Sequence

from absl import flags

from tfap.command_line.command import Command, UserError
from tfap.version import __version__

COMMANDS = {
    "report": "Measures models and files side by side: size, FLOPs, latency, accuracy.",
    "plan": "Says layer by layer what would be pruned, and why not.",
    "shrink": "Shrinks a trained model to a budget, such as twice the speed.",
    "export": "Writes a model for deployment: SavedModel, LiteRT, ONNX, or a Keras file.",
    "compare": "Compares pruning methods over sparsities and seeds.",
}
_PACKAGE = pathlib.Path(__file__).parent.parent
_EXAMPLES = """\
  tfap report dense.keras small.tflite --data=test.npz --html=report.html
  tfap plan model.keras
  tfap shrink model.keras --data=train.npz --speedup=2 --runtime=tflite --out=small --html=report.html
  tfap export small/model.keras small.tflite"""


def start() -> None:
    """Runs the command of this process, and ends it with the exit code."""
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        _silence()
    sys.exit(main(sys.argv[1:]))


def _silence():
    """Keeps warnings, and the logs of C++ code, off the screen: of stderr, only Python has the original."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    with contextlib.suppress(OSError):  # a process without streams
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, 2)
        os.close(null_device)


def main(arguments: Sequence[str]) -> int:
    """Runs a command.

    Args:
        arguments: List of strings. What follows `tfap` on the command line.

    Returns:
        Integer. The exit code: 0 for success; 2 for a mistake of the user's, which is one line on stderr, and
        for which no file is written; 1 for an unexpected error; 130 after an interruption from the keyboard.

    Example:

    >>> main(["--version"])
    tfap ...
    0
    """
    try:
        _run(list(arguments))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (UserError, flags.Error) as error:
        return _fail(error, 2)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _is_explained(error):
            return _fail(error, 2)
        traceback.print_exc()
        return _fail("this is an unexpected error, and may be a fault of tfap's", 1)
    return 0


def _run(arguments):
    if not arguments or arguments[0] in ("--help", "-h", "-help", "help"):
        return print(_help())
    if arguments[0] == "--version":
        return print(f"tfap {__version__}")
    command = _command(arguments[0])
    if _asks_for_help(arguments):
        return print(command.help())
    values = command.flags()
    positional = values([f"tfap {command.name}", *arguments[1:]])[1:]
    return command.run(positional, values)


def _asks_for_help(arguments):
    given = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return bool({"--help", "-h", "-help", "--helpfull"} & set(given))


def _command(name) -> Command:
    if name not in COMMANDS:
        raise UserError(f"there is no command '{name}': expected {', '.join(COMMANDS)}; see tfap --help")
    return importlib.import_module(f"tfap.command_line.{name}").COMMAND


def _help():
    commands = "\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())
    return (
        f"tfap {__version__} prunes Keras 3 and tf_keras models.\n\nUsage: tfap COMMAND ... [flags]\n\n"
        f"Commands:\n{commands}\n\nExamples:\n{_EXAMPLES}\n\n"
        "tfap COMMAND --help explains a command. Exit codes: 0 success, 2 a mistake in what was given\n"
        "(one line, nothing is written), 1 an unexpected error."
    )


def _is_explained(error):
    """Whether tfap itself has raised an error, which then says what was received and what to do."""
    if not isinstance(error, TypeError | ValueError | OSError | ImportError | RuntimeError):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (last.line or "").startswith("raise ") and _PACKAGE in pathlib.Path(last.filename).parents


def _fail(error, code):
    print(f"tfap: {' '.join(str(error).split())}", file=sys.stderr)
    return code
