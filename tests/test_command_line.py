"""The command `tfap`: what it prints and writes, and that a mistake is one line and writes nothing."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import nets
import numpy as np
import pytest
from absl import logging
from conftest import KERASES

import tfap
from tfap.command_line import start
from tfap.keras_compat import load_model

pytestmark = pytest.mark.one_keras
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module", params=KERASES)
def files(request, tmp_path_factory):
    """A folder with models of one Keras, and data; the commands run in it."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_files(importlib.import_module(request.param))
        yield folder


def write_files(keras):
    keras.utils.set_random_seed(0)
    model = nets.mlp(keras, (12, 16, 8, 4))
    x, y = nets.data(model)
    for name in ("dense.keras", "dense.h5"):
        model.save(name)
    wrapped = tfap.prune(model, 0.5)
    nets.fit(wrapped, epochs=4)
    wrapped.save("wrapped.keras")
    tfap.compact(tfap.strip_pruning(wrapped)).save("small.keras")
    uncompiled = keras.Sequential.from_config(model.get_config())
    uncompiled.save("uncompiled.keras")
    convolutional = nets.cnn(keras, (8, 8, 3), 2)
    convolutional.save("images.keras")
    np.savez("data.npz", x=x, y=y)
    np.savez("mnist.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    np.save("x.npy", x)
    np.save("y.npy", y)
    write_images(pathlib.Path("pictures"))


def write_images(folder):
    image = pytest.importorskip("PIL.Image")
    for label, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            image.new("RGB", (10, 12), (100 * label, 10 * index, 7)).save(folder / name / f"{index}.png")


@pytest.fixture
def run(files, capfd):
    """Runs a command; returns its exit code, its output, and its errors."""

    def call(*arguments):
        capfd.readouterr()
        code = start.main(list(map(str, arguments)))
        return (code, *capfd.readouterr())

    return call


def test_help(run):
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        code, out, err = run(*arguments)
        assert code == 0 and not err and all(name in out for name in start.COMMANDS)
    assert run("--version") == (0, f"tfap {tfap.__version__}\n", "")


@pytest.mark.parametrize("command", start.COMMANDS)
def test_help_of_a_command_has_examples_that_parse(run, command):
    code, out, err = run(command, "--help")
    assert code == 0 and not err and out.startswith(start._command(command).summary)
    for example in start._command(command).examples:
        assert example in out
        program, name, *arguments = example.split()
        assert (program, name) == ("tfap", command)
        start._command(command).flags()([name, *arguments])


def test_report_of_models_and_files(run, files):
    code, out, err = run("export", "small.keras", "exported/small.tflite")
    assert (code, err) == (0, "") and "exported/small.tflite written" in out
    written = ["--csv=report.csv", "--json=report.json"]
    code, out, err = run(
        *("report", "dense.keras", "dense.h5", "small.keras", "exported/small.tflite"),
        *("--data=data.npz", "--seconds=0", "--batch_sizes=4", *written),
    )
    assert code == 0, err
    figures = json.loads(pathlib.Path("report.json").read_text())
    assert list(figures) == ["dense.keras", "dense.h5", "small.keras", "small.tflite"]
    assert figures["dense.keras"]["weights"] == 12 * 16 + 16 + 16 * 8 + 8 + 8 * 4 + 4
    assert figures["dense.keras"]["accuracy"] == figures["dense.h5"]["accuracy"]
    assert figures["small.keras"]["accuracy"] == figures["small.tflite"]["accuracy"]
    assert figures["small.keras"]["batch_4_ratio"] > 0 and "batch_4_ratio" in figures["dense.keras"]
    assert "small.tflite: " in out and pathlib.Path("report.csv").read_text().count("\n") == 5


@pytest.mark.smoke
def test_report_takes_wrappers_off(run):
    code, out, err = run("report", "wrapped.keras", "--batch_sizes=", "--json=stripped.json")
    assert (code, err) == (0, "")
    figures = json.loads(pathlib.Path("stripped.json").read_text())["wrapped.keras"]
    assert figures["nonzero"] < 0.7 * figures["weights"] and "of its weights are zero" in out


def test_data_of_all_kinds(run):
    def accuracy(*arguments):
        code, _, err = run("report", "dense.keras", "--batch_sizes=", "--json=d.json", *arguments)
        assert (code, err) == (0, "")
        return json.loads(pathlib.Path("d.json").read_text())["dense.keras"]["accuracy"]

    assert accuracy("--data=data.npz") == accuracy("--data=x.npy", "--labels=y.npy") is not None
    assert accuracy("--data=x.npy") is None  # no labels
    assert 0 <= accuracy("--data=mnist.npz") <= 1  # its test samples
    assert (20 * accuracy("--data=mnist.npz")).is_integer()
    assert (7 * accuracy("--data=data.npz", "--samples=7")).is_integer()


def test_a_folder_of_images(run):
    code, _, err = run("report", "images.keras", "--batch_sizes=", "--data=pictures", "--json=i.json")
    assert (code, err) == (0, "")
    accuracy = json.loads(pathlib.Path("i.json").read_text())["images.keras"]["accuracy"]
    assert (6 * accuracy) == round(6 * accuracy)


def test_images_are_read_in_order_and_scaled(files):
    from absl import flags

    from tfap.command_line import data, models

    values = flags.FlagValues()
    data.define(values, "Images.")
    values(["tfap", "--data=pictures", "--scale=0.5"])
    samples = data.read(values, models.load("images.keras"))
    assert samples.x.shape == (6, 8, 8, 3) and samples.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert samples.x[4, 3, 3].tolist() == [50.0, 5.0, 3.5]


@pytest.mark.smoke
def test_plan(run):
    code, out, err = run("plan", "dense.keras", "--sparsity=0.25")
    assert (code, err) == (0, "")
    assert "320 of 380 weights are prunable, in 2 kernels." in out and "80 would be pruned" in out
    assert "it is an output layer" in out and f"FLOPs per sample: {2 * (12 * 16 + 16 * 8 + 8 * 4)}." in out
    code, out, _ = run("plan", "dense.h5", "--criterion=magnitude", "--include=output", "--skip=hidden_0")
    assert code == 0 and "160 of 380 weights are prunable" in out and "it is named in skip" in out


@pytest.mark.tensorflow_only(reason="exporters")
@pytest.mark.slow
def test_export_to_every_format(run):
    for path, flags in (
        ("e/model.tflite", ["--quantize=int8", "--data=data.npz", "--inputs=int8"]),
        ("e/model.onnx", []),
        ("e/model.keras", ["--compact"]),
        ("e/saved", ["--noverify"]),
    ):
        code, out, err = run("export", "wrapped.keras", path, *flags)
        assert (code, err) == (0, "") and f"{path} written: " in out
    paths = ["e/model.tflite", "e/model.onnx", "e/model.keras", "e/saved"]
    code, out, err = run("report", *paths, "--data=data.npz", "--seconds=0", "--batch_sizes=1")
    assert code == 0, err
    assert "saved_model" in out or "saved" in out


@pytest.mark.tensorflow_only(reason="a SavedModel of tf_keras")
def test_a_saved_model_of_tf_keras(tmp_path, monkeypatch, capfd):
    tf_keras = pytest.importorskip("tf_keras")
    monkeypatch.chdir(tmp_path)
    nets.mlp(tf_keras, (5, 6, 2)).save("saved", save_format="tf")
    capfd.readouterr()
    assert start.main(["plan", "saved"]) == 0
    assert "30 of 50 weights are prunable" in capfd.readouterr().out


# -- shrinking -------------------------------------------------------------------------------------


def test_shrink_without_training(run, files):
    arguments = ["dense.keras", "--data=data.npz", "--weights=0.5", "--out=shrunk", "--html=shrunk/page.html"]
    code, out, err = run("shrink", *arguments)
    assert code == 0, err
    assert "The budget of" in out and "shrunk/model.keras written" in out
    figures = json.loads(pathlib.Path("shrunk/report.json").read_text())
    assert figures["meets_budget"] and figures["stages"][figures["chosen"]]["weights"] <= 190
    made = {path.name for path in pathlib.Path("shrunk").iterdir()}
    assert made == {"model.keras", "report.json", "report.txt", "page.html", "stages"}
    code, out, _ = run("plan", "shrunk/model.keras")
    assert code == 0 and f"of {figures['stages'][figures['chosen']]['weights']} weights" in out
    page = pathlib.Path("shrunk/page.html").read_text()
    for expected in ("<h2>Verdict</h2>", "<h2>Stages</h2>", "<h2>What each layer bears</h2>", "Firing rates"):
        assert expected in page


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["magnitude", "group_taylor"])
def test_shrink_by_another_criterion(run, files, criterion):
    given = ["dense.keras", "--data=data.npz", "--weights=0.5"]
    assert run("shrink", *given, "--out=reconstruction")[0] == 0
    code, _, err = run("shrink", *given, f"--criterion={criterion}", f"--out=by_{criterion}")
    assert code == 0, err
    kernels = [
        load_model(f"{folder}/model.keras").get_weights()[0]
        for folder in ("reconstruction", f"by_{criterion}")
    ]
    assert kernels[0].shape != kernels[1].shape or (kernels[0] != kernels[1]).any()


