"""`tfap report`: size, FLOPs, latency and accuracy of models and files."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfap.command_line import data, models, output
from tfap.command_line.command import Command, UserError


def _define(values: flags.FlagValues) -> None:
    data.define(values, "Test samples, for the accuracy.")
    text = "Name or path of the model to compare with. The first if there are several."
    flags.DEFINE_string("baseline", None, text, flag_values=values)
    flags.DEFINE_list("batch_sizes", ["1", "64"], "Samples per timed call; empty for no latency.", values)
    flags.DEFINE_float("seconds", 3.0, "Time budget per batch size.", 0.0, flag_values=values)
    flags.DEFINE_integer("threads", None, "Threads of LiteRT and ONNX Runtime.", 1, flag_values=values)
    flags.DEFINE_string("html", None, "Writes a page with pictures to this .html file.", flag_values=values)
    flags.DEFINE_string("csv", None, "Writes the figures to this .csv file.", flag_values=values)
    flags.DEFINE_string("json", None, "Writes the figures to this .json file.", flag_values=values)


def _run(arguments: Sequence[str], values: flags.FlagValues) -> None:
    if not arguments:
        raise UserError(f"expected the files of one model or more: {models.FILES}")
    names = models.named(arguments)
    baseline = _baseline(values.baseline, names)
    batch_sizes = integers("batch_sizes", values.batch_sizes)
    files = {
        suffix: output.check_file(values[suffix].value, (f".{suffix}",), suffix)
        for suffix in ("html", "csv", "json")
    }
    if values.data is not None:
        data.check(pathlib.Path(values.data), "data")
    with output.working("Loading"):
        sources = {name: models.source(path) for name, path in names.items()}
        keras_models = {name: found for name, found in sources.items() if not isinstance(found, pathlib.Path)}
        samples = data.read(values, next(iter(keras_models.values()), None))
    with output.working(f"Measuring {len(sources)} models"):
        report = _measure(sources, baseline, samples, batch_sizes, values)
    print(report)
    _write(report, files, keras_models, samples)


def _measure(sources, baseline, samples, batch_sizes, values):
    from tfap.reporting.report import report

    labeled = None if samples is None or samples.y is None else (samples.x, samples.y)
    return report(
        sources,
        baseline,
        data=labeled,
        batch_sizes=batch_sizes,
        seconds=values.seconds,
        threads=values.threads,
    )


def _write(report: Any, files: dict[str, pathlib.Path | None], keras_models: Any, samples: Any) -> None:
    for suffix, path in files.items():
        if path is None:
            continue
        with output.folder_of(path):
            if suffix == "csv":
                report.to_csv(path)
            elif suffix == "json":
                path.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
            else:
                given = {} if samples is None else models.activations(keras_models, samples.x)
                report.to_html(path, activations=given)
        print(f"{path} written")


def _baseline(given, names):
    if given is None:
        return next(iter(names)) if len(names) > 1 else None
    found = [name for name, path in names.items() if given in (name, path)]
    if not found:
        raise UserError(f"--baseline is '{given}', which is none of the models: {', '.join(names)}")
    return found[0]


def integers(flag: str, texts: Sequence[str]) -> tuple[int, ...]:
    """Converts the texts of a flag to integers >= 1.

    Raises:
        UserError: If a text is not such a number.
    """
    for text in texts:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"--{flag} must be integers >= 1, separated by commas: received '{text}'")
    return tuple(map(int, texts))


COMMAND = Command(
    "report",
    "MODEL...",
    "Measures models and exported files side by side: size, FLOPs, latency, accuracy.",
    (
        "tfap report dense.keras small.keras small.tflite --data=test.npz",
        "tfap report a.tflite b.tflite --batch_sizes=1 --threads=1",
        "tfap report dense.keras small.keras --data=test.npz --html=report.html",
    ),
    _define,
    _run,
    f"MODEL is a file of either Keras or an exported one: {models.FILES}. Pruning wrappers are taken off.",
)
