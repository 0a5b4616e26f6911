"""`tfap export`: writes a Keras model for deployment."""

import pathlib
from collections.abc import Sequence

from absl import flags

from tfap.command_line import data, models, output
from tfap.command_line.command import Command, UserError

_FORMATS = {".keras": "keras", ".tflite": "tflite", ".onnx": "onnx", "": "saved_model"}
_CALIBRATED = ("int8", "int16x8")


def _define(values: flags.FlagValues) -> None:
    data.define(values, "Typical inputs: for --quantize=int8 and int16x8 required, else to compare outputs.")
    text = "How to quantize."
    kinds = ["dynamic_range", "float16", *_CALIBRATED]
    flags.DEFINE_enum("quantize", None, kinds, text, flag_values=values)
    text = "Inputs and outputs of a quantized .tflite file."
    flags.DEFINE_enum("inputs", "float", ["float", "int8", "int16"], text, flag_values=values)
    flags.DEFINE_bool("sparse", False, "Leaves zeros out of a .tflite file.", flag_values=values)
    flags.DEFINE_bool("float32", False, "Converts a float16 or bfloat16 model first.", flag_values=values)
    flags.DEFINE_bool("verify", True, "Runs the file and compares its outputs.", flag_values=values)
    flags.DEFINE_bool("compact", False, "Removes neurons that do nothing first.", flag_values=values)


def _run(arguments: Sequence[str], values: flags.FlagValues) -> None:
    if len(arguments) != 2:
        received = " ".join(map(repr, arguments)) or "none"
        raise UserError(f"expected two arguments, MODEL and the path to write: received {received}")
    path = pathlib.Path(arguments[1])
    if path.suffix not in _FORMATS:
        raise UserError(f"'{path}' must end in .keras, .tflite or .onnx, or be a folder for a SavedModel")
    if values.quantize in _CALIBRATED and values.data is None:
        raise UserError(f"--quantize={values.quantize} needs --data: a few hundred typical inputs")
    output.check_parent(path)
    with output.working("Loading"):
        model = models.load(arguments[0])
        samples = data.read(values, model)
    with output.working(f"Writing {path}"), output.folder_of(path):
        _export(model, path, samples, values)
    print(f"{path} written: {_bytes(path):,} bytes")


def _export(model, path, samples, values):
    from tfap.compaction.compact import compact
    from tfap.exporting.export import export

    export(
        compact(model) if values.compact else model,
        path,
        _FORMATS[path.suffix],
        quantize=values.quantize,
        dtype="float32" if values.float32 else None,
        data=None if samples is None else samples.x,
        verify=values.verify,
        inputs=values.inputs,
        sparse=values.sparse,
    )


def _bytes(path):
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)


COMMAND = Command(
    "export",
    "MODEL PATH",
    "Writes a Keras model for deployment, runs the file, and compares its outputs with the model's.",
    (
        "tfap export model.keras model.tflite",
        "tfap export model.keras model.tflite --quantize=int8 --data=train.npz --samples=300",
        "tfap export model.h5 model.onnx",
        "tfap export model.keras saved_model_folder",
    ),
    _define,
    _run,
    "The end of PATH chooses the format: .tflite, .onnx, .keras, or none for a SavedModel folder. "
    f"MODEL: {models.KERAS_FILES}.",
)
