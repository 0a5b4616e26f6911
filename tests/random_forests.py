"""Models of many small random nets side by side, all about one kind: many examples in one compaction.

Each net, a branch, has layers, weights and an output of its own, and shares only the input with the others.
"""

import dataclasses
import functools

import numpy as np
import random_nets
from random_nets import Value

import tfap

# kind -> the method that builds it, and the Kerases that have it
_BOTH = ("keras", "tf_keras")
KINDS = {
    "Attention": ("Attention", _BOTH),  # with einsum in Keras 3, matmul in tf_keras
    "Bidirectional": ("Bidirectional", _BOTH),
    "Composite": ("Composite", _BOTH),
    "Dot": ("Dot", _BOTH),
    "GroupNormalization": ("GroupNormalization", _BOTH),
    "GroupedQueryAttention": ("GroupedQueryAttention", ("keras",)),
    "GRU": ("Recurrent", _BOTH),
    "LayerNormalization": ("LayerNormalization", _BOTH),
    "LSTM": ("Recurrent", _BOTH),
    "MultiHeadAttention": ("MultiHeadAttention", _BOTH),
    "RMSNormalization": ("OverChannels", ("keras",)),
    "Separable": ("Separable", _BOTH),
    "SimpleRNN": ("Recurrent", _BOTH),
    "TimeDistributed": ("TimeDistributed", _BOTH),
    "UnitNormalization": ("OverChannels", _BOTH),
}
SHAPES = [(5, 2), (4, 3, 2)]
_OF_ANY_RANK = {"GroupNormalization", "Separable", "TimeDistributed"}


@dataclasses.dataclass(frozen=True)
class Forest:
    """A model of many branches.

    Attributes:
        model: A Functional model with an output per branch.
        left: `{layer name, or name/units: how many have to be left}`.
        planted: List with the number of channels, heads or units of the kind that have to go, per branch.
    """

    model: object
    left: dict
    planted: list


class Maker(random_nets.Maker):
    """Builds a forest of a kind, out of `KINDS`."""

    def __init__(self, keras, generator, kind):
        super().__init__(keras, generator, KINDS[kind][0])
        self.choice = kind  # what is picked where it is one of several
        self.inputs_of, self.branches = {}, []
        self.centered, self.composites = [], []

    def pick(self, choices):
        chosen = [each for each in choices if getattr(each, "__name__", each) == self.choice]
        return chosen[0] if chosen else super().pick(choices)

    def activation(self):
        """Zero stays zero in front of a normalization over channels, so that something can go."""
        return super().pick(random_nets.ZERO_AT_ZERO) if self.kind == "OverChannels" else super().activation()

    def forest(self, count):
        """Returns a `Forest` of this many branches."""
        outputs = [self._branch() for _ in range(count)]
        net = self._finish(outputs)
        left = {**net.left, **{f"{layer.name}/units": self._plant_units(layer) for layer in self.composites}}
        before = sizes(net.model)
        planted = [
            len(channels & self.planted) + sum(before[name] - left[name] for name in left if name in inside)
            for channels, inside in ((channels, _inside(layers, left)) for channels, layers in self.branches)
        ]
        return Forest(net.model, left, planted)

    def _branch(self):
        shape = super().pick(SHAPES) if self.choice in _OF_ANY_RANK else SHAPES[0]
        if shape not in self.inputs_of:
            self.inputs_of[shape] = self.input(shape)
        value = self.conv(self.inputs_of[shape], same=True)
        first, before = self.count, len(self.attentions + self.composites)
        value = getattr(self, self.kind)(value)
        layers = (self.attentions + self.composites)[before:]
        self.branches.append((set(range(first, self.count)), {layer.name for layer in layers}))
        return self._output(self.head(value) if value.rank else value)

    def _plant(self):
        self.planted = super()._plant()
        for layer in self.centered:
            # In float64: float32 rounds what is subtracted, which is far more than 1e-6 of small differences.
            weights = [array.astype(np.float64) for array in layer.get_weights()]
            alive = weights[0].any(axis=0)
            for array in weights:
                array[..., alive] -= array[..., alive].mean(axis=-1, keepdims=True)
            layer.set_weights(weights)
        return self.planted

    def _plant_units(self, layer):
        """Lets nothing read some units of a composite layer; returns how many have to be left."""
        kernel, bias = layer.down.get_weights()
        dead = self.generator.permutation(len(kernel))[: self.number(1, len(kernel) - 1)]
        kernel[dead] = 0
        layer.down.set_weights([kernel, bias])
        return len(kernel) - len(dead)

    # -- kinds -------------------------------------------------------------------------------------

    def MultiHeadAttention(self, value):
        return super().MultiHeadAttention(value, grouped=False)

    def GroupedQueryAttention(self, value):
        return super().MultiHeadAttention(value, grouped=True)

    def LayerNormalization(self, value):
        """Of a layer whose outputs have the sum zero, so that a zero changes no mean."""
        layer = self.layers.Dense(self.number(4, 7))
        value = self.apply(layer, value)
        self.centered.append(layer)
        self.normalized.update(value.channels.tolist())
        return self.through(self.layers.LayerNormalization(), value)

    def Dot(self, value):
        """Scores of steps with steps: channels that are zero on a side go. Maybe sums weighted by them."""
        one = self.dense(value, activation=self.pick(["relu", "tanh", "linear"]))
        other = self.dense(value, channels=one.channels, activation=self.pick(["gelu", "linear"]))
        self.normalized.update(one.channels.tolist())
        self.products.update(one.channels.tolist())
        scores = self.layers.Dot(axes=(2, 2))([one.tensor, other.tensor])
        if self.maybe():
            return Value(scores, None)
        values = self.dense(value)
        self.pads.update(values.channels.tolist())
        weights = self.layers.Softmax()(scores)
        return Value(self.layers.Dot(axes=(2, 1))([weights, values.tensor]), values.channels)

    def Composite(self, value):
        layer = block_class(self.keras)(self.number(3, 6))
        tensor = layer(self.pin(value).tensor)
        self.composites.append(layer)
        return Value(tensor, None)


def _inside(layers, left):
    """The names of what a branch has besides channels: heads, dimensions and units of these layers."""
    return {name for name in left if "/" in name and name.split("/")[0] in layers}


def sizes(model):
    """As `random_nets.sizes`, with the units of composite layers."""
    found = random_nets.sizes(model)
    blocks = [layer for layer in random_nets.all_layers(model) if hasattr(layer, "hidden_dim")]
    return {**found, **{f"{layer.name}/units": layer.hidden_dim for layer in blocks}}


@functools.cache
def block_class(keras):
    """A composite layer with a gate, registered with its units."""
    layers = keras.layers

    @keras.saving.register_keras_serializable(package="random_forests")
    class Block(layers.Layer):
        def __init__(self, hidden_dim, **kwargs):
            super().__init__(**kwargs)
            self.hidden_dim = hidden_dim

        def build(self, shape):
            self.gate, self.up = (layers.Dense(self.hidden_dim, name=name) for name in ("gate", "up"))
            self.down = layers.Dense(shape[-1], name="down")
            for layer, last in ((self.gate, shape[-1]), (self.up, shape[-1]), (self.down, self.hidden_dim)):
                layer.build((*shape[:-1], last))
            self.built = True

        def call(self, inputs):
            return inputs + self.down(keras.activations.sigmoid(self.gate(inputs)) * self.up(inputs))

        def get_config(self):
            return {**super().get_config(), "hidden_dim": self.hidden_dim}

    tfap.register_composite_layer(Block, {"hidden_dim": tfap.Units(["gate", "up"], ["down"])})
    return Block
