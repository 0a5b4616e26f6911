import functools

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap

pytestmark = pytest.mark.one_keras

EVERY_STEP = tfap.PolynomialDecay(0.0, 0.8, 1, 9, frequency=1)


def mean_of(keras):
    """The mean of positive outputs, as a loss."""
    return functools.partial(keras.losses.MeanAbsoluteError(), 0.0)


def test_sparsity_is_in_the_logs(keras_module, capsys):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.75, granularity="weight")
    x, y = nets.data(wrapped)
    history = wrapped.fit(x, y, epochs=5, batch_size=16, verbose=2, callbacks=[tfap.UpdatePruningStep()])
    found = history.history["sparsity"]
    assert found == sorted(found) and found[0] < found[-1] == 0.75
    assert "sparsity: 0.75" in capsys.readouterr().out


@pytest.mark.smoke
def test_pruned_weights_are_zero_after_every_step(keras_module):
    class Watch(keras_module.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            for layer in tfap.prunable_layers(self.model):
                pruned = layer.mask.numpy() == 0
                assert not layer.layer.get_weights()[0][pruned].any()
                self.seen += int(pruned.sum())

    model = nets.mlp(keras_module)
    model.compile(keras_module.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1), model.loss)
    watch = Watch()
    nets.fit(tfap.prune(model, EVERY_STEP), epochs=4, callbacks=[watch, tfap.UpdatePruningStep()])
    assert watch.seen > 0


@pytest.mark.smoke
def test_forgetting_it_is_an_error_at_the_first_step(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5)
    before = wrapped.get_weights()
    with pytest.raises(RuntimeError, match=r"callbacks=\[tfap.UpdatePruningStep\(\)\]"):
        nets.fit(wrapped, callbacks=[])
    for ours, theirs in zip(wrapped.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)
    nets.fit(wrapped, epochs=4)  # and nothing is lost
    assert nets.pruned_weights(wrapped) > 0
    with pytest.raises(RuntimeError, match="UpdatePruningStep"):
        nets.fit(wrapped, callbacks=[])
    nets.fit(wrapped)


@pytest.mark.parametrize("setting", [{"run_eagerly": True}, {"jit_compile": True}], ids=str)
@pytest.mark.smoke
def test_forgetting_it_in_eager_and_compiled_mode(keras_module, setting):
    model = nets.mlp(keras_module)
    model.compile("sgd", model.loss, **setting)
    wrapped = tfap.prune(model, 0.5)
    with pytest.raises(RuntimeError, match="UpdatePruningStep"):
        nets.fit(wrapped, callbacks=[])
    assert nets.fit(wrapped, epochs=4).history["sparsity"][-1] > 0


def test_several_fits_go_on_where_the_last_one_ended(keras_module):
    def counts_and_masks(model):
        return [
            (int(layer.pruning_step.numpy()), layer.activation_counts.numpy(), layer.mask.numpy())
            for layer in tfap.prunable_layers(model)
        ]

    weights = nets.mlp(keras_module).get_weights()
    results = []
    for fits in ([4], [1, 2, 1]):
        model = nets.mlp(keras_module)
        model.set_weights(weights)
        wrapped = tfap.prune(model, EVERY_STEP)
        for epochs in fits:
            nets.fit(wrapped, epochs=epochs)
        results.append(counts_and_masks(wrapped))
    for (step, counts, mask), (same_step, same_counts, same_mask) in zip(*results):
        assert step == same_step == 16
        np.testing.assert_array_equal(counts, same_counts)
        np.testing.assert_array_equal(mask, same_mask)
    assert nets.pruned_weights(wrapped) > 0


@pytest.mark.not_on_torch(reason="Keras takes one step per execution there")
@pytest.mark.parametrize("steps_per_execution", [2, pytest.param(3, marks=pytest.mark.smoke), 4])
def test_steps_per_execution(keras_module, steps_per_execution):
    model = nets.mlp(keras_module)
    model.compile("sgd", model.loss, steps_per_execution=steps_per_execution)
    # Due at steps 3, 6, ...: within an execution or at its end
    schedule = tfap.IterativeSparsity(0.5, updates=4, frequency=3)
    wrapped = tfap.prune(model, schedule, granularity="weight")
    nets.fit(wrapped, epochs=4)
    assert int(tfap.prunable_layers(wrapped)[0].pruning_step.numpy()) == 16
    assert nets.pruned_weights(wrapped) == round((1 - 0.5**4) * nets.prunable_weights(wrapped))


def test_an_update_happens_at_its_step(keras_module):
    class Sparsity(keras_module.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.after = []

        def on_train_batch_end(self, batch, logs=None):
            self.after.append(nets.pruned_weights(self.model) / nets.prunable_weights(self.model))

    wrapped = tfap.prune(nets.mlp(keras_module), tfap.ConstantSparsity(0.5, 5, frequency=1), "magnitude")
    watch = Sparsity()
    nets.fit(wrapped, epochs=2, callbacks=[tfap.UpdatePruningStep(), watch])
    assert watch.after == [0.0] * 4 + [0.5] * 4


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras 3's way to learn the length
@pytest.mark.smoke
def test_a_generator_of_unknown_length(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5, granularity="weight")
    x, y = nets.data(wrapped)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16).filter(lambda *_: True)
    with pytest.raises(ValueError, match="total_steps"):
        wrapped.fit(batches, epochs=3, verbose=0, shuffle=False, callbacks=[tfap.UpdatePruningStep()])
    callback = tfap.UpdatePruningStep(total_steps=12)
    history = wrapped.fit(batches, epochs=3, verbose=0, shuffle=False, callbacks=[callback])
    assert history.history["sparsity"][-1] == 0.5


