"""Quantized and sparse files: what they hold, and that they run as the model does."""

import sys
import tempfile

import keras
import nets
import numpy as np
import pytest

import tfap
from tfap.exporting import calibration, flatbuffer, micro, sparse_tflite
from tfap.exporting.contents import contents

pytestmark = pytest.mark.one_keras


def pruned_cnn(keras):
    """80% zeros per kernel, an all-zero channel without and one with a bias, and biases otherwise."""
    layers, generator = keras.layers, np.random.default_rng(0)
    stack = [
        layers.Input((8, 8, 3)),
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3),
        layers.Conv2D(32, 1, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(64, activation="relu"),
        layers.Dense(5, activation="softmax"),
    ]
    model = keras.Sequential(stack)
    arrays = []
    for weight in model.get_weights():
        array = generator.normal(size=weight.shape, scale=0.6)
        if array.ndim > 1:
            array *= np.abs(array) >= np.quantile(np.abs(array), 0.8)
        arrays.append(array)
    arrays[0][..., 1:3], arrays[1][1], arrays[1][2] = 0, 0, 0.7
    arrays[2][:, :, 4], arrays[3][4] = 0, 0
    model.set_weights(arrays)
    return model


def samples(count=32):
    return np.random.default_rng(1).normal(size=(count, 8, 8, 3)).astype("float32")


def zeros(model):
    return sum(int((weight == 0).sum()) for weight in model.get_weights() if weight.ndim > 1)


STORED = {
    "float16": dict(quantize="float16"),
    "int8": dict(quantize="int8"),
    "int8 inputs": dict(quantize="int8", inputs="int8"),
    "int16x8": dict(quantize="int16x8"),
    "int16 inputs": dict(quantize="int16x8", inputs="int16"),
    "onnx": dict(format="onnx", quantize="int8"),
}
QUICK = ("int8 inputs", "onnx")  # the others run in `make test-all`


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in STORED]
)
def test_a_quantized_file_keeps_outputs_and_zeros(keras_module, tmp_path, name):
    model, x = pruned_cnn(keras_module), samples()
    arguments = {"format": "tflite", **STORED[name]}
    path = tfap.export(model, tmp_path / f"model.{arguments['format']}", data=x, **arguments)
    report = tfap.export_report(model, path, x)
    loaded = tfap.load_runtime(path)
    expected = np.asarray(model(x))
    largest = np.abs(loaded(x)[0] - expected).max()
    assert report.difference == pytest.approx(largest, rel=1e-5) and largest < 0.05
    assert report.agreement == np.mean(loaded(x)[0].argmax(-1) == expected.argmax(-1)) >= 0.9
    assert report.model_zeros == zeros(model) > 2000
    assert report.zeros_kept and report.zeros >= zeros(model)
    assert [kernel.lost for kernel in report.kernels] == [0] * 5
    assert report.bytes == path.stat().st_size
    assert name == "onnx" or report.bytes < report.float_bytes  # its scales outweigh so few weights
    dtype = "float16" if name == "float16" else "int8"
    assert {kernel.dtype for kernel in report.kernels} == {dtype}
    stored = loaded.inputs[0].quantization
    assert (stored and stored.dtype.name) == {"int8 inputs": "int8", "int16 inputs": "int16"}.get(name)


def test_operations_that_stay_float_are_listed(tmp_path):
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(4)(keras.ops.sin(keras.layers.Dense(8)(inputs)))
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(20, 6))
    path = tfap.export(model, tmp_path / "mixed.tflite", "tflite", quantize="int8", data=x)
    found = {each.name: (each.integer, each.floating) for each in contents(path).operations}
    assert found.pop("FULLY_CONNECTED") == (2, 0)
    floats = tfap.export_report(model, path, x).float_operations
    assert set(floats) == {name for name, (_, floating) in found.items() if floating} == {"SIN"}


