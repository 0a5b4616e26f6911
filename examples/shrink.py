"""Shrinks a trained model to a share of its FLOPs, with training in between and without.

    python examples/shrink.py [--dataset fashion_mnist] [--keras tf_keras] [--flops 0.3]

The script trains a dense model, as a stand-in for yours. It shows how much each layer bears. Then it shrinks
the model without training, and in stages with training in between, with the dense model as the teacher.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow logs

import importlib

import networks
from absl import app, flags

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", ["digits", "fashion_mnist"], "Images to train on.")
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras (Keras 2).")
flags.DEFINE_float("flops", 0.4, "Fraction of the FLOPs to keep.", 0, 1)
flags.DEFINE_integer("samples", 512, "Images to measure and refit on, without their labels.", 1)
flags.DEFINE_integer("stages", 2, "Stages with training in between.", 1)
flags.DEFINE_integer("epochs", None, "Epochs of the dense training; depends on the dataset by default.", 1)
flags.DEFINE_bool("teacher", True, "Train with the dense model as the teacher.")
flags.DEFINE_string("directory", None, "Folder to resume from.")
flags.DEFINE_integer("seed", 0, "Random seed.")

EPOCHS = {"digits": 20, "fashion_mnist": 3}  # of the dense model
EPOCHS_PER_STAGE = {"digits": 4, "fashion_mnist": 1}


def main(_):
    keras = importlib.import_module(FLAGS.keras)
    keras.utils.set_random_seed(FLAGS.seed)
    data = load(FLAGS.dataset)
    x_train, x_test = data.x_train[..., None], data.x_test[..., None]
    model = networks.small_resnet(keras, x_train.shape[1:], data.classes, widths=(16, 32))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x_train, data.y_train, 128, FLAGS.epochs or EPOCHS[FLAGS.dataset], verbose=0)
    model = tfap.recalibrate(model, x_train)  # few training steps leave old statistics

    found = tfap.sensitivity(model, x_train, rates=(0.25, 0.5, 0.75), samples=FLAGS.samples)
    print(found)
    budget, test = {"flops": FLAGS.flops}, (x_test, data.y_test)
    print(tfap.allocate(model, found, budget))

    at_once = tfap.shrink(model, x_train, budget, validation=test, samples=FLAGS.samples)
    print(at_once)

    def fit(small):
        small.fit(x_train, data.y_train, 128, EPOCHS_PER_STAGE[FLAGS.dataset], verbose=0)

    result = tfap.shrink(
        *(model, x_train, budget, fit),
        validation=test,
        stages=FLAGS.stages,
        teacher=FLAGS.teacher,
        samples=FLAGS.samples,
        directory=FLAGS.directory,
    )
    print(result)
    print(result.report)


if __name__ == "__main__":
    app.run(main)
