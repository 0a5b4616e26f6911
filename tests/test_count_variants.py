"""What ActivationCount sees when it forgets, weighs epochs or sums activations; and layer-wise scope."""

import nets
import numpy as np
import pytest
import tf_keras
from test_counts import freeze
from test_intervals import Says

import tfap

pytestmark = pytest.mark.one_keras

SAMPLES, BATCH = 64, 16
UPDATES = tfap.IterativeSparsity(0.1, updates=2, frequency=4)  # at the end of each of the first two epochs


def frozen(keras, criterion, schedule=UPDATES, **arguments):
    """A wrapped net whose weights do not move, and how often its neurons fire on one epoch's data."""
    model = nets.mlp(keras)
    freeze(keras, model)
    x, _ = nets.data(model, SAMPLES)
    fired = tfap.measure_activations(model, x)
    arguments = {"granularity": "weight", **arguments}
    return tfap.prune(model, schedule, criterion, **arguments), [fired[p] for p in ("hidden_0", "hidden_1")]


def remembered(model):
    return [wrapper.remembered() for wrapper in tfap.prunable_layers(model)]


@pytest.mark.parametrize("decay,epochs_left", [(1.0, 3), (0.0, 1), (0.25, 0.25 * (0.25 + 1) + 1)])
def test_an_update_leaves_a_share_of_the_counts(keras_module, decay, epochs_left):
    """Updates of 1e-4 of the weights prune nothing, so every epoch counts the same."""
    schedule = tfap.IterativeSparsity(1e-4, updates=2, frequency=4)
    criterion = tfap.ActivationCount(decay=decay)
    model, fired = frozen(keras_module, criterion, schedule)
    nets.fit(model, epochs=3)
    for wrapper, seen_once, found in zip(tfap.prunable_layers(model), fired, remembered(model), strict=True):
        assert int(wrapper.updates_made.numpy()) == 2
        np.testing.assert_array_equal(found.counts, epochs_left * seen_once.counts)
        assert found.seen == epochs_left * SAMPLES
        np.testing.assert_array_equal(
            wrapper.activation_counts.numpy(), 3 * seen_once.counts
        )  # go on for ever
        assert seen_once.counts.sum() > 0


def test_forgetting_changes_what_is_pruned(keras_module):
    """Neuron 0 fired often long ago, neuron 1 a little lately."""
    masks = []
    for decay in (1.0, 0.0):
        model = nets.mlp(keras_module, (4, 2, 3))
        model = tfap.prune(model, 0.5, tfap.ActivationCount(False, decay=decay), granularity="weight")
        (wrapper,) = tfap.prunable_layers(model)
        nets.set_counts(wrapper, [90, 10], seen=100)
        tfap.update_masks(model, 0.0)
        nets.set_counts(wrapper, [90, 30], seen=150)
        tfap.update_masks(model, 0.5)
        masks.append(wrapper.mask.numpy())
    np.testing.assert_array_equal(masks[0], [[1, 0]] * 4)
    np.testing.assert_array_equal(masks[1], [[0, 1]] * 4)


def test_counts_are_forgotten_once_there_are_new_ones(keras_module):
    """Three updates in a row, as between two sampled steps: the second and third rank by the same counts."""
    model = nets.mlp(keras_module, (4, 2, 3))
    model = tfap.prune(model, 0.5, tfap.ActivationCount(False, decay=0.0), granularity="weight")
    (wrapper,) = tfap.prunable_layers(model)
    nets.set_counts(wrapper, [90, 10], seen=100)
    for _ in range(2):
        tfap.update_masks(model, 0.0)
        assert wrapper.remembered().counts.tolist() == [90, 10] and wrapper.remembered().seen == 100
    nets.set_counts(wrapper, [90, 30], seen=150)
    assert wrapper.remembered().counts.tolist() == [0, 20] and wrapper.remembered().seen == 50
    tfap.update_masks(model, 0.5)
    np.testing.assert_array_equal(wrapper.mask.numpy(), [[0, 1]] * 4)


