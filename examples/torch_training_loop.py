"""Prunes in a training loop on PyTorch, by calling the methods of the callback.

python examples/torch_training_loop.py
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported

import keras
import torch
from absl import app, flags

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 20, "Number of epochs.", 1)
flags.DEFINE_integer("seed", 0, "Random seed.")


def main(_):
    keras.utils.set_random_seed(FLAGS.seed)
    data = load("digits")
    samples = torch.utils.data.TensorDataset(torch.as_tensor(data.x_train), torch.as_tensor(data.y_train))
    batches = torch.utils.data.DataLoader(samples, batch_size=32, shuffle=True)
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
    optimizer = keras.optimizers.Adam()  # not one of torch.optim, which applies no constraints
    loss_function = keras.losses.SparseCategoricalCrossentropy()

    def train_step(x, y):
        model.zero_grad()
        loss = loss_function(y, model(x, training=True))
        loss.backward()
        gradients = [variable.value.grad for variable in model.trainable_variables]
        with torch.no_grad():
            optimizer.apply(gradients, model.trainable_variables)
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
    kernels = [layer.get_weights()[0] for layer in model.layers if layer.weights][:-1]
    sparsity = sum((kernel == 0).sum() for kernel in kernels) / sum(kernel.size for kernel in kernels)
    print(f"sparsity {sparsity:.1%}, test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    app.run(main)
