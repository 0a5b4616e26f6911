"""Layers whose output channels are weighted sums over input channels, seen as matrices.

Dense, convolutions of all kinds, EinsumDense on the last axis and Embedding: which input channel reaches
which output channel, what a constant input adds, and the weights that are left when channels go.
"""

import numpy as np

from tfap.graph import layer_types, multiply_adds
from tfap.graph.layer_types import ChannelRule


def read(layer, masks=None):
    """The `Affine` of a layer of one of the kinds in `channels.AFFINE` or `DEPTHWISE`, built.

    Args:
        layer: the layer.
        masks: `{weight name: mask}`, of a layer in training: a weight is zero only where it is masked, since
            others may change. None goes by the weights' values.
    """
    row, specs = layer_types.of(layer), layer_types.kernel_specs(layer)
    if row.channels is ChannelRule.DEPTHWISE:
        return Depthwise(layer, masks)
    if len(specs) > 1:
        return Separable(layer, masks)
    if not specs[0].reads_input:
        return Embedding(layer, masks)
    return Grouped(layer, masks) if getattr(layer, "groups", 1) > 1 else Affine(layer, masks)


class Affine:
    """A layer with one kernel, over input channels x output channels.

    Attributes:
        nonzero: bool, shape `(inputs, outputs)`: True where any weight between the two is not zero.
        bias: float array `(outputs,)`, None if the layer has none.
        takes_constants: True if a constant input adds the same to every position of the output, so
            that the bias can take its place; zeros add nothing anywhere.
    """

    groups = 1

    def __init__(self, layer, masks=None):
        self.layer = layer
        (self.spec,) = layer_types.kernel_specs(layer)
        self.kernel, alive = _kernel(self.spec.find(layer), self.spec.name, masks)
        use_bias = getattr(layer, "use_bias", getattr(layer, "bias", None) is not None)
        self.bias = np.array(layer.bias) if use_bias else None
        can_have_bias = self.bias is not None or layer_types.of(layer).adds_bias
        self.takes_constants = can_have_bias and same_everywhere(layer, self.kernel.shape[:-2])
        self.nonzero = self._matrix(alive, np.any)

    def _matrix(self, values, reduce):
        """Reduces an array of the kernel's shape to `(inputs, outputs)`."""
        matrix = reduce(values, axis=tuple(range(values.ndim - 2)))
        (inputs_at,), (outputs_at,) = self.spec.input_axes, self.spec.neuron_axes
        return matrix if inputs_at < outputs_at else matrix.T  # both count from the same end

    def sums(self):
        """float64, `(inputs, outputs)`: what an input that is 1 everywhere adds to each output."""
        return self._matrix(self.kernel.astype(np.float64), np.sum)

    @property
    def kernels(self):
        """The weights without the bias, in the order of the layer's `KernelSpec`s."""
        return [self.kernel]

    def without(self, inputs, outputs):
        """Zeroes all weights of some inputs and outputs, given as boolean arrays."""
        self.zero(self.kernels, inputs, outputs)

    def zero(self, arrays, inputs, outputs):
        """The same in other arrays that are shaped like `kernels`."""
        (inputs_at,), (outputs_at,) = self.spec.input_axes, self.spec.neuron_axes
        _along(arrays[0], inputs_at)[inputs] = 0
        _along(arrays[0], outputs_at)[outputs] = 0

    def kept(self, inputs, outputs):
        """Which entries of each of `weights()` stay, as flat indices in the shape that is left."""
        indices = [np.arange(values.size).reshape(values.shape) for values in self.weights()]
        return self._take(indices, inputs, outputs)

    def _take(self, arrays, inputs, outputs):
        kernel, *bias = arrays
        (inputs_at,), (outputs_at,) = self.spec.input_axes, self.spec.neuron_axes
        kernel = kernel.compress(inputs, inputs_at).compress(outputs, outputs_at)
        return [kernel, *(values[outputs] for values in bias)]

    def fold(self, inputs, values, outputs):
        """Puts what constant inputs add into the bias of the outputs that are given as a boolean array."""
        self._add_to_bias((values[inputs] @ self.sums()[inputs]) * outputs)

    def _add_to_bias(self, added):
        if added.any():
            bias = np.zeros(len(added), self._dtype) if self.bias is None else self.bias
            self.bias = (bias + added).astype(self._dtype)

    @property
    def _dtype(self):
        return self.kernel.dtype

    def weights(self):
        """For the smaller layer's `set_weights`."""
        return [self.kernel] if self.bias is None else [self.kernel, self.bias]

    def config(self, inputs, outputs):
        """What changes in the layer's config if these inputs and outputs stay."""
        count = int(outputs.sum())
        if hasattr(self.layer, "equation"):
            return self._einsum_config(count)
        changed = {layer_types.of(self.layer).units: count}
        if "use_bias" in self.layer.get_config():
            changed["use_bias"] = self.bias is not None
        return changed

    def _einsum_config(self, outputs):
        last = self.layer.equation.replace(" ", "")[-1]
        shape = self.layer.partial_output_shape
        shape = list(shape) if isinstance(shape, list | tuple) else [shape]
        return {"output_shape": [*shape[:-1], outputs], "bias_axes": None if self.bias is None else last}


