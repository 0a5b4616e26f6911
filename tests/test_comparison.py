"""tfap.compare: the same rows whatever happens on the way, and what is said about them."""

import concurrent.futures.process
import dataclasses
import importlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import nets
import numpy as np
import pytest
import rich.console
import scipy.stats
import tf_keras

import tfap
from tfap import keras_compat
from tfap.comparison import Comparison, Method, Row, Run, workers
from tfap.comparison.methods import named, settings_text

pytestmark = pytest.mark.one_keras


class Experiment:
    """The three functions on a tiny net; `trained` lists the runs that were trained."""

    def __init__(self, keras, dropout=False):
        self.keras, self.dropout, self.trained = keras, dropout, []

    def build_model(self):
        layers = [self.keras.layers.Input((6,)), self.keras.layers.Dense(8, activation="relu")]
        layers += [self.keras.layers.Dropout(0.5)] if self.dropout else []
        model = self.keras.Sequential([*layers, self.keras.layers.Dense(4, activation="softmax")])
        # Without tracing, which takes longer than all else in so small a net.
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        return model

    def fit(self, model, callbacks, run):
        self.trained.append(run)
        x, y = nets.data(model, 16)
        model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=callbacks)

    def evaluate(self, model):
        x, y = nets.data(model, 16)
        outputs = np.asarray(model(x))
        return {"sum": float(np.square(outputs).sum()), "accuracy": np.mean(outputs.argmax(-1) == y)}

    def compare(self, methods, sparsities=(0.5,), seeds=1, **options):
        functions = self.build_model, self.fit, self.evaluate
        return tfap.compare(*functions, methods, sparsities, seeds, **{"workers": 1, **options})


@pytest.fixture
def experiment(keras_module):
    return Experiment(keras_module)


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_rows_of_all_runs(experiment):
    found = experiment.compare({"neurons": "activation_count", "weights": "magnitude"}, (0.25, 0.5))
    assert [(row.method, row.sparsity, row.seed) for row in found.rows] == [
        ("dense", 0.0, 0),
        *((name, sparsity, 0) for name in ("neurons", "weights") for sparsity in (0.25, 0.5)),
    ]
    assert [row.run for row in found.rows] == experiment.trained
    assert found.metrics == ["sum", "accuracy"]
    weights = 6 * 8 + 8 + 8 * 4 + 4
    for row in found.rows:
        assert row.zeros == row.sparsity * 48 / 80
        assert row.weights == weights
        assert row.flops_compacted == 2 * (row.weights_compacted - (row.weights_compacted - 4) // 11 - 4)
    cut = {row.sparsity: row.weights_compacted for row in found.rows if row.method == "neurons"}
    assert cut == {0.25: weights - 2 * 11, 0.5: weights - 4 * 11}  # a neuron: 6 + 1 + 4 weights


def test_methods_begin_with_the_same_weights_and_see_the_same_batches(keras_module):
    seen = {}

    class Batches(keras_compat.Callback):
        def on_train_begin(self, logs=None):
            self.losses = []

        def on_train_batch_end(self, batch, logs=None):
            self.losses.append(float(logs["loss"]))

    experiment = Experiment(keras_module)

    def fit(model, callbacks, run):
        recorder = Batches()
        x, y = nets.data(model, 16)
        model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=[recorder, *callbacks])
        seen[run.method, run.seed] = recorder.losses

    experiment.fit = fit
    late = {"late": {"criterion": "magnitude", "pruning_schedule": lambda s: tfap.ConstantSparsity(s, 4)}}
    experiment.compare(late, seeds=2)
    for seed in (0, 1):
        np.testing.assert_allclose(seen["late", seed], seen["dense", seed], rtol=1e-6)
    assert seen["dense", 0] != seen["dense", 1]


@pytest.mark.slow
def test_a_row_does_not_depend_on_the_runs_before_it(keras_module):
    first = Experiment(keras_module, dropout=True).compare(["magnitude"], (0.25,), (3, 1)).rows
    second = Experiment(keras_module, dropout=True).compare(["magnitude"], (0.25,), (1, 3)).rows
    assert {row.run: row for row in first} == {row.run: row for row in second}


