import nets
import numpy as np
import pytest
import tensorflow as tf
from networks import resnet20
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import tfap
from tfap.graph.flops import flops, layer_flops, uncounted

pytestmark = pytest.mark.one_keras

of_tensorflow = pytest.mark.tensorflow_only(reason="TensorFlow's profiler")
PRODUCTS = ("MatMul", "Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative")


def profiled(model):
    """What TensorFlow's profiler counts for one sample in matrix products and convolutions."""
    shape = (1, *model.inputs[0].shape[1:])
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec(shape, "float32"))
    frozen = convert_variables_to_constants_v2(concrete)
    options = tf.compat.v1.profiler.ProfileOptionBuilder(
        tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    )
    found = tf.compat.v1.profiler.profile(frozen.graph, options=options.with_empty_output().build(), cmd="op")
    pending, total = [found], 0
    while pending:
        node = pending.pop()
        pending += node.children
        total += node.float_ops if node.name in PRODUCTS else 0
    return total


@of_tensorflow
def test_beside_tensorflows_profiler(keras_module):
    model = nets.cnn(keras_module)
    assert flops(model) == profiled(model) > 0


@of_tensorflow
def test_resnet20(keras_module):
    model = resnet20(keras_module)
    assert flops(model) == profiled(model) > 60e6


BLOCKS = {  # the profiler knows no products of batches, no shapes of grouped ones, and pads dilated ones
    "strided": lambda layers: layers.Conv2D(5, 3, strides=2, padding="same"),
    "transposed": lambda layers: layers.Conv2DTranspose(5, 3, strides=2, padding="same"),
    "depthwise": lambda layers: layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2),
    "separable": lambda layers: layers.SeparableConv2D(6, 3, strides=2, depth_multiplier=2),
}


@of_tensorflow
@pytest.mark.parametrize("block", BLOCKS)
def test_convolutions_beside_tensorflows_profiler(keras_module, block):
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((9, 9, 4)), BLOCKS[block](layers)])
    assert flops(model) == profiled(model) > 0


