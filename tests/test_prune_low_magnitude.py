"""tfmot's prune_low_magnitude for both Kerases: the same arguments, kernels, masks and numbers of zeros."""

import warnings

import nets
import numpy as np
import pytest
import tf_keras

import tfap
from tfap.keras_compat import tfmot

ONCE = tfap.ConstantSparsity(0.6, 2, 2, 1)
THEIRS = tfmot.sparsity.keras


def separable(keras):
    """A small net with a layer of most kinds; tfmot prunes none of the depthwise kernels."""
    layers = keras.layers
    stack = [
        layers.Conv2D(6, 3, padding="same", activation="relu", name="conv"),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.BatchNormalization(name="norm"),
        layers.SeparableConv2D(8, 3, name="separable"),
        layers.Conv2DTranspose(4, 2, name="transposed"),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.0),
        layers.Dense(5, activation="softmax", name="output"),
    ]
    return nets.compiled(keras, keras.Sequential([keras.Input((9, 9, 3)), *stack]))


def recurrent(keras):
    layers = keras.layers
    stack = [
        layers.Embedding(11, 6),
        layers.LSTM(5, return_sequences=True),
        layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(3)]),
        layers.Dense(3, activation="softmax"),
    ]
    return nets.compiled(keras, keras.Sequential([keras.Input((4,), dtype="int32"), *stack]))


def data_for(model, samples=64):
    generator = np.random.default_rng(0)
    shape = (samples, *model.inputs[0].shape[1:])
    x = (
        generator.integers(0, 11, shape)
        if len(shape) == 2 and shape[1] == 4
        else generator.normal(size=shape)
    )
    return x, generator.integers(0, model.outputs[0].shape[-1], samples)


def trained(wrapped, callback, rate=0.0, epochs=1):
    """Fits a wrapped model; with rate 0, both libraries rank the same weights."""
    keras = nets_keras(wrapped)
    wrapped.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    x, y = data_for(wrapped)
    nets.build_optimizer(wrapped)
    wrapped.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback])
    return wrapped


def nets_keras(model):
    import keras

    return tf_keras if isinstance(model, tf_keras.Model) else keras


def zeros(model):
    return [np.array(weight) == 0 for weight in model.get_weights() if weight.ndim > 1]


CASES = {
    "default": (separable, {}),
    "weights": (separable, {"pruning_schedule": ONCE}),
    "2:4": (separable, {"pruning_schedule": ONCE, "sparsity_m_by_n": (2, 4)}),
    "recurrent": (recurrent, {"pruning_schedule": ONCE}),
    "blocks": (nets.mlp, {"pruning_schedule": ONCE, "block_size": (2, 2), "block_pooling_type": "MAX"}),
}


def made_by(make, keras, weights):
    model = make(keras)
    model.set_weights(weights)
    return model


QUICK = [("2:4", 0.05)]


@pytest.mark.parametrize(
    "case, rate",
    [
        pytest.param(case, rate, marks=[] if (case, rate) in QUICK else pytest.mark.slow)
        for case in CASES
        for rate in (0.0, 0.05)
    ],
)
@pytest.mark.slow
def test_the_masks_are_those_of_tfmot(both_kerases, case, rate):
    """To the bit with one update: at rate 0 under any callback, else under tfmot's, which prunes earlier."""
    make, arguments = CASES[case]
    epochs = 26 if case == "default" else 1  # its first update is at step 100
    weights = make(tf_keras).get_weights()
    theirs = THEIRS.prune_low_magnitude(made_by(make, tf_keras, weights), **arguments)
    expected = zeros(THEIRS.strip_pruning(trained(theirs, THEIRS.UpdatePruningStep(), rate, epochs)))
    assert sum(share.mean() > 0.3 for share in expected) >= 3 - (case == "blocks")
    if case in ("weights", "default"):
        assert [share.mean() for share in expected][1] == 0  # a depthwise kernel
    worlds = [(tf_keras, THEIRS.UpdatePruningStep())]
    worlds += [(keras, tfap.UpdatePruningStep()) for keras in both_kerases]
    for keras, callback in worlds:
        ours = tfap.prune_low_magnitude(made_by(make, keras, weights), **arguments)
        trained(ours, callback, rate, epochs)
        assert {wrapper.settings.scope for wrapper in tfap.prunable_layers(ours)} == {"local"}
        strips = [tfap.strip_pruning] + [THEIRS.strip_pruning] * (keras is tf_keras)
        for strip in strips:
            for found, theirs_ in zip(zeros(strip(ours)), expected, strict=True):
                if rate == 0 or callback.__module__.startswith("tensorflow"):
                    np.testing.assert_array_equal(found, theirs_)
                assert found.sum() == theirs_.sum()


