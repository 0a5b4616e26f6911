"""Small nets for either Keras, and data for them; a `keras` module is always the first argument."""

import itertools

import numpy as np
import tensorflow as tf

import tfap
from tfap.layers.find import with_paths


def mlp(keras, sizes=(12, 16, 8, 4), activation="relu", use_bias=True):
    """Dense layers `hidden_0`, `hidden_1`, ..., `output`."""
    layers = [keras.layers.Input((sizes[0],))]
    for index, units in enumerate(sizes[1:-1]):
        layers.append(
            keras.layers.Dense(units, activation=activation, use_bias=use_bias, name=f"hidden_{index}")
        )
    layers.append(keras.layers.Dense(sizes[-1], activation="softmax", name="output"))
    return compiled(keras, keras.Sequential(layers))


def cnn(keras, shape=(8, 8, 3), classes=5):
    """Separate ReLUs past BatchNormalization, pooling, Dropout and Add; a depthwise and a Dense layer."""
    layers = keras.layers
    inputs = keras.Input(shape)
    x = layers.Conv2D(6, 3, padding="same", name="conv_a")(inputs)
    x = layers.BatchNormalization(name="norm_a")(x)
    a = layers.ReLU(name="relu_a")(x)
    x = layers.Conv2D(6, 3, padding="same", name="conv_b")(a)
    x = layers.Dropout(0.1, name="drop_b")(x)
    x = layers.Add(name="add")([a, x])
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Activation("relu", name="relu_b")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dense(10, activation="relu", name="dense")(x)
    outputs = layers.Dense(classes, activation="softmax", name="output")(x)
    return compiled(keras, keras.Model(inputs, outputs))


def vit(keras, heads=4, width=16, hidden=32, blocks=2):
    """A vision transformer on 4 x 4 patches: `attention_0`, `hidden_0`, `projection_0`, ..., `output`."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 2, strides=2, name="patches")(inputs)
    x = layers.Reshape((16, width), name="sequence")(x)
    for block in range(blocks):
        x = _transformer_block(keras, x, block, heads, width, hidden)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="average")(x)
    return compiled(keras, keras.Model(inputs, layers.Dense(5, activation="softmax", name="output")(x)))


def decoder(keras, heads=4, width=16, hidden=32, blocks=2, time=12):
    """A decoder like GPT, without positions: causal attention on tokens, in blocks as in `vit`."""
    layers = keras.layers
    inputs = keras.Input((time,), dtype="int32")
    x = layers.Embedding(20, width, name="tokens")(inputs)
    for block in range(blocks):
        x = _transformer_block(keras, x, block, heads, width, hidden, use_causal_mask=True)
    x = layers.LayerNormalization(name="norm")(x)
    return compiled(keras, keras.Model(inputs, layers.Dense(20, activation="softmax", name="output")(x)))


def _transformer_block(keras, x, block, heads, width, hidden, **call):
    layers = keras.layers
    y = layers.LayerNormalization(name=f"norm_a_{block}")(x)
    y = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{block}")(y, y, **call)
    x = layers.Add(name=f"add_a_{block}")([x, y])
    y = layers.LayerNormalization(name=f"norm_b_{block}")(x)
    y = layers.Dense(hidden, activation="gelu", name=f"hidden_{block}")(y)
    y = layers.Dense(width, name=f"projection_{block}")(y)
    return layers.Add(name=f"add_b_{block}")([x, y])


def nested(keras):
    """A Functional model inside a Sequential one inside a Functional one."""
    layers = keras.layers
    inner_in = keras.Input((6,))
    inner_out = layers.Dense(8, activation="relu", name="dense")(inner_in)
    inner = keras.Model(inner_in, inner_out, name="inner")
    middle = keras.Sequential(
        [layers.Input((6,)), inner, layers.Dense(5, activation="relu", name="dense")], name="middle"
    )
    inputs = keras.Input((6,))
    x = layers.Dense(6, activation="relu", name="dense")(inputs)
    return compiled(keras, keras.Model(inputs, layers.Dense(3, name="output")(middle(x))), loss="mse")


def subclassed(keras, hidden):
    """A subclassed model around one hidden layer."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = hidden
            self.last = keras.layers.Dense(3, activation="softmax")

        def call(self, inputs, training=None):
            return self.last(self.hidden(inputs, training=training))

    return compiled(keras, Net())


def channels_first(keras, *arguments, **options):
    """A Conv2D over channels-first values on any CPU, where TensorFlow has one only with oneDNN."""
    layer = keras.layers.Conv2D(*arguments, data_format="channels_first", **options)
    if keras.backend.backend() != "tensorflow":
        return layer

    def convolution(inputs, kernel):
        channels_last = tf.transpose(inputs, (0, 2, 3, 1))
        convolved = tf.nn.conv2d(channels_last, kernel, layer.strides, layer.padding.upper())
        return tf.transpose(convolved, (0, 3, 1, 2))

    # On the instance, as tfap does not know what a subclass computes.
    object.__setattr__(layer, "convolution_op", convolution)
    return layer


