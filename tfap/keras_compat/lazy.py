"""TensorFlow, tf_keras and tfmot, which are imported when they are first used, and need not be installed."""

import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import os
import sys
import types
import warnings

import keras

_PACKAGES = {"tensorflow_model_optimization": "tensorflow-model-optimization"}  # others have their own name


class LazyModule(types.ModuleType):
    """Stands for a module, which is imported when one of its attributes is first read.

    Raises:
        ImportError: When an attribute is read and the module is not installed.
    """

    def __getattr__(self, name):
        if name.startswith("__"):  # asked by tools that look at every module
            raise AttributeError(name)
        return getattr(imported(self.__name__), name)


def imported(name):
    """Imports one of the three packages.

    Raises:
        ImportError: If it is not installed. The message has the pip command.
    """
    module = sys.modules.get(name)
    if module is not None:
        return module
    require(name)
    return _IMPORTERS.get(name, importlib.import_module)(name)


def require(name):
    """Raises ImportError with the pip command if a package is not installed. Does not import it."""
    if not is_installed(name):
        package = _PACKAGES.get(name, name)
        raise ImportError(f"This needs {package}, which is not installed: pip install {package}", name=name)


def is_installed(name):
    """Whether a package can be imported. Does not import it."""
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None


def loaded(name):
    """Returns a module if it has been imported, else None. An object cannot be of a module that has not."""
    return sys.modules.get(name)


def is_instance(thing, *names):
    """Whether a thing is an instance of a class. Does not import the module of the class.

    Args:
        thing: Any object.
        *names: Dotted names of classes, from the name of a package, such as `tensorflow.data.Dataset`.
    """
    return any(isinstance(thing, cls) for cls in _classes(names))


def is_subclass(cls, *names):
    """Whether a class is a subclass of another one, given by its name as in `is_instance`."""
    return issubclass(cls, tuple(_classes(names)))


def _classes(names):
    return filter(None, map(_loaded_class, names))


def _loaded_class(name):
    """Finds a class in the module with the longest name, because tfmot removes `python` from its package."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found = loaded(".".join(parts[:length]))
        for part in parts[length:]:
            found = getattr(found, part, None)  # None also while the module is being imported
        if found is not None:
            return found
    return None


# -- how each is imported --------------------------------------------------------------------------


def _import_tensorflow(name):
    """Imports TensorFlow. If Keras runs on another backend, the GPU memory is left to that one."""
    module = importlib.import_module(name)
    if keras.config.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):  # its devices are in use already
            module.config.set_visible_devices([], "GPU")
    return module


def _import_tf_keras(name):
    with warnings.catch_warnings():  # importing tf_keras imports SciPy, which adds a warnings filter
        imported("tensorflow")
        return importlib.import_module(name)


def _import_tfmot(name):
    """Imports tfmot without its side effects on the user's process.

    On import, tfmot sets TF_USE_LEGACY_KERAS. If `tf.keras` has not been accessed yet, it then means Keras 2
    in the whole process. So this accesses `tf.keras` first and restores the variable afterwards. It also
    restores the warnings filters, to which a dependency of tfmot adds one.
    """
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    _ = imported("tensorflow").keras.__name__
    try:
        with warnings.catch_warnings():
            return importlib.import_module(name)
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before


_IMPORTERS = {
    "tensorflow": _import_tensorflow,
    "tf_keras": _import_tf_keras,
    "tensorflow_model_optimization": _import_tfmot,
}

tensorflow, tf_keras, tfmot = map(LazyModule, _IMPORTERS)


# -- what waits for an import ----------------------------------------------------------------------


def when_loaded(name, function):
    """Calls `function(module)` once a package has been imported by anyone: now if it has been already."""
    module = loaded(name)
    if module is not None:
        function(module)
        return
    finder = next((each for each in sys.meta_path if isinstance(each, _Finder) and each.name == name), None)
    if finder is None:
        finder = _Finder(name)
        sys.meta_path.insert(0, finder)
    finder.waiting.append(function)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one package as others do, and lets its loader call what waits for it."""

    def __init__(self, name):
        self.name, self.waiting = name, []

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        others = [each for each in sys.meta_path if each is not self and hasattr(each, "find_spec")]
        specs = (each.find_spec(fullname, path, target) for each in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None:
            return None
        run = spec.loader.exec_module

        @functools.wraps(run)
        def exec_module(module):
            run(module)
            if self in sys.meta_path:  # it stays if the import fails, or if the package is only looked up
                sys.meta_path.remove(self)
                for function in self.waiting:
                    function(module)

        spec.loader.exec_module = exec_module
        return spec
