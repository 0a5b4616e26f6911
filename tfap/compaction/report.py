"""Reports what `tfap.compact` removed, what it kept and why, and whether the outputs are the same."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.compaction.compact import kept_groups
from tfap.graph import flops
from tfap.graph.calls import Graph, channel_axis
from tfap.graph.kept import Kept
from tfap.graph.liveness import Liveness
from tfap.keras_compat import equality
from tfap.keras_compat.types import Arrays, Model
from tfap.utils import tables
from tfap.utils.accuracy import accuracy, check_labels


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """The size of a layer with weights before and after compaction.

    Attributes:
        path: String. Path of the layer, such as `"inner/dense"`.
        units: Tuple `(before, after)`. Output units or channels.
        weights: Tuple `(before, after)`. Number of weights.
        flops: Tuple `(before, after)`. FLOPs per sample, or None if unknown.
    """

    path: str
    units: tuple[int, int]
    weights: tuple[int, int]
    flops: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class CompactionReport:
    """The result of `tfap.compaction_report`. Prints as a table, with the equivalence check below it.

    Attributes:
        layers: Tuple of `LayerChange`, one per layer with weights, in graph order.
        kept: Tuple of entries with `path`, `channels`, and `reason`, one per layer and reason: constant or
            disconnected channels that are not removable.
        difference: Largest difference of an output, with `absolute` and `relative`.
        rounding: Float. Relative difference within float tolerance.
        beyond_proof: Integer. Removed neurons that are neither constant nor unused, as `drop_silent` and
            `tfap.prune_once` remove them.
        samples: Integer. Number of inputs on which outputs were compared.
        on_data: Boolean. Whether the inputs are the given data. Otherwise, they are random.
        accuracy: Tuple `(before, after)` on the given data, or None without labels.
    """

    layers: tuple[LayerChange, ...]
    kept: tuple[Kept, ...]
    difference: equality.Difference
    rounding: float
    beyond_proof: int
    samples: int
    on_data: bool
    accuracy: tuple[float, float] | None = None

    @property
    def weights(self) -> tuple[int, int]:
        """Number of weights of the whole model: `(before, after)`."""
        return _total(change.weights for change in self.layers)

    @property
    def flops(self) -> tuple[int, int]:
        """FLOPs per sample of the layers whose FLOPs are known: `(before, after)`."""
        return _total(change.flops for change in self.layers if change.flops)

    @property
    def exact(self) -> bool:
        """Whether only removable neurons were removed and outputs are equal within float tolerance."""
        return not self.beyond_proof and self.difference.relative <= self.rounding

    @property
    def certificate(self) -> str:
        """The equivalence check as text."""
        inputs = f"{self.samples} {'given' if self.on_data else 'random'} inputs"
        difference = f"{self.difference.absolute:.1e} absolute, {self.difference.relative:.1e} relative"
        lines = [f"Largest difference of an output on {inputs}: {difference}."]
        if self.beyond_proof:
            lines.append(
                f"Not exact: {self.beyond_proof} of the removed neurons are neither constant nor unused, as "
                "with drop_silent=True or tfap.prune_once: outputs on other inputs may differ."
            )
        elif self.exact:
            lines.append("Exact: every removed neuron is constant or unused.")
        else:
            lines.append(f"Not the same model: the float tolerance is {self.rounding:.0e} relative.")
        if self.accuracy:
            lines.append(
                f"Accuracy on the given data: {self.accuracy[0]:.2%} before, {self.accuracy[1]:.2%} after."
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data: a dict of numbers, strings, tuples, and dicts."""
        return {
            **dataclasses.asdict(self),
            "weights": self.weights,
            "flops": self.flops,
            "exact": self.exact,
        }

    def __str__(self) -> str:
        table = tables.table_of(["layer"], ["units", "kept", "weights", "kept", "FLOPs", "kept"])
        for change in self.layers:
            layer_flops = _texts(change.flops) if change.flops else ["-", "-"]
            table.add_row(change.path, *_texts(change.units), *_texts(change.weights), *layer_flops)
        table.add_section()
        is_counted = any(change.flops for change in self.layers)
        total_flops = _texts(self.flops) if is_counted else ["-", "-"]
        table.add_row("all", "", "", *_texts(self.weights), *total_flops)
        kept_lines = [
            f"{kept.path}: constant or disconnected channels kept ({kept.channels}): {kept.reason}."
            for kept in self.kept
        ]
        return tables.as_text(table, *self.certificate.splitlines(), *kept_lines)

    __repr__ = __str__


