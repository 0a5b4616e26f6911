"""The linear maps of attention layers: which dimensions, heads and outputs depend on what.

A head reads its inputs with its part of the kernels of query, key and value, and the output channels read the
head with its part of the output kernel: see `attention.py` for their shapes. In GroupedQueryAttention several
query heads share a key and value head. They are one head here, because Keras needs as many of them for each
key and value head.

The dimensions of a head have no order, so each head can lose others, as long as all heads lose as many. The
product of queries and keys is divided by sqrt(key_dim). Fewer dimensions change that, so the query kernel and
bias are multiplied by sqrt(kept / key_dim).

Keras 3 on TensorFlow takes a bias of shape (heads, 1) for one of as many steps. So heads keep two dimensions
where there are as many steps, or where the number of steps is undefined: see `misread.py`.
"""

import math

import numpy as np

from tfap import keras_compat
from tfap.graph import layer_types, misread
from tfap.graph.attention import ROLES, consumed, has_bias, variables
from tfap.graph.linear import LinearMap, at_least, kernel_values, multiply


class Attention(LinearMap):
    """An attention layer. Its input channels are those of the query, then of the key, then of the value.

    Attributes:
        heads: Integer. The number of heads that can be removed: those of keys and values.
        kept_heads: Boolean array, shape `(heads,)`. The heads that `kept` and `config` keep.
        returns_scores: Boolean. Whether a call returns the scores of all heads.
        steps: List of one set for each of `ROLES`: the sizes of axis 1 in the calls. None if undefined.
        constant_heads: Boolean array, shape `(heads,)`. The heads whose values are nonzero constants.
    """

    def __init__(self, layer, masks=None):
        self.layer, self._training = layer, masks is not None
        pairs = [
            kernel_values(spec.find(layer), spec.name, masks) for spec in layer_types.kernel_specs(layer)
        ]
        self._kernels, self._marks = ([pair[at] for pair in pairs] for at in (0, 1))
        self._bias_values = None
        if has_bias(layer):
            self._bias_values = [np.array(bias) for bias in variables(layer)[1::2]]
        self.folds_constants = self._bias_values is not None
        self.heads = self._kernels[1].shape[1]
        self.kept_heads = np.ones(self.heads, bool)
        self.returns_scores = False
        self.steps = [set(), set(), set()]
        sizes = [kernel.shape[0] for kernel in self._kernels[:3]]
        self._stops = np.cumsum(sizes)[:-1]
        self.find_used(np.zeros(sum(sizes), bool), np.zeros(sum(sizes)))

    def note_calls(self, calls):
        """Notes what the calls of the layer are like."""
        self.returns_scores = any(len(call.outputs) > 1 for call in calls)
        for call in calls:
            for value, steps in zip(consumed(call), self.steps):
                steps.add(value.shape[1])

    def by_role(self, values):
        """Splits an array with one entry per input channel: a list with one part for each of `ROLES`."""
        return np.split(values, self._stops)

    def _by_head(self, arrays):
        """Reshapes the query to (inputs, heads, repeats, key_dim), the output to (heads, repeats, ...)."""
        query, key, value, output = arrays
        query = query.reshape(len(query), self.heads, -1, query.shape[-1])
        return query, key, value, output.reshape(self.heads, -1, *output.shape[1:])

    # -- what depends on what ----------------------------------------------------------------------------

    def find_used(self, known, constants):
        """Finds the dimensions of each head that have an effect, for inputs of which some are constant.

        Args:
            known: Boolean array, shape `(inputs,)`. The inputs that are constants and folded into the biases.
            constants: Float array of the same shape. The constants.
        """
        query, key, value, output = self._by_head(self._marks)
        varying = self.by_role(~known)
        queries, keys, values = (
            part[at].any(axis=0) for part, at in zip((query, key, value), varying)
        )  # (heads, repeats, key_dim), (heads, key_dim), (heads, value_dim)
        fixed = [self._constant_part(at, known, constants) for at in (0, 2)]
        queries |= fixed[0].reshape(queries.shape)
        self._key_used = keys & queries.any(axis=1)
        self._value_used = (values | fixed[1]) & output.any(axis=(1, 3))
        varying = (self._value_used & values).any(axis=1)
        self.constant_heads = self._value_used.any(axis=1) & ~varying

    def _constant_part(self, at, known, constants):
        """Returns where the bias of a projection and the constants that it reads are not zero, or may be."""
        shape = self._kernels[at].shape[1:]
        if self._bias_values is None:
            return np.zeros(shape, bool)
        if self._training:
            return np.ones(shape, bool)
        part, values = self.by_role(known)[at], self.by_role(constants)[at]
        used = part & (values != 0)
        added = np.tensordot(values[used], self._kernels[at][used].astype(np.float64), 1)
        return self._bias_values[at] + added != 0

    @property
    def reads(self):
        """Which heads depend on which inputs: boolean array, shape `(inputs, heads)`."""
        query, key, value, _ = self._by_head(self._marks)
        parts = [
            (query & self._key_used[:, None]).any(axis=(2, 3)),
            (key & self._key_used).any(axis=2),
            (value & self._value_used).any(axis=2),
        ]
        return np.concatenate(parts)

    @property
    def head_outputs(self):
        """Which outputs depend on which heads: boolean array, shape `(heads, outputs)`."""
        output = self._by_head(self._marks)[3]
        return (output & self._value_used[:, None, :, None]).any(axis=(1, 2))

    @property
    def nonzero(self):
        return self.reads @ self.head_outputs

    # -- weights -----------------------------------------------------------------------------------------

    @property
    def bias(self):
        """The bias of the output projection."""
        return None if self._bias_values is None else self._bias_values[3]

    @property
    def kernels(self):
        return self._kernels

    def zero(self, arrays, inputs, outputs):
        for kernel, part in zip(arrays, self.by_role(inputs)):
            kernel[part] = 0
        arrays[3][..., outputs] = 0

    def clear_outputs(self, outputs):
        none = np.zeros(self.reads.shape[0], bool)
        self.zero(self._kernels, none, outputs)
        self.zero(self._marks, none, outputs)
        if self._bias_values is not None:
            self._bias_values[3] = np.where(outputs, self._dtype.type(0), self.bias)

    def clear_heads(self, heads):
        """Sets all weights and biases of some heads to zero, a boolean array."""
        biases = [None] * 3 if self._bias_values is None else self._bias_values[:3]
        query, key, value, output = self._by_head(self._kernels)
        for kernel in (query, key, value):
            kernel[:, heads] = 0
        output[heads] = 0
        for bias in biases:
            if bias is not None:
                bias.reshape(self.heads, -1)[heads] = 0

    def scale(self, inputs, outputs):
        if inputs is not None:
            for kernel, factors in zip(self._kernels, self.by_role(inputs)):
                multiply(kernel, 0, factors)
        if outputs is not None:
            multiply(self._kernels[3], -1, outputs)
            if self._bias_values is not None:
                self._bias_values[3] = (self.bias * outputs).astype(self._dtype)

    def fold(self, inputs, values, outputs):
        parts = zip(self.by_role(inputs), self.by_role(values))
        for at, (part, constants) in enumerate(parts):
            added = np.tensordot(constants[part], self._kernels[at][part].astype(np.float64), 1)
            if added.any():
                self.add_to_bias_of(at, added)

    def add_to_bias_of(self, at, added):
        """Adds to the bias of one projection: of the query, key, value, or output.

        Args:
            at: Integer. The position of its kernel in `kernels`.
            added: Array of as many elements as the bias.
        """
        bias = self._bias_values[at]
        self._bias_values[at] = (bias + added.reshape(bias.shape)).astype(self._dtype)

    @property
    def _dtype(self):
        return self._kernels[0].dtype

    def weights(self):
        if self._bias_values is None:
            return self._kernels
        return [array for pair in zip(self._kernels, self._bias_values) for array in pair]

    def biases(self):
        return [] if self.bias is None else list(zip(variables(self.layer)[1::2], self._bias_values))

    # -- the kept part -----------------------------------------------------------------------------------

    def kept(self, inputs, outputs):
        """As in `LinearMap`. Also scales the query to what fewer key dimensions need: call it once."""
        indices = super().kept(inputs, outputs)
        size = self._kernels[0].shape[-1]
        kept = self._sizes(inputs, outputs)[1]
        if kept != size:
            scale = math.sqrt(kept / size)
            self._kernels[0] = (self._kernels[0] * scale).astype(self._dtype)
            if self._bias_values is not None:
                self._bias_values[0] = (self._bias_values[0] * scale).astype(self._dtype)
        return indices

    def _take(self, arrays, inputs, outputs):
        kernels, biases = (arrays, None) if self._bias_values is None else (arrays[::2], arrays[1::2])
        query, key, value, output = self._by_head(kernels)
        at, repeats, keys, values = self._selected(inputs, outputs)
        heads, rows = at[:, None], self.by_role(inputs)
        by_query = (heads[:, :, None], repeats[:, :, None], keys[:, None, :])
        by_value = (heads[:, :, None], repeats[:, :, None], values[:, None, :])
        query, key, value, output = (
            _joined(query[rows[0]][(slice(None), *by_query)], 1),
            key[rows[1]][:, heads, keys],
            value[rows[2]][:, heads, values],
            _joined(output[by_value][..., outputs], 0),
        )
        if biases is None:
            return [query, key, value, output]
        taken = (
            _joined(biases[0].reshape(self.heads, -1, biases[0].shape[-1])[by_query], 0),
            biases[1][heads, keys],
            biases[2][heads, values],
            biases[3][outputs],
        )
        return [array for pair in zip((query, key, value, output), taken) for array in pair]

    def _selected(self, inputs, outputs):
        """Returns the kept heads, and per head its kept repeats, key dimensions, and value dimensions.

        Each head keeps as many as the one that needs the most: first those that it needs.
        """
        heads, (repeats, keys, values) = np.flatnonzero(self.kept_heads), self._needed(inputs, outputs)
        sizes = self._sizes(inputs, outputs)
        kept = (_first(marks, size) for marks, size in zip((repeats, keys, values), sizes))
        return heads, *kept

    def _needed(self, inputs, outputs):
        """Returns which repeats, key dimensions and value dimensions have an effect, of the kept heads."""
        rows, arrays = self.by_role(inputs), self._by_head(self._kernels)
        query, key, value = ((part[row] != 0).any(axis=0)[self.kept_heads] for part, row in zip(arrays, rows))
        output = (arrays[3][self.kept_heads][..., outputs] != 0).any(axis=3)
        if self._bias_values is not None:
            biases = [bias.reshape(self.heads, -1) != 0 for bias in self._bias_values[:3]]
            query |= biases[0][self.kept_heads].reshape(query.shape)
            value |= biases[2][self.kept_heads]
        values = value & output.any(axis=1)
        repeats = (output & values[:, None]).any(axis=2) | self.returns_scores
        # The bias of the key adds the same to all scores of a query, which softmax does not change.
        keys = key & (query & repeats[:, :, None]).any(axis=1)
        return repeats, keys, values

    def _sizes(self, inputs, outputs):
        """Returns how many repeats, key dimensions and value dimensions each head keeps."""
        repeats, *sizes = self._largest(inputs, outputs)
        heads = int(self.kept_heads.sum())
        while repeats < self._repeats and self.misreads_single_dimensions(heads, repeats):
            repeats += 1  # with all of them, as many heads as `misread.Sums` keeps are not misread
        for at in self._misread(heads, repeats):
            sizes[at] = max(sizes[at], min(2, self._dimensions[at]))
        if self.needs_equal_dimensions:
            sizes = [max(sizes)] * 2
        return repeats, *sizes

    def _largest(self, inputs, outputs):
        """Returns how many of each the head has that needs the most of them, at least one."""
        return (max(1, int(marks.sum(axis=1).max())) for marks in self._needed(inputs, outputs))

    def has_more_than_needed(self, inputs, outputs):
        """Returns whether no head needs as many as `kept` keeps: query heads, key and value dimensions."""
        repeats, *largest = self._largest(inputs, outputs)
        if self.needs_equal_dimensions:
            largest = [max(largest)] * 2
        return [most < size for most, size in zip((repeats, *largest), self._sizes(inputs, outputs))]

    @property
    def _repeats(self):
        """How many query heads share a head."""
        return self._kernels[0].shape[1] // self.heads

    @property
    def _dimensions(self):
        """How many query and key dimensions a head has, and how many value dimensions."""
        return self._kernels[0].shape[-1], self._kernels[2].shape[-1]

    def _misread(self, heads, repeats):
        """As `misread.single_dimensions`, for as many heads and query heads of each."""
        has_fault = self._bias_values is not None and keras_compat.misreads_sums(self.layer)
        return misread.single_dimensions([heads * repeats, heads, heads], self.steps) if has_fault else set()

    def misreads_single_dimensions(self, heads, repeats=None):
        """Returns whether Keras may misread the biases of a layer of one dimension with as many heads.

        Args:
            heads: Integer, the number of heads.
            repeats: Integer, the number of query heads of each. None is all.
        """
        repeats = self._repeats if repeats is None else repeats
        return any(self._dimensions[at] == 1 for at in self._misread(heads, repeats))

    @property
    def needs_equal_dimensions(self):
        """Whether the layer needs as many key dimensions as value dimensions.

        GroupedQueryAttention has one size for both, and JAX has a fast attention for equal sizes only.
        """
        equal = self._kernels[0].shape[-1] == self._kernels[2].shape[-1]
        on_jax = keras_compat.backend_name(self.layer) == "jax"
        return "head_dim" in self.layer.get_config() or (on_jax and equal)

    def uneven(self, inputs, outputs, heads):
        """Counts the dimensions without effect that heads keep because another head needs as many.

        Args:
            inputs: As in `kept`.
            outputs: As in `kept`.
            heads: Boolean array, shape `(heads,)`. The heads whose dimensions to count.

        Returns:
            Tuple of three integers: query heads of a key and value head, key dimensions, value dimensions.
        """
        needed, sizes = self._needed(inputs, outputs), self._sizes(inputs, outputs)
        counted = heads[self.kept_heads]
        return tuple(
            int((size - marks[counted].sum(axis=1)).sum()) if size > 1 else 0
            for marks, size in zip(needed, sizes)
        )

    def costs(self, consumed, heads, produced):
        """Lists what the kernels cost: `(groups of the inputs, groups of the outputs, weights)`.

        Args:
            consumed: Array with the channel group of each input, as in `liveness.groups`. None if unknown.
            heads: Array with the group of each head.
            produced: Array with the channel group of each output.
        """
        rows = [None] * 3 if consumed is None else self.by_role(consumed)
        sides = [*((row, heads) for row in rows), (heads, produced)]
        return [(*side, kernel.size) for side, kernel in zip(sides, self._kernels)]

    def bias_sizes(self):
        """Lists the numbers of elements of the biases of the query, key, and value. Empty without biases."""
        return [] if self._bias_values is None else [bias.size for bias in self._bias_values[:3]]

    def config(self, inputs, outputs):
        config, heads = self.layer.get_config(), int(self.kept_heads.sum())
        repeats, keys, values = self._sizes(inputs, outputs)
        if "head_dim" in config:
            return {
                "head_dim": keys,
                "num_query_heads": heads * repeats,
                "num_key_value_heads": heads,
            }
        changed = {"num_heads": heads, "key_dim": keys, "value_dim": values}
        widths = [int(part.sum()) for part in self.by_role(inputs)]
        if config["output_shape"] is not None or int(outputs.sum()) != widths[0]:
            changed["output_shape"] = (int(outputs.sum()),)
        for role, width in zip(ROLES, widths):
            shape = config.get(f"{role}_shape")  # tf_keras builds the layer from its config
            if shape is not None:
                changed[f"{role}_shape"] = (*tuple(shape)[:-1], width)
        return changed


def _joined(array, axis):
    """Joins the axes of heads and repeats."""
    return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])


def _first(marks, size):
    """Returns as many indices of each row: those that are marked, and the first others."""
    return np.array([np.flatnonzero(at_least(row, size)) for row in marks])
