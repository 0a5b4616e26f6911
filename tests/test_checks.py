"""One rule for arguments everywhere: a wrong type is a TypeError, a wrong value a ValueError."""

import nets
import numpy as np
import pytest

import tfap
from tfap.utils import checks

# An argument that takes an integer, by the function that reads it.
INTEGERS = {
    "prune": lambda keras, value: tfap.prune(nets.mlp(keras), 0.5, sample_every=value),
    "CountActivations": lambda keras, value: tfap.layers.CountActivations(
        keras.layers.ReLU(), sample_every=value
    ),
    "UpdatePruningStep": lambda keras, value: tfap.UpdatePruningStep(total_steps=value),
    "IterativeSparsity": lambda keras, value: tfap.IterativeSparsity(0.5, value, 10),
    "AccuracyIntervals": lambda keras, value: tfap.AccuracyIntervals(0.5, prunes=value),
    "DeadNeuronMonitor": lambda keras, value: tfap.DeadNeuronMonitor(np.ones((2, 12)), every=value),
    "measure_activations": lambda keras, value: tfap.measure_activations(
        nets.mlp(keras), np.ones((2, 12)), batch_size=value
    ),
}


@pytest.mark.one_keras
@pytest.mark.parametrize("function", INTEGERS)
def test_an_integer_argument(keras_module, function):
    for wrong in ("2", 2.0, True):
        with pytest.raises(TypeError, match=f"must be an integer >= 1: received {wrong!r}"):
            INTEGERS[function](keras_module, wrong)
    for wrong in (0, np.int64(-1)):
        with pytest.raises(ValueError, match="must be an integer >= 1: received "):
            INTEGERS[function](keras_module, wrong)
    INTEGERS[function](keras_module, np.int32(2))


@pytest.mark.parametrize(
    "build",
    [
        lambda value: tfap.ActivationCount(side=value),
        lambda value: tfap.ActivationCount(statistic=value),
        lambda value: tfap.AP(which=value),
        lambda value: tfap.AP(sign=value),
        lambda value: tfap.StopWhenPruned(mode=value),
    ],
)
def test_one_of_a_few_values(build):
    with pytest.raises(TypeError, match="must be one of .*received 3"):
        build(3)
    with pytest.raises(ValueError, match="must be one of .*received 'x'"):
        build("x")


def test_choice_with_none():
    assert checks.choice("data_format", None, (None, "channels_last")) is None
    with pytest.raises(TypeError, match=r"data_format must be one of \(None, 'channels_last'\): received 1"):
        checks.choice("data_format", 1, (None, "channels_last"))
