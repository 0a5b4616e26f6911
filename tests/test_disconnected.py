"""remove_disconnected: neurons without inputs or readers lose the rest of their weights, outputs stay."""

import importlib

import nets
import numpy as np
import pytest
import random_nets

import tfap
from tfap.training import disconnected

pytestmark = pytest.mark.one_keras

WORLDS = ["keras", "tf_keras"]
EVERY_STEP = tfap.PolynomialDecay(0.0, 0.9, 1, 9, frequency=1)


def wrapped(model, **options):
    """By magnitude, so that every kernel is pruned; nothing is pruned yet."""
    return tfap.prune(model, 0.5, "magnitude", remove_disconnected=True, **options)


def mask_out(model, masks):
    """Sets masks by layer name, and zeroes what they prune."""
    for wrapper in tfap.prunable_layers(model):
        if wrapper.name in masks:
            wrapper.mask.assign(np.asarray(masks[wrapper.name], "uint8"))
            (_, kernel, mask), *_ = wrapper.kernel_and_mask()
            kernel.assign(kernel.numpy() * mask.numpy())


def mask_at_random(model, generator):
    """Random masks of every kernel, each of a density of its own."""
    for wrapper in tfap.prunable_layers(model):
        for _, kernel, mask in wrapper.kernel_and_mask():
            mask.assign((generator.random(mask.shape) < generator.choice([0.1, 0.3, 0.6])).astype("uint8"))
            kernel.assign(kernel.numpy() * mask.numpy())


def random_weights(model, generator):
    """As after some training: biases and normalizations that do something; variances are positive."""
    drawn = [generator.normal(scale=0.5, size=value.shape) for value in model.get_weights()]
    model.set_weights([abs(value) if value.ndim == 1 else value for value in drawn])
    return model


def outputs(model):
    if hasattr(model, "add"):  # Keras 3 gives a Sequential model's inputs as a list only
        x = np.random.default_rng(1).normal(size=(16, *model.inputs[0].shape[1:])).astype("float32")
    else:
        x = random_nets.inputs_for(model)
    made = model(x, training=False)
    return [np.asarray(each, np.float64) for each in (made if isinstance(made, list | tuple) else [made])]


def removed_exactly(model):
    """How many weights `update_masks` has removed, which changes no output and leaves nothing to remove."""
    before, pruned = outputs(model), count(model)
    tfap.update_masks(model, 0.0)
    assert_same(outputs(model), before)
    assert disconnected.remove(model) == 0
    for wrapper in tfap.prunable_layers(model):
        for _, kernel, mask in wrapper.kernel_and_mask():
            assert not kernel.numpy()[mask.numpy() == 0].any()
    return count(model) - pruned


def assert_same(ours, theirs):
    for now, then in zip(ours, theirs, strict=True):
        assert np.abs(now - then).max() <= 1e-5 * np.abs(then).max()


def count(model):
    return sum(
        int((mask.numpy() == 0).sum())
        for wrapper in tfap.prunable_layers(model)
        for _, _, mask in wrapper.kernel_and_mask()
    )


def reasons(model):
    return {one.path: (one.channels, one.reason) for one in tfap.unremovable_neurons(model)}


# -- what goes -------------------------------------------------------------------------------------


