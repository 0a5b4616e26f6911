"""Every example runs, at smoke size; every Python block in README and docs runs too.

`make test` runs the quickstart, `make test-all` the others and the pages.
"""

import ast
import csv
import os
import pathlib
import re
import subprocess
import sys

import networks
import pytest

import tfap

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "keras, epochs",
    [("keras", 1), *(pytest.param(name, 3, marks=pytest.mark.slow) for name in ("keras", "tf_keras"))],
)
def test_quickstart(tmp_path, keras, epochs):
    printed = run([ROOT / "examples/quickstart.py", f"--epochs={epochs}", f"--keras={keras}"], tmp_path)
    assert re.search(r"\d\.\d times fewer weights; largest output difference \d", printed)
    assert "reloaded, same outputs" in printed
    assert (tmp_path / "build/quickstart/saved_model.pb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("keras", ["keras", "tf_keras"])
def test_custom_training_loop(tmp_path, keras):
    printed = run([ROOT / "examples/custom_training_loop.py", "--epochs=3", f"--keras={keras}"], tmp_path)
    assert "sparsity 80" in printed


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_training_loops_of_other_backends(tmp_path, backend):
    pytest.importorskip(backend)
    printed = run([ROOT / f"examples/{backend}_training_loop.py", "--epochs=3"], tmp_path)
    assert "sparsity 80" in printed and float(re.search(r"accuracy ([\d.]+)%", printed).group(1)) > 60


@pytest.mark.slow
@pytest.mark.parametrize("keras, net", [("keras", "mlp"), ("tf_keras", "cnn")])
def test_shrink_and_export(tmp_path, keras, net):
    arguments = ["--epochs=4", "--sparsity=0.5", "--seconds=0.2", f"--keras={keras}", f"--net={net}"]
    arguments += ["--figure=0.7"] if net == "mlp" else []
    printed = run([ROOT / "examples/shrink_and_export.py", *arguments], tmp_path)
    assert float(re.search(r"([\d.]+) times fewer weights", printed).group(1)) > 1.5
    made = {path.name for path in (tmp_path / "build/shrink_and_export").iterdir()}
    assert made >= {"dense.tflite", "shrunk.tflite", "report.csv"}
    assert ("accuracy_against_size.png" in made) == (net == "mlp")


@pytest.mark.slow
def test_quantize(tmp_path):
    printed = run([ROOT / "examples/quantize.py", "--epochs=6"], tmp_path)
    zeros = dict(re.findall(r"^(\S.*?) +[\d,]+ bytes.* ([\d,]+) zeros of", printed, re.MULTILINE))
    zeros = {name: int(count.replace(",", "")) for name, count in zeros.items()}
    assert zeros["QAT"] < zeros["PQAT"] < zeros["float"] <= zeros["PQAT, KeepZeros"]
    assert zeros["int8"] >= zeros["float"] > 10_000
    figures = re.findall(r"^(\S.*?) +[\d,]+ bytes, accuracy ([\d.]+)%.* ([\d.]+)%$", printed, re.MULTILINE)
    accuracies = {name: float(accuracy) for name, accuracy, _ in figures}
    assert len(figures) == 6 and accuracies["float"] > 50
    assert abs(accuracies["int8"] - accuracies["float"]) < 5
    assert all(float(agreement) > 80 for *_, agreement in figures)  # of a model of 276 steps
    made = {path.name for path in (tmp_path / "build/quantize").iterdir()}
    assert made >= {"float.tflite", "int8.tflite", "pqat_keepzeros.tflite", "clustered.tflite"}


@pytest.mark.slow
def test_activation_based_pruning(tmp_path):
    """And what reads the nets that it leaves."""
    printed = run([ROOT / "examples/activation_based_pruning.py", "--quick", "--workers=1"], tmp_path)
    assert re.search(r"neuron x weight +0\.8038 +1 ", printed)
    made = {path.name for path in (tmp_path / "build/abp/digits-2-6").iterdir()}
    assert made >= {"rows.csv", "firing_rates.png", "singular_values.png", "accuracy_against_size.png"}
    same = ["--dataset=digits", "--prunes=2", "--epochs=6", "--percent=80", "--seeds=1"]
    same += ["--methods=neuron x weight"]
    printed = run([ROOT / "benchmarks/rank_controls.py", *same], tmp_path)
    assert len(re.findall(r"neuron x weight +(?:pca|svd|random|pruned)", printed)) == 6
    printed = run(
        [ROOT / "benchmarks/singular_value_loss.py", *same, "--losses=plain 0.01", "--from_accuracy=0.01"],
        tmp_path,
    )
    assert "hidden 4" in printed


@pytest.mark.slow
def test_activate_while_pruning(tmp_path):
    printed = run([ROOT / "examples/activate_while_pruning.py", "--quick", "--workers=1"], tmp_path)
    assert re.search(r"global magnitude \| init \| AP \+ X \| 84% \| 1 ", printed)
    (folder,) = (tmp_path / "build/ap").iterdir()
    assert (folder / "global_magnitude-init-dead_dynamic.png").exists()
    with open(folder / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == 3 * ["AP + X"] + 3 * ["X"]
    assert [row["alive"] for row in rows[:3]] == [row["alive"] for row in rows[3:]]
    assert rows[0]["accuracy"] == rows[3]["accuracy"] and rows[2]["dead_dynamic"] != rows[5]["dead_dynamic"]


@pytest.mark.one_keras
@pytest.mark.parametrize("net", ["mlp", "vgg", "resnet20", "densenet", "mobilenet", "vit"])
def test_every_net_can_be_pruned(keras_module, net):
    model = getattr(networks, net)(keras_module, (8, 8, 1), 10)
    assert model.output_shape == (None, 10)
    kernels = [weight for weight in model.trainable_weights if "kernel" in weight.name.split("/")[-1]]
    plan = tfap.plan(model, criterion="magnitude", include=[model.layers[-1]])
    assert len(plan.pruned) == len(kernels)


@pytest.mark.slow
@pytest.mark.parametrize("keras", ["keras", "tf_keras"])
def test_prune_once(tmp_path, keras):
    arguments = ["--epochs=30", "--samples=300", f"--keras={keras}"]
    printed = run([ROOT / "examples/prune_once.py", *arguments], tmp_path)
    dense, plain, refitted = map(
        float, re.findall(r"([\d.]+)% (?:dense|without the refit|with the refit)", printed)
    )
    assert plain < refitted - 5 and refitted > dense - 15
    assert re.search(r"FLOPs per sample: [\d,]+ before, [\d,]+ after", printed)


@pytest.mark.slow
@pytest.mark.parametrize("keras", ["keras", "tf_keras"])
def test_shrink(tmp_path, keras):
    arguments = ["--samples=256", f"--keras={keras}", "--directory=stages"]
    printed = run([ROOT / "examples/shrink.py", *arguments], tmp_path)
    met = re.findall(r"40.0% of the FLOPs is met|40.0% of the flops is met", printed)
    dense, at_once = map(float, re.search(r"accuracy is ([\d.]+)%, ([\d.]+)% before", printed).groups()[::-1])
    assert len(met) == 2 and at_once > dense - 20
    assert re.search(r"2, returned .*%", printed) and "+ conv2d_2" in printed
    assert (tmp_path / "stages/stage-002.keras").exists()


@pytest.mark.slow
def test_from_tfmot(tmp_path):
    printed = run([ROOT / "examples/from_tfmot.py", "--epochs=2", "--tensorboard=logs"], tmp_path)
    assert printed.count("same numbers: yes") == 20 and "same numbers: no" not in printed
    with_their_callback = re.findall(r"tfmot's callback .* same positions: ([\d.]+)%", printed)
    # All but the gradual guide update once, so that nothing may come back in tfmot.
    assert with_their_callback[1:] == ["100.00"] * 4 and float(with_their_callback[0]) > 95
    assert "dense 80.0%" in printed and "project 75.0%" in printed
    assert list((tmp_path / "logs").rglob("events*"))


def code_on(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks or "```python" not in page.read_text()
    return "\n".join(blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_on_the_page_names_what_there_is(page):
    """It is Python, and its names of tfap are there."""
    tree = ast.parse(code_on(page))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tfap":
            assert hasattr(tfap, node.attr), f"tfap.{node.attr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_on_the_page_runs(page, tmp_path):
    (tmp_path / "page.py").write_text(code_on(page))
    run([tmp_path / "page.py"], tmp_path)
