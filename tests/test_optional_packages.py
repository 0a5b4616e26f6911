"""A package that is optional and not installed is an error that names the pip command."""

import ast
import pathlib
import re
import runpy
import sys

import keras
import nets
import numpy as np
import pytest
from absl import flags

import tfap
from tfap import datasets
from tfap.command_line import data
from tfap.comparison import workers
from tfap.utils import plots, statistics

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "tfap"


def export(format, verify=True):
    def use(folder):
        tfap.export(nets.mlp(keras, (3, 2, 2)), folder / f"model.{format}", format, verify=verify)

    return use


def load(format):
    def use(folder):
        (folder / f"model.{format}").write_bytes(b"")
        tfap.load_runtime(folder / f"model.{format}")

    return use


def report(format):
    def use(folder):
        (folder / f"model.{format}").write_bytes(b"")
        tfap.report(folder / f"model.{format}")

    return use


def read_image(folder):
    (folder / "image.png").write_bytes(b"")
    values = flags.FlagValues()
    data.define(values, "Images.")
    values(["tfap", f"--data={folder}"])
    data.read(values, nets.cnn(keras, (8, 8, 3), 2))


# What needs each module; the extra that installs it.
USES = {
    ("sklearn.datasets", "examples"): [lambda folder: datasets.load("digits")],
    ("sklearn.model_selection", "examples"): [lambda folder: datasets.load("digits")],
    ("matplotlib.figure", "comparison"): [
        lambda folder: plots.lines([], None, "x", "y"),
        lambda folder: plots.heat_map(np.zeros((1, 1)), ["a"], ["b"], "x", "y"),
    ],
    ("matplotlib.ticker", "comparison"): [lambda folder: plots.lines([], None, "x", "y")],
    ("scipy.stats", "comparison"): [lambda folder: statistics.interval([1.0, 2.0])],
    ("scipy.special", "comparison"): [lambda folder: statistics.smallest_detectable_effect([1.0, 2.0])],
    ("joblib", "comparison"): [
        lambda folder: list(workers.results(print, [0, 1], 2)),
        lambda folder: workers.cores(),
    ],
    ("cloudpickle", "comparison"): [
        lambda folder: list(workers.results(print, [0, 1], 2)),
        lambda folder: workers.check_picklable(fit=print),
    ],
    ("ai_edge_litert.interpreter", "tflite"): [export("tflite"), load("tflite"), report("tflite")],
    ("onnxruntime", "onnx"): [export("onnx"), load("onnx"), report("onnx")],
    ("onnx", "onnx"): [export("onnx"), export("onnx", verify=False)],
    ("PIL", "images"): [read_image],
    ("tf2onnx.convert", "onnx"): [export("onnx"), export("onnx", verify=False)],
}


# Other backends convert in another process, which has all packages in these tests.
CONVERTERS = {"onnx", "tf2onnx.convert"}
MARKS = {name: [pytest.mark.tensorflow_only(reason="TensorFlow converts")] for name in CONVERTERS}


@pytest.mark.parametrize(
    ("module", "extra"), [pytest.param(*use, marks=MARKS.get(use[0], ())) for use in USES]
)
def test_a_missing_package_names_the_pip_command(module, extra, monkeypatch, tmp_path):
    for use in USES[module, extra]:
        with monkeypatch.context() as patch, pytest.raises(ImportError) as error:
            patch.setitem(sys.modules, module, None)
            use(tmp_path)
        assert f"pip install 'tfap[{extra}]'" in str(error.value), module


def packages_of_setup():
    """`(required, {extra: packages})`, as the names of their imports."""
    names = {"scikit-learn": "sklearn", "absl-py": "absl", "tensorflow-model-optimization": None}
    names |= {"ai-edge-litert": "ai_edge_litert", "keras-hub": "keras_hub", "pillow": "PIL"}

    def imported(requirements):
        found = {re.match(r"[\w-]+", each)[0] for each in requirements}
        return {names.get(name, name) or "tensorflow_model_optimization" for name in found}

    with pytest.MonkeyPatch.context() as patch:
        given = {}
        patch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    extras = {name: imported(packages) for name, packages in given["extras_require"].items()}
    return imported(given["install_requires"]), extras


def test_every_import_is_required_or_has_a_row_above():
    required, extras = packages_of_setup()
    # Of Keras, TensorFlow, and the backend that the user chose.
    required |= {"ml_dtypes", "flatbuffers", "jax", "torch", "h5py"}
    guarded = {module.split(".")[0]: extra for module, extra in USES}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for package in {module.split(".")[0] for module in modules}:
                known = package in {"tfap", *sys.stdlib_module_names, *required}
                assert known or package in guarded, (
                    f"{path.name} imports {package}, of which no test is above"
                )
    for package, extra in guarded.items():
        assert package in extras[extra], f"tfap[{extra}] does not install {package}"


def test_tensorboard_is_not_needed(monkeypatch, tmp_path):
    """Its files are written by TensorFlow; only who looks at them needs it."""
    for module in [name for name in sys.modules if name.split(".")[0] == "tensorboard"] + ["tensorboard"]:
        monkeypatch.setitem(sys.modules, module, None)
    model = nets.mlp(keras, (3, 2, 2))
    x, y = np.ones((4, 3), "float32"), np.zeros(4, int)
    monitor = tfap.DeadNeuronMonitor(x, log_dir=str(tmp_path))
    model.fit(x, y, verbose=0, callbacks=[monitor])
    assert list(tmp_path.rglob("events*"))
