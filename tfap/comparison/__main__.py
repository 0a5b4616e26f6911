"""Compares pruning methods on digits or Fashion-MNIST, and writes a table and two figures.

    python -m tfap.comparison [--dataset fashion_mnist] [--keras tf_keras] [--methods magnitude,count]

The model is a small multilayer perceptron. Methods with structured pruning (neurons): activation_count,
magnitude_neurons, group_taylor (on 512 training images), fpgm (per layer). Methods with unstructured pruning
(weights): count_x_weight (activation count times weight), count (activation count only), input_count_x_weight
(activation count of the input neuron times weight), magnitude, magnitude_local (per layer), gradient and
hessian_diagonal (on 512 training images), wanda, lamp, lookahead, ap (on top of magnitude), tfmot (tf_keras
only). A second call with the same data, Keras and epochs trains only missing runs. Needs the extra
comparison.
"""

from absl import app, flags

from tfap.comparison import command


def main(_: list[str]) -> None:
    """Compares the methods and writes rows.csv and the figures."""
    try:
        command.methods(flags.FLAGS), command.sparsities(flags.FLAGS)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    command.run(flags.FLAGS)


if __name__ == "__main__":
    command.define(flags.FLAGS)
    app.run(main)
