"""Singular values, reconstructions, factorized layers, the regularizer and the recorder."""

import hypothesis.strategies as st
import nets
import numpy as np
import pytest
import random_nets
import tensorflow as tf
from examples_per_run import examples
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from processes import run

import tfap
from tfap import low_rank
from tfap.keras_compat import equality, private

pytestmark = pytest.mark.one_keras

LAYERS = [
    ("Dense", (24,), dict(units=30)),
    ("Conv1D", (9, 8), dict(filters=16, kernel_size=3, padding="causal", dilation_rate=2)),
    ("Conv2D", (9, 8, 6), dict(filters=20, kernel_size=(3, 2), strides=2, padding="same")),
    ("Conv2D", (9, 8, 6), dict(filters=20, kernel_size=3, dilation_rate=2, use_bias=False)),
    ("Conv2D", (5, 5, 20), dict(filters=20, kernel_size=1, activation="tanh")),
    ("Conv3D", (4, 5, 6, 3), dict(filters=12, kernel_size=2)),
]
NAMES = ["Dense", "Conv1D causal", "Conv2D strided", "Conv2D dilated", "Conv2D 1x1", "Conv3D"]


def one_layer(keras, kind, shape, arguments):
    layer = getattr(keras.layers, kind)(name="layer", **arguments)
    return keras.Sequential([keras.layers.Input(shape), layer])


def dense(keras, kernel, **arguments):
    """A model of one Dense layer `dense` with this kernel."""
    kernel = np.asarray(kernel, "float32")
    layer = keras.layers.Dense(kernel.shape[1], name="dense", use_bias=False, **arguments)
    model = keras.Sequential([keras.layers.Input(kernel.shape[:1]), layer])
    layer.set_weights([kernel])
    return model


