"""Attention layers: compact, remove and prune_once remove heads and dimensions; prune masks whole heads."""

import keras
import nets
import numpy as np
import pytest

import tfap

pytestmark = pytest.mark.one_keras

# On JAX, Keras attends with as many key dimensions as value dimensions only.
ON_JAX = keras.backend.backend() == "jax"
HEADS, KEY, VALUE, WIDTH = 4, 6, 6 if ON_JAX else 5, 8
QUERY_KERNEL, QUERY_BIAS, KEY_KERNEL, KEY_BIAS, VALUE_KERNEL, VALUE_BIAS, OUTPUT_KERNEL = range(7)


def random_weights(model, seed=0):
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(size=w.shape, scale=0.5) for w in model.get_weights()])
    return model


def attentive(keras_module, call=None, layer=None, **options):
    """A Dense, an attention layer on it, and a Dense layer."""
    layers = keras_module.layers
    inputs = keras_module.Input((7, 3))
    x = layers.Dense(WIDTH, activation="relu", name="first")(inputs)
    layer = layer or layers.MultiHeadAttention(HEADS, KEY, value_dim=VALUE, name="attention", **options)
    x = call(layer, x) if call else layer(x, x)
    return random_weights(keras_module.Model(inputs, layers.Dense(2, name="output")(x)))


def grouped(**options):
    """With 3 query heads for each of 2 heads of keys and values."""
    layer = keras.layers.GroupQueryAttention(4, 6, 2, name="attention", **options)
    return attentive(keras, layer=layer)


def zeroed(model, *parts):
    """Sets parts of the weights of the attention layer to zero: pairs `(weight, index)`."""
    layer = model.get_layer("attention")
    weights = layer.get_weights()
    for weight, index in parts:
        weights[weight][index] = 0
    layer.set_weights(weights)
    return model


def data(model, samples=64):
    generator = np.random.default_rng(1)
    shape = (samples, *model.inputs[0].shape[1:])
    if "int" in str(model.inputs[0].dtype):
        return generator.integers(0, 20, shape).astype("int32")
    return generator.normal(size=shape).astype("float32")


def outputs(model, x=None):
    return np.asarray(model(data(model) if x is None else x, training=False), np.float64)


def assert_equal_outputs(model, other, tolerance=1e-5):
    expected = outputs(model)
    assert np.abs(outputs(other) - expected).max() <= tolerance * np.abs(expected).max()


def shapes(model, name="attention"):
    """Of the kernels of the query, key, value and output."""
    weights = model.get_layer(name).get_weights()
    return [weight.shape for weight in (weights[::2] if len(weights) > 4 else weights)]


def expected_shapes(heads=HEADS, key_dim=KEY, value_dim=VALUE, inputs=WIDTH, width=WIDTH):
    if ON_JAX:
        key_dim = value_dim = max(key_dim, value_dim)
    return [(inputs, heads, key_dim)] * 2 + [(inputs, heads, value_dim), (heads, value_dim, width)]


# -- compact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [(OUTPUT_KERNEL, 1)],
        [(VALUE_KERNEL, np.s_[:, 1]), (VALUE_BIAS, 1)],
    ],
    ids=["nothing reads it", "its values are zero"],
)
def test_a_dead_head_goes(keras_module, parts):
    model = zeroed(attentive(keras_module), *parts)
    small = tfap.compact(model)
    assert shapes(small) == expected_shapes(heads=3)
    config = small.get_layer("attention").get_config()
    assert (config["num_heads"], config["key_dim"], config["value_dim"]) == (3, KEY, VALUE)
    assert_equal_outputs(model, small)


def test_dimensions_go_evenly_over_heads(keras_module):
    model = attentive(keras_module)
    for head in range(HEADS):  # others in each head
        zeroed(model, (QUERY_KERNEL, np.s_[:, head, head]), (QUERY_BIAS, (head, head)))
        zeroed(model, (KEY_KERNEL, np.s_[:, head, 5 - head]))  # its bias shifts all scores of a query
        zeroed(model, (VALUE_KERNEL, np.s_[:, head, head]), (VALUE_BIAS, (head, head)))
        zeroed(model, (OUTPUT_KERNEL, (head, (head + 1) % VALUE)))
    zeroed(model, (OUTPUT_KERNEL, (2, 4)))
    small = tfap.compact(model)
    assert shapes(small) == expected_shapes(key_dim=KEY - 2, value_dim=VALUE - 2)
    assert_equal_outputs(model, small)
    reasons = {(one.path, one.channels, one.reason) for one in tfap.compaction_report(model, small).kept}
    uneven = {("attention", 1, "other heads need as many value dimensions")}
    assert ON_JAX or reasons == uneven


