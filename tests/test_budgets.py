"""Budgets of the whole model, in weights, FLOPs and bytes, and kept channels that are multiples."""

import keras
import nets
import numpy as np
import pytest

import tfap
from tfap.budgets.budget import Budget
from tfap.budgets.parts import weight_count
from tfap.compaction.shapes import with_channels
from tfap.exporting.sizes import disk_size
from tfap.graph.evening import evened
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras

OPTIONS = {"criterion": "magnitude", "return_report": True}


def inputs_for(model, samples=64):
    return np.random.default_rng(0).normal(size=(samples, *model.inputs[0].shape[1:])).astype("float32")


def grouped(keras):
    """A grouped, a separable and a transposed convolution, and a concatenation; 16 to 32 channels."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(inputs)
    a = layers.Conv2D(32, 3, groups=4, padding="same", activation="relu", name="grouped")(a)
    b = layers.SeparableConv2D(24, 3, padding="same", activation="relu", name="separable")(a)
    b = layers.BatchNormalization(name="norm")(b)
    x = layers.Concatenate(name="both")([a, b])
    x = layers.Conv2DTranspose(16, 2, strides=2, activation="relu", name="transposed")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(4, name="pool")(x))
    x = layers.Dense(30, activation="relu", name="dense")(x)
    return compiled(keras, keras.Model(inputs, layers.Dense(4, name="output")(x)))


def compiled(keras, model):
    model.compile("sgd", "mse")
    return model


def channels_of(model):
    """The number of channels of every layer with a kernel."""
    with_kernel = [layer for layer in model.layers if any(len(weight.shape) > 1 for weight in layer.weights)]
    return {layer.name: layer.output.shape[-1] for layer in with_kernel}


# -- reading a budget ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, error, text",
    [
        ({}, ValueError, "exactly one of weights, bytes, flops, latency_ms, speedup: received none"),
        ({"weights": 1, "flops": 0.5}, ValueError, "exactly one of .*: received 2: weights, flops"),
        ({"wieghts": 1}, ValueError, "no 'wieghts'. Did you mean 'weights'?"),
        ({"speedup": 2.0, "treads": 1}, ValueError, "no 'treads'. Did you mean 'threads'?"),
        ({3: 1}, ValueError, "no 3. Known keys: weights"),
        ({"flops": 0.5, "runtime": "onnx"}, ValueError, "in flops has no runtime.*It takes no options"),
        ({"bytes": 0.5, "threads": 1}, ValueError, "in bytes has no threads.*It takes runtime"),
        ({"weights": 0}, ValueError, "weights must be greater than 0: received 0"),
        ({"weights": -0.5}, ValueError, "weights must be greater than 0"),
        ({"weights": 1.5}, ValueError, "an integer, or a float in \\(0, 1\\].*received 1.5"),
        ({"flops": float("nan")}, ValueError, "flops must be a finite number"),
        ({"weights": "many"}, TypeError, "weights must be a number: received 'many'"),
        ({"weights": True}, TypeError, "weights must be a number"),
        ({"speedup": 0.5}, ValueError, "speedup must be at least 1: received 0.5"),
        ({"latency_ms": 0}, ValueError, "latency_ms must be greater than 0"),
        ({"speedup": 2, "runtime": "torch"}, ValueError, "runtime must be one of"),
        ({"speedup": 2, "batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
        ({"speedup": 2, "threads": 1.5}, TypeError, "threads must be an integer >= 1"),
        ({"speedup": 2, "runtime": "saved_model", "threads": 1}, ValueError, "threads must be None"),
        (0.5, TypeError, "A budget is a dict such as"),
    ],
)
def test_wrong_budgets_say_what_is_expected(value, error, text):
    with pytest.raises(error, match=text):
        Budget.of(value)


def test_a_runtime_that_is_not_installed(monkeypatch):
    from tfap.exporting.formats import FORMATS

    def missing(self):
        raise ImportError("onnxruntime is not installed: pip install 'tfap[onnx]'")

    monkeypatch.setattr(type(FORMATS["onnx"]), "require", missing)
    with pytest.raises(ImportError, match="pip install"):
        Budget.of({"speedup": 2.0, "runtime": "onnx"})
    Budget.of({"flops": 0.5})


@pytest.mark.parametrize(
    "value, own, limit",
    [
        ({"weights": 40}, 100, 40),
        ({"weights": 0.25}, 100, 25),
        ({"flops": 1}, 100, 1),
        ({"flops": 1.0}, 100, 100),
        ({"bytes": np.int64(7)}, 100, 7),
        ({"speedup": 4}, 10.0, 2.5),
        ({"latency_ms": 3}, 10.0, 3.0),
    ],
)
def test_integers_are_absolute_and_floats_are_fractions(value, own, limit):
    assert Budget.of(value).limit(own) == limit


# -- costs -------------------------------------------------------------------------------------------------

MAKERS = {"mlp": nets.mlp, "cnn": nets.cnn, "nested": nets.nested, "grouped": grouped}


@pytest.mark.parametrize("name", MAKERS)
def test_costs_are_those_of_the_model_that_is_made(keras_module, name):
    model = MAKERS[name](keras_module)
    liveness = Liveness(model)
    weights, operations = (Budget.of({unit: 0.5}).cost(model, liveness) for unit in ("weights", "flops"))
    assert weights.total == weight_count(model) and operations.total == tfap.flops(model)
    generator = np.random.default_rng(0)
    for fraction in (0.3, 0.7):
        kept = generator.random(liveness.channels.size) < fraction
        for path in (*liveness.linear_maps, *liveness.depthwise):
            groups = liveness.groups(path)[1]
            kept[groups[0]] |= not kept[groups].any()
        kept[list(liveness.channels.pinned)] = True
        kept = evened(liveness, kept)
        small = with_channels(model, kept)
        assert weights.of(kept) == pytest.approx(weight_count(small), abs=1e-6)
        assert operations.of(kept) == pytest.approx(tfap.flops(small), abs=1e-6)


# -- prune_once --------------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("budget", [{"weights": 500}, {"weights": 0.4}, {"flops": 0.3}, {"flops": 1500}])
def test_weights_and_flops_are_met_and_used_up(keras_module, budget, scope):
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    small, report = tfap.prune_once(model, inputs_for(model), budget, scope=scope, **OPTIONS)
    reached = weight_count(small) if "weights" in budget else tfap.flops(small)
    assert report.budget.reached == reached == report.budget.predicted
    assert 0.95 * report.budget.limit <= reached <= report.budget.limit and report.budget.meets
    assert "Budget of" in str(report) and f"{reached:,}" in str(report)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_budgets_count_every_kind_of_layer(keras_module, scope):
    model = grouped(keras_module)
    for budget in ({"weights": 0.5}, {"flops": 0.5}):
        _, report = tfap.prune_once(model, inputs_for(model), budget, scope=scope, **OPTIONS)
        assert 0.9 * report.budget.limit <= report.budget.reached <= report.budget.limit


def test_a_budget_that_the_model_meets_removes_nothing(keras_module):
    model = nets.mlp(keras_module)
    small = tfap.prune_once(model, inputs_for(model), {"weights": 10**6}, "magnitude")
    assert small.count_params() == model.count_params()


def test_without_data_too(keras_module):
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    small, report = tfap.prune_once(model, None, {"weights": 0.5}, round_to=8, return_report=True)
    assert report.budget.meets and report.merges
    assert [layer.units % 8 for layer in small.layers[-3:-1]] == [0, 0]


@pytest.mark.parametrize("budget", [{"weights": 5}, {"flops": 1e-4}])
def test_an_unreachable_budget_says_the_least_before_any_work(keras_module, budget, monkeypatch):
    model = nets.mlp(keras_module)

    def no_work(*arguments, **named):
        raise AssertionError("it has begun to score channels")

    monkeypatch.setattr("tfap.compaction.pruner.ChannelScores", no_work)
    # With one unit per layer: 12 x 1 + 1, 1 x 1 + 1, 1 x 4 + 4.
    least = "23 weights" if "weights" in budget else "34 FLOPs"
    with pytest.raises(ValueError, match=f"cannot be met: with the fewest channels, the model has {least}"):
        tfap.prune_once(model, inputs_for(model), budget)


def test_the_least_can_be_asked_for(keras_module):
    model = nets.mlp(keras_module)
    small = tfap.prune_once(model, inputs_for(model), {"weights": 23}, "magnitude")
    assert small.count_params() == 23


def test_a_budget_has_its_own_unit(keras_module):
    model = nets.mlp(keras_module)
    with pytest.raises(ValueError, match="Leave target out"):
        tfap.prune_once(model, inputs_for(model), {"weights": 0.5}, target="flops")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["tflite", "onnx", "saved_model"])
def test_bytes_are_never_more_than_asked_for(keras_module, runtime, tmp_path):
    model = nets.mlp(keras_module, (12, 400, 300, 4))
    budget = {"bytes": 0.5, "runtime": runtime}
    small, report = tfap.prune_once(model, inputs_for(model), budget, **OPTIONS)
    path = tfap.export(small, tmp_path / f"small{'' if runtime == 'saved_model' else '.' + runtime}", runtime)
    measured = disk_size(path).raw
    assert 0.96 * report.budget.limit <= measured <= report.budget.limit
    assert report.budget.reached == pytest.approx(measured, rel=0.01)  # SavedModels hold a random number
    assert report.budget.rounds >= 1


class Sizes:
    """File sizes of our own: a header, 4 bytes per weight, and blocks of 16 bytes."""

    def __init__(self, model, budget):
        self.model = model

    def own(self):
        return self.of(self.model)

    def of(self, model):
        return 1000 + 16 * -(-4 * weight_count(model) // 16)


@pytest.mark.parametrize("limit", [4000, 5003, 0.3, 0.9])
def test_the_search_for_bytes(keras_module, monkeypatch, limit):
    monkeypatch.setattr("tfap.budgets.meters.SizeMeter", Sizes)
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    small, report = tfap.prune_once(model, inputs_for(model), {"bytes": limit}, **OPTIONS)
    allowed = limit if isinstance(limit, int) else limit * Sizes(model, None).own()
    assert 0.95 * allowed <= Sizes(small, None).own() <= allowed and report.budget.rounds <= 3


@pytest.mark.slow
def test_bytes_as_an_integer(keras_module, tmp_path):
    model = nets.mlp(keras_module, (12, 400, 300, 4))
    small = tfap.prune_once(model, inputs_for(model), {"bytes": 100_000}, "magnitude")
    size = tfap.export(small, tmp_path / "small.tflite", "tflite").stat().st_size
    assert 97_000 <= size <= 100_000


def test_bytes_that_are_too_few(keras_module, monkeypatch):
    monkeypatch.setattr("tfap.budgets.meters.SizeMeter", Sizes)
    model = nets.mlp(keras_module)
    with pytest.raises(ValueError, match="10 bytes in tflite cannot be met: with the fewest channels"):
        tfap.prune_once(model, inputs_for(model), {"bytes": 10}, "magnitude")


# -- rounding ----------------------------------------------------------------------------------------------


def are_multiples(small, model, round_to, outputs=("output",)):
    return all(
        channels % round_to == 0 or channels == channels_of(model)[name] or channels < round_to
        for name, channels in channels_of(small).items()
        if name not in outputs
    )


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("sparsity", [0.5, {"flops": 0.6}, {"weights": 0.6}])
def test_kept_channels_are_multiples(keras_module, sparsity, scope):
    model = grouped(keras_module)
    small, report = tfap.prune_once(model, inputs_for(model), sparsity, scope=scope, round_to=8, **OPTIONS)
    assert are_multiples(small, model, 8) and small.count_params() < model.count_params()
    assert small.get_layer("grouped").filters % 8 == 0 and small.get_layer("dense").units in (8, 16, 24, 30)
    assert report.rounded.weights[1] == weight_count(small)
    assert report.rounded.flops[1] == tfap.flops(small)
    assert "Channels are multiples of 8" in str(report)


def test_rounding_keeps_more_at_the_same_sparsity(keras_module):
    model = nets.mlp(keras_module, (12, 40, 32, 4))
    small, report = tfap.prune_once(model, inputs_for(model), 0.5, target="neurons", round_to=8, **OPTIONS)
    assert [layer.units for layer in small.layers[-3:]] == [24, 16, 4]  # of 20 and 16
    assert report.rounded.channels == (20 + 16 + 4, 24 + 16 + 4)


def test_dead_channels_are_kept_for_a_multiple(keras_module):
    """Compaction would remove them, and leave a number of channels that is no multiple."""
    model = nets.mlp(keras_module, (12, 32, 4))
    kernel, bias = model.layers[-2].get_weights()
    kernel[:, 5:12], bias[5:12] = 0, -1
    model.layers[-2].set_weights([kernel, bias])
    small = tfap.prune_once(model, inputs_for(model), 0.05, "magnitude", round_to=16)
    assert small.layers[-2].units == 32
    small = tfap.prune_once(model, inputs_for(model), 0.3, "magnitude", round_to=4)
    assert small.layers[-2].units % 4 == 0 and small.layers[-2].units > 4


def test_layers_with_fewer_channels_need_no_multiple(keras_module):
    model = nets.mlp(keras_module, (12, 32, 6, 4))
    small = tfap.prune_once(model, inputs_for(model), 0.5, "magnitude", target="neurons", round_to=8)
    assert [layer.units for layer in small.layers[-3:]] == [16, 3, 4]


def test_one_changes_nothing(keras_module):
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    first, second = (
        tfap.prune_once(model, inputs_for(model), 0.5, **named) for named in ({}, {"round_to": 1})
    )
    assert all(map(np.array_equal, first.get_weights(), second.get_weights()))


@pytest.mark.parametrize("value, error", [(0, ValueError), (2.5, TypeError), (True, TypeError)])
def test_round_to_is_an_integer(value, error):
    model = nets.mlp(keras)
    with pytest.raises(error, match="round_to must be an integer >= 1"):
        tfap.prune_once(model, inputs_for(model), 0.5, round_to=value)


def test_rounding_leaves_a_budget_that_is_too_small(keras_module):
    model = nets.mlp(keras_module, (12, 40, 32, 4))
    with pytest.raises(ValueError, match="cannot be met.*round to a smaller number of channels"):
        tfap.prune_once(model, inputs_for(model), {"weights": 60}, "magnitude", round_to=8)


# -- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"weights": 0.5}, {"flops": 0.4}])
def test_fit_and_compact_ends_at_the_budget(keras_module, budget):
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    x, y = nets.data(model)
    fit = tfap.fit_and_compact(model, budget, x, y, stages=2, epochs=4, verbose=0)
    reached = weight_count(fit.model) if "weights" in budget else tfap.flops(fit.model)
    assert fit.budget.reached == reached and 0.9 * fit.budget.limit <= reached <= fit.budget.limit


@pytest.mark.parametrize("budget", [{"flops": 0.48}, pytest.param({"weights": 0.3}, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stages", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_convolutions_lose_inputs_between_updates(keras_module, budget, stages):
    layers = keras_module.layers
    convolutions = [layers.Conv2D(size, 3, padding="same", activation="relu") for size in (16, 24, 32)]
    ends = [layers.GlobalAveragePooling2D(), layers.Dense(4)]
    model = keras_module.Sequential([layers.Input((8, 8, 3)), *convolutions, *ends])
    model = nets.compiled(keras_module, model, "mse")
    x = np.random.default_rng(0).normal(size=(480, 8, 8, 3)).astype("float32")
    arguments = {"stages": stages, "epochs": 4, "batch_size": 16, "verbose": 0}
    fit = tfap.fit_and_compact(model, budget, x, np.zeros((480, 4), "float32"), **arguments)
    assert 0.9 * fit.budget.limit <= fit.budget.reached <= fit.budget.limit


@pytest.mark.slow
def test_fit_and_compact_in_bytes_with_multiples(keras_module):
    model = nets.mlp(keras_module, (12, 200, 96, 4))
    x, y = nets.data(model)
    fit = tfap.fit_and_compact(model, {"bytes": 0.5}, x, y, stages=1, epochs=2, round_to=8, verbose=0)
    assert fit.budget.meets and fit.budget.reached < 0.5 * fit.budget.own
    assert are_multiples(fit.model, model, 8, outputs=(fit.model.layers[-1].name,))


def test_prune_finds_the_final_sparsity(keras_module):
    model = nets.cnn(keras_module, (8, 8, 3))
    for budget in ({"weights": 0.6}, {"flops": 0.6}):
        pruned = tfap.prune(model, budget, "magnitude", scope="local", granularity="neuron")
        sparsity = tfap.prunable_layers(pruned)[0].pruning_schedule
        for step in range(1, 31):  # as in a fit: cubic decay
            tfap.update_masks(pruned, sparsity * (1 - (1 - step / 30) ** 3))
        small = tfap.compact(tfap.strip_pruning(pruned))
        (unit,) = budget
        reached, own = (weight_count(m) if unit == "weights" else tfap.flops(m) for m in (small, model))
        assert reached <= 0.6 * own


def test_prune_of_single_weights_counts_those_that_are_not_zero(keras_module):
    model = nets.mlp(keras_module)  # 12 x 16, 16 x 8 and 8 x 4 weights, 28 biases
    pruned = tfap.prune(model, {"weights": 200}, "magnitude", granularity="weight")
    tfap.update_masks(pruned, tfap.prunable_layers(pruned)[0].pruning_schedule)
    stripped = tfap.strip_pruning(pruned)
    kernels = stripped.get_weights()[::2]
    assert 28 + sum(np.count_nonzero(kernel) for kernel in kernels) == 200


@pytest.mark.parametrize(
    "budget, options, text",
    [
        ({"speedup": 2.0}, {}, "pass the budget to tfap.prune_once or tfap.fit_and_compact"),
        ({"flops": 0.5}, {"granularity": "weight"}, "pass granularity='neuron' and scope='local'"),
        ({"flops": 0.5}, {"granularity": "neuron"}, "pass scope='local', or use tfap.prune_once"),
        ({"weights": 5}, {"granularity": "neuron", "scope": "local"}, "cannot be met: with the fewest"),
        ({"weights": 5}, {"granularity": "weight"}, "cannot be met: with the fewest"),
    ],
)
def test_budgets_that_prune_cannot_take(keras_module, budget, options, text):
    with pytest.raises(ValueError, match=text):
        tfap.prune(nets.mlp(keras_module), budget, "magnitude", **options)


def test_a_budget_is_of_a_model():
    with pytest.raises(TypeError, match="A budget is of a whole model"):
        tfap.prune(keras.layers.Dense(3), {"weights": 0.5})


def test_training_with_multiples(keras_module):
    """20 and 15 neurons are left of 40 and 30: rounded up to 24 and 16. Those that are pruned last stay."""
    model = nets.mlp(keras_module, (12, 40, 30, 4))
    pruned = tfap.prune(model, 0.5, "magnitude", scope="local", granularity="neuron", round_to=8)
    tfap.update_masks(pruned, 0.5)
    small = tfap.compact(tfap.strip_pruning(pruned))
    assert [layer.units for layer in small.layers[-3:]] == [24, 16, 4]
    norms = np.abs(model.layers[-3].get_weights()[0]).mean(axis=0)
    assert np.array_equal(
        np.sort(np.abs(small.layers[-3].get_weights()[0]).mean(axis=0)), np.sort(norms)[-24:]
    )


def test_round_to_needs_neurons(keras_module):
    with pytest.raises(ValueError, match="round_to=8 is a number of neurons: it needs granularity='neuron'"):
        tfap.prune(nets.mlp(keras_module), 0.5, "magnitude", granularity="weight", round_to=8)
