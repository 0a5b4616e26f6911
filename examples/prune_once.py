"""Makes a trained model smaller without training, on a few hundred unlabeled images.

    python examples/prune_once.py [--dataset fashion_mnist] [--keras tf_keras] [--sparsity 0.5]

The script trains a dense model, as a stand-in for yours. It then removes channels, with and without the refit
of the weights that are kept, and compares the accuracies.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow logs

import importlib

from absl import app, flags

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", ["digits", "fashion_mnist"], "Images to train on.")
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras (Keras 2).")
flags.DEFINE_string("criterion", "reconstruction", "Which channels to remove.")
flags.DEFINE_float("sparsity", 0.5, "Fraction of the FLOPs to remove.", 0, 0.999)
flags.DEFINE_integer("samples", 512, "Images to prune on, without their labels.", 1)
flags.DEFINE_integer("epochs", None, "Epochs of the dense training; depends on the dataset by default.", 1)
flags.DEFINE_integer("seed", 0, "Random seed.")

EPOCHS = {"digits": 30, "fashion_mnist": 3}


def build(keras, shape, classes):
    """A small convolutional model with BatchNormalization and a residual connection."""
    layers = keras.layers

    def convolution(x, filters, strides=1):
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input(shape)
    x = layers.ReLU()(convolution(inputs, 32, 2))
    branch = convolution(layers.ReLU()(convolution(x, 32)), 32)
    x = layers.ReLU()(layers.Add()([x, branch]))
    x = layers.ReLU()(convolution(x, 64, 2))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(_):
    keras = importlib.import_module(FLAGS.keras)
    keras.utils.set_random_seed(FLAGS.seed)
    data = load(FLAGS.dataset)
    x_train, x_test = data.x_train[..., None], data.x_test[..., None]
    dense = build(keras, x_train.shape[1:], data.classes)
    dense.fit(x_train, data.y_train, 128, FLAGS.epochs or EPOCHS[FLAGS.dataset], verbose=0)

    def accuracy(model):
        return model.evaluate(x_test, data.y_test, verbose=0, return_dict=True)["accuracy"]

    options = dict(criterion=FLAGS.criterion, target="flops", samples=FLAGS.samples)
    plain = tfap.prune_once(dense, x_train, FLAGS.sparsity, compensate=False, recalibrate=False, **options)
    small, report = tfap.prune_once(dense, x_train, FLAGS.sparsity, return_report=True, **options)
    print(report)
    print(f"Accuracy: {accuracy(dense):.1%} dense, {accuracy(plain):.1%} without the refit, ", end="")
    print(f"{accuracy(small):.1%} with the refit, {tfap.flops(small) / tfap.flops(dense):.0%} of the FLOPs")


if __name__ == "__main__":
    app.run(main)
