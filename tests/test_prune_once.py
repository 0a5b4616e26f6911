"""Pruning a trained model once, without training."""

import keras
import nets
import numpy as np
import pytest

import tfap
from tfap.activations.counting import count_activations
from tfap.activations.measure import measure_activations

pytestmark = pytest.mark.one_keras

CRITERIA = ("reconstruction", "magnitude", "lamp", "lookahead", "activation_count", "fpgm", "wanda")


def inputs_for(model, samples=200, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, *model.inputs[0].shape[1:])).astype("float32")


def outputs(model, x):
    return np.asarray(model(x, training=False))


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


def apart(model, other, x):
    expected = outputs(model, x)
    return np.abs(outputs(other, x) - expected).mean() / np.abs(expected - expected.mean(axis=0)).mean()


def logits(keras_module, sizes=(12, 40, 30, 4)):
    """Without softmax, whose outputs say little about errors."""
    model = nets.mlp(keras_module, sizes)
    return keras_module.Model(model.inputs[0], model.layers[-1].input)


@pytest.mark.smoke
def test_a_smaller_plain_model_and_the_given_one_is_unchanged(keras_module):
    model = nets.cnn(keras_module)
    before = weights_of(model)
    small, report = tfap.prune_once(model, inputs_for(model), 0.4, return_report=True)
    assert type(small) is type(model) and small.optimizer is not None
    assert all(np.array_equal(now, then) for now, then in zip(weights_of(model), before))
    assert report.weights == (model.count_params(), small.count_params())
    assert report.weights[1] < report.weights[0] and report.flops[1] < report.flops[0]
    assert not any(hasattr(layer, "mask") for layer in small.layers)
    x, y = nets.data(small)
    small.fit(x, y, verbose=0)


def test_the_model_alone_is_returned_by_default(keras_module):
    model = nets.mlp(keras_module)
    small = tfap.prune_once(model, inputs_for(model), 0.3)
    assert tfap.compaction_report(model, small).weights[1] < model.count_params()
    assert "neither constant nor unused, as with drop_silent=True or tfap.prune_once" in str(
        tfap.compaction_report(model, small)
    )
    assert len(tfap.report({"dense": model, "small": small}, seconds=0.05)) == 2


@pytest.mark.parametrize("compensate", [True, False, "mean"])
def test_sparsity_zero_changes_nothing(keras_module, compensate):
    model = nets.cnn(keras_module)
    x = inputs_for(model)
    small, report = tfap.prune_once(
        model, x, 0.0, compensate=compensate, recalibrate=False, return_report=True
    )
    assert not report.layers
    assert np.array_equal(outputs(model, x), outputs(small, x))


def test_the_refit_beats_the_mean_which_beats_nothing(keras_module):
    """On inputs that were not used, with biases that make the mean matter."""
    model = logits(keras_module)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, bias + 0.5])
    x = inputs_for(model, 2000)
    errors = {
        compensate: apart(
            model,
            tfap.prune_once(model, x, 0.5, criterion="magnitude", scope="local", compensate=compensate),
            inputs_for(model, seed=1),
        )
        for compensate in (True, "mean", False)
    }
    assert errors[True] < 0.8 * errors["mean"] and errors["mean"] < 0.9 * errors[False]