def compiled(keras, model, loss="sparse_categorical_crossentropy"):
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return model


def data(model, samples=64, seed=0):
    """Random inputs and integer labels (or targets) that fit a model."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(samples, *model.inputs[0].shape[1:])).astype("float32")
    classes = model.outputs[0].shape[-1]
    if model.name == "regression" or model.loss == "mse":
        return x, generator.normal(size=(samples, classes)).astype("float32")
    return x, generator.integers(0, classes, samples)


def fit(model, epochs=1, callbacks=None, batch_size=16, samples=64, **kwargs):
    """Fits a wrapped model on its random data, in order; returns the History."""
    x, y = data(model, samples)
    build_optimizer(model)
    callbacks = [tfap.UpdatePruningStep()] if callbacks is None else callbacks
    return model.fit(
        x, y, epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0, callbacks=callbacks, **kwargs
    )


def build_optimizer(model):
    """Creates the optimizer's variables: a step that creates variables is traced twice."""
    optimizer = getattr(model, "optimizer", None)
    if getattr(model, "built", False) and hasattr(optimizer, "build"):
        optimizer.build(model.trainable_variables)
    return model


def gradient_step(keras, model, x, loss_of):
    """One step of a training loop of one's own: `loss_of` takes the outputs of the model on x."""
    if keras.backend.backend() == "jax":
        return _jax_step(keras, model, x, loss_of)
    if keras.backend.backend() == "torch":
        model.zero_grad()
        loss_of(model(x, training=True)).backward()
        gradients = [variable.value.grad for variable in model.trainable_variables]
        import torch

        with torch.no_grad():
            return model.optimizer.apply(gradients, model.trainable_variables)
    with tf.GradientTape() as tape:
        loss = loss_of(model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    return model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))


def _jax_step(keras, model, x, loss_of):
    import jax

    optimizer = build_optimizer(model).optimizer

    def loss(trainable, others):
        outputs, others = model.stateless_call(trainable, others, x, training=True)
        return loss_of(outputs), others

    def step(trainable, others, slots):
        gradients, others = jax.grad(loss, has_aux=True)(trainable, others)
        return *optimizer.stateless_apply(slots, gradients, trainable), others

    groups = model.trainable_variables, model.non_trainable_variables, optimizer.variables
    trainable, slots, others = jax.jit(step)(*[[v.value for v in group] for group in groups])
    for group, values in zip(groups, (trainable, others, slots)):
        for variable, value in zip(group, values):
            variable.assign(value)


def compiled_call(keras, model):
    """A compiled function of x that calls the model in training, as a step of a loop of one's own does."""
    if keras.backend.backend() == "tensorflow":
        return tf.function(lambda x: model(x, training=True))
    if keras.backend.backend() == "torch":
        return lambda x: model(x, training=True)
    import jax

    call = jax.jit(lambda *state: model.stateless_call(*state, training=True))

    def step(x):
        groups = model.trainable_variables, model.non_trainable_variables
        _, values = call(*[[variable.value for variable in group] for group in groups], x)
        for variable, value in zip(groups[1], values):
            variable.assign(value)

    return step


def mean_square(keras, x):
    """The mean square of the sums over the last axis, as a loss."""
    if hasattr(keras, "ops"):
        return keras.ops.mean(keras.ops.sum(x, axis=-1) ** 2)
    return tf.reduce_mean(tf.reduce_sum(x, axis=-1) ** 2)


def set_counts(wrapper, counts, seen):
    wrapper.activation_counts.assign(np.asarray(counts, "int64"))
    wrapper.activations_seen.assign(seen)


def masks(model):
    """Mask arrays by layer path."""
    return {path: wrapper.mask.numpy() for path, wrapper in with_paths(model)}


def connected(masks):
    """Boolean masks of hidden Dense layers without neurons that lack inputs or readers, to the fixed point.

    The simplest thing that can be right, to compare with. An output layer that is not pruned follows.
    """
    masks = [mask.copy() for mask in masks]
    while True:
        before = [mask.copy() for mask in masks]
        for fed, read in itertools.pairwise(masks):
            read[~fed.any(axis=0)] = False
            fed[:, ~read.any(axis=1)] = False
        if all(np.array_equal(now, then) for now, then in zip(masks, before)):
            return masks


def pruned_weights(model):
    return sum(int((mask == 0).sum()) for mask in masks(model).values())


def prunable_weights(model):
    return sum(mask.size for mask in masks(model).values())
