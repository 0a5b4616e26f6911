"""Compares pruning methods on digits or Fashion-MNIST, and writes a table and two figures.

    python -m tfap.comparison [--dataset fashion_mnist] [--keras tf_keras] [--methods magnitude,count]

The model is a small multilayer perceptron. Methods with structured pruning (neurons): activation_count,
magnitude_neurons. Methods with unstructured pruning (weights): count_x_weight (activation count times
weight), count (activation count only), input_count_x_weight (activation count of the input neuron times
weight), magnitude, magnitude_local (per layer), gradient (on 512 training images), lamp, lookahead, ap (on
top of magnitude), tfmot (tf_keras only). A second call with the same data, Keras and epochs trains only
missing runs. Needs the extra comparison.
"""

import pathlib
from typing import Any

from absl import app, flags, logging

from tfap.comparison import Method, compare, images
from tfap.comparison.images import Images
from tfap.criteria import ActivationCount
from tfap.pruning.prune import strip_pruning

METHODS: dict[str, Any] = {
    "activation_count": "activation_count",
    "count_x_weight": {"criterion": ActivationCount(), "granularity": "weight"},
    "count": {"criterion": ActivationCount(weighted=False), "granularity": "weight"},
    "input_count_x_weight": {"criterion": ActivationCount(side="input"), "granularity": "weight"},
    "magnitude": "magnitude",
    "magnitude_local": {"criterion": "magnitude", "scope": "local"},
    "magnitude_neurons": {"criterion": "magnitude", "granularity": "neuron"},
    "gradient": Method(images.prune_by_gradient, list, strip_pruning),
    "lamp": "lamp",
    "lookahead": "lookahead",
    "ap": "ap",
    "tfmot": "tfmot",
}
EPOCHS = {"digits": 20, "fashion_mnist": 10}

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", list(EPOCHS), "Images to train on.")
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras (Keras 2).")
flags.DEFINE_list("methods", None, f"Methods to compare: {', '.join(METHODS)}. All by default.")
flags.DEFINE_list("sparsities", ["0.5", "0.8", "0.9"], "Fractions of the hidden layers' weights to prune.")
flags.DEFINE_integer("seeds", 3, "Number of seeds. They also split digits.", 1)
flags.DEFINE_integer("epochs", None, "Epochs per run. The default depends on the data set.", 1)
flags.DEFINE_string("directory", "build/comparison", "Directory for finished runs, rows.csv and figures.")
flags.DEFINE_integer("workers", None, "Number of processes. One per core by default.", 1)


def methods() -> dict[str, Any]:
    """Returns the methods that the flags select, by name."""
    if FLAGS.methods is None:
        return {
            name: method for name, method in METHODS.items() if FLAGS.keras == "tf_keras" or name != "tfmot"
        }
    unknown = sorted(set(FLAGS.methods) - set(METHODS))
    if unknown:
        raise app.UsageError(f"Unknown methods: {', '.join(unknown)}. Known: {', '.join(METHODS)}.")
    return {name: METHODS[name] for name in FLAGS.methods}


def main(_: list[str]) -> None:
    """Compares the methods and writes rows.csv and the figures."""
    logging.set_verbosity(logging.ERROR)
    epochs = FLAGS.epochs or EPOCHS[FLAGS.dataset]
    experiment = Images(FLAGS.dataset, FLAGS.keras, epochs)
    folder = pathlib.Path(FLAGS.directory) / f"{FLAGS.dataset}-{FLAGS.keras}-{epochs}"
    compared = compare(
        experiment.build_model,
        experiment.fit,
        experiment.evaluate,
        methods(),
        [float(sparsity) for sparsity in FLAGS.sparsities],
        FLAGS.seeds,
        directory=folder,
        workers=FLAGS.workers,
    )
    print(compared)
    compared.to_csv(folder / "rows.csv")
    compared.plot_sparsity().savefig(folder / "sparsity.png")
    compared.plot_size().savefig(folder / "size.png")
    print(f"rows.csv, sparsity.png and size.png are in {folder}")


if __name__ == "__main__":
    app.run(main)
