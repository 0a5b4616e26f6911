"""BatchNormalization statistics computed anew: exact, in graph order, for every use of a layer."""

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap.activations import stepwise
from tfap.activations.recalibration import recalibrate_in_place

RANDOM = np.random.default_rng(0)


def statistics_of(layer):
    return np.array(layer.moving_mean), np.array(layer.moving_variance)


def assert_statistics(layer, values, axes=0):
    """`values` are what the layer consumes."""
    expected = values.mean(axes, dtype="float64"), values.var(axes, dtype="float64")
    for found, its in zip(statistics_of(layer), expected):
        np.testing.assert_allclose(found, its, rtol=1e-5, atol=1e-6)


def residual(keras):
    layers = keras.layers
    inputs = keras.Input((6, 6, 3), name="images")
    x = layers.Conv2D(5, 3, padding="same")(inputs)
    a = layers.ReLU()(layers.BatchNormalization(name="norm_a")(x))
    x = layers.Conv2D(5, 3, padding="same")(layers.Dropout(0.5)(a))
    x = layers.BatchNormalization(name="norm_b", scale=False)(x)
    x = layers.GlobalAveragePooling2D()(layers.Add()([a, x]))
    x = layers.BatchNormalization(name="norm_c", center=False)(layers.Dense(4)(x))
    return keras.Model(inputs, layers.Dense(2)(x), name="residual")


def images(samples=50):
    return (3 + 2 * np.random.default_rng(1).normal(size=(samples, 6, 6, 3))).astype("float32")


def assert_exact(keras, model, x, names):
    """Compares with the definition: what each layer consumes in inference, with its statistics."""
    for name in names:
        layer = model.get_layer(name)
        consumed = keras.Model(model.input, layer.input).predict(x, verbose=0)
        assert_statistics(layer, consumed, tuple(range(consumed.ndim - 1)))
        assert abs(statistics_of(layer)[0]).max() > 1e-3  # they were 0 and 1


@pytest.mark.parametrize("batch_size", [7, 64])
@pytest.mark.one_keras
def test_each_layer_has_the_statistics_of_what_it_consumes(keras_module, batch_size):
    model, x = residual(keras_module), images()
    new = tfap.recalibrate(model, x, batch_size=batch_size)
    assert_exact(keras_module, new, x, ["norm_a", "norm_b", "norm_c"])


@pytest.mark.one_keras
def test_the_given_model_is_not_changed(keras_module):
    model, x = residual(keras_module), images()
    model.compile("adam", "mse")
    before = [np.array(weight) for weight in model.weights]
    new = tfap.recalibrate(model, x)

    for weight, then in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), then)
    moving = 0
    for weight, then in zip(new.weights, before, strict=True):
        moving += "moving" in weight.name
        assert np.array_equal(np.array(weight), then) != ("moving" in weight.name)
    assert moving == 6 and new.loss == "mse" and new.optimizer is not model.optimizer


def test_in_place_with_wrappers(keras_module):
    model = tfap.prune(residual(keras_module), 0.5, criterion="magnitude")
    model.compile("sgd", "mse")
    tfap.update_masks(model, 0.5)
    recalibrate_in_place(model, images())

    plain = tfap.strip_pruning(model)
    assert_exact(keras_module, plain, images(), ["norm_a", "norm_b", "norm_c"])


def shared(keras):
    """One BatchNormalization for two inputs, and one that is called on its own output."""
    layers = keras.layers
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    norm, chained = layers.BatchNormalization(name="norm"), layers.BatchNormalization(name="chained")
    encoder = keras.Sequential([layers.Input((4,)), norm], name="encoder")
    a, b = encoder(left), layers.ReLU()(encoder(right))
    return keras.Model([left, right], chained(layers.Add()([chained(a), b])))


def test_shared_layers_have_the_statistics_of_all_their_calls(keras_module):
    model = shared(keras_module)
    left, right = RANDOM.normal(1, 2, (40, 4)), RANDOM.normal(-3, 1, (40, 4))
    new = tfap.recalibrate(model, {"left": left, "right": right}, batch_size=16)

    norm = new.get_layer("encoder").layers[-1]
    assert_statistics(norm, np.concatenate([left, right]))
    mean, variance = statistics_of(norm)
    a, b = ((x - mean) / np.sqrt(variance + norm.epsilon) for x in (left, right))
    chained = new.get_layer("chained")
    first = (a - a.mean(0)) / np.sqrt(a.var(0) + chained.epsilon)  # until its second call is reached
    assert_statistics(chained, np.concatenate([a, first + np.maximum(b, 0)]))


