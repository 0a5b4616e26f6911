"""Atomic writes: a file is either complete or unchanged."""

import os
import pathlib
from collections.abc import Callable
from typing import IO, Any


def replace(path: pathlib.Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file atomically.

    The file appears at `path` only when it is complete and on the disk. After an interruption or an error,
    such as a full disk, `path` is unchanged.

    Args:
        path: `pathlib.Path` of the file, in an existing folder.
        write: Function of a file opened for writing bytes. It writes the content.

    Raises:
        Exception: If `write` or the file system raises it.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception:
        partial.unlink(missing_ok=True)  # frees the space on a full disk
        raise
