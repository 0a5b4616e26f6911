"""The models and figures of finished stages, in a folder."""

import os
import pathlib
from typing import Any

from tfap import keras_compat
from tfap.keras_compat.types import Model
from tfap.shrinking.result import Stage
from tfap.utils.store import Folder

_MAKER = "tfap.shrink"


class StageStore:
    """A folder of finished stages. A stage is finished once its figures are there, which come last.

    Args:
        directory: Path of the folder. None stores nothing, and models stay in memory.
        settings: Plain data that must be the same at every use of the folder.
        model: The given model, whose classes the files may name, and whose compile settings models get.

    Raises:
        NotADirectoryError: If `directory` is a file.
        ValueError: If the folder was made with other settings, or has other files.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None, settings: dict[str, Any], model: Model
    ) -> None:
        self._folder = Folder(directory, settings, _MAKER)
        self._given = model
        self._models: dict[int, Model] = {}

    def sensitivity_path(self, number: int) -> pathlib.Path | None:
        """Returns the folder for the sensitivity of the model that a stage prunes, or None."""
        return None if self._folder.path is None else self._folder.path / f"sensitivity-{number:03d}"

    def stage(self, number: int) -> Stage | None:
        """Returns the figures of a stage, or None if it is not finished.

        Raises:
            ValueError: If its file is damaged.
        """
        found = self._folder.read(f"stage-{number:03d}")
        if found is None:
            return None
        try:
            return Stage.from_dict(found)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"stage-{number:03d}.json is not of {_MAKER} ({error!r}): move it away, or use another "
                "directory."
            ) from error

    def write(self, stage: Stage, model: Model) -> None:
        """Stores a finished stage, and its model before it."""
        if self._folder.path is None:
            self._models[stage.number] = model
            return
        path = self._model_path(stage.number)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.tmp.keras")
        try:
            model.save(partial)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        except Exception:
            partial.unlink(missing_ok=True)
            raise
        self._folder.write(f"stage-{stage.number:03d}", stage.to_dict())

    def model(self, number: int) -> Model:
        """Returns the model of a stage, compiled like the given one, with a fresh optimizer.

        It is read from its file if there is a folder, so that training goes on from there as it does after
        an interruption.
        """
        if self._folder.path is None:
            return self._models[number]
        model = self._load(self._model_path(number))
        keras_compat.compile_like(model, self._given)
        return model

    def check(self) -> None:
        """Checks that a file holds the given model, before any work.

        Raises:
            ValueError: If it cannot be written and read again.
        """
        if self._folder.path is None:
            return
        path = self._folder.path / f"check.{os.getpid()}.tmp.keras"
        try:
            keras_compat.rebuild(self._given, keras_compat.copied).save(path)
            self._load(path)
        except Exception as error:  # which one depends on Keras and the layer
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"The model '{self._given.name}' cannot be stored in a .keras file and read again, which "
                f"directory= needs: {reason}. Register its classes with keras.saving, or pass no directory."
            ) from error
        finally:
            path.unlink(missing_ok=True)

    def _load(self, path):
        objects = {}
        for layer in keras_compat.all_layers(self._given):
            objects.update(keras_compat.own_objects(layer))
        with keras_compat.custom_object_scope(objects):
            return keras_compat.load_model(path)

    def _model_path(self, number):
        assert self._folder.path is not None
        return self._folder.path / f"stage-{number:03d}.keras"
