"""Runs scripts in the manner of tfmot's guides with tfmot, then with tfap, and compares what is pruned.

    python examples/from_tfmot.py [--epochs 4] [--tensorboard logs]

A guide is a function of `pruning`, the library, and `keras`. The library is `tfmot.sparsity.keras` or `tfap`:
its names are the same, so a script for tfmot changes by its import. Every guide runs four times:

- tfmot: with tfmot, on tf_keras
- tfmot's callback: wrapped by tfap, trained with tfmot's callback, on tf_keras
- tf_keras: with tfap
- Keras 3: with tfap

All runs of a guide begin with the same weights. tfmot's callback updates masks at the begin of a step, tfap's
at its end, and in tfmot pruned weights may come back at a later update. So the positions of the zeros may
differ. Their number does not.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow logs

import tempfile
import types

import keras as keras3
import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

import tfap  # must precede tfmot, which otherwise switches tf.keras to Keras 2
from tfap.datasets import load

import tensorflow_model_optimization as tfmot  # isort: skip

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 4, "Number of epochs, dense and pruned.", 1)
flags.DEFINE_string("tensorboard", None, "Folder for TensorBoard; needs pip install 'tfap[tensorboard]'.")

BATCH = 32


def convolutional(keras):
    """The small model of the first guide: images of 8 x 8 pixels, ten classes."""
    layers = keras.layers
    stack = [
        layers.Reshape((8, 8, 1)),
        layers.Conv2D(12, 3, activation="relu", name="conv"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(64, activation="relu", name="dense"),
        layers.Dense(10, activation="softmax", name="output"),
    ]
    return keras.Sequential([keras.Input((8, 8)), *stack])


def mobile(keras):
    """A model that XNNPACK runs sparsely between its first convolution and the pooling."""
    layers = keras.layers
    stack = [
        layers.ZeroPadding2D(1),
        layers.Conv2D(8, 3, strides=2, activation="relu", name="start"),
        layers.Conv2D(32, 1, activation="relu", name="expand"),
        layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise"),
        layers.Conv2D(32, 1, activation="relu", name="project"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="softmax", name="output"),
    ]
    return keras.Sequential([keras.Input((8, 8, 3)), *stack])


def fitted(model, data, callbacks=()):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        data.x_train, data.y_train, batch_size=BATCH, epochs=FLAGS.epochs, shuffle=False, verbose=0,
        callbacks=list(callbacks),
    )  # fmt: skip
    return model


def steps(data):
    return FLAGS.epochs * -(-len(data.x_train) // BATCH)


# -- the guides: pruning is tfmot.sparsity.keras or tfap -----------------------------------------------


def pruning_in_keras(pruning, keras, model, data):
    """Prunes a trained model gradually from 50% to 80%."""
    schedule = pruning.PolynomialDecay(0.5, 0.8, begin_step=1, end_step=steps(data) // 2, frequency=5)
    pruned = pruning.prune_low_magnitude(model, pruning_schedule=schedule)
    callbacks = [pruning.UpdatePruningStep()]
    if FLAGS.tensorboard and keras is tf_keras:
        callbacks.append(tfmot.sparsity.keras.PruningSummaries(FLAGS.tensorboard))
    return pruning.strip_pruning(fitted(pruned, data, callbacks))


def some_layers_in_a_loop_of_ones_own(pruning, keras, model, data):
    """Prunes the Dense layers only, in a training loop that calls the callback at the ends of epochs."""
    schedule = pruning.ConstantSparsity(0.6, 1, end_step=steps(data), frequency=10)

    def wrap_dense(layer):
        if isinstance(layer, keras.layers.Dense):
            return pruning.prune_low_magnitude(layer, pruning_schedule=schedule)
        return layer

    pruned = keras.models.clone_model(model, clone_function=wrap_dense)
    loss_function, optimizer = keras.losses.SparseCategoricalCrossentropy(), keras.optimizers.Adam()
    pruned.optimizer = optimizer  # tfmot's callback and summaries read it

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, pruned(x, training=True))
        gradients = tape.gradient(loss, pruned.trainable_variables)
        optimizer.apply_gradients(zip(gradients, pruned.trainable_variables))

    callback = pruning.UpdatePruningStep()
    callback.set_model(pruned)
    callback.on_train_begin()
    for _ in range(FLAGS.epochs):
        for x, y in tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train)).batch(BATCH):
            train_step(x, y)
        callback.on_epoch_end(batch=-1)
    return pruning.strip_pruning(pruned)


def saved_and_resumed(pruning, keras, model, data):
    """Prunes at half the fit, saves the model with its wrappers, loads it and trains on."""
    schedule = pruning.ConstantSparsity(0.5, steps(data) // 2, end_step=steps(data) // 2, frequency=1)
    pruned = pruning.prune_low_magnitude(model, pruning_schedule=schedule)
    fitted(pruned, data, [pruning.UpdatePruningStep()])
    with tempfile.TemporaryDirectory() as folder, pruning.prune_scope():
        pruned.save(f"{folder}/pruned.keras")
        pruned = keras.models.load_model(f"{folder}/pruned.keras")
    fitted(pruned, data, [pruning.UpdatePruningStep()])
    return pruning.strip_pruning(pruned)


def two_in_four(pruning, keras, model, data):
    """Prunes two of every four weights, at the first step."""
    schedule = pruning.ConstantSparsity(0.5, 0)
    pruned = pruning.prune_low_magnitude(model, pruning_schedule=schedule, sparsity_m_by_n=(2, 4))
    return pruning.strip_pruning(fitted(pruned, data, [pruning.UpdatePruningStep()]))


def for_xnnpack(pruning, keras, model, data):
    """Prunes the 1x1 convolutions, which XNNPACK runs sparsely."""
    schedule = pruning.ConstantSparsity(0.75, steps(data) // 2, end_step=steps(data) // 2, frequency=1)
    policy = pruning.PruneForLatencyOnXNNPack()
    pruned = pruning.prune_low_magnitude(model, pruning_schedule=schedule, pruning_policy=policy)
    return pruning.strip_pruning(fitted(pruned, data, [pruning.UpdatePruningStep()]))


GUIDES = {
    pruning_in_keras: convolutional,
    some_layers_in_a_loop_of_ones_own: convolutional,
    saved_and_resumed: convolutional,
    two_in_four: convolutional,
    for_xnnpack: mobile,
}

# -- the comparison ----------------------------------------------------------------------------------

THEIRS = tfmot.sparsity.keras


class WithTheirCallback:
    """tfap with tfmot's callback."""

    UpdatePruningStep = THEIRS.UpdatePruningStep

    def __getattr__(self, name):
        return getattr(tfap, name)