def test_frozen_kernels_are_masked_too(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), EVERY_STEP, "magnitude")
    wrapped.get_layer("hidden_0").trainable = False
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    before = wrapped.get_layer("hidden_0").layer.get_weights()[0]
    nets.fit(wrapped, epochs=3)
    mask = nets.masks(wrapped)["hidden_0"]
    assert (mask == 0).any()
    np.testing.assert_array_equal(wrapped.get_layer("hidden_0").layer.get_weights()[0], before * mask)


@pytest.mark.smoke
def test_the_users_constraint_stays(keras_module):
    layers = keras_module.layers
    dense = layers.Dense(
        8, activation="relu", kernel_constraint=keras_module.constraints.MaxNorm(0.1, axis=0)
    )
    model = keras_module.Sequential([layers.Input((4,)), dense, layers.Dense(3, activation="softmax")])
    wrapped = tfap.prune(nets.compiled(keras_module, model), EVERY_STEP, granularity="weight")
    nets.fit(wrapped, epochs=3)
    kernel = tfap.prunable_layers(wrapped)[0].layer.get_weights()[0]
    assert np.linalg.norm(kernel, axis=0).max() <= 0.1 + 1e-6
    assert (kernel == 0).sum() == nets.pruned_weights(wrapped) > 0
    assert tfap.strip_pruning(wrapped).layers[0].kernel_constraint.max_value == 0.1


def test_a_batch_is_a_step_however_often_its_optimizer_runs(keras_module):
    """As in adversarial training, here in eager mode."""
    model = tfap.prune(nets.mlp(keras_module), EVERY_STEP)
    callback = tfap.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    x, _ = nets.data(model)
    for batch in range(3):
        for _ in range(2):
            nets.gradient_step(keras_module, model, x, mean_of(keras_module))
        callback.on_train_batch_end(batch)
    (wrapper, *_) = tfap.prunable_layers(model)
    assert wrapper.pruning_step.numpy() == 3 and wrapper.counted().seen == 6 * len(x)


def test_a_training_loop_of_ones_own(keras_module):
    """Plain calls, with and without on_epoch_begin, prune as fit does."""
    weights = nets.mlp(keras_module).get_weights()

    def train(loop):
        model = nets.mlp(keras_module)
        model.set_weights(weights)
        wrapped = tfap.prune(model, EVERY_STEP)
        loop(wrapped, *nets.data(wrapped))
        return nets.masks(wrapped)

    def fit(model, x, y):
        nets.fit(model, epochs=3)

    def own_loop(model, x, y):
        callback = tfap.UpdatePruningStep()
        callback.set_model(model)
        callback.on_train_begin()
        for epoch in range(3):
            for batch in range(4):
                rows = slice(16 * batch, 16 * batch + 16)
                loss = keras_module.losses.SparseCategoricalCrossentropy()
                nets.gradient_step(keras_module, model, x[rows], functools.partial(loss, y[rows]))
                callback.on_train_batch_end(batch)
            callback.on_epoch_end(epoch)
        callback.on_train_end()

    expected = train(fit)
    for name, mask in train(own_loop).items():
        np.testing.assert_array_equal(mask, expected[name])
        assert (mask == 0).any()


def test_nan_weights_stop_training_with_the_layers_name_and_the_old_masks(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5, "magnitude")
    tfap.update_masks(wrapped, 0.25)
    before = nets.masks(wrapped)
    layer = wrapped.get_layer("hidden_1").layer
    layer.set_weights([np.full((16, 8), np.nan, "float32"), np.zeros(8)])
    with pytest.raises(ValueError, match="'hidden_1' contain NaN"):
        tfap.update_masks(wrapped, 0.5)
    for name, mask in nets.masks(wrapped).items():
        np.testing.assert_array_equal(mask, before[name])


def test_initial_epoch_does_not_shorten_the_schedule(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.75, granularity="weight")
    assert nets.fit(wrapped, epochs=12, initial_epoch=8).history["sparsity"][-1] == 0.75


