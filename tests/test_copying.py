"""Rebuilt models keep the very functions of the given one, whatever Keras calls by their names."""

import nets
import numpy as np
import pytest
from keras import ops  # on TensorFlow, inside of layers, also of tf_keras

import tfap
from tfap import keras_compat, low_rank


def gelu(x):
    """A name of Keras's with another meaning: `x * sigmoid(1.702 x)`."""
    return x * ops.sigmoid(1.702 * x)


def hard_sigmoid(x):
    return ops.clip(0.25 * x + 0.5, 0.0, 1.0)


def never_registered(x):
    return ops.relu(x) - 0.1


FUNCTIONS = [gelu, hard_sigmoid, never_registered]


def with_activation(keras, function):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(8, activation=function, name="a"),
            layers.Dense(8, activation="gelu", name="b"),
            layers.Activation(function, name="c"),
            layers.Dense(3, name="output"),
        ]
    )
    return nets.compiled(keras, model, "mse")


def outputs(model):
    return np.array(model(np.random.default_rng(0).normal(size=(4, 6)).astype("float32")))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_activations_of_the_users(keras_module, function):
    model = with_activation(keras_module, function)
    expected = outputs(model)
    pruned = tfap.prune(model, 0.5, "magnitude")
    np.testing.assert_array_equal(outputs(pruned), expected)
    plain = tfap.strip_pruning(pruned)
    np.testing.assert_array_equal(outputs(plain), expected)
    assert plain.get_layer("a").activation is plain.get_layer("c").activation is function
    assert plain.get_layer("b").activation is model.get_layer("b").activation

    kernel, bias = plain.get_layer("output").get_weights()
    kernel[:4] = 0  # nothing consumes these neurons of "b" and "c"
    plain.get_layer("output").set_weights([kernel, bias])
    np.testing.assert_allclose(outputs(tfap.compact(plain)), outputs(plain), atol=1e-6)
    np.testing.assert_allclose(outputs(low_rank.factorize(model, rank=1, layers=["a"])).shape, (4, 3))


@pytest.mark.one_keras
def test_training_in_stages_with_an_activation_of_the_users(keras_module):
    model = with_activation(keras_module, gelu)
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    fit = tfap.fit_and_compact(model, 0.5, x, np.zeros((32, 3)), stages=2, epochs=4, verbose=0)
    assert fit.history["sparsity"][-1] == 0.5
    assert fit.model.get_layer("a").activation is gelu


def test_initializers_regularizers_and_constraints_of_the_users(keras_module):
    class Half(keras_module.initializers.Initializer):
        def __call__(self, shape, dtype=None, **kwargs):
            return ops.full(shape, 0.5)

    class Sum(keras_module.regularizers.Regularizer):
        def __call__(self, weights):
            return ops.sum(weights)

        def get_config(self):
            return {}

    class AtMostOne(keras_module.constraints.Constraint):
        def __call__(self, weights):
            return ops.minimum(weights, 1.0)

    own = {"kernel_initializer": Half(), "kernel_regularizer": Sum(), "kernel_constraint": AtMostOne()}
    layers = keras_module.layers
    hidden = layers.Dense(4, "relu", name="a", **own)
    model = keras_module.Sequential([layers.Input((6,)), hidden, layers.Dense(3, name="output")])
    rebuilt = tfap.strip_pruning(tfap.prune(nets.compiled(keras_module, model, "mse"), 0.5, "magnitude"))
    assert rebuilt is not model
    for name, mine in own.items():
        assert getattr(rebuilt.get_layer("a"), name) is mine


def test_layers_inside_layers(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((5, 6)),
            layers.TimeDistributed(layers.Dense(8, activation=gelu), name="steps"),
            layers.LSTM(4, activation=never_registered, name="lstm"),
            layers.Dense(3, name="output"),
        ]
    )
    nets.compiled(keras_module, model, "mse")
    x = np.random.default_rng(0).normal(size=(4, 5, 6)).astype("float32")
    pruned = tfap.prune(model, 0.5, "magnitude")
    plain = tfap.strip_pruning(pruned)
    for rebuilt in (pruned, plain):
        np.testing.assert_array_equal(np.array(rebuilt(x)), np.array(model(x)))
    assert plain.get_layer("steps").layer.activation is gelu
    assert plain.get_layer("lstm").cell.activation is never_registered


def test_metrics_and_optimizers(keras_module):
    def accuracy(y, outputs):
        return ops.mean(outputs)

    class Falling(keras_module.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01

        def get_config(self):
            return {}

    schedule = Falling()
    metric = keras_module.metrics.MeanMetricWrapper(accuracy, name="mine")
    copy = keras_compat.from_config(metric)
    assert copy is not metric and copy._fn is accuracy
    optimizer = keras_module.optimizers.SGD(schedule)
    assert keras_compat.from_config(optimizer)._learning_rate is schedule


@pytest.mark.tensorflow_only("the mechanism has nothing of a backend")
def test_a_layer_that_its_config_builds():
    """As the decoders of KerasHub: the shapes of several inputs are in the config, and it builds itself."""
    import keras

    class Both(keras.layers.Layer):
        def __init__(self, units, first_shape=None, second_shape=None, **kwargs):
            super().__init__(**kwargs)
            self.units, self.shapes = units, (first_shape, second_shape)
            if first_shape:
                self.build(first_shape, second_shape)

        def build(self, first_shape, second_shape=None):
            self.shapes = (first_shape, second_shape)
            self.dense = keras.layers.Dense(self.units)
            self.dense.build(first_shape)
            self.built = True

        def call(self, first, second=None):
            return self.dense(first)

        def get_config(self):
            shapes = dict(zip(("first_shape", "second_shape"), self.shapes))
            return {**super().get_config(), "units": self.units, **shapes}

    tfap.register_prunable_layer(Both, [tfap.KernelSpec("dense.kernel", feeds_output=False)])
    both = Both(4, name="both")
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="output")(both(inputs, inputs)))
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    pruned = tfap.prune(model, 0.5, "magnitude")
    assert [wrapper.name for wrapper in tfap.prunable_layers(pruned)] == ["both"]
    np.testing.assert_array_equal(tfap.strip_pruning(pruned)(x), model(x))
