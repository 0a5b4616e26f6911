"""Every misuse is a clear error before training starts, and loses nothing."""

import importlib
import os
import pathlib

import error_table
import joblib  # noqa: F401  (on import it sets an environment variable)
import nets
import numpy as np
import pytest

import tfap
from tfap import keras_compat

PAGE = (pathlib.Path(__file__).parent.parent / "docs/errors.md").read_text()
CASES = {code: case for cases in error_table.CASES.values() for code, case in cases.items()}


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def given(request, tmp_path_factory):
    """What the expressions are about, the same models for all of them, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp(request.param))
        yield error_table.names(importlib.import_module(request.param))


def state(given):
    """All that an error could spoil: weights, masks, settings of compile(), what is where, and files."""
    models = [given[name] for name in ("model", "pruned", "by_counts", "by_gradient", "linear")]
    return [
        [[array.tobytes() for array in model.get_weights()] for model in models],
        [nets.masks(model).keys() for model in models],
        [[(id(layer), layer.name, layer.trainable) for layer in model.layers] for model in models],
        [(id(getattr(model, "optimizer", None)), getattr(model, "loss", None)) for model in models],
        [int(model.optimizer.iterations.numpy()) for model in models if getattr(model, "optimizer", None)],
        sorted((str(path), path.read_bytes()) for path in pathlib.Path().rglob("*") if path.is_file()),
        sorted(os.environ.items()),
    ]


@pytest.mark.parametrize("code", CASES)
def test_it_is_an_error_and_nothing_is_lost(given, code):
    kind, message = CASES[code]
    before = state(given)
    with pytest.raises(kind, match=message) as raised:
        eval(code, dict(given))
    assert state(given) == before
    if given["keras"].__name__ == "keras":
        assert error_table.row(code, raised.value, message) in PAGE, "docs/errors.md is not up to date"


def test_the_page_has_no_other_rows():
    assert PAGE.count("\n| `") == len(CASES) >= 60


def nan(shape):
    return np.full(shape, np.nan)


def text(shape):
    return np.full(shape, "high")


@pytest.mark.parametrize("scores", [nan, text, lambda shape: None, lambda shape: np.ones(3)])
def test_scores_that_are_no_numbers_of_the_kernels_shape(given, scores):
    class Broken(tfap.Criterion):
        def scores(self, kernel):
            return scores(kernel.weights.shape)

    wrapped = tfap.prune(given["model"], 0.5, Broken())
    with pytest.raises(ValueError, match="Broken gave scores for 'hidden_0' that are not finite or not of"):
        tfap.update_masks(wrapped, 0.5)
    assert nets.pruned_weights(wrapped) == 0


def test_a_backend_that_tfap_does_not_support():
    with pytest.raises(ValueError, match="the backend 'numpy' of Keras: set KERAS_BACKEND to one of tensor"):
        keras_compat.backends.named("numpy")


@pytest.mark.tensorflow_only(reason="tf_keras")
def test_tf_keras_works_whatever_the_backend_of_keras_3(monkeypatch):
    import keras
    import tf_keras

    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    assert len(tfap.prunable_layers(tfap.prune(nets.mlp(tf_keras), 0.5))) == 2
