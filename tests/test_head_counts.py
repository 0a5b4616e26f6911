"""Activation counts of heads: query positions at which a head attends elsewhere than everywhere alike."""

import keras
import nets
import numpy as np
import pytest

import tfap
from tfap.graph.kernel import KernelSpec
from tfap.keras_compat import private
from tfap.training.epoch_counts import why_not_exact

TIME, WIDTH = 7, 8


def counts_in_numpy(q, k, mask=True, threshold=0.0):
    """By the definition: q and k are projected, (batch, time, heads, key_dim); the mask has an axis of heads.

    A head counts a position if its largest weight is more than 2 x (1 + threshold) / keys.
    """
    scores = np.einsum("btnh,bsnh->bnts", q.astype(np.float64), k) / np.sqrt(q.shape[-1])
    mask = np.broadcast_to(mask, scores.shape)
    weights = np.exp(scores - scores.max()) * mask
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    keys = mask.sum(axis=-1)
    return (weights.max(axis=-1) * keys > 2 * (1 + threshold)).sum(axis=(0, 2))


def projected(layer, x):
    """The queries and keys of self-attention, in NumPy."""
    query, query_bias, key, key_bias, *_ = layer.get_weights()
    q = np.einsum("btm,mnh->btnh", x, query) + query_bias
    k = np.einsum("btm,mnh->btnh", x, key) + key_bias
    return q, k.repeat(q.shape[2] // k.shape[2], axis=2)


def random_weights(model):
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape, scale=0.5) for w in model.get_weights()])
    return model


def attentive(keras_module, layer=None, mask_zeros=False, time=TIME, **call):
    layers = keras_module.layers
    inputs = x = keras_module.Input((time, WIDTH))
    if mask_zeros:
        x = layers.Masking()(inputs)
    layer = layer or layers.MultiHeadAttention(4, 6, name="attention")
    x = layers.Dense(2, name="output")(layer(x, x, **call))
    return nets.compiled(keras_module, random_weights(keras_module.Model(inputs, x)), "mse")


def data(samples=5, time=TIME):
    return np.random.default_rng(1).normal(size=(samples, time, WIDTH)).astype("float32")


