"""Runs in processes beside each other, one core each."""

import concurrent.futures
import contextlib
import dataclasses
import gc
import importlib
import os
import traceback
import warnings

import rich.console
import rich.progress
import tensorflow as tf

_INSTALL = "pip install 'tfap[comparison]'"


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run failed: the text of the exception, traceback included."""

    run: object
    text: str


def cores():
    """How many this process may use."""
    return _library("joblib").cpu_count()


def check_picklable(**things):
    """Raises TypeError, naming it, where one of these cannot be sent to another process."""
    for name, thing in things.items():
        try:
            _library("cloudpickle").dumps(thing)
        except Exception as error:  # whatever the user's objects raise
            raise TypeError(
                f"{name} cannot be sent to other processes ({error}). Make what it uses inside of it, or "
                "give workers=1."
            ) from error


def results(perform, runs, workers):
    """Yields what `perform(run)` gives for every run, or its `Failure`, as they are done.

    Args:
        perform: function that can be pickled if there are several workers.
        runs: list.
        workers: number of processes; 1 is this one.
    """
    if workers == 1:
        for run in runs:
            yield perform(run)
        return
    done = _in_processes(perform, runs, min(workers, len(runs)))
    with contextlib.closing(done):
        yield from done


def with_progress(things, count):
    """The things, with a progress bar where somebody looks on."""
    console = rich.console.Console(stderr=True)
    quiet = not (count and console.is_terminal)
    return rich.progress.track(things, "Comparing", count, console=console, transient=True, disable=quiet)


def _library(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"tfap.compare runs processes with {name}: {_INSTALL}") from error


# -- in a pool of processes ------------------------------------------------------------------------

_THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM", "NUMEXPR")
_RUNS_A_PROCESS = 50  # TensorFlow never gives back 5 (Keras 3) to 12 (tf_keras) MB of graphs for each
_performs = None  # in a worker: what it does, pickled


def _in_processes(perform, runs, workers):
    share = _RUNS_A_PROCESS * workers
    for first in range(0, len(runs), share):
        yield from _in_pool(perform, runs[first : first + share], workers)


def _in_pool(perform, runs, workers):
    pool = _pool(perform, workers)
    try:
        with warnings.catch_warnings():
            # Workers that have grown are replaced: as it should be.
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
        which = "this run's or that of one beside it"
        return Failure(run, f"A process ended without a word, as for want of memory: {which}. {error}")


def _pool(perform, workers):
    _library("joblib")
    from joblib.externals import loky

    environment = {f"{name}_NUM_THREADS": "1" for name in _THREADS}
    # The GPU's memory cannot be shared by processes that each take all of it.
    environment |= {"CUDA_VISIBLE_DEVICES": "-1"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
    return loky.ProcessPoolExecutor(
        workers, initializer=_start, initargs=(_library("cloudpickle").dumps(perform),), env=environment
    )


def _start(performs):
    global _performs
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")  # of functions that many models trace
    _performs = performs
    gc.freeze()  # what is imported stays: between runs, collecting garbage need not look through it


def _perform(run):
    try:
        # Unpickled anew, so that nothing which the user's functions remember gets from run to run.
        return _library("cloudpickle").loads(_performs)(run)
    except Exception:
        return Failure(run, traceback.format_exc())
