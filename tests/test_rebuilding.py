"""Rebuilt models make the same calls: every way to call a layer or function, and unusual graphs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfap
from tfap import keras_compat

pytestmark = pytest.mark.one_keras


def dense(k, units, name):
    return k.layers.Dense(units, "relu", name=name)


def custom(k):
    @k.saving.register_keras_serializable(package=f"{k.__name__}_rebuilding")
    class Sum(k.layers.Layer):
        def call(self, a, b=None, scale=1.0):
            return scale * a + (b["x"][0] if isinstance(b, dict) else b)

    return Sum(name="sum")


# -- ways to call: from a hidden layer `h` of 6 neurons and the input `i` to the values before the output ----

CALLS = {
    "keyword": lambda k, i, h: dense(k, 5, "g")(inputs=h),
    "list by keyword": lambda k, i, h: k.layers.Concatenate()(inputs=[h, dense(k, 5, "g")(h)]),
    "structure": lambda k, i, h: custom(k)(h, b={"x": [dense(k, 6, "g")(i)]}, scale=2.0),
    "keywords in another order": lambda k, i, h: custom(k)(b=dense(k, 6, "g")(i), a=h),
    "constant": lambda k, i, h: custom(k)(h, b=np.ones((1, 6), "float32")),
    "same twice": lambda k, i, h: k.layers.Concatenate()([h, h, k.layers.Add()([h, h])]),
}


@pytest.mark.smoke
@pytest.mark.parametrize("how", CALLS)
def test_ways_to_call_a_layer(keras_module, how):
    inputs = keras_module.Input((4,))
    x = CALLS[how](keras_module, inputs, dense(keras_module, 6, "h")(inputs))
    check(keras_module, keras_module.Model(inputs, keras_module.layers.Dense(2, name="output")(x)))


def test_attention_by_keyword(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((5, 8))
    value = dense(keras_module, 8, "h")(inputs)
    x = layers.MultiHeadAttention(2, 8, name="attention")(query=inputs, value=value)
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(x))
    wrapped = check(keras_module, model)
    assert [layer.name for layer in tfap.prunable_layers(wrapped)] == ["h", "attention"]


def test_recurrent_layers_by_keyword():
    inputs = keras.Input((5, 8))
    state = dense(keras, 6, "state")(keras.layers.GlobalAveragePooling1D()(inputs))
    x = keras.layers.GRU(6, name="gru")(sequences=inputs, initial_state=state)
    model = keras.Model(inputs, keras.layers.Dense(2, name="output")(x))
    check(keras, model)
    assert tfap.layer_flops(model)["gru"] == 2 * 5 * (8 + 6) * 3 * 6  # 5 time steps, and not 6 of the state


def test_a_mask_that_is_given(keras_module):
    inputs, mask = keras_module.Input((5, 3)), keras_module.Input((5,), dtype="bool")
    x = keras_module.layers.LSTM(4, name="lstm")(dense(keras_module, 6, "h")(inputs), mask=mask)
    model = keras_module.Model([inputs, mask], keras_module.layers.Dense(2, name="output")(x))
    check(keras_module, model)


FUNCTIONS = {
    "einsum": lambda h: tf.einsum("bc,bd->bcd", h, h)[:, 0],
    "keywords": lambda h: tf.concat(values=[h, h], axis=-1),
    "list": lambda h: tf.add_n([h, h, h]),
    "slice": lambda h: h[:, 1:4],
    "operands swapped": lambda h: 1.0 - h,
    "by name": lambda h: tf.multiply(x=h, y=2.0),
    "matmul": lambda h: tf.matmul(h, b=h, transpose_b=True) @ h,
}


@pytest.mark.parametrize("how", FUNCTIONS)
def test_ways_to_call_a_function_in_tf_keras(how):
    inputs = tf_keras.Input((4,))
    x = FUNCTIONS[how](dense(tf_keras, 6, "h")(inputs))
    check(tf_keras, tf_keras.Model(inputs, tf_keras.layers.Dense(2, name="output")(x)), saves=how != "einsum")


def test_losses_and_metrics_of_the_graph():
    """add_loss and add_metric of tf_keras, which hang below the outputs."""
    inputs = tf_keras.Input((4,))
    hidden = dense(tf_keras, 6, "h")(inputs)
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(2, name="output")(hidden))
    model.add_loss(0.1 * tf.reduce_mean(hidden))
    model.add_metric(tf.reduce_max(hidden), name="largest")
    model.add_metric(hidden, name="mean", aggregation="mean")
    model.compile("sgd", "mse")
    x, y = np.ones((4, 4), "float32"), np.zeros((4, 2))
    expected = model.evaluate(x, y, verbose=0)
    stripped = tfap.strip_pruning(tfap.prune(model, 0.5, "magnitude"))
    for rebuilt in (stripped, tfap.compact(stripped)):
        assert rebuilt.evaluate(x, y, verbose=0) == pytest.approx(expected)
        assert rebuilt.metrics_names == model.metrics_names


# -- graphs ------------------------------------------------------------------------------------------


def dict_outputs(k, i):
    h = dense(k, 6, "h")(i)
    return k.Model(i, {"b": k.layers.Dense(2, name="output")(h), "a": k.layers.Dense(3, name="g")(h)})


def an_output_twice(k, i):
    output = k.layers.Dense(2, name="output")(dense(k, 6, "h")(i))
    return k.Model(i, [output, output])


def an_unused_input(k, i):
    return k.Model([k.Input((3,)), i], k.layers.Dense(2, name="output")(dense(k, 6, "h")(i)))


def inputs_that_are_outputs(k, i):
    j = k.Input((3,))
    return k.Model([i, j], [j, k.layers.Dense(2, name="output")(dense(k, 6, "h")(i)), i])


def calls_outside_the_model(k, i):
    hidden = dense(k, 6, "h")
    hidden(k.Input((4,)))
    a = hidden(i)
    hidden(k.layers.Dense(4)(a))
    return k.Model(i, k.layers.Dense(2, name="output")(a))


def an_unused_output_of_a_nested_model(k, i):
    j = k.Input((4,))
    h = dense(k, 6, "h")(j)
    a, _ = k.Model(j, [h, dense(k, 5, "unused")(h)], name="inner")(i)
    return k.Model(i, k.layers.Dense(2, name="output")(a))


def a_nested_model_without_layers(k, i):
    j = k.Input((6,))
    return k.Model(i, k.layers.Dense(2, name="output")(k.Model(j, j, name="inner")(dense(k, 6, "h")(i))))


def a_nested_model_called_on_a_dict(k, i):
    """Its inputs are a list in another order: both Kerases find them by name."""
    a, b = k.Input((6,), name="a"), k.Input((5,), name="b")
    merged = k.layers.Concatenate()([dense(k, 4, "c")(a), dense(k, 3, "d")(b)])
    inner = k.Model([b, a], merged, name="inner")
    x = inner({"a": dense(k, 6, "h")(i), "b": dense(k, 5, "g")(i)})
    return k.Model(i, k.layers.Dense(2, name="output")(x))


def nested_dicts(k, i):
    a, b = k.Input((6,), name="a"), k.Input((5,), name="b")
    inner = k.Model({"b": b, "a": a}, {"z": dense(k, 4, "c")(a), "y": dense(k, 3, "d")(b)}, name="inner")
    x = inner({"b": dense(k, 5, "g")(i), "a": dense(k, 6, "h")(i)})
    return k.Model(i, k.layers.Dense(2, name="output")(k.layers.Concatenate()([x["z"], x["y"]])))


def a_model_from_the_middle(k, i):
    h = dense(k, 5, "before")(i)
    return k.Model(h, k.layers.Dense(2, name="output")(dense(k, 6, "h")(h)))


def a_nested_model_that_returns_its_input(k, i):
    j = k.Input((6,))
    inner = k.Model(j, [j, dense(k, 5, "g")(j)], name="inner")
    x = k.layers.Concatenate()(inner(dense(k, 6, "h")(i)))
    return k.Model(i, k.layers.Dense(2, name="output")(x))


GRAPHS = [
    dict_outputs, an_output_twice, an_unused_input, inputs_that_are_outputs, calls_outside_the_model,
    an_unused_output_of_a_nested_model, a_nested_model_without_layers, a_nested_model_called_on_a_dict,
    nested_dicts, a_model_from_the_middle, a_nested_model_that_returns_its_input,
]  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
def test_unusual_graphs(keras_module, graph):
    model = graph(keras_module, keras_module.Input((4,)))
    wrapped = check(keras_module, model)
    pruned = {layer.name for layer in tfap.prunable_layers(wrapped)}
    assert "h" in pruned and "output" not in pruned


def check(k, model, saves=True):
    """Prunes, strips and compacts a model; returns the pruned one. `tfap` compares the outputs itself."""
    assert tfap.plan(model).pruned
    wrapped = tfap.prune(model, 0.5, "magnitude", granularity="neuron")
    tfap.update_masks(wrapped, 0.5)
    stripped = tfap.strip_pruning(wrapped)
    compacted = tfap.compact(stripped)
    for rebuilt in (wrapped, stripped, compacted):
        assert [layer.name for layer in rebuilt.layers] == [layer.name for layer in model.layers]
        assert rebuilt.output_names == model.output_names
        assert [spec.name for spec in keras_compat.inputs_of(rebuilt)] == [
            spec.name for spec in keras_compat.inputs_of(model)
        ]
        if saves:
            assert len(type(rebuilt).from_config(rebuilt.get_config()).layers) == len(model.layers)
    return wrapped