def test_query_heads_go_in_groups():
    model = zeroed(grouped(), (OUTPUT_KERNEL, np.s_[0:3]))
    small = tfap.compact(model)
    assert shapes(small) == [(8, 3, 4), (8, 1, 4), (8, 1, 4), (3, 4, 8)]
    assert_equal_outputs(model, small)

    model = zeroed(grouped(), (OUTPUT_KERNEL, [1, 5]))  # one of each group
    small = tfap.compact(model)
    assert shapes(small) == [(8, 4, 4), (8, 2, 4), (8, 2, 4), (4, 4, 8)]
    assert_equal_outputs(model, small)

    model = zeroed(grouped(), (OUTPUT_KERNEL, 1))
    small = tfap.compact(model)
    assert shapes(small) == shapes(model)
    (kept,) = tfap.compaction_report(model, small).kept
    assert (kept.channels, kept.reason) == (1, "other heads of keys and values need as many query heads")


def test_the_last_head_stays(keras_module):
    model = zeroed(attentive(keras_module), (OUTPUT_KERNEL, np.s_[:]))
    small = tfap.compact(model)
    assert shapes(small)[0][1] == 1
    assert_equal_outputs(model, small)
    kept = {one.reason for one in tfap.compaction_report(model, small).kept if one.path == "attention"}
    assert "a layer needs at least one head" in kept


def test_constant_values_stay_with_a_reason(keras_module):
    model = zeroed(attentive(keras_module), (VALUE_KERNEL, np.s_[:, 1]))  # and its bias is not zero
    small = tfap.compact(model)
    assert shapes(small) == expected_shapes()
    (kept,) = tfap.compaction_report(model, small).kept
    assert kept.reason == "its values are a nonzero constant, which masks and dropout may scale"


def test_input_and_output_channels_go(keras_module):
    model = zeroed(attentive(keras_module), (OUTPUT_KERNEL, np.s_[..., 3]))
    first = model.get_layer("first")
    kernel, bias = first.get_weights()
    kernel[:, [1, 2]], bias[1], bias[2] = 0, 0.7, -1.0  # constants 0.7 and 0
    first.set_weights([kernel, bias])
    small = tfap.compact(model)
    assert small.get_layer("first").units == WIDTH - 2
    assert shapes(small) == expected_shapes(inputs=WIDTH - 2, width=WIDTH - 1)
    assert_equal_outputs(model, small)


def masked(layer, x):
    return layer(x, x, attention_mask=np.tril(np.ones((7, 7), bool))[None])