def lower(layer, rank, seed=0):
    """Gives a layer a kernel of a rank, exact but for rounding."""
    kernel, *others = layer.get_weights()
    generator, columns = np.random.default_rng(seed), kernel.shape[-1]
    product = generator.normal(size=(kernel.size // columns, rank)) @ generator.normal(size=(rank, columns))
    others = [generator.normal(size=value.shape) for value in others]
    layer.set_weights([product.reshape(kernel.shape) / 10, *others])


def apart(model, other):
    """The largest difference of two models' outputs, relative to the largest output."""
    return equality.difference(model, other).relative


def names_and_ranks(model):
    return [(layer.name, getattr(layer, "units", None)) for layer in model.layers if layer.weights]


# -- singular values and ranks -----------------------------------------------------------------------


@pytest.mark.smoke
def test_singular_values_of_a_matrix_with_known_ones(keras_module):
    model = dense(keras_module, [[0, -4, 0], [3, 0, 0]])  # a permutation with signs
    np.testing.assert_allclose(low_rank.singular_values(model)["dense"], [4, 3], rtol=1e-12)
    assert low_rank.singular_values(model)["dense"].dtype == np.float64
    assert low_rank.ranks(model) == {"dense": 2}
    assert low_rank.ranks(model, tolerance=3.5) == {"dense": 1}
    assert low_rank.ranks(model, tolerance=4) == {"dense": 0}


@pytest.mark.parametrize("kind,shape,arguments", LAYERS, ids=NAMES)
def test_a_convolution_is_the_matrix_of_its_windows(keras_module, kind, shape, arguments):
    model = one_layer(keras_module, kind, shape, arguments)
    kernel = model.layers[0].get_weights()[0].astype("float64")
    expected = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
    np.testing.assert_allclose(low_rank.singular_values(model)["layer"], expected, rtol=1e-12)


def test_a_transposed_convolution_feeds_its_last_axis_but_one(keras_module):
    model = one_layer(keras_module, "Conv2DTranspose", (4, 4, 3), dict(filters=5, kernel_size=2))
    kernel = np.zeros((2, 2, 5, 3), "float32")
    kernel[0, 1, 4, 0], kernel[1, 0, 2, 1] = 2, 7  # other inputs, other outputs
    kernel[0, 0, 2, 1] = 1  # the same output from another row of the window
    model.layers[0].set_weights([kernel, np.zeros(5)])
    values = low_rank.singular_values(model)["layer"]
    np.testing.assert_allclose(values, [50**0.5, 2, 0, 0, 0], atol=1e-12)


def test_layers_whose_kernel_is_no_matrix_are_left_out(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((8, 8, 4))
    x = layers.DepthwiseConv2D(3)(inputs)
    x = layers.SeparableConv2D(4, 3)(x)
    x = layers.Conv2D(4, 1, groups=2)(x)
    x = layers.Reshape((16, 4))(x)
    x = layers.EinsumDense("abc,bcd->abd", (16, 3))(x)  # a matrix for each position
    x = layers.EinsumDense("abc,cd->abd", (None, 5), name="einsum")(x)
    x = layers.TimeDistributed(layers.Dense(6), name="distributed")(x)
    outputs = layers.LSTM(3)(x)
    values = low_rank.singular_values(keras_module.Model(inputs, outputs))
    assert {path: len(found) for path, found in values.items()} == {"einsum": 3, "distributed": 5}


def test_wrapped_models_count_their_masked_kernels_under_the_same_paths(keras_module):
    pruned = tfap.prune(nets.cnn(keras_module), 0.5, criterion="magnitude")
    tfap.update_masks(pruned, 0.6)
    for wrapper in tfap.prunable_layers(pruned):  # as an averaging callback may leave it
        wrapper.layer.set_weights([value + 1 for value in wrapper.layer.get_weights()])
    wrapped, plain = (low_rank.singular_values(net) for net in (pruned, tfap.strip_pruning(pruned)))
    assert list(wrapped) == list(plain) == ["conv_a", "conv_b", "dense", "output"]
    for path, values in wrapped.items():
        np.testing.assert_array_equal(values, plain[path])


def test_nested_models(keras_module):
    paths = ["dense", "middle/inner/dense", "middle/dense", "output"]
    assert list(low_rank.ranks(nets.nested(keras_module))) == paths


FLOAT64 = pytest.param(
    "float64", marks=pytest.mark.tensorflow_only(reason="JAX has none, and PyTorch multiplies in float32")
)


@pytest.mark.parametrize("dtype", ["float16", "float32", FLOAT64])
def test_rounding_to_the_kernels_dtype_is_no_rank(keras_module, dtype):
    model = dense(keras_module, np.zeros((40, 30)), dtype=dtype)
    generator = np.random.default_rng(0)
    model.layers[0].set_weights([generator.normal(size=(40, 7)) @ generator.normal(size=(7, 30))])
    assert low_rank.ranks(model) == {"dense": 7}


def test_a_kernel_that_is_not_finite_is_named(keras_module):
    with pytest.raises(ValueError, match="'dense' has values that are not finite"):
        low_rank.singular_values(dense(keras_module, [[1, np.nan], [0, 1]]))


@pytest.mark.parametrize("tolerance", [-1, "small", np.nan])
def test_bad_tolerance(keras_module, tolerance):
    with pytest.raises(ValueError, match="number >= 0: received"):
        low_rank.ranks(nets.mlp(keras_module), tolerance)


# -- reconstructions ---------------------------------------------------------------------------------

KERNELS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays("float32", shape, elements=st.floats(-8, 8, width=16))
)


@settings(max_examples=examples(10, 1))
@given(kernel=KERNELS, rank=st.integers(0, 13))
@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_the_error_of_a_truncated_svd_is_the_tail_of_singular_values(name, kernel, rank):
    keras = pytest.importorskip(name)
    model = dense(keras, kernel)
    values = low_rank.singular_values(model)["dense"]
    made = low_rank.svd_reconstruction(model, rank).layers[0].get_weights()[0]
    error, tail = np.linalg.norm(made.astype("float64") - kernel), np.linalg.norm(values[rank:])
    assert error == pytest.approx(tail, rel=1e-4, abs=1e-5 * max(1, values[0]))
    assert low_rank.ranks(dense(keras, made))["dense"] <= rank


def test_components_are_kept_around_the_mean_input(keras_module):
    # The rows are (mean + one direction), so one component gives them back, and none their mean.
    mean, direction = np.array([1.0, 2, 3]), np.array([1.0, 0, -1])
    kernel = mean + np.outer([2, -1, 0, -1], direction)
    model = dense(keras_module, kernel)
    assert low_rank.ranks(model) == {"dense": 2}
    (same,) = low_rank.pca_reconstruction(model, 1).layers[0].get_weights()
    np.testing.assert_allclose(same, kernel, atol=1e-6)
    (means,) = low_rank.pca_reconstruction(model, {"dense": 0}).layers[0].get_weights()
    np.testing.assert_allclose(means, np.tile(mean, (4, 1)), atol=1e-6)


@pytest.mark.parametrize("kind,shape,arguments", LAYERS, ids=NAMES)
def test_reconstructed_ranks(keras_module, kind, shape, arguments):
    model = one_layer(keras_module, kind, shape, arguments)
    before = model.get_weights()
    assert low_rank.ranks(low_rank.svd_reconstruction(model, 5)) == {"layer": 5}
    assert low_rank.ranks(low_rank.pca_reconstruction(model, 5)) == {"layer": 6}  # and the mean
    for array, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, now)


def test_scikit_learn_gives_the_same_reconstruction(keras_module):
    decomposition = pytest.importorskip("sklearn.decomposition")
    model = nets.mlp(keras_module)
    kernel = model.layers[0].get_weights()[0]
    pca = decomposition.PCA(4).fit(kernel)
    expected = pca.inverse_transform(pca.transform(kernel))
    made = low_rank.pca_reconstruction(model, {"hidden_0": 4})
    np.testing.assert_allclose(made.layers[0].get_weights()[0], expected, atol=1e-5)
    for old, new in zip(model.layers[1:], made.layers[1:]):  # layers not named stay
        np.testing.assert_array_equal(old.get_weights()[0], new.get_weights()[0])
    assert made.optimizer is not None and made.loss == model.loss


@pytest.mark.parametrize(
    "ranks,error,message",
    [
        (-1, ValueError, "ranks must be at least 0: received -1"),
        (2.5, TypeError, "ranks must be an int or {layer path: int}: received 2.5"),
        (True, TypeError, "received True"),
        ({"pool": 2}, ValueError, "ranks names 'pool', .* these are conv_a, conv_b, dense, output"),
        ({"dense": "2"}, TypeError, "received '2'"),
    ],
)
def test_bad_ranks(keras_module, ranks, error, message):
    for reconstruct in (low_rank.svd_reconstruction, low_rank.pca_reconstruction):
        with pytest.raises(error, match=message):
            reconstruct(nets.cnn(keras_module), ranks)


def test_only_plain_built_graph_models(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5)
    for function in (low_rank.svd_reconstruction, low_rank.pca_reconstruction, low_rank.factorize):
        with pytest.raises(ValueError, match="still has pruning wrappers: call strip_pruning"):
            function(wrapped, 2)
        with pytest.raises(TypeError, match="takes a Keras model"):
            function("model", 2)
    with pytest.raises(ValueError, match="subclassed"):
        low_rank.singular_values(nets.subclassed(keras_module, keras_module.layers.Dense(3)))


# -- factorize ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind,shape,arguments", LAYERS, ids=NAMES)
def test_two_layers_do_what_one_of_low_rank_does(keras_module, kind, shape, arguments):
    model = one_layer(keras_module, kind, shape, arguments)
    lower(model.layers[0], 4)
    thin = low_rank.factorize(model, energy=1.0)
    first, second = thin.layers
    kernel = model.layers[0].get_weights()[0]
    assert (first.name, second.name) == ("layer_factor", "layer")
    assert first.get_weights()[0].shape == (*kernel.shape[:-1], 4)
    assert second.get_weights()[0].shape == (*[1] * (kernel.ndim - 2), 4, kernel.shape[-1])
    assert len(first.get_weights()) == 1
    assert thin.count_params() < model.count_params()
    assert apart(model, thin) < 1e-5
    assert thin.output_shape == model.output_shape


def test_a_pruned_net_of_low_rank_keeps_its_outputs_with_fewer_weights(keras_module):
    model = nets.mlp(keras_module, (40, 64, 48, 4))
    kernel, bias = model.layers[0].get_weights()
    kernel[:, 10:] = 0  # whole neurons
    model.layers[0].set_weights([kernel, bias])
    kernel, bias = model.layers[1].get_weights()
    kernel[:, 8:] = kernel[:, :1] * np.arange(40)  # repeated ones
    model.layers[1].set_weights([kernel, bias])
    for limit in (dict(energy=1.0), dict(error=0.0), dict(rank=1000)):
        thin = low_rank.factorize(model, **limit)
        assert names_and_ranks(thin) == [
            ("hidden_0_factor", 10),
            ("hidden_0", 64),
            ("hidden_1_factor", 8),
            ("hidden_1", 48),
            ("output", 4),  # 48 x 4 weights at rank 4: nothing saved
        ]
        assert apart(model, thin) < 1e-5
        assert thin.count_params() == model.count_params() - 40 * 64 + 104 * 10 - 64 * 48 + 112 * 8


LIMITS = [
    (dict(rank=2), 2),
    (dict(energy=0.79), 1),
    (dict(energy=0.85), 2),
    (dict(energy=0.95), 3),
    (dict(energy=1.0), 5),
    (dict(error=0.5), 1),
    (dict(error=0.4), 2),
    (dict(error=0.2), 3),
    (dict(error=0.0), 5),
]


@pytest.mark.parametrize("limit,rank", LIMITS)
def test_ranks_from_singular_values(keras_module, limit, rank):
    squares = np.array([80, 10, 9, 0.7, 0.3])  # of which 20%, 10%, 1%, 0.3% and nothing are lost
    kernel = np.zeros((40, 30))
    kernel[range(5), range(5)] = np.sqrt(squares)
    thin = low_rank.factorize(dense(keras_module, kernel), **limit)
    first, second = (layer.get_weights()[0] for layer in thin.layers)
    assert first.shape == (40, rank) and second.shape == (rank, 30)
    expected = kernel.copy()
    expected[rank:] = 0
    np.testing.assert_allclose(first @ second, expected, atol=1e-6)
    for diagonal in (first.T @ first, second @ second.T):  # each has the roots of the singular values
        np.testing.assert_allclose(np.diag(diagonal), np.sqrt(squares[:rank]), rtol=1e-5)


def test_ranks_by_layer_and_layers_by_name(keras_module):
    model = nets.nested(keras_module)
    for layer in random_nets.all_layers(model):
        if layer.name == "dense":
            lower(layer, 1)
    by_path = low_rank.factorize(model, {"middle/inner/dense": 1})
    assert [layer.name for layer in random_nets.all_layers(by_path)].count("dense_factor") == 1
    by_name = low_rank.factorize(model, 1, layers="dense")
    factors = [layer for layer in random_nets.all_layers(by_name) if "factor" in layer.name]
    assert [layer.units for layer in factors] == [1, 1, 1]
    assert len({layer.name for layer in factors}) == 3
    for thin in (by_path, by_name):
        assert apart(model, thin) < 1e-5


@pytest.mark.smoke
def test_shared_layers_have_two_shared_layers(keras_module):
    layers = keras_module.layers
    shared = layers.Dense(16, activation="tanh", name="shared")
    inner_in = keras_module.Input((16,))
    inner = keras_module.Model(inner_in, shared(inner_in), name="inner")
    tail = keras_module.Sequential([layers.Input((16,)), shared, layers.Dense(12, name="own")], name="tail")
    a, b = keras_module.Input((16,), name="a"), keras_module.Input((16,), name="b")
    x = layers.Concatenate(name="both")([shared(a), inner(shared(b))])
    model = keras_module.Model([a, b], {"wide": x, "tail": tail(a)})
    lower(shared, 3)
    lower(layer := tail.layers[-1], 3)
    thin = low_rank.factorize(model, energy=1.0)
    assert apart(model, thin) < 1e-5
    unique = {layer.name: layer for layer in random_nets.all_layers(thin)}
    assert set(unique) >= {"shared_factor", "shared", "own_factor", "own"}
    assert thin.count_params() == 2 * 48 + 16 + (16 + 12) * 3 + 12
    assert layer.units == 12 and type(unique["shared"]) is type(shared)


def test_a_functional_residual_net_goes_on_through_every_stage(keras_module, tmp_path):
    model = nets.cnn(keras_module)
    for name in ("conv_b", "dense"):
        lower(model.get_layer(name), 2)
    thin = low_rank.factorize(model, energy=1.0)
    assert [layer.name for layer in thin.layers if "factor" in layer.name] == [
        "conv_b_factor",
        "dense_factor",
    ]
    assert thin.count_params() < model.count_params()
    assert apart(model, thin) < 1e-5
    assert thin.output_names == model.output_names

    thin.save(tmp_path / "thin.keras")
    assert apart(thin, keras_module.models.load_model(tmp_path / "thin.keras", compile=False)) == 0
    assert apart(thin, tfap.compact(thin)) < 1e-5
    tfap.export(thin, tmp_path / "thin")
    pruned = tfap.prune(thin, 0.3)
    assert {"conv_a", "conv_b", "dense"} <= {layer.name for layer in tfap.prunable_layers(pruned)}
    nets.fit(pruned)  # compiled as the given model was
    assert tfap.compact(tfap.strip_pruning(pruned)).count_params() < thin.count_params()


def test_a_pruned_factor_is_compacted(keras_module):
    model = nets.mlp(keras_module, (40, 64, 48, 4))
    lower(model.layers[1], 6)
    thin = low_rank.factorize(model, {"hidden_1": 6})
    kernel, bias = thin.layers[0].get_weights()
    kernel[:, 20:] = 0
    thin.layers[0].set_weights([kernel, bias])
    assert names_and_ranks(tfap.compact(thin)) == [
        ("hidden_0", 20),
        ("hidden_1_factor", 6),
        ("hidden_1", 48),
        ("output", 4),
    ]


@pytest.mark.smoke
def test_frozen_layers_stay_frozen_and_what_was_meant_for_the_kernel_goes(keras_module):
    layers = keras_module.layers
    special = dict(
        kernel_regularizer=low_rank.SingularValueRegularizer(0.1),
        kernel_constraint=keras_module.constraints.NonNeg(),
        bias_regularizer=keras_module.regularizers.L2(0.5),
        activity_regularizer=keras_module.regularizers.L2(0.25),
    )
    model = keras_module.Sequential(
        [layers.Input((30,)), layers.Dense(40, "relu", trainable=False, name="dense", **special)]
    )
    lower(model.layers[0], 2)
    first, second = low_rank.factorize(model, rank=2).layers
    assert not first.trainable and not second.trainable
    assert first.kernel_regularizer is None and second.kernel_regularizer is None
    assert first.kernel_constraint is None and second.kernel_constraint is None
    assert first.bias is None and first.activity_regularizer is None
    assert float(second.bias_regularizer.l2) == 0.5 and float(second.activity_regularizer.l2) == 0.25
    assert (first.activation.__name__, second.activation.__name__) == ("linear", "relu")


@pytest.mark.parametrize("precision", ["mixed_float16", FLOAT64])
def test_precisions(keras_module, precision):
    layer = keras_module.layers.Dense(40, name="dense", dtype=precision)
    model = keras_module.Sequential([keras_module.layers.Input((30,)), layer])
    lower(layer, 2)
    thin = low_rank.factorize(model, energy=1.0)
    assert [layer.units for layer in thin.layers] == [2, 40]
    assert {layer.compute_dtype for layer in thin.layers} == {layer.compute_dtype}
    assert apart(model, thin) < {"mixed_float16": 5e-3, "float64": 1e-12}[precision]


def test_channels_first(keras_module):
    layer = keras_module.layers.Conv2D(16, 3, data_format="channels_first", name="conv")
    model = keras_module.Sequential([keras_module.layers.Input((8, 9, 7)), layer])
    lower(layer, 3)
    first, second = low_rank.factorize(model, energy=1.0).layers
    assert (first.data_format, second.data_format) == ("channels_first", "channels_first")
    assert (first.filters, second.filters) == (3, 16)


def test_a_layer_called_twice_in_a_sequential_model_of_tf_keras():
    keras = pytest.importorskip("tf_keras")
    layer = keras.layers.Dense(20, "tanh", name="twice")
    model = keras.Sequential([keras.layers.Input((20,)), layer, layer])
    lower(layer, 2)
    thin = low_rank.factorize(model, rank=2)
    assert apart(model, thin) < 1e-5
    assert thin.count_params() == 80 + 20


def test_a_zero_kernel_keeps_one_unit(keras_module):
    model = dense(keras_module, np.zeros((9, 8)))
    assert names_and_ranks(low_rank.factorize(model, energy=0.5)) == [("dense_factor", 1), ("dense", 8)]


def test_a_name_that_is_taken(keras_module):
    layers = [keras_module.layers.Input((20,))]
    layers += [keras_module.layers.Dense(20, name=name) for name in ("dense", "dense_factor")]
    thin = low_rank.factorize(keras_module.Sequential(layers), rank=2, layers="dense")
    assert [layer.name for layer in thin.layers] == ["dense_factor_", "dense", "dense_factor"]


@pytest.mark.parametrize(
    "arguments,error,message",
    [
        ({}, ValueError, "exactly one of rank, energy and error: received rank=None"),
        (dict(rank=2, energy=0.5), ValueError, "exactly one .* rank=2, energy=0.5, error=None"),
        (dict(energy=0), ValueError, r"energy must be in \(0, 1\]: received 0"),
        (dict(energy="all"), TypeError, r"energy must be a number in \(0, 1\]: received 'all'"),
        (dict(error=1), ValueError, r"error must be in \[0, 1\): received 1"),
        (dict(rank=0), ValueError, "rank must be at least 1: received 0"),
        (dict(rank=2.0), TypeError, "rank must be an int or {layer path: int}: received 2.0"),
        (dict(rank={"dens": 2}), ValueError, "no layer 'dens' in the model. Its layers are: conv_a"),
        (dict(rank={"dense": 2}, layers=["dense"]), ValueError, "remove the argument layers"),
        (dict(rank=2, layers=["depthwise"]), ValueError, "'depthwise' cannot be factorized: it is a Depth"),
        (dict(rank=9, layers="dense"), ValueError, r"saves no weights: .*'dense' rank 9 \(saves up to 5\)"),
        (dict(rank=9, layers=[]), ValueError, "saves no weights: .* nothing, as there is no Dense layer"),
    ],
)
def test_bad_arguments(keras_module, arguments, error, message):
    with pytest.raises(error, match=message):
        low_rank.factorize(nets.cnn(keras_module), **arguments)


# -- the regularizer ---------------------------------------------------------------------------------


def value_and_gradient(function, kernel):
    kernel = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        value = function(kernel)
    return value.numpy(), tape.gradient(value, kernel).numpy()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (2, 3, 4, 6), (3, 1, 20)])
