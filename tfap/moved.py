"""Import paths that the documentation of 0.1.0 named, and where their modules are now."""

import importlib
import sys
import types

_MODULES = {
    "callbacks": ("training.callbacks", "training.stopping"),
    "disconnected": ("training.disconnected",),
    "flops": ("graph.flops",),
    "kernels": ("graph.kernel", "graph.layer_types", "graph.registration"),
    "latency": ("reporting.latency",),
    "paired": ("utils.statistics",),
    "plots": ("utils.plots",),
    "runtimes": ("exporting.runtime", "exporting.formats"),
}
_FUNCTIONS = {("disconnected", "kept"): "unremovable_neurons", ("runtimes", "load"): "load_runtime"}


class _Moved(types.ModuleType):
    """Stands for a module at an old path. It imports those at the new paths when it is first used."""

    def __getattr__(self, name):
        if name.startswith("__") and name != "__all__":  # asked by tools that look at every module
            raise AttributeError(name)
        if "__all__" not in vars(self):
            vars(self).update(_names(self.__name__.partition(".")[2]))
            return getattr(self, name)
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")

    def __dir__(self):
        return self.__all__


def _names(old):
    """Returns what the module at an old path holds, a dict by name."""
    found = {}
    for new in _MODULES[old]:
        names = vars(importlib.import_module(f"tfap.{new}"))
        found |= {name: thing for name, thing in names.items() if name[0] != "_"}
    found |= {name: found[new] for (module, name), new in _FUNCTIONS.items() if module == old}
    return {**found, "__all__": sorted(found)}


def alias():
    """Lets `from tfap.runtimes import load` and the like find the current names."""
    for old, modules in _MODULES.items():
        module = _Moved(f"tfap.{old}", f"Moved to tfap.{modules[0]}.")
        sys.modules[module.__name__] = module
