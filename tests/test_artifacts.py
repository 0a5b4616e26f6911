import tarfile

import nets
import numpy as np
import pytest

from tfap.exporting.formats import weights_in
from tfap.exporting.sizes import WeightCount, count_weights, disk_size, exported_size


def test_the_size_of_a_folder_and_of_its_archive(tmp_path):
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "graph.pb").write_bytes(bytes(1000))
    (folder / "variables" / "data").write_bytes(np.random.default_rng(0).bytes(5000))
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname="model")
    size = disk_size(folder)
    assert size.raw == 6000
    assert size.gzipped == pytest.approx((tmp_path / "model.tar.gz").stat().st_size, abs=20)  # its name


def test_zeros_compress_and_noise_does_not(tmp_path):
    (tmp_path / "zeros").write_bytes(bytes(100_000))
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(100_000))
    zeros, noise = (disk_size(tmp_path / name) for name in ("zeros", "noise"))
    assert zeros.raw == noise.raw == 100_000
    assert zeros.gzipped < 1000 < 100_000 < noise.gzipped


def test_weights_are_floats_and_int8():
    arrays = [
        np.eye(3, dtype="float16"),
        np.array([0, 5], "int8"),
        np.array([7, 0, 7], "uint32"),
        np.float32(2),
    ]
    assert count_weights(arrays) == WeightCount(total=9 + 2 + 1, nonzero=3 + 1 + 1)


def test_the_exported_size_of_a_live_model_grows_with_its_weights(keras_module):
    small, large = (nets.mlp(keras_module, (12, units, 4)) for units in (10, 1000))
    more = 4 * (large.count_params() - small.count_params())
    assert exported_size(large).raw - exported_size(small).raw >= 0.99 * more


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    assert weights_in(tmp_path / "model.bin") is None
