"""Fixtures that every test may use, and what `make test` leaves to `make test-all`.

With KERAS_BACKEND=jax or torch, only the Keras 3 half of the tests runs, without those that are marked
`tensorflow_only`, or `not_on_torch`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import gc
import importlib

import hypothesis
import pytest
from examples_per_run import LONG

import tfap  # noqa: F401  (its import order of the two Kerases is the one to test)

# Speed is a matter of benchmarks: a slow machine fails no test.
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True)
hypothesis.settings.register_profile("long", deadline=None, derandomize=False, print_blob=True)
hypothesis.settings.load_profile("long" if LONG else "quick")

tf = importlib.import_module("tensorflow")  # after tfap


class Options(tf.data.Options):
    """Without tf.data's tuning: with TensorFlow 2.21, each epoch of a fit waits for a thread that sleeps."""

    def __init__(self):
        super().__init__()
        self.autotune.enabled = False


tf.data.Options = Options

BACKEND = os.environ.get("KERAS_BACKEND") or "tensorflow"
KERASES = ["keras", "tf_keras"] if BACKEND == "tensorflow" else ["keras"]
if BACKEND == "torch":
    import torch_outputs  # noqa: F401


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(config, items):
    """Leaves out what is about TensorFlow; marks the tf_keras half of tests that need one Keras as slow."""
    if BACKEND != "tensorflow":
        left_out = [item for item in items if needs_another_backend(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        callspec = getattr(item, "callspec", None)
        one_keras = item.get_closest_marker("one_keras") and not item.get_closest_marker("smoke")
        if one_keras and callspec and "tf_keras" in callspec.params.values():
            item.add_marker(pytest.mark.slow)


def needs_another_backend(item):
    """Whether a test is of tf_keras, or marked as one that the backend does not run."""
    marks = ["tensorflow_only", *(["not_on_torch"] if BACKEND == "torch" else [])]
    parameters = getattr(item, "callspec", None) and item.callspec.params.values()
    of_tf_keras = any(isinstance(value, str) and value == "tf_keras" for value in parameters or ())
    marked = any(item.get_closest_marker(mark) for mark in marks)
    return of_tf_keras or "both_kerases" in item.fixturenames or marked


@pytest.fixture(params=KERASES)
def keras_module(request):
    """Keras 3 and tf_keras in turn, with a fixed seed."""
    module = importlib.import_module(request.param)
    module.backend.clear_session()
    module.utils.set_random_seed(0)
    return module


@pytest.fixture
def both_kerases():
    modules = [importlib.import_module(name) for name in KERASES]
    for module in modules:
        module.backend.clear_session()
    return modules


@pytest.fixture(autouse=True, scope="module")
def quick_garbage():
    """Keras 3 collects garbage whenever a session is cleared, and looks at all that is alive.

    That is half a second for what the imports have made and more for the graphs that TensorFlow never gives
    back, so what earlier modules have left is not looked at again.
    """
    gc.collect()
    gc.freeze()
