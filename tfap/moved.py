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


def alias():
    """Lets `from tfap.runtimes import load` and the like find the current names."""
    for old, modules in _MODULES.items():
        module = types.ModuleType(f"tfap.{old}", f"Moved to tfap.{modules[0]}.")
        for new in modules:
            names = vars(importlib.import_module(f"tfap.{new}"))
            vars(module).update({name: thing for name, thing in names.items() if name[0] != "_"})
        sys.modules[module.__name__] = module
    for (old, name), new in _FUNCTIONS.items():
        module = sys.modules[f"tfap.{old}"]
        setattr(module, name, getattr(module, new))
