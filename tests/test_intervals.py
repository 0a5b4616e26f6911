"""AccuracyIntervals and StopWhenPruned: prunes at the ends of epochs in which a metric passed a threshold."""

import json
import logging
import pathlib

import nets
import numpy as np
import pytest
import tf_keras

import tfap
from tfap import keras_compat, schedules

pytestmark = pytest.mark.one_keras

SHARES = json.loads((pathlib.Path(__file__).parent / "golden/exp_decay.json").read_text())
STEADY = {"samples": 32, "batch_size": 16}


class Says:
    """A callback that writes its own metrics into the logs, one list entry an epoch."""

    def __new__(cls, keras, **metrics):
        class Callback(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs.update({name: values[epoch] for name, values in metrics.items()})

        return Callback()


def intervals(sparsity=0.75, **arguments):
    return tfap.AccuracyIntervals(sparsity, **{"metric": "told", **arguments})


def fit(keras, model, told, callbacks=(), **arguments):
    callbacks = [Says(keras, told=told), tfap.UpdatePruningStep(), *callbacks]
    history = nets.fit(model, **STEADY, **{"epochs": len(told), **arguments}, callbacks=callbacks)
    return history.history["sparsity"]


def pruned_mlp(keras, schedule, **arguments):
    return tfap.prune(nets.mlp(keras), schedule, "magnitude", **arguments)


# -- the schedule ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prunes", [int(number) for number in SHARES["samples"]])
@pytest.mark.parametrize("percent", [80, 85, 90])
def test_shares_of_the_authors(prunes, percent):
    expected = np.cumsum(SHARES["samples"][str(prunes)][f"times_{percent}"]) / 100
    found = tfap.AccuracyIntervals(percent / 100, prunes).sparsities
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_other_decays():
    for kept_out, percents in SHARES["other_b_samples5"].items():
        found = tfap.AccuracyIntervals(0.5, 5, decay=1 - float(kept_out)).sparsities
        np.testing.assert_allclose(found, 0.5 * np.cumsum(percents) / 100, rtol=1e-12)


def test_thresholds_do_not_add_up_rounding_errors():
    found = tfap.AccuracyIntervals(0.9, 10).thresholds
    assert found == [0.80 + k * ((0.98 - 0.80) / 10) for k in range(10)]
    added = [0.80]
    for _ in range(9):
        added.append(added[-1] + (0.98 - 0.80) / 10)
    assert found != added  # what the comment in the code is about


def test_a_metric_that_falls():
    schedule = tfap.AccuracyIntervals(0.6, 2, begin=1.0, end=0.0, metric="loss", decay=1.0)
    assert schedule.thresholds == [1.0, 0.5]
    assert schedule.on_epoch_end({"loss": 1.1}, 0) is None
    assert schedule.on_epoch_end({"loss": 1.0}, 0) == pytest.approx(0.3)
    assert schedule.on_epoch_end({"loss": 0.9}, 1) is None
    assert schedule.on_epoch_end({"loss": 0.4}, 1) == pytest.approx(0.6)
    assert schedule.on_epoch_end({"loss": 0.0}, 2) is None


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"final_sparsity": 1.0}, r"final_sparsity must be in \(0, 1\): received 1.0"),
        ({"prunes": 0}, "prunes must be an integer >= 1: received 0"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\]: received 1.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfap.AccuracyIntervals(**{"final_sparsity": 0.5, **arguments})


# -- in a fit --------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_prunes_where_the_metric_passes_and_once_an_epoch(keras_module):
    schedule = intervals(0.75, prunes=3, begin=0.25, end=1.0)  # thresholds 0.25, 0.5, 0.75
    model = pruned_mlp(keras_module, schedule)
    found = fit(keras_module, model, [0.2, 0.25, 0.99, 0.1, 0.74, 0.75, 0.9])
    first, second, third = (round(share * 320) / 320 for share in schedule.sparsities)  # 320 weights
    assert found == pytest.approx([0, first, second, second, second, third, third])
    assert third == 0.75 and nets.pruned_weights(model) == 240


def test_counts_go_on_through_all_prunes(keras_module):
    model = tfap.prune(nets.mlp(keras_module), intervals(prunes=2, begin=0, end=0), granularity="weight")
    fit(keras_module, model, [1, 1, 1])
    assert [int(layer.activations_seen.numpy()) for layer in tfap.prunable_layers(model)] == [96, 96]
    assert nets.pruned_weights(model) == 240


