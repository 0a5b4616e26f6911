"""Pruning of disconnected neurons in training: the other weights of neurons that nothing feeds or reads.

Such a neuron is constant, or does not matter (the redundant weights of Ganguli and Chong, Algorithms
17(1):48, 2024, who look one layer ahead in one update and drop the constant). Here whole chains of them are
pruned, and a constant is folded into the biases of the layers that read it. Only kernels are masked: the bias
and the BatchNormalization of a neuron that does not matter are unchanged.
"""

import contextlib
import dataclasses

import numpy as np

from tfap import keras_compat
from tfap.graph.layer_types import kernel_specs
from tfap.graph.liveness import Liveness
from tfap.keras_compat.types import Model
from tfap.layers.find import find_wrappers, prunable_layers


def remove(model, wrappers=None):
    """Prunes the disconnected weights of the layers that are wrapped with `remove_disconnected=True`.

    The model's outputs in inference mode do not change. Weights for which that is not exactly possible are
    kept; `unremovable_neurons` lists their neurons. A second call prunes nothing.

    Args:
        model: A wrapped model of either Keras. Of a subclassed model, the Sequential and Functional models
            that it holds.
        wrappers: A list of its pruning wrappers that are pruned at all. None means all.

    Returns:
        The number of weights that were pruned, an int.

    Raises:
        ValueError: If a wrapper of a subclassed model asks for it and is in no such model.

    Example:

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
    return sum(_remove_in(part, members) for part, members in _by_part(model, wrappers).items())


@contextlib.contextmanager
def undone_on_error(wrappers):
    """Restores wrappers and their layers if the block raises, unless `remove` cannot change them."""
    asked = any(_asks(wrapper) for wrapper in wrappers)
    distinct = {id(wrapper): wrapper for wrapper in wrappers}.values() if asked else ()
    before = [(variable, variable.numpy()) for wrapper in distinct for variable in wrapper.variables]
    try:
        yield
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise


def _remove_in(part, members):
    """Prunes the disconnected weights of a part of the model; returns how many."""
    found = _liveness(part, members)
    changing = [one for one in members if found.may_change(one.path_in_part)]
    lost = sum(_remove(found, one.path_in_part, one.wrapper) for one in changing)
    # What constants do to a layer with several calls shows only after its weights for them are pruned.
    repeated = any(len(found.graph.calls_of[path]) > 1 for path in found.linear_maps)
    return lost + (_remove_in(part, members) if lost and repeated else 0)


def unremovable_neurons(model: Model) -> list:
    """Lists the constant neurons of pruned layers that `remove_disconnected` cannot remove.

    Args:
        model: A wrapped model of either Keras. Of a subclassed model, the Sequential and Functional models
            that it holds.

    Returns:
        A list of objects with the `path` of a layer, how many of its neurons or `channels`, and the `reason`.

    Raises:
        ValueError: If a wrapper of a subclassed model asks for it and is in no such model.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, "relu", name="a"), keras.layers.Dense(1, name="b")]
    >>> model = tfap.prune(keras.Sequential(layers), 0.5, "magnitude", remove_disconnected=True)
    >>> _ = tfap.prunable_layers(model)[0].mask.assign(numpy.zeros((4, 3)))
    >>> [(one.path, one.channels, one.reason) for one in tfap.unremovable_neurons(model)]
    [('a', 3, "'b' consumes it and is not pruned with remove_disconnected")]
    """
    wrappers = prunable_layers(model)
    check(model, wrappers)
    return [
        dataclasses.replace(kept, path=part.prefix + kept.path)
        for part, members in _by_part(model, wrappers).items()
        for kept in _liveness(part, members).kept()
        if kept.path in {one.path_in_part for one in members}
    ]


def check(model, wrappers):
    """Raises ValueError if a wrapper asks for `remove_disconnected` and no graph is known to have it."""
    asking = {id(wrapper) for wrapper in wrappers if _asks(wrapper)}
    if not asking or keras_compat.is_graph_model(model):
        return
    for one in find_wrappers(model):
        if id(one.wrapper) in asking and one.part is None:
            raise ValueError(
                f"remove_disconnected=True needs a Sequential or Functional model: '{model.name}' is "
                f"subclassed, and '{one.path}' is in no such model, so the order of the layers is unknown."
            )


def _asks(wrapper):
    return wrapper.settings.remove_disconnected


def _by_part(model, wrappers):
    """Returns `{Part: FoundWrappers}` of those of the wrappers that are in the graph of a part."""
    wanted, members = {id(wrapper) for wrapper in wrappers}, {}
    for one in find_wrappers(model):
        if id(one.wrapper) in wanted and one.part is not None:
            members.setdefault(one.part, []).append(one)
    return members


def _liveness(part, members):
    masks = {
        one.path_in_part: {spec.name: mask.numpy() for spec, _, mask in one.wrapper.kernel_and_mask()}
        for one in members
    }
    # The output of another part may depend on a neuron that is disconnected in this one.
    asking = {one.path_in_part for one in members if _asks(one.wrapper) and not one.is_shared}
    return Liveness(part.model, masks=masks, may_change=asking)


def _remove(found, path, wrapper):
    """Prunes the disconnected weights of one layer; returns how many."""
    matrix = found.linear_map(path)
    if matrix is None:
        return 0  # tfap cannot analyze this type
    before, gone = matrix.biases(), _gone(found, path)
    found.folded(path, gone)
    stay = [np.ones(kernel.shape, bool) for kernel in matrix.kernels]
    matrix.zero(stay, gone, ~found.alive[found.groups(path)[1]])
    stay = {spec.name: marks for spec, marks in zip(kernel_specs(wrapper.layer), stay)}
    lost = sum(_write(kernel, mask, stay[spec.name]) for spec, kernel, mask in wrapper.kernel_and_mask())
    for (_, old), (variable, bias) in zip(before, matrix.biases()):
        if bias is not old:
            variable.assign(bias)
    return lost


def _gone(found, path):
    """Marks the inputs that a layer does not need: constants to be folded into its bias, and dead ones."""
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
