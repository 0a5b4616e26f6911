"""Regularizers that empty neurons: the weights of a channel, the penalty, its schedule, and what is left."""

import itertools

import nets
import numpy as np
import pytest

import tfap
from tfap.regularization.channel_groups import ChannelGroups, Role
from tfap.regularization.strength import Strength

REGULARIZERS = {
    "lasso": lambda **options: tfap.GroupLasso(0.5, **options),
    "growing": lambda **options: tfap.GrowingRegularization(0.5, sparsity=0.5, **options),
    "demon": lambda **options: tfap.DemonPruning(0.5, **options),
}


def normalized_net(keras, dtype=None):
    """Two channels: the weights of the first are 3 and 4 and a scale of 12, those of the second are 0 and 2.

    2 inputs, a Dense layer of 2 units without bias, BatchNormalization, ReLU, and a Dense layer of 1 unit.
    """
    layers = keras.layers
    given = keras.Input((2,))
    x = layers.Dense(2, use_bias=False, name="first", dtype=dtype)(given)
    x = layers.ReLU(dtype=dtype)(layers.BatchNormalization(name="norm", dtype=dtype)(x))
    model = keras.Model(given, layers.Dense(1, name="last", dtype="float32")(x))
    model.get_layer("first").set_weights([np.array([[3.0, 0.0], [0.0, 0.0]])])
    norm = model.get_layer("norm")
    norm.set_weights([np.array([12.0, 2.0]), np.array([0.0, 0.0]), *norm.get_weights()[2:]])
    model.get_layer("last").set_weights([np.array([[4.0], [0.0]]), np.array([7.0])])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


# By hand: the norms of all weights are sqrt(9 + 144 + 16) = 13 and 2, and each channel has 2 + 1 + 1 + 1 = 5.
PENALTIES = {
    "lasso": 0.5 * np.sqrt(5) * (13 + 2),
    "growing": 0.5 / 2 * 2**2,  # half of the channels: the second
    "demon": 0.5 * (12 + 2),  # the scales only
}


class ReadsPenalty:
    """Makes a callback that notes penalties and losses at the beginning of every epoch."""

    def __new__(cls, regularizer):
        from tfap import keras_compat

        class Reader(keras_compat.Callback):
            penalties: list = []
            losses: list = []

            def on_epoch_begin(self, epoch, logs=None):
                self.penalties.append(regularizer.penalty())
                self.losses.append(float(sum(map(float, self.model.losses))))

        reader = Reader()
        reader.penalties, reader.losses = [], []
        return reader


def fit(model, *callbacks, **options):
    x = np.zeros((4, *model.inputs[0].shape[1:]), "float32")
    y = np.full((4, 1), 7.0, "float32")  # what the model outputs: the loss is the penalty
    return model.fit(x, y, batch_size=2, verbose=0, callbacks=list(callbacks), **options).history