@pytest.mark.parametrize("splits", [(1, 4), (3, 2)])
@pytest.mark.slow
def test_state_is_saved_and_resumed(keras_module, tmp_path, splits):
    told = [0.5, 0.55, 0.62, 0.3, 0.9]
    schedule = intervals(0.75, prunes=3, begin=0.5, end=0.8)
    straight = pruned_mlp(keras_module, schedule)
    stopped = pruned_mlp(keras_module, schedule)
    stopped.set_weights(straight.get_weights())
    expected = fit(keras_module, straight, told)
    first, _ = splits
    begun = fit(keras_module, stopped, told, epochs=first)
    stopped.save(tmp_path / "stopped.keras")
    resumed = keras_module.models.load_model(tmp_path / "stopped.keras")
    assert begun + fit(keras_module, resumed, told, epochs=5, initial_epoch=first) == expected
    for ours, theirs in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_prunes_that_are_missing_are_said_loudly(keras_module, caplog):
    model = pruned_mlp(keras_module, intervals(prunes=3, begin=0.5, end=0.8))
    with caplog.at_level(logging.WARNING):
        fit(keras_module, model, [0.5, 0.58, 0.56])
    assert "2 of 3 prunes did not happen" in caplog.text
    assert "needs told >= 0.6, but this fit reached 0.58" in caplog.text


def test_a_metric_that_is_not_logged_fails_after_the_first_batch(keras_module):
    model = pruned_mlp(keras_module, tfap.AccuracyIntervals(0.5))
    with pytest.raises(ValueError, match=r"needs the metric 'accuracy', but fit\(\) logs loss.*metrics="):
        nets.fit(model, **STEADY, epochs=1)


def test_validation_metrics(keras_module):
    model = pruned_mlp(keras_module, tfap.AccuracyIntervals(0.5, 1, 1e9, 0, metric="val_loss"))
    x, y = nets.data(model)
    history = model.fit(
        *(x, y), epochs=2, verbose=0, validation_data=(x, y), callbacks=[tfap.UpdatePruningStep()]
    )
    assert history.history["sparsity"] == [0.5, 0.5]


@pytest.mark.slow
def test_fit_and_compact_with_intervals(keras_module):
    model = nets.mlp(keras_module, (12, 32, 16, 4))
    x, y = nets.data(model)
    always = tfap.AccuracyIntervals(0.5, 2, begin=1e9, end=0, metric="loss")
    fitted = tfap.fit_and_compact(model, always, x, y, epochs=4, stages=4, verbose=0)
    dense, hidden = (sum(w.size for w in m.get_weights()[:4:2]) for m in (model, fitted.model))
    assert hidden <= 0.5 * dense  # 384 + 512 prunable weights
    assert fitted.history["sparsity"][0] > 0.2


@pytest.mark.slow
def test_stopping_in_fit_and_compact(keras_module):
    model = nets.mlp(keras_module)
    x, y = nets.data(model)
    stop = tfap.StopWhenPruned("loss", 0.0)
    for schedule in (0.5, tfap.PolynomialDecay(0.0, 0.5, 1, 3, frequency=1)):
        fitted = tfap.fit_and_compact(model, schedule, x, y, stages=1, epochs=3, verbose=0, callbacks=[stop])
        assert len(fitted.history["loss"]) == 3 and fitted.history["sparsity"][-1] > 0.2


def test_epochs_without_validation_are_passed_over(keras_module):
    model = pruned_mlp(keras_module, tfap.AccuracyIntervals(0.5, 2, 1e9, 0, metric="val_loss"))
    x, y = nets.data(model)
    fit = {"validation_data": (x, y), "validation_freq": 2, "callbacks": [tfap.UpdatePruningStep()]}
    history = model.fit(x, y, epochs=4, verbose=0, **fit).history["sparsity"]
    assert history[0] == 0 and history[1] == history[2] > 0 and history[3] == 0.5


def test_a_loop_of_ones_own_must_tell_the_logs(keras_module):
    model = pruned_mlp(keras_module, tfap.AccuracyIntervals(0.5))
    callback = tfap.UpdatePruningStep()
    callback.set_model(model)
    callback.set_params({})
    callback.on_train_begin()
    model.train_on_batch(*nets.data(model))
    callback.on_train_batch_end(0)
    with pytest.raises(ValueError, match=r"needs the metric 'accuracy', but fit\(\) logs no metrics"):
        callback.on_epoch_end(0)


