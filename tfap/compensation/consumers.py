"""The layers that consume channels as weighted sums, as least-squares problems.

A `Consumer` turns what its layer consumes into rows of units, and its kernel into matrices of the same units:
the output of the layer is `rows @ matrix + bias`, before the activation.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.compensation.moments import SecondMoments, Window
from tfap.compensation.refit import RIDGE, LeastSquares, scaled
from tfap.graph import layer_types, linear, linear_maps, recurrent
from tfap.graph.calls import Call
from tfap.graph.values import Value

MOST_UNITS = (
    3200  # of a window or Flatten that are fitted together; with more, each tap or position for itself
)
_CHUNK_BYTES = 2**25


class Consumer:
    """A layer whose outputs are weighted sums of channels.

    Args:
        path: Path of the layer.
        calls: List of its `Call`s.
        groups: Integer array, shape `(input channels,)`. The channel groups that it consumes.
        fixed: The `id` of layers that must not change.

    Attributes:
        path: As given.
        calls: As given.
        groups: As given.
        layer: The layer. Its weights are read and written.
        blocks: List of integer arrays: the units that are fitted together. Outputs of a grouped convolution
            each depend on one block; otherwise, the sums of all blocks are added.
        unit_groups: Integer array, shape `(units,)`. The channel group of each unit.
        moments: List of `SecondMoments`, one per block. Empty lists of rows so far.
    """

    def __init__(self, path: str, calls: list[Call], groups: np.ndarray, fixed: Collection[int] = ()) -> None:
        self.path, self.calls, self.groups, self._fixed = path, calls, groups, fixed
        self.layer = calls[0].layer
        self._map: Any = linear_maps.from_layer(self.layer)
        self._kernel: np.ndarray = self._read_kernel()
        self.unit_groups, self.blocks = self._units()
        self._shift = _shift_of(self, fixed)
        self.forget()

    # -- for each kind of layer ------------------------------------------------------------------------

    def _read_kernel(self) -> np.ndarray:
        return self._map.kernels[-1]

    def _units(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns the group of each unit, and the units of each block."""
        every = np.arange(len(self.groups))
        if len(every) <= MOST_UNITS or len(np.unique(self.groups)) == len(every):
            return self.groups, [every]
        # After a large Flatten: the first unit of each channel, then the second, and so on.
        order = np.argsort(self.groups, kind="stable")
        _, first, counts = np.unique(self.groups[order], return_index=True, return_counts=True)
        occurrence = np.empty(len(every), int)
        occurrence[order] = every - np.repeat(first, counts)
        return self.groups, [np.flatnonzero(occurrence == at) for at in range(counts.max())]

    def _rows(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, values.shape[-1])

    def matrix(self, block: int) -> np.ndarray:
        """Returns the weights of the units of a block: float64 array, shape `(units, outputs)`."""
        return self._kernel[self.blocks[block]].astype(np.float64)

    def _set_matrix(self, block: int, matrix: np.ndarray) -> None:
        self._kernel[self.blocks[block]] = matrix

    # -- what it consumes ------------------------------------------------------------------------------

    @property
    def has_bias(self) -> bool:
        """Whether the mean of the sums can be kept: by a bias, or by the BatchNormalization that follows."""
        return self._shift is not None

    def forget(self) -> None:
        """Starts the sums of second moments again."""
        self.moments: list[SecondMoments] = []

    def consumed(self, call: Call, values: Mapping[Value, Any], filled: tuple) -> Any:
        """Returns what a call consumes, for `add`.

        Args:
            call: The `Call`.
            values: Dict of `Value` to tensor.
            filled: Tuple `(args, kwargs)` of the call, with tensors.
        """
        return values[call.inputs[0]]

    def add(self, tensor: Any) -> None:
        """Adds a batch of what one call of the layer consumes.

        Raises:
            ValueError: If a value is NaN or infinite.
        """
        if not self.moments:
            self.moments = [SecondMoments(len(units)) for units in self.blocks]
        for rows in self._chunks(tensor):
            for moments, units in zip(self.moments, self.blocks):
                self._add_rows(moments, rows if len(units) == rows.shape[1] else rows[:, units])

    def _add_rows(self, moments, rows):
        try:
            moments.add(rows)
        except ValueError as error:
            raise ValueError(
                f"'{self.path}' consumes a value that is NaN or infinite on the data: check the data "
                "and the weights of the layers before it."
            ) from error

    def _chunks(self, tensor: Any) -> Iterator[np.ndarray]:
        values = keras_compat.to_numpy(tensor)
        values = np.asarray(values, np.float64 if values.dtype == np.float64 else np.float32)
        inner = layer_types.inner(self.layer)
        if inner is not self.layer:  # every time step is a sample
            values = values.reshape(-1, *values.shape[2:])
        if getattr(inner, "data_format", None) == "channels_first":
            values = np.moveaxis(values, 1, -1)
        per_sample = 8 * len(self.unit_groups) * max(1, int(np.prod(values.shape[1:-1])))
        size = max(1, _CHUNK_BYTES // per_sample)
        for start in range(0, len(values), size):
            yield self._rows(values[start : start + size])

    @property
    def rows(self) -> int:
        """Integer. The number of rows that were added."""
        return self.moments[0].count if self.moments else 0

    @property
    def most_units(self) -> int:
        """Integer. The number of units of the largest block."""
        return max(map(len, self.blocks))

    @property
    def bytes(self) -> int:
        """Integer. The size of the second moments."""
        return 8 * sum(len(units) ** 2 for units in self.blocks)

    # -- the refit -------------------------------------------------------------------------------------

    def problems(self, ridge: float = RIDGE) -> list[LeastSquares]:
        """Makes one `LeastSquares` per block from what was added."""
        return scaled(
            [
                LeastSquares.of(moments, self.matrix(at), self.unit_groups[units], self.has_bias, ridge)
                for at, (units, moments) in enumerate(zip(self.blocks, self.moments))
            ]
        )

    def reach(self, positions: np.ndarray, description: np.ndarray) -> np.ndarray:
        """Returns the description of some input channels as the units of this layer see it.

        Args:
            positions: Integer array. The channels.
            description: Float array; see `graph.features`.
        """
        return description

    def set_matrices(self, matrices: list[np.ndarray]) -> None:
        """Writes new weights to the layer: one array per block, shape `(units, outputs)`."""
        for at, matrix in enumerate(matrices):
            self._set_matrix(at, matrix)
        self.layer.set_weights([array.astype(array.dtype) for array in self._map.weights()])

    def write(self, matrices: list[np.ndarray], problems: list[LeastSquares], fold: bool) -> None:
        """Writes new weights to the layer.

        Args:
            matrices: One array per block, shape `(units, outputs)`.
            problems: The problems of which these are solutions.
            fold: Boolean. Whether the bias takes over the mean of what changed.
        """
        changes = [problem.bias_change(matrix) for problem, matrix in zip(problems, matrices)]
        for at, matrix in enumerate(matrices):
            self._set_matrix(at, matrix)
        if fold and self._shift is not None:
            self._shift(self._bias_change(changes))
        self.layer.set_weights([array.astype(array.dtype) for array in self._map.weights()])

    def _bias_change(self, changes):
        return np.sum(changes, axis=0)

    def renewed(self) -> "Consumer":
        """Returns a consumer of the same layer, which starts from the weights that the layer has now."""
        return type(self)(self.path, self.calls, self.groups, self._fixed)

    def layers_written(self) -> list[Any]:
        """Lists the layers whose weights `write` and `clear` change."""
        normalization = _normalization_after(self, self._fixed)
        return [self.layer] if normalization is None else [self.layer, normalization]

    def clear(self, removed: np.ndarray) -> None:
        """Sets the weights of removed input channels to zero: boolean array, shape `(input channels,)`."""
        self._map.clear(removed, np.zeros(self._map.nonzero.shape[1], bool))
        self.layer.set_weights(self._map.weights())

    def clear_outputs(self, outputs: np.ndarray) -> None:
        """Makes some outputs zero before the activation, given as a boolean array."""
        self._map.clear_outputs(outputs)
        self.layer.set_weights(self._map.weights())

    def clear_recurrence(self, removed: np.ndarray) -> None:
        """Sets the weights to zero with which a recurrent layer reads some of its units, a boolean array."""
        self._map.clear_recurrence(removed)
        self.layer.set_weights(self._map.weights())


class _Recurrent(Consumer):
    """A recurrent layer, by what all gates read of each time step. What they read of its units stays."""

    def matrix(self, block):
        return self._map.inputs_matrix[self.blocks[block]].astype(np.float64)

    def _set_matrix(self, block, matrix):
        whole = self._map.inputs_matrix.copy()
        whole[self.blocks[block]] = matrix
        self._map.set_inputs_matrix(whole)


class _Convolution(Consumer):
    """A convolution, by what each output position reads: units are taps x channels (im2col)."""

    def _units(self):
        layer, groups = self._geometry(), self._map.groups
        window = tuple(self._kernel.shape[:-2])
        ndim = len(window)
        self._taps = int(np.prod(window))
        self._window = Window(
            window, *(_sized(value, ndim) for value in (layer.strides, layer.dilation_rate)), layer.padding
        )
        channels = len(self.groups)
        own = np.split(np.arange(channels), groups)
        taps = np.arange(self._taps)[:, None] * channels
        return np.tile(self.groups, self._taps), [(taps + part).ravel() for part in own]

    def _geometry(self):
        """Returns the layer that has the strides and the padding."""
        return self._map.layer

    def _rows(self, values):
        patches = self._window.patches(values)
        return patches.reshape(len(patches), -1)

    def _outputs(self, block):
        count = self._kernel.shape[-1] // self._map.groups
        return slice(block * count, (block + 1) * count)

    def matrix(self, block):
        kernel = self._kernel[..., self._outputs(block)]
        return kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)

    def _set_matrix(self, block, matrix):
        part = self._kernel[..., self._outputs(block)]
        part[...] = matrix.reshape(part.shape)

    def _bias_change(self, changes):
        return np.concatenate(changes)


