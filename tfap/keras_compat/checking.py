"""Which models a function takes, and what it says of others."""

from tfap.keras_compat.graphs import all_layers, is_built, is_graph_model
from tfap.keras_compat.tfmot_import import PruneLowMagnitude
from tfap.keras_compat.worlds import is_model, keras_of


def is_tfap_wrapper(layer):
    """True for tfap's own wrappers, which are defined floors above."""
    return getattr(layer, "is_tfap_wrapper", False)


def is_any_wrapper(layer):
    """True for tfap's wrappers and for tfmot's."""
    return is_tfap_wrapper(layer) or isinstance(layer, PruneLowMagnitude)


def check_plain(model, function):
    """Checks the model that a function takes.

    Raises:
        TypeError: no Keras model. ValueError: it is subclassed, not built, or has pruning wrappers.
    """
    check_readable(model, function)
    if any(is_any_wrapper(layer) for layer in all_layers(model)):
        raise ValueError(f"The model '{model.name}' still has pruning wrappers: call strip_pruning() first.")


def check_measurable(model, function):
    """Like `check_plain`, but tfap's own wrappers are as good as the layers inside them."""
    check_readable(model, function)
    if any(is_any_wrapper(layer) and not is_tfap_wrapper(layer) for layer in all_layers(model)):
        raise ValueError(
            f"The model '{model.name}' has tfmot's pruning wrappers: call its strip_pruning() first."
        )


def check_readable(model, function):
    """Like `check_plain`, for a function that takes models with pruning wrappers too."""
    if not is_model(model):
        raise TypeError(f"{function} takes a Keras model: received an object of type {type(model).__name__}.")
    keras_of(model)
    if not is_graph_model(model):
        raise ValueError(f"{function} takes Sequential and Functional models: '{model.name}' is subclassed.")
    if not is_built(model):
        raise ValueError(
            f"{function} takes a built model: give '{model.name}' an Input layer, or call it on data once."
        )
