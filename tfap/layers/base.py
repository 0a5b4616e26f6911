"""The common part of the pruning wrappers for Keras 3 and tf_keras: masks, settings, and saved state.

The wrappers store and count. Scores and masks are computed outside, in NumPy (tfap/training/mask_update.py).
A class for one Keras adds to these mixins its backend (`_backend`), how to make a state variable
(`_add_state`), how to set a constraint on a kernel (`_constrain`), serialization of the inner layer, and
shapes.
"""

import contextlib
import functools

import numpy as np

from tfap.graph import layer_types
from tfap.graph.activation import fires
from tfap.graph.calls import channel_axis
from tfap.graph.kernel import neuron_count
from tfap.keras_compat import private
from tfap.layers.bias_masks import BiasMasks
from tfap.layers.counting import CountingWrapper, LinkedCounters
from tfap.layers.history import CountMemory, PreviousWeights
from tfap.layers.session import PruningSession

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


class PruneByActivationBase(BiasMasks, CountMemory, PreviousWeights, CountingWrapper):
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
        self._linked = LinkedCounters(counters)

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


def _append(attended, *arguments):
    attended.append(arguments)


def _first(outputs):
    """Returns the output of a layer without the states of a recurrent one."""
    return outputs[0] if isinstance(outputs, list | tuple) else outputs
