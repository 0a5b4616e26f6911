"""Static quantization of ONNX files with ONNX Runtime's quantizer."""

import pathlib
import tempfile
from typing import Any

from tfap.exporting import runtime
from tfap.exporting.calibration import Settings, batches


def quantize(content: Any, path: pathlib.Path, settings: Settings, batch_size: int | None) -> None:
    """Writes an ONNX model with int8 weights and activations, as operators between Quantize and Dequantize.

    Weights have a scale per channel and the zero point 0, so zeros stay zeros.

    Args:
        content: An `onnx.ModelProto` of floats.
        path: Path of the file.
        settings: The `Settings`, with samples in the order of the inputs.
        batch_size: Integer. Fixed batch size of the inputs. None for any.

    Raises:
        ImportError: If onnxruntime is not installed. The message has the pip command.
    """
    onnx = runtime.imported("onnx", "onnx")
    runtime.imported("onnxruntime", "onnx")
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    names = [entry.name for entry in content.graph.input]
    calls = iter([dict(zip(names, batch)) for batch in batches(settings.samples or [], batch_size)])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            return next(calls, None)

    with tempfile.TemporaryDirectory() as folder:
        floats, prepared = (
            f"{folder}/floats.onnx",
            f"{folder}/prepared.onnx",
        )  # prepared: with fused operators
        onnx.save(content, floats)
        shape_inference.quant_pre_process(floats, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(prepared, str(path), Reader(), per_channel=True)