def test_reconstruction_chooses_better_than_chance(keras_module):
    model = logits(keras_module)
    x = inputs_for(model, 1000)

    class Random(tfap.Criterion):
        def scores(self, kernel):
            return np.random.default_rng(0).random(kernel.weights.shape)

    errors = [
        apart(model, tfap.prune_once(model, x, 0.5, criterion=criterion, scope="local"), x)
        for criterion in ("reconstruction", Random())
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("target", ["weights", "flops", "neurons"])
def test_as_much_is_removed_as_asked_for(keras_module, scope, target):
    """Whole channels of a tiny model, two layers of which are coupled; biases are not counted."""
    model = nets.cnn(keras_module)
    small, report = tfap.prune_once(
        model, inputs_for(model), 0.5, "magnitude", target, scope, return_report=True
    )
    sizes = {"weights": report.weights, "flops": report.flops}
    configs = [small.get_layer(name).get_config() for name in ("conv_a", "conv_b", "dense")]
    sizes["neurons"] = 22, sum(config.get("filters", config.get("units")) for config in configs)
    before, after = sizes[target]
    assert 0.3 < 1 - after / before < 0.55


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion(keras_module, criterion):
    model = nets.cnn(keras_module)
    small = tfap.prune_once(model, inputs_for(model), 0.3, criterion)
    assert small.count_params() < model.count_params()


def test_gradients_take_labels(keras_module):
    model = nets.mlp(keras_module)
    x, y = nets.data(model)
    small = tfap.prune_once(model, (x, y), 0.3, "gradient")
    assert small.count_params() < model.count_params()
    with pytest.raises(ValueError, match=r"Gradient\(\) needs gradients, and so data with labels"):
        tfap.prune_once(model, x, 0.3, "gradient")


@pytest.mark.parametrize("side, statistic", [("output", "count"), ("output", "sum"), ("input", "count")])
def test_other_counts(keras_module, side, statistic):
    model = nets.cnn(keras_module)
    criterion = tfap.ActivationCount(side=side, statistic=statistic)
    assert tfap.prune_once(model, inputs_for(model), 0.3, criterion).count_params() < model.count_params()


@pytest.mark.smoke
def test_counts_are_those_of_measure_activations(keras_module):
    for model in (nets.cnn(keras_module), nets.nested(keras_module)):
        x = inputs_for(model)
        expected = measure_activations(model, x)
        found = count_activations(model, [x[:150], x[150:]])
        assert found.keys() == expected.keys()
        for path, counts in found.items():
            assert np.array_equal(counts.counts, expected[path].counts)
            assert counts.seen == expected[path].seen


def test_labels_are_ignored_and_data_may_be_batches(keras_module):
    model = nets.mlp(keras_module)
    x = inputs_for(model, 64)
    results = [
        tfap.prune_once(model, data, 0.4)
        for data in (x, (x, np.zeros(64)), [x], iter([(x[:32], None), (x[32:], None)]))
    ]
    for other in results[1:]:
        for mine, others in zip(results[0].get_weights(), other.get_weights()):
            np.testing.assert_allclose(mine, others, rtol=1e-4, atol=1e-5)


def test_only_the_first_samples_are_used(keras_module):
    model = nets.mlp(keras_module)
    x = inputs_for(model, 100)
    changed = np.concatenate([x[:70], x[70:] + 100])
    both = [tfap.prune_once(model, data, 0.4, samples=70) for data in (x, changed)]
    assert all(map(np.array_equal, *(model.get_weights() for model in both)))


def test_skipped_layers_keep_their_units(keras_module):
    model = nets.mlp(keras_module)
    small, report = tfap.prune_once(model, inputs_for(model), 0.3, skip=["hidden_0"], return_report=True)
    assert small.get_layer("hidden_0").units == 16 and small.get_layer("hidden_1").units < 8
    assert ("hidden_0", "it is named in skip") in report.unpruned


def test_several_inputs_and_outputs(keras_module):
    layers = keras_module.layers
    a, b = keras_module.Input((5,), name="a"), keras_module.Input((4,), name="b")
    shared = layers.Dense(12, activation="relu", name="shared")
    left, right = shared(a), shared(layers.Dense(5)(b))
    joined = layers.Dense(10, activation="relu")(layers.Concatenate()([left, right]))
    model = keras_module.Model({"a": a, "b": b}, [layers.Dense(2)(joined), layers.Dense(3)(left)])
    generator = np.random.default_rng(0)
    data = {"b": generator.normal(size=(90, 4)), "a": generator.normal(size=(90, 5))}
    small, report = tfap.prune_once(model, data, 0.4, return_report=True)
    assert small.count_params() < model.count_params()
    assert len(report.layers) == 3


def test_convolutions_without_a_bias_keep_their_mean_in_the_normalization(keras_module):
    """The mean of what is removed goes into the moving mean of the BatchNormalization that follows."""
    layers = keras_module.layers
    inputs = keras_module.Input((6, 6, 2))
    x = layers.Conv2D(8, 1, name="first")(inputs)
    x = layers.Activation("sigmoid")(x)
    x = layers.Conv2D(5, 1, use_bias=False, name="second")(x)
    model = keras_module.Model(inputs, layers.BatchNormalization(name="norm")(x))
    x = inputs_for(model)
    small = tfap.prune_once(model, x, 0.5, compensate="mean", recalibrate=False)
    assert small.get_layer("first").filters < 8
    means = [outputs(each, x).mean(axis=(0, 1, 2)) for each in (model, small)]
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-5)


# -- the report ---------------------------------------------------------------------------------------


def test_neurons_of_a_layer_that_is_all_dead_go_first(keras_module):
    model = nets.mlp(keras_module, (12, 16, 8, 4))
    dead = model.get_layer("hidden_1")
    dead.set_weights([dead.get_weights()[0], np.full(8, -100.0)])
    x = inputs_for(model)
    small = tfap.prune_once(model, x, 0.45, scope="global", recalibrate=False)
    assert small.get_layer("hidden_1").units == 1
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-6)


def test_the_report_tells(keras_module):
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    small, report = tfap.prune_once(model, inputs_for(model), 0.5, scope="local", return_report=True)
    assert [layer.path for layer in report.layers] == ["hidden_1", "output"]
    first, last = report.layers
    assert first.inputs == (40, small.get_layer("hidden_0").units)
    assert first.units == (30, last.inputs[1]) and last.units == (4, 4)
    assert 0 < first.error_after < first.error_before
    assert first.rows == 200 and first.fitted_units == 40
    as_dict = report.to_dict()
    assert as_dict["layers"][0]["path"] == "hidden_1" and as_dict["samples"] == 200
    printed = str(report)
    assert "hidden_1" in printed and f"{small.count_params():,} after" in printed
    assert "Fewer samples than units" not in printed


def test_fewer_samples_than_units_work_and_are_told(keras_module):
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    small, report = tfap.prune_once(model, inputs_for(model, 10), 0.5, scope="local", return_report=True)
    assert np.isfinite(outputs(small, inputs_for(model))).all()
    assert "Fewer samples than units in hidden_1, output: the ridge decides" in str(report)


