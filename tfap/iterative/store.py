"""Stores finished cycles on disk: arrays in `.npz` files and rows in `.json` files, written atomically."""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfap.iterative.results import Row
from tfap.utils import files


class Store:
    """A directory of finished cycles. A cycle is finished once its row exists, which is written last.

    Args:
        directory: Path of the directory, which is created with its parents. None stores nothing.
        settings: String that must be the same at every use of the directory.

    Raises:
        NotADirectoryError: If `directory` is a file.
        ValueError: If the directory was created with other settings.
    """

    def __init__(self, directory: str | os.PathLike | None, settings: str) -> None:
        self._folder = None if directory is None else pathlib.Path(directory)
        if self._folder is None:
            return
        if self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"'{directory}' is not a directory: pass another directory.")
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "settings.json"
        if not path.exists():
            if any(self._folder.glob("cycle-*.json")):
                raise ValueError(f"{self._folder} has cycles but no settings.json. {_FIX}")
            files.replace(path, lambda file: file.write(settings.encode()))
        elif path.read_text() != settings:
            raise ValueError(
                f"{path} was made with other settings or for another model. There: {path.read_text()}; now: "
                f"{settings}. {_FIX}"
            )

    def write_arrays(self, name: str, groups: dict[str, Sequence[np.ndarray]]) -> None:
        """Writes a dict of group name to arrays."""
        if self._folder is None:
            return
        named: Any = {
            f"{group}-{index}": array
            for group, arrays in groups.items()
            for index, array in enumerate(arrays)
        }
        files.replace(self.arrays_path(name), lambda file: np.savez(file, **named))

    def read_arrays(self, name: str) -> dict[str, list[np.ndarray]] | None:
        """Reads what `write_arrays` wrote, without empty groups, or returns None if there is no file.

        Raises:
            ValueError: If the file was not written by `write_arrays`.
        """
        if self._folder is None or not self.arrays_path(name).exists():
            return None
        path = self.arrays_path(name)
        groups: dict[str, list[np.ndarray]] = {}
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                for key in file.files:
                    groups.setdefault(key.rpartition("-")[0], []).append(file[key])
            if "weights" not in groups:
                raise ValueError("it has no weights")
        except _READ_ERRORS as error:
            raise ValueError(f"{path} was not written by tfap.prune_iteratively ({error}). {_FIX}") from error
        return groups

    def arrays_path(self, name: str) -> pathlib.Path:
        """Returns the path of the file with these arrays."""
        return self._path(f"{name}.npz")

    def write_row(self, row: Row) -> None:
        """Writes the row of a cycle after its arrays."""
        if self._folder is not None:
            text = json.dumps(dataclasses.asdict(row), indent=1)
            files.replace(self._row_path(row.cycle), lambda file: file.write(text.encode()))

    def read_row(self, cycle: int) -> Row | None:
        """Reads the row of a cycle, or returns None if the cycle is not finished.

        Raises:
            ValueError: If the file is not the row of this cycle.
        """
        if self._folder is None or not self._row_path(cycle).exists():
            return None
        path = self._row_path(cycle)
        try:
            row = Row.from_file(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a row of tfap.prune_iteratively ({error!r}). {_FIX}") from error
        if row.cycle != cycle:
            raise ValueError(f"{path} is the row of cycle {row.cycle}. {_FIX}")
        return row

    def _row_path(self, cycle):
        return self._path(f"{cycle_name(cycle)}.json")

    def _path(self, file_name):
        return self._folder / file_name


_FIX = "Move it away, or use another directory."
# What NumPy raises for files that are damaged or of another kind.
_READ_ERRORS = (AttributeError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile)


def cycle_name(cycle: int) -> str:
    """Names the files of a cycle.

    >>> cycle_name(3)
    'cycle-003'
    """
    return f"cycle-{cycle:03d}"
