"""Models that users prune, at toy size, with the values that every step of pruning must give.

A situation is a function `(keras, generator)` that returns a `Case`, under the decorator `situation` with its
expected values. `SITUATIONS` lists all of them. tests/test_situations.py runs them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tfap

SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with its data.

    Attributes:
        model: The model to prune. Compiled if there is no trainer.
        x: Inputs: an array, or a dict of one array per input.
        y: Targets in the form that `fit` takes, or None.
        trainer: Function of the wrapped model that returns the compiled model to fit. None fits the wrapped
            model itself.
        fit: Further arguments of `fit`.
    """

    model: Any
    x: Any
    y: Any = None
    trainer: Callable | None = None
    fit: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Situation:
    """A situation with its expected values.

    Attributes:
        make: Function `(keras, generator)` that returns a `Case`.
        prune: Arguments of `tfap.prune` besides the schedule.
        pruned: Dict of layer path to the number of pruned weights; a tuple of numbers for several kernels.
        skipped: Dict of layer path to a part of the reason why it is not pruned. Layers without a kernel
            may be missing.
        units: Dict of layer path to its units after compaction, of the layers that lose units.
        kept: Dict of layer path to the number of constant or disconnected channels that compaction keeps,
            and a part of the reason. The number is None if it depends on trained values.
        score: Whether the report has a score: labels or losses exist.
        metric: Function `(y, outputs)`, or None for the default of `tfap.report`.
        export: Arguments of `tfap.export`.
        tolerance: Largest difference of outputs of the exported file, relative to the largest output.
        heavy: Whether only `make test-all` runs it.
    """

    make: Callable
    prune: dict
    pruned: dict
    skipped: dict
    units: dict
    kept: dict = dataclasses.field(default_factory=dict)
    score: bool = True
    metric: Callable | None = None
    export: dict = dataclasses.field(default_factory=dict)
    tolerance: float = 1e-4
    heavy: bool = True


SITUATIONS = []


def situation(criterion="activation_count", granularity="neuron", **expected):
    """Adds the function that it decorates to `SITUATIONS`."""
    fields = {field.name for field in dataclasses.fields(Situation)}
    prune = {name: expected.pop(name) for name in expected.keys() - fields}
    prune = {"criterion": criterion, "granularity": granularity, "scope": "local", **prune}

    def add(make):
        SITUATIONS.append(Situation(make, prune, **expected))
        return make

    return add


def compiled(keras, model, loss="sparse_categorical_crossentropy", **arguments):
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False, **arguments)
    return model


def functional(keras, inputs, outputs, x, y, **arguments):
    return Case(compiled(keras, keras.Model(inputs, outputs), **arguments), x, y)


def images(generator, *shape):
    return generator.normal(size=(SAMPLES, *shape)).astype("float32")


def labels(generator, classes=3, shape=()):
    return generator.integers(0, classes, (SAMPLES, *shape)).astype("int32")


def split(keras, x, parts):
    """Splits channels in the graph with `keras.ops.split` (Keras 3) or `tf.split` (tf_keras)."""
    return keras.ops.split(x, parts, axis=-1) if hasattr(keras, "ops") else tf.split(x, parts, axis=-1)


def conv(keras, filters, size=3, name=None, **arguments):
    """A convolution without bias, whose pruned channels are zero after the ReLU."""
    arguments = {"padding": "same", "activation": "relu", "use_bias": False, **arguments}
    return keras.layers.Conv2D(filters, size, name=name, **arguments)


OUTPUT = "it is an output layer"
NOT_FIRING = "no activation follows it before"

# -- images: classification ------------------------------------------------------------------------


@situation(
    pruned={"reduce": 4 * 2, "depthwise": 9 * 2, "expand": 4 * 2, "dense": 8 * 3},
    skipped={"stem": "it is named in skip", "output": OUTPUT},
    units={"reduce": 2, "depthwise": 2, "dense": 3},
    kept={"expand": (2, "joins it with channels that do not have the same constant")},
    skip=["stem"],
)
def shufflenet(keras, generator):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = conv(keras, 8, name="stem")(inputs)
    kept, x = split(keras, x, 2)
    x = conv(keras, 4, 1, name="reduce")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, activation="relu", name="depthwise")(x)
    x = conv(keras, 4, 1, name="expand")(x)
    x = layers.Concatenate()([kept, x])
    x = layers.Reshape((8, 8, 2, 4))(x)
    x = layers.Permute((1, 2, 4, 3))(x)
    x = layers.Reshape((8, 8, 8))(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(6, activation="relu", name="dense")(x)
    outputs = layers.Dense(3, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 8, 8, 3), labels(generator))


