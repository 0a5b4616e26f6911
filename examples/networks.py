"""Models for examples, tests, and benchmarks. The first argument is always a `keras` module."""

import itertools


def resnet20(keras, input_shape=(28, 28, 1), classes=10):
    """Builds ResNet-20 for small images (He et al., 2016, section 4.2), with 1x1 convolutions as shortcuts.

    Layer names contain stage, block, and position: `s1b2_conv1`, `s1b2_norm1`, `s1b2_relu1`, ...

    Returns:
        A Functional model, not compiled.
    """
    layers = keras.layers

    def convolution(x, filters, size, strides, name, number=""):
        x = layers.Conv2D(
            filters, size, strides, padding="same", use_bias=False, name=f"{name}_conv{number}"
        )(x)
        return layers.BatchNormalization(name=f"{name}_norm{number}")(x)

    inputs = keras.Input(input_shape)
    x = layers.ReLU(name="stem_relu")(convolution(inputs, 16, 3, 1, "stem"))
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in (1, 2, 3):
            name = f"s{stage}b{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            branch = convolution(x, filters, 3, strides, name, 1)
            branch = layers.ReLU(name=f"{name}_relu1")(branch)
            branch = convolution(branch, filters, 3, 1, name, 2)
            if strides == 2:
                x = convolution(x, filters, 1, 2, f"{name}_shortcut")
            x = layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, branch]))
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="output")(x), name="resnet20")


def small_resnet(keras, shape, classes, widths=(24, 48, 96)):
    """Builds a residual model with BatchNormalization for small images: a stem and one block per width."""
    layers = keras.layers

    def normalized(x, filters, size, strides=1):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input(shape)
    x = layers.ReLU()(normalized(inputs, widths[0], 3, strides=2))
    for stage, filters in enumerate(widths):
        strides = 2 if stage else 1
        shortcut = normalized(x, filters, 1, strides) if stage else x
        x = layers.ReLU()(normalized(x, filters, 3, strides))
        x = layers.ReLU()(layers.Add()([normalized(x, filters, 3), shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def mlp(keras, shape, classes, units=(300, 100)):
    """Builds LeNet-300-100 (LeCun et al., 1998): Dense layers with ReLU."""
    layers = keras.layers
    x = inputs = keras.Input(shape)
    x = layers.Flatten()(x)
    for width in units:
        x = layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="mlp")


def vgg(keras, shape, classes, widths=((16,), (32,), (64,)), batch_normalization=True):
    """Builds a narrow VGG (Simonyan and Zisserman, 2015): blocks of 3x3 convolutions, each with pooling."""
    layers = keras.layers
    x = inputs = keras.Input(shape)
    for block in widths:
        for width in block:
            x = layers.Conv2D(width, 3, padding="same", use_bias=not batch_normalization)(x)
            x = layers.BatchNormalization()(x) if batch_normalization else x
            x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="vgg")


def densenet(keras, shape, classes, blocks=(3, 3, 3), growth=8):
    """Builds a small DenseNet without bottlenecks (Huang et al., 2017)."""
    layers = keras.layers
    inputs = keras.Input(shape)
    x = layers.Conv2D(2 * growth, 3, padding="same", use_bias=False)(inputs)
    for number, depth in enumerate(blocks):
        if number:  # transition: halves size and channels
            x = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.AveragePooling2D(2)(layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(x))
        for _ in range(depth):
            new = layers.ReLU()(layers.BatchNormalization()(x))
            new = layers.Conv2D(growth, 3, padding="same", use_bias=False)(new)
            x = layers.Concatenate()([x, new])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="densenet")


def mobilenet(keras, shape, classes, widths=(16, 32, 32, 64, 64, 128)):
    """Builds a small MobileNet (Howard et al., 2017): alternating depthwise and pointwise convolutions."""
    layers = keras.layers

    def activated(x):
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    inputs = keras.Input(shape)
    x = activated(layers.Conv2D(widths[0], 3, padding="same", use_bias=False)(inputs))
    for before, width in itertools.pairwise(widths):
        strides = 2 if width > before else 1
        x = activated(layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x))
        x = activated(layers.Conv2D(width, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="mobilenet")


def mobilenet_v2(
    keras,
    shape,
    classes,
    blocks=((16, 1, 1), (24, 4, 2), (48, 4, 2), (48, 4, 1), (96, 4, 2), (96, 4, 1)),
    stem=16,
    last=512,
):
    """Builds a small MobileNetV2 (Sandler et al., 2018): inverted residual blocks with linear bottlenecks.

    `blocks` has `(width, expansion, strides)` per block. The stem has strides of 2.
    """
    layers = keras.layers

    def normalized(x, activate=True):
        x = layers.BatchNormalization()(x)
        return layers.ReLU(6.0)(x) if activate else x

    inputs = keras.Input(shape)
    x = normalized(layers.Conv2D(stem, 3, 2, padding="same", use_bias=False)(inputs))
    for width, expansion, strides in blocks:
        y, before = x, x.shape[-1]
        if expansion > 1:
            y = normalized(layers.Conv2D(expansion * before, 1, use_bias=False)(y))
        y = normalized(layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(y))
        y = normalized(layers.Conv2D(width, 1, use_bias=False)(y), activate=False)
        x = layers.Add()([x, y]) if strides == 1 and before == width else y
    x = normalized(layers.Conv2D(last, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="mobilenet_v2")


def ds_cnn(keras, shape, classes, widths=(128, 256, 256, 256), stem=64):
    """Builds a keyword-spotting DS-CNN (Zhang et al., 2017): depthwise separable blocks on 49 x 10 inputs."""
    layers = keras.layers

    def activated(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input(shape)
    x = activated(layers.Conv2D(stem, (10, 4), 2, padding="same", use_bias=False)(inputs))
    for index, width in enumerate(widths):
        strides = 1 if index else 2
        x = activated(layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x))
        x = activated(layers.Conv2D(width, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="ds_cnn")


def vit(keras, shape, classes, patch=4, width=32, heads=2, depth=2):
    """Builds a small vision transformer (Dosovitskiy et al., 2021) with ReLU in its MLPs.

    A depthwise convolution encodes the positions of patches (Chu et al., 2023). The classifier consumes the
    mean.
    """
    layers = keras.layers
    inputs = keras.Input(shape)
    x = layers.Conv2D(width, patch, patch, padding="same")(inputs)
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.Reshape((-1, width))(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.Dense(4 * width, activation="relu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="vit")