@pytest.mark.slow
def test_shrink_in_stages_with_training(run, files):
    given = ["dense.keras", "--data=data.npz", "--flops=0.5", "--epochs=1", "--stages=2", "--out=trained"]
    code, _, err = run("shrink", *given)
    assert code == 0, err
    model = pathlib.Path("trained/model.keras")
    before = model.read_bytes()
    model.unlink()
    code, _, err = run("shrink", *given)  # resumes, with nothing left to do
    assert code == 0 and len(json.loads(pathlib.Path("trained/report.json").read_text())["stages"]) == 3, err
    assert len(before) == model.stat().st_size
    code, _, err = run("shrink", *given[:-1], "--round_to=2", "--out=trained")
    assert code == 2 and "trained" in err


@pytest.mark.tensorflow_only(reason="the exporter")
@pytest.mark.slow
def test_shrink_to_bytes_writes_the_file(run, files):
    code, _, err = run("shrink", "dense.h5", "--data=x.npy", "--bytes=3.2kB", "--out=in_bytes")
    assert code == 0, err
    assert pathlib.Path("in_bytes/model.tflite").stat().st_size <= 3200


def test_amounts():
    from tfap.command_line import shrink

    for flags, expected in (
        (["--bytes=300kB"], {"bytes": 300_000, "runtime": "tflite"}),
        (["--bytes=1.5MiB", "--runtime=onnx"], {"bytes": 1_572_864, "runtime": "onnx"}),
        (["--bytes=0.25"], {"bytes": 0.25, "runtime": "tflite"}),
        (["--weights=50_000"], {"weights": 50_000}),
        (["--flops=0.5", "--runtime=onnx"], {"flops": 0.5}),
        (["--speedup=2", "--threads=1"], {"speedup": 2.0, "runtime": "tflite", "threads": 1}),
    ):
        values = shrink.COMMAND.flags()
        values(["shrink", *flags])
        assert shrink.budget_of(values) == expected
        assert [type(value) for value in shrink.budget_of(values).values()] == list(
            map(type, expected.values())
        )


