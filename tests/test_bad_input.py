"""Every misuse is a clear error before training starts, and loses nothing."""

import re

import nets
import numpy as np
import pytest

import tfap


def linear(keras):
    layers = keras.layers
    return keras.Sequential([layers.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")])


CASES = {
    "sparsity 1": (dict(pruning_schedule=1.0), ValueError, r"must be in \[0, 1\): received 1.0"),
    "sparsity 80": (dict(pruning_schedule=80), ValueError, r"Write 0.9 to prune 90%"),
    "sparsity -0.1": (dict(pruning_schedule=-0.1), ValueError, r"must be in \[0, 1\)"),
    "sparsity NaN": (dict(pruning_schedule=float("nan")), ValueError, r"must be in \[0, 1\)"),
    "schedule text": (
        dict(pruning_schedule="cubic"),
        TypeError,
        "must be a PruningSchedule.*received 'cubic'",
    ),
    "schedule bool": (dict(pruning_schedule=True), TypeError, "must be a PruningSchedule.*received True"),
    "schedule class": (dict(pruning_schedule=tfap.PolynomialDecay), TypeError, "must be a PruningSchedule"),
    "criterion name": (
        dict(criterion="magnitud"),
        ValueError,
        "Unknown criterion 'magnitud'. Known: activation_c",
    ),
    "criterion class": (dict(criterion=tfap.Magnitude), TypeError, "must be a tfap.Criterion"),
    "scope": (dict(scope="layer"), ValueError, "scope must be one of .*global.*: received 'layer'"),
    "granularity": (dict(granularity="block"), ValueError, "granularity must be one of .*received 'block'"),
    "unknown name": (
        dict(skip=["hiden_0"]),
        ValueError,
        "skip names the layer 'hiden_0'.*Its layers are: hidden_0",
    ),
    "name of a wrong type": (
        dict(include=[3]),
        TypeError,
        "include takes layer names, layers and predicates",
    ),
    "unknown argument": (dict(block_size=(1, 1)), TypeError, "unexpected keyword argument 'block_size'"),
    "floor": (dict(min_weights_per_layer=-1), ValueError, "min_weights_per_layer must be at least 0"),
    "floor type": (dict(min_weights_per_layer=0.5), TypeError, "must be a whole number"),
    "sampling": (dict(sample_every=0), ValueError, "sample_every must be at least 1"),
    "all skipped": (
        dict(skip=lambda layer: True),
        ValueError,
        "nothing to prune in the model(.|\n)*named in skip",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_arguments(keras_module, case):
    arguments, error, message = CASES[case]
    model = nets.mlp(keras_module)
    before = model.get_weights()
    with pytest.raises(error, match=message):
        tfap.prune(model, **{"pruning_schedule": 0.5, **arguments})
    for ours, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)


def test_no_prunable_layer_left(keras_module):
    with pytest.raises(ValueError, match="nothing to prune(.|\n)*no activation follows"):
        tfap.prune(linear(keras_module), 0.5)


def test_a_model_that_is_not_built(keras_module):
    model = keras_module.Sequential([keras_module.layers.Dense(4, activation="relu")])
    with pytest.raises(ValueError, match="is not built.*give it an Input layer"):
        tfap.prune(model, 0.5)


def test_a_subclassed_model(keras_module):
    model = nets.subclassed(keras_module, keras_module.layers.Dense(4))
    for function in (lambda m: tfap.prune(m, 0.5), tfap.plan):
        with pytest.raises(ValueError, match=re.escape("self.dense = tfap.prune(keras.layers.Dense")):
            function(model)
    with pytest.raises(ValueError, match=re.escape("net.dense = tfap.strip_pruning(net.dense)")):
        tfap.strip_pruning(model)


def test_wrapped_already(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5)
    with pytest.raises(ValueError, match="wrapped for pruning already.*hidden_0, hidden_1.*strip_pruning"):
        tfap.prune(wrapped, 0.5)
    with pytest.raises(ValueError, match="'hidden_0' cannot be pruned: it is wrapped"):
        tfap.prune(wrapped.get_layer("hidden_0"), 0.5)


@pytest.mark.parametrize("thing", [None, 3, "model", np.ones(3), [3]], ids=str)
def test_no_model_no_layer(thing):
    with pytest.raises(TypeError, match="Keras"):
        tfap.prune(thing, 0.5)


def test_a_layer_alone(keras_module):
    layers = keras_module.layers
    with pytest.raises(ValueError, match="'d' cannot be pruned: it has no activation of its own"):
        tfap.prune(layers.Dense(3, name="d"), 0.5)
    with pytest.raises(ValueError, match="'norm' cannot be pruned: BatchNormalization layers have no kernel"):
        tfap.prune(layers.BatchNormalization(name="norm"), 0.5)
    with pytest.raises(ValueError, match="None of the 1 layers can be pruned: 'drop'"):
        tfap.prune([layers.Dropout(0.5, name="drop")], 0.5)
    with pytest.raises(ValueError, match="include and skip choose among the layers of a model"):
        tfap.prune(layers.Dense(3, activation="relu"), 0.5, skip=["dense"])
    with pytest.raises(TypeError, match="Expected a Keras layer"):
        tfap.layers.PruneByActivation("dense", 0.5)


def test_update_masks(keras_module):
    model = nets.mlp(keras_module)
    with pytest.raises(ValueError, match="has no pruning wrappers: call tfap.prune first"):
        tfap.update_masks(model, 0.5)
    wrapped = tfap.prune(model, 0.5)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\): received 1"):
        tfap.update_masks(wrapped, 1)
    with pytest.raises(ValueError, match="No activations of 'hidden_0' have been counted yet"):
        tfap.update_masks(wrapped, 0.5)
    assert nets.pruned_weights(wrapped) == 0


def test_scores_that_are_not_finite(keras_module):
    class Broken(tfap.Criterion):
        def scores(self, kernel):
            return np.full(kernel.weights.shape, np.nan)

    wrapped = tfap.prune(nets.mlp(keras_module), 0.5, Broken())
    with pytest.raises(ValueError, match="Broken gave scores for 'hidden_0' that are not finite"):
        tfap.update_masks(wrapped, 0.5)
    assert nets.pruned_weights(wrapped) == 0


def test_a_callback_without_wrappers(keras_module):
    with pytest.raises(ValueError, match="has no pruning wrappers: call tfap.prune"):
        nets.fit(nets.mlp(keras_module))
    with pytest.raises(ValueError, match="total_steps must be a whole number"):
        tfap.UpdatePruningStep(total_steps=0)


def test_criterion_side():
    with pytest.raises(ValueError, match="side must be"):
        tfap.ActivationCount(side="both")


def test_compact_and_export_want_a_plain_model(keras_module, tmp_path):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5)
    for function in (tfap.compact, lambda model: tfap.export(model, tmp_path)):
        with pytest.raises(ValueError, match=re.escape("call strip_pruning() first")):
            function(wrapped)
    with pytest.raises(ValueError, match="Unknown format 'pickle'. Known: saved_model, keras"):
        tfap.export(wrapped, tmp_path, format="pickle")
    with pytest.raises(ValueError, match="must end in .keras"):
        tfap.export(nets.mlp(keras_module), tmp_path, format="keras")
    assert not list(tmp_path.iterdir())


def test_another_keras_backend(keras_module, monkeypatch):
    """tf_keras models go on working whatever the backend of Keras 3 is."""
    import keras

    model = nets.mlp(keras_module)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    if keras_module is keras:
        with pytest.raises(ValueError, match="TensorFlow backend; the backend is 'jax'. Set KERAS_BACKEND="):
            tfap.prune(model, 0.5)
    else:
        assert len(tfap.prunable_layers(tfap.prune(model, 0.5))) == 2
