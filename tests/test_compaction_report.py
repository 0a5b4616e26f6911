import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap.graph.calls import Graph
from tfap.keras_compat import equality

pytestmark = pytest.mark.one_keras


def half_dead(keras):
    """An MLP of which the first 8 of 16 units get nothing, with a bias that is not zero."""
    model = nets.mlp(keras)
    kernel, bias = model.layers[0].get_weights()
    kernel[:, :8] = 0
    model.layers[0].set_weights([kernel, bias + 1])
    return model


def test_units_weights_and_flops_of_every_layer(keras_module):
    model = half_dead(keras_module)
    report = tfap.compaction_report(model, tfap.compact(model))
    first, second, last = report.layers
    assert first.path == "hidden_0" and first.units == (16, 8)
    assert first.weights == (12 * 16 + 16, 12 * 8 + 8) and first.flops == (2 * 12 * 16, 2 * 12 * 8)
    assert second.units == (8, 8) and second.weights == (16 * 8 + 8, 8 * 8 + 8)
    assert last.weights == (8 * 4 + 4, 8 * 4 + 4)
    assert report.weights == (model.count_params(), tfap.compact(model).count_params())
    assert report.flops == (2 * (12 * 16 + 16 * 8 + 8 * 4), 2 * (12 * 8 + 8 * 8 + 8 * 4))


@pytest.mark.smoke
def test_the_certificate_is_measured(keras_module):
    model = half_dead(keras_module)
    smaller = tfap.compact(model)
    x, y = nets.data(model)
    report = tfap.compaction_report(model, smaller, (x, y))
    assert report.exact and report.on_data and report.samples == len(x)
    expected = np.abs(model.predict(x, verbose=0) - smaller.predict(x, verbose=0)).max()
    assert report.difference.absolute == pytest.approx(expected, abs=1e-6)
    right = np.mean(model.predict(x, verbose=0).argmax(axis=1) == y)
    assert report.accuracy == (right, right)
    assert "Exact:" in str(report) and "hidden_0" in str(report)
    assert tfap.compaction_report(model, smaller, x).accuracy is None


def test_a_model_that_is_not_the_same_is_no_certificate(keras_module):
    model = half_dead(keras_module)
    smaller = tfap.compact(model)
    smaller.layers[-1].set_weights([2 * weight for weight in smaller.layers[-1].get_weights()])
    report = tfap.compaction_report(model, smaller)
    assert not report.exact and report.difference.relative > 0.01
    assert "Not the same model" in report.certificate


def test_outputs_that_are_no_numbers_are_no_certificate(keras_module):
    model = half_dead(keras_module)
    smaller = tfap.compact(model)
    smaller.layers[-1].set_weights([np.nan * weight for weight in smaller.layers[-1].get_weights()])
    assert tfap.compaction_report(model, smaller).difference.relative == np.inf
    with pytest.raises(RuntimeError, match="outputs differ"):
        equality.check_equal(model, smaller)


def test_silent_neurons_are_not_exact(keras_module):
    model = nets.mlp(keras_module)
    x, y = nets.data(model)
    model.layers[0].set_weights([model.layers[0].get_weights()[0], np.where(np.arange(16) < 4, -50.0, 0.5)])
    counts = tfap.measure_activations(model, x)
    smaller = tfap.compact(model, counts=counts, drop_silent=True)
    assert smaller.layers[0].units <= 12
    report = tfap.compaction_report(model, smaller, (x, y))
    assert not report.exact and report.beyond_proof >= 4
    assert report.difference.relative < 1e-5  # on the data that was counted
    assert "Not exact" in report.certificate


def test_it_says_why_constants_stay(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation="relu", name="first"),
            layers.Conv2D(3, 3, padding="same", name="padded"),
        ]
    )
    kernel, _ = model.layers[0].get_weights()
    kernel[..., :2] = 0
    model.layers[0].set_weights([kernel, np.array([0.0, 1.0, 0.0, 0.0])])
    smaller = tfap.compact(model)
    report = tfap.compaction_report(model, smaller)
    assert smaller.layers[0].filters == 3  # the zero went, the one stays
    (kept,) = report.kept
    assert (kept.path, kept.channels) == ("first", 1) and "padded" in kept.reason
    assert "constant or disconnected channels kept (1)" in str(report)


def _zeroed(layer, weight, *entries):
    """Sets entries on the last axis of one of a layer's weights to zero."""
    weights = [np.array(array) for array in layer.get_weights()]
    weights[weight][..., list(entries)] = 0
    layer.set_weights(weights)


def _kept(model):
    report = tfap.compaction_report(model, tfap.compact(model))
    return [(kept.path, kept.channels, kept.reason) for kept in report.kept]


