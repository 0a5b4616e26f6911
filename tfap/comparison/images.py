"""The experiment of the command line: a small multilayer perceptron on images."""

import dataclasses
import functools
import importlib
from typing import Any

from tfap import keras_compat
from tfap.comparison.runs import Run
from tfap.datasets import Dataset, load
from tfap.keras_compat.lazy import tensorflow as tf
from tfap.keras_compat.types import Model
from tfap.pruning.prune import prune
from tfap.training.callbacks import UpdatePruningStep

_BATCH = 32
_GRADIENT_IMAGES = 512
BY_GRADIENTS = ("gradient", "group_taylor", "hessian_diagonal")  # methods whose callback needs data
_STEPS_PER_EXECUTION = 45  # one epoch of digits: the overhead of Keras exceeds the time of the model


@dataclasses.dataclass(frozen=True)
class Images:
    """The three functions that `tfap.compare` takes.

    Attributes:
        dataset: String. Name for `tfap.datasets.load`. The seed of a run also splits digits.
        keras: String. Name of the module, "keras" or "tf_keras".
        epochs: Integer. Epochs per run.
        hidden: Tuple of integers. Units of the hidden layers.
    """

    dataset: str
    keras: str
    epochs: int
    hidden: tuple[int, ...] = (128, 64)

    def build_model(self, run: Run) -> Model:
        """Builds and compiles the model."""
        keras, data = importlib.import_module(self.keras), _load(self.dataset, run.seed)
        layers = [keras.layers.Input(data.x_train.shape[1:]), keras.layers.Flatten()]
        layers += [keras.layers.Dense(units, activation="relu") for units in self.hidden]
        model = keras.Sequential([*layers, keras.layers.Dense(data.classes, activation="softmax")])
        model.compile(
            "adam",
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=_STEPS_PER_EXECUTION,
        )
        return model

    def fit(self, model: Model, callbacks: list[Any], run: Run) -> None:
        """Trains the model."""
        data = _load(self.dataset, run.seed)
        if run.method in BY_GRADIENTS:
            gradient_data = data.x_train[:_GRADIENT_IMAGES], data.y_train[:_GRADIENT_IMAGES]
            callbacks = [*callbacks, UpdatePruningStep(gradient_data=gradient_data)]
        samples = len(data.x_train)
        common = {"epochs": self.epochs, "verbose": 0, "callbacks": callbacks}
        if keras_compat.backend_name(model) != "tensorflow":
            model.fit(data.x_train, data.y_train, batch_size=_BATCH, **common)
            return
        # One iterator for all epochs: making one per epoch takes longer than training.
        batches = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
        batches = batches.shuffle(samples).batch(_BATCH).repeat()
        steps = -(-samples // _BATCH)
        model.fit(batches, steps_per_epoch=steps, shuffle=False, **common)  # the dataset shuffles

    def evaluate(self, model: Model, run: Run) -> dict[str, float]:
        """Returns test accuracy and loss."""
        data = _load(self.dataset, run.seed)
        metrics = model.evaluate(data.x_test, data.y_test, batch_size=512, verbose=0, return_dict=True)
        return {"accuracy": metrics["accuracy"], "loss": metrics["loss"]}


def prune_by_gradient(model: Model, sparsity: float, criterion: str = "gradient") -> Model:
    """Wraps a model for a `tfap.comparison.Method`. `Images.fit` adds the callback with the gradient data."""
    return prune(model, sparsity, criterion)


@functools.lru_cache(maxsize=1)
def _load(dataset: str, seed: int) -> Dataset:
    return load(dataset, seed)
