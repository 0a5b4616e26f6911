"""The other libraries of peers.py: installed under build/, and run in processes of their own."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from tfap.graph.calls import Graph

HERE = pathlib.Path(__file__).parent
TORCH_PRUNING = "torch-pruning==1.6.1"
PQUANT = "pquant-ml==0.1.0"


class Unavailable(Exception):
    """Says why an arm cannot run. The other arms go on."""


def environment_of_torch(folder, python, pip_options):
    """Returns `(interpreter, variables)` of an environment with PyTorch and Torch-Pruning.

    Args:
        folder: Folder for what is installed.
        python: An interpreter that has PyTorch and onnx, for which only Torch-Pruning is installed. None
            makes a virtual environment with all of them.
        pip_options: List of further arguments of `pip install`, such as an index with smaller wheels.
    """
    if python is not None:
        target = folder / "torch_pruning"
        if not target.exists():
            _pip(python, "--no-deps", "--target", str(target), TORCH_PRUNING, *pip_options)
        return python, {"PYTHONPATH": str(target)}
    home = folder / "venv_torch"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        _pip(python, "torch", "onnx", TORCH_PRUNING, *pip_options)
    return python, {"PYTHONPATH": ""}


def environment_of_pquant(folder):
    """Returns `(interpreter, variables)` of this environment with PQuantML.

    What it needs is installed beside this environment, whose releases are kept.
    """
    target = folder / "pquant"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pins = folder / "pins.txt"
        installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
        installed.pop("tfap", None)
        pins.write_text("".join(f"{name}=={version}\n" for name, version in installed.items() if name))
        _pip(sys.executable, "--target", str(target), "-c", str(pins), PQUANT)
    return sys.executable, {"PYTHONPATH": str(target)}


def _pip(python, *arguments):
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"pip install {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")


def run_job(script, job, environment, folder):
    """Runs a script of this folder on a job, a dict, and returns the figures that it writes."""
    python, variables = environment
    path, result = folder / "job.json", folder / "figures.json"
    result.unlink(missing_ok=True)
    path.write_text(json.dumps({**job, "result": str(result)}))
    command = [str(python), str(HERE / script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    if done.returncode:
        raise Unavailable(f"{script} failed: {(done.stderr.strip() or done.stdout.strip())[-1000:]}")
    return json.loads(result.read_text())


# -- a Keras model as plain data ----------------------------------------------------------------------


def layers_of(model):
    """Describes the layers of a Keras model for peers_torch.py: a list of dicts, in order."""
    graph, names, layers = Graph(model), {}, []
    for value in graph.inputs:
        names[value] = "input"
    for call in graph.calls:
        names[call.outputs[0]] = f"v{len(names)}"
        layers.append(_described(call, names))
    return layers


def _described(call, names):
    layer = call.layer
    kind = type(layer).__name__
    row = {
        "kind": kind,
        "name": layer.name.replace(".", "_"),
        "inputs": [names[value] for value in call.inputs],
        "output": names[call.outputs[0]],
        "weights": [f"{layer.name}/{at}" for at in range(len(layer.get_weights()))],
        "activation": getattr(getattr(layer, "activation", None), "__name__", "linear"),
    }
    if kind == "BatchNormalization":
        row.update(epsilon=layer.epsilon, momentum=layer.momentum)
    if kind == "Conv2D":
        row.update(_window(call))
    return row


def _window(call):
    """Returns the padding as TensorFlow pads: the same on all sides, or left, right, top and bottom."""
    layer, ends = call.layer, []
    for size, kernel, stride in zip(call.inputs[0].shape[1:3], layer.kernel_size, layer.strides):
        total = 0
        if layer.padding == "same":
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        ends.append((total // 2, total - total // 2))
    even = all(before == after for before, after in ends)
    (top, bottom), (left, right) = ends
    return {
        "stride": layer.strides[0],
        "padding": [top, left] if even else None,
        "pad": None if even else [left, right, top, bottom],
    }


def weights_of(model):
    """Returns the weights of a Keras model by the names that `layers_of` gives them."""
    return {
        f"{layer.name}/{at}": np.asarray(array)
        for layer in model.layers
        for at, array in enumerate(layer.get_weights())
    }