class _RecurrentConvolution(_Convolution):
    """A ConvLSTM, by what all gates read of each time step. What they read of its filters stays.

    Both directions of a Bidirectional read the same windows.
    """

    def _read_kernel(self):
        return self._map.inputs_matrix.copy()

    def _geometry(self):
        return recurrent.layers_of(self._map.layer)[0]

    def _rows(self, values):
        return super()._rows(values.reshape(-1, *values.shape[2:]))  # every time step is a sample

    def _set_matrix(self, block, matrix):
        super()._set_matrix(block, matrix)
        self._map.set_inputs_matrix(self._kernel)


class _Pooled(_Convolution):
    """A convolution with one matrix over channels, the same for all taps."""

    def _units(self):
        _Convolution._units(self)
        return self.groups, np.split(np.arange(len(self.groups)), self._map.groups)

    def _rows(self, values):
        return Consumer._rows(self, values)

    def matrix(self, block):
        kernel = np.moveaxis(self._kernel[..., self._outputs(block)], -2, 0)
        return kernel.reshape(len(kernel), -1).astype(np.float64)

    def _set_matrix(self, block, matrix):
        part = np.moveaxis(self._kernel[..., self._outputs(block)], -2, 0)
        part[...] = matrix.reshape(part.shape)

    def _bias_change(self, changes):
        """Adds up the taps, which each read the mean."""
        count = self._kernel.shape[-1] // self._map.groups
        return np.concatenate([change.reshape(-1, count).sum(axis=0) for change in changes])


