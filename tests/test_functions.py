"""Functions in a graph, such as `keras.ops.split` and `tf.reshape`: channels are followed through them."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfap
from tfap.graph import layer_types
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras


class Ops:
    """The same functions of `keras.ops` and of TensorFlow."""

    def __init__(self, keras_module):
        self.is_keras3 = keras_module is keras
        of_tf = {"relu6": tf.nn.relu6, "reshape": tf.reshape, "clip": tf.clip_by_value}
        for name in ("relu6", "reshape", "clip"):
            setattr(self, name, getattr(keras.ops, name) if self.is_keras3 else of_tf[name])

    def __getattr__(self, name):
        other = {"concatenate": "concat", "mean": "reduce_mean"}.get(name, name)
        return getattr(keras.ops, name) if self.is_keras3 else getattr(tf, other)

    def split(self, x, sizes, axis):
        if self.is_keras3 and not isinstance(sizes, int):
            sizes = [int(stop) for stop in np.cumsum(sizes)[:-1]]
        return (keras.ops if self.is_keras3 else tf).split(x, sizes, axis)


def conv(keras_module, filters, name):
    return keras_module.layers.Conv2D(filters, 1, name=name)


def split_and_add(sizes):
    def build(k, ops, x):
        parts = ops.split(x, sizes, -1)
        return k.layers.Add()([conv(k, 4, f"part_{at}")(part) for at, part in enumerate(parts)])

    return build


# Name: from the 8 channels of `first`, 4 x 4 positions; which of them are zero; how many are left.
FOLLOWED = {
    "slice": (lambda k, ops, x: x[..., :5], [1, 2], 3),  # nothing consumes the last three channels
    "slice from the middle": (lambda k, ops, x: x[:, 1:3, ..., 2:-1], [3], 4),
    "split in halves": (split_and_add(2), [1, 2, 7], 5),  # three are left in one half, two in the other
    "split by sizes": (split_and_add([2, 3, 3]), [1, 2, 7], 5),
    "split of rows": (lambda k, ops, x: ops.split(x, 2, 1)[0], [1, 7], 6),
    "stack": (lambda k, ops, x: ops.stack([x, x * 2], axis=1), [0, 2], 6),
    "unstack": (lambda k, ops, x: ops.unstack(x, axis=1)[0] + ops.unstack(x, axis=1)[1], [0, 2], 6),
    "constants": (lambda k, ops, x: 1 - ((x + 1) * 2 - 0.5) / 3, [0, 2], 6),
    "hard swish": (lambda k, ops, x: x * ops.relu6(x + 3) * (1 / 6), [0, 2], 6),
    "clip": (lambda k, ops, x: ops.clip(x, 0.0, 6.0), [0, 2], 6),
    "concatenate": (lambda k, ops, x: ops.concatenate([x, conv(k, 2, "other")(x)], axis=-1), [0, 2], 6),
    "flatten": (lambda k, ops, x: ops.reshape(x, (-1, 128)), [0, 2], 6),
    "positions in a row": (lambda k, ops, x: ops.reshape(x, (-1, 16, 8)), [0, 2], 6),
    "the batch too": (lambda k, ops, x: ops.reshape(ops.reshape(x, (-1, 8)), (-1, 4, 4, 8)), [0, 2], 6),
    "channels first": (
        lambda k, ops, x: k.layers.Reshape((8, 16))(ops.transpose(x, (0, 3, 1, 2))), [0, 2], 6
    ),
    "shuffle": (
        lambda k, ops, x: ops.reshape(
            ops.transpose(ops.reshape(x, (-1, 4, 4, 2, 4)), (0, 1, 2, 4, 3)), (-1, 4, 4, 8)
        ),
        [1, 5],  # one in each half: they are removed together
        6,
    ),
    "shuffle of four groups": (
        lambda k, ops, x: k.layers.Reshape((4, 4, 8))(
            k.layers.Permute((1, 2, 4, 3))(k.layers.Reshape((4, 4, 4, 2))(x))
        ),
        [2, 3],  # a whole group: more axes than pairs
        6,
    ),
    "mean": (lambda k, ops, x: ops.mean(x, axis=[1, 2]), [0, 2], 6),
    "a new axis": (lambda k, ops, x: ops.squeeze(ops.expand_dims(x, 1), 1), [0, 2], 6),
}  # fmt: skip


def model_of(keras_module, build, dead):
    """A model with a `first` convolution some of whose channels are always zero."""
    layers = keras_module.layers
    inputs = keras_module.Input((4, 4, 3))
    x = conv(keras_module, 8, "first")(inputs)
    x = layers.Flatten()(build(keras_module, Ops(keras_module), layers.ReLU()(x)))
    model = nets.compiled(keras_module, keras_module.Model(inputs, layers.Dense(2, name="output")(x)), "mse")
    generator = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([generator.normal(size=weight.shape) for weight in layer.get_weights()])
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., dead] = bias[dead] = 0
    model.get_layer("first").set_weights([kernel, bias])
    return model


@pytest.mark.smoke
@pytest.mark.parametrize("name", FOLLOWED)
def test_channels_are_followed_through(keras_module, name):
    build, dead, left = FOLLOWED[name]
    model = model_of(keras_module, build, dead)
    smaller = tfap.compact(model)  # which compares outputs
    assert smaller.get_layer("first").filters == left
    again = keras_module.models.clone_model(smaller)  # what is in the arguments is in the config
    assert [weight.shape for weight in again.get_weights()] == [w.shape for w in smaller.get_weights()]


KEPT = {
    "a constant for each": (lambda k, ops, x: x * np.arange(8, dtype="float32"), "has a constant for each"),
    "every other": (lambda k, ops, x: x[..., ::2], "takes its channels in steps of 2"),
    "one": (lambda k, ops, x: x[..., 3:4] + x[..., 3][..., None], "takes one of its channels by number"),
    "one tensor per channel": (lambda k, ops, x: ops.unstack(x, axis=-1)[2], "one tensor per channel"),
    "sum over channels": (lambda k, ops, x: ops.mean(x, axis=-1), "combines its channels"),
    "unknown": (lambda k, ops, x: ops.cumsum(x, axis=-1), "which tfap does not analyze"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_functions_that_keep_channels_say_why(keras_module, name):
    build, words = KEPT[name]
    model = model_of(keras_module, build, [0, 2])
    assert tfap.compact(model).get_layer("first").filters == 8
    (kept,) = Liveness(model).kept()
    assert kept.path == "first" and kept.channels == 2 and words in kept.reason


@pytest.mark.parametrize("axis, left", [(0, 6), (-1, 8)])
def test_sizes_that_are_computed(axis, left):
    """`tf.shape(x)[0]` does not depend on the channels of x, but `tf.shape(x)[-1]` does."""

    def build(k, ops, x):
        size = tf.shape(x)[axis]
        return tf.reshape(x, [size, 4 * 4 * 8] if axis == 0 else [-1, 16, size])

    assert tfap.compact(model_of(tf_keras, build, [0, 2])).get_layer("first").filters == left


def mtcnn(keras_module):
    """Conv, PReLU, Permute, Flatten, Dense, as in MTCNN."""
    layers = keras_module.layers
    inputs = keras_module.Input((6, 5, 3))
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(layers.Conv2D(8, 3, name="conv")(inputs))
    x = layers.Flatten()(layers.Permute((2, 1, 3))(x))
    return keras_module.Model(inputs, layers.Dense(2, name="output")(x))


def test_mtcnn(keras_module):
    model = mtcnn(keras_module)
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., [1, 4, 5]] = bias[[1, 4, 5]] = 0
    model.get_layer("conv").set_weights([kernel, bias])
    smaller = tfap.compact(model)
    assert smaller.get_layer("conv").filters == 5
    assert smaller.get_layer("output").kernel.shape == (4 * 3 * 5, 2)


def shufflenet_unit(keras_module):
    """Split, a branch, concatenate, and a channel shuffle, all by functions where there are some."""
    layers, ops = keras_module.layers, Ops(keras_module)
    inputs = keras_module.Input((4, 4, 3))
    x = layers.Conv2D(12, 1, activation="relu", name="stem")(inputs)
    a, b = ops.split(x, 2, -1)
    b = layers.Conv2D(6, 1, activation="relu", name="branch_a")(b)
    b = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(b)
    b = layers.Conv2D(6, 1, activation="relu", name="branch_b")(b)
    x = ops.concatenate([a, b], axis=-1)
    x = layers.Reshape((4, 4, 2, 6))(x)
    x = layers.Reshape((4, 4, 12))(layers.Permute((1, 2, 4, 3))(x))
    x = layers.Conv2D(8, 1, activation="relu", name="head")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return nets.compiled(keras_module, keras_module.Model(inputs, layers.Dense(2, name="output")(x)), "mse")


@pytest.mark.smoke
def test_a_shufflenet_unit_loses_what_was_pruned(keras_module):
    wrapped = tfap.prune(shufflenet_unit(keras_module), 0.5, "magnitude", granularity="neuron")
    tfap.update_masks(wrapped, 0.5)
    pruned = tfap.strip_pruning(wrapped)
    for layer in pruned.layers:  # no constant is left of a pruned neuron
        if layer.name in ("stem", "branch_a", "branch_b", "head"):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, bias * kernel.any(axis=(0, 1, 2))])
    left = {
        name: int(pruned.get_layer(name).get_weights()[0].any(axis=(0, 1, 2)).sum())
        for name in ("stem", "branch_a", "branch_b", "head")
    }
    smaller = tfap.compact(pruned)
    assert {name: smaller.get_layer(name).filters for name in left} == left
    assert sum(left.values()) < 12 + 6 + 6 + 8
    x = np.ones((4, 4, 4, 3), "float32")
    smaller.fit(x, np.zeros((4, 2)), verbose=0)  # the smaller model trains


def test_every_row_is_a_function_of_some_keras():
    """A misspelled name would never be found."""
    known = set(vars(keras.src.ops.numpy) | vars(keras.src.ops.nn) | vars(keras.src.ops.core))
    known |= set(vars(keras.src.ops.math)) | {"getitem"}
    known |= {name for module in (tf, tf.math, tf.nn) for name in dir(module)}
    assert set(layer_types.FUNCTIONS) <= known
