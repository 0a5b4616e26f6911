"""Which wrappers are updated together, and that an update that fails changes nothing."""

import nets
import numpy as np
import pytest

import tfap
from tfap.layers.settings import PruningSettings
from tfap.training import disconnected, mask_update


@pytest.fixture
def registered(keras_module):
    """A criterion with a random generator and an array, which its config does not hold."""

    @keras_module.saving.register_keras_serializable(package=f"{keras_module.__name__}_groups")
    class Noisy(tfap.Criterion):
        def __init__(self):
            self.generator, self.factors = np.random.default_rng(0), np.ones(3)
            self.function, self.by_pair = np.abs, {(0, 1): 2.0}

        def scores(self, kernel):
            return self.function(kernel.weights)

    return Noisy


def test_a_loaded_model_is_ranked_as_before(keras_module, registered, tmp_path):
    """The kernel of one layer is a million times as large, so a global scope prunes the other one."""
    model = nets.mlp(keras_module)
    model.layers[-2].set_weights([1e6 * array for array in model.layers[-2].get_weights()])
    wrapped = tfap.prune(model, 0.5, registered())
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras_module.models.load_model(tmp_path / "wrapped.keras", compile=False)
    for each in (wrapped, loaded):
        tfap.update_masks(each, 0.5)
        assert [int((wrapper.mask.numpy() == 0).sum()) for wrapper in tfap.prunable_layers(each)] == [160, 0]


def test_layers_wrapped_alone_are_grouped_by_settings(keras_module, registered):
    """Each has a criterion of its own with equal attributes."""

    class Net(keras_module.Model):
        def __init__(self):
            super().__init__()
            self.a = tfap.prune(keras_module.layers.Dense(8), 0.5, registered())
            self.b = tfap.prune(keras_module.layers.Dense(8), 0.5, registered())
            self.c = tfap.prune(keras_module.layers.Dense(8), 0.25, registered())

        def call(self, inputs):
            return self.c(self.b(self.a(inputs)))

    net = Net()
    net(np.ones((1, 4)))
    assert [len(group) for group in mask_update.groups(mask_update.pruned_weights(net))] == [2, 1]


def test_a_list_is_one_group(keras_module):
    kinds = [keras_module.layers.Dense(4, "relu") for _ in range(2)]
    first, second = (tfap.prune(kinds, 0.5) for _ in range(2))
    assert len({wrapper.settings.key for wrapper in first}) == 1
    assert first[0].settings.key != second[0].settings.key
    again = type(first[0]).from_config(first[0].get_config())
    assert again.settings.key == first[0].settings.key


def test_the_key_of_odd_settings():
    class Odd(tfap.Criterion):
        def __init__(self, value):
            self.value = value

    for value in (np.arange(3), {1: 2, "a": 3}, lambda: 0, [np.float32(1), (2,)], np.random.default_rng(0)):
        assert PruningSettings(0.5, Odd(value)).key == PruningSettings(0.5, Odd(value)).key
    assert PruningSettings(0.5, Odd(np.arange(3))).key != PruningSettings(0.5, Odd(np.arange(4))).key
    assert "group" not in PruningSettings(0.5).get_config()  # as in files of tfap 0.1.0


# -- all or nothing --------------------------------------------------------------------------------


def two_groups(keras, **options):
    """Two layers with different settings; the kernel of the second has a NaN."""
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            *tfap.prune([keras.layers.Dense(8, "relu", name="a")], 0.25, "magnitude", **options),
            *tfap.prune([keras.layers.Dense(8, "relu", name="b")], 0.5, "magnitude", **options),
            keras.layers.Dense(2),
        ]
    )
    return nets.compiled(keras, model, "mse")


def spoil(model):
    second = tfap.prunable_layers(model)[1]
    second.layer.kernel.assign(np.full(second.layer.kernel.shape, np.nan))


def test_a_failing_group_changes_no_other(keras_module):
    model = two_groups(keras_module)
    spoil(model)
    before = model.get_weights()
    with pytest.raises(ValueError, match="'b' contain NaN"):
        tfap.update_masks(model, 0.5)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_callback_changes_nothing_either(keras_module):
    class Spoiling(tfap.UpdatePruningStep):
        def before_update(self):
            spoil(self.model)
            self.before = self.model.get_weights()

    callback, model = Spoiling(), two_groups(keras_module)
    with pytest.raises(ValueError, match="'b' contain NaN"):
        nets.fit(model, 2, [callback])
    assert nets.pruned_weights(model) == 0
    for found, expected in zip(model.get_weights(), callback.before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_disconnected_weights_are_not_half_removed(keras_module, monkeypatch):
    """It fails at the second layer, after the update and the first layer have been written."""
    model = two_groups(keras_module, remove_disconnected=True)
    before, removed = model.get_weights(), []

    def fails(found, path, wrapper):
        if removed:
            raise MemoryError
        wrapper.layer.bias.assign(np.ones(8))
        removed.append(path)
        return 1

    monkeypatch.setattr(disconnected, "_remove", fails)
    with pytest.raises(MemoryError):
        tfap.update_masks(model, 0.5)
    assert removed
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_missing_metric_weighs_no_epoch(keras_module):
    model = nets.mlp(keras_module)
    wrapped = tfap.prune(model, 0.5, tfap.ActivationCount(metric="accuracy"))
    wrappers = tfap.prunable_layers(wrapped)
    before = wrapped.get_weights()
    for wrong in ({}, {"accuracy": float("nan")}):
        with pytest.raises(ValueError, match="accuracy"):
            wrappers[0].weigh_epoch(wrong)
    for found, expected in zip(wrapped.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
