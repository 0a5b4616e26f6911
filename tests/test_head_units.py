"""Heads as units next to neurons: sensitivity, allocation, shrink, fit_and_compact, and budgets of time."""

import nets
import numpy as np
import pytest

import tfap
from tfap.budgets import latency_cost, latency_table, meters
from tfap.budgets.budget import Budget
from tfap.budgets.latency_table import LatencyTable
from tfap.compaction.carried_state import compacted
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras

HEADS, HIDDEN, TIME = "attention:heads", "hidden", 6


def transformer(keras_module, heads=4):
    """One block whose width stays, because of the normalization before the attention."""
    layers = keras_module.layers
    inputs = keras_module.Input((TIME, 4))
    x = layers.Dense(8, name="embedding")(inputs)
    y = layers.LayerNormalization(name="norm_a")(x)
    y = layers.MultiHeadAttention(heads, 3, name="attention")(y, y)
    x = layers.Add(name="add_a")([x, y])
    y = layers.LayerNormalization(name="norm_b")(x)
    y = layers.Dense(16, activation="gelu", name="hidden")(y)
    x = layers.Add(name="add_b")([x, layers.Dense(8, name="projection")(y)])
    x = layers.GlobalAveragePooling1D(name="average")(layers.LayerNormalization(name="norm")(x))
    model = keras_module.Model(inputs, layers.Dense(3, activation="softmax", name="output")(x))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape, scale=0.5) for w in model.get_weights()])
    return nets.compiled(keras_module, model)


def data(samples=64):
    generator = np.random.default_rng(1)
    return generator.normal(size=(samples, TIME, 4)).astype("float32"), generator.integers(0, 3, samples)


def sizes(model):
    """The heads of the attention layer, and the units of the hidden one."""
    return model.get_layer("attention").get_config()["num_heads"], model.get_layer("hidden").units


def outputs(model, x):
    return np.asarray(model(x, training=False), np.float64)


def change(model, other, x):
    expected = outputs(model, x)
    difference = np.square(outputs(other, x) - expected).sum()
    return difference / np.square(expected - expected.mean(axis=0)).sum()


# -- sensitivity and allocation --------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """The model and its sensitivity, per Keras; measured when it is first asked for."""
    found = {}

    def measure(keras_module):
        if keras_module not in found:
            model = transformer(keras_module)
            found[keras_module] = model, tfap.sensitivity(model, data()[0], rates=(0.25, 0.5, 0.75))
        return found[keras_module]

    return measure


def test_heads_are_a_row(keras_module, measured):
    model, found = measured(keras_module)
    assert [(row.name, row.channels) for row in found.rows] == [(HIDDEN, 16), (HEADS, 4)]
    assert found.has_heads and HEADS in str(found)
    x, _ = data()
    for compensate in (False, True):
        small = tfap.prune_once(model, x, {HEADS: 0.5}, compensate=compensate, recalibrate=False)
        assert sizes(small) == (2, 16)
        (removal,) = [each for each in found[HEADS].of(compensate) if each.rate == 0.5]
        np.testing.assert_allclose(removal.change, change(model, small, x), rtol=1e-3)


def test_a_budget_is_allocated_to_heads_too(keras_module, measured):
    model, found = measured(keras_module)
    allocation = tfap.allocate(model, found, {"weights": 0.6})
    assert set(allocation) == {HEADS, HIDDEN}
    expected = 4 - round(4 * allocation[HEADS]), 16 - round(16 * allocation[HIDDEN])
    small, report = tfap.prune_once(model, data()[0], allocation, return_report=True)
    assert sizes(small) == expected and expected != (4, 16)
    assert report.weights[1] <= 0.6 * report.weights[0]
    # The sensitivity as the scope allocates the same.
    small, report = tfap.prune_once(model, data()[0], {"weights": 0.6}, scope=found, return_report=True)
    assert sizes(small) == expected and dict(report.allocation) == dict(allocation)