def test_epochs_weighed_by_a_metric(keras_module):
    """0.5 x the first epoch + 0.8 x the second + 0.8 x the half that is not over."""
    criterion = tfap.ActivationCount(metric="told")
    model, fired = frozen(keras_module, criterion, tfap.ConstantSparsity(0.5, 1000))
    callbacks = [Says(keras_module, told=[0.5, 0.8]), tfap.UpdatePruningStep()]
    nets.fit(model, epochs=2, callbacks=callbacks)
    for seen_once, found in zip(fired, remembered(model), strict=True):
        np.testing.assert_allclose(found.counts, 1.3 * seen_once.counts, rtol=1e-12)
        assert found.seen == pytest.approx(1.3 * SAMPLES, rel=1e-12)
    for wrapper in tfap.prunable_layers(model):
        counts = wrapper.activation_counts.numpy()
        wrapper.activation_counts.assign(counts + 10)
        assert wrapper.remembered().counts == pytest.approx(1.3 * counts / 2 + 8)


def test_weighed_epochs_fade_with_every_prune_at_their_ends(keras_module):
    """Prunes of 1e-4 of the weights take nothing: every epoch counts the same."""
    schedule = tfap.AccuracyIntervals(1e-4, prunes=2, begin=0, end=0, metric="told")
    criterion = tfap.ActivationCount(metric="told", decay=0.25)
    model, fired = frozen(keras_module, criterion, schedule)
    callbacks = [Says(keras_module, told=[0.5, 0.75, 1.0]), tfap.UpdatePruningStep()]
    nets.fit(model, epochs=3, callbacks=callbacks)
    expected = 0.25 * (0.25 * 0.5 + 0.75) + 1.0
    for seen_once, found in zip(fired, remembered(model), strict=True):
        np.testing.assert_array_equal(found.counts, expected * seen_once.counts)


def test_a_metric_that_is_not_logged(keras_module):
    model, _ = frozen(keras_module, tfap.ActivationCount(metric="accuracy"))
    with pytest.raises(ValueError, match=r"metric='accuracy'.*weighs epochs by the metric 'accuracy'.*loss"):
        nets.fit(model)


@pytest.mark.smoke
def test_sums_of_activations_equal_brute_force(keras_module):
    model = nets.mlp(keras_module)
    freeze(keras_module, model)
    x, _ = nets.data(model, SAMPLES)
    first, second = (model.get_layer(name) for name in ("hidden_0", "hidden_1"))
    outputs = [np.asarray(first(x)), np.asarray(second(first(x)))]
    wrapped = tfap.prune(
        model, tfap.ConstantSparsity(0.5, 1000), tfap.ActivationCount(statistic="sum", threshold=0.25)
    )
    nets.fit(wrapped, epochs=2)
    for wrapper, values in zip(tfap.prunable_layers(wrapped), outputs, strict=True):
        above = np.where(values > 0.25, values, 0).astype("float64")
        assert wrapper.activation_counts.dtype in ("float64", np.float64)
        np.testing.assert_allclose(wrapper.activation_counts.numpy(), 2 * above.sum(axis=0), rtol=1e-6)
        assert above.sum() > 0 and int(wrapper.activations_seen.numpy()) == 2 * SAMPLES


def test_sums_at_an_activation_layer_elsewhere(keras_module):
    layers = keras_module.layers
    stack = [
        layers.Input((6,)),
        layers.Dense(5, name="a"),
        layers.BatchNormalization(),
        layers.ReLU(name="r"),
    ]
    model = nets.compiled(keras_module, keras_module.Sequential([*stack, layers.Dense(2)]), "mse")
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.4, 4), tfap.ActivationCount(statistic="sum"))
    nets.fit(wrapped)
    counter = wrapped.get_layer("r")
    assert counter.activation_counts.numpy().dtype == np.float64
    assert nets.pruned_weights(wrapped) == 12  # two of five neurons


