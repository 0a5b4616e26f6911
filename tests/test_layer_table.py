"""Every row of benchmarks/layer_table.py, and the models of keras.applications that tfmot's users bring."""

import dataclasses
import itertools

import pytest
import test_layers
from layer_table import ENTRIES, STEPS, run

import tfap
from tfap.graph import layer_types
from tfap.graph.activation import fires
from tfap.graph.calls import Graph

COMPOSED = ("SeparableConv2D", "EinsumDense", "MultiHeadAttention")
BY_THEMSELVES = {row[0] for row in test_layers.LAYERS}  # in both Kerases


def skip_if_missing(entry, keras_module):
    if keras_module.__name__ not in entry.kerases:
        pytest.skip(f"{keras_module.__name__} does not have the layer")


@pytest.mark.one_keras
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, marks=pytest.mark.smoke if entry.name in COMPOSED else [])
        for entry in ENTRIES
        if entry.name not in BY_THEMSELVES
    ],
    ids=lambda entry: entry.name,
)
@pytest.mark.slow
def test_layer_in_eager_mode(keras_module, entry, tmp_path):
    """All steps but the last one, the export."""
    skip_if_missing(entry, keras_module)
    criterion = "activation_count" if entry.counted == entry.kernels else "magnitude"
    steps = run(dataclasses.replace(entry, eager=True), keras_module, criterion, tmp_path)
    assert tuple(itertools.islice(steps, len(STEPS) - 1)) == STEPS[:-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    "entry, criterion",
    [
        *((entry, "magnitude") for entry in ENTRIES),
        *((entry, "activation_count") for entry in ENTRIES if entry.counted),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_layer(keras_module, entry, criterion, tmp_path):
    skip_if_missing(entry, keras_module)
    assert tuple(run(entry, keras_module, criterion, tmp_path)) == STEPS


@pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if not entry.counted], ids=lambda entry: entry.name
)
def test_a_layer_without_firing(keras_module, entry):
    skip_if_missing(entry, keras_module)
    with pytest.raises(ValueError, match=r"nothing to prune(.|\n)*(no activation|not the channels)"):
        tfap.prune(entry.model(keras_module), 0.5, "activation_count", granularity="weight")


def followed_by_relu(graph, path):
    """Brute force: a ReLU can be reached without passing another layer with a kernel."""
    pending = [value for call in graph.calls_of[path] for value in call.outputs]
    while pending:
        for reader, _ in pending.pop().consumers:
            if fires(reader.layer):
                return True
            if not layer_types.kernel_specs(reader.layer):
                pending += reader.outputs
    return False


@pytest.mark.one_keras
@pytest.mark.parametrize(
    "name",
    ["MobileNetV2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet50V2", "DenseNet121"))],
)
def test_keras_applications(keras_module, name):
    model = getattr(keras_module.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
    rows = [row for row in tfap.plan(model, criterion="magnitude", include=["predictions"]) if row.weight]
    assert sum(row.pruned for row in rows) == len(rows) > 50

    graph = Graph(model)
    relu_follows = [row.path for row in rows if followed_by_relu(graph, row.path)]
    found = {row.path for row in tfap.plan(model).pruned if row.firing.sites}
    assert set(relu_follows) == found and len(found) >= 35
