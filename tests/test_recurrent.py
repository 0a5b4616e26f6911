"""Recurrent layers: their units are removed by compact, remove and prune_once, and pruned whole."""

import importlib

import keras
import numpy as np
import pytest

import tfap
from tfap.budgets.budget import Budget
from tfap.budgets.latency_cost import LatencyCost
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras

GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
UNITS = 6
every_kind = pytest.mark.parametrize("kind", GATES)


def random_weights(model, seed=0):
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        layer.set_weights([generator.normal(size=w.shape, scale=0.5) for w in layer.get_weights()])
    return model


def text(keras_module, kind="LSTM", bidirectional=False, unroll=False, units=8):
    """Embedding with padding, two recurrent layers, and two Dense layers."""
    layers = keras_module.layers

    def recurrent(name, sequences):
        options = {"return_sequences": sequences, "unroll": unroll, "name": name}
        layer = getattr(layers, kind)(units, **options)
        return layers.Bidirectional(layer, name=name) if bidirectional else layer

    stack = [
        layers.Input((6,), dtype="int32"),
        layers.Embedding(20, 8, mask_zero=not unroll, name="embedding"),
        recurrent("first", True),
        recurrent("second", False),
        layers.Dense(6, activation="relu", name="dense"),
        layers.Dense(3, name="output"),
    ]
    return random_weights(keras_module.Sequential(stack))


def tokens(samples=32):
    return np.random.default_rng(1).integers(0, 20, (samples, 6))


