"""Dead-neuron rates: equal to brute force over every input, and measured without a trace in the training."""

import dataclasses
import operator

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap.graph.counts import ActivationCounts

pytestmark = pytest.mark.one_keras

SAMPLES, BATCH = 40, 16  # the last batch is smaller
RATES = ("dead_neuron_rate", "static_dead_neuron_rate", "dynamic_dead_neuron_rate")


def brute_force(units):
    """`(rate, static, dynamic)` of activations of shape `(inputs, units)`, by the definition."""
    dead_of_each_input = [sum(value == 0 for value in row) / len(row) for row in units]
    static = sum(all(row[unit] == 0 for row in units) for unit in range(units.shape[1])) / units.shape[1]
    rate = sum(dead_of_each_input) / len(units)
    return rate, static, rate - static


def by_channel(activations):
    return np.asarray(activations).reshape(-1, activations.shape[-1])


def by_position(activations):
    return np.asarray(activations).reshape(len(activations), -1)


def assert_dead(dead, units):
    assert dead.units == units.shape[1]
    assert (dead.rate, dead.static, dead.dynamic) == pytest.approx(brute_force(units))
    assert dead.rate == pytest.approx(dead.static + dead.dynamic)


def inputs(model, samples=SAMPLES):
    return nets.data(model, samples)[0]


def with_dead_neurons(layer, channels):
    """Sets the biases of some channels so low that they never fire."""
    kernel, bias = layer.get_weights()
    bias[list(channels)] = -100
    layer.set_weights([kernel, bias])


def outputs_of(keras, model, name, x):
    return np.asarray(keras.Model(model.inputs[0], model.get_layer(name).output)(x, training=False))


# -- counts ----------------------------------------------------------------------------------------


def test_rates_of_counts():
    counted = ActivationCounts(np.array([4, 2, 0, 0, 3]), seen=4)
    assert counted.dead_neuron_rate == 1 - 9 / 20
    assert counted.static_dead_neuron_rate == 2 / 5
    assert counted.dynamic_dead_neuron_rate == 3 / 20
    window = counted - ActivationCounts(np.array([2, 2, 0, 0, 2]), seen=2)
    assert [getattr(window, name) for name in RATES] == [1 - 3 / 10, 3 / 5, 1 / 10]
    nothing = ActivationCounts(np.array([0]), seen=0)
    assert all(np.isnan(getattr(nothing, name)) for name in RATES)


def test_rates_are_exact_where_floats_would_not_be():
    counted = ActivationCounts(np.full(3, 10**17 - 1), seen=10**17)
    assert counted.dynamic_dead_neuron_rate == 1e-17 and counted.static_dead_neuron_rate == 0


# -- nets with known dead neurons --------------------------------------------------------------------


def test_dense_by_hand(keras_module):
    """Neurons that are dead always, never, on one input of four and on three of four."""
    hidden = keras_module.layers.Dense(4, activation="relu", name="hidden")
    model = keras_module.Sequential([keras_module.layers.Input((1,)), hidden, keras_module.layers.Dense(1)])
    hidden.set_weights([np.ones((1, 4)), np.array([-9.0, 9.0, 0.0, -2.5])])
    report = tfap.dead_neuron_report(tfap.measure_activations(model, np.array([[0.0], [1.0], [2.0], [3.0]])))
    assert dataclasses.astuple(report.layers["hidden"]) == (4, 0.5, 0.25, 0.25)
    assert report.net == report.layers["hidden"]


def test_dense(keras_module):
    model = nets.mlp(keras_module)
    with_dead_neurons(model.get_layer("hidden_0"), [1, 5, 6])
    with_dead_neurons(model.get_layer("hidden_1"), [0])
    x = inputs(model)
    report = tfap.dead_neuron_report(tfap.measure_activations(model, x, BATCH))
    every = [outputs_of(keras_module, model, name, x) for name in ("hidden_0", "hidden_1")]
    for name, values in zip(report.layers, every):
        assert_dead(report.layers[name], values)
    assert report.layers["hidden_0"].static == 3 / 16 and report.layers["hidden_1"].static >= 1 / 8
    assert_dead(report.net, np.concatenate(every, axis=1))


