"""A folder of finished results, so that interrupted work resumes."""

import json
import os
import pathlib
from typing import Any

from tfap.utils import files

_FIX = "Move it away, or use another directory."


class Folder:
    """JSON files in a folder, each written atomically. Without a folder, nothing is stored.

    Args:
        directory: Path of the folder, which is created with its parents. None stores nothing.
        settings: Plain data that must be the same at every use of the folder.
        maker: String. The function that writes the folder, for messages.

    Attributes:
        path: `pathlib.Path` of the folder, or None.

    Raises:
        NotADirectoryError: If `directory` is a file.
        ValueError: If the folder was made with other settings, or has other files.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None, settings: dict[str, Any], maker: str
    ) -> None:
        self.path = None if directory is None else pathlib.Path(directory)
        self._maker = maker
        if self.path is None:
            return
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"'{directory}' is not a directory: pass another directory.")
        wanted = json.loads(json.dumps(settings))
        if not (self.path / "settings.json").exists():
            if self.path.exists() and any(path.suffix != ".tmp" for path in self.path.iterdir()):
                raise ValueError(
                    f"'{directory}' has files that are not of {maker}: pass another directory, or a new one."
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self.write("settings", wanted)
            return
        found = self.read("settings")
        if found != wanted:
            names = found.keys() | wanted.keys() if isinstance(found, dict) else ()
            changed = [name for name in sorted(names) if found.get(name) != wanted.get(name)]
            there = ", ".join(f"{name}={found.get(name)!r}" for name in changed)
            now = ", ".join(f"{name}={wanted.get(name)!r}" for name in changed)
            raise ValueError(
                f"'{directory}' was made with other settings or for another model. There: {there}; now: "
                f"{now}. {_FIX}"
            )

    def write(self, name: str, content: Any) -> None:
        """Writes plain data to the file of this name, without the suffix."""
        if self.path is not None:
            text = json.dumps(content, indent=1)
            files.replace(self.path / f"{name}.json", lambda file: file.write(text.encode()))

    def read(self, name: str) -> Any:
        """Reads what `write` wrote. None if there is no such file.

        Raises:
            ValueError: If the file is damaged.
        """
        if self.path is None or not (self.path / f"{name}.json").exists():
            return None
        try:
            return json.loads((self.path / f"{name}.json").read_text())
        except (ValueError, OSError) as error:
            raise ValueError(
                f"'{self.path / name}.json' was not written by {self._maker} ({error}). {_FIX}"
            ) from error
