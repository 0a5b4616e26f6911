"""What holds for every net: random ones of both Kerases."""

import importlib
import pathlib
import tempfile

import nets
import numpy as np
import pytest
import random_nets
from examples_per_run import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tfap
from tfap.graph.calls import channel_axis
from tfap.layers.find import counting_layers
from tfap.layers.session import PruningSession

NO_OPERATIONS = sorted(set(random_nets.KINDS) - {"Operation"})  # which only Keras 3 has as layers


@pytest.fixture(autouse=True, scope="module")
def fresh_sessions():
    for world in ("keras", "tf_keras"):
        importlib.import_module(world).backend.clear_session()


def pruned(model):
    """By counts in single weights, so that numbers are exact; by magnitude where nothing can be counted."""
    for criterion in ("activation_count", "magnitude"):
        if tfap.plan(model, criterion=criterion, granularity="weight").pruned:
            return tfap.prune(model, 0.5, criterion, granularity="weight")
    return None


def recorded(layer):
    """The list to which a layer's outputs are added from now on."""
    outputs, call = [], layer.call

    def recording(*args, **kwargs):
        made = call(*args, **kwargs)
        outputs.append(np.asarray(made))
        return made

    layer.call = recording
    return outputs


def check_counts(model):
    """One pass in training, with dropout: counts are those of what the layers have given out."""
    counting = [layer for layer in counting_layers(model) if layer.own_counts() is not None]
    outputs = [recorded(layer.layer) for layer in counting]
    session = PruningSession.begin(model, counting_layers(model))
    model(random_nets.inputs_for(model, samples=5), training=True)
    for layer, made in zip(counting, outputs):
        axis, found = channel_axis(layer.layer), layer.own_counts()
        fired = [np.moveaxis(array > 0, axis, -1).reshape(-1, array.shape[axis]) for array in made]
        assert found.counts.dtype == np.int64
        np.testing.assert_array_equal(found.counts, sum(each.sum(axis=0) for each in fired))
        assert found.seen == sum(len(each) for each in fired) > 0
        del layer.layer.call
    session.end()
    return bool(counting)


def check_masks(model, sparsities):
    """Exactly the number asked for, the most that was asked for so far, and never a weight back.

    Of each kernel, a weight is kept.
    """
    total, asked = nets.prunable_weights(model), 0
    most = total - len(nets.masks(model))
    for sparsity in sparsities:
        before = nets.masks(model)
        tfap.update_masks(model, sparsity)
        asked = max(asked, min(round(sparsity * total), most))
        assert nets.pruned_weights(model) == asked
        assert all((mask <= before[path]).all() for path, mask in nets.masks(model).items())
    return asked


def check_equal(first, second):
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert random_nets.apart(first, second) == 0


@pytest.mark.parametrize("world", ["keras", "tf_keras"])
@settings(max_examples=examples(2, 1 / 5))
@given(data=st.data())
@pytest.mark.one_keras
def test_pruning_saving_and_stripping_any_net(world, data):
    keras = importlib.import_module(world)
    kind = data.draw(st.sampled_from(random_nets.KINDS if world == "keras" else NO_OPERATIONS))
    seed = data.draw(st.integers(0, 10**6))
    sparsities = data.draw(st.lists(st.floats(0, 0.99), min_size=1, max_size=3))
    model = pruned(random_nets.random_net(keras, np.random.default_rng(seed), kind).model)
    assume(model is not None)
    check_counts(model)
    check_masks(model, sparsities)

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        loaded = keras.models.load_model(path)
    check_equal(model, loaded)
    for ours, theirs in zip(tfap.prunable_layers(model), tfap.prunable_layers(loaded), strict=True):
        assert ours.settings.key == theirs.settings.key

    plain = tfap.strip_pruning(model)
    assert not tfap.prunable_layers(plain) and random_nets.apart(model, plain) == 0
    check_equal(plain, tfap.strip_pruning(plain))
