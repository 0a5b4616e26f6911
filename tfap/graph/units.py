"""Units inside a composite layer: what its config entry for their number stands for."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tfap.graph.kernel import KernelSpec

Names = Sequence[str | KernelSpec] | Callable[[Any], Sequence[str | KernelSpec]]


@dataclasses.dataclass(frozen=True)
class Units:
    """Describes the units inside a composite layer, such as those of its feed-forward part.

    Pass it to `tfap.register_composite_layer`. Unit j must depend on column j of what makes the units, and
    reach the output through row j of what reads them only. In between, each unit is for itself: activations,
    products of the same unit, Dropout, and BatchNormalization, but no softmax or LayerNormalization.

    Attributes:
        made_by: List of the inner layers that make the units, by attribute: `"dense_1"`, or, in a list of
            layers, `"blocks.0.dense"`. A layer has a `kernel` with the units on its last axis, and maybe a
            `bias`. A `tfap.KernelSpec` names a variable with other axes. Or a function `(layer)` that returns
            such a list.
        read_by: The same for the inner layers that read the units, on the last but one axis of the kernel.
        through: List of other inner layers, or variables, that have one weight per unit, such as
            `"batch_norm"`. Or a function, as above.
        zero_stays_zero: Whether a unit is zero if its weights and biases in `made_by` are, as with relu,
            gelu and silu. If False, tfap only removes units that nothing reads.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `made_by` or `read_by` is empty.

    Example:

    >>> import tfap
    >>> tfap.Units(made_by=["gate", "up"], read_by=["down"]).read_by
    ['down']
    """

    made_by: Names
    read_by: Names
    through: Names = ()
    zero_stays_zero: bool = False

    def __post_init__(self) -> None:
        for name in ("made_by", "read_by", "through"):
            given = getattr(self, name)
            listed = isinstance(given, list | tuple) and all(isinstance(x, str | KernelSpec) for x in given)
            if not listed and not callable(given):
                raise TypeError(
                    f"{name} must be a list of attribute names or tfap.KernelSpec, or a function: "
                    f"received {given!r}."
                )
            if name != "through" and not callable(given) and not given:
                raise ValueError(f"{name} must name at least one inner layer: received {given!r}.")
        if not isinstance(self.zero_stays_zero, bool):
            raise TypeError(f"zero_stays_zero must be True or False: received {self.zero_stays_zero!r}.")

    def __hash__(self) -> int:
        return id(self)

    def names(self, role: str, layer: Any) -> Sequence[str | KernelSpec]:
        """Returns the entries of `made_by`, `read_by` or `through` for a layer."""
        given = getattr(self, role)
        return given(layer) if callable(given) else given

    def kernels(self, layer: Any, entry: str) -> tuple["InnerKernel", ...]:
        """Lists the kernels of the units in a layer.

        Args:
            layer: The composite layer.
            entry: The config entry with the number of units.
        """
        made = [_spec(each) for each in self.names("made_by", layer)]
        read = [_spec(each) for each in self.names("read_by", layer)]
        return (
            *(_inner(spec, entry, False, at > 0) for at, spec in enumerate(made)),
            *(_inner(spec, entry, True, True) for spec in read),
        )


@dataclasses.dataclass(frozen=True)
class InnerKernel(KernelSpec):
    """A kernel whose neurons are units inside a layer. One that reads them has them on its input axis.

    Attributes:
        units: String. The config entry with the number of units.
        reads_units: Whether it reads the units, rather than making them.
        is_repeated: Whether another kernel already counts the units as neurons.
    """

    units: str = ""
    reads_units: bool = False
    is_repeated: bool = False

    @property
    def repeats_neurons(self) -> bool:
        return self.is_repeated


def _spec(given):
    return given if isinstance(given, KernelSpec) else KernelSpec(f"{given}.kernel")


def _inner(spec, entry, reads_units, is_repeated):
    axes = (spec.neuron_axes, spec.input_axes)
    neurons, inputs = axes[::-1] if reads_units else axes
    return InnerKernel(
        spec.name,
        neuron_axes=neurons,
        input_axes=inputs,
        feeds_output=False,
        reads_input=False,
        units=entry,
        reads_units=reads_units,
        is_repeated=is_repeated,
    )
