"""The models of model_table.py: names, functions that build them, and matching data.

The first argument of every function that builds a model is the `keras` module, Keras 3 or tf_keras. Each
model ends in softmax over classes.
"""

import dataclasses
import functools
import importlib.util

import networks
import numpy as np
import tensorflow as tf

import tfap
from tfap import keras_compat

CLASSES = 10
UNDEFINED_SIZE = 9  # size for undefined dimensions
KERAS_HUB = importlib.util.find_spec("keras_hub") is not None


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model under test.

    Attributes:
        name: Row heading.
        make: Function from a `keras` module to a model.
        integers_below: Upper limit (exclusive) of integer inputs, which start at 0.
        eager: Whether to train eagerly, because a graph of the training step takes minutes to build.
        keras_names: Names of the Keras modules that the model supports.
        criteria: Criteria to prune by.
    """

    name: str
    make: object
    integers_below: int = 2
    eager: bool = False
    keras_names: tuple = ("keras", "tf_keras")
    criteria: tuple = ("magnitude", "activation_count")

    def model(self, keras):
        """Returns the compiled model."""
        model = self.make(keras)
        kwargs = {} if keras.__name__ == "tf_keras" else {"jit_compile": False}
        model.compile(
            keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", run_eagerly=self.eager, **kwargs
        )
        return model

    def data(self, model, samples):
        """Returns random inputs, in the structure of the model's inputs, and labels."""
        generator = np.random.default_rng(0)

        def random(spec):
            shape = (samples, *(UNDEFINED_SIZE if size is None else size for size in spec.shape[1:]))
            if spec.dtype.kind in "iu":
                return generator.integers(0, self.integers_below, shape).astype("int32")
            return generator.normal(size=shape).astype("float32")

        x = keras_compat.tree_of(model).map_structure(random, keras_compat.call_signature(model))
        outputs = tf.nest.flatten(model(tf.nest.map_structure(lambda array: array[:1], x), training=False))
        return x, generator.integers(0, outputs[0].shape[-1], (samples, *outputs[0].shape[1:-1]))

    def prune(self, model, schedule, **kwargs):
        """Returns the wrapped model, without wrappers on output layers."""
        return tfap.prune(model, schedule, **kwargs)

    def strip(self, wrapped):
        return tfap.strip_pruning(wrapped)


class LayerByLayer(Entry):
    """A subclassed model whose layers are wrapped one by one."""

    def prune(self, model, schedule, **kwargs):
        first, second, last = model.parts
        return self._like(
            model, [tfap.prune(layer, schedule, **kwargs) for layer in (first, second)] + [last]
        )

    def strip(self, wrapped):
        first, second, last = wrapped.parts
        return self._like(wrapped, [tfap.strip_pruning(layer) for layer in (first, second)] + [last])

    @staticmethod
    def _like(model, parts):
        keras = keras_compat.keras_of(model)
        made = type(model)(parts)
        made.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        made(np.zeros((1, 12), "float32"))
        return made


# -- keras.applications ----------------------------------------------------------------------------


def application(name, size, criterion="activation_count", **kwargs):
    """Returns an entry for a model of keras.applications on square images."""

    def make(keras):
        return getattr(keras.applications, name)(
            weights=None, input_shape=(size, size, 3), classes=CLASSES, **kwargs
        )

    return Entry(name, make, eager=True, criteria=(criterion,))


# -- other models ----------------------------------------------------------------------------------


def text(keras):
    """Builds a text classifier: Embedding, a bidirectional LSTM, and an LSTM; zeros are padding."""
    layers = keras.layers
    inputs = keras.Input((9,), dtype="int32")
    x = layers.Embedding(40, 8, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.Dense(12, activation="relu")(layers.LSTM(7)(x))
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x), name="text")


def u_net(keras, widths=(8, 12, 16)):
    """Builds a U-Net with transposed convolutions (Ronneberger et al., 2015): one class per pixel."""
    layers = keras.layers

    def convolved(x, width):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = inputs = keras.Input((16, 16, 3))
    skips = []
    for width in widths[:-1]:
        skips.append(convolved(x, width))
        x = layers.MaxPooling2D()(skips[-1])
    x = convolved(x, widths[-1])
    for width, skip in zip(reversed(widths[:-1]), reversed(skips)):
        x = layers.Conv2DTranspose(width, 2, 2, activation="relu")(x)
        x = convolved(layers.Concatenate()([skip, x]), width)
    return keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(x), name="u_net")


def siamese(keras):
    """Builds a siamese model: two images pass the same layers, one of which is a nested model."""
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(20, activation="relu"),
        ],
        name="tower",
    )
    again = layers.Dense(12, activation="relu", name="again")
    left, right = keras.Input((10, 10, 1), name="left"), keras.Input((10, 10, 1), name="right")
    x = layers.Subtract()([again(inner(left)), again(inner(right))])
    x = layers.Dense(8, activation="relu")(x)
    return keras.Model([left, right], layers.Dense(2, activation="softmax")(x), name="siamese")