CALLS = {
    "causal": (lambda layer, x: layer(x, x, use_causal_mask=True), {}),
    "attention_mask": (masked, {}),
    "dropout": (None, {"dropout": 0.5}),
    "output_shape": (None, {"output_shape": 6}),
    "without biases": (None, {"use_bias": False}),
    "key": (lambda layer, x: layer(x, value=x, key=x), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_and_options(keras_module, name):
    call, options = CALLS[name]
    model = attentive(keras_module, call, **options)
    has_bias = options.get("use_bias", True)
    at = (0, 1, 3) if not has_bias else (QUERY_KERNEL, KEY_KERNEL, OUTPUT_KERNEL)
    zeroed(model, (at[2], 2), *((at[1], np.s_[:, head, 0]) for head in range(HEADS)))
    small = tfap.compact(model)
    width = options.get("output_shape", WIDTH)
    assert shapes(small) == expected_shapes(heads=3, key_dim=KEY - 1, width=width)
    assert_equal_outputs(model, small)


@pytest.mark.slow
def test_attention_axes(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((3, 4, 8))
    layer = layers.MultiHeadAttention(4, 6, value_dim=VALUE, attention_axes=(2,), name="attention")
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(layer(inputs, inputs)))
    zeroed(random_weights(model), (OUTPUT_KERNEL, 0), *((KEY_KERNEL, np.s_[:, h, 1]) for h in range(4)))
    small = tfap.compact(model)
    assert shapes(small) == expected_shapes(heads=3, key_dim=KEY - 1)
    assert_equal_outputs(model, small)


def test_heads_stay_if_their_scores_are_returned(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((7, 8))
    x, scores = layers.MultiHeadAttention(4, 6, name="attention")(
        inputs, inputs, return_attention_scores=True
    )
    model = random_weights(keras_module.Model(inputs, [layers.Dense(2, name="output")(x), scores]))
    zeroed(model, (OUTPUT_KERNEL, 0), *((KEY_KERNEL, np.s_[:, h, h]) for h in range(4)))
    small = tfap.compact(model)
    assert shapes(small) == expected_shapes(key_dim=5, value_dim=6)
    for mine, other in zip(model(data(model)), small(data(model))):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), atol=1e-5)
    kept = tfap.compaction_report(model, small).kept[0]
    assert (kept.channels, kept.reason) == (1, "'attention' returns the scores of all its heads")
    row = next(row for row in tfap.plan(model, criterion="magnitude", granularity="head") if row.weight)
    assert "returns the scores" in row.reason


def test_cross_attention(keras_module):
    layers = keras_module.layers
    left, right = keras_module.Input((5, 3)), keras_module.Input((7, 4))
    x = layers.Dense(8, activation="relu", name="first")(left)
    y = layers.Dense(9, activation="relu", name="second")(right)
    x = layers.MultiHeadAttention(4, 6, value_dim=VALUE, name="attention")(x, y)
    model = random_weights(keras_module.Model([left, right], layers.Dense(2, name="output")(x)))
    zeroed(model, (OUTPUT_KERNEL, 3))
    for name, channel in (("first", 0), ("second", 2)):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[:, channel] = 0
        model.get_layer(name).set_weights([kernel, bias])
    small = tfap.compact(model)
    assert [small.get_layer(name).units for name in ("first", "second")] == [7, 8]
    assert shapes(small) == [(7, 3, 6), (8, 3, 6), (8, 3, VALUE), (3, VALUE, 8)]
    x = [np.random.default_rng(0).normal(size=(9, *each.shape[1:])) for each in model.inputs]
    np.testing.assert_allclose(outputs(model, x), outputs(small, x), atol=1e-5)


# -- whole heads in training -----------------------------------------------------------------------


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "target", [pytest.param("weights", marks=SLOW), "neurons", pytest.param("flops", marks=SLOW)]
)
def test_masks_are_exact(keras_module, target):
    model = nets.vit(keras_module, blocks=1)
    for row in tfap.plan(model, criterion="magnitude", granularity="head"):
        assert row.pruned == row.path.startswith("attention")
        assert row.pruned or "layers have no " in row.reason  # heads, or no kernel at all
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="head", target=target)
    nets.fit(pruned, epochs=2)
    (wrapper,) = tfap.prunable_layers(pruned)
    query, query_bias, key, key_bias, value, value_bias, output, bias = wrapper.layer.get_weights()
    dead = [head for head in range(4) if not output[head].any()]
    assert len(dead) == 2
    for head in range(4):
        parts = (query[:, head], query_bias[head], key[:, head], key_bias[head], value[:, head])
        parts += (value_bias[head], output[head])
        assert [part.any() for part in parts] == [head not in dead] * 7
    assert bias.any()

    plain = tfap.strip_pruning(pruned)
    small = tfap.compact(plain)
    assert small.get_layer("attention_0").get_config()["num_heads"] == 2
    assert_equal_outputs(plain, small)


def test_the_heads_with_the_smallest_weights_are_pruned(keras_module):
    model = attentive(keras_module)
    weights = model.get_layer("attention").get_weights()
    for at in (QUERY_KERNEL, KEY_KERNEL, VALUE_KERNEL):
        weights[at][:, [1, 3]] *= 0.1
    weights[OUTPUT_KERNEL][[1, 3]] *= 0.1
    model.get_layer("attention").set_weights(weights)
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="head")
    tfap.update_masks(pruned, 0.5)
    mask = tfap.prunable_layers(pruned)[0].mask["_output_dense.kernel"].numpy()
    assert mask.any(axis=(1, 2)).tolist() == [True, False, True, False]


@pytest.mark.slow
def test_query_heads_are_pruned_in_groups():
    pruned = tfap.prune(grouped(), 0.5, "magnitude", granularity="head")
    tfap.update_masks(pruned, 0.5)
    masks = tfap.prunable_layers(pruned)[0].mask
    assert sorted(masks["_query_dense.kernel"].numpy().any(axis=(0, 2)).reshape(2, 3).all(axis=1)) == [0, 1]
    assert shapes(tfap.compact(tfap.strip_pruning(pruned))) == [(8, 3, 4), (8, 1, 4), (8, 1, 4), (3, 4, 8)]


