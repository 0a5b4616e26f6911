"""The common part of the wrappers for Keras 3 and tf_keras: counting, masks, and settings.

The wrappers store and count. Scores and masks are computed outside, in NumPy (tfap/training/mask_update.py).
A class for one Keras adds to these mixins its backend (`_backend`), how to make a state variable
(`_add_state`), how to set a constraint on a kernel (`_constrain`), serialization of the inner layer, and
shapes.
"""

import contextlib
import functools
import inspect
import sys
import weakref

import numpy as np

from tfap.graph import layer_types
from tfap.graph.activation import fires
from tfap.graph.calls import channel_axis
from tfap.graph.counts import STATISTICS, ActivationCounts
from tfap.graph.kernel import KernelSpec, neuron_count
from tfap.keras_compat import is_keras3, private
from tfap.keras_compat.state import ExactArray
from tfap.layers.history import CountMemory, PreviousWeights
from tfap.layers.session import PruningSession
from tfap.utils import checks

CALLBACK_MISSING = (
    "The layer '{name}' is wrapped for pruning, but nothing prunes it: pass "
    "callbacks=[tfap.UpdatePruningStep()] to fit(). In a training loop of your own call the callback's "
    "on_train_begin(), on_train_batch_end(batch) and on_epoch_end(epoch, logs)."
)

LOOP_NEVER_PRUNES = (
    "The training loop of '{name}' calls on_train_begin() of the callback, but neither "
    "on_train_batch_end(batch) after each step nor on_epoch_end(epoch) after each epoch, so nothing was "
    "pruned. Call both."
)


SEVERAL_INPUTS = (
    "The layer '{name}' reads several inputs, of which the wrapper knows one: build it before you wrap it, "
    "or call tfap.prune on the whole model."
)

KERNEL_MISSING = (
    "The layer '{name}' has no {weight} after build(), which must make it: give its class a build(), or call "
    "the layer on data before you wrap it."
)


NO_HEADS = (
    "The layer '{name}' ({kind}) has no heads: granularity='head' prunes MultiHeadAttention and "
    "GroupedQueryAttention. Choose granularity='neuron' or 'weight'."
)


_FUNCTIONS = {"count": "firing", "sum": "summed", "square": "squared"}  # of a backend, by statistic


class ZeroPruned:
    """Keeps pruned weights at zero: a constraint, which optimizers apply after every step.

    Where steps are stateless, the optimizer does not know the value of the mask. So the forward pass of the
    same step notes it.
    """

    def __init__(self, mask, backend, users=None):
        self.mask = mask
        self.backend = backend.__name__  # by name: a layer is copied with its constraints
        self.users = users  # the constraint that the weight had before
        self.noted = None

    def note(self):
        self.noted = sys.modules[self.backend].noted(self.mask)

    def __call__(self, weight):
        noted, self.noted = self.noted, None  # the next step notes it again
        weight = self.users(weight) if self.users else weight
        return sys.modules[self.backend].masked(weight, self.mask, noted)

    def __getstate__(self):
        return {**vars(self), "noted": None}


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


