import math

import nets
import numpy as np
import pytest
from keras import ops

import tfap
from tfap.graph.calls import Graph

pytestmark = pytest.mark.one_keras


def outputs(model, x):
    return np.asarray(model(x, training=False))


@pytest.mark.parametrize("build", [nets.mlp, pytest.param(nets.cnn, marks=pytest.mark.smoke), nets.nested])
def test_prune_changes_neither_the_model_nor_its_outputs(keras_module, build):
    model = build(keras_module)
    x, _ = nets.data(model)
    config, weights, before = model.get_config(), model.get_weights(), outputs(model, x)
    wrapped = tfap.prune(model, 0.5)
    assert len(tfap.prunable_layers(wrapped)) == len(tfap.plan(model).pruned) > 1
    np.testing.assert_array_equal(outputs(wrapped, x), before)

    nets.fit(wrapped, epochs=4)
    assert nets.pruned_weights(wrapped) > 0
    assert model.get_config() == config
    for ours, theirs in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(outputs(model, x), before)


@pytest.mark.parametrize(
    "build, criterion",
    [
        (nets.mlp, "magnitude"),
        (nets.cnn, "activation_count"),
        pytest.param(nets.nested, "activation_count", marks=pytest.mark.smoke),
        pytest.param(nets.mlp, "activation_count", marks=pytest.mark.slow),
        *(pytest.param(build, "magnitude", marks=pytest.mark.slow) for build in (nets.cnn, nets.nested)),
    ],
)
def test_strip_pruning_gives_a_plain_model_with_the_same_outputs(keras_module, build, criterion):
    wrapped = tfap.prune(build(keras_module), 0.6, criterion)
    nets.fit(wrapped, epochs=4)
    x, _ = nets.data(wrapped)
    plain = tfap.strip_pruning(wrapped)
    np.testing.assert_array_equal(outputs(plain, x), outputs(wrapped, x))
    modules = {type(layer).__module__.split(".")[0] for layer in plain._flatten_layers()}
    assert modules == {keras_module.__name__}
    zeros = sum(int((weight == 0).sum()) for weight in plain.get_weights() if weight.ndim > 1)
    assert zeros == nets.pruned_weights(wrapped) > 0
    again = tfap.strip_pruning(plain)  # idempotent
    for first, second in zip(plain.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(first, second)


@pytest.mark.smoke
def test_names_compile_settings_and_inputs_stay(keras_module):
    layers = keras_module.layers
    left, right = keras_module.Input((4,)), keras_module.Input((3,), name="right")
    x = layers.Dense(5, activation="relu", name="dense")(layers.Concatenate()([left, right]))
    model = keras_module.Model([left, right], [layers.Dense(1, name=name)(x) for name in ("a", "b")])
    optimizer = keras_module.optimizers.Adam(0.123)
    model.compile(
        optimizer, {"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 2.0}, metrics={"b": ["mse"]}
    )
    for made in (wrapped := tfap.prune(model, 0.5), tfap.strip_pruning(wrapped)):
        assert [layer.name for layer in made.layers] == [layer.name for layer in model.layers]
        assert made.output_names == model.output_names and made.name == model.name
        assert made.optimizer is not optimizer
        assert float(made.optimizer.learning_rate) == pytest.approx(0.123)
        inputs = [np.ones((8, 4), "float32"), np.ones((8, 3), "float32")]
        targets = {"a": np.ones((8, 1), "float32"), "b": np.zeros((8, 1), "float32")}
        expected = model.evaluate(inputs, targets, verbose=0, return_dict=True)
        assert made.evaluate(inputs, targets, verbose=0, return_dict=True) == pytest.approx(expected)


def test_an_uncompiled_model_stays_uncompiled(keras_module):
    model = keras_module.Sequential([keras_module.layers.Input((4,)), keras_module.layers.Dense(3)])
    wrapped = tfap.prune(model, 0.5, "magnitude", include=["dense"])
    assert getattr(wrapped, "optimizer", None) is None


def test_a_loss_that_is_not_registered_goes_along(keras_module):
    def my_loss(target, prediction):
        return keras_module.losses.mean_squared_error(target, prediction)

    model = nets.mlp(keras_module)
    model.compile("sgd", my_loss)
    assert tfap.prune(model, 0.5).loss is my_loss


def test_include_and_skip(keras_module):
    def pruned(**choice):
        return [row.path for row in tfap.plan(nets.mlp(keras_module), criterion="magnitude", **choice).pruned]

    assert pruned() == ["hidden_0", "hidden_1"]
    assert pruned(include=["output"]) == ["hidden_0", "hidden_1", "output"]
    assert pruned(include=lambda layer: layer.units == 4, skip="hidden_0") == ["hidden_1", "output"]
    assert pruned(skip=[lambda layer: layer.name.endswith("1")]) == ["hidden_0"]


def test_what_a_schedule_gives_is_a_sparsity(keras_module):
    model = tfap.prune(nets.mlp(keras_module), 0.5, "magnitude")
    _, sparsity = tfap.ConstantSparsity(0.25, begin_step=0)(0)
    tfap.update_masks(model, sparsity)
    tfap.update_masks(model, np.array(0.5))
    assert nets.pruned_weights(model) == round(0.5 * nets.prunable_weights(model))


def test_a_nested_model_means_all_layers_in_it(keras_module):
    def pruned(**choice):
        return [row.path for row in tfap.plan(model, criterion="magnitude", **choice).pruned]

    model = nets.nested(keras_module)
    middle, inner = model.get_layer("middle"), model.get_layer("middle").get_layer("inner")
    assert pruned() == ["dense", "middle/inner/dense", "middle/dense"]
    for inner_one in ("inner", "middle/inner", inner):
        assert pruned(skip=inner_one) == ["dense", "middle/dense"]
    assert pruned(skip=["middle"]) == pruned(skip=middle) == ["dense"]
    assert pruned(skip="dense", include=[*model.layers]) == ["output"]  # inputs have nothing to prune
    classifier = keras_module.Sequential([keras_module.Input((6,)), model])
    found = tfap.plan(classifier, criterion="magnitude", include=model.name, skip="middle").pruned
    assert [row.path.removeprefix(f"{model.name}/") for row in found] == ["dense", "output"]


@pytest.mark.smoke
def test_what_cannot_be_pruned_is_skipped_with_its_reason(keras_module):
    class Custom(keras_module.layers.Layer):
        def __init__(self, secret):
            super().__init__(name="custom")
            self.secret = secret

        def build(self, shape):
            self.w = self.add_weight(name="w", shape=(shape[-1],), initializer="ones")
            super().build(shape)

        def call(self, inputs):
            return inputs * self.w

    class Tied(keras_module.layers.Dense):
        def __init__(self, owner, **kwargs):  # no config holds an owner
            super().__init__(8, activation="relu", name="tied", **kwargs)
            self.owner = owner

    layers = keras_module.layers
    custom = Custom(object())
    model = keras_module.Sequential(
        [
            layers.Input((6, 4)),
            layers.RNN(layers.LSTMCell(5), name="lstm"),
            layers.Dense(8, activation="relu", name="dense"),
            custom,
            Tied(owner=object()),
            layers.Dense(2, name="linear"),
            layers.Dense(2, name="output"),
        ]
    )
    reasons = {row.path: row.reason for row in tfap.plan(model)}
    assert reasons == {
        "lstm": "its neurons are not the channels of the layer's output, so tfap cannot count them",
        "dense": "its channels are not removable: it is consumed by the custom layer 'custom' (Custom), "
        "which tfap does not analyze",
        "custom": "Custom layers have no kernel that tfap knows; it cannot be rebuilt from its config, "
        "so it is shared with the given model",
        "tied": "it cannot be rebuilt from its config, so it is shared with the given model",
        "linear": "no activation follows it before the Dense 'output'",
        "output": "it is an output layer: name it in include to prune it",
    }
    wrapped = tfap.prune(model, 0.5)
    assert wrapped.get_layer("custom") is custom
    x = np.ones((2, 6, 4), "float32")
    np.testing.assert_array_equal(outputs(wrapped, x), outputs(model, x))


def test_the_plan_is_a_table(keras_module):
    text = str(tfap.plan(nets.cnn(keras_module)))
    for word in ("conv_b", "3x3x6x6", "relu_b", "skip", "an output layer: name it in include"):
        assert word in text


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9999, "all but one"])
def test_exactly_the_number_asked_for(keras_module, scope, sparsity):
    wrapped = tfap.prune(nets.mlp(keras_module, (40, 50, 30, 3)), 0.5, "magnitude", scope)
    sizes = [mask.size for mask in nets.masks(wrapped).values()]
    if sparsity == "all but one":
        total = sum(sizes) if scope == "global" else max(sizes)
        sparsity = (total - 1) / total
    tfap.update_masks(wrapped, sparsity)
    if scope == "global":  # every kernel keeps a weight
        assert nets.pruned_weights(wrapped) == min(round(sparsity * sum(sizes)), sum(sizes) - len(sizes))
    else:
        pruned = [int((mask == 0).sum()) for mask in nets.masks(wrapped).values()]
        assert pruned == [min(round(sparsity * size), size - 1) for size in sizes]
    for layer in tfap.prunable_layers(wrapped):
        np.testing.assert_array_equal(layer.layer.get_weights()[0][layer.mask.numpy() == 0], 0)


