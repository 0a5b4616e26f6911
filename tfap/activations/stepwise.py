"""A model in inference mode on batches, call by call, that can stop at a layer and continue later.

Keras runs a batch through a whole model. To change a layer by what it consumes over all batches, and to
change those after it by what they then consume, the batches have to stop at the first layer together. Values
that are still needed are kept, so that the work stays that of one pass over the data.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tfap.graph.calls import Call, Graph
from tfap.graph.values import Value
from tfap.keras_compat import eager

KEPT_BYTES = 2**30  # of values between passes; with more, each pass starts at the inputs


class Stop(BaseException):
    """Raised in the call of a layer to end the call. Not an `Exception`, which Keras would report."""


@dataclasses.dataclass
class _State:
    """How far one batch has come.

    Attributes:
        values: Dict of `Value` to tensor: those that calls to come consume.
        pending: List of the `Call`s to come, in graph order.
    """

    values: dict[Value, Any]
    pending: list[Call]

    def size(self) -> int:
        """Returns the number of bytes of the values."""
        return sum(map(_bytes, self.values.values()))


class StepwiseRun:
    """Runs a Sequential or Functional model on batches as far as its layers let it, again and again.

    A call ends early if something in it raises `Stop`. Calls that do not depend on it are made all the same.
    The next pass makes the calls that are left.

    Args:
        model: The built model, with or without tfap's wrappers.
        batches: Iterable of model inputs. It is read once if the values fit into `KEPT_BYTES`, and in each
            pass if not.
        is_goal: Function of a `Call`. Only these calls, and those that they depend on, are made.
        repeatable: Whether `batches` can be read in each pass.

    Attributes:
        graph: The `calls.Graph` of the model.
        goals: List of the `Call`s of `is_goal`.
        batches: Integer. The number of batches, after the first pass.
        position: Tuple of the number of the current batch and the current `Call`.
        executions: Integer. The number of calls made so far.
        spoiled_by: Object that a layer inside the current call sets so that its outputs are not used, as if
            it had raised `Stop`.
    """

    def __init__(
        self,
        model: Any,
        batches: Iterable[Any],
        is_goal: Callable[[Call], bool] = lambda call: True,
        repeatable: bool = True,
    ) -> None:
        self.graph = Graph(model)
        self.goals = [call for call in self.graph.calls if is_goal(call)]
        self._calls = _needed(self.graph.calls, self.goals)
        self._reader = eager.InputReader(model)
        self._batches, self._repeatable = batches, repeatable
        self.batches = 0
        self.position: tuple[int, Call | None] = (0, None)
        self.executions = 0
        self.spoiled_by: Any = None
        self._states: list[_State] | None = None
        self._kept_bytes = 0
        self._keeps = True

    def make_pass(self) -> int:
        """Runs every batch as far as it goes.

        Returns:
            The number of batches.

        Raises:
            ValueError: If a batch does not fit the model, or the values of data that can be read once only
                need more than `KEPT_BYTES`.
        """
        if self._states is not None:
            for index in range(len(self._states)):
                self._keep(index, self._advanced(index, self._states[index]))
            return self.batches
        states: list[_State] = []
        self.batches = 0
        for index, start in enumerate(self._starts()):
            state = self._advanced(index, start)
            self.batches += 1
            if self._keeps:
                self._kept_bytes += state.size()
                states.append(state)
                self._check_size(states)
        self._states = states if self._keeps else None
        return self.batches

    def _starts(self) -> Iterator[_State]:
        for batch in self._batches:
            values = dict(zip(self.graph.inputs, self._reader.read(batch)))
            yield _State(values, self._calls)

    def _check_size(self, states):
        if self._kept_bytes <= KEPT_BYTES:
            return
        if not self._repeatable:
            raise ValueError(
                f"The data can be read only once, and more than {KEPT_BYTES >> 20:,} MiB of activations "
                "would have to be kept: pass arrays, a tf.data.Dataset or a PyDataset, or fewer batches."
            )
        self._keeps, self._kept_bytes = False, 0
        states.clear()

    def _keep(self, index, state):
        """Keeps how far a batch has come, unless the memory does not suffice: it then stays where it was."""
        grown = self._kept_bytes + state.size() - self._states[index].size()
        if grown <= KEPT_BYTES or grown <= self._kept_bytes:
            self._kept_bytes, self._states[index] = grown, state

    def _advanced(self, index, state):
        values, pending, uses = dict(state.values), [], _uses(state.pending)
        for call in state.pending:
            if all(value in values for value in call.inputs):
                self.position = index, call
                outputs = self._outputs(call, values)
                if outputs is None:
                    pending.append(call)
                    continue
                values.update(zip(call.outputs, outputs, strict=True))
                for value in call.inputs:
                    uses[value] -= 1
                for value in (*call.inputs, *call.outputs):
                    if not uses.get(value):
                        values.pop(value, None)
            else:
                pending.append(call)
        return _State(values, pending)

    def _outputs(self, call, values):
        """Makes a call. None if something in it has stopped it."""
        self.executions += 1
        self.spoiled_by = None
        args, kwargs = filled(call.arguments, values)
        try:
            outputs = eager.call_in_inference(call.layer, args, kwargs, call.training)
        except Stop:
            return None
        return _flat(outputs) if self.spoiled_by is None else None


def _needed(calls, goals):
    """Lists some calls and those that they depend on, in graph order."""
    consumed: set[Value] = set()
    needed = []
    for call in reversed(calls):
        if call in goals or not consumed.isdisjoint(call.outputs):
            needed.append(call)
            consumed.update(call.inputs)
    return needed[::-1]


def _uses(calls):
    uses: dict[Value, int] = {}
    for call in calls:
        for value in call.inputs:
            uses[value] = uses.get(value, 0) + 1
    return uses


def filled(thing, values):
    """Returns nested arguments with tensors in place of `Value`s."""
    if isinstance(thing, Value):
        return values[thing]
    if isinstance(thing, dict):
        return {key: filled(value, values) for key, value in thing.items()}
    if isinstance(thing, tuple) and type(thing) is not tuple:
        return type(thing)(*(filled(value, values) for value in thing))  # a named tuple
    if isinstance(thing, list | tuple):
        return type(thing)(filled(value, values) for value in thing)
    return thing


def _flat(outputs):
    """Lists the tensors of nested outputs, in the order in which the graph lists their `Value`s."""
    if isinstance(outputs, dict):
        return [tensor for key in sorted(outputs) for tensor in _flat(outputs[key])]
    if isinstance(outputs, list | tuple):
        return [tensor for output in outputs for tensor in _flat(output)]
    return [outputs]


def _bytes(tensor):
    shape, dtype = getattr(tensor, "shape", None), getattr(tensor, "dtype", None)
    if shape is None or dtype is None or any(size is None for size in shape):
        return 0  # a sparse or ragged tensor
    return math.prod(shape) * (getattr(dtype, "itemsize", None) or getattr(dtype, "size", 4))
