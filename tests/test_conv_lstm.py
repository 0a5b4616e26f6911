"""ConvLSTM layers: filters that nothing reads, or that are always zero, are removed with their gates."""

import numpy as np
import pytest

import tfap

FILTERS = 6


def random_weights(model, seed=0):
    generator = np.random.default_rng(seed)
    model.set_weights([np.abs(w) + 0.5 * generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def frames(rank, samples=4):
    return np.random.default_rng(1).normal(size=(samples, 3, *[7] * rank, 2)).astype("float32")


def outputs(model, x):
    return np.asarray(model(x))


def assert_equal_outputs(model, other, x):
    expected = outputs(model, x)
    assert np.abs(outputs(other, x) - expected).max() <= 2e-5 * np.abs(expected).max()


def net(keras_module, rank, bidirectional=None, after="conv", **options):
    """A ConvLSTM named first, maybe in both directions, and layers that read it."""
    layers = keras_module.layers
    first = getattr(layers, f"ConvLSTM{rank}D")(FILTERS, 3, name="first", **options)
    inputs = keras_module.Input((3, *[7] * rank, 2))
    if bidirectional is None:
        x = first(inputs)
    else:
        x = layers.Bidirectional(first, merge_mode=bidirectional, name="first")(inputs)
    conv = getattr(layers, f"Conv{rank}D")
    if options.get("return_state"):
        x = layers.Add()(list(x[:2]))
    if options.get("return_sequences"):
        x = layers.TimeDistributed(layers.BatchNormalization())(x) if after == "norm" else x
        x = layers.TimeDistributed(conv(4, 1, activation="relu"), name="reader")(x)
    else:
        x = layers.BatchNormalization()(x) if after == "norm" else x
        x = conv(4, 1, activation="relu", name="reader")(x)
    outputs_ = layers.Dense(2, name="output")(layers.Flatten()(x))
    return random_weights(keras_module.Model(inputs, outputs_))


def plant(layer, directions=1):
    """Filter 1 is always zero, and no other filter reads filter 4."""
    weights = layer.get_weights()
    step = len(weights) // directions
    for first in range(0, len(weights), step):
        kernel, recurrent, *bias = weights[first : first + step]
        for array in (kernel, recurrent, *bias):
            array[..., 2 * FILTERS + 1] = 0
        own = recurrent[..., 4, 4::FILTERS].copy()
        recurrent[..., 4, :] = 0
        recurrent[..., 4, 4::FILTERS] = own
    layer.set_weights(weights)


def without_reader(model, *channels):
    reader = model.get_layer("reader")
    kernel, bias = reader.get_weights()
    kernel[..., channels, :] = 0
    reader.set_weights([kernel, bias])


def filters_of(layer):
    return layer.get_weights()[1].shape[-2]


OPTIONS = {
    "default": {},
    "sequences": {"return_sequences": True},
    "states": {"return_state": True},
    "same": {"padding": "same", "return_sequences": True},
    "strides": {"strides": 2},
    "dilation": {"dilation_rate": 2},
    "no bias": {"use_bias": False, "go_backwards": True},
    "norm": {"after": "norm", "return_sequences": True},
}
QUICK = {(2, "sequences"), (1, "states")}


@pytest.mark.parametrize(
    "rank, name",
    [
        pytest.param(rank, name, marks=[] if (rank, name) in QUICK else pytest.mark.slow)
        for rank in (1, 2, 3)
        for name in OPTIONS
        if rank < 3 or name in ("default", "norm")
    ],
)
def test_filters_that_are_zero_or_not_read_go(keras_module, rank, name):
    model = net(keras_module, rank, **OPTIONS[name])
    plant(model.get_layer("first"))
    without_reader(model, 4)
    small = tfap.compact(model)
    assert small.get_layer("first").filters == FILTERS - 2
    assert filters_of(small.get_layer("first")) == FILTERS - 2
    assert_equal_outputs(model, small, frames(rank))


@pytest.mark.slow
@pytest.mark.parametrize("merge_mode", ["concat", "sum"])
def test_both_directions_lose_the_same_filters(keras_module, merge_mode):
    model = net(keras_module, 2, merge_mode, return_sequences=True)
    plant(model.get_layer("first"), directions=2)
    without_reader(model, *((4, 4 + FILTERS) if merge_mode == "concat" else (4,)))
    small = tfap.compact(model)
    assert filters_of(small.get_layer("first")) == FILTERS - 2
    assert_equal_outputs(model, small, frames(2))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_constant_channel_moves_into_the_bias_without_padding(keras_module, padding):
    layers = keras_module.layers
    first = layers.TimeDistributed(layers.Conv1D(4, 1), name="before")
    stack = [first, layers.ConvLSTM1D(3, 2, padding=padding, name="first"), layers.Flatten(), layers.Dense(2)]
    model = random_weights(keras_module.Sequential([layers.Input((3, 7, 2)), *stack]))
    kernel, bias = first.get_weights()
    kernel[..., 2] = 0
    first.set_weights([kernel, bias])
    small = tfap.compact(model)
    assert small.get_layer("first").get_weights()[0].shape[-2] == (3 if padding == "valid" else 4)
    assert_equal_outputs(model, small, frames(1))


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["magnitude", "activation_count"])
def test_half_of_the_filters_go(keras_module, criterion):
    model = net(keras_module, 2, return_sequences=True)
    model.compile("adam", "mse")
    options = {"granularity": "neuron", "scope": "local", "target": "neurons"}
    pruned = tfap.prune(model, 0.5, criterion, skip=["reader"], **options)
    x = frames(2, 8)
    pruned.fit(x, np.zeros((8, 2)), verbose=0, callbacks=[tfap.UpdatePruningStep()])
    stripped = tfap.strip_pruning(pruned)
    small = tfap.compact(stripped)
    assert small.get_layer("first").filters == FILTERS // 2
    assert_equal_outputs(stripped, small, x)


@pytest.mark.slow
@pytest.mark.parametrize("merge_mode", [None, "concat"])
def test_filters_are_removed_by_name_and_by_reconstruction(keras_module, merge_mode):
    model = net(keras_module, 2, merge_mode, return_sequences=True)
    small = tfap.remove(model, {"first": [0, 3]})
    assert filters_of(small.get_layer("first")) == FILTERS - 2
    once = tfap.prune_once(model, frames(2), 0.5, target="neurons")
    assert filters_of(once.get_layer("first")) <= FILTERS // 2 + 1
    assert np.isfinite(outputs(once, frames(2))).all()


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_copies_of_inputs_are_taken_over_by_the_gates(keras_module, padding):
    layers = keras_module.layers
    before = layers.TimeDistributed(layers.Conv1D(6, 1, activation="relu"), name="before")
    lstm = layers.ConvLSTM1D(3, 3, strides=2, padding=padding, name="first")
    stack = [before, lstm, layers.Flatten(), layers.Dense(2, name="output")]
    model = random_weights(keras_module.Sequential([layers.Input((3, 7, 2)), *stack]))
    kernel, bias = before.get_weights()
    kernel[..., 3:], bias[3:] = kernel[..., :3], bias[:3]
    before.set_weights([kernel, bias])
    x = frames(1, 40)
    small = tfap.prune_once(model, x, 0.5, target="neurons", skip=["first"], ridge=1e-9)
    assert small.get_layer("first").get_weights()[0].shape[-2] == 3
    expected = outputs(model, x)
    assert np.abs(outputs(small, x) - expected).max() < 1e-3 * np.abs(expected).max()


def test_flops_of_both_convolutions(keras_module):
    model = net(keras_module, 2, return_sequences=True)
    first = 3 * 5 * 5 * 9 * (2 + FILTERS) * 4 * FILTERS
    others = 3 * 5 * 5 * FILTERS * 4 + 3 * 5 * 5 * 4 * 2
    assert tfap.flops(model) == 2 * (first + others)
