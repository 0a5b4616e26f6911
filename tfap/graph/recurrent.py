"""Recurrent layers: which of their units depend on which inputs, and on which units of the step before.

The kernels of SimpleRNN, GRU and LSTM have the gates of all units along their last axis:

    kernel (inputs, gates * units), recurrent kernel (units, gates * units), bias (gates * units,)

Those of a ConvLSTM have a window in front of these axes, and its units are its filters.

GRU with `reset_after=True` has a bias for each kernel, shape `(2, gates * units)`. A unit is removed with its
column in every gate, its row of the recurrent kernel, and its bias.

A unit is zero at every time step, from zero initial states, if its candidate is: the candidate gate reads
nothing but units that are zero, its bias is zero, and the activation of 0 is 0. The other gates then multiply
zeros: h = o tanh(c) with c = f c + i g in an LSTM, h = z h + (1 - z) g in a GRU.
"""

import numpy as np

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.activation import is_elementwise
from tfap.graph.linear import LinearMap, is_uniform, kernel_values, multiply, without_prefix

_CANDIDATE = {1: 0, 3: 2, 4: 2}  # the index of the candidate gate, by the number of gates


def from_layer(layer, masks=None):
    """Makes the `LinearMap` of a recurrent layer; see `linear_maps.from_layer`."""
    return Bidirectional(layer, masks) if _is_bidirectional(layer) else Recurrent(layer, masks)


def _is_bidirectional(layer):
    return hasattr(layer, "forward_layer")


def layers_of(layer):
    """Lists the layer itself, or both layers of a Bidirectional."""
    return [layer.forward_layer, layer.backward_layer] if _is_bidirectional(layer) else [layer]


def is_concatenated(layer):
    """Returns whether the output of a Bidirectional has channels of its own for each direction."""
    return _is_bidirectional(layer) and layer.merge_mode == "concat"


def by_output(layer, values, outputs):
    """Returns the entries of an array, one per unit of the first output, for each output of a call.

    Further outputs are the last states, with `return_state=True`: those of the forward layer first.

    Args:
        layer: A recurrent layer.
        values: Array, shape `(channels of the first output,)`.
        outputs: Integer. The number of outputs.
    """
    if not is_concatenated(layer):
        return [values] * outputs
    states = (outputs - 1) // 2
    forward, backward = np.split(values, 2)
    return [values, *[forward] * states, *[backward] * states]


def unit_count(layer):
    """Returns the number of units of a SimpleRNN, GRU or LSTM, or of filters of a ConvLSTM."""
    return getattr(layer, layer_types.of(layer).units)


def why_not_analyzed(layer, call):
    """Returns which recurrent layers tfap does not analyze, such as this one. None if it does.

    Args:
        layer: The layer of a row with `recurrent`.
        call: Its `Call`.
    """
    args, keywords = call.arguments
    given = [value for value in call.inputs[1:] if value is not keywords.get("mask")]
    if given or len(args) > 1 or keywords.get("initial_state") is not None:
        return "called on initial states"
    inner = layers_of(layer)
    if any(each.stateful for each in inner):
        return "with stateful=True"
    if any(getattr(each, "data_format", None) == "channels_first" for each in inner):
        return "with data_format='channels_first'"
    if _is_bidirectional(layer):
        if not all(layer_types.of(each).recurrent and hasattr(each, "cell") for each in inner):
            return "around layers of other types than SimpleRNN, GRU, LSTM and ConvLSTM"
        if layer.merge_mode is None:
            return "with merge_mode=None"
        if type(inner[0]) is not type(inner[1]) or unit_count(inner[0]) != unit_count(inner[1]):
            return "with different layers for the two directions"
    if not all(_gates_are_elementwise(each.cell) for each in inner):
        return "with activations that may combine units"
    if call.training and any(each.dropout or each.recurrent_dropout for each in inner):
        return "with dropout that are always called with training=True"
    expected = [id(weight) for each in inner for weight in _weights_of(each.cell)]
    if expected != [id(weight) for weight in layer.weights]:
        return "with other weights than kernels and biases"
    return None


def _gates_are_elementwise(cell):
    gate = getattr(cell, "recurrent_activation", None)
    return is_elementwise(cell) and (gate is None or is_elementwise(_Gate(gate)))


class _Gate:
    """What `is_elementwise` reads of a layer, for the activation of the gates."""

    def __init__(self, activation):
        self.activation = activation


def _weights_of(cell):
    return [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]


