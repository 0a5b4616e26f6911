"""fit_and_compact(teacher=...): models learn the outputs of a teacher, and evaluation keeps its own loss."""

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap import keras_compat


def softmax(x, temperature=1.0):
    e = np.exp(np.asarray(x, np.float64) / temperature)
    return e / e.sum(axis=-1, keepdims=True)


def net(keras, activation=None, seed=0, rate=0.0, units=4):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Input((6,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(3, activation)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
    model.compile(keras.optimizers.SGD(rate), loss)
    return model


def expected_loss(student, teacher, x, y, temperature, alpha, activation):
    """By hand: alpha * cross-entropy + (1 - alpha) * T^2 * KL(softened teacher, softened student)."""
    outputs = [np.asarray(model(x), np.float64) for model in (student, teacher)]
    logits = [np.log(values) if activation else values for values in outputs]
    own = -np.log(softmax(logits[0])[np.arange(len(y)), y]).mean()
    p, q = (softmax(values, temperature) for values in (logits[1], logits[0]))
    return alpha * own + (1 - alpha) * temperature**2 * (p * np.log(p / q)).sum(axis=1).mean(), own


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.one_keras
def test_the_loss_by_hand(keras_module, activation):
    """A rate of 0 keeps the weights, and a sparsity of 0 the neurons."""
    student, teacher = net(keras_module, activation), net(keras_module, activation, seed=1, units=9)
    before = teacher.get_weights()
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    y = np.arange(16) % 3
    fit = tfap.fit_and_compact(
        student, 0.0, x, y, teacher=teacher, temperature=2.0, alpha=0.25, batch_size=8, verbose=0,
        validation_data=(x, y),
    )  # fmt: skip
    loss, own = expected_loss(student, teacher, x, y, 2.0, 0.25, activation)
    logged = loss if keras_module.__name__ == "keras" else own  # tf_keras logs the model's own loss
    np.testing.assert_allclose(fit.history["loss"], [logged], rtol=1e-4)
    np.testing.assert_allclose(fit.history["val_loss"], [own], rtol=1e-4)
    for now, then in zip(teacher.get_weights(), before):
        np.testing.assert_array_equal(now, then)
    as_tensor = keras_module.ops.convert_to_tensor if hasattr(keras_module, "ops") else tf.constant
    batch = as_tensor(x), as_tensor(y)
    keras_compat.Lesson(student, teacher, 2.0, 0.25).give(student)
    np.testing.assert_allclose(float(student.compute_loss(*batch, student(batch[0]))), loss, rtol=1e-4)
    assert fit.model.count_params() == student.count_params() and teacher.trainable


@pytest.mark.slow
def test_a_pruned_model_learns_from_its_teacher(keras_module):
    """Labels are random, so what is learned of the teacher's outputs is learned from the teacher."""
    teacher = net(keras_module, units=32)
    x = np.random.default_rng(0).normal(size=(256, 6)).astype("float32")
    y = np.random.default_rng(1).integers(0, 3, 256)
    errors = []
    for options in ({}, {"teacher": teacher, "alpha": 0.0}):
        model = net(keras_module, rate=0.1, units=32)
        model.set_weights(teacher.get_weights())
        fit = tfap.fit_and_compact(model, 0.5, x, y, stages=2, epochs=8, batch_size=32, verbose=0, **options)
        assert fit.model.layers[0].units == 16
        errors.append(np.square(softmax(fit.model(x)) - softmax(teacher(x))).mean())
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"teacher": "model"}, TypeError, "teacher must be a Keras model: received str"),
        ({"temperature": 0}, ValueError, "temperature must be a number > 0: received 0"),
        ({"alpha": 1.5}, ValueError, r"alpha must be in \[0, 1\]: received 1.5"),
        ({"alpha": "half"}, TypeError, "alpha must be"),
    ],
)
def test_bad_arguments(keras_module, options, error, message):
    model = net(keras_module)
    with pytest.raises(error, match=message):
        tfap.fit_and_compact(model, 0.5, np.zeros((4, 6)), np.zeros(4), **{"teacher": model, **options})


def test_teachers_that_do_not_fit(keras_module):
    model, x = net(keras_module), np.zeros((4, 6))
    wider = keras_module.Sequential([keras_module.layers.Input((6,)), keras_module.layers.Dense(4)])
    for teacher, message in (
        (net(keras_module, "softmax"), "one of both models ends with a softmax"),
        (wider, "the teacher has inputs and outputs"),
        (nets.subclassed(keras_module, keras_module.layers.Dense(3)), "not a built Sequential or Functional"),
    ):
        with pytest.raises(ValueError, match=message):
            tfap.fit_and_compact(model, 0.5, x, np.zeros(4), teacher=teacher)


@pytest.mark.tensorflow_only("both Kerases are needed")
def test_a_teacher_of_the_other_keras(both_kerases):
    ours, theirs = (net(module) for module in both_kerases)
    with pytest.raises(ValueError, match="the teacher belongs to tf_keras, and the model to keras"):
        tfap.fit_and_compact(ours, 0.5, np.zeros((4, 6)), np.zeros(4), teacher=theirs)
