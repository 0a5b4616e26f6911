import contextlib
import dataclasses
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import keras
import nets
import networks
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap import keras_compat
from tfap.exporting import formats, onnx, runtime, silence, tflite
from tfap.exporting.export import FORMATS, _Expected
from tfap.keras_compat import equality, rebuilding

pytestmark = pytest.mark.one_keras

FILES = {"saved_model": "folder", "keras": "model.keras", "tflite": "model.tflite", "onnx": "model.onnx"}
every_format = pytest.mark.parametrize("format", FILES)


def pruned(keras):
    wrapped = tfap.prune(nets.cnn(keras), 0.5, "magnitude")
    tfap.update_masks(wrapped, 0.5)
    return tfap.strip_pruning(wrapped)


def cnn(keras):
    """Random weights, half of them zero: BatchNormalization's are no longer those of a fresh model."""
    model, generator = nets.cnn(keras), np.random.default_rng(0)
    arrays = [generator.normal(size=weight.shape, scale=0.5) for weight in model.weights]
    for weight, array in zip(model.weights, arrays):
        array *= generator.random(weight.shape) < 0.5
        weight.assign(np.abs(array) if "variance" in weight.name else array)
    return model


def two_by_two(keras):
    """Two inputs and two outputs of equal shapes, whose names sort in the other order."""
    layers = keras.layers
    inputs = [keras.Input((3,), name="z_first"), keras.Input((3,), name="a_second", dtype="int32")]
    second = layers.Rescaling(1.0)(inputs[1])
    difference = layers.Subtract(name="z_difference")([inputs[0], second])
    outputs = [layers.Dense(2, name="z_head")(difference), layers.Dense(2, name="a_head")(inputs[0])]
    return keras.Model(inputs, outputs)


def compacted(keras):
    """A residual net with BatchNormalization that has lost channels."""
    model = networks.small_resnet(keras, (12, 12, 1), 3, widths=(6, 8, 8))
    schedule = tfap.ConstantSparsity(0.5, 1)
    wrapped = tfap.prune(model, schedule, "magnitude", scope="local", granularity="neuron", target="flops")
    tfap.update_masks(wrapped, 0.5)
    smaller = tfap.compact(tfap.strip_pruning(wrapped))
    assert smaller.count_params() < 0.6 * model.count_params()
    return smaller


MODELS = {
    "cnn": cnn,
    "mlp": nets.mlp,
    "nested": nets.nested,
    "two_by_two": two_by_two,
    "compacted": compacted,
}


# Marks of the nets that `make test` exports.
EXPORTED = {"cnn": [], "two_by_two": pytest.mark.smoke}


def wide(keras):
    return nets.mlp(keras, (64, 256, 256, 4))


def random_inputs(live, samples):
    generator = np.random.default_rng(1)
    return [
        generator.integers(0, 9, (samples, *entry.shape[1:])).astype(entry.dtype)
        if entry.dtype.kind == "i"
        else generator.normal(size=(samples, *entry.shape[1:])).astype(entry.dtype)
        for entry in live.inputs
    ]


@pytest.fixture(scope="module")
def plain():
    """A model for what does not depend on the Keras."""
    return nets.mlp(keras, (3, 4, 2))


@pytest.mark.parametrize(
    "net",
    [pytest.param(net, marks=EXPORTED.get(net, pytest.mark.slow)) for net in MODELS],
)
def test_every_file_gives_the_models_outputs_at_any_batch_size(keras_module, tmp_path, net):
    model = MODELS[net](keras_module)
    live = runtime.of_model(model)
    calls = []
    for samples in (1, 7):
        arrays = random_inputs(live, samples)
        outputs = model(arrays if len(arrays) > 1 else arrays[0])
        calls.append((arrays, [keras_compat.to_numpy(output) for output in tf.nest.flatten(outputs)]))
    assert_same(live, calls)
    for format, name in FILES.items():
        loaded = formats.load_runtime(tfap.export(model, tmp_path / name, format=format), threads=1)
        assert loaded.format == format
        assert loaded.inputs == live.inputs
        assert_same(loaded, calls)
    assert sorted(os.listdir(tmp_path)) == sorted(FILES.values())


