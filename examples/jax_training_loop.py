"""Prunes in a compiled training loop on JAX, by calling the methods of the callback.

python examples/jax_training_loop.py
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import jax
import keras
import numpy as np
from absl import app, flags

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 20, "Number of epochs.", 1)
flags.DEFINE_integer("seed", 0, "Random seed.")
BATCH = 32


def main(_):
    keras.utils.set_random_seed(FLAGS.seed)
    data, shuffle = load("digits"), np.random.default_rng(FLAGS.seed).permutation
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
    optimizer.build(model.trainable_variables)
    loss_function = keras.losses.SparseCategoricalCrossentropy()

    def loss_of(weights, others, x, y):
        outputs, others = model.stateless_call(weights, others, x, training=True)
        return loss_function(y, outputs), others

    @jax.jit
    def train_step(weights, others, slots, x, y):
        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights, others, x, y)
        weights, slots = optimizer.stateless_apply(slots, gradients, weights)
        return loss, (weights, others, slots)

    groups = model.trainable_variables, model.non_trainable_variables, optimizer.variables
    steps = len(data.x_train) // BATCH
    callback = tfap.UpdatePruningStep(total_steps=FLAGS.epochs * steps)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(FLAGS.epochs):
        order = shuffle(len(data.x_train))
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            loss, state = train_step(*read(groups), data.x_train[rows], data.y_train[rows])
            write(groups, state)  # the callback reads the model's variables, and may change them
            callback.on_train_batch_end(step)
        logs = {"loss": float(loss)}
        callback.on_epoch_end(epoch, logs)
        print(f"epoch {epoch + 1}: loss {logs['loss']:.3f}, sparsity {logs['sparsity']:.1%}")
    callback.on_train_end()

    model = tfap.strip_pruning(model)
    accuracy = (model.predict(data.x_test, verbose=0).argmax(axis=1) == data.y_test).mean()
    kernels = [layer.get_weights()[0] for layer in model.layers if layer.weights][:-1]
    sparsity = sum((kernel == 0).sum() for kernel in kernels) / sum(kernel.size for kernel in kernels)
    print(f"sparsity {sparsity:.1%}, test accuracy {accuracy:.2%}")


def read(groups):
    return [[variable.value for variable in group] for group in groups]


def write(groups, state):
    for group, values in zip(groups, state):
        for variable, value in zip(group, values):
            variable.assign(value)


if __name__ == "__main__":
    app.run(main)
