"""Reports how an exported file differs from its model: outputs, zeros, operations, and sparse kernels."""

import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.exporting import micro, runtime, sparse_tflite
from tfap.exporting.contents import Operation, contents, matched
from tfap.exporting.export import export
from tfap.exporting.formats import load_runtime
from tfap.exporting.micro import MicroRun
from tfap.keras_compat.inputs import listed, random_arrays
from tfap.keras_compat.types import Arrays, Model
from tfap.reporting.latency import Ratio, measure
from tfap.utils import tables

_SAMPLES = 64
_UNDEFINED_SIZE = 32
_MICRO_SAMPLES = 8
_NOTABLE = 0.05  # relative change of the latency that is not noise of the machine


@dataclasses.dataclass(frozen=True)
class FileKernel:
    """Describes a kernel in a file.

    Attributes:
        name: String. Name of the kernel in the file.
        operator: String. Name of the operation that uses it, such as "CONV_2D".
        dtype: String. Dtype of the stored values.
        weights: Integer. Number of weights.
        zeros: Integer. Number of weights whose value is 0 in the file.
        lost: Integer. Number of weights that are 0 in the float model and not in the file. None if the float
            file has no kernel of this shape.
        bytes: Integer. Bytes of the values, and of the positions of sparse ones.
        sparse: Boolean. Whether zeros are left out.
        dense: `Ratio` of the latency with this kernel dense to that of the file. None if it is not sparse.
    """

    name: str
    operator: str
    dtype: str
    weights: int
    zeros: int
    lost: int | None
    bytes: int
    sparse: bool
    dense: Ratio | None = None

    @property
    def sparse_path(self) -> bool | None:
        """Whether LiteRT computes with the sparse kernel at another speed than with the dense one."""
        return None if self.dense is None else not _same_speed(self.dense)


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """The result of `tfap.export_report`. Prints as a table of the kernels, with the comparison below it.

    Attributes:
        bytes: Integer. Bytes of the file.
        float_bytes: Integer. Bytes of the file without quantization and without sparse kernels.
        samples: Integer. Number of inputs on which outputs were compared.
        on_data: Boolean. Whether the inputs are the given data. Otherwise, they are random.
        agreement: Float. Fraction of samples with the same largest output as the model's, over all outputs
            with several values per sample. None if there is no such output.
        difference: Float. Largest difference of an output from the model's.
        model_zeros: Integer. Number of zeros in the weights of the model with at least two axes.
        kernels: Tuple of `FileKernel`.
        operations: Tuple of operations with `name`, `integer` and `floating`: how many compute in integers.
        dense: `Ratio` of the latency of the file with dense kernels to that of the file. None if no kernel is
            sparse.
        micro: Result of TFLite Micro with `arena_bytes`, `difference` and `reason`. None for other formats.
    """

    bytes: int
    float_bytes: int
    samples: int
    on_data: bool
    agreement: float | None
    difference: float
    model_zeros: int
    kernels: tuple[FileKernel, ...]
    operations: tuple[Operation, ...]
    dense: Ratio | None = None
    micro: MicroRun | None = None

    @property
    def zeros(self) -> int:
        """Number of zeros in the kernels of the file."""
        return sum(kernel.zeros for kernel in self.kernels)

    @property
    def zeros_kept(self) -> bool:
        """Whether all zeros of the model are zeros in the file."""
        return self.zeros >= self.model_zeros and not any(kernel.lost for kernel in self.kernels)

    @property
    def float_operations(self) -> tuple[str, ...]:
        """Names of the operations that do not compute in integers."""
        return tuple(operation.name for operation in self.operations if operation.floating)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data: a dict of numbers, strings, tuples, and dicts."""
        properties = ("zeros", "zeros_kept", "float_operations")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in properties}}

    def __str__(self) -> str:
        headings = ["weights", "zeros", "lost", "bytes", "sparse", "latency if dense"]
        table = tables.table_of(["kernel", "operation", "dtype"], headings)
        for kernel in self.kernels:
            lost = "?" if kernel.lost is None else f"{kernel.lost:,}"
            numbers = [f"{kernel.weights:,}", f"{kernel.zeros:,}", lost, f"{kernel.bytes:,}"]
            sparse = "yes" if kernel.sparse else "no"
            speed = "" if kernel.dense is None else _text(kernel.dense)
            table.add_row(kernel.name, kernel.operator, kernel.dtype, *numbers, sparse, speed)
        return tables.as_text(table, *self._lines())

    def _lines(self):
        inputs = f"{self.samples} {'given' if self.on_data else 'random'} inputs"
        agreement = "" if self.agreement is None else f", same largest output for {self.agreement:.2%}"
        yield f"{self.bytes:,} bytes, {self.float_bytes / self.bytes:.2f} times fewer than dense float."
        yield f"Largest difference of an output on {inputs}: {self.difference:.3g}{agreement}."
        kept = "all kept" if self.zeros_kept else "not all kept"
        yield f"Zeros: {self.zeros:,} in the file, {self.model_zeros:,} in the model: {kept}."
        if self.float_operations:
            yield f"Operations that compute in floats: {', '.join(self.float_operations)}."
        else:
            yield "All operations compute in integers."
        if self.dense is not None:
            path = "computes as with dense kernels" if _same_speed(self.dense) else "takes its sparse path"
            yield f"LiteRT (XNNPACK) {path}: latency with dense kernels {_text(self.dense)} of the file's."
        if self.micro is not None and self.micro.reason:
            yield f"{self.micro.reason}."
        elif self.micro is not None:
            yield (
                f"TFLite Micro: arena of {self.micro.arena_bytes:,} bytes, outputs within "
                f"{self.micro.difference:.3g} of LiteRT's."
            )

    __repr__ = __str__


def _same_speed(ratio):
    return ratio.low <= 1 + _NOTABLE and ratio.high >= 1 - _NOTABLE


def _text(ratio):
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def export_report(
    model: Model,
    path: str | os.PathLike[str],
    data: Arrays | None = None,
    *,
    seconds: float = 3.0,
) -> ExportReport:
    """Reports how a file of `tfap.export` differs from its model.

    It runs the file and the model on the same inputs, and counts the zeros in the kernels of the file, with
    their zero points and scales per channel. If kernels are sparse, it measures the latency with and without
    them in turns, for each kernel and for all: XNNPACK takes its sparse path for few models, and not at all
    on x86 processors with AVX. A file for LiteRT also runs in TFLite Micro, if tflite-micro is installed.

    Args:
        model: The model that was exported. Unchanged.
        path: Path of the `.tflite` or `.onnx` file.
        data: Inputs on which to compare outputs: an array, or a list or dict with an array per input. None
            uses random inputs.
        seconds: Float >= 0. Time budget of the latency measurement of sparse kernels.

    Returns:
        An `ExportReport`. It prints as a table. `zeros_kept` says whether all zeros of the model are zeros in
        the file, `agreement` and `difference` compare outputs, and `float_operations` lists the operations
        that do not compute in integers.

    Raises:
        TypeError: If `model` is not a Keras model.
        FileNotFoundError: If there is no file at `path`.
        ValueError: If the file has another format, or `data` does not fit the model.
        ImportError: If a required package is not installed. The message has the pip command.

    Example:

    >>> import keras, numpy, tempfile, tfap
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(3)])
    >>> x = numpy.random.default_rng(0).normal(size=(100, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = tfap.export(model, f"{folder}/model.tflite", format="tflite", quantize="int8", data=x)
    ...     report = tfap.export_report(model, path, x)
    >>> report.zeros_kept, report.float_operations
    (True, ())
    """
    if not keras_compat.is_model(model):
        raise TypeError(f"tfap.export_report takes the Keras model first: received {type(model).__name__}.")
    path = pathlib.Path(path)
    found = contents(path)  # first, since it knows the formats that have a report
    file_runtime, live = load_runtime(path), runtime.of_model(model)
    arrays = _inputs(live, data)
    outputs, expected = file_runtime.padded(*arrays), live.padded(*arrays)
    floats, float_bytes = _float_kernels(model, path)
    ratio, ratios = _latencies(path, arrays, found.kernels, seconds)
    return ExportReport(
        path.stat().st_size,
        float_bytes,
        len(arrays[0]),
        data is not None,
        _agreement(outputs, expected),
        max(_difference(output, given) for output, given in zip(outputs, expected)),
        sum(int((weight == 0).sum()) for weight in model.get_weights() if weight.ndim >= 2),
        tuple(
            _file_kernel(kernel, given, ratios.get(kernel.name))
            for kernel, given in zip(found.kernels, matched(found.kernels, floats))
        ),
        found.operations,
        ratio,
        _micro(path, file_runtime, arrays, outputs) if path.suffix == ".tflite" else None,
    )


def _file_kernel(kernel, given, ratio):
    """Describes a kernel, compared with that of the float file if there is one."""
    return FileKernel(
        kernel.name,
        kernel.operator,
        str(kernel.values.dtype),
        kernel.values.size,
        int(kernel.is_zero.sum()),
        None if given is None else int((given.is_zero & ~kernel.is_zero).sum()),
        kernel.stored_bytes,
        kernel.sparse,
        ratio,
    )


def _inputs(live, data):
    names = [entry.name for entry in live.inputs]
    if data is None:
        return random_arrays(live.inputs, _SAMPLES, _UNDEFINED_SIZE)
    return [np.asarray(array) for array in listed(data, names)]


def _float_kernels(model, path):
    """Returns the kernels of the same file without quantization, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        dtype = "float32" if keras_compat.half_layers(model) else None  # as the file must have been written
        file = pathlib.Path(folder, path.name)
        floats = export(model, file, path.suffix[1:], verify=False, dtype=dtype)
        return contents(floats).kernels, floats.stat().st_size


def _agreement(outputs, expected):
    """Returns the fraction of positions with the same largest value along the last axis."""
    pairs = [(a, b) for a, b in zip(outputs, expected) if b.ndim > 1 and b.shape[-1] > 1]
    same = [(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in pairs]
    return float(np.concatenate(same).mean()) if same else None


def _difference(output, expected):
    difference = np.abs(output.astype("float64") - expected.astype("float64"))
    return float(np.nanmax(difference, initial=0))


def _latencies(path, arrays, kernels, seconds):
    """Returns the `Ratio` of the dense file to the sparse one, and `{kernel: Ratio}` with only it dense."""
    sparse = [kernel.name for kernel in kernels if kernel.sparse]
    if not sparse:
        return None, {}
    content = path.read_bytes()
    variants = {"sparse": content, "dense": sparse_tflite.densified(content)}
    variants |= {f"dense {name}": sparse_tflite.densified(content, {name}) for name in sparse}
    with tempfile.TemporaryDirectory() as folder:
        calls = {}
        for index, (name, variant) in enumerate(variants.items()):
            file = pathlib.Path(folder, f"{index}.tflite")
            file.write_bytes(variant)
            calls[name] = _call(load_runtime(file, threads=1), arrays)
        measured = measure(calls, "sparse", seconds=seconds)
    return measured["dense"].ratio, {name: measured[f"dense {name}"].ratio for name in sparse}


def _call(loaded, arrays):
    one = [array[: loaded.batch_size or 1] for array in arrays]
    return lambda: loaded(*one)


def _micro(path, loaded, arrays, outputs):
    """Runs the file in TFLite Micro on a few of the inputs."""
    stored = [
        entry.converted(array[:_MICRO_SAMPLES])
        if entry.quantization is None
        else entry.quantization.quantize(array[:_MICRO_SAMPLES])
        for entry, array in zip(loaded.inputs, arrays)
    ]
    return micro.run(path, stored, outputs[0][:_MICRO_SAMPLES])