@situation(
    pruned={"expand": 8 * 8, "depthwise": 9 * 8, "head": 8 * 6},
    skipped={"stem": NOT_FIRING, "project": NOT_FIRING, "output": OUTPUT},
    units={"expand": 8, "expand_norm": 8, "depthwise": 8, "depthwise_norm": 8, "head": 6, "head_norm": 6},
)
def mobilenet_v2(keras, generator):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))

    def block(x, layer, activation=True):
        x = layers.BatchNormalization(name=f"{layer.name}_norm")(layer(x))
        return layers.ReLU(6.0, name=f"{layer.name}_relu")(x) if activation else x

    x = shortcut = block(inputs, conv(keras, 8, name="stem", activation=None), activation=False)
    x = block(x, conv(keras, 16, 1, name="expand", activation=None))
    x = block(x, layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise"))
    x = block(x, conv(keras, 8, 1, name="project", activation=None), activation=False)
    x = layers.Add(name="add")([shortcut, x])
    x = block(x, conv(keras, 12, 1, name="head", activation=None))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(3, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 8, 8, 3), labels(generator))


@situation(
    pruned={"dense": 8 * 5},
    skipped={
        "base/first": "it is named in skip",
        "base/second": "it is named in skip",
        "output": OUTPUT,
    },
    units={"dense": 5},
    skip=["base"],
)
def transfer(keras, generator):
    layers = keras.layers
    base_inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="first")(base_inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="second")(x)
    base = keras.Model(base_inputs, x, name="base")
    base.trainable = False
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
    x = layers.Dense(10, activation="relu", name="dense")(x)
    outputs = layers.Dense(3, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 8, 8, 3), labels(generator))


@functools.cache
def residual_class(keras):
    @keras.saving.register_keras_serializable(package="situations")
    class Residual(keras.layers.Layer):
        def __init__(self, filters, **kwargs):
            super().__init__(**kwargs)
            self.filters = filters
            self.first = conv(keras, filters, name="first")
            self.second = conv(keras, filters, name="second", activation=None)

        def build(self, shape):
            self.first.build(shape)
            self.second.build(shape)
            self.built = True

        def call(self, x):
            return tf.nn.relu(x + self.second(self.first(x)))

        def compute_output_shape(self, shape):
            return shape

        def get_config(self):
            return {**super().get_config(), "filters": self.filters}

    kernels = [
        tfap.KernelSpec(f"{name}.kernel", feeds_output=False, reads_input=False)
        for name in ("first", "second")
    ]
    tfap.register_prunable_layer(Residual, kernels)
    return Residual


