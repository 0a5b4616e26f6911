"""Networks for examples, tests and benchmarks; a `keras` module is always the first argument."""


def resnet20(keras, input_shape=(28, 28, 1), classes=10):
    """ResNet-20 for small images (He et al., 2016, section 4.2), with 1x1 convolutions as shortcuts.

    Layer names tell the stage, block and place: `s1b2_conv1`, `s1b2_norm1`, `s1b2_relu1`, ...

    Returns:
        An uncompiled Functional model.
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
    """A residual network with BatchNormalization for small images: a stem and one block a width."""
    layers = keras.layers

    def normalised(x, filters, size, strides=1):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input(shape)
    x = layers.ReLU()(normalised(inputs, widths[0], 3, strides=2))
    for stage, filters in enumerate(widths):
        strides = 2 if stage else 1
        shortcut = normalised(x, filters, 1, strides) if stage else x
        x = layers.ReLU()(normalised(x, filters, 3, strides))
        x = layers.ReLU()(layers.Add()([normalised(x, filters, 3), shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
