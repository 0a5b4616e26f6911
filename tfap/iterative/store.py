"""Finished cycles on disk: arrays in `.npz` files and a row of figures, each file whole or not there."""

import dataclasses
import json
import pathlib
import zipfile

import numpy as np

from tfap.iterative.results import Row
from tfap.utils import files


class Store:
    """A folder of finished cycles. A cycle is there once its row is, which is written last.

    Args:
        directory: made with its parents; None keeps nothing.
        settings: text; the same whenever the folder is used.

    Raises:
        NotADirectoryError: it is a file. ValueError: the folder was made with other settings.
    """

    def __init__(self, directory, settings):
        self._folder = None if directory is None else pathlib.Path(directory)
        if self._folder is None:
            return
        if self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"'{directory}' is no folder.")
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "settings.json"
        if not path.exists():
            if any(self._folder.glob("cycle-*.json")):
                raise ValueError(f"{self._folder} has cycles but no settings.json. {_AWAY}")
            files.replace(path, lambda file: file.write(settings.encode()))
        elif path.read_text() != settings:
            raise ValueError(
                f"{path} was made with other settings or for another net. There: {path.read_text()}; now: "
                f"{settings}. {_AWAY}"
            )

    def write_arrays(self, name, groups):
        """Writes `{group: list of arrays}` under a name."""
        if self._folder is None:
            return
        named = {
            f"{group}-{at}": array for group, arrays in groups.items() for at, array in enumerate(arrays)
        }
        files.replace(self.arrays_path(name), lambda file: np.savez(file, **named))

    def read_arrays(self, name):
        """What `write_arrays` wrote, weights and other groups that are not empty; None if it is not there.

        Raises:
            ValueError: the file is another one.
        """
        if self._folder is None or not self.arrays_path(name).exists():
            return None
        path, groups = self.arrays_path(name), {}
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                for key in file.files:
                    groups.setdefault(key.rpartition("-")[0], []).append(file[key])
            if "weights" not in groups:
                raise ValueError("it has no weights")
        except _FOREIGN as error:
            raise ValueError(
                f"{path} was not written by tfap.prune_iteratively ({error}). {_AWAY}"
            ) from error
        return groups

    def arrays_path(self, name):
        """The file of the arrays that have this name."""
        return self._folder / f"{name}.npz"

    def write_row(self, row):
        """Writes the row of a cycle, whose arrays have been written."""
        if self._folder is not None:
            text = json.dumps(dataclasses.asdict(row), indent=1)
            files.replace(self._path(row.cycle), lambda file: file.write(text.encode()))

    def read_row(self, cycle):
        """The row of a cycle; None if it is not finished.

        Raises:
            ValueError: the file is another one.
        """
        if self._folder is None or not self._path(cycle).exists():
            return None
        path = self._path(cycle)
        try:
            row = Row.from_file(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no row of tfap.prune_iteratively ({error!r}). {_AWAY}") from error
        if row.cycle != cycle:
            raise ValueError(f"{path} is the row of cycle {row.cycle}. {_AWAY}")
        return row

    def _path(self, cycle):
        return self._folder / f"{name_of(cycle)}.json"


_AWAY = "Move it away, or use another directory."
_FOREIGN = (AttributeError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile)  # NumPy's errors


def name_of(cycle):
    """Of a cycle's files.

    >>> name_of(3)
    'cycle-003'
    """
    return f"cycle-{cycle:03d}"
