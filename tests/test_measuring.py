"""tfap.measure_activations: the same counts as brute force in NumPy, whatever the model and the data."""

import io

import nets
import numpy as np
import pytest
import rich.console
import tensorflow as tf

import tfap
from tfap.activations import batches
from tfap.activations.batches import _with_progress

pytestmark = pytest.mark.one_keras

SAMPLES, BATCH = 40, 16  # the last batch is smaller


def brute_force(keras, model, names, x, threshold=0.0):
    """`{name: (counts, seen)}` of layers of a model without nested ones."""
    taps = keras.Model(model.inputs[0], [model.get_layer(name).output for name in names])
    found = {}
    for name, values in zip(names, taps(x, training=False)):
        fired = np.asarray(values).reshape(-1, values.shape[-1]) > threshold
        found[name] = fired.sum(axis=0), len(fired)
    return found


def assert_counts(counted, counts, seen):
    assert counted.counts.dtype == np.int64
    np.testing.assert_array_equal(counted.counts, counts)
    assert counted.seen == seen
    assert 0 < counted.counts.sum() < seen * len(counts)


def functional(keras, shape, build):
    inputs = keras.Input(shape)
    return keras.Model(inputs, build(inputs))


def inputs(model, samples=SAMPLES):
    return np.random.default_rng(0).normal(size=(samples, *model.inputs[0].shape[1:])).astype("float32")


# -- the counts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation, threshold", [("relu", 0.0), ("tanh", 0.3)])
def test_dense(keras_module, activation, threshold):
    model = nets.mlp(keras_module, activation=activation)
    x = inputs(model)
    found = tfap.measure_activations(model, x, BATCH, threshold)
    assert list(found) == ["hidden_0", "hidden_1"]
    for name, expected in brute_force(keras_module, model, list(found), x, threshold).items():
        assert_counts(found[name], *expected)


def test_convolutions_fire_behind_normalization_and_add(keras_module):
    model = nets.cnn(keras_module)
    norm = model.get_layer("norm_a")
    norm.set_weights([value + 0.2 for value in norm.get_weights()])
    x = inputs(model)
    found = tfap.measure_activations(model, x, BATCH)
    fires_at = {"conv_a": "relu_a", "conv_b": "relu_b", "depthwise": "depthwise", "dense": "dense"}
    assert list(found) == list(fires_at)
    expected = brute_force(keras_module, model, list(fires_at.values()), x)
    for name, site in fires_at.items():
        assert_counts(found[name], *expected[site])
    assert [counted.seen for counted in found.values()] == [SAMPLES * n for n in (64, 16, 4, 1)]


def test_what_prune_counts_in_training_at_fixed_weights(keras_module):
    model = nets.mlp(keras_module)
    model.compile(keras_module.optimizers.SGD(0.0), model.loss)
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 1000))
    nets.fit(wrapped, samples=SAMPLES)
    found = tfap.measure_activations(tfap.strip_pruning(wrapped), nets.data(model, SAMPLES)[0])
    for layer in tfap.prunable_layers(wrapped):
        assert_counts(found[layer.name], layer.activation_counts.numpy(), SAMPLES)


@pytest.mark.smoke
def test_nested(keras_module):
    model = nets.nested(keras_module)
    x = inputs(model)
    found = tfap.measure_activations(model, x, BATCH)
    middle = model.get_layer("middle")
    inner = middle.get_layer("inner")
    first = keras_module.Model(model.inputs[0], model.get_layer("dense").output)(x)
    second = inner(first)
    third = middle.get_layer("dense")(second)
    assert list(found) == ["dense", "middle/inner/dense", "middle/dense"]
    for counted, values in zip(found.values(), (first, second, third)):
        assert_counts(counted, (np.asarray(values) > 0).sum(axis=0), SAMPLES)


@pytest.mark.smoke
def test_shared_layers_count_all_their_calls(keras_module):
    layers = keras_module.layers
    fused = layers.Dense(5, activation="relu", name="fused")
    separate = layers.Dense(5, name="separate")

    def build(x):
        a, b = fused(x), fused(layers.ReLU()(x))
        a = layers.ReLU(name="relu_a")(separate(a))
        b = layers.ReLU(name="relu_b")(separate(b))
        return layers.Dense(2)(layers.Concatenate()([a, b]))

    model = functional(keras_module, (5,), build)
    x = inputs(model)
    found = tfap.measure_activations(model, x, BATCH)
    assert list(found) == ["fused", "separate"]
    calls = [fused(x), fused(np.maximum(x, 0))]
    assert_counts(found["fused"], sum((np.asarray(values) > 0).sum(axis=0) for values in calls), 2 * SAMPLES)
    calls = [separate(values) for values in calls]
    assert_counts(
        found["separate"], sum((np.asarray(values) > 0).sum(axis=0) for values in calls), 2 * SAMPLES
    )


