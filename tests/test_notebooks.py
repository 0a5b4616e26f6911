"""Every notebook runs from top to bottom, with short trainings, and is stored without outputs."""

import json
import pathlib
import re

import pytest

import tfap

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
# What each of them must show, and the files that it writes.
SHOWN = {
    "quickstart": (
        [r"it is an output layer", r"0\.75", r"Exact: every removed neuron", r"times fewer weights"],
        {"quickstart.html", "quickstart.tflite"},
    ),
    "prune_once": ([r"'with the refit': 0\.\d", r"times fewer"], {"prune_once.html"}),
    "shrink": (
        [r"2, returned", r"The budget of 2x as fast in tflite, batch size 1"],
        {"shrink.html", "small.tflite", "shrink_stages"},
    ),
}


def test_there_is_a_row_for_each():
    assert {path.stem for path in NOTEBOOKS} == SHOWN.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_names_what_there_is(path):
    code = "".join("".join(cell["source"]) + "\n" for cell in json.loads(path.read_text())["cells"])
    for name in re.findall(r"\btfap\.(\w+)\(", code):
        assert hasattr(tfap, name), name


@pytest.mark.slow
@pytest.mark.tensorflow_only(reason="exporters")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TFAP_EPOCHS", "4")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources=resources).execute()
    shown = "\n".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    texts, files = SHOWN[path.stem]
    for text in texts:
        assert re.search(text, shown), shown
    assert files <= {made.name for made in tmp_path.iterdir()}
