"""The table of layer types: a row is found by class and owner, and a registration adds one."""

import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from absl import logging

import tfap
from tfap.graph import layer_types
from tfap.graph.layer_types import ChannelRule
from tfap.graph.liveness import Liveness


def first_neurons_fire(keras, middle):
    """`Dense(4) -> middle -> ReLU -> Dense(2)` on ones: neurons 0 and 1 of the Dense layer are positive."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((3,)),
            layers.Dense(4, name="dense"),
            middle,
            layers.ReLU(name="relu"),
            layers.Dense(2, name="output"),
        ]
    )
    model.get_layer("dense").set_weights([np.ones((3, 4)) * [1, 1, -1, -1], np.zeros(4)])
    model.compile("sgd", "mse")
    return model


def in_reverse(keras, tensor):
    """The channels from the last to the first. PyTorch has no slices with negative steps."""
    return tf.reverse(tensor, [-1]) if keras.__name__ == "tf_keras" else keras.ops.flip(tensor, -1)


def reversing(keras, base, name):
    """A layer class of a user's that gives the channels in reverse order."""

    def call(self, inputs, training=None):
        inputs = inputs[0] if isinstance(inputs, list | tuple) else inputs
        return in_reverse(keras, inputs)

    return type(name, (base,), {"call": call, "__module__": "users_layers"})


@pytest.mark.parametrize("name", ["Dropout", "BatchNormalization", "Activation", "ReLU", "MaxPooling1D"])
def test_a_class_named_like_one_of_kerass_is_not_taken_for_it(keras_module, name):
    """Taken for Dropout, the counts of neurons 2 and 3 would stand for 0 and 1, which always fire."""
    middle = reversing(keras_module, keras_module.layers.Layer, name)()
    assert layer_types.of(middle) is layer_types.UNKNOWN
    model = first_neurons_fire(keras_module, middle)
    row = tfap.plan(model)[0]
    assert not row.pruned and f"before the custom layer {name} '{middle.name}'" in row.reason


@pytest.mark.parametrize("base", ["Dropout", "ReLU", "Activation", "LeakyReLU"])
def test_a_subclass_with_another_call_is_not_taken_for_its_base(keras_module, base):
    arguments = {"Dropout": [0.5], "Activation": ["relu"]}.get(base, [])
    middle = reversing(keras_module, getattr(keras_module.layers, base), "Mine")(*arguments)
    assert layer_types.of(middle) is layer_types.UNKNOWN
    assert not tfap.plan(first_neurons_fire(keras_module, middle))[0].pruned


def test_a_subclass_with_the_call_of_its_base_is_one(keras_module):
    class Mine(keras_module.layers.Dropout):
        def __init__(self, rate=0.5, **kwargs):
            super().__init__(rate, **kwargs)
            self.note = "mine"

        def note_of(self):
            return self.note

    assert layer_types.of(Mine()) is layer_types.of(keras_module.layers.Dropout(0.5))
    assert tfap.plan(first_neurons_fire(keras_module, Mine()))[0].fires_at == "relu"


def test_merges_that_mix_channels(keras_module):
    """`Add` in name only: its second input comes in reverse."""
    layers = keras_module.layers

    class Add(layers.Layer):
        def call(self, inputs):
            return inputs[0] + in_reverse(keras_module, inputs[1])

    inputs = keras_module.Input((3,))
    parts = [layers.Dense(4, name=name)(inputs) for name in "ab"]
    x = layers.ReLU(name="relu")(Add(name="add")(parts))
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(x))
    assert not tfap.plan(model).pruned
    kernel, bias = model.get_layer("b").get_weights()
    model.get_layer("b").set_weights([kernel * [0, 1, 1, 1], bias])
    assert tfap.compact(model).count_params() == model.count_params()


def test_a_dense_layer_with_another_call_is_pruned_by_magnitude_alone(keras_module):
    class Reversed(keras_module.layers.Dense):
        def call(self, inputs):
            return in_reverse(keras_module, super().call(inputs))

    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((3,)), Reversed(4, "relu", name="mine"), layers.Dense(2, name="output")]
    )
    assert not tfap.plan(model)[0].pruned
    assert tfap.plan(model, criterion="magnitude")[0].pruned
    assert tfap.layer_flops(model) == {"output": 2 * 4 * 2}
    kernel, bias = model.get_layer("mine").get_weights()
    model.get_layer("mine").set_weights([kernel * [0, 1, 1, 1], bias])
    assert tfap.compact(model).get_layer("mine").units == 4