@situation(
    pruned={
        "stem": 9 * 3 * 4,
        "block_0": (9 * 8 * 4, 9 * 8 * 4),
        "block_1": (9 * 8 * 4, 9 * 8 * 4),
    },
    skipped={"output": OUTPUT},
    units={},
    kept={
        "stem": (4, "consumed by the custom layer 'block_0' (Residual)"),
        "block_0": (8, "does not analyze Residual layers"),
        "block_1": (8, "does not analyze Residual layers"),
    },
    criterion="magnitude",
    heavy=False,
)
def residual_layers(keras, generator):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = conv(keras, 8, name="stem")(inputs)
    for number in range(2):
        x = residual_class(keras)(8, name=f"block_{number}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(3, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 8, 8, 3), labels(generator))


@situation(
    pruned={"stem": 40 * 4, "depthwise": 9 * 4, "pointwise": 8 * 6},
    skipped={"output": OUTPUT},
    units={
        "stem": 4,
        "stem_norm": 4,
        "depthwise": 4,
        "depthwise_norm": 4,
        "pointwise": 6,
        "pointwise_norm": 6,
    },
    export=dict(format="tflite", quantize="dynamic_range"),
    tolerance=2e-2,
)
def keyword_spotting(keras, generator):
    layers = keras.layers
    inputs = keras.Input((49, 10, 1))
    x = inputs
    for layer in (
        conv(keras, 8, (10, 4), strides=2, activation=None, name="stem"),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise"),
        conv(keras, 12, 1, activation=None, name="pointwise"),
    ):
        x = layers.BatchNormalization(name=f"{layer.name}_norm")(layer(x))
        x = layers.ReLU(name=f"{layer.name}_relu")(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    outputs = layers.Dense(3, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 49, 10, 1), labels(generator))


@situation(
    pruned={"first": 9 * 4, "second": 9 * (8 * 6 - 4 * 3), "dense": 6 * 16 * 4},
    skipped={"output": OUTPUT},
    units={"first": 4, "second": 3, "dense": 4},
)
def time_distributed(keras, generator):
    layers = keras.layers
    inputs = keras.Input((3, 8, 8, 1))
    x = layers.TimeDistributed(layers.Conv2D(8, 3, activation="relu"), name="first")(inputs)
    x = layers.TimeDistributed(layers.Conv2D(6, 3, activation="relu"), name="second")(x)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.TimeDistributed(layers.Dense(8, activation="relu"), name="dense")(x)
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(3, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 3, 8, 8, 1), labels(generator))


@situation(
    pruned={"encoder/conv": 9 * 4, "encoder/dense": 8 * 5, "compare": 10 * 4},
    skipped={"output": OUTPUT},
    units={"encoder/conv": 4, "encoder/dense": 5, "compare": 4},
)
def siamese(keras, generator):
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    x = layers.GlobalMaxPooling2D()(x)
    encoder = keras.Model(image, layers.Dense(10, activation="relu", name="dense")(x), name="encoder")
    left, right = keras.Input((8, 8, 1), name="left"), keras.Input((8, 8, 1), name="right")
    x = layers.Subtract(name="subtract")([encoder(left), encoder(right)])
    x = layers.Dense(8, activation="relu", name="compare")(x)
    outputs = layers.Dense(2, activation="softmax", name="output")(x)
    x = {"left": images(generator, 8, 8, 1), "right": images(generator, 8, 8, 1)}
    return functional(keras, [left, right], outputs, x, labels(generator, 2))


# -- images: one output per position ---------------------------------------------------------------


@situation(
    pruned={
        "down_0": 9 * 3 * 3,
        "down_1": 9 * (6 * 8 - 3 * 4),
        "bottom": 9 * (8 * 10 - 4 * 5),
        "up_1": 4 * (10 * 8 - 5 * 4),
        "merge_1": 9 * (16 * 8 - 8 * 4),
        "up_0": 4 * (8 * 6 - 4 * 3),
        "merge_0": 9 * (12 * 6 - 6 * 3),
    },
    skipped={"output": OUTPUT},
    units={"down_0": 3, "down_1": 4, "bottom": 5, "up_1": 4, "merge_1": 4, "up_0": 3, "merge_0": 3},
)
def u_net(keras, generator):
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    skips = []
    for level, filters in enumerate((6, 8)):
        skips.append(conv(keras, filters, name=f"down_{level}")(x))
        x = layers.MaxPooling2D()(skips[-1])
    x = conv(keras, 10, name="bottom")(x)
    for level, filters in ((1, 8), (0, 6)):
        up = layers.Conv2DTranspose(filters, 2, 2, use_bias=False, activation="relu", name=f"up_{level}")
        x = layers.Concatenate()([skips[level], up(x)])
        x = conv(keras, filters, name=f"merge_{level}")(x)
    outputs = conv(keras, 3, 1, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 8, 8, 3), labels(generator, 3, (8, 8)))