def test_several_inputs_and_a_fixed_batch(keras_module, tmp_path):
    layers = keras_module.layers
    wide = keras_module.Input(batch_shape=(4, 6), name="z_wide")
    narrow = keras_module.Input(batch_shape=(4, 3), name="a_narrow")
    joined = layers.Concatenate()([layers.Dense(8, activation="relu")(wide), narrow])
    model = keras_module.Model([wide, narrow], layers.Dense(3)(joined))
    generator = np.random.default_rng(0)
    data = {"a_narrow": 50 * generator.normal(size=(10, 3)), "z_wide": generator.normal(size=(10, 6))}
    path = tfap.export(model, tmp_path / "two.tflite", "tflite", quantize="int8", inputs="int8", data=data)
    entries = tfap.load_runtime(path).inputs
    limits = [127 * entry.quantization.scale for entry in entries]  # each input has the range of its data
    assert limits[0] < 5 < 40 < limits[1]
    assert tfap.export_report(model, path, data).difference < 2


# -- channels of zeros -----------------------------------------------------------------------------


@pytest.mark.tensorflow_only(reason="other backends convert in another process, which is not patched")
def test_scales_of_zero_channels_are_those_of_others():
    """The converter's own are close to 0 or 0, which LiteRT (int16x8) and TFLite Micro cannot run."""
    model, x = pruned_cnn(keras), samples()
    before, after = converted(model, x, monkey=True), converted(model, x, monkey=False)
    for given, made in zip(weight_scales(before), weight_scales(after)):
        small = given < 1e-5
        np.testing.assert_array_equal(made[~small], given[~small])
        np.testing.assert_array_equal(made[small], given.max())
    assert sum((scales < 1e-5).sum() for scales in weight_scales(before)) >= 3
    outputs = [sparse_tflite._outputs(content)[0] for content in (before, after)]
    np.testing.assert_allclose(*outputs, atol=0.01)


def converted(model, x, monkey):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if monkey:
            patch.setattr(calibration, "with_scales_of_zero_channels", lambda content: content)
        path = tfap.export(model, f"{folder}/m.tflite", "tflite", quantize="int8", data=x, verify=False)
        return path.read_bytes()


def weight_scales(content):
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    tensors = [tensor for tensor in graph.tensors if flatbuffer.dtype_of(tensor) == "int8"]
    constants = [tensor for tensor in tensors if flatbuffer.has_data(model, tensor)]
    scales = [np.asarray(tensor.quantization.scale) for tensor in constants]
    return [values for values in scales if len(values) > 1]


# -- sparse files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "quantize",
    [None, "int8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "dynamic_range"))],
)
def test_a_sparse_file_is_smaller_and_the_same(keras_module, tmp_path, quantize):
    model, x = larger(keras_module), samples()
    files = [
        tfap.export(model, tmp_path / f"{sparse}.tflite", "tflite", quantize=quantize, data=x, sparse=sparse)
        for sparse in (False, True)
    ]
    dense, sparse = (contents(file).kernels for file in files)
    assert files[1].stat().st_size < files[0].stat().st_size
    assert any(kernel.sparse for kernel in sparse) and not any(kernel.sparse for kernel in dense)
    for given, kernel in zip(dense, sparse, strict=True):
        np.testing.assert_array_equal(kernel.values, given.values)
        assert not kernel.sparse or kernel.stored_bytes < given.stored_bytes
    outputs = [tfap.load_runtime(file)(x)[0] for file in files]
    np.testing.assert_allclose(*outputs, atol=1e-5 if quantize is None else 0.01)


def larger(keras):
    """Zeros in single weights, and in blocks of 1 x 4 (inputs x outputs) in the Dense layer."""
    layers, generator = keras.layers, np.random.default_rng(0)
    stack = [layers.Input((8, 8, 3)), layers.Conv2D(32, 3, activation="relu"), layers.DepthwiseConv2D(3)]
    stack += [layers.Conv2D(64, 1, activation="relu"), layers.Flatten(), layers.Dense(24)]
    model = keras.Sequential(stack)
    arrays = [0.1 * generator.normal(size=weight.shape) for weight in model.get_weights()]
    for index in (0, 2, 4):
        arrays[index] *= generator.random(arrays[index].shape) < 0.1
    arrays[6] *= np.repeat(generator.random((arrays[6].shape[0], 6)) < 0.1, 4, axis=1)
    model.set_weights(arrays)
    return model


def test_blocks_take_fewer_bytes_than_single_weights():
    generator = np.random.default_rng(0)
    kept = np.repeat(generator.random((8, 64)) < 0.2, 4, axis=0)  # in blocks of 4 along the first axis
    values = (kept * generator.normal(size=(32, 64))).astype("float32")
    single, blocks = (sparse_tflite._encode(values, *block) for block in ((1, 1), (4, 1)))
    assert single.values.size == blocks.values.size == kept.sum()
    assert blocks.positions.size == single.positions.size / 4 == kept.sum() / 4


