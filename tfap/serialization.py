"""Criteria and schedules in a saved model: plain dicts, and never code that the file brings."""

from tfap import keras_compat


def serialize(thing):
    """`{"class_name", "config"}` of an object with get_config().

    tfmot's schedules already return that pair from get_config(); others return the config alone.
    """
    config = thing.get_config()
    if set(config) == {"class_name", "config"}:
        config = config["config"]
    return {"class_name": keras_compat.registered_name(type(thing)), "config": config}


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
    cls = built_in.get(name) or keras_compat.registered_class(name)
    if cls is None:
        raise ValueError(
            f"The file names the class '{name}', which is not registered. Decorate it with "
            "@keras.saving.register_keras_serializable() (or tf_keras's) and import it before loading."
        )
    return cls.from_config(saved["config"])
