"""What holds for every criterion that scores plain arrays, and for every way to split data into batches."""

import nets
import numpy as np
import pytest
from examples_per_run import examples
from hypothesis import given, settings
from hypothesis import strategies as st

import tfap
from tfap.criteria import FPGM, GroupTaylor, HessianDiagonal, Magnitude, Wanda
from tfap.criteria.gradient import MeanGradients
from tfap.graph.counts import ActivationCounts
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.masks.patterns import SingleWeights
from tfap.masks.weights import Scored
from tfap.training import mask_update

CRITERIA = (FPGM(), GroupTaylor(), HessianDiagonal(), Magnitude(), Wanda())


@st.composite
def kernels(draw):
    """A Dense or convolution kernel with what criteria measure, some neurons pruned."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    window = draw(st.sampled_from([(), (2,), (3, 3)]))
    inputs, neurons = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    shape = (*window, inputs, neurons)
    mask = np.ones(shape, "uint8") * (generator.random(neurons) < 0.8).astype("uint8")
    return Kernel(
        "a",
        KernelSpec(),
        (generator.normal(size=shape) * mask).astype("float32"),
        mask,
        ActivationCounts(generator.random(inputs), 3),
        squared_gradients=generator.random(shape),
        loss_changes=generator.normal(size=neurons),
    )


def permuted(kernel, order):
    return Kernel(
        kernel.path,
        kernel.spec,
        kernel.weights[..., order],
        kernel.mask[..., order],
        kernel.activations,
        squared_gradients=kernel.squared_gradients[..., order],
        loss_changes=kernel.loss_changes[order],
    )


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
@settings(max_examples=examples(15), deadline=None)
@given(kernel=kernels(), seed=st.integers(0, 99))
def test_scores_are_not_negative_and_follow_their_neurons(criterion, kernel, seed):
    scores = np.asarray(criterion.scores(kernel))
    assert scores.shape == kernel.weights.shape and np.isfinite(scores).all() and (scores >= 0).all()
    order = np.random.default_rng(seed).permutation(kernel.weights.shape[-1])
    again = criterion.scores(permuted(kernel, order))
    np.testing.assert_allclose(again, scores[..., order], rtol=1e-6, atol=1e-7)


@settings(max_examples=examples(30), deadline=None)
@given(kernel=kernels(), sparsity=st.floats(0, 0.9))
def test_wanda_prunes_every_neuron_alike(kernel, sparsity):
    """Of neurons without pruned weights, none loses two weights more than another."""
    scored = [Scored(kernel, Wanda().scores(kernel))]
    (mask,) = Wanda().new_masks(scored, sparsity, SingleWeights())
    assert (mask <= kernel.mask).all()
    lost = kernel.neuron_sums(1 - mask.astype(int))[kernel.neuron_sums(kernel.mask.astype(int)) > 0]
    assert not len(lost) or lost.max() - lost.min() <= 1


@settings(max_examples=examples(20), deadline=None)
@given(kernel=kernels())
def test_a_filter_twice_is_as_far_from_the_others(kernel):
    """Equal filters have equal scores, which do not exceed the largest distance."""
    twice = np.concatenate([kernel.weights, kernel.weights], axis=-1)
    both = Kernel("a", KernelSpec(), twice, np.ones(twice.shape, "uint8"))
    scores = both.neuron_sums(FPGM().scores(both)) / (twice.size // twice.shape[-1])
    neurons = kernel.weights.shape[-1]
    np.testing.assert_allclose(scores[:neurons], scores[neurons:], rtol=1e-6, atol=1e-6)
    rows = both.by_neuron(twice.astype(float))
    farthest = np.linalg.norm(rows[:, None] - rows, axis=-1).max(axis=1)
    assert (scores <= farthest + 1e-6).all()


@pytest.mark.one_keras
@pytest.mark.parametrize("criterion", ["gradient", "group_taylor"])
def test_mean_gradients_do_not_depend_on_the_batches(keras_module, criterion):
    wrapped = tfap.prune(nets.cnn(keras_module), 0.5, criterion)
    x, y = nets.data(wrapped)
    found = []
    for cuts in ([], [1, 5], [20]):
        batches = list(zip(np.split(x, cuts), np.split(y, cuts)))
        weights = mask_update.pruned_weights(wrapped)
        gathered = mask_update.gathered(weights, MeanGradients(wrapped, batches))
        found.append([weights[0].wrapper.criterion.scores(kernel) for kernel in gathered])
    for others in found[1:]:
        for one, other in zip(found[0], others):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