@functools.cache
def mixer_class(keras):
    """Returns a custom layer class that is registered with tfap."""

    @keras.saving.register_keras_serializable(package="models")
    class Mixer(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape):
            self.w = self.add_weight(shape=(self.units, shape[-1]), name="w")  # (neurons, inputs)
            self.built = True

        def call(self, x):
            if hasattr(keras, "ops"):  # Keras 3, on any backend
                return keras.ops.matmul(x, keras.ops.transpose(self.w))
            return tf.matmul(x, self.w, transpose_b=True)

        def compute_output_shape(self, shape):
            return (*shape[:-1], self.units)

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    tfap.register_prunable_layer(Mixer, [tfap.KernelSpec("w", neuron_axes=(0,), input_axes=(1,))])
    return Mixer


@functools.cache
def doubled(keras):
    @keras.saving.register_keras_serializable(package="models")
    def twice(x):
        return 2.0 * x

    return twice


def custom(keras, function=doubled):
    """Builds a model with a custom layer and a Lambda layer (registered function) between Dense layers."""
    layers = keras.layers
    inputs = keras.Input((12,))
    x = layers.Dense(16, activation="relu")(inputs)
    x = layers.ReLU()(mixer_class(keras)(14)(x))
    x = layers.Lambda(function(keras), output_shape=(14,))(x)
    x = layers.Dense(12, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x), name="custom")


def with_lambda(keras):
    """Builds the same with a Python lambda, which neither Keras loads in safe mode."""
    return custom(keras, lambda keras: lambda x: 2.0 * x)


@functools.cache
def net_class(keras):
    @keras.saving.register_keras_serializable(package="models")
    class Net(keras.Model):
        def __init__(self, parts, **kwargs):
            super().__init__(**kwargs)
            self.parts = parts

        def call(self, x, training=None):
            first, second, last = self.parts
            return last(second(first(x, training=training), training=training))

        def get_config(self):
            return {"parts": [keras.saving.serialize_keras_object(part) for part in self.parts]}

        @classmethod
        def from_config(cls, config):
            return cls([keras.saving.deserialize_keras_object(part) for part in config["parts"]])

    return Net


def subclassed(keras):
    layers = keras.layers
    parts = [
        layers.Dense(16, activation="relu"),
        layers.Dense(14, activation="relu"),
        layers.Dense(CLASSES, activation="softmax"),
    ]
    net = net_class(keras)(parts)
    net(np.zeros((1, 12), "float32"))
    return net


# -- KerasHub --------------------------------------------------------------------------------------


def bert(keras):
    """Builds a classifier on KerasHub's BERT backbone."""
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=40,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=32,  # upper limit of the sizes that tfap tries for undefined dimensions
    )
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(backbone.output["pooled_output"])
    return keras.Model(backbone.input, outputs, name="bert")


def hub_vit(keras):
    """Builds a classifier on KerasHub's ViT backbone."""
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=(4, 4), num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    return _pooled(keras, backbone, "hub_vit")


def hub_decoder(keras, backbone, **sizes):
    """Builds a classifier on a backbone of KerasHub for language models."""
    import keras_hub

    sizes = {"vocabulary_size": 40, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32, **sizes}
    return _pooled(keras, getattr(keras_hub.models, backbone)(**sizes), backbone)


def _pooled(keras, backbone, name):
    x = keras.layers.GlobalAveragePooling1D()(backbone.output)
    return keras.Model(backbone.input, keras.layers.Dense(CLASSES, activation="softmax")(x), name=name)


_GROUPED = {"num_query_heads": 4, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 4, "intermediate_dim": 64}  # a gated block has half as many units
CUSTOM = [
    Entry("vision transformer", lambda keras: networks.vit(keras, (16, 16, 3), CLASSES, width=16)),
    Entry("text: Embedding and LSTM", text, integers_below=40),
    Entry("U-Net", u_net),
    Entry("siamese with shared layers", siamese),
    Entry("custom and Lambda layers", custom),
    Entry("Lambda layer with a lambda", with_lambda),
    LayerByLayer("subclassed model wrapped layer by layer", subclassed),
]
APPLICATIONS = [
    application("VGG16", 32),
    application("ResNet50", 32),
    application("ResNet50V2", 32),
    application("InceptionV3", 75),
    application("Xception", 71),
    application("MobileNet", 32, alpha=0.25),
    application("MobileNetV2", 32, "magnitude", alpha=0.35),
    application("MobileNetV3Small", 32, "magnitude"),
    application("MobileNetV3Large", 32),
    application("DenseNet121", 32),
    application("NASNetMobile", 32),
    application("EfficientNetB0", 32),
    application("EfficientNetV2B0", 32, "magnitude"),
    application("ConvNeXtTiny", 32, "magnitude"),
]
HUB = [
    Entry("KerasHub BERT backbone", bert, keras_names=("keras",)),
    Entry("KerasHub ViT backbone", hub_vit, keras_names=("keras",), criteria=("magnitude",)),
    *(
        Entry(
            f"KerasHub {name} backbone",
            functools.partial(hub_decoder, backbone=f"{name}Backbone", **sizes),
            keras_names=("keras",),
            criteria=("magnitude",),
        )
        for name, sizes in (
            ("GPT2", {"num_heads": 4, "max_sequence_length": 32}),
            ("Mistral", _GROUPED),
            ("Gemma", _GEMMA),
            ("Llama", _GROUPED),
        )
    ),
]
ENTRIES = [*APPLICATIONS, *CUSTOM, *HUB]