@pytest.mark.parametrize("positions", [False, True])
def test_convolutions(keras_module, positions):
    """Separate ReLUs behind BatchNormalization and Add, a depthwise layer and a dense one."""
    model = nets.cnn(keras_module)
    with_dead_neurons(model.get_layer("depthwise"), [2, 7])
    norm = model.get_layer("norm_a")
    gamma, beta, mean, variance = norm.get_weights()
    beta[:] = 0.2
    beta[[0, 3]] = -100
    norm.set_weights([gamma, beta, mean, variance])
    x = inputs(model)
    report = tfap.dead_neuron_report(tfap.measure_activations(model, x, BATCH, positions=positions))
    fires_at = {"conv_a": "relu_a", "conv_b": "relu_b", "depthwise": "depthwise", "dense": "dense"}
    assert list(report.layers) == list(fires_at)
    units_of = by_position if positions else by_channel
    units = [units_of(outputs_of(keras_module, model, site, x)) for site in fires_at.values()]
    for dead, values in zip(report.layers.values(), units):
        assert_dead(dead, values)
    assert report.layers["depthwise"].static >= 2 / 12 and report.layers["conv_a"].static >= 2 / 6
    if positions:
        assert_dead(report.net, np.concatenate(units, axis=1))
    weighted = sum(dead.units * dead.dynamic for dead in report.layers.values()) / report.net.units
    assert report.net.dynamic == pytest.approx(weighted)


def test_a_channel_may_be_dead_at_some_positions_only(keras_module):
    """An edge detector on steps: its channel fires at the step, and is dead everywhere else."""
    conv = keras_module.layers.Conv1D(2, 2, activation="relu", name="conv")
    model = keras_module.Sequential([keras_module.layers.Input((4, 1)), conv, keras_module.layers.Flatten()])
    conv.set_weights([np.array([[[-1.0, 1.0]], [[1.0, 1.0]]]), np.zeros(2)])
    x = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], "float32")[..., None]
    channels = tfap.dead_neuron_report(tfap.measure_activations(model, x)).net
    assert dataclasses.astuple(channels) == (2, pytest.approx(9 / 12), 0, pytest.approx(9 / 12))
    counted = tfap.measure_activations(model, x, positions=True)["conv"]
    assert counted.counts.reshape(3, 2).tolist() == [[0, 0], [1, 1], [0, 1]] and counted.seen == 2
    places = tfap.dead_neuron_report({"conv": counted}).net
    assert dataclasses.astuple(places) == (6, pytest.approx(9 / 12), 0.5, pytest.approx(3 / 12))


def test_positions_of_concatenated_channels_first(keras_module):
    layers = keras_module.layers
    given = keras_module.Input((2, 5, 6))
    branches = [nets.channels_first(keras_module, n, 3, name=name)(given) for name, n in (("a", 3), ("b", 2))]
    relu = layers.ReLU(name="relu")(layers.Concatenate(axis=1)(branches))
    model = keras_module.Model(given, layers.Dense(2)(layers.Flatten()(relu)))
    x = inputs(nets.compiled(keras_module, model))
    values = outputs_of(keras_module, model, "relu", x).transpose(0, 2, 3, 1)
    found = tfap.measure_activations(model, x, positions=True)
    for name, part in (("a", slice(3)), ("b", slice(3, 5))):
        counts = (values[..., part] > 0).sum(axis=0)
        np.testing.assert_array_equal(found[name].counts.reshape(3, 4, -1), counts)


