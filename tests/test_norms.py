"""Width through normalizations over all channels: when a channel of the residual stream can go, and how."""

import numpy as np
import pytest

import tfap
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras

WIDTH = 8
ZERO = [2, 5, 7]
KEPT = [0, 1, 3, 4, 6]


@pytest.fixture(params=["RMSNormalization", "UnitNormalization"])
def scaling(request, keras_module):
    """A normalization that subtracts no mean."""
    if not hasattr(keras_module.layers, request.param):
        pytest.skip(f"{keras_module.__name__} does not have the layer")
    return request.param


def transformer(keras_module, norm, bias=True, activation="gelu"):
    """Embedding, and two feed-forward blocks whose shortcut is normalized before each of them."""
    layers = keras_module.layers
    make = getattr(layers, norm)
    inputs = keras_module.Input((5,), dtype="int32")
    x = layers.Embedding(11, WIDTH, name="embedding")(inputs)
    for block in range(2):
        branch = layers.Dense(6, activation=activation, name=f"up_{block}")(make(name=f"norm_{block}")(x))
        x = layers.Add()([x, layers.Dense(WIDTH, use_bias=bias, name=f"down_{block}")(branch)])
    outputs = layers.Dense(3, name="output")(make(name="norm_last")(x))
    model = keras_module.Model(inputs, outputs)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def writers(model):
    return [model.get_layer(name) for name in ("embedding", "down_0", "down_1")]


def with_zeros(model, channels=ZERO, bias=True):
    for layer in writers(model):
        kernel, *biases = layer.get_weights()
        kernel[:, channels] = 0
        for each in biases if bias else ():
            each[channels] = 0
        layer.set_weights([kernel, *biases])
    return model


def centered(model):
    """The channels that are kept get the sum zero."""
    for layer in writers(model):
        weights = layer.get_weights()
        for array in weights:
            array[..., KEPT] -= array[..., KEPT].mean(axis=-1, keepdims=True)
        layer.set_weights(weights)
    return model


def tokens():
    return np.arange(40).reshape(8, 5) * 7 % 11


def assert_equal_outputs(model, other):
    expected = np.asarray(model(tokens()))
    assert np.abs(np.asarray(other(tokens())) - expected).max() <= 1e-5 * np.abs(expected).max()


def width(model):
    return model.get_layer("embedding").output_dim


def test_zeros_go_through_scaling(keras_module, scaling, tmp_path):
    model = with_zeros(transformer(keras_module, scaling))
    small = tfap.compact(model)
    assert width(small) == 5
    assert type(small.get_layer("norm_0")) is type(model.get_layer("norm_0"))
    assert_equal_outputs(model, small)
    report = tfap.compaction_report(model, small)
    assert report.exact and not report.kept
    small.save(tmp_path / "small.keras")
    assert_equal_outputs(small, keras_module.models.load_model(tmp_path / "small.keras"))


def test_the_exact_rewrite_of_rms_normalization(keras_module):
    """For 8 channels of which 4 are zero: the scale is sqrt(2) times, epsilon 2 times larger."""
    layers = keras_module.layers
    if not hasattr(layers, "RMSNormalization"):
        pytest.skip("tf_keras does not have the layer")
    norm = layers.RMSNormalization(epsilon=0.25, name="norm")
    model = keras_module.Sequential(
        [layers.Input((3,)), layers.Dense(8, use_bias=False), norm, layers.Dense(2)]
    )
    kernel = np.random.default_rng(0).normal(size=(3, 8))
    kernel[:, ::2] = 0
    model.layers[0].set_weights([kernel])
    norm.set_weights([np.arange(8.0)])
    small = tfap.compact(model).get_layer("norm")
    assert small.epsilon == 0.5
    np.testing.assert_allclose(small.get_weights()[0], np.sqrt(2) * np.array([1, 3, 5, 7]), rtol=1e-6)


def test_a_constant_that_nothing_reads_goes_into_epsilon(keras_module):
    """The bias of channel 1 is 2, so that it adds 4 to the sum of squares."""
    layers = keras_module.layers
    if not hasattr(layers, "RMSNormalization"):
        pytest.skip("tf_keras does not have the layer")
    norm = layers.RMSNormalization(epsilon=0.5, name="norm")
    model = keras_module.Sequential(
        [layers.Input((3,)), layers.Dense(4, name="dense"), norm, layers.Dense(2, name="output")]
    )
    generator = np.random.default_rng(0)
    kernel, reader = generator.normal(size=(3, 4)), generator.normal(size=(4, 2))
    kernel[:, 1] = 0
    model.get_layer("dense").set_weights([kernel, np.array([0.5, 2.0, 0.3, 0.1])])
    model.get_layer("output").set_weights([reader, np.array([0.1, 0.2])])
    x = generator.normal(size=(6, 3)).astype("float32")
    assert tfap.compact(model).get_layer("dense").units == 4  # its normalized value varies
    (kept,) = Liveness(model).kept()
    assert kept.reason == "'norm' divides it by a number that depends on the other channels"
    reader[1] = 0
    model.get_layer("output").set_weights([reader, np.array([0.1, 0.2])])
    small = tfap.compact(model)
    assert small.get_layer("dense").units == 3
    assert small.get_layer("norm").epsilon == pytest.approx((4 * 0.5 + 4) / 3)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("where", ["embedding", "down_0", "down_1"])
