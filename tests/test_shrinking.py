"""tfap.fit_and_compact: the same training as without compaction, in models that get smaller."""

import itertools

import nets
import networks
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap.keras_compat import Callback

pytestmark = pytest.mark.one_keras

SAMPLES, BATCH = 64, 16  # 4 steps an epoch
FIRST_STAGE_ONLY = {"target_sparsity": 0.5, "begin_step": 3, "end_step": 6, "frequency": 3}
OPTIMIZERS = {
    "momentum": lambda keras: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam with decay": lambda keras: keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.02, decay_steps=4, decay_rate=0.5)
    ),
}


def net(keras, optimizer=None, sizes=(12, 16, 8, 4)):
    """An MLP whose dead neurons are zero, so that compaction has nothing to fold into biases."""
    model = nets.mlp(keras, sizes, use_bias=False)
    if optimizer:
        model.compile(optimizer, model.loss)
    return model


def shrunk(model, schedule, stages=2, epochs=4, samples=SAMPLES, **arguments):
    x, y = nets.data(model, samples)
    return tfap.fit_and_compact(
        model, schedule, x, y, stages=stages, epochs=epochs, batch_size=BATCH, shuffle=False, verbose=0,
        **arguments,
    )  # fmt: skip


def trained_without_compaction(model, schedule, epochs=4, criterion="activation_count", **of_callback):
    wrapped = tfap.prune(model, schedule, criterion, granularity="neuron", scope="local")
    callbacks = [tfap.UpdatePruningStep(**of_callback)]
    history = nets.fit(wrapped, epochs=epochs, batch_size=BATCH, samples=SAMPLES, callbacks=callbacks)
    return wrapped, history.history


def units(model):
    return [layer.units for layer in model.layers if hasattr(layer, "units")]


class Spy(Callback):
    """What is there at the begin and at the end of each stage."""

    def __init__(self, x):
        super().__init__()
        self.begins, self.ends, self.epochs, self._x = [], [], [], x

    def on_train_begin(self, logs=None):
        self.begins.append(self._state())

    def on_train_end(self, logs=None):
        self.ends.append(self._state())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)
        assert "sparsity" in logs

    def _state(self):
        layers = tfap.prunable_layers(self.model)
        return {
            "outputs": np.asarray(self.model(self._x, training=False)),
            "counts": [layer.counted() for layer in layers],
            "alive": [layer.mask.numpy().any(axis=0) for layer in layers],
            "steps": [int(layer.pruning_step.numpy()) for layer in layers],
        }