def test_heads_stay_if_only_neurons_are_asked_for(keras_module, measured):
    model, found = measured(keras_module)
    small = tfap.prune_once(model, data()[0], {"weights": 0.8}, scope=found, granularity="neuron")
    assert sizes(small)[0] == 4 and sizes(small)[1] < 16
    with pytest.raises(ValueError, match="'attention:heads' cannot be removed"):
        tfap.prune_once(model, data()[0], {HEADS: 0.5}, granularity="neuron")
    with pytest.raises(ValueError, match="'attentoin:heads', which is not in the model.* 'attention:heads'"):
        tfap.prune_once(model, data()[0], {HEADS: 0.5, "attentoin:heads": 0.5})
    # A criterion that ranks no heads measures none, and the allocation has none.
    fpgm = tfap.sensitivity(model, data()[0], rates=(0.5,), criterion="fpgm", compensate=False)
    assert not fpgm.has_heads
    assert set(tfap.allocate(model, fpgm, {"weights": 0.9})) == {HIDDEN}


@pytest.mark.parametrize("scope", ["allocated", pytest.param("isomorphic", marks=pytest.mark.slow)])
def test_heads_alone(keras_module, scope):
    model = transformer(keras_module)
    options = {"granularity": "head", "scope": scope, "return_report": True}
    small, report = tfap.prune_once(model, data()[0], {"weights": 0.8}, **options)
    assert sizes(small)[0] < 4 and sizes(small)[1] == 16
    assert report.weights[1] <= 0.8 * report.weights[0]


@pytest.mark.parametrize("criterion", ["magnitude", pytest.param("reconstruction", marks=pytest.mark.slow)])
def test_units_are_heads_and_neurons(keras_module, criterion):
    model = transformer(keras_module)
    small = tfap.prune_once(model, data()[0], {"weights": 0.6}, criterion, granularity="unit")
    assert sizes(small)[0] < 4 and sizes(small)[1] < 16
    row = {row.path: row for row in tfap.plan(model, criterion="magnitude", granularity="unit")}
    assert row["attention"].pruned and row["attention"].shape == (4, 3, 8) and row["hidden"].pruned


def test_heads_of_equal_dimensions_are_isomorphic(keras_module):
    """Two layers with heads of 3 dimensions are ranked together, one with heads of 5 for itself."""
    layers = keras_module.layers
    inputs = x = keras_module.Input((TIME, 8))
    for at, size in enumerate((3, 3, 5)):
        x = layers.Add()([x, layers.MultiHeadAttention(4, size, name=f"attention_{at}")(x, x)])
        x = layers.LayerNormalization()(x)
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(x))
    weights = [np.ones(w.shape, "float32") for w in model.get_layer("attention_0").get_weights()]
    model.get_layer("attention_0").set_weights(weights)  # larger than those of the others
    options = {"criterion": "magnitude", "granularity": "head", "target": "neurons", "scope": "isomorphic"}
    small = tfap.prune_once(model, np.zeros((4, TIME, 8), "float32"), 0.25, **options)
    heads = [small.get_layer(f"attention_{at}").get_config()["num_heads"] for at in range(3)]
    assert heads == [4, 2, 3]  # 2 of 8, and 1 of 4


@pytest.mark.slow
def test_shrink_removes_heads(keras_module):
    model = transformer(keras_module)
    result = tfap.shrink(model, data(), {"weights": 0.5}, rates=(0.25, 0.5, 0.75))
    assert result.meets_budget and sizes(result.model)[0] < 4 and sizes(result.model)[1] < 16
    assert HEADS in result.stages[-1].allocation


