import numpy as np
import pytest

from tfap.graph import layer_types
from tfap.graph.kernel import Kernel, KernelSpec, neuron_count

LAYERS = [
    ("Dense", (4,), dict(units=3), 3),
    ("Conv1D", (9, 4), dict(filters=3, kernel_size=2), 3),
    ("Conv2D", (9, 9, 4), dict(filters=3, kernel_size=2), 3),
    ("Conv3D", (5, 5, 5, 4), dict(filters=3, kernel_size=2), 3),
    ("Conv1DTranspose", (9, 4), dict(filters=3, kernel_size=2), 3),
    ("Conv2DTranspose", (9, 9, 4), dict(filters=3, kernel_size=2), 3),
    ("Conv3DTranspose", (5, 5, 5, 4), dict(filters=3, kernel_size=2), 3),
    ("DepthwiseConv1D", (9, 4), dict(kernel_size=2, depth_multiplier=2), 8),
    ("DepthwiseConv2D", (9, 9, 4), dict(kernel_size=2, depth_multiplier=2), 8),
]


@pytest.mark.parametrize("kind,shape,arguments,neurons", LAYERS, ids=[row[0] for row in LAYERS])
def test_zeroing_a_neuron_in_the_kernel_zeroes_its_channel(keras_module, kind, shape, arguments, neurons):
    layer = getattr(keras_module.layers, kind)(use_bias=False, **arguments)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    assert layer(x).shape[-1] == neurons
    (spec,) = layer_types.kernel_specs(layer)
    weights = spec.find(layer).numpy()
    assert neuron_count(spec, weights.shape) == neurons
    kernel = Kernel("layer", spec, weights, np.ones_like(weights, "uint8"))
    keep = np.ones(neurons)
    keep[neurons - 2] = 0
    layer.set_weights([weights * kernel.per_neuron(keep)])
    alive = np.any(np.asarray(layer(x)), axis=tuple(range(len(shape))))
    np.testing.assert_array_equal(alive, keep.astype(bool))
    assert kernel.neuron_sums(kernel.mask).tolist() == [weights.size // neurons] * neurons


@pytest.mark.parametrize("kind,shape,arguments,neurons", LAYERS, ids=[row[0] for row in LAYERS])
def test_zeroing_an_input_in_the_kernel_equals_zeroing_it_in_the_data(
    keras_module, kind, shape, arguments, neurons
):
    layer = getattr(keras_module.layers, kind)(**arguments)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    layer(x)
    (spec,) = layer_types.kernel_specs(layer)
    weights = spec.find(layer).numpy()
    kernel = Kernel("layer", spec, weights, np.ones_like(weights, "uint8"))
    keep = np.array([1, 0, 1, 1])
    from_data = np.asarray(layer((x * keep).astype("float32")))
    layer.set_weights([weights * kernel.per_input(keep), *layer.get_weights()[1:]])
    np.testing.assert_allclose(np.asarray(layer(x)), from_data, atol=1e-6)


def test_inputs_of_a_grouped_convolution():
    kernel = Kernel("conv", KernelSpec(), np.zeros((1, 1, 2, 6)), np.ones((1, 1, 2, 6), "uint8"))
    # 3 groups of 2 inputs; outputs 0-1 read inputs 0-1, outputs 2-3 read 2-3, outputs 4-5 read 4-5
    expected = [[0, 0, 2, 2, 4, 4], [1, 1, 3, 3, 5, 5]]
    np.testing.assert_array_equal(kernel.per_input(np.arange(6)), expected)


def test_a_subclass_of_dense_is_prunable(keras_module):
    class Scaled(keras_module.layers.Dense):
        pass

    assert layer_types.kernel_specs(Scaled(3))


def test_reasons(keras_module):
    layers = keras_module.layers
    norm = layers.BatchNormalization()
    norm.build((None, 3))
    assert "no kernel that tfap knows" in layer_types.why_not_prunable(norm)
    relu = layers.ReLU()
    relu.build((None, 3))
    assert layer_types.why_not_prunable(relu) == "it has no weights"
    assert layer_types.why_not_prunable(layers.Dense(3)) is None


def test_lora_and_quantized_kernels_are_refused():
    import keras

    lora = keras.layers.Dense(8)
    lora.build((None, 8))
    lora.enable_lora(2)
    assert "LoRA" in layer_types.why_not_prunable(lora)
    quantized = keras.layers.Dense(8)
    quantized.build((None, 8))
    quantized.quantize("int8")
    assert "quantized to int8" in layer_types.why_not_prunable(quantized)
