"""Nothing of tfap is left after strip_pruning, also inside other layers, or it says why not."""

import nets
import numpy as np
import pytest

import tfap
from tfap import keras_compat


def assert_stripped(model, plain, x):
    assert not [layer for layer in keras_compat.all_layers(plain) if keras_compat.is_any_wrapper(layer)]
    np.testing.assert_allclose(np.array(plain(x)), np.array(model(x)), rtol=1e-6)


def inner_model(keras, shape):
    """Pruned to a half: a Dense layer, its BatchNormalization and a counted ReLU."""
    layers = keras.layers
    stack = [layers.Dense(8, name="a"), layers.BatchNormalization(name="norm"), layers.ReLU(name="relu")]
    model = keras.Sequential([layers.Input(shape), *stack, layers.Dense(3, name="output")], name="inner")
    wrapped = tfap.prune(model, 0.5, tfap.ActivationCount(side="output"))
    for wrapper in tfap.prunable_layers(wrapped):
        mask = np.ones(wrapper.mask.shape)
        mask[:, ::2] = 0
        wrapper.mask.assign(mask)
        wrapper.layer.kernel.assign(wrapper.layer.kernel * mask)
    return wrapped


def test_a_pruned_model_in_time_distributed(keras_module, tmp_path):
    inputs = keras_module.Input((5, 4))
    each = keras_module.layers.TimeDistributed(inner_model(keras_module, (4,)), name="each")
    model = keras_module.Model(inputs, keras_module.layers.Dense(2, name="last")(each(inputs)))
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    plain = tfap.strip_pruning(model)
    assert_stripped(model, plain, x)
    kernel = next(array for array in plain.get_weights() if array.shape == (4, 8))
    assert not kernel[:, ::2].any() and kernel[:, 1::2].all()
    tfap.export(tfap.compact(plain), tmp_path / "model.keras", format="keras")
    with pytest.raises(ValueError, match="already wrapped for pruning .layers each"):
        tfap.prune(model, 0.5, "magnitude")
    layer = tfap.strip_pruning(model.get_layer("each"))
    assert_stripped(model.get_layer("each"), layer, x)


def test_a_block_that_holds_a_wrapped_layer(keras_module):
    keras = keras_module

    @keras.saving.register_keras_serializable(package=f"{keras.__name__}_stripping")
    class Block(keras.layers.Layer):
        def __init__(self, dense, **kwargs):
            super().__init__(**kwargs)
            if isinstance(dense, dict):
                dense = keras.saving.deserialize_keras_object(dense)
            self.scale, self.dense = 2.0, dense

        def build(self, shape):
            self.factor = self.add_weight(name="factor", shape=(), initializer="ones")
            if not self.dense.built:
                self.dense.build(shape)
            self.built = True

        def call(self, x):
            return self.factor * self.dense(x)

        def get_config(self):
            dense = keras.saving.serialize_keras_object(self.dense)
            return {**super().get_config(), "dense": dense}

    wrapped = tfap.prune(keras.layers.Dense(4, "relu", name="dense"), 0.5)
    model = keras.Sequential([keras.layers.Input((6,)), Block(wrapped, name="block"), keras.layers.Dense(2)])
    mask = np.ones((6, 4))
    mask[:, 0] = 0
    wrapped.mask.assign(mask)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    wrapped.layer.kernel.assign(wrapped.layer.kernel * mask)
    assert_stripped(model, tfap.strip_pruning(model), x)

    class Hidden(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = tfap.prune(keras.layers.Dense(4, "relu", name="dense"), 0.5)

        def build(self, shape):
            self.dense.build(shape)
            self.built = True

        def call(self, x):
            return self.dense(x)

    hidden = keras.Sequential([keras.layers.Input((6,)), Hidden(name="hidden"), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"'hidden' holds wrapped layers \(dense\).*build the layer anew"):
        tfap.strip_pruning(hidden)


@pytest.mark.one_keras
def test_stacked_cells_in_a_bidirectional_layer(keras_module):
    layers = keras_module.layers
    stack = layers.RNN([layers.LSTMCell(3), layers.LSTMCell(4)], name="stack")
    both = layers.Bidirectional(stack, name="both")
    model = keras_module.Sequential([layers.Input((5, 2)), both, layers.Dense(3, "relu"), layers.Dense(2)])
    row = tfap.plan(model)[0]
    assert row.path == "both" and not row.pruned and "not the channels of the layer's output" in row.reason
    wrapped = tfap.prune(model, 0.5, "magnitude")
    tfap.update_masks(wrapped, 0.5)
    assert len(tfap.prunable_layers(wrapped)[0].mask) == 8  # two kernels of each cell
    x = np.ones((1, 5, 2), "float32")
    assert_stripped(wrapped, tfap.strip_pruning(wrapped), x)
    with pytest.raises(ValueError, match="cannot be pruned by counts"):
        tfap.layers.PruneByActivation(layers.Bidirectional(stack), 0.5)


def test_a_wrapped_layer_that_another_one_holds(keras_module):
    keras = keras_module

    class Scaled(keras.layers.Layer):
        def __init__(self, dense, **kwargs):
            super().__init__(**kwargs)
            self.dense = dense

        def call(self, x):
            return x * self.dense.layer.bias

    wrapped = tfap.prune(keras.layers.Dense(4, "relu", name="dense"), 0.5)
    model = keras.Sequential([keras.layers.Input((6,)), wrapped, Scaled(wrapped, name="scaled")])
    with pytest.raises(ValueError, match="'dense' cannot be stripped: another layer holds them too"):
        tfap.strip_pruning(model)


def test_a_counter_is_stripped(keras_module):
    counter = tfap.layers.CountActivations(keras_module.layers.ReLU(name="relu"))
    counter(np.ones((1, 3), "float32"))
    plain = tfap.strip_pruning(counter)
    assert type(plain) is keras_module.layers.ReLU and plain.name == "relu"


def test_the_advice_for_a_subclassed_model_works(keras_module):
    class Net(keras_module.Model):
        def __init__(self, hidden):
            super().__init__()
            self.hidden, self.last = hidden, keras_module.layers.Dense(3)

        def call(self, inputs, training=None):
            return self.last(self.hidden(inputs, training=training))

    net = Net(tfap.prune(keras_module.layers.Dense(4, "relu"), 0.5))
    x = np.ones((2, 6), "float32")
    net(x)
    with pytest.raises(ValueError, match="build a new one from them: generator = tfap.strip_pruning"):
        tfap.strip_pruning(net)
    plain = Net(tfap.strip_pruning(net.hidden))
    plain(x)
    plain.last.set_weights(net.last.get_weights())
    assert_stripped(net, plain, x)
    assert nets.pruned_weights(net) == 0