@situation(
    pruned={
        "stem": 9 * 3 * 4,
        "dilated": 9 * (8 * 6 - 4 * 3),
        "separable": 8 * 3,
        "pooled": 8 * 2,
        "fuse": 16 * 4,
    },
    skipped={"output": OUTPUT},
    units={"stem": 4, "dilated": 3, "separable": 3, "pooled": 2, "fuse": 4},
)
def deeplab(keras, generator):
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = conv(keras, 8, strides=2, name="stem")(inputs)
    dilated = conv(keras, 6, dilation_rate=2, name="dilated")(x)
    separable = layers.SeparableConv2D(
        6, 3, dilation_rate=3, padding="same", use_bias=False, activation="relu", name="separable"
    )(x)
    pooled = layers.AveragePooling2D(8)(x)
    pooled = layers.Resizing(8, 8, name="resize_pooled")(conv(keras, 4, 1, name="pooled")(pooled))
    x = layers.Concatenate()([dilated, separable, pooled])
    x = conv(keras, 8, 1, name="fuse")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    outputs = conv(keras, 3, 1, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 16, 16, 3), labels(generator, 3, (16, 16)))


@functools.cache
def depth_to_space_class(keras):
    @keras.saving.register_keras_serializable(package="situations")
    class DepthToSpace(keras.layers.Layer):
        def call(self, x):
            return tf.nn.depth_to_space(x, 2)

        def compute_output_shape(self, shape):
            rows, columns = (None if size is None else 2 * size for size in shape[1:3])
            return (shape[0], rows, columns, shape[3] // 4)

    return DepthToSpace


def mean_squared_error(y, outputs):
    return float(np.mean((np.asarray(y, "float64") - outputs) ** 2))


RESIDUAL = dict(
    # Two channels of the sum cost 306 of the 792 weights of `first` and `second`, three cost 432.
    pruned={"first": 9 * 3 * 2, "second": 9 * (8 * 8 - 6 * 6), "third": 9 * (8 * 10 - 6 * 5)},
    skipped={"to_space": OUTPUT},
    units={"first": 6, "second": 6, "third": 5},
    metric=mean_squared_error,
)


@situation(**RESIDUAL)
def super_resolution(keras, generator):
    layers = keras.layers
    inputs = keras.Input((None, None, 3))
    x = shortcut = conv(keras, 8, name="first")(inputs)
    x = layers.Add()([shortcut, conv(keras, 8, name="second")(x)])
    x = conv(keras, 10, name="third")(x)
    x = conv(keras, 12, activation=None, name="to_space")(x)
    outputs = depth_to_space_class(keras)(name="depth_to_space")(x)
    x = images(generator, 8, 8, 3)
    return functional(keras, inputs, outputs, x, x.repeat(2, 1).repeat(2, 2), loss="mse")


@situation(
    pruned={
        "stem": 9 * 3 * 4,
        "left": 4 * 2,
        "right": 4 * 2,
        "deep": 9 * (8 * 10 - 4 * 5),
        "fuse": 18 * 4,
    },
    skipped={"large": OUTPUT, "small": OUTPUT},
    units={"stem": 4, "left": 2, "right": 2, "deep": 5, "fuse": 4},
)
def detection(keras, generator):
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = conv(keras, 8, strides=2, name="stem")(inputs)
    left, right = split(keras, x, 2)
    left, right = conv(keras, 4, 1, name="left")(left), conv(keras, 4, 1, name="right")(right)
    x = fine = layers.Concatenate(name="partial")([left, right])
    coarse = conv(keras, 10, strides=2, name="deep")(x)
    x = layers.Concatenate(name="levels")([layers.UpSampling2D(2)(coarse), fine])
    x = conv(keras, 8, 1, name="fuse")(x)
    outputs = {
        "large": conv(keras, 5, 1, activation=None, name="large")(coarse),
        "small": conv(keras, 5, 1, activation=None, name="small")(x),
    }
    y = {"large": images(generator, 4, 4, 5), "small": images(generator, 8, 8, 5)}
    x = images(generator, 16, 16, 3)
    return functional(keras, inputs, outputs, x, y, loss={"large": "mse", "small": "mse"})


@situation(
    pruned={
        "level_0": 9 * 3 * 3,
        "level_1": 9 * (6 * 8 - 3 * 4),
        "level_2": 9 * (8 * 10 - 4 * 5),
        "head_0": 9 * 8 * 3,
    },
    skipped={
        "lateral_0": NOT_FIRING,
        "lateral_1": NOT_FIRING,
        "lateral_2": NOT_FIRING,
        "head_1": OUTPUT,
    },
    units={"level_0": 3, "level_1": 4, "level_2": 5, "head_0": 3},
)
def feature_pyramid(keras, generator):
    layers = keras.layers
    x = inputs = keras.Input((16, 16, 3))
    levels = []
    for number, filters in enumerate((6, 8, 10)):
        x = conv(keras, filters, strides=2, name=f"level_{number}")(x)
        levels.append(conv(keras, 8, 1, activation=None, name=f"lateral_{number}")(x))
    features = [levels.pop()]
    while levels:
        features.append(layers.Add()([layers.UpSampling2D(2)(features[-1]), levels.pop()]))
    head = conv(keras, 6, name="head_0"), conv(keras, 4, 1, activation="sigmoid", name="head_1")
    outputs = [head[1](head[0](feature)) for feature in features]
    y = [generator.random((SAMPLES, size, size, 4)).astype("float32") for size in (2, 4, 8)]
    x = images(generator, 16, 16, 3)
    return functional(keras, inputs, outputs, x, y, loss=["mse"] * 3)


# -- sequences -------------------------------------------------------------------------------------


@functools.cache
def ctc_loss(keras):
    @keras.saving.register_keras_serializable(package="situations")
    def loss(y_true, y_pred):
        samples, steps = tf.shape(y_pred)[0], tf.shape(y_pred)[1]
        return tf.nn.ctc_loss(
            tf.cast(y_true, "int32"),
            tf.math.log(y_pred + 1e-7),
            tf.fill([samples], tf.shape(y_true)[1]),
            tf.fill([samples], steps),
            logits_time_major=False,
            blank_index=-1,
        )

    return loss


@situation(
    pruned={
        "conv_0": 9 * 4,
        "conv_1": 9 * (8 * 8 - 4 * 4),
        "dense": 32 * 6,
        # Two units of each direction: their columns, and the rows with which the others read them.
        "recurrent": (12 * 6, 5 * 6 + 2 * 9) * 2,
    },
    skipped={"output": OUTPUT},
    units={"conv_0": 4, "conv_1": 4, "dense": 6, "recurrent": 6},
    score=False,
)
def crnn(keras, generator):
    layers = keras.layers
    inputs = keras.Input((8, 16, 1))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_0")(inputs)
    x = layers.MaxPooling2D((2, 1))(x)
    x = conv(keras, 8, name="conv_1")(x)
    x = layers.Permute((2, 1, 3))(x)
    x = layers.Reshape((16, 32))(x)
    x = layers.Dense(12, activation="relu", name="dense")(x)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True), name="recurrent")(x)
    outputs = layers.Dense(6, activation="softmax", name="output")(x)
    x, y = images(generator, 8, 16, 1), labels(generator, 5, (3,))
    return functional(keras, inputs, outputs, x, y, loss=ctc_loss(keras))