def test_a_registered_pass_through_layer(keras_module):
    class Shift(keras_module.layers.Layer):
        def call(self, inputs):
            return inputs + 1.0

    tfap.register_pass_through_layer(Shift, elementwise=True)
    model = first_neurons_fire(keras_module, Shift(name="shift"))
    assert tfap.plan(model)[0].fires_at == "relu"
    kernel, bias = model.get_layer("dense").get_weights()
    model.get_layer("dense").set_weights([kernel * [0, 1, 0, 1], bias])
    smaller = tfap.compact(model)  # which compares outputs: the constants go into the output layer's bias
    assert smaller.get_layer("dense").units == 2
    assert smaller.get_layer("output").kernel.shape == (2, 2)


def test_a_registered_pass_through_layer_with_weights_is_cut(keras_module):
    class Scale(keras_module.layers.Layer):
        def build(self, shape):
            self.gamma = self.add_weight(shape=(shape[-1],), initializer="uniform", name="gamma")

        def call(self, inputs):
            return inputs * self.gamma

    tfap.register_pass_through_layer(Scale, elementwise=True)
    model = first_neurons_fire(keras_module, Scale(name="scale"))
    output = model.get_layer("output")
    kernel, bias = output.get_weights()
    output.set_weights([kernel * [[0], [1], [1], [1]], bias])  # nothing consumes neuron 0
    gamma = model.get_layer("scale").get_weights()[0]
    smaller = tfap.compact(model)
    assert smaller.get_layer("dense").units == 3
    np.testing.assert_array_equal(smaller.get_layer("scale").get_weights()[0], gamma[1:])


def test_a_registered_activation_counts(keras_module):
    class Swish(keras_module.layers.Layer):
        def call(self, inputs):
            return inputs / (1.0 + 2.718281828 ** (-inputs))

    tfap.register_pass_through_layer(Swish, elementwise=True, activation=True)
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((12,)),
            layers.Dense(8, name="dense"),
            Swish(name="swish"),
            layers.Dense(4, "softmax", name="output"),
        ]
    )
    nets.compiled(keras_module, model)
    assert tfap.plan(model)[0].fires_at == "swish"
    pruned = tfap.prune(model, tfap.ConstantSparsity(0.5, 2, end_step=2, frequency=1))
    nets.fit(pruned)
    assert nets.pruned_weights(pruned) == 12 * 4
    assert tfap.compact(tfap.strip_pruning(pruned)).get_layer("dense").units == 4


def mixer(keras):
    """A layer with its kernel the other way round, `(neurons, inputs)`, and a bias."""

    class Mixer(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape):
            self.w = self.add_weight(shape=(self.units, shape[-1]), initializer="uniform", name="w")
            self.bias = self.add_weight(shape=(self.units,), initializer="ones", name="bias")

        def call(self, inputs):
            backend = keras.ops if hasattr(keras, "ops") else keras.backend
            transposed = backend.transpose(self.w)
            product = backend.matmul if hasattr(keras, "ops") else backend.dot
            return product(inputs, transposed) + self.bias

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    return Mixer


def test_a_registered_layer_is_pruned_counted_in_flops_and_compacted(keras_module):
    layers, cls = keras_module.layers, mixer(keras_module)
    kernel = tfap.KernelSpec("w", neuron_axes=(0,), input_axes=(1,))
    tfap.register_prunable_layer(
        cls, [kernel], units="units", multiply_adds=lambda layer, inputs, output: inputs[0][-1] * output[-1]
    )
    model = keras_module.Sequential(
        [
            layers.Input((12,)),
            cls(8, name="first"),
            layers.ReLU(),
            cls(6, name="second"),
            layers.ReLU(),
            layers.Dense(4, "softmax", name="output"),
        ]
    )
    nets.compiled(keras_module, model)
    assert tfap.layer_flops(model) == {"first": 2 * 12 * 8, "second": 2 * 8 * 6, "output": 2 * 6 * 4}
    schedule = tfap.ConstantSparsity(0.5, 2, end_step=2, frequency=1)
    pruned = tfap.prune(model, schedule, scope="local")
    nets.fit(pruned)
    assert nets.pruned_weights(pruned) == 12 * 4 + 8 * 3
    smaller = tfap.compact(tfap.strip_pruning(pruned))
    assert [smaller.get_layer(name).units for name in ("first", "second")] == [4, 3]
    assert smaller.get_layer("second").get_weights()[0].shape == (3, 4)


