"""A model run on batches up to the layers that are measured, which then change, and further."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfap.activations.batches import EMPTY
from tfap.activations.stepwise import StepwiseRun, filled
from tfap.compensation.consumers import Consumer
from tfap.compensation.normalizers import Normalizer

Reader = Consumer | Normalizer


class Sweep(StepwiseRun):
    """Measures what consumers consume, in graph order, each behind layers that are done.

    Args:
        model: The built model without wrappers.
        batches: Iterable of model inputs, which can be read more than once.
        paths: The paths of the consumers.
    """

    def __init__(self, model: Any, batches: Iterable[Any], paths: Iterable[str]) -> None:
        wanted = set(paths)
        super().__init__(model, batches, lambda call: call.path in wanted)
        self._waiting: dict[str, Reader] = {}
        self._seen: dict[str, set[tuple[int, int]]] = {}

    def run(
        self,
        consumers: Sequence[Reader],
        done: Callable[[Any], None],
        may_open: Callable[[Any, Sequence[Any]], bool] = lambda consumer, waiting: True,
    ) -> None:
        """Calls `done` with each consumer once its second moments are those over all batches.

        Args:
            consumers: The consumers of this graph, in graph order.
            done: Function of a consumer. It may change the weights of the layer.
            may_open: Function `(consumer, those that are measured)`: whether it may be measured too.

        Raises:
            ValueError: If there are no batches, they do not fit the model, or a value is NaN or infinite.
        """
        self._waiting = {consumer.path: consumer for consumer in consumers}
        self._seen = {path: set() for path in self._waiting}
        self._may_open = may_open
        while self._waiting:
            self._open: list[Reader] = []
            self.make_pass()
            if not self.batches:
                raise ValueError(EMPTY)
            reached = [consumer for path, consumer in self._waiting.items() if self._seen[path]]
            complete = [consumer for consumer in reached if self._is_complete(consumer)]
            for consumer in complete or reached[:1]:
                done(consumer)
                del self._waiting[consumer.path]
            if not reached:
                return  # nothing calls the others in inference

    def _is_complete(self, consumer):
        return len(self._seen[consumer.path]) >= self.batches * len(consumer.calls)

    def _outputs(self, call, values):
        consumer = self._waiting.get(call.path)
        if consumer is None:
            return super()._outputs(call, values)
        if consumer not in self._open:
            if not self._seen[call.path] and not self._may_open(consumer, self._open):
                return None
            self._open.append(consumer)
        at = self.position[0], id(call)
        if at not in self._seen[call.path]:
            self._seen[call.path].add(at)
            consumer.add(consumer.consumed(call, values, filled(call.arguments, values)))
        return None
