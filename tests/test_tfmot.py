"""tfap beside tfmot: the same masks, and schedules that work in tfmot's own wrapper and callback."""

import os
import subprocess
import sys

import nets
import numpy as np
import pytest
import tf_keras

import tfap
from tfap.keras_compat import tfmot


@pytest.fixture(autouse=True)
def seed():
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(0)


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.5, 0.75, 0.9375])
def test_local_magnitude_gives_tfmots_own_mask(sparsity):
    model = nets.mlp(tf_keras, (12, 32, 16, 4))
    schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, 1, end_step=1, frequency=1)
    theirs = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    ours = tfap.prune(model, schedule, "magnitude", scope="local", include=["output"])
    for wrapped, callback in (
        (theirs, tfmot.sparsity.keras.UpdatePruningStep()),
        (ours, tfap.UpdatePruningStep()),
    ):
        # Rate 0: both rank the same weights, whenever in the step they do it.
        wrapped.compile(tf_keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        nets.fit(wrapped, callbacks=[callback])
    pairs = list(zip(theirs.layers, ours.layers))
    assert len(pairs) == 3
    for their_layer, our_layer in pairs:
        ((_, mask, _),) = their_layer.pruning_vars
        np.testing.assert_array_equal(our_layer.mask.numpy(), mask.numpy())
        assert (our_layer.mask.numpy() == 0).sum() == round(sparsity * mask.numpy().size)


@pytest.mark.parametrize(
    "schedule",
    [
        tfap.IterativeSparsity(0.5, updates=3, frequency=4),
        tfap.PolynomialDecay(0.0, 0.875, 2, 12, frequency=2),
        tfap.ConstantSparsity(0.875, 4, frequency=4),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_step_schedules_in_tfmots_own_wrapper_and_callback(schedule, tmp_path):
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(nets.mlp(tf_keras, (8, 16, 8, 4)), schedule)
    nets.compiled(tf_keras, wrapped)
    nets.fit(wrapped, epochs=4, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    for layer in wrapped.layers:
        assert np.mean(layer.layer.get_weights()[0] == 0) == 0.875

    wrapped.save(tmp_path / "wrapped.h5")
    with tfmot.sparsity.keras.prune_scope():
        loaded = tf_keras.models.load_model(tmp_path / "wrapped.h5")
    assert loaded.layers[0].pruning_schedule.get_config() == schedule.get_config()


@pytest.mark.parametrize("first", ["tfap", "tensorflow", "keras", "tf_keras"])
def test_import_leaves_tf_keras_and_the_environment_alone(first):
    code = f"""
import {first}
import tfap, os, tensorflow as tf
print(tf.keras.version(), os.environ.get("TF_USE_LEGACY_KERAS"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("3.") and done.stdout.split()[1] == "None", done.stderr
