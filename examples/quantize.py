"""Quantizes a pruned model to int8 and keeps its zeros: after training, and with training for int8 by tfmot.

    python examples/quantize.py [--dataset fashion_mnist] [--epochs 4] [--sparsity 0.8]

The script prunes a model of tf_keras, strips the wrappers, and hands it over to tfmot: to quantization-aware
training (QAT), to prune-preserving QAT (PQAT), and to clustering that preserves sparsity. It writes a LiteRT
file of each and prints bytes, accuracy, and zeros. tfmot serves tf_keras only. For Keras 3, see "Quantize a
Keras 3 model" in docs/exporting.md. The script needs the extras examples and tflite.

Training has few steps, so the moving statistics of BatchNormalization lag behind. `tfap.recalibrate` computes
them anew. Without it, a model of 4 epochs on digits has almost the same outputs for every image (10%
accuracy), and int8 rounds its two largest outputs to the same value.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow logs

import logging
import pathlib

import networks
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from absl import app, flags

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS


def define_flags():
    flags.DEFINE_enum("dataset", "digits", ["digits", "fashion_mnist"], "Images to train on.")
    flags.DEFINE_integer("epochs", 10, "Epochs of each training.", 1)
    flags.DEFINE_float("sparsity", 0.8, "Fraction of the weights in hidden layers to prune.", 0, 0.999)
    flags.DEFINE_string("export_dir", "build/quantize", "Folder for the files.")


class KeepZeros(keras.callbacks.Callback):
    """Sets the weights that are zero when training begins to zero after each step.

    PQAT keeps the zeros of Dense and Conv2D, but not of DepthwiseConv2D (tfmot 0.8.1), and QAT keeps none.
    """

    def on_train_begin(self, logs=None):
        kernels = [v for v in self.model.trainable_variables if v.shape.rank >= 2 and np.any(v.numpy() == 0)]
        self.masks = [(kernel, (kernel.numpy() != 0).astype("float32")) for kernel in kernels]

    def on_train_batch_end(self, batch, logs=None):
        for kernel, mask in self.masks:
            kernel.assign(kernel * mask)


def quantization_aware(model, preserve_zeros=True):
    """Returns the model with tfmot's wrappers for QAT, or PQAT if zeros are to be preserved."""
    quantization = tfmot.quantization.keras
    if not preserve_zeros:
        return quantization.quantize_model(model)
    annotated = quantization.quantize_annotate_model(model)
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    return quantization.quantize_apply(annotated, scheme)


def clustered(model, clusters=16):
    """Returns the model with tfmot's wrappers for clustering that preserves sparsity."""
    clustering = tfmot.clustering.keras
    initialization = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    copy = keras.models.clone_model(model)  # because tfmot wraps the layers themselves
    copy.set_weights(model.get_weights())
    return clustering.cluster_weights(
        copy,
        number_of_clusters=clusters,
        cluster_centroids_init=initialization,
        preserve_sparsity=True,
    )


def trained(model, x, y, epochs, rate=4e-3, callbacks=()):
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def pruned(model, sparsity, x, y, epochs):
    wrapped = tfap.prune(model, sparsity, "magnitude", scope="local")
    trained(wrapped, x, y, epochs, callbacks=[tfap.UpdatePruningStep()])
    return tfap.recalibrate(tfap.strip_pruning(wrapped), x)


def tuned(sparse, x, y, epochs):
    """Returns the models after each way of training with tfmot, by name."""
    models = {
        "QAT": trained(quantization_aware(sparse, False), x, y, epochs, 1e-4),
        "PQAT": trained(quantization_aware(sparse), x, y, epochs, 1e-4),
        "PQAT, KeepZeros": trained(quantization_aware(sparse), x, y, epochs, 1e-4, [KeepZeros()]),
    }
    clusters = trained(clustered(sparse), x, y, epochs, 1e-4)
    return models | {"clustered": tfmot.clustering.keras.strip_clustering(clusters)}


def main(_):
    logging.disable(logging.WARNING)
    keras.utils.set_random_seed(0)
    data = load(FLAGS.dataset)
    x, x_test = (part[..., None] for part in (data.x_train, data.x_test))
    samples = x[:300]
    dense = trained(networks.mobilenet(keras, x.shape[1:], data.classes), x, data.y_train, FLAGS.epochs)
    sparse = pruned(dense, FLAGS.sparsity, x, data.y_train, FLAGS.epochs)
    models = {"float": sparse, "int8": sparse}
    models |= tuned(sparse, x, data.y_train, max(1, FLAGS.epochs // 4))

    folder, pruned_weights = pathlib.Path(FLAGS.export_dir), 0
    for name, model in models.items():
        arguments = {} if name == "float" else dict(quantize="int8", data=samples)
        file = folder / f"{name.lower().replace(', ', '_')}.tflite"
        path = tfap.export(model, file, format="tflite", **arguments)
        found = tfap.export_report(model, path, samples)
        pruned_weights = found.model_zeros if name == "float" else pruned_weights
        accuracy = np.mean(tfap.load_runtime(path)(x_test)[0].argmax(-1) == data.y_test)
        print(
            f"{name:16} {found.bytes:7,} bytes, accuracy {accuracy:.1%}, {found.zeros:,} zeros of "
            f"{pruned_weights:,}, agreement with its model {found.agreement:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    define_flags()
    app.run(main)
