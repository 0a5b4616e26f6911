"""Runs LiteRT files in TFLite Micro's interpreter, in a process of its own, because it aborts on errors."""

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

_SECONDS = 120
_SCRIPT = """
import sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime
path, given, made = sys.argv[1:]
interpreter = runtime.Interpreter.from_file(path, arena_size=int(sys.stdin.read()))
with np.load(given) as arrays:
    inputs = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
rows = []
for sample in range(len(inputs[0])):
    for index, array in enumerate(inputs):
        interpreter.set_input(array[sample : sample + 1], index)
    interpreter.invoke()
    rows.append(interpreter.get_output(0))
details = interpreter.get_output_details(0)["quantization_parameters"]
scales, points = details["scales"], details["zero_points"]
output = np.concatenate(rows)
if len(scales) and scales[0]:
    output = (output.astype("float64") - points[0]) * scales[0]
np.save(made, output)
interpreter.print_allocations()
"""


@dataclasses.dataclass(frozen=True)
class MicroRun:
    """Holds the result of TFLite Micro.

    Attributes:
        arena_bytes: Integer. Bytes of memory that the interpreter used, without the file. None if it did not
            run.
        difference: Float. Largest difference of the first output from LiteRT's.
        reason: String. Why it did not run, or "".
    """

    arena_bytes: int | None = None
    difference: float | None = None
    reason: str = ""


def is_installed() -> bool:
    """Whether tflite-micro is installed."""
    return importlib.util.find_spec("tflite_micro") is not None


def run(path: pathlib.Path, arrays: Sequence[np.ndarray], expected: np.ndarray) -> MicroRun:
    """Runs a file in TFLite Micro, one sample at a time.

    Args:
        path: Path of a `.tflite` file.
        arrays: One array per input, as stored: integers if the inputs are quantized.
        expected: First output of LiteRT, in real values.

    Returns:
        A `MicroRun`.
    """
    if not is_installed():
        return MicroRun(reason="tflite-micro is not installed: pip install 'tfap[micro]'")
    with tempfile.TemporaryDirectory() as folder:
        given, made = os.path.join(folder, "given.npz"), os.path.join(folder, "made.npy")
        np.savez(given, *arrays)
        arena = 10 * path.stat().st_size + 2**24
        try:
            done = subprocess.run(
                [sys.executable, "-c", _SCRIPT, str(path), given, made],
                input=str(arena),
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except subprocess.TimeoutExpired:
            return MicroRun(reason=f"TFLite Micro took more than {_SECONDS} s")
        total = re.search(r"Arena allocation total (\d+) bytes", done.stderr)
        if done.returncode or not total:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            cause = lines[0] if lines else f"it ended with exit code {done.returncode}"
            return MicroRun(reason=f"TFLite Micro does not run the file: {cause}")
        difference = np.abs(np.load(made) - expected.reshape(np.load(made).shape)).max(initial=0)
    return MicroRun(int(total[1]), float(difference))