# -- comparing -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compare(run, files):
    flags = ["--methods=magnitude", "--sparsities=0.5", "--seeds=1", "--epochs=1", "--workers=1"]
    verbosity = logging.get_verbosity()
    code, out, err = run("compare", *flags, "--directory=compared")
    assert code == 0, err
    assert logging.get_verbosity() == verbosity
    assert "magnitude" in out and "rows.csv, sparsity.png and size.png are in compared/digits-keras-1" in out
    assert pathlib.Path("compared/digits-keras-1/rows.csv").read_text().count("magnitude") == 1


# -- mistakes --------------------------------------------------------------------------------------

MISTAKES = {
    "prune model.keras": "there is no command 'prune': expected report, plan",
    "--verbose": "there is no command '--verbose'",
    "report": "expected the files of one model or more",
    "report gone.keras": "there is no file or folder 'gone.keras'",
    "report broken.keras": "'broken.keras' is no .keras file, or not whole",
    "report broken.h5": "'broken.h5' is no .h5 file, or not whole",
    "report text.txt": "'text.txt' is no model: expected .keras, .h5",
    "report empty": "'empty' is a folder, but no SavedModel",
    "report broken.tflite --csv=o.csv": "broken.tflite",
    "report dense.keras dense.keras": "'dense.keras' is given twice",
    "report dense.keras --seed=1": "Unknown command line flag 'seed'",
    "report dense.keras --seconds=fast": "flag --seconds=fast",
    "report dense.keras --seconds=-1": "flag --seconds=-1",
    "report dense.keras --threads=0": "flag --threads=0",
    "report dense.keras --batch_sizes=1,two": "--batch_sizes must be integers >= 1, separated by commas: re",
    "report dense.keras --batch_sizes=0": "--batch_sizes must be integers >= 1",
    "report dense.keras --baseline=other.keras": "--baseline is 'other.keras', which is none of the models",
    "report dense.keras --csv=o.txt": "--csv must end in .csv: received 'o.txt'",
    "report dense.keras --html=empty.html": "--html must be a file: 'empty.html' is a folder",
    "report dense.keras --csv=text.txt/o.csv": "'text.txt/o.csv' cannot be written: ",
    "report dense.keras --data=gone.npz": "--data: there is no file or folder 'gone.npz'",
    "report dense.keras --data=d.tfrecord": "is a TFRecord, whose layout only its writer knows",
    "report dense.keras --data=text.txt": "--data: 'text.txt' is of an unknown kind",
    "report dense.keras --data=broken.npz": "'broken.npz' cannot be read",
    "report dense.keras --data=unequal.npz": "expected the same number of samples in all",
    "report dense.keras --data=text.npz": "'text.npz' has values that are no numbers",
    "report dense.keras --data=objects.npz": "'objects.npz' cannot be read",
    "report dense.keras --data=none.npz": "'none.npz' has no samples",
    "report dense.keras --data=named.npz": "'named.npz' has the arrays a, b: expected x and y",
    "report dense.keras --data=wide.npz": "'dense.keras' expects inputs of shapes [(None, 12)]: received",
    "report dense.keras --data=pictures": "is a folder of images, for a Keras model with one input of shape",
    "report images.keras --data=empty": "the folder 'empty' holds no images",
    "report images.keras --data=bad_pictures": "cannot be read",
    "report dense.keras --labels=y.npy": "--labels needs --data",
    "report dense.keras --data=data.npz --labels=y.npy": "--labels is for an .npy file",
    "report dense.keras --data=x.npy --labels=gone.npy": "--labels: there is no file 'gone.npy'",
    "report dense.keras --samples=0 --data=data.npz": "flag --samples=0",
    "report dense.keras images.keras": "'images.keras' expects inputs of shapes",
    "plan": "expected one argument, the file of a Keras model",
    "plan dense.keras small.keras": "expected one argument",
    "plan broken.tflite": "'broken.tflite' holds no Keras model",
    "plan dense.keras --sparsity=1.5": "flag --sparsity=1.5",
    "plan dense.keras --criterion=size": "flag --criterion=size",
    "plan dense.keras --skip=gone": "gone",
    "export dense.keras": "expected two arguments, MODEL and the path to write: received 'dense.keras'",
    "export dense.keras o/model.txt": "'o/model.txt' must end in .keras, .tflite or .onnx, or be a folder",
    "export dense.keras out/model.tflite --quantize=int4": "flag --quantize=int4",
    "export dense.keras out/model.tflite --quantize=int8": "--quantize=int8 needs --data",
    "export dense.keras out/model.onnx --quantize=float16": "quantize='float16' is for format='tflite' only",
    "export dense.keras out/m.tflite --quantize=int8 --data=wide.npz": "expected (None, 12)",
    "export dense.keras out/m.onnx --sparse": "sparse=True is for format='tflite' only",
    "export dense.keras empty.html": "must end in .keras, .tflite or .onnx",
    "export dense.keras full": "'full' is a folder that is not an earlier export",
    "export gone.keras out/model.tflite": "there is no file or folder 'gone.keras'",
    "shrink --data=data.npz --weights=0.5 --out=o": "expected one argument, the file of a Keras model",
    "shrink dense.keras --data=data.npz --out=o": "expected one budget, --speedup, --latency_ms, --bytes",
    "shrink dense.keras --data=data.npz --out=o --flops=0.5 --weights=9": "received --weights, --flops",
    "shrink dense.keras --data=data.npz --out=o --speedup=0.5": "flag --speedup=0.5",
    "shrink dense.keras --data=data.npz --out=o --bytes=many": "--bytes must be a number, also in kB, MB",
    "shrink dense.keras --data=data.npz --out=o --weights=3kB": "--weights must be a number, or a fraction",
    "shrink dense.keras --data=data.npz --out=o --weights=1.5": "1.5",
    "shrink dense.keras --data=data.npz --out=o --weights=3": "The budget of 3 weights cannot be met: with",
    "shrink dense.keras --data=data.npz --out=o --weights=9 --criterion=ap": "flag --criterion=ap",
    "shrink dense.keras --data=x.npy --out=o --weights=0.5 --criterion=gradient": "so data with labels",
    "shrink dense.keras --data=data.npz --out=o --weights=9 --threads=1": "--threads is for --speedup and",
    "shrink dense.keras --data=data.npz --out=o --speedup=2 --runtime=tensorrt": "flag --runtime=tensorrt",
    "shrink dense.keras --data=data.npz --weights=0.5": "--out is missing: the folder to write",
    "shrink dense.keras --data=data.npz --weights=0.5 --out=text.txt": "--out must be a folder: 'text.txt'",
    "shrink dense.keras --weights=0.5 --out=o": "--data is missing: a few hundred typical inputs",
    "shrink dense.keras --data=x.npy --weights=0.5 --out=o --epochs=1": "--data has no labels: --epochs trai",
    "shrink dense.keras --data=x.npy --weights=0.5 --out=o --max_drop=0.1": "--max_drop needs labels",
    "shrink dense.keras --data=data.npz --weights=0.5 --out=o --teacher": "--teacher is for training: pass",
    "shrink dense.keras --data=data.npz --weights=0.5 --out=o --stages=3": "stages are for fit or max_drop",
    "shrink dense.keras --data=data.npz --weights=0.5 --out=o --validation=gone.npz": "--validation: there",
    "shrink dense.keras --data=wide.npz --weights=0.5 --out=o": "The data does not fit the inputs",
    "shrink dense.keras --data=data.npz --weights=0.5 --out=full --html=text.txt": "--html must end in .html",
    "shrink small.tflite --data=data.npz --weights=0.5 --out=o": "there is no file or folder 'small.tflite'",
    "shrink uncompiled.keras --data=data.npz --weights=0.5 --out=o --epochs=1": "does not say how to train",
    "compare digits": "expected flags only: received 'digits'",
    "compare --methods=best": "Unknown methods: best",
    "compare --sparsities=0.5,most": "--sparsities must be numbers in [0, 1): received 'most'",
    "compare --seeds=0": "flag --seeds=0",
}