def test_a_constant_moves_into_the_bias(keras_module):
    model = nets.mlp(keras_module, (2, 2, 2, 2))
    model.layers[0].set_weights([np.ones((2, 2)), np.array([3.0, 0.0])])
    model.layers[1].set_weights([np.array([[1.0, -2.0], [1.0, 1.0]]), np.array([0.5, 10.0])])
    model = wrapped(model)
    mask_out(model, {"hidden_0": [[0, 1], [0, 1]]})  # neuron 0 is 3, whatever comes
    assert removed_exactly(model) == 2
    first, second = tfap.prunable_layers(model)
    np.testing.assert_array_equal(second.mask.numpy(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(second.layer.get_weights()[0], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(second.layer.get_weights()[1], [0.5 + 3, 10 - 6])
    np.testing.assert_array_equal(first.layer.get_weights()[1], [3, 0])  # biases are not masked


@pytest.mark.smoke
def test_chains_without_readers(keras_module):
    """Neuron 0 of the third layer has no reader, so neuron 0 of the second has none left, and so on."""
    model = wrapped(nets.mlp(keras_module, (3, 2, 2, 2, 2, 2)))
    eye, second_row = np.eye(2), np.array([[0, 0], [1, 1]])
    mask_out(model, {"hidden_1": eye, "hidden_2": eye, "hidden_3": second_row})
    assert removed_exactly(model) == 3 + 1 + 1
    masks = nets.masks(model)
    np.testing.assert_array_equal(masks["hidden_0"], [[0, 1]] * 3)
    np.testing.assert_array_equal(masks["hidden_1"], [[0, 0], [0, 1]])


@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_nets_to_the_fixed_point(keras_module, use_bias):
    total = 0
    for seed in range(4):
        generator = np.random.default_rng(seed)
        model = nets.mlp(keras_module, (6, *generator.integers(3, 9, 4).tolist(), 3), use_bias=use_bias)
        model = wrapped(random_weights(model, generator))
        mask_at_random(model, generator)
        expected = nets.connected([mask != 0 for mask in nets.masks(model).values()])
        total += removed_exactly(model)
        for mask, left in zip(nets.masks(model).values(), expected, strict=True):
            np.testing.assert_array_equal(mask != 0, left)
    assert total > 50


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2))])
@pytest.mark.slow
def test_random_nets(world, part):
    """Every kind of block, random masks."""
    keras, found = importlib.import_module(world), []
    keras.backend.clear_session()
    for kind in random_nets.KINDS[part::3]:
        if (world, kind) != ("tf_keras", "Operation"):
            generator = np.random.default_rng(len(kind))
            model = wrapped(random_nets.random_net(keras, generator, kind).model)
            mask_at_random(model, generator)
            found.append(removed_exactly(model))
    assert np.count_nonzero(found) > 0.5 * len(found) and sum(found) > 5 * len(found)


def test_windows_of_depthwise_convolutions(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((5, 5, 2)),
            layers.Conv2D(3, 3, name="first"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise"),
            layers.Conv2D(4, 1, activation="relu", name="pointwise"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="output"),
        ]
    )
    model = wrapped(random_weights(model, np.random.default_rng(0)))
    first, readers = np.ones((3, 3, 2, 3)), np.ones((1, 1, 6, 4))
    first[..., 0] = 0  # channel 0 is constant, through the normalization too
    readers[..., 2:4, :] = 0  # nothing reads what becomes of channel 1
    mask_out(model, {"first": first, "pointwise": readers})
    assert removed_exactly(model) == 9 * 2 + 9 * 2 + 2 * 4 + 9 * 2
    masks = nets.masks(model)
    np.testing.assert_array_equal(masks["depthwise"].any(axis=(0, 1, 3)), [False, False, True])
    np.testing.assert_array_equal(masks["pointwise"].any(axis=(0, 1, 3)), [False] * 4 + [True] * 2)


def test_a_depthwise_activation_over_all_channels(keras_module):
    """Behind a softmax no channel is constant, though the window may take a constant."""
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((5, 4)),
            layers.Conv1D(3, 1, activation="relu", name="first"),
            layers.DepthwiseConv1D(1, activation="softmax", name="depthwise"),
            layers.Conv1D(3, 1, name="second"),
            layers.Dense(2),
        ]
    )
    model = wrapped(random_weights(model, np.random.default_rng(0)))
    mask_out(model, {"first": np.tile([0, 1, 1], (1, 4, 1))})
    assert removed_exactly(model) == 1
    assert nets.masks(model)["second"].all()


