import subprocess
import sys

import nets
import numpy as np
import tensorflow as tf

import tfap


def pruned(keras):
    wrapped = tfap.prune(nets.cnn(keras), 0.5)
    nets.fit(wrapped, epochs=2)
    return tfap.strip_pruning(wrapped)


def test_saved_model_gives_the_same_outputs(keras_module, tmp_path, capsys):
    model = pruned(keras_module)
    tfap.export(model, tmp_path / "saved")
    assert capsys.readouterr().out == ""
    x, _ = nets.data(model)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(x), model.predict(x, verbose=0), atol=1e-6)
    assert sum(int((v.numpy() == 0).sum()) for v in loaded.variables if v.shape.rank == 4) > 0


def test_keras_file_loads_where_tfap_is_not_installed(keras_module, tmp_path):
    model = pruned(keras_module)
    tfap.export(model, tmp_path / "plain.keras", format="keras")
    x, _ = nets.data(model)
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys; sys.modules["tfap"] = None  # as if it were not installed
import numpy as np, {keras_module.__name__} as keras
model = keras.models.load_model(r"{tmp_path}/plain.keras")
np.save(r"{tmp_path}/y.npy", model.predict(np.load(r"{tmp_path}/x.npy"), verbose=0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(x, verbose=0), atol=1e-6)
