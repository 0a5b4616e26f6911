"""What a command writes: checks before any work, and no trace of it after an error."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import rich.console

from tfap.command_line.command import UserError


def check_file(path: str | None, suffixes: tuple[str, ...], flag: str) -> pathlib.Path | None:
    """Checks that a file can be written.

    Args:
        path: String, or None if none is asked for.
        suffixes: Tuple of the valid ends of its name.
        flag: String. Name of the flag, for the message.

    Returns:
        The path, or None.

    Raises:
        UserError: If the path is a folder, has another suffix, or its folder does not exist or is not
            writable.
    """
    if path is None:
        return None
    file = pathlib.Path(path)
    if file.suffix not in suffixes:
        raise UserError(f"--{flag} must end in {' or '.join(suffixes)}: received '{path}'")
    if file.is_dir():
        raise UserError(f"--{flag} must be a file: '{path}' is a folder")
    check_parent(file)
    return file


def check_parent(path: pathlib.Path) -> None:
    """Checks that something can be written at a path.

    Raises:
        UserError: If the folder that it is in is no folder or not writable. It may be missing.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"'{path}' cannot be written: '{folder}' is not a folder")
    if not os.access(folder, os.W_OK):
        raise UserError(f"'{path}' cannot be written: no permission in the folder '{folder}'")


@contextlib.contextmanager
def folder_of(path: pathlib.Path) -> Iterator[None]:
    """Makes the folder of a file. On an error, it removes the folders that it has made and that are empty."""
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Shows on stderr, in a terminal only, that something is being done."""
    console = rich.console.Console(stderr=True)
    with console.status(text) if console.is_terminal else contextlib.nullcontext():
        yield
