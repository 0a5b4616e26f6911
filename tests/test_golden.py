"""The known answers of the paper's authors, through `update_masks` on wrapped models (see golden/)."""

import json
import pathlib

import nets
import numpy as np
import pytest

import tfap

pytestmark = pytest.mark.one_keras

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "abp_index.json").read_text())["cases"]
STEPS = [(file, step) for file, case in CASES.items() for step in range(len(case["steps"]))]
IDS = [f"{file[4:-4]}-{step}" for file, step in STEPS]
# Weights of each hidden layer that are redundant to us and not to them: of neurons without readers and chains
# of them in the first net, of neurons that lose their inputs over two prunes in the second.
THEY_LEAVE = {"B_neuron_wts_pct85-0": [7, 1, 3], "A_neuron_wts_twice30-1": [0, 3]}


def updated(keras, file, step, **options):
    """A wrapped net after one of their prunes."""
    case, arrays = CASES[file], np.load(GOLDEN / file)
    facts = case["steps"][step]
    assert facts["exact"]
    model = nets.mlp(keras, case["layer_sizes"])
    for layer, dense in enumerate(model.layers):
        dense.set_weights([arrays[f"s{step}_kernel_before_{layer}"], arrays[f"bias_{layer}"]])
    weighted = facts["type"] == "neuron_wts"
    wrapped = tfap.prune(model, 0.5, tfap.ActivationCount(weighted), granularity="weight", **options)
    before = hidden(file, step, "before")
    for layer, (wrapper, kernel) in enumerate(zip(tfap.prunable_layers(wrapped), before)):
        wrapper.mask.assign(kernel != 0)  # pruned by an earlier step
        nets.set_counts(wrapper, arrays[f"s{step}_counts_{layer}"], seen=10**6)

    # Their percentage is of all kernels, ours of the prunable ones.
    prunable = sum(kernel.size for kernel in before)
    gone = sum(int((kernel == 0).sum()) for kernel in before)
    tfap.update_masks(wrapped, (gone + facts["pruning_idx"]) / prunable)
    return wrapped


def hidden(file, step, when):
    """Their hidden kernels."""
    arrays = np.load(GOLDEN / file)
    return [arrays[f"s{step}_kernel_{when}_{layer}"] for layer in range(CASES[file]["hidden_layers"])]


@pytest.mark.parametrize("file,step", STEPS, ids=IDS)
def test_authors_ranking(keras_module, file, step):
    wrapped = updated(keras_module, file, step)
    gone = sum(int((kernel == 0).sum()) for kernel in hidden(file, step, "before"))
    assert nets.pruned_weights(wrapped) - gone == CASES[file]["steps"][step]["n_pruned_by_rank"] > 0
    for wrapper, expected in zip(tfap.prunable_layers(wrapped), hidden(file, step, "after_noredundant")):
        np.testing.assert_array_equal(wrapper.layer.get_weights()[0], expected)
        np.testing.assert_array_equal(wrapper.mask.numpy(), expected != 0)


@pytest.mark.parametrize("file,step", STEPS, ids=IDS)
def test_authors_redundant_weights(keras_module, file, step):
    """What they cut goes, and what a look further than one layer and one prune finds."""
    ranked = updated(keras_module, file, step)
    wrapped = updated(keras_module, file, step, remove_disconnected=True)
    ours = [wrapper.mask.numpy() != 0 for wrapper in tfap.prunable_layers(wrapped)]
    theirs = [kernel != 0 for kernel in hidden(file, step, "after")]
    by_rank = hidden(file, step, "after_noredundant")

    for start in ([kernel != 0 for kernel in by_rank], theirs):  # from before their cut and from after it
        for mask, expected in zip(ours, nets.connected(start)):
            np.testing.assert_array_equal(mask, expected)
    more = [np.count_nonzero(cut) - np.count_nonzero(mask) for mask, cut in zip(ours, theirs)]
    assert more == THEY_LEAVE.get(IDS[STEPS.index((file, step))], [0] * len(ours))
    for wrapper, mask, kernel in zip(tfap.prunable_layers(wrapped), ours, by_rank):
        np.testing.assert_array_equal(wrapper.layer.get_weights()[0], kernel * mask)
    # They drop the constants, we put them into the biases.
    x = np.random.default_rng(0).normal(size=(64, CASES[file]["layer_sizes"][0]))
    np.testing.assert_allclose(np.asarray(wrapped(x)), np.asarray(ranked(x)), rtol=1e-5, atol=1e-6)