class Grouped(Affine):
    """A grouped convolution: each group of outputs reads its own group of inputs.

    The kernel is `(..., inputs of a group, outputs)`.
    """

    def __init__(self, layer, masks=None):
        self.groups = layer.groups
        super().__init__(layer, masks)

    def _matrix(self, values, reduce):
        blocks = reduce(values, axis=tuple(range(values.ndim - 2)))
        inputs, outputs = blocks.shape
        outputs //= self.groups
        matrix = np.zeros((self.groups, inputs, self.groups, outputs), blocks.dtype)
        for group in range(self.groups):
            matrix[group, :, group] = blocks[:, group * outputs : (group + 1) * outputs]
        return matrix.reshape(self.groups * inputs, -1)

    def _blocks(self, inputs, outputs, kernel):
        """For each group: its inputs, its outputs, and its part of the kernel."""
        parts = [np.split(part, self.groups) for part in (inputs, outputs)]
        return zip(*parts, np.split(kernel, self.groups, axis=-1))

    def zero(self, arrays, inputs, outputs):
        for some_inputs, some_outputs, kernel in self._blocks(inputs, outputs, arrays[0]):
            kernel[..., some_inputs, :] = 0
            kernel[..., some_outputs] = 0

    def _take(self, arrays, inputs, outputs):
        kernel, *bias = arrays
        taken = [
            part[..., some_inputs, :][..., some_outputs]
            for some_inputs, some_outputs, part in self._blocks(inputs, outputs, kernel)
            if some_inputs.any()
        ]
        return [np.concatenate(taken, axis=-1), *(values[outputs] for values in bias)]

    def config(self, inputs, outputs):
        groups = sum(part.any() for part in np.split(inputs, self.groups))
        return {**super().config(inputs, outputs), "groups": int(groups)}

    def evened(self, inputs, outputs):
        """The smallest sets that hold these and that a grouped convolution can have.

        Every group that stays needs as many inputs and outputs as any other.
        """
        inputs, outputs = (np.reshape(part, (self.groups, -1)).copy() for part in (inputs, outputs))
        stay = inputs.any(axis=1) | outputs.any(axis=1)
        for part in (inputs, outputs):
            needed = max(1, part.sum(axis=1).max())
            part[stay] = [_with_at_least(row, needed) for row in part[stay]]
        return inputs.ravel(), outputs.ravel()