def test_a_registered_layer_without_a_bias_cannot_fold_a_constant(keras_module):
    """tfap does not know how to rebuild it with a bias."""
    layers, cls = keras_module.layers, mixer(keras_module)

    class Biasless(cls):
        def build(self, shape):
            self.w = self.add_weight(shape=(self.units, shape[-1]), initializer="uniform", name="w")
            self.bias = None

        def call(self, inputs):
            backend = keras_module.ops if hasattr(keras_module, "ops") else keras_module.backend
            product = backend.matmul if hasattr(keras_module, "ops") else backend.dot
            return product(inputs, backend.transpose(self.w))

    tfap.register_prunable_layer(Biasless, [tfap.KernelSpec("w", (0,), (1,))], units="units")
    model = keras_module.Sequential(
        [
            layers.Input((3,)),
            layers.Dense(4, name="dense"),
            Biasless(5, name="mixer"),
            layers.Dense(2, name="output"),
        ]
    )
    kernel, _ = model.get_layer("dense").get_weights()
    model.get_layer("dense").set_weights([kernel * [0, 1, 1, 1], np.ones(4)])
    (kept,) = Liveness(model).kept()
    assert kept.reason == "it is a nonzero constant, and 'mixer' has no bias to fold it into"
    assert tfap.compact(model).get_layer("dense").units == 4


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(units=3), TypeError, "units must be a string or None: received 3"),
        (dict(multiply_adds=3), TypeError, "multiply_adds must be a function or None: received 3"),
        (dict(units="units", kernels=[tfap.KernelSpec("w", reads_input=False)]), ValueError, "needs one"),
    ],
)
def test_a_registration_that_cannot_be(keras_module, arguments, error, message):
    with pytest.raises(error, match=message):
        tfap.register_prunable_layer(mixer(keras_module), **{"kernels": [tfap.KernelSpec("w")], **arguments})


def test_a_pass_through_registration_that_cannot_be(keras_module):
    with pytest.raises(TypeError, match="layer_class must be a layer class"):
        tfap.register_pass_through_layer(3)
    with pytest.raises(TypeError, match="elementwise must be True or False: received 'yes'"):
        tfap.register_pass_through_layer(keras_module.layers.Layer, elementwise="yes")


def test_every_row_is_a_layer_of_some_keras():
    """A misspelled name would never be found."""
    import keras
    import tf_keras

    assert len(layer_types.LAYERS) > 60
    homes = (keras.layers, tf_keras.layers, tf_keras.layers.experimental)
    names = {getattr(layer, "__name__", None) for home in homes for layer in vars(home).values()}
    assert layer_types.LAYERS.keys() <= names  # GroupQueryAttention is the class GroupedQueryAttention
    known = {row.channels for table in (layer_types.LAYERS, layer_types.FUNCTIONS) for row in table.values()}
    assert known == {*ChannelRule, None}


def test_channel_shuffle(keras_module):
    """Reshape, Permute, Reshape, as in ShuffleNet: channels are followed through all three."""
    layers = keras_module.layers
    inputs = keras_module.Input((4, 4, 3))
    x = layers.Conv2D(8, 1, activation="relu", name="first")(inputs)
    x = layers.Reshape((4, 4, 2, 4))(x)
    x = layers.Permute((1, 2, 4, 3))(x)
    x = layers.Reshape((4, 4, 8))(x)
    outputs = layers.Conv2D(2, 1, name="second")(x)
    model = keras_module.Model(inputs, outputs)
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., [1, 5]] = bias[[1, 5]] = 0  # one in each half, so that halves stay as wide as each other
    model.get_layer("first").set_weights([kernel, bias])
    smaller = tfap.compact(model)
    assert smaller.get_layer("first").filters == 6
    assert smaller.get_layer("second").kernel.shape == (1, 1, 6, 2)