def test_shared_layers(keras_module):
    layers = keras_module.layers
    shared = layers.Conv1D(3, 2, activation="relu", name="shared")

    def model(second):
        given = keras_module.Input((5, 3))
        return keras_module.Model(given, layers.Concatenate(axis=1)([shared(given), shared(second(given))]))

    same = model(layers.ReLU())
    x = np.random.default_rng(0).normal(size=(SAMPLES, 5, 3)).astype("float32")
    calls = np.concatenate([shared(x), shared(np.maximum(x, 0))])
    counted = tfap.measure_activations(same, x, positions=True)
    assert counted["shared"].seen == 2 * SAMPLES
    assert_dead(tfap.dead_neuron_report(counted).net, by_position(calls))
    shorter = model(layers.Cropping1D((0, 1)))
    assert tfap.measure_activations(shorter, x)["shared"].seen == SAMPLES * (4 + 3)
    with pytest.raises(ValueError, match="'shared' has different positions in its calls"):
        tfap.measure_activations(shorter, x, positions=True)


def test_layers_that_fire_in_one_place_weigh_once(keras_module):
    layers = keras_module.layers
    given = keras_module.Input((6,))
    added = layers.Add()([layers.Dense(8, name="main")(given), layers.Dense(8, name="shortcut")(given)])
    x = layers.Dense(4, activation="relu", name="last")(layers.ReLU(name="relu")(added))
    model = nets.compiled(keras_module, keras_module.Model(given, layers.Dense(2)(x)), "mse")
    x = inputs(model)
    report = tfap.dead_neuron_report(tfap.measure_activations(model, x))
    assert report.layers["main"] == report.layers["shortcut"]
    units = [outputs_of(keras_module, model, name, x) for name in ("relu", "last")]
    assert_dead(report.net, np.concatenate(units, axis=1))


def test_open_positions(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((None, 3)), layers.Conv1D(5, 2, activation="relu"), layers.GlobalMaxPooling1D()]
    )
    with pytest.raises(ValueError, match="undefined number of positions"):
        tfap.measure_activations(model, np.zeros((2, 4, 3)), positions=True)


def test_report_as_table_and_data(keras_module):
    model = nets.mlp(keras_module)
    report = tfap.dead_neuron_report(tfap.measure_activations(model, inputs(model)))
    lines = str(report).splitlines()
    assert [line.split()[:2] for line in lines if "%" in line] == [
        ["hidden_0", "16"],
        ["hidden_1", "8"],
        ["all", "24"],
    ]
    assert report.to_dict()["net"]["units"] == 24
    assert report.to_dict()["layers"]["hidden_0"] == dataclasses.asdict(report.layers["hidden_0"])


def test_bad_counts():
    counted = ActivationCounts(np.array([1]), seen=0)
    with pytest.raises(TypeError, match="counts must be"):
        tfap.dead_neuron_report(counted)
    with pytest.raises(ValueError, match="no activations of the layer 'a'"):
        tfap.dead_neuron_report({"a": counted})
    with pytest.raises(ValueError, match="counts is empty"):
        tfap.dead_neuron_report({})


# -- wrapped models ----------------------------------------------------------------------------------


def test_wrapped_models_are_measured_like_stripped_ones(keras_module):
    model = tfap.prune(nets.cnn(keras_module), tfap.ConstantSparsity(0.3, 2, frequency=100))
    nets.fit(model)
    before = model.get_weights()
    x = inputs(model)
    plain = tfap.strip_pruning(model)
    for positions in (False, True):
        found = tfap.measure_activations(model, x, BATCH, positions=positions)
        expected = tfap.measure_activations(plain, x, BATCH, positions=positions)
        assert list(found) == list(expected) == ["conv_a", "conv_b", "depthwise", "dense"]
        for path, counted in found.items():
            np.testing.assert_array_equal(counted.counts, expected[path].counts)
            assert counted.seen == expected[path].seen
    for value, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(value, now)
    nets.fit(model)  # goes on


@pytest.mark.tensorflow_only(reason="tfmot's wrappers")
def test_models_in_tfmots_wrappers_are_refused():
    import tf_keras

    from tfap.keras_compat import tfmot

    model = tfmot.sparsity.keras.prune_low_magnitude(nets.mlp(tf_keras))
    with pytest.raises(ValueError, match="strip_pruning"):
        tfap.measure_activations(model, np.zeros((2, 12)))


