"""Linear maps: layers whose output channels are weighted sums of their input channels.

A `LinearMap` holds a copy of the weights of a Dense, convolution, EinsumDense on the last axis, or Embedding.
It knows which output channels depend on which input channels, folds constants into the bias, and cuts the
weights when channels are removed.
"""

import numpy as np

from tfap.graph import layer_types, multiply_adds


class LinearMap:
    """A layer with one kernel between input and output channels.

    Args:
        layer: A built layer.
        masks: See `linear_maps.from_layer`.

    Attributes:
        layer: The layer.
        nonzero: Boolean array, shape `(inputs, outputs)`. Whether any weight between the two is not zero.
        bias: Float array, shape `(outputs,)`. None if the layer has no bias.
        folds_constants: Whether any constant input can be folded into the bias. It must add the same amount
            at every output position. A zero adds nothing, so it can always be folded.
    """

    groups = 1

    def __init__(self, layer, masks=None):
        self.layer = layer
        (self.spec,) = layer_types.kernel_specs(layer)
        self.kernel, alive = kernel_values(self.spec.find(layer), self.spec.name, masks)
        use_bias = getattr(layer, "use_bias", getattr(layer, "bias", None) is not None)
        self.bias = np.array(layer.bias) if use_bias else None
        can_have_bias = self.bias is not None or layer_types.of(layer).adds_bias
        self.folds_constants = can_have_bias and is_uniform(layer, self.kernel.shape[:-2])
        self.nonzero = self._matrix(alive, np.any)

    def _matrix(self, values, reduce):
        """Reduces an array of the kernel's shape to the shape `(inputs, outputs)`."""
        matrix = reduce(values, axis=tuple(range(values.ndim - 2)))
        (inputs_at,), (outputs_at,) = self.spec.input_axes, self.spec.neuron_axes
        return matrix if inputs_at < outputs_at else matrix.T  # both count from the same end

    def sums(self):
        """Returns what an input that is 1 everywhere adds to each output, shape `(inputs, outputs)`."""
        return self._matrix(self.kernel.astype(np.float64), np.sum)

    @property
    def kernels(self):
        """The weights without the bias, in the order of the layer's `KernelSpec`s."""
        return [self.kernel]

    def clear(self, inputs, outputs):
        """Sets all weights of some inputs and outputs to zero, given as boolean arrays."""
        self.zero(self.kernels, inputs, outputs)

    def clear_outputs(self, outputs):
        """Makes some outputs zero before the activation, given as a boolean array."""
        self.clear(np.zeros(self.nonzero.shape[0], bool), outputs)
        if self.bias is not None:
            self.bias = np.where(outputs, self._dtype.type(0), self.bias)
        self.nonzero = self.nonzero & ~outputs

    def zero(self, arrays, inputs, outputs):
        """Does the same as `clear` in arrays that have the shapes of `kernels`."""
        (inputs_at,), (outputs_at,) = self.spec.input_axes, self.spec.neuron_axes
        _along(arrays[0], inputs_at)[inputs] = 0
        _along(arrays[0], outputs_at)[outputs] = 0

    def kept(self, inputs, outputs):
        """Returns flat indices into each of `weights()`, in the shape of the weights that are kept.

        Args:
            inputs: Boolean array. The input channels to keep.
            outputs: Boolean array. The output channels to keep.
        """
        indices = [np.arange(values.size).reshape(values.shape) for values in self.weights()]
        return self._take(indices, inputs, outputs)

    def _take(self, arrays, inputs, outputs):
        kernel, *bias = arrays
        (inputs_at,), (outputs_at,) = self.spec.input_axes, self.spec.neuron_axes
        kernel = kernel.compress(inputs, inputs_at).compress(outputs, outputs_at)
        return [kernel, *(values[outputs] for values in bias)]

    def fold(self, inputs, values, outputs):
        """Folds constant inputs into the bias.

        Args:
            inputs: Boolean array. The inputs to fold.
            values: Float array. The constants.
            outputs: Boolean array. The outputs whose bias to change.
        """
        self.add_to_bias((values[inputs] @ self.sums()[inputs]) * outputs)

    def add_to_bias(self, added):
        if added.any():
            bias = np.zeros(len(added), self._dtype) if self.bias is None else self.bias
            self.bias = (bias + added).astype(self._dtype)

    def scale(self, inputs, outputs):
        """Multiplies the weights of each input, and those of each output with its bias.

        Args:
            inputs: Float array, shape `(inputs,)`, or None to leave them.
            outputs: Float array, shape `(outputs,)`, or None to leave them.
        """
        if inputs is not None:
            self._scale_inputs(inputs)
        if outputs is not None:
            self._scale_outputs(outputs)
            if self.bias is not None:
                self.bias = (self.bias * outputs).astype(self._dtype)

    def _scale_inputs(self, factors):
        multiply(self.kernel, self.spec.input_axes[0], factors)

    def _scale_outputs(self, factors):
        multiply(self.kernel, self.spec.neuron_axes[0], factors)

    @property
    def _dtype(self):
        return self.kernel.dtype

    def weights(self):
        """Returns the weights in the order of the layer's `set_weights`."""
        return [self.kernel] if self.bias is None else [self.kernel, self.bias]

    def biases(self):
        """Lists the variables of the biases with their values: pairs `(variable, array)`."""
        return [] if self.bias is None else [(self.layer.bias, self.bias)]

    def config(self, inputs, outputs):
        """Returns the config entries that change if only these inputs and outputs are kept."""
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


