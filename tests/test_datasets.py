import gzip

import numpy as np
import pytest

from tfap import datasets
from tfap.datasets import _FASHION_MNIST_FILES, keras_cache, load


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.astype("uint8").tobytes()))


def fill(folder, value):
    folder.mkdir(parents=True)
    for part, file in _FASHION_MNIST_FILES.items():
        write_idx(folder / file, np.full((3, 28, 28) if part[0] == "x" else (3,), value))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No cache, no Debian files, no network."""
    import keras

    def no_network():
        raise OSError("no route to host")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", no_network)
    return tmp_path


def test_digits():
    data = load("digits")
    assert data.x_train.shape == (1437, 8, 8) and data.x_test.shape == (360, 8, 8)
    assert data.x_train.dtype == "float32" and data.x_train.min() == 0 and data.x_train.max() == 1
    assert data.classes == 10 and data.y_train.dtype == "int64"
    np.testing.assert_array_equal(data.x_test, load("digits").x_test)
    assert not np.array_equal(data.x_test, load("digits", seed=1).x_test)


def test_the_keras_cache_comes_before_the_debian_files(nowhere):
    fill(nowhere / "debian", 51)
    assert load("fashion_mnist").x_train[0, 0, 0] == np.float32(0.2)
    fill(nowhere / "keras" / "datasets" / "fashion-mnist", 102)
    data = load("fashion_mnist")
    assert data.x_train.shape == (3, 28, 28) and data.x_test[0, 0, 0] == np.float32(0.4)
    assert data.y_train.tolist() == [102] * 3


def test_the_error_names_all_three_places(nowhere):
    with pytest.raises(FileNotFoundError) as error:
        load("fashion_mnist")
    for place in (
        str(keras_cache()),
        str(nowhere / "debian"),
        "apt-get install",
        "no route to host",
    ):
        assert place in str(error.value)


def test_cifar10_comes_from_keras_alone(nowhere, monkeypatch):
    import keras

    images = np.full((3, 32, 32, 3), 255, "uint8"), np.arange(3).reshape(3, 1)
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (images, images))
    data = load("cifar10")
    assert data.x_train.shape == (3, 32, 32, 3) and data.x_test.max() == 1.0
    assert data.y_train.tolist() == [0, 1, 2]


def test_mnist_comes_from_keras_alone(nowhere, monkeypatch):
    import keras

    monkeypatch.setattr(keras.datasets.mnist, "load_data", keras.datasets.fashion_mnist.load_data)
    with pytest.raises(FileNotFoundError, match=r"MNIST is not in the Keras cache .*mnist\.npz.*no route"):
        load("mnist")
    arrays = [np.full((3, 28, 28), 255, "uint8"), np.arange(3)]
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (arrays, arrays))
    data = load("mnist")
    assert data.name == "mnist" and data.x_test[0, 0, 0] == 1.0 and data.y_train.tolist() == [0, 1, 2]


def test_unknown_name():
    with pytest.raises(
        ValueError, match="Unknown data set 'emnist'. Known: digits, fashion_mnist, mnist, cifar10"
    ):
        load("emnist")
