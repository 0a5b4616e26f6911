"""Random nets with every kind of block in which channels repeat others: the refit reproduces the outputs."""

import importlib

import numpy as np
import pytest
import random_nets
import tensorflow as tf
from examples_per_run import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tfap
from tfap.compensation.allocation import ModelCost, coupled_sets
from tfap.graph import layer_types
from tfap.graph.layer_types import ChannelRule
from tfap.graph.linear import Grouped
from tfap.graph.liveness import Liveness
from tfap.graph.scaling import ChannelScales

pytestmark = pytest.mark.one_keras

SAMPLES = 1000
WORLDS = ("keras", "tf_keras")
CASES = [(world, kind) for kind in random_nets.KINDS for world in WORLDS]


@pytest.fixture(autouse=True, scope="module")
def fresh_sessions():
    for world in WORLDS:
        importlib.import_module(world).backend.clear_session()


def places(channels, group):
    """The channels of a value that belong to a group."""
    return [] if channels is None else np.flatnonzero(channels.groups == group).tolist()


def repeat_channel(liveness, group, other):
    """Makes the channels of `other` copies of those of `group`, in every layer that has weights for them."""
    for path, layer in liveness.graph.layers():
        weights = layer.get_weights() if hasattr(layer, "get_weights") else []
        channels = liveness.channels.of(liveness.graph.calls_of[path][0].outputs[0])
        row = layer_types.of(layer)
        if not weights or channels is None:
            continue
        if row.attention:  # the output kernel and its bias
            for values in weights[-2:] if len(weights) > 4 else weights[-1:]:
                for source, target in zip(places(channels, group), places(channels, other), strict=True):
                    values[..., target] = values[..., source]
            layer.set_weights(weights)
            continue
        for at, values in enumerate(weights):
            for source, target in zip(places(channels, group), places(channels, other), strict=True):
                if row.channels is ChannelRule.DEPTHWISE and values.ndim > 1:
                    columns = values.reshape(*values.shape[:-2], -1)
                    columns[..., target] = columns[..., source]
                    weights[at] = columns.reshape(values.shape)
                elif row.channels is ChannelRule.LINEAR and values.ndim > 1:
                    specs = layer_types.kernel_specs(layer)
                    if at == len(specs) - 1:
                        by_neuron = np.moveaxis(values, specs[at].neuron_axes[0], 0)
                        by_neuron[target] = by_neuron[source]
                elif values.ndim == 1:
                    if len(values) == len(channels.groups):
                        values[target] = values[source]
                else:  # PReLU: as many axes as a sample
                    by_channel = np.moveaxis(values, channels.axis - 1, 0)
                    if len(by_channel) == len(channels.groups):
                        by_channel[target] = by_channel[source]
        if (
            len(layer_types.kernel_specs(layer)) > 1 and not row.recurrent
        ):  # a separable one: what it makes of each channel too
            consumed = liveness.channels.of(liveness.graph.calls_of[path][0].inputs[0])
            for source, target in zip(places(consumed, group), places(consumed, other), strict=True):
                weights[0][..., target, :] = weights[0][..., source, :]
        layer.set_weights(weights)


def alike(liveness, group, other):
    """Whether two groups have as many channels in every value, in the same order."""
    for call in liveness.graph.calls:
        for value in call.outputs:
            channels = liveness.channels.of(value)
            if channels is None:
                continue
            mine, others = places(channels, group), places(channels, other)
            if len(mine) != len(others):
                return False
    return True


def without_substitutes(liveness):
    """The channels of which copies are no substitutes.

    Each group of a grouped convolution reads its own channels. What a recurrent layer reads of its own units
    is not refitted.
    """
    for path, linear_map in liveness.linear_maps.items():
        if liveness.is_recurrent(path):
            yield from liveness.groups(path)[1]
        if isinstance(linear_map, Grouped):
            for groups in liveness.groups(path):
                yield from () if groups is None else groups


def plant(model, generator):
    """Repeats some channels; returns what share of the kernels' weights they have."""
    liveness = Liveness(model)
    removable = np.ones(liveness.channels.size, bool)
    removable[list(liveness.channels.pinned)] = False
    removable[list(without_substitutes(liveness))] = False
    produced = [liveness.groups(path)[1] for path in liveness.linear_maps]
    kept = np.ones(liveness.channels.size, bool)
    for groups in coupled_sets(produced, removable):
        source, *others = generator.permutation(groups).tolist()
        for other in others[: max(1, len(others) // 2)]:
            if alike(liveness, source, other):
                repeat_channel(liveness, source, other)
                kept[other] = False
    cost = ModelCost(model, liveness, "weights", set())
    return 1 - cost.of(kept) / cost.total


def weight_count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.weights)


def inputs_for(model):
    """More samples than units after a Flatten: with fewer, copies are not the only solution."""
    return random_nets.inputs_for(model, seed=3, samples=SAMPLES)


def varies(model):
    """Whether outputs are more than constants with some rounding, in which copies are no more than others."""
    outputs = [np.asarray(each) for each in tf.nest.flatten(model(inputs_for(model), training=False))]
    return all(np.std(output, axis=0).max() > 1e-3 * np.abs(output).max() for output in outputs)


def has_substitutes(model):
    """Whether copies take over exactly.

    A channel that is normalized with others takes over the square of a copy if it can be scaled. One that is
    multiplied with another, as in scores of queries and keys that are written with functions, cannot.
    """
    liveness = Liveness(model)
    removable = liveness.channels.normalized - liveness.channels.pinned.keys()
    return all(ChannelScales(liveness).possible[list(removable)])


# What `make test` tries; `make test-all` tries every kind with substitutes.
QUICK = {"Conv", "Concatenate", "Depthwise", "Flatten", "Grouped", "Residual", "Separable", "Transpose"}


@pytest.mark.parametrize(
    "world, kind",
    [
        pytest.param(*case, marks=[] if case[1] in QUICK else pytest.mark.slow)
        for case in CASES
        if case[1] != "Attention"  # its products of channels have no substitutes: see has_substitutes
    ],
)
@settings(max_examples=examples(1, 1 / 30))
@given(seed=st.integers(0, 10**6))
def test_repeated_channels_are_removed_exactly(world, kind, seed):
    generator = np.random.default_rng(seed)
    model = random_nets.random_net(importlib.import_module(world), generator, kind).model
    model = tfap.compact(model)  # without what the maker has planted
    assume(has_substitutes(model))
    share = plant(model, generator)
    assume(share > 0 and varies(model))
    smaller, report = tfap.prune_once(
        model,
        inputs_for(model),
        share,
        scope="global",
        ridge=1e-9,
        recalibrate=False,
        batch_size=SAMPLES,
        return_report=True,
    )
    assume(report.layers)  # two channels that are always 0 may be alike too, and nothing consumes them
    assert weight_count(smaller) < weight_count(model)
    assert random_nets.apart(model, smaller) < 1e-4
    assert all(layer.error_after < 1e-5 for layer in report.layers)
    assert any(layer.inputs[1] < layer.inputs[0] for layer in report.layers)
