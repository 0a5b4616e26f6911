"""Data on the command line: `.npz` and `.npy` files, and folders of images."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags

from tfap.command_line.command import UserError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_EXPECTED = "an .npz file with x and y, an .npy file, or a folder of images with a subfolder per class"
_PAIRS = (("x", "y"), ("x_test", "y_test"), ("x_train", "y_train"))


@dataclasses.dataclass(frozen=True)
class Samples:
    """Holds samples.

    Attributes:
        x: Array, or dict of arrays by the name of the input.
        y: Array of labels. None without labels.
    """

    x: Any
    y: np.ndarray | None

    def __len__(self) -> int:
        return len(next(iter(self.x.values())) if isinstance(self.x, dict) else self.x)


def define(values: flags.FlagValues, purpose: str) -> None:
    """Defines the flags that say what to read."""
    text = f"{purpose} An .npz file with x and y, an .npy file, or a folder of images, a subfolder per class."
    flags.DEFINE_string("data", None, text, flag_values=values)
    flags.DEFINE_string("labels", None, "The labels of an .npy file, another .npy file.", flag_values=values)
    flags.DEFINE_float(
        "scale",
        1.0,
        "Factor of the values of images, which are 0 to 255: 0.00392157 for a model that takes 0 to 1.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "samples", None, "Reads so many samples, evenly spread over the data.", 1, flag_values=values
    )


def read(values: flags.FlagValues, model: Any, flag: str = "data") -> Samples | None:
    """Reads what the flags name.

    Args:
        values: Parsed flags of `define`.
        model: The Keras model that takes the samples, or None if unknown: images need its input shape.
        flag: String. Name of the flag with the path.

    Returns:
        `Samples`, or None if no data is given.

    Raises:
        UserError: If the path is not valid, or what is there cannot be read as samples.
    """
    given = values[flag].value
    if given is None:
        if flag == "data" and values.labels is not None:
            raise UserError("--labels needs --data")
        return None
    path = pathlib.Path(given)
    check(path, flag)
    if values.labels is not None and path.suffix != ".npy" and flag == "data":
        raise UserError(f"--labels is for an .npy file in --data: received '{path}'")
    if path.is_dir():
        samples = _images(path, model, values.scale)
    elif path.suffix == ".npz":
        samples = _arrays(path)
    else:
        labels = pathlib.Path(values.labels) if values.labels is not None and flag == "data" else None
        samples = _array(path, labels)
    return _checked(samples, path, values.samples)


def check(path: pathlib.Path, flag: str) -> None:
    """Checks that a path can be that of samples, without reading them.

    Raises:
        UserError: If nothing is there, or it is of another kind.
    """
    if not path.exists():
        raise UserError(f"--{flag}: there is no file or folder '{path}'")
    if ".tfrecord" in path.name or (
        path.is_dir() and any(".tfrecord" in each.name for each in path.iterdir())
    ):
        raise UserError(
            f"--{flag}: '{path}' is a TFRecord, whose layout only its writer knows: save x and y with "
            "numpy.savez"
        )
    if path.is_file() and path.suffix not in (".npz", ".npy"):
        raise UserError(f"--{flag}: '{path}' is of an unknown kind: expected {_EXPECTED}")


def require(samples: Samples | None, why: str, labels: bool = False) -> Samples:
    """Returns the samples.

    Raises:
        UserError: If there are none, or no labels where these are needed.
    """
    if samples is None:
        raise UserError(f"--data is missing: {why}")
    if labels and samples.y is None:
        raise UserError(f"--data has no labels: {why}")
    return samples


# -- files -----------------------------------------------------------------------------------------


def _load(path):
    try:
        loaded = np.load(path, allow_pickle=False)
        return {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else loaded
    except Exception as error:
        raise UserError(f"'{path}' cannot be read: {error}") from error


def _arrays(path):
    arrays = _load(path)
    for x, y in _PAIRS:
        if {x, y} <= set(arrays):
            return Samples(arrays[x], arrays[y])
    if len(arrays) == 1:
        return Samples(next(iter(arrays.values())), None)
    if "y" in arrays and len(arrays) > 1:
        return Samples({name: array for name, array in arrays.items() if name != "y"}, arrays["y"])
    raise UserError(
        f"'{path}' has the arrays {', '.join(sorted(arrays)) or 'none'}: expected x and y, one array, or an "
        "array per input and y"
    )


def _array(path, labels):
    if labels is None:
        return Samples(_load(path), None)
    if not labels.is_file():
        raise UserError(f"--labels: there is no file '{labels}'")
    return Samples(_load(path), _load(labels))


def _checked(samples, path, limit):
    """Checks that there are as many labels as samples, and takes some of them."""
    arrays = list(samples.x.values()) if isinstance(samples.x, dict) else [samples.x]
    arrays += [] if samples.y is None else [samples.y]
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise UserError(f"'{path}' has values that are no numbers: expected arrays of numbers")
    if any(array.ndim == 0 for array in arrays) or len({len(array) for array in arrays}) > 1:
        raise UserError(
            f"'{path}' has arrays of shapes {', '.join(str(array.shape) for array in arrays)}: expected the "
            "same number of samples in all"
        )
    if not len(arrays[0]):
        raise UserError(f"'{path}' has no samples")
    if limit is None or limit >= len(arrays[0]):
        return samples
    rows = np.linspace(0, len(arrays[0]) - 1, limit).astype(int)
    x = {name: array[rows] for name, array in samples.x.items()} if isinstance(samples.x, dict) else None
    return Samples(samples.x[rows] if x is None else x, None if samples.y is None else samples.y[rows])


# -- images ----------------------------------------------------------------------------------------


def _images(folder, model, scale):
    """Reads a folder of images: a subfolder per class in alphabetical order, or images without labels."""
    shape = _image_shape(model, folder)
    classes = sorted(each for each in folder.iterdir() if each.is_dir())
    groups = [_files(each) for each in classes] if classes else [_files(folder)]
    if not any(groups):
        raise UserError(f"the folder '{folder}' holds no images ({', '.join(_IMAGES)})")
    images = [_image(file, shape) for files in groups for file in files]
    labels = [label for label, files in enumerate(groups) for _ in files] if classes else None
    x = np.stack(images).astype("float32") * np.float32(scale)
    return Samples(x, None if labels is None else np.array(labels))


def _files(folder):
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _IMAGES)


def _image_shape(model, folder):
    shapes = [] if model is None else [tuple(given.shape) for given in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:] or shapes[0][3] not in (1, 3, 4):
        received = ", ".join(map(str, shapes)) or "no Keras model"
        raise UserError(
            f"'{folder}' is a folder of images, for a Keras model with one input of shape (height, width, 1, "
            f"3 or 4): received {received}"
        )
    return shapes[0][1:]


def _image(file, shape):
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Pillow is not installed: pip install 'tfap[images]'") from error

    height, width, channels = shape
    try:
        with Image.open(file) as image:
            mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
            resized = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
    except OSError as error:
        raise UserError(f"the image '{file}' cannot be read: {error}") from error
    return np.asarray(resized).reshape(shape)
