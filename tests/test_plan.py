"""What the plan says of frozen layers, of layers without kernels, and of kernels that do not exist yet."""

import logging

import numpy as np
import pytest

import tfap


def block(keras, with_build=False):
    """A registered layer whose kernel is made by the call of an inner layer."""

    @keras.saving.register_keras_serializable(package=f"{keras.__name__}_plan_{with_build}")
    class Block(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units, self.dense = units, keras.layers.Dense(units, "relu")

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    if with_build:

        def build(self, shape):
            self.dense.build(shape)
            self.built = True

        Block.build = build
    tfap.register_prunable_layer(Block, [tfap.KernelSpec("dense.kernel")])
    return Block(8, name="block")


@pytest.mark.filterwarnings("ignore:.*does not have a `build.*")
def test_a_block_without_build_is_left_alone(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((4,)), block(keras_module), layers.Dense(6, name="dense"), layers.Dense(2)]
    )
    row = tfap.plan(model, criterion="magnitude")[0]
    assert not row.pruned and row.reason.startswith("its dense.kernel is not made by build()")
    wrapped = tfap.prune(model, 0.5, "magnitude")
    assert [wrapper.name for wrapper in tfap.prunable_layers(wrapped)] == ["dense"]
    for alone in (model.layers[0], [model.layers[0]]):
        with pytest.raises(ValueError, match=r"its dense.kernel is not made by build\(\)"):
            tfap.prune(alone, 0.5, "magnitude")
    wrapper = tfap.layers.PruneByActivation(block(keras_module), 0.5, "magnitude")
    with pytest.raises(ValueError, match=r"'block' has no dense.kernel after build\(\)"):
        wrapper(np.ones((1, 4), "float32"))


def test_a_block_with_build_is_pruned(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((4,)), block(keras_module, True), layers.Dense(2)])
    assert tfap.plan(model, criterion="magnitude")[0].pruned
    wrapped = tfap.prune(model, 0.5, "magnitude")
    tfap.update_masks(wrapped, 0.5)
    assert (tfap.prunable_layers(wrapped)[0].mask.numpy() == 0).sum() == 16


def test_a_name_that_no_weight_has(keras_module):
    class Odd(keras_module.layers.Dense):
        def call(self, x):
            return super().call(x)

    tfap.register_prunable_layer(Odd, [tfap.KernelSpec("weights_")])
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((4,)), Odd(3, name="odd"), layers.Dense(2)])
    assert tfap.plan(model, criterion="magnitude")[0].reason.startswith("it has no weight weights_")


def frozen(keras):
    """A frozen backbone with BatchNormalization, and a head."""
    layers = keras.layers
    stack = [layers.Dense(8, name="a"), layers.BatchNormalization(name="norm"), layers.ReLU(name="relu")]
    backbone = keras.Sequential([layers.Input((4,)), *stack], name="backbone")
    backbone.trainable = False
    head = [layers.Dense(6, "relu", name="b"), layers.Dense(2, name="output")]
    return keras.Sequential([layers.Input((4,)), backbone, *head])


def test_frozen_layers_are_told_once(keras_module, caplog):
    model = frozen(keras_module)
    rows = {row.path: row for row in tfap.plan(model)}
    assert {path: row.trainable for path, row in rows.items()} == {
        "backbone/a": False,
        "backbone/norm": False,
        "b": True,
        "output": True,
    }
    with caplog.at_level(logging.WARNING):
        tfap.prune(model, 0.5)
    told = [record.getMessage() for record in caplog.records if "Frozen" in record.getMessage()]
    assert len(told) == 1 and "(backbone/a)" in told[0] and "skip" in told[0]
    caplog.clear()
    tfap.prune(model, 0.5, skip="backbone")
    dense = keras_module.layers.Dense(3, "relu", name="dense")
    tfap.prune(dense, 0.5)
    assert not [record for record in caplog.records if "Frozen" in record.getMessage()]
    dense.trainable = False
    tfap.prune([dense, keras_module.layers.Dense(3, "relu")], 0.5)
    tfap.prune(dense, 0.5)
    assert len([record for record in caplog.records if "(dense)" in record.getMessage()]) == 2


def test_the_table_leaves_out_layers_without_kernels(keras_module):
    plan = tfap.plan(frozen(keras_module))
    assert [row.path for row in plan if not row.has_kernel] == ["backbone/norm"]
    lines = [line.split() for line in str(plan).splitlines()]
    assert not any("norm" in line[0] for line in lines if line)
    shown = {line[0]: line[4] for line in lines if line and line[-1] == "prune"}
    assert shown == {"backbone/a": "no", "b": "yes"}
    assert "trainable" in str(plan)


def test_channels_coupled_with_a_layer_that_is_not_pruned(keras_module):
    """A residual sum whose other branch has no activation to count: nothing of the stem can be removed."""
    layers = keras_module.layers
    inputs = keras_module.Input((8, 8, 3))
    stem = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    wide = layers.Conv2D(16, 1, activation="relu", name="wide")(stem)
    x = layers.Add()([stem, layers.Conv2D(8, 1, name="projection")(wide)])
    outputs = layers.Dense(2, name="output")(layers.GlobalAveragePooling2D()(x))
    model = keras_module.Model(inputs, outputs)
    reasons = {row.path: row.reason for row in tfap.plan(model) if row.pruned}
    expected = (
        "its channels are not removable: they are coupled with those of 'projection', which is not pruned"
    )
    assert reasons == {"stem": expected, "wide": ""}
    assert {
        row.reason for row in tfap.plan(model, criterion="magnitude", granularity="neuron") if row.pruned
    } == {""}
