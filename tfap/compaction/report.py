"""What `compact` has removed, what had to stay and why, and the proof that outputs are the same."""

import dataclasses
import math

import numpy as np

from tfap import keras_compat
from tfap.compaction.compact import shaped
from tfap.graph import flops
from tfap.graph.calls import Graph, channel_axis
from tfap.graph.liveness import Liveness
from tfap.keras_compat import equality
from tfap.keras_compat.inputs import listed
from tfap.utils import tables
from tfap.utils.accuracy import accuracy, check_labels


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """One layer with weights, before and after.

    Attributes:
        path: of the layer, such as `inner/dense`.
        units, weights, flops: `(before, after)`: output units or channels; weights; floating-point
            operations a sample, None where they are not counted.
    """

    path: str
    units: tuple[int, int]
    weights: tuple[int, int]
    flops: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class CompactionReport:
    """The report; prints as a table with the certificate below it.

    Attributes:
        layers: a `LayerChange` for each layer with weights, in graph order.
        kept: `liveness.Kept` entries: constant channels that stayed, and why.
        difference: `equality.Difference`: how far outputs are apart, absolute and relative.
        rounding: the relative difference that rounding explains.
        beyond_proof: neurons that were removed although they could matter (`drop_silent`).
        samples: how many inputs were compared; `on_data` says whether they were given or random.
        accuracy: `(before, after)` on the given data, None without labels.
    """

    layers: tuple[LayerChange, ...]
    kept: tuple
    difference: equality.Difference
    rounding: float
    beyond_proof: int
    samples: int
    on_data: bool
    accuracy: tuple[float, float] | None = None

    @property
    def weights(self):
        """`(before, after)` of the whole model."""
        return _total(change.weights for change in self.layers)

    @property
    def flops(self):
        """`(before, after)` of the whole model, of the layers whose operations are counted."""
        return _total(change.flops for change in self.layers if change.flops)

    @property
    def exact(self):
        """True if only what provably cannot matter was removed, and outputs agree to rounding."""
        return not self.beyond_proof and self.difference.relative <= self.rounding

    @property
    def certificate(self):
        """The proof in words."""
        inputs = f"{self.samples} {'given' if self.on_data else 'random'} inputs"
        apart = f"{self.difference.absolute:.1e} absolute, {self.difference.relative:.1e} relative"
        lines = [f"Largest difference of an output on {inputs}: {apart}."]
        if self.beyond_proof:
            lines.append(
                f"Not exact: {self.beyond_proof} neurons were removed that were silent on the counted "
                "data; on other inputs they may fire."
            )
        elif self.exact:
            lines.append("Exact: every neuron that was removed is constant or is read by nothing.")
        else:
            lines.append(f"Not the same model: rounding explains {self.rounding:.0e} relative.")
        if self.accuracy:
            lines.append(
                f"Accuracy on the given data: {self.accuracy[0]:.2%} before, {self.accuracy[1]:.2%} after."
            )
        return "\n".join(lines)

    def to_dict(self):
        """Everything as plain data."""
        return {
            **dataclasses.asdict(self),
            "weights": self.weights,
            "flops": self.flops,
            "exact": self.exact,
        }

    def __str__(self):
        table = tables.table_of(["layer"], ["units", "left", "weights", "left", "FLOPs", "left"])
        for change in self.layers:
            operations = [f"{count:,}" for count in change.flops] if change.flops else ["-", "-"]
            table.add_row(change.path, *_texts(change.units), *_texts(change.weights), *operations)
        table.add_section()
        table.add_row("all", "", "", *_texts(self.weights), *_texts(self.flops))
        stayed = [
            f"{kept.path}: constant channels stay ({kept.channels}): {kept.reason}." for kept in self.kept
        ]
        return tables.as_text(table, *self.certificate.splitlines(), *stayed)

    __repr__ = __str__


def compaction_report(model, compacted, data=None):
    """Says what `tfap.compact` has removed, why other channels stayed, and that outputs are the same.

    Args:
        model: the model that was given to `compact`.
        compacted: what it returned.
        data: inputs to compare outputs on: an array, a list or dict of arrays for several inputs, or a
            tuple `(x, y)` with integer or one-hot labels for the accuracy too. None: random inputs.

    Returns:
        A `CompactionReport`.

    Raises:
        TypeError, ValueError: no plain models, `compacted` does not have the layers of `model`, or labels
            that do not fit the outputs.

    >>> import keras, numpy
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]
    ... )
    >>> model.layers[0].set_weights([numpy.eye(4, 8), numpy.ones(8)])
    >>> report = compaction_report(model, compaction.compact(model))
    >>> report.layers[0].units, report.exact
    ((8, 4), True)
    """
    for each in (model, compacted):
        keras_compat.check_plain(each, "tfap.compaction_report")
    found = Liveness(model)
    before, after = Graph(model), Graph(compacted)
    if list(before.calls_of) != list(after.calls_of):
        raise ValueError(f"'{compacted.name}' is no compacted '{model.name}': their layers differ.")
    inputs, labels = _read(data, model)
    changes = _changes(before, after, [_operations(model), _operations(compacted)])
    return CompactionReport(
        layers=tuple(changes),
        kept=tuple(found.kept()),
        difference=equality.difference(model, compacted, inputs),
        rounding=equality.rounding(model),
        beyond_proof=_beyond_proof(found, after),
        samples=equality.SAMPLES if inputs is None else len(inputs[0]),
        on_data=inputs is not None,
        accuracy=None if labels is None else tuple(_accuracy(m, inputs, labels) for m in (model, compacted)),
    )


def _changes(before, after, operations):
    for (path, layer), (_, smaller) in zip(before.layers(), after.layers()):
        if keras_compat.weights_of(layer):
            weights = (
                sum(math.prod(weight.shape) for weight in keras_compat.weights_of(each))
                for each in (layer, smaller)
            )
            counted = [counts.get(path) for counts in operations]
            yield LayerChange(
                path,
                (_units(before, path), _units(after, path)),
                tuple(weights),
                None if None in counted else tuple(counted),
            )


def _units(layers, path):
    call = layers.calls_of[path][0]
    return call.outputs[0].shape[channel_axis(call.layer)]


def _operations(model):
    try:
        return flops.layer_flops(model)
    except ValueError:  # they depend on sizes that the model leaves open
        return {}


def _beyond_proof(found, after):
    """How many units went that a `Liveness` of the given model would have kept."""
    stay = shaped(found)
    provable = {path: int(stay[found.groups(path)[1]].sum()) for path in found.affines}
    return sum(max(0, left - _units(after, path)) for path, left in provable.items())


def _read(data, model):
    """`(list of the model's inputs, labels)`, None for what is not given."""
    if data is None:
        return None, None
    inputs, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    names = [spec.name for spec in keras_compat.inputs_of(model)]
    inputs = [np.asarray(array) for array in listed(inputs, names)]
    if any(array.ndim == 0 for array in inputs):
        raise TypeError(
            f"data must be an array, a list or dict of arrays, or (x, y): received {type(data).__name__}."
        )
    return inputs, None if labels is None else np.asarray(labels)


def _accuracy(model, inputs, labels):
    outputs = equality.outputs_of(model, inputs)
    outputs = outputs[0] if len(outputs) == 1 else outputs
    check_labels(model.name, labels, outputs)
    return float(accuracy(labels, outputs))


def _total(pairs):
    return tuple(map(sum, zip(*pairs))) or (0, 0)


def _texts(counts):
    return [f"{count:,}" for count in counts]