def test_arguments_of_prune_and_schedules_of_its_own(experiment):
    schedules = []

    def schedule(sparsity):
        schedules.append(sparsity)
        return tfap.ConstantSparsity(sparsity, 2, frequency=1)

    methods = {
        "one": {"criterion": tfap.Magnitude(), "scope": "local", "pruning_schedule": schedule},
        "other": {"granularity": "weight"},
    }
    found = experiment.compare(methods, pruning_schedule=lambda s: tfap.ConstantSparsity(s / 2, 1))
    zeros = {row.method: row.zeros * 80 for row in found.rows}
    assert zeros == pytest.approx({"dense": 0, "one": 24, "other": 12})
    assert set(schedules) == {0.5}


def test_any_method(experiment):
    def prune(model, sparsity):
        experiment.asked = sparsity
        return model

    def strip(model):
        kernel, *rest = model.get_weights()
        kernel[:, 3:] = 0
        model.set_weights([kernel, *rest])
        return model

    row = experiment.compare({"ours": Method(prune, list, strip)}).rows[-1]
    assert experiment.asked == 0.5 and row.zeros == 5 * 6 / 80 and row.weights_compacted == 3 * 11 + 4


def test_tfmot_prunes_as_much_of_the_same_layers():
    found = Experiment(tf_keras).compare(["magnitude", "tfmot"], (0.25, 0.75))
    for sparsity in (0.25, 0.75):
        ours, theirs = (row for row in found.rows if row.sparsity == sparsity)
        assert ours.zeros == theirs.zeros == sparsity * 48 / 80


def test_tfmot_serves_tf_keras_only():
    experiment = Experiment(importlib.import_module("keras"))
    with pytest.raises(RuntimeError, match="method='tfmot'.*tf_keras only"):
        experiment.compare(["tfmot"])


@pytest.mark.parametrize(
    "criterion, name", [("group_taylor", "gradient"), ("reconstruction", "reconstruction")]
)
def test_data_for_criteria_that_need_it(experiment, criterion, name):
    x, y = np.ones((8, 6)), np.zeros(8, int)
    data = {"gradient_data": (x, y)} if name == "gradient" else {"reconstruction_data": x}
    with pytest.raises(ValueError, match=f"The method '{criterion}': .* pass {name}_data to tfap.compare"):
        experiment.compare([criterion])
    assert [row.method for row in experiment.compare([criterion], **data).rows] == ["dense", criterion]


# -- processes -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_give_the_rows_of_one_and_a_failure_keeps_them(tmp_path):
    """Closures of both Kerases, dropout and shuffled batches; one run fails in its process."""
    worlds = importlib.import_module("keras"), tf_keras
    main = os.getpid()

    def build_model(run):
        return Experiment(worlds[run.seed % 2], dropout=True).build_model()

    def fit(model, callbacks, run):
        if os.getpid() != main and run == Run("magnitude", 0.5, 1):
            raise ValueError("out of luck")
        Experiment(None).fit(model, callbacks, run)

    def evaluate(model):
        return Experiment(None).evaluate(model)

    options = dict(methods=["magnitude"], sparsities=[0.5], seeds=2, directory=tmp_path)
    with pytest.raises(RuntimeError, match="seed=1.* failed in its process") as failed:
        tfap.compare(build_model, fit, evaluate, **options, workers=2)
    assert "in fit" in str(failed.value) and "ValueError: out of luck" in str(failed.value)
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert 2 <= len(finished) <= 3

    mixed = tfap.compare(build_model, fit, evaluate, **options, workers=1)
    alone = tfap.compare(build_model, fit, evaluate, **{**options, "directory": None}, workers=1)
    assert mixed.rows == alone.rows and len(alone.rows) == 4
    assert (
        finished.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}.items()
    )