class Grouped(LinearMap):
    """A grouped convolution: each group of outputs consumes its own group of inputs.

    The kernel has the shape `(..., inputs per group, outputs)`.
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
        """Returns the inputs, the outputs, and the part of the kernel of each group."""
        parts = [np.split(part, self.groups) for part in (inputs, outputs)]
        return zip(*parts, np.split(kernel, self.groups, axis=-1))

    def zero(self, arrays, inputs, outputs):
        for block_inputs, block_outputs, block in self._blocks(inputs, outputs, arrays[0]):
            block[..., block_inputs, :] = 0
            block[..., block_outputs] = 0

    def _scale_inputs(self, factors):
        every = np.ones(self.nonzero.shape[1])
        for part, _, block in self._blocks(factors, every, self.kernel):
            multiply(block, -2, part)

    def _take(self, arrays, inputs, outputs):
        kernel, *bias = arrays
        blocks = [
            block[..., block_inputs, :][..., block_outputs]
            for block_inputs, block_outputs, block in self._blocks(inputs, outputs, kernel)
            if block_inputs.any()
        ]
        return [np.concatenate(blocks, axis=-1), *(values[outputs] for values in bias)]

    def config(self, inputs, outputs):
        groups = sum(part.any() for part in np.split(inputs, self.groups))
        return {**super().config(inputs, outputs), "groups": int(groups)}

    def evened(self, inputs, outputs):
        """Adds the fewest channels that make all kept groups equally large.

        Args:
            inputs: Boolean array. The input channels to keep.
            outputs: Boolean array. The output channels to keep.

        Returns:
            Tuple of the larger `inputs` and `outputs`.
        """
        inputs, outputs = (np.reshape(marks, (self.groups, -1)).copy() for marks in (inputs, outputs))
        kept_groups = inputs.any(axis=1) | outputs.any(axis=1)
        for marks in (inputs, outputs):
            size = max(1, marks.sum(axis=1).max())
            marks[kept_groups] = [at_least(row, size) for row in marks[kept_groups]]
        return inputs.ravel(), outputs.ravel()


class Separable(LinearMap):
    """A separable convolution: a depthwise convolution followed by a pointwise one."""

    def __init__(self, layer, masks=None):
        self.layer = layer
        # (..., inputs, multiplier) and (..., inputs * multiplier, outputs)
        self.depthwise, reads = kernel_values(layer.depthwise_kernel, "depthwise_kernel", masks)
        self.pointwise, mixes = kernel_values(layer.pointwise_kernel, "pointwise_kernel", masks)
        self.bias = np.array(layer.bias) if layer.use_bias else None
        self.folds_constants = is_uniform(layer, self.depthwise.shape[:-2])
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

    def _scale_inputs(self, factors):
        multiply(self.depthwise, -2, factors)

    def _scale_outputs(self, factors):
        multiply(self.pointwise, -1, factors)

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


class Embedding(LinearMap):
    """An Embedding, which consumes indices: it has output channels only."""

    def __init__(self, layer, masks=None):
        self.layer, self.bias, self.folds_constants = layer, None, False
        self.kernel, alive = kernel_values(layer.embeddings, "embeddings", masks)
        self.nonzero = alive.any(axis=0, keepdims=True)  # a single input that is never constant

    def sums(self):
        return np.zeros(self.nonzero.shape)

    def zero(self, arrays, inputs, outputs):
        arrays[0][:, outputs] = 0

    def _scale_outputs(self, factors):
        multiply(self.kernel, -1, factors)

    def _take(self, arrays, inputs, outputs):
        return [arrays[0][:, outputs]]

    def config(self, inputs, outputs):
        return {layer_types.of(self.layer).units: int(outputs.sum())}


class Depthwise(LinearMap):
    """A depthwise convolution: output channel i * multiplier + j depends on input channel i only.

    `nonzero` and `sums()` therefore have the shape `(inputs, multiplier)`.
    """

    def _matrix(self, values, reduce):
        return reduce(values, axis=tuple(range(values.ndim - 2)))

    def zero(self, arrays, inputs, outputs):
        arrays[0][..., inputs, :] = 0
        arrays[0][..., outputs.reshape(self.nonzero.shape)] = 0

    def fold(self, inputs, values, outputs):
        self.add_to_bias((self.sums() * np.where(inputs, values, 0)[:, None]).ravel() * outputs)


def kernel_values(variable, name, masks):
    """Returns the values of a weight, with masked ones zero, and which of them count as nonzero."""
    values = np.array(variable)
    if masks is None:
        return values, values != 0
    if name not in masks:
        return values, np.ones(values.shape, bool)
    alive = masks[name] != 0
    return np.where(alive, values, values.dtype.type(0)), alive


def without_prefix(prefix, masks):
    """Returns the masks of an inner layer, by its own names of the weights."""
    if masks is None:
        return None
    return {name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)}


def multiply(array, axis, factors):
    """Multiplies an array in place by one factor per index on an axis."""
    along = _along(array, axis)
    along *= factors.reshape(-1, *[1] * (along.ndim - 1)).astype(array.dtype)


def _along(array, axis):
    return np.moveaxis(array, axis, 0)


def at_least(marks, count):
    """Returns marks with the first False entries set to True until `count` are True."""
    marks = marks.copy()
    marks[np.flatnonzero(~marks)[: max(0, count - marks.sum())]] = True
    return marks


def is_uniform(layer, window):
    """Returns whether a constant input adds the same amount at every output position: without padding."""
    if is_transposed(layer):
        return False  # output positions at the border and between strides use fewer weights
    return all(size == 1 for size in window) or getattr(layer, "padding", "valid") == "valid"


def is_transposed(layer):
    """Returns whether a layer is a transposed convolution."""
    return layer_types.of(layer).multiply_adds is multiply_adds.at_input_positions
