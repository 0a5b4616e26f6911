"""Products of tensors that sum over axes, softmax on other axes, sums, and resizing: channels go through."""

import importlib

import numpy as np
import pytest

import tfap
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras


def functions(keras_module):
    name = "tensorflow" if keras_module.__name__ == "tf_keras" else "keras.ops"
    return importlib.import_module(name)


def softmax(keras_module, x, axis):
    return keras_module.activations.softmax(x, axis=axis)


def transposed(keras_module, x):
    return functions(keras_module).transpose(x, (0, 2, 1))


HOW = {
    "matmul": lambda k, q, x: functions(k).matmul(q, transposed(k, x)),
    "operator": lambda k, q, x: q @ transposed(k, x),
    "einsum": lambda k, q, x: functions(k).einsum("btc,bsc->bts", q, x),
    "dot": lambda k, q, x: k.layers.Dot(axes=2)([q, x]),
}
VALUES = {
    "matmul": lambda k, weights, v: functions(k).matmul(weights, v),
    "operator": lambda k, weights, v: weights @ v,
    "einsum": lambda k, weights, v: functions(k).einsum("bts,bsd->btd", weights, v),
    "dot": lambda k, weights, v: k.layers.Dot(axes=(2, 1))([weights, v]),
}


def attention(keras_module, how, bias=False):
    """Attention of a single head, written with functions."""
    layers = keras_module.layers
    inputs = keras_module.Input((5, 4))
    query, key = (layers.Dense(6, use_bias=bias, name=name)(inputs) for name in ("query", "key"))
    value = layers.Dense(7, name="value")(inputs)
    weights = layers.Softmax()(HOW[how](keras_module, query, key))
    x = layers.Dense(3, name="mixed")(VALUES[how](keras_module, weights, value))
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(layers.GlobalMaxPooling1D()(x)))
    return random_weights(model)


def random_weights(model):
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def zero(model, name, index, bias=True):
    weights = model.get_layer(name).get_weights()
    for array in weights[: 2 if bias else 1]:
        array[..., index] = 0
    model.get_layer(name).set_weights(weights)


def not_read(model, name, index):
    weights = model.get_layer(name).get_weights()
    weights[0][index] = 0
    model.get_layer(name).set_weights(weights)


def assert_equal_outputs(model, other):
    shape = (4, *model.input_shape[1:])
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    expected = np.asarray(model(x, training=False))
    assert np.abs(np.asarray(other(x, training=False)) - expected).max() <= 1e-5 * np.abs(expected).max()


def units(model, *names):
    return [model.get_layer(name).units for name in names]


@pytest.mark.parametrize("how", HOW)
def test_channels_of_written_attention(keras_module, how):
    """A channel of queries and keys goes if it is zero in one of them."""
    model = attention(keras_module, how)
    zero(model, "query", [1])
    zero(model, "key", [4])
    zero(model, "value", [2], bias=True)
    not_read(model, "mixed", [5, 6])
    small = tfap.compact(model)
    assert units(small, "query", "key", "value") == [4, 4, 4]
    assert_equal_outputs(model, small)
    assert tfap.compaction_report(model, small).exact


def test_named_and_pruned_channels_of_written_attention(keras_module):
    model = attention(keras_module, "einsum")
    small = tfap.remove(model, {"query": [0, 1], "value": [3]})
    assert units(small, "query", "key", "value") == [4, 4, 6]
    zero(model, "query", [0, 1])
    zero(model, "value", [3])
    assert_equal_outputs(model, small)
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="neuron", scope="local", target="neurons")
    tfap.update_masks(pruned, 0.5)
    stripped = tfap.strip_pruning(pruned)
    small = tfap.compact(stripped)
    assert units(small, "query", "key") == [3, 3]
    assert_equal_outputs(stripped, small)


def test_constants_in_products_stay(keras_module):
    """The bias of the pruned query is not zero: it is multiplied with keys that vary."""
    model = attention(keras_module, "einsum", bias=True)
    zero(model, "query", [1], bias=False)
    assert units(tfap.compact(model), "query") == [6]
    (kept,) = [each for each in Liveness(model).kept() if each.path == "query"]
    assert "is a nonzero constant" in kept.reason and "multiplies it with values that vary" in kept.reason


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda k, x: k.layers.Dot(axes=2, normalize=True)([x, x]),
            "multiplies it with constants, or in a way",
        ),
        (lambda k, x: functions(k).einsum("...tc,...sc->...ts", x, x), "in a way that tfap does not analyze"),
        (lambda k, x: functions(k).matmul(x, np.ones((6, 3), "float32")), "multiplies it with constants"),
        (lambda k, x: k.layers.Softmax()(x), "may combine channels"),
    ],
)
def test_what_stays_has_a_reason(keras_module, make, words):
    layers = keras_module.layers
    inputs = keras_module.Input((5, 4))
    x = make(keras_module, layers.Dense(6, name="dense")(inputs))
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(layers.Flatten()(x)))
    rows = {row.path: row.reason for row in tfap.plan(model, 0.5, "magnitude", granularity="neuron")}
    assert words in rows["dense"]


@pytest.mark.parametrize("how", ["layer", "function", "sum"])
def test_softmax_on_another_axis_and_sums(keras_module, how):
    """Channels that are not read go; constants stay behind a softmax, zeros go through a sum."""
    layers = keras_module.layers
    inputs = keras_module.Input((5, 4))
    x = layers.Dense(6, name="dense")(inputs)
    if how == "sum":
        name = "reduce_sum" if keras_module.__name__ == "tf_keras" else "sum"
        x = getattr(functions(keras_module), name)(x, 1)
    else:
        x = layers.Softmax(axis=1)(x) if how == "layer" else softmax(keras_module, x, 1)
        x = layers.GlobalMaxPooling1D()(x)
    model = random_weights(keras_module.Model(inputs, layers.Dense(2, name="output")(x)))
    not_read(model, "output", [1])
    zero(model, "dense", [3])
    small = tfap.compact(model)
    assert units(small, "dense") == [4 if how == "sum" else 5]
    assert_equal_outputs(model, small)
    zero(model, "dense", [4], bias=False)
    assert units(tfap.compact(model), "dense") == [4 if how == "sum" else 5]
    kept = [each.reason for each in Liveness(model).kept() if each.path == "dense"]
    assert kept and all("may not keep it constant" in reason for reason in kept)


def test_resizing(keras_module):
    layers = keras_module.layers
    stack = [
        layers.Input((6, 6, 2)),
        layers.Conv2D(5, 3, name="conv"),
        layers.Resizing(7, 5, name="resizing"),
        layers.Conv2D(3, 3),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="output"),
    ]
    model = random_weights(keras_module.Sequential(stack))
    zero(model, "conv", [1, 2], bias=False)
    small = tfap.compact(model)
    assert small.get_layer("conv").filters == 3
    assert_equal_outputs(model, small)