@situation(
    pruned={
        "embedded_source": 20 * 4,
        "encoder": (8 * 8, 6 * 8 + 2 * 16),
        "embedded_target": 20 * 4,
        "decoder": (8 * 12, 6 * 12),
    },
    skipped={"output": OUTPUT},
    units={"embedded_source": 4},
    kept={
        "embedded_target": (4, "consumed by the LSTM 'decoder'"),
        "encoder": (2, "consumed by the LSTM 'decoder'"),
        "decoder": (None, "does not analyze LSTM layers"),
    },
    criterion="magnitude",
)
def seq2seq(keras, generator):
    layers = keras.layers
    source, target = (
        keras.Input((6,), dtype="int32", name="source"),
        keras.Input((5,), dtype="int32", name="target"),
    )
    x = layers.Embedding(20, 8, mask_zero=True, name="embedded_source")(source)
    _, *states = layers.LSTM(6, return_state=True, name="encoder")(x)
    x = layers.Embedding(20, 8, mask_zero=True, name="embedded_target")(target)
    x = layers.LSTM(6, return_sequences=True, name="decoder")(x, initial_state=states)
    outputs = layers.Dense(20, activation="softmax", name="output")(x)
    x = {"source": padded(generator, 20, 6), "target": padded(generator, 20, 5)}
    return functional(keras, [source, target], outputs, x, labels(generator, 20, (5,)))


