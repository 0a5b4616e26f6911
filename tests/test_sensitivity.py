"""What pruning each coupled set of channels alone does."""

import csv
import json

import nets
import numpy as np
import pytest

import tfap
from tfap.compaction.sensitivity_table import Sensitivity

pytestmark = pytest.mark.one_keras


def inputs_for(model, samples=96, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, *model.inputs[0].shape[1:])).astype("float32")


def outputs(model, x):
    return np.asarray(model(x, training=False), np.float64)


def change(model, other, x):
    expected = outputs(model, x)
    difference = np.square(outputs(other, x) - expected).sum()
    return difference / np.square(expected - expected.mean(axis=0)).sum()


def removals(row):
    return {(each.compensate, each.rate): each for each in row.removals}


def test_a_row_is_that_layer_pruned_alone_by_hand(keras_module):
    """Magnitude: the units with the smallest mean weights, whose weights in the next layer become zero."""
    model = nets.mlp(keras_module, (12, 16, 8, 4))
    x = inputs_for(model)
    found = tfap.sensitivity(model, x, rates=(0.25, 0.5), criterion="magnitude", compensate=(False,))
    assert [row.layers for row in found.rows] == [("hidden_0",), ("hidden_1",)]
    by_hand = keras_module.models.clone_model(model)
    for name, following, removed in (("hidden_0", "hidden_1", 4), ("hidden_1", "output", 4)):
        by_hand.set_weights(model.get_weights())
        smallest = np.argsort(np.abs(model.get_layer(name).get_weights()[0]).mean(axis=0))[:removed]
        kernel, bias = by_hand.get_layer(following).get_weights()
        kernel[smallest] = 0
        by_hand.get_layer(following).set_weights([kernel, bias])
        (removal,) = [each for each in found[name].removals if each.removed == removed]
        np.testing.assert_allclose(removal.change, change(model, by_hand, x), rtol=1e-4)


@pytest.mark.parametrize("compensate", [False, True])
def test_a_row_is_what_prune_once_does_to_that_layer_alone(keras_module, compensate):
    model = nets.mlp(keras_module, (12, 16, 8, 4))
    x = inputs_for(model)
    found = tfap.sensitivity(model, x, rates=(0.5,), compensate=(compensate,))
    for name, other in (("hidden_0", "hidden_1"), ("hidden_1", "hidden_0")):
        small = tfap.prune_once(
            model, x, 0.5, target="neurons", skip=[other], compensate=compensate, recalibrate=False
        )
        assert small.get_layer(name).units == found[name].channels // 2
        (removal,) = found[name].removals
        np.testing.assert_allclose(removal.change, change(model, small, x), rtol=1e-3, atol=1e-7)


def test_a_convolution_keeps_its_mean_in_the_normalization_and_gets_it_back(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, use_bias=False, activation="relu", name="first")(inputs)
    x = layers.Conv2D(6, 1, use_bias=False, name="second")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    model = keras_module.Model(inputs, layers.Dense(3, name="output")(layers.Flatten()(x)))
    x, before = inputs_for(model), [np.array(weight) for weight in model.get_weights()]
    found = tfap.sensitivity(model, x, rates=(0.5,), compensate=(True,))
    assert all(map(np.array_equal, before, model.get_weights()))
    small = tfap.prune_once(model, x, 0.5, target="neurons", skip=["second"], recalibrate=False)
    (removal,) = found["first"].removals
    np.testing.assert_allclose(removal.change, change(model, small, x), rtol=1e-3)


def test_coupled_layers_are_one_row(keras_module):
    model = nets.cnn(keras_module)
    found = tfap.sensitivity(model, inputs_for(model), rates=(0.5,))
    assert [row.layers for row in found.rows] == [("conv_a", "conv_b", "depthwise"), ("dense",)]
    assert found["conv_a"] is found["conv_b"] and found["conv_a"].channels == 6
    assert "conv_a" in str(found) and "+ conv_b" in str(found)
    with pytest.raises(KeyError, match="'output' is in no row: the rows are conv_a"):
        found["output"]