def sequences(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def outputs(model, x):
    return np.asarray(model(x, training=False), np.float64)


def assert_equal_outputs(model, other, x, tolerance=1e-5):
    expected = outputs(model, x)
    assert np.abs(outputs(other, x) - expected).max() <= tolerance * np.abs(expected).max()


def recurrent_weights(model):
    return sum(w.size for name in ("first", "second") for w in model.get_layer(name).get_weights())


def units_of(layer):
    """The number of units by the recurrent kernel."""
    return layer.get_weights()[1].shape[0]


def with_dead_units(layer):
    """Unit 1 of a layer is always zero, and no other unit reads unit 4."""
    weights = layer.get_weights()
    step = len(weights) // (2 if hasattr(layer, "forward_layer") else 1)
    for first in range(0, len(weights), step):
        kernel, recurrent, *bias = weights[first : first + step]
        candidate = 1 + UNITS * (2 if kernel.shape[1] > UNITS else 0)
        for array in (kernel, recurrent, *bias):
            array[..., candidate] = 0
        own = recurrent[4, 4::UNITS].copy()
        recurrent[4] = 0
        recurrent[4, 4::UNITS] = own
    layer.set_weights(weights)


def without_readers(layer, unit):
    kernel, bias = layer.get_weights()
    kernel[unit::UNITS] = 0
    layer.set_weights([kernel, bias])


# -- compact -----------------------------------------------------------------------------------------

OPTIONS = {
    "default": {},
    "sequences": {"return_sequences": True},
    "backwards": {"go_backwards": True},
    "unrolled": {"unroll": True},
    "no bias": {"use_bias": False},
    "relu": {"activation": "relu"},
    "states": {"return_state": True},
}
FEW = {("LSTM", "default", None), ("GRU", "sequences", "concat"), ("SimpleRNN", "states", None)}
CASES = [
    *((kind, name, None) for kind in GATES for name in OPTIONS),
    *((kind, name, mode) for kind in GATES for name in OPTIONS for mode in ("concat", "sum", "mul")),
]


@pytest.mark.parametrize(
    "kind, name, merge_mode",
    [
        pytest.param(*case, marks=[] if case in FEW else pytest.mark.slow)
        for case in CASES
        if case[1] != "backwards" or not case[2]
    ],
)
def test_units_that_are_zero_or_not_read_go(keras_module, kind, name, merge_mode):
    layers = keras_module.layers
    layer = getattr(layers, kind)(UNITS, name="recurrent", **OPTIONS[name])
    if merge_mode:
        layer = layers.Bidirectional(layer, merge_mode=merge_mode, name="recurrent")
    inputs = keras_module.Input((5,), dtype="int32")
    made = layer(layers.Embedding(20, 4, mask_zero=True)(inputs))
    if name == "states":  # the first output, and the last state
        made = layers.Concatenate()([made[0], made[-1]])
    model = random_weights(keras_module.Model(inputs, layers.Dense(3, name="output")(made)))
    with_dead_units(layer)
    without_readers(model.get_layer("output"), 4)
    small = tfap.compact(model)
    smaller = small.get_layer("recurrent")
    assert type(smaller) is type(layer) and units_of(smaller) == UNITS - 2
    assert getattr(smaller, "forward_layer", smaller).units == UNITS - 2
    assert_equal_outputs(model, small, tokens()[:, :5])
    report = tfap.compaction_report(model, small)
    assert report.exact and not report.kept


@pytest.mark.parametrize("reset_after", [True, False])
def test_both_kinds_of_gru(keras_module, reset_after):
    layers = keras_module.layers
    layer = layers.GRU(UNITS, reset_after=reset_after, name="recurrent")
    model = keras_module.Sequential([layers.Input((5, 3)), layer, layers.Dense(2, name="output")])
    with_dead_units(random_weights(model).layers[0])
    without_readers(model.get_layer("output"), 4)
    small = tfap.compact(model)
    assert small.get_layer("recurrent").get_weights()[2].shape == ((2, 12) if reset_after else (12,))
    assert_equal_outputs(model, small, sequences(8, 5, 3))


def test_a_chain_of_units_over_time(keras_module):
    """h0 = x, h1 = the h0 of the step before, h2 = h1 of the step before, and the output is h1."""
    layers = keras_module.layers
    recurrent = layers.SimpleRNN(3, activation="linear", name="recurrent")
    model = keras_module.Sequential([layers.Input((4, 1)), recurrent, layers.Dense(1, name="output")])
    recurrent.set_weights([np.array([[1.0, 0, 0]]), np.eye(3, k=1), np.zeros(3)])
    model.get_layer("output").set_weights([np.array([[0.0], [1], [0]]), np.zeros(1)])
    small = tfap.compact(model)
    x = sequences(5, 4, 1)
    assert small.get_layer("recurrent").units == 2  # nothing reads h2, but h1 reads h0
    np.testing.assert_allclose(outputs(small, x)[:, 0], x[:, -2, 0], rtol=1e-6)


@every_kind
def test_a_constant_input_moves_into_the_bias(keras_module, kind):
    layers = keras_module.layers
    stack = [
        layers.Dense(5, name="dense"),
        getattr(layers, kind)(4, name="recurrent"),
        layers.Dense(2, name="output"),
    ]
    model = random_weights(keras_module.Sequential([layers.Input((6, 3)), *stack]))
    kernel, bias = stack[0].get_weights()
    kernel[:, 2], bias[2] = 0, 1.5
    stack[0].set_weights([kernel, bias])
    small = tfap.compact(model)
    assert small.get_layer("dense").units == 4 and small.get_layer("recurrent").units == 4
    assert_equal_outputs(model, small, sequences(8, 6, 3))


def test_a_stack_and_a_shared_layer(keras_module):
    layers = keras_module.layers
    inputs = [keras_module.Input((5, 3)), keras_module.Input((5, 3))]
    shared = layers.GRU(UNITS, return_sequences=True, name="shared")
    second = layers.LSTM(UNITS, name="second")
    x = layers.Add()([shared(inputs[0]), layers.Activation("tanh")(shared(inputs[1]))])
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(second(x)))
    with_dead_units(random_weights(model).get_layer("shared"))
    kernel, *rest = second.get_weights()
    kernel[4] = 0
    second.set_weights([kernel, *rest])
    with_dead_units(second)
    without_readers(model.get_layer("output"), 4)
    small = tfap.compact(model)
    assert [units_of(small.get_layer(name)) for name in ("shared", "second")] == [UNITS - 2] * 2
    assert_equal_outputs(model, small, [sequences(8, 5, 3), sequences(8, 5, 3)[::-1].copy()])


