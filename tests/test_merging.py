"""Merging without data: planted duplicates go exactly, through every kind of layer; others approximately."""

import importlib

import nets
import numpy as np
import pytest
from examples_per_run import examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import tfap
from tfap import keras_compat


class Planter:
    """Builds a net, and makes channel `d` a multiple of channel `r` along the way."""

    def __init__(self, keras, seed):
        self.keras, self.layers = keras, keras.layers
        self.random = np.random.default_rng(seed)
        self.pairs = [(0, 3)]  # (r, d)
        self.scale = float(self.random.uniform(0.3, 3))  # of d, so far
        self.planted = []  # functions that write weights

    def linear(self, layer, keeps_scale=False, axis=-1):
        """Plants in the outputs of a layer that is built later. Returns it."""
        scale = self.scale if keeps_scale else float(self.random.uniform(0.3, 3))
        self.scale = scale

        def write():
            *kernels, bias = layer.get_weights()
            kernel = kernels[-1]
            bias[:] = self.random.normal(size=bias.shape)
            moved = np.moveaxis(kernel, axis, -1)
            for r, d in self.pairs:
                moved[..., d] = scale * moved[..., r]
                bias[d] = scale * bias[r]
            layer.set_weights([*kernels, bias])

        self.planted.append(write)
        return layer

    def norm(self, layer):
        scale, self.scale = self.scale, float(self.random.uniform(0.3, 3))
        new = self.scale

        def write():
            gamma, beta, mean, variance = (self.random.uniform(0.5, 2, w.shape) for w in layer.get_weights())
            for r, d in self.pairs:
                factor = gamma[r] / np.sqrt(variance[r] + layer.epsilon)
                gamma[d] = new * factor / scale * np.sqrt(variance[d] + layer.epsilon)
                beta[d] = new * (beta[r] - mean[r] * factor) + mean[d] * new * factor / scale
            layer.set_weights([gamma, beta, mean, variance])

        self.planted.append(write)
        return layer

    def depthwise(self, layer):
        scale, factor = self.scale, float(self.random.uniform(0.3, 3))
        self.scale = scale * factor

        def write():
            kernel, bias = layer.get_weights()
            bias[:] = self.random.normal(size=bias.shape)
            bias = bias.reshape(kernel.shape[-2:])
            for r, d in self.pairs:
                kernel[..., d, :] = factor * kernel[..., r, :]
                bias[d] = scale * factor * bias[r]
            layer.set_weights([kernel, bias.ravel()])

        self.planted.append(write)
        return layer


def dense(p, x):
    x = p.linear(p.layers.Dense(6, "relu", name="planted"))(p.layers.Flatten()(x))
    return p.layers.Dense(4, "relu")(x)


def dense_norm(p, x):
    x = p.linear(p.layers.Dense(6, name="planted"))(p.layers.Flatten()(x))
    x = p.norm(p.layers.BatchNormalization())(x)
    return p.layers.Dense(4)(p.layers.LeakyReLU()(x))


def sigmoid(p, x):
    p.scale = 1.0
    layer = p.linear(p.layers.Dense(6, "sigmoid", name="planted"), keeps_scale=True)
    return p.layers.Dense(4)(layer(p.layers.Flatten()(x)))


def convolution(p, x):
    x = p.linear(p.layers.Conv2D(6, 3, activation="relu", name="planted"))(x)
    x = p.layers.Conv2D(4, 3, strides=2, padding="same", activation="tanh")(x)
    return p.layers.GlobalAveragePooling2D()(x)


def convolution_norm(p, x):
    x = p.linear(p.layers.Conv2D(6, 3, name="planted"))(x)
    x = p.norm(p.layers.BatchNormalization())(x)
    x = p.layers.Conv2D(4, 3, dilation_rate=2, padding="same")(p.layers.ZeroPadding2D()(p.layers.ReLU()(x)))
    return p.layers.GlobalMaxPooling2D()(x)