def test_a_fit_that_was_stopped_early_is_made_up_for_by_the_next(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.75, granularity="weight")

    class Stop(keras_module.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    first = nets.fit(wrapped, epochs=20, callbacks=[tfap.UpdatePruningStep(), Stop()]).history["sparsity"]
    assert 0 < first[-1] < 0.75 and len(first) == 3
    assert nets.fit(wrapped, epochs=3).history["sparsity"][-1] == 0.75


def test_a_schedule_that_never_comes_is_a_warning(keras_module, caplog):
    nets.fit(tfap.prune(nets.mlp(keras_module), tfap.ConstantSparsity(0.5, 0, frequency=100)))
    assert "Nothing was pruned: the schedule's first update comes after step 4" in caplog.text


@pytest.mark.smoke
def test_a_shared_layer_takes_one_step_in_eager_mode_too(keras_module):
    layers = keras_module.layers
    shared, relu = layers.Dense(3, name="shared"), layers.ReLU(name="relu")
    inputs = keras_module.Input((3,))
    model = keras_module.Model(inputs, layers.Dense(1)(relu(shared(relu(shared(inputs))))))
    model.compile("sgd", "mse", run_eagerly=True)
    wrapped = tfap.prune(model, 0.5, granularity="weight", sample_every=2)
    nets.fit(wrapped, epochs=2)
    (wrapper,) = tfap.prunable_layers(wrapped)
    assert int(wrapper.pruning_step.numpy()) == 8
    assert int(wrapper.activations_seen.numpy()) == 2 * 4 * 16  # two calls in every second of 8 steps


@pytest.mark.parametrize(
    "average",
    [
        {"use_ema": True},
        pytest.param({"use_ema": True, "ema_overwrite_frequency": 3}, marks=pytest.mark.smoke),
    ],
    ids=str,
)
def test_a_moving_average_brings_no_pruned_weight_back(keras_module, average):
    model = nets.mlp(keras_module)
    model.compile(keras_module.optimizers.Adam(0.01, **average), model.loss)
    wrapped = tfap.prune(model, EVERY_STEP)
    nets.fit(wrapped, epochs=4)
    for layer in tfap.prunable_layers(wrapped):
        assert not layer.layer.get_weights()[0][layer.mask.numpy() == 0].any()
    assert nets.pruned_weights(wrapped) > 0


@pytest.mark.smoke
def test_layers_called_for_inference_only_are_left_alone(keras_module):
    """As in transfer learning: the base is called with training=False."""
    layers = keras_module.layers
    base_in = keras_module.Input((4,))
    base = keras_module.Model(base_in, layers.Dense(4, activation="relu", name="dense")(base_in), name="base")
    inputs = keras_module.Input((4,))
    x = layers.Dense(8, activation="relu", name="head")(base(inputs, training=False))
    model = keras_module.Model(inputs, layers.Dense(2)(x))
    wrapped = tfap.prune(nets.compiled(keras_module, model, "mse"), 0.5, granularity="weight")
    history = nets.fit(wrapped, epochs=6)
    assert history.history["sparsity"][-1] == 0.5
    assert (nets.masks(wrapped)["head"] == 0).any()


@pytest.mark.not_on_torch(reason="Keras takes one step per execution there")
def test_frozen_kernels_step_in_eager_executions_of_several_steps(keras_module):
    """No constraint is called, but the output layer goes on learning."""
    model = tfap.prune(nets.mlp(keras_module), EVERY_STEP, "magnitude")
    for wrapper in tfap.prunable_layers(model):
        wrapper.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True, steps_per_execution=2)
    nets.fit(model, epochs=2)
    assert [int(wrapper.pruning_step.numpy()) for wrapper in tfap.prunable_layers(model)] == [8, 8]


def test_two_models_trained_in_turns_do_not_meet(keras_module):
    """The second one trains between two calls of a layer that the first one has twice in a step."""
    layers = keras_module.layers
    shared, other = layers.Dense(3, "relu", name="shared"), tfap.prune(nets.mlp(keras_module), EVERY_STEP)

    class Between(layers.Layer):
        def call(self, inputs, training=None):
            if training and len(turns) < 16:
                nets.gradient_step(keras_module, other, nets.data(other, 4)[0], mean_of(keras_module))
                turns.append(inputs)
            return inputs

    turns = []
    inputs = keras_module.Input((3,))
    model = keras_module.Model(inputs, layers.Dense(1)(shared(Between()(shared(inputs)))))
    steps = 1 if keras_module.backend.backend() == "torch" else 2  # in an execution
    model.compile("sgd", "mse", run_eagerly=True, steps_per_execution=steps)
    other.compile("sgd", other.loss, run_eagerly=True)
    model = tfap.prune(model, EVERY_STEP, "magnitude")
    callback = tfap.UpdatePruningStep()
    callback.set_model(other)
    callback.on_train_begin()
    nets.fit(model, epochs=2)
    assert len(turns) == 8
    assert int(tfap.prunable_layers(model)[0].pruning_step.numpy()) == 8


@pytest.mark.tensorflow_only(reason="copies of tf_keras's layers")
def test_a_copied_layer_is_in_no_fit():
    import copy

    import tf_keras

    class Copy(tf_keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            wrapper = tfap.prunable_layers(self.model)[0]
            assert wrapper.session.running and not copy.deepcopy(wrapper.session).running

    model = tfap.prune(nets.mlp(tf_keras), EVERY_STEP)
    nets.fit(model, callbacks=[tfap.UpdatePruningStep(), Copy()])
    assert not tfap.prunable_layers(model)[0].session.running
