import nets
import numpy as np
import pytest

import tfap
from tfap import criteria
from tfap.criteria import LAMP, ActivationCount, Criterion, Gradient, Lookahead, Magnitude
from tfap.graph.counts import ActivationCounts
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.keras_compat.registry import serialize

WEIGHTS = np.array([[1.0, -2.0], [3.0, 4.0]], "float32")


def kernel(activations=None):
    return Kernel("dense", KernelSpec(), WEIGHTS, np.ones((2, 2), "uint8"), activations)


def test_magnitude():
    np.testing.assert_array_equal(Magnitude().scores(kernel()), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "weighted,side,expected",
    [
        (True, "output", [[0.5, 0.5], [1.5, 1.0]]),
        (False, "output", [[0.5, 0.25], [0.5, 0.25]]),
        (True, "input", [[0.5, 1.0], [0.75, 1.0]]),
        (False, "input", [[0.5, 0.5], [0.25, 0.25]]),
    ],
)
def test_activation_count(weighted, side, expected):
    counted = kernel(ActivationCounts(np.array([4, 2]), seen=8))
    np.testing.assert_array_equal(ActivationCount(weighted, side).scores(counted), expected)


@pytest.mark.parametrize(
    "criterion",
    [Magnitude(), ActivationCount(), ActivationCount(False, "input", 0.5), LAMP(), Lookahead(), Gradient()],
    ids=repr,
)
def test_saved_criteria_come_back(criterion):
    again = criteria.get(serialize(criterion))
    assert type(again) is type(criterion) and again.get_config() == criterion.get_config()


def test_names():
    assert isinstance(criteria.get("magnitude"), Magnitude)
    assert isinstance(criteria.get("activation_count"), ActivationCount)
    assert isinstance(criteria.get("gradient"), Gradient)
    assert isinstance(criteria.get("lamp"), LAMP) and isinstance(criteria.get("lookahead"), Lookahead)
    mine = ActivationCount(side="input")
    assert criteria.get(mine) is mine


def test_a_file_cannot_name_an_unregistered_class():
    with pytest.raises(ValueError, match=r"'os\.system', which is not registered"):
        criteria.get({"class_name": "os.system", "config": {}})


def test_a_criterion_of_ones_own_is_one_method():
    class Smallest(Criterion):
        def scores(self, kernel):
            return kernel.weights

    assert Smallest().counts is None and Smallest().granularity == "weight"
    with pytest.raises(NotImplementedError, match="Criterion must define scores"):
        Criterion().scores(kernel())


def test_a_criterion_may_choose_by_itself(keras_module):
    """Magnitude, but one more weight is pruned: the first; a pattern is told by its granularity."""

    class AndTheFirst(Magnitude):
        granularities = ("weight",)

        def new_masks(self, scored, sparsity, pattern):
            masks = [mask.copy() for mask in pattern.new_masks(scored, sparsity)]
            masks[0][0, 0] = 0
            return masks

    model = tfap.prune(nets.mlp(keras_module), 0.5, AndTheFirst())
    first = tfap.prunable_layers(model)[0]
    kernel, bias = first.layer.get_weights()
    kernel[0, 0] = 1e3
    first.layer.set_weights([kernel, bias])
    tfap.update_masks(model, 0.25)
    assert nets.pruned_weights(model) == nets.prunable_weights(model) / 4 + 1
    assert first.mask.numpy()[0, 0] == first.layer.get_weights()[0][0, 0] == 0
    with pytest.raises(ValueError, match="does not support granularity='neuron': it needs"):
        tfap.prune(nets.mlp(keras_module), 0.5, AndTheFirst(), granularity="neuron")
