"""Names under which files of either Keras know tfap's and the user's own classes."""

import contextlib
import re

import keras
import tf_keras


def register(cls):
    """Registers a class that belongs to no Keras (a criterion, a schedule) with both of them."""
    for world in (keras, tf_keras):
        world.saving.register_keras_serializable(package="tfap")(cls)
    return cls


def registered_name(cls):
    for world in (keras, tf_keras):
        name = world.saving.get_registered_name(cls)
        if name != cls.__name__:
            return name
    return cls.__name__


def registered_class(name):
    """The class registered under `name` in either Keras, or None. Loads no code."""
    for world in (keras, tf_keras):
        found = world.saving.get_registered_object(name)
        if found is not None:
            return found
    return None


@contextlib.contextmanager
def custom_object_scope(custom_objects):
    """Both Kerases' custom-object scopes at once."""
    with (
        keras.saving.custom_object_scope(custom_objects),
        tf_keras.saving.custom_object_scope(custom_objects),
    ):
        yield


def snake_case(name):
    """`ActivationCount` -> `activation_count`, as Keras names things by their class."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
