"""A progress bar for work that takes long."""

import time
from types import TracebackType

import rich.console
import rich.progress

PATIENCE = 3  # seconds of work before the bar appears


class Progress:
    """Shows how much of some work is done, in a terminal, once `PATIENCE` has passed.

    Use it in a `with` statement.

    Args:
        title: String. What is done.
        total: Integer. The number of steps.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._console = rich.console.Console(stderr=True)
        self._start = time.monotonic()
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """Notes that one more step is done."""
        self._done += 1
        if self._bar is None and self._console.is_terminal and time.monotonic() - self._start > PATIENCE:
            self._bar = rich.progress.Progress(console=self._console, transient=True)
            self._task = self._bar.add_task(self._title, total=self._total)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