@pytest.mark.parametrize("scope", ["global", "local"])
def test_whole_neurons_are_the_most_that_do_not_exceed_it(keras_module, scope):
    wrapped = tfap.prune(nets.mlp(keras_module, (40, 50, 30, 3)), 0.5, "magnitude", scope, "neuron")
    tfap.update_masks(wrapped, 0.7)
    widths = {"hidden_0": 40, "hidden_1": 50}  # weights a neuron
    pruned = {name: int((mask == 0).sum()) for name, mask in nets.masks(wrapped).items()}
    for name, mask in nets.masks(wrapped).items():
        assert set(mask.sum(axis=0)) == {0, widths[name]}
        if scope == "local":
            assert pruned[name] == math.floor(0.7 * mask.size / widths[name]) * widths[name]
    assert 0.7 * 3500 - 50 < sum(pruned.values()) <= 0.7 * 3500


def test_pruned_stays_pruned(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5, "magnitude")
    tfap.update_masks(wrapped, 0.6)
    before = nets.masks(wrapped)
    for layer in tfap.prunable_layers(wrapped):  # what was pruned would now be the largest
        layer.layer.set_weights([np.where(layer.mask.numpy() == 0, 9, 1), layer.layer.get_weights()[1]])
    tfap.update_masks(wrapped, 0.3)
    for name, mask in nets.masks(wrapped).items():
        np.testing.assert_array_equal(mask, before[name])
    tfap.update_masks(wrapped, 0.9)
    assert all((mask <= before[name]).all() for name, mask in nets.masks(wrapped).items())


