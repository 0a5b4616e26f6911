"""What differs between TensorFlow, JAX and PyTorch: one module for each, with the same functions.

| Function | Does |
|---|---|
| `firing`, `summed`, `squared`, `firing_by_position` | Count a batch of activations |
| `attention_excess` | Computes the activations of heads, to count |
| `every_nth` | Counts in every n-th step only |
| `sum_over_replicas` | Adds up what replicas have counted |
| `counter`, `host_state` | Make the state that a step adds to, and the state that only the host writes |
| `add_to` | Adds to a counter inside a step |
| `noted`, `masked` | Read a mask in the forward pass, and apply it where the optimizer writes |
| `step_identity`, `replica` | Tell one training step, and one replica, from another |
| `compiled`, `gradient_function` | Compile a function of a model, and the gradients of its loss |
| `prepared`, `sync` | Prepare a model for `fit`, and bring its state into the variables in between |
| `protected`, `restored`, `keep_weights` | Bring the state back after an error |

`tfap.keras_compat.backends.tensorflow` also serves tf_keras, whatever Keras 3 runs on.
"""

import functools
import importlib
import sys

import keras

from tfap.keras_compat.owner import is_keras3

NAMES = ("tensorflow", "jax", "torch")


@functools.cache
def named(name):
    """Imports the module of a backend.

    Raises:
        ValueError: If tfap does not support the backend.
    """
    if name not in NAMES:
        raise ValueError(
            f"tfap does not support the backend '{name}' of Keras: set KERAS_BACKEND to one of "
            f"{', '.join(NAMES)} before importing keras."
        )
    return importlib.import_module(f"{__name__}.{name}")


def of_keras3():
    """Returns the module of the backend that Keras 3 runs on."""
    return named(keras.config.backend())


def backend_of(layer):
    """Returns the module of the backend that computes a layer or model."""
    return of_keras3() if is_keras3(layer) else named("tensorflow")


def is_tf_dataset(data):
    """Whether data is a `tf.data.Dataset`. Does not import TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(data, tensorflow.data.Dataset)
