"""The custom layers for tf_keras (Keras 2); the pruning one is a tfmot `PruneLowMagnitude`."""

import tensorflow as tf
import tf_keras

from tfap import kernels
from tfap.keras_compat import PruneLowMagnitude
from tfap.layers.base import CountActivationsBase, PruneByActivationBase, ZeroPruned


class _Wrapper(tf_keras.layers.Wrapper):
    """A wrapper that goes by its layer's name, dtype, masking and shapes."""

    def build(self, input_shape):
        tf_keras.layers.Wrapper.build(self, input_shape)  # not tfmot's, which makes float masks
        self._build_state(tf.TensorShape(input_shape).as_list())

    def call(self, inputs, *args, training=None, **kwargs):
        kwargs.pop("mask", None)  # the inner layer finds it on the inputs
        return self._forward(training, inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs, mask=None):
        return self.layer.compute_mask(inputs, mask)

    def get_weights(self):
        return tf_keras.layers.Layer.get_weights(self)  # tfmot's leaves out the wrapper's state

    def set_weights(self, weights):
        tf_keras.layers.Layer.set_weights(self, weights)

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


@tf_keras.saving.register_keras_serializable(package="tfap")
class CountActivations(CountActivationsBase, _Wrapper):
    def __init__(self, layer, threshold=0.0, sample_every=1, data_format=None, **kwargs):
        kwargs = {"name": layer.name, "dtype": layer._dtype_policy, **kwargs}
        super().__init__(layer, **kwargs)
        self._supports_masking = layer.supports_masking
        self._configure(threshold, sample_every, data_format)

    def get_config(self):
        return {**super().get_config(), **self._own_config()}


@tf_keras.saving.register_keras_serializable(package="tfap")
class PruneByActivation(PruneByActivationBase, _Wrapper, PruneLowMagnitude):
    def __init__(
        self,
        layer,
        pruning_schedule,
        criterion="activation_count",
        scope="global",
        granularity=None,
        min_weights_per_layer=0,
        sample_every=1,
        **kwargs,
    ):
        self._check_prunable(layer)
        # tfmot then takes any layer type, also those that its own registry does not know.
        specs = kernels.kernel_specs(layer)
        layer.get_prunable_weights = lambda: [spec.find(layer) for spec in specs]
        kwargs = {"dtype": layer._dtype_policy, **kwargs}
        name = kwargs.pop("name", layer.name)
        super().__init__(layer, **kwargs)
        self._name = name  # tfmot would call it prune_by_activation_...
        self._supports_masking = layer.supports_masking
        self._configure(pruning_schedule, criterion, scope, granularity, min_weights_per_layer, sample_every)

    # tfmot's constructor assigns a schedule of its own; ours lives in the settings.
    @property
    def pruning_schedule(self):
        return self.settings.pruning_schedule

    @pruning_schedule.setter
    def pruning_schedule(self, _):
        pass

    def _constrain(self, kernel, mask):
        variable = getattr(kernel, "_variable", kernel)  # inside a mixed-precision variable
        for component in getattr(variable, "values", (variable,)):  # one on each replica
            component._constraint = ZeroPruned(mask, users=component.constraint)

    def get_config(self):
        return {**tf_keras.layers.Wrapper.get_config(self), **self.settings.get_config()}
