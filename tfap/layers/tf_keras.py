"""The custom layers for tf_keras (Keras 2); the pruning one is a tfmot `PruneLowMagnitude`."""

import contextlib
import functools
import inspect

import numpy as np
import tf_keras

from tfap import layers
from tfap.graph.counts import ActivationCounts
from tfap.graph.kernel import Kernel
from tfap.keras_compat import PruneLowMagnitude, TfmotPruning, backends, private
from tfap.keras_compat.lazy import tensorflow as tf
from tfap.layers.base import CALLBACK_MISSING, SEVERAL_INPUTS, PruneByActivationBase
from tfap.layers.counting import CountActivationsBase
from tfap.layers.settings import PruningSettings
from tfap.layers.zero_pruned import ZeroPruned
from tfap.masks.weights import score


class _Wrapper(tf_keras.layers.Wrapper):
    """A wrapper with the name, dtype, masking and shapes of its layer."""

    def build(self, input_shape):
        input_shape = _as_shapes(input_shape)
        tf_keras.layers.Wrapper.build(self, input_shape)  # not tfmot's, which makes float masks
        if self.layer.get_build_config() is None:
            private.note_build_shape(self.layer, input_shape)
        if isinstance(self.layer, tf_keras.layers.MultiHeadAttention):
            _build_attention(self.layer)
        first = input_shape[0] if isinstance(input_shape, list) else input_shape
        self._build_state(first.as_list())

    def call(self, inputs, *args, training=None, **kwargs):
        mask = kwargs.pop("mask", None)
        if mask is not None and "mask" in inspect.signature(self.layer.call).parameters:
            kwargs["mask"] = mask  # others find it on the inputs
        return self._forward(training, inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs, mask=None):
        return self.layer.compute_mask(inputs, mask)

    def get_weights(self):
        return tf_keras.layers.Layer.get_weights(self)  # tfmot's leaves out the wrapper's state

    def set_weights(self, weights):
        tf_keras.layers.Layer.set_weights(self, weights)

    _backend = backends.named("tensorflow")

    @private.made_by_each_worker()
    def _add_state(self, name, shape, dtype, initializer="zeros"):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            experimental_autocast=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        layer = config.pop("layer")
        if isinstance(layer, dict):
            layer = tf_keras.layers.deserialize(layer, use_legacy_format="module" not in layer)
        return cls(layer, **config)


def _as_shapes(shape):
    """Makes a TensorShape; a list of them for a recurrent layer that is called on initial states too."""
    if isinstance(shape, list | tuple) and any(isinstance(s, list | tuple | tf.TensorShape) for s in shape):
        return [tf.TensorShape(each) for each in shape]
    return tf.TensorShape(shape)  # a file holds a list, which a recurrent layer takes for several shapes


def _build_attention(layer):
    """Makes the projections' weights, which this layer otherwise makes in its first call."""
    shapes = private.attention_shapes(layer)
    if any(shape is None for shape in shapes):
        raise ValueError(SEVERAL_INPUTS.format(name=layer.name))
    layer(*(tf.zeros([size or 1 for size in tf.TensorShape(shape)]) for shape in shapes))


@layers.CountActivations.register
@tf_keras.saving.register_keras_serializable(package="tfap")
class CountActivations(CountActivationsBase, _Wrapper, PruneLowMagnitude):
    """A wrapper that prunes nothing. To tfmot it is one of its own, so its strip_pruning takes it off."""

    def __init__(self, layer, threshold=0.0, sample_every=1, data_format=None, statistic="count", **kwargs):
        kwargs = {"name": layer.name, "dtype": layer.dtype_policy, **kwargs}
        tf_keras.layers.Wrapper.__init__(self, layer, **kwargs)  # tfmot's takes prunable layers only
        self._supports_masking = layer.supports_masking
        self._configure(threshold, sample_every, data_format, statistic)

    # What tfmot's callbacks read. They begin the steps of all wrappers only if the first one is at -1.
    pruning_vars = ()

    @property
    def pruning_obj(self):
        return _NothingToPrune

    def _add_step(self):
        super()._add_step(tf_keras.initializers.Constant(-1))

    def _step_once(self):
        self.pruning_step.assign_add(tf.maximum(-self.pruning_step, 0))
        super()._step_once()

    def get_config(self):
        return {**tf_keras.layers.Wrapper.get_config(self), **self._own_config()}


class _NothingToPrune:
    @staticmethod
    def weight_mask_op():
        """Called at the ends of epochs by tfmot's callback."""


@contextlib.contextmanager
def _accepted_by_tfmot(layer):
    """Lets tfmot take any layer type, also those that its own registry does not know."""
    if hasattr(layer, "get_prunable_weights"):
        yield
        return
    layer.get_prunable_weights = lambda: []
    try:
        yield
    finally:
        del layer.get_prunable_weights


