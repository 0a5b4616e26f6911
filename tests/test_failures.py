"""Whatever goes wrong, nothing is lost: stops, full disks, broken files, NaN, models changed on the way."""

import contextlib
import errno
import json
import os
import pathlib
import re
import threading
import zipfile

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfap
from tfap.comparison import Comparison
from tfap.layers.session import PruningSession

pytestmark = pytest.mark.one_keras

EVERY_STEP = tfap.PolynomialDecay(0.0, 0.75, 1, 13, frequency=1)  # of 16 steps in four epochs


def pruned_net(keras, schedule=EVERY_STEP, seed=3, **options):
    keras.utils.set_random_seed(seed)
    return tfap.prune(nets.mlp(keras), schedule, **{"granularity": "weight", **options})


def assert_sparse(model):
    """Something is pruned, and pruned weights are exactly zero."""
    assert nets.pruned_weights(model) > 0
    for layer in tfap.prunable_layers(model):
        assert not layer.layer.get_weights()[0][layer.mask.numpy() == 0].any()


def assert_same(first, second):
    assert nets.pruned_weights(first) > 0
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def steps(model):
    return [int(layer.pruning_step.numpy()) for layer in tfap.prunable_layers(model)]


def raises_at(keras, batch, error, last_epoch=0):
    """A callback that fails after a batch of an epoch, or at the epoch's end."""

    class Failing(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, number, logs=None):
            if (self.epoch, number) == (last_epoch, batch):
                raise error

    return Failing()


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", ["first", pytest.param("last", marks=pytest.mark.smoke)])
def test_a_checkpoint_of_any_step_is_sparse(keras_module, tmp_path, ours):
    """Weights after every step and whole models; masks change, and Keras brings averages of weights back."""
    model = nets.mlp(keras_module)
    average = keras_module.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3)
    model.compile(average, model.loss)
    wrapped = tfap.prune(model, EVERY_STEP, granularity="weight")
    save = keras_module.callbacks.ModelCheckpoint
    callbacks = [
        save(str(tmp_path / "{batch}.weights.h5"), save_weights_only=True, save_freq=1),
        save(str(tmp_path / "{epoch}-{batch}.keras"), save_freq=3),
    ]
    callbacks.insert(0 if ours == "first" else 2, tfap.UpdatePruningStep())
    nets.fit(wrapped, epochs=2, callbacks=callbacks)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len([name for name in names if name.endswith(".h5")]) == 4 and len(names) >= 6
    for name in names:
        if name.endswith(".h5"):
            wrapped.load_weights(str(tmp_path / name))
            assert_sparse(wrapped)
        elif name.startswith("2"):
            assert_sparse(keras_module.models.load_model(tmp_path / name))


