"""Finished runs on disk: one small JSON file each, whole or not there at all."""

import json
import pathlib

from tfap import files
from tfap.comparison.runs import Row

_FIGURES = {
    "method": str,
    "sparsity": float,
    "seed": int,
    "metrics": dict,
    "zeros": float,
    "weights": int,
    "weights_compacted": int,
    "flops_compacted": int | None,
    "fit_seconds": float,
}


class Store:
    """A folder of finished runs.

    Args:
        directory: made with its parents when the first run is written; None keeps nothing.
    """

    def __init__(self, directory):
        self._folder = None if directory is None else pathlib.Path(directory)
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"'{directory}' is no folder.")

    def write(self, row, settings):
        """Writes a `Row` with the text of its method's settings; a kill leaves no half of a file."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**vars(row), "settings": settings}, indent=1)
        files.replace(self._path(row.run), lambda file: file.write(text.encode()))

    def read(self, run, settings):
        """The `Row` of a run, None if it is not there.

        Raises:
            ValueError: the file is no such run, or its method had other settings.
        """
        if self._folder is None or not self._path(run).exists():
            return None
        row, made_with = _read(self._path(run))
        if row.run != run:
            raise ValueError(f"{self._path(run)} holds another run, {row.run}. {_AWAY}")
        if made_with != settings:
            raise ValueError(
                f"{self._path(run)} was made with other settings of the method '{run.method}'. There: "
                f"{made_with}; now: {settings}. Give the method another name, or use another directory."
            )
        return row

    def read_all(self):
        """The `Row`s of all runs in the folder.

        Raises:
            FileNotFoundError: there are none. ValueError: another JSON file is among them.
        """
        paths = sorted(self._folder.glob("*.json"))
        if not paths:
            raise FileNotFoundError(f"There are no finished runs in '{self._folder}'.")
        return [_read(path)[0] for path in paths]

    def _path(self, run):
        return self._folder / f"{run.name}.json"


_AWAY = "Move it away, or use another directory."


def _read(path):
    """`(Row, text of settings)`."""
    try:
        found = json.loads(path.read_text())
        settings = found.pop("settings")
        row = Row(**found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no finished run of tfap.compare ({error}). {_AWAY}") from error
    for name, kind in _FIGURES.items():
        if not isinstance(getattr(row, name), kind):
            raise ValueError(f"{path} is no finished run of tfap.compare: {name} is no {kind}. {_AWAY}")
    return row, settings
