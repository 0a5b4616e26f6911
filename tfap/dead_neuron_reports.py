"""Dead-neuron rates of a net and its layers, as data that prints as a table."""

import dataclasses

import numpy as np

from tfap import tables
from tfap.activations import ActivationCounts


@dataclasses.dataclass(frozen=True)
class DeadNeurons:
    """The dead-neuron rate of a layer or a net, and its two parts.

    Attributes:
        units: how many neurons, or channels, or channels at positions, the rates are of.
        rate: share of dead units, averaged over inputs: `static + dynamic`. All are in [0, 1].
        static: share of units that were dead on every input.
        dynamic: the rest: of units that were dead on some inputs only.
    """

    units: int
    rate: float
    static: float
    dynamic: float


@dataclasses.dataclass(frozen=True)
class DeadNeuronReport:
    """The report; prints as a table.

    Attributes:
        layers: `{layer path: DeadNeurons}` in graph order.
        net: `DeadNeurons` of all of them. Layers weigh by their units; those that fire in the same place
            have the same units, which weigh once.
    """

    layers: dict[str, DeadNeurons]
    net: DeadNeurons

    def to_dict(self):
        """Everything as plain data: `{"layers": {path: {figure: value}}, "net": {figure: value}}`."""
        return dataclasses.asdict(self)

    def __str__(self):
        table = tables.table_of(["layer"], ["units", "dead", "static", "dynamic"])
        for path, dead in self.layers.items():
            table.add_row(path, *_texts(dead))
        table.add_section()
        table.add_row("all", *_texts(self.net))
        return tables.as_text(table)

    __repr__ = __str__


def dead_neuron_report(counts):
    """How many neurons are dead, by layer and in all: the dead-neuron rate, its static and dynamic parts.

    The rate is that of Liu et al. (AP, TMLR 2023): on an input a ReLU neuron is dead if it gives out 0.
    Neurons that are dead on every input make its static part, the others its dynamic part.

    Args:
        counts: `{layer path: ActivationCounts}`, as `tfap.measure_activations` gives them, or some of
            these; or the difference of two such counts. Never those of a whole training: a neuron that
            died on the way has fired before, and would be dynamic for ever.

    Returns:
        A `DeadNeuronReport`.

    Raises:
        TypeError: counts of another form.
        ValueError: no layers, or a layer of which no activations were seen.

    >>> dead_neuron_report({"hidden": ActivationCounts(np.array([8, 2, 0, 0]), seen=8)}).net
    DeadNeurons(units=4, rate=0.6875, static=0.5, dynamic=0.1875)
    """
    _check(counts)
    layers = {path: _dead(counted) for path, counted in counts.items()}
    distinct = {id(counted): layers[path] for path, counted in counts.items()}
    return DeadNeuronReport(layers, _all(list(distinct.values())))


def _check(counts):
    if not isinstance(counts, dict) or not all(isinstance(one, ActivationCounts) for one in counts.values()):
        raise TypeError(
            "counts must be {layer path: ActivationCounts}, as tfap.measure_activations gives it."
        )
    if not counts:
        raise ValueError("counts names no layers: no neurons are known to fire.")
    for path, counted in counts.items():
        if not counted.seen:
            raise ValueError(f"counts has seen no activations of the layer '{path}'.")


def _dead(counted):
    return DeadNeurons(
        len(counted.counts),
        counted.dead_neuron_rate,
        counted.static_dead_neuron_rate,
        counted.dynamic_dead_neuron_rate,
    )


def _all(layers):
    units = [dead.units for dead in layers]
    rates = np.average([(dead.rate, dead.static, dead.dynamic) for dead in layers], axis=0, weights=units)
    return DeadNeurons(sum(units), *map(float, rates))


def _texts(dead):
    return [f"{dead.units:,}", *(f"{share:.1%}" for share in (dead.rate, dead.static, dead.dynamic))]
