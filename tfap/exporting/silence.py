"""Suppresses the output of exporters."""

import contextlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator

# One thread at a time, and snapshots are taken inside: of a process that another thread has silenced, they
# would bring that state back for good.
_lock = threading.RLock()
_LOG_LEVEL_OF_CPP = "TF_CPP_MIN_LOG_LEVEL"  # set by the import of tf2onnx


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses printed output, logs and warnings, including those of C++ code.

    On exit, it also restores the log levels of the process, which exporters change. The output of other
    threads is suppressed as well. Threads that call this at the same time wait for each other.
    """
    with _lock, _same_log_level_of_cpp(), _no_logs(), _null_descriptors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield


@contextlib.contextmanager
def _same_log_level_of_cpp():
    before = os.environ.get(_LOG_LEVEL_OF_CPP)
    try:
        yield
    finally:  # other variables are left alone: another thread may have set them
        if before is None:
            os.environ.pop(_LOG_LEVEL_OF_CPP, None)
        else:
            os.environ[_LOG_LEVEL_OF_CPP] = before


@contextlib.contextmanager
def _no_logs():
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _null_descriptors():
    """Redirects the stdout and stderr of the process, which C++ code writes to, to the null device."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with contextlib.ExitStack() as stack:
        null_device = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, null_device)
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # raised in a process without streams
                saved = os.dup(descriptor)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, descriptor)
                os.dup2(null_device, descriptor)
        yield