def test_a_nested_model_called_twice(keras_module):
    layers = keras_module.layers
    inner = keras_module.Sequential(
        [layers.Input((4,)), layers.Dense(4, name="dense"), layers.ReLU()], name="inner"
    )
    model = functional(keras_module, (4,), lambda x: layers.Dense(2)(inner(inner(x))))
    x = inputs(model)
    once = inner(x)
    expected = sum((np.asarray(values) > 0).sum(axis=0) for values in (once, inner(once)))
    assert_counts(tfap.measure_activations(model, x)["inner/dense"], expected, 2 * SAMPLES)


def test_concatenated_layers_have_their_own_channels(keras_module):
    layers = keras_module.layers

    def build(x):
        x = layers.Concatenate()([layers.Conv1D(3, 2, name="a")(x), layers.Conv1D(2, 2, name="b")(x)])
        return layers.Dense(2)(layers.Flatten()(layers.ReLU(name="relu")(x)))

    model = functional(keras_module, (6, 2), build)
    x = inputs(model)
    found = tfap.measure_activations(model, x)
    counts, seen = brute_force(keras_module, model, ["relu", "a"], x)["relu"]
    assert_counts(found["a"], counts[:3], seen)
    assert_counts(found["b"], counts[3:], seen)


def test_channels_first(keras_module):
    layers = keras_module.layers

    def build(x):
        x = nets.channels_first(keras_module, 4, 3, name="conv")(x)
        return layers.Dense(2)(layers.Flatten()(layers.ReLU(name="relu")(x)))

    model = functional(keras_module, (2, 6, 6), build)
    x = inputs(model)
    values = np.asarray(keras_module.Model(model.inputs[0], model.get_layer("relu").output)(x))
    counted = tfap.measure_activations(model, x)["conv"]
    assert_counts(counted, (values > 0).sum(axis=(0, 2, 3)), SAMPLES * 16)


def test_mixed_precision(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((6,)), layers.Dense(8, "relu", name="hidden", dtype="mixed_float16"), layers.Dense(2)]
    )
    x = inputs(model)
    fired = np.asarray(model.layers[0](x)) > 0
    assert_counts(tfap.measure_activations(model, x)["hidden"], fired.sum(axis=0), SAMPLES)


@pytest.mark.tensorflow_only(reason="autograph of tf_keras")
def test_a_layer_of_the_users_that_autograph_converts():
    import tf_keras

    class Clipped(tf_keras.layers.Dense):
        def call(self, inputs):
            outputs = super().call(inputs)
            if tf.reduce_max(outputs) > 1:
                outputs = outputs - 0.5
            return outputs

    tfap.register_prunable_layer(Clipped, [tfap.KernelSpec()])  # its call is not that of Dense
    model = tf_keras.Sequential(
        [tf_keras.layers.Input((4,)), Clipped(6, activation="relu", name="own"), tf_keras.layers.Dense(3)]
    )
    x = inputs(model)
    fired = np.asarray(model.layers[0](x)) > 0
    assert_counts(tfap.measure_activations(model, x, SAMPLES)["own"], fired.sum(axis=0), SAMPLES)


def test_dropout_is_off_and_open_sizes_may_vary(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((None, 3)),
            layers.Dropout(0.9),
            layers.Conv1D(5, 2, activation="relu", name="conv"),
            layers.GlobalMaxPooling1D(),
        ]
    )
    generator = np.random.default_rng(0)
    batches = [generator.normal(size=(4, length, 3)).astype("float32") for length in (4, 7, 5)]
    expected = sum((np.asarray(model.get_layer("conv")(x)) > 0).sum(axis=(0, 1)) for x in batches)
    assert_counts(tfap.measure_activations(model, iter(batches))["conv"], expected, 4 * (3 + 6 + 4))