def steady(name, **options):
    """A regularizer at its strength in every step: a schedule that does not change."""
    constant = tfap.ConstantSparsity(0.5, begin_step=0, frequency=1)
    return {
        "lasso": lambda: tfap.GroupLasso(constant, **options),
        "growing": lambda: tfap.GrowingRegularization(constant, sparsity=0.5, **options),
        "demon": lambda: tfap.DemonPruning(constant, **options),
    }[name]()


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.one_keras
def test_the_penalty_by_hand(keras_module, name):
    model, regularizer = normalized_net(keras_module), steady(name)
    reader = ReadsPenalty(regularizer)
    history = fit(model, regularizer, reader, epochs=1)
    np.testing.assert_allclose(reader.penalties, [PENALTIES[name]], rtol=1e-6)
    np.testing.assert_allclose(reader.losses, reader.penalties, rtol=1e-6)
    np.testing.assert_allclose(history["loss"], [PENALTIES[name]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PENALTIES)
def test_mixed_precision(keras_module, name):
    model, regularizer = normalized_net(keras_module, "mixed_bfloat16"), steady(name)
    history = fit(model, regularizer, epochs=1)
    np.testing.assert_allclose(history["loss"], [PENALTIES[name]], rtol=1e-6)


def test_the_weights_of_each_channel(keras_module):
    """`conv_a` and `conv_b` are added, and the depthwise layer makes two channels of each."""
    model = nets.cnn(keras_module)
    groups = ChannelGroups(model)
    roles = {(member.path, member.role) for member in groups.members}
    assert roles == {
        *((path, Role.INCOMING) for path in ("conv_a", "conv_b", "depthwise", "dense")),
        *((path, Role.BIAS) for path in ("conv_a", "conv_b", "depthwise", "dense")),
        *(("norm_a", role) for role in (Role.SCALE, Role.SHIFT)),
        *((path, Role.OUTGOING) for path in ("conv_b", "dense", "output")),
    }  # fmt: skip
    assert groups.count == 6 + 10
    coupled = 3 * 3 * 3 + 1 + 2 + 3 * 3 * 6 + 1 + 3 * 3 * 6 + 3 * 3 * 2 + 2 + 2 * 10
    np.testing.assert_array_equal(groups.sizes(groups.members), [coupled] * 6 + [12 + 1 + 5] * 10)
    np.testing.assert_array_equal(groups.having(Role.SCALE), [True] * 6 + [False] * 10)
    assert len(set(groups.layer_of[:6])) == len(set(groups.layer_of[6:])) == 1


def test_each_entry_belongs_to_its_channel(keras_module):
    layers = keras_module.layers
    given = keras_module.Input((4, 4, 2))
    x = layers.Conv2D(4, 1, name="before")(given)
    x = layers.Conv2D(4, 1, groups=2, name="grouped")(x)
    model = keras_module.Model(given, layers.Dense(3, name="last")(layers.Flatten()(x)))
    groups = ChannelGroups(model)
    assert groups.count == 8
    number = {path: groups.of_layer(path) for path in ("before", "grouped")}
    member = {(member.path, member.role): member for member in groups.members}
    for path in number:
        for channel, group in enumerate(number[path]):
            groups.clear([member[path, Role.INCOMING]], np.arange(8) == group)
            kernel = model.get_layer(path).get_weights()[0]
            assert not kernel[..., : channel + 1].any() and kernel[..., channel + 1 :].all()
    grouped = model.get_layer("grouped")
    grouped.set_weights([np.ones((1, 1, 2, 4)), np.zeros(4)])
    groups.clear([member["grouped", Role.OUTGOING]], np.arange(8) == number["before"][3])
    np.testing.assert_array_equal(grouped.get_weights()[0][0, 0], [[1, 1, 1, 1], [1, 1, 0, 0]])
    groups.clear([member["last", Role.OUTGOING]], np.arange(8) == number["grouped"][1])
    kernel = model.get_layer("last").get_weights()[0].reshape(16, 4, 3)
    assert not kernel[:, 1].any() and kernel[:, [0, 2, 3]].all()


def test_skipped_layers(keras_module):
    model = nets.cnn(keras_module)
    groups = ChannelGroups(model, skip=["conv_b"])
    assert groups.count == 10 and {member.path for member in groups.members} == {"dense", "output"}


# -- the schedule ----------------------------------------------------------------------------------


def test_strength_grows_between_two_steps():
    strength = Strength(2.0, begin_step=10, end_step=20)
    assert [strength.at(step) for step in (0, 10, 15, 20, 30)] == [0, 0, 1, 2, 2]
    assert [Strength(2.0).at(step, 40) for step in (0, 10, 40)] == [0, 0.5, 2]


def test_strength_of_one_cycle():
    strength = Strength(2.0, end_step=20, peak=0.5)
    np.testing.assert_allclose(
        [strength.at(step) for step in (0, 5, 10, 15, 20)], [0, 1, 2, 1, 0], atol=1e-12
    )


def test_strength_of_a_schedule():
    strength = Strength(tfap.PolynomialDecay(0.0, 0.5, 0, 10, power=1, frequency=1))
    np.testing.assert_allclose([strength.at(step) for step in (0, 5, 10)], [0, 0.25, 0.5], rtol=1e-6)


def test_strength_changes_without_tracing_again(keras_module):
    """Two steps per epoch: the strength grows in the middle of an epoch, and the traced step sees it."""
    traced = []

    class Counting(keras_module.layers.Layer):
        def call(self, inputs):
            traced.append(True)
            return inputs

    given = keras_module.Input((2,))
    x = keras_module.layers.Dense(2, "relu", name="first")(given)
    model = keras_module.Model(given, keras_module.layers.Dense(1)(x))
    model.get_layer("first").set_weights([np.array([[3.0, 0.0], [4.0, 0.0]]), np.zeros(2)])
    last = model.layers[-1]
    last.set_weights([np.zeros((2, 1)), np.array([7.0])])
    outputs = Counting()(model.outputs[0])
    model = keras_module.Model(given, outputs)
    model.compile(keras_module.optimizers.SGD(0.0), "mse")
    nets.build_optimizer(model)
    lasso = tfap.GroupLasso(0.6, end_step=6, frequency=1)
    reader = ReadsPenalty(lasso)
    traced.clear()
    history = fit(model, lasso, reader, epochs=4)
    np.testing.assert_allclose(reader.penalties, [0.0, 2.0, 4.0, 6.0], rtol=1e-6)  # sqrt(4) * 5 * strength
    np.testing.assert_allclose(history["loss"], [0.5, 2.5, 4.5, 6.0], rtol=1e-6)  # means of two steps
    assert len(traced) <= 2  # JAX evaluates shapes before it traces
    assert not model.losses


@pytest.mark.slow
def test_validation_and_several_steps_per_execution(keras_module):
    model = normalized_net(keras_module)
    model.compile(keras_module.optimizers.SGD(0.0), "mse", steps_per_execution=2)
    lasso = tfap.GroupLasso(0.5, end_step=4, frequency=1)
    x, y = np.zeros((8, 2), "float32"), np.full((8, 1), 7.0, "float32")
    arguments = {"batch_size": 2, "verbose": 0, "validation_data": (x, y)}
    history = model.fit(x, y, epochs=3, callbacks=[lasso], **arguments).history
    np.testing.assert_allclose(history["val_loss"][1:], [PENALTIES["lasso"]] * 2, rtol=1e-6)
    assert model.fit(x, y, **arguments).history["val_loss"] == [0.0]
    assert model.evaluate(x, y, verbose=0) == 0.0


# -- the fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.one_keras
def test_nothing_is_left_after_the_fit(keras_module, name):
    model, weights = normalized_net(keras_module), len(normalized_net(keras_module).get_weights())
    regularizer = steady(name)
    stop = keras_module.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)
    fit(model, regularizer, stop, epochs=4)
    assert len(model.get_weights()) == weights and not model.losses
    assert fit(model, epochs=1)["loss"] == [0.0]