@pytest.mark.parametrize(
    "criterion", [dict(decay=0.5), dict(metric="told"), dict(statistic="sum", decay=0.9)], ids=str
)
@pytest.mark.slow
def test_variants_are_saved_and_resumed(keras_module, tmp_path, criterion):
    told = [0.5, 0.8, 0.9, 0.95]
    models = [
        tfap.prune(nets.mlp(keras_module), UPDATES, tfap.ActivationCount(**criterion)) for _ in range(2)
    ]
    models[1].set_weights(models[0].get_weights())

    def fit(model, **arguments):
        callbacks = [Says(keras_module, told=told), tfap.UpdatePruningStep()]
        nets.fit(model, callbacks=callbacks, **arguments)

    fit(models[0], epochs=4)
    fit(models[1], epochs=1)
    models[1].save(tmp_path / "one.keras")
    resumed = keras_module.models.load_model(tmp_path / "one.keras")
    fit(resumed, epochs=4, initial_epoch=1)
    for ours, theirs in zip(models[0].get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(remembered(models[0]), remembered(resumed), strict=True):
        np.testing.assert_array_equal(ours.counts, theirs.counts)


def test_both_kerases_remember_the_same(both_kerases):
    found = []
    for keras in both_kerases:
        model = nets.mlp(keras)
        model.set_weights(
            [np.random.default_rng(at).normal(size=w.shape) for at, w in enumerate(model.get_weights())]
        )
        freeze(keras, model)
        model = tfap.prune(model, UPDATES, tfap.ActivationCount(decay=0.5), granularity="weight")
        nets.fit(model, epochs=2)
        found.append((remembered(model), list(nets.masks(model).values())))
    for ours, theirs in zip(*(counts for counts, _ in found)):
        np.testing.assert_array_equal(ours.counts, theirs.counts)
    for ours, theirs in zip(*(masks for _, masks in found)):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours == 0).any()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"decay": 1.1}, r"decay must be in \[0, 1\]: received 1.1"),
        ({"statistic": "mean"}, r"statistic must be one of \('count', 'sum'\): received 'mean'"),
    ],
)
def test_bad_variants(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfap.ActivationCount(**arguments)


def test_variants_need_our_callback():
    keras = tf_keras
    for criterion, in_graph in ((tfap.ActivationCount(), True), (tfap.ActivationCount(decay=0.5), False)):
        layer = tfap.layers.PruneByActivation(
            keras.layers.Dense(4, "relu"), tfap.ConstantSparsity(0.5, 1), criterion, scope="local"
        )
        layer.build((None, 3))
        assert layer.prunes_in_graph is in_graph


# -- layer by layer ----------------------------------------------------------------------------------


def test_layerwise_prunes_one_layer_an_update_in_order(keras_module):
    model = nets.mlp(keras_module, (12, 16, 8, 6, 4))
    model = tfap.prune(model, 0.5, "magnitude", scope="layerwise")
    sizes, found = (192, 128, 48), []
    for sparsity in (0.5, 0.5, 0.5, 0.75):
        tfap.update_masks(model, sparsity)
        found.append([int((mask == 0).sum()) for mask in nets.masks(model).values()])
    halves = [size // 2 for size in sizes]
    assert found == [
        [halves[0], 0, 0],
        [halves[0], halves[1], 0],
        halves,
        [144, *halves[1:]],
    ]


def test_the_papers_layerwise_variant(keras_module):
    """Prune k takes the whole share from hidden layer k: intervals whose shares decay at once."""
    schedule = tfap.AccuracyIntervals(0.5, prunes=2, begin=0, end=0, decay=0.0, metric="told")
    model = tfap.prune(nets.mlp(keras_module), schedule, granularity="weight", scope="layerwise")
    callbacks = [Says(keras_module, told=[1, 1]), tfap.UpdatePruningStep()]
    history = nets.fit(model, epochs=2, callbacks=callbacks).history["sparsity"]
    assert history == pytest.approx([96 / 320, 0.5])
    assert [int((mask == 0).sum()) for mask in nets.masks(model).values()] == [96, 64]