def test_quantized_layers():
    import keras

    model = nets.mlp(keras)
    x = inputs(model)
    for layer in model.layers:
        layer.quantize("int8")
    found = tfap.measure_activations(model, x)
    assert_counts(found["hidden_0"], (np.asarray(model.layers[0](x)) > 0).sum(axis=0), SAMPLES)


# -- the data --------------------------------------------------------------------------------------


def kinds_of_data(keras, x):
    y = np.zeros(len(x))
    parts = [slice(start, start + BATCH) for start in range(0, len(x), BATCH)]

    class Batches(getattr(keras.utils, "PyDataset", keras.utils.Sequence)):
        def __len__(self):
            return len(parts)

        def __getitem__(self, at):
            return x[parts[at]], y[parts[at]]

    yield "array", x
    yield "tensor", tf.constant(x)
    yield "list", [x]
    yield "dataset of x", tf.data.Dataset.from_tensor_slices(x).batch(BATCH)
    yield "dataset of (x, y)", tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    yield "dataset of (x, y, w)", tf.data.Dataset.from_tensor_slices((x, y, y)).batch(BATCH)
    yield "generator", ((x[part], y[part]) for part in parts)
    yield "generator of (x,)", ((x[part],) for part in parts)
    yield "PyDataset or Sequence", Batches()


@pytest.mark.smoke
def test_kinds_of_data(keras_module):
    model = nets.mlp(keras_module)
    x = inputs(model)
    expected = tfap.measure_activations(model, x)["hidden_0"]
    for kind, data in kinds_of_data(keras_module, x):
        found = tfap.measure_activations(model, data, BATCH)["hidden_0"]
        np.testing.assert_array_equal(found.counts, expected.counts, kind)
        assert found.seen == SAMPLES, kind


def test_several_inputs(keras_module):
    layers = keras_module.layers
    given = [keras_module.Input((4,), name="left"), keras_module.Input((3,), name="right")]
    outputs = layers.Dense(5, activation="relu", name="dense")(layers.Concatenate()(given))
    model = keras_module.Model(given, outputs)
    generator = np.random.default_rng(0)
    left, right = (generator.normal(size=(SAMPLES, n)).astype("float32") for n in (4, 3))
    expected = (np.asarray(model([left, right])) > 0).sum(axis=0)
    named = {"left": left, "right": right}
    for data in (
        [left, right],
        tf.data.Dataset.from_tensor_slices(((left, right), left)).batch(BATCH),
        iter([([left, right], right)]),
    ):
        assert_counts(tfap.measure_activations(model, data)["dense"], expected, SAMPLES)
    model = keras_module.Model(dict(zip(named, given)), outputs)
    for data in (named, tf.data.Dataset.from_tensor_slices(named).batch(BATCH)):
        assert_counts(tfap.measure_activations(model, data)["dense"], expected, SAMPLES)
    with pytest.raises(ValueError, match="different numbers of samples"):
        tfap.measure_activations(model, {"left": left, "right": right[1:]})


@pytest.mark.slow
@pytest.mark.smoke
def test_text(keras_module):
    """tf_keras lists the vocabulary among the model's weights, though it is no variable."""
    layers = keras_module.layers
    text = layers.TextVectorization(20, output_sequence_length=6)
    text.adapt(np.array(["a b c", "d e f"]))
    stack = [keras_module.Input((1,), dtype="string"), text, layers.Embedding(20, 8)]
    stack += [layers.Dense(8, activation="relu", name="a"), layers.GlobalMaxPooling1D(), layers.Dense(3)]
    model = keras_module.Sequential(stack)
    model.compile("sgd", "mse")
    x, y = tf.constant([["a b"], ["c d"]] * 8), np.zeros((16, 3))
    assert tfap.measure_activations(model, x)["a"].seen == 16 * 6
    model.fit(x, y, verbose=0, callbacks=[tfap.DeadNeuronMonitor(x)])
    assert tfap.report({"model": model}, batch_sizes=())["model"].weights == 20 * 8 + 8 * 9 + 9 * 3
    assert "a" in str(tfap.compaction_report(model, tfap.compact(model)))
    assert tfap.fit_and_compact(model, 0.5, x, y, epochs=2, stages=2, verbose=0).history["weights"][0] == 259
    wrapped = tfap.prune(model, 0.5, "gradient")
    wrapped.fit(x, y, epochs=3, verbose=0, callbacks=[tfap.UpdatePruningStep(gradient_data=(x, y))])
    assert nets.pruned_weights(wrapped) == nets.prunable_weights(wrapped) / 2


