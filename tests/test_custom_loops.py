"""Training loops of the user's: with the calls of tfmot's guide, with all calls, and with too few."""

import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from absl import logging

import tfap
from tfap.keras_compat import tfmot

pytestmark = pytest.mark.tensorflow_only(reason="the loops take gradients from a GradientTape")


def step_of(keras, model, graph, times=1):
    """A training step with a GradientTape; `times` is how often it trains on each batch."""

    def step(x, y):
        for _ in range(times):
            with tf.GradientTape() as tape:
                loss = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True))
                loss = tf.reduce_mean(loss)
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    return tf.function(step) if graph else step


def batches(model):
    x, y = nets.data(model)
    return [(tf.constant(x[at : at + 16]), tf.constant(y[at : at + 16])) for at in range(0, 64, 16)]


def begun(model, callback=None):
    callback = callback or tfap.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    return callback


def pruned(keras, schedule=None, **settings):
    schedule = schedule or tfap.PolynomialDecay(0.0, 0.75, 2, 10, frequency=2)
    return nets.build_optimizer(tfap.prune_low_magnitude(nets.mlp(keras), schedule, **settings))


def sparsities(model):
    return [np.mean(mask == 0) for mask in nets.masks(model).values()]


@pytest.fixture
def warned(monkeypatch):
    texts = []
    monkeypatch.setattr(logging, "warning", lambda text, *rest: texts.append(text % rest if rest else text))
    return texts


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_the_loop_of_tfmots_guide(keras_module, graph, warned):
    """It calls on_epoch_end(batch=-1), and nothing after a step: masks change at the ends of epochs."""
    model = pruned(keras_module)
    step, callback = step_of(keras_module, model, graph), begun(model)
    expected = [[0.527] * 3, [0.75] * 3, [0.75] * 3]  # the updates of step 4, of step 8 and of step 10
    found = []
    for _ in range(3):
        for x, y in batches(model):
            step(x, y)
        callback.on_epoch_end(batch=-1)
        found.append(sparsities(model))
        assert {int(wrapper.pruning_step) for wrapper in tfap.prunable_layers(model)} == {4 * len(found)}
    schedule = tfap.PolynomialDecay(0.0, 0.75, 2, 10, frequency=2)
    expected = [float(schedule(at)[1]) for at in (4, 8, 10)]
    np.testing.assert_allclose(found, [[share] * 3 for share in expected], atol=0.02)
    plain = tfap.strip_pruning(model)
    assert np.mean(plain.layers[0].get_weights()[0] == 0) == 0.75
    assert len(warned) == 1 and "does not call on_train_batch_end(batch)" in warned[0]


def test_under_tfmots_own_callback_the_loop_gives_the_same_number_of_zeros():
    made = []
    for callback in (tfmot.sparsity.keras.UpdatePruningStep(), tfap.UpdatePruningStep()):
        model = pruned(tf_keras)
        step = step_of(tf_keras, model, graph=True)
        begun(model, callback)
        for _ in range(3):
            for x, y in batches(model):
                step(x, y)
            callback.on_epoch_end(batch=-1)
        made.append(sparsities(model))
    assert made[0] == made[1] == [0.75] * 3


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("times", [1, 2])
def test_with_all_calls_a_step_is_a_batch(keras_module, graph, times, warned):
    model = pruned(keras_module, tfap.ConstantSparsity(0.5, 3, 3, 1))
    step, callback, found = step_of(keras_module, model, graph, times), begun(model), []
    for at, (x, y) in enumerate(batches(model)):
        step(x, y)
        callback.on_train_batch_end(at)
        found.append(sparsities(model)[0])
    callback.on_epoch_end(0)
    callback.on_train_end()
    assert found == [0, 0, 0.5, 0.5] and not warned
    assert {int(wrapper.pruning_step) for wrapper in tfap.prunable_layers(model)} == {4}


@pytest.mark.parametrize("ends", [True, False], ids=["on_train_end", "strip_pruning"])
def test_a_loop_that_never_lets_the_callback_prune_is_an_error(keras_module, ends):
    model = pruned(keras_module)
    step, callback = step_of(keras_module, model, graph=False), begun(model)
    for x, y in batches(model):
        step(x, y)
    with pytest.raises(RuntimeError, match=r"neither on_train_batch_end\(batch\) after each step nor"):
        if ends:
            callback.on_train_end()
        else:
            tfap.strip_pruning(model)


def test_an_epoch_without_training_is_an_error(keras_module):
    model = pruned(keras_module)
    callback = begun(model)
    model(batches(model)[0][0])
    with pytest.raises(RuntimeError, match="was called with training=True in this epoch"):
        callback.on_epoch_end(batch=-1)


def test_calls_in_the_wrong_order_are_errors(keras_module):
    model = pruned(keras_module)
    callback = tfap.UpdatePruningStep()
    callback.set_model(model)
    with pytest.raises(RuntimeError, match=r"Call the callback's on_train_begin\(\) before"):
        callback.on_epoch_end(batch=-1)
    with pytest.raises(Exception, match=r"on_train_begin\(\)"):  # before it has begun, at the first step
        step_of(keras_module, model, graph=False)(*batches(model)[0])


def test_counts_in_a_loop_without_ends_of_steps(keras_module):
    """Every call counts, so the number of activations is that of the samples."""
    schedule = tfap.ConstantSparsity(0.5, 8, 8, 1)
    model = nets.build_optimizer(tfap.prune(nets.mlp(keras_module), schedule))
    step, callback = step_of(keras_module, model, graph=False), begun(model)
    for epoch in range(2):
        for x, y in batches(model):
            step(x, y)
        callback.on_epoch_end(epoch)
        assert (sum(sparsities(model)) > 0) == (epoch == 1)
    assert {int(wrapper.activations_seen) for wrapper in tfap.prunable_layers(model)} == {128}