def test_the_refit_helps_and_more_channels_change_more(keras_module):
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    found = tfap.sensitivity(model, inputs_for(model, 300), rates=(0.2, 0.5, 0.8))
    for row in found.rows:
        by = removals(row)
        for rate in found.rates:
            assert by[True, rate].change < by[False, rate].change
        assert by[True, 0.2].change < by[True, 0.8].change


def test_labels_give_the_accuracy(keras_module):
    model = nets.mlp(keras_module)
    x, y = nets.data(model, 128)
    found = tfap.sensitivity(model, (x, y), rates=(0.5,))
    assert found.metric == "accuracy"
    assert found.score == np.mean(outputs(model, x).argmax(axis=-1) == y)
    assert all(0 <= each.score <= 1 for row in found.rows for each in row.removals)
    others = inputs_for(model, 40, seed=1), np.zeros(40, int)
    by_validation = tfap.sensitivity(model, x, rates=(0.5,), validation=others)
    assert by_validation.samples == 40
    assert by_validation.score == np.mean(outputs(model, others[0]).argmax(axis=-1) == 0)


def test_a_metric_of_ones_own(keras_module):
    model = nets.nested(keras_module)
    x, y = nets.data(model, 64)

    def closeness(y, outputs):
        return -float(np.abs(y - outputs).mean())

    found = tfap.sensitivity(model, (x, y), rates=(0.5,), metric=closeness, compensate=(True,))
    assert found.metric == "closeness"
    np.testing.assert_allclose(found.score, -np.abs(y - outputs(model, x)).mean(), rtol=1e-5)
    assert any("middle/inner/dense" in row.layers for row in found.rows)


def test_every_layer_keeps_a_channel(keras_module):
    model = nets.mlp(keras_module, (12, 3, 2, 4))
    found = tfap.sensitivity(model, inputs_for(model), rates=(0.1, 0.99))
    assert [each.removed for each in found["hidden_0"].of(True)] == [0, 2]
    assert [each.removed for each in found["hidden_1"].of(True)] == [0, 1]
    assert found["hidden_0"].of(True)[0].change == 0


@pytest.mark.parametrize("criterion", ["magnitude", "activation_count", "lamp", "gradient"])
def test_criteria(keras_module, criterion):
    model = nets.cnn(keras_module)
    found = tfap.sensitivity(model, nets.data(model, 48), rates=(0.5,), criterion=criterion)
    assert all(np.isfinite(each.change) for row in found.rows for each in row.removals)


# -- the result ---------------------------------------------------------------------------------------


