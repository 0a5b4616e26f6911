"""Registered names: how saved files refer to the classes of tfap and of users."""

import contextlib
import re

import keras
import tf_keras


def register(cls):
    """Registers a class that neither Keras owns, such as a criterion or schedule, with both of them."""
    for module in (keras, tf_keras):
        module.saving.register_keras_serializable(package="tfap")(cls)
    return cls


def registered_name(cls):
    """Returns the name under which either Keras knows a class, or its own name."""
    for module in (keras, tf_keras):
        name = module.saving.get_registered_name(cls)
        if name != cls.__name__:
            return name
    return cls.__name__


def registered_class(name):
    """Returns the class that either Keras knows under a name, or None. Does not load code."""
    for module in (keras, tf_keras):
        found = module.saving.get_registered_object(name)
        if found is not None:
            return found
    return None


@contextlib.contextmanager
def custom_object_scope(custom_objects):
    """Opens the custom-object scopes of both Kerases. Names of outer scopes are still known in it."""
    with keras.saving.CustomObjectScope({}) as probe:
        outer = dict(probe.backup)  # Keras 3 knows the names of the innermost scope only
    with (
        keras.saving.custom_object_scope({**outer, **custom_objects}),
        tf_keras.saving.custom_object_scope(custom_objects),
    ):
        yield


def snake_case(name):
    """Converts a class name as Keras does: `ActivationCount` -> `activation_count`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def serialize(thing):
    """Returns `{"class_name", "config"}` of an object with `get_config()`.

    The schedules of tfmot return that pair from `get_config()`. Others return the config only.
    """
    config = thing.get_config()
    if set(config) == {"class_name", "config"}:
        config = config["config"]
    return {"class_name": registered_name(type(thing)), "config": config}


def deserialize(saved, built_in):
    """Restores an object from what `serialize` returned.

    Args:
        saved: Dict with the keys `class_name` and `config`.
        built_in: Dict of class name to class, for classes that need no registration.

    Raises:
        ValueError: If a key is missing, or the class is neither built in nor registered in this process.
    """
    if not {"class_name", "config"} <= set(saved):
        raise ValueError(f"A saved criterion or schedule has class_name and config: received {saved!r}.")
    name = saved["class_name"]
    cls = built_in.get(name) or registered_class(name)
    if cls is None:
        raise ValueError(
            f"The file names the class '{name}', which is not registered. Decorate it with "
            "@keras.saving.register_keras_serializable() (or tf_keras's) and import it before loading."
        )
    return cls.from_config(saved["config"])
