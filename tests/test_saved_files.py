"""Models that release 0.1.0 wrapped, trained and saved go on loading, with their masks and counts."""

import pathlib

import nets
import numpy as np
import pytest

import tfap
from tfap.layers.find import with_paths

FOLDER = pathlib.Path(__file__).parent / "saved"


@pytest.mark.parametrize("kind", ["counts_cnn", "decaying_mlp", "ap_nested"])
@pytest.mark.one_keras
def test_a_wrapped_model_of_0_1_0(keras_module, kind):
    name = f"{keras_module.__name__}_{kind}"
    model = keras_module.models.load_model(FOLDER / f"{name}.keras")
    expected = np.load(FOLDER / f"{name}.npz")
    x, _ = nets.data(model, 8, seed=1)
    np.testing.assert_allclose(np.array(model(x, training=False)), expected["outputs"], rtol=1e-5, atol=1e-6)
    assert nets.pruned_weights(model) > 0
    for path, wrapper in with_paths(model):
        for attribute in ("mask", "pruning_step", "updates_made", "activation_counts"):
            key = f"{path.replace('/', '.')}.{attribute}"
            if key in expected:
                np.testing.assert_array_equal(np.array(getattr(wrapper, attribute)), expected[key], key)
    pruned = nets.pruned_weights(model)
    nets.fit(model, epochs=4, initial_epoch=3)  # its schedule, criterion and optimizer go on
    assert nets.pruned_weights(model) >= pruned
    assert tfap.compact(tfap.strip_pruning(model)).count_params() > 0


def test_documented_imports_of_0_1_0():
    from tfap.callbacks import pruning_is_over
    from tfap.flops import flops, layer_flops
    from tfap.kernels import Kernel, KernelSpec
    from tfap.paired import Interval
    from tfap.runtimes import load, of_model

    assert (pruning_is_over, flops, layer_flops) == (tfap.pruning_is_over, tfap.flops, tfap.layer_flops)
    assert (Kernel, KernelSpec, load) == (tfap.Kernel, tfap.KernelSpec, tfap.load_runtime)
    assert callable(of_model) and Interval.__name__ == "Interval"