SCRIPT = """
import pathlib, sys
import nets, test_comparison, tf_keras, tfap

experiment = test_comparison.Experiment(tf_keras)

def fit(model, callbacks, run):
    (pathlib.Path(sys.argv[1]) / f"{run.name}.began").touch()
    experiment.fit(model, callbacks, run)

print(tfap.compare(
    experiment.build_model, fit, experiment.evaluate, ["magnitude", "activation_count"], [0.5], 3,
    directory=sys.argv[1], workers=2,
))
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    tests = pathlib.Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 600
    while len(list(tmp_path.glob("*.json"))) < 2 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert 2 <= len(finished) < 9

    experiment = Experiment(tf_keras)
    settings = ["magnitude", "activation_count"], [0.5], 3
    resumed = experiment.compare(*settings, directory=tmp_path)
    assert len(experiment.trained) == 9 - len(finished)
    assert not {f"{run.name}.json" for run in experiment.trained} & set(finished)
    assert resumed.rows == experiment.compare(*settings).rows


def test_processes_are_replaced_since_keras_keeps_memory(monkeypatch):
    pools = []
    monkeypatch.setattr(workers, "_RUNS_PER_PROCESS", 2)
    monkeypatch.setattr(
        workers, "_in_pool", lambda perform, runs, _: pools.append(runs) or map(perform, runs)
    )
    assert list(workers.results(str, list(range(7)), 2)) == list("0123456")
    assert pools == [[0, 1, 2, 3], [4, 5, 6]]


def test_a_process_that_dies_is_told():
    future = concurrent.futures.Future()
    future.set_exception(concurrent.futures.process.BrokenProcessPool("SIGKILL"))
    found = workers._result(future, "a")
    assert isinstance(found, workers.Failure) and found.run == "a" and "SIGKILL" in found.text


# -- files -----------------------------------------------------------------------------------------


def test_a_second_call_does_only_what_is_missing(experiment, tmp_path):
    folder = tmp_path / "made" / "here"
    first = experiment.compare(["magnitude"], seeds=[1], directory=folder)
    experiment.trained.clear()
    second = experiment.compare(["magnitude"], [0.5], [1, 0], directory=folder)
    assert [run.name for run in experiment.trained] == [
        *("dense-0.0-0", "magnitude-0.5-0"),
    ]
    assert set(map(str, first.rows)) <= set(map(str, second.rows))
    assert {row.run: row for row in Comparison.from_directory(folder).rows} == {r.run: r for r in second.rows}
    experiment.trained.clear()
    third = experiment.compare(["magnitude"], [0.5], [1, 0], directory=folder, workers=2)
    assert str(third) == str(second) and not experiment.trained


def test_other_settings_under_the_same_name(experiment, tmp_path):
    experiment.compare({"mine": tfap.ActivationCount(weighted=True)}, directory=tmp_path)
    experiment.trained.clear()
    with pytest.raises(ValueError, match="other settings of the method 'mine'"):
        experiment.compare(
            {"new": "magnitude", "mine": tfap.ActivationCount(weighted=False)}, directory=tmp_path
        )
    assert not experiment.trained


@pytest.mark.parametrize(
    "text", ["", '{"method": "magn', "[]", "{}", '{"settings": "", "method": "magnitude"}']
)
def test_a_file_that_is_no_run(experiment, tmp_path, text):
    (tmp_path / "magnitude-0.5-0.json").write_text(text)
    with pytest.raises(ValueError, match="magnitude-0.5-0.json is not a finished run"):
        experiment.compare(["magnitude"], directory=tmp_path)
    with pytest.raises(ValueError, match="is not a finished run"):
        Comparison.from_directory(tmp_path)
    assert not experiment.trained


def test_a_file_of_another_run(experiment, tmp_path):
    experiment.compare(["magnitude"], directory=tmp_path)
    (tmp_path / "dense-0.0-0.json").rename(tmp_path / "magnitude-0.5-0.json")
    with pytest.raises(ValueError, match="holds another run"):
        experiment.compare(["magnitude"], directory=tmp_path)


def test_half_of_a_write_is_not_there(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        experiment.compare(["magnitude"], directory=tmp_path)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        Comparison.from_directory(tmp_path)
    assert len(experiment.compare(["magnitude"], directory=tmp_path).rows) == 2


def test_a_failing_run_is_named_and_the_others_stay(experiment, tmp_path):
    evaluate = experiment.evaluate

    def fails(model, run):
        return evaluate(model) if run.method == "dense" else {"sum": "much"}

    experiment.evaluate = fails
    with pytest.raises(RuntimeError, match=r"Run\(method='magnitude', sparsity=0.5, seed=0\).*'much'"):
        experiment.compare(["magnitude"], directory=tmp_path)
    assert [path.stem for path in tmp_path.glob("*.json")] == ["dense-0.0-0"]


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"methods": ["magnitud"]}, "The method 'magnitud': Unknown criterion"),
        ({"methods": "magnitude"}, "a list of criteria"),
        ({"methods": []}, "no methods"),
        ({"methods": ["magnitude", tfap.Magnitude()]}, "two methods 'magnitude'"),
        ({"methods": {"dense": "magnitude"}}, "'dense' is always compared"),
        ({"methods": {"a/b": "magnitude"}}, "files are named after it"),
        ({"methods": {"a": {"critereon": "magnitude"}}}, "no argument critereon"),
        ({"methods": {"a": {"scope": "globl"}}}, "The method 'a': scope must be"),
        ({"methods": {"a": {"pruning_schedule": 0.5}}}, "pruning_schedule must be a function"),
        ({"methods": {"a": 3}}, "criterion must be"),
        ({"pruning_schedule": lambda sparsity: "soon"}, "pruning_schedule must be"),
        ({"pruning_schedule": 0.5}, "pruning_schedule must be a function"),
        ({"sparsities": [0.5, 1.0]}, "sparsities must be"),
        ({"sparsities": [0.0]}, "sparsities must be"),
        ({"sparsities": []}, "sparsities must be"),
        ({"sparsities": [0.5, 0.5]}, "sparsities must differ"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"seeds": [0.5]}, "seed must be an integer"),
        ({"seeds": []}, "no seeds"),
        ({"workers": 0}, "workers must be"),
        ({"build_model": None}, "build_model must be a function"),
        ({"build_model": lambda shape: None}, r"called as build_model\(\)"),
        ({"fit": lambda model: None}, r"called as fit\(model, callbacks\)"),
        ({"evaluate": lambda: None}, r"called as evaluate\(model\)"),
        ({"directory": __file__}, "is not a directory"),
    ],
)
def test_arguments_are_checked_before_anything_is_trained(changes, said):
    def fit(model, callbacks):
        raise AssertionError("trained")

    arguments = {"build_model": lambda: None, "fit": fit, "evaluate": lambda model: 0.0, "workers": 1}
    with pytest.raises((TypeError, ValueError, NotADirectoryError), match=said):
        tfap.compare(**{**arguments, **changes})


def test_what_cannot_be_sent_to_processes_is_named():
    lock = __import__("threading").Lock()

    def fit(model, callbacks):
        return lock

    with pytest.raises(TypeError, match="fit cannot be sent to other processes .*workers=1"):
        tfap.compare(lambda: None, fit, lambda model: 0.0, workers=2)


@pytest.mark.parametrize(
    "found, said",
    [
        (None, "'score' is None"),
        ({}, "empty dict"),
        ([1.0], "'score' is"),
        ({"a": np.ones(2)}, "'a' is"),
        ({"seed": 1.0}, "names of other columns: seed"),
        (True, "'score' is True"),
    ],
)
def test_evaluate_must_return_numbers(found, said):
    experiment = Experiment(tf_keras)
    experiment.evaluate = lambda model: found
    experiment.fit = lambda model, callbacks: None
    with pytest.raises(RuntimeError, match=said):
        experiment.compare(["magnitude"])


def test_settings_are_the_same_text_for_the_same_settings():
    def texts(**methods):
        return {
            settings_text(method, 0.5) for name, method in named(methods, [0.5]).items() if name != "dense"
        }

    schedule = {"pruning_schedule": lambda s: tfap.PolynomialDecay(0.0, s, 1, 9)}
    other = {"pruning_schedule": lambda s: tfap.PolynomialDecay(0.0, s, 1, 8)}
    assert len(texts(a="magnitude", b=tfap.Magnitude(), c={"criterion": "magnitude"})) == 1
    assert len(texts(a=schedule, b=other, c={}, d="magnitude", e="tfmot", f={"skip": [len]})) == 6
    assert not any("0x" in text for text in texts(a={"skip": [lambda layer: True]}, b=schedule))


# -- what it says ----------------------------------------------------------------------------------


def made(metric="score"):
    """Dense, and two methods at two sparsities, three seeds each, with values of our own."""
    values = {
        ("dense", 0.0): (10.0, 20.0, 30.0),
        ("a", 0.5): (9.0, 18.0, 27.0),
        ("a", 0.9): (5.0, 10.0, 15.0),
        ("b", 0.5): (10.0, 18.5, 28.0),
    }
    return Comparison(
        Row(method, sparsity, seed, {metric: score, "other": -score}, sparsity, 100, 60 + seed, 1000, 1.5)
        for (method, sparsity), scores in values.items()
        for seed, score in enumerate(scores)
    )


def test_differences_are_paired_by_seed():
    against_dense = {(one.method, one.sparsity): one for one in made().differences()}
    assert list(against_dense) == [("a", 0.5), ("a", 0.9), ("b", 0.5)]
    found = against_dense["a", 0.5]
    expected = scipy.stats.ttest_rel((9, 18, 27), (10, 20, 30)).confidence_interval(0.95)
    assert (found.pairs, found.interval.mean) == (3, pytest.approx(-2))
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert found.smallest_detectable_effect == pytest.approx(3.264, abs=1e-3)  # their deviation is 1


def test_differences_to_another_method_are_paired_by_sparsity_too():
    found = {(one.method, one.sparsity): one for one in made().differences("other", against="b")}
    assert found["a", 0.5].interval.mean == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["a", 0.9].pairs == 0 and math.isnan(found["a", 0.9].interval.mean)
    assert ("b", 0.5) not in found
    with pytest.raises(ValueError, match="no runs of the method 'c'"):
        made().differences(against="c")
    with pytest.raises(ValueError, match="no metric 'loss'"):
        made().table("loss")


def cells(text):
    return [line.split() for line in text.splitlines() if line.strip()]


def test_the_table():
    heading, _, dense, a, _, b = cells(str(made()))
    assert heading[:4] == ["method", "sparsity", "seeds", "score"]
    assert dense == ["dense", "0", "3", "20", "-", "-", "0.0%", "61", "1,000"]
    assert a == ["a", "0.5", "3", "18", "-2", "(-4.48", "to", "+0.484)", "3.264", "50.0%", "61", "1,000"]
    assert b[4] == "-1.17"


def test_a_table_of_one_seed_and_unknown_flops():
    rows = [dataclasses.replace(row, flops_compacted=None) for row in made("accuracy").rows if row.seed == 0]
    text = str(Comparison(dataclasses.replace(row, metrics={"accuracy": 0.9}) for row in rows))
    assert cells(text)[3] == ["a", "0.5", "1", "90.00%", "+0.00%", "(-)", "-", "50.0%", "60", "-"]


def test_the_csv_file_gives_the_same_comparison(tmp_path):
    made().to_csv(tmp_path / "rows.csv")
    read = Comparison.from_csv(tmp_path / "rows.csv")
    assert read.rows == made().rows and read.metrics == ["score", "other"] and read.rows[0].fit_seconds == 1.5
    first = (tmp_path / "rows.csv").read_text().splitlines()[0]
    assert (
        first
        == "method,sparsity,seed,score,other,zeros,weights,weights_compacted,flops_compacted,fit_seconds"
    )
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not written by"):
        Comparison.from_csv(tmp_path / "rows.csv")


def test_rows_that_do_not_belong_together():
    rows = made().rows
    with pytest.raises(ValueError, match="needs rows"):
        Comparison([])
    with pytest.raises(ValueError, match="same method, sparsity and seed"):
        Comparison([*rows, rows[0]])
    with pytest.raises(ValueError, match="different metrics: b-0.5-2 has loss"):
        Comparison([*rows[:-1], dataclasses.replace(rows[-1], metrics={"loss": 1.0})])


@pytest.mark.parametrize("metric", ["score", "other"])
def test_figures(metric, tmp_path):
    pyplot_before = "matplotlib.pyplot" in sys.modules
    by_sparsity, by_size = made().plot_sparsity(metric), made().plot_size(metric)
    for figure in (by_sparsity, by_size):
        figure.savefig(tmp_path / "figure.png")
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "a", "b"]
        assert figure.axes[0].get_ylabel().startswith(metric)
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before
    ticks = [label.get_text() for label in by_sparsity.axes[0].get_xticklabels()]
    assert ticks == ["90%", "50%"] and by_sparsity.axes[0].xaxis_inverted()
    a = by_size.axes[0].containers[0].lines[0]
    sign = 1 if metric == "score" else -1
    np.testing.assert_allclose(a.get_xydata(), [(61, sign * 18), (61, sign * 10)])


def test_figures_of_accuracies_and_of_one_seed():
    rows = [dataclasses.replace(row, metrics={"accuracy": row.metrics["score"] / 22}) for row in made().rows]
    assert Comparison(rows).plot_size().axes[0].get_yscale() == "logit"
    assert made().plot_size().axes[0].get_yscale() == "linear"
    near = [
        dataclasses.replace(row, metrics={"accuracy": 0.9 + row.metrics["score"] / 1e4})
        for row in made().rows
    ]
    near = Comparison(near).plot_size()
    near.canvas.draw()
    assert near.axes[0].get_yscale() == "linear" and len(near.axes[0].get_yticklabels()) > 2
    one = Comparison(row for row in rows if row.seed == 0)
    one.plot_sparsity().canvas.draw()
    without = Comparison(row for row in rows if row.method != "dense")
    assert [text.get_text() for text in without.plot_size().legends[0].get_texts()] == ["a", "b"]


def test_a_bar_that_reaches_beyond_certainty_is_drawn():
    values = {"dense": (0.95, 0.97), "a": (0.3, 0.99)}
    rows = [
        Row(method, 0.5 * (method == "a"), seed, {"accuracy": value}, 0.0, 9, 9, 9, 0.0)
        for method, both in values.items()
        for seed, value in enumerate(both)
    ]
    (axes,) = Comparison(rows).plot_size().axes
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    assert axes.get_yscale() == "logit" and bar[0][1] < 0 and bar[1][1] > 1
    assert np.isfinite(axes.transData.transform(bar)).all()


# -- around it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_on_terminals_only(monkeypatch, terminal, capsys):
    console = rich.console.Console(stderr=True, force_terminal=terminal, width=80)
    monkeypatch.setattr(rich.console, "Console", lambda **_: console)
    assert list(workers.with_progress(iter("abc"), 3)) == ["a", "b", "c"]
    assert ("Comparing" in capsys.readouterr().err) == terminal


@pytest.mark.slow
def test_the_command_line(tmp_path):
    root = pathlib.Path(__file__).parent.parent
    arguments = ["--methods=magnitude", "--sparsities=0.5", "--seeds=1", "--epochs=1", "--workers=1"]
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", "tfap.comparison", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "build/comparison/digits-keras-1"
    assert {"rows.csv", "sparsity.png", "size.png"} <= {path.name for path in folder.iterdir()}
    assert cells(done.stdout)[3][:3] == ["magnitude", "0.5", "1"]
    assert json.loads((folder / "magnitude-0.5-0.json").read_text())["metrics"].keys() == {"accuracy", "loss"}