def test_a_regularizer_of_the_users_stays(keras_module):
    layers, half = keras_module.layers, keras_module.regularizers.L2(0.5)
    model = keras_module.Sequential(
        [layers.Input((2,)), layers.Dense(2, "relu", kernel_regularizer=half), layers.Dense(1)]
    )
    model.layers[0].set_weights([np.full((2, 2), 1.0), np.zeros(2)])
    model.layers[1].set_weights([np.zeros((2, 1)), np.array([7.0])])
    model.compile(keras_module.optimizers.SGD(0.0), "mse")
    assert fit(model, steady("lasso"), epochs=1)["loss"] == pytest.approx([2.0 + 0.5 * 2 * 2 * np.sqrt(2)])
    assert fit(model, epochs=1)["loss"] == [2.0]


@pytest.mark.slow
@pytest.mark.parametrize("name, left", [("lasso", 2), ("growing", 4)])
def test_channels_become_zero_and_are_removed_at_no_cost(keras_module, name, left):
    """Of eight units, two are needed: the target is the sum of two inputs' positive parts."""
    model = nets.compiled(
        keras_module,
        keras_module.Sequential(
            [
                keras_module.layers.Input((2,)),
                keras_module.layers.Dense(8, "relu", name="hidden"),
                keras_module.layers.Dense(1),
            ]
        ),
        "mse",
    )
    x = np.random.default_rng(0).normal(size=(256, 2)).astype("float32")
    y = np.maximum(x, 0).sum(axis=1, keepdims=True)
    regularizer = {
        "lasso": lambda: tfap.GroupLasso(0.02, zero_below=0.1),
        "growing": lambda: tfap.GrowingRegularization(2.0, sparsity=0.5),
    }[name]()
    options = {"batch_size": 16, "epochs": 12, "verbose": 0}
    history = model.fit(x, y, callbacks=[regularizer], **options).history
    zeroed = history["zeroed_channels"][-1]
    assert zeroed >= 4 if name == "growing" else zeroed > 0
    counts = tfap.measure_activations(model, x)["hidden"].counts
    small = tfap.compact(model)
    assert (counts == 0).sum() >= zeroed and small.layers[0].units == 8 - zeroed >= left - (name == "lasso")
    np.testing.assert_allclose(np.asarray(small(x)), np.asarray(model(x)), rtol=0, atol=1e-6)


