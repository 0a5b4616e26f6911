"""Random nets of either Keras, with channels planted in them that a compaction has to remove.

The maker numbers the channels of every value while it builds a net and notes which layers make and read
each of them: an independent, simpler copy of what `tfap.graph.channels` finds out from a finished model.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfap import keras_compat

# Elementwise activations; those of the first group are 0 at 0.
ZERO_AT_ZERO = ["relu", "tanh", "gelu", "elu", "linear"]
_OTHERS = ["sigmoid", "softplus"]
_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor and the numbers of its channels, None where nobody may plant."""

    tensor: object
    channels: np.ndarray | None

    @property
    def rank(self):
        """Spatial axes: 0 to 2."""
        return len(self.tensor.shape) - 2

    @property
    def size(self):
        return self.tensor.shape[1]


@dataclasses.dataclass(frozen=True)
class Net:
    """A model with random weights, and what was planted.

    Attributes:
        model: a Functional model.
        kinds: `{kind of block: channels planted in it}`.
        left: `{layer name: output channels that have to be left}`: none that was planted, all others.
    """

    model: object
    kinds: dict
    left: dict


class Maker:
    """Builds one net; `keras` is either module, `generator` a NumPy one."""

    def __init__(self, keras, generator, kind):
        self.kind = kind  # that the net is about
        self.keras, self.layers, self.generator = keras, keras.layers, generator
        self.count = 0  # channels so far
        self.made_by, self.read_by = {}, {}  # channel -> [(layer, index)]
        self.bias_of = {}  # channel -> [(depthwise layer, index)]
        self.sets = []  # (channels made together, number of groups in which as many have to go)
        self.kinds = {}  # kind -> channels
        self.pinned = set()  # channels that have to stay
        self.pads = set()  # channels of which constants meet padding, so that only zeros go
        self.shifts = set()  # channels of which zeros do not stay zeros
        self.products = set()  # channels that one zero factor is enough for
        self.vary = set()  # channels that no weights make constant
        self.normalized = set()  # channels that go only if they are zero
        self.inputs = []
        self.attentions = []
        self.steps_of = {}  # of queries and keys

    # -- draws -------------------------------------------------------------------------------------

    def pick(self, choices):
        return choices[self.generator.integers(len(choices))]

    def maybe(self, share=0.5):
        return self.generator.random() < share

    def number(self, least, most):
        return int(self.generator.integers(least, most + 1))

    def activation(self):
        return self.pick(ZERO_AT_ZERO * 2 + _OTHERS)

    # -- bookkeeping -------------------------------------------------------------------------------

    def new(self, count, groups=1):
        channels = np.arange(self.count, self.count + count)
        self.count += count
        self.sets.append((channels, groups))
        return channels

    def note(self, kind, channels):
        self.kinds.setdefault(kind, set()).update(_numbers(channels))

    def reads(self, layer, channels):
        for index, channel in enumerate([] if channels is None else channels):
            self.read_by.setdefault(channel, []).append((layer, index))

    def makes(self, layer, channels):
        for index, channel in enumerate(channels):
            self.made_by.setdefault(channel, []).append((layer, index))

    def apply(self, layer, value, channels=None, groups=1, activation=None):
        """A layer with a kernel: reads channels, and makes new ones or more of given ones."""
        tensor = layer(value.tensor)
        self.reads(layer, value.channels)
        if channels is None:
            channels = self.new(tensor.shape[-1], groups)
        self.makes(layer, channels)
        if activation in _OTHERS:
            self.shifts.update(channels)
        self.note(type(layer).__name__, channels)
        return Value(tensor, channels)

    def through(self, layer, value):
        """A layer that leaves every channel where it is."""
        return Value(layer(value.tensor), value.channels)

    # -- layers with kernels -----------------------------------------------------------------------

    def input(self, shape, dtype="float32"):
        tensor = self.keras.Input(shape, dtype=dtype, name=f"input_{len(self.inputs)}")
        self.inputs.append(tensor)
        return Value(tensor, None)

    def dense(self, value, units=None, channels=None, activation=None, name=None):
        activation = activation or self.activation()
        units = units or (self.number(4, 7) if channels is None else len(channels))
        layer = self.layers.Dense(units, activation=activation, use_bias=self.maybe(0.8), name=name)
        return self.apply(layer, value, channels, activation=activation)

    def conv(self, value, channels=None, same=None, kind="Conv", groups=1, filters=None, out_groups=1):
        """A convolution that keeps the size if `same`; strides and paddings at random if None."""
        if value.rank == 0:
            return self.dense(value, channels=channels)
        window = self.pick([1, 2, 3])
        padding = "same" if same or value.size < 4 or self.maybe() else "valid"
        if (window > 1 and padding == "same") or "Transpose" in kind:
            self.pads.update(_numbers(value.channels))
        options = {"groups": groups} if groups > 1 else {}
        if same is None and value.size >= 5 and self.maybe(0.3):
            options["strides"] = 2
        elif kind == "Conv" and self.maybe(0.2):
            options["dilation_rate"] = 2 if padding == "same" else 1
        filters = len(channels) if channels is not None else filters or self.number(3, 6)
        activation = self.activation()
        layer = self._nd(f"{kind}{{}}D", value, "Transpose" * ("Transpose" in kind))(
            filters, window, padding=padding, activation=activation, use_bias=self.maybe(0.8), **options
        )
        return self.apply(layer, value, channels, out_groups, activation)

    def _nd(self, name, value, suffix=""):
        return getattr(self.layers, name.replace("Transpose", "").format(value.rank) + suffix)

    def Dense(self, value):
        return self.dense(value)

    def Conv(self, value):
        return self.conv(value)

    def Transpose(self, value):
        return self.conv(value, kind="ConvTranspose", same=True)

    def Separable(self, value):
        return self.conv(value, kind="SeparableConv")

    def EinsumDense(self, value):
        letters = "abcde"[: value.rank + 1]
        units, activation = self.number(4, 6), self.activation()
        shape = (*value.tensor.shape[1:-1], units)
        bias = {"bias_axes": "z"} if self.maybe(0.8) else {}
        equation = f"{letters}y,yz->{letters}z"
        layer = self.layers.EinsumDense(equation, output_shape=shape, activation=activation, **bias)
        return self.apply(layer, value, activation=activation)

    def TimeDistributed(self, value):
        """A Dense or, where a time step has an axis of its own, a convolution at every time step."""
        activation = self.activation()
        options = {"activation": activation, "use_bias": self.maybe(0.8)}
        if value.rank == 1 or self.maybe():
            inner = self.layers.Dense(self.number(4, 6), **options)
        else:
            self.pads.update(_numbers(value.channels))
            inner = self.layers.Conv1D(self.number(4, 6), 2, padding="same", **options)
        return self.apply(self.layers.TimeDistributed(inner), value, activation=activation)

    def Recurrent(self, value):
        """A SimpleRNN, GRU or LSTM, or two of them."""
        result = self._recurrent(value, sequences=self.maybe())
        return self._recurrent(result, sequences=self.maybe()) if result.rank and self.maybe(0.3) else result

    def Bidirectional(self, value):
        merge_mode = self.pick(["concat", "concat", "sum", "ave", "mul"])
        return self._recurrent(value, sequences=self.maybe(), merge_mode=merge_mode)

    def _recurrent(self, value, sequences, merge_mode=None):
        kind, activation = self.pick(list(_GATES)), self.pick(["tanh", "tanh", "elu", "sigmoid"])
        options = {"use_bias": self.maybe(0.8), "unroll": self.maybe(0.2), "activation": activation}
        if kind == "GRU":
            options["reset_after"] = self.maybe()
        if merge_mode is None and not sequences:
            options["go_backwards"] = self.maybe(0.3)
        if not options["use_bias"]:  # only zeros go
            self.pads.update(_numbers(value.channels))
        units = self.number(3, 5)
        layer = getattr(self.layers, kind)(units, return_sequences=sequences, **options)
        channels = self.new(units)
        if activation in _OTHERS:
            self.vary.update(channels.tolist())
        if merge_mode is not None:
            layer = self.layers.Bidirectional(layer, merge_mode=merge_mode)
        self.note("Recurrent" if merge_mode is None else "Bidirectional", channels)
        return self.apply(layer, value, np.tile(channels, 2) if merge_mode == "concat" else channels)

    def MultiHeadAttention(self, value, grouped=None):
        """Of a value with itself, or with another activation of it; or a GroupedQueryAttention."""
        use_bias = self.maybe(0.8)
        key = value
        if self.maybe(0.3):
            key = Value(self.layers.LeakyReLU()(value.tensor), value.channels)
        if not use_bias or key is not value:  # only zeros go
            self.pads.update(_numbers(value.channels))
        options = {"use_bias": use_bias}
        channels = None
        if grouped is None:
            grouped = hasattr(self.layers, "GroupQueryAttention") and self.maybe(0.3)
        if grouped:
            heads = self.number(2, 3)
            repeats, size = self.number(1, 3), self.number(3, 5)
            layer = self.layers.GroupQueryAttention(size, heads * repeats, heads, **options)
            channels = value.channels  # as many as those of the query
        else:
            if self.maybe():
                options["output_shape"] = (self.number(4, 6),)
            sizes = {"key_dim": self.number(2, 4), "value_dim": self.number(2, 4)}
            if self.keras.backend.backend() == "jax":  # which attends with equal dimensions
                sizes["value_dim"] = sizes["key_dim"]
            layer = self.layers.MultiHeadAttention(self.number(2, 4), **sizes, **options)
        causal = {"use_causal_mask": True} if self.maybe(0.3) else {}
        tensor = layer(value.tensor, key.tensor, **causal)
        self.reads(layer, value.channels)
        channels = self.new(tensor.shape[-1]) if channels is None else channels
        self.makes(layer, channels)
        self.note("MultiHeadAttention", channels)
        self.attentions.append(layer)
        self.steps_of[layer] = value.size
        return Value(tensor, channels)

    def Attention(self, value):
        """Attention of one head, written with functions: a channel of queries and keys goes if it is zero."""
        query = self.dense(value, activation=self.pick(ZERO_AT_ZERO))
        key = self.dense(value, channels=query.channels, activation=self.pick(ZERO_AT_ZERO))
        values = self.dense(value)
        self.normalized.update(_numbers(query.channels))
        self.products.update(_numbers(query.channels))
        self.pads.update(_numbers(values.channels))
        for made in (query, values):
            self.note("Attention", made.channels)
        if self.keras.__name__ == "tf_keras":  # which cannot load what it saves of tf.einsum
            weights = self.layers.Softmax()(tf.matmul(query.tensor, key.tensor, transpose_b=True))
            return Value(tf.matmul(weights, values.tensor), values.channels)
        weights = self.layers.Softmax()(self.keras.ops.einsum("btc,bsc->bts", query.tensor, key.tensor))
        return Value(self.keras.ops.einsum("bts,bsd->btd", weights, values.tensor), values.channels)

    def Grouped(self, value):
        """As many channels go of every group."""
        before = self.apply(self._pointwise(value, 6), value, groups=2)
        after = self.conv(before, groups=2, filters=self.pick([4, 6, 8]), out_groups=2)
        self.note("Grouped", before.channels)
        self.note("Grouped", after.channels)
        return after

    def _pointwise(self, value, filters):
        return self._nd("Conv{}D", value)(filters, 1)

    def Depthwise(self, value, multiplier=None):
        padding = "same" if value.size < 4 or self.maybe() else "valid"
        window, activation = self.pick([1, 3]), self.activation()
        multiplier = multiplier or self.pick([1, 2, 3])
        if padding == "same" and window > 1:
            self.pads.update(_numbers(value.channels))
        if activation in _OTHERS:
            self.shifts.update(_numbers(value.channels))
        layer = self._nd("DepthwiseConv{}D", value)(
            window, padding=padding, depth_multiplier=multiplier, activation=activation
        )
        tensor = layer(value.tensor)
        if value.channels is None:
            return Value(tensor, None)
        channels = np.repeat(value.channels, multiplier)
        for index, channel in enumerate(channels):
            self.bias_of.setdefault(channel, []).append((layer, index))
        self.note("Depthwise", channels)
        return Value(tensor, channels)

    # -- layers without ----------------------------------------------------------------------------

    def Activation(self, value):
        activation = self.activation()
        if activation in _OTHERS:
            self.shifts.update(_numbers(value.channels))
        return self.through(self.layers.Activation(activation), value)

    def Activations(self, value):
        layer = self.pick([self.layers.ReLU, self.layers.LeakyReLU, self.layers.ELU])
        return self.through(layer(), value)

    def PReLU(self, value):
        shared = self.maybe()
        if value.rank and not shared:  # a constant that is not zero differs between positions
            self.pads.update(_numbers(value.channels))
        axes = list(range(1, value.rank + 1)) if shared else None
        return self.through(self.layers.PReLU(shared_axes=axes), value)

    def BatchNormalization(self, value):
        self.shifts.update(_numbers(value.channels))
        layer = self.layers.BatchNormalization(scale=self.maybe(0.8), center=self.maybe(0.8))
        return self.through(layer, value)

    def GroupNormalization(self, value):
        """Whole groups of two channels go, which have one number."""
        channels = np.repeat(self.new(self.number(2, 4)), 2)
        before = self.conv(value, channels=channels, same=True)
        self.shifts.update(channels.tolist())
        return self.through(self.layers.GroupNormalization(len(channels) // 2), before)

    def OverChannels(self, value):
        """A normalization that divides each channel by a number that depends on all."""
        kinds = [self.layers.UnitNormalization]
        if hasattr(self.layers, "RMSNormalization"):
            kinds.append(self.layers.RMSNormalization)
        value = self.conv(value, same=True)
        numbers = _numbers(value.channels)
        self.pinned.update(numbers & (self.shifts | self.vary))
        self.normalized.update(numbers)
        return self.through(self.pick(kinds)(), value)

    def Dropout(self, value):
        kinds = [self.layers.Dropout, self.layers.GaussianNoise]
        kinds += [self._nd("SpatialDropout{}D", value)] if value.rank else []
        return self.through(self.pick(kinds)(0.2), value)

    def Pooling(self, value):
        layer = self._nd(self.pick(["MaxPooling{}D", "AveragePooling{}D"]), value)
        padding = "same" if value.size < 2 else self.pick(["same", "valid"])
        return self.through(layer(2, padding=padding), value)

    def ZeroPadding(self, value):
        self.pads.update(_numbers(value.channels))
        return self.through(self._nd("ZeroPadding{}D", value)(1), value)

    def Cropping(self, value):
        return value if value.size < 5 else self.through(self._nd("Cropping{}D", value)(1), value)

    def UpSampling(self, value):
        return value if value.size > 7 else self.through(self._nd("UpSampling{}D", value)(2), value)

    def Softmax(self, value):
        """Looks at all channels."""
        return Value(self.layers.Activation("softmax")(self.pin(value).tensor), None)

    # -- merges ------------------------------------------------------------------------------------

    def Residual(self, value):
        """Add, Subtract, Average, Maximum or Minimum of a value and a branch of it, or of two."""
        branches = [self.conv(self.conv(value, same=True), channels=value.channels, same=True)]
        kinds = [self.layers.Subtract] if self.maybe(0.3) else []
        if not kinds and self.maybe(0.3):
            branches.append(self.conv(value, channels=value.channels, same=True))
        kinds = kinds or [self.layers.Add, self.layers.Average, self.layers.Maximum, self.layers.Minimum]
        tensor = self.pick(kinds)()([value.tensor, *(branch.tensor for branch in branches)])
        return Value(tensor, value.channels)

    def SqueezeExcite(self, value):
        pooled = self.head(value, flatten=False) if value.rank else value
        gate = self.dense(self.dense(pooled), channels=value.channels, activation="sigmoid")
        self.shifts.difference_update(gate.channels if value.channels is None else ())
        tensor = gate.tensor
        if value.rank:
            tensor = self.layers.Reshape((*(1,) * value.rank, len(value.channels)))(tensor)
        self.products.update(_numbers(value.channels))
        return Value(self.layers.Multiply()([value.tensor, tensor]), value.channels)

    def Concatenate(self, value):
        """Of three."""
        parts = [value, self.conv(value, same=True), self.conv(value, same=True)]
        self.generator.shuffle(parts)
        tensor = self.layers.Concatenate()([part.tensor for part in parts])
        channels = np.concatenate([part.channels for part in parts])
        return Value(tensor, channels)

    def ConcatenateInTime(self, value):
        other = self.conv(value, channels=value.channels, same=True)
        # Two constants follow each other: they go only if they are the same.
        self.pads.update(value.channels)
        return Value(self.layers.Concatenate(axis=1)([value.tensor, other.tensor]), value.channels)

    # -- shapes ------------------------------------------------------------------------------------

    def Reshape(self, value):
        """Dense, then a value of one spatial axis more; back to what it was."""
        steps, units = self.number(1, 3), self.number(3, 5)
        channels = self.new(units)
        activation = self.activation()
        layer = self.layers.Dense(steps * units, activation=activation)
        tiled = self.apply(layer, value, np.tile(channels, steps), activation=activation)
        if steps > 1:  # constants differ between positions, so only zeros go
            self.pads.update(channels)
        self.note("Reshape", channels)
        shaped = Value(self.layers.Reshape((steps, units))(tiled.tensor), channels)
        return self.head(self.conv(shaped, same=True) if self.maybe() else shaped)

    def Flatten(self, value):
        return self.head(value, flatten=True)

    def GlobalPooling(self, value):
        return self.head(value, flatten=False)

    def head(self, value, flatten=None):
        flatten = self.maybe() if flatten is None else flatten
        if not flatten:
            kind = self.pick(["GlobalAveragePooling{}D", "GlobalMaxPooling{}D"])
            return self.through(self._nd(kind, value)(), value)
        tensor = self.layers.Flatten()(value.tensor)
        if value.channels is None:
            return Value(tensor, None)
        return Value(tensor, np.tile(value.channels, tensor.shape[-1] // len(value.channels)))

    # -- nested models and shared layers -----------------------------------------------------------

    def _nested(self, value, depth=1):
        """A nested model; its input has the channels of the value."""
        inner = Value(self.keras.Input(value.tensor.shape[1:]), value.channels)
        result = self.Activation(self.conv(inner, same=True))
        if depth > 1:
            model, made = self._nested(result, depth - 1)
            result = Value(model(result.tensor), made)
        return self.keras.Model(inner.tensor, result.tensor), result.channels

    def Nested(self, value):
        model, channels = self._nested(value, depth=self.pick([1, 2]))
        return Value(model(value.tensor), channels)

    def NestedSequential(self, value):
        model = self.keras.Sequential(
            [
                self.layers.Input(value.tensor.shape[1:]),
                first := self.layers.Dense(5, activation="relu"),
                second := self.layers.Dense(4, activation="tanh"),
            ]
        )
        middle, last = self.new(5), self.new(4)
        self.reads(first, value.channels)
        self.makes(first, middle)
        self.reads(second, middle)
        self.makes(second, last)
        self.note("NestedSequential", middle)
        return Value(model(value.tensor), last)

    def NestedTwice(self, value):
        return self._twice(value, self._nested(value))

    def Shared(self, value):
        layer = self.layers.Dense(self.number(4, 6), activation="tanh")
        return self._twice(value, (layer, self.apply(layer, value).channels))

    def _twice(self, value, called):
        """A layer or model called on a value and on another activation of it."""
        layer, channels = called
        self.pads.update(_numbers(value.channels))  # the constants differ, so only zeros go
        other = self.layers.LeakyReLU()(value.tensor)
        tensors = [layer(value.tensor), layer(other)]
        if self.maybe():
            return Value(self.layers.Concatenate()(tensors), np.concatenate([channels, channels]))
        return Value(self.layers.Add()(tensors), channels)

    # -- what tfap does not see through ------------------------------------------------------------

    def pin(self, value):
        """Notes that the channels of a value have to stay; it is another value if the net is about it."""
        if self.kinds.get(self.kind, set()) & _numbers(value.channels):
            value = self.conv(value)
        self.pinned.update(_numbers(value.channels))
        return value

    def Unknown(self, value):
        """Layers that mix channels in ways of their own: those in front have to stay."""
        value = self.pin(value)
        layers = [self.layers.LayerNormalization(), custom_layer(self.keras)()]
        if value.rank == 1:
            gates = {"activation": "softmax", "return_sequences": True}
            layers += [self.layers.UnitNormalization(axis=1), self.layers.SimpleRNN(4, **gates)]
        return Value(self.pick(layers)(value.tensor), None)

    def Operation(self, value):
        """A function in the graph: the merges of `keras.ops` and of TensorFlow."""
        functions = tf.math if self.keras.__name__ == "tf_keras" else self.keras.ops
        other = self.conv(value, channels=value.channels, same=True)
        self.products.update(_numbers(value.channels))
        operation = self.pick([functions.add, functions.maximum, functions.multiply])
        return Value(operation(value.tensor, other.tensor), value.channels)

    # -- a net -------------------------------------------------------------------------------------

    def block(self, kind, value):
        result = getattr(self, kind)(value)
        if kind not in _OWN_NOTES:
            self.note(kind, result.channels if kind in _MAKERS else value.channels)
        return result

    def net(self):
        """A net with a block of its kind and random others."""
        value = self._start(self.kind)
        for name in self._plan(self.kind, value.rank):
            if value.channels is None or (name in _SPATIAL and value.rank == 0):
                value = self.conv(value) if value.rank else self.dense(value)
            if name not in _SPATIAL or value.rank:
                value = self.block(name, value)
        if value.rank > 0:
            value = self.head(value)
        value = self.dense(value)
        outputs = [self._output(value)]
        if self.maybe(0.3):
            outputs.append(self._output(self.Dropout(value)))
        return self._finish(outputs)

    def _output(self, value):
        result = self.dense(value, units=3, activation=self.pick(["linear", "softmax"]))
        self.pinned.update(result.channels)
        return result.tensor

    def _plan(self, kind, rank):
        others = _ANY + (_OF_RANK[rank] if rank else [])
        if kind in _SEQUENCE:
            others = others + sorted(_SEQUENCE)
        plan = [self.pick(others) for _ in range(self.number(0, 2))]
        if kind not in _STARTS:
            plan.insert(self.number(0, len(plan)), kind)
        # These take the spatial axes away, so they come last.
        return sorted(plan, key=lambda name: name in ("Flatten", "GlobalPooling", "Reshape"))

    def _start(self, kind):
        if kind in _STARTS:
            return self.block(kind, None)
        ranks = [0, 1, 2]
        if kind in _IMAGE:
            ranks = [1] if kind == "ConcatenateInTime" else [1, 2]
        elif kind in _SEQUENCE:
            ranks = [1]
        elif kind == "Reshape":
            ranks = [0]
        rank = self.pick(ranks)
        value = self.input((7, 7, 2)[-rank - 1 :] if rank else (6,))
        return self.conv(value)

    def Embedding(self, _):
        value = self.input((6,), "int32")
        return self.apply(self.layers.Embedding(7, self.number(4, 6)), value)

    def Siamese(self, _):
        """One layer on two inputs."""
        layer = self.layers.Dense(self.number(4, 6), activation="relu")
        first = self.apply(layer, self.input((5,)))
        second = layer(self.input((5,)).tensor)
        return Value(self.layers.Subtract()([first.tensor, second]), first.channels)

    def DictInputs(self, _):
        first = self.dense(self.input((5,)))
        second = self.dense(self.input((4,)), channels=first.channels)
        return Value(self.layers.Add()([first.tensor, second.tensor]), first.channels)

    def _finish(self, outputs):
        inputs = self.inputs
        if len(inputs) > 1 and "DictInputs" in self.kinds:
            inputs = {tensor.name.split(":")[0]: tensor for tensor in inputs}
        model = self.keras.Model(inputs, outputs)
        for layer in all_layers(model):
            if layer.weights:
                layer.set_weights([self._random(weight) for weight in layer.weights])
        planted = self._plant()
        left = {}
        for channel, made in self.made_by.items():
            for layer, _ in made:
                left[layer.name] = left.get(layer.name, 0) + (channel not in planted)
        for layer in self.attentions:
            left.update(self._plant_heads(layer))
        kinds = {kind: len(channels & planted) for kind, channels in self.kinds.items()}
        return Net(model, kinds, left)

    def _random(self, weight):
        shape, name = tuple(weight.shape), weight.name.split("/")[-1]
        if "moving_variance" in name:
            return self.generator.uniform(0.5, 2, shape)
        if "gamma" in name:
            return self.generator.uniform(0.5, 1.5, shape) * self.generator.choice([-1, 1], shape)
        if "alpha" in name:
            return self.generator.uniform(0, 0.5, shape)
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 4
        return self.generator.normal(size=shape) / np.sqrt(fan_in)

    # -- planting ----------------------------------------------------------------------------------

    def _plant(self):
        """Kills channels of every set; returns those that have to go, and makes others look dead."""
        planted = set()
        weights = {}
        self.pinned |= self.normalized & self.shifts & self.pads
        for channels, groups in self.sets:
            pinned = self.pinned.intersection(channels.tolist())
            size = len(channels) // groups
            count = self.number(1, max(1, size // 2))
            for group in channels.reshape(groups, size):
                for channel in self.generator.permutation(group)[:count].tolist():
                    if pinned:
                        self._make_constant(weights, self.made_by[channel], bias=False)
                    else:
                        planted.add(channel)
                        self._kill(channel, weights)
            if not pinned:
                self._pretend(sorted(set(channels.tolist()) - planted - self.products), weights)
        for layer, values in weights.items():
            layer.set_weights(values)
        return planted

    def _plant_heads(self, layer):
        """Kills heads, query heads, and dimensions of heads; returns how many have to be left."""
        weights = layer.get_weights()
        kernels, biases = weights, [np.zeros(kernel.shape[1:]) for kernel in weights]
        if len(weights) > 4:
            kernels, biases = weights[::2], weights[1::2]
        _, key, value, output = kernels
        (heads, key_dim), value_dim = key.shape[1:], value.shape[2]
        repeats = output.shape[0] // heads
        output = output.reshape(heads, repeats, *output.shape[1:])
        dead = [self.number(0, size - 1) for size in (heads, repeats, key_dim, value_dim)]
        for head in range(heads):
            for at in self.generator.permutation(repeats)[: dead[1]]:
                output[head, at] = 0
            for at in self.generator.permutation(key_dim)[: dead[2]]:
                self._kill_score(kernels, biases, head, at, repeats)
            for at in self.generator.permutation(value_dim)[: dead[3]]:
                self._kill_value(value, output, biases, head, at)
        for head in self.generator.permutation(heads)[: dead[0]]:
            for at in range(value_dim):
                self._kill_value(value, output, biases, head, at)
        if heads > dead[0] + 1 and repeats == 1:  # one head could do with less, and another needs it
            self._kill_score(kernels, biases, int(self.generator.integers(heads)), 0, 1)
        layer.set_weights(weights)
        left = {"heads": heads - dead[0], "key_dim": key_dim - dead[2], "value_dim": value_dim - dead[3]}
        if len(weights) > 4 and keras_compat.misreads_sums(layer):  # see test_misread.py
            as_many = [
                count == self.steps_of[layer] > 1
                for count in (left["heads"], left["heads"] * (repeats - dead[1]))
            ]
            left["key_dim"] = max(left["key_dim"], 1 + any(as_many))
            left["value_dim"] = max(left["value_dim"], 1 + as_many[0])
        is_grouped = type(layer).__name__ == "GroupedQueryAttention"
        if is_grouped or self.keras.backend.backend() == "jax":
            left["key_dim"] = left["value_dim"] = max(left["key_dim"], left["value_dim"])
        if is_grouped:
            left["query_heads"] = left["heads"] * (repeats - dead[1])
        return {f"{layer.name}/{name}": size for name, size in left.items()}

    def _kill_score(self, kernels, biases, head, at, repeats):
        if self.maybe():  # the bias of the key adds the same to all scores
            kernels[1][:, head, at] = 0
            return
        queries = slice(head * repeats, (head + 1) * repeats)
        kernels[0][:, queries, at] = biases[0][queries, at] = 0

    def _kill_value(self, value, output, biases, head, at):
        if self.maybe():
            output[head, :, at] = 0
        else:
            value[:, head, at] = biases[2][head, at] = 0

    def _pretend(self, channels, weights):
        """Of a channel that several layers make, one gives a constant: it has to stay."""
        if len(channels) < 2:
            return  # nothing but constants would be left in front of the other layers
        made = self.made_by[self.pick(channels)]
        if len({layer for layer, _ in made}) > 1:
            self._make_constant(weights, made[:1], bias=False)

    def _make_constant(self, weights, made, bias):
        for layer, index in made:
            _zero_output(layer, _weights_of(layer, weights), index, bias)

    def _kill(self, channel, weights):
        folds, zeros = channel not in self.pads, channel not in self.shifts
        if channel in self.normalized:
            self._make_constant(weights, self.made_by[channel], bias=True)
            for layer, index in self.bias_of.get(channel, ()):
                _weights_of(layer, weights)[-1][index] = 0
            return
        if self.maybe() or not (folds or zeros) or channel in self.vary:
            for layer, index in self.read_by[channel]:
                _zero_input(layer, _weights_of(layer, weights), index)
            for layer, index in self.made_by[channel]:
                if _gates(layer):
                    _zero_recurrence(_weights_of(layer, weights), _gates(layer), index)
            return
        self._make_constant(weights, self.made_by[channel], bias=not folds)
        if not folds:
            for layer, index in self.bias_of.get(channel, ()):
                _weights_of(layer, weights)[-1][index] = 0


# Blocks by what they need: those that make their channels, those for spatial values, those for any.
_MAKERS = {
    "Dense", "Conv", "Transpose", "Separable", "EinsumDense", "Nested", "NestedTwice",
    "Shared", "Embedding", "Siamese", "DictInputs", "Concatenate", "TimeDistributed", "GroupNormalization",
    "OverChannels",
}  # fmt: skip
_SEQUENCE = {"Recurrent", "Bidirectional", "Attention", "MultiHeadAttention"}
_OWN_NOTES = {"Grouped", "Depthwise", "Reshape", "NestedSequential"} | _SEQUENCE
_STARTS = {"Embedding", "Siamese", "DictInputs"}
_ANY = [
    "Dense", "EinsumDense", "Activation", "Activations", "PReLU", "BatchNormalization", "Dropout", "Residual",
    "SqueezeExcite", "Concatenate", "Nested", "NestedSequential", "NestedTwice", "Shared", "Softmax",
    "Unknown", "Operation", "GroupNormalization", "OverChannels",
]  # fmt: skip
_IMAGES = [
    "Conv", "Transpose", "Separable", "Grouped", "Depthwise", "Pooling", "ZeroPadding", "Cropping",
    "UpSampling", "Flatten", "GlobalPooling", "TimeDistributed",
]  # fmt: skip
_OF_RANK = {1: [*_IMAGES, "ConcatenateInTime"], 2: _IMAGES}
_IMAGE = set(_OF_RANK[1])
_SPATIAL = _IMAGE | _SEQUENCE
_NOTHING_GOES = {"Softmax", "Unknown"}
# Every kind of block of which channels have to go; operations only in Keras 3.
KINDS = sorted(({*_ANY, *_SPATIAL, "Reshape"} | _STARTS) - _NOTHING_GOES)


def random_net(keras, generator, kind):
    """A random `Net` with at least one block of this kind, out of `KINDS`."""
    return Maker(keras, generator, kind).net()


def all_layers(model):
    """Every layer, of nested models too, each once."""
    return [layer for layer in model._flatten_layers(include_self=False) if not hasattr(layer, "layers")]


def sizes(model):
    """`{layer name: output channels}` of the layers that make channels."""
    found = {}
    for layer in all_layers(model):
        weights = layer.get_weights()
        if not weights or type(layer).__name__.startswith("Depthwise"):
            continue
        if _gates(layer):
            both = getattr(layer, "merge_mode", None) == "concat"
            found[layer.name] = weights[1].shape[0] * (2 if both else 1)
        elif type(layer).__name__.endswith("Transpose"):
            found[layer.name] = weights[0].shape[-2]
        elif _is_attention(layer):
            found[layer.name] = weights[_made(layer)].shape[-1]
            query, key, value = (weights[at * (2 if len(weights) > 4 else 1)].shape for at in range(3))
            its = {"heads": key[1], "query_heads": query[1], "key_dim": key[2], "value_dim": value[2]}
            found.update({f"{layer.name}/{name}": size for name, size in its.items()})
        else:
            found[layer.name] = weights[_made(layer)].shape[-1]
    return found


def inputs_for(model, seed=1, samples=16):
    """Random inputs, of which compact() sees others, in the structure in which the model takes them."""
    generator = np.random.default_rng(seed)

    def draw(tensor):
        dtype, shape = tf.as_dtype(tensor.dtype), (samples, *tensor.shape[1:])
        if dtype.is_floating:
            return generator.normal(size=shape).astype(dtype.name)
        numbers = generator.integers(0, 5, shape)
        return numbers.astype(str).astype(object) if dtype == tf.string else numbers.astype(dtype.name)

    return tf.nest.map_structure(draw, model.input)


def apart(model, other):
    """The largest difference of two models' outputs on random inputs, relative to each largest output."""
    # Each takes its own structure: Keras 3.7 loads a model of one input in a list as one of the input alone.
    mine, others = (
        [
            keras_compat.to_numpy(output).astype(np.float64)
            for output in tf.nest.flatten(each(inputs_for(each), training=False))
        ]
        for each in (model, other)
    )
    return max(np.abs(a - b).max() / (np.abs(a).max() or 1.0) for a, b in zip(mine, others, strict=True))


def custom_layer(keras):
    """A layer class of the user's; it can be saved."""

    @keras.saving.register_keras_serializable(package="random_nets")
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2.0 * inputs

    return Twice


def _numbers(channels):
    return () if channels is None else set(channels.tolist())


def _weights_of(layer, weights):
    return weights.setdefault(layer, layer.get_weights())


def _made(layer):
    """Which of the weights makes the outputs."""
    if _is_attention(layer):
        return 6 if len(layer.weights) > 4 else 3
    return 1 if type(layer).__name__.startswith("Separable") else 0


def _is_attention(layer):
    return type(layer).__name__ in ("MultiHeadAttention", "GroupedQueryAttention")


def _gates(layer):
    """How many gates a recurrent layer has, or one of both directions; None for other layers."""
    return _GATES.get(type(getattr(layer, "forward_layer", layer)).__name__)


def _directions(values, gates, index):
    """The weights of the directions with a unit of this index in the output, and its index in them."""
    units = values[1].shape[0]
    if len(values) < 4:
        return [(values, index)]
    both = [values[: len(values) // 2], values[len(values) // 2 :]]
    return [(both[index // units], index % units)] if index >= units else [(part, index) for part in both]


def _zero_recurrence(values, gates, index):
    """No other unit reads this one; it may read itself."""
    for (_, kernel, *_), unit in _directions(values, gates, index):
        own = kernel[unit, unit :: kernel.shape[0]].copy()
        kernel[unit] = 0
        kernel[unit, unit :: kernel.shape[0]] = own


def _zero_candidate(values, gates, index):
    """What a unit may become, its last but one or last gate, is always zero."""
    for weights, unit in _directions(values, gates, index):
        column = unit + (2 if gates > 1 else 0) * weights[1].shape[0]
        for array in weights:
            array[..., column] = 0


def _zero_output(layer, values, index, bias):
    if _gates(layer):
        _zero_candidate(values, _gates(layer), index)
        return
    kernel = values[_made(layer)]
    if type(layer).__name__.endswith("Transpose"):
        kernel[..., index, :] = 0
    else:
        kernel[..., index] = 0
    if bias and values[-1].ndim == 1:
        values[-1][index] = 0


def _zero_input(layer, values, index):
    if _gates(layer):
        for first in range(0, len(values), len(values) // 2 if len(values) > 3 else len(values)):
            values[first][index] = 0
        return
    if _is_attention(layer):
        for kernel in values[:6:2] if len(values) > 4 else values[:3]:
            kernel[index] = 0
        return
    kernel, groups = values[0], getattr(layer, "groups", 1)
    if type(layer).__name__.endswith("Transpose"):
        kernel[..., index] = 0
    elif groups > 1:
        inputs, outputs = kernel.shape[-2], kernel.shape[-1] // groups
        group = index // inputs
        kernel[..., index % inputs, group * outputs : (group + 1) * outputs] = 0
    else:
        kernel[..., index, :] = 0