def test_steps(keras_module):
    model = nets.mlp(keras_module)
    x = inputs(model)
    endless = tf.data.Dataset.from_tensors(x[:BATCH]).repeat()
    assert tfap.measure_activations(model, x, BATCH, steps=2)["hidden_0"].seen == 2 * BATCH
    assert tfap.measure_activations(model, endless, steps=5)["hidden_0"].seen == 5 * BATCH
    with pytest.raises(ValueError, match="no end: pass steps="):
        tfap.measure_activations(model, endless)


def test_a_generator_that_calls_the_model(keras_module):
    model = nets.mlp(keras_module)
    x = inputs(model)

    def batches():
        model(x)
        yield x

    assert tfap.measure_activations(model, batches())["hidden_0"].seen == SAMPLES


# -- the model stays -------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_unchanged(keras_module, fails):
    model = nets.nested(keras_module)
    x, y = nets.data(model)
    weights, config, outputs = model.get_weights(), model.to_json(), model.predict(x, verbose=0)
    if fails:
        with pytest.raises(Exception, match="incompatible"):
            tfap.measure_activations(model, x[:, :3])
    else:
        tfap.measure_activations(model, x)
    assert not [layer for layer in model._flatten_layers() if "call" in vars(layer)]
    assert model.to_json() == config
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model.predict(x, verbose=0), outputs)
    model.fit(x, y, verbose=0)


def test_a_call_of_the_users_on_the_instance_stays(keras_module):
    model = nets.mlp(keras_module)
    x = inputs(model)
    layer = model.layers[0]
    plain = layer.call
    object.__setattr__(layer, "call", lambda inputs, **_: -plain(inputs))
    own = vars(layer)["call"]
    assert not tfap.measure_activations(model, x)["hidden_0"].counts.any()
    assert vars(layer)["call"] is own


@pytest.mark.smoke
def test_losses_of_layers_do_not_leak(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((6,)), layers.Dense(8, "relu", activity_regularizer="l2"), layers.Dense(3)]
    )
    model = nets.compiled(keras_module, model, "mse")
    x, y = nets.data(model)
    before = model.evaluate(x, y, verbose=0)
    tfap.measure_activations(model, x)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(before)
    model.fit(x, y, verbose=0)  # would fail on a loss of another graph


# -- errors ----------------------------------------------------------------------------------------


def test_bad_models(keras_module):
    model = nets.mlp(keras_module)
    x = inputs(model)
    hidden = keras_module.layers.Dense(4, activation="relu")
    with pytest.raises(ValueError, match="is subclassed"):
        tfap.measure_activations(nets.subclassed(keras_module, hidden), x)
    with pytest.raises(ValueError, match="takes a built model"):
        tfap.measure_activations(keras_module.Sequential([hidden]), x)
    with pytest.raises(TypeError, match="takes a Keras model"):
        tfap.measure_activations(hidden, x)


def test_bad_data(keras_module):
    model = nets.mlp(keras_module)
    x = inputs(model)
    with pytest.raises(TypeError, match="received int"):
        tfap.measure_activations(model, 3)
    with pytest.raises(ValueError, match="data has 2 arrays; .* has 1 inputs"):
        tfap.measure_activations(model, (x, x))
    for empty in (x[:0], iter([])):
        with pytest.raises(ValueError, match="empty"):
            tfap.measure_activations(model, empty)
    for wrong, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="batch_size must be an integer"):
            tfap.measure_activations(model, x, batch_size=wrong)
        with pytest.raises(error, match="steps must be an integer"):
            tfap.measure_activations(model, x, steps=wrong)


# -- progress --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terminal, patience, shown", [(True, -1, True), (True, 60, False), (False, -1, False)]
)
def test_progress_on_terminals_and_long_work_only(monkeypatch, terminal, patience, shown):
    written = io.StringIO()
    console = rich.console.Console(file=written, force_terminal=terminal, width=80)
    monkeypatch.setattr(batches, "_PATIENCE", patience)
    monkeypatch.setattr(rich.console, "Console", lambda **_: console)
    assert list(_with_progress(iter("abc"), 3, None)) == ["a", "b", "c"]
    assert ("Measuring activations" in written.getvalue()) == shown
