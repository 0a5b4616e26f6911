"""The wrappers: trained, saved, loaded, stripped, by hand, shared, in mixed precision."""

import warnings

import nets
import numpy as np
import pytest

import tfap

LAYERS = [
    ("Dense", (4,), dict(units=3)),
    ("Conv1D", (9, 4), dict(filters=3, kernel_size=2)),
    ("Conv2D", (9, 9, 4), dict(filters=3, kernel_size=2)),
    ("Conv3D", (5, 5, 5, 4), dict(filters=3, kernel_size=2)),
    ("Conv2DTranspose", (9, 9, 4), dict(filters=3, kernel_size=2)),
    ("DepthwiseConv2D", (9, 9, 4), dict(kernel_size=2, depth_multiplier=2)),
]


# Counts of inputs take one path through the wrappers for all layers, and read an axis that differs.
SIDES = [pytest.param(*row, "output", id=row[0]) for row in LAYERS]
SIDES += [
    pytest.param(*row, "input", id=f"{row[0]}, input", marks=[] if row[0] in ("Dense", "Conv2DTranspose") else
                 pytest.mark.slow) for row in LAYERS
]  # fmt: skip


def called_by_keyword(keras):
    """`(inputs, outputs)` of layers whose inputs all have names in the call."""
    layers = keras.layers
    x, state = keras.Input((5, 6)), keras.Input((6,))
    yield x, layers.Dense(6)(inputs=layers.ReLU()(inputs=layers.Dense(8)(inputs=x)))
    yield x, layers.MultiHeadAttention(2, 8)(query=x, value=x)
    yield [x, state], layers.GRU(6)(x, initial_state=state)
    if hasattr(keras, "ops"):  # that of tf_keras names its first argument `inputs`
        yield [x, state], layers.GRU(6)(sequences=x, initial_state=state)
    else:
        yield [x, state], layers.GRU(6)(inputs=x, initial_state=state)


@pytest.mark.parametrize(
    "eager", [pytest.param(False, marks=pytest.mark.slow, id="graph"), pytest.param(True, id="eager")]
)
@pytest.mark.slow
def test_layers_that_are_called_by_keyword(keras_module, eager):
    generator = np.random.default_rng(0)
    for inputs, x in called_by_keyword(keras_module):
        output = keras_module.layers.Dense(2)(keras_module.layers.Flatten()(x))
        model = keras_module.Model(inputs, output)
        wrapped = tfap.prune(model, 0.5, "magnitude")
        wrapped.compile("sgd", "mse", run_eagerly=eager)
        data = [generator.normal(size=(8, *tensor.shape[1:])) for tensor in model.inputs]
        data = data if len(data) > 1 else data[0]
        history = wrapped.fit(
            data, np.ones((8, 2)), epochs=3, verbose=0, callbacks=[tfap.UpdatePruningStep()]
        )
        assert abs(history.history["sparsity"][-1] - 0.5) < 0.02
        plain = tfap.strip_pruning(wrapped)
        np.testing.assert_allclose(
            plain.predict(data, verbose=0), wrapped.predict(data, verbose=0), rtol=1e-5, atol=1e-6
        )