def test_directions_lose_the_same_units(keras_module):
    """Unit 1 of the backward layer alone is zero: it stays."""
    layers = keras_module.layers
    both = layers.Bidirectional(layers.LSTM(UNITS), name="both")
    model = random_weights(keras_module.Sequential([layers.Input((5, 3)), both, layers.Dense(2)]))
    weights = both.get_weights()
    with_dead_units(both)
    both.set_weights([*weights[:3], *both.get_weights()[3:]])
    small = tfap.compact(model)
    assert units_of(small.get_layer("both")) == UNITS
    assert_equal_outputs(model, small, sequences(8, 5, 3))


@pytest.mark.parametrize(
    "why, build",
    {
        "called on initial states": lambda layers, x: layers.GRU(4, name="reader")(
            x, initial_state=layers.GlobalMaxPooling1D()(x)
        ),
        "with merge_mode=None": lambda layers, x: layers.Concatenate()(
            layers.Bidirectional(layers.LSTM(4), merge_mode=None, name="reader")(x)
        ),
        "with activations that may combine units": lambda layers, x: layers.LSTM(
            4, activation="softmax", name="reader"
        )(x),
        "with different layers for the two directions": lambda layers, x: layers.Bidirectional(
            layers.GRU(4), backward_layer=layers.LSTM(4, go_backwards=True), name="reader"
        )(x),
    }.items(),
)
def test_reasons_to_keep_units(keras_module, why, build):
    layers = keras_module.layers
    inputs = keras_module.Input((5, 3))
    made = build(layers, layers.Dense(4, name="dense")(inputs))
    model = random_weights(keras_module.Model(inputs, layers.Dense(2, name="output")(made)))
    kernel, bias = model.get_layer("dense").get_weights()
    kernel[:, 0] = 0
    model.get_layer("dense").set_weights([kernel, bias])
    small = tfap.compact(model)
    assert small.get_layer("dense").units == 4
    (kept,) = tfap.compaction_report(model, small).kept
    assert kept.path == "dense" and kept.reason.endswith(why)
    plan = {row.path: row.reason for row in tfap.plan(model, criterion="magnitude", granularity="neuron")}
    assert plan["reader"].endswith(why) and plan["dense"].endswith(why)