def test_noise_moves_the_weights_of_live_channels_only(keras_module):
    model = normalized_net(keras_module)
    model.compile(keras_module.optimizers.SGD(1.0), "mse")
    demon = tfap.DemonPruning(0.0, noise=0.1, data=np.ones((2, 2)), frequency=1, zero_below=0.0)
    norm = model.get_layer("norm")
    norm.set_weights([np.zeros(2), np.array([1.0, -1.0]), *norm.get_weights()[2:]])  # the second never fires
    model.get_layer("first").set_weights([np.ones((2, 2))])
    kernels = [model.get_layer("first").get_weights()[0]]

    class Reads(keras_module.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernels.append(self.model.get_layer("first").get_weights()[0])

    model.get_layer("last").set_weights([np.zeros((2, 1)), np.array([7.0])])
    history = fit(model, demon, Reads(), epochs=3)
    assert history["loss"] == [0.0] * 3 and history["silent_channels"] == [1] * 3
    moved = [np.abs(after - before).max(axis=0) for before, after in itertools.pairwise(kernels)]
    assert (moved[0] > 0).all()  # both are live in the first epoch
    assert all(first > 0 and second == 0 for first, second in moved[1:])
    steps = np.diff(np.stack(kernels)[:, :, 0], axis=0)
    assert len(np.unique(steps.round(6))) == steps.size  # other noise in every step


def test_frozen_layers_get_no_noise(keras_module):
    model = nets.mlp(keras_module)
    model.layers[0].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [layer.get_weights()[0] for layer in model.layers]
    x, y = nets.data(model)
    demon = tfap.DemonPruning(0.0, noise=0.1, frequency=1, zero_below=0.0)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[demon])
    frozen, trained = (
        np.abs(layer.get_weights()[0] - old).max() for layer, old in list(zip(model.layers, before))[:2]
    )
    assert frozen == 0 < trained


def test_noise_keeps_constraints(keras_module):
    """Nothing but the noise changes weights, and the last step adds some."""
    layers = keras_module.layers
    hidden = layers.Dense(8, "relu", kernel_initializer="ones", kernel_constraint="non_neg")
    model = keras_module.Sequential([layers.Input((4,)), hidden, layers.Dense(3)])
    model.compile(keras_module.optimizers.SGD(1.0), lambda y, outputs: 0.0 * outputs)
    before = model.layers[0].get_weights()[0]
    x, y = np.ones((64, 4)), np.zeros((64, 3))
    demon = tfap.DemonPruning(0.0, noise=1.0, frequency=1, zero_below=0.0)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[demon])
    after = model.layers[0].get_weights()[0]
    assert (after != before).any() and (after >= 0).all() and (after == 0).any()


def test_noise_of_every_fourth_step_is_as_much_as_in_four_steps(keras_module):
    """Without a loss, weights change by the noise only, in multiples of the rate; pruned ones stay zero."""
    model = nets.mlp(keras_module)
    decay = keras_module.optimizers.schedules.PiecewiseConstantDecay([5], [0.5, 0.25])
    model.compile(keras_module.optimizers.SGD(decay), lambda y, outputs: 0.0 * outputs)
    kernel = model.layers[-2].kernel
    start = kernel.numpy()
    start[:, 0] = 0
    kernel.assign(start)
    x, y = nets.data(model)
    demon = tfap.DemonPruning(0.0, noise=0.1, seed=3, frequency=4, zero_below=0.0)
    model.fit(x[:32], y[:32], batch_size=4, epochs=1, verbose=0, callbacks=[demon])
    at = [member.path for member in demon.groups.members if member.role.name == "INCOMING"].index(
        model.layers[-2].name
    )
    kernels = [member.variable for member in demon.groups.members if member.role.name == "INCOMING"]
    expected = start
    for step, rate in ((4, 0.5), (8, 0.25)):
        generator = np.random.default_rng((3, step))
        drawn = [generator.standard_normal(tuple(each.shape), np.float32) for each in kernels][at]
        expected = np.where(start != 0, expected + 2 * 0.1 * rate * drawn, 0)
    np.testing.assert_allclose(kernel.numpy(), expected, rtol=0, atol=1e-6)
    assert (kernel.numpy()[:, 0] == 0).all() and (kernel.numpy()[:, 1:] != start[:, 1:]).all()