# -- the same training -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["momentum", pytest.param("adam with decay", marks=pytest.mark.smoke)])
@pytest.mark.slow
def test_losses_equal_those_without_compaction(keras_module, optimizer):
    model = net(keras_module, OPTIMIZERS[optimizer](keras_module))
    schedule = tfap.ConstantSparsity(**FIRST_STAGE_ONLY)
    wrapped, expected = trained_without_compaction(model, schedule)
    fit = shrunk(model, schedule)
    assert sum(units(fit.model)) < sum(units(model))
    assert fit.history["weights"][2] < fit.history["weights"][1]
    np.testing.assert_allclose(fit.history["loss"], expected["loss"], rtol=1e-5)
    compacted = tfap.compact(tfap.strip_pruning(wrapped))
    for ours, theirs in zip(fit.model.get_weights(), compacted.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", None])
def test_the_learning_rate_of_now_goes_on(keras_module, optimizer):
    """Also where compile() was given a name."""
    rates = []

    class Lower(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.learning_rate.assign(0.25)
            rates.append(float(self.model.optimizer.learning_rate.numpy()))

    shrunk(net(keras_module, optimizer), 0.5, stages=4, callbacks=[Lower()])
    assert rates == [pytest.approx(0.01 if optimizer else 0.05), 0.25, 0.25, 0.25]


def test_gradients_of_the_smaller_models(keras_module):
    model = net(keras_module)
    schedule = tfap.IterativeSparsity(0.25, updates=4, frequency=4)
    gradients = {"criterion": "gradient", "gradient_data": nets.data(model, SAMPLES), "gradient_steps": 1}
    _, expected = trained_without_compaction(model, schedule, **gradients)
    fit = shrunk(model, schedule, **gradients)
    assert units(fit.model) == [6, 3, 4]  # 0.75**4 of 16 and 8, rounded up
    np.testing.assert_allclose(fit.history["loss"], expected["loss"], rtol=1e-5)
    with pytest.raises(ValueError, match="needs gradients: pass .* gradient_data=.* to the function"):
        shrunk(model, schedule, criterion="gradient")


def test_counts_steps_and_outputs_are_carried_over(keras_module):
    model = net(keras_module)
    x, _ = nets.data(model)
    spy = Spy(x)
    shrunk(model, tfap.IterativeSparsity(0.3, updates=6, frequency=4), 3, 6, callbacks=spy)
    assert [state["steps"] for state in spy.begins] == [[0, 0], [8, 8], [16, 16]]
    assert spy.epochs == list(range(6))
    for before, after in zip(spy.ends, spy.begins[1:]):
        assert (
            sum(map(len, after["alive"])) == sum(map(sum, before["alive"])) < sum(map(len, before["alive"]))
        )
        for alive, old, new in zip(before["alive"], before["counts"], after["counts"]):
            np.testing.assert_array_equal(new.counts, old.counts[alive])
            assert new.seen == old.seen > 0
        np.testing.assert_allclose(after["outputs"], before["outputs"], atol=1e-6)


def test_masks_within_neurons_are_carried_over(keras_module):
    """Dead inputs of padded convolutions are pruned weights too."""
    model = nets.cnn(keras_module)
    x, _ = nets.data(model)
    spy = Spy(x)
    fit = shrunk(model, 0.5, 2, 4, callbacks=[spy])
    assert fit.model.count_params() < model.count_params()
    np.testing.assert_allclose(spy.begins[1]["outputs"], spy.ends[0]["outputs"], atol=1e-5)


def test_dropout_goes_on_where_it_was():
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = nets.compiled(
        keras,
        keras.Sequential(
            [
                layers.Input((12,)),
                layers.Dropout(0.3, seed=3),
                layers.Dense(16, "relu", use_bias=False),
                layers.Dense(4, "softmax"),
            ]
        ),
    )
    schedule = tfap.ConstantSparsity(**FIRST_STAGE_ONLY)
    _, expected = trained_without_compaction(model, schedule)
    np.testing.assert_allclose(shrunk(model, schedule).history["loss"], expected["loss"], rtol=1e-5)


def test_mixed_precision(keras_module):
    keras_module.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = net(keras_module, keras_module.optimizers.SGD(0.05, momentum=0.9))
        schedule = tfap.ConstantSparsity(**FIRST_STAGE_ONLY)
        _, expected = trained_without_compaction(model, schedule)
        fit = shrunk(model, schedule)
    finally:
        keras_module.mixed_precision.set_global_policy("float32")
    assert sum(units(fit.model)) < sum(units(model))
    np.testing.assert_allclose(fit.history["loss"], expected["loss"], rtol=5e-3)


def test_a_residual_net_with_normalization(keras_module):
    model = networks.small_resnet(keras_module, (8, 8, 3), 5, (8,))
    model = nets.compiled(keras_module, model, "mse")
    x, _ = nets.data(model, 32)
    spy = Spy(x)
    fit = shrunk(model, 0.6, 2, 4, samples=32, callbacks=spy, target="flops")
    scale = np.abs(spy.ends[0]["outputs"]).max()
    np.testing.assert_allclose(spy.begins[1]["outputs"], spy.ends[0]["outputs"], atol=1e-4 * scale)
    assert fit.model.count_params() < model.count_params()
    assert np.isfinite(fit.history["loss"]).all()


# -- the same pruning whatever the number of stages ------------------------------------------------


def ranked_net(keras):
    """All weights of a neuron are equal, so that its score does not depend on the inputs that are left."""
    layers = keras.layers
    stack = [layers.Conv2D(8, 3, activation="relu"), layers.Conv2D(16, 3, activation="relu")]
    stack += [layers.Conv2D(16, 1, activation="relu"), layers.Flatten(), layers.Dense(12, "relu")]
    model = keras.Sequential([layers.Input((6, 6, 3)), *stack, layers.Dense(12, "relu"), layers.Dense(3)])
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            scores = 0.01 * (1 + generator.permutation(len(bias)))
            layer.set_weights([np.broadcast_to(scores, kernel.shape), bias])
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return model


BY_EPOCH = tfap.AccuracyIntervals(0.6, prunes=4, begin=0.0, end=0.1, metric="loss")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="local"),
        pytest.param({"scope": "global"}, id="global"),
        pytest.param({"target": "flops"}, id="flops", marks=pytest.mark.slow),
        pytest.param({"target": "neurons"}, id="neurons", marks=pytest.mark.slow),
        pytest.param({"min_weights_per_layer": 700}, id="minimum", marks=pytest.mark.slow),
        pytest.param({"pruning_schedule": BY_EPOCH}, id="by epoch", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_the_number_of_stages_does_not_matter(keras_module, settings):
    schedule = settings.get("pruning_schedule", 0.6)
    options = {name: value for name, value in settings.items() if name != "pruning_schedule"}
    widths = []
    for stages in (1, 3):
        fit = shrunk(
            ranked_net(keras_module), schedule, stages, 3, samples=48, criterion="magnitude", **options
        )
        widths.append([layer.get_weights()[1].shape[0] for layer in fit.model.layers if layer.weights])
    assert widths[0] == widths[1]
    assert sum(widths[0]) < sum((8, 16, 16, 12, 12, 3))


# -- the same batches ------------------------------------------------------------------------------


class Batches:
    """A generator of batches of one number each, and the numbers that were drawn or trained on."""

    def __init__(self, keras):
        self.drawn, self.trained = [], []
        layers = keras.layers
        self.model = keras.Sequential([layers.Input((2,)), layers.Dense(8, "relu"), layers.Dense(1)])
        self.model.compile("sgd", lambda y, outputs: y + 0 * outputs, metrics=["mae"])

    def generator(self, end=100):
        for number in range(end):
            self.drawn.append(number)
            yield np.ones((4, 2)), np.full((4, 1), float(number))

    def on_batch_end(self, batch, logs):
        self.trained.append(round(float(logs["loss"]), 3))

    def fit(self, keras, stages, *data, **arguments):
        callback = keras.callbacks.LambdaCallback(on_batch_end=self.on_batch_end)
        return tfap.fit_and_compact(
            self.model, 0.5, *data, stages=stages, epochs=4, steps_per_epoch=1, verbose=0,
            callbacks=[callback], **arguments,
        )  # fmt: skip


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("kind", ["generator", "x=generator", "endless dataset"])
@pytest.mark.slow
def test_stages_see_the_batches_of_one_fit(keras_module, stages, kind):
    """One epoch is one step, so that its loss is the number of the batch."""
    batches = Batches(keras_module)
    if kind == "endless dataset":
        x, y = (np.concatenate(part) for part in zip(*batches.generator(5)))
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).repeat()
        batches.fit(keras_module, stages, dataset)
    else:
        given = {"x": batches.generator()} if kind == "x=generator" else {}
        batches.fit(keras_module, stages, *([] if given else [batches.generator()]), **given)
        assert batches.drawn == [0, 1, 2, 3]
    assert batches.trained == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_generator_that_ends_too_early(keras_module, caplog):
    batches = Batches(keras_module)
    fit = batches.fit(keras_module, 4, batches.generator(2))
    assert batches.trained == [0, 1] and fit.model.layers[0].units < 8
    assert "The data ended after 2 of 4 epochs" in caplog.text


def test_generators_that_cannot_be_divided(keras_module):
    batches = Batches(keras_module)
    with pytest.raises(ValueError, match="validation_data is a one-shot iterator"):
        batches.fit(keras_module, 2, batches.generator(), validation_data=batches.generator())
    with pytest.raises(ValueError, match="steps_per_epoch must be an integer"):
        tfap.fit_and_compact(batches.model, 0.5, batches.generator(), stages=2, epochs=2)
    with pytest.raises(ValueError, match="iterator without batches"):
        batches.fit(keras_module, 2, batches.generator(0))
    assert batches.drawn == []


# -- what comes back -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["weights", "neurons"])
def test_the_share_asked_for_is_gone(keras_module, target):
    """A neuron counts with the inputs that it had in the given model."""
    model = net(keras_module, sizes=(12, 64, 32, 4))
    fit = shrunk(model, 0.75, target=target)
    first, second, _ = units(fit.model)
    fan_in = (1, 1) if target == "neurons" else (12, 64)
    gone = (64 - first) * fan_in[0] + (32 - second) * fan_in[1]
    share = gone / (64 * fan_in[0] + 32 * fan_in[1])
    assert 0.75 - max(fan_in) / (64 * 12 + 32 * 64) - 1e-2 <= share <= 0.75
    assert not any(layer for layer in fit.model.layers if hasattr(layer, "pruning_step"))


def test_the_history_is_of_all_stages(keras_module):
    model = net(keras_module)
    x, y = nets.data(model)
    fit = shrunk(model, 0.6, stages=2, epochs=5, validation_data=(x, y))
    assert set(fit.history) == {"loss", "val_loss", "sparsity", "weights"}
    assert {len(values) for values in fit.history.values()} == {5}
    weights = fit.history["weights"]
    assert weights[0] == model.count_params() > weights[-1] >= fit.model.count_params()
    assert all(later <= before for before, later in itertools.pairwise(weights))
    assert fit.model.evaluate(x, y, verbose=0) == pytest.approx(fit.history["val_loss"][-1], rel=1e-4)


def test_initial_epoch(keras_module):
    model = net(keras_module)
    x, _ = nets.data(model)
    spy = Spy(x)
    fit = shrunk(model, 0.5, stages=2, epochs=6, initial_epoch=2, callbacks=spy)
    assert spy.epochs == [2, 3, 4, 5] and len(fit.history["loss"]) == 4
    assert sum(units(fit.model)) < sum(units(model))


@pytest.mark.smoke
def test_stopping_early_ends_all_stages(keras_module):
    stop = keras_module.callbacks.EarlyStopping("loss", min_delta=1e9)  # nothing is an improvement
    fit = shrunk(net(keras_module), 0.5, stages=3, epochs=9, callbacks=[stop])
    assert len(fit.history["loss"]) == 2


def test_one_stage_leaves_the_given_model_unchanged(keras_module):
    model = net(keras_module)
    before = model.get_weights()
    schedule = tfap.ConstantSparsity(**FIRST_STAGE_ONLY)
    _, expected = trained_without_compaction(model, schedule, epochs=2)
    np.testing.assert_array_equal(shrunk(model, schedule, 1, 2).history["loss"], expected["loss"])
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("name", ["legacy SGD", "Adafactor"])
def test_an_optimizer_that_cannot_tell_begins_anew(caplog, name):
    import tf_keras

    make = tf_keras.optimizers.legacy.SGD if name == "legacy SGD" else tf_keras.optimizers.Adafactor
    model = net(tf_keras, make(0.05))
    fit = shrunk(model, 0.5)
    assert sum(units(fit.model)) < sum(units(model))
    assert "The optimizer of the compacted model is reset" in caplog.text


# -- errors ----------------------------------------------------------------------------------------


def test_errors(keras_module):
    model = net(keras_module)
    for stages, error in ((0, ValueError), (5, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="stages must be an integer"):
            shrunk(model, 0.5, stages=stages)
    for callbacks in (tfap.UpdatePruningStep(), [tfap.UpdatePruningStep()]):
        with pytest.raises(ValueError, match="adds UpdatePruningStep itself"):
            shrunk(model, 0.5, callbacks=callbacks)
    with pytest.raises(ValueError, match="target must be one of"):
        shrunk(model, 0.5, target="bytes")
    plain = keras_module.Sequential([keras_module.layers.Input((4,)), keras_module.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"call compile\(\) on it first"):
        tfap.fit_and_compact(plain, 0.5, np.ones((4, 4)), np.ones((4, 2)))