# -- what stays, and why ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behind, reason",
    [
        (lambda layers: [layers.Dense(2, name="output")], "'output' consumes it and is not pruned"),
        (
            lambda layers: [layers.Dense(3, use_bias=False, name="second"), layers.Dense(2)],
            "it is a nonzero constant, and 'second' has no bias to fold it into",
        ),
        (
            lambda layers: [layers.Conv1D(3, 2, padding="same", name="second"), layers.Dense(2)],
            "'second' cannot fold into its bias because of padding",
        ),
        (
            lambda layers: [layers.LayerNormalization(name="norm"), layers.Dense(2)],
            "'norm' subtracts the mean of all channels",
        ),
        (
            lambda layers: [layers.SimpleRNN(3, "softmax", name="rnn"), layers.Dense(2)],
            "it is consumed by the SimpleRNN 'rnn', and tfap does not analyze SimpleRNN layers with "
            "activations that may combine units",
        ),
    ],
)
def test_refusals_have_reasons(keras_module, behind, reason):
    layers = keras_module.layers
    first = layers.Dense(3, activation="relu", bias_initializer="ones", name="first")
    model = keras_module.Sequential([layers.Input((5, 4)), first, *behind(layers)])
    model = wrapped(model)
    mask_out(model, {"first": np.tile([0, 1, 1], (4, 1))})
    assert removed_exactly(model) == 0
    ((channels, why),) = reasons(model).values()
    assert channels == 1 and reason in why


def test_zeros_need_no_bias(keras_module):
    layers = keras_module.layers
    behind = [layers.Conv1D(3, 2, padding="same", use_bias=False), layers.Dense(2)]
    model = keras_module.Sequential([layers.Input((5, 4)), layers.Dense(3, "relu", name="first"), *behind])
    model = wrapped(model)
    mask_out(model, {"first": np.tile([0, 1, 1], (4, 1))})
    assert removed_exactly(model) == 2 * 3
    assert reasons(model) == {}


def test_layers_that_do_not_ask_stay(keras_module):
    layers = keras_module.layers
    options = {"pruning_schedule": 0.5, "criterion": "magnitude", "granularity": "weight"}
    first, second, third = (
        tfap.prune(layers.Dense(3, "relu", name=name), **options, remove_disconnected=name != "second")
        for name in ("first", "second", "third")
    )
    model = keras_module.Sequential([layers.Input((4,)), first, second, third, layers.Dense(2)])
    mask_out(model, {"first": np.tile([0, 1, 1], (4, 1)), "second": np.tile([1, 1, 0], (3, 1))})
    assert removed_exactly(model) == 3  # only the row of the third layer behind a constant of the second
    assert not nets.masks(model)["third"][2].any()
    assert nets.masks(model)["second"][0].tolist() == [1, 1, 0]


def test_zeros_that_may_grow_are_no_zeros(keras_module):
    """A layer or a normalization that begins with zeros is not disconnected."""
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(5, "relu"),
            layers.Dense(5, kernel_initializer="zeros"),
            layers.BatchNormalization(gamma_initializer="zeros"),
            layers.Dense(5, "relu"),
            layers.Dense(2, kernel_initializer="zeros"),
        ]
    )
    assert removed_exactly(wrapped(model)) == 0


