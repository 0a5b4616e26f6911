"""Transformers of the benchmarks: units, heads and width that are pruned by magnitude are removed exactly."""

import keras
import numpy as np
import pytest
import transformer_nets as nets

import tfap

pytestmark = [pytest.mark.one_keras, pytest.mark.slow]

UNITS, HEADS = ("neuron", 0.5, ("up_",)), ("head", 0.25, ("attention_",))
WIDTH = ("neuron", 0.25, ("stem", "positions", "attention_", "down_"))
BLOCKS = ("norm_a", "norm_b", "attention_", "up_", "down_")


def vit(keras_module, **options):
    return nets.vit(keras_module, (8, 8, 3), patch=2, width=16, heads=4, depth=2, **options)


def decoder(keras_module, **options):
    return nets.decoder(keras_module, length=6, vocabulary=20, width=16, heads=4, depth=2, **options)


def inputs(model):
    generator = np.random.default_rng(1)
    if len(model.inputs) == 1:
        return generator.normal(size=(3, 8, 8, 3)).astype("float32")
    return [generator.integers(0, 20, (3, 6)), np.tile(np.arange(6), (3, 1))]


def masked(model, granularity, fraction, prefixes):
    options = {"granularity": granularity, "scope": "local", "target": "neurons"}
    options["skip"] = lambda layer: not layer.name.startswith(prefixes)
    pruned = tfap.prune(model, fraction, "magnitude", **options)
    tfap.update_masks(pruned, fraction)
    return tfap.strip_pruning(pruned)


def compacted(model, *steps):
    """Returns the fraction of the weights of the blocks that is left, and the compacted model."""
    generator = np.random.default_rng(0)
    model.set_weights([w + generator.normal(size=w.shape, scale=0.1) for w in model.get_weights()])
    for step in steps:
        model = masked(model, *step)
    small = tfap.compact(model)
    x = inputs(model)
    expected = np.asarray(model(x, training=False))
    assert np.abs(np.asarray(small(x, training=False)) - expected).max() <= 1e-5 * np.abs(expected).max()
    counts = [
        sum(layer.count_params() for layer in each.layers if layer.name.startswith(BLOCKS))
        for each in (model, small)
    ]
    return counts[1] / counts[0], small


@pytest.mark.parametrize("build", [vit, decoder])
def test_half_of_the_units_and_a_quarter_of_the_heads(keras_module, build):
    fraction, small = compacted(build(keras_module), UNITS, HEADS)
    assert fraction < 0.6
    assert [small.get_layer(f"up_{block}").units for block in range(2)] == [32, 32]
    assert [small.get_layer(f"attention_{at}").get_config()["num_heads"] for at in range(2)] == [3, 3]


@pytest.mark.parametrize("build, options", [(vit, {}), (decoder, {"gated": True})])
def test_a_quarter_of_the_width_too(build, options):
    fraction, small = compacted(build(keras, norm="RMSNormalization", **options), UNITS, HEADS, WIDTH)
    assert fraction < 0.5
    assert [small.get_layer(f"down_{block}").units for block in range(2)] == [12, 12]
