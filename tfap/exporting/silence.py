"""Suppresses the output of exporters."""

import contextlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator

_lock = threading.Lock()  # two threads at once would restore each other's null device


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses printed output, logs and warnings, including those of C++ code.

    On exit, it also restores the environment variables and the log level of the process. The output of other
    threads is suppressed as well.
    """
    environment, log_level = dict(os.environ), logging.root.manager.disable
    with _lock, _null_descriptors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            logging.disable(log_level)
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)


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
