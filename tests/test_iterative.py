"""Pruning in cycles: exact shares, rewinding, seeds, criteria, files, and stops at any moment."""

import csv
import json
import os
import pathlib
import random
import subprocess
import sys

import nets
import numpy as np
import pytest

import tfap
from tfap.activations.dead_neurons import DeadNeurons
from tfap.iterative import IterativePruning, Row
from tfap.iterative.results import check_metric_names
from tfap.iterative.run import alive_weights
from tfap.iterative.state import read

pytestmark = pytest.mark.one_keras

ROOT = pathlib.Path(__file__).parent.parent


def net(keras, dropout=True, eager=True):
    """A net with BatchNormalization and random layers: 12 * 16 + 16 * 8 prunable weights.

    In eager mode, as tracing it for every cycle would take longer than its training.
    """
    layers = keras.layers
    stack = [layers.Input((12,)), layers.Dense(16, "relu", name="a")]
    stack += [layers.Dropout(0.3), layers.Dropout(0.1, seed=5)] if dropout else []
    stack += [layers.Dense(8, name="b"), layers.BatchNormalization(name="norm"), layers.ReLU(name="relu")]
    stack += [layers.Dense(4, "softmax", name="output")]
    model = keras.Sequential(stack)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=eager)
    return model


def fit(model, callbacks):
    """Shuffles, so that seeds matter."""
    x, y = nets.data(nets.build_optimizer(model))
    return model.fit(x, y, epochs=2, batch_size=32, verbose=0, callbacks=callbacks)


class Fit:
    """`fit` that keeps what each training begins with."""

    def __init__(self):
        self.began, self.optimizers = [], []

    def __call__(self, model, callbacks):
        self.began.append(read(model))
        self.optimizers.append(model.optimizer)
        steps = model.optimizer.iterations.numpy()
        assert steps == 0
        return fit(model, callbacks)


def loss(model):
    x, y = nets.data(model)
    return model.evaluate(x, y, verbose=0)


def assert_equal(first, second):
    """Two results have the same weights, masks and figures, bit for bit."""
    assert first.rows == second.rows
    for ours, theirs in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for row in first.rows:
        ours, theirs = first.masks(row.cycle), second.masks(row.cycle)
        assert list(ours) == list(theirs)
        for path in ours:
            np.testing.assert_array_equal(ours[path], theirs[path])


def times_masks(values, masks):
    """Weights by path with the kernels of the masked layers, which come first, times their masks."""
    return {
        path: [arrays[0] * masks[path], *arrays[1:]] if path in masks else arrays
        for path, arrays in values.items()
    }


def assert_same_weights(found, expected):
    assert list(found) == list(expected)
    for path in expected:
        for ours, theirs in zip(found[path], expected[path], strict=True):
            np.testing.assert_array_equal(ours, theirs)


# -- how much --------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_exactly_the_share_of_what_is_left_goes(keras_module):
    model = net(keras_module)
    before = model.get_weights()
    pruned = tfap.prune_iteratively(model, fit, rate=0.3, cycles=3, evaluate=loss, data=nets.data(model)[0])
    alive = [320, 224, 157, 110]  # less 96, 67 and 47
    assert [row.alive for row in pruned.rows] == alive
    for row, left in zip(pruned.rows, alive):
        assert row.sparsity == 1 - left / 320
        assert sum(int(mask.sum()) for mask in pruned.masks(row.cycle).values()) == left
        assert row.dead.rate == pytest.approx(row.dead.static + row.dead.dynamic)
        assert list(row.metrics) == ["score"] and list(row.training) == ["loss"]
        assert row.fit_seconds > 0 and row.evaluate_seconds > 0 and row.other_seconds > 0
    kernels = [pruned.model.get_layer(name).get_weights()[0] for name in "ab"]
    assert [np.count_nonzero(kernel) for kernel in kernels] == [
        int(mask.sum()) for mask in pruned.masks(3).values()
    ]
    assert pruned.rows[-1].metrics["score"] == loss(pruned.model)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_masks_only_lose_weights_and_local_scope_shares_them_out(keras_module):
    """Traced."""
    pruned = tfap.prune_iteratively(net(keras_module, eager=False), fit, rate=0.5, cycles=2, scope="local")
    assert [[int(mask.sum()) for mask in pruned.masks(cycle).values()] for cycle in range(3)] == [
        [192, 128],
        [96, 64],
        [48, 32],
    ]
    for path, mask in pruned.masks(2).items():
        assert (mask <= pruned.masks(1)[path]).all()


def test_one_weight_stays():
    assert alive_weights(3, 0.9, 4) == [3, 1, 1, 1, 1]


# -- what a cycle begins with ----------------------------------------------------------------------


