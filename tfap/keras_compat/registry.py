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


def serialize(thing):
    """`{"class_name", "config"}` of an object with get_config().

    tfmot's schedules already return that pair from get_config(); others return the config alone.
    """
    config = thing.get_config()
    if set(config) == {"class_name", "config"}:
        config = config["config"]
    return {"class_name": registered_name(type(thing)), "config": config}


def deserialize(saved, built_in):
    """The object that `serialize` described.

    Args:
        saved: what `serialize` returned.
        built_in: dict of the classes that need no registration, by name.

    Raises:
        ValueError: it is no such dict, or its class is neither built in nor registered in this process.
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
