"""Hides what exporters print, log and warn."""

import contextlib
import io
import logging
import os
import sys
import threading
import warnings

_silencing = threading.Lock()  # two at once would restore each other's silence


@contextlib.contextmanager
def quiet():
    """Hides what exporters print, log and warn, in C++ too, and puts their changes of global state back.

    Output of other threads is hidden for as long.
    """
    environment, log_level = dict(os.environ), logging.root.manager.disable
    with _silencing, _silent_descriptors(), warnings.catch_warnings():
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
def _silent_descriptors():
    """Sends the process's own stdout and stderr, which C++ writes to, to nowhere."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with contextlib.ExitStack() as stack:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # a process without streams
                saved = os.dup(descriptor)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, descriptor)
                os.dup2(nowhere, descriptor)
        yield
