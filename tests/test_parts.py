"""Models inside a trainer, a subclassed model that holds them, are pruned as they are alone."""

import nets
import numpy as np
import pytest

import tfap
from tfap.graph.parts import parts_of
from tfap.layers.find import counting_layers, with_paths
from tfap.training import disconnected, mask_update


def trainer(keras, **parts):
    """A subclassed model that calls its parts one after another."""

    class Trainer(keras.Model):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def call(self, inputs, training=None):
            for part in parts.values():
                inputs = part(inputs, training=training)
            return inputs

    return Trainer()


def residual(keras, name="net"):
    """Two Dense layers that are added, and one that reads the sum; ReLUs are layers of their own."""
    layers, inputs = keras.layers, keras.Input((6,))
    a = layers.Dense(8, name="a")(inputs)
    b = layers.Dense(8, name="b")(layers.ReLU(name="relu_a")(a))
    x = layers.ReLU(name="relu")(layers.Add(name="add")([a, b]))
    outputs = layers.Dense(6, name="output")(layers.Dense(5, "relu", name="c")(x))
    return keras.Model(inputs, outputs, name=name)


def count(model, seed=0):
    """Sets random counts everywhere."""
    generator = np.random.default_rng(seed)
    for layer in sorted(counting_layers(model), key=lambda layer: layer.name):
        own = layer.own_counts()
        if own is not None:
            layer.set_counts(tfap.ActivationCounts(generator.integers(1, 90, len(own.counts)), 100))


def masks_of(model):
    return [wrapper.mask.numpy() for wrapper in tfap.prunable_layers(model)]


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for mine, other in zip(found, expected):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("criterion", ["activation_count", "lookahead"])
@pytest.mark.one_keras
def test_a_part_is_pruned_as_alone(keras_module, criterion):
    alone = residual(keras_module)
    granularity = {"granularity": "neuron"} if criterion == "lookahead" else {}
    wrapped = [tfap.prune(alone, 0.5, criterion, **granularity) for _ in range(2)]
    model = trainer(keras_module, net=wrapped[1])
    for each in wrapped:
        count(each)
    tfap.update_masks(wrapped[0], 0.5)
    tfap.update_masks(model, 0.5)
    assert_equal(masks_of(model), masks_of(wrapped[0]))
    a, b = masks_of(model)[:2]  # coupled by the sum
    np.testing.assert_array_equal(a.any(axis=0), b.any(axis=0))
    sizes = [tfap.compact(tfap.strip_pruning(each)).count_params() for each in wrapped]
    assert sizes[0] == sizes[1] < alone.count_params()


def test_lookahead_differs_from_magnitude_in_a_trainer(keras_module):
    found = []
    for criterion in ("lookahead", "magnitude"):
        model = trainer(keras_module, net=tfap.prune(residual(keras_module), 0.5, criterion))
        tfap.update_masks(model, 0.5)
        found.append(masks_of(model))
    assert any((mine != other).any() for mine, other in zip(*found))


def test_flops_are_those_of_the_part(keras_module):
    alone = residual(keras_module)
    wrapped = [tfap.prune(alone, 0.5, "magnitude", "global", "neuron", target="flops") for _ in range(2)]
    model = trainer(keras_module, net=wrapped[1])
    for each in (wrapped[0], model):
        tfap.update_masks(each, 0.5)
    assert_equal(masks_of(model), masks_of(wrapped[0]))


