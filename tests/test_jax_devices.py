"""Training on several devices and in several processes of JAX equals training on one, to the last bit."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.tensorflow_only(reason="every script is a process with JAX")]


def start(*arguments):
    command = [sys.executable, ROOT / "tests/devices.py", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(*processes):
    for process in processes:
        printed, _ = process.communicate()
        assert process.returncode == 0, printed.decode()


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    """The state after training that did count and prune."""
    file = tmp_path_factory.mktemp("devices") / "one.npz"
    finish(start(file, "one", 1))
    expected = np.load(file)
    assert expected["dense seen"] == 4 * 56 and expected["relu seen"] == 25 * 4 * 56
    assert all(0 < expected[f"{name} counts"].max() < expected[f"{name} seen"] for name in ("relu", "dense"))
    for name in ("pointwise", "dense"):
        assert 0.6 < np.mean(expected[f"{name} mask"] == 0) < 0.8 and expected[f"{name} updates"] == 13
    return expected


def assert_equal(file, expected):
    found = np.load(file)
    assert set(found) == set(expected)
    for what in expected:
        np.testing.assert_array_equal(found[what], expected[what], what)


@pytest.mark.parametrize("sharded", ["data", "model"])
def test_two_devices_equal_one(sharded, on_one_device, tmp_path):
    finish(start(tmp_path / "two.npz", sharded, 2))
    assert_equal(tmp_path / "two.npz", on_one_device)


def test_two_processes_equal_one(on_one_device, tmp_path):
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
    files = [tmp_path / f"{index}.npz" for index in range(2)]
    finish(*(start(file, "data", 1, index, 2, port) for index, file in enumerate(files)))
    for file in files:
        assert_equal(file, on_one_device)
