"""The state of a training, carried over to the model without the neurons that compaction removes."""

import math

import numpy as np
from absl import logging

from tfap import keras_compat
from tfap.budgets.rounding import Rounding
from tfap.compaction.compact import kept_groups, remove_dead_channels
from tfap.compaction.silent import liveness_of
from tfap.graph.calls import Graph, unwrap
from tfap.graph.evening import evened
from tfap.graph.kernel import neuron_count
from tfap.layers.find import is_pruning_wrapper
from tfap.pruning.prune import prune, strip_pruning


def rounded_up(liveness, round_to):
    """Returns the channel groups that stay so that layers keep multiples: a boolean array."""
    rounding = Rounding(liveness, round_to, lambda kept: evened(liveness, kept))
    return rounding.applied(kept_groups(liveness), np.zeros(liveness.channels.size))


def compacted(trained, pruning_schedule, options, counts=None):
    """The wrapped model without its dead neurons, in the same state of training."""
    stripped = strip_pruning(trained)
    liveness, round_to = liveness_of(stripped, counts), options["round_to"]
    staying = None if round_to == 1 else rounded_up(liveness, round_to)
    compaction = remove_dead_channels(stripped, liveness, staying)
    wrapped = prune(compaction.model, pruning_schedule, **options)
    _copy_pruning_state(trained, wrapped, compaction)
    try:
        _copy_optimizer_state(trained, wrapped, compaction)
    except TypeError as error:
        logging.warning("The optimizer of the compacted model is reset: %s.", error)
    _copy_seeds(trained, wrapped)
    return wrapped


def _copy_pruning_state(trained, compacted, compaction):
    old_layers = dict(Graph(trained).layers())
    for path, new in Graph(compacted).layers():
        old = old_layers.get(path)
        if keras_compat.is_tfap_wrapper(new) and keras_compat.is_tfap_wrapper(old):
            _copy_counts(old, new, path, compaction)
            if is_pruning_wrapper(new) and is_pruning_wrapper(old):
                new.last_update_step.assign(old.last_update_step.numpy())
                new.updates_made.assign(old.updates_made.numpy())
                _copy_masks(old, new, path, compaction)
                _copy_memory(old, new, path, compaction)


def _copy_counts(old, new, path, compaction):
    new.pruning_step.assign(old.pruning_step.numpy())
    counts = old.own_counts()
    if counts is None:
        return
    new.set_counts(counts[_kept_neurons(old, path, compaction, len(counts.counts))])


def _copy_memory(old, new, path, compaction):
    if old.remembers:
        new.carry_memory(old, _kept_neurons(old, path, compaction, len(old.counted().counts)))


def _kept_neurons(wrapper, path, compaction, count):
    """Bool array of the counted neurons of a layer that compaction kept."""
    if getattr(wrapper, "counts_heads", False):
        return _kept_heads(wrapper, path, compaction, count)
    counts_inputs = getattr(wrapper, "criterion", None) and wrapper.criterion.counts == "input"
    kept = compaction.inputs if counts_inputs else compaction.channels
    return kept.get(path, np.ones(count, bool))


def _kept_heads(wrapper, path, compaction, count):
    """Bool array of the query heads that compaction kept, by the kept elements of the kernel of the query."""
    if path not in compaction.weights:
        return np.ones(count, bool)
    _, query, _ = wrapper.kernel_and_mask()[0]  # shape (inputs, heads, dimensions)
    _, heads, _ = np.unravel_index(compaction.weights[path][0], tuple(query.shape))
    return np.isin(np.arange(count), heads)


def _copy_masks(old, new, path, compaction):
    for (spec, kernel, mask), (_, _, new_mask) in zip(old.kernel_and_mask(), new.kernel_and_mask()):
        # A neuron keeps the cost that it had in the given model, although it has fewer inputs.
        fan_in, new_fan_in = (
            math.prod(array.shape) // neuron_count(spec, array.shape) for array in (mask, new_mask)
        )
        new.fan_in_scale[spec.name] = old.fan_in_scale.get(spec.name, 1.0) * fan_in / new_fan_in
        sizes = math.prod(mask.shape), neuron_count(spec, mask.shape)
        new.dense_sizes[spec.name] = old.dense_sizes.get(spec.name, sizes)
        index = next(index for index, weight in enumerate(old.layer.weights) if weight is kernel)
        new_mask.assign(_kept_values(mask.numpy(), path, index, compaction))
    new.zero_biases()


def _kept_values(values, path, index, compaction):
    """The kept part of an array that has the shape of a layer's weight with this index."""
    return values.ravel()[compaction.weights[path][index]] if path in compaction.weights else values


def _copy_optimizer_state(trained, compacted, compaction):
    variable_keys = _trainable_variable_keys(trained)
    old_values = {}
    for variable, index, slot in keras_compat.optimizer_slots(trained):
        old_values[None if index is None else variable_keys[index], slot] = variable.numpy()
    variable_keys = _trainable_variable_keys(compacted)
    for variable, index, slot in keras_compat.optimizer_slots(compacted):
        key = None if index is None else variable_keys[index]
        if (key, slot) not in old_values:
            continue  # the slot of a bias that compaction added
        value = old_values[key, slot]
        if key is not None:
            value = _kept_values(value, *key, compaction)
        if value.shape == tuple(variable.shape):
            variable.assign(value)


def _trainable_variable_keys(model):
    """`(path, index among the layer's weights)` of every trainable variable, in order."""
    keys = {
        id(weight): (path, index)
        for path, layer in Graph(model).layers()
        if keras_compat.is_layer(layer)
        for index, weight in enumerate(unwrap(layer).weights)
    }
    return [keys.get(id(variable), ("", index)) for index, variable in enumerate(model.trainable_variables)]


def _copy_seeds(trained, compacted):
    old_states, new_states = keras_compat.SeedStates(trained), keras_compat.SeedStates(compacted)
    if old_states and len(old_states) == len(new_states):
        new_states.write(old_states.read())
