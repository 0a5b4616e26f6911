"""Size of a model: its number of weights, and its bytes on disk."""

import dataclasses
import io
import os
import pathlib
import tarfile
import tempfile
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tfap.exporting.export import export
from tfap.keras_compat.types import Model


@dataclasses.dataclass(frozen=True)
class DiskSize:
    """Holds the size of a file or folder on disk.

    Attributes:
        raw: Integer. Bytes of the file, or of all files in the folder.
        gzipped: Integer. Bytes of a `.tar.gz` archive of it.
    """

    raw: int
    gzipped: int


def disk_size(path: str | os.PathLike[str]) -> DiskSize:
    """Measures the size of a file or folder on disk.

    Args:
        path: Path of the file or folder.

    Returns:
        A `DiskSize`.
    """
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    counter = _ByteCounter()
    with tarfile.open(fileobj=counter, mode="w|gz") as archive:
        archive.add(path, arcname=path.name)
    return DiskSize(sum(file.stat().st_size for file in files), counter.written)


class _ByteCounter(io.RawIOBase):
    """Discards the bytes written to it, and counts them."""

    written = 0

    def write(self, data):
        self.written += len(data)
        return len(data)


def exported_size(model: Model) -> DiskSize:
    """Measures the size on disk of a Keras model, exported as a SavedModel.

    Args:
        model: A built model of either Keras without pruning wrappers.

    Returns:
        A `DiskSize`.
    """
    with tempfile.TemporaryDirectory() as folder:
        export(model, pathlib.Path(folder) / "model", verify=False)
        return disk_size(pathlib.Path(folder) / "model")


@dataclasses.dataclass(frozen=True)
class WeightCount:
    """Holds the number of weights of a model.

    Attributes:
        total: Integer. Number of weights.
        nonzero: Integer. Number of weights that are not zero.
    """

    total: int
    nonzero: int


def count_weights(arrays: Iterable[npt.ArrayLike]) -> WeightCount:
    """Counts the weights in arrays.

    Args:
        arrays: Iterable of arrays, such as `model.get_weights()`. Integer arrays do not count, because they
            are states of random number generators, except those of 8 bits, which are quantized weights.

    Returns:
        A `WeightCount`.
    """
    weights = [array for array in map(np.asarray, arrays) if _is_weight(array)]
    return WeightCount(sum(w.size for w in weights), sum(int(np.count_nonzero(w)) for w in weights))


def _is_weight(array):
    # By name, because bfloat16 is not a floating type to NumPy.
    return "float" in str(array.dtype) or array.dtype in (np.int8, np.uint8)