@pytest.mark.slow
def test_resume_at_an_epoch(keras_module):
    """The penalty depends on the step and the weights only, so two halves of a fit equal the whole."""
    x = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
    y = np.arange(64) % 4
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    for make in REGULARIZERS.values():
        whole, halves = nets.mlp(keras_module), nets.mlp(keras_module)
        halves.set_weights(whole.get_weights())
        whole.fit(x, y, epochs=4, callbacks=[make(frequency=3)], **options)
        halves.fit(x, y, epochs=4, callbacks=[make(frequency=3), StopAfter(2)], **options)
        halves.fit(x, y, epochs=4, initial_epoch=2, callbacks=[make(frequency=3)], **options)
        for first, second in zip(whole.get_weights(), halves.get_weights()):
            np.testing.assert_array_equal(first, second)


class StopAfter:
    def __new__(cls, epochs):
        from tfap import keras_compat

        class Stop(keras_compat.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch + 1 == epochs

        return Stop()


# -- with pruning ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_growing_on_what_the_criterion_prunes_next(keras_module):
    model = tfap.prune(nets.mlp(keras_module), 0.5, granularity="neuron", scope="local")
    growing = tfap.GrowingRegularization(0.1, sparsity=0.5, rank_by="criterion")
    chosen = []

    class Reads(keras_module.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            chosen.append(np.asarray(growing._penalty.factors.numpy()) > 0)

    x, y = nets.data(model)
    model.fit(
        x, y, batch_size=16, epochs=3, verbose=0, callbacks=[tfap.UpdatePruningStep(), growing, Reads()]
    )
    assert [its.sum() for its in chosen] == [0, 12, 12]  # nothing is counted before the first step
    pruned = [(wrapper.mask.numpy() == 0).all(axis=0) for wrapper in tfap.prunable_layers(model)]
    np.testing.assert_array_equal(np.concatenate(pruned), chosen[-1])


@pytest.mark.slow
def test_growing_begins_as_soon_as_there_are_counts(keras_module):
    model = tfap.prune(nets.mlp(keras_module), 0.5, granularity="neuron", scope="local")
    growing = tfap.GrowingRegularization(0.1, rank_by="criterion", frequency=1)
    chosen = []

    class Reads(keras_module.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            chosen.append(int((np.asarray(growing._penalty.factors.numpy()) > 0).sum()))

    x, y = nets.data(model)
    callbacks = [tfap.UpdatePruningStep(), growing, Reads()]
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=callbacks)
    assert len(chosen) > 1 and set(chosen) == {12}


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [0.5, tfap.PolynomialDecay(0.0, 0.5, 0, 6, frequency=1)])
def test_growing_without_sparsity_takes_what_the_schedule_reaches(keras_module, schedule):
    growing = tfap.GrowingRegularization(0.1, rank_by="criterion")
    model = tfap.prune(nets.mlp(keras_module), schedule, "magnitude", granularity="neuron", scope="local")
    chosen = []

    class Reads(keras_module.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            chosen.append(int((np.asarray(growing._penalty.factors.numpy()) > 0).sum()))

    x, y = nets.data(model)
    callbacks = [tfap.UpdatePruningStep(), growing, Reads()]
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
    assert chosen == [12, 12, 12]


def test_growing_without_sparsity_needs_a_schedule_with_steps():
    with pytest.raises(ValueError, match='but rank_by="norm" needs no tfap.prune: pass the sparsity'):
        tfap.GrowingRegularization(0.1)
    import keras

    schedule = tfap.AccuracyIntervals(0.5)
    model = tfap.prune(nets.mlp(keras), schedule, "magnitude", granularity="neuron", scope="local")
    growing = tfap.GrowingRegularization(0.1, rank_by="criterion")
    with pytest.raises(ValueError, match="decides at the end of epochs: pass the sparsity"):
        model.fit(*nets.data(model), callbacks=[growing, tfap.UpdatePruningStep()], verbose=0)


def silenced(keras, units):
    """A trained step cannot wake the first units: their biases are far below zero."""
    model = nets.mlp(keras)
    kernel, bias = model.layers[0].get_weights()
    bias[:units] = -100
    model.layers[0].set_weights([kernel, bias])
    return model


@pytest.mark.slow
def test_fit_and_compact_drops_silent_neurons(keras_module):
    model = silenced(keras_module, 5)
    x, y = nets.data(model)
    arguments = {"stages": 2, "epochs": 2, "batch_size": 16, "verbose": 0}
    kept = tfap.fit_and_compact(model, 0.0, x, y, **arguments)
    dropped = tfap.fit_and_compact(model, 0.0, x, y, drop_silent=True, **arguments)
    assert kept.model.layers[0].units == 16
    counts = tfap.measure_activations(dropped.model, x)
    assert dropped.model.layers[0].units == 11 and all(its.counts.all() for its in counts.values())
    assert dropped.history["weights"][0] > dropped.history["weights"][1]


@pytest.mark.slow
def test_silent_neurons_count_as_pruned(keras_module):
    """The schedule ends with as many neurons whether silent ones were removed before or not."""
    model = silenced(keras_module, 5)
    x, y = nets.data(model)
    arguments = {"stages": 3, "epochs": 6, "batch_size": 16, "verbose": 0}
    fits = [tfap.fit_and_compact(model, 0.5, x, y, drop_silent=drop, **arguments) for drop in (False, True)]
    units = [[layer.units for layer in found.model.layers] for found in fits]
    assert units[0] == units[1] == [8, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARIZERS)
def test_in_fit_and_compact(keras_module, name):
    model = nets.cnn(keras_module)
    x, y = nets.data(model)
    regularizer = REGULARIZERS[name]()
    reader = ReadsPenalty(regularizer)
    found = tfap.fit_and_compact(
        model, 0.3, x, y, stages=2, epochs=4, batch_size=16, verbose=0, drop_silent=True,
        callbacks=[regularizer, reader],
    )  # fmt: skip
    assert len(found.history["zeroed_channels"]) == 4
    assert found.model.count_params() < model.count_params()
    assert reader.penalties[0] == 0 and reader.penalties[2] > 0  # the second stage goes on in the schedule


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: tfap.GroupLasso("a"), TypeError, "strength must be a"),
        (lambda: tfap.GroupLasso(-1), ValueError, "strength must be a number >= 0"),
        (lambda: tfap.GroupLasso(1, 5, 5), ValueError, "end_step must be greater than begin_step, 5"),
        (lambda: tfap.GroupLasso(1, frequency=0), ValueError, "frequency must be an integer >= 1"),
        (lambda: tfap.GroupLasso(1, zero_below=1), ValueError, r"zero_below must be in \[0, 1\)"),
        (lambda: tfap.GroupLasso(1, skip="conv"), TypeError, "skip must be a list of names"),
        (
            lambda: tfap.GroupLasso(tfap.AccuracyIntervals(0.5, 2)),
            ValueError,
            "which decides at the end of epochs",
        ),
        (lambda: tfap.GrowingRegularization(1, 1.0), ValueError, "sparsity must be between 0 and 1"),
        (lambda: tfap.GrowingRegularization(1, 0.5, "size"), ValueError, "rank_by must be one of"),
        (lambda: tfap.DemonPruning(1, noise=-1), ValueError, "noise must be a number >= 0"),
        (lambda: tfap.DemonPruning(1, peak=1), ValueError, "peak must be between 0 and 1"),
        (lambda: tfap.DemonPruning(1, data=iter([])), ValueError, "data must be re-iterable"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_models_that_do_not_fit(keras_module):
    model = normalized_net(keras_module)
    for regularizer, message in (
        (tfap.GroupLasso(1, skip=["other"]), "skip names the layer 'other', which is not in the model"),
        (tfap.GroupLasso(1, skip=["first"]), "has no channels to regularize"),
        (tfap.GrowingRegularization(1, 0.5, "criterion"), "has no pruning wrappers: call tfap.prune"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, regularizer)
        assert not model.losses


def test_a_fit_of_unknown_length(keras_module):
    model = normalized_net(keras_module)
    lasso = tfap.GroupLasso(1)
    lasso.set_model(model)
    lasso.set_params({"epochs": 2, "steps": None, "verbose": 0})
    with pytest.raises(ValueError, match="GroupLasso reaches its strength at the end of the fit"):
        lasso.on_train_begin()
    assert not model.losses


@pytest.mark.parametrize(
    "options, message",
    [
        ({"criterion": "magnitude"}, "does not count which neurons fire"),
        ({"criterion": tfap.ActivationCount(threshold=0.5)}, "counts activations above 0.5"),
        ({"sample_every": 2}, "only every step number 2 is counted"),
    ],
)
def test_drop_silent_needs_exact_counts(keras_module, options, message):
    model = nets.mlp(keras_module)
    with pytest.raises(ValueError, match=message):
        tfap.fit_and_compact(model, 0.5, *nets.data(model), drop_silent=True, **options)
