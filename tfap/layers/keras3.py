"""The custom layers for Keras 3."""

import inspect

import keras
import numpy as np

from tfap.keras_compat import backends
from tfap.keras_compat.private import copy_input_shape
from tfap.layers.base import SEVERAL_INPUTS, PruneByActivationBase
from tfap.layers.counting import CountActivationsBase
from tfap.layers.settings import PruningSettings
from tfap.layers.zero_pruned import ZeroPruned


class _ZeroPruned(ZeroPruned, keras.constraints.Constraint):
    """The same as a `keras.constraints.Constraint`: older releases accept no other."""


class _Wrapper(keras.layers.Wrapper):
    """A wrapper with the name, dtype, masking and shapes of its layer."""

    def __init__(self, layer, **kwargs):
        kwargs = {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable, **kwargs}
        super().__init__(layer, **kwargs)
        copy_input_shape(layer, self)
        self.supports_masking = layer.supports_masking

    def build(self, input_shape):
        needed = [p for p in inspect.signature(self.layer.build).parameters.values() if p.default is p.empty]
        if not self.layer.built and len(needed) > 1:
            raise ValueError(SEVERAL_INPUTS.format(name=self.layer.name))
        super().build(input_shape)
        self._build_state(input_shape)
        self.built = True

    def get_build_config(self):
        config = super().get_build_config()
        return config and {**config, "layer": self.layer.get_build_config()}  # None if not built

    def build_from_config(self, config):
        if config["layer"] and not self.layer.built:
            self.layer.build_from_config(config["layer"])
            self.layer.built = True
        self.build(config["input_shape"])

    def call(self, inputs, *args, training=None, **kwargs):
        return self._forward(training, inputs, *args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs, previous_mask=None):
        return self.layer.compute_mask(inputs, previous_mask)

    _backend = backends.of_keras3()

    @_backend.made_by_each_worker()
    def _add_state(self, name, shape, dtype, initializer="zeros"):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        layer = config.pop("layer")
        if isinstance(layer, dict):
            layer = keras.saving.deserialize_keras_object(layer)
        return cls(layer, **config)


@keras.saving.register_keras_serializable(package="tfap")
class CountActivations(CountActivationsBase, _Wrapper):
    def __init__(self, layer, threshold=0.0, sample_every=1, data_format=None, statistic="count", **kwargs):
        super().__init__(layer, **kwargs)
        self._configure(threshold, sample_every, data_format, statistic)

    def get_config(self):
        return {**super().get_config(), **self._own_config()}


@keras.saving.register_keras_serializable(package="tfap")
class PruneByActivation(PruneByActivationBase, _Wrapper):
    def __init__(self, layer, *settings, **kwargs):
        settings, kwargs = PruningSettings.split(settings, kwargs)
        super().__init__(layer, **kwargs)
        self._configure(settings)

    def _constrain(self, kernel, mask):
        kernel.constraint = _ZeroPruned(mask, self._backend, users=kernel.constraint)
        return kernel.constraint

    # Keras 3 does not save the states of seed generators. One wrapper adds them to every file, so that a
    # resumed fit draws the same dropout.

    _seed_states = _loaded_seed_states = None

    def keep_seed_states(self, states):
        self._seed_states = states

    def restore_seed_states(self):
        if self._seed_states is not None and self._loaded_seed_states is not None:
            self._seed_states.write(self._loaded_seed_states)
            self._loaded_seed_states = None

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self._seed_states is not None:
            store["seed_states"] = self._seed_states.read()

    def load_own_variables(self, store):
        super().load_own_variables(store)
        if "seed_states" in store.keys():  # noqa: SIM118  (a store is no dict)
            self._loaded_seed_states = np.array(store["seed_states"])

    def get_config(self):
        return {**super().get_config(), **self.settings.get_config()}