def test_stateful_layers_are_named(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input(batch_shape=(2, 5, 3))
    made = layers.Dense(2)(layers.GRU(4, stateful=True, name="gru")(inputs))
    rows = tfap.plan(keras_module.Model(inputs, made), criterion="magnitude", granularity="neuron")
    assert rows[0].reason.endswith("does not resize GRU layers with stateful=True")


# -- pruning whole units ------------------------------------------------------------------------------


def pruned_by_half(keras_module, kind, bidirectional, criterion="magnitude", **options):
    model = text(keras_module, kind, bidirectional, **options)
    pruned = tfap.prune(model, 0.5, criterion, granularity="neuron", scope="local", target="neurons")
    return model, pruned


@pytest.mark.parametrize("kind", ["LSTM", pytest.param("GRU", marks=pytest.mark.slow)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_half_of_the_units_go(keras_module, kind, bidirectional):
    model, pruned = pruned_by_half(keras_module, kind, bidirectional)
    tfap.update_masks(pruned, 0.5)
    plain = tfap.strip_pruning(pruned)
    small = tfap.compact(plain)
    assert [units_of(small.get_layer(name)) for name in ("first", "second")] == [4, 4]
    assert recurrent_weights(small) * 2.5 <= recurrent_weights(model)
    assert_equal_outputs(plain, small, tokens())
    assert tfap.compaction_report(plain, small).exact
    fresh = text(keras_module, kind, bidirectional, units=4)
    flops = tfap.layer_flops(small)
    gates, width = GATES[kind], small.get_layer("embedding").output_dim
    directions = 2 if bidirectional else 1
    assert flops["first"] == directions * 2 * 6 * gates * 4 * (width + 4)
    assert flops["second"] == tfap.layer_flops(fresh)["second"]
    assert sum(flops.values()) < tfap.flops(model)


@pytest.mark.parametrize("kind", ["LSTM", pytest.param("GRU", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_same_units_in_both_kerases(both_kerases, kind):
    masks = []
    for keras_module in both_kerases:
        _, pruned = pruned_by_half(keras_module, kind, True)
        tfap.update_masks(pruned, 0.5)
        masks.append({layer.name: layer.mask for layer in tfap.prunable_layers(pruned)})
    ours, theirs = masks
    assert ours["first"].keys() == theirs["first"].keys()
    for layer in ("first", "second"):
        for name, mask in ours[layer].items():
            np.testing.assert_array_equal(mask.numpy(), theirs[layer][name].numpy())
        forward, backward = (
            ours[layer][f"{way}_layer.cell.kernel"].numpy() for way in ("forward", "backward")
        )
        np.testing.assert_array_equal(forward, backward)  # unit j of both


@pytest.mark.parametrize(
    "criterion",
    [
        "activation_count",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("magnitude", "lookahead")),
    ],
)
def test_units_are_pruned_in_training(keras_module, criterion, tmp_path):
    """Their biases stay zero too, so that they go although the Dense layer after them is not pruned."""
    layers = keras_module.layers
    stack = [layers.LSTM(UNITS, name="recurrent"), layers.Dense(2, name="output")]
    model = random_weights(keras_module.Sequential([layers.Input((5, 3)), *stack]))
    model.compile("adam", "mse")
    pruned = tfap.prune(model, tfap.ConstantSparsity(0.5, 2), criterion, granularity="neuron")
    x = sequences(32, 5, 3)
    pruned.fit(x, x[:, 0, :2], epochs=2, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    path = str(tmp_path / "model.keras")
    pruned.save(path)
    loaded = keras_module.models.load_model(path)
    for each in (pruned, loaded):
        plain = tfap.strip_pruning(each)
        small = tfap.compact(plain)
        assert units_of(small.get_layer("recurrent")) < UNITS
        kernel, recurrent, bias = plain.get_layer("recurrent").get_weights()
        dead = ~kernel.any(axis=0).reshape(4, UNITS).any(axis=0)
        assert not bias.reshape(4, UNITS)[:, dead].any() and not recurrent[dead].any()
        assert dead.sum() == UNITS - units_of(small.get_layer("recurrent"))
        assert_equal_outputs(plain, small, x)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["activation_count", "magnitude"])
def test_compaction_between_stages(keras_module, criterion):
    model = text(keras_module, "GRU")
    model.compile("adam", "mse")
    x = tokens()
    trained = tfap.fit_and_compact(
        model, 0.5, x, np.zeros((32, 3)), criterion=criterion, epochs=4, stages=2, verbose=0
    )
    assert all(units_of(trained.model.get_layer(name)) < 8 for name in ("first", "second"))


# -- remove and prune_once ----------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
def test_named_units_go(keras_module, bidirectional):
    model = text(keras_module, "LSTM", bidirectional)
    small = tfap.remove(model, {"first": [0, 3], "second": [7]})
    assert [units_of(small.get_layer(name)) for name in ("first", "second")] == [6, 7]
    zeroed = text(keras_module, "LSTM", bidirectional)
    for name, reader, units in (("first", "second", [0, 3]), ("second", "dense", [7])):
        for layer, at, rows in ((name, 1, units), (reader, 0, [*units, *(unit + 8 for unit in units)])):
            weights = zeroed.get_layer(layer).get_weights()
            directions = [0, 3] if bidirectional and layer != "dense" else [0]
            for first in directions:
                weights[first + at][[row for row in rows if row < len(weights[first + at])]] = 0
            zeroed.get_layer(layer).set_weights(weights)
    assert_equal_outputs(zeroed, small, tokens())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "criterion",
    [
        "reconstruction",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("magnitude", "activation_count")),
    ],
)
def test_units_are_pruned_once(keras_module, criterion, bidirectional):
    model = text(keras_module, "GRU", bidirectional)
    small, report = tfap.prune_once(model, tokens(), 0.5, criterion, target="neurons", return_report=True)
    assert [units_of(small.get_layer(name)) for name in ("first", "second")] == [4, 4]
    assert recurrent_weights(small) * 2.5 <= recurrent_weights(model)
    assert report.flops[1] < report.flops[0] and {"second", "dense"} <= {row.path for row in report.layers}


def test_copies_of_inputs_are_taken_over_by_the_gates(keras_module):
    """Two neurons of the Dense layer are equal: the LSTM that consumes them loses nothing."""
    layers = keras_module.layers
    stack = [layers.Dense(4, name="dense"), layers.LSTM(5, name="recurrent"), layers.Dense(2, name="output")]
    model = random_weights(keras_module.Sequential([layers.Input((6, 3)), *stack]))
    kernel, bias = stack[0].get_weights()
    kernel[:, 3], bias[3] = kernel[:, 1], bias[1]
    stack[0].set_weights([kernel, bias])
    x = sequences(64, 6, 3)
    small, report = tfap.prune_once(model, x, 0.12, skip="recurrent", ridge=1e-9, return_report=True)
    assert small.get_layer("dense").units == 3 and small.get_layer("recurrent").units == 5
    assert report.layers[0].path == "recurrent" and report.layers[0].error_after < 1e-6
    assert_equal_outputs(model, small, x, 1e-4)


def test_similar_units_are_not_merged(keras_module):
    model = text(keras_module, "LSTM")
    small = tfap.prune_once(model, None, 0.2)
    assert units_of(small.get_layer("first")) == units_of(small.get_layer("second")) == 8
    assert small.get_layer("embedding").output_dim < 8


# -- files --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.tensorflow_only("TFLite files are made by TensorFlow")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_exported_files_compute_the_same(keras_module, tmp_path, kind, bidirectional, format):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    _, pruned = pruned_by_half(keras_module, kind, bidirectional, unroll=True)
    tfap.update_masks(pruned, 0.5)
    plain = tfap.strip_pruning(pruned)
    small = tfap.compact(plain)
    x = tokens().astype("int32")
    expected = outputs(plain, x)
    for name, model in (("plain", plain), ("small", small)):
        file = tfap.export(model, tmp_path / f"{name}.{format}", format=format)
        (made,) = tfap.load_runtime(file)(x)
        assert np.abs(np.asarray(made) - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_module_of_a_layer_decides_and_not_its_name():
    """A subclass that computes something else keeps its units."""

    class LSTM(keras.layers.LSTM):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return 2 * super().call(sequences, initial_state, mask, training)

    model = keras.Sequential([keras.Input((5, 3)), LSTM(UNITS, name="recurrent"), keras.layers.Dense(2)])
    with_dead_units(random_weights(model).layers[0])
    assert units_of(tfap.compact(model).get_layer("recurrent")) == UNITS
    assert importlib.import_module("tfap.graph.layer_types").of(model.layers[0]).recurrent is False


# -- budgets and sensitivity -----------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.slow
def test_budgets_know_the_weights_and_flops_of_units(keras_module, kind, bidirectional):
    model = text(keras_module, kind, bidirectional)
    for budget, count in (
        ({"weights": 0.6}, lambda model: model.count_params()),
        ({"flops": 0.6}, tfap.flops),
    ):
        small, report = tfap.prune_once(model, tokens(), budget, "magnitude", return_report=True)
        assert (
            small.get_layer("second").get_weights()[1].shape
            < model.get_layer("second").get_weights()[1].shape
        )
        assert report.budget.reached == report.budget.predicted == count(small) <= report.budget.limit


@pytest.mark.tensorflow_only(reason="other backends export each layer in a process of its own")
def test_a_budget_of_time_measures_recurrent_layers(keras_module):
    model = text(keras_module, "LSTM", bidirectional=True, unroll=True)
    budget = Budget.of({"speedup": 1.1, "runtime": "saved_model"})
    cost = LatencyCost(model, Liveness(model), budget, FakeTable())
    assert cost.of(np.zeros(cost._liveness.channels.size, bool)) < cost.total


class FakeTable:
    """Times that are the number of weights of what is measured."""

    def times(self, entries):
        return [float(make().count_params()) for _, make in entries]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_sensitivity_is_that_of_removing_the_units(keras_module, bidirectional):
    model, x = text(keras_module, bidirectional=bidirectional), tokens()
    found = tfap.sensitivity(model, x, rates=(0.5,), criterion="magnitude", compensate=(False,))
    plan = tfap.prune_once(model, x, {"second": 0.5}, "magnitude", compensate=False)
    expected, received = (np.asarray(each(x, training=False)) for each in (model, plan))
    change = np.square(expected - received).sum() / np.square(expected - expected.mean(axis=0)).sum()
    (removal,) = found["second"].removals
    np.testing.assert_allclose(removal.change, change, rtol=1e-4)