class _Transposed(Consumer):
    """A transposed convolution: what each input position adds to the output positions around it."""

    def matrix(self, block):
        kernel = np.moveaxis(self._kernel, -1, 0)
        return kernel.reshape(len(kernel), -1).astype(np.float64)

    def _set_matrix(self, block, matrix):
        part = np.moveaxis(self._kernel, -1, 0)
        part[...] = matrix.reshape(part.shape)


class _Separable(Consumer):
    """A separable convolution: units are the outputs of its depthwise part."""

    def _units(self):
        depthwise, layer = self._map.depthwise, self._map.layer
        ndim = depthwise.ndim - 2
        self._window = Window(
            tuple(depthwise.shape[:ndim]),
            *(_sized(value, ndim) for value in (layer.strides, layer.dilation_rate)),
            layer.padding,
        )
        groups = np.repeat(self.groups, depthwise.shape[-1])
        return groups, [np.arange(len(groups))]

    def _rows(self, values):
        depthwise = self._map.depthwise
        patches = self._window.patches(values)
        sums = np.einsum("rtc,tcm->rcm", patches, depthwise.reshape(-1, *depthwise.shape[-2:]), optimize=True)
        return sums.reshape(len(sums), -1)

    def reach(self, positions, description):
        """Units are the channels times the windows of the depthwise part."""
        windows = self._map.depthwise.reshape(-1, *self._map.depthwise.shape[-2:])[:, positions]
        return np.kron(windows.ravel().astype(np.float64), description)

    def matrix(self, block):
        return self._kernel.reshape(len(self.unit_groups), -1).astype(np.float64)

    def _set_matrix(self, block, matrix):
        self._kernel[...] = matrix.reshape(self._kernel.shape)