def padded(generator, tokens, length):
    """Token ids from 1 on, with zeros at the end of every second sample."""
    ids = generator.integers(1, tokens, (SAMPLES, length)).astype("int32")
    ids[::2, -2:] = 0
    return ids


@situation(
    pruned={"embedding": 20 * 4, "lstm": (8 * 8, 6 * 8 + 2 * 16), "dense": 6 * 4},
    skipped={"output": OUTPUT},
    units={"embedding": 4, "lstm": 4, "dense": 4},
    criterion="magnitude",
)
def lstm_text(keras, generator):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 8, mask_zero=True, name="embedding"),
            layers.LSTM(6, name="lstm"),
            layers.Dense(8, activation="relu", name="dense"),
            layers.Dense(3, activation="softmax", name="output"),
        ]
    )
    return Case(compiled(keras, model), padded(generator, 20, 6), labels(generator))


@situation(
    pruned={"tokens": 4 * 3, "hidden": 8 * 8},
    skipped={
        "patches": NOT_FIRING,
        "mixed": NOT_FIRING,
        "channels": NOT_FIRING,
        "attention": NOT_FIRING,
        "output": OUTPUT,
    },
    units={"tokens": 3, "hidden": 8},
)
def mixer_and_attention(keras, generator):
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 4, 4, name="patches")(inputs)
    x = shortcut = layers.Reshape((4, 8))(x)
    x = layers.LayerNormalization()(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Dense(6, activation="relu", name="tokens")(x)
    x = layers.Permute((2, 1))(layers.Dense(4, name="mixed")(x))
    x = shortcut = layers.Add()([shortcut, x])
    x = layers.LayerNormalization()(x)
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    x = layers.Add()([shortcut, layers.Dense(8, name="channels")(x)])
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, name="attention")(x, x)])
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(3, activation="softmax", name="output")(x)
    return functional(keras, inputs, outputs, images(generator, 8, 8, 1), labels(generator))


# -- tables and several inputs or outputs ----------------------------------------------------------


@situation(
    pruned={"hidden_0": 6 * 6, "hidden_1": 12 * 4},
    skipped={"output": OUTPUT, "normalization": "Normalization layers have no kernel"},
    units={"hidden_0": 6, "hidden_1": 4},
    heavy=False,
)
def tabular(keras, generator):
    layers = keras.layers
    cities = ["Oslo", "Rome", "Lima"]
    # Keras 3 does not take NumPy arrays of strings, nor tensors together with arrays.
    x = {
        "numbers": tf.constant(5 + 3 * images(generator, 2)),
        "city": tf.gather(cities, labels(generator, 3, (1,))),
    }
    numbers = keras.Input((2,), name="numbers")
    city = keras.Input((1,), dtype="string", name="city")
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(x["numbers"])
    ids = layers.StringLookup(vocabulary=cities, name="lookup")(city)
    one_hot = layers.CategoryEncoding(num_tokens=4, output_mode="one_hot", name="encoding")(ids)
    hidden = layers.Concatenate()([normalization(numbers), one_hot])
    hidden = layers.Dense(12, activation="relu", name="hidden_0")(hidden)
    hidden = layers.Dense(8, activation="relu", name="hidden_1")(hidden)
    outputs = layers.Dense(3, activation="softmax", name="output")(hidden)
    return functional(keras, [numbers, city], outputs, x, labels(generator))


