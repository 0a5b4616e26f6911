"""What a model weighs: its numbers, and its bytes on disk."""

import dataclasses
import io
import pathlib
import tarfile
import tempfile

import numpy as np

from tfap.exporting.export import export


@dataclasses.dataclass(frozen=True)
class DiskSize:
    """Bytes of a file, or of all the files in a folder, and of the `.tar.gz` that holds them."""

    raw: int
    gzipped: int


def disk_size(path):
    """The `DiskSize` of a file or folder."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    counter = _Counter()
    with tarfile.open(fileobj=counter, mode="w|gz") as archive:
        archive.add(path, arcname=path.name)
    return DiskSize(sum(file.stat().st_size for file in files), counter.written)


class _Counter(io.RawIOBase):
    """A file that only counts its bytes."""

    written = 0

    def write(self, data):
        self.written += len(data)
        return len(data)


def exported_size(model):
    """The `DiskSize` of the SavedModel that `tfap.export` writes of a live model."""
    with tempfile.TemporaryDirectory() as folder:
        export(model, pathlib.Path(folder) / "model", verify=False)
        return disk_size(pathlib.Path(folder) / "model")


@dataclasses.dataclass(frozen=True)
class WeightCount:
    """How many weights there are, and how many of them are not zero."""

    total: int
    nonzero: int


def count_weights(arrays):
    """The `WeightCount` of arrays; the states of random generators among them, integers, do not count."""
    weights = [array for array in map(np.asarray, arrays) if _is_weight(array)]
    return WeightCount(sum(w.size for w in weights), sum(int(np.count_nonzero(w)) for w in weights))


def _is_weight(array):
    # bfloat16 is no floating type to NumPy; int8 is what quantized weights are.
    return "float" in str(array.dtype) or array.dtype in (np.int8, np.uint8)
