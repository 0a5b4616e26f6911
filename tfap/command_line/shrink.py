"""`tfap shrink`: a trained model to a budget."""

import contextlib
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tfap.command_line import data, models, output
from tfap.command_line.command import CRITERIA, Command, UserError, only

_BUDGETS = ("speedup", "latency_ms", "bytes", "weights", "flops")
_FORMATS = {"tflite": "model.tflite", "onnx": "model.onnx", "saved_model": "saved_model"}
_SIZES = {"": 1, "B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}


def _define(values: flags.FlagValues) -> None:
    data.define(values, "Samples to prune on, and to train on with --epochs.")
    text = "Samples for the accuracy, of the same kinds. By default those of --data."
    flags.DEFINE_string("validation", None, text, flag_values=values)
    text = "Budget: how many times as fast."
    flags.DEFINE_float("speedup", None, text, 1.0, flag_values=values)
    flags.DEFINE_float("latency_ms", None, "Budget: milliseconds per call.", 0.0, flag_values=values)
    text = "Budget: size of the exported file, such as 300kB, or a fraction, such as 0.25."
    flags.DEFINE_string("bytes", None, text, flag_values=values)
    text = "Budget: number of weights, or a fraction of the model's."
    flags.DEFINE_string("weights", None, text, flag_values=values)
    text = "Budget: FLOPs per sample, or a fraction of the model's."
    flags.DEFINE_string("flops", None, text, flag_values=values)
    text = "Runtime of times, and format of the exported file. tflite for times and bytes."
    flags.DEFINE_enum("runtime", None, list(_FORMATS), text, flag_values=values)
    flags.DEFINE_integer("batch_size", None, "Samples per timed call. 1 by default.", 1, flag_values=values)
    flags.DEFINE_integer("threads", None, "Threads of the runtime.", 1, flag_values=values)
    text = "Which channels are removed: how they are ranked."
    of_neurons = [name for name in CRITERIA if name != "ap"]
    flags.DEFINE_enum("criterion", "reconstruction", of_neurons, text, flag_values=values)
    text = "Layers keep a multiple of so many channels. By default 8 for times if it comes near, else 1."
    flags.DEFINE_integer("round_to", None, text, 1, flag_values=values)
    text = "Largest loss of accuracy: 0.01 is one point. The smallest model within it is made."
    flags.DEFINE_float("max_drop", None, text, 0.0, flag_values=values)
    text = "Trains for so many epochs in each stage. Without it, nothing is trained."
    flags.DEFINE_integer("epochs", None, text, 1, flag_values=values)
    flags.DEFINE_integer("stages", None, "Number of stages, with --epochs or --max_drop.", 1, None, values)
    text = "Trains with the given model as the teacher."
    flags.DEFINE_bool("teacher", False, text, flag_values=values)
    flags.DEFINE_integer("train_batch_size", 32, "Samples per training step.", 1, flag_values=values)
    flags.DEFINE_list("skip", [], "Layers whose channels are kept, by name.", flag_values=values)
    text = "Folder for the model, the exported file, the report, and finished stages."
    flags.DEFINE_string("out", None, text, flag_values=values)
    flags.DEFINE_string("html", None, "Writes a page with pictures to this .html file.", flag_values=values)


def _run(arguments: Sequence[str], values: flags.FlagValues) -> None:
    path = only(arguments, f"the file of a Keras model ({models.KERAS_FILES})")
    budget = budget_of(values)
    html = output.check_file(values.html, (".html",), "html")
    out = _out(values)
    for flag in ("data", "validation"):
        if values[flag].value is not None:
            data.check(pathlib.Path(values[flag].value), flag)
        elif flag == "data":
            raise UserError("--data is missing: a few hundred typical inputs are needed to prune on")
    with output.working("Loading"):
        model = models.load(path, compiled=values.epochs is not None or _needs_loss(values.criterion))
        samples = data.read(values, model)
        validation = data.read(values, model, "validation")
    _check_labels(samples, validation, values)
    with _no_trace_of_nothing(out / "stages"):
        result = _shrink(model, samples, validation, budget, values, out)
    print(result)
    _write(result, out, html, budget, values, samples)


def _needs_loss(criterion):
    from tfap import criteria
    from tfap.criteria.gradient import NEEDS

    return bool(criteria.get(criterion).needs & NEEDS)


def budget_of(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the budget that the flags name, as `tfap.shrink` takes it.

    Raises:
        UserError: If there is none, or more than one, or it is not a number.
    """
    given = [name for name in _BUDGETS if values[name].value is not None]
    if len(given) != 1:
        received = ", ".join(f"--{name}" for name in given) or "none"
        raise UserError(
            f"expected one budget, {', '.join(f'--{name}' for name in _BUDGETS)}: received {received}"
        )
    (unit,) = given
    amount = values[unit].value
    budget: dict[str, Any] = {unit: amount if isinstance(amount, float) else _amount(unit, amount)}
    if unit in ("bytes", "speedup", "latency_ms"):
        budget["runtime"] = values.runtime or "tflite"
    for name in ("batch_size", "threads"):
        if values[name].value is not None:
            if unit not in ("speedup", "latency_ms"):
                raise UserError(f"--{name} is for --speedup and --latency_ms: received --{unit}")
            budget[name] = values[name].value
    return budget


def _amount(unit, text):
    found = re.fullmatch(r"([\d_]+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    sizes = _SIZES if unit == "bytes" else {"": 1}
    if not found or found[2] not in sizes:
        units = ", also in kB, MB, KiB or MiB" if unit == "bytes" else ""
        raise UserError(f"--{unit} must be a number{units}, or a fraction such as 0.5: received '{text}'")
    number = found[1].replace("_", "")
    if found[2] or "." not in number:
        return round(float(number) * sizes[found[2]])
    return float(number)


def _out(values):
    if values.out is None:
        raise UserError("--out is missing: the folder to write the smaller model to")
    out = pathlib.Path(values.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder: '{out}' is a file")
    output.check_parent(out / "model.keras")
    return out


def _check_labels(samples, validation, values):
    if values.epochs is not None:
        data.require(samples, "--epochs trains on it", labels=True)
    if values.max_drop is not None and (validation or samples).y is None:
        raise UserError("--max_drop needs labels, in --data or --validation")
    if values.teacher and values.epochs is None:
        raise UserError("--teacher is for training: pass --epochs")


def _shrink(model, samples, validation, budget, values, out):
    from tfap.shrinking.shrink import shrink

    return shrink(
        model,
        samples.x if samples.y is None else (samples.x, samples.y),
        budget,
        _fit(samples, values),
        values.max_drop,
        None if validation is None else (validation.x, validation.y),
        directory=out / "stages",
        teacher=values.teacher,
        stages=values.stages,
        criterion=values.criterion,
        round_to=values.round_to,
        skip=values.skip,
    )


@contextlib.contextmanager
def _no_trace_of_nothing(stages):
    """Removes the folder of stages, after an error, if it was not there before and no stage is finished."""
    was_there = stages.exists()
    with output.folder_of(stages / "settings.json"):
        try:
            yield
        except BaseException:
            if not was_there and not list(stages.glob("stage-*")):
                shutil.rmtree(stages, ignore_errors=True)
            raise


def _fit(samples, values) -> Callable[[Any], Any] | None:
    if values.epochs is None:
        return None
    settings = {"epochs": values.epochs, "batch_size": values.train_batch_size}

    def fit(model):
        model.fit(samples.x, samples.y, verbose=1 if sys.stdout.isatty() else 0, **settings)

    return fit


def _write(result, out, html, budget, values, samples):
    from tfap.exporting.export import export

    out.mkdir(parents=True, exist_ok=True)
    written = [export(result.model, out / "model.keras", "keras")]
    runtime = budget.get("runtime", values.runtime)
    if runtime is not None:
        with output.working(f"Writing {_FORMATS[runtime]}"):
            written.append(export(result.model, out / _FORMATS[runtime], runtime))
    (out / "report.json").write_text(json.dumps(result.to_dict(), indent=2) + "\n")
    (out / "report.txt").write_text(f"{result}\n")
    written += [out / "report.json", out / "report.txt"]
    if html is not None:
        written.append(html)
        with output.working("Measuring the models for the page"), output.folder_of(html):
            given = models.activations({"dense": result.given, "small": result.model}, samples.x)
            result.to_html(html, activations=given)
    for path in written:
        print(f"{path} written")


COMMAND = Command(
    "shrink",
    "MODEL",
    "Shrinks a trained model to a budget: prunes channels, refits the kept weights, trains if asked to.",
    (
        "tfap shrink model.keras --data=train.npz --speedup=2 --runtime=tflite --out=small",
        "tfap shrink model.keras --data=train.npz --bytes=300kB --out=small --html=small/report.html",
        "tfap shrink model.keras --data=train.npz --flops=0.5 --epochs=3 --validation=test.npz --out=small",
        "tfap shrink model.keras --data=train.npz --weights=0.1 --max_drop=0.01 --epochs=3 --out=small",
    ),
    _define,
    _run,
    "Give one budget. In --out are then model.keras, the exported file, and the report. A second call with "
    f"the same flags resumes after an interruption. MODEL: {models.KERAS_FILES}.",
)