RUNS = {
    "tfmot": (THEIRS, tf_keras),
    "tfmot's callback": (WithTheirCallback(), tf_keras),
    "tf_keras": (tfap, tf_keras),
    "Keras 3": (tfap, keras3),
}


def zeros_of(model):
    """Returns where the kernels are zero, by layer name."""
    return {layer.name: np.array(layer.get_weights()[0]) == 0 for layer in model.layers if layer.weights}


def compare(guide, make, data):
    """Runs a guide with each library from the same weights, and prints a row per run."""
    tf_keras.utils.set_random_seed(0)
    weights = fitted(make(tf_keras), data).get_weights()
    expected = None
    for name, (pruning, keras) in RUNS.items():
        keras.utils.set_random_seed(0)
        model = make(keras)
        model.set_weights(weights)
        plain = guide(pruning, keras, model, data)
        zeros = zeros_of(plain)
        expected = expected or zeros
        numbers = all(zeros[layer].sum() == expected[layer].sum() for layer in expected)
        bits = np.mean(np.concatenate([(zeros[layer] == expected[layer]).ravel() for layer in expected]))
        accuracy = np.mean(plain.predict(data.x_test, verbose=0).argmax(axis=1) == data.y_test)
        shares = ", ".join(f"{layer} {share.mean():.1%}" for layer, share in zeros.items() if share.any())
        print(
            f"{guide.__name__} | {name} | zeros: {shares} | same numbers: {'yes' if numbers else 'no'} | "
            f"same positions: {bits:.2%} | accuracy {accuracy:.1%}",
            flush=True,
        )


def main(_):
    data = load("digits")
    colored = types.SimpleNamespace(
        **{**vars(data), "x_train": in_color(data.x_train), "x_test": in_color(data.x_test)}
    )
    for guide, make in GUIDES.items():
        compare(guide, make, colored if make is mobile else data)


def in_color(images):
    return np.repeat(np.reshape(images, (-1, 8, 8, 1)), 3, axis=-1)


if __name__ == "__main__":
    app.run(main)
