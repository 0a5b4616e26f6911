"""The command line's experiment: a small dense net on images."""

import dataclasses
import functools
import importlib

import tensorflow as tf

from tfap.datasets import Dataset, load
from tfap.pruning.prune import prune
from tfap.training.callbacks import UpdatePruningStep

_BATCH = 32
_FOR_GRADIENTS = 512  # images
_STEPS_AT_ONCE = 45  # an epoch of digits: Keras is slower than the net


@dataclasses.dataclass(frozen=True)
class Images:
    """The three functions that `tfap.compare` takes.

    Attributes:
        dataset: name for `tfap.datasets.load`; the seed of a run also splits digits.
        keras: name of the module, "keras" or "tf_keras".
        epochs: of each training.
        hidden: units of the hidden layers.
    """

    dataset: str
    keras: str
    epochs: int
    hidden: tuple[int, ...] = (128, 64)

    def build_model(self, run):
        keras, data = importlib.import_module(self.keras), _load(self.dataset, run.seed)
        layers = [keras.layers.Input(data.x_train.shape[1:]), keras.layers.Flatten()]
        layers += [keras.layers.Dense(units, activation="relu") for units in self.hidden]
        model = keras.Sequential([*layers, keras.layers.Dense(data.classes, activation="softmax")])
        model.compile(
            "adam",
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=_STEPS_AT_ONCE,
        )
        return model

    def fit(self, model, callbacks, run):
        data = _load(self.dataset, run.seed)
        if run.method == "gradient":
            some = data.x_train[:_FOR_GRADIENTS], data.y_train[:_FOR_GRADIENTS]
            callbacks = [*callbacks, UpdatePruningStep(gradient_data=some)]
        samples = len(data.x_train)
        # One iterator for all epochs: Keras makes new ones for each, which takes longer than training.
        batches = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
        batches = batches.shuffle(samples).batch(_BATCH).repeat()
        steps = -(-samples // _BATCH)
        model.fit(
            batches,
            steps_per_epoch=steps,
            epochs=self.epochs,
            shuffle=False,  # the dataset does
            verbose=0,
            callbacks=callbacks,
        )

    def evaluate(self, model, run):
        data = _load(self.dataset, run.seed)
        found = model.evaluate(data.x_test, data.y_test, batch_size=512, verbose=0, return_dict=True)
        return {"accuracy": found["accuracy"], "loss": found["loss"]}


def prune_by_gradient(model, sparsity):
    """For a `tfap.comparison.Method`: the callback that knows the data comes with `Images.fit`."""
    return prune(model, sparsity, "gradient")


@functools.lru_cache(maxsize=1)
def _load(dataset, seed) -> Dataset:
    return load(dataset, seed)