class Separable(Affine):
    """A depthwise and a pointwise convolution in one; its inputs are those of the depthwise one."""

    def __init__(self, layer, masks=None):
        self.layer = layer
        # (..., inputs, multiplier) and (..., inputs * multiplier, outputs)
        self.depthwise, reads = _kernel(layer.depthwise_kernel, "depthwise_kernel", masks)
        self.pointwise, mixes = _kernel(layer.pointwise_kernel, "pointwise_kernel", masks)
        self.bias = np.array(layer.bias) if layer.use_bias else None
        self.takes_constants = same_everywhere(layer, self.depthwise.shape[:-2])
        self.nonzero = self._product(reads, mixes, np.any) > 0

    def _product(self, depthwise, pointwise, reduce):
        spatial = tuple(range(depthwise.ndim - 2))
        reach = reduce(depthwise, axis=spatial).astype(np.float64)
        mix = reduce(pointwise, axis=spatial).astype(np.float64).reshape(*reach.shape, -1)
        return np.einsum("im,imo->io", reach, mix)

    def sums(self):
        return self._product(self.depthwise.astype(np.float64), self.pointwise.astype(np.float64), np.sum)

    @property
    def kernels(self):
        return [self.depthwise, self.pointwise]

    def zero(self, arrays, inputs, outputs):
        depthwise, pointwise = arrays
        depthwise[..., inputs, :] = 0
        pointwise[..., np.repeat(inputs, depthwise.shape[-1]), :] = 0
        pointwise[..., outputs] = 0

    def _take(self, arrays, inputs, outputs):
        depthwise, pointwise, *bias = arrays
        mixed = np.repeat(inputs, depthwise.shape[-1])
        pointwise = pointwise.compress(mixed, -2).compress(outputs, -1)
        return [depthwise.compress(inputs, -2), pointwise, *(values[outputs] for values in bias)]

    @property
    def _dtype(self):
        return self.pointwise.dtype

    def weights(self):
        return [self.depthwise, self.pointwise] + ([] if self.bias is None else [self.bias])


class Embedding(Affine):
    """A table of vectors: it reads indices, so it has outputs only."""

    def __init__(self, layer, masks=None):
        self.layer, self.bias, self.takes_constants = layer, None, False
        self.kernel, alive = _kernel(layer.embeddings, "embeddings", masks)
        self.nonzero = alive.any(axis=0, keepdims=True)  # one input, never constant

    def sums(self):
        return np.zeros(self.nonzero.shape)

    def zero(self, arrays, inputs, outputs):
        arrays[0][:, outputs] = 0

    def _take(self, arrays, inputs, outputs):
        return [arrays[0][:, outputs]]

    def config(self, inputs, outputs):
        return {layer_types.of(self.layer).units: int(outputs.sum())}


class Depthwise(Affine):
    """A depthwise convolution: output channel = input * multiplier + offset.

    Nothing is between other channels, so `nonzero` and `sums()` have the shape `(inputs, multiplier)`.
    """

    def _matrix(self, values, reduce):
        return reduce(values, axis=tuple(range(values.ndim - 2)))

    def zero(self, arrays, inputs, outputs):
        arrays[0][..., inputs, :] = 0
        arrays[0][..., outputs.reshape(self.nonzero.shape)] = 0

    def fold(self, inputs, values, outputs):
        self._add_to_bias((self.sums() * np.where(inputs, values, 0)[:, None]).ravel() * outputs)


def _kernel(variable, name, masks):
    """`(values, which of them are alive)` of a weight, masked ones zero."""
    values = np.array(variable)
    if masks is None:
        return values, values != 0
    if name not in masks:
        return values, np.ones(values.shape, bool)
    alive = masks[name] != 0
    return np.where(alive, values, values.dtype.type(0)), alive


def _along(array, axis):
    return np.moveaxis(array, axis, 0)


def _with_at_least(row, needed):
    row = row.copy()
    row[np.flatnonzero(~row)[: max(0, needed - row.sum())]] = True
    return row


def same_everywhere(layer, window):
    """True if no output position reads padding, so that each sees the same constant."""
    if is_transposed(layer):
        return False  # positions at the border, and between strides, see fewer weights
    return all(size == 1 for size in window) or getattr(layer, "padding", "valid") == "valid"


def is_transposed(layer):
    """Whether a layer is a transposed convolution: each input position reaches a window of the output."""
    return layer_types.of(layer).multiply_adds is multiply_adds.at_input_positions