@pytest.fixture(scope="module")
def mistaken(files):
    """What the mistakes are about."""
    for name in ("broken.keras", "broken.h5", "broken.tflite", "broken.npz", "d.tfrecord", "text.txt"):
        pathlib.Path(name).write_text("This is a text.")
    np.savez("unequal.npz", x=np.zeros((4, 12)), y=np.zeros(3))
    np.savez("text.npz", x=np.array(["a", "b"]), y=np.zeros(2))
    np.savez("objects.npz", x=np.array([None, {}], dtype=object), y=np.zeros(2))
    np.savez("none.npz", x=np.zeros((0, 12)), y=np.zeros(0))
    np.savez("named.npz", a=np.zeros(2), b=np.zeros(2))
    np.savez("wide.npz", x=np.zeros((4, 13), "float32"), y=np.zeros(4, int))
    for name in ("empty", "empty.html", "full/inner", "bad_pictures/cats"):
        pathlib.Path(name).mkdir(parents=True)
    pathlib.Path("full/notes.txt").write_text("Mine.")
    pathlib.Path("bad_pictures/cats/1.png").write_text("This is a text.")
    return files


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistaken, run, line):
    before = everything(mistaken)
    code, out, err = run(*line.split())
    assert (code, out) == (2, ""), err
    assert err.startswith("tfap: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert MISTAKES[line] in err and "Traceback" not in err
    assert everything(mistaken) == before


def test_there_are_many_mistakes():
    assert len(MISTAKES) >= 30


def test_a_fault_of_ours_is_not_called_a_mistake(run, monkeypatch):
    def fail(*arguments, **settings):
        return {}["a fault"]

    monkeypatch.setattr("tfap.pruning.prune.plan", fail)
    code, _, err = run("plan", "dense.keras")
    assert code == 1 and "Traceback" in err and "KeyError" in err and "unexpected error" in err


def test_an_interruption(run, monkeypatch):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("tfap.pruning.prune.plan", interrupt)
    assert run("plan", "dense.keras") == (130, "", "tfap: interrupted\n")


# -- processes -------------------------------------------------------------------------------------


SCRIPT = "import sys; sys.argv[0] = '/usr/bin/tfap'; from tfap.command_line.start import start; start()"


def process(*arguments, code=SCRIPT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    program = ["-m", "tfap"] if code is None else ["-c", code]
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


WITHOUT_KERAS = """
import sys
sys.argv = ["/usr/bin/tfap", *sys.argv[1:]]
from tfap.command_line import start
code = start.main(sys.argv[1:])
assert not {"keras", "tensorflow"} & set(sys.modules), "Keras was loaded"
sys.exit(code)
"""


@pytest.mark.parametrize("arguments", [["gone.keras"], ["x.npy", "--seconds=fast"], []])
def test_mistakes_do_not_wait_for_keras(arguments):
    done = process("report", *arguments, code=WITHOUT_KERAS)
    assert done.returncode == 2 and done.stderr.startswith("tfap: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["shrink", "--help"], ["--version"]])
def test_help_does_not_wait_for_keras(arguments):
    done = process(*arguments, code=WITHOUT_KERAS)
    assert done.returncode == 0 and not done.stderr and done.stdout


@pytest.mark.slow
def test_the_command_in_a_process(files):
    done = process("plan", files / "dense.keras", code=None)
    assert done.returncode == 0 and "320 of 380 weights are prunable" in done.stdout, done.stderr
    assert done.stderr == ""
    done = process("report", files / "wrapped.keras", "--batch_sizes=")
    assert done.returncode == 0 and "wrapped.keras" in done.stdout and done.stderr == ""


@pytest.mark.slow
def test_a_mistake_in_a_process(files):
    done = process("report", files / "gone.keras")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tfap: there is no file or folder '{files / 'gone.keras'}'\n"


@pytest.mark.slow
def test_a_reader_that_has_seen_enough(files):
    command = f"'{sys.executable}' -m tfap plan '{files / 'dense.keras'}' | head -1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr
