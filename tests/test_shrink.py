"""A model shrunk to a budget in one call."""

import json

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap.shrinking.targets import Targets

pytestmark = pytest.mark.one_keras


def inputs_for(model, samples=96, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, *model.inputs[0].shape[1:])).astype("float32")


def accuracy(model, x, y):
    return np.mean(np.asarray(model(x, training=False)).argmax(axis=-1) == y)


def same_weights(model, other):
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(mine, others) for mine, others in pairs)


def trainer(x, y, calls=None, epochs=1):
    def fit(model):
        if calls is not None:
            calls.append(model)
        model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)

    return fit


# -- without training ---------------------------------------------------------------------------------


@pytest.mark.smoke
def test_without_fit_it_is_prune_once(keras_module):
    model = nets.mlp(keras_module, (12, 24, 16, 4))
    x, before = inputs_for(model), [np.array(weight) for weight in model.get_weights()]
    result = tfap.shrink(model, x, {"weights": 0.5})
    assert all(map(np.array_equal, before, model.get_weights()))
    assert same_weights(result.model, tfap.prune_once(model, x, {"weights": 0.5}, scope="allocated"))
    dense, small = result.stages
    assert (dense.weights, small.weights) == (model.count_params(), result.model.count_params())
    assert small.used == small.weights <= 0.5 * dense.used and result.meets_budget
    assert small.flops == tfap.flops(result.model) and dense.score is None and result.drop is None
    assert dict(small.allocation) and result.chosen == 1
    printed = str(result)
    assert "1, returned" in printed and "The budget of 50.0% of the weights is met" in printed


@pytest.mark.parametrize("scope", ["local", "global"])
def test_other_scopes(keras_module, scope):
    model = nets.cnn(keras_module)
    x = inputs_for(model)
    result = tfap.shrink(model, x, {"flops": 0.5}, scope=scope, criterion="magnitude")
    other = tfap.prune_once(model, x, {"flops": 0.5}, "magnitude", scope=scope)
    assert same_weights(result.model, other) and result.stages[1].allocation is None


@pytest.mark.slow
def test_bytes_are_measured(keras_module):
    pytest.importorskip("ai_edge_litert")
    if keras_module.backend.backend() != "tensorflow":
        pytest.skip("LiteRT files are written on the TensorFlow backend")
    model = nets.mlp(keras_module, (12, 64, 32, 4))
    result = tfap.shrink(model, inputs_for(model), {"bytes": 0.7})
    assert result.meets_budget and result.stages[1].used <= 0.7 * result.stages[0].used
    assert "bytes before" in result.verdict


def test_the_smallest_model_within_max_drop_is_searched_for(keras_module):
    """A metric that tells how far the outputs are, so that the search has something to find."""
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    x = inputs_for(model, 200)
    expected = np.asarray(model(x, training=False))

    def closeness(y, outputs):
        return 1 - float(np.square(outputs - y).sum() / np.square(y - y.mean(axis=0)).sum())

    result = tfap.shrink(
        model, x, {"weights": 0.15}, max_drop=0.1, validation=(x, expected), metric=closeness, stages=5
    )
    assert not result.meets_budget and result.metric == "closeness"
    assert [stage.part for stage in result.stages[:3]] == [0.0, 1.0, 0.5] and len(result.stages) == 6
    for stage in result.stages[1:]:
        assert stage.is_accepted == (1 - stage.score <= 0.1)
    accepted = [stage for stage in result.stages if stage.is_accepted]
    assert result.chosen and result.model.count_params() == min(stage.weights for stage in accepted)
    assert result.drop <= 0.1 and "is not met" in result.verdict and "Smaller models lost more" in str(result)
    outputs = np.asarray(result.model(x, training=False))
    np.testing.assert_allclose(result.stages[result.chosen].score, closeness(expected, outputs), rtol=1e-4)


def test_the_given_model_if_all_lose_too_much(keras_module):
    model = nets.mlp(keras_module)
    x = inputs_for(model)
    y = np.asarray(model(x, training=False)).argmax(axis=-1)  # so that it is always right
    result = tfap.shrink(model, (x, y), {"weights": 0.1}, max_drop=0.0, stages=2)
    assert result.stages[0].score == 1.0
    if result.chosen == 0:
        assert same_weights(result.model, model) and result.model is not model
        assert "No smaller model lost at most 0.00%" in str(result)
    assert len(result.stages) == 3 and not result.stages[1].is_accepted


def test_the_budget_comes_first(keras_module):
    model = nets.mlp(keras_module)
    x, y = nets.data(model)
    result = tfap.shrink(model, (x, y), {"weights": 0.8}, max_drop=1.0, stages=5)
    assert len(result.stages) == 2 and result.meets_budget
    assert "before fit" not in str(result) and f"{result.stages[1].score:.2%}" in str(result)


# -- with training ------------------------------------------------------------------------------------


def test_stages_with_training(keras_module):
    model = nets.cnn(keras_module)
    x, y = nets.data(model, 96)
    calls, before = [], [np.array(weight) for weight in model.get_weights()]
    result = tfap.shrink(model, (x, y), {"weights": 0.4}, trainer(x, y, calls), stages=2)
    assert all(map(np.array_equal, before, model.get_weights()))
    dense, first, second = result.stages
    assert len(calls) == 2 and calls[1] is result.model
    assert 0.4 * dense.weights >= second.weights == result.model.count_params()
    assert second.weights < first.weights <= 0.4**0.5 * dense.weights  # equal ratios
    assert second.score == accuracy(result.model, x, y) and first.pruned_score is not None
    assert result.model.optimizer is not None and type(result.model) is type(model)
    assert "accuracy before fit" in str(result) and f"{second.score:.2%}" in str(result)


def test_it_stops_where_too_much_is_lost(keras_module):
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    x, y = nets.data(model, 96)
    calls = []

    def fit(model):
        calls.append(model)
        if len(calls) == 3:  # spoils it
            model.set_weights([0 * weight for weight in model.get_weights()])

    def spread(y, outputs):
        return float(len(np.unique(outputs.argmax(axis=-1))) > 1)

    result = tfap.shrink(
        model, (x, y), {"weights": 0.3}, fit, max_drop=0.5, metric=spread, stages=4, scope="local"
    )
    assert len(result.stages) == 4 and len(calls) == 3
    assert [stage.is_accepted for stage in result.stages] == [True, True, True, False]
    assert result.chosen == 2 and result.model is calls[1] and not result.meets_budget


def test_skipped_layers_are_kept_in_every_stage(keras_module):
    model = nets.mlp(keras_module, (12, 24, 16, 4))
    x, y = nets.data(model)
    result = tfap.shrink(
        model, x, {"weights": 0.6}, trainer(x, y), stages=2, skip=[model.get_layer("hidden_1")], round_to=2
    )
    assert result.model.get_layer("hidden_1").units == 16
    assert result.model.get_layer("hidden_0").units % 2 == 0


@pytest.mark.parametrize("softmax", [True, False])
def test_a_teacher(keras_module, softmax):
    """The weights of the student change, those of the teacher do not; the loss is a number."""
    if not hasattr(keras_module, "distillation") and keras_module.__name__ == "keras":
        pytest.skip("this Keras has no distillation")
    model = nets.mlp(keras_module)
    if not softmax:
        inner = keras_module.layers.Dense(4, name="logits")(model.layers[-2].output)
        loss = keras_module.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = nets.compiled(keras_module, keras_module.Model(model.inputs, inner), loss)
    x, y = nets.data(model)
    losses, before = [], [np.array(weight) for weight in model.get_weights()]

    def fit(distiller):
        losses.extend(distiller.fit(x, y, epochs=5, batch_size=64, verbose=0).history["loss"])

    untrained = tfap.shrink(model, x, {"weights": 0.7}, lambda model: None, stages=1).model
    result = tfap.shrink(model, x, {"weights": 0.7}, fit, teacher=True, stages=1)
    assert all(map(np.array_equal, before, model.get_weights())) and model.trainable
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert not same_weights(result.model, untrained) and result.model.trainable
    result.model.fit(x, y, verbose=0)


def test_the_loss_with_a_teacher_is_that_of_the_paper(keras_module):
    """At student_weight 0: the divergence at temperature 2, times 4."""
    if not hasattr(keras_module, "distillation") and keras_module.__name__ == "keras":
        pytest.skip("this Keras has no distillation")
    from tfap import keras_compat

    teacher, student = nets.mlp(keras_module), nets.mlp(keras_module)
    x, y = nets.data(student, 32)
    distiller = keras_compat.distiller(teacher, student, 2.0, 0.0)
    p, q = (np.asarray(model(x, training=False), np.float64) for model in (teacher, student))
    p, q = (np.sqrt(each) / np.sqrt(each).sum(axis=-1, keepdims=True) for each in (p, q))
    expected = 4 * np.mean(np.sum(p * np.log(p / q), axis=-1))
    tensor = keras_module.ops.convert_to_tensor if hasattr(keras_module, "ops") else tf.convert_to_tensor
    found = distiller.compute_loss(x, tensor(y), distiller(x))
    np.testing.assert_allclose(float(np.asarray(found)), expected, rtol=1e-3)


# -- resuming -----------------------------------------------------------------------------------------


def with_dropout(keras_module):
    layers = keras_module.layers
    stack = [keras_module.Input((12,)), layers.Dense(20, activation="relu"), layers.BatchNormalization()]
    dropout = [layers.Dropout(0.2)] if keras_module.__name__ == "keras" else []
    stack += [*dropout, layers.Dense(16, activation="relu"), layers.Dense(4, activation="softmax")]
    return nets.compiled(keras_module, keras_module.Sequential(stack))


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_it_resumes_to_the_same_model(keras_module, tmp_path, stop_at):
    model = with_dropout(keras_module)
    x, y = nets.data(model, 96)
    calls = []

    def shrunk(fit, folder):
        options = dict(stages=3, max_drop=1.0, rates=(0.25, 0.5, 0.75), directory=tmp_path / folder)
        return tfap.shrink(model, (x, y), {"weights": 0.3}, fit, **options)

    expected = shrunk(trainer(x, y), "a")

    def interrupted(model):
        calls.append(1)
        trainer(x, y)(model)
        if len(calls) == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shrunk(interrupted, "b")
    keras_module.utils.set_random_seed(stop_at)
    resumed = shrunk(trainer(x, y), "b")
    assert same_weights(resumed.model, expected.model) and resumed.stages == expected.stages
    calls.clear()
    again = shrunk(trainer(x, y, calls), "b")
    assert not calls and same_weights(again.model, expected.model)
    again.model.fit(x, y, verbose=0)


def test_a_search_resumes(keras_module, tmp_path, monkeypatch):
    model = nets.mlp(keras_module, (12, 24, 16, 4))
    x, y = nets.data(model)
    arguments = dict(max_drop=0.0, stages=3, directory=tmp_path / "a", rates=(0.5,))
    first = tfap.shrink(model, (x, y), {"weights": 0.3}, **arguments)
    assert tfap.shrink(model, (x, y), {"weights": 0.3}, **arguments).stages == first.stages
    (tmp_path / "a" / "stage-001.json").unlink()  # as if it had been interrupted before
    assert tfap.shrink(model, (x, y), {"weights": 0.3}, **arguments).stages == first.stages


def test_a_folder_of_another_call_is_an_error(keras_module, tmp_path):
    model = nets.mlp(keras_module)
    x = inputs_for(model)
    tfap.shrink(model, x, {"weights": 0.5}, directory=tmp_path, rates=(0.5,))
    with pytest.raises(ValueError, match="other settings .* There: budget='50.0% of the weights'; now"):
        tfap.shrink(model, x, {"weights": 0.4}, directory=tmp_path, rates=(0.5,))
    with pytest.raises(ValueError, match="There: weights="):
        tfap.shrink(nets.mlp(keras_module), x, {"weights": 0.5}, directory=tmp_path, rates=(0.5,))
    (tmp_path / "stage-001.json").write_text("{}")
    with pytest.raises(ValueError, match=r"stage-001.json is not of tfap.shrink"):
        tfap.shrink(model, x, {"weights": 0.5}, directory=tmp_path, rates=(0.5,))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="has files that are not of tfap.shrink"):
        tfap.shrink(model, x, {"weights": 0.5}, directory=tmp_path / "other")


def test_a_model_that_no_file_holds_is_an_error_before_any_work(keras_module, tmp_path):
    layers = keras_module.layers
    stack = [layers.Dense(8, activation="relu"), layers.Dense(6, activation="relu")]
    stack += [layers.Dense(3), layers.Lambda(lambda x: x * 2)]
    model = keras_module.Sequential([keras_module.Input((6,)), *stack])
    with pytest.raises(ValueError, match=r"cannot be stored in a .keras file and read again"):
        tfap.shrink(model, inputs_for(model), {"weights": 0.5}, directory=tmp_path / "a")


# -- the result ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report(keras_module):
    model = nets.mlp(keras_module)
    x, y = nets.data(model)
    result = tfap.shrink(model, (x, y), {"weights": 0.5}, rates=(0.5,))
    assert [row.name for row in result.report] == ["dense", "small"]
    assert result.report["small"].weights == result.model.count_params()
    assert result.report["small"].score == result.stages[1].score
    assert result.report is result.report


def test_it_is_data(keras_module):
    model = nets.mlp(keras_module)
    result = tfap.shrink(model, nets.data(model), {"weights": 0.5}, rates=(0.5,))
    values = json.loads(json.dumps(result.to_dict()))
    assert values["meets_budget"] and values["stages"][1]["weights"] == result.model.count_params()
    assert values["stages"][1]["allocation"]["fractions"] == dict(result.stages[1].allocation)


def test_targets_are_in_equal_ratios():
    from tfap.budgets.budget import Budget

    targets = Targets.of(Budget("weights", 0.25), 1000.0)
    assert [targets.at(part).amount for part in (0.5, 1.0)] == [500, 250]
    timed = Targets.of(Budget("latency_ms", 2.0), 8.0)
    assert timed.at(0.5).unit == "speedup" and timed.at(0.5).amount == 2.0
    assert timed.at(1.0, reached=2.5).amount == 4.0 / 2.5
    assert timed.at(0.5, reached=3.0).amount == 1.0


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"budget": 0.5}, TypeError, "A budget is a dict"),
        ({"budget": {"weight": 0.5}}, ValueError, "Did you mean 'weights'"),
        ({"budget": {"weights": 5}}, ValueError, "cannot be met: with the fewest channels"),
        ({"fit": 3}, TypeError, "fit must be a function or None: received 3"),
        ({"metric": "mse"}, TypeError, "metric must be a function or None"),
        ({"metric": max}, ValueError, r"metric needs labels: pass validation=\(x, y\)"),
        ({"max_drop": 0.01}, ValueError, r"max_drop needs labels: pass validation=\(x, y\)"),
        ({"max_drop": -0.1}, ValueError, "max_drop must be a number >= 0"),
        ({"max_drop": "1%"}, TypeError, "max_drop must be a number"),
        ({"teacher": True}, ValueError, "teacher=True trains .* but fit is None"),
        ({"teacher": "me"}, TypeError, "teacher must be one of"),
        ({"stages": 0}, ValueError, "stages must be an integer >= 1"),
        ({"stages": 3}, ValueError, "stages are for fit or max_drop: received stages=3"),
        ({"round_to": 0}, ValueError, "round_to must be an integer >= 1"),
        ({"scope": "layerwise"}, ValueError, "scope must be one of"),
        ({"rates": ()}, TypeError, "rates must be a tuple"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"skip": "nowhere"}, ValueError, "nowhere"),
        ({"criterion": "nothing"}, ValueError, "nothing"),
        ({"validation": (np.zeros((4, 12)), np.zeros(3))}, ValueError, "as many labels as samples"),
        ({"ridge": -1}, ValueError, "ridge must be"),
        ({"data": iter([np.zeros((2, 12))])}, ValueError, "data must be re-iterable"),
        ({"data": np.full((4, 12), np.nan)}, ValueError, "NaN or infinity"),
        ({"data": np.zeros((0, 12))}, ValueError, "empty"),
    ],
)
def test_errors_come_before_any_work(keras_module, tmp_path, arguments, error, message):
    model = nets.mlp(keras_module)
    calls = []
    given = {"data": inputs_for(model), "budget": {"weights": 0.5}, **arguments}
    if "fit" not in given and "teacher" not in given and "stages" not in given:
        given["fit"] = calls.append
    with pytest.raises(error, match=message):
        tfap.shrink(model, **given, directory=tmp_path / "a")
    assert not calls and not list(tmp_path.glob("a/stage-*"))


def test_models_that_cannot_be_trained(keras_module):
    model = nets.mlp(keras_module)
    plain = keras_module.Model(model.inputs, model.outputs)
    x = inputs_for(model)
    with pytest.raises(ValueError, match="that is not compiled: call compile"):
        tfap.shrink(plain, x, {"weights": 0.5}, lambda model: None)
    with pytest.raises((TypeError, ValueError), match=r"tfap\.shrink"):
        tfap.shrink(None, x, {"weights": 0.5})
    with pytest.raises(ValueError, match="strip_pruning"):
        tfap.shrink(tfap.prune(model, 0.5), x, {"weights": 0.5})