def test_functions_of_keras_ops_are_seen_through():
    import keras

    inputs = keras.Input((3,))
    x = keras.ops.tanh(keras.layers.Dense(4, name="dense")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="output")(x))
    kernel, bias = model.get_layer("dense").get_weights()
    model.get_layer("dense").set_weights([kernel * [0, 1, 1, 1], bias + 1])
    assert tfap.compact(model).get_layer("dense").units == 3


def cell_class(keras, listed):
    """A recurrent cell of a user's, which lists its weight as prunable or does not."""

    class Cell(keras.layers.Layer):
        state_size = output_size = 4

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 4), name="w")
            self.built = True

        def call(self, inputs, states, training=None):
            return inputs @ self.w + states[0], [states[0]]

    if listed:
        Cell.get_prunable_weights = lambda self: [self.w]
    return Cell


@pytest.mark.one_keras
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unknown"])
def test_stacked_and_custom_recurrent_cells(keras_module, listed):
    layers, cell = keras_module.layers, cell_class(keras_module, listed)
    inputs = keras_module.Input((5, 6))
    x = layers.RNN([layers.LSTMCell(8), layers.GRUCell(8), cell()], return_sequences=True, name="a")(inputs)
    model = keras_module.Model(inputs, layers.RNN(cell(), name="b")(x))
    plan = tfap.plan(model, criterion="magnitude", include=["b"])
    names = [(row.path, row.weight) for row in plan if row.pruned]
    stacked = [f"cell.cells.{at}.{name}" for at in (0, 1) for name in ("kernel", "recurrent_kernel")]
    custom = [("a", "cell.cells.2.w"), ("b", "cell.w")] if listed else []
    assert sorted(names) == sorted([("a", name) for name in stacked] + custom)
    pruned = tfap.prune(nets.compiled(keras_module, model, "mse"), 0.5, "magnitude", "local", include=["b"])
    nets.fit(pruned, epochs=3)
    for layer in tfap.strip_pruning(pruned).layers[1:]:
        zeros = [np.mean(weight == 0) for weight in layer.get_weights() if weight.ndim > 1]
        kernels = [share for share in zeros if share == 0.5]
        assert len(kernels) == sum(path == layer.name for path, _ in names)


def test_locally_connected_layers():
    """Their kernels have another rank in each implementation."""
    for implementation, rank in ((1, 3), (2, 4), (3, 1)):
        layer = tf_keras.layers.LocallyConnected1D(3, 1, implementation=implementation, name="local")
        model = tf_keras.Sequential([tf_keras.Input((5, 6)), layer, tf_keras.layers.Dense(2)])
        pruned = tfap.prune(nets.compiled(tf_keras, model, "mse"), 0.5, "magnitude")
        tfap.update_masks(pruned, 0.5)
        kernel = tfap.strip_pruning(pruned).layers[0].get_weights()[0]
        assert kernel.ndim == rank and np.mean(kernel == 0) == 0.5
        in_blocks = tfap.plan(model, criterion="magnitude", block_size=(1, 3))[0]
        assert in_blocks.pruned == (rank > 1)


def test_layers_that_are_left_out_are_told_once(keras_module, monkeypatch):
    logged = []
    for level in ("warning", "info"):
        monkeypatch.setattr(
            logging, level, lambda text, *rest, level=level: logged.append((level, text % rest))
        )
    layers = keras_module.layers
    inputs = keras_module.Input((5, 6))
    x = layers.RNN(cell_class(keras_module, False)(), return_sequences=True, name="rnn")(inputs)
    x = layers.BatchNormalization(name="norm")(layers.Dense(4, name="dense")(x))
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(x))
    tfap.prune(model, 0.5, "magnitude")
    assert logged == [
        ("warning", "Not pruned (rnn): RNN layers have no kernel that tfap knows."),
        ("info", "Not pruned (output): it is an output layer: name it in include to prune it."),
    ]
