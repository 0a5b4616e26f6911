"""The known answers of the paper's authors, through `update_masks` on wrapped models (see golden/)."""

import json
import pathlib

import nets
import numpy as np
import pytest

import tfap

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "abp_index.json").read_text())["cases"]
STEPS = [(file, step) for file, case in CASES.items() for step in range(len(case["steps"]))]


@pytest.mark.parametrize("file,step", STEPS, ids=[f"{file[4:-4]}-{step}" for file, step in STEPS])
def test_authors_ranking(keras_module, file, step):
    case, arrays = CASES[file], np.load(GOLDEN / file)
    facts = case["steps"][step]
    assert facts["exact"]
    hidden = range(case["hidden_layers"])
    model = nets.mlp(keras_module, case["layer_sizes"])
    weighted = facts["type"] == "neuron_wts"
    wrapped = tfap.prune(model, 0.5, tfap.ActivationCount(weighted), granularity="weight")
    before = [arrays[f"s{step}_kernel_before_{layer}"] for layer in hidden]
    for layer, wrapper, kernel in zip(hidden, tfap.prunable_layers(wrapped), before):
        wrapper.layer.set_weights([kernel, wrapper.layer.get_weights()[1]])
        wrapper.mask.assign(kernel != 0)  # pruned by an earlier step
        nets.set_counts(wrapper, arrays[f"s{step}_counts_{layer}"], seen=10**6)

    # Their percentage is of all kernels, ours of the prunable ones.
    prunable = sum(kernel.size for kernel in before)
    gone = sum(int((kernel == 0).sum()) for kernel in before)
    tfap.update_masks(wrapped, (gone + facts["pruning_idx"]) / prunable)

    assert nets.pruned_weights(wrapped) - gone == facts["n_pruned_by_rank"] > 0
    for layer, wrapper in zip(hidden, tfap.prunable_layers(wrapped)):
        expected = arrays[f"s{step}_kernel_after_noredundant_{layer}"]
        np.testing.assert_array_equal(wrapper.layer.get_weights()[0], expected)
        np.testing.assert_array_equal(wrapper.mask.numpy(), expected != 0)
