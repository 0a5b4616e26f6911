"""compact() layer by layer: exact weights where a reader can compute them, and what has to stay."""

import keras
import nets
import numpy as np
import pytest
import random_nets

import tfap
from tfap import keras_compat
from tfap.compaction import compact
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras


def functional(keras, shape, build, **input_options):
    """A model of `build(input tensor)`, with random biases and statistics."""
    inputs = keras.Input(shape, **input_options)
    return randomized(keras.Model(inputs, build(inputs)))


def randomized(model):
    generator = np.random.default_rng(0)
    for layer in random_nets.all_layers(model):
        layer.set_weights([value + generator.uniform(0.1, 0.5, value.shape) for value in layer.get_weights()])
    return model


def make_constant(layer, channels, bias=None):
    """Zeroes what flows into some channels."""
    kernel, *others = layer.get_weights()
    kernel[..., channels] = 0
    if bias is not None:
        others[-1][channels] = bias
    layer.set_weights([kernel, *others])


def compacted(model, tolerance=1e-5):
    """The compacted model, after a look that both do the same and that the given one is as before."""
    before = [layer.get_weights() for layer in random_nets.all_layers(model)]
    smaller = tfap.compact(model)
    for layer, weights in zip(random_nets.all_layers(model), before):
        for now, then in zip(layer.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(now, then)
    assert random_nets.apart(model, smaller) < tolerance
    return smaller


def layer_of(model, name):
    (found,) = [layer for layer in random_nets.all_layers(model) if layer.name == name]
    return found


def weights(model, name):
    return layer_of(model, name).get_weights()


# -- exact weights ---------------------------------------------------------------------------------


@pytest.mark.smoke
def test_flatten_spreads_a_channel_over_positions(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.Conv2D(3, 2, activation="tanh", name="conv")(x)  # (2, 4, 3)
        return layers.Dense(5, name="dense")(layers.Flatten()(x))

    model = functional(keras_module, (3, 5, 2), build)
    make_constant(model.get_layer("conv"), [1], bias=0.7)
    kernel, bias = weights(model, "dense")
    by_channel = kernel.reshape(2, 4, 3, 5)
    smaller = compacted(model)
    new_kernel, new_bias = weights(smaller, "dense")
    np.testing.assert_array_equal(new_kernel, by_channel[:, :, [0, 2]].reshape(16, 5))
    np.testing.assert_allclose(new_bias, bias + np.tanh(0.7) * by_channel[:, :, 1].sum((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(weights(smaller, "conv")[0], weights(model, "conv")[0][..., [0, 2]])


def test_flatten_channels_first(keras_module):
    """Weights and no outputs: TensorFlow runs such a convolution only on CPUs for which it uses oneDNN."""
    layers = keras_module.layers

    def build(x):
        x = layers.Conv2D(3, 2, data_format="channels_first", name="conv")(x)  # (3, 2, 4)
        x = layers.BatchNormalization(axis=1, name="norm")(x)
        x = layers.PReLU(name="prelu")(x)
        x = layers.PReLU(shared_axes=[2, 3])(x)
        return layers.Dense(5, name="dense")(layers.Flatten(data_format="channels_first")(x))

    model = functional(keras_module, (2, 3, 5), build)
    make_constant(model.get_layer("conv"), [0], bias=3.0)
    norm = [np.array(value) for value in weights(model, "norm")]
    norm[1][0] = 4.0  # the constant is positive: PReLU leaves it
    model.get_layer("norm").set_weights(norm)
    smaller = compact.remove_dead_channels(model, Liveness(model)).model
    kernel, bias = weights(model, "dense")
    kernel = kernel.reshape(2, 4, 3, 5)  # Flatten puts channels last
    gamma, beta, mean, variance = (value[0] for value in norm)
    constant = gamma * (3.0 - mean) / np.sqrt(variance + 1e-3) + beta
    new_kernel, new_bias = weights(smaller, "dense")
    np.testing.assert_array_equal(new_kernel, kernel[:, :, 1:].reshape(16, 5))
    np.testing.assert_allclose(new_bias, bias + constant * kernel[:, :, 0].sum((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(weights(smaller, "conv")[0], weights(model, "conv")[0][..., 1:])
    np.testing.assert_array_equal(weights(smaller, "conv")[1], weights(model, "conv")[1][1:])
    np.testing.assert_array_equal(weights(smaller, "prelu")[0], weights(model, "prelu")[0][1:])
    np.testing.assert_array_equal(weights(smaller, "norm")[2], norm[2][1:])


@pytest.mark.parametrize("target", [(2, 3, 4), (2, 3, -1), (-1, 3, 4)])
def test_reshape_after_dense(keras_module, target):
    layers = keras_module.layers

    def build(x):
        x = layers.Dense(24, activation="relu", name="dense")(x)
        return layers.Conv2D(2, 2, name="conv")(layers.Reshape(target)(x))

    model = functional(keras_module, (5,), build)
    kernel, bias = weights(model, "dense")
    kernel.reshape(5, 6, 4)[..., [0, 3]] = 0
    bias.reshape(6, 4)[:, [0, 3]] = 0.5
    model.get_layer("dense").set_weights([kernel, bias])
    smaller = compacted(model)
    np.testing.assert_array_equal(
        weights(smaller, "dense")[0], kernel.reshape(5, 6, 4)[..., 1:3].reshape(5, 12)
    )
    np.testing.assert_array_equal(weights(smaller, "conv")[0], weights(model, "conv")[0][:, :, 1:3])


def test_reshape_needs_a_channel_to_die_at_all_positions(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.Dense(6, name="dense")(x)
        return layers.Conv1D(2, 1)(layers.Reshape((2, 3))(x))

    model = functional(keras_module, (5,), build)
    make_constant(model.get_layer("dense"), [1])  # channel 1 at the first position only
    assert compacted(model).get_layer("dense").units == 6


def test_reshape_to_one_position(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.Dense(4, name="dense")(x)
        x = layers.Reshape((1, 1, 4))(x)
        return layers.Conv2D(2, 1, padding="same", name="conv")(x)

    model = functional(keras_module, (5,), build)
    make_constant(model.get_layer("dense"), [2])
    smaller = compacted(model)
    np.testing.assert_array_equal(weights(smaller, "conv")[0], weights(model, "conv")[0][:, :, [0, 1, 3]])


@pytest.mark.smoke
def test_one_reshape_layer_at_two_places(keras_module):
    layers = keras_module.layers
    reshape = layers.Reshape((1, 6))

    def build(x):
        a, b = (reshape(layers.Dense(6, name=name)(x)) for name in "ab")
        return layers.Dense(2)(layers.Concatenate()([a, b]))

    model = functional(keras_module, (5,), build)
    make_constant(model.get_layer("a"), [1, 2])
    make_constant(model.get_layer("b"), [2, 3])
    smaller = compacted(model)
    assert [smaller.get_layer(name).units for name in "ab"] == [5, 5]  # unit 2, of both


def test_concatenate_of_three(keras_module):
    layers = keras_module.layers

    def build(x):
        parts = [layers.Dense(units, name=f"part_{units}")(x) for units in (2, 3, 4)]
        return layers.Dense(2, name="dense")(layers.Concatenate()(parts))

    model = functional(keras_module, (5,), build)
    make_constant(model.get_layer("part_2"), [0])
    make_constant(model.get_layer("part_3"), [0, 2])
    make_constant(model.get_layer("part_4"), [3])
    smaller = compacted(model)
    np.testing.assert_array_equal(weights(smaller, "dense")[0], weights(model, "dense")[0][[1, 3, 5, 6, 7]])


@pytest.mark.smoke
def test_depthwise_with_a_multiplier(keras_module):
    """Outputs 2i and 2i + 1 belong to input i: both have to be dead."""
    layers = keras_module.layers

    def build(x):
        x = layers.Conv2D(3, 1, name="conv")(x)
        x = layers.DepthwiseConv2D(2, depth_multiplier=2, activation="tanh", name="depthwise")(x)
        return layers.Conv2D(2, 1, name="reader")(x)

    model = functional(keras_module, (4, 4, 2), build)
    kernel, bias = weights(model, "reader")
    kernel[:, :, [0, 1, 4]] = 0  # both outputs of input 0, one of input 2
    model.get_layer("reader").set_weights([kernel, bias])
    smaller = compacted(model)
    assert smaller.get_layer("conv").filters == 2
    old, new = weights(model, "depthwise"), weights(smaller, "depthwise")
    np.testing.assert_array_equal(new[0], old[0][:, :, 1:])
    np.testing.assert_array_equal(new[1], old[1][2:])
    np.testing.assert_array_equal(weights(smaller, "reader")[0], kernel[:, :, 2:])


def grouped(keras, dead_in, dead_out):
    """8 channels -> 4 groups -> 12 channels; returns the model, compacted."""
    layers = keras.layers

    def build(x):
        x = layers.Conv2D(8, 1, name="before")(x)
        x = layers.Conv2D(12, 2, groups=4, name="grouped")(x)
        return layers.Conv2D(2, 1, name="after")(x)

    model = functional(keras, (4, 4, 2), build)
    make_constant(model.get_layer("before"), dead_in)
    kernel, bias = weights(model, "after")
    kernel[:, :, dead_out] = 0
    model.get_layer("after").set_weights([kernel, bias])
    return model, compacted(model)


def test_a_whole_group_dies(keras_module):
    model, smaller = grouped(keras_module, [], [3, 4, 5])
    layer = smaller.get_layer("grouped")
    assert (layer.groups, layer.filters, smaller.get_layer("before").filters) == (3, 9, 6)
    kept = [0, 1, 2, 6, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(layer.get_weights()[0], weights(model, "grouped")[0][..., kept])
    np.testing.assert_array_equal(
        weights(smaller, "before")[0], weights(model, "before")[0][..., [0, 1, 4, 5, 6, 7]]
    )


def test_groups_that_die_unevenly_keep_as_many_channels_as_the_largest(keras_module):
    _, smaller = grouped(keras_module, [0, 2], [0, 3, 4])
    layer = smaller.get_layer("grouped")
    # Groups 2 and 3 keep all, so nothing can go.
    assert (layer.groups, layer.filters, smaller.get_layer("before").filters) == (4, 12, 8)
    _, smaller = grouped(keras_module, [0, 2, 5, 7], [0, 1, 3, 6, 9])
    layer = smaller.get_layer("grouped")
    assert (layer.groups, layer.filters, smaller.get_layer("before").filters) == (4, 8, 4)


def test_one_group_is_left(keras_module):
    _, smaller = grouped(keras_module, [], list(range(9)))
    layer = smaller.get_layer("grouped")
    assert (layer.groups, layer.filters, smaller.get_layer("before").filters) == (1, 3, 2)


def test_a_grouped_convolution_that_is_all_dead(keras_module):
    _, smaller = grouped(keras_module, [], list(range(12)))
    layer = smaller.get_layer("grouped")
    assert (layer.groups, layer.filters, smaller.get_layer("before").filters) == (1, 1, 1)


@pytest.mark.parametrize("equation", ["abc,cd->abd", "...c,cd->...d"])
@pytest.mark.parametrize("units", [6, 4])  # square, and not
def test_einsum_dense(keras_module, equation, units):
    layers = keras_module.layers

    def build(x):
        x = layers.Dense(6, name="a")(x)
        shape = units if "..." in equation else (None, units)
        options = dict(output_shape=shape, bias_axes="d", activation="tanh")
        return layers.Dense(2, name="c")(layers.EinsumDense(equation, **options, name="b")(x))

    model = functional(keras_module, (3, 5), build)
    make_constant(model.get_layer("a"), [1, 2])
    make_constant(model.get_layer("b"), [0])
    smaller = compacted(model)
    np.testing.assert_array_equal(
        weights(smaller, "b")[0], weights(model, "b")[0][np.ix_([0, 3, 4, 5], range(1, units))]
    )


def test_embedding_from_given_vectors(keras_module):
    layers = keras_module.layers
    table = np.random.default_rng(0).normal(size=(9, 6))
    table[:, 2] = 0

    def build(x):
        initializer = keras_module.initializers.Constant(table)
        x = layers.Embedding(9, 6, embeddings_initializer=initializer, name="table", mask_zero=True)(x)
        return layers.Dense(2)(layers.GlobalAveragePooling1D()(x))

    inputs = keras_module.Input((5,), dtype="int32")
    model = keras_module.Model(inputs, build(inputs))
    smaller = compacted(model)
    np.testing.assert_array_equal(weights(smaller, "table")[0], np.delete(table, 2, axis=1).astype("float32"))


def test_an_embedding_of_computed_indices(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.Dense(4, activation="relu", name="indices")(x)
        x = layers.Embedding(500, 3, name="table")(x)
        return layers.Dense(2)(layers.Flatten()(x))

    model = functional(keras_module, (5,), build)
    make_constant(model.get_layer("indices"), [0])
    assert compacted(model).get_layer("indices").units == 4
    (kept,) = Liveness(model).kept()
    assert kept.reason == "'table' consumes it as indices"


def test_three_spatial_axes(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.Conv3D(5, 2, padding="same", name="conv")(x)
        x = layers.MaxPooling3D(2)(layers.BatchNormalization()(x))
        x = layers.Conv3DTranspose(4, 2, activation="relu", name="transposed")(x)
        x = layers.Cropping3D(1)(layers.UpSampling3D(2)(x))
        return layers.Dense(2)(layers.GlobalAveragePooling3D()(x))

    model = functional(keras_module, (4, 4, 4, 2), build)
    kernel, bias = weights(model, "transposed")  # (..., outputs, inputs)
    kernel[..., 2, :] = 0
    kernel[..., [0, 3]] = 0
    model.get_layer("transposed").set_weights([kernel, bias])
    smaller = compacted(model)
    np.testing.assert_array_equal(
        weights(smaller, "transposed")[0], kernel[..., [0, 1, 3], :][..., [1, 2, 4]]
    )


# -- whole models ----------------------------------------------------------------------------------


def test_a_layer_whose_units_are_all_dead(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.Conv2D(4, 3, padding="same", activation="sigmoid", name="conv")(x)
        x = layers.BatchNormalization()(x)
        return layers.Dense(3, name="dense")(layers.Flatten()(layers.MaxPooling2D()(x)))

    model = functional(keras_module, (4, 4, 2), build)
    make_constant(model.get_layer("conv"), range(4))
    smaller = compacted(model)
    assert smaller.get_layer("conv").filters == 1
    assert not weights(smaller, "dense")[0].any()  # its outputs are constants, all in the bias


def nested_twice(keras, inner_shape=(None, None, 4)):
    """An inner model called on values of different sizes."""
    layers = keras.layers
    inner_in = keras.Input(inner_shape)
    inner = keras.Model(inner_in, layers.Conv2D(5, 3, activation="relu", name="inner")(inner_in))

    def build(x):
        x = layers.Conv2D(4, 1, name="outer")(x)
        large, small = inner(x), inner(layers.MaxPooling2D()(x))
        pooled = [layers.GlobalMaxPooling2D()(value) for value in (large, small)]
        return layers.Dense(2, name="dense")(layers.Concatenate()(pooled))

    return functional(keras, (9, 9, 2), build)


@pytest.mark.smoke
def test_a_nested_model_that_is_called_on_two_sizes(keras_module):
    model = nested_twice(keras_module)
    make_constant(layer_of(model, "outer"), [1])
    make_constant(layer_of(model, "inner"), [1, 4])
    smaller = compacted(model)
    assert layer_of(smaller, "outer").filters == layer_of(smaller, "inner").filters == 3
    kept = [0, 2, 3, 5, 7, 8]  # of both calls
    np.testing.assert_array_equal(weights(smaller, "dense")[0], weights(model, "dense")[0][kept])
    x = np.zeros((2, 9, 9, 2), "float32")
    assert smaller(x).shape == (2, 2)


def test_a_nested_model_that_reads_two_constants(keras_module):
    """One bias cannot take both: the channel stays."""
    layers = keras_module.layers
    inner_in = keras_module.Input((4,))
    inner = keras_module.Model(inner_in, layers.Dense(3, name="inner")(inner_in))

    def build(x):
        x = layers.Dense(4, name="outer")(x)
        return layers.Add()([inner(x), inner(layers.Activation("tanh")(x))])

    model = functional(keras_module, (5,), build)
    make_constant(layer_of(model, "outer"), [0], bias=0.5)
    assert layer_of(compacted(model), "outer").units == 4
    make_constant(layer_of(model, "outer"), [0], bias=0.0)  # tanh(0) is 0 too
    assert layer_of(compacted(model), "outer").units == 3


def test_a_chain_through_nested_models(keras_module):
    """Channels go at every border; each layer of `nets.nested` loses one unit."""
    model = nets.nested(keras_module)
    expected = {}
    for layer in random_nets.all_layers(model):
        if layer.weights and layer.name != "output":
            make_constant(layer, [0])
            expected.setdefault(layer.units - 1, 0)
    smaller = compacted(model)
    left = [layer.units for layer in random_nets.all_layers(smaller) if layer.weights]
    assert sorted(left) == sorted([*expected, 3])


def test_a_nested_model_with_two_inputs_of_which_one_goes_straight_through(keras_module):
    layers = keras_module.layers
    a, b = keras_module.Input((4,), name="in_a"), keras_module.Input((5,), name="in_b")
    mixed = layers.Dense(3, name="mixed")(layers.Concatenate()([a, b]))
    unread = layers.Dense(7, name="unread")(b)
    inner = keras_module.Model([a, b], [mixed, a, unread])

    def build(x):
        mixed, straight, _ = inner([layers.Dense(4, name="a")(x), layers.Dense(5, name="b")(x)])
        return layers.Dense(2)(layers.Concatenate()([mixed, layers.Activation("tanh")(straight)]))

    model = functional(keras_module, (5,), build)
    make_constant(layer_of(model, "a"), [1])
    make_constant(layer_of(model, "b"), [0, 4])
    smaller = compacted(model)
    left = random_nets.sizes(smaller)
    assert [left[name] for name in ("a", "b", "mixed", "unread")] == [3, 3, 3, 1]
    kernel = weights(model, "mixed")[0]
    np.testing.assert_array_equal(weights(smaller, "mixed")[0], kernel[[0, 2, 3, 5, 6, 7]])


@pytest.mark.smoke
def test_dict_inputs_and_outputs(keras_module):
    layers = keras_module.layers
    left, right = keras_module.Input((3,), name="left"), keras_module.Input((4,), name="right")
    x = layers.Add()([layers.Dense(5, name="a")(left), layers.Dense(5, name="b")(right)])
    outputs = {"one": layers.Dense(2, name="one")(x), "two": layers.Dense(1, name="two")(x)}
    model = randomized(keras_module.Model({"right": right, "left": left}, outputs))
    make_constant(model.get_layer("a"), [0, 1])
    make_constant(model.get_layer("b"), [1, 2])
    smaller = compacted(model)
    assert [smaller.get_layer(name).units for name in "ab"] == [4, 4]  # channel 1, of both
    x = {"left": np.ones((2, 3), "float32"), "right": np.ones((2, 4), "float32")}
    for name, output in smaller(x).items():
        np.testing.assert_allclose(np.asarray(output), np.asarray(model(x)[name]), rtol=1e-5)


# JAX computes in float32, and so do some operations of Keras on PyTorch.
DOUBLE = 1e-12 if keras.config.backend() == "tensorflow" else 1e-6


@pytest.mark.parametrize(
    "policy, tolerance", [("mixed_float16", 1e-2), ("bfloat16", 5e-2), ("float64", DOUBLE)]
)
@pytest.mark.filterwarnings("ignore:.*Explicitly requested dtype float64.*")
@pytest.mark.filterwarnings("ignore:.*mixed_float16 may run slowly.*")
def test_precisions(keras_module, policy, tolerance):
    layers = keras_module.layers

    def build(x):
        x = a = layers.Conv2D(6, 3, activation="tanh", name="a", dtype=policy)(x)
        x = layers.BatchNormalization(dtype=policy)(x)
        x = layers.Activation("gelu", dtype=policy)(x)
        x = layers.Conv2D(6, 1, activation="elu", name="b", dtype=policy)(x)
        x = layers.GlobalAveragePooling2D(dtype=policy)(layers.Add(dtype=policy)([a, x]))
        return layers.Dense(2, dtype=policy.replace("mixed_float16", "float32"))(x)

    model = functional(keras_module, (6, 6, 2), build, dtype="float64" if policy == "float64" else "float32")
    for name in "ab":
        make_constant(model.get_layer(name), [0, 1, 2], bias=0.3)
    smaller = compacted(model, tolerance)
    assert [smaller.get_layer(name).filters for name in "ab"] == [3, 3]
    assert smaller.get_layer("a").compute_dtype == model.get_layer("a").compute_dtype


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="other backends have no strings")
def test_strings_as_inputs(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.StringLookup(vocabulary=["1", "2", "3"])(x)
        return layers.Dense(2)(layers.Flatten()(layers.Embedding(4, 6, name="table")(x)))

    inputs = keras_module.Input((1,), dtype="string")
    model = keras_module.Model(inputs, build(inputs))
    make_constant(model.get_layer("table"), [1, 5])
    assert tfap.compact(model).get_layer("table").output_dim == 4


def test_a_dropout_that_names_a_number_of_channels_still_trains(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.Dense(6, name="a")(x)
        x = layers.Dense(4, name="b")(layers.Dropout(0.5, noise_shape=(None, 1, 6))(x))
        return layers.Dense(2)(layers.Dropout(0.5, noise_shape=(None, 1, 1))(x))

    model = functional(keras_module, (3, 5), build)
    for name in "ab":
        make_constant(model.get_layer(name), [0])
    smaller = compacted(model)
    assert [smaller.get_layer(name).units for name in "ab"] == [6, 3]
    assert smaller(np.ones((2, 3, 5), "float32"), training=True).shape == (2, 3, 2)


# -- what has to stay, and the reason that is given ------------------------------------------------


def same_padding(layers, x):
    return layers.Flatten()(layers.Conv2D(2, 3, padding="same", name="reader")(x))


def zero_padding(layers, x):
    return layers.Conv2D(2, 3, name="reader")(layers.ZeroPadding2D(name="zeros")(x))


def one_branch(layers, x):
    return layers.Conv2D(2, 1)(layers.Add(name="add")([x, layers.Conv2D(4, 1, name="branch")(x)]))


def layer_normalization(layers, x):
    return layers.Conv2D(2, 1)(layers.LayerNormalization(name="reader")(x))


def softmax(layers, x):
    return layers.Conv2D(2, 1)(layers.Activation("softmax", name="reader")(x))


def depthwise(layers, x):
    return layers.Conv2D(2, 1)(layers.DepthwiseConv2D(3, padding="same", name="reader")(x))


def recurrent(layers, x):
    reader = layers.Bidirectional(layers.GRU(3), merge_mode=None, name="reader")
    return layers.Concatenate()(reader(layers.Reshape((25, 4))(x)))


def attention(layers, x):
    x = layers.Reshape((25, 4))(x)
    return layers.Attention(name="reader")([x, x])


def heads_without_bias(layers, x):
    x = layers.Reshape((25, 4))(x)
    return layers.MultiHeadAttention(2, 3, use_bias=False, name="reader")(x, x)


def permute(layers, x):
    return layers.Dense(2, name="reader")(layers.Permute((3, 1, 2))(x))


def output(layers, x):
    return [x, layers.Conv2D(2, 1)(x)]


def other_axis(layers, x):
    return layers.Dense(2)(layers.BatchNormalization(axis=1, name="reader")(x))


def spread_over_channels(layers, x):
    gate = layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    return layers.Conv2D(2, 1)(layers.Multiply(name="reader")([x, gate]))


@pytest.mark.parametrize(
    "build, name, words",
    [
        (same_padding, "conv", "'reader' cannot fold into its bias because of padding"),
        (zero_padding, "conv", "a nonzero constant, and 'zeros' pads it with zeros"),
        (depthwise, "conv", "a nonzero constant, and 'reader' pads it with zeros"),
        (one_branch, "branch", "coupled with channels that are not constant"),
        (layer_normalization, "conv", "'reader' subtracts the mean of all channels"),
        (softmax, "conv", "the activation 'reader' may combine channels"),
        (recurrent, "conv", "does not analyze Bidirectional layers with merge_mode=None"),
        (attention, "conv", "consumed by the Attention 'reader'"),
        (heads_without_bias, "conv", "a nonzero constant, and 'reader' has no bias to fold it into"),
        (permute, "conv", "'reader' consumes it along another axis"),
        (output, "conv", "an output of the model"),
        (other_axis, "conv", "'reader' works along another axis than that of the channels"),
    ],
)
def test_a_channel_that_looks_dead_stays(keras_module, build, name, words):
    layers = keras_module.layers
    model = functional(keras_module, (5, 5, 2), lambda x: build(layers, layers.Conv2D(4, 1, name="conv")(x)))
    make_constant(layer_of(model, name), [1], bias=0.5)
    assert random_nets.sizes(compacted(model)) == random_nets.sizes(model)
    (kept,) = [kept for kept in Liveness(model).kept() if kept.path == name]
    assert words in kept.reason
    assert kept.channels == 1


def test_a_fused_softmax_makes_no_constants(keras_module):
    layers = keras_module.layers

    def build(x):
        return layers.Dense(2)(layers.Dense(4, activation="softmax", name="softmax")(x))

    model = functional(keras_module, (5,), build)
    make_constant(model.get_layer("softmax"), [1])
    assert compacted(model).get_layer("softmax").units == 4
    (kept,) = Liveness(model).kept()
    assert (kept.path, kept.channels) == ("softmax", 1)
    assert kept.reason == "the activation of 'softmax' may combine channels"


def test_a_custom_layer_follows(keras_module):
    layers = keras_module.layers

    def build(x):
        x = random_nets.custom_layer(keras_module)(name="mine")(layers.Dense(4, name="a")(x))
        return layers.Dense(2)(x)

    model = functional(keras_module, (5,), build)
    make_constant(model.get_layer("a"), [1, 2])
    (kept,) = Liveness(model).kept()
    assert (kept.path, kept.channels) == ("a", 2)
    assert kept.reason == "it is consumed by the custom layer 'mine' (Twice), which tfap does not analyze"


def test_one_factor_for_all_channels_stays(keras_module):
    layers = keras_module.layers
    model = functional(
        keras_module,
        (5, 5, 2),
        lambda x: spread_over_channels(layers, layers.Conv2D(4, 1, name="conv")(x)),
    )
    make_constant(model.get_layer("conv"), [1], bias=0.0)  # 0 times anything is 0
    smaller = compacted(model)
    assert smaller.get_layer("conv").filters == 3 and smaller.get_layer("gate").filters == 1


def test_normalization_over_several_axes(both_kerases):
    _, tf_keras = both_kerases  # Keras 3 has none
    layers = tf_keras.layers

    def build(x):
        x = layers.Conv2D(4, 1, name="conv")(x)
        return layers.Conv2D(2, 1)(layers.BatchNormalization(axis=[1, 3], name="norm")(x))

    model = functional(tf_keras, (5, 6, 2), build)
    make_constant(model.get_layer("conv"), [0])
    (kept,) = Liveness(model).kept()
    assert kept.reason == "'norm' normalizes several axes"
    assert compacted(model).get_layer("conv").filters == 4


def test_dense_along_another_axis_than_the_channels(keras_module):
    """As many columns as channels: what is known of channel 1 is nothing about column 1."""
    layers = keras_module.layers

    def build(x):
        x = layers.Conv2D(4, 1, data_format="channels_first", name="conv")(x)
        return layers.Flatten()(layers.Dense(3, name="dense")(x))

    model = functional(keras_module, (2, 4, 4), build)
    make_constant(model.get_layer("conv"), [1])
    found = Liveness(model)
    assert found.foldable_inputs("dense") is None
    reason = "'dense' consumes it along another axis"
    if keras_compat.misreads_sums(model.get_layer("conv")):  # of as many columns as channels, in itself
        reason = "Keras 3 on TensorFlow adds its bias to another axis"
    assert [(one.path, one.reason) for one in found.kept()] == [("conv", reason)]


@pytest.mark.parametrize("activation", ["LeakyReLU", "ReLU", "ELU"])
def test_an_activation_layer_as_the_activation_of_another(keras_module, activation):
    layers = keras_module.layers
    inner = getattr(layers, activation)()
    model = functional(
        keras_module,
        (6,),
        lambda x: layers.Dense(2, name="last")(layers.Dense(5, activation=inner, name="wide")(x)),
    )
    make_constant(layer_of(model, "wide"), [1, 3], bias=0.5)
    assert layer_of(compacted(model), "wide").units == 3


def test_an_activation_with_weights_of_its_own_stays_whole(keras_module):
    layers = keras_module.layers
    hidden = layers.Dense(5, activation=layers.PReLU(), name="hidden")
    model = functional(
        keras_module, (6,), lambda x: layers.Dense(2, name="last")(hidden(layers.Dense(4, name="first")(x)))
    )
    model(np.zeros((1, 6), "float32"))  # Keras 3 makes the slopes only now
    make_constant(layer_of(model, "first"), [0], bias=0.5)
    smaller = compacted(model)
    assert (layer_of(smaller, "first").units, layer_of(smaller, "hidden").units) == (4, 5)
    reasons = {kept.path: kept.reason for kept in Liveness(model).kept()}
    assert "'hidden' (Dense), which has more weights than a kernel and a bias" in reasons["first"]
