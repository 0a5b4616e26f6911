"""Exports from JAX, of which some need a process with TensorFlow; `tfap.export` compares each file."""

import pytest
from processes import run

LAYERS = """
import keras
import jax.numpy as jnp

class Doubled(keras.layers.Layer):  # neither registered nor with weights
    def call(self, x):
        return keras.ops.add(x, x)

@keras.saving.register_keras_serializable()
class InJax(keras.layers.Layer):
    def call(self, x):
        return jnp.tanh(x)

def halved(x):
    return x / 2
"""

FILES = """
import pathlib, tempfile, keras, numpy, own_layers, tfap
folder = pathlib.Path(tempfile.mkdtemp())
x = numpy.random.default_rng(0).normal(size=(3, 4)).astype("float32")

def export(*layers, format="onnx", path="model.onnx", **arguments):
    model = keras.Sequential([keras.Input((4,)), *layers])
    try:
        run = tfap.load_runtime(tfap.export(model, folder / path, format, **arguments))
        print(numpy.abs(run(x)[0] - keras.ops.convert_to_numpy(model(x))).max() < 1e-6, run.format)
    except ValueError as error:
        print(" ".join(str(error).split()))

Dense = keras.layers.Dense
export(Dense(3, "gelu"), format="saved_model", path="model")
export(Dense(3, own_layers.halved), format="tflite", path="model.tflite")
export(Dense(3, own_layers.halved), own_layers.Doubled(), keras.layers.Lambda(lambda x: x + 1))
export(Dense(3), own_layers.InJax())
export(Dense(3), own_layers.InJax(), format="keras", path="model.keras")

class Here(keras.layers.Layer):
    def call(self, x):
        return x

export(Dense(3), Here())
print(sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.slow
def test_what_jax_does_not_write_is_written_by_tensorflow(tmp_path):
    (tmp_path / "own_layers.py").write_text(LAYERS)
    saved_model, tflite, onnx, in_jax, keras, here, files = run(FILES, path=tmp_path).splitlines()
    assert (saved_model, tflite, onnx) == ("True saved_model", "True tflite", "True onnx")
    assert "cannot be converted to format='onnx'" in in_jax and "compute in keras.ops" in in_jax
    assert keras == "True keras"
    assert "On the 'jax' backend, this file is written by another process" in here
    assert "in a module that can be imported, which these are not: Here." in here
    assert files == "['model', 'model.keras', 'model.onnx', 'model.tflite']"
