"""Wrappers that count how often neurons fire in training, and how their counts are saved."""

import functools
import inspect
import weakref

import numpy as np

from tfap.graph.calls import channel_axis
from tfap.graph.counts import STATISTICS, ActivationCounts
from tfap.keras_compat import is_keras3
from tfap.keras_compat.state import ExactArray
from tfap.layers.session import PruningSession
from tfap.utils import checks

_FUNCTIONS = {"count": "firing", "sum": "summed", "square": "squared"}  # of a backend, by statistic


class CountingWrapper:
    """Counts how often the neurons of its layer fire in training.

    State: `activation_counts` (int64, one per neuron), `activations_seen` (int64: samples x positions x
    calls) and `pruning_step` (int64: training steps so far), summed over replicas and exact.

    Attributes:
        session: The `PruningSession` of the fit that runs, or of the last one.
    """

    is_tfap_wrapper = True

    _counts = _seen = None

    def __call__(self, *args, **kwargs):
        parameters = inspect.signature(self.layer.call).parameters.values()
        names = [parameter.name for parameter in parameters if parameter.kind != parameter.VAR_POSITIONAL]
        if not args and names and names[0] in kwargs:  # by the name in the layer, not in the wrapper
            args = (kwargs.pop(names[0]),)
        if not is_keras3(self) and len(names) == len(
            parameters
        ):  # tf_keras loses further inputs without a name in eager mode
            args, kwargs = args[:1], {**dict(zip(names[1:], args[1:])), **kwargs}
        return super().__call__(*args, **kwargs)

    def _add_host_state(self, name, shape, dtype, initializer="zeros"):
        return self._backend.host_state(self._add_state, name, shape, dtype, initializer)

    def _add_step(self, initializer="zeros"):
        self.pruning_step = self._add_host_state("pruning_step", (), "int64", initializer)

    def _add_counters(self, neurons, statistic):
        counter = functools.partial(self._backend.counter, self._add_state)
        self._counts = counter("activation_counts", (neurons,), STATISTICS[statistic])
        self._seen = counter("activations_seen", (), "int64")

    @property
    def activation_counts(self):
        return self._counts

    @property
    def activations_seen(self):
        return self._seen

    @property
    def _threshold_counted(self):
        return self.threshold

    def counted(self):
        """Reads the `ActivationCounts` so far; None if nothing counts them."""
        if self.activation_counts is None:
            return None
        return ActivationCounts(
            self.activation_counts.numpy(), int(self.activations_seen.numpy()), self._threshold_counted
        )

    def set_counts(self, counted):
        """Sets the counts to the `ActivationCounts` of this wrapper's own neurons."""
        self._counts.assign(counted.counts)
        self._seen.assign(counted.seen)

    def own_counts(self):
        """Reads the `ActivationCounts` of this wrapper itself; None if it counts nothing."""
        if self._counts is None:
            return None
        return ActivationCounts(self._counts.numpy(), int(self._seen.numpy()), self._threshold_counted)

    def _own_state(self):
        """Returns the wrapper's state by the names that saved files use."""
        state = {"pruning_step": self.pruning_step}
        if self._counts is not None:
            state.update(activation_counts=self._counts, activations_seen=self._seen)
        return state

    def save_own_variables(self, store):
        """Writes the state to a `.keras` or `.weights.h5` file; Keras calls it."""
        if not self.built:
            return
        for name, variable in self._own_state().items():
            store[name] = _as_saved(variable.numpy())

    def load_own_variables(self, store):
        """Reads the state from such a file; raises ValueError if it does not fit the layer."""
        if not self.built:
            if len(store.keys()):
                raise ValueError(f"The layer '{self.name}' is not built: call the model on data once.")
            return
        for name, variable in self._own_state().items():
            if name not in store.keys():  # noqa: SIM118  (a store is no dict)
                raise ValueError(
                    f"The file has no {name} for the layer '{self.name}': use the same pruning arguments."
                )
            self._load(name, variable, np.array(store[name]))

    def _load(self, name, variable, value):
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"The file's {name} for the layer '{self.name}' has the shape {value.shape}, "
                f"the layer needs {tuple(variable.shape)}."
            )
        variable.assign(value)

    def _step_once(self):
        """Adds 1 to `pruning_step` once per training step, also if the layer is called several times."""
        if self.session.begins_step(self):
            self._backend.add_to(self.pruning_step, 1)

    def _count(self, activations, axis, threshold, sample_every, statistic):
        """Counts one call in training, before the weight update, if `sample_every` includes the step."""
        count = getattr(self._backend, _FUNCTIONS[statistic])
        measure = functools.partial(count, activations, axis, threshold)
        self._add_counts(measure, activations.shape[axis], sample_every, statistic)

    def _count_heads(self, attended, threshold, sample_every, statistic):
        """Counts as `_count` the heads of an attention layer, by what `attention_watched` has noted."""
        backend = self._backend
        count = getattr(backend, _FUNCTIONS[statistic])
        measure = functools.partial(_count_excess, backend.attention_excess, attended, count, threshold)
        self._add_counts(measure, attended[0].shape[-2], sample_every, statistic)

    def _add_counts(self, measure, neurons, sample_every, statistic):
        backend, dtype = self._backend, STATISTICS[statistic]
        if sample_every == 1:
            counts, seen = measure()
        else:
            counts, seen = backend.every_nth(self.pruning_step, sample_every, measure, neurons, dtype)
        counts, seen = backend.sum_over_replicas(counts, seen)
        backend.add_to(self._counts, counts)
        backend.add_to(self._seen, seen)


class CountActivationsBase(CountingWrapper):
    """Counts at an activation layer for the layers before it."""

    def _configure(self, threshold, sample_every, data_format, statistic):
        checks.choice("statistic", statistic, tuple(STATISTICS))
        checks.choice("data_format", data_format, (None, "channels_first", "channels_last"))
        self.session = PruningSession()
        self.threshold = checks.number("threshold", threshold)
        self.statistic = statistic
        self.sample_every = checks.integer("sample_every", sample_every)
        self.data_format = data_format

    def _build_state(self, input_shape):
        self._add_step()
        self._axis = channel_axis(self)
        self._add_counters(input_shape[self._axis], self.statistic)

    def _forward(self, training, inputs, *args, **kwargs):
        outputs = self.layer(inputs, *args, **kwargs)
        if training:
            self._step_once()
            self._count(outputs, self._axis, self.threshold, self.sample_every, self.statistic)
        return outputs

    def _own_config(self):
        return {
            "threshold": self.threshold,
            "sample_every": self.sample_every,
            "data_format": self.data_format,
            "statistic": self.statistic,
        }


class LinkedCounters:
    """The wrappers that count for another one, held weakly so that Keras does not track them as sublayers."""

    def __init__(self, counters):
        self._counters = [(weakref.ref(counter), part) for counter, part in counters]

    def counts(self):
        return ExactArray.of(sum(counter().own_counts().counts[part] for counter, part in self._counters))

    def seen(self):
        return ExactArray.of(sum(counter().own_counts().seen for counter, _ in self._counters))

    def threshold(self):
        return max(counter().threshold for counter, _ in self._counters)


def _count_excess(excess, attended, count, threshold):
    """Counts with a function of a backend how far heads are from attending everywhere alike."""
    return count(excess(*attended), -1, threshold)


def _as_saved(values):
    """Returns what files hold, whatever dtypes a backend has."""
    return values.astype(np.int64) if values.dtype == np.int32 else values
