"""The page of a report: what is on it, that it loads nothing, and that a browser shows it."""

import html.parser
import re
import types

import nets
import numpy as np
import pytest
from browser import needs_browser, show

import tfap
from tfap.compaction.allocation import AllocatedSet, Allocation
from tfap.reporting.html import elements, page, scatter
from tfap.reporting.latency import Latency, Ratio
from tfap.reporting.layers import LayerFigures, layer_figures
from tfap.reporting.table import ModelReport, Report
from tfap.shrinking.result import ShrinkResult, Stage

VOID = {"meta", "link"}
WICKED = "<script>alert('x')</script> & \"y\""


class Reader(html.parser.HTMLParser):
    """The elements of a page, its text, and whether they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.names.append(name)
        self.attributes += attributes
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def a_report(names=("dense", "small"), baseline="dense", **settings):
    """Two models of known figures: the second is twice as fast with half of the weights."""
    layers = (
        LayerFigures("hidden", 8, 40, 40, 64),
        LayerFigures("output", 2, 18, 18, 32),
    )
    small = (LayerFigures("hidden", 4, 20, 20, 32), LayerFigures("output", 2, 10, 9, 16))
    latency = {1: Latency(0.002, 0.001, 0.004, 20)}
    faster = {1: Latency(0.001, 0.0009, 0.002, 20, Ratio(0.5, 0.45, 0.55))}
    rows = [
        ModelReport(names[0], "keras", 58, 58, 5000, 4000, 96, latency, 0.9, layers),
        ModelReport(names[1], "tflite", 30, 29, 2500, 2000, 48, faster, 0.88, small),
    ]
    return Report(rows, baseline, samples=1000, **settings)


def a_sensitivity():
    def removal(rate, change):
        return types.SimpleNamespace(rate=rate, change=change)

    def row(name, changes):
        removals = [removal(rate, change) for rate, change in zip((0.25, 0.5), changes)]
        return types.SimpleNamespace(name=name, removals=removals, of=lambda compensate: removals)

    rows = [row("hidden", [0.01, 0.5]), row(WICKED, [0.0, 1.0])]
    return types.SimpleNamespace(rates=(0.25, 0.5), compensate=(True,), rows=rows)


def counts(*values):
    return tfap.ActivationCounts(np.array(values), seen=10)


def written(report, tmp_path, **settings):
    report.to_html(tmp_path / "report.html", **settings)
    return (tmp_path / "report.html").read_text()


def test_what_is_on_the_page(tmp_path):
    activations = {"dense": {"hidden": counts(0, 0, 5, 10)}, "small": {"hidden": counts(5, 10)}}
    text = written(a_report(), tmp_path, activations=activations, sensitivity=a_sensitivity())
    words = Reader(text).words
    for expected in (
        *("small compared with dense.", "2.00x as fast, batch 1 (tflite)", "51.7% of the weights"),
        *("50% of the FLOPs", "-2.00 points of accuracy: 88.00%", "It is faster at batch 1"),
        *("8 4 (-50%)", "40 20 (-50%)", "2 2 (same)", "18 9 (-50%)", "64 32 (-50%)"),
        *("dense: 2 ms, 90%", "small: 1 ms, 88%", "1,000 samples"),
        *("4 neurons, 2 never fire , mean 37.5%", "2 neurons, all fire, mean 75.0%"),
        *("hidden 4 2 62.5% 50.0% 12.5%", "25% 50% hidden 1.0% 50.0%"),
    ):
        assert expected in words, expected
    assert written(a_report(), tmp_path, title="A & B").count("<title>A &amp; B</title>") == 1


def test_a_report_without_a_baseline_or_scores(tmp_path):
    latency = {4: Latency(0.002, 0.001, 0.004, 20)}
    words = Reader(written(Report([ModelReport("only", "onnx", latency=latency)]), tmp_path)).words
    assert words.startswith("only only 1 model. At a glance 2 ms at batch 4 All figures")
    assert "Accuracy against latency" not in words and "Layer by layer" not in words


def test_a_metric_of_the_user(tmp_path):
    report = a_report(metric="mean_error")
    words = Reader(written(report, tmp_path)).words
    assert "-0.02 mean_error: 0.88" in words and "Mean_error against latency" in words


def test_text_is_escaped(tmp_path):
    report = a_report((WICKED, "small"), WICKED, notes=[WICKED])
    activations = {WICKED: {WICKED: counts(0, 1)}}
    text = written(report, tmp_path, title=WICKED, activations=activations, sensitivity=a_sensitivity())
    read = Reader(text)
    assert "script" not in read.names and "alert" in read.words
    assert elements.element("td", "<", class_='"') == '<td class="&quot;">&lt;</td>'


def test_it_loads_nothing(tmp_path):
    activations = {"dense": {"hidden": counts(0, 5)}}
    read = Reader(written(a_report(), tmp_path, activations=activations, sensitivity=a_sensitivity()))
    assert not {"script", "img", "iframe", "object"} & set(read.names)
    assert [value for name, value in read.attributes if name in ("src", "href", "srcset")] == ["data:,"]
    text = (tmp_path / "report.html").read_text()
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_pictures_have_descriptions_and_tables_captions(tmp_path):
    activations = {"dense": {"hidden": counts(0, 5)}}
    text = written(a_report(), tmp_path, activations=activations, sensitivity=a_sensitivity())
    assert text.count("<svg ") == text.count("</title>") - 1 == text.count('role="img"') > 1
    assert text.count("<table") == text.count("<caption>") > 3
    assert 'lang="en"' in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_an_interrupted_write_leaves_the_file(tmp_path, monkeypatch):
    written(a_report(), tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    monkeypatch.setattr("tfap.utils.files.os.fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        a_report().to_html(tmp_path / "report.html", title="Other")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_activations_of_models_that_are_not_in_the_report(tmp_path):
    with pytest.raises(ValueError, match="activations has 'other'; expected names of models of the report: "):
        a_report().to_html(tmp_path / "report.html", activations={"other": {}})
    assert not list(tmp_path.iterdir())
    words = Reader(written(a_report(), tmp_path, activations={"hidden": counts(1, 2)})).words
    assert "Firing rates" in words  # those of a single model


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 1], [0, 0.25, 0.5, 0.75, 1]),
        ([0.93, 0.97], [0.93, 0.94, 0.95, 0.96, 0.97]),
        ([0, 3.1], [0, 1, 2, 3, 4]),
        ([5, 5], [4, 6]),
        ([0, 0], [0]),
    ],
)
def test_ticks_are_round_numbers(values, ticks):
    axis = scatter._Axis.over(values, 0, 100)
    if values[0] != values[1]:
        np.testing.assert_allclose(axis.ticks, ticks)
    assert all(0 <= axis.at(value) <= 100 for value in values)


def test_intervals_of_accuracies_are_those_of_wilson():
    # Wilson's interval of 9 of 10, as in Newcombe (1998): (0.5958, 0.9821)
    report = types.SimpleNamespace(metric="accuracy", samples=10)
    low, share, high = page.score_limits(0.9, report)
    assert (round(low, 3), share, round(high, 3)) == (0.596, 0.9, 0.982)
    assert page.score_limits(1.0, report)[2] == 1.0


def test_layers_of_models(keras_module):
    found = {each.path: each for each in layer_figures(nets.cnn(keras_module))}
    assert found["conv_a"].units == 6 and found["conv_a"].weights == 3 * 3 * 3 * 6 + 6
    assert found["dense"].flops == 2 * 12 * 10 and found["norm_a"].flops is None
    assert layer_figures(nets.subclassed(keras_module, keras_module.layers.Dense(4))) == ()
    model = nets.mlp(keras_module, (3, 4, 2))
    model.layers[0].set_weights([np.zeros((3, 4)), np.ones(4)])
    assert layer_figures(model)[0].nonzero == 4


def test_a_measured_report(keras_module, tmp_path):
    model = nets.mlp(keras_module)
    x, y = nets.data(model)
    report = tfap.report({"a": model, "b": nets.mlp(keras_module, (12, 8, 8, 4))}, "a", (x, y), seconds=0)
    assert report.samples == 64 and [each.units for each in report["b"].layers] == [8, 8, 4]
    text = written(report, tmp_path, activations={"b": tfap.measure_activations(model, x)})
    assert "16 8 (-50%)" in Reader(text).words


# -- the result of a shrink ------------------------------------------------------------------------


def a_result(unit="ms", metric="accuracy", chosen=1):
    """Two stages to half of the time; the second one loses too much."""
    sets = (AllocatedSet(("conv", WICKED), 4, (0.0, 0.1, 0.5, 2.0)),)
    allocation = Allocation({"conv": 0.5, WICKED: 0.5}, sets)
    scores = (0.9, 0.88, 0.7) if metric else (None, None, None)
    stages = tuple(
        Stage(
            *(number, number / 2, 100 - 30 * number, 200 - 60 * number, 4.0 / 2 ** (number / 2)),
            *(None, scores[number], number < 2, allocation if number else None, 1.0, 0.5),
        )
        for number in range(3)
    )
    given = (None, stages, "2x as fast in onnx", unit, 2.0, metric, 0.05, chosen, None, None, None)
    result = ShrinkResult(*given)
    vars(result)["report"] = a_report()
    return result


def test_the_page_of_a_shrink(tmp_path):
    a_result().to_html(tmp_path / "page.html")
    read = Reader((tmp_path / "page.html").read_text())
    assert "script" not in read.names
    for expected in (
        *("Shrunk to 2x as fast in onnx", "Verdict The budget of 2x as fast in onnx is not met: 4 ms before"),
        *("1.41x as fast; asked for: 2x as fast in onnx", "given: 4 ms, 90%", "stage 2: 2 ms, 70%"),
        *(
            "given 100 200 4 90.00% 1.5",
            "1, returned 70 140 2.828",
            "2, too much lost 40 80 2 70.00% 1.5",
        ),
        "lost 50% <0.1% 9.5% 9.5% 39.3% 39.3% 39.3% 86.5% 86.5% 86.5%",
    ):
        assert expected in read.words, expected


def test_the_page_of_a_shrink_without_labels(tmp_path):
    a_result("weights", None, 2).to_html(tmp_path / "page.html", title="Mine")
    words = Reader((tmp_path / "page.html").read_text()).words
    assert words.startswith("Mine Mine") and "50% of the weights; asked for" in words
    assert "2, returned, too much lost 40 80 1.5" in words


# -- in a browser ----------------------------------------------------------------------------------


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("options", [["--window-size=1100,900"], ["--window-size=360,640"],
                                     ["--blink-settings=preferredColorScheme=0"]])  # fmt: skip
def test_a_browser_shows_it(tmp_path, options):
    activations = {"dense": {"hidden": counts(0, 5)}}
    written(a_report(), tmp_path, activations=activations, sensitivity=a_sensitivity())
    shown = show(tmp_path / "report.html", tmp_path, *options, f"--screenshot={tmp_path / 'page.png'}")
    shown = show(tmp_path / "report.html", tmp_path, *options)
    assert "2.00x" in shown.dom and "Firing rates" in shown.dom and shown.dom.count("<svg") == 2
    assert shown.console == [] and shown.requests == []


@needs_browser
@pytest.mark.slow
def test_the_browser_of_the_tests_sees_errors_and_requests(tmp_path):
    """And the policy of the page stops both, were there a hole in the escaping."""
    hole = '<script>console.error("broken")</script><img src="http://elsewhere.example/x.png">'
    (tmp_path / "open.html").write_text(hole)
    shown = show(tmp_path / "open.html", tmp_path)
    assert any("broken" in line for line in shown.console)
    assert shown.requests == ["http://elsewhere.example/x.png"]
    page.write(tmp_path / "closed.html", page.page("Title", "Lead", [elements.Html(hole)]))
    shown = show(tmp_path / "closed.html", tmp_path)
    assert not any('"broken"' in line for line in shown.console) and shown.requests == []


@needs_browser
@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(tmp_path):
    """A frame of 360 pixels, whose script compares the page's width with its own."""
    long = "a_layer_with_a_name_that_has_no_place_to_break_and_goes_on_and_on"
    written(a_report((long, "small"), long), tmp_path, sensitivity=a_sensitivity())
    frame = (tmp_path / "report.html").read_text().replace("default-src 'none';", "")
    (tmp_path / "report.html").write_text(
        frame.replace("</body>", "<script>document.title = document.body.scrollWidth</script></body>")
        .replace("<body>", '<body style="width:360px">')
    )  # fmt: skip
    shown = show(tmp_path / "report.html", tmp_path, "--window-size=360,640")
    assert re.search(r"<title>360</title>", shown.dom), re.search("<title>.*?</title>", shown.dom)[0]