def test_channels_first(keras_module):
    model = keras_module.Sequential(
        [keras_module.layers.Input((3, 5, 4)), keras_module.layers.BatchNormalization(axis=1)]
    )
    x = RANDOM.normal([[[1.0]], [[5.0]], [[-2.0]]], 3, (20, 3, 5, 4))
    assert_statistics(tfap.recalibrate(model, x).layers[-1], x, (0, 2, 3))


def test_masked_positions_do_not_count(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((3,), dtype="int32"),
            layers.Embedding(4, 2, mask_zero=True, name="embedding"),
            layers.Dense(2, name="dense"),
            layers.BatchNormalization(name="first"),
            layers.BatchNormalization(name="norm", gamma_initializer="ones"),
        ]
    )
    tokens = np.array([[1, 2, 0], [3, 0, 0], [2, 2, 1]] * 20)
    new = tfap.recalibrate(model, tokens, batch_size=16)
    vectors = np.array(new.get_layer("embedding").embeddings)[tokens[tokens > 0]]
    assert_statistics(new.get_layer("first"), vectors @ np.array(new.get_layer("dense").kernel))
    mean, variance = statistics_of(new.get_layer("norm"))
    first = statistics_of(new.get_layer("first"))[1]
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    np.testing.assert_allclose(variance, first / (first + new.get_layer("first").epsilon), rtol=1e-4)


@pytest.mark.tensorflow_only(reason="synchronized=True")
def test_synchronized_layers(keras_module):
    layers = keras_module.layers
    if keras_module.__name__ == "keras":
        norm = layers.BatchNormalization(synchronized=True)
    else:
        norm = layers.BatchNormalization.__base__.__subclasses__  # both are layers of one base
        norm = keras_module.layers.experimental.SyncBatchNormalization()
    x = RANDOM.normal(2, 3, (60, 4))
    new = tfap.recalibrate(keras_module.Sequential([layers.Input((4,)), norm]), x)
    assert_statistics(new.layers[-1], x)


def with_frozen(keras):
    layers = keras.layers
    inputs = keras.Input((4,))
    frozen = layers.BatchNormalization(name="frozen", trainable=False)
    x = layers.BatchNormalization(name="norm")(frozen(inputs))
    return keras.Model(inputs, layers.BatchNormalization(name="fixed")(x, training=False))


def test_frozen_layers_stay_unless_asked_for(keras_module):
    model, x = with_frozen(keras_module), RANDOM.normal(5, 2, (64, 4))
    new, all_new = tfap.recalibrate(model, x), tfap.recalibrate(model, x, include_frozen=True)

    for layer in [new.get_layer("frozen")] + [new.get_layer("fixed")] * (keras_module.__name__ == "tf_keras"):
        np.testing.assert_array_equal(statistics_of(layer), [np.zeros(4), np.ones(4)])
    assert_statistics(new.get_layer("norm"), x / np.sqrt(1 + new.get_layer("frozen").epsilon))
    assert not all_new.get_layer("frozen").trainable
    assert_statistics(all_new.get_layer("frozen"), x)
    np.testing.assert_allclose(statistics_of(all_new.get_layer("fixed"))[1], 1, atol=0.01)


def inside(keras):
    """BatchNormalization layers inside TimeDistributed and inside a layer of the user's."""

    @keras.utils.register_keras_serializable("test_recalibration")
    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = keras.layers.BatchNormalization(name="first")
            self.second = keras.layers.BatchNormalization(name="second")

        def build(self, shape):
            self.first.build(shape)
            self.second.build(shape)
            super().build(shape)

        def call(self, inputs, training=None):
            return self.second(2 * self.first(inputs, training=training), training=training)

    layers = keras.layers
    return keras.Sequential(
        [layers.Input((3, 4)), layers.TimeDistributed(layers.BatchNormalization(name="norm")), Block()]
    )


def test_layers_inside_other_layers(keras_module):
    x = RANDOM.normal(5, 2, (64, 3, 4))
    new = tfap.recalibrate(inside(keras_module), x)
    distributed, block = new.layers[-2:]
    assert_statistics(distributed.layer, x, (0, 1))
    np.testing.assert_allclose(statistics_of(block.first)[1], 1, atol=0.01)
    np.testing.assert_allclose(statistics_of(block.second)[1], 4, atol=0.02)


