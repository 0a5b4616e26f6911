"""Makes a trained model smaller and faster, and measures the result.

    python examples/shrink_and_export.py [--dataset fashion_mnist] [--net cnn] [--keras tf_keras]

The script trains a dense model. It then prunes whole neurons while training continues, and compacts the model
after each stage. It exports both models to LiteRT files and prints their weights, bytes, measured latency,
and accuracy side by side. --figure=0.5,0.7,0.9 draws accuracy against file size for several sparsities. The
script needs the extras examples and tflite.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow logs

import importlib
import pathlib

import networks
import numpy as np
from absl import app, flags, logging

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", ["digits", "fashion_mnist"], "Images to train on.")
flags.DEFINE_enum("net", "mlp", ["mlp", "cnn"], "784-300-200-100-50-10, or a residual model.")
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras (Keras 2).")
flags.DEFINE_float(
    "sparsity", 0.9, "Fraction of the weights (cnn: FLOPs) in hidden layers to prune.", 0, 0.999
)
flags.DEFINE_integer("epochs", None, "Epochs per training; depends on dataset and model by default.", 2)
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_string("export_dir", "build/shrink_and_export", "Folder for the exported models.")
flags.DEFINE_float("seconds", 3.0, "Measurement time per batch size.", 0.1)
flags.DEFINE_list("figure", [], "Sparsities for a figure of accuracy against size.")

EPOCHS = {
    ("digits", "mlp"): 60,
    ("digits", "cnn"): 30,
    ("fashion_mnist", "mlp"): 20,
    ("fashion_mnist", "cnn"): 4,
}


def mlp(keras, shape, classes):
    layers = keras.layers
    hidden = [layers.Dense(units, activation="relu") for units in (300, 200, 100, 50)]
    return keras.Sequential([layers.Input(shape), layers.Flatten(), *hidden, layers.Dense(classes)])


def compiled(keras, model, rate, steps):
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(decay, momentum=0.9), loss, metrics=["accuracy"])
    return model


def shrunk(keras, dense, sparsity, x, y, epochs):
    """Returns the dense model after pruning whole neurons and compaction during a second training."""
    steps = epochs * -(-len(x) // 128)
    schedule = tfap.PolynomialDecay(0.0, sparsity, steps // 20, steps // 4, frequency=max(1, steps // 40))
    model = compiled(keras, keras.models.clone_model(dense), 0.05, steps)
    model.set_weights(dense.get_weights())
    target = "flops" if FLAGS.net == "cnn" else "weights"
    return tfap.fit_and_compact(
        model,
        schedule,
        x,
        y,
        stages=4,
        scope="local",
        target=target,
        batch_size=128,
        epochs=epochs,
        verbose=0,
    ).model


def exported(model, name):
    folder = pathlib.Path(FLAGS.export_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return tfap.export(model, folder / f"{name}.tflite", format="tflite")


def draw(points, path):
    """Draws accuracy against bytes; `points` are tuples `(label, bytes, accuracy)`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    _, sizes, accuracies = zip(*points)
    axes.plot(np.array(sizes) / 1000, 100 * np.array(accuracies), "o-")
    for label, size, accuracy in points:
        axes.annotate(label, (size / 1000, 100 * accuracy), (4, -12), textcoords="offset points")
    axes.set(xscale="log", xlabel="size of the LiteRT file (kB)", ylabel="test accuracy (%)")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(_):
    logging.set_verbosity(logging.ERROR)
    keras = importlib.import_module(FLAGS.keras)
    keras.utils.set_random_seed(FLAGS.seed)
    data = load(FLAGS.dataset)
    x, x_test = (part[..., None] if FLAGS.net == "cnn" else part for part in (data.x_train, data.x_test))
    epochs = FLAGS.epochs or EPOCHS[FLAGS.dataset, FLAGS.net]
    build = {"mlp": mlp, "cnn": networks.small_resnet}[FLAGS.net]
    dense = compiled(keras, build(keras, x.shape[1:], data.classes), 0.1, epochs * -(-len(x) // 128))
    dense.fit(x, data.y_train, batch_size=128, epochs=epochs, verbose=0)

    small = shrunk(keras, dense, FLAGS.sparsity, x, data.y_train, epochs)
    models = {"dense": exported(dense, "dense"), "shrunk": exported(small, "shrunk")}
    report = tfap.report(models, "dense", (x_test, data.y_test), seconds=FLAGS.seconds, threads=1)
    print(report)
    report.to_csv(pathlib.Path(FLAGS.export_dir) / "report.csv")
    print(f"{dense.count_params() / small.count_params():.1f} times fewer weights")
    if FLAGS.figure:
        points = [("dense", report["dense"].bytes, report["dense"].score)]
        for sparsity in map(float, FLAGS.figure):
            path = exported(shrunk(keras, dense, sparsity, x, data.y_train, epochs), f"shrunk_{sparsity}")
            row = tfap.report(path, data=(x_test, data.y_test), batch_sizes=())[0]
            points.append((f"{sparsity:.0%}", row.bytes, row.score))
        draw(points, pathlib.Path(FLAGS.export_dir) / "accuracy_against_size.png")


if __name__ == "__main__":
    app.run(main)
