"""tfap beside tfmot: the same masks, and schedules that work in tfmot's own wrapper and callback."""

import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfap
from tfap.keras_compat import tfmot


@pytest.fixture(autouse=True)
def seed():
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(0)


@pytest.mark.parametrize(
    "sparsity", [0.1, 0.9375, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.25, 0.5, 0.75))]
)
def test_local_magnitude_gives_tfmots_own_mask(sparsity):
    model = nets.mlp(tf_keras, (12, 32, 16, 4))
    schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, 1, end_step=1, frequency=1)
    theirs = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    ours = tfap.prune(model, schedule, "magnitude", scope="local", include=["output"])
    for wrapped, callback in (
        (theirs, tfmot.sparsity.keras.UpdatePruningStep()),
        (ours, tfap.UpdatePruningStep()),
    ):
        # Rate 0: both rank the same weights, whenever in the step they do it.
        wrapped.compile(tf_keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        nets.fit(wrapped, callbacks=[callback])
    pairs = list(zip(theirs.layers, ours.layers))
    assert len(pairs) == 3
    for their_layer, our_layer in pairs:
        ((_, mask, _),) = their_layer.pruning_vars
        np.testing.assert_array_equal(our_layer.mask.numpy(), mask.numpy())
        assert (our_layer.mask.numpy() == 0).sum() == round(sparsity * mask.numpy().size)


@pytest.mark.parametrize(
    "schedule",
    [
        tfap.IterativeSparsity(0.5, updates=3, frequency=4),
        tfap.PolynomialDecay(0.0, 0.875, 2, 12, frequency=2),
        tfap.ConstantSparsity(0.875, 4, frequency=4),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_step_schedules_in_tfmots_own_wrapper_and_callback(schedule, tmp_path):
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(nets.mlp(tf_keras, (8, 16, 8, 4)), schedule)
    nets.compiled(tf_keras, wrapped)
    nets.fit(wrapped, epochs=4, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    for layer in wrapped.layers:
        assert np.mean(layer.layer.get_weights()[0] == 0) == 0.875

    wrapped.save(tmp_path / "wrapped.h5")
    with tfmot.sparsity.keras.prune_scope():
        loaded = tf_keras.models.load_model(tmp_path / "wrapped.h5")
    assert loaded.layers[0].pruning_schedule.get_config() == schedule.get_config()


UNDER_TFMOT = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "mixed precision": {},
    "frozen": {},
}


CRITERIA = {
    "magnitude": "magnitude",
    "counts": "activation_count",
    "counts of inputs": tfap.ActivationCount(side="input"),
}


@pytest.mark.parametrize(
    "mode, criterion",
    [
        pytest.param(mode, name, marks=[] if mode == "graph" or name == "counts" else pytest.mark.slow)
        for mode in UNDER_TFMOT
        for name in CRITERIA
    ],
)
def test_our_wrapper_under_tfmots_callback(mode, criterion):
    if mode == "mixed precision":
        tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = nets.mlp(tf_keras, (12, 32, 16, 4))
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    schedule = tfap.PolynomialDecay(0.0, 0.75, 2, 12, frequency=2)
    wrapped = tfap.prune(model, schedule, CRITERIA[criterion], scope="local", granularity="weight")
    wrapped.layers[0].trainable = mode != "frozen"
    wrapped.compile("sgd", "sparse_categorical_crossentropy", **UNDER_TFMOT[mode])
    with pytest.raises(Exception, match="UpdatePruningStep"):  # TensorFlow's InvalidArgumentError
        nets.fit(wrapped, callbacks=[])
    nets.fit(wrapped, epochs=4, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    for layer in tfap.prunable_layers(wrapped):
        kernel = layer.layer.get_weights()[0]
        assert (layer.mask.numpy() == 0).sum() == (kernel == 0).sum() == 0.75 * kernel.size
        assert int(layer.pruning_step.numpy()) == 16

    x, _ = nets.data(wrapped)
    plain = tfmot.sparsity.keras.strip_pruning(wrapped)
    assert {type(layer) for layer in plain.layers} == {tf_keras.layers.Dense}
    np.testing.assert_array_equal(plain.predict(x, verbose=0), wrapped.predict(x, verbose=0))


def test_under_tfmots_callback_the_masks_are_those_of_ours():
    weights = nets.mlp(tf_keras).get_weights()
    made = []
    for callback in (tfmot.sparsity.keras.UpdatePruningStep(), tfap.UpdatePruningStep()):
        model = nets.mlp(tf_keras)
        model.set_weights(weights)
        # One update, at step 4: at its begin under tfmot's callback, at its end under ours.
        wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 4, 4, 1), "magnitude", scope="local")
        wrapped.compile(tf_keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        nets.fit(wrapped, callbacks=[callback])
        made.append(nets.masks(wrapped))
    for name, mask in made[0].items():
        np.testing.assert_array_equal(mask, made[1][name])
        assert (mask == 0).mean() == 0.5


def test_tfmots_callback_goes_on_after_ours():
    schedule = tfap.PolynomialDecay(0.0, 0.75, 1, 8, frequency=1)
    model = tfap.prune(nets.mlp(tf_keras), schedule, "magnitude", scope="local")
    nets.fit(model)
    half_way = nets.masks(model)
    nets.fit(model, epochs=2, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    for name, mask in nets.masks(model).items():
        assert (mask == 0).mean() == 0.75 and (mask <= half_way[name]).all()
    nets.fit(model)  # and ours after tfmot's


def test_jit_compile_under_tfmots_callback_is_an_error_that_says_so():
    model = nets.mlp(tf_keras)
    model.compile("sgd", model.loss, jit_compile=True)
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 2), "magnitude", scope="local")
    with pytest.raises(Exception, match="tfmots_UpdatePruningStep_needs_jit_compile_False"):
        nets.fit(wrapped, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])


@pytest.mark.parametrize("settings", [{"pruning_schedule": 0.5}, {"scope": "global"}], ids=str)
def test_what_tfmots_callback_cannot_do_is_an_error(settings):
    arguments = {"pruning_schedule": tfap.ConstantSparsity(0.5, 2), "scope": "local", **settings}
    wrapped = tfap.prune(nets.mlp(tf_keras), **arguments)
    with pytest.raises(RuntimeError, match=r"tfap.UpdatePruningStep\(\)"):
        nets.fit(wrapped, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])