BY_HAND = {  # the input's shape, the layer, multiply-adds
    "Dense": ((4,), lambda k: k.Dense(6), 4 * 6),
    "Dense in time": ((5, 4), lambda k: k.Dense(6), 5 * 4 * 6),
    "Conv1D": ((9, 4), lambda k: k.Conv1D(6, 3), 7 * 3 * 4 * 6),
    "Conv2D, grouped": ((9, 9, 4), lambda k: k.Conv2D(6, 3, groups=2), 49 * 9 * 2 * 6),
    "Conv2D, dilated": ((9, 9, 4), lambda k: k.Conv2D(6, 3, dilation_rate=2), 25 * 9 * 4 * 6),
    "Conv3D": ((5, 5, 5, 2), lambda k: k.Conv3D(4, 3), 27 * 27 * 2 * 4),
    "Conv1DTranspose": ((9, 4), lambda k: k.Conv1DTranspose(6, 3), 9 * 3 * 4 * 6),
    "Conv3DTranspose": ((4, 4, 4, 2), lambda k: k.Conv3DTranspose(4, 3), 64 * 27 * 2 * 4),
    "DepthwiseConv1D": ((9, 4), lambda k: k.DepthwiseConv1D(3, depth_multiplier=2), 7 * 3 * 4 * 2),
    "SeparableConv1D": ((9, 4), lambda k: k.SeparableConv1D(6, 3), 7 * (3 * 4 + 4 * 6)),
    "EinsumDense": ((5, 4), lambda k: k.EinsumDense("abc,cde->abde", (5, 2, 3)), 5 * 4 * 2 * 3),
    "EinsumDense, ellipsis": ((5, 3, 4), lambda k: k.EinsumDense("...x,xy->...y", 6), 15 * 4 * 6),
    "SimpleRNN": ((5, 4), lambda k: k.SimpleRNN(6), 5 * (4 * 6 + 6 * 6)),
    "GRU": ((5, 4), lambda k: k.GRU(6, return_sequences=True), 5 * 3 * (4 * 6 + 6 * 6)),
    "LSTM": ((5, 4), lambda k: k.LSTM(6), 5 * 4 * (4 * 6 + 6 * 6)),
    "Bidirectional": ((5, 4), lambda k: k.Bidirectional(k.LSTM(6)), 2 * 5 * 4 * (4 * 6 + 6 * 6)),
    "TimeDistributed": ((5, 9, 4), lambda k: k.TimeDistributed(k.Conv1D(6, 3)), 5 * 7 * 3 * 4 * 6),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(keras_module, name, wrapped):
    shape, layer, products = BY_HAND[name]
    model = keras_module.Sequential([keras_module.layers.Input(shape), layer(keras_module.layers)])
    if wrapped:
        model = tfap.prune(model, 0.5, "magnitude", include=[model.layers[-1].name])
    assert flops(model) == 2 * products and uncounted(model) == []


def test_an_embedding_costs_nothing(keras_module):
    layers = keras_module.layers
    embedding = layers.Embedding(10, 6, name="words")
    model = keras_module.Sequential([layers.Input((7,), dtype="int32"), embedding])
    assert layer_flops(model) == {"words": 0}


@pytest.mark.smoke
def test_attention(keras_module):
    layers = keras_module.layers
    query, value, key = (keras_module.Input(shape) for shape in ((5, 4), (7, 8), (7, 6)))
    attention = layers.MultiHeadAttention(2, 3, value_dim=6, name="attention")
    model = keras_module.Model([query, value, key], attention(query, value=value, key=key))
    projections = 5 * 4 * 6 + 7 * 6 * 6 + 7 * 8 * 12 + 5 * 12 * 4
    assert layer_flops(model) == {"attention": 2 * (projections + 2 * 5 * 7 * (3 + 6))}

    attention = layers.MultiHeadAttention(2, 3, name="attention")
    model = keras_module.Model(query, layers.Dense(2, name="dense")(attention(query, query)))
    products = {"attention": 2 * (3 * 5 * 4 * 6 + 5 * 6 * 4 + 2 * 5 * 5 * (3 + 3)), "dense": 2 * 5 * 4 * 2}
    assert layer_flops(model) == layer_flops(tfap.prune(model, 0.5, "magnitude")) == products


@pytest.mark.smoke
def test_nested_and_shared_layers(keras_module):
    assert layer_flops(nets.nested(keras_module)) == {
        "dense": 2 * 6 * 6,
        "middle/inner/dense": 2 * 6 * 8,
        "middle/dense": 2 * 8 * 5,
        "output": 2 * 5 * 3,
    }
    inputs = keras_module.Input((6,))
    shared = keras_module.layers.Dense(6, name="shared")
    assert layer_flops(keras_module.Model(inputs, shared(shared(inputs)))) == {"shared": 2 * 2 * 6 * 6}


def test_channels_first(keras_module):
    layers = keras_module.layers
    convolution = layers.Conv2D(6, 3, data_format="channels_first", name="conv")
    model = keras_module.Sequential([layers.Input((4, 9, 8)), convolution])
    assert layer_flops(model) == {"conv": 2 * 7 * 6 * 9 * 4 * 6}


def test_what_is_not_counted_has_a_name(keras_module):
    class Mixer(keras_module.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 8), name="w")

        def call(self, x):
            return x @ self.w

    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((4,)), Mixer(name="mixer"), layers.BatchNormalization(), layers.Dense(2, name="dense")]
    )
    assert layer_flops(model) == {"dense": 2 * 8 * 2}
    assert uncounted(model) == ["mixer"]


def test_open_sizes_and_subclassed_models_are_refused(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((None, 4)), layers.LSTM(3, name="lstm")])
    with pytest.raises(ValueError, match=r"'lstm' depend on undefined dimensions: .*\(None, None, 4\)"):
        flops(model)
    with pytest.raises(ValueError, match="built Sequential or Functional"):
        flops(nets.subclassed(keras_module, layers.Dense(3)))


def test_zeros_cost_as_much_as_any_number(keras_module):
    model = nets.mlp(keras_module)
    before = flops(model)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    assert flops(model) == before == 2 * (12 * 16 + 16 * 8 + 8 * 4)
