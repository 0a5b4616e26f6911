"""Removing whole branches of sums, such as those of residual blocks."""

import importlib

import numpy as np
import pytest

import tfap

pytestmark = pytest.mark.one_keras


def functions(keras_module):
    name = "tensorflow" if keras_module.__name__ == "tf_keras" else "keras.ops"
    return importlib.import_module(name)


def residual(keras_module, add=None, blocks=3, projected=False):
    """Blocks of two convolutions and a BatchNormalization that are added to their shortcut."""
    layers = keras_module.layers
    inputs = keras_module.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    for number in range(blocks):
        branch = layers.Conv2D(5, 3, padding="same", activation="relu", name=f"inner_{number}")(x)
        branch = layers.Conv2D(4, 3, padding="same", name=f"block_{number}")(branch)
        branch = layers.BatchNormalization(name=f"norm_{number}")(branch)
        add_them = add or layers.Add(name=f"add_{number}")
        x = add_them([x, branch]) if add is None else add(x, branch)
    outputs = layers.Dense(3, name="output")(layers.GlobalAveragePooling2D()(x))
    model = keras_module.Model(inputs, outputs)
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(-0.4, 0.6, size=w.shape) ** 2 for w in model.get_weights()])
    return model


def images():
    return np.random.default_rng(1).normal(size=(4, 6, 6, 3)).astype("float32")


def outputs(model, x=None):
    return np.asarray(model(images() if x is None else x, training=False))


def without_norm(model, number):
    """The branch adds zeros."""
    gamma, beta, mean, variance = model.get_layer(f"norm_{number}").get_weights()
    model.get_layer(f"norm_{number}").set_weights([0 * gamma, 0 * beta, mean, variance])


def names(model):
    return {layer.name for layer in model.layers}


@pytest.mark.parametrize("how", ["layer", "function", "operator"])
def test_a_branch_goes_with_all_that_only_it_needs(keras_module, how):
    add = {"layer": None, "function": functions(keras_module).add, "operator": lambda x, y: x + y}[how]
    model = residual(keras_module, add)
    model.compile("sgd", "mse")
    small = tfap.remove(model, {"block_1": "all"})
    assert names(model) - names(small) >= {"inner_1", "block_1", "norm_1"}
    assert {"inner_0", "block_2"} <= names(small) and small.optimizer is not None
    without_norm(model, 1)
    np.testing.assert_allclose(outputs(small), outputs(model), rtol=1e-5)
    small = tfap.remove(small, {"block_0": "all", "block_2": "all"})
    without_norm(model, 0)
    without_norm(model, 2)
    np.testing.assert_allclose(outputs(small), outputs(model), rtol=1e-5)


def test_a_branch_and_channels_at_once(keras_module, tmp_path):
    model = residual(keras_module)
    small = tfap.remove(model, {"block_1": "all", "inner_2": [0, 1], "stem": [3]})
    assert small.get_layer("inner_2").filters == 3 and small.get_layer("block_2").filters == 3
    assert "block_1" not in names(small)
    small.save(tmp_path / "small.keras")
    loaded = keras_module.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(loaded), outputs(small), rtol=1e-5)
    with pytest.raises(ValueError, match="'inner_1', which is not in the model"):
        tfap.remove(model, {"block_1": "all", "inner_1": [0]})


def test_one_of_three_branches(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((4,))
    branches = [layers.Dense(5, name=f"branch_{number}")(inputs) for number in range(3)]
    model = keras_module.Model(inputs, layers.Dense(2)(layers.Add(name="sum")(branches)))
    x = np.ones((2, 4), "float32")
    small = tfap.remove(model, {"branch_1": "all"})
    assert "branch_1" not in names(small) and "sum" in names(small)
    model.get_layer("branch_1").set_weights([np.zeros((4, 5)), np.zeros(5)])
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), rtol=1e-5)
    with pytest.raises(ValueError, match="All inputs of the sum 'sum' would be removed"):
        tfap.remove(model, dict.fromkeys(("branch_0", "branch_1", "branch_2"), "all"))


def test_a_nested_model_is_a_branch(keras_module):
    layers = keras_module.layers
    inner = keras_module.Input((5,))
    block = keras_module.Model(inner, layers.Dense(5)(layers.Dense(7, "relu")(inner)), name="block")
    inputs = keras_module.Input((4,))
    x = layers.Dense(5, name="first")(inputs)
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(layers.Add()([block(x), x])))
    small = tfap.remove(model, {"block": "all"})
    assert "block" not in names(small)
    x = np.ones((2, 4), "float32")
    expected = outputs(
        keras_module.Model(inputs, model.get_layer("output")(model.get_layer("first").output)), x
    )
    np.testing.assert_allclose(outputs(small, x), expected, rtol=1e-5)


def test_a_shared_sum(keras_module):
    """The Add is called twice; only its second call loses a branch."""
    layers = keras_module.layers
    inputs, add = keras_module.Input((4,)), layers.Add(name="sum")
    x = add([inputs, layers.Dense(4, name="first")(inputs)])
    x = add([layers.Dense(4, name="second")(x), x])
    model = keras_module.Model(inputs, layers.Dense(2)(x))
    small = tfap.remove(model, {"second": "all"})
    assert "second" not in names(small) and "first" in names(small)
    model.get_layer("second").set_weights([np.zeros((4, 4)), np.zeros(4)])
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), rtol=1e-5)


def other_shape(keras_module):
    """The shortcut is broadcast: the sum has another shape."""
    layers = keras_module.layers
    inputs = keras_module.Input((5, 4))
    x = layers.Add(name="sum")([layers.Dense(1, name="gate")(inputs), layers.Dense(4, name="branch")(inputs)])
    return keras_module.Model(inputs, layers.Dense(2, name="output")(layers.Flatten()(x)))


@pytest.mark.parametrize(
    "make, named, message",
    [
        (residual, {"inner_1": "all"}, "'block_1' consumes its output before a sum"),
        (residual, {"stem": "all"}, "its output is consumed by 'inner_0', 'add_0', expected one sum"),
        (residual, {"output": "all"}, "its output is an output of the model"),
        (residual, {"block_7": "all"}, "'block_7', which is not in the model. It has"),
        (
            other_shape,
            {"branch": "all"},
            r"The sum 'sum' has the shape \(None, 5, 4\), but what would be left",
        ),
    ],
)
def test_errors(keras_module, make, named, message):
    with pytest.raises(ValueError, match=message):
        tfap.remove(make(keras_module), named)


def test_other_words(keras_module):
    with pytest.raises(TypeError, match=r"neurons\['stem'\] must be integers, a boolean array or \"all\""):
        tfap.remove(residual(keras_module), {"stem": "every"})