def test_rewinding_to_the_first_weights(keras_module):
    """BatchNormalization's statistics and the biases too; the model comes trained, so none is its default."""
    model, spy = net(keras_module), Fit()
    x, y = nets.data(model)
    model.fit(x, y, epochs=1, verbose=0)
    first = read(model)
    pruned = tfap.prune_iteratively(model, spy, cycles=2)
    for cycle, began in enumerate(spy.began):
        assert_same_weights(began, times_masks(first, pruned.masks(cycle)))
    assert len({id(optimizer) for optimizer in spy.optimizers}) == 3


@pytest.mark.slow
def test_rewinding_to_an_epoch(keras_module):
    model, spy, seen = net(keras_module), Fit(), []

    class Look(keras_module.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(read(self.model))

    def looked_at(model, callbacks):
        return spy(model, [*callbacks, Look()])

    pruned = tfap.prune_iteratively(model, looked_at, cycles=2, rewind=1)
    for cycle in (1, 2):
        assert_same_weights(spy.began[cycle], times_masks(seen[0], pruned.masks(cycle)))
    with pytest.raises(ValueError, match="fit trained 2"):
        tfap.prune_iteratively(model, fit, rewind=3)


@pytest.mark.slow
def test_training_on(keras_module):
    model, spy, ended = net(keras_module), Fit(), []

    def watched(model, callbacks):
        spy(model, callbacks)
        ended.append(read(model))

    pruned = tfap.prune_iteratively(model, watched, cycles=2, rewind=None)
    for cycle in (1, 2):
        assert_same_weights(spy.began[cycle], times_masks(ended[cycle - 1], pruned.masks(cycle)))


@pytest.mark.slow
def test_drawing_anew(keras_module):
    spies = [Fit(), Fit()]
    for spy in spies:
        pruned = tfap.prune_iteratively(net(keras_module), spy, cycles=2, rewind="reinit")
    kernels = [began["a"][0] for began in spies[1].began]
    alive = pruned.masks(2)["a"] == 1
    assert (kernels[0] != kernels[1])[alive].all() and (kernels[1] != kernels[2])[alive].all()
    assert abs(kernels[2]).max() <= np.sqrt(6 / (12 + 16))  # Glorot's bound
    for began in spies[1].began[1:]:
        np.testing.assert_array_equal(began["norm"][2:], [np.zeros(8), np.ones(8)])
    for one, other in zip(spies[0].began[1:], spies[1].began[1:]):  # although the models are different
        np.testing.assert_array_equal((one["a"][0] != 0) * other["a"][0], (other["a"][0] != 0) * one["a"][0])


# -- criteria --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ap_measures_movement_from_the_begin_of_the_cycle(keras_module):
    """AP alone: of the negative weights those go that have moved least in the training before."""
    spy, ended = Fit(), []

    def watched(model, callbacks):
        spy(model, callbacks)
        ended.append(read(model))

    criterion = tfap.AP(share=1.0)
    pruned = tfap.prune_iteratively(net(keras_module), watched, criterion, rate=0.1, cycles=2)
    for cycle in (1, 2):
        moved = []
        for path, before in pruned.masks(cycle - 1).items():
            began, end = spy.began[cycle - 1][path][0], ended[cycle - 1][path][0]
            negative = (end < 0) & (before == 1)
            gone = (before == 1) & (pruned.masks(cycle)[path] == 0)
            assert (negative >= gone).all()
            moved += zip(np.abs(end - began)[negative], gone[negative])
        went = sum(gone for _, gone in moved)
        assert went == pruned.rows[cycle - 1].alive - pruned.rows[cycle].alive == [32, 29][cycle - 1]
        assert all(gone for _, gone in sorted(moved)[:went])


@pytest.mark.slow
def test_counts_are_those_of_the_cycle(keras_module):
    seen = []

    def watched(model, callbacks):
        fit(model, callbacks)
        seen.append([int(layer.activations_seen.numpy()) for layer in tfap.prunable_layers(model)])

    criterion = tfap.ActivationCount()
    pruned = tfap.prune_iteratively(
        net(keras_module), watched, criterion, cycles=2, granularity="weight", rewind=None
    )
    assert seen == [[128, 128]] * 3  # two epochs of 64 samples
    assert [row.alive for row in pruned.rows] == [320, 256, 205]


@pytest.mark.slow
def test_whole_neurons_and_gradients(keras_module):
    model = net(keras_module)
    neurons = tfap.prune_iteratively(model, fit, "activation_count", rate=0.5, cycles=1)
    assert 0 < neurons.rows[1].alive < 320
    gradients = tfap.prune_iteratively(model, fit, "gradient", cycles=1, gradient_data=nets.data(model))
    assert gradients.rows[1].alive == 256
    with pytest.raises(ValueError, match="needs gradients"):
        tfap.prune_iteratively(model, fit, "gradient")


# -- the same again --------------------------------------------------------------------------------


@pytest.mark.slow
def test_seeds_decide(keras_module):
    model = net(keras_module)
    drawn = []

    def drawing(model, callbacks):
        drawn.append(np.random.random())
        return fit(model, callbacks)

    first, second = (tfap.prune_iteratively(model, drawing, cycles=1, evaluate=loss) for _ in range(2))
    assert_equal(first, second)
    assert drawn[:2] == drawn[2:] and drawn[0] != drawn[1]  # every cycle has seeds of its own
    other = tfap.prune_iteratively(model, fit, cycles=1, evaluate=loss, seed=1)
    assert other.rows != first.rows


@pytest.mark.parametrize("rewind", [1, "reinit"])
@pytest.mark.slow
def test_a_directory_goes_on_to_the_same_bits(keras_module, tmp_path, rewind):
    """From every file that may be the last one there; the model of the second call has other weights."""
    model = net(keras_module)
    options = {"fit": fit, "cycles": 2, "rewind": rewind, "evaluate": loss, "data": nets.data(model)[0]}
    straight = tfap.prune_iteratively(model, **options)
    writes = ["cycle-000.json", "cycle-001.npz", "cycle-002.json"]  # arrays without a row are none
    replace = os.replace
    for last in writes:

        def stop_before(source, target, last=last):
            if str(target).endswith(last):
                raise KeyboardInterrupt
            replace(source, target)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", stop_before)
            tfap.prune_iteratively(model, **options, directory=tmp_path)
        model = net(keras_module)
    resumed = tfap.prune_iteratively(model, **options, directory=tmp_path)
    assert_equal(straight, resumed)

    def never(model, callbacks):
        raise AssertionError("all is on file")

    again = tfap.prune_iteratively(model, **{**options, "fit": never}, directory=tmp_path)
    assert_equal(straight, again)
    assert again.rows[0].fit_seconds == resumed.rows[0].fit_seconds


@pytest.mark.slow
def test_more_cycles_than_before(keras_module, tmp_path):
    model = net(keras_module)
    tfap.prune_iteratively(model, fit, cycles=1, directory=tmp_path)
    longer = tfap.prune_iteratively(model, fit, cycles=2, directory=tmp_path)
    assert_equal(longer, tfap.prune_iteratively(model, fit, cycles=2))
    shorter = tfap.prune_iteratively(model, fit, cycles=1, directory=tmp_path)
    assert shorter.rows == longer.rows[:2]
    for path, mask in shorter.masks(1).items():
        np.testing.assert_array_equal(mask, longer.masks(1)[path])
    for kernel, mask in zip(shorter.model.get_weights()[:3:2], shorter.masks(1).values()):
        np.testing.assert_array_equal(kernel != 0, mask)


KILLED = """
import importlib, os, random, signal, sys, time
import numpy as np, nets, tfap, test_iterative as tests

directory, draw = sys.argv[1], random.Random(int(sys.argv[3]))

def life(directory):
    pid = os.fork()
    if not pid:
        keras = importlib.import_module(sys.argv[2])
        keras.utils.set_random_seed(1)
        options = {"cycles": 2, "evaluate": tests.loss, "directory": directory}
        pruned = tfap.prune_iteratively(tests.net(keras, eager=False), tests.fit, **options)
        np.savez(directory + ".npz", *pruned.model.get_weights())
        os._exit(0)
    return pid

straight = life(directory + "-straight")
assert os.waitpid(straight, 0)[1] == 0
for kill in range(3):
    pid, begun = life(directory), len(os.listdir(directory))
    while len(os.listdir(directory)) <= begun and not os.path.exists(directory + ".npz"):
        time.sleep(0.01)  # so that every life gets somewhere
    time.sleep(draw.random() / 2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
assert os.waitpid(life(directory), 0)[1] == 0
"""


@pytest.mark.parametrize("keras_name", ["keras", "tf_keras"])
@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, keras_name):
    """Children of one process, forked before TensorFlow starts, killed while they train or write."""
    (tmp_path / "killed").mkdir()
    seed = str(random.randrange(2**32))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), keras_name, seed]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{seed}: {done.stderr}"
    with np.load(tmp_path / "killed.npz") as killed, np.load(tmp_path / "killed-straight.npz") as straight:
        for name in straight.files:
            np.testing.assert_array_equal(killed[name], straight[name])
    for cycle in range(3):
        files = [tmp_path / folder / f"cycle-{cycle:03d}" for folder in ("killed", "killed-straight")]
        killed, straight = (json.loads(file.with_suffix(".json").read_text()) for file in files)
        for seconds in ("fit_seconds", "evaluate_seconds", "other_seconds"):
            del killed[seconds], straight[seconds]
        assert killed == straight


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_directory_of_other_settings_or_files(keras_module, tmp_path):
    model = net(keras_module)
    tfap.prune_iteratively(model, fit, cycles=1, directory=tmp_path / "cycles")
    for other in ({"rate": 0.3}, {"seed": 1}, {"rewind": None}, {"criterion": "lamp"}, {"scope": "local"}):
        with pytest.raises(ValueError, match="other settings"):
            tfap.prune_iteratively(model, fit, cycles=1, directory=tmp_path / "cycles", **other)
    with pytest.raises(ValueError, match="another model"):
        tfap.prune_iteratively(nets.mlp(keras_module), fit, cycles=1, directory=tmp_path / "cycles")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        tfap.prune_iteratively(model, fit, directory=tmp_path / "file")
    (tmp_path / "cycles" / "cycle-001.json").write_text("{}")
    with pytest.raises(ValueError, match="not a row of tfap.prune_iteratively"):
        tfap.prune_iteratively(model, fit, cycles=1, directory=tmp_path / "cycles")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rate": 0.0}, "rate must be in"),
        ({"rate": 1}, "rate must be in"),
        ({"cycles": 0}, "cycles must be an integer >= 1"),
        ({"cycles": True}, "cycles must be an integer >= 1"),
        ({"rewind": "first"}, 'rewind must be "init"'),
        ({"rewind": 0}, 'rewind must be "init"'),
        ({"scope": "layerwise"}, r"scope must be one of \('global', 'local', 'isomorphic'\)"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"fit": None}, "fit must be a function"),
        ({"evaluate": 3}, "evaluate must be a function"),
        ({"data": iter([])}, "iterator"),
        ({"criterion": "size"}, "size"),
        ({"model": 3}, "Keras model"),
    ],
)
def test_bad_arguments(keras_module, wrong, message):
    arguments = {"model": net(keras_module), "fit": pytest.fail, **wrong}
    with pytest.raises((TypeError, ValueError), match=message):
        tfap.prune_iteratively(**arguments)


