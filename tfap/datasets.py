"""Image data sets for examples and benchmarks, from local copies if there are any."""

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
    """Holds the images and labels of a data set.

    Attributes:
        name: String. Name of the data set.
        x_train: float32 array in [0, 1], of shape `(samples, height, width)`, or of shape
            `(samples, height, width, 3)` for color images.
        y_train: int64 array of shape `(samples,)`. Labels from 0.
        x_test: Array like `x_train`.
        y_test: Array like `y_train`.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def classes(self) -> int:
        """Integer. Number of classes."""
        return int(self.y_train.max()) + 1


def load(name: str, seed: int = 0) -> Dataset:
    """Loads a data set.

    Fashion-MNIST comes from the Keras cache, or else from the Debian package dataset-fashion-mnist. MNIST and
    CIFAR-10 come from the Keras cache. Keras downloads them if they are not there.

    Args:
        name: String. "digits" (8 x 8 images, needs scikit-learn), "fashion_mnist" or "mnist" (28 x 28), or
            "cifar10" (32 x 32, in color).
        seed: Integer. Seed of the split of digits, which has no test set, into 1,437 training and 360 test
            images.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If there is no local copy and the download fails.
        ImportError: If scikit-learn is needed and not installed. The message has the pip command.
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


def keras_cache() -> pathlib.Path:
    """Returns the folder in which Keras stores Fashion-MNIST."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    return home / "datasets" / "fashion-mnist"


def _digits(seed):
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("scikit-learn is not installed: pip install 'tfap[examples]'") from error

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
    path = keras_cache().parent / file
    return _from_keras(name, f"{title} is not in the Keras cache ({path})")


def _from_keras(name, why_not_local):
    """Loads a data set with Keras, which looks in its cache before it downloads."""
    try:
        import keras

        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # network errors have many types
        raise FileNotFoundError(f"{why_not_local}, and the download failed: {error}") from error
    return _normalized(name, x_train, y_train, x_test, y_test)


def _read_idx(path):
    """Reads MNIST's idx format: two zero bytes, dtype, rank, big-endian shape, then the values."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _normalized(name, x_train, y_train, x_test, y_test):
    return Dataset(
        name,
        (x_train / 255).astype("float32"),
        y_train.astype("int64").reshape(-1),
        (x_test / 255).astype("float32"),
        y_test.astype("int64").reshape(-1),
    )