def test_value_and_gradient_are_those_of_an_svd(shape, weighted):
    kernel = np.random.default_rng(0).normal(size=shape)
    left, values, right = np.linalg.svd(kernel.reshape(-1, shape[-1]), full_matrices=False)
    places = np.arange(1, len(values) + 1) if weighted else np.ones(len(values))
    penalty = low_rank.SingularValueRegularizer(0.3, weighted)
    value, gradient = value_and_gradient(penalty, kernel)
    assert value == pytest.approx(0.3 * (places * values).sum(), rel=1e-12)
    np.testing.assert_allclose(gradient, 0.3 * ((left * places) @ right).reshape(shape), atol=1e-10)

    direction = np.random.default_rng(1).normal(size=shape)
    up, down = (value_and_gradient(penalty, kernel + sign * 1e-6 * direction)[0] for sign in (1, -1))
    assert (up - down) / 2e-6 == pytest.approx((gradient * direction).sum(), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_where_singular_values_are_zero_the_gradient_is_a_subgradient(dtype):
    kernel = np.zeros((6, 4), dtype)
    kernel[0, 1], kernel[3, 2] = 3, -2  # pruned to rank 2
    expected = np.zeros((6, 4))
    expected[0, 1], expected[3, 2] = 1, -2
    value, gradient = value_and_gradient(low_rank.SingularValueRegularizer(1, weighted=True), kernel)
    assert value == 3 + 2 * 2 and value.dtype == dtype
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    value, gradient = value_and_gradient(low_rank.SingularValueRegularizer(1), np.zeros((6, 4), dtype))
    assert value == 0 and not gradient.any()


def test_what_is_not_finite_stays_so():
    value, gradient = value_and_gradient(low_rank.SingularValueRegularizer(1), np.full((4, 3), np.nan))
    assert np.isnan(value) and np.isnan(gradient).all()


@pytest.mark.parametrize(
    "precision,jit_compile",
    [
        ("float32", False),
        pytest.param("float32", True, marks=pytest.mark.not_on_torch(reason="torch.compile is not of tfap")),
        ("mixed_float16", False),
    ],
)
@pytest.mark.smoke
def test_a_fit_descends_along_the_gradient(keras_module, precision, jit_compile):
    layers = keras_module.layers
    penalty = low_rank.SingularValueRegularizer(1.0)
    layer = layers.Dense(5, kernel_regularizer=penalty, use_bias=False, dtype=precision)
    model = keras_module.Sequential([layers.Input((8,)), layer])
    kernel = model.get_weights()[0]
    left, values, right = np.linalg.svd(kernel, full_matrices=False)
    optimizer = keras_module.optimizers.SGD(0.125)
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    zeros = np.zeros((4, 8), "float32"), np.zeros((4, 5), "float32")  # the penalty is the whole loss
    history = model.fit(*zeros, epochs=1, verbose=0)
    assert history.history["loss"] == [pytest.approx(values.sum(), rel=1e-3)]
    np.testing.assert_allclose(model.get_weights()[0], kernel - 0.125 * left @ right, atol=1e-5)


@pytest.mark.parametrize(
    "keras_module,file",
    [("keras", "model.keras"), ("tf_keras", "model.keras"), ("tf_keras", "model.h5")],  # Keras 3 warns of .h5
    indirect=["keras_module"],
)
@pytest.mark.smoke
def test_the_regularizer_is_saved(keras_module, file, tmp_path):
    layer = keras_module.layers.Conv2D(
        4, 3, kernel_regularizer=low_rank.SingularValueRegularizer(0.25, weighted=True)
    )
    model = keras_module.Sequential([keras_module.layers.Input((6, 6, 2)), layer])
    model.save(tmp_path / file)
    # tf_keras finds registered regularizers in .keras files only.
    names = {"SingularValueRegularizer": low_rank.SingularValueRegularizer} if "h5" in file else {}
    loaded = keras_module.models.load_model(tmp_path / file, custom_objects=names)
    found = loaded.layers[0].kernel_regularizer
    assert isinstance(found, low_rank.SingularValueRegularizer)
    assert found.get_config() == {"strength": 0.25, "weighted": True}
    loss, expected = (float(np.asarray(each.losses[0])) for each in (loaded, model))
    assert loss == pytest.approx(expected) != 0


def test_it_lowers_the_singular_values_of_a_net_that_is_pruned(keras_module):
    layers, left = keras_module.layers, []
    for penalty in (None, low_rank.SingularValueRegularizer(0.1)):
        keras_module.utils.set_random_seed(0)
        hidden = layers.Dense(16, "relu", name="hidden", kernel_regularizer=penalty)
        model = [layers.Input((12,)), hidden, layers.Dense(3, "softmax", name="output")]
        model = keras_module.Sequential(model)
        model.compile(keras_module.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
        pruned = tfap.prune(model, tfap.ConstantSparsity(0.5, 1, frequency=100))
        nets.fit(pruned, epochs=5)
        left.append(low_rank.singular_values(tfap.strip_pruning(pruned))["hidden"])
    plain, lowered = left
    # 20 steps take 20 x 0.1 x 0.1 of each of the 8 that are left, give or take the loss's own gradient.
    assert plain[7] > 0.1 and plain[8] < 1e-12
    assert (plain - lowered)[:8].sum() == pytest.approx(8 * 0.2, rel=0.3)


ON_JAX = """
import jax, keras, numpy, tfap
generator = numpy.random.default_rng(0)
kernel = generator.normal(size=(2, 3, 4)).astype("float32")
left, values, right = numpy.linalg.svd(kernel.reshape(-1, 4), full_matrices=False)
penalty = tfap.low_rank.SingularValueRegularizer(0.3, weighted=True)
value, gradient = jax.jit(jax.value_and_grad(penalty))(kernel)
print(float(abs(value - 0.3 * (numpy.arange(1, 5) * values).sum())) < 1e-5)
print(float(abs(gradient - 0.3 * ((left * numpy.arange(1, 5)) @ right).reshape(kernel.shape)).max()) < 1e-5)
pruned = numpy.zeros((6, 4), "float16")
pruned[0, 1], pruned[3, 2] = 3, -2
value, gradient = jax.value_and_grad(tfap.low_rank.SingularValueRegularizer(1, weighted=True))(pruned)
print(float(value), value.dtype, numpy.flatnonzero(gradient), gradient[0, 1], gradient[3, 2])
print(numpy.isnan(tfap.low_rank.SingularValueRegularizer(1)(numpy.full((4, 3), numpy.nan, "float32"))))
"""


@pytest.mark.slow
def test_the_regularizer_on_jax():
    close, close_gradient, pruned, nan = run(ON_JAX).splitlines()
    assert close == close_gradient == nan == "True"
    assert pruned == "7.0 float16 [ 1 14] 1.0 -2.0"


def test_xla_is_noticed():
    seen = []

    def traced():
        seen.append(private.is_in_xla())
        return tf.cond(tf.constant(True), lambda: seen.append(private.is_in_xla()) or 1, lambda: 2)

    tf.function(traced, jit_compile=True)()
    assert seen == [True, True]
    tf.function(traced)()
    traced()
    assert seen[2:] == [False] * 4


@pytest.mark.parametrize(
    "strength,error", [("much", TypeError), (True, TypeError), (-1, ValueError), (np.inf, ValueError)]
)
def test_bad_strength(strength, error):
    with pytest.raises(error, match="strength must be a"):
        low_rank.SingularValueRegularizer(strength)


def test_no_singular_values_of_a_vector():
    with pytest.raises(ValueError, match=r"kernels of two axes or more: received the shape \(3,\)"):
        low_rank.SingularValueRegularizer(1)(np.ones(3))


# -- the recorder ------------------------------------------------------------------------------------


def test_singular_values_around_every_update(keras_module):
    pruned = tfap.prune(nets.mlp(keras_module), tfap.IterativeSparsity(0.6, updates=2, frequency=3))
    recorder = low_rank.RecordSingularValues()
    history = nets.fit(pruned, epochs=2, callbacks=[recorder])
    assert [record.step for record in recorder.history] == [3, 6]
    assert recorder.history[-1].sparsity == pytest.approx(history.history["sparsity"][-1])
    for record in recorder.history:
        assert list(record.before) == list(record.after) == ["hidden_0", "hidden_1"]
        for path, values in record.after.items():
            assert values.shape == record.before[path].shape
            # Whole columns became zero, which lowers every singular value and some to 0.
            assert (values <= record.before[path] + 1e-6).all()
    assert recorder.history[0].sparsity < recorder.history[1].sparsity
    first, second = recorder.history
    assert all((first.after[path] > 1e-6).sum() >= (second.after[path] > 1e-6).sum() for path in first.after)
    assert any(values[-1] == 0 for values in second.after.values())


def test_the_record_is_that_of_the_masked_kernels(keras_module):
    """One update in the last step: what is recorded after it is what the net ends with."""
    pruned = tfap.prune(nets.cnn(keras_module), tfap.ConstantSparsity(0.5, 4, frequency=100))
    recorder = low_rank.RecordSingularValues()
    nets.fit(pruned, callbacks=[recorder])
    (record,) = recorder.history
    values = low_rank.singular_values(pruned)
    assert list(record.after) == ["conv_a", "conv_b", "dense"]  # no depthwise kernel
    for path, after in record.after.items():
        np.testing.assert_array_equal(after, values[path])


def test_a_resumed_fit_records_on(keras_module):
    pruned = tfap.prune(nets.mlp(keras_module), tfap.IterativeSparsity(0.6, updates=2, frequency=4))
    recorder = low_rank.RecordSingularValues()
    for _ in range(2):
        nets.fit(pruned, callbacks=[recorder])
    assert [record.step for record in recorder.history] == [4, 8]
