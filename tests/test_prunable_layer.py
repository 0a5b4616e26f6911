"""Layers that list their prunable weights themselves, as tfmot's PrunableLayer does, in both Kerases."""

import nets
import numpy as np
import pytest
import tf_keras

import tfap
from tfap.keras_compat import tfmot


def affine(keras, listed=("kernel", "bias"), base=None):
    """A custom layer that lists its kernel and its bias as prunable."""

    class Affine(base or keras.layers.Layer):
        def __init__(self, units=8, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
            self.bias = self.add_weight(shape=(self.units,), name="bias", initializer="random_normal")
            self.built = True

        def call(self, x):
            return x @ self.kernel + self.bias

        def get_prunable_weights(self):
            return [getattr(self, name) for name in listed]

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    return Affine


def model_of(keras, layer):
    return nets.compiled(keras, keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(3)]), "mse")


def sparsities(model):
    return [float(np.mean(np.array(weight) == 0)) for weight in model.layers[0].get_weights()[:2]]


@pytest.mark.parametrize("built", [True, False], ids=["model", "layer"])
def test_all_listed_weights_are_pruned(keras_module, built):
    cls = affine(keras_module)
    if built:
        model = tfap.prune(model_of(keras_module, cls()), 0.5, "magnitude", scope="local")
    else:
        layer = tfap.prune(cls(), 0.5, "magnitude", scope="local")
        model = model_of(keras_module, layer)
    nets.fit(model, epochs=3)
    plain = tfap.strip_pruning(model)
    assert type(plain.layers[0]) is cls
    assert sparsities(plain) == [0.5, 0.5]
    assert not hasattr(plain.layers[1], "get_prunable_weights")  # the user's layers are as they were


def test_tfmot_prunes_the_same():
    cls = affine(tf_keras, base=type("Base", (tf_keras.layers.Layer, tfmot.sparsity.keras.PrunableLayer), {}))
    model, made = model_of(tf_keras, cls()), []
    schedule = tfap.ConstantSparsity(0.5, 1, 1, 1)
    theirs = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    ours = tfap.prune(model, schedule, "magnitude", scope="local", include=[model.layers[-1]])
    for wrapped in (theirs, ours):
        wrapped.compile(tf_keras.optimizers.SGD(0.0), "mse")
        nets.fit(wrapped, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
        made.append(tfmot.sparsity.keras.strip_pruning(wrapped).get_weights())
    for first, second in zip(*made, strict=True):
        np.testing.assert_array_equal(first, second)
    assert np.mean(made[0][1] == 0) == 0.5


def test_the_plan_names_the_weights(keras_module):
    plan = tfap.plan(model_of(keras_module, affine(keras_module)()), criterion="magnitude")
    assert [(row.weight, row.shape, row.pruned) for row in plan[:2]] == [
        ("kernel", (5, 8), True),
        ("bias", (8,), True),
    ]
    blocks = tfap.plan(
        model_of(keras_module, affine(keras_module)()), criterion="magnitude", block_size=(1, 4)
    )
    assert [row.pruned for row in blocks[:2]] == [True, False] and "two axes or more" in blocks[1].reason


@pytest.mark.parametrize(
    "settings",
    [{"granularity": "neuron"}, {"sparsity_m_by_n": (2, 4)}, {"remove_disconnected": True}],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.one_keras
def test_a_bias_is_left_out_where_it_has_no_place(keras_module, settings):
    model = tfap.prune(model_of(keras_module, affine(keras_module)()), 0.5, "magnitude", **settings)
    nets.fit(model, epochs=3)
    (wrapper,) = tfap.prunable_layers(model)
    if "remove_disconnected" not in settings:
        assert wrapper.mask.shape == (5, 8)
    assert nets.fit(model).history["sparsity"][-1] > 0.3


def test_a_subclass_of_a_known_layer_keeps_what_is_known_of_its_kernel(keras_module):
    class WithBias(keras_module.layers.Dense):
        def get_prunable_weights(self):
            return [self.kernel, self.bias]

    layer = WithBias(8, activation="relu", bias_initializer="random_normal")
    model = model_of(keras_module, layer)
    by_counts = tfap.plan(model)[:2]
    assert [row.pruned for row in by_counts] == [True, False]  # a bias has no inputs to count
    pruned = tfap.prune(model, 0.5, "magnitude", scope="local")
    tfap.update_masks(pruned, 0.5)
    assert sparsities(tfap.strip_pruning(pruned)) == [0.5, 0.5]


@pytest.mark.parametrize(
    "listed, reason",
    [((), "lists no weights"), (("scale",), "fails: .*scale"), (("units",), "something else")],
)
def test_a_wrong_list_is_a_reason(keras_module, listed, reason):
    model = model_of(keras_module, affine(keras_module, listed)())
    with pytest.raises(ValueError, match=reason):
        tfap.prune(model, 0.5, "magnitude")