@pytest.mark.parametrize("criterion", ["gradient", "reconstruction"])
def test_other_criteria_rank_heads(keras_module, criterion):
    model = nets.vit(keras_module, blocks=1)
    x, y = nets.data(model)
    update = {"gradient_data": (x, y)} if criterion == "gradient" else {"reconstruction_data": x}
    zeroed_heads = [0, 2]
    weights = model.get_layer("attention_0").get_weights()
    weights[OUTPUT_KERNEL][zeroed_heads] *= 1e-3
    model.get_layer("attention_0").set_weights(weights)
    pruned = tfap.prune(model, 0.5, criterion, granularity="head")
    tfap.update_masks(pruned, 0.5, **update)
    mask = tfap.prunable_layers(pruned)[0].mask["_output_dense.kernel"].numpy()
    assert np.flatnonzero(~mask.any(axis=(1, 2))).tolist() == zeroed_heads


def test_layers_without_heads_are_named(keras_module):
    with pytest.raises(ValueError, match=r"Dense layers have no heads"):
        tfap.prune(nets.mlp(keras_module), 0.5, "magnitude", granularity="head")
    layer = keras_module.layers.Dense(3, name="alone")
    with pytest.raises(ValueError, match=r"'alone' \(Dense\) has no heads"):
        tfap.prune(layer, 0.5, "magnitude", granularity="head")


# -- transformers ----------------------------------------------------------------------------------

# Of one block: a head with 16 inputs, 4 dimensions and 16 outputs, and half of 32 units with 16 inputs.
HEAD = 3 * (16 * 4 + 4) + 4 * 16
UNITS = 16 * (16 + 1) + 16 * 16


def pruned_transformer(model):
    """Without a quarter of the heads and half of the feed-forward units, zero but not yet removed."""
    for granularity, sparsity in (("head", 0.25), ("neuron", 0.5)):
        skip = () if granularity == "head" else [lambda layer: not layer.name.startswith("hidden")]
        options = {"granularity": granularity, "scope": "local", "target": "neurons", "skip": skip}
        pruned = tfap.prune(model, sparsity, "magnitude", **options)
        tfap.update_masks(pruned, sparsity)
        model = tfap.strip_pruning(pruned)
    return model


@pytest.mark.parametrize("make", [nets.vit, pytest.param(nets.decoder, marks=SLOW)])
def test_a_transformer_loses_heads_and_units(keras_module, make):
    model = random_weights(make(keras_module))
    plain = pruned_transformer(model)
    small = tfap.compact(plain)
    for block in range(2):
        assert shapes(small, f"attention_{block}") == [(16, 3, 4)] * 3 + [(3, 4, 16)]
        assert small.get_layer(f"hidden_{block}").units == 16
    assert model.count_params() - small.count_params() == 2 * (HEAD + UNITS)
    assert_equal_outputs(plain, small)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tflite", "onnx"])
@pytest.mark.parametrize("make", [nets.vit, nets.decoder])
@pytest.mark.tensorflow_only(reason="other backends export each layer in a process of its own")
def test_exported_transformers_compute_the_same(keras_module, tmp_path, make, format):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    plain = pruned_transformer(random_weights(make(keras_module)))
    small = tfap.compact(plain)
    expected = outputs(plain)
    file = tfap.export(small, tmp_path / f"small.{format}", format=format)
    (made,) = tfap.load_runtime(file)(data(small))
    assert np.abs(np.asarray(made) - expected).max() < 1e-5 * np.abs(expected).max()


# -- remove ----------------------------------------------------------------------------------------


def test_named_heads_are_removed(keras_module):
    model = attentive(keras_module)
    small = tfap.remove(model, {"attention": {"heads": [0, 2]}})
    assert shapes(small) == expected_shapes(heads=2)
    assert_equal_outputs(zeroed(model, (OUTPUT_KERNEL, [0, 2])), small)


def test_named_heads_are_removed_with_their_query_heads():
    model = grouped()
    small = tfap.remove(model, {"attention": {"heads": np.array([False, True])}})
    assert shapes(small) == [(8, 3, 4), (8, 1, 4), (8, 1, 4), (3, 4, 8)]
    assert_equal_outputs(zeroed(model, (OUTPUT_KERNEL, np.s_[3:])), small)


def test_channels_and_heads_are_removed_together(keras_module):
    small = tfap.remove(attentive(keras_module), {"first": [0], "attention": {"heads": [1]}})
    assert shapes(small) == expected_shapes(heads=3, inputs=WIDTH - 1)


