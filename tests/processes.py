"""Code that runs in a process of its own, on another backend of Keras or without some packages."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def run(code, backend="jax", blocked=(), path=""):
    """Runs code without some packages, and with the modules of a folder; returns what it prints."""
    block = f"import sys; sys.modules.update(dict.fromkeys({list(blocked)!r}))\n"
    folders = os.pathsep.join([str(ROOT), str(path)])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": folders}
    command = [sys.executable, "-c", block + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
