"""Budgets of time, with clocks of our own: a model takes as long as its shapes say."""

import json
import pathlib

import keras
import nets
import numpy as np
import pytest

import tfap
from tfap.budgets import latency_cost, latency_table, meters, search
from tfap.budgets.budget import Budget
from tfap.budgets.latency_table import LatencyTable
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras

SIZES = (12, 64, 48, 4)


class Machine:
    """A runtime in which every call has an overhead, and every FLOP costs time.

    Args:
        overhead: Milliseconds per call.
        step: Channels are computed in blocks of so many, as vector units do.
        between: Milliseconds per channel, which no single layer has.
    """

    def __init__(self, overhead=0.1, step=1, between=0.0):
        self.overhead, self.step, self.between = overhead, step, between
        self.layers = self.models = 0

    def milliseconds(self, model):
        kernels = [array for array in model.get_weights() if array.ndim > 1]
        rounded = [[-(-size // self.step) * self.step for size in kernel.shape] for kernel in kernels]
        return self.overhead + sum(1e-3 * np.prod(shape) + self.between * shape[-1] for shape in rounded)

    def layer(self, model):
        self.layers += 1
        return self.milliseconds(model)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Replaces the clock of layers and of whole models, and the folder of the cache."""
    monkeypatch.setenv(latency_table.CACHE_VARIABLE, str(tmp_path))
    here = Machine()

    class Meter:
        def __init__(self, model, budget):
            self._model = model

        def own(self):
            return here.milliseconds(self._model)

        def of(self, model):
            here.models += 1
            return here.milliseconds(model)

    monkeypatch.setattr(meters, "LatencyMeter", Meter)
    monkeypatch.setattr(LatencyTable, "_measured", lambda table, model: here.layer(model))
    return here


def inputs_for(model):
    return np.random.default_rng(0).normal(size=(32, *model.inputs[0].shape[1:])).astype("float32")


def pruned(model, budget, **options):
    return tfap.prune_once(model, inputs_for(model), budget, "magnitude", return_report=True, **options)


# -- the search --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("budget", [{"speedup": 2.0}, {"speedup": 1.3}, {"speedup": 4.0}])
@pytest.mark.slow
def test_the_measured_time_meets_the_budget(keras_module, machine, budget, scope):
    model = nets.mlp(keras_module, SIZES)
    small, report = pruned(model, budget, scope=scope)
    speedup = machine.milliseconds(model) / machine.milliseconds(small)
    assert speedup == pytest.approx(budget["speedup"], rel=0.05)
    assert report.budget.reached == machine.milliseconds(small) and report.budget.meets
    assert f"{speedup:.2f}x as fast" in str(report)


def test_milliseconds(keras_module, machine):
    model = nets.mlp(keras_module, SIZES)
    half = machine.milliseconds(model) / 2
    small, _ = pruned(model, {"latency_ms": half, "runtime": "onnx", "threads": 1})
    assert 0.95 * half <= machine.milliseconds(small) <= 1.01 * half


def test_the_search_corrects_what_single_layers_do_not_tell(keras_module, machine):
    """Time between layers, and blocks of 16 channels, of which the table knows nothing."""
    machine.between, machine.step, machine.overhead = 0.05, 16, 1.0
    model = nets.mlp(keras_module, (12, 256, 192, 4))
    small, report = pruned(model, {"speedup": 2.0}, scope="global", round_to=1)
    assert machine.milliseconds(model) / machine.milliseconds(small) == pytest.approx(2.0, rel=0.05)
    assert 1 <= report.budget.rounds <= search.ROUNDS + len(search.PROBES)
    assert machine.models == report.budget.rounds + 2  # the least, and the finished one


@pytest.mark.parametrize("round_to", [8, None])
def test_time_with_multiples(keras_module, machine, round_to):
    machine.step = 8
    model = nets.mlp(keras_module, (12, 256, 192, 4))
    small, report = pruned(model, {"speedup": 2.0}, round_to=round_to)
    assert all(layer.units % 8 == 0 for layer in small.layers[-3:-1])
    assert report.budget.meets and report.rounded.round_to == 8


def test_other_numbers_where_no_multiples_come_near(keras_module, machine):
    model = nets.mlp(keras_module, (12, 17, 4))
    small, report = pruned(model, {"speedup": 1.2})
    assert report.rounded is None and report.budget.is_near
    assert [layer.units for layer in small.layers[-2:]] == [13, 4]  # 8 and 16 would be 1.58x and 1.04x
    assert pruned(model, {"speedup": 1.2}, round_to=8)[0].layers[-2].units == 8


def test_fit_and_compact(keras_module, machine):
    model = nets.mlp(keras_module, SIZES)
    x, y = nets.data(model)
    fit = tfap.fit_and_compact(model, {"speedup": 2.0}, x, y, stages=1, epochs=2, verbose=0)
    speedup = machine.milliseconds(model) / machine.milliseconds(fit.model)
    assert speedup == pytest.approx(2.0, rel=0.06) and fit.budget.reached == machine.milliseconds(fit.model)


def test_an_overhead_that_is_most_of_the_time(keras_module, machine, monkeypatch):
    machine.overhead = 20.0
    model = nets.mlp(keras_module, SIZES)
    monkeypatch.setattr("tfap.compaction.pruner.ChannelScores", None)  # it raises before it scores
    with pytest.raises(ValueError, match=r"cannot be met: with the fewest channels, the model is 1\.2\dx as"):
        pruned(model, {"speedup": 2.0})
    assert (
        machine.layers == 0 and machine.models == 2
    )  # with multiples, and without; no layer is measured for nothing


def test_the_nearest_that_channels_allow_is_told(keras_module, machine):
    """With blocks of 64 channels, a model takes all of the time or half of it."""
    machine.overhead, machine.step = 0.0, 64
    model = nets.mlp(keras_module, (64, 128, 64))
    small, report = pruned(model, {"speedup": 1.2})
    assert machine.milliseconds(small) == machine.milliseconds(model) / 2 and report.budget.meets
    assert "2.00x as fast, the nearest that was found" in str(report.budget)


def test_a_finished_model_that_misses_the_budget_is_told(keras_module, machine, monkeypatch):
    monkeypatch.setattr("tfap.compaction.prune_once.compact", lambda model, data: model)  # nothing is removed
    model = nets.mlp(keras_module, SIZES)
    with pytest.warns(UserWarning, match="1.00x as fast, which does not meet it"):
        _, report = pruned(model, {"speedup": 1.2})
    assert not report.budget.meets and not report.budget.is_slower


def test_slower_is_never_left_unsaid():
    budget = Budget.of({"speedup": 2.0})
    result = search.BudgetResult(budget, own=1.0, limit=0.5, predicted=0.5, reached=1.2)
    assert result.is_slower and "slower than the given one" in str(result)
    with pytest.warns(UserWarning, match="slower than the given one"):
        result.warn()


# -- the table ---------------------------------------------------------------------------------------------


def layer_of(units):
    description = {"type": "Dense", "config": {"units": units}, "shape": [8]}
    return description, lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(units)])


def test_a_time_is_measured_once(tmp_path):
    machine = Machine()
    layers = [layer_of(4), layer_of(16), layer_of(4)]
    first = LatencyTable("tflite", folder=tmp_path, measure=machine.layer).times(layers)
    assert machine.layers == 2 and first[0] == first[2] < first[1]
    again = LatencyTable("tflite", folder=tmp_path, measure=None).times(layers)  # in another process
    assert again == first


def test_an_interrupted_run_resumes(tmp_path):
    machine = Machine()

    def interrupted(model):
        if machine.layers == 2:
            raise KeyboardInterrupt
        return machine.layer(model)

    layers = [layer_of(units) for units in (2, 4, 8, 16)]
    with pytest.raises(KeyboardInterrupt):
        LatencyTable("onnx", folder=tmp_path, measure=interrupted).times(layers)
    assert len(list(tmp_path.rglob("*.json"))) == 2
    times = LatencyTable("onnx", folder=tmp_path, measure=machine.layer).times(layers)
    assert machine.layers == 4 and times == sorted(times)


def test_half_a_file_is_measured_again(tmp_path):
    machine = Machine()
    table = LatencyTable("tflite", folder=tmp_path, measure=machine.layer)
    (expected,) = table.times([layer_of(4)])
    (path,) = table.folder.iterdir()
    path.write_text(path.read_text()[:20])
    assert LatencyTable("tflite", folder=tmp_path, measure=machine.layer).times([layer_of(4)]) == [expected]
    assert machine.layers == 2 and json.loads(path.read_text())["ms"] == expected


def test_files_say_what_was_measured(tmp_path):
    table = LatencyTable("tflite", batch_size=4, threads=2, folder=tmp_path, measure=Machine().layer)
    table.times([layer_of(4)])
    (path,) = table.folder.iterdir()
    entry = json.loads(path.read_text())
    assert entry["layer"] == layer_of(4)[0] and (entry["batch_size"], entry["threads"]) == (4, 2)
    assert entry["runtime"] == "tflite" and entry["version"] and entry["cpu"] == latency_table.cpu_name()


def test_each_runtime_cpu_batch_and_thread_has_its_own_times(tmp_path, monkeypatch):
    def folder(*arguments):
        return LatencyTable(*arguments, folder=tmp_path).folder

    folders = {folder("tflite"), folder("onnx"), folder("tflite", 8), folder("tflite", 1, 4)}
    monkeypatch.setattr(latency_table, "cpu_name", lambda: "another CPU")
    folders.add(folder("tflite"))
    monkeypatch.setattr("importlib.metadata.version", lambda package: "99.0")
    folders.add(folder("tflite"))
    assert len(folders) == 6


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv(latency_table.CACHE_VARIABLE, str(tmp_path / "own"))
    assert latency_table.cache_folder() == tmp_path / "own"
    monkeypatch.delenv(latency_table.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert latency_table.cache_folder() == tmp_path / "tfap"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert latency_table.cache_folder() == pathlib.Path.home() / ".cache" / "tfap"


def test_a_layer_that_cannot_be_exported_is_left_out(keras_module, tmp_path):
    def fails(model):
        raise ValueError("cannot be converted")

    model = nets.mlp(keras_module)
    table = LatencyTable("tflite", folder=tmp_path, measure=fails)
    cost = latency_cost.latency_cost(model, Liveness(model), Budget.of({"speedup": 2.0}), table)
    assert cost.total == 0


def test_predictions_add_up_layers_and_never_fall(keras_module, tmp_path):
    machine = Machine(overhead=0.0)
    model = nets.cnn(keras_module)
    liveness = Liveness(model)
    table = LatencyTable("tflite", folder=tmp_path, measure=machine.layer)
    cost = latency_cost.latency_cost(model, liveness, Budget.of({"speedup": 2.0}), table)
    assert cost.total == pytest.approx(machine.milliseconds(model), rel=0.2)
    assert cost.limit == cost.total / 2
    kept = np.ones(liveness.channels.size, bool)
    costs = [cost.of(kept)]
    for group in np.flatnonzero(~np.isin(np.arange(len(kept)), list(liveness.channels.pinned))):
        kept[group] = False
        costs.append(cost.of(kept))
    assert costs == sorted(costs, reverse=True) and costs[-1] < 0.5 * costs[0]


def test_equal_layers_share_their_times(keras_module, tmp_path):
    """Names, weights, initializers and activations do not change the shapes."""
    machine = Machine()
    model = nets.mlp(keras_module, (16, 16, 16, 16, 4))
    table = LatencyTable("tflite", folder=tmp_path, measure=machine.layer)
    cost = latency_cost.latency_cost(model, Liveness(model), Budget.of({"speedup": 2.0}), table)
    assert cost.total > 0
    # At a quarter, a half, and all of 16 units: 16 to 4, 8 and 16, and 4 to 4, 8 to 8; and 8 to 4 outputs.
    assert machine.layers == 6


# -- with real clocks --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["tflite", "onnx", "saved_model"])
def test_every_runtime_is_measured(keras_module, runtime, tmp_path, monkeypatch):
    monkeypatch.setenv(latency_table.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(meters, "_SECONDS", 0.05)
    monkeypatch.setattr(meters, "_MOST_LOADS", 3)
    monkeypatch.setattr(search, "ROUNDS", 2)
    model = nets.mlp(keras_module, (64, 512, 256, 4))
    budget = Budget.of({"speedup": 1.0, "runtime": runtime, "batch_size": 64})
    meter = meters.meter_of(model, budget)
    assert meter.own() > 0 and meter.of(model) > 0
    cost = latency_cost.latency_cost(model, Liveness(model), budget)
    assert cost.total > 0 and list(tmp_path.rglob("*.json"))