@pytest.mark.not_on_torch(reason="Keras does not export with track there")
def test_reading_what_tensorflow_writes(tmp_path):
    """The converter's own sparse encoding, and ours, mean the same kernels."""
    import tensorflow as tf

    from tfap import keras_compat
    from tfap.exporting.silence import quiet

    model = larger(keras)
    with quiet():
        keras_compat.write_saved_model(model, tmp_path / "saved")
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"), ["serving_default"])
        converter.optimizations = {tf.lite.Optimize.EXPERIMENTAL_SPARSITY}
        theirs = flatbuffer.kernels(flatbuffer.read(converter.convert()))
    assert all(kernel.sparse for kernel in theirs)
    ours = contents(tfap.export(model, tmp_path / "ours.tflite", "tflite", sparse=True)).kernels
    for their, our in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(their.values, our.values)
        assert their.stored_bytes >= our.stored_bytes


def test_a_kernel_without_zeros_stays_dense_and_is_told(tmp_path):
    model = nets.mlp(keras)
    with pytest.warns(UserWarning, match="No kernel in '.*' is sparse: none would be smaller"):
        path = tfap.export(model, tmp_path / "model.tflite", "tflite", sparse=True)
    assert not any(kernel.sparse for kernel in contents(path).kernels)


def test_the_report_measures_sparse_kernels(tmp_path):
    model = larger(keras)
    path = tfap.export(model, tmp_path / "model.tflite", "tflite", sparse=True)
    report = tfap.export_report(model, path, seconds=0.2)
    assert report.dense.low <= report.dense.median <= report.dense.high
    assert all((kernel.dense is not None) == kernel.sparse for kernel in report.kernels)
    assert "latency with dense kernels" in str(report) and not report.on_data
    again = sparse_tflite.densified(path.read_bytes())
    assert not any(kernel.sparse for kernel in flatbuffer.kernels(flatbuffer.read(again)))
    assert report.to_dict()["zeros"] == report.zeros == report.model_zeros == zeros(model)


def test_lost_zeros_are_told(tmp_path):
    model, x = pruned_cnn(keras), samples()
    path = tfap.export(model, tmp_path / "model.tflite", "tflite", quantize="int8", data=x)
    file = flatbuffer.read(path.read_bytes())
    dense = next(t for t in file.subgraphs[0].tensors if list(t.shape) == [64, 32] and t.type == 9)
    integers = flatbuffer.stored_values(file, dense).copy()
    flatbuffer.set_values(file, dense, np.where(integers == 0, 1, integers).astype("int8"))
    path.write_bytes(flatbuffer.to_bytes(file))
    report = tfap.export_report(model, path, x)
    lost = [kernel.lost for kernel in report.kernels]
    assert lost == [0, 0, 0, (model.get_weights()[6] == 0).sum(), 0]
    assert not report.zeros_kept and "not all kept" in str(report)


# -- TFLite Micro ----------------------------------------------------------------------------------


def test_without_tflite_micro_the_report_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    model, x = pruned_cnn(keras), samples()
    path = tfap.export(model, tmp_path / "model.tflite", "tflite", quantize="int8", data=x)
    report = tfap.export_report(model, path, x)
    assert report.micro.arena_bytes is None and "pip install 'tfap[micro]'" in str(report)


@pytest.mark.slow
@pytest.mark.skipif(not micro.is_installed(), reason="needs the extra micro")
def test_tflite_micro_runs_int8_files(tmp_path):
    model, x = pruned_cnn(keras), samples()
    for inputs in ("float", "int8"):
        path = tfap.export(model, tmp_path / "m.tflite", "tflite", quantize="int8", data=x, inputs=inputs)
        report = tfap.export_report(model, path, x)
        assert 1000 < report.micro.arena_bytes < 10**6 and report.micro.difference < 0.02, report.micro
    path = tfap.export(model, tmp_path / "dynamic.tflite", "tflite", quantize="dynamic_range")
    assert tfap.export_report(model, path, x).micro.reason.startswith("TFLite Micro does not run the file")
