"""Prunes in a custom training loop by calling the methods of the callback.

python examples/custom_training_loop.py [--keras tf_keras]
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow logs

import importlib

import tensorflow as tf
from absl import app, flags

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras (Keras 2).")
flags.DEFINE_integer("epochs", 20, "Number of epochs.", 1)
flags.DEFINE_integer("seed", 0, "Random seed.")


def main(_):
    keras = importlib.import_module(FLAGS.keras)
    keras.utils.set_random_seed(FLAGS.seed)
    data = load("digits")
    batches = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    batches = batches.shuffle(len(data.x_train), seed=FLAGS.seed).batch(32)

    model = keras.Sequential(
        [
            keras.layers.Input((8, 8)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model = tfap.prune(model, 0.8, granularity="weight")
    optimizer = keras.optimizers.Adam()
    loss_function = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    callback = tfap.UpdatePruningStep(total_steps=FLAGS.epochs * len(batches))
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(FLAGS.epochs):
        for step, (x, y) in enumerate(batches):
            loss = train_step(x, y)
            callback.on_train_batch_end(step)
        logs = {"loss": float(loss)}
        callback.on_epoch_end(epoch, logs)
        print(f"epoch {epoch + 1}: loss {logs['loss']:.3f}, sparsity {logs['sparsity']:.1%}")
    callback.on_train_end()

    model = tfap.strip_pruning(model)
    accuracy = (model.predict(data.x_test, verbose=0).argmax(axis=1) == data.y_test).mean()
    print(f"sparsity {hidden_sparsity(model):.1%}, test accuracy {accuracy:.2%}")


def hidden_sparsity(model):
    """Returns the fraction of zeros in the kernels of the hidden layers."""
    kernels = [layer.get_weights()[0] for layer in model.layers if layer.weights][:-1]
    return sum((kernel == 0).sum() for kernel in kernels) / sum(kernel.size for kernel in kernels)


if __name__ == "__main__":
    app.run(main)
