"""`import tfap` changes nothing for the user's process: nothing that TensorFlow and Keras alone would not."""

import json
import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import warnings

import conftest
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
USERS = {"nothing": {}, "tensorflow": {}, "keras": {}, "tf_keras": {"TF_USE_LEGACY_KERAS": "1"}}
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}


def of_the_process():
    """What Python itself knows of the process."""
    names = ["root", "absl", "tensorflow", "keras", "tf_keras", "h5py"]
    loggers = {name: logging.getLogger(name if name != "root" else None) for name in names}
    return {
        "environment": dict(os.environ),
        "folder and path": [os.getcwd(), sys.path],
        "hooks": [hook.__module__ for hook in (sys.excepthook, threading.excepthook, warnings.showwarning)],
        "warnings": [repr(entry) for entry in warnings.filters],
        "loggers": {
            name: [logger.level, list(map(repr, logger.handlers)), logger.propagate, logger.disabled]
            for name, logger in loggers.items()
        },
        "logging": [repr(logging.getLoggerClass()), logging.root.manager.disable],
        "random numbers": [repr(random.getstate()), repr(np.random.get_state())],
        "numpy": [repr(np.geterr()), repr(np.get_printoptions())],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
    }


def of_the_worlds():
    """What TensorFlow and those Kerases that are imported know; `tf.keras` is not looked at."""
    import absl.logging
    import tensorflow as tf
    from tensorflow.python.eager.context import context

    generator = getattr(context(), "_rng", None)  # of the seeds of operations
    found = {
        "verbosity": [tf.get_logger().level, absl.logging.get_verbosity()],
        "graph": [tf.executing_eagerly(), len(tf.compat.v1.get_default_graph().get_operations())],
        "seeds": [context()._seed, generator and repr(generator.getstate())],
        "strategy": type(tf.distribute.get_strategy()).__name__,
        "run eagerly": tf.config.functions_run_eagerly(),
        "pools": [
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        ],
        "jit": [tf.config.optimizer.get_jit(), repr(tf.config.optimizer.get_experimental_options())],
    }
    for name in {"keras", "tf_keras"} & set(sys.modules):
        backend = sys.modules[name].backend
        found[name] = [backend.floatx(), backend.epsilon(), backend.image_data_format(), policy(name)]
    return found


def policy(name):
    world = sys.modules[name]
    here = world.config.dtype_policy() if name == "keras" else world.mixed_precision.global_policy()
    return here.name


def set_users_settings():
    """Of which none is the default."""
    random.seed(1)
    np.random.seed(2)
    warnings.filterwarnings("error", category=BytesWarning)
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger().setLevel(logging.ERROR)


def set_the_worlds_settings(name):
    import absl.logging
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    absl.logging.set_verbosity(absl.logging.INFO)
    tf.random.set_seed(3)
    world = sys.modules[name]
    world.backend.set_epsilon(1e-5)
    world.mixed_precision.set_global_policy("mixed_bfloat16")


def main(first):
    set_users_settings()
    if first != "nothing":
        __import__(first)
        import keras  # noqa: F401  (draws a random number; with TF_USE_LEGACY_KERAS TensorFlow does not)

        if first != "tensorflow":
            set_the_worlds_settings(first)
        before = {**of_the_worlds(), **of_the_process()}  # to look at TensorFlow draws a random number
    __import__("tfap")
    after = {**of_the_worlds(), **of_the_process()}  # to look at TensorFlow draws a random number
    import tensorflow as tf

    owner = tf.keras.Model.__module__.partition(".")[0]
    print(json.dumps([{} if first == "nothing" else before, after, owner]))


def started(*firsts):
    """`(before, after, what tf.keras is)` by what was imported first, each in a process."""
    processes = {}
    for first in firsts:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
        processes[first] = subprocess.Popen(
            [sys.executable, __file__, first],
            env={**environment, **ENVIRONMENT, **USERS[first]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    found = {}
    for first, process in processes.items():
        printed, errors = process.communicate()
        assert process.returncode == 0, errors
        found[first] = json.loads(printed.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def states():
    return started(*USERS)


def assert_as_it_was(state, first):
    before, after, _ = state
    assert {name: after[name] for name in before} == before
    assert first == "tensorflow" or "mixed_bfloat16" in before[first]


@pytest.mark.slow
def test_what_was_set_before_keras_is_as_it_was():
    assert_as_it_was(started("keras")["keras"], "keras")


@pytest.mark.slow
@pytest.mark.parametrize("first", ["tensorflow", "keras", "tf_keras"])
def test_what_was_set_before_is_as_it_was(states, first):
    assert_as_it_was(states[first], first)


@pytest.mark.slow
def test_the_first_import_is_that_of_tensorflow(states):
    expected, (_, after, _) = states["tensorflow"][0], states["nothing"]
    assert {name: after[name] for name in expected} == expected
    assert after["keras"] == ["float32", 1e-7, "channels_last", "float32"] and "tf_keras" not in after


@pytest.mark.slow
def test_tf_keras_is_what_it_would_have_been(states):
    owners = {first: owner for first, (_, _, owner) in states.items()}
    assert owners == {"nothing": "keras", "tensorflow": "keras", "keras": "keras", "tf_keras": "tf_keras"}
    for first, variables in USERS.items():  # for tf_keras the user had set it
        assert ("TF_USE_LEGACY_KERAS" in states[first][1]["environment"]) == bool(variables)


if __name__ == "__main__":
    main(sys.argv[1])


def test_collecting_the_tests_leaves_the_backend_as_it_was():
    """A module that sets it when imported would change what the processes of other tests run on."""
    assert (os.environ.get("KERAS_BACKEND") or "tensorflow") == conftest.BACKEND


@pytest.mark.parametrize("option", ["-m", pytest.param("-um", marks=pytest.mark.slow)])
@pytest.mark.parametrize("package", ["tfap", pytest.param("program", marks=pytest.mark.slow)])
def test_python_runs_packages_that_import_it(tmp_path, option, package):
    """While Python looks for the module of `python -m`, only its own command line names it."""
    (tmp_path / "program").mkdir()
    (tmp_path / "program/__init__.py").write_text("import tfap, sys; loaded = 'tfap.layers' in sys.modules")
    (tmp_path / "program/__main__.py").write_text("from program import loaded; print('loaded', loaded)")
    environment = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, option, package, "--version"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("tfap " if package == "tfap" else "loaded True")