# -- the monitor -------------------------------------------------------------------------------------


def fitted(keras, build, pruning=False, monitor=None, epochs=3, **kwargs):
    """`(model, History)` of the same training again and again, with a monitor or without."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = build(keras)
    callbacks = []
    if pruning:
        model = tfap.prune(model, tfap.ConstantSparsity(0.4, 3, frequency=2))
        callbacks.append(tfap.UpdatePruningStep())
    callbacks += [monitor] if monitor else []
    return model, nets.fit(model, epochs, callbacks, **kwargs)


@pytest.mark.parametrize("pruning", [False, True])
def test_history(keras_module, pruning):
    x = np.random.default_rng(1).normal(size=(SAMPLES, 12)).astype("float32")
    monitor = tfap.DeadNeuronMonitor(x, BATCH)
    model, history = fitted(keras_module, nets.mlp, pruning, monitor)
    assert set(RATES) < set(history.history) and len(monitor.reports) == 3
    net = tfap.dead_neuron_report(tfap.measure_activations(model, x)).net
    assert monitor.reports[2].net == net
    logged = [history.history[name] for name in RATES]
    assert [rates[-1] for rates in logged] == [net.rate, net.static, net.dynamic]
    assert [rates[0] for rates in logged] == list(dataclasses.astuple(monitor.reports[0].net)[1:])
    assert 0 < net.rate < 1


def random_net(keras):
    """Dropout with a seed of its own, and BatchNormalization with moving statistics."""
    layers = keras.layers
    return nets.compiled(
        keras,
        keras.Sequential(
            [
                layers.Input((8, 8, 3)),
                layers.Conv2D(4, 3, name="conv"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.5, seed=3),
                layers.Flatten(),
                layers.Dense(6, activation="relu", activity_regularizer="l2"),
                layers.Dropout(0.5),
                layers.Dense(5, activation="softmax"),
            ]
        ),
    )


@pytest.mark.parametrize("pruning", [False, True])
def test_the_training_is_the_same_as_without_the_monitor(keras_module, pruning):
    x = np.random.default_rng(1).normal(size=(SAMPLES, 8, 8, 3)).astype("float32")
    alone, expected = fitted(keras_module, random_net, pruning)
    watched, history = fitted(keras_module, random_net, pruning, tfap.DeadNeuronMonitor(x, positions=True))
    assert history.history["loss"] == expected.history["loss"]
    for before, after in zip(alone.get_weights(), watched.get_weights()):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(alone.optimizer.variables, watched.optimizer.variables):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
    for before, after in zip(tfap.prunable_layers(alone), tfap.prunable_layers(watched)):
        np.testing.assert_array_equal(before.activation_counts.numpy(), after.activation_counts.numpy())
        assert int(before.pruning_step.numpy()) == int(after.pruning_step.numpy())


@pytest.mark.smoke
def test_layers_that_are_always_in_training_mode(keras_module):
    """Measuring writes their statistics and seeds, and puts them back."""
    layers = keras_module.layers
    given = keras_module.Input((12,))
    x = layers.BatchNormalization()(layers.Dense(8, activation="relu")(given), training=True)
    x = layers.Dropout(0.5, seed=1)(x, training=True)
    model = keras_module.Model(given, layers.Dense(4, activation="softmax")(x))
    before = [variable.numpy() for variable in model.non_trainable_variables]
    tfap.measure_activations(model, inputs(nets.compiled(keras_module, model)))
    for value, variable in zip(before, model.non_trainable_variables):
        np.testing.assert_array_equal(value, variable.numpy())


@pytest.mark.not_on_torch(reason="PyTorch does not trace")
def test_the_forward_pass_is_traced_once(keras_module):
    traced = []

    class Traced(keras_module.layers.Dense):
        def call(self, inputs):
            traced.append(tf.executing_eagerly())
            return super().call(inputs)

    tfap.register_prunable_layer(Traced, [tfap.KernelSpec()])  # its call is not that of Dense
    model = keras_module.Sequential(
        [keras_module.layers.Input((12,)), Traced(8, activation="relu"), keras_module.layers.Dense(4)]
    )
    model = nets.compiled(keras_module, model, "mse")
    traces = []
    after = keras_module.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: traces.append(len(traced)))
    data = np.zeros((2 * BATCH, 12), "float32")
    nets.fit(model, 4, [tfap.DeadNeuronMonitor(data, BATCH), after])
    assert len(set(traces)) == 1


def test_every(keras_module):
    x = np.zeros((4, 12), "float32")
    monitor = tfap.DeadNeuronMonitor(x, every=2)
    _, history = fitted(keras_module, nets.mlp, monitor=monitor, epochs=5)
    assert list(monitor.reports) == [1, 3]
    assert np.isnan(history.history["dead_neuron_rate"]).tolist() == [True, False, True, False, True]


@pytest.mark.slow
def test_data_that_repeats(keras_module):
    x = np.random.default_rng(1).normal(size=(SAMPLES, 12)).astype("float32")

    class Batches(getattr(keras_module.utils, "PyDataset", keras_module.utils.Sequence)):
        def __len__(self):
            return 2

        def __getitem__(self, at):
            return x[at * 20 : at * 20 + 20], None

    dataset = tf.data.Dataset.from_tensor_slices(x).batch(BATCH)
    rates = []
    for data in (x, [x], dataset, Batches()):
        _, history = fitted(keras_module, nets.mlp, monitor=tfap.DeadNeuronMonitor(data), epochs=2)
        rates.append(history.history["dead_neuron_rate"])
    assert all(found == rates[0] for found in rates)
    monitor = tfap.DeadNeuronMonitor(dataset.repeat(), steps=1)
    fitted(keras_module, nets.mlp, monitor=monitor, epochs=1)
    assert monitor.reports[0] == tfap.dead_neuron_report(
        tfap.measure_activations(fitted(keras_module, nets.mlp, epochs=1)[0], x[:BATCH])
    )


def test_errors_come_before_the_training(keras_module):
    x = np.zeros((4, 12), "float32")
    with pytest.raises(ValueError, match="used up after one epoch"):
        tfap.DeadNeuronMonitor(iter([x]))
    with pytest.raises(ValueError, match="every must be an integer"):
        tfap.DeadNeuronMonitor(x, every=0)
    model = nets.mlp(keras_module)
    before = model.get_weights()
    endless = tf.data.Dataset.from_tensors(x).repeat()
    for data, text in ((endless, "no end"), (x[:0], "is empty"), ([x, x], "has 2 arrays")):
        with pytest.raises(ValueError, match=text):
            nets.fit(model, callbacks=[tfap.DeadNeuronMonitor(data)])
    linear = keras_module.Sequential([keras_module.layers.Input((12,)), keras_module.layers.Dense(4)])
    with pytest.raises(ValueError, match="has no neurons to count"):
        nets.fit(nets.compiled(keras_module, linear, "mse"), callbacks=[tfap.DeadNeuronMonitor(x)])
    hidden = keras_module.layers.Dense(4, activation="relu")
    subclassed = nets.subclassed(keras_module, hidden)
    with pytest.raises(ValueError, match="is subclassed"):
        subclassed.fit(x, np.zeros(4), verbose=0, callbacks=[tfap.DeadNeuronMonitor(x)])
    for value, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(value, now)


def test_a_model_that_its_first_batch_builds(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Dense(8, activation="relu"), layers.Dense(4)])
    model = nets.compiled(keras_module, model, "mse")
    x = np.random.default_rng(0).normal(size=(SAMPLES, 12)).astype("float32")
    monitor = tfap.DeadNeuronMonitor(x)
    model.fit(x, x[:, :4], epochs=2, verbose=0, callbacks=[monitor])
    assert_dead(monitor.reports[1].net, np.asarray(model.layers[0](x)))


def test_several_fits_and_models(keras_module):
    x = np.random.default_rng(1).normal(size=(SAMPLES, 12)).astype("float32")
    monitor = tfap.DeadNeuronMonitor(x)
    model, _ = fitted(keras_module, nets.mlp, monitor=monitor, epochs=1)
    nets.fit(model, 3, [monitor], initial_epoch=1)
    assert list(monitor.reports) == [0, 1, 2]
    other = nets.mlp(keras_module, (12, 20, 4))
    nets.fit(other, 1, [monitor])
    assert monitor.reports[0].net.units == 20


ONE_STEP = pytest.mark.not_on_torch(reason="Keras takes one step per execution there")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"steps_per_execution": 3}, marks=ONE_STEP),
        pytest.param(
            {"jit_compile": True}, marks=pytest.mark.not_on_torch(reason="torch.compile is not of tfap")
        ),
        {"run_eagerly": True},
    ],
)
def test_how_fit_runs_does_not_matter(keras_module, settings):
    def build(keras):
        model = nets.mlp(keras)
        model.compile(keras.optimizers.SGD(0.05), model.loss, **settings)
        return model

    x = np.random.default_rng(1).normal(size=(SAMPLES, 12)).astype("float32")
    monitor = tfap.DeadNeuronMonitor(x)
    model, _ = fitted(keras_module, build, True, monitor, epochs=2)
    assert monitor.reports[1] == tfap.dead_neuron_report(tfap.measure_activations(model, x))


# -- TensorBoard -------------------------------------------------------------------------------------


def events(folder):
    """`{(name, step): value}` of all scalars in a folder."""
    found = {}
    for file in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return found


@pytest.mark.smoke
def test_tensorboard(keras_module, tmp_path):
    x = np.random.default_rng(1).normal(size=(SAMPLES, 6)).astype("float32")
    monitor = tfap.DeadNeuronMonitor(x, log_dir=tmp_path)
    model = tfap.prune(nets.nested(keras_module), tfap.ConstantSparsity(0.4, 3, frequency=2))
    nets.fit(model, 2, [tfap.UpdatePruningStep(), monitor])
    found = events(tmp_path)
    names = {"dead_neurons": monitor.reports[1].net}
    names |= {f"dead_neurons/{path}": dead for path, dead in monitor.reports[1].layers.items()}
    assert "dead_neurons/middle/inner/dense" in names
    for name, dead in names.items():
        for part in ("rate", "static", "dynamic"):
            assert found[f"{name}/{part}", 1] == pytest.approx(getattr(dead, part))
    assert len(found) == 2 * 3 * len(names)


def test_tensorboard_reads_it(keras_module, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    x = np.random.default_rng(1).normal(size=(SAMPLES, 12)).astype("float32")
    fitted(keras_module, nets.mlp, monitor=tfap.DeadNeuronMonitor(x, log_dir=str(tmp_path)), epochs=2)
    reader = accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    assert "dead_neurons/hidden_0/dynamic" in reader.Tags()["tensors"]


def test_counts_keep_their_threshold():
    counts, zero = tfap.ActivationCounts(np.array([3, 1]), 4, 0.5), tfap.ActivationCounts(np.array([3, 1]), 4)
    assert zero.threshold == 0
    for derived in (counts[:1], counts + counts, counts - counts):
        assert derived.threshold == 0.5
    for combine in (operator.add, operator.sub):
        with pytest.raises(ValueError, match="different thresholds, 0.5 and 0.0"):
            combine(counts, zero)
    with pytest.raises(ValueError, match=r"thresholds \[0.0, 0.5\]"):
        tfap.dead_neuron_report({"a": counts, "b": zero})


def test_rates_at_another_threshold(keras_module):
    model = nets.mlp(keras_module)
    x, _ = nets.data(model)
    counts = tfap.measure_activations(model, x, threshold=0.5)
    assert {layer.threshold for layer in counts.values()} == {0.5}
    report = tfap.dead_neuron_report(counts)
    hidden = np.maximum(x @ model.layers[0].get_weights()[0] + model.layers[0].get_weights()[1], 0)
    assert report.layers["hidden_0"].rate == pytest.approx(np.mean(hidden <= 0.5))
