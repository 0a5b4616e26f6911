"""Units inside composite layers: registered by their config entry, pruned and removed with their weights."""

import importlib

import numpy as np
import pytest

import tfap
from tfap.graph.liveness import Liveness

pytestmark = pytest.mark.one_keras

UNITS = 8


def block_class(keras_module):
    """A gated feed-forward block with a BatchNormalization of the units."""
    layers = keras_module.layers

    @keras_module.saving.register_keras_serializable(package="composite")
    class Block(layers.Layer):
        def __init__(self, hidden_dim, **kwargs):
            super().__init__(**kwargs)
            self.hidden_dim = hidden_dim

        def build(self, shape):
            self.gate = layers.Dense(self.hidden_dim, "silu", name="gate")
            self.up = layers.Dense(self.hidden_dim, name="up")
            self.norm = layers.BatchNormalization(name="norm")
            self.down = layers.Dense(shape[-1], name="down")
            inside = (*shape[:-1], self.hidden_dim)
            for layer in (self.gate, self.up):
                layer.build(shape)
            for layer in (self.norm, self.down):
                layer.build(inside)
            self.built = True

        def call(self, inputs, training=None):
            hidden = self.norm(self.gate(inputs) * self.up(inputs), training=training)
            return inputs + self.down(hidden)

        def get_config(self):
            return {**super().get_config(), "hidden_dim": self.hidden_dim}

    return Block


@pytest.fixture
def block(keras_module):
    cls = block_class(keras_module)
    units = tfap.Units(made_by=["gate", "up"], read_by=["down"], through=["norm"])
    tfap.register_composite_layer(cls, {"hidden_dim": units})
    return cls


def net(keras_module, block):
    layers = keras_module.layers
    inputs = keras_module.Input((5, 4))
    x = block(UNITS, name="second")(block(UNITS, name="first")(inputs))
    outputs = layers.Dense(3, name="output")(layers.GlobalAveragePooling1D()(x))
    return random_weights(keras_module.Model(inputs, outputs))


def random_weights(model, seed=0):
    generator = np.random.default_rng(seed)
    model.set_weights([generator.uniform(0.1, 1, size=w.shape) for w in model.get_weights()])
    return model


def samples(count=8):
    return np.random.default_rng(1).normal(size=(count, 5, 4)).astype("float32")


def assert_equal_outputs(model, other, x=None):
    x = samples() if x is None else x
    expected = np.asarray(model(x, training=False))
    assert np.abs(np.asarray(other(x, training=False)) - expected).max() <= 1e-5 * np.abs(expected).max()


def not_read(layer, units):
    kernel, bias = layer.get_weights()
    kernel[units] = 0
    layer.set_weights([kernel, bias])


def test_units_that_nothing_reads_go(keras_module, block, tmp_path):
    model = net(keras_module, block)
    not_read(model.get_layer("first").down, [1, 4, 6])
    small = tfap.compact(model)
    first = small.get_layer("first")
    assert (first.hidden_dim, small.get_layer("second").hidden_dim) == (5, UNITS)
    assert [w.shape for w in first.gate.get_weights()] == [(4, 5), (5,)]
    assert {w.shape for w in first.norm.get_weights()} == {(5,)}
    assert first.down.get_weights()[0].shape == (5, 4)
    assert_equal_outputs(model, small)
    small.save(tmp_path / "small.keras")
    assert_equal_outputs(small, keras_module.models.load_model(tmp_path / "small.keras"))


def test_units_that_stay_zero_go_if_that_is_declared(keras_module):
    for declared in (False, True):
        cls = block_class(keras_module)
        units = tfap.Units(["gate", "up"], ["down"], ["norm"], zero_stays_zero=declared)
        tfap.register_composite_layer(cls, {"hidden_dim": units})
        model = net(keras_module, cls)
        first = model.get_layer("first")
        for layer in (first.gate, first.up):
            kernel, bias = layer.get_weights()
            kernel[:, 2], bias[2] = 0, 0
            layer.set_weights([kernel, bias])
        norm = first.norm.get_weights()
        first.norm.set_weights([norm[0], 0 * norm[1], 0 * norm[2], norm[3]])  # zero stays zero in it
        small = tfap.compact(model)
        assert small.get_layer("first").hidden_dim == UNITS - declared
        assert_equal_outputs(model, small)