class Recurrent(LinearMap):
    """A SimpleRNN, GRU, LSTM, or ConvLSTM.

    Attributes:
        always_zero: Boolean array, shape `(units,)`. Which units are zero for every input, as far as
            `find_zero` has found.
    """

    def __init__(self, layer, masks=None):
        self.layer = layer
        specs = layer_types.kernel_specs(layer)
        self._gates = specs[0].gates
        (self.kernel, reads), (self.recurrent_kernel, recurs) = (
            kernel_values(spec.find(layer), spec.name, masks) for spec in specs
        )
        self.bias = np.array(layer.cell.bias) if layer.cell.use_bias else None
        self.folds_constants = self.bias is not None and is_uniform(layer, self.kernel.shape[:-2])
        self._reads, self._recurs = (
            self._by_gate(alive.any(axis=tuple(range(alive.ndim - 2)))) for alive in (reads, recurs)
        )
        self.nonzero = self._reads.any(axis=1)
        self.always_zero = np.zeros(self.nonzero.shape[1], bool)

    def _by_gate(self, values):
        """Reshapes the last axis of an array, the gates of all units, to `(gates, units)`."""
        return values.reshape(*values.shape[:-1], self._gates, -1)

    def _columns(self, units):
        return np.tile(units, self._gates)

    # -- which units depend on which ---------------------------------------------------------------------

    def find_zero(self, zero_inputs):
        """Finds the units that are zero at every time step, for `always_zero`.

        Args:
            zero_inputs: Boolean array, shape `(inputs,)`. The input channels that are always zero.

        Returns:
            The boolean array, one entry per output channel.
        """
        candidate = _CANDIDATE[self._gates]
        zero = ~self._reads[~zero_inputs, candidate].any(axis=0)
        if self.bias is not None:
            zero &= ~self._by_gate(self.bias)[..., candidate, :].reshape(-1, len(zero)).any(axis=0)
        if not _is_zero_at_zero(self.layer):
            zero[:] = False
        while True:  # all of them are zero at the first step, and stay zero as long as they read such units
            before = zero
            zero = before & ~self._recurs[~before, candidate].any(axis=0)
            if np.array_equal(zero, before):
                break
        self.always_zero = zero
        return zero

    def zero_by_output(self, outputs):
        """Lists which channels of each of the outputs of a call are always zero."""
        return [self.always_zero] * outputs

    @property
    def recurrence(self):
        """Which units read which at the step before: boolean array, shape `(units read, units)`."""
        return self._recurs.any(axis=1) & ~self.always_zero[:, None]

    # -- weights -----------------------------------------------------------------------------------------

    @property
    def kernels(self):
        return [self.kernel, self.recurrent_kernel]

    @property
    def inputs_matrix(self):
        """The weights of the inputs in all gates: array, shape `(..., inputs, gates * units)`."""
        return self.kernel

    def set_inputs_matrix(self, matrix):
        """Writes `inputs_matrix`."""
        self.kernel[...] = matrix

    def zero(self, arrays, inputs, outputs):
        kernel, recurrent_kernel = arrays
        kernel[..., inputs, :] = 0
        kernel[..., self._columns(outputs)] = 0
        recurrent_kernel[..., outputs, :] = 0
        recurrent_kernel[..., self._columns(outputs)] = 0

    def clear_recurrence(self, outputs):
        """Sets the weights to zero with which all units read some units, a boolean array."""
        self.recurrent_kernel[..., outputs, :] = 0

    def _scale_inputs(self, factors):
        multiply(self.kernel, -2, factors)

    def _take(self, arrays, inputs, outputs):
        kernel, recurrent_kernel, *bias = arrays
        columns = self._columns(outputs)
        kernels = [kernel[..., inputs, :][..., columns], recurrent_kernel[..., outputs, :][..., columns]]
        return [*kernels, *(values[..., columns] for values in bias)]

    def fold(self, inputs, values, outputs):
        kernel = self.kernel.astype(np.float64).sum(axis=tuple(range(self.kernel.ndim - 2)))
        added = values[inputs] @ kernel[inputs]
        self.add_to_bias(added * self._columns(outputs))

    def add_to_bias(self, added):
        """Adds to the bias of the inputs: array, shape `(gates * units,)`."""
        if added.any():
            bias = self.bias.astype(np.float64)
            if bias.ndim > 1:  # of the inputs, and of the recurrence
                bias[0] += added
            else:
                bias += added
            self.bias = bias.astype(self._dtype)

    def weights(self):
        return [*self.kernels, *([] if self.bias is None else [self.bias])]

    def biases(self):
        return [] if self.bias is None else [(self.layer.cell.bias, self.bias)]

    def costs(self):
        """Lists what kernels cost: `(whether it reads inputs, slice of the outputs, weights)`."""
        every = slice(None)
        return [(True, every, self.kernel.size), (False, every, self.recurrent_kernel.size)]

    def config(self, inputs, outputs):
        return {layer_types.of(self.layer).units: int(outputs.sum())}