class PruneByActivationBase(CountMemory, PreviousWeights, CountingWrapper):
    """Masks a layer's kernels and counts its neurons, if the layer has the activation itself.

    State besides the counts: `mask` (uint8, 1 where a weight is kept; a dict by weight name if the layer has
    several kernels), `last_update_step` (int64: the step after which the masks were last updated, so that an
    interrupted update is made up for) and `updates_made` (int64).

    Attributes:
        fan_in_scale: By weight name, how many times more inputs each neuron had before compaction.
        dense_sizes: By weight name, its number of weights and of neurons before compaction.
    """

    prunes_in_graph = False  # only under tfmot's callback: see layers/tf_keras.py

    def _configure(self, settings):
        self._check_prunable(self.layer)
        self.settings = settings
        self.specs = self._specs()
        self.session = PruningSession()
        self._masks = {}
        self._zeroing = {}  # constraints by weight name
        self._bias_masks = {}  # (bias, its mask) by the name of the cell
        self.fan_in_scale = {}
        self.dense_sizes = {}
        self._linked = None

    @staticmethod
    def _check_prunable(layer):
        reason = layer_types.why_not_prunable(layer)
        if reason:
            raise ValueError(f"The layer '{layer.name}' cannot be pruned: {reason}.")

    def check_still_prunable(self):
        """Raises ValueError if the layer has changed since it was wrapped, as by `enable_lora`."""
        if self.built:
            self._check_prunable(self.layer)

    def note_threshold(self, spec, item, mask):
        """Called with the `Scored` weight and its mask after an update; for what tfmot's callback logs."""

    def begin_steps(self):
        """Called at the beginning of every fit; only the wrapper for tf_keras does something."""

    def keep_seed_states(self, states):
        """Saves a model's `SeedStates` with this wrapper; only the wrapper for Keras 3 does something."""

    def restore_seed_states(self):
        """Writes loaded states to the seed generators given to `keep_seed_states`, once."""

    def _specs(self):
        """Lists the layer's weights that the criterion can rank."""
        side = self.criterion.counts
        whole_neurons = self.settings.pattern.couples_neurons
        every = self.settings.pattern.kernel_specs(self.layer)
        if not every and layer_types.kernel_specs(self.layer):
            raise ValueError(NO_HEADS.format(name=self.layer.name, kind=type(self.layer).__name__))
        specs = [spec for spec in every if spec.countable(side, whole_neurons)]
        if self.settings.as_tfmot and not layer_types.lists_weights(self.layer):
            specs = [spec for spec in specs if not layer_types.is_depthwise(spec)]
        unknown_yet = layer_types.lists_weights(self.layer) and not self.layer.built
        if not specs and not unknown_yet:
            raise ValueError(
                f"The layer '{self.layer.name}' cannot be pruned by counts: "
                f"{layer_types.NOT_COUNTABLE[side]}."
            )
        return specs

    def _specs_in_pattern(self):
        """Lists the specs of the built layer whose weights have the axes that the pattern needs."""
        if layer_types.lists_weights(self.layer):
            self._check_prunable(self.layer)
            self.specs = self._specs()
        for spec in self.specs:
            if spec.find(self.layer) is None:
                raise ValueError(KERNEL_MISSING.format(name=self.layer.name, weight=spec.name))
        pattern = self.settings.pattern
        reasons = {spec: pattern.why_not(spec.find(self.layer).shape) for spec in self.specs}
        if all(reasons.values()) and reasons:
            raise ValueError(
                f"The layer '{self.layer.name}' cannot be pruned: {next(iter(reasons.values()))}."
            )
        return [spec for spec, reason in reasons.items() if not reason]

    @property
    def pruning_schedule(self):
        return self.settings.pruning_schedule

    @property
    def criterion(self):
        return self.settings.criterion

    @property
    def counts_here(self):
        """Whether this wrapper counts; False if no counts are needed or another layer counts."""
        side = self.criterion.counts
        return side == "input" or self.counts_heads or (side == "output" and fires(self.layer))

    @property
    def counts_heads(self):
        """Whether this wrapper counts at which positions heads attend elsewhere than everywhere alike."""
        return self.criterion.counts == "output" and any(spec.heads for spec in self.specs)

    def _build_state(self, input_shape):
        self._add_step()
        self.last_update_step = self._add_host_state("last_update_step", (), "int64")
        self.updates_made = self._add_host_state("updates_made", (), "int64")
        self.specs = self._specs_in_pattern()
        for spec in self.specs:
            kernel = spec.find(self.layer)
            mask = self._add_state(f"{spec.name.replace('.', '_')}_mask", kernel.shape, "uint8", "ones")
            self._masks[spec.name] = mask
            self._zeroing[spec.name] = self._constrain(kernel, mask)
        self._add_bias_masks()
        if "previous" in self.criterion.needs:
            self._add_previous()
        if self.counts_here:
            self._add_counters(self._neurons_counted(input_shape), self.criterion.statistic)
        if self.criterion.counts and self.criterion.forgets:
            self._add_memory(self._neurons_counted(input_shape))

    def _neurons_counted(self, input_shape):
        if self.criterion.counts == "input":
            return input_shape[channel_axis(self.layer)]
        return max(
            (spec.first_neuron or 0) + neuron_count(spec, spec.find(self.layer).shape) for spec in self.specs
        )

    # A unit of a recurrent layer without incoming weights is not constant but varies with time, unless the
    # bias of its gates is zero too: then it is always zero.

    def _add_bias_masks(self):
        if not self.settings.pattern.couples_neurons:
            return
        for cell in dict.fromkeys(self._cell(spec) for spec in self.specs if _prunes_bias(spec)):
            bias = KernelSpec(f"{cell}.bias").find(self.layer)
            if bias is not None:
                name = f"{cell}.bias"
                mask = self._add_state(f"{name.replace('.', '_')}_mask", bias.shape, "uint8", "ones")
                self._bias_masks[cell] = bias, mask
                self._zeroing[name] = self._constrain(bias, mask)

    @staticmethod
    def _cell(spec):
        return spec.name.rpartition(".")[0]

    def zero_biases(self):
        """Zeroes the biases of units of a recurrent layer, and of heads, that have no weights left."""
        for cell, (bias, mask) in self._bias_masks.items():
            masks = [
                (spec, self._masks[spec.name].numpy()) for spec in self.specs if self._cell(spec) == cell
            ]
            if masks[0][0].heads:  # kernel (inputs, heads, dimensions), bias (heads, dimensions)
                kept = masks[0][1].any(axis=(0, 2))[:, None]
            else:
                kept = np.any([_by_unit(spec, values).any(axis=(0, 1)) for spec, values in masks], 0)
                kept = np.tile(kept, masks[0][0].gates)
            mask.assign(np.broadcast_to(kept, mask.shape).astype(np.uint8))
            bias.assign(bias.numpy() * mask.numpy())

    def _forward(self, training, inputs, *args, **kwargs):
        in_graph = training and not self.session.running
        if in_graph and not self.prunes_in_graph:
            self.session.callback_missed = True
            self._backend.keep_weights()
            raise RuntimeError(CALLBACK_MISSING.format(name=self.name))
        if training or self.session.running:
            for constraint in self._zeroing.values():
                constraint.note()
        with self._watched(training) as attended:
            outputs = self.layer(inputs, *args, **kwargs)
        if training:
            self._step_once()
            every, criterion = self.settings.sample_every, self.criterion
            if self.counts_heads:
                self._count_heads(attended[0], criterion.threshold, every, criterion.statistic)
            elif self.counts_here:
                counted = inputs if self.criterion.counts == "input" else _first(outputs)
                axis = channel_axis(self.layer)
                self._count(counted, axis, criterion.threshold, every, criterion.statistic)
            if in_graph:
                self._prune_in_graph()
        return outputs

    @contextlib.contextmanager
    def _watched(self, training):
        """Lists what the layer attends with in this context, if its heads are counted."""
        attended = []
        with contextlib.ExitStack() as stack:
            if training and self.counts_heads:
                note = functools.partial(_append, attended)
                stack.enter_context(private.attention_watched(self.layer, note))
            yield attended

    def _own_state(self):
        own = {"last_update_step": self.last_update_step, "updates_made": self.updates_made}
        return {**super()._own_state(), **own, **self._memory_state(), **self._previous_state()}

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for name, mask in self._masks.items():
            store[f"{name}_mask"] = np.packbits(mask.numpy())  # 1 bit per weight

    def load_own_variables(self, store):
        super().load_own_variables(store)
        for name, mask in self._masks.items():
            packed, size = np.array(store[f"{name}_mask"]), int(np.prod(mask.shape))
            if len(packed) != -(-size // 8):
                raise ValueError(
                    f"The file's mask for the layer '{self.name}' has {len(packed)} bytes, the layer needs "
                    f"{-(-size // 8)}: use the same pruning arguments."
                )
            mask.assign(np.unpackbits(packed, count=size).reshape(mask.shape))
        self.zero_biases()

    # -- read and written by the rest of tfap ------------------------------------------------------

    @property
    def trained(self):
        """Whether the layer has been called in training, in this process or before it was saved."""
        return self.built and int(self.pruning_step.numpy()) > 0

    @property
    def mask(self):
        return next(iter(self._masks.values())) if len(self._masks) == 1 else dict(self._masks)

    def kernel_and_mask(self):
        """Lists `(spec, kernel variable, mask variable)` of every prunable weight."""
        return [(spec, spec.find(self.layer), self._masks[spec.name]) for spec in self.specs]

    def masked_weights(self):
        """Returns the inner layer's weights for `set_weights`, pruned ones exactly zero."""
        masks = {id(kernel): mask for _, kernel, mask in self.kernel_and_mask()}
        masks.update((id(bias), mask) for bias, mask in self._bias_masks.values())
        return [
            value * masks[id(variable)].numpy() if id(variable) in masks else value
            for variable, value in zip(self.layer.weights, self.layer.get_weights())
        ]

    def link_counters(self, counters):
        """Links this wrapper to the wrappers that count its neurons.

        Args:
            counters: A list of `(wrapper, slice of its counts)`, one for each activation of a shared layer.
        """
        self._linked = _LinkedCounters(counters)

    @property
    def activation_counts(self):
        """int64, one per neuron: counted in this wrapper or at the activation after it."""
        return self._linked.counts() if self._linked else self._counts

    @property
    def activations_seen(self):
        return self._linked.seen() if self._linked else self._seen

    @property
    def _threshold_counted(self):
        return self._linked.threshold() if self._linked else self.criterion.threshold


class _LinkedCounters:
    """The wrappers that count for another one, held weakly so that Keras does not track them as sublayers."""

    def __init__(self, counters):
        self._counters = [(weakref.ref(counter), part) for counter, part in counters]

    def counts(self):
        return ExactArray.of(sum(counter().own_counts().counts[part] for counter, part in self._counters))

    def seen(self):
        return ExactArray.of(sum(counter().own_counts().seen for counter, _ in self._counters))

    def threshold(self):
        return max(counter().threshold for counter, _ in self._counters)


def _prunes_bias(spec):
    """Returns whether the bias next to a kernel is pruned with its neurons, which vary without weights."""
    return spec.first_neuron is not None or (spec.heads and spec.neuron_axes != (0,))


def _append(attended, *arguments):
    attended.append(arguments)


def _count_excess(excess, attended, count, threshold):
    """Counts with a function of a backend how far heads are from attending everywhere alike."""
    return count(excess(*attended), -1, threshold)


def _first(outputs):
    """Returns the output of a layer without the states of a recurrent one."""
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def _as_saved(values):
    """Returns what files hold, whatever dtypes a backend has."""
    return values.astype(np.int64) if values.dtype == np.int32 else values


def _by_unit(spec, mask):
    """Reshapes the mask of a kernel of a recurrent layer to `(weights, gates, units)`."""
    return mask.reshape(-1, spec.gates, mask.shape[-1] // spec.gates)
