"""Neurons that nothing flows into or nothing reads, in training: what is left of their weights is pruned.

Such a neuron is constant, or does not matter (the redundant weights of Ganguli and Chong, Algorithms
17(1):48, 2024, who look one layer ahead in one prune and drop the constant). Here whole chains of them go,
and a constant moves into the biases of the layers that read it. Only kernels are masked: the bias and the
BatchNormalization of a neuron that does not matter stay as they are.
"""

import numpy as np

from tfap import keras_compat
from tfap.graph.calls import Graph
from tfap.graph.layer_types import kernel_specs
from tfap.graph.liveness import Liveness
from tfap.layers.find import prunable_layers


def remove(model, wrappers=None):
    """Prunes the disconnected weights of the layers that are wrapped with `remove_disconnected=True`.

    The model gives the same outputs in inference mode. Where that cannot be done exactly weights stay:
    `unremovable_neurons` says which and why. There is nothing left for a second call.

    Args:
        model: a wrapped Sequential or Functional model of either Keras.
        wrappers: those of its pruning wrappers that are pruned at all; None means all.

    Returns:
        How many weights were pruned.

    Raises:
        ValueError: the order of the model's layers is unknown; see `check`.

    >>> import keras, numpy, tfap
    >>> layers = [keras.layers.Dense(3, "relu"), keras.layers.Dense(3, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> model = tfap.prune(model, 0.5, "magnitude", remove_disconnected=True)
    >>> first, second = tfap.prunable_layers(model)
    >>> _ = first.mask.assign(numpy.repeat([[0, 1, 1]], 4, axis=0))  # nothing flows into neuron 0
    >>> remove(model)
    3
    >>> second.mask.numpy()
    array([[0, 0, 0],
           [1, 1, 1],
           [1, 1, 1]], dtype=uint8)
    """
    wrappers = prunable_layers(model) if wrappers is None else wrappers
    if not any(_asks(wrapper) for wrapper in wrappers):
        return 0
    check(model, wrappers)
    pruned = _by_path(model, wrappers)
    found = _liveness(model, pruned)
    lost = sum(_remove(found, path, wrapper) for path, wrapper in pruned.items() if found.may_change(path))
    # What constants make of a shared layer is seen only once its weights for them are gone.
    shared = any(len(found.graph.calls_of[path]) > 1 for path in found.linear_maps)
    return lost + (remove(model, wrappers) if lost and shared else 0)


def unremovable_neurons(model):
    """What `remove` had to leave: constant neurons of pruned layers that something goes on reading.

    Args:
        model: a wrapped Sequential or Functional model of either Keras.

    Returns:
        A list of `liveness.Kept`: path, how many of the layer's neurons or channels, and the reason.

    Raises:
        ValueError: the order of the model's layers is unknown; see `check`.

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, "relu", name="a"), keras.layers.Dense(1, name="b")]
    >>> model = tfap.prune(keras.Sequential(layers), 0.5, "magnitude", remove_disconnected=True)
    >>> _ = tfap.prunable_layers(model)[0].mask.assign(numpy.zeros((4, 3)))
    >>> [(one.path, one.channels, one.reason) for one in tfap.unremovable_neurons(model)]
    [('a', 3, "'b' consumes it and is not pruned with remove_disconnected")]
    """
    wrappers = prunable_layers(model)
    check(model, wrappers)
    pruned = _by_path(model, wrappers)
    return [one for one in _liveness(model, pruned).kept() if one.path in pruned]


def check(model, wrappers):
    """Raises ValueError if a wrapper asks for `remove_disconnected` in a model whose graph is unknown."""
    if any(_asks(wrapper) for wrapper in wrappers) and not keras_compat.is_graph_model(model):
        raise ValueError(
            f"remove_disconnected=True needs a Sequential or Functional model: '{model.name}' is subclassed, "
            "so nobody knows which of its layers read which."
        )


def _asks(wrapper):
    return wrapper.settings.remove_disconnected


def _by_path(model, wrappers):
    """`{path: wrapper}` of those that are layers of the graph, not parts of other layers."""
    layers = Graph(model)
    return {layers.path_of(wrapper): wrapper for wrapper in wrappers if layers.path_of(wrapper)}


def _liveness(model, pruned):
    masks = {
        path: {spec.name: mask.numpy() for spec, _, mask in wrapper.kernel_and_mask()}
        for path, wrapper in pruned.items()
    }
    asking = {path for path, wrapper in pruned.items() if _asks(wrapper)}
    return Liveness(model, masks=masks, may_change=asking)


def _remove(found, path, wrapper):
    """Writes what is left of one layer; returns how many weights it has lost."""
    matrix = found.linear_map(path)
    if matrix is None:
        return 0  # of a kind that is not seen through
    bias, gone = matrix.bias, _gone(found, path)
    found.folded(path, gone)
    stay = [np.ones(kernel.shape, bool) for kernel in matrix.kernels]
    matrix.zero(stay, gone, ~found.alive[found.groups(path)[1]])
    stay = {spec.name: marks for spec, marks in zip(kernel_specs(wrapper.layer), stay)}
    lost = sum(_write(kernel, mask, stay[spec.name]) for spec, kernel, mask in wrapper.kernel_and_mask())
    if matrix.bias is not bias:
        wrapper.layer.bias.assign(matrix.bias)
    return lost


def _gone(found, path):
    """Which inputs of a layer do not matter to it: constants that its bias takes, and what is dead."""
    read, foldable = found.groups(path)[0], found.foldable_inputs(path)
    gone = np.zeros(len(found.linear_map(path).nonzero), bool)
    if read is not None:
        gone |= ~found.alive[read]
    if foldable is not None:
        gone |= foldable.known
    return gone


def _write(kernel, mask, stay):
    before = mask.numpy()
    after = before * stay
    lost = int(np.count_nonzero(before) - np.count_nonzero(after))
    if lost:
        mask.assign(after)
        kernel.assign(kernel.numpy() * after)
    return lost