def test_a_channel_that_one_branch_feeds_stays(keras_module, scaling, where):
    model = with_zeros(transformer(keras_module, scaling))
    layer = model.get_layer(where)
    kernel, *bias = layer.get_weights()
    kernel[:, 2] = 1
    layer.set_weights([kernel, *bias])
    small = tfap.compact(model)
    assert width(small) == 6
    assert_equal_outputs(model, small)


def test_a_channel_that_only_the_scale_depends_on_stays(keras_module, scaling):
    """Nothing reads channel 3, but the others are divided by it."""
    model = transformer(keras_module, scaling)
    for name in ("up_0", "up_1", "output"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[3] = 0
        model.get_layer(name).set_weights([kernel, bias])
    assert width(tfap.compact(model)) == WIDTH


def test_named_channels_are_removed_as_if_they_were_zero(keras_module, scaling):
    model = transformer(keras_module, scaling)
    small = tfap.remove(model, {"down_0": ZERO})
    assert width(small) == 5
    assert_equal_outputs(with_zeros(transformer(keras_module, scaling)), small)


@pytest.mark.slow
def test_prune_once_removes_width(keras_module, scaling):
    model = transformer(keras_module, scaling)
    for options in ({}, {"criterion": "magnitude"}):
        small = tfap.prune_once(model, tokens(), 0.5, target="neurons", **options)
        assert width(small) == 4 and small.get_layer("up_0").units == 3
        assert np.isfinite(np.asarray(small(tokens()))).all()
    assert width(tfap.prune_once(model, None, 0.3)) == WIDTH  # nothing takes the place of such a channel


def with_copies(model, factor=1.0):
    """Channels 2, 5 and 7 of the stream are multiples of 0, 1 and 3."""
    for layer in writers(model):
        weights = layer.get_weights()
        for array in weights:
            array[..., ZERO] = factor * array[..., [0, 1, 3]]
        layer.set_weights(weights)
    return model


@pytest.mark.parametrize("factor", [1.0, -0.5])
def test_prune_once_removes_copies_of_normalized_channels_exactly(keras_module, scaling, factor):
    model = with_copies(transformer(keras_module, scaling), factor)
    tokens_of_all = np.arange(11 * 5).reshape(11, 5) % 11
    options = {"target": "neurons", "skip": ["up_0", "up_1"], "ridge": 1e-12}
    small = tfap.prune_once(model, tokens_of_all, 3 / 8, **options)
    assert width(small) == 5
    expected = np.asarray(model(tokens_of_all))
    assert np.abs(expected - np.asarray(small(tokens_of_all))).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["linear", "gelu"])
def test_the_change_of_the_divisor_counts(keras_module, scaling, activation, monkeypatch):
    """Outputs are closer than without the normalizers, whether channels can be scaled or not."""

    def change(seed):
        layers, generator = keras_module.layers, np.random.default_rng(seed)
        norm = getattr(layers, scaling)(name="norm")
        stack = [layers.Dense(12, activation=activation, name="stream"), norm, layers.Dense(3, name="output")]
        model = keras_module.Sequential([layers.Input((6,)), *stack])
        spread = np.exp(0.7 * generator.normal(size=12))
        kernels = [generator.normal(size=(6, 12)) * spread, generator.normal(size=(12, 3))]
        model.get_layer("stream").set_weights([kernels[0], np.zeros(12)])
        model.get_layer("output").set_weights([kernels[1], np.zeros(3)])
        x = generator.normal(size=(300, 6)).astype("float32")
        small = tfap.prune_once(model, x[:200], 0.25, target="neurons", batch_size=200)
        return np.square(np.asarray(model(x[200:])) - np.asarray(small(x[200:]))).mean()

    changes = [change(seed) for seed in range(4)]
    monkeypatch.setattr("tfap.compaction.removable.normalizers_of", lambda *args: {})
    assert np.mean(changes) < np.mean([change(seed) for seed in range(4)])


def test_pruned_width_without_biases_goes(keras_module, scaling):
    model = transformer(keras_module, scaling, bias=False)
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="neuron", scope="local", target="neurons")
    tfap.update_masks(pruned, 0.5)
    stripped = tfap.strip_pruning(pruned)
    small = tfap.compact(stripped)
    assert width(small) == 4
    assert_equal_outputs(stripped, small)