def test_the_last_unit_stays(keras_module, block):
    model = net(keras_module, block)
    not_read(model.get_layer("first").down, slice(None))
    small = tfap.compact(model)
    assert small.get_layer("first").hidden_dim == 1
    assert_equal_outputs(model, small)


def test_pruned_units_go(keras_module, block):
    model = net(keras_module, block)
    plan = tfap.plan(model, 0.5, "magnitude", granularity="neuron")
    assert [row.weight for row in plan if row.path == "first" and row.pruned and not row.reason] == [
        "gate.kernel",
        "up.kernel",
        "down.kernel",
    ]
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="neuron", scope="local", target="neurons")
    tfap.update_masks(pruned, 0.5)
    stripped = tfap.strip_pruning(pruned)
    small = tfap.compact(stripped)
    assert [small.get_layer(name).hidden_dim for name in ("first", "second")] == [4, 4]
    assert_equal_outputs(stripped, small)
    assert tfap.flops(small) * 2 == tfap.flops(model) + 2 * 4 * 3  # but for the output layer


@pytest.mark.slow
def test_training_with_masks(keras_module, block):
    model = net(keras_module, block)
    model.compile("sgd", "mse")
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="neuron", scope="local", target="neurons")
    pruned.fit(samples(16), np.ones((16, 3)), epochs=4, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    stripped = tfap.strip_pruning(pruned)
    small = tfap.compact(stripped)
    assert small.get_layer("first").hidden_dim == 4
    assert_equal_outputs(stripped, small)


def test_named_units_are_removed(keras_module, block):
    model = net(keras_module, block)
    small = tfap.remove(model, {"first/hidden_dim": [0, 5], "second/hidden_dim": np.arange(UNITS) < 3})
    assert [small.get_layer(name).hidden_dim for name in ("first", "second")] == [6, 5]
    not_read(model.get_layer("first").down, [0, 5])
    not_read(model.get_layer("second").down, [0, 1, 2])
    assert_equal_outputs(model, small)
    with pytest.raises(ValueError, match="'first' would lose all its units 'hidden_dim'"):
        tfap.remove(model, {"first/hidden_dim": range(UNITS)})
    with pytest.raises(ValueError, match=r"neurons\['first/hidden_dim'\] names \[8\]"):
        tfap.remove(model, {"first/hidden_dim": [8]})
    with pytest.raises(ValueError, match="'first/hidden_dims', which is not in the model"):
        tfap.remove(model, {"first/hidden_dims": [0]})


@pytest.mark.parametrize("target", ["neurons", "weights", "flops"])
def test_prune_once_by_magnitude(keras_module, block, target):
    model = net(keras_module, block)
    small = tfap.prune_once(model, samples(), 0.4, "magnitude", target=target)
    assert [small.get_layer(name).hidden_dim for name in ("first", "second")] in ([4, 4], [5, 5])
    kept = tfap.prune_once(model, samples(), {"flops": 0.7}, "magnitude")
    assert tfap.flops(kept) <= 0.7 * tfap.flops(model)


def test_kernels_in_lists_with_other_axes(keras_module):
    """The layer has the variables itself: one of shape (units, inputs)."""
    layers = keras_module.layers

    @keras_module.saving.register_keras_serializable(package="composite")
    class Mixer(layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)
            self.size = size

        def build(self, shape):
            self.first = self.add_weight(shape=(self.size, shape[-1]), name="first")
            self.shift = self.add_weight(shape=(self.size,), name="shift")
            self.last = [layers.Dense(3, name="last")]
            self.last[0].build((*shape[:-1], self.size))

        def call(self, inputs):
            name = "tensorflow" if keras_module.__name__ == "tf_keras" else "keras.ops"
            functions = importlib.import_module(name)
            product = functions.matmul(inputs, functions.transpose(self.first))
            return self.last[0](keras_module.activations.relu(product + self.shift))

        def get_config(self):
            return {**super().get_config(), "size": self.size}

    made = tfap.KernelSpec("first", neuron_axes=(0,), input_axes=(1,))
    tfap.register_composite_layer(
        Mixer, {"size": tfap.Units([made], lambda layer: ["last.0"], through=["shift"])}
    )
    model = random_weights(keras_module.Sequential([layers.Input((4,)), Mixer(6, name="mixer")]))
    not_read(model.get_layer("mixer").last[0], [0, 3])
    small = tfap.compact(model)
    assert small.get_layer("mixer").first.shape == (4, 4)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype("float32")
    assert_equal_outputs(model, small, x)


def test_wrong_arguments(keras_module):
    cls = block_class(keras_module)
    with pytest.raises(TypeError, match="units must be a dict of config entry to tfap.Units: received"):
        tfap.register_composite_layer(cls, {"hidden_dim": ["gate"]})
    with pytest.raises(ValueError, match="units is empty"):
        tfap.register_composite_layer(cls, {})
    with pytest.raises(TypeError, match="layer_class must be a layer class"):
        tfap.register_composite_layer(cls(4), {"hidden_dim": tfap.Units(["gate"], ["down"])})
    with pytest.raises(TypeError, match="made_by must be a list of attribute names"):
        tfap.Units("gate", ["down"])
    with pytest.raises(ValueError, match="read_by must name at least one inner layer"):
        tfap.Units(["gate"], [])
    with pytest.raises(TypeError, match="zero_stays_zero must be True or False"):
        tfap.Units(["gate"], ["down"], zero_stays_zero=1)


# -- KerasHub ----------------------------------------------------------------------------------------


@pytest.fixture
def hub():
    return pytest.importorskip("keras_hub")


@pytest.mark.tensorflow_only("KerasHub is tried on TensorFlow")
def test_transformer_encoder_of_keras_hub(hub):
    import keras

    inputs = keras.Input((6, 8))
    encoder = hub.layers.TransformerEncoder(16, 2, name="encoder")
    decoder = hub.layers.TransformerDecoder(12, 2, name="decoder")
    x = keras.layers.GlobalAveragePooling1D()(decoder(encoder(inputs)))
    model = random_weights(keras.Model(inputs, keras.layers.Dense(2)(x)))
    not_read(encoder._feedforward_output_dense, [0, 2, 5])
    not_read(decoder._feedforward_output_dense, [1])
    small = tfap.compact(model)
    assert small.get_layer("encoder").intermediate_dim == 13
    assert small.get_layer("decoder").intermediate_dim == 11
    x = np.random.default_rng(1).normal(size=(3, 6, 8)).astype("float32")
    assert_equal_outputs(model, small, x)
    removed = tfap.remove(model, {"encoder/intermediate_dim": [0, 1]})
    assert removed.get_layer("encoder").intermediate_dim == 14
    assert tfap.flops(removed) < tfap.flops(model)


@pytest.mark.tensorflow_only("KerasHub is tried on TensorFlow")
def test_a_pruned_decoder_of_keras_hub_is_stripped(hub):
    """It is called with a mask alone, and builds itself from the shapes in its config."""
    import keras

    inputs, mask = keras.Input((6, 8)), keras.Input((6,), dtype="int32")
    decoder = hub.layers.TransformerDecoder(12, 2, name="decoder")
    x = keras.layers.GlobalAveragePooling1D()(decoder(inputs, decoder_padding_mask=mask))
    model = random_weights(keras.Model([inputs, mask], keras.layers.Dense(2)(x)))
    pruned = tfap.prune(model, 0.5, "magnitude", granularity="neuron", scope="local")
    tfap.update_masks(pruned, 0.5)
    small = tfap.compact(tfap.strip_pruning(pruned))
    assert small.get_layer("decoder").intermediate_dim == 6


@pytest.mark.slow
@pytest.mark.tensorflow_only("KerasHub is tried on TensorFlow")
def test_bert_and_vit_of_keras_hub(hub):
    bert = hub.models.BertBackbone(
        vocabulary_size=40,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=12,
    )
    generator = np.random.default_rng(0)
    x = {
        "token_ids": generator.integers(0, 40, (4, 12)),
        "padding_mask": np.ones((4, 12), "int32"),
        "segment_ids": np.zeros((4, 12), "int32"),
    }
    names = ["transformer_layer_0", "transformer_layer_1"]
    for name in names:
        not_read(bert.get_layer(name)._feedforward_output_dense, range(10))
    small = tfap.compact(bert, data=x)
    assert [small.get_layer(name).intermediate_dim for name in names] == [22, 22]
    np.testing.assert_allclose(small(x)["sequence_output"], bert(x)["sequence_output"], rtol=1e-5, atol=1e-5)
    vit = hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=(4, 4), num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    (encoder,) = [layer for layer in vit.layers if type(layer).__name__ == "ViTEncoder"]
    for block in encoder.encoder_layers:
        not_read(block.mlp.dense_2, range(8))
    small = tfap.compact(vit)
    (smaller,) = [layer for layer in small.layers if type(layer).__name__ == "ViTEncoder"]
    assert smaller.mlp_dim == 24
    images = generator.normal(size=(3, 16, 16, 3)).astype("float32")
    assert_equal_outputs(vit, small, images)


def test_the_report_names_inner_neurons_that_stay_but_no_removed_unit(keras_module):
    """Output 0 of the block stays zero, and removed units are none that were kept."""
    cls = block_class(keras_module)
    units = tfap.Units(["gate", "up"], ["down"], ["norm"])
    tfap.register_composite_layer(cls, {"hidden_dim": units})
    down = tfap.KernelSpec("down.kernel", feeds_output=False, reads_input=False)
    others = block_class(keras_module)
    tfap.register_prunable_layer(others, [down])
    for each, channels in ((cls, {}), (others, {"first": 1})):
        model = net(keras_module, each)
        not_read(model.get_layer("first").down, [2, 3])
        kernel, bias = model.get_layer("first").down.get_weights()
        kernel[:, 0], bias[0] = 0, 0
        model.get_layer("first").down.set_weights([kernel, bias])
        report = tfap.compaction_report(model, tfap.compact(model))
        assert {kept.path: kept.channels for kept in report.kept} == channels


def test_liveness_knows_the_units(keras_module, block):
    model = net(keras_module, block)
    not_read(model.get_layer("second").down, [3])
    liveness = Liveness(model)
    units = {path: groups for path, entry, groups in liveness.inner_units()}
    assert liveness.alive[units["first"]].all()
    assert np.flatnonzero(~liveness.alive[units["second"]]).tolist() == [3]


def test_prune_once_refits_what_reads_the_units(keras_module, block):
    """Half of the units are copies, and the others take over."""
    model, x, half = net(keras_module, block), samples(40), UNITS // 2
    for name in ("first", "second"):
        for inner in ("gate", "up", "norm"):
            layer = getattr(model.get_layer(name), inner)
            weights = layer.get_weights()
            for array in weights:
                array[..., half:] = array[..., :half]
            layer.set_weights(weights)
    small, report = tfap.prune_once(
        model, x, 0.5, target="neurons", ridge=1e-9, recalibrate=False, return_report=True
    )
    assert [small.get_layer(name).hidden_dim for name in ("first", "second")] == [half, half]
    assert [row.path for row in report.layers] == ["first", "second"]
    expected = np.asarray(model(x))
    assert np.abs(np.asarray(small(x)) - expected).max() < 1e-3 * np.abs(expected).max()