# -- in fit -------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_reconstruction_in_fit(keras_module):
    model = nets.cnn(keras_module)
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.4, 2), criterion="reconstruction", scope="local")
    x = inputs_for(model)
    nets.fit(wrapped, 2, [tfap.UpdatePruningStep(reconstruction_data=x)])
    small = tfap.compact(tfap.strip_pruning(wrapped))
    assert nets.pruned_weights(wrapped) and small.count_params() < model.count_params()


def test_reconstruction_prunes_repeated_neurons_first(keras_module):
    model = logits(keras_module)
    kernel, bias = model.layers[1].get_weights()
    kernel[:, 20:] = 2 * kernel[:, :20]
    bias[20:] = 2 * bias[:20]
    model.layers[1].set_weights([kernel, bias])
    wrapped = tfap.prune(model, 0.5, "reconstruction", scope="local", include=[model.layers[-1].name])
    tfap.update_masks(wrapped, 0.5, reconstruction_data=inputs_for(model, 500))
    mask = nets.masks(wrapped)["hidden_0"].all(axis=0)
    assert (mask[:20] != mask[20:]).all()  # one of each pair


def test_reconstruction_needs_data(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5, "reconstruction")
    with pytest.raises(ValueError, match=r"Reconstruction\(\) needs inputs to measure on: pass"):
        tfap.update_masks(wrapped, 0.5)
    with pytest.raises(TypeError, match="can be read only once"):
        tfap.update_masks(wrapped, 0.5, reconstruction_data=iter([np.zeros((2, 12))]))
    with pytest.raises(ValueError, match="granularity"):
        tfap.prune(nets.mlp(keras_module), 0.5, "reconstruction", granularity="weight")


# -- bad input ----------------------------------------------------------------------------------------

X = np.zeros((8, 12), "float32")
BAD = {
    "no data, and a criterion": ((None, 0.5), {"criterion": "lamp"}, ValueError, "data is None, so similar"),
    "empty": ((X[:0], 0.5), {}, ValueError, "data is empty"),
    "another shape": ((X[:, :7], 0.5), {}, ValueError, r"does not fit the inputs .*\(8, 7\)"),
    "labels only": ((np.arange(8), 0.5), {}, ValueError, "does not fit the inputs"),
    "NaN": ((X * np.nan, 0.5), {}, ValueError, "data contains NaN or infinity"),
    "text": (("x", 0.5), {}, TypeError, "data must be an array"),
    "sparsity": ((X, 1.0), {}, ValueError, r"sparsity must be in \[0, 1\): received 1.0"),
    "sparsity of a wrong type": ((X, "0.5"), {}, TypeError, "sparsity must be a number"),
    "scope": ((X, 0.5), {"scope": "layerwise"}, ValueError, "scope must be one of"),
    "target": ((X, 0.5), {"target": "bytes"}, ValueError, "target must be one of"),
    "compensate": ((X, 0.5), {"compensate": "all"}, ValueError, "compensate must be one of"),
    "ridge": ((X, 0.5), {"ridge": -1}, ValueError, "ridge must be a number >= 0"),
    "samples": ((X, 0.5), {"samples": 0}, ValueError, "samples must be an integer >= 1"),
    "criterion": ((X, 0.5), {"criterion": "best"}, ValueError, "Unknown criterion 'best'"),
    "AP": ((X, 0.5), {"criterion": "ap"}, ValueError, "does not support granularity='neuron'"),
    "all skipped": (
        (X, 0.5), {"skip": ["hidden_0", "hidden_1"]}, ValueError, "Nothing in the model .* can be removed"
    ),
}  # fmt: skip


@pytest.mark.parametrize("arguments, options, error, message", BAD.values(), ids=BAD)
def test_bad_input(keras_module, arguments, options, error, message):
    with pytest.raises(error, match=message):
        tfap.prune_once(nets.mlp(keras_module), *arguments, **options)


def test_bad_models(keras_module):
    with pytest.raises(TypeError, match="takes a Keras model"):
        tfap.prune_once("model", X, 0.5)
    with pytest.raises(ValueError, match="still has pruning wrappers"):
        tfap.prune_once(tfap.prune(nets.mlp(keras_module), 0.5), X, 0.5)
    model = nets.mlp(keras_module)
    model.layers[0].set_weights([np.full(shape.shape, np.nan) for shape in model.layers[0].get_weights()])
    with pytest.raises(ValueError, match="NaN"):
        tfap.prune_once(model, X + 1, 0.5)


def test_a_criterion_that_chooses_masks_itself(keras_module):
    class Own(tfap.Magnitude):
        def new_masks(self, scored, sparsity, pattern):
            return super().new_masks(scored, sparsity, pattern)

    with pytest.raises(ValueError, match="chooses masks itself"):
        tfap.prune_once(nets.mlp(keras_module), X + 1, 0.5, Own())


def test_the_layers_are_those_of_the_given_keras():
    assert isinstance(tfap.prune_once(nets.mlp(keras), X + 1, 0.2), keras.Sequential)