# -- other callbacks -------------------------------------------------------------------------------


def test_under_tfmots_own_callback_it_is_a_clear_error():
    keras = tf_keras
    layers = [keras.layers.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)]
    tfmot = keras_compat.tfmot.sparsity.keras
    model = tfmot.prune_low_magnitude(keras.Sequential(layers), pruning_schedule=tfap.AccuracyIntervals(0.5))
    model.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match=r"pass callbacks=\[tfap.UpdatePruningStep\(\)\]"):
        model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0, callbacks=[tfmot.UpdatePruningStep()])


def test_our_wrapper_under_tfmots_callback_names_ours():
    keras = tf_keras
    layer = tfap.layers.PruneByActivation(
        keras.layers.Dense(8, "relu"), tfap.AccuracyIntervals(0.5), scope="local"
    )
    model = nets.compiled(keras, keras.Sequential([keras.layers.Input((4,)), layer]), "mse")
    tfmots = keras_compat.tfmot.sparsity.keras.UpdatePruningStep()
    with pytest.raises(RuntimeError, match="tfap.UpdatePruningStep"):
        model.fit(np.ones((8, 4)), np.ones((8, 8)), verbose=0, callbacks=[tfmots])


def test_stops_one_epoch_after_the_last_prune(keras_module):
    model = pruned_mlp(keras_module, intervals(prunes=2, begin=0.5, end=0.7))
    told = [0.99, 0.99, 0.99, 0.99]  # good enough all the time; pruned in epochs 0 and 1
    found = fit(keras_module, model, told, callbacks=[tfap.StopWhenPruned("told", 0.9, "max")])
    assert len(found) == 3


def test_does_not_stop_below_its_value(keras_module):
    model = pruned_mlp(keras_module, intervals(prunes=1, begin=0.5, end=0.7))
    found = fit(
        keras_module, model, [0.9, 0.5, 0.8, 0.95], callbacks=[tfap.StopWhenPruned("told", 0.8, "max")]
    )
    assert len(found) == 3


@pytest.mark.parametrize("mode,stops", [("auto", 2), ("max", 1), ("min", 2)])
def test_the_direction_of_a_metric(keras_module, mode, stops):
    """On a dense net only the metric counts."""
    model = nets.mlp(keras_module)
    told = Says(keras_module, told_loss=[0.5, 0.1, 0.1])
    stop = tfap.StopWhenPruned("told_loss", 0.2, mode=mode)
    assert len(nets.fit(model, **STEADY, epochs=3, callbacks=[told, stop]).epoch) == stops


def test_bad_stopping(keras_module):
    with pytest.raises(ValueError, match=r"mode must be one of \('auto', 'max', 'min'\)"):
        tfap.StopWhenPruned("loss", 0.1, mode="down")
    with pytest.raises(ValueError, match="Whether 'told' rises or falls is unknown: pass mode="):
        tfap.StopWhenPruned("told", 0.1)
    assert tfap.StopWhenPruned("val_mae", 0.1).mode == "min"
    model = pruned_mlp(keras_module, 0.5)
    with pytest.raises(ValueError, match="waits for the metric 'told', and fit logs loss, sparsity"):
        nets.fit(model, callbacks=[tfap.UpdatePruningStep(), tfap.StopWhenPruned("told", 1.0, "max")])


@pytest.mark.parametrize(
    "schedule,last",
    [
        (tfap.PolynomialDecay(0.0, 0.5, 2, 9, frequency=1), 9),
        (tfap.ConstantSparsity(0.5, 4, frequency=2), 4),
        (tfap.IterativeSparsity(0.5, updates=3, frequency=5), 15),
    ],
    ids=lambda value: type(value).__name__,
)
def test_when_a_schedule_of_steps_is_over(schedule, last):
    assert not schedules.is_over(schedule, last - 1, updates=0)
    assert schedules.is_over(schedule, last, updates=0)


def test_a_schedule_that_does_not_tell_its_end(keras_module):
    class Mine(tfap.PruningSchedule):
        def __call__(self, step):
            return step > 0, 0.5

        def get_config(self):
            return {"class_name": "Mine", "config": {}}

    model = pruned_mlp(keras_module, Mine())
    with pytest.raises(ValueError, match="Mine has no end_step: add an attribute `end_step`"):
        nets.fit(model, callbacks=[tfap.UpdatePruningStep(), tfap.StopWhenPruned("loss", 0.1)])