@pytest.mark.one_keras
def test_with_little_memory_each_pass_starts_at_the_data(keras_module, monkeypatch):
    model, x = residual(keras_module), images()
    expected = tfap.recalibrate(model, x).get_weights()
    for budget in (0, 100_000):  # nothing fits, or the values of some layers do not
        monkeypatch.setattr(stepwise, "KEPT_BYTES", budget)
        for found, its in zip(tfap.recalibrate(model, x).get_weights(), expected, strict=True):
            np.testing.assert_allclose(found, its, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(stepwise, "KEPT_BYTES", 0)
    with pytest.raises(ValueError, match="can be read only once, and more than 0 MiB"):
        tfap.recalibrate(model, iter([x]))


@pytest.mark.one_keras
def test_every_kind_of_data(keras_module):
    model, x = residual(keras_module), images(64)
    expected = tfap.recalibrate(model, x[:48]).get_weights()
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(64))).batch(16)
    kinds = [
        (dataset, {"steps": 3}),
        (dataset.repeat(), {"steps": 3}),
        (((x[at : at + 16], None) for at in range(0, 64, 16)), {"steps": 3}),
        ({"images": x[:48]}, {}),
    ]
    for data, options in kinds:
        for found, its in zip(tfap.recalibrate(model, data, **options).get_weights(), expected, strict=True):
            np.testing.assert_allclose(found, its, rtol=1e-5, atol=1e-6)


def test_large_means_cost_no_precision(keras_module):
    model = keras_module.Sequential(
        [keras_module.layers.Input((1,)), keras_module.layers.BatchNormalization()]
    )
    x = (10_000 + np.arange(100) % 2).astype("float32")[:, None]
    found = statistics_of(tfap.recalibrate(model, x).layers[-1])
    np.testing.assert_array_equal(found, [[10_000.5], [0.25]])


BAD = {
    "has the shape|does not fit the inputs of the model 'residual', images .None, 6, 6, 3.": np.zeros(
        (9, 6, 6)
    ),
    "does not fit.*images": np.zeros(9),  # labels only
    "has 2 arrays; the model 'residual' has 1": [np.zeros((9, 6, 6, 3)), np.zeros(9)],
    "'norm_a' consumes is NaN or infinite": np.full((9, 6, 6, 3), np.nan),
    "The data is empty": np.zeros((0, 6, 6, 3)),
    "1 value.s. per channel of 'norm_c'": np.zeros((1, 6, 6, 3)),
    "has no end": tf.data.Dataset.from_tensors(np.zeros((9, 6, 6, 3))).repeat(),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_data(keras_module, message):
    model = residual(keras_module)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        tfap.recalibrate(model, BAD[message])
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.one_keras
def test_bad_models(keras_module):
    layers, x = keras_module.layers, np.ones((8, 4))
    with pytest.raises(TypeError, match="tfap.recalibrate takes a Keras model"):
        tfap.recalibrate(3, x)
    with pytest.raises(TypeError, match="data must be an array"):
        tfap.recalibrate(with_frozen(keras_module), "data")
    with pytest.raises(ValueError, match="has no BatchNormalization that training updates"):
        tfap.recalibrate(nets.mlp(keras_module), x)
    frozen = with_frozen(keras_module)
    frozen.trainable = False
    with pytest.raises(ValueError, match="include_frozen=True"):
        tfap.recalibrate(frozen, x)
    with pytest.raises(ValueError, match="still has pruning wrappers"):
        tfap.recalibrate(tfap.prune(residual(keras_module), 0.5), images())
    with pytest.raises(ValueError, match="takes a built model"):
        tfap.recalibrate(keras_module.Sequential([layers.BatchNormalization()]), x)
    with pytest.raises(ValueError, match="is subclassed"):
        tfap.recalibrate(nets.subclassed(keras_module, layers.Dense(2)), x)


@pytest.mark.one_keras
def test_few_values_are_told(keras_module, caplog):
    tfap.recalibrate(residual(keras_module), images(8))
    assert "'norm_c' come from 8 values per channel: expect an error of about 50%" in caplog.text
    assert "'norm_a'" not in caplog.text