def test_channels_that_are_never_zero_stay(keras_module, scaling):
    """Sigmoid makes 0.5 of zero."""
    layers = keras_module.layers
    norm = getattr(layers, scaling)(name="norm")
    stack = [layers.Dense(4, activation="sigmoid", name="hidden"), norm, layers.Dense(2, name="output")]
    model = keras_module.Sequential([layers.Input((3,)), layers.Dense(5, name="first"), *stack])
    with pytest.raises(ValueError, match="1 of the 1 named channels of the layer 'hidden' are not removable"):
        tfap.remove(model, {"hidden": [1]})
    assert tfap.remove(model, {"first": [1]}).get_layer("first").units == 4


# -- LayerNormalization ------------------------------------------------------------------------------


def test_centered_zeros_go_through_layer_normalization(keras_module):
    model = centered(with_zeros(transformer(keras_module, "LayerNormalization")))
    small = tfap.compact(model)
    assert width(small) == 5
    assert small.get_layer("norm_0").epsilon == pytest.approx(1e-3 * 8 / 5)
    assert_equal_outputs(model, small)
    assert tfap.compaction_report(model, small).exact


@pytest.mark.parametrize("where", ["kernel", "bias"])
def test_layer_normalization_of_other_values_keeps_the_width(keras_module, where):
    model = centered(with_zeros(transformer(keras_module, "LayerNormalization")))
    kernel, bias = model.get_layer("down_1").get_weights()
    if where == "kernel":
        kernel[0, 0] += 1e-2
    else:
        bias[0] += 1e-2
    model.get_layer("down_1").set_weights([kernel, bias])
    assert width(tfap.compact(model)) == WIDTH
    reason = "'norm_0' subtracts the mean of all channels, which depends on their number"
    assert {kept.reason for kept in Liveness(model).kept()} == {reason}
    with pytest.raises(ValueError, match="subtracts the mean"):
        tfap.remove(model, {"down_0": [0]})
    rows = {row.path: row.reason for row in tfap.plan(model, 0.5, "magnitude", granularity="neuron")}
    assert rows["embedding"] == f"its channels are not removable: {reason}" and not rows["up_0"]


@pytest.mark.parametrize("where", ["embedding", "down_1"])
def test_each_row_has_the_sum_zero_for_itself(keras_module, where):
    """A row of small weights may be all that there is, such as that of one token."""
    model = centered(with_zeros(transformer(keras_module, "LayerNormalization")))
    kernel, *bias = model.get_layer(where).get_weights()
    kernel[3] *= 1e-7
    kernel[3, 0] += 1e-7
    model.get_layer(where).set_weights([kernel, *bias])
    assert width(tfap.compact(model)) == WIDTH


@pytest.mark.parametrize("dtype, left", [("float64", 2), ("float32", 4)])
def test_biases_are_centered_to_rounding(keras_module, dtype, left):
    """Rounded to float32, the mean of 0.9288 and 0.9413 is wrong by 5e-6 of what it leaves of them."""
    layers = keras_module.layers
    stack = [layers.Dense(4, name="stream"), layers.LayerNormalization(), layers.Dense(2, name="output")]
    model = keras_module.Sequential([layers.Input((3,)), *stack])
    weights = []
    for array in ([[0.3, 0, -0.3, 0]] * 3, [0.9288, 0, 0.9413, 0]):
        array = np.asarray(array, "float32").astype(dtype)
        array[..., ::2] -= array[..., ::2].mean(axis=-1, keepdims=True)
        weights.append(array)
    model.get_layer("stream").set_weights(weights)
    assert tfap.compact(model).get_layer("stream").units == left


def test_channels_of_scale_zero_are_constants_after_it(keras_module):
    """The stream keeps them, and what reads only them becomes a constant."""
    model = transformer(keras_module, "LayerNormalization")
    norm, up = model.get_layer("norm_0"), model.get_layer("up_0")
    gamma, beta = norm.get_weights()
    gamma[ZERO] = 0
    norm.set_weights([gamma, beta])
    kernel, bias = up.get_weights()
    kernel[KEPT, 1] = 0  # unit 1 reads constants only
    up.set_weights([kernel, bias])
    small = tfap.compact(model)
    assert width(small) == WIDTH and small.get_layer("up_0").units == 5
    assert_equal_outputs(model, small)


def test_layer_normalization_of_constants(keras_module):
    """All of its inputs are constant, so its outputs are."""
    layers = keras_module.layers
    stack = [layers.LayerNormalization(), layers.Dense(4, "relu", name="hidden")]
    model = keras_module.Sequential([layers.Input((3,)), layers.Dense(4), *stack, layers.Dense(2)])
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    model.layers[0].set_weights([np.zeros((3, 4)), np.array([0.5, 2.0, 0.3, 0.1])])
    small = tfap.compact(model)
    assert small.get_layer("hidden").units == 1
    x = np.ones((2, 3), "float32")
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)