def test_a_wrapped_model_and_a_bad_metric(keras_module):
    model = net(keras_module)
    with pytest.raises(ValueError, match="strip_pruning"):
        tfap.prune_iteratively(tfap.prune(model, 0.5), fit)
    with pytest.raises(TypeError, match="a number or a dict"):
        tfap.prune_iteratively(model, fit, cycles=1, evaluate=lambda model: "good")


# -- to look at ------------------------------------------------------------------------------------


def test_table_file_and_figure(tmp_path):
    dead = [DeadNeurons(24, 0.5, 0.25, 0.25), None]
    for number, rates in enumerate(dead):
        rows = [
            Row(0, 0.0, 320, {"accuracy": 0.75}, {"loss": 1.5}, rates, 10.0, 1.0, 0.5),
            Row(1, 0.2, 256, {"accuracy": 0.5}, {"loss": 2.5}, rates, 10.0, 1.0, 0.5),
        ]
        result = IterativePruning(rows, [], None)
        text = str(result)
        assert "20.00%" in text and "256" in text and "0.75" in text
        assert ("dynamic" in text) == (rates is not None)
        result.to_csv(tmp_path / "rows.csv")
        with open(tmp_path / "rows.csv", newline="") as file:
            lines = list(csv.DictReader(file))
        assert [float(line["training_loss"]) for line in lines] == [1.5, 2.5]
        assert ("dead_dynamic" in lines[0]) == (rates is not None)
        figure = result.plot()
        assert len(figure.axes) == 2 - number
        figure.savefig(tmp_path / "figure.png")
        with pytest.raises(ValueError, match="no metric 'loss'"):
            result.plot("loss")
        with pytest.raises(ValueError, match="no cycle 2"):
            result.masks(2)
    untested = IterativePruning([Row(0, 0.0, 320, {}, {"loss": 1.5}, None, 10.0, 0.0, 0.5)], [], None)
    assert "loss" in str(untested) and untested.plot()


def test_a_metric_named_like_another_column():
    """It would be overwritten in to_dict() and to_csv()."""
    for name in ("sparsity", "training_loss", "fit_seconds"):
        with pytest.raises(ValueError, match=f"evaluate names a metric like another column: {name}"):
            check_metric_names({name: 0.5}, {"loss": 1.0}, None)
    check_metric_names({"accuracy": 0.5, "dead_rate": 0.1}, {"loss": 1.0}, None)
    with pytest.raises(ValueError, match="like another column: dead_rate"):
        check_metric_names({"accuracy": 0.5, "dead_rate": 0.1}, {}, DeadNeurons(1, 0, 0, 0))