@situation(
    pruned={"conv": 9 * 4, "tower": 5 * 4, "joint": 16 * 6},
    skipped={"output": OUTPUT},
    units={"conv": 4, "tower": 4, "joint": 6},
    tolerance=2e-2,
)
def mixed_precision(keras, generator):
    layers, half = keras.layers, dict(dtype="mixed_bfloat16")
    image, table = keras.Input((8, 8, 1), name="image"), keras.Input((5,), name="table")
    x = layers.Conv2D(8, 3, activation="relu", name="conv", **half)(image)
    x = layers.GlobalAveragePooling2D(**half)(x)
    tower = layers.Dense(8, activation="relu", name="tower", **half)(table)
    x = layers.Concatenate(**half)([x, tower])
    x = layers.Dense(12, activation="relu", name="joint", **half)(x)
    outputs = layers.Dense(3, activation="softmax", dtype="float32", name="output")(x)
    x = {"image": images(generator, 8, 8, 1), "table": images(generator, 5)}
    case = functional(keras, {"image": image, "table": table}, outputs, x, labels(generator))
    return dataclasses.replace(case, fit={"sample_weight": generator.random(SAMPLES)})


@situation(
    pruned={"trunk": 6 * 6, "branch": 12 * 4},
    skipped={"kind": OUTPUT, "value": OUTPUT},
    units={"trunk": 6, "branch": 4},
)
def multi_output(keras, generator):
    layers = keras.layers
    inputs = keras.Input((6,))
    trunk = layers.Dense(12, activation="relu", name="trunk")(inputs)
    branch = layers.Dense(8, activation="relu", name="branch")(trunk)
    outputs = [
        layers.Dense(3, activation="softmax", name="kind")(trunk),
        layers.Dense(1, name="value")(branch),
    ]
    return functional(
        keras,
        inputs,
        outputs,
        images(generator, 6),
        {"kind": labels(generator), "value": images(generator, 1)},
        loss={"kind": "sparse_categorical_crossentropy", "value": "mse"},
        metrics={"kind": ["accuracy"], "value": ["mae"]},
        loss_weights={"kind": 1.0, "value": 0.5},
    )


# -- models that train others ----------------------------------------------------------------------


def trainer_of(keras, losses, **parts):
    """A compiled subclass of `keras.Model` with models as attributes and its own `train_step`.

    Args:
        losses: Function `(trainer, data)` that returns a list of `(loss, model to update)`.
        parts: Models by attribute name.
    """

    class Trainer(keras.Model):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)
            self.steps = [keras.optimizers.Adam(0.01) for _ in parts]

        def train_step(self, data):
            with tf.GradientTape(persistent=True) as tape:
                pairs = losses(self, data)
            for (loss, model), optimizer in zip(pairs, self.steps):
                variables = model.trainable_variables
                optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            return {f"loss_{number}": loss for number, (loss, _) in enumerate(pairs)}

    trainer = Trainer()
    trainer.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return trainer


def cross_entropy(truth, logits):
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(truth * tf.ones_like(logits), logits))


@situation(
    pruned={"dense": 4 * 36, "up": 9 * (8 * 6 - 4 * 3)},
    skipped={"image": OUTPUT},
    units={"dense": 36, "up": 3},
    score=False,
    heavy=False,
)
def gan(keras, generator):
    layers = keras.layers
    noise = keras.Input((4,))
    x = layers.ReLU(name="relu")(layers.Dense(72, use_bias=False, name="dense")(noise))
    x = layers.Reshape((3, 3, 8), name="to_image")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", use_bias=False, activation="relu", name="up")(
        x
    )
    image = conv(keras, 1, activation="tanh", name="image")(x)
    critic = keras.Sequential(
        [keras.Input((6, 6, 1)), conv(keras, 4, strides=2), layers.Flatten(), layers.Dense(1)]
    )

    def losses(gan, data):
        (latent, real), _ = data
        made = gan.generator(latent, training=True)
        of_made, of_real = (gan.critic(picture, training=True) for picture in (made, real))
        return [
            (cross_entropy(1.0, of_made), gan.generator),
            (cross_entropy(0.0, of_made) + cross_entropy(1.0, of_real), gan.critic),
        ]

    return Case(
        keras.Model(noise, image),
        images(generator, 4),
        trainer=lambda wrapped: trainer_of(keras, losses, generator=wrapped, critic=critic),
        fit={"x": (images(generator, 4), images(generator, 6, 6, 1)), "y": labels(generator)},
    )


