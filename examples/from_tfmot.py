"""Prunes with tfap in a tfmot script by changing one line: tfap's wrapper works with tfmot's callbacks.

    python examples/from_tfmot.py [--tensorboard logs]

tfap's wrapper is also a tfmot wrapper if the schedule is by step, the scope is local, and the criterion needs
only one layer (magnitude, or the activation counts of layers with a fused activation). tfmot's
UpdatePruningStep, PruningSummaries, and strip_pruning then work with it. All other settings need tfap's
callback.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow logs

import numpy as np
import tf_keras as keras
from absl import app, flags

import tfap  # must precede tfmot, which otherwise switches tf.keras to Keras 2
from tfap.datasets import load

import tensorflow_model_optimization as tfmot  # isort: skip

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 10, "Number of epochs.", 1)
flags.DEFINE_string("tensorboard", None, "Folder for TensorBoard; needs pip install 'tfap[tensorboard]'.")


def main(_):
    keras.utils.set_random_seed(0)
    data = load("digits")
    model = keras.Sequential(
        [
            keras.layers.Flatten(input_shape=(8, 8)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    steps = FLAGS.epochs * -(-len(data.x_train) // 32)
    pruning_schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, steps // 10, steps // 2, frequency=10)

    # tfmot: model = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule)
    model = tfap.prune(model, pruning_schedule, scope="local", granularity="weight")

    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    if FLAGS.tensorboard:
        callbacks.append(tfmot.sparsity.keras.PruningSummaries(FLAGS.tensorboard))
    model.fit(data.x_train, data.y_train, epochs=FLAGS.epochs, verbose=0, callbacks=callbacks)

    model = tfmot.sparsity.keras.strip_pruning(model)
    accuracy = (model.predict(data.x_test, verbose=0).argmax(axis=1) == data.y_test).mean()
    for layer in model.layers[1:-1]:
        print(f"{layer.name}: sparsity {np.mean(layer.get_weights()[0] == 0):.1%}")
    print(f"test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    app.run(main)