@layers.PruneByActivation.register
@tf_keras.saving.register_keras_serializable(package="tfap")
class PruneByActivation(PruneByActivationBase, _Wrapper, PruneLowMagnitude):
    def __init__(self, layer, *settings, **kwargs):
        settings, kwargs = PruningSettings.split(settings, kwargs)
        self._check_prunable(layer)
        kwargs = {"dtype": layer.dtype_policy, **kwargs}
        name = kwargs.pop("name", layer.name)
        with _accepted_by_tfmot(layer):
            super().__init__(layer, **kwargs)
        self._name = name  # tfmot would call it prune_by_activation_...
        self._supports_masking = layer.supports_masking
        self._configure(settings)

    # tfmot's callback sets the -1 of a new wrapper to 0; a step at -1 shows that no callback has run.
    def _add_step(self):
        not_begun = tf_keras.initializers.Constant(0 if self.session.running else -1)
        super()._add_step(not_begun)

    def begin_steps(self):
        if self.built and int(self.pruning_step.numpy()) < 0:
            self.pruning_step.assign(0)

    @property
    def prunes_in_graph(self):
        """Whether tfmot's callback suffices: every decision needs this layer and its step alone."""
        criterion = self.criterion
        counts = criterion.counts is None or (self.counts_here and not criterion.forgets)
        alone = self.settings.scope == "local" and not self.settings.remove_disconnected
        # The kernels of a recurrent layer lose the same units.
        alone = alone and not (self.settings.pattern.couples_neurons and len(self.specs) > 1)
        return counts and alone and not criterion.needs and not isinstance(self.pruning_schedule, float)

    def _build_state(self, input_shape):
        super()._build_state(input_shape)
        if self.prunes_in_graph:
            self.pruning_obj = InGraphPruning(self)
            thresholds = [threshold for _, _, threshold in self.pruning_obj.variables]
        else:
            thresholds = [Threshold(f"{self.name}/{spec.name}_threshold:0") for spec in self.specs]
        self._thresholds.update(zip((spec.name for spec in self.specs), thresholds, strict=True))

    # tfmot's PruningSummaries logs these, and its constructor assigns its own.
    @property
    def pruning_vars(self):
        return [(kernel, mask, self._thresholds[spec.name]) for spec, kernel, mask in self.kernel_and_mask()]

    @pruning_vars.setter
    def pruning_vars(self, _):
        self._thresholds = Untracked()

    def note_threshold(self, spec, item, mask):
        self._thresholds[spec.name].assign(self.settings.pattern.smallest_kept(item, mask))

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for name, threshold in self._thresholds.items():
            store[f"{name}_threshold"] = threshold.numpy()

    def load_own_variables(self, store):
        super().load_own_variables(store)
        for name, threshold in self._thresholds.items():
            if f"{name}_threshold" in store.keys():  # noqa: SIM118  (files of tfap 0.1 have none)
                threshold.assign(np.array(store[f"{name}_threshold"]))

    def _step_once(self):
        if self.session.running:
            return super()._step_once()
        message = CALLBACK_MISSING.format(name=self.name)
        begun = tf.debugging.assert_greater_equal(self.pruning_step, tf.constant(0, tf.int64), message)
        with tf.control_dependencies([] if begun is None else [begun]):
            return super()._step_once()

    def _prune_in_graph(self):
        self.add_update(self.pruning_obj.conditional_mask_update())

    # tfmot's constructor assigns its own schedule; tfap's is in the settings.
    @property
    def pruning_schedule(self):
        return self.settings.pruning_schedule

    @pruning_schedule.setter
    def pruning_schedule(self, _):
        pass

    def _constrain(self, kernel, mask):
        variable = private.not_autocast(kernel)
        for component in getattr(variable, "values", (variable,)):  # one on each replica
            constraint = ZeroPruned(mask, self._backend, users=component.constraint)
            private.set_constraint(component, constraint)
        return constraint

    def get_config(self):
        return {**tf_keras.layers.Wrapper.get_config(self), **self.settings.get_config()}


class Threshold:
    """A logged threshold: what tfmot's PruningSummaries reads of a variable, but no weight of the layer."""

    def __init__(self, name):
        self.name = name
        self._value = np.float32(0)

    def assign(self, value):
        self._value = np.float32(value)

    def numpy(self):
        return self._value


class Untracked(dict):
    """A dict whose variables Keras does not take for weights of the layer that holds it."""


class InGraphPruning(TfmotPruning):
    """Updates masks under tfmot's own callback, with the scores and masks of tfap.

    The constraint zeroes the pruned weights at the end of the same step.
    """

    def __init__(self, wrapper):
        self._wrapper = wrapper
        self.variables = [
            (kernel, mask, wrapper._add_state(f"{spec.name.replace('.', '_')}_threshold", (), "float32"))
            for spec, kernel, mask in wrapper.kernel_and_mask()
        ]
        super().__init__(
            training_step_fn=lambda: wrapper.pruning_step,
            pruning_vars=self.variables,
            pruning_schedule=wrapper.pruning_schedule,
            block_size=(1, 1),
            block_pooling_type="AVG",
        )

    def _update_mask(self, weights):
        wrapper = self._wrapper
        spec, mask = next((s, m) for s, kernel, m in wrapper.kernel_and_mask() if kernel is weights)
        counted = [wrapper.activation_counts, wrapper.activations_seen] if wrapper.counts_here else []
        threshold, new_mask = tf.numpy_function(
            functools.partial(self._decide, spec),
            [self._pruning_schedule(self._step_fn())[1], private.not_autocast(weights), mask, *counted],
            (tf.float32, tf.uint8),
            # XLA's error names the operation, so the name tells the user what to do.
            name="tfmots_UpdatePruningStep_needs_jit_compile_False_but_tfaps_does_not",
        )
        return threshold, tf.reshape(new_mask, weights.shape)

    def _decide(self, spec, sparsity, weights, mask, *counted):
        settings = self._wrapper.settings
        activations = ActivationCounts(*counted, settings.criterion.threshold) if counted else None
        kernel = Kernel(self._wrapper.name, spec, weights, mask, activations)
        scored = score(settings.criterion, kernel)
        (new,) = settings.criterion.new_masks([scored], sparsity, settings.pattern)
        return np.float32(settings.pattern.smallest_kept(scored, new)), new

    def weight_mask_op(self):
        """Zeroes pruned weights; tfmot's callback calls it. Frozen kernels see no constraint."""
        for kernel, mask, _ in self.variables:
            kernel.assign(kernel * tf.cast(mask, kernel.dtype))