def assert_same(loaded, calls):
    for arrays, expected in calls:
        outputs = loaded(*arrays)
        assert len(outputs) == len(expected), loaded
        for given, output in zip(outputs, expected):
            np.testing.assert_allclose(given, output, rtol=1e-4, atol=1e-5, err_msg=loaded.format)


@pytest.mark.smoke
def test_a_live_model_and_its_inputs(keras_module):
    model = two_by_two(keras_module)
    live = runtime.of_model(model)
    assert live.format == "keras"
    assert live.inputs == [
        runtime.Input("z_first", (None, 3), np.dtype("float32")),
        runtime.Input("a_second", (None, 3), np.dtype("int32")),
    ]
    model.set_weights([0 * weight for weight in model.get_weights()])
    assert not any(output.any() for output in live(np.ones((2, 3)), np.ones((2, 3))))


def test_saved_model_gives_the_same_outputs(keras_module, tmp_path):
    model = pruned(keras_module)
    tfap.export(model, tmp_path / "saved")
    x, _ = nets.data(model)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(x), model(x), atol=1e-6)
    assert sum(int((v.numpy() == 0).sum()) for v in loaded.variables if v.shape.rank == 4) > 0


@pytest.mark.slow
def test_keras_files_load_where_tfap_is_not_installed(both_kerases, tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    expected = {}
    for world in both_kerases:
        model = pruned(world)
        expected[world.__name__] = model(x)
        tfap.export(model, tmp_path / f"{world.__name__}.keras", format="keras")
    code = """
import sys; sys.modules["tfap"] = None  # as if it were not installed
import keras, numpy as np, tf_keras
for world in (keras, tf_keras):
    model = world.models.load_model(world.__name__ + ".keras")
    np.save(world.__name__ + ".npy", model(np.load("x.npy")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, output in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), output, atol=1e-6)


# -- kinds of models -------------------------------------------------------------------------------


@pytest.mark.smoke
def test_dicts_and_a_fixed_batch(keras_module, tmp_path):
    layers = keras_module.layers
    inputs = {name: keras_module.Input(batch_shape=(2, 3), name=name) for name in ("late", "early")}
    heads = {"up": layers.Dense(2)(inputs["late"]), "down": layers.Dense(2)(inputs["early"])}
    model = keras_module.Model(inputs, heads)
    early, late = np.ones((5, 3), "float32"), np.zeros((5, 3), "float32")
    expected = model({"late": late, "early": early})
    for format, name in FILES.items():
        loaded = formats.load_runtime(tfap.export(model, tmp_path / name, format=format))
        down, up = loaded(early, late)
        np.testing.assert_allclose(down, expected["down"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(up, expected["up"], rtol=1e-5, atol=1e-6)


def test_dicts_of_the_users(keras_module, tmp_path):
    """Arrays by the names of inputs, here too of a model that takes a list."""
    layers = keras_module.layers
    wide, narrow = keras_module.Input((4,), name="wide"), keras_module.Input((2,), name="narrow")
    x = layers.Dense(3)(layers.Concatenate()([layers.Dense(5, activation="relu")(wide), narrow]))
    generator = np.random.default_rng(0)
    data = {"narrow": generator.normal(size=(6, 2)), "wide": generator.normal(size=(6, 4))}
    for given in ([wide, narrow], {"wide": wide, "narrow": narrow}):
        model = keras_module.Model(given, x)
        tfap.export(model, tmp_path / "model", data=data)
        labels = np.asarray(model(data if isinstance(given, dict) else [data["wide"], data["narrow"]]))
        labels = labels.argmax(-1)
        assert tfap.report(model, data=(data, labels), batch_sizes=())["model"].score == 1
        batches = tf.data.Dataset.from_tensor_slices((data, labels)).batch(4)
        assert tfap.report(model, data=batches, batch_sizes=())["model"].score == 1
        report = tfap.compaction_report(model, tfap.compact(model), (data, labels))
        assert report.accuracy == (1, 1) and report.samples == 6


@pytest.mark.slow
def test_augmentation_is_off(keras_module, tmp_path):
    """Its layers train where nobody says that they should not."""
    layers = keras_module.layers
    stack = [layers.Input((6, 6, 1)), layers.RandomFlip(), layers.RandomRotation(0.5), layers.Flatten()]
    model = keras_module.Sequential([*stack, layers.Dense(3, activation="softmax")])
    x = np.random.default_rng(0).normal(size=(20, 6, 6, 1)).astype("float32")
    expected = model.predict(x, verbose=0)
    assert tfap.report(model, data=(x, expected.argmax(-1)), batch_sizes=())["model"].score == 1
    for format in ("saved_model", "tflite", "onnx"):
        loaded = formats.load_runtime(tfap.export(model, tmp_path / FILES[format], format=format, data=x))
        np.testing.assert_allclose(loaded(x)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.smoke
@pytest.mark.tensorflow_only(reason="other backends load the class in another process, from a module")
def test_a_subclassed_model(keras_module, tmp_path):
    model = nets.subclassed(keras_module, keras_module.layers.Dense(4, activation="relu"))
    with pytest.raises(ValueError, match="call it on data first"):
        tfap.export(model, tmp_path / "folder")
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    expected = model(x)
    for format in ("saved_model", "tflite", "onnx"):
        loaded = formats.load_runtime(tfap.export(model, tmp_path / FILES[format], format=format))
        np.testing.assert_allclose(loaded(x)[0], expected, rtol=1e-5, atol=1e-6)


def test_layers_that_tf2onnx_alone_does_not_convert(keras_module, tmp_path):
    layers = keras_module.layers
    grouped = layers.Conv2D(4, 3, groups=2, activation=keras_module.activations.gelu)
    model = keras_module.Sequential([layers.Input((5, 5, 2)), grouped])
    assert tfap.export(model, tmp_path / "model.onnx", format="onnx").exists()


@pytest.mark.parametrize("features", [3, 200])  # TensorFlow stores small and large constants in two ways
def test_constants_that_a_layer_holds_as_tensors(keras_module, tmp_path, features):
    layers = keras_module.layers
    statistics = np.random.default_rng(0).uniform(0.5, 2, size=(2, features))
    scale = layers.Normalization(mean=statistics[0], variance=statistics[1])
    model = keras_module.Sequential([layers.Input((features,)), scale, layers.Dense(2)])
    for format, name in FILES.items():
        loaded = formats.load_runtime(
            tfap.export(model, tmp_path / name, format=format)
        )  # compared by export
        assert len(loaded.inputs) == 1


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(keras_module, tmp_path, policy):
    layers = keras_module.layers
    stack = [layers.Input((8,)), layers.Dense(32, dtype=policy), layers.Dense(3, dtype=policy)]
    model = keras_module.Sequential(stack)
    for format in ("saved_model", "keras"):
        assert tfap.export(model, tmp_path / FILES[format], format=format).exists()


def test_layers_of_ones_own_need_not_be_registered(keras_module, tmp_path):
    class Double(keras_module.layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras_module.Sequential([keras_module.layers.Input((2,)), Double()])
    path = tfap.export(model, tmp_path / "model.keras", format="keras")
    with keras_module.saving.custom_object_scope({"Double": Double}):
        assert formats.load_runtime(path)([[1, 2]])[0].tolist() == [[2, 4]]


# -- quantization ----------------------------------------------------------------------------------


def test_dynamic_range_is_smaller_and_near(keras_module, tmp_path):
    model = wide(keras_module)
    exact = tfap.export(model, tmp_path / "exact.tflite", format="tflite")
    rounded = tfap.export(model, tmp_path / "rounded.tflite", format="tflite", quantize="dynamic_range")
    assert rounded.stat().st_size < 0.3 * exact.stat().st_size
    x, _ = nets.data(model, samples=7)
    np.testing.assert_allclose(formats.load_runtime(rounded)(x)[0], model(x), atol=0.05)


# -- what export leaves alone ----------------------------------------------------------------------


@pytest.mark.smoke
def test_nothing_is_printed_and_nothing_changed(keras_module, tmp_path, capfd, caplog):
    model = nets.mlp(keras_module)
    x, y = nets.data(model)
    model.fit(x, y, verbose=0)
    config, weights, before = model.get_config(), model.get_weights(), global_state()
    caplog.clear()  # after many tests TensorFlow warns that fit() is traced again
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for format, name in FILES.items():
            tfap.export(model, tmp_path / name, format=format)
    assert capfd.readouterr() == ("", "")
    assert not caught and not caplog.records
    assert global_state() == before
    assert model.get_config() == config
    for now, then in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(now, then)
    model.fit(x, y, verbose=0)


def global_state():
    return (
        dict(os.environ),
        list(warnings.filters),
        logging.root.manager.disable,
        tf.get_logger().level,
        logging.getLogger("tf2onnx").level,
        "object" in vars(np),
        keras.config.floatx(),
    )


def test_what_is_printed_before_and_after_stays(plain, tmp_path, capfd):
    print("before")
    tfap.export(plain, tmp_path / "model.onnx", format="onnx")
    print("after")
    os.write(2, b"C++")
    assert capfd.readouterr() == ("before\nafter\n", "C++")


@every_format
def test_an_earlier_export_is_replaced(tmp_path, format):
    path = tmp_path / "new" / FILES[format]
    for sizes in ((3, 2, 1), (4, 2, 1)):
        tfap.export(nets.mlp(keras, sizes), path, format=format)
    assert formats.load_runtime(path).inputs[0].shape == (None, 4)
    assert os.listdir(path.parent) == [FILES[format]]


@every_format
@pytest.mark.tensorflow_only(reason="other backends convert in another process, which is not patched")
def test_a_failure_leaves_what_was_there(plain, tmp_path, format, monkeypatch):
    def half(model, path, quantize, batch_size):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    path = tmp_path / FILES[format]
    for earlier in (False, True):
        if earlier:
            tfap.export(plain, path, format=format)
        before = contents(tmp_path)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setitem(FORMATS, format, dataclasses.replace(FORMATS[format], write=half))
            tfap.export(plain, path, format=format)
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(_Expected, "compare", lambda *args, **kwargs: 1 / 0)
            tfap.export(plain, path, format=format)
        assert contents(tmp_path) == before
        assert bool(before) == earlier


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# -- verification ----------------------------------------------------------------------------------


@every_format
@pytest.mark.tensorflow_only(reason="other backends convert in another process, which is not patched")
def test_another_output_is_an_error(plain, tmp_path, format, monkeypatch):
    write = FORMATS[format].write

    def wrong(model, path, quantize, batch_size):
        weights = model.get_weights()
        model.set_weights([weight + 0.01 for weight in weights])
        write(model, path, quantize, batch_size)
        model.set_weights(weights)

    monkeypatch.setitem(FORMATS, format, dataclasses.replace(FORMATS[format], write=wrong))
    with pytest.raises(RuntimeError, match=r"output 0 differs by 0.\d+; allowed is .*e-05.*verify=False"):
        tfap.export(plain, tmp_path / FILES[format], format=format)
    assert not contents(tmp_path)
    assert tfap.export(plain, tmp_path / FILES[format], format=format, verify=False).exists()


@pytest.mark.tensorflow_only(reason="other backends convert in another process, which is not patched")
def test_swapped_outputs_are_an_error(keras_module, tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "_in_model_order", lambda content, inputs: content)
    with pytest.raises(RuntimeError, match="does not (reproduce|run)"):
        tfap.export(two_by_two(keras_module), tmp_path / "model.tflite", format="tflite")


def test_data_of_the_users(keras_module, tmp_path):
    layers = keras_module.layers
    words = keras_module.Sequential([layers.Input((3,), dtype="int32"), layers.Embedding(10, 2)])
    x = np.arange(6).reshape(2, 3)
    for data in (None, x, [x], (x.tolist(),)):
        tfap.export(words, tmp_path / "model.onnx", format="onnx", data=data)
    assert formats.load_runtime(tmp_path / "model.onnx")(x)[0].shape == (2, 3, 2)
    with pytest.raises(ValueError, match=r"array of shape \(2, 2\); expected \(None, 3\)"):
        tfap.export(words, tmp_path / "model.onnx", format="onnx", data=x[:, :2])
    with pytest.raises(ValueError, match="Received 2 arrays; expected 1: "):
        tfap.export(words, tmp_path / "model.onnx", format="onnx", data=[x, x])


@pytest.mark.parametrize(
    ("given", "expected", "difference"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.5),
        ([np.nan, np.inf], [np.nan, np.inf], 0),
        ([np.nan], [1.0], np.inf),
        ([-np.inf], [np.inf], np.inf),
        ([], [], 0),
    ],
)
def test_largest_difference(given, expected, difference):
    np.testing.assert_equal(equality.largest_difference(np.array(given), np.array(expected)), difference)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("model", dict(format="pickle"), "Unknown format 'pickle'. Known: saved_model, keras, tflite, onnx"),
        ("model", dict(format="keras"), "must end in .keras"),
        ("model.keras", dict(format="tflite"), "must end in .tflite"),
        ("model", dict(format="onnx"), "must end in .onnx"),
        ("model.onnx", {}, "Pass format='onnx'"),
        ("model.onnx", dict(format="onnx", quantize="dynamic_range"), "for format='tflite' only"),
        ("model.tflite", dict(format="tflite", quantize="int4"), "Unknown quantize='int4'. Known: None"),
    ],
)
def test_bad_arguments(plain, tmp_path, path, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tfap.export(plain, tmp_path / path, **arguments)
    assert not list(tmp_path.iterdir())


def test_wrapped_models(keras_module, tmp_path):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5)
    for format, name in FILES.items():
        with pytest.raises(ValueError, match=re.escape("call strip_pruning() first")):
            tfap.export(wrapped, tmp_path / name, format=format)
    assert not list(tmp_path.iterdir())


@every_format
def test_other_files_are_not_replaced(plain, tmp_path, format):
    (tmp_path / FILES[format]).mkdir()
    (tmp_path / FILES[format] / "thesis.txt").write_text("!")
    with pytest.raises(ValueError, match="is a folder that is not an earlier export"):
        tfap.export(plain, tmp_path / FILES[format], format=format)
    (tmp_path / "file").write_text("!")
    with pytest.raises(ValueError, match="is a file: choose another path"):
        tfap.export(plain, tmp_path / "file")


@pytest.mark.parametrize(
    ("format", "module", "command"),
    [
        ("tflite", "ai_edge_litert.interpreter", "pip install 'tfap[tflite]'"),
        ("onnx", "onnxruntime", "pip install 'tfap[onnx]'"),
        ("onnx", "tf2onnx.convert", "pip install 'tfap[onnx]'"),
    ],
)
@pytest.mark.tensorflow_only(reason="other backends convert in another process, which is not patched")
def test_a_missing_package(plain, tmp_path, monkeypatch, format, module, command):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(command)):
        tfap.export(plain, tmp_path / FILES[format], format=format)
    assert not list(tmp_path.iterdir())
    if module != "tf2onnx.convert":
        path = tfap.export(plain, tmp_path / FILES[format], format=format, verify=False)
        with pytest.raises(ImportError, match=re.escape(command)):
            formats.load_runtime(path)


@pytest.mark.parametrize("format", ["tflite", "onnx"])
@pytest.mark.tensorflow_only(reason="the layer calls TensorFlow")
def test_what_a_format_cannot_hold(keras_module, tmp_path, format):
    class Odd(keras_module.layers.Layer):
        def call(self, x):
            return tf.numpy_function(lambda x: x, [x], tf.float32)

        def compute_output_shape(self, shape):
            return shape

    model = keras_module.Sequential([keras_module.layers.Input((2,)), Odd()])
    for verify in (True, False):
        with pytest.raises(ValueError, match=f"cannot be converted to format='{format}'"):
            tfap.export(model, tmp_path / FILES[format], format=format, verify=verify)
    assert not list(tmp_path.iterdir())


def test_loading_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at"):
        formats.load_runtime(tmp_path / "model.onnx")
    for path in (tmp_path, tmp_path / "model.h5"):
        with contextlib.suppress(IsADirectoryError):
            path.write_text("")
        with pytest.raises(ValueError, match="has an unknown format"):
            formats.load_runtime(path)


# -- threads ---------------------------------------------------------------------------------------


def overlapping(context, inside):
    """Runs `inside` in a context in two threads, the second of which begins before the first is done."""
    second_begins = threading.Event()

    def first():
        with context():
            inside()
            second_begins.set()
            time.sleep(0.1)

    def second():
        second_begins.wait()
        with context():
            inside()
            time.sleep(0.1)

    threads = [threading.Thread(target=function) for function in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_overlapping_exports_leave_nothing_behind(monkeypatch, capfd):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    before = global_state()
    overlapping(silence.quiet, lambda: os.environ.update(TF_CPP_MIN_LOG_LEVEL="3"))
    assert global_state() == before and logging.root.manager.disable == 0
    print("heard")
    assert capfd.readouterr().out == "heard\n"


def test_an_export_leaves_the_variables_of_other_threads(monkeypatch):
    monkeypatch.setenv("OF_ANOTHER_THREAD", "before")
    with silence.quiet():
        os.environ["OF_ANOTHER_THREAD"] = "after"
    assert os.environ["OF_ANOTHER_THREAD"] == "after"


def test_functions_do_not_stay_eager(monkeypatch):
    overlapping(onnx._inlined_functions, lambda: None)
    assert not tf.config.functions_run_eagerly()


def test_the_optimizer_is_not_lost_to_another_thread():
    """Both threads hide that a model is compiled while they rebuild it."""
    model = nets.mlp(keras)
    overlapping(lambda: rebuilding._hidden_compile(model), lambda: None)
    assert model.compiled


# -- quantized inputs and outputs ------------------------------------------------------------------


def integer_file(model, path, dtype):
    """Writes a model to a TFLite file whose inputs and outputs are integers."""
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(64, *model.inputs[0].shape[1:])).astype("float32")
    with silence.quiet(), tempfile.TemporaryDirectory() as folder:
        keras_compat.write_saved_model(model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        ops = tf.lite.OpsSet
        wide = ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [wide if dtype == "int16" else ops.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(dtype)
        path.write_bytes(converter.convert())
    return samples


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.tensorflow_only(reason="TensorFlow's converter writes the file")
def test_a_quantized_file_takes_and_returns_real_values(keras_module, tmp_path, dtype):
    model = nets.mlp(keras_module, (6, 16, 4))
    x = integer_file(model, tmp_path / "model.tflite", dtype)
    loaded = formats.load_runtime(tmp_path / "model.tflite")
    (entry,) = loaded.inputs
    assert entry.dtype == np.float32 and entry.quantization.dtype == np.dtype(dtype)
    (outputs,) = loaded(x)
    assert outputs.dtype == np.float32
    expected = np.asarray(model(x))
    np.testing.assert_allclose(outputs, expected, atol=0.03)
    y = expected.argmax(-1)
    report = tfap.report({"live": model, "file": tmp_path / "model.tflite"}, data=(x, y), batch_sizes=())
    assert report["live"].score == 1 and report["file"].score > 0.85  # a quarter by chance
    integers = entry.quantization.quantize(x)
    for given in (integers, integers.astype("int64")):
        with pytest.raises(ValueError, match=r"is quantized: received integers.*expected real.*astype"):
            loaded(given)
        with pytest.raises(ValueError, match="'file' cannot take data: .*is quantized: received integers"):
            tfap.report({"file": tmp_path / "model.tflite"}, data=(given, y), batch_sizes=())
    assert tfap.report(tmp_path / "model.tflite", batch_sizes=(1,), seconds=0)[0].latency[1].median > 0
    np.testing.assert_array_equal(loaded(entry.quantization.dequantize(integers))[0], outputs)


def test_integers_that_are_not_quantized(keras_module, tmp_path):
    """An image scaled to [0, 1] is black to a model of integers: that is an error, not a bad accuracy."""
    layers = keras_module.layers
    stack = [layers.Input((4,), dtype="uint8"), layers.Rescaling(1 / 255), layers.Dense(3)]
    model = keras_module.Sequential(stack)
    x, y = np.random.default_rng(0).integers(0, 256, (8, 4)), np.zeros(8, int)
    for file in (model, tfap.export(model, tmp_path / "folder")):
        loaded = formats.load_runtime(file)
        for good in (x, x.astype("uint8"), x.astype("float32")):
            np.testing.assert_array_equal(loaded(good)[0], loaded(x)[0])
        for bad in (x / 255, x - 1, x + 300, np.full((8, 4), np.nan)):
            with pytest.raises(ValueError, match=r"takes uint8: received .* cannot hold"):
                loaded(bad)
            with pytest.raises(ValueError, match="cannot take data: .*takes uint8"):
                tfap.report(file, data=(bad, y), batch_sizes=())


# -- fixed batches ---------------------------------------------------------------------------------


def recurrent(keras, kind, batch_size):
    layers, shape = keras.layers, (4, 5, 5, 1) if kind == "ConvLSTM2D" else (4, 3)
    layer = {
        "LSTM": lambda: layers.LSTM(3, name="recurrent"),
        "Bidirectional": lambda: layers.Bidirectional(layers.GRU(2, name="recurrent")),
        "ConvLSTM2D": lambda: layers.ConvLSTM2D(2, 3, name="recurrent"),
    }[kind]()
    stack = [keras.Input(batch_shape=(batch_size, *shape)), layer, layers.Flatten(), layers.Dense(2)]
    return keras.Sequential(stack)


@pytest.mark.parametrize("kind", ["LSTM", "Bidirectional", "ConvLSTM2D"])
@pytest.mark.slow
def test_recurrent_layers_of_a_fixed_batch(keras_module, tmp_path, kind):
    size = 2 if kind == "Bidirectional" else 1
    model = recurrent(keras_module, kind, size)
    loaded = formats.load_runtime(tfap.export(model, tmp_path / "model.tflite", format="tflite"))
    assert loaded.inputs[0].shape[0] == loaded.batch_size == size
    x = np.random.default_rng(0).normal(size=(6, *model.inputs[0].shape[1:])).astype("float32")
    expected = np.concatenate([model(x[at : at + size]) for at in range(0, 6, size)])
    for _ in range(2):  # LiteRT's LSTM would begin with the state that it had
        np.testing.assert_allclose(loaded(x)[0], expected, rtol=1e-4, atol=1e-5)
    if size == 1:
        return
    with pytest.raises(ValueError, match="received 5 samples; expected a multiple of .* batch size, 2"):
        loaded(x[:5])
    with pytest.raises(ValueError, match="received 0 samples; expected a multiple"):
        loaded(x[:0])
    np.testing.assert_allclose(loaded.padded(x[:5])[0], expected[:5], rtol=1e-4, atol=1e-5)
    y = expected.argmax(-1)
    report = tfap.report(tmp_path / "model.tflite", data=(x[:5], y[:5]), batch_sizes=(4,), seconds=0)
    assert report[0].score == 1 and report[0].latency[4].median > 0
    with pytest.raises(ValueError, match=r"fixed size, 2: received batch_sizes=\(1, 64\), expected mult"):
        tfap.report(tmp_path / "model.tflite", data=(x, y))


def test_the_error_of_recurrent_layers_names_the_ways_out(keras_module, tmp_path):
    model = recurrent(keras_module, "LSTM", None)
    message = (
        r"cannot be converted to format='tflite' \(for the recurrent layers .*recurrent.*unroll=True, or "
    )
    with pytest.raises(
        ValueError, match=message + r"a fixed batch with keras.Input\(batch_shape=\(1, ...\)\)"
    ):
        tfap.export(model, tmp_path / "model.tflite", format="tflite")
    assert not contents(tmp_path)


@every_format
def test_a_batch_size_that_is_not_needed_is_open(keras_module, tmp_path, format):
    """Sequential models without an Input have that of the first batch they were called on."""
    model = keras_module.Sequential([keras_module.layers.Dense(2)])
    model(np.ones((5, 3), "float32"))
    assert model.inputs[0].shape[0] == 5
    loaded = formats.load_runtime(tfap.export(model, tmp_path / FILES[format], format=format))
    assert loaded.inputs[0].shape == (None, 3) and loaded(np.ones((4, 3)))[0].shape == (4, 2)


@pytest.mark.parametrize("format", ["saved_model", "tflite", "onnx"])
@pytest.mark.tensorflow_only(reason="Keras exports with an open batch size on JAX")
def test_a_layer_that_needs_the_batch_size(keras_module, tmp_path, format):
    class Numbered(keras_module.layers.Layer):
        def call(self, x):
            return x + np.arange(int(x.shape[0]), dtype="float32")[:, None]

        def compute_output_shape(self, shape):
            return shape

    model = keras_module.Sequential([keras_module.Input(batch_shape=(3, 2)), Numbered()])
    live = formats.load_runtime(model)
    loaded = formats.load_runtime(tfap.export(model, tmp_path / FILES[format], format=format))
    for run in (live, loaded):
        assert run.batch_size == 3 and run(np.zeros((6, 2)))[0][:, 0].tolist() == [0, 1, 2, 0, 1, 2]


# -- precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
@pytest.mark.slow
def test_half_precision_to_float32(keras_module, tmp_path, policy):
    layers = keras_module.layers
    inputs = keras_module.Input((4, 3))
    x = layers.TimeDistributed(layers.Dense(5, dtype=policy), dtype=policy, name="each")(inputs)
    x = layers.Dense(4, activation="relu", dtype=policy, name="dense")(x)
    model = keras_module.Model(inputs, layers.Dense(2, dtype="float32", name="output")(x))
    with pytest.raises(ValueError, match="in float16 or bfloat16, pass dtype='float32'"):
        tfap.export(model, tmp_path / "model.tflite", format="tflite", verify=False)
    path = tfap.export(model, tmp_path / "model.tflite", format="tflite", dtype="float32")
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype("float32")
    np.testing.assert_allclose(formats.load_runtime(path)(x)[0], model(x), atol=0.05)
    assert model.get_layer("dense").compute_dtype in policy  # the model is as it was


def test_float32_weights_are_the_same(keras_module, tmp_path):
    layers = keras_module.layers
    half = {"dtype": "mixed_float16"}
    stack = [layers.Input((3, 2)), layers.Bidirectional(layers.GRU(2, **half), **half)]
    stack += [layers.BatchNormalization(), keras_module.Sequential([layers.Dense(2, dtype="float16")])]
    model = keras_module.Sequential(stack)
    path = tfap.export(model, tmp_path / "model.keras", format="keras", dtype="float32")
    loaded = keras_compat.load_model(path)
    assert {layer.compute_dtype for layer in keras_compat.all_layers(loaded)} == {"float32"}
    for new, old in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert new.dtype == np.float32
        np.testing.assert_array_equal(new, old)


def test_what_cannot_be_rebuilt_in_float32(keras_module, tmp_path):
    class Odd(keras_module.layers.Layer):
        def __init__(self, size):
            super().__init__(name="odd", dtype="float16")

        def call(self, x):
            return 2 * x

    for layer, message in [
        (Odd(3), "Layers of 'model' cannot be rebuilt in float32: 'odd'"),
        (None, "expected a built Sequential or Functional model"),
    ]:
        model = (
            keras_module.Sequential([keras_module.layers.Input((2,)), layer], name="model") if layer else None
        )
        if model is None:
            model = nets.subclassed(keras_module, keras_module.layers.Dense(4))
            model(np.ones((3, 6), "float32"))
        with pytest.raises(ValueError, match=message):
            tfap.export(model, tmp_path / "model", dtype="float32")
    with pytest.raises(ValueError, match="Unknown dtype='float16'. Known: None, 'float32'"):
        tfap.export(nets.mlp(keras_module), tmp_path / "model", dtype="float16")
    assert not contents(tmp_path)


@pytest.mark.parametrize("quantize", [None, "dynamic_range"])
def test_outputs_that_cannot_be_compared(keras_module, tmp_path, quantize):
    """A file is not verified if no value of an output was compared."""
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((3,)), layers.Dense(2)])
    model.layers[0].set_weights([np.full((3, 2), np.nan), np.zeros(2)])
    with pytest.raises(ValueError, match="output 0 is NaN in all 8 values.*verify=False"):
        tfap.export(model, tmp_path / "model.tflite", "tflite", quantize=quantize)
    assert not list(tmp_path.iterdir())
    assert tfap.export(model, tmp_path / "model.tflite", "tflite", verify=False).exists()