def _doubled(values):
    return values * 2


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        ("softmax", "the activation of 'hidden' may combine channels"),
        (_doubled, "the activation of 'hidden' may combine channels"),
        ("PReLU", "the layer has more weights than a kernel and a bias"),
    ],
    ids=["softmax", "own function", "PReLU"],
)
@pytest.mark.parametrize("side", ["inputs", "consumers"])
def test_it_says_why_units_with_such_an_activation_stay(keras_module, activation, reason, side):
    layers = keras_module.layers
    keras_module.saving.register_keras_serializable("kept")(_doubled)
    activation = layers.PReLU() if activation == "PReLU" else activation
    hidden = layers.Dense(6, activation, name="hidden")
    model = keras_module.Sequential([layers.Input((4,)), hidden, layers.Dense(2, name="output")])
    if side == "inputs":
        _zeroed(hidden, 0, 0, 1)
    else:
        model.layers[1].set_weights([np.arange(6)[:, None] // 2 * np.ones((6, 2)), np.zeros(2)])
    listed = [("hidden", 2, reason)]
    if reason.startswith("the layer has more") and side == "consumers":
        listed = []  # nothing is known of its channels
    assert _kept(model) == listed


def test_it_says_why_layers_that_are_not_analyzed_keep_units(keras_module):
    layers = keras_module.layers
    recurrent = layers.LSTM(3, recurrent_activation="softmax", name="recurrent")
    model = keras_module.Sequential([layers.Input((5, 2)), recurrent, layers.Dense(2, name="output")])
    for weight in (0, 1):
        _zeroed(recurrent, weight, 1, 4, 7, 10)  # the four gates of unit 1
    _zeroed(recurrent, 0, 0, 3, 6, 9)  # unit 0 keeps its recurrent weights
    assert _kept(model) == [
        ("recurrent", 1, "tfap does not analyze LSTM layers with activations that may combine units")
    ]


def test_it_says_why_shapes_keep_units(keras_module):
    layers = keras_module.layers
    first = layers.Conv2D(6, 3, activation="relu", name="first")
    grouped = layers.Conv2D(6, 3, groups=2, name="grouped")
    model = keras_module.Sequential(
        [layers.Input((6, 6, 2)), first, grouped, layers.Flatten(), layers.Dense(2, name="output")]
    )
    _zeroed(first, 0, 0, 1)  # of the first group of three
    assert _kept(model) == [("first", 2, "a grouped convolution needs groups of equal size")]
    single = layers.Dense(4, "relu", name="single")
    model = keras_module.Sequential([layers.Input((3,)), single, layers.Dense(2, name="output")])
    _zeroed(single, 0, 0, 1, 2, 3)
    assert ("single", 1, "a layer needs at least one unit") in _kept(model)


@pytest.mark.parametrize("kind", ["normalization", "depthwise"])
def test_it_says_why_channels_that_become_constant_stay(keras_module, kind):
    """The convolution's own output varies; a later layer makes a constant of it."""
    layers = keras_module.layers
    later = layers.BatchNormalization() if kind == "normalization" else layers.DepthwiseConv2D(3)
    first, last = layers.Conv2D(4, 3, name="first"), layers.Conv2D(3, 3, padding="same", name="last")
    model = keras_module.Sequential([layers.Input((7, 7, 2)), first, later, last])
    if kind == "normalization":
        _zeroed(later, 0, 0, 1)
    else:
        kernel, bias = later.get_weights()
        kernel[:, :, :2] = 0
        later.set_weights([kernel, bias])
    weights = later.get_weights()
    later.set_weights([weights[0], weights[1] + 1, *weights[2:]])
    reason = "it is a nonzero constant, which 'last' cannot fold into its bias because of padding"
    assert _kept(model) == [("first", 2, reason)]


def levels(keras):
    """Shared convolutions, with a BatchNormalization per level, as in a feature pyramid."""
    layers = keras.layers
    inputs = [layers.Input((size, size, 3)) for size in (8, 4)]
    first, last = layers.Conv2D(8, 1, name="first"), layers.Conv2D(4, 1, name="last")
    outputs = []
    for level, value in enumerate(inputs):
        norm = layers.BatchNormalization(beta_initializer=keras.initializers.Constant(level + 1.0))
        outputs.append(layers.GlobalAveragePooling2D()(last(layers.ReLU()(norm(first(value))))))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Concatenate()(outputs)))


def test_it_says_that_constants_differ_between_calls(keras_module):
    model = levels(keras_module)
    _zeroed(model.get_layer("first"), 0, 0, 1, 2)
    reason = "'last' has several calls, in which it does not have the same constant"
    assert _kept(model) == [("first", 3, reason)]