SUMMARIZED = {
    "default settings": {},
    "local magnitude": {
        "pruning_schedule": tfap.ConstantSparsity(0.5, 2, 2, 1),
        "criterion": "magnitude",
        "scope": "local",
    },
    "blocks": {"pruning_schedule": 0.5, "criterion": "magnitude", "block_size": (1, 4)},
    "2:4": {"pruning_schedule": 0.5, "criterion": "magnitude", "sparsity_m_by_n": (2, 4)},
}


@pytest.mark.parametrize("settings", SUMMARIZED)
def test_pruning_summaries_log_sparsity_and_the_smallest_kept_score(settings, tmp_path, monkeypatch):
    logged = []
    summaries = tfmot.sparsity.keras.PruningSummaries(str(tmp_path))
    monkeypatch.setattr(summaries, "_log_pruning_metrics", lambda logs, prefix, step: logged.append(logs))
    model = nets.mlp(tf_keras)
    model.compile(tf_keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    wrapped = tfap.prune(model, **{"pruning_schedule": 0.5, **SUMMARIZED[settings]})
    nets.fit(wrapped, epochs=3, callbacks=[tfap.UpdatePruningStep(), summaries])
    assert len(logged) == 3 and len(logged[-1]) == 4  # at the begin of an epoch: of two layers
    wrapper = tfap.prunable_layers(wrapped)[0]
    for _, mask, threshold in wrapper.pruning_vars:
        assert logged[-1][f"{mask.name}/sparsity"] == pytest.approx(float(np.mean(mask.numpy() == 0)))
        assert logged[-1][f"{mask.name}/sparsity"] > 0.3
        kept = np.abs(wrapper.layer.get_weights()[0])
        kept = (
            kept[kept > 0]
            if settings != "blocks"
            else kept.reshape(-1, 4).mean(axis=1)[kept[:, ::4].ravel() > 0]
        )
        if wrapper.criterion.counts is None:
            assert logged[-1][f"{threshold.name}/threshold"] == pytest.approx(kept.min(), rel=1e-6)
        assert logged[-1][f"{threshold.name}/threshold"] > 0


def test_the_logged_threshold_is_that_of_tfmot():
    model, made = nets.mlp(tf_keras), []
    schedule = tfap.ConstantSparsity(0.5, 2, 2, 1)
    theirs = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    ours = tfap.prune(model, schedule, "magnitude", scope="local", include=["output"])
    for wrapped in (theirs, ours, ours):
        callback = (tfap if len(made) == 2 else tfmot.sparsity.keras).UpdatePruningStep()
        wrapped.compile(tf_keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        nets.fit(wrapped, callbacks=[callback])
        made.append([float(layer.pruning_vars[0][2].numpy()) for layer in wrapped.layers])
    assert made[0] == made[1] == made[2] and min(made[0]) > 0


def counted_relu():
    """A model with a counter at a ReLU of its own, pruned half."""
    layers = [tf_keras.layers.Dense(8), tf_keras.layers.ReLU(), tf_keras.layers.Dense(3)]
    model = nets.compiled(tf_keras, tf_keras.Sequential([tf_keras.Input((6,)), *layers]), "mse")
    pruned = tfap.prune(model, 0.5)
    nets.fit(pruned, epochs=2)
    return pruned


def test_strip_pruning_of_either_library_takes_all_wrappers_off():
    pruned = counted_relu()
    assert isinstance(pruned.layers[1], tfap.layers.CountActivations)
    x, _ = nets.data(pruned)
    expected = pruned.predict(x, verbose=0)
    for strip in (tfap.strip_pruning, tfmot.sparsity.keras.strip_pruning):
        plain = strip(pruned)
        assert [type(layer).__name__ for layer in plain.layers] == ["Dense", "ReLU", "Dense"]
        np.testing.assert_array_equal(plain.predict(x, verbose=0), expected)
        assert np.mean(plain.layers[0].get_weights()[0] == 0) == 0.5


def test_our_strip_pruning_masks_the_weights_in_tfmots_wrappers():
    """tfmot masks at the begin of a step and at the end of an epoch, so training in between undoes it."""
    schedule = tfap.ConstantSparsity(0.5, 1, 1, 1)
    theirs = tfmot.sparsity.keras.prune_low_magnitude(nets.mlp(tf_keras), schedule)
    nets.compiled(tf_keras, theirs)
    nets.fit(theirs, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    for layer in theirs.layers:
        layer.layer.kernel.assign_add(tf.ones_like(layer.layer.kernel))
    for layer in tfap.strip_pruning(theirs).layers:
        assert np.mean(layer.get_weights()[0] == 0) == 0.5


@pytest.mark.parametrize("first", ["counter", "tfmot"])
def test_a_counter_beside_tfmots_own_wrapper(first):
    """tfmot's callback begins the steps of all wrappers if the first one has not begun."""
    counter = tfap.layers.CountActivations(tf_keras.layers.ReLU())
    theirs = tfmot.sparsity.keras.prune_low_magnitude(
        tf_keras.layers.Dense(6), tfap.ConstantSparsity(0.5, 2, 2, 1)
    )
    layers = [counter, theirs] if first == "counter" else [theirs, counter]
    model = nets.compiled(tf_keras, tf_keras.Sequential([tf_keras.Input((6,)), *layers]), "mse")
    nets.fit(model, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    assert int(counter.pruning_step) == int(theirs.pruning_step) == 4
    assert int(counter.activations_seen) == 64 and counter.activation_counts.numpy().sum() > 0
    assert np.mean(theirs.layer.get_weights()[0] == 0) == 0.5