def test_the_number_of_zeros_follows_a_gradual_schedule(both_kerases):
    schedule = tfap.PolynomialDecay(0.2, 0.7, 2, 10, frequency=2)
    theirs = THEIRS.prune_low_magnitude(separable(tf_keras), schedule)
    expected = zeros(THEIRS.strip_pruning(trained(theirs, THEIRS.UpdatePruningStep(), 0.05, epochs=3)))
    for keras in both_kerases:
        ours = tfap.prune_low_magnitude(separable(keras), schedule)
        found = zeros(tfap.strip_pruning(trained(ours, tfap.UpdatePruningStep(), 0.05, epochs=3)))
        assert [share.sum() for share in found] == [share.sum() for share in expected]


def test_a_layer_and_its_arguments(keras_module):
    dense = keras_module.layers.Dense(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 prefers an Input object
        wrapped = tfap.prune_low_magnitude(dense, tfap.ConstantSparsity(0.99, 1, 1, 1), input_shape=(5,))
    model = keras_module.Sequential([wrapped, keras_module.layers.Dense(4, activation="softmax")])
    assert model.built and wrapped.layer is not dense
    trained(model, tfap.UpdatePruningStep())
    assert wrapped.mask.numpy().sum() == 1  # at least one weight of a kernel is kept
    relu = keras_module.layers.ReLU()
    assert tfap.prune_low_magnitude(relu) is relu
    assert tfap.prune_low_magnitude(wrapped) is wrapped


def test_a_list_of_layers(keras_module):
    layers = keras_module.layers
    given = [layers.Dense(8), layers.Dropout(0.1), tfap.prune_low_magnitude(layers.Dense(6)), layers.Dense(4)]
    made = tfap.prune_low_magnitude(given, ONCE)
    assert [isinstance(layer, tfap.layers.PruneByActivation) for layer in made] == [True, False, True, True]
    assert made[2] is given[2]
    model = keras_module.Sequential([keras_module.Input((5,)), *made])
    assert len(tfap.prunable_layers(model)) == 3


@pytest.mark.parametrize("shape", [None, (5,)])
def test_a_sequential_model_that_is_not_built(keras_module, shape):
    layers = keras_module.layers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 prefers an Input object
        first = layers.Dense(8, input_shape=shape) if shape else layers.Dense(8)
    inner = keras_module.Sequential([layers.Dense(6), layers.ReLU()], name="inner")
    model = keras_module.Sequential([first, inner, layers.Dense(4, activation="softmax")], name="net")
    pruned = tfap.prune_low_magnitude(model, ONCE)
    assert pruned.built == bool(shape) and pruned.name == "net"
    pruned.build((None, 5))
    trained(pruned, tfap.UpdatePruningStep())
    assert [float(np.mean(share)) for share in zeros(tfap.strip_pruning(pruned))] == pytest.approx(
        [24 / 40, 29 / 48, 14 / 24]
    )


def test_a_model_with_layers_that_are_wrapped_already(keras_module):
    """They keep their settings, masks and counts."""
    model = tfap.prune(nets.mlp(keras_module), 0.5, skip=["hidden_1"])
    nets.fit(model)
    before = tfap.prunable_layers(model)[0]
    both = tfap.prune_low_magnitude(model, ONCE)
    wrappers = tfap.prunable_layers(both)
    assert [wrapper.name for wrapper in wrappers] == ["hidden_0", "hidden_1", "output"]
    assert type(wrappers[0].criterion) is tfap.ActivationCount
    np.testing.assert_array_equal(wrappers[0].mask.numpy(), before.mask.numpy())
    assert int(wrappers[0].activations_seen) == int(before.activations_seen) > 0
    assert [layer.name for layer in tfap.prunable_layers(model)] == ["hidden_0"]  # it is not changed
    nets.fit(both)


def test_tfmots_wrappers_stay_and_both_prune_under_its_callback():
    model = nets.mlp(tf_keras)
    theirs = tf_keras.models.clone_model(
        model,
        clone_function=lambda layer: (
            THEIRS.prune_low_magnitude(layer, ONCE) if layer.name == "hidden_0" else layer
        ),
    )
    both = trained(tfap.prune_low_magnitude(theirs, ONCE), THEIRS.UpdatePruningStep())
    assert len(tfap.prunable_layers(both)) == 2
    for strip in (tfap.strip_pruning, THEIRS.strip_pruning):
        plain = strip(both)
        assert {type(layer) for layer in plain.layers} == {tf_keras.layers.Dense}
        for layer in plain.layers:
            size = layer.kernel.shape.num_elements()
            assert (layer.get_weights()[0] == 0).sum() == size - round(size * 0.4)


def every_fourth_step(step):
    return step % 4 == 0, 0.5


def always(step):
    return True, 0.5


@pytest.mark.parametrize("function", [every_fourth_step, always])
def test_a_plain_function_is_a_schedule(keras_module, function, tmp_path):
    callbacks = [tfap.UpdatePruningStep()]
    callbacks += [THEIRS.UpdatePruningStep()] * (keras_module is tf_keras)
    for callback in callbacks:
        pruned = tfap.prune_low_magnitude(nets.mlp(keras_module), function)
        trained(pruned, callback)
        assert all(share.mean() == 0.5 for share in zeros(tfap.strip_pruning(pruned)))
    pruned.save(tmp_path / "pruned.keras")
    with pytest.raises(Exception, match=f"the function '{function.__name__}', which is not registered"):
        keras_module.models.load_model(tmp_path / "pruned.keras")
    with keras_module.saving.custom_object_scope({function.__name__: function}):
        loaded = keras_module.models.load_model(tmp_path / "pruned.keras")
    assert tfap.prunable_layers(loaded)[0].pruning_schedule.function is function


def test_a_custom_layer_that_cannot_be_copied_is_wrapped_itself(keras_module):
    class Own(keras_module.layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.units = units

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
            self.built = True

        def call(self, x):
            return x @ self.w

        def get_prunable_weights(self):
            return [self.w]

        def get_config(self):
            raise NotImplementedError

    layer = Own(4)
    wrapped = tfap.prune_low_magnitude(layer, ONCE)
    assert wrapped.layer is layer
    trained(keras_module.Sequential([keras_module.Input((5,)), wrapped]), tfap.UpdatePruningStep())
    assert np.mean(np.array(layer.get_weights()[0]) == 0) == 0.6


def test_saved_wrapped_and_loaded_it_goes_on(keras_module, tmp_path):
    schedule = tfap.PolynomialDecay(0.0, 0.7, 1, 8, frequency=1)
    pruned = trained(tfap.prune_low_magnitude(separable(keras_module), schedule), tfap.UpdatePruningStep())
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras_module.models.load_model(tmp_path / "pruned.keras")
    trained(loaded, tfap.UpdatePruningStep())
    shares = [share.mean() for share in zeros(tfap.strip_pruning(loaded))]
    assert shares[1] == 0 and all(abs(share - 0.7) < 0.05 for share in (shares[0], *shares[3:]))


@pytest.mark.parametrize("arguments", [{}, {"block_size": (1, 4)}], ids=["weights", "blocks"])
@pytest.mark.slow
def test_a_short_fit_with_the_default_schedule_is_a_warning(keras_module, caplog, arguments):
    wrapped = tfap.prune_low_magnitude(nets.mlp(keras_module), **arguments)
    nets.fit(wrapped, epochs=8)
    assert "Nothing was pruned: the schedule's first update comes after step 32" in caplog.text
    assert nets.pruned_weights(wrapped) == 0
    nets.fit(wrapped, epochs=17)
    assert caplog.text.count("Nothing was pruned") == 1
    assert all(np.mean(mask == 0) == 0.5 for mask in nets.masks(wrapped).values())