# -- stops -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ours, error",
    [
        pytest.param("first", KeyboardInterrupt(), marks=pytest.mark.smoke),
        ("last", RuntimeError("mine")),
        pytest.param("first", RuntimeError("mine"), marks=pytest.mark.slow),
        pytest.param("last", KeyboardInterrupt(), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_a_fit_that_was_interrupted_goes_on_to_the_same_bits(keras_module, ours, error):
    """At the last batch of the second epoch, before or after the update that is due there."""
    straight, stopped = pruned_net(keras_module), pruned_net(keras_module)
    nets.fit(straight, epochs=4)
    callbacks = [raises_at(keras_module, 3, error, last_epoch=1)]
    callbacks.insert(0 if ours == "first" else 1, tfap.UpdatePruningStep())
    with pytest.raises(type(error)):
        nets.fit(stopped, epochs=4, callbacks=callbacks)
    assert steps(stopped) == [8, 8]
    assert_sparse(stopped)
    nets.fit(stopped, epochs=4, initial_epoch=2)
    assert_same(straight, stopped)


@pytest.mark.smoke
def test_a_fit_that_was_interrupted_within_an_epoch(keras_module):
    model = pruned_net(keras_module)
    with pytest.raises(KeyboardInterrupt):
        failing = raises_at(keras_module, 1, KeyboardInterrupt(), last_epoch=1)
        nets.fit(model, epochs=4, callbacks=[tfap.UpdatePruningStep(), failing])
    before = nets.masks(model)
    assert steps(model) == [6, 6]
    assert nets.fit(model, epochs=2).history["sparsity"][-1] == 0.75
    assert steps(model) == [14, 14]
    assert_sparse(model)
    assert all((mask <= before[path]).all() for path, mask in nets.masks(model).items())


@pytest.mark.tensorflow_only(reason="BackupAndRestore of tf_keras")
def test_a_fit_that_goes_on_within_an_epoch(tmp_path):
    """tf_keras's BackupAndRestore can; Keras 3 begins the epoch anew."""

    def stopping(batch=None):
        back_up = tf_keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=3)
        failing = raises_at(tf_keras, batch, RuntimeError("mine"), last_epoch=1)
        return {"epochs": 4, "callbacks": [tfap.UpdatePruningStep(), back_up, failing]}

    straight, stopped, resumed = (with_turns(tf_keras) for _ in range(3))
    fit_on_one_batch(straight, epochs=4, callbacks=[tfap.UpdatePruningStep()])
    with pytest.raises(RuntimeError, match="mine"):
        fit_on_one_batch(stopped, **stopping(batch=3))  # saved after the update at step 6, within the epoch
    fit_on_one_batch(resumed, **stopping())
    assert int(tfap.prunable_layers(resumed)[0].updates_made.numpy()) == 5
    assert_same(straight, resumed)


def with_turns(keras):
    """An update too many would prune another layer."""
    keras.utils.set_random_seed(0)
    schedule = tfap.IterativeSparsity(0.2, updates=5, frequency=3)
    return tfap.prune(nets.mlp(keras), schedule, "magnitude", scope="layerwise")


def fit_on_one_batch(model, **kwargs):
    """Four steps an epoch on the same batch: a fit that goes on within an epoch begins its data anew."""
    dataset = tf.data.Dataset.from_tensor_slices(nets.data(model, 16)).batch(16).repeat(4)
    model.fit(dataset, verbose=0, **kwargs)


def test_an_update_that_was_refused_is_made_when_it_can_be(keras_module):
    """In a loop of one's own, which catches the error and sets good weights."""
    model = tfap.prune(nets.mlp(keras_module), tfap.ConstantSparsity(0.5, 2, 2, 1), granularity="weight")
    x, y = nets.data(model, 16)
    callback = tfap.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    for batch in range(4):
        model.train_on_batch(x, y)
        (kernel, *rest), layer = model.layers[0].layer.get_weights(), model.layers[0].layer
        if batch == 1:
            layer.set_weights([np.full_like(kernel, np.nan), *rest])
            with pytest.raises(ValueError, match="contain NaN"):
                callback.on_train_batch_end(batch)
            layer.set_weights([kernel, *rest])
        else:
            callback.on_train_batch_end(batch)
    assert nets.pruned_weights(model) == nets.prunable_weights(model) / 2
    callback.on_train_end()


# -- several at once -------------------------------------------------------------------------------


def test_models_pruned_in_turn_and_inside_each_other(keras_module):
    expected = [pruned_net(keras_module, seed=seed) for seed in (1, 2)]
    for model in expected:
        nets.fit(model, epochs=2)
        nets.fit(model, epochs=2)

    first, second = (pruned_net(keras_module, seed=seed) for seed in (1, 2))

    class FitTheOther(keras_module.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                nets.fit(second, epochs=2)

    one = tfap.UpdatePruningStep()
    nets.fit(first, epochs=2, callbacks=[FitTheOther(), one])
    nets.fit(second, epochs=2, callbacks=[one])
    nets.fit(first, epochs=2, callbacks=[one])
    assert_same(first, expected[0])
    assert_same(second, expected[1])


@pytest.mark.parametrize("ours", ["first", "last"])
def test_a_fit_within_a_fit(keras_module, ours):
    class Fitting(keras_module.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                nets.fit(self.model)

    model = tfap.prune(nets.mlp(keras_module), EVERY_STEP, granularity="weight")
    callbacks = [Fitting()]
    callbacks.insert(0 if ours == "first" else 1, tfap.UpdatePruningStep())
    nets.fit(model, epochs=3, callbacks=callbacks)
    assert steps(model) == [16, 16]
    assert nets.pruned_weights(model) == 0.75 * nets.prunable_weights(model)
    with pytest.raises(RuntimeError, match="nothing prunes it"):
        nets.fit(model, callbacks=[])


def test_two_threads(keras_module):
    expected, models = ([pruned_net(keras_module, seed=seed) for seed in (1, 2)] for _ in range(2))
    for model in expected:
        nets.fit(model, epochs=4)
    threads = [threading.Thread(target=nets.fit, args=(model, 4)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model, other in zip(models, expected):
        assert_same(model, other)


# -- not a number ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite(keras_module, value):
    """The loss is NaN from the third step on; the update after it names a layer and leaves the masks."""
    model = pruned_net(keras_module, tfap.ConstantSparsity(0.5, 2, frequency=2))
    x, y = nets.data(model)
    x[2 * 16 :, 0] = value
    good = {}

    class Keep(keras_module.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                good.update(masks=nets.masks(self.model), weights=self.model.get_weights())

    callbacks = [tfap.UpdatePruningStep(), Keep()]
    with pytest.raises(
        ValueError, match=r"The weights of 'hidden_0' contain NaN or infinity: the masks stay"
    ):
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks)
    assert nets.pruned_weights(model) == nets.prunable_weights(model) / 2
    for path, mask in nets.masks(model).items():
        np.testing.assert_array_equal(mask, good["masks"][path])
    model.set_weights(good["weights"])
    nets.compiled(keras_module, model)  # the momentum is NaN too
    assert nets.fit(model).history["sparsity"] == [0.5]
    assert_sparse(model)


def test_activations_that_are_not_finite(keras_module):
    """Their sums are none either; a count takes infinity for firing and NaN for not."""
    summed = pruned_net(keras_module, criterion=tfap.ActivationCount(statistic="sum"))
    counted = pruned_net(keras_module)
    for model in (summed, counted):
        PruningSession.begin(model, tfap.prunable_layers(model))
        hidden = model.get_layer("hidden_0")
        hidden.layer.set_weights([np.ones((12, 16)), np.zeros(16)])
        x = np.ones((3, 12), "float32")
        x[:2, 0] = np.inf, np.nan
        hidden(x, training=True)
        model.get_layer("hidden_1")(np.ones((3, 16), "float32"), training=True)
        assert int(hidden.activations_seen.numpy()) == 3
    assert counted.get_layer("hidden_0").activation_counts.numpy().tolist() == [2] * 16
    with pytest.raises(ValueError, match="ActivationCount gave scores for 'hidden_0' that are not finite"):
        tfap.update_masks(summed, 0.5)
    assert nets.pruned_weights(summed) == 0


# -- floors ----------------------------------------------------------------------------------------


def test_floors_go_before_the_sparsity(keras_module):
    """99% would leave 3 of 320 weights; whole neurons have 12 and 16, and every layer keeps one."""
    left = {"weight": [20, 20], "neuron": [24, 32]}
    for granularity, expected in left.items():
        model = pruned_net(
            keras_module, criterion="magnitude", granularity=granularity, min_weights_per_layer=20
        )
        tfap.update_masks(model, 0.99)
        assert [int(mask.sum()) for mask in nets.masks(model).values()] == expected
    model = pruned_net(keras_module, criterion="magnitude", granularity="neuron")
    tfap.update_masks(model, 0.99)
    assert [int(mask.sum()) for mask in nets.masks(model).values()] == [12, 16]


# -- changed by hand -------------------------------------------------------------------------------


def test_masks_edited_by_hand_are_where_the_next_update_begins(keras_module):
    model = pruned_net(keras_module, tfap.ConstantSparsity(0.5, 1, frequency=4), criterion="magnitude")
    tfap.update_masks(model, 0.25)
    layer = model.get_layer("hidden_0")
    mask = layer.mask.numpy()
    mask[:, 0], mask[:, 1] = 0, 1  # a neuron pruned, another given back
    layer.mask.assign(mask)
    nets.fit(model)
    after = layer.mask.numpy()
    assert nets.pruned_weights(model) == 160
    assert (after <= mask).all() and not after[:, 0].any()
    assert_sparse(model)
    layer.mask.assign(3 * mask)
    with pytest.raises(ValueError, match="mask of 'hidden_0' has other values than 0 and 1"):
        tfap.update_masks(model, 0.75)


def test_a_layer_with_lora_since_it_was_wrapped():
    model = tfap.prune(nets.mlp(keras), 0.5)
    model.layers[0].layer.enable_lora(2)
    nets.compiled(keras, model)
    with pytest.raises(ValueError, match="'hidden_0' cannot be pruned: its kernel is not a variable"):
        nets.fit(model)


def test_a_model_changed_after_prune(keras_module):
    """Weights set, layers frozen and added, compiled again: the next fit prunes what is there."""
    model = pruned_net(keras_module, tfap.ConstantSparsity(0.5, 1, frequency=2), criterion="magnitude")
    dense = tfap.strip_pruning(model)
    nets.fit(model)
    for layer in tfap.prunable_layers(model):
        layer.layer.set_weights(dense.get_layer(layer.name).get_weights())  # none of them zero
    nets.fit(model)
    assert_sparse(model)

    model.get_layer("hidden_1").trainable = False
    nets.compiled(keras_module, model)
    before = model.get_layer("hidden_1").layer.get_weights()[0]
    nets.fit(model)
    np.testing.assert_array_equal(model.get_layer("hidden_1").layer.get_weights()[0], before)

    added = keras_module.layers.Dense(6, activation="relu", name="added")
    model.add(tfap.prune(added, tfap.ConstantSparsity(0.5, 1, frequency=2), criterion="magnitude"))
    nets.compiled(keras_module, model)
    assert nets.fit(model).history["sparsity"] == [0.5]
    assert list(nets.masks(model)) == ["hidden_0", "hidden_1", "added"]
    assert_sparse(model)


# -- disks and files -------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(name):
    """No file whose name has `name` in it can be written to the end."""
    sync = os.fsync

    def fails(descriptor):
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        yield


def cycles(model, folder, cycles=2):
    return tfap.prune_iteratively(model, fit_once, rate=0.5, cycles=cycles, directory=folder)


def fit_once(model, callbacks):
    return nets.fit(model, callbacks=callbacks)


@pytest.mark.parametrize("name", ["cycle-001.npz", pytest.param("cycle-001.json", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_cycles_on_a_full_disk(keras_module, tmp_path, name):
    model = nets.mlp(keras_module)
    cycles(model, tmp_path, cycles=1)
    expected = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(name), pytest.raises(OSError, match="No space left"):
        cycles(model, tmp_path)  # the last cycle is trained again, with masks for the next
    assert {path.name for path in tmp_path.iterdir()} == set(expected)
    assert (tmp_path / "cycle-000.npz").read_bytes() == expected["cycle-000.npz"]
    assert [row.alive for row in cycles(model, tmp_path).rows] == [320, 160, 80]


def test_a_comparison_on_a_full_disk(keras_module, tmp_path):
    def build_model():
        return nets.mlp(keras_module)

    arguments = {"methods": ["magnitude"], "sparsities": [0.5], "seeds": 1, "workers": 1}
    arguments |= {"fit": fit_once, "evaluate": lambda model: float(model.get_weights()[0].sum())}
    with full_disk("magnitude"), pytest.raises(RuntimeError, match="No space left on device"):
        tfap.compare(build_model, directory=tmp_path, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["dense-0.0-0.json"]
    tfap.compare(build_model, directory=tmp_path, **arguments)
    assert len(Comparison.from_directory(tmp_path).rows) == 2


class Bomb:
    """Runs code where somebody unpickles it."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.file),)


def test_broken_and_foreign_cycles(keras_module, tmp_path):
    model, folder = nets.mlp(keras_module), tmp_path / "cycles"
    cycles(model, folder, cycles=1)
    whole = (folder / "cycle-000.npz").read_bytes()
    bomb = np.array([Bomb(tmp_path / "exploded")], dtype=object)

    def damage(path, how):
        if how == "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        elif how == "array":
            with path.open("wb") as file:
                np.save(file, np.ones(3))
        elif how == "pickle":
            np.savez(path, **{"weights-0": bomb})
        else:
            np.savez(path, foreign=np.ones(3))

    for how in ("truncated", "array", "pickle", "foreign"):
        damage(folder / "cycle-000.npz", how)
        with pytest.raises(ValueError, match=r"cycle-000.npz was not written by .* Move it away"):
            cycles(model, folder, cycles=1)
    np.savez(folder / "cycle-000.npz", **{"weights-0": np.ones(3)})
    with pytest.raises(ValueError, match="cycle-000.npz has the weights of another model"):
        cycles(model, folder, cycles=1)
    assert not (tmp_path / "exploded").exists()
    (folder / "cycle-000.npz").unlink()  # only that cycle is trained again
    assert [row.alive for row in cycles(model, folder, cycles=1).rows] == [320, 160]


@pytest.mark.smoke
def test_broken_and_foreign_models(keras_module, tmp_path):
    model = nets.mlp(keras_module)
    model.save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as file:
        file.writestr("thesis.txt", "!")
    for name in ("half.keras", "other.keras"):
        with pytest.raises(ValueError, match=f"{name}' is no .keras file, or not whole"):
            tfap.report(tmp_path / name)


@pytest.mark.parametrize("wrapper", [None, "CountActivations", "PruneByActivation"])
@pytest.mark.smoke
def test_a_file_loads_no_code(keras_module, tmp_path, wrapper):
    """A Lambda layer in it, alone and inside tfap's wrappers, in today's form and in that of old files."""
    layers = keras_module.layers
    path, mark = tmp_path / "model.keras", tmp_path / "exploded"
    code = layers.Lambda(lambda x, mark=str(mark): (open(mark, "w").close(), x)[1], name="code")
    with contextlib.suppress(NotImplementedError):
        keras_module.Sequential([layers.Input((3,)), code, layers.Dense(2)]).save(path)
    mark.unlink()
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    config = json.loads(parts["config.json"])
    (bad,) = [layer for layer in config["config"]["layers"] if layer["class_name"] == "Lambda"]
    forms = [dict(bad), {name: bad[name] for name in ("class_name", "config")}] if wrapper else [bad]
    for form in forms:
        if wrapper:
            settings = {"pruning_schedule": 0.5} if wrapper == "PruneByActivation" else {}
            bad.update(
                module=None,
                class_name=wrapper,
                registered_name=f"tfap>{wrapper}",
                config={"name": "code", "layer": form, **settings},
            )
        with zipfile.ZipFile(path, "w") as file:
            for name, content in {**parts, "config.json": json.dumps(config).encode()}.items():
                file.writestr(name, content)
        for load in (keras_module.models.load_model, tfap.report):
            with pytest.raises((ValueError, TypeError), match="safe_mode|Could not locate class 'Lambda'"):
                load(path)
        assert not mark.exists()


def test_nothing_in_the_library_runs_what_a_file_says():
    unsafe = r"\bpickle\.|allow_pickle=True|safe_mode=False|unsafe_deserialization|marshal|\beval\(|\bexec\("
    package = pathlib.Path(tfap.__file__).parent
    own_file = package / "exporting/conversion.py"  # loads the file that the same call of export has written
    for path in package.rglob("*.py"):
        found = re.findall(unsafe, path.read_text())
        assert found == (["safe_mode=False"] if path == own_file else []), path
