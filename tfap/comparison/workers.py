"""Performs runs in parallel processes, one core each."""

import concurrent.futures
import contextlib
import dataclasses
import gc
import importlib
import os
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable
from typing import Any

import rich.console
import rich.progress

from tfap import keras_compat

_INSTALL = "pip install 'tfap[comparison]'"


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed run.

    Attributes:
        run: The run.
        text: String. The exception with its traceback.
    """

    run: Any
    text: str


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return _import("joblib").cpu_count()


def check_picklable(**arguments: object) -> None:
    """Raises TypeError if one of the arguments cannot be sent to another process."""
    cloudpickle = _import("cloudpickle")
    for name, argument in arguments.items():
        try:
            cloudpickle.dumps(argument)
        except Exception as error:  # the user's objects may raise anything
            raise TypeError(
                f"{name} cannot be sent to other processes ({error}). Create what it uses inside it, or pass "
                "workers=1."
            ) from error


def results(perform: Callable[[Any], Any], runs: list, workers: int) -> Generator[Any, None, None]:
    """Yields the result of `perform(run)`, or its `Failure`, for every run as it finishes.

    Args:
        perform: Function of a run. It must be picklable if there are several workers.
        runs: List of runs.
        workers: Integer. Number of processes. With 1, this process performs the runs.
    """
    if workers == 1:
        for run in runs:
            yield perform(run)
        return
    finished = _in_processes(perform, runs, min(workers, len(runs)))
    with contextlib.closing(finished):
        yield from finished


def with_progress(results: Iterable[Any], count: int) -> Iterable[Any]:
    """Adds a progress bar to the iteration if stderr is a terminal."""
    console = rich.console.Console(stderr=True)
    is_disabled = not (count and console.is_terminal)
    return rich.progress.track(
        results, "Comparing", count, console=console, transient=True, disable=is_disabled
    )


def _import(name) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"tfap.compare needs {name} to run processes: {_INSTALL}") from error


# -- the pool of processes -------------------------------------------------------------------------

_THREAD_VARIABLES = ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM", "NUMEXPR")
# TensorFlow does not free 5 (Keras 3) to 12 (tf_keras) MB of graphs per run.
_RUNS_PER_PROCESS = 50
_pickled_perform = None  # in a worker process: the pickled function


def _in_processes(perform, runs, workers):
    pool_runs = _RUNS_PER_PROCESS * workers
    for first in range(0, len(runs), pool_runs):
        yield from _in_pool(perform, runs[first : first + pool_runs], workers)


def _in_pool(perform, runs, workers):
    pool = _pool(perform, workers)
    try:
        # The pool replaces workers whose memory has grown, as intended. The filter stays, because
        # catch_warnings() would restore filters that another thread, as in tfap.export, has set for a while.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs")
        futures = {pool.submit(_perform, run): run for run in runs}
        for future in concurrent.futures.as_completed(futures):
            yield _result(future, futures[future])
    finally:
        pool.shutdown(kill_workers=True)


def _result(future, run):
    try:
        return future.result()
    except concurrent.futures.BrokenExecutor as error:
        return Failure(
            run,
            "The process of this run, or of a parallel one, ended unexpectedly, for example because memory "
            f"ran out. {error}",
        )


def _pool(perform, workers):
    _import("joblib")
    from joblib.externals import loky

    environment = {f"{name}_NUM_THREADS": "1" for name in _THREAD_VARIABLES}
    # Processes cannot share a GPU, since each takes all of its memory.
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
    return loky.ProcessPoolExecutor(
        workers, initializer=_start, initargs=(_import("cloudpickle").dumps(perform),), env=environment
    )


def _start(pickled_perform):
    global _pickled_perform
    keras_compat.when_loaded("tensorflow", _limit_tensorflow)
    _pickled_perform = pickled_perform
    gc.freeze()  # garbage collection between runs skips the imported modules


def _limit_tensorflow(tf):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")  # warnings about functions that many models trace


def _perform(run):
    try:
        # Unpickled for every run, so that the user's functions keep no state between runs.
        return _import("cloudpickle").loads(_pickled_perform)(run)
    except Exception:
        return Failure(run, traceback.format_exc())