def test_models_of_unknown_order(keras_module):
    hidden = tfap.prune(keras_module.layers.Dense(6, "relu"), 0.5, remove_disconnected=True)
    model = nets.subclassed(keras_module, hidden)
    x, y = np.ones((32, 4), "float32"), np.zeros(32)
    with pytest.raises(ValueError, match="remove_disconnected=True needs a Sequential or Functional model"):
        model.fit(x, y, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    # It was no training step that failed; TensorFlow builds the model in the first one, the others before.
    assert not hidden.built or keras_module.backend.backend() != "tensorflow"
    assert int(model.optimizer.iterations) == 0
    model(x)
    with pytest.raises(ValueError, match="remove_disconnected"):
        tfap.update_masks(model, 0.5)


def test_tfmots_callback_cannot(both_kerases):
    _, tf_keras = both_kerases
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_callbacks import UpdatePruningStep

    schedule = tfap.ConstantSparsity(0.5, 1, frequency=1)
    assert tfap.prune(nets.mlp(tf_keras), schedule, "magnitude", "local").layers[0].prunes_in_graph
    model = tfap.prune(nets.mlp(tf_keras), schedule, "magnitude", "local", remove_disconnected=True)
    with pytest.raises(RuntimeError, match=r"tfap.UpdatePruningStep\(\)"):
        nets.fit(model, callbacks=[UpdatePruningStep()])


# -- training --------------------------------------------------------------------------------------


def deep(keras):
    return nets.mlp(keras, (12, 9, 8, 7, 6, 4))


@pytest.mark.smoke
def test_training_goes_on(keras_module, tmp_path):
    class Watch(keras_module.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for wrapper in tfap.prunable_layers(self.model):
                assert not wrapper.layer.get_weights()[0][wrapper.mask.numpy() == 0].any()

    once = tfap.ConstantSparsity(0.9, 5, end_step=5, frequency=1)
    model = tfap.prune(deep(keras_module), once, granularity="weight", remove_disconnected=True)
    history = nets.fit(model, epochs=4, callbacks=[tfap.UpdatePruningStep(), Watch()]).history["sparsity"]
    asked = round(0.9 * nets.prunable_weights(model))
    assert nets.pruned_weights(model) > asked
    assert history[-1] * nets.prunable_weights(model) == pytest.approx(nets.pruned_weights(model))
    left = nets.connected([mask != 0 for mask in nets.masks(model).values()])
    for mask, expected in zip(nets.masks(model).values(), left):
        np.testing.assert_array_equal(mask != 0, expected)

    model.save(tmp_path / "model.keras")
    loaded = keras_module.models.load_model(tmp_path / "model.keras")
    plain = tfap.strip_pruning(model)
    for other in (loaded, plain, tfap.compact(plain)):
        assert_same(outputs(other), outputs(model))
    assert all(wrapper.settings.remove_disconnected for wrapper in tfap.prunable_layers(loaded))


def test_stopped_trainings_go_on(keras_module, tmp_path):
    weights, ends = deep(keras_module).get_weights(), []
    for stops in (False, True):
        model = deep(keras_module)
        model.set_weights(weights)
        model = tfap.prune(model, EVERY_STEP, granularity="weight", remove_disconnected=True)
        if stops:
            nets.fit(model, epochs=1)
            model.save(tmp_path / "model.keras")
            model = keras_module.models.load_model(tmp_path / "model.keras")
        nets.fit(model, epochs=3, initial_epoch=int(stops))
        ends.append(model.get_weights())
    for now, then in zip(*ends, strict=True):
        np.testing.assert_array_equal(now, then)


def test_whole_neurons(keras_module):
    """Neurons go whole, layers keep one, and what compact() removes is gone already."""
    model = tfap.prune(deep(keras_module), EVERY_STEP, remove_disconnected=True)
    nets.fit(model, epochs=4)
    alive = [mask.any(axis=0) for mask in nets.masks(model).values()]
    assert all(neurons.any() for neurons in alive) and not all(neurons.all() for neurons in alive)
    for inputs, mask, neurons in zip([np.ones(12, bool), *alive], nets.masks(model).values(), alive):
        np.testing.assert_array_equal(mask != 0, np.outer(inputs, neurons))


def test_groups_with_settings_of_their_own(keras_module):
    """What one group prunes disconnects weights of another, on top of the number that it was asked for."""
    layers = keras_module.layers
    one, other = (
        tfap.prune(layers.Dense(4, "relu", name=name), 0.5, "magnitude", scope, remove_disconnected=True)
        for name, scope in (("one", "local"), ("other", "global"))
    )
    model = keras_module.Sequential([layers.Input((4,)), one, other, layers.Dense(2)])
    mask_out(model, {"one": np.tile([0, 0, 0, 1], (4, 1))})
    tfap.update_masks(model, 0.5)
    other = nets.masks(model)["other"]
    assert not other[:3].any() and (other == 0).sum() >= 12


def test_a_net_that_has_collapsed(keras_module):
    model = wrapped(random_weights(deep(keras_module), np.random.default_rng(0)))
    mask_out(model, {"hidden_1": np.zeros((9, 8))})
    assert removed_exactly(model) == 12 * 9 + 8 * 7 + 7 * 6
    assert not any(mask.any() for mask in nets.masks(model).values())
    nets.fit(model)  # the output layer's and the biases train on