# -- training --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_goes_on_with_the_heads_that_are_kept(keras_module):
    """compacted() is what fit_and_compact does between stages: exact, with masks and counts carried over."""
    options = {"criterion": "activation_count", "granularity": "unit", "scope": "local", "round_to": 1}
    trained = tfap.prune(transformer(keras_module), 0.5, **options)
    x, y = data()
    trained.fit(x, y, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    tfap.update_masks(trained, 0.5)
    (before,) = [its for its in tfap.prunable_layers(trained) if its.layer.name == "attention"]
    kept = before.mask["_output_dense.kernel"].numpy().any(axis=(1, 2))
    assert 0 < kept.sum() < 4
    smaller = compacted(trained, 0.5, options)
    (after,) = [its for its in tfap.prunable_layers(smaller) if its.layer.name == "attention"]
    assert after.layer.get_config()["num_heads"] == kept.sum()
    assert after.counted().counts.tolist() == before.counted().counts[kept].tolist()
    assert smaller.get_layer("hidden").layer.units < 16
    expected = outputs(trained, x)
    assert np.abs(outputs(smaller, x) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["head", "unit"])
def test_fit_and_compact(keras_module, granularity):
    options = {"granularity": granularity, "stages": 2, "epochs": 4, "verbose": 0, "target": "neurons"}
    fit = tfap.fit_and_compact(transformer(keras_module), 0.5, *data(), **options)
    assert sizes(fit.model) == (2, 16 if granularity == "head" else 8)
    assert fit.history["weights"][-1] < fit.history["weights"][0]


@pytest.mark.slow
def test_silent_neurons_go_next_to_heads(keras_module):
    options = {"granularity": "unit", "stages": 2, "epochs": 2, "verbose": 0, "drop_silent": True}
    fit = tfap.fit_and_compact(transformer(keras_module), 0.25, *data(), **options)
    assert sizes(fit.model)[0] <= 4


@pytest.mark.slow
def test_a_budget_of_a_training(keras_module):
    model = transformer(keras_module)
    options = {"granularity": "unit", "stages": 1, "epochs": 2, "verbose": 0, "criterion": "magnitude"}
    fit = tfap.fit_and_compact(model, {"weights": 0.6}, *data(), **options)
    assert fit.budget.meets and fit.model.count_params() <= 0.6 * model.count_params()
    assert sizes(fit.model)[0] < 4


# -- budgets of time -------------------------------------------------------------------------------


def milliseconds(model):
    """A clock in which every weight of a kernel costs time."""
    return 0.01 + sum(1e-3 * array.size for array in model.get_weights() if array.ndim > 1)


@pytest.fixture
def clock(monkeypatch, tmp_path):
    monkeypatch.setenv(latency_table.CACHE_VARIABLE, str(tmp_path))

    class Meter:
        def __init__(self, model, budget):
            self._model = model

        def own(self):
            return milliseconds(self._model)

        def of(self, model):
            return milliseconds(model)

    monkeypatch.setattr(meters, "LatencyMeter", Meter)
    monkeypatch.setattr(LatencyTable, "_measured", lambda table, model: milliseconds(model))


def test_the_time_of_an_attention_layer_falls_with_its_heads(keras_module, clock):
    model = transformer(keras_module, heads=8)
    liveness = Liveness(model)
    cost = latency_cost.latency_cost(model, liveness, Budget.of({"speedup": 2.0}))
    heads, kept = liveness.channels.heads("attention"), np.ones(liveness.channels.size, bool)
    whole = cost.of(kept)
    for count in (4, 2):
        kept[heads] = np.arange(8) < count
        # four kernels of 8 x 3 weights per head, and a bias of 3 per head of the query, key and value
        assert whole - cost.of(kept) == pytest.approx(1e-3 * (8 - count) * (4 * 8 * 3 + 3 * 3), rel=1e-6)


def test_a_budget_of_time_removes_heads(keras_module, clock):
    model = transformer(keras_module)
    options = {"criterion": "magnitude", "return_report": True}
    small, report = tfap.prune_once(model, data()[0], {"speedup": 1.5}, granularity="unit", **options)
    assert milliseconds(model) / milliseconds(small) >= 1.5 * 0.98
    assert sizes(small)[0] < 4 and report.budget.meets


def test_cross_attention_is_measured_on_both_inputs(keras_module, clock):
    layers = keras_module.layers
    left, right = keras_module.Input((5, 8)), keras_module.Input((7, 6))
    x = layers.MultiHeadAttention(4, 3, name="attention")(left, right)
    model = keras_module.Model([left, right], layers.Dense(2, name="output")(x))
    liveness = Liveness(model)
    cost = latency_cost.latency_cost(model, liveness, Budget.of({"speedup": 2.0}))
    kept = np.ones(liveness.channels.size, bool)
    whole = cost.of(kept)
    kept[liveness.channels.heads("attention")[2:]] = False
    assert cost.of(kept) < whole