def test_it_is_data(keras_module, tmp_path):
    model = nets.mlp(keras_module)
    found = tfap.sensitivity(model, nets.data(model), rates=(0.25, 0.5))
    assert Sensitivity.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    found.to_csv(tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layers"] for row in rows] == ["hidden_0"] * 4 + ["hidden_1"] * 4
    assert float(rows[0]["change"]) == found["hidden_0"].removals[0].change
    assert rows[-1]["compensate"] == "True" and rows[-1]["removed"] == "4"


def test_the_heat_map(keras_module, tmp_path):
    pytest.importorskip("matplotlib")
    model = nets.mlp(keras_module)
    found = tfap.sensitivity(model, inputs_for(model), rates=(0.25, 0.5))
    figure = found.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
    axes, _ = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hidden_0", "hidden_1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["25%", "50%"]
    shown = np.array(axes.images[0].get_array())
    assert shown[1, 1] == found["hidden_1"].of(True)[1].change
    plain = np.array(found.plot(compensate=False).axes[0].images[0].get_array())
    assert plain[1, 1] == found["hidden_1"].of(False)[1].change
    alone = tfap.sensitivity(model, inputs_for(model), rates=(0.5,), compensate=(False,))
    with pytest.raises(ValueError, match=r"measured with compensate=\(False,\): received compensate=True"):
        alone.plot(compensate=True)


def test_it_resumes(keras_module, tmp_path, monkeypatch):
    model = nets.mlp(keras_module, (12, 16, 10, 8, 4))
    x = inputs_for(model)
    expected = tfap.sensitivity(model, x, rates=(0.5,))
    from tfap.compaction.output_change import OutputChange

    measure, calls = OutputChange.measure, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self)

    monkeypatch.setattr(OutputChange, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tfap.sensitivity(model, x, rates=(0.5,), directory=tmp_path / "rows")
    made = sorted(path.name for path in (tmp_path / "rows").iterdir())
    assert made == ["row-000.json", "settings.json"]
    resumed = tfap.sensitivity(model, x, rates=(0.5,), directory=tmp_path / "rows")
    assert resumed == expected and len(calls) == 8
    assert tfap.sensitivity(model, x, rates=(0.5,), directory=tmp_path / "rows") == expected
    assert len(calls) == 8  # nothing was measured again


def test_a_folder_of_another_call_is_an_error(keras_module, tmp_path):
    model = nets.mlp(keras_module)
    x = inputs_for(model)
    tfap.sensitivity(model, x, rates=(0.5,), directory=tmp_path)
    with pytest.raises(ValueError, match=r"other settings .* There: rates=\[0.5\]; now: rates=\[0.25\]"):
        tfap.sensitivity(model, x, rates=(0.25,), directory=tmp_path)
    with pytest.raises(ValueError, match="There: weights="):
        tfap.sensitivity(nets.mlp(keras_module), x, rates=(0.5,), directory=tmp_path)
    with pytest.raises(NotADirectoryError, match="is not a directory"):
        tfap.sensitivity(model, x, rates=(0.5,), directory=tmp_path / "settings.json")
    (tmp_path / "row-001.json").write_text("{")
    with pytest.raises(ValueError, match=r"row-001.json' was not written by tfap.sensitivity"):
        tfap.sensitivity(model, x, rates=(0.5,), directory=tmp_path)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"rates": ()}, TypeError, "rates must be a tuple of floats in"),
        ({"rates": 0.5}, TypeError, "rates must be a tuple of floats in"),
        ({"rates": (0.5, 1.0)}, ValueError, r"rates must be in \(0, 1\)"),
        ({"rates": ("a",)}, TypeError, "rates must be a number"),
        ({"compensate": "yes"}, TypeError, "compensate must be a tuple of booleans"),
        ({"compensate": ("mean",)}, TypeError, "compensate must be one of"),
        ({"metric": 3}, TypeError, "metric must be a function"),
        ({"metric": max}, ValueError, "A metric needs labels"),
        ({"samples": 0}, ValueError, "samples must be an integer >= 1"),
        ({"ridge": -1}, ValueError, "ridge must be a number >= 0"),
        ({"criterion": "nothing"}, ValueError, "nothing"),
        ({"validation": 3}, TypeError, r"data must be \(x, y\)"),
        ({"skip": "nowhere"}, ValueError, "nowhere"),
        ({"skip": ["hidden_0", "hidden_1"]}, ValueError, "Nothing in the model"),
    ],
)
def test_errors(keras_module, arguments, error, message):
    model = nets.mlp(keras_module)
    with pytest.raises(error, match=message):
        tfap.sensitivity(model, inputs_for(model), **arguments)


def test_labels_that_do_not_fit(keras_module):
    model = nets.mlp(keras_module)
    with pytest.raises(ValueError, match="Labels of shape"):
        tfap.sensitivity(model, (inputs_for(model), np.zeros((96, 3))))
    with pytest.raises(TypeError, match=r"tfap\.sensitivity"):
        tfap.sensitivity(None, inputs_for(model))
