"""Sizes with which Keras 3 on TensorFlow adds to another axis: compaction does not leave as many.

Everywhere else as many are left as without this fault, and all that can go goes.
"""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap import keras_compat
from tfap.compaction.compact import kept_groups, remove_dead_channels
from tfap.graph import misread
from tfap.graph.liveness import Liveness

layers = keras.layers
FAULT = keras_compat.misreads_sums(layers.Dense(1))


def model_of(inputs, outputs, read=None):
    """A model with random weights, whose layer 'output' reads the channels `read` only."""
    model = keras.Model(inputs, outputs)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    if read is not None:
        output = model.get_layer("output")
        kernel, bias = output.get_weights()
        kernel[..., np.setdiff1d(np.arange(kernel.shape[-2]), read), :] = 0
        output.set_weights([kernel, bias])
    return model


def assert_equal(model, small, batches=(1, 2, 3, 4), steps=None):
    for batch in batches:
        inputs = [
            np.random.default_rng(1).normal(size=(batch, *(size or steps for size in tensor.shape[1:])))
            for tensor in model.inputs
        ]
        inputs = [each.astype("float32") for each in inputs]
        inputs = inputs if len(inputs) > 1 else inputs[0]
        expected = np.asarray(model(inputs))
        assert np.abs(np.asarray(small(inputs)) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_other_kerases_have_no_fault():
    layer = importlib.import_module("tf_keras").layers.Dense(1)
    assert not keras_compat.misreads_sums(layer)
    if keras.config.backend() != "tensorflow":
        assert not FAULT


# -- heads of attention layers ---------------------------------------------------------------------------


def attention(steps, heads, sizes=(3, 3), read=None, grouped=False):
    """Cross-attention of `steps` queries and keys. Heads need one dimension, and only `read` heads matter."""
    query, key = (keras.Input((size, 4)) for size in steps)
    if grouped:
        layer = layers.GroupQueryAttention(sizes[0], heads, heads, name="attention")
    else:
        layer = layers.MultiHeadAttention(heads, sizes[0], value_dim=sizes[1], name="attention")
    model = model_of([query, key], layers.Dense(2, name="output")(layer(query, key)))
    weights = layer.get_weights()
    weights[2][:, :, 1:] = 0
    weights[6][:, 1:] = 0
    weights[6][np.setdiff1d(np.arange(heads), range(heads) if read is None else read)] = 0
    layer.set_weights(weights)
    return model


def sizes(model):
    weights = model.get_layer("attention").get_weights()
    return weights[0].shape[1], weights[0].shape[2], weights[4].shape[2]


@pytest.mark.parametrize(
    "steps, left",
    [((4, 4), (2, 2)), ((4, 5), (2, 1)), ((5, 4), (2, 2)), ((5, 5), (1, 1)), ((None, None), (2, 2))],
)
def test_heads_keep_two_dimensions(steps, left):
    model = attention(steps, heads=4)
    small = tfap.compact(model)
    if keras.config.backend() == "jax":
        left = (max(left),) * 2
    assert sizes(small) == (4, *(left if FAULT else (1, 1)))
    for length in (4, 5) if None in steps else (None,):
        assert_equal(model, small, (2,), length)
    reasons = {kept.reason for kept in tfap.compaction_report(model, small).kept}
    assert (misread.REASON in reasons) == (FAULT and left != (1, 1))


def test_heads_of_grouped_queries_keep_two_dimensions():
    model = attention((4, 5), heads=4, grouped=True)
    small = tfap.compact(model)
    assert sizes(small) == (4, 2, 2) if FAULT else (4, 1, 1)
    assert_equal(model, small, (2,))


@pytest.mark.parametrize("steps, left", [((3, 5), 4), ((5, 4), 3), ((None, None), 6)])
def test_heads_of_one_dimension_do_not_become_as_many_as_the_steps(steps, left):
    model = attention(steps, heads=6, sizes=(1, 1), read=[0, 1, 3])
    small = tfap.compact(model)
    assert sizes(small) == (left if FAULT else 3, 1, 1)
    assert_equal(model, small, (2,), None if None not in steps else 3)


def test_query_heads_of_one_dimension_do_not_become_as_many_as_the_steps():
    query, key = keras.Input((2, 4)), keras.Input((5, 4))
    layer = layers.GroupQueryAttention(1, 4, 1, name="attention")
    model = model_of([query, key], layers.Dense(2, name="output")(layer(query, key)))
    weights = layer.get_weights()
    weights[6][2:] = 0  # two of the four query heads
    layer.set_weights(weights)
    small = tfap.compact(model)
    assert small.get_layer("attention").num_query_heads == (3 if FAULT else 2)
    assert_equal(model, small, (2,))
    kept = [(each.channels, each.reason) for each in tfap.compaction_report(model, small).kept]
    assert kept == ([(1, misread.REASON)] if FAULT else [])


def test_a_layer_that_keras_misreads_stays():
    model = attention((4, 5), heads=4, sizes=(1, 1), read=[0, 1, 3])
    if not FAULT:
        assert sizes(tfap.compact(model))[0] == 3
        return
    small = tfap.compact(model)
    assert sizes(small)[0] == 4
    assert_equal(model, small, (2,))
    with pytest.raises(ValueError, match="does not resize"):
        tfap.remove(model, {"attention": {"heads": [0]}})


# -- other sums ------------------------------------------------------------------------------------------


def positions(inputs, values):
    return keras.ops.add(values, np.arange(4.0, dtype="float32")[:, None])


def one_channel(inputs, values):
    return layers.Add()([values, layers.Dense(1, name="one_channel")(inputs)])


@pytest.mark.parametrize("add", [positions, one_channel])
def test_channels_do_not_become_as_many_as_steps_with_a_value_each(add):
    inputs = keras.Input((4, 3))
    values = add(inputs, layers.Dense(6, name="dense")(inputs))
    model = model_of(inputs, layers.Dense(2, name="output")(values), read=[0, 2, 3, 5])
    small = tfap.compact(model)
    assert small.get_layer("dense").units == (5 if FAULT else 4)
    assert_equal(model, small, (1, 2, 3))
    (kept,) = tfap.compaction_report(model, small).kept if FAULT else (None,)
    assert kept is None or (kept.path, kept.channels, kept.reason) == ("dense", 1, misread.REASON)


def test_the_batch_is_not_taken_for_the_steps():
    """With one channel, the means are a tensor of shape (4, 1, 1) in a batch of 4."""
    inputs = keras.Input((4, 3))
    means = layers.GlobalAveragePooling1D(keepdims=True)(layers.Dense(5, name="other")(inputs))
    values = layers.Add()([layers.Dense(5, name="dense")(inputs), means])
    model = model_of(inputs, layers.Dense(2, name="output")(values), read=[1])
    small = tfap.compact(model)
    assert small.get_layer("dense").units == small.get_layer("other").units == (2 if FAULT else 1)
    assert_equal(model, small)


def runs(model):
    """Whether this machine runs a channels_first model: on CPUs, TensorFlow does so only with oneDNN."""
    try:
        model(np.zeros((1, *model.inputs[0].shape[1:]), "float32"))
    except tf.errors.OpError:
        return False
    return True


@pytest.mark.parametrize("left", [3, 4, 5])
@pytest.mark.parametrize("kind", ["Conv1D", "Conv2D", "SeparableConv1D"])
def test_channels_on_axis_1_do_not_become_as_many_as_the_last_axis(kind, left):
    inputs = keras.Input((2, 5, 4) if kind == "Conv2D" else (2, 4))
    options = {"padding": "same", "data_format": "channels_first"}
    conv = getattr(layers, kind)(6, 3, **options, name="conv")
    output = getattr(layers, kind.removeprefix("Separable"))
    values = keras.layers.Activation("tanh")(conv(inputs))
    read = list(range(left))
    model = model_of(inputs, output(2, 1, data_format="channels_first", name="output")(values), read)
    small = remove_dead_channels(model, Liveness(model)).model
    assert small.get_layer("conv").filters == (5 if FAULT and left == 4 else left)
    if runs(model):
        assert_equal(model, small, (2,))


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_convolution_that_keras_misreads_stays(use_bias):
    inputs = keras.Input((2, 4))
    options = {"data_format": "channels_first"}
    values = layers.Conv1D(4, 3, padding="same", **options, use_bias=use_bias, name="conv")(inputs)
    model = model_of(inputs, layers.Conv1D(2, 1, **options, name="output")(values), read=[0, 1])
    small = remove_dead_channels(model, Liveness(model)).model
    assert small.get_layer("conv").filters == (4 if FAULT and use_bias else 2)
    if runs(model):
        assert_equal(model, small, (2,))


def test_multiples_of_channels_are_kept_apart_too():
    """Rounding up to a multiple leaves as many channels as there are steps with a value each."""
    inputs = keras.Input((8, 3))
    values = layers.Dense(16, name="dense")(inputs)
    values = keras.ops.add(values, np.arange(8.0, dtype="float32")[:, None])
    model = model_of(inputs, layers.Dense(2, name="output")(values), read=[0, 2, 3])
    liveness = Liveness(model)
    staying = np.zeros(len(liveness.alive), bool)
    dense = liveness.groups("dense")[1]
    staying[dense[:8]] = True
    assert kept_groups(liveness, staying)[dense].sum() == (9 if FAULT else 8)