def test_a_layer_wrapped_alone_keeps_its_input_shape(keras_module):
    """A Sequential model that it begins is then built, and so is the stripped one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 prefers an Input object
        given = [keras_module.layers.Dense(4, input_shape=(20,)), keras_module.layers.Dense(3)]
        wrapped = tfap.prune(given[0], 0.5, "magnitude")
        direct = tfap.layers.PruneByActivation(given[0], 0.5, "magnitude")
        named = tfap.layers.PruneByActivation(
            keras_module.layers.Dense(4), 0.5, "magnitude", input_shape=(20,)
        )
    for first in (wrapped, direct, named):
        model = keras_module.Sequential([first, keras_module.layers.Dense(3)])
        assert model.built and model.input_shape == (None, 20)
        assert tfap.prunable_layers(model)[0].mask.shape == (20, 4)
    again = keras_module.Sequential([tfap.strip_pruning(tfap.prune(given[0], 0.5, "magnitude"))])
    assert again.input_shape == (None, 20)


@pytest.mark.parametrize("kind,shape,arguments,side", SIDES)
@pytest.mark.one_keras
def test_train_prune_save_load_strip(keras_module, kind, shape, arguments, side, tmp_path):
    layers = keras_module.layers
    layer = getattr(layers, kind)(activation="relu", name="layer", **arguments)
    flatten = layers.Flatten()
    model = keras_module.Sequential([layers.Input(shape), layer, flatten, layers.Dense(2, name="output")])
    schedule = tfap.IterativeSparsity(0.3, updates=2, frequency=2)  # two updates in four steps
    wrapped = tfap.prune(nets.compiled(keras_module, model, "mse"), schedule, tfap.ActivationCount(side=side),
                         granularity="weight")  # fmt: skip
    nets.fit(wrapped)
    (wrapper,) = tfap.prunable_layers(wrapped)
    assert (wrapper.mask.numpy() == 0).sum() == round((1 - 0.7**2) * wrapper.mask.numpy().size)
    assert wrapper.mask.numpy().dtype == "uint8" and wrapper.activation_counts.numpy().dtype == "int64"
    assert wrapper.name == layer.name

    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras_module.models.load_model(tmp_path / "wrapped.keras")
    (again,) = tfap.prunable_layers(loaded)
    assert again.settings.key == wrapper.settings.key
    for first, second in zip(wrapper.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(first, second)
    nets.fit(loaded)  # trains on where the other stopped
    assert int(again.pruning_step.numpy()) == 8

    x, _ = nets.data(wrapped)
    plain = tfap.strip_pruning(wrapped)
    np.testing.assert_array_equal(*(np.asarray(model(x, training=False)) for model in (plain, wrapped)))


@pytest.mark.one_keras
def test_a_loaded_model_finds_the_counts_at_its_relu(keras_module, tmp_path):
    wrapped = tfap.prune(nets.cnn(keras_module), 0.5)
    nets.fit(wrapped)
    counts = {layer.name: layer.activation_counts.numpy() for layer in tfap.prunable_layers(wrapped)}
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras_module.models.load_model(tmp_path / "wrapped.keras")
    for layer in tfap.prunable_layers(loaded):
        np.testing.assert_array_equal(layer.activation_counts.numpy(), counts[layer.name])
        assert counts[layer.name].sum() > 0


def test_criteria_and_schedules_of_ones_own_come_back_once_registered(keras_module, tmp_path):
    @keras_module.saving.register_keras_serializable(package=keras_module.__name__)
    class Halves(tfap.PruningSchedule):
        def __call__(self, step):
            return step % 2 == 0, 0.5

        def get_config(self):
            return {}

    @keras_module.saving.register_keras_serializable(package=keras_module.__name__)
    class Scaled(tfap.Criterion):
        def __init__(self, factor):
            self.factor = factor

        def scores(self, kernel):
            return self.factor * np.abs(kernel.weights)

        def get_config(self):
            return {"factor": self.factor}

    wrapped = tfap.prune(nets.mlp(keras_module), Halves(), Scaled(-2.0))
    nets.fit(wrapped)
    wrapped.save(tmp_path / "wrapped.keras")
    wrapper = tfap.prunable_layers(keras_module.models.load_model(tmp_path / "wrapped.keras"))[0]
    assert isinstance(wrapper.pruning_schedule, Halves)
    assert isinstance(wrapper.criterion, Scaled) and wrapper.criterion.factor == -2.0


def test_a_file_of_an_unregistered_criterion_says_so(keras_module, tmp_path):
    class Nameless(tfap.Magnitude):
        pass

    wrapped = tfap.prune(nets.mlp(keras_module), 0.5, Nameless())
    wrapped.save(tmp_path / "wrapped.keras")
    with pytest.raises(Exception, match="'Nameless', which is not registered"):
        keras_module.models.load_model(tmp_path / "wrapped.keras")


def test_wrappers_by_hand_in_a_functional_model(keras_module):
    """A convolution counted at the CountActivations that follows it."""
    layers = keras_module.layers
    inputs = keras_module.Input((6, 6, 2))
    x = tfap.layers.PruneByActivation(layers.Conv2D(4, 3, name="conv"), 0.5)(inputs)
    x = tfap.layers.CountActivations(layers.ReLU(name="relu"))(x)
    model = keras_module.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    nets.fit(nets.compiled(keras_module, model, "mse"), epochs=6)
    assert nets.pruned_weights(model) == 36
    (wrapper,) = tfap.prunable_layers(model)
    np.testing.assert_array_equal(
        wrapper.activation_counts.numpy(), model.get_layer("relu").activation_counts.numpy()
    )


def test_a_shared_layer_counts_all_its_calls_and_one_step(keras_module):
    layers = keras_module.layers
    shared, relu = layers.Dense(3, name="shared"), layers.ReLU(name="relu")
    left, right = keras_module.Input((4,)), keras_module.Input((4,))
    merged = layers.Concatenate()([relu(shared(left)), relu(shared(right))])
    model = keras_module.Model([left, right], layers.Dense(1, name="output")(merged))
    wrapped = tfap.prune(nets.compiled(keras_module, model, "mse"), 0.5, granularity="weight")
    x = [np.ones((32, 4), "float32"), -np.ones((32, 4), "float32")]
    wrapped.fit(x, np.zeros((32, 1)), batch_size=8, epochs=3, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    (wrapper,) = tfap.prunable_layers(wrapped)
    assert int(wrapper.pruning_step.numpy()) == 12
    assert int(wrapper.activations_seen.numpy()) == 2 * 3 * 32
    assert nets.pruned_weights(wrapped) == 6


def test_isinstance_over_both_kerases(both_kerases):
    for keras in both_kerases:
        dense = keras.layers.Dense(3, activation="relu")
        assert isinstance(tfap.layers.PruneByActivation(dense, 0.5), tfap.layers.PruneByActivation)
        assert not isinstance(dense, tfap.layers.PruneByActivation)
        assert isinstance(tfap.layers.CountActivations(keras.layers.ReLU()), tfap.layers.CountActivations)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(keras_module, policy):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((12,)),
            layers.Dense(16, activation="relu", dtype=policy),
            layers.Dense(3, activation="softmax", dtype="float32"),
        ]
    )
    wrapped = tfap.prune(nets.compiled(keras_module, model), 0.5, granularity="weight")
    nets.fit(wrapped, epochs=4)
    (wrapper,) = tfap.prunable_layers(wrapped)
    kernel = wrapper.layer.get_weights()[0]
    assert kernel.dtype == "float32" and (kernel == 0).sum() == nets.pruned_weights(wrapped) == 96
    assert wrapper.compute_dtype == wrapper.layer.compute_dtype == policy[6:]
