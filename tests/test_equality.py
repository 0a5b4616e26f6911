"""Equivalence checks compare something, or say that they do not."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops  # on TensorFlow, inside of layers, also of tf_keras

import tfap
from tfap.keras_compat import equality


def fully_convolutional(keras, poolings=5):
    """Inputs of any size, halved five times: 16 positions would shrink to none."""
    layers = keras.layers
    inputs = x = keras.Input((None, None, 3))
    for at in range(poolings):
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv_{at}")(x)
        x = layers.MaxPooling2D(name=f"pool_{at}")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x))


def test_sizes_large_enough_for_five_poolings(keras_module):
    model, other = fully_convolutional(keras_module), fully_convolutional(keras_module)
    found = equality.difference(model, other)
    assert found.absolute > 0 and found.values == equality.SAMPLES * 2
    report = tfap.compaction_report(model, other)
    assert not report.exact and "Not the same model" in report.certificate
    assert tfap.compaction_report(model, tfap.compact(model)).exact


def test_a_window_wider_than_the_first_size(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((None, 1))
    x = layers.Conv1D(4, 80, activation="relu", name="wide")(inputs)
    model = keras_module.Model(inputs, layers.Conv1D(2, 1, name="head")(x))
    kernel, bias = model.get_layer("wide").get_weights()
    model.get_layer("wide").set_weights([kernel * [0, 1, 1, 1], bias])
    smaller = tfap.compact(model)
    assert smaller.get_layer("wide").filters == 3
    assert equality.difference(model, smaller).values > 0


def root_of_more_than_five(keras):
    """NaN on every random input."""

    class Root(keras.layers.Layer):
        def call(self, inputs):
            return ops.sqrt(inputs - 5.0)

    layers = keras.layers
    model = keras.Sequential([layers.Input((3,)), Root(), layers.Dense(4, "relu"), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def test_nan_in_both_models_is_no_proof(keras_module):
    model = root_of_more_than_five(keras_module)
    with pytest.raises(ValueError, match=r"cannot be compared .* is NaN in all 32 values\): pass data="):
        tfap.compact(model)
    x = np.random.default_rng(0).uniform(6, 9, (20, 3)).astype("float32")
    smaller = tfap.compact(model, data=x)
    with pytest.raises(ValueError, match="is NaN in all 32 values"):
        tfap.compaction_report(model, smaller)
    report = tfap.compaction_report(model, smaller, x)
    assert report.exact and report.difference.values == 40


def test_training_data_stands_in_for_random_inputs(keras_module):
    model = root_of_more_than_five(keras_module)
    x = np.random.default_rng(0).uniform(6, 9, (32, 3)).astype("float32")
    fit = tfap.fit_and_compact(model, 0.5, x, np.ones((32, 2)), stages=2, epochs=4, verbose=0)
    assert fit.model.layers[-2].units == 2
    dataset = tf.data.Dataset.from_tensor_slices((x, np.ones((32, 2)))).batch(8)
    with pytest.raises(ValueError, match="cannot be compared"):  # before the training
        tfap.fit_and_compact(model, 0.5, dataset, epochs=4, verbose=0)


def test_a_config_that_does_not_tell_all(keras_module):
    class Times(keras_module.layers.Layer):
        def __init__(self, factor=2.0, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, inputs):
            return inputs * self.factor

        def get_config(self):
            return super().get_config()

    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((3,)), layers.Dense(4, "relu"), Times(3.0), layers.Dense(2)]
    )
    with pytest.raises(RuntimeError, match=r"outputs differ from those of .* return every argument"):
        tfap.prune(model, 0.5)


@pytest.mark.tensorflow_only(reason="JAX compiles no random operation without a SeedGenerator, as below")
def test_a_model_that_is_random_in_inference_is_pruned(keras_module):
    class Sampling(keras_module.layers.Layer):
        def call(self, inputs):
            return inputs + tf.random.normal(tf.shape(inputs))

    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((3,)), layers.Dense(4, "relu"), Sampling(), layers.Dense(2)]
    )
    assert len(tfap.prunable_layers(tfap.prune(model, 0.5))) == 1


def test_the_state_of_random_generators_is_as_before():
    import keras

    class Sampling(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.generator = keras.random.SeedGenerator(3)

        def call(self, inputs):
            return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.generator)

    sampling = Sampling()
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "relu"), sampling, keras.layers.Dense(2)]
    )
    before = sampling.generator.state.numpy()
    tfap.prune(model, 0.5)
    np.testing.assert_array_equal(sampling.generator.state.numpy(), before)


@pytest.mark.tensorflow_only(reason="JAX and PyTorch convolve channels-first values on any CPU")
@pytest.mark.parametrize(
    "words",
    [
        "The Conv2D op currently only supports the NHWC tensor format on the CPU. The op was given: NCHW",
        "Conv2DCustomBackpropInputOp only supports NHWC.",
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_a_cpu_that_cannot_convolve_channels_first(keras_module, words, given):
    class Convolution(keras_module.layers.Layer):
        def call(self, x):
            if not isinstance(x, tf.Tensor) or not tf.executing_eagerly():
                return x
            raise tf.errors.UnimplementedError(None, None, words)

        def compute_output_shape(self, shape):
            return shape

    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((3, 8, 8)), Convolution(), layers.Flatten()])
    arrays = [np.ones((2, 3, 8, 8), "float32")] if given else None
    with pytest.raises(ValueError, match=r"cannot run.*channels_first.*TF_ENABLE_ONEDNN_OPTS=1.*GPU"):
        equality.difference(model, model, arrays)


def test_a_model_without_outputs_is_not_compared():
    import tf_keras  # Keras 3 refuses such a model

    inputs = tf_keras.Input((3,))
    model = tf_keras.Model(inputs, [])
    with pytest.raises(ValueError, match="has no outputs"):
        equality.difference(model, model)