@pytest.mark.one_keras
def test_a_loaded_part_finds_its_counters(keras_module, tmp_path):
    wrapped = tfap.prune(residual(keras_module), 0.5)
    wrapped.save(tmp_path / "part.keras")
    loaded = keras_module.models.load_model(tmp_path / "part.keras")
    model = trainer(keras_module, net=loaded)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    history = model.fit(x, x, epochs=4, batch_size=4, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    assert 0.3 < history.history["sparsity"][-1] <= 0.5
    assert all(wrapper.activations_seen is not None for wrapper in tfap.prunable_layers(model))


def test_each_part_has_its_own_sparsity(keras_module, tmp_path):
    """They were pruned in two calls, also after loading; kernels of the one are a million times as large."""
    nets_ = [residual(keras_module, name) for name in ("small", "large")]
    nets_[1].set_weights([1e6 * array for array in nets_[1].get_weights()])
    parts = {net.name: tfap.prune(net, 0.5, "magnitude") for net in nets_}
    for name, part in parts.items():
        part.save(tmp_path / f"{name}.keras")
    loaded = {name: keras_module.models.load_model(tmp_path / f"{name}.keras") for name in parts}
    for each in (parts, loaded):
        model = trainer(keras_module, **each)
        tfap.update_masks(model, 0.5)
        for part in each.values():
            assert nets.pruned_weights(part) == nets.prunable_weights(part) / 2
        assert len(mask_update.groups(mask_update.pruned_weights(model))) == 2


def test_parts_of_one_call_are_ranked_together(keras_module):
    inner = [residual(keras_module, name) for name in ("small", "large")]
    inner[1].set_weights([1e6 * array for array in inner[1].get_weights()])
    inputs = keras_module.Input((6,))
    whole = tfap.prune(keras_module.Model(inputs, inner[1](inner[0](inputs))), 0.5, "magnitude")
    held = [whole.get_layer(name) for name in ("small", "large")]
    tfap.update_masks(trainer(keras_module, small=held[0], large=held[1]), 0.4)
    assert nets.pruned_weights(held[1]) == 0 < nets.pruned_weights(held[0])


def test_paths_of_parts_with_equal_names(keras_module):
    parts = [tfap.prune(residual(keras_module), 0.5, "magnitude", granularity="neuron") for _ in range(2)]
    model = trainer(keras_module, first=parts[0], second=parts[1])
    paths = [path for path, _ in with_paths(model)]
    assert paths == [f"{prefix}/{name}" for prefix in ("net", "net'") for name in "abc"]
    weights = mask_update.pruned_weights(model)
    first, second = ({*weight.neuron_groups} for weight in (weights[0], weights[3]))
    assert not first & second  # neurons of different parts are not coupled


def test_disconnected_weights_of_a_part(keras_module):
    def wrapped():
        return tfap.prune(residual(keras_module), 0.5, "magnitude", remove_disconnected=True)

    alone, part = wrapped(), wrapped()
    part.set_weights(alone.get_weights())
    model = trainer(keras_module, net=part)
    for each in (alone, model):
        for wrapper in tfap.prunable_layers(each)[:2]:
            mask = wrapper.mask.numpy()
            mask[:, 3] = 0
            wrapper.mask.assign(mask)
    assert disconnected.remove(model) == disconnected.remove(alone) > 0
    assert_equal(masks_of(model), masks_of(alone))
    assert [one.path for one in tfap.unremovable_neurons(model)] == [
        f"net/{one.path}" for one in tfap.unremovable_neurons(alone)
    ]
    lone = tfap.prune(keras_module.layers.Dense(3, "relu"), 0.5, "magnitude", remove_disconnected=True)
    with pytest.raises(ValueError, match="is in no such model"):
        disconnected.check(trainer(keras_module, lone=lone), [lone])


def test_a_layer_in_two_parts_keeps_what_one_of_them_reads(keras_module):
    """The features are an output too: neurons that the head does not read are not disconnected."""
    features = residual(keras_module)
    wrapped = tfap.prune(features, 0.5, "magnitude", include="output", remove_disconnected=True)
    inner = keras_module.Model(wrapped.inputs[0], wrapped.get_layer("c").output, name="features")
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    output = tfap.prunable_layers(wrapped)[-1]
    assert output.name == "output"
    output.mask.assign(np.zeros(output.mask.shape))  # now nothing in `net` reads the features
    before = np.array(inner(x))
    model = trainer(keras_module, net=wrapped, features=inner)
    assert [part.prefix for part in parts_of(model)] == ["net/", "features/"]
    assert disconnected.remove(model) == 0
    np.testing.assert_array_equal(np.array(inner(x)), before)
    assert disconnected.remove(trainer(keras_module, net=wrapped)) > 0


def test_a_part_inside_a_layer(keras_module):
    """TimeDistributed around a pruned model: its graph tells of the coupling and the counters."""
    alone = residual(keras_module)
    wrapped = [tfap.prune(alone, 0.5) for _ in range(2)]
    inputs = keras_module.Input((3, 6))
    model = keras_module.Model(inputs, keras_module.layers.TimeDistributed(wrapped[1], name="each")(inputs))
    assert [path for path, _ in with_paths(model)] == ["net/a", "net/b", "net/c"]
    for each in wrapped:
        count(each)
    for each in (wrapped[0], model):
        tfap.update_masks(each, 0.5)
    assert_equal(masks_of(model), masks_of(wrapped[0]))


@pytest.mark.parametrize("first", ["critic", "generator"])
@pytest.mark.one_keras
def test_a_step_is_a_batch_however_often_a_part_trains(keras_module, first):
    """A critic that trains three times a batch, and a generator that trains in every second batch."""
    names, total = sorted(["critic", "generator"], key=first.__ne__), 40
    parts = {name: tfap.prune(residual(keras_module, name), 0.5, "magnitude") for name in names}
    model, x = trainer(keras_module, **parts), np.ones((2, 6), "float32")
    steps = {name: nets.compiled_call(keras_module, part) for name, part in parts.items()}
    callback, sparsities = tfap.UpdatePruningStep(total_steps=total), []
    callback.set_model(model)
    callback.on_train_begin()
    for batch in range(total):
        for name, times in (("critic", 3), ("generator", 1 - batch % 2)):
            for _ in range(times):
                steps[name](x)
        callback.on_train_batch_end(batch)
        sparsities.append(nets.pruned_weights(parts["critic"]) / nets.prunable_weights(parts["critic"]))
    callback.on_epoch_end(0, {})
    callback.on_train_end()
    # Cubic decay between 10% and 70% of the steps, as for one call per batch.
    assert sparsities[1] == 0 < sparsities[10] < sparsities[20] < 0.5
    for part in parts.values():
        assert nets.pruned_weights(part) == nets.prunable_weights(part) / 2
    counted = [int(wrapper.pruning_step.numpy()) for wrapper in tfap.prunable_layers(parts["critic"])]
    assert max(counted) <= total + 2  # the two that the first batch counted too many


def test_the_monitor_measures_the_only_part(keras_module):
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    part = residual(keras_module)
    model = nets.compiled(keras_module, trainer(keras_module, net=part), "mse")
    monitor = tfap.DeadNeuronMonitor(x)
    model.fit(x, x, verbose=0, callbacks=[monitor])
    expected = tfap.dead_neuron_report(tfap.measure_activations(part, x))
    assert monitor.reports[0] == expected and list(expected.layers) == ["a", "b", "c"]
    two = nets.compiled(
        keras_module, trainer(keras_module, net=part, other=residual(keras_module, "x")), "mse"
    )
    with pytest.raises(ValueError, match=r"holds several models \(net, x\): call tfap.measure_activations"):
        two.fit(x, x, verbose=0, callbacks=[tfap.DeadNeuronMonitor(x)])