def compaction_report(
    model: Model, compacted: Model, data: Arrays | tuple[Arrays, Arrays] | None = None
) -> CompactionReport:
    """Reports what `tfap.compact` removed, and checks that the outputs are the same.

    Args:
        model: The model that was passed to `tfap.compact`. Unchanged.
        compacted: The model that `tfap.compact` returned. Unchanged.
        data: Inputs on which to compare outputs: an array, a list or dict of arrays, or a tuple `(x, y)` with
            integer or one-hot labels to also compare the accuracy. None uses random inputs.

    Returns:
        A `CompactionReport`. It prints as a table.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a model is wrapped, subclassed, or unbuilt; if `compacted` is not a compacted version
            of `model`; or if the labels do not match the outputs.

    Example:

    >>> import keras, numpy, tfap
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    >>> model.layers[0].set_weights([numpy.eye(4, 8), numpy.ones(8)])
    >>> report = tfap.compaction_report(model, tfap.compact(model))
    >>> report.layers[0].units, report.exact
    ((8, 4), True)
    """
    for checked in (model, compacted):
        keras_compat.check_plain(checked, "tfap.compaction_report")
    liveness = Liveness(model)
    kept = kept_groups(liveness)
    before, after = Graph(model), Graph(compacted)
    differing = sorted(set(_layer_types(before).items()) ^ set(_layer_types(after).items()), key=str)
    if differing:
        raise ValueError(
            f"'{compacted.name}' is not a compacted version of '{model.name}': their layers differ, such as "
            f"'{differing[0][0]}'."
        )
    inputs, labels = _inputs_and_labels(data, model)
    return CompactionReport(
        layers=tuple(_layer_changes(before, after, [_layer_flops(model), _layer_flops(compacted)])),
        kept=tuple(liveness.kept(kept)),
        difference=equality.difference(model, compacted, inputs),
        rounding=equality.rounding(model),
        beyond_proof=_removed_beyond_proof(liveness, kept, after),
        samples=equality.SAMPLES if inputs is None else len(inputs[0]),
        on_data=inputs is not None,
        accuracy=None
        if labels is None
        else (_accuracy(model, inputs, labels), _accuracy(compacted, inputs, labels)),
    )


def _layer_types(graph):
    """`{path: class}` of the layers; functions have names that Keras gives anew. The order may differ."""
    return {path: type(layer) for path, layer in graph.layers() if keras_compat.is_layer(layer)}


def _layer_changes(before, after, flops_by_path):
    compacted_layers = dict(after.layers())
    for path, layer in before.layers():
        if keras_compat.weights_of(layer):
            old_flops, new_flops = (known.get(path) for known in flops_by_path)
            yield LayerChange(
                path,
                (_units(before, path), _units(after, path)),
                (_weight_count(layer), _weight_count(compacted_layers[path])),
                None if old_flops is None or new_flops is None else (old_flops, new_flops),
            )


def _weight_count(layer):
    return sum(math.prod(weight.shape) for weight in keras_compat.weights_of(layer))


def _units(graph, path):
    call = graph.calls_of[path][0]
    return call.outputs[0].shape[channel_axis(call.layer)]


def _layer_flops(model) -> Mapping[str, int]:
    try:
        return flops.layer_flops(model)
    except ValueError:  # they depend on undefined dimensions
        return {}


def _removed_beyond_proof(liveness, kept, after):
    """Number of removed units that a `Liveness` of the given model keeps."""
    provable = {path: int(kept[liveness.groups(path)[1]].sum()) for path in liveness.linear_maps}
    return sum(max(0, units - _units(after, path)) for path, units in provable.items())


def _inputs_and_labels(data, model):
    """`(list of the model's inputs, labels)`, with None for what is not given."""
    if data is None:
        return None, None
    inputs, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    return keras_compat.input_arrays(model, inputs), None if labels is None else np.asarray(labels)


def _accuracy(model, inputs, labels):
    outputs = equality.outputs_of(model, inputs)
    outputs = outputs[0] if len(outputs) == 1 else outputs
    check_labels(model.name, labels, outputs)
    return float(accuracy(labels, outputs))


def _total(pairs):
    return tuple(map(sum, zip(*pairs))) or (0, 0)


def _texts(counts):
    return [f"{count:,}" for count in counts]