class Bidirectional(LinearMap):
    """Two recurrent layers of as many units: unit j of one is removed together with unit j of the other.

    Output channels are the units of the forward layer, then those of the backward layer, if they are
    concatenated. If they are merged, channel j depends on both units j.
    """

    def __init__(self, layer, masks=None):
        self.layer = layer
        self._concatenated = is_concatenated(layer)
        self._directions = [
            Recurrent(each, without_prefix(f"{name}.", masks))
            for name, each in zip(("forward_layer", "backward_layer"), layers_of(layer))
        ]
        self.folds_constants = all(each.folds_constants for each in self._directions)
        self.nonzero = self._joined([each.nonzero for each in self._directions])

    def _joined(self, arrays):
        """Joins boolean arrays of both directions, with the units on the last axis."""
        return np.concatenate(arrays, axis=-1) if self._concatenated else np.logical_or(*arrays)

    def _split(self, outputs):
        return np.split(outputs, 2) if self._concatenated else [outputs, outputs]

    def _pairs(self, arrays):
        half = len(arrays) // 2
        return zip(self._directions, (arrays[:half], arrays[half:]))

    @property
    def bias(self):
        """The biases in one array. None if the layers have none."""
        biases = [each.bias for each in self._directions if each.bias is not None]
        return np.concatenate(biases, axis=-1) if biases else None

    def find_zero(self, zero_inputs):
        zero = [each.find_zero(zero_inputs) for each in self._directions]
        if self._concatenated:
            return np.concatenate(zero)
        return np.logical_or(*zero) if self.layer.merge_mode == "mul" else np.logical_and(*zero)

    def zero_by_output(self, outputs):
        forward, backward = (each.always_zero for each in self._directions)
        if self._concatenated:
            first = np.concatenate([forward, backward])
        else:
            first = forward | backward if self.layer.merge_mode == "mul" else forward & backward
        states = (outputs - 1) // 2
        return [first, *[forward] * states, *[backward] * states]

    @property
    def recurrence(self):
        forward, backward = (each.recurrence for each in self._directions)
        if not self._concatenated:
            return forward | backward
        other = np.zeros_like(forward)
        return np.block([[forward, other], [other, backward]])

    @property
    def kernels(self):
        return [kernel for each in self._directions for kernel in each.kernels]

    @property
    def inputs_matrix(self):
        return np.concatenate([each.inputs_matrix for each in self._directions], axis=-1)

    def set_inputs_matrix(self, matrix):
        for each, part in zip(self._directions, np.split(matrix, 2, axis=-1)):
            each.set_inputs_matrix(part)

    def zero(self, arrays, inputs, outputs):
        for (each, its), part in zip(self._pairs(arrays), self._split(outputs)):
            each.zero(its, inputs, part)

    def clear_recurrence(self, outputs):
        for each, part in zip(self._directions, self._split(outputs)):
            each.clear_recurrence(part)

    def _scale_inputs(self, factors):
        for each in self._directions:
            each.scale(factors, None)

    def _take(self, arrays, inputs, outputs):
        return [
            array
            for (each, its), part in zip(self._pairs(arrays), self._split(outputs))
            for array in each._take(its, inputs, part)
        ]

    def fold(self, inputs, values, outputs):
        for each, part in zip(self._directions, self._split(outputs)):
            each.fold(inputs, values, part)

    def add_to_bias(self, added):
        for each, part in zip(self._directions, np.split(added, 2)):
            each.add_to_bias(part)

    def weights(self):
        return [array for each in self._directions for array in each.weights()]

    def biases(self):
        return [pair for each in self._directions for pair in each.biases()]

    def costs(self):
        size = self._directions[0].nonzero.shape[1]
        parts = [slice(size), slice(size, None)] if self._concatenated else [slice(None)] * 2
        return [
            (reads_inputs, part, weights)
            for each, part in zip(self._directions, parts)
            for reads_inputs, _, weights in each.costs()
        ]

    def config(self, inputs, outputs):
        units, config = int(self._split(outputs)[0].sum()), self.layer.get_config()
        forward = self.layer.forward_layer
        return {
            name: keras_compat.inner_config(config[name], {layer_types.of(forward).units: units})
            for name in ("layer", "backward_layer")
            if config.get(name) is not None
        }


def _is_zero_at_zero(layer):
    """Returns whether the activation of the candidates is 0 at 0."""
    activation = layer.cell.activation
    if activation is None:
        return True
    return not keras_compat.to_numpy(activation(keras_compat.float_tensor(layer, np.zeros((1, 1))))).any()