def kind_of(layer, channels: int, im2col: bool = True) -> type[Consumer]:
    """Returns the subclass of `Consumer` for a layer; see `finding.consumers_of`."""
    if layer_types.of(layer).recurrent:
        kernel = layer_types.kernel_specs(layer)[0].find(layer)
        return _Recurrent if len(kernel.shape) < 3 else _RecurrentConvolution
    specs = layer_types.kernel_specs(layer)
    if len(specs) > 1:
        return _Separable
    if linear.is_transposed(layer):
        return _Transposed
    shape = specs[0].find(layer).shape
    if len(shape) < 3:
        return Consumer
    units = int(np.prod(shape[:-1]))
    return _Convolution if units == channels or (im2col and units <= MOST_UNITS) else _Pooled


def _sized(value, ndim):
    return (int(value),) * ndim if np.ndim(value) == 0 else tuple(map(int, value))


def _shift_of(consumer, fixed):
    """Returns a function that adds to the sums of a layer, or None.

    It adds to the bias. In a layer without one, it subtracts from the moving mean of the BatchNormalization
    that alone consumes the output.
    """
    linear_map = consumer._map
    if isinstance(consumer, _Transposed) or (
        isinstance(consumer, _Pooled) and not linear_map.folds_constants
    ):
        return None
    if layer_types.of(consumer.layer).attention:
        return None  # it has a bias for each block
    if layer_types.of(consumer.layer).recurrent:
        return None if linear_map.bias is None else linear_map.add_to_bias
    if linear_map.bias is not None:
        return linear_map.add_to_bias
    normalization = _normalization_after(consumer, fixed)
    if normalization is None:
        return None
    mean = layer_types.inner(normalization).moving_mean
    return lambda change: mean.assign(np.asarray(mean) - change.astype("float32"))


def _normalization_after(consumer, fixed):
    """Returns the BatchNormalization that alone consumes the output of a layer and may change, or None."""
    layer = consumer.layer
    following = [use for call in consumer.calls for use in call.outputs[0].consumers]
    activation = getattr(layer_types.inner(layer), "activation", None)
    linear_activation = getattr(activation, "__name__", "linear") == "linear"
    if len(consumer.calls) != 1 or len(following) != 1 or not linear_activation:
        return None
    normalization = following[0][0].layer
    is_normalized = layer_types.of(normalization).constants is layer_types.ConstantRule.NORMALIZED
    return normalization if is_normalized and id(normalization) not in fixed else None
