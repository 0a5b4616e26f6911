"""Attention layers as least-squares problems: their projections by what they read.

The queries, keys and values are sums of the channels that the layer consumes, and its output is a sum of what
its heads mix from the values. Removing a head changes only the latter: the output projection is refitted, so
that the heads that are kept take over what the removed ones contributed.
"""

from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.compensation.consumers import Consumer
from tfap.compensation.moments import SecondMoments
from tfap.graph.attention import consumed
from tfap.keras_compat import eager


class AttentionConsumer(Consumer):
    """An attention layer, by what its query, key and value read, and by what its heads mix.

    Attributes:
        groups: Integer array. The groups of the channels that it consumes, if they are known, in the order of
            the `Attention` map, then those of its heads.
    """

    def forget(self):
        super().forget()
        self._copy: Any = None

    def _units(self):
        linear_map = self._map
        count = len(self.groups) - linear_map.heads
        per_head = np.prod(linear_map.kernels[3].shape[:2]) // linear_map.heads
        units = np.concatenate([self.groups[:count], self.groups[count:].repeat(per_head)])
        self._roles = linear_map.by_role(np.arange(count)) if count else []
        return units, [*self._roles, np.arange(count, len(units))]

    @property
    def _kernels(self):
        return [*range(3), 3] if self._roles else [3]

    def matrix(self, block):
        kernel = self._map.kernels[self._kernels[block]]
        return kernel.reshape(len(self.blocks[block]), -1).astype(np.float64)

    def _set_matrix(self, block, matrix):
        kernel = self._map.kernels[self._kernels[block]]
        kernel[...] = matrix.reshape(kernel.shape)

    # -- what it consumes ------------------------------------------------------------------------------

    @property
    def has_bias(self):
        return self._map.folds_constants

    def consumed(self, call, values, filled):
        args, kwargs = filled
        roles = [values[value] for value in consumed(call)] if self._roles else []
        return [*roles, self._mixed(args, kwargs, call.training)]

    def _mixed(self, args, kwargs, training):
        """Computes what the heads mix from the values: array, shape `(..., units)`.

        A copy of the layer computes it, with an output projection that copies its units.
        """
        shape = self._map.kernels[3].shape[:2]
        units, config = int(np.prod(shape)), self.layer.get_config()
        kwargs = {name: value for name, value in kwargs.items() if name != "return_attention_scores"}
        if self._copy is None:
            changes = {"output_shape": (units,)} if "output_shape" in config else {}
            self._copy = keras_compat.from_config(self.layer, changes)
            eager.call_in_inference(self._copy, args, kwargs, training)  # makes its weights
        width, parts = self._copy.get_weights()[-1].shape[-1], []
        for start in range(0, units, width):
            self._copy.set_weights(_copying(self._map, start, width))
            mixed = keras_compat.to_numpy(eager.call_in_inference(self._copy, args, kwargs, training))
            parts.append(mixed[..., : units - start])
        return np.concatenate(parts, axis=-1)

    def add(self, tensor):
        if not self.moments:
            self.moments = [SecondMoments(len(units)) for units in self.blocks]
        for moments, part in zip(self.moments, tensor):
            values = keras_compat.to_numpy(part)
            values = values.reshape(-1, values.shape[-1])
            self._add_rows(moments, np.asarray(values, np.result_type(values.dtype, np.float32)))

    # -- the refit -------------------------------------------------------------------------------------

    def write(self, matrices, problems, fold):
        changes = [problem.bias_change(matrix) for problem, matrix in zip(problems, matrices)]
        for at, (matrix, change) in enumerate(zip(matrices, changes)):
            self._set_matrix(at, matrix)
            if fold and self.has_bias:
                self._map.add_to_bias_of(self._kernels[at], change)
        self.layer.set_weights(self._map.weights())

    def layers_written(self):
        return [self.layer]

    def clear(self, removed):
        count = len(self.groups) - self._map.heads
        if count:
            self._map.clear(removed[:count], np.zeros(self._map.nonzero.shape[1], bool))
        self._map.clear_heads(removed[count:])
        self.layer.set_weights(self._map.weights())


def _copying(linear_map, start, width):
    """Returns the weights with an output projection that copies `width` units from `start` on."""
    *weights, kernel = linear_map.weights() if linear_map.bias is None else linear_map.weights()[:-1]
    shape = kernel.shape[:2]
    projection = np.eye(int(np.prod(shape)), width, -start).reshape(*shape, width).astype(kernel.dtype)
    bias: list[Any] = [] if linear_map.bias is None else [np.zeros(width, kernel.dtype)]
    return [*weights, projection, *bias]