@situation(**RESIDUAL)
def super_resolution_in_a_trainer(keras, generator):
    case = super_resolution(keras, generator)

    def losses(trainer, data):
        x, y = data
        return [(tf.reduce_mean((trainer.generator(x, training=True) - y) ** 2), trainer.generator)]

    model = keras.Model(case.model.inputs[0], case.model.outputs[0])
    return dataclasses.replace(
        case, model=model, trainer=lambda wrapped: trainer_of(keras, losses, generator=wrapped)
    )


@situation(
    pruned={"hidden": 12 * 8},
    skipped={"mean": OUTPUT, "log_variance": OUTPUT},
    units={"hidden": 8},
    score=False,
)
def vae_encoder(keras, generator):
    layers = keras.layers
    inputs = keras.Input((12,))
    x = layers.Dense(16, activation="relu", name="hidden")(inputs)
    encoder = keras.Model(inputs, [layers.Dense(3, name=name)(x) for name in ("mean", "log_variance")])
    decoder = keras.Sequential([keras.Input((3,)), layers.Dense(8, activation="relu"), layers.Dense(12)])

    def losses(vae, data):
        mean, log_variance = vae.encoder(data[0], training=True)
        sampled = mean + tf.exp(log_variance / 2) * tf.random.normal(tf.shape(mean))
        distance = tf.reduce_mean((vae.decoder(sampled, training=True) - data[0]) ** 2)
        divergence = tf.reduce_mean(tf.exp(log_variance) + mean**2 - 1 - log_variance) / 2
        return [(distance + divergence, vae.encoder), (distance, vae.decoder)]

    return Case(
        encoder,
        images(generator, 12),
        trainer=lambda wrapped: trainer_of(keras, losses, encoder=wrapped, decoder=decoder),
        fit={"y": labels(generator)},
    )


@functools.cache
def sampling_class(keras):
    @keras.saving.register_keras_serializable(package="situations")
    class Sampling(keras.layers.Layer):
        """Draws around the mean in training and returns the mean otherwise. Adds the divergence."""

        def call(self, inputs, training=None):
            mean, log_variance = inputs
            self.add_loss(tf.reduce_mean(tf.exp(log_variance) + mean**2 - 1 - log_variance) / 2)
            if not training:
                return mean
            return mean + tf.exp(log_variance / 2) * tf.random.normal(tf.shape(mean))

        def compute_output_shape(self, shapes):
            return shapes[0]

    return Sampling


@situation(
    pruned={"encode": 12 * 8, "decode": 3 * 4},
    skipped={"mean": "", "log_variance": "", "output": OUTPUT},
    units={"encode": 8, "decode": 4},
    metric=mean_squared_error,
)
def vae(keras, generator):
    layers = keras.layers
    inputs = keras.Input((12,))
    x = layers.Dense(16, activation="relu", name="encode")(inputs)
    x = sampling_class(keras)(name="sampling")(
        [layers.Dense(3, name=name)(x) for name in ("mean", "log_variance")]
    )
    x = layers.Dense(8, activation="relu", name="decode")(x)
    outputs = layers.Dense(12, name="output")(x)
    x = images(generator, 12)
    return functional(keras, inputs, outputs, x, x, loss="mse")


@situation(
    pruned={"hidden": 12 * 8, "second": 16 * 6},
    skipped={"output": OUTPUT},
    units={"hidden": 8, "second": 6},
)
def distiller(keras, generator):
    layers = keras.layers

    def net(widths, names):
        hidden = [layers.Dense(width, activation="relu", name=name) for width, name in zip(widths, names)]
        return keras.Sequential([keras.Input((12,)), *hidden, layers.Dense(3, name="output")])

    teacher = net((24, 24), ("wide", "deep"))
    teacher.trainable = False

    def losses(distiller, data):
        x, y = data
        logits = distiller.student(x, training=True)
        soft = tf.nn.softmax(distiller.teacher(x, training=False) / 2.0)
        hard_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        soft_loss = tf.nn.softmax_cross_entropy_with_logits(soft, logits / 2.0)
        return [(tf.reduce_mean(hard_loss + soft_loss), distiller.student)]

    return Case(
        net((16, 12), ("hidden", "second")),
        images(generator, 12),
        labels(generator),
        trainer=lambda wrapped: trainer_of(keras, losses, student=wrapped, teacher=teacher),
    )
