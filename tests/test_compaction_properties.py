"""Random nets with every kind of block, in both Kerases: the same outputs, and what was planted is gone."""

import importlib

import numpy as np
import pytest
import random_nets
from examples_per_run import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tfap

pytestmark = pytest.mark.one_keras

CASES = [(world, kind) for kind in random_nets.KINDS for world in ("keras", "tf_keras")]


@pytest.fixture(autouse=True, scope="module")
def fresh_sessions():
    for world in ("keras", "tf_keras"):
        importlib.import_module(world).backend.clear_session()


def weights_of(model):
    return [value for layer in random_nets.all_layers(model) for value in layer.get_weights()]


@pytest.mark.parametrize("world, kind", CASES)
@settings(max_examples=examples(1, 1 / 30))
@given(seed=st.integers(0, 10**6))
def test_what_was_planted_goes_and_nothing_else(world, kind, seed):
    net = random_nets.random_net(importlib.import_module(world), np.random.default_rng(seed), kind)
    assume(net.kinds.get(kind))  # a random net may have no channel to plant in that block
    before = weights_of(net.model)
    smaller = tfap.compact(net.model)

    assert random_nets.apart(net.model, smaller) < 1e-5
    assert {name: random_nets.sizes(smaller)[name] for name in net.left} == net.left
    for now, then in zip(weights_of(net.model), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert random_nets.sizes(tfap.compact(smaller)) == random_nets.sizes(smaller)


TRAINED = {"Conv", "Embedding", "Grouped", "NestedTwice", "Reshape", "SqueezeExcite"}


@pytest.mark.parametrize(
    "world, kind",
    [pytest.param(*case, marks=[] if case[1] in TRAINED else pytest.mark.slow) for case in CASES],
)
def test_smaller_models_are_saved_and_trained(world, kind, tmp_path):
    keras = importlib.import_module(world)
    net = random_nets.random_net(keras, np.random.default_rng(7), kind)
    net.model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    smaller = tfap.compact(net.model)

    smaller.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert random_nets.apart(smaller, loaded) < 1e-6
    x = random_nets.inputs_for(smaller)
    y = [np.ones((16, 3), "float32") for _ in smaller.outputs]
    before = weights_of(smaller)
    smaller.train_on_batch(x, y if len(y) > 1 else y[0])
    assert any((now != then).any() for now, then in zip(weights_of(smaller), before, strict=True))
