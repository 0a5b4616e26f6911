"""The models and trainings that benchmarks on Fashion-MNIST share."""

import pathlib
import sys

import numpy as np
import tensorflow as tf

import tfap

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import networks

BATCH = 128
HIDDEN = (300, 200, 100, 50)


class Options(tf.data.Options):
    """Options without tf.data's tuning.

    With TensorFlow 2.21, each epoch of a fit on arrays waits for the tuning thread, which sleeps for
    10 ms * 2**n: an epoch of 31 s takes 41 s.
    """

    def __init__(self):
        super().__init__()
        self.autotune.enabled = False


def without_tuning():
    """Makes Keras feed arrays without tf.data's tuning."""
    tf.data.Options = Options


class Random(tfap.Criterion):
    """Ranks neurons at random, with the same order in every update."""

    granularity, counts = "neuron", None

    def scores(self, kernel):
        generator = np.random.default_rng(abs(int(kernel.weights.size)))
        neurons = kernel.neuron_sums(np.ones_like(kernel.weights)).size
        return np.broadcast_to(kernel.per_neuron(generator.random(neurons)), kernel.weights.shape).copy()


class Recipe:
    """The training that all arms of a model share."""

    from_logits = True

    def __init__(self, keras, data, epochs, rate):
        self.keras, self.data, self.epochs, self.rate = keras, data, epochs, rate
        self.steps = -(-len(data.x_train) // BATCH)

    def compiled(self, model, rate, steps, keras=None):
        """Compiles the model with a loss for teacher outputs or one-hot labels."""
        keras = keras or self.keras
        decay = keras.optimizers.schedules.CosineDecay(rate, steps)
        loss = keras.losses.CategoricalCrossentropy(from_logits=self.from_logits)
        model.compile(keras.optimizers.SGD(decay, momentum=0.9), loss)
        return model

    def fitted(self, model, x, y, times=1, rate=None):
        epochs = round(times * self.epochs)
        self.compiled(model, rate or self.rate, epochs * -(-len(x) // BATCH))
        model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
        return model

    def pruned(self, model, x, y, rate, **options):
        self.compiled(model, rate, self.epochs * -(-len(x) // BATCH))
        fit = {"batch_size": BATCH, "epochs": self.epochs, "verbose": 0}
        options = {"pruning_schedule": self.schedule(), **self.options, **options}
        return tfap.fit_and_compact(model, options.pop("pruning_schedule"), x, y, **options, **fit).model

    def copied(self, model):
        copy = self.build()
        copy.set_weights(model.get_weights())
        return copy

    def decay(self, sparsity, begin, end):
        """Returns a cubic decay between two epochs, with two updates per epoch."""
        begin, end = int(begin * self.steps), int(end * self.steps)
        return tfap.PolynomialDecay(0.0, sparsity, begin, end, frequency=self.steps // 2)


class Mlp(Recipe):
    """784-300-200-100-50-10; 90% of the weights of every hidden layer are pruned."""

    demon_strength = 1e-4
    arms = (
        *("dense", "count_distilled", "l1_distilled", "scratch_distilled", "shrunk_70"),
        *("count", "l1", "random", "most", "scratch", "magnitude", "shrunk"),
    )

    def __init__(self, keras, data):
        super().__init__(keras, data, epochs=20, rate=0.1)

    def build(self, widths=HIDDEN, keras=None):
        layers = (keras or self.keras).layers
        hidden = [layers.Dense(units, activation="relu") for units in widths]
        stack = [layers.Input((28, 28)), layers.Flatten(), *hidden, layers.Dense(10)]
        return (keras or self.keras).Sequential(stack)

    def inputs(self, x):
        return x

    def schedule(self):
        return self.decay(0.9, 1, 5)

    options = {"stages": 4, "scope": "local"}

    def from_scratch(self, small):
        return self.build([layer.units for layer in small.layers if hasattr(layer, "units")][:-1])


class Resnet(Recipe):
    """A small residual model with BatchNormalization; 70% of the FLOPs of every stage are pruned."""

    demon_strength = 3e-3  # of the scales of BatchNormalization; 3e-4 leaves no channel silent
    arms = ("dense", "shrunk", "count", "l1", "scratch")

    def __init__(self, keras, data):
        super().__init__(keras, data, epochs=4, rate=0.1)

    def build(self, keras=None):
        return networks.small_resnet(keras or self.keras, (28, 28, 1), 10)

    def inputs(self, x):
        return x[..., None]

    def schedule(self):
        return self.decay(0.7, 0.25, 1.75)

    options = {"stages": 4, "scope": "local", "target": "flops"}

    def from_scratch(self, small):
        return self.keras.models.clone_model(small)


class Resnet20(Resnet):
    """ResNet-20 with 16, 32 and 64 channels, trained for 10 epochs."""

    from_logits = False

    def __init__(self, keras, data):
        Recipe.__init__(self, keras, data, epochs=10, rate=0.1)

    def build(self, keras=None):
        return networks.resnet20(keras or self.keras, (28, 28, 1), 10)