@pytest.mark.parametrize(
    "named, message",
    [
        ({"attention": {"heads": [4]}}, r"\[4\], but the layer has 4 heads"),
        ({"attention": {"heads": [0, 1, 2, 3]}}, "would lose all its heads"),
        ({"attention": {"head": [0]}}, r"for an attention layer, \{'heads': \[...\]\}"),
        ({"first": {"heads": [0]}}, "for a layer of type Dense"),
    ],
)
def test_wrong_heads(keras_module, named, message):
    with pytest.raises(ValueError, match=message):
        tfap.remove(attentive(keras_module), named)


# -- prune_once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["magnitude", "reconstruction"])
def test_prune_once_refits_the_output_projection(keras_module, criterion):
    model = random_weights(nets.vit(keras_module, blocks=1))
    x, expected = data(model), outputs(model)
    errors = []
    for compensate in (True, False):
        options = {"granularity": "head", "target": "neurons", "compensate": compensate}
        small = tfap.prune_once(model, x, 0.5, criterion, **options)
        assert shapes(small, "attention_0") == [(16, 2, 4)] * 3 + [(2, 4, 16)]
        assert small.get_layer("hidden_0").units == 32
        errors.append(np.square(outputs(small) - expected).mean())
    assert errors[0] < errors[1]


@pytest.mark.slow
def test_a_head_that_others_replace_costs_nothing(keras_module):
    model = attentive(keras_module)
    weights = model.get_layer("attention").get_weights()
    for array in weights[:6]:
        array[..., 2, :] = array[..., 0, :]  # heads 0 and 2 mix the same
    model.get_layer("attention").set_weights(weights)
    options = {"granularity": "head", "target": "neurons", "ridge": 1e-9}
    small = tfap.prune_once(model, data(model), 0.25, **options)
    assert shapes(small) == expected_shapes(heads=3)
    assert_equal_outputs(model, small, tolerance=1e-3)


@pytest.mark.slow
def test_prune_once_of_grouped_queries():
    model = grouped()
    small = tfap.prune_once(model, data(model), 0.5, granularity="head", target="neurons")
    assert shapes(small) == [(8, 3, 4), (8, 1, 4), (8, 1, 4), (3, 4, 8)]


def test_channels_before_attention_are_removed_and_refitted(keras_module):
    model = attentive(keras_module)
    errors = []
    for compensate in (True, False):
        small = tfap.prune_once(model, data(model), {"first": 0.5}, compensate=compensate)
        assert shapes(small) == expected_shapes(inputs=WIDTH // 2)
        errors.append(np.square(outputs(small) - outputs(model)).mean())
    assert errors[0] < errors[1]


@pytest.mark.slow
@pytest.mark.parametrize("budget, count", [("weights", lambda m: m.count_params()), ("flops", tfap.flops)])
def test_budgets_know_heads(keras_module, budget, count):
    model = random_weights(nets.vit(keras_module))
    goal = {budget: 0.9}
    _, report = tfap.prune_once(model, data(model), goal, "magnitude", granularity="head", return_report=True)
    small = tfap.prune_once(model, data(model), goal, "magnitude", granularity="head")
    assert report.budget.reached == report.budget.predicted == count(small) <= report.budget.limit


@pytest.mark.slow
def test_a_budget_of_a_training_knows_heads(keras_module):
    model = random_weights(nets.vit(keras_module))
    options = {"granularity": "head", "scope": "local"}
    pruned = tfap.prune(model, {"weights": model.count_params() - 2 * HEAD}, "magnitude", **options)
    tfap.update_masks(pruned, tfap.prunable_layers(pruned)[0].pruning_schedule)
    small = tfap.compact(tfap.strip_pruning(pruned))
    assert small.count_params() == model.count_params() - 2 * HEAD


def test_heads_need_data(keras_module):
    model = nets.vit(keras_module)
    with pytest.raises(ValueError, match="granularity='head' needs inputs"):
        tfap.prune_once(model, None, 0.5, granularity="head")
    with pytest.raises(ValueError, match="granularity must be"):
        tfap.prune_once(model, data(model), 0.5, granularity="weight")


def test_a_subclass_that_attends_otherwise_stays(keras_module):
    class Attention(keras_module.layers.MultiHeadAttention):
        def call(self, query, value, key=None, training=None):
            return 2 * super().call(query, value, key, training=training)

    model = attentive(keras_module, layer=Attention(HEADS, KEY, value_dim=VALUE, name="attention"))
    zeroed(model, (OUTPUT_KERNEL, 0))
    assert shapes(tfap.compact(model)) == shapes(model)
