"""Composite layers: layers of other layers, with units inside that are removed together with their weights.

A row of `layer_types` names the units by the entry of the config with their number. A layer is rebuilt from
its config with fewer units, and gets the weights of those that are kept.
"""

import math

import numpy as np

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.kernel import KernelSpec
from tfap.graph.linear import kernel_values
from tfap.graph.units import InnerKernel


def units_of(layer):
    """Returns a dict of config entry to `Units`. Empty for a layer that has no units inside."""
    return dict(layer_types.of(layer).inner_units)


def counts(layer):
    """Returns a dict of config entry to the number of units of a built layer that has a config with it."""
    return {
        entry: _count(layer, entry)
        for entry in units_of(layer)
        if kernels(layer, entry)[0].find(layer) is not None and entry in keras_compat.config_entries(layer)
    }


def kernels(layer, entry):
    """Lists the `InnerKernel`s of the units of an entry."""
    return [
        spec
        for spec in layer_types.kernel_specs(layer)
        if isinstance(spec, InnerKernel) and spec.units == entry
    ]


def _count(layer, entry):
    first = kernels(layer, entry)[0]
    return int(first.find(layer).shape[first.neuron_axes[0]])


def needed(layer, entry, masks=None):
    """Returns which units of an entry change the output: boolean array, shape `(units,)`.

    Args:
        layer: A built layer.
        entry: The config entry.
        masks: See `linear_maps.from_layer`.
    """
    read, made = np.zeros((2, _count(layer, entry)), bool)
    for spec in kernels(layer, entry):
        nonzero = _nonzero(layer, spec, masks)
        if spec.reads_units:
            read |= nonzero
        else:
            made |= nonzero | _has_bias(layer, spec)
    return read & made if units_of(layer)[entry].zero_stays_zero else read


def _nonzero(layer, spec, masks):
    _, nonzero = kernel_values(spec.find(layer), spec.name, masks)
    axis = spec.neuron_axes[0] % nonzero.ndim
    return nonzero.any(axis=tuple(at for at in range(nonzero.ndim) if at != axis))


def _has_bias(layer, spec):
    bias = _bias(layer, spec)
    return False if bias is None else np.array(bias) != 0


def _bias(layer, spec):
    """Returns the bias of the inner layer that makes units. None if it has none."""
    owner = spec.name.rpartition(".")[0]
    return KernelSpec(f"{owner}.bias").find(layer) if owner else None


def clear_reads(layer, entry, removed):
    """Sets the weights to zero that read some units, a boolean array."""
    for spec in kernels(layer, entry):
        if spec.reads_units:
            variable = spec.find(layer)
            values = np.array(variable)
            np.moveaxis(values, spec.neuron_axes[0], 0)[removed] = 0
            variable.assign(values)


def axes(layer):
    """Lists the weights that have units: tuples `(index in layer.weights, axis, config entry)`."""
    position = {id(weight): at for at, weight in enumerate(layer.weights)}
    found = []
    for entry, units in units_of(layer).items():
        for spec in kernels(layer, entry):
            found.append((spec.find(layer), spec.neuron_axes[0], entry))
            if not spec.reads_units and _bias(layer, spec) is not None:
                found.append((_bias(layer, spec), 0, entry))
        for name in units.names("through", layer):
            found += [(weight, -1, entry) for weight in _weights_at(layer, name)]
    return [(position[id(variable)], axis, entry) for variable, axis, entry in found]


def _weights_at(layer, name):
    found = KernelSpec(name).find(layer)
    return keras_compat.weights_of(found) if keras_compat.is_layer(found) else [found]


def kept_part(layer, kept):
    """Returns what is left of a layer with some of its units.

    Args:
        layer: A built composite layer.
        kept: Dict of config entry to a boolean array: which units are kept.

    Returns:
        Tuple of a list of flat indices into each of its weights, and a dict of config entries.
    """
    indices = [np.arange(math.prod(weight.shape)).reshape(weight.shape) for weight in layer.weights]
    for at, axis, entry in axes(layer):
        indices[at] = indices[at].compress(kept[entry], axis)
    return indices, {entry: _scaled(layer, entry, kept[entry]) for entry in kept}


def _scaled(layer, entry, kept):
    """Returns the config entry, which may be a multiple of the number of units, as in a Gemma block."""
    old = layer.get_config()[entry]
    return int(old * int(kept.sum()) // len(kept)) if old != len(kept) else int(kept.sum())


def costs(layer):
    """Lists what weights with units cost: tuples `(config entry, weights, whether it is a kernel)`."""
    names = {id(spec.find(layer)) for spec in layer_types.kernel_specs(layer)}
    return [
        (entry, math.prod(layer.weights[at].shape), id(layer.weights[at]) in names)
        for at, _, entry in axes(layer)
    ]