CAUSAL = np.tril(np.ones((TIME, TIME), bool))
CALLS = {
    "everywhere": ({}, {}, True),
    "causal": ({}, {"use_causal_mask": True}, CAUSAL),
    "causal with dropout": ({"dropout": 0.3}, {"use_causal_mask": True}, CAUSAL),
    "attention_mask": ({}, {"attention_mask": CAUSAL.T[None]}, CAUSAL.T),
    "attention_mask and causal": (
        {},
        {"attention_mask": np.tril(CAUSAL.T, 2)[None], "use_causal_mask": True},
        np.tril(CAUSAL.T, 2) & CAUSAL,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_counts_equal_the_definition(keras_module, name):
    options, call, mask = CALLS[name]
    layer = keras_module.layers.MultiHeadAttention(4, 6, name="attention", **options)
    model, x = attentive(keras_module, layer, **call), data()
    for threshold in (0.0, 0.5):
        found = tfap.measure_activations(model, x, heads=True, threshold=threshold)
        expected = counts_in_numpy(*projected(layer, x), mask, threshold)
        assert list(found) == ["attention"]
        assert found["attention"].counts.tolist() == expected.tolist()
        assert (found["attention"].seen, found["attention"].threshold) == (5 * TIME, threshold)
    by_position = tfap.measure_activations(model, x, heads=True, threshold=0.5, positions=True)["attention"]
    assert by_position.counts.reshape(TIME, 4).sum(axis=0).tolist() == expected.tolist()


def test_padding_is_not_attended_to(keras_module):
    model, x = attentive(keras_module, mask_zeros=True), data()
    x[:, 5:], x[0, 1:] = 0, 0  # the only position of the first sample has no other to attend to
    real = x.any(axis=-1)
    mask = real[:, None, :, None] & real[:, None, None, :]
    expected = counts_in_numpy(*projected(model.get_layer("attention"), x), mask)
    found = tfap.measure_activations(model, x, heads=True)["attention"]
    assert found.counts.tolist() == expected.tolist()
    assert found.counts.max() <= 4 * 5  # of the other samples


@pytest.mark.parametrize("flash", [None, pytest.param(False, marks=pytest.mark.slow)])
def test_query_heads_of_grouped_query_attention(flash):
    layer = keras.layers.GroupQueryAttention(4, 6, 2, name="attention", flash_attention=flash)
    model, x = attentive(keras, layer, use_causal_mask=True), data()
    expected = counts_in_numpy(*projected(layer, x), CAUSAL)
    counts = tfap.measure_activations(model, x, heads=True)["attention"]
    assert counts.counts.tolist() == expected.tolist()
    # A head of keys and values is counted with its query heads.
    shared = KernelSpec("_key_dense.kernel", (1,), (0,), feeds_output=False, heads=True).of_output(counts, 2)
    assert shared.counts.tolist() == expected.reshape(2, 3).sum(axis=1).tolist()
    assert shared.seen == 3 * 5 * TIME


@pytest.mark.one_keras
def test_axes_that_attend(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((3, 4, WIDTH))
    layer = layers.MultiHeadAttention(4, 6, attention_axes=(2,), name="attention")
    model = random_weights(keras_module.Model(inputs, layers.Dense(2)(layer(inputs, inputs))))
    x = data(15, 4)
    found = tfap.measure_activations(model, x.reshape(5, 3, 4, WIDTH), heads=True)["attention"]
    assert found.counts.tolist() == counts_in_numpy(*projected(layer, x)).tolist()
    assert found.seen == 5 * 3 * 4


def without_heads(model, alike, peaked):
    """Makes heads that attend everywhere alike, and others that attend to one position most."""
    layer = model.get_layer("attention")
    query, query_bias, key, *rest = layer.get_weights()
    for head in alike:
        query[:, head], query_bias[head] = 0, 0
    query[:, peaked] *= 5
    layer.set_weights([query, query_bias, key, *rest])
    return model


def trained(model, x, **options):
    """After one epoch of fit with a learning rate of 0."""
    pruned = tfap.prune(model, 0.0, granularity="head", **options)
    pruned.optimizer.learning_rate = 0.0
    pruned.fit(x, np.zeros((len(x), TIME, 2)), batch_size=4, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    (wrapper,) = tfap.prunable_layers(pruned)
    return pruned, wrapper


@pytest.mark.parametrize("every", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_counts_the_same(keras_module, every):
    model, x = attentive(keras_module, use_causal_mask=True), data(12)
    _, wrapper = trained(model, x, sample_every=every, criterion=tfap.ActivationCount(threshold=0.25))
    counted = wrapper.counted()
    # fit shuffles, so with sample_every=2 only the number of positions is known
    assert counted.seen == (12 if every == 1 else 8) * TIME
    expected = counts_in_numpy(*projected(model.get_layer("attention"), x), CAUSAL, 0.25)
    assert every == 2 or counted.counts.tolist() == expected.tolist()
    assert counted.counts.shape == (4,)


@pytest.mark.one_keras
def test_heads_that_attend_everywhere_alike_are_pruned_first(keras_module):
    model = without_heads(attentive(keras_module), alike=[0, 2], peaked=[1, 3])
    pruned, wrapper = trained(model, data(12))
    assert wrapper.counted().counts[[0, 2]].tolist() == [0, 0]
    assert wrapper.counted().counts[[1, 3]].min() > 0
    tfap.update_masks(pruned, 0.5)
    kept = wrapper.mask["_output_dense.kernel"].numpy().any(axis=(1, 2))
    assert kept.tolist() == [False, True, False, True]
    plain = tfap.strip_pruning(pruned)
    small = tfap.compact(plain)
    assert small.get_layer("attention").get_config()["num_heads"] == 2
    expected = np.asarray(plain(data()))
    assert np.abs(np.asarray(small(data())) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.one_keras
def test_prune_once_ranks_heads_by_counts(keras_module):
    model = without_heads(attentive(keras_module), alike=[0, 3], peaked=[1, 2])
    small = tfap.prune_once(
        model, data(32), 0.5, criterion="activation_count", granularity="head", target="neurons"
    )
    kept = small.get_layer("attention").get_weights()[2]
    np.testing.assert_array_equal(kept, model.get_layer("attention").get_weights()[2][:, [1, 2]])


@pytest.mark.slow
def test_counts_of_shared_heads_prune_groups():
    layer = keras.layers.GroupQueryAttention(4, 6, 2, name="attention")
    model = attentive(keras, layer)
    query, query_bias, *rest = layer.get_weights()
    query[:, 3:], query_bias[3:] = 0, 0  # the second group attends everywhere alike
    layer.set_weights([query, query_bias, *rest])
    pruned, wrapper = trained(model, data(12))
    assert wrapper.counted().counts[3:].tolist() == [0, 0, 0]
    tfap.update_masks(pruned, 0.5)
    masks = {name: mask.numpy() for name, mask in wrapper.mask.items()}
    assert masks["_query_dense.kernel"].any(axis=(0, 2)).tolist() == [True] * 3 + [False] * 3
    assert masks["_value_dense.kernel"].any(axis=(0, 2)).tolist() == [True, False]


@pytest.mark.one_keras
def test_a_step_that_counts_nothing_does_not_watch(keras_module, monkeypatch):
    def fail(*_):
        raise AssertionError("watched")

    monkeypatch.setattr(private, "attention_watched", fail)
    _, wrapper = trained(attentive(keras_module), data(8), criterion="magnitude")
    assert wrapper.counted() is None
    with pytest.raises(AssertionError, match="watched"):
        trained(attentive(keras_module), data(8))


@pytest.mark.one_keras
def test_the_plan_says_where_heads_count(keras_module):
    model = attentive(keras_module)
    rows = [row for row in tfap.plan(model, granularity="head") if row.weight]
    assert [(row.fires_at, row.pruned) for row in rows] == [("attention", True)] * 4
    rows = [row for row in tfap.plan(model, criterion="wanda", granularity="head") if row.weight]
    assert not any(row.pruned for row in rows)
    assert "tfap cannot count them" in rows[0].reason


def test_silent_neurons_are_not_known_by_head_counts():
    (wrapper,) = tfap.prunable_layers(tfap.prune(attentive(keras), 0.5, granularity="head"))
    assert why_not_exact(wrapper) == "heads are counted, not neurons"


@pytest.mark.slow
def test_counts_are_saved(keras_module, tmp_path):
    pruned, wrapper = trained(attentive(keras_module), data(8))
    pruned.save(tmp_path / "model.keras")
    (loaded,) = tfap.prunable_layers(keras_module.models.load_model(tmp_path / "model.keras"))
    assert loaded.counted().counts.tolist() == wrapper.counted().counts.tolist()
    assert loaded.counted().seen == 8 * TIME


def test_a_layer_alone_counts_its_heads():
    layer = keras.layers.MultiHeadAttention(4, 6, name="attention")
    layer(data(), data())
    wrapper = tfap.prune(layer, 0.5, granularity="head")
    wrapper(data(), data())
    assert wrapper.counts_heads and wrapper.activation_counts.shape == (4,)
