import nets
import numpy as np
import pytest

import tfap
from tfap import criteria
from tfap.criteria import (
    FPGM,
    LAMP,
    ActivationCount,
    Criterion,
    Gradient,
    GroupTaylor,
    HessianDiagonal,
    Lookahead,
    Magnitude,
    Wanda,
)
from tfap.graph.counts import ActivationCounts
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.keras_compat.registry import serialize

WEIGHTS = np.array([[1.0, -2.0], [3.0, 4.0]], "float32")


def kernel(activations=None, **measured):
    return Kernel("dense", KernelSpec(), WEIGHTS, np.ones((2, 2), "uint8"), activations, **measured)


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


def test_group_taylor_is_the_size_of_the_change():
    measured = kernel(loss_changes=np.array([-0.5, 0.25]))
    np.testing.assert_array_equal(GroupTaylor().scores(measured), [[0.5, 0.25], [0.5, 0.25]])


def test_hessian_diagonal_is_the_squared_weight_times_the_mean_squared_gradient():
    measured = kernel(squared_gradients=np.array([[0.5, 0.25], [1.0, 2.0]]))
    np.testing.assert_array_equal(HessianDiagonal().scores(measured), [[0.5, 1], [9, 32]])


def test_wanda_is_the_weight_times_the_root_mean_square_of_its_input():
    read = kernel(ActivationCounts(np.array([16.0, 36.0]), seen=4))
    np.testing.assert_array_equal(Wanda().scores(read), [[2, 4], [9, 12]])


def test_fpgm_is_the_mean_distance_to_the_other_kept_filters():
    filters = np.array([[0.0, 3.0, 0.0, 6.0], [0.0, 4.0, 8.0, 8.0]])  # one per column
    scores = FPGM().scores(Kernel("a", KernelSpec(), filters, np.ones((2, 4), "uint8")))
    np.testing.assert_array_equal(scores[0], [(5 + 8 + 10) / 3, (5 + 5 + 5) / 3, (8 + 5 + 6) / 3, 7])
    np.testing.assert_array_equal(scores[1], scores[0])
    mask = np.array([[1, 1, 0, 1], [1, 1, 0, 1]], "uint8")
    scores = FPGM().scores(Kernel("a", KernelSpec(), filters * mask, mask))
    np.testing.assert_array_equal(scores[0], [7.5, 5, 0, 7.5])  # the pruned one is no neighbor
    alone = Kernel("a", KernelSpec(), filters[:, :1], np.ones((2, 1), "uint8"))
    np.testing.assert_array_equal(FPGM().scores(alone), [[0], [0]])


def test_fpgm_compares_filters_with_all_their_gates():
    spec = KernelSpec("cell.kernel", gates=2)
    gates = np.array([[0.0, 3.0, 0.0, 4.0]])  # neuron 0: (0, 0), neuron 1: (3, 4)
    scores = FPGM().scores(Kernel("a", spec, gates, np.ones((1, 4), "uint8")))
    np.testing.assert_array_equal(scores, [[5, 5, 5, 5]])


@pytest.mark.parametrize("gates,axes", [(1, (-1,)), (2, (-1,)), (1, (0,)), (1, (1, 2))])
def test_values_by_neuron_and_back(gates, axes):
    values = np.arange(24.0).reshape(2, 3, 4)
    spec = KernelSpec(neuron_axes=axes, gates=gates)
    one = Kernel("a", spec, values, np.ones(values.shape, "uint8"))
    rows = one.by_neuron(values)
    np.testing.assert_array_equal(rows.sum(axis=1), one.neuron_sums(values))
    np.testing.assert_array_equal(one.from_neurons(rows), values)


@pytest.mark.parametrize("criterion", [GroupTaylor(), HessianDiagonal(), Wanda()], ids=repr)
def test_a_criterion_without_its_measurements_says_so(criterion):
    with pytest.raises(ValueError, match="of 'dense'|'dense' reads"):
        criterion.scores(kernel())


@pytest.mark.parametrize("decay,error", [(1.5, ValueError), (-0.1, ValueError), ("all", TypeError)])
def test_wanda_checks_its_decay(decay, error):
    with pytest.raises(error, match="decay must be"):
        Wanda(decay)


@pytest.mark.parametrize(
    "criterion",
    [
        *(Magnitude(), ActivationCount(), ActivationCount(False, "input", 0.5), LAMP(), Lookahead()),
        *(Gradient(), GroupTaylor(), HessianDiagonal(), FPGM(), Wanda(0.5)),
    ],
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
    assert isinstance(criteria.get("fpgm"), FPGM) and isinstance(criteria.get("wanda"), Wanda)
    assert isinstance(criteria.get("group_taylor"), GroupTaylor)
    assert isinstance(criteria.get("hessian_diagonal"), HessianDiagonal)
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
