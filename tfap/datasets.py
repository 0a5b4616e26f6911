"""Real data for examples and benchmarks, found on this machine first."""

import dataclasses
import gzip
import os
import pathlib

import numpy as np

_FASHION_MNIST_FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}
DEBIAN_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images in [0, 1], float32, shape `(samples, height, width)` or, in colour, `(..., 3)`; labels int64."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def classes(self):
        return int(self.y_train.max()) + 1


def load(name, seed=0):
    """Loads "digits" (8 x 8; needs scikit-learn), "fashion_mnist", "mnist" (28 x 28) or "cifar10" (32 x 32).

    Fashion-MNIST is taken from the Keras cache, else from the Debian package dataset-fashion-mnist, else
    downloaded by Keras; MNIST and CIFAR-10 from the Keras cache, else downloaded.

    Args:
        name: of the data set.
        seed: of the split of digits, which has no test set of its own: 1,437 training, 360 test images.

    Raises:
        ValueError: an unknown name. FileNotFoundError: the images are in none of these places.
    """
    loaders = {
        "digits": lambda: _digits(seed),
        "fashion_mnist": _fashion_mnist,
        "mnist": lambda: _cached("mnist", "MNIST", "mnist.npz"),
        "cifar10": lambda: _cached("cifar10", "CIFAR-10", ""),
    }
    if name not in loaders:
        raise ValueError(f"Unknown data set '{name}'. Known: {', '.join(loaders)}.")
    return loaders[name]()


def _digits(seed):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.2, random_state=seed, stratify=digits.target
    )
    return Dataset("digits", x_train, y_train.astype("int64"), x_test, y_test.astype("int64"))


def _fashion_mnist():
    cache = keras_cache()
    for folder in (cache, DEBIAN_FOLDER):
        if all((folder / file).exists() for file in _FASHION_MNIST_FILES.values()):
            arrays = {part: _read_idx(folder / file) for part, file in _FASHION_MNIST_FILES.items()}
            return _normalized("fashion_mnist", **arrays)
    return _from_keras(
        "fashion_mnist",
        f"Fashion-MNIST is neither in the Keras cache ({cache}) nor in {DEBIAN_FOLDER} (Debian: "
        "apt-get install dataset-fashion-mnist)",
    )


def _cached(name, title, file):
    cache = keras_cache().parent / file
    return _from_keras(name, f"{title} is not in the Keras cache ({cache})")


def _from_keras(name, not_here):
    """From Keras, which looks into its cache and then downloads."""
    try:
        import keras

        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # whatever the network says
        raise FileNotFoundError(f"{not_here}, and the download failed: {error}") from error
    return _normalized(name, x_train, y_train, x_test, y_test)


def keras_cache():
    """The folder where keras.datasets.fashion_mnist keeps its files."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    return home / "datasets" / "fashion-mnist"


def _read_idx(path):
    """An array from MNIST's idx format: two zero bytes, type, rank, big-endian sizes, then bytes."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _normalized(name, x_train, y_train, x_test, y_test):
    return Dataset(
        name,
        (x_train / 255).astype("float32"),
        y_train.astype("int64").reshape(-1),
        (x_test / 255).astype("float32"),
        y_test.astype("int64").reshape(-1),
    )