def test_min_weights_per_layer(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module), 0.5, "magnitude", min_weights_per_layer=7)
    tfap.update_masks(wrapped, 0.99)
    assert [int(mask.sum()) for mask in nets.masks(wrapped).values()] == [7, 7]


@pytest.mark.smoke
def test_one_layer_and_a_list(keras_module):
    layers = keras_module.layers
    dense = layers.Dense(8, activation="relu", name="dense")
    wrapped = tfap.prune(dense, tfap.ConstantSparsity(0.5, 1, frequency=1), granularity="weight")
    assert isinstance(wrapped, tfap.layers.PruneByActivation)
    assert wrapped.layer is not dense and wrapped.name == "dense" and not dense.built

    listed = [layers.Dense(8, activation="relu", name="a"), layers.Dropout(0.5), layers.Dense(2, name="b")]
    first, dropout, last = tfap.prune(listed, 0.5)
    assert isinstance(first, tfap.layers.PruneByActivation)
    assert dropout is listed[1] and last is listed[2]
    assert isinstance(tfap.prune(listed, 0.5, "magnitude")[2], tfap.layers.PruneByActivation)
    recurrent = layers.RNN(layers.LSTMCell(3))
    assert tfap.prune([recurrent, listed[0]], 0.5)[0] is recurrent  # skipped: nothing to count

    model = nets.compiled(keras_module, keras_module.Sequential([layers.Input((4,)), wrapped, listed[2]]))
    nets.fit(model)
    assert nets.pruned_weights(model) == 16


