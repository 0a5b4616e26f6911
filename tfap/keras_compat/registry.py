"""Registered names: how saved files refer to the classes of tfap and of users."""

import contextlib
import re

import keras

from tfap.keras_compat import lazy


def register(cls):
    """Registers a class that neither Keras owns, such as a criterion or schedule, with both of them."""
    _register(cls, keras)
    lazy.when_loaded("tf_keras", lambda tf_keras: _register(cls, tf_keras))
    return cls


def register_lazily(name, load, in_keras3=True):
    """Registers a class by its name with both Kerases. It is loaded when a file with it is.

    Args:
        name: String. Name of the class, which `load` registers under the same name.
        load: Function that imports and returns the class.
        in_keras3: Whether to register it with Keras 3 too.
    """
    stand_in = type(name, (_StandIn,), {"load": staticmethod(load)})
    if in_keras3:
        _register(stand_in, keras)
    lazy.when_loaded("tf_keras", lambda tf_keras: _register(stand_in, tf_keras, replace=False))


class _StandIn:
    """What both Kerases know of a class that has not been loaded."""

    @classmethod
    def from_config(cls, config):
        return cls.load().from_config(config)

    def get_config(self):  # Keras registers no class without it
        raise NotImplementedError


def _register(cls, module, replace=True):
    name = f"tfap>{cls.__name__}"
    if replace or module.saving.get_registered_object(name) is None:
        module.saving.register_keras_serializable(package="tfap")(cls)


def registered_name(cls):
    """Returns the name under which either Keras knows a class, or its own name."""
    for module in _kerases():
        name = module.saving.get_registered_name(cls)
        if name != cls.__name__:
            return name
    return cls.__name__


def registered_class(name):
    """Returns the class or function that either Keras knows under a name, or None. Does not load code."""
    for module in _kerases():
        found = module.saving.get_registered_object(name)
        if found is not None:
            return found.load() if isinstance(found, type) and issubclass(found, _StandIn) else found
    return None


def _kerases():
    """Returns the Kerases that know any class."""
    return filter(None, (keras, lazy.loaded("tf_keras")))


@contextlib.contextmanager
def custom_object_scope(custom_objects):
    """Opens the custom-object scopes of both Kerases. Names of outer scopes are still known in it."""
    with keras.saving.CustomObjectScope({}) as probe:
        outer = dict(probe.backup)  # Keras 3 knows the names of the innermost scope only
    with contextlib.ExitStack() as stack:
        stack.enter_context(keras.saving.custom_object_scope({**outer, **custom_objects}))
        if lazy.loaded("tf_keras"):
            stack.enter_context(lazy.tf_keras.saving.custom_object_scope(custom_objects))
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
    if not isinstance(cls, type):
        raise ValueError(
            f"The file names the class '{name}', which is not registered. Decorate it with "
            "@keras.saving.register_keras_serializable() (or tf_keras's) and import it before loading."
        )
    return cls.from_config(saved["config"])
