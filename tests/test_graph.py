import keras
import nets
import pytest

import tfap
from tfap.graph import layer_types
from tfap.graph.calls import FiringSite, Graph

pytestmark = pytest.mark.one_keras


def firing(model):
    graph = Graph(model)
    return {path: graph.firing(path) for path, layer in graph.layers() if layer_types.kernel_specs(layer)}


def sites(model):
    return {path: [site.path for site in found.sites] for path, found in firing(model).items()}


@pytest.mark.smoke
def test_firing_is_found_past_normalization_pooling_dropout_and_add(keras_module):
    assert sites(nets.cnn(keras_module)) == {
        "conv_a": ["relu_a"],
        "conv_b": ["relu_b"],
        "depthwise": ["depthwise"],
        "dense": ["dense"],
        "output": [],
    }


@pytest.mark.filterwarnings("ignore:.*Explicitly requested dtype float64.*")  # JAX has float32
@pytest.mark.parametrize("dtype, fires_at", [("float16", ["relu"]), ("int32", [])])
def test_casts_between_float_types_are_no_calls(dtype, fires_at):
    """Keras 3.7 makes them in mixed precision; whole numbers fire elsewhere."""
    layers = keras.layers
    inputs = keras.Input((6,))
    x = keras.ops.cast(layers.Dense(5, name="dense")(inputs), dtype)
    x = layers.Dense(2, name="output")(layers.ReLU(name="relu")(x))
    model = keras.Model(inputs, keras.ops.cast(x, "float64"))
    assert sites(model) == {"dense": fires_at, "output": []}
    if dtype == "float16":
        assert Graph(model).output_paths() == {"output"}
        kernel, bias = model.get_layer("dense").get_weights()
        model.get_layer("dense").set_weights([kernel * [1, 0, 1, 0, 1], bias])
        smaller = tfap.compact(model)  # which compares outputs
        assert smaller.get_layer("dense").units == 3 and smaller.output.dtype == "float64"


@pytest.mark.smoke
def test_paths_of_nested_models(keras_module):
    model = nets.nested(keras_module)
    assert [path for path, _ in Graph(model).layers()] == [
        "dense",
        "middle/inner/dense",
        "middle/dense",
        "output",
    ]
    assert sites(model)["middle/inner/dense"] == ["middle/inner/dense"]


def test_an_activation_outside_the_nested_model(keras_module):
    layers = keras_module.layers
    inner_in = keras_module.Input((4,))
    inner = keras_module.Model(inner_in, layers.Dense(3, name="dense")(inner_in), name="inner")
    inputs = keras_module.Input((4,))
    outputs = layers.Dense(2)(layers.ReLU(name="relu")(inner(inputs)))
    assert sites(keras_module.Model(inputs, outputs))["inner/dense"] == ["relu"]


def test_concatenated_channels_keep_their_place(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((6, 6, 2))
    a, b = (layers.Conv2D(n, 3, name=name)(inputs) for n, name in ((3, "a"), (4, "b")))
    x = layers.ReLU(name="relu")(layers.BatchNormalization()(layers.Concatenate()([a, b])))
    graph = Graph(keras_module.Model(inputs, layers.Conv2D(2, 3)(x)))
    assert graph.firing("a").sites == (FiringSite("relu", 0, 3),)
    assert graph.firing("b").sites == (FiringSite("relu", 3, 7),)


def test_the_nearest_activation_counts(keras_module):
    """As in a ResNet V2: the sum goes to the next block's ReLU and, past it, to later ones."""
    layers = keras_module.layers
    inputs = keras_module.Input((4, 4, 2))
    x = layers.Conv2D(2, 1, name="conv")(inputs)
    block = layers.Conv2D(2, 1)(layers.ReLU(name="near")(layers.BatchNormalization()(x)))
    outputs = layers.Conv2D(1, 1)(layers.ReLU(name="far")(layers.Add()([x, block])))
    assert sites(keras_module.Model(inputs, outputs))["conv"] == ["near"]


@pytest.mark.parametrize("activation", ["linear", "softmax", None])
def test_no_activation_no_firing(keras_module, activation):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((4,)), layers.Dense(3, activation=activation, name="a"), layers.Dense(2, name="b")]
    )
    found = firing(model)
    assert found["a"].reason == "no activation follows it before the Dense 'b'"
    assert found["b"].reason == "no activation follows it"


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "relu6", "elu"])
def test_any_other_activation_fires(keras_module, activation):
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((4,)), layers.Dense(3, activation=activation, name="a")])
    assert sites(model) == {"a": ["a"]}


def test_a_function_cannot_count(keras_module):
    relu = keras_module.ops.relu if hasattr(keras_module, "ops") else keras_module.activations.relu
    inputs = keras_module.Input((4,))
    x = relu(keras_module.layers.Dense(3, name="a")(inputs))
    model = keras_module.Model(inputs, keras_module.layers.Dense(2)(x))
    assert "tfap counts only at layers: use an activation layer" in firing(model)["a"].reason


def test_one_activation_layer_in_several_places(keras_module):
    layers = keras_module.layers
    relu = layers.ReLU(name="relu")
    inputs = keras_module.Input((4,))
    x = relu(layers.Dense(3, name="a")(inputs))
    x = relu(layers.Dense(3, name="b")(x))
    found = firing(keras_module.Model(inputs, layers.Dense(2)(x)))
    assert found["a"].reason == found["b"].reason
    assert "'relu' is also called elsewhere" in found["a"].reason


@pytest.mark.smoke
def test_a_shared_layer_fires_at_each_of_its_calls(keras_module):
    layers = keras_module.layers
    shared = layers.Dense(3, name="shared")
    left, right = keras_module.Input((4,)), keras_module.Input((4,))
    a, b = layers.ReLU(name="left")(shared(left)), layers.ReLU(name="right")(shared(right))
    model = keras_module.Model([left, right], layers.Dense(1, name="out")(layers.Concatenate()([a, b])))
    assert sorted(sites(model)["shared"]) == ["left", "right"]


@pytest.mark.smoke
def test_output_layers(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((4,))
    x = layers.Dense(3, activation="relu", name="trunk")(inputs)
    a = layers.Activation("softmax")(layers.Dense(3, name="a")(x))
    b = layers.Dropout(0.5)(layers.Dense(3, activation="relu", name="b")(x))
    c = layers.Add()([layers.Dense(1, name="deep")(x), layers.Dense(1, name="wide")(inputs)])
    model = keras_module.Model(inputs, [a, b, c])
    assert {"a", "b", "deep", "wide"} <= Graph(model).output_paths()
    assert "trunk" not in Graph(model).output_paths()


def test_output_layers_of_a_residual_net_are_not_its_whole_trunk(keras_module):
    layers = keras_module.layers
    inputs = x = keras_module.Input((4, 4, 2))
    for name in ("first", "second"):
        x = layers.ReLU()(layers.Add()([x, layers.Conv2D(2, 1, name=name)(x)]))
    paths = Graph(keras_module.Model(inputs, x)).output_paths()
    assert "second" in paths and "first" not in paths