def transposed(p, x):
    x = p.linear(p.layers.Conv2DTranspose(6, 3, activation="relu", name="planted"), axis=-2)(x)
    return p.layers.GlobalAveragePooling2D()(p.layers.Conv2DTranspose(4, 3, strides=2)(x))


def separable(p, x):
    x = p.linear(p.layers.SeparableConv2D(6, 3, activation="relu", name="planted"))(x)
    consumer = p.layers.SeparableConv2D(4, 3, depth_multiplier=2, padding="same")

    def write():
        depthwise, *others = consumer.get_weights()
        for r, d in p.pairs:
            depthwise[..., d, :] = 2 * depthwise[..., r, :]
        consumer.set_weights([depthwise, *others])

    p.planted.append(write)
    return p.layers.GlobalAveragePooling2D()(consumer(x))


def depthwise(p, x):
    x = p.linear(p.layers.Conv2D(6, 3, name="planted"))(x)
    x = p.norm(p.layers.BatchNormalization())(x)
    x = p.depthwise(p.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"))(p.layers.ReLU()(x))
    return p.layers.GlobalAveragePooling2D()(p.layers.Conv2D(4, 1)(p.layers.ReLU()(x)))


def flatten(p, x):
    x = p.linear(p.layers.Conv2D(6, 3, activation="relu", name="planted"))(x)
    return p.layers.Dense(4)(p.layers.Flatten()(p.layers.MaxPooling2D(2)(x)))


def residual(p, x):
    """Two branches whose channels are coupled: both have the duplicate, with the same factor."""
    a = p.linear(p.layers.Conv2D(6, 3, name="planted"))(x)
    a = p.norm(p.layers.BatchNormalization())(a)
    b = p.linear(p.layers.Conv2D(6, 3, name="other"), keeps_scale=True)(x)
    x = p.layers.ReLU()(p.layers.Add()([a, b]))
    return p.layers.GlobalAveragePooling2D()(p.layers.Conv2D(4, 3)(x))


def concatenate(p, x):
    a = p.linear(p.layers.Conv2D(6, 3, activation="relu", name="planted"))(x)
    x = p.layers.Concatenate()([p.layers.Conv2D(5, 3)(x), a])
    return p.layers.Dense(4)(p.layers.GlobalMaxPooling2D()(x))


def grouped(p, x):
    """Each group of the convolution loses one channel, as its groups must stay equally large."""
    p.pairs = [(0, 2), (3, 5)]
    x = p.linear(p.layers.Conv2D(6, 3, activation="relu", name="planted"))(x)
    return p.layers.GlobalAveragePooling2D()(p.layers.Conv2D(4, 3, groups=2)(x))


def nested(p, x):
    inner_in = p.keras.Input((6, 6, 3))
    inner = p.keras.Model(
        inner_in, p.linear(p.layers.Conv2D(6, 3, activation="relu", name="planted"))(inner_in)
    )
    return p.layers.Dense(4)(p.layers.GlobalAveragePooling2D()(p.layers.Dropout(0.5)(inner(x))))


def shared(p, x):
    layer = p.linear(p.layers.Conv2D(6, 3, activation="relu", name="planted"))
    consumer = p.layers.Conv2D(4, 3)
    a, b = consumer(layer(x)), consumer(layer(p.layers.ReLU()(x)))
    return p.layers.GlobalAveragePooling2D()(p.layers.Subtract()([a, b]))


KINDS = [
    *(dense, dense_norm, sigmoid, convolution, convolution_norm, transposed, separable, depthwise, flatten),
    *(residual, concatenate, grouped, nested, shared),
]


def planted(keras, kind, seed):
    keras.utils.set_random_seed(seed)
    planter = Planter(keras, seed)
    inputs = keras.Input((6, 6, 3))
    x = kind(planter, inputs)
    model = keras.Model(inputs, planter.layers.Dense(2, name="output")(x))
    for write in planter.planted:
        write()
    return model, len(planter.pairs)


def apart(model, other, seed=0):
    x = np.random.default_rng(seed).normal(size=(16, *model.inputs[0].shape[1:])).astype("float32")
    a, b = (np.asarray(each(x, training=False)) for each in (model, other))
    return abs(a - b).max() / abs(a).max()


def is_planted(layer):
    return layer.name in ("planted", "other")


def width(model):
    (layer,) = (each for each in keras_compat.all_layers(model) if each.name == "planted")
    return layer.units if hasattr(layer, "units") else layer.filters


CASES = [(name, kind) for kind in KINDS for name in ("keras", "tf_keras")]


@pytest.mark.one_keras
@pytest.mark.parametrize("keras_name, kind", CASES, ids=lambda value: getattr(value, "__name__", value))
@settings(max_examples=examples(1, 1 / 25), phases=[Phase.generate])  # shrinking would take minutes
@given(seed=st.integers(0, 10**6))
def test_duplicates_are_merged_exactly(keras_name, kind, seed):
    model, count = planted(importlib.import_module(keras_name), kind, seed)
    before = model.get_weights()
    options = {"target": "neurons", "skip": lambda layer: not is_planted(layer), "return_report": True}
    small, report = tfap.prune_once(model, None, count / 6, **options)

    assert apart(model, small) < 1e-4
    assert len(report.merges) == count and all(merge.is_exact for merge in report.merges)
    assert width(small) == 6 - count
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("scope", ["global", "local"])
def test_similar_neurons_are_merged_nearly(keras_module, scope):
    """With noise on a duplicate, merging changes the outputs less than dropping it; the report says so."""
    model, _ = planted(keras_module, dense_norm, 1)
    layer = model.get_layer("planted")
    kernel, bias = layer.get_weights()
    kernel[:, 3] *= 1 + 0.05 * np.random.default_rng(0).normal(size=len(kernel))
    layer.set_weights([kernel, bias])
    options = {"target": "neurons", "skip": lambda layer: not is_planted(layer), "scope": scope}
    small, report = tfap.prune_once(model, None, 1 / 6, return_report=True, **options)

    (merge,) = report.merges
    (row,) = report.layers
    assert {merge.removed, merge.kept} == {0, 3} and merge.path == "planted"
    assert 0.01 < merge.left_over < 0.1 and not merge.is_exact
    assert row.units == (4, 4) and row.inputs == (6, 5) and row.error_after < 0.02 * row.error_before
    assert 1e-4 < apart(model, small) < 0.1
    assert "0 of 1 removed channels are exact multiples of kept ones; the outputs change" in str(report)
    assert report.to_dict()["merges"][0]["removed"] == merge.removed and report.samples == 0


@pytest.mark.one_keras
def test_whole_models_get_smaller(keras_module):
    model = nets.cnn(keras_module)
    small, report = tfap.prune_once(model, None, 0.5, return_report=True)
    before, after = report.weights
    assert 0.4 * before < after < 0.7 * before and report.merges
    assert small.loss == model.loss and not report.recalibrated
    np.testing.assert_array_equal(np.isfinite(small.predict(nets.data(model)[0], verbose=0)), True)
    assert tfap.prune_once(model, None, 0.0).count_params() == model.count_params()


@pytest.mark.one_keras
def test_no_layer_loses_nearly_everything(keras_module):
    """By relative errors alone, neurons of wide layers would all go first, and with them the signal."""
    model = nets.mlp(keras_module, sizes=(12, 256, 16, 16, 4))
    _, report = tfap.prune_once(model, None, 0.6, target="neurons", return_report=True)
    for row in report.layers:
        assert row.inputs[1] >= 0.05 * row.inputs[0]


@pytest.mark.one_keras
def test_bad_arguments(keras_module):
    model = nets.mlp(keras_module)
    for options in ({"criterion": "magnitude"}, {"compensate": False}, {"compensate": "mean"}):
        with pytest.raises(ValueError, match="data is None, so similar neurons are merged"):
            tfap.prune_once(model, None, 0.5, **options)
    with pytest.raises(ValueError, match="can be removed"):
        tfap.prune_once(model, None, 0.5, skip=lambda layer: True)
    with pytest.raises(ValueError, match="sparsity must be in"):
        tfap.prune_once(model, None, 1.0)
