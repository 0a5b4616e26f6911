"""A ResNet-20 on Fashion-MNIST: every convolution followed by a ReLU, also through Add, has its firing."""

import numpy as np
import pytest
from networks import resnet20

import tfap
from tfap.datasets import load

pytestmark = pytest.mark.one_keras

FIRES_AT = {
    "stem_conv": "stem_relu",
    "s1b1_conv1": "s1b1_relu1",
    "s1b1_conv2": "s1b1_relu2",  # past BatchNormalization and Add
    "s1b2_conv1": "s1b2_relu1",
    "s1b2_conv2": "s1b2_relu2",
    "s1b3_conv1": "s1b3_relu1",
    "s1b3_conv2": "s1b3_relu2",
    "s2b1_conv1": "s2b1_relu1",
    "s2b1_conv2": "s2b1_relu2",
    "s2b1_shortcut_conv": "s2b1_relu2",
    "s2b2_conv1": "s2b2_relu1",
    "s2b2_conv2": "s2b2_relu2",
    "s2b3_conv1": "s2b3_relu1",
    "s2b3_conv2": "s2b3_relu2",
    "s3b1_conv1": "s3b1_relu1",
    "s3b1_conv2": "s3b1_relu2",
    "s3b1_shortcut_conv": "s3b1_relu2",
    "s3b2_conv1": "s3b2_relu1",
    "s3b2_conv2": "s3b2_relu2",
    "s3b3_conv1": "s3b3_relu1",
    "s3b3_conv2": "s3b3_relu2",
}


@pytest.fixture(scope="module")
def images():
    """Of Fashion-MNIST; where it is not installed and cannot be loaded, digits of the same shape."""
    try:
        data = load("fashion_mnist")
        return data.x_train[:300, ..., None], data.y_train[:300]
    except FileNotFoundError:
        data = load("digits")
        x = np.kron(data.x_train[:300], np.ones((4, 4), "float32"))
        return x[:, 2:30, 2:30, None], data.y_train[:300]


@pytest.mark.parametrize("samples", [30, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_firing_of_every_convolution(keras_module, images, samples):
    x, y = (part[:samples] for part in images)
    model = resnet20(keras_module)
    few = samples < 100  # too few to trace the net for
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=few)
    plan = tfap.plan(model)
    assert {row.path: row.fires_at for row in plan.pruned} == FIRES_AT

    wrapped = tfap.prune(model, 0.5, granularity="weight")
    history = wrapped.fit(
        x,
        y,
        batch_size=10 if few else 30,
        epochs=2,
        verbose=0,
        shuffle=False,
        callbacks=[tfap.UpdatePruningStep()],
    )
    total = sum(int(np.prod(row.shape)) for row in plan.pruned)
    assert history.history["sparsity"][-1] == round(0.5 * total) / total
    if not few:
        assert history.history["loss"][1] < history.history["loss"][0]
    pixels = {"stem": 28 * 28, "s1": 28 * 28, "s2": 14 * 14, "s3": 7 * 7}
    for layer in tfap.prunable_layers(wrapped):
        counts, seen = layer.activation_counts.numpy(), int(layer.activations_seen.numpy())
        assert seen == 2 * samples * pixels[layer.name.split("b")[0].split("_")[0]]
        assert counts.shape == layer.layer.get_weights()[0].shape[-1:]
        assert 0 < counts.sum() < seen * len(counts)
    first = wrapped.get_layer("s2b1_shortcut_conv").activation_counts.numpy()
    np.testing.assert_array_equal(first, wrapped.get_layer("s2b1_conv2").activation_counts.numpy())

    plain = tfap.strip_pruning(wrapped)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), wrapped.predict(x, verbose=0))
