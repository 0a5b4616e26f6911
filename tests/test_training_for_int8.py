"""tfmot's and Keras 3's quantization of what strip_pruning and compact return, and which zeros it keeps."""

import keras
import nets
import numpy as np
import pytest
import quantize
import tensorflow_model_optimization as tfmot
import tf_keras

import tfap
from tfap.exporting.contents import contents

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tfmot


@pytest.fixture(scope="module")
def stripped():
    """Depthwise separable convolutions and Dense layers of tf_keras with 80% zeros, and data."""
    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    stack = [layers.Input((8, 8, 1)), layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization()]
    stack += [layers.ReLU(), layers.DepthwiseConv2D(3), layers.Conv2D(16, 1, activation="relu")]
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(32, activation="relu")]
    stack += [layers.Dense(5, activation="softmax")]
    model = nets.compiled(tf_keras, tf_keras.Sequential(stack))
    wrapped = tfap.prune(model, 0.8, "magnitude", scope="local")
    tfap.update_masks(wrapped, 0.8)
    return tfap.strip_pruning(wrapped), nets.data(model, samples=64)


def zeros(model):
    """The number of zeros by the shape of kernels, which are all different."""
    kernels = [weight for weight in model.trainable_variables if weight.shape.rank >= 2]
    return {tuple(kernel.shape): int((kernel.numpy() == 0).sum()) for kernel in kernels}


DEPTHWISE = (3, 3, 8, 1)


def trained(model, x, y, callbacks=()):
    model.compile(tf_keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.parametrize(
    "way", [*(pytest.param(way, marks=pytest.mark.slow) for way in ("QAT", "PQAT")), "PQAT, KeepZeros"]
)
@pytest.mark.slow
def test_tfmots_training_for_int8(stripped, tmp_path, way):
    model, (x, y) = stripped
    given = zeros(model)
    assert given[3, 3, 1, 8] == 58 and given[DEPTHWISE] == 58 and given[16, 32] == 410
    quantizing = quantize.quantization_aware(model, preserve_zeros=way != "QAT")
    before = quantizing.get_weights()
    trained(quantizing, x, y, [quantize.KeepZeros()] if "Keep" in way else [])
    assert any(not np.array_equal(now, then) for now, then in zip(quantizing.get_weights(), before))
    kept = zeros(quantizing)
    lost = {shape for shape in given if kept[shape] < given[shape]}
    every = {shape for shape in given if given[shape]}
    assert lost == {"QAT": every, "PQAT": {DEPTHWISE}, "PQAT, KeepZeros": set()}[way]

    path = tfap.export(quantizing, tmp_path / "model.tflite", "tflite", quantize="int8", data=x)
    found = contents(path)
    assert not any(operation.floating for operation in found.operations)
    in_file = sum(int(kernel.is_zero.sum()) for kernel in found.kernels)
    assert (in_file >= sum(given.values())) == (way == "PQAT, KeepZeros")
    outputs, expected = tfap.load_runtime(path)(x)[0], np.asarray(quantizing(x))
    np.testing.assert_allclose(outputs, expected, atol=0.05)


@pytest.mark.slow
def test_tfmots_clustering_that_preserves_sparsity(stripped, tmp_path):
    model, (x, y) = stripped
    wrapped = trained(quantize.clustered(model, clusters=8), x, y)
    clustered = tfmot.clustering.keras.strip_clustering(wrapped)
    given, kept = zeros(model), zeros(clustered)
    assert {shape for shape in given if kept[shape] < given[shape]} == {DEPTHWISE}
    dense = clustered.layers[-2].kernel.numpy()
    assert dense.shape == (16, 32) and len(np.unique(dense)) <= 9
    path = tfap.export(clustered, tmp_path / "model.tflite", "tflite", quantize="int8", data=x)
    assert tfap.export_report(clustered, path, x).zeros_kept


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method")
def test_keras_3_quantizes_a_compacted_model(tmp_path):
    model = nets.mlp(keras, (20, 64, 32, 5))
    neurons = tfap.prune(model, 0.4, "magnitude", granularity="neuron")
    tfap.update_masks(neurons, 0.4)
    weights = tfap.prune(tfap.compact(tfap.strip_pruning(neurons)), 0.6, "magnitude")
    tfap.update_masks(weights, 0.6)
    small = tfap.strip_pruning(weights)
    assert small.count_params() < 0.7 * model.count_params()
    x, _ = nets.data(model)
    expected, given = np.asarray(small(x)), [w for w in small.get_weights() if w.ndim == 2]
    small.quantize("int8")
    kernels = [np.asarray(v) for v in small.variables if v.dtype == "int8"]
    assert [kernel.shape for kernel in kernels] == [weight.shape for weight in given]
    for kernel, weight in zip(kernels, given):
        assert not kernel[weight == 0].any()
    assert sum(int((weight == 0).sum()) for weight in given) > 500
    np.testing.assert_allclose(np.asarray(small(x)), expected, atol=0.05)
    for name in ("small.keras", "saved", "small.onnx"):
        format = {"saved": "saved_model"}.get(name, name.split(".")[-1])
        outputs = tfap.load_runtime(tfap.export(small, tmp_path / name, format))(x)[0]
        np.testing.assert_allclose(outputs, np.asarray(small(x)), atol=1e-5)