def test_channels_that_differ_between_calls_are_pruned_with_their_consumers(keras_module):
    model = levels(keras_module)
    wrapped = tfap.prune(model, 0.5, "magnitude", granularity="neuron", scope="local")
    tfap.update_masks(wrapped, 0.5)
    smaller = tfap.compact(tfap.strip_pruning(wrapped))
    assert smaller.get_layer("first").filters == 4
    assert smaller.get_layer("last").get_weights()[0].shape == (1, 1, 4, 2)


def test_other_models_are_refused(keras_module):
    with pytest.raises(ValueError, match="is not a compacted version"):
        tfap.compaction_report(nets.mlp(keras_module), nets.cnn(keras_module))


def test_labels_that_do_not_fit_are_refused(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((4,)), layers.Dense(5), layers.Dense(1)])
    with pytest.raises(ValueError, match="one output per sample"):
        tfap.compaction_report(model, tfap.compact(model), (np.zeros((6, 4)), np.zeros(6)))
    model = nets.mlp(keras_module)
    with pytest.raises(ValueError, match="do not fit"):
        tfap.compaction_report(model, tfap.compact(model), (np.zeros((6, 12)), np.zeros((6, 2))))


def test_layers_in_another_order():
    """tf_keras lists the operations of an added loss in another order after a copy."""
    import tf_keras

    layers = tf_keras.layers
    inputs = tf_keras.Input((6,))
    hidden = layers.Dense(8, "relu", name="hidden")(inputs)
    mean, spread = (layers.Dense(2, name=name)(hidden) for name in ("mean", "spread"))
    decoded = layers.Dense(8, "relu", name="decoded")(mean + tf.exp(spread))
    model = tf_keras.Model(inputs, layers.Dense(6, name="output")(decoded))
    model.add_loss(-tf.reduce_mean(1 + spread - tf.square(mean) - tf.exp(spread)))
    kernel, bias = model.get_layer("decoded").get_weights()
    model.get_layer("decoded").set_weights([kernel * (np.arange(8) > 2), bias])
    smaller = tfap.compact(model)
    assert list(Graph(model).calls_of) != list(Graph(smaller).calls_of)
    report = tfap.compaction_report(model, smaller)
    assert report.exact
    (change,) = (layer for layer in report.layers if layer.path == "decoded")
    assert change.units == (8, 5) and change.weights == (8 * 3, 5 * 3)


def test_layers_of_another_type_are_refused(keras_module):
    layers = keras_module.layers

    def net(activation):
        return keras_module.Sequential([layers.Input((4,)), layers.Dense(3), activation(name="activation")])

    with pytest.raises(ValueError, match="layers differ, such as 'activation'"):
        tfap.compaction_report(net(layers.ReLU), net(layers.Softmax))


def test_a_split_lists_no_live_channels():
    import keras

    inputs = keras.Input((8,))
    stem = keras.layers.Dense(6, "relu", use_bias=False, name="stem")(inputs)
    halves = keras.ops.split(stem, 2, axis=-1)
    x = keras.layers.Concatenate()([keras.layers.Dense(3, "relu")(half) for half in halves])
    model = keras.Model(inputs, keras.layers.Dense(2, name="output")(x))
    (kernel,) = model.get_layer("stem").get_weights()
    model.get_layer("stem").set_weights([kernel * [0, 1, 1, 1, 1, 1]])
    assert tfap.compaction_report(model, tfap.compact(model)).kept == ()


def test_masks_of_a_sequential_model(keras_module):
    """Keras 3 computes them by functions, which get new names in a rebuilt model."""
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((6,), dtype="int32"),
            layers.Embedding(20, 8, mask_zero=True),
            layers.GRU(5),
            layers.Dense(8, "relu", name="dense"),
            layers.Dense(3, name="output"),
        ]
    )
    kernel, bias = model.get_layer("dense").get_weights()
    model.get_layer("dense").set_weights([kernel * (np.arange(8) > 3), bias])
    report = tfap.compaction_report(model, tfap.compact(model))
    (change,) = (layer for layer in report.layers if layer.path == "dense")
    assert change.units == (8, 4) and report.exact


def test_a_gate_of_one_channel_is_not_listed(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((6,))
    gate = layers.Dense(1, "sigmoid", name="gate")(inputs)
    x = layers.Multiply()([layers.Dense(4, "relu", name="units")(inputs), gate])
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(x))
    assert tfap.compaction_report(model, tfap.compact(model)).kept == ()


def test_flops_that_are_unknown_have_no_sum(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((None, 5))
    model = keras_module.Model(inputs, layers.Dense(3, name="output")(layers.Dense(8, name="a")(inputs)))
    printed = str(tfap.compaction_report(model, tfap.compact(model)))
    (total,) = (line for line in printed.splitlines() if line.strip().startswith("all"))
    assert total.split()[-2:] == ["-", "-"]