def test_a_built_layer_brings_its_weights(keras_module):
    dense = keras_module.layers.Dense(8, activation="relu")
    x = np.ones((2, 4), "float32")
    expected = np.asarray(dense(x))
    np.testing.assert_array_equal(np.asarray(tfap.prune(dense, 0.5)(x)), expected)


@pytest.mark.smoke
def test_layers_of_a_subclassed_model_are_wrapped_by_hand(keras_module):
    model = nets.subclassed(keras_module, tfap.prune(keras_module.layers.Dense(8, activation="relu"), 0.5))
    x, y = np.random.default_rng(0).normal(size=(64, 4)).astype("float32"), np.zeros(64)
    history = model.fit(x, y, epochs=6, batch_size=16, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    assert history.history["sparsity"][-1] == 0.5
    assert (model.hidden.layer.get_weights()[0] == 0).sum() == 16


def test_a_subclassed_model_that_hides_training_from_its_layers():
    """Keras 3 tells layers about training only through the model's own `training` argument."""
    import keras

    class Hides(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = tfap.prune(keras.layers.Dense(8, activation="relu"), 0.5)

        def call(self, inputs):
            return self.hidden(inputs)

    model = nets.compiled(keras, Hides(), "mse")
    with pytest.raises(RuntimeError, match="Give its call\\(\\) a `training` argument"):
        model.fit(np.ones((8, 4)), np.ones((8, 8)), verbose=0, callbacks=[tfap.UpdatePruningStep()])


@pytest.mark.smoke
def test_a_models_own_class_stays(keras_module):
    class Custom(keras_module.Model):
        def train_step(self, data):
            return super().train_step(data)

    inputs = keras_module.Input((4,))
    outputs = keras_module.layers.Dense(2)(keras_module.layers.Dense(4, activation="relu")(inputs))
    model = nets.compiled(keras_module, Custom(inputs, outputs), "mse")
    assert type(tfap.prune(model, 0.5)) is type(model)


def test_prune_scope_holds_the_wrappers_names(keras_module):
    with tfap.prune_scope():
        for name in ("PruneByActivation", "CountActivations", "PruneLowMagnitude"):
            assert keras_module.saving.get_registered_object(name) is not None
    assert keras_module.saving.get_registered_object("PruneByActivation") is None


def test_prune_scope_hides_no_name_of_an_outer_scope(keras_module):
    class Mine(keras_module.layers.Dense):
        pass

    known = keras_module.saving.get_registered_object
    with keras_module.saving.custom_object_scope({"Mine": Mine}):
        with tfap.prune_scope(), tfap.prune_scope():
            assert known("Mine") is Mine and known("PruneByActivation") is not None
        assert known("Mine") is Mine and known("PruneByActivation") is None
        # tfap opens such a scope whenever it copies a layer.
        model = keras_module.Sequential([keras_module.Input((4,)), Mine(4), keras_module.layers.Dense(2)])
        assert type(tfap.strip_pruning(tfap.prune(model, 0.5, "magnitude")).layers[0]) is Mine
    assert known("Mine") is None


@pytest.mark.smoke
def test_a_layer_shared_by_nested_models_is_one_layer(keras_module):
    layers = keras_module.layers
    shared = layers.Dense(6, activation="relu", name="shared")
    parts = []
    for name in ("first", "second"):
        inputs = keras_module.Input((6,))
        parts.append(keras_module.Model(inputs, shared(inputs), name=name))
    inputs = keras_module.Input((6,))
    x = layers.Dense(6, activation="relu", name="between")(parts[0](inputs))
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(parts[1](x)))
    assert [row.path for row in tfap.plan(model)] == ["first/shared", "between", "output"]
    wrapped = tfap.prune(nets.compiled(keras_module, model, "mse"), 0.5, "magnitude")
    assert len(tfap.prunable_layers(wrapped)) == 2
    tfap.update_masks(wrapped, 0.5)
    assert nets.pruned_weights(wrapped) == 36
    smaller = tfap.compact(tfap.strip_pruning(wrapped))
    np.testing.assert_allclose(
        outputs(smaller, np.ones((2, 6))), outputs(wrapped, np.ones((2, 6))), rtol=1e-5
    )


@pytest.mark.smoke
def test_what_preprocessing_layers_learned_stays(keras_module):
    layers = keras_module.layers
    x = np.random.default_rng(0).normal(3, 2, size=(50, 4)).astype("float32")
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = keras_module.Sequential(
        [layers.Input((4,)), normalization, layers.Dense(3, activation="relu"), layers.Dense(2)]
    )
    wrapped = tfap.prune(model, 0.5)
    np.testing.assert_array_equal(outputs(wrapped, x), outputs(model, x))
    np.testing.assert_array_equal(outputs(tfap.strip_pruning(wrapped), x), outputs(model, x))


def test_a_layer_from_a_module_of_the_users_called_preprocessing_is_copied(keras_module):
    class Scale(keras_module.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(name="w", shape=(shape[-1],), initializer="ones")

        def call(self, x):
            return x * self.w

    Scale.__module__ = "project.preprocessing"
    layers = keras_module.layers
    stack = [layers.Input((4,)), Scale(), layers.Dense(6, activation="relu"), layers.Dense(2, name="output")]
    model = nets.compiled(keras_module, keras_module.Sequential(stack), "mse")
    wrapped = tfap.prune(model, 0.5)
    nets.fit(wrapped)
    assert (model.get_weights()[0] == 1).all() and (wrapped.get_weights()[0] != 1).all()


@pytest.mark.parametrize("rebuilds", [False, pytest.param(True, marks=pytest.mark.smoke)])
def test_tied_layers_stay_tied(keras_module, caplog, rebuilds):
    """By a layer that holds another of the model; copies of the two would have two tables."""
    saving = keras_module.saving

    class Tied(keras_module.layers.Layer):
        def __init__(self, embedding, **kwargs):
            super().__init__(**kwargs)
            self.embedding = embedding

        def call(self, x):
            return ops.matmul(x, ops.transpose(ops.convert_to_tensor(self.embedding.embeddings)))

        def get_config(self):
            if not rebuilds:
                raise NotImplementedError
            return {"name": self.name, "embedding": saving.serialize_keras_object(self.embedding)}

        @classmethod
        def from_config(cls, config):
            return cls(saving.deserialize_keras_object(config.pop("embedding")), **config)

    layers = keras_module.layers
    embedding, inputs = layers.Embedding(9, 8, name="embedding"), keras_module.Input((5,), dtype="int32")
    x = layers.Dense(8, activation="relu", name="dense")(embedding(inputs))
    model = nets.compiled(keras_module, keras_module.Model(inputs, Tied(embedding, name="tied")(x)), "mse")
    reasons = {row.path: row.reason for row in tfap.plan(model, criterion="magnitude")}
    assert "the layer 'tied' holds it too, so it is shared" in reasons["embedding"]
    assert "it holds the layer 'embedding', so it is shared" in reasons["tied"]
    wrapped = tfap.prune(model, 0.5, "magnitude")
    assert "The layer 'embedding' is shared with the given model, so training changes both" in caplog.text
    numbers = np.random.default_rng(0).integers(0, 9, (16, 5))
    wrapped.fit(numbers, np.ones((16, 5, 9)), epochs=3, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    assert nets.pruned_weights(wrapped) == 32
    for plain in (tfap.strip_pruning(wrapped), tfap.compact(tfap.strip_pruning(wrapped))):
        assert plain.count_params() == model.count_params() == 9 * 8 + 8 * 8 + 8
        np.testing.assert_allclose(outputs(plain, numbers), outputs(wrapped, numbers), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'embedding' cannot be trained in cycles: the layer 'tied' holds"):
        tfap.prune_iteratively(model, nets.fit, cycles=1)


def test_an_activation_that_another_layer_holds_is_counted(keras_module):
    """Without weights there is nothing to tie."""

    class Holding(keras_module.layers.Layer):
        def __init__(self, activation):
            super().__init__()
            self.activation = activation

        def call(self, x):
            return self.activation(x)

    layers, relu = keras_module.layers, keras_module.layers.ReLU(name="relu")
    inputs = keras_module.Input((4,))
    x = Holding(relu)(relu(layers.Dense(6, name="hidden")(inputs)))
    model = nets.compiled(keras_module, keras_module.Model(inputs, layers.Dense(2, name="output")(x)), "mse")
    wrapped = tfap.prune(model, 0.5, granularity="weight")
    nets.fit(wrapped, epochs=3)
    assert nets.pruned_weights(wrapped) == 12


@pytest.mark.smoke
def test_a_layer_that_never_trains(keras_module):
    """tf_keras keeps to training=False; in Keras 3 the training of the whole model goes before."""
    layers = keras_module.layers
    frozen = [layers.Input((4,)), layers.Dense(6, activation="relu", name="frozen")]
    inputs = keras_module.Input((4,))
    x = keras_module.Sequential(frozen, name="backbone")(inputs, training=False)
    x = layers.Dense(5, activation="relu", name="head")(x)
    model = nets.compiled(keras_module, keras_module.Model(inputs, layers.Dense(2, name="output")(x)), "mse")
    wrapped = tfap.prune(model, 0.5, granularity="weight")
    nets.fit(wrapped, epochs=3)
    row = next(row for row in tfap.plan(model) if row.path == "backbone/frozen")
    if keras_module.__name__ == "tf_keras":
        assert not row.pruned and row.reason == "it is called with training=False"
        assert nets.pruned_weights(wrapped) == 15
    else:
        assert row.pruned and nets.pruned_weights(wrapped) == (24 + 30) / 2


@pytest.mark.parametrize("kind", ["LSTM", pytest.param("GRU", marks=pytest.mark.slow)])
def test_recurrent_layers_with_initial_states(keras_module, tmp_path, kind):
    layers = keras_module.layers
    recurrent = getattr(layers, kind)
    read, written = keras_module.Input((5, 6)), keras_module.Input((4, 6))
    _, *states = recurrent(6, return_state=True, name="encoder")(read)
    x = recurrent(6, name="decoder")(written, initial_state=states)
    model = keras_module.Model([read, written], layers.Dense(3, name="output")(x))
    wrapped = tfap.prune(nets.compiled(keras_module, model, "mse"), 0.5, "magnitude")
    x = [np.random.default_rng(0).normal(size=(16, size, 6)) for size in (5, 4)]
    callbacks = [tfap.UpdatePruningStep()]
    history = wrapped.fit(x, np.ones((16, 3)), epochs=3, verbose=0, callbacks=callbacks).history
    assert len(tfap.prunable_layers(wrapped)) == 2 and history["sparsity"][-1] == 0.5
    wrapped.save(tmp_path / "model.keras")
    loaded = keras_module.models.load_model(tmp_path / "model.keras")
    for made in (loaded, tfap.strip_pruning(loaded)):
        np.testing.assert_array_equal(outputs(made, x), outputs(wrapped, x))


def test_a_class_that_keras_cannot_rebuild_is_a_warning(keras_module, caplog):
    class Own(keras_module.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    layers = keras_module.layers
    tfap.prune(Own([layers.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(2)]), 0.5)
    assert "Keras cannot rebuild the class Own" in caplog.text


@pytest.mark.smoke
def test_wrappers_inside_a_layer_of_ones_own(keras_module):
    class Block(keras_module.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = tfap.prune(keras_module.layers.Dense(4, activation="relu"), 0.5)

        def build(self, shape):
            self.dense.build(shape)
            super().build(shape)

        def call(self, inputs, training=None):
            return self.dense(inputs, training=training)

    model = keras_module.Sequential([keras_module.layers.Input((4,)), Block(), keras_module.layers.Dense(3)])
    assert nets.fit(nets.compiled(keras_module, model, "mse"), epochs=6).history["sparsity"][-1] == 0.5


@pytest.mark.smoke
def test_strip_a_layer_of_a_subclassed_model(keras_module):
    model = nets.subclassed(keras_module, tfap.prune(keras_module.layers.Dense(8, activation="relu"), 0.5))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model.fit(x, np.zeros(64), epochs=6, batch_size=16, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    plain = tfap.strip_pruning(model.hidden)
    assert type(plain) is keras_module.layers.Dense and (plain.get_weights()[0] == 0).sum() == 16
    np.testing.assert_array_equal(np.asarray(plain(x)), np.asarray(model.hidden(x)))


def test_register_prunable_layer(keras_module):
    class Mixer(keras_module.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(6, shape[-1]), name="w", initializer="normal")
            super().build(shape)

        def call(self, x):
            return x @ keras_module.backend.transpose(self.w) if hasattr(keras_module.backend, "dot") else (
                keras_module.ops.matmul(x, keras_module.ops.transpose(self.w)))  # fmt: skip

    tfap.register_prunable_layer(Mixer, [tfap.KernelSpec("w", neuron_axes=(0,), input_axes=(1,))])
    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((4,)), Mixer(name="mixer"), layers.ReLU(name="relu"), layers.Dense(2, name="output")]
    )
    wrapped = tfap.prune(nets.compiled(keras_module, model, "mse"), 0.5)
    nets.fit(wrapped, epochs=6)
    mask = nets.masks(wrapped)["mixer"]
    assert sorted(mask.sum(axis=1)) == [0, 0, 0, 4, 4, 4]
    for arguments in ((Mixer(), [tfap.KernelSpec()]), (Mixer, ["w"])):
        with pytest.raises(TypeError, match="must be a l"):
            tfap.register_prunable_layer(*arguments)


def test_the_plan_says_which_neurons_are_not_removable(keras_module):
    """They are pruned, but `tfap.compact` makes nothing smaller: the plan says so before training."""
    layers = keras_module.layers
    inputs = keras_module.Input((5, 4))
    x = layers.LayerNormalization(name="norm")(layers.Dense(6, activation="relu", name="kept")(inputs))
    x = layers.Dense(6, activation="relu", name="removed")(x)[:, :, :3] * 2
    x = layers.RNN(layers.LSTMCell(4), name="lstm")(x)
    model = keras_module.Model(inputs, layers.Dense(2, name="output")(x))
    by_neuron = {row.path: row for row in tfap.plan(model, 0.5, "magnitude", granularity="neuron")}
    by_weight = {row.path: row for row in tfap.plan(model, 0.5, "magnitude")}
    consumed = "its channels are not removable: 'norm' subtracts the mean of all channels"
    assert by_neuron["kept"].pruned and by_neuron["kept"].reason.startswith(consumed)
    assert by_neuron["lstm"].reason == "its neurons are not removable: tfap does not resize this RNN"
    # The LSTM consumes three of its channels, and nothing the others.
    assert by_neuron["removed"].pruned and not by_neuron["removed"].reason
    assert not by_weight["kept"].reason and not by_weight["lstm"].reason
    included = tfap.plan(model, 0.5, "magnitude", granularity="neuron", include=["output"])[-1]
    assert (
        included.pruned and included.reason == "its channels are not removable: it is an output of the model"
    )


@pytest.mark.smoke
def test_regularizers_policies_and_frozen_layers_survive(keras_module):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(8, activation="relu", name="a", kernel_regularizer="l2", dtype="mixed_bfloat16"),
            layers.Dense(
                8, activation="relu", name="b", activity_regularizer="l1", kernel_constraint="non_neg"
            ),
            layers.Dense(2, name="output", dtype="float32"),
        ]
    )
    model.get_layer("b").trainable = False
    nets.compiled(keras_module, model, "mse")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    expected = model.evaluate(x, np.zeros((16, 2)), verbose=0)
    wrapped = tfap.prune(model, 0.5)
    for made in (wrapped, tfap.strip_pruning(wrapped)):
        assert made.evaluate(x, np.zeros((16, 2)), verbose=0) == pytest.approx(expected, rel=1e-6)
        a, b = ((getattr(made.get_layer(name), "layer", made.get_layer(name))) for name in "ab")
        assert a.kernel_regularizer is not None and b.activity_regularizer is not None
        assert type(b.kernel_constraint).__name__ == "NonNeg"
        assert a.compute_dtype == "bfloat16" and a.variable_dtype == "float32"
        assert not made.get_layer("b").trainable and made.get_layer("a").trainable
        assert len(made.trainable_weights) == len(model.trainable_weights) == 4


def test_channels_first_layers_count_along_their_axis(keras_module):
    layers = keras_module.layers
    inputs = keras_module.Input((3, 8, 6))
    x = layers.Conv2D(5, 3, data_format="channels_first", name="conv")(inputs)
    x = layers.ReLU(name="relu")(x)
    model = keras_module.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D("channels_first")(x)))
    (site,) = Graph(model).firing("conv").sites
    assert (site.path, site.start, site.stop) == ("relu", 0, 5)
    wrapped = tfap.prune(model, 0.5)
    assert wrapped.get_layer("relu").activation_counts.shape == (5,)
    counter = wrapped.get_layer("relu")
    counter(
        np.ones((2, 5, 6, 4), "float32") * np.array([1, -1, 1, 1, -1])[None, :, None, None], training=True
    )
    np.testing.assert_array_equal(counter.activation_counts.numpy(), [48, 0, 48, 48, 0])
    assert int(counter.activations_seen.numpy()) == 48


@pytest.mark.smoke
def test_a_sequential_model_with_a_layer_in_two_places(keras_module):
    layers = keras_module.layers
    twice = layers.Dense(4, activation="relu", name="twice")
    model = keras_module.Sequential([layers.Input((4,)), twice, layers.Dropout(0.1), twice, layers.Dense(2)])
    wrapped = tfap.prune(model, 0.5, "magnitude", granularity="weight")
    tfap.update_masks(wrapped, 0.5)
    plain = tfap.strip_pruning(wrapped)
    kernel, bias = plain.get_layer("twice").get_weights()
    assert (kernel == 0).sum() == 8
    hidden = x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    for _ in range(2):
        hidden = np.maximum(hidden @ kernel + bias, 0)
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), hidden @ model.layers[-1].get_weights()[0], rtol=1e-5, atol=1e-6
    )
