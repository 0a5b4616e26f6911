"""What PruningSummaries writes for TensorBoard, read back from its files."""

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap.layers.find import with_paths

pytestmark = pytest.mark.one_keras
EVERY_STEP = tfap.PolynomialDecay(0.0, 0.8, 1, 9, frequency=1)


def events(folder):
    """`{(name, step): array}` of all that is in a folder."""
    found = {}
    for file in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                kind = value.metadata.plugin_data.plugin_name
                assert kind == ("histograms" if value.tag.endswith("firing_rates") else "scalars")
                found[value.tag, event.step] = tf.make_ndarray(value.tensor)
    return found


def fitted(keras, folder, build=nets.mlp, epochs=3, criterion="activation_count", **settings):
    wrapped = tfap.prune(build(keras), EVERY_STEP, criterion)
    summaries = tfap.PruningSummaries(folder, **settings)
    nets.fit(wrapped, epochs, [tfap.UpdatePruningStep(), summaries])
    return wrapped, events(folder)


@pytest.mark.parametrize("build", [nets.mlp, nets.nested])
def test_what_is_written_after_the_last_epoch(keras_module, tmp_path, build):
    wrapped, found = fitted(keras_module, tmp_path, build)
    pruned = 0
    for path, wrapper in with_paths(wrapped):
        kernel, mask = np.array(wrapper.layer.get_weights()[0]), wrapper.mask.numpy()
        assert found[f"pruning/{path}/sparsity", 2] == pytest.approx(1 - mask.mean())
        assert found[f"pruning/{path}/threshold", 2] == np.abs(kernel[mask != 0]).min()
        pruned += (mask == 0).sum()
    assert found["pruning/sparsity", 2] == pytest.approx(pruned / nets.prunable_weights(wrapped))
    assert 0 < found["pruning/sparsity", 0] < found["pruning/sparsity", 2]
    assert {step for _, step in found} == {0, 1, 2}


@pytest.mark.smoke
def test_firing_rates_are_those_of_each_epoch(keras_module, tmp_path):
    class Watch(keras_module.callbacks.Callback):
        totals = []

        def on_epoch_end(self, epoch, logs=None):
            self.totals.append({path: wrapper.counted() for path, wrapper in with_paths(self.model)})

    wrapped = tfap.prune(nets.mlp(keras_module), EVERY_STEP)
    watch, summaries = Watch(), tfap.PruningSummaries(tmp_path)
    Watch.totals = []
    nets.fit(wrapped, 3, [tfap.UpdatePruningStep(), summaries, watch])
    nets.fit(wrapped, 1, [tfap.UpdatePruningStep(), tfap.PruningSummaries(tmp_path / "second"), watch])
    found = events(tmp_path)
    again = {(name, 3): value for (name, _), value in events(tmp_path / "second").items()}
    for epoch in range(4):
        for path, counts in watch.totals[epoch].items():
            window = counts - watch.totals[epoch - 1][path] if epoch else counts
            rates = window.firing_rate
            values = again if epoch == 3 else found
            assert values[f"pruning/{path}/firing_rate", epoch] == pytest.approx(rates.mean())
            assert values[f"pruning/{path}/silent", epoch] == pytest.approx((rates == 0).mean())
            histogram = values[f"pruning/{path}/firing_rates", epoch]
            assert histogram.shape == (30, 3) and histogram[:, 2].sum() == len(rates)
            assert histogram[-1, 2] == (rates >= histogram[-1, 0]).sum()


def test_firing_rates_on_data(keras_module, tmp_path):
    """Also of a criterion that counts nothing, and of the layer that an activation of its own follows."""
    x = np.random.default_rng(1).normal(size=(32, 12)).astype("float32")
    wrapped, found = fitted(keras_module, tmp_path, criterion="magnitude", data=x)
    for path, counts in tfap.measure_activations(wrapped, x).items():
        assert found[f"pruning/{path}/firing_rate", 2] == pytest.approx(counts.firing_rate.mean())
        assert found[f"pruning/{path}/silent", 2] == pytest.approx((counts.counts == 0).mean())


def test_a_criterion_that_counts_nothing(keras_module, tmp_path):
    _, found = fitted(keras_module, tmp_path, criterion="magnitude")
    assert {name.rsplit("/")[-1] for name, _ in found} == {"sparsity", "threshold"}


SEVERAL = pytest.mark.not_on_torch(reason="Keras takes one step per execution there")


@pytest.mark.parametrize("steps_per_execution", [1, pytest.param(3, marks=SEVERAL)])
def test_every_few_batches(keras_module, tmp_path, steps_per_execution):
    model = nets.mlp(keras_module)
    model.compile("sgd", model.loss, steps_per_execution=steps_per_execution)
    wrapped = tfap.prune(model, EVERY_STEP)
    summaries = tfap.PruningSummaries(tmp_path, update_freq=3)
    nets.fit(wrapped, 3, [tfap.UpdatePruningStep(), summaries])  # 4 batches each
    steps = sorted({step for _, step in events(tmp_path)})
    if steps_per_execution == 1:
        assert steps == [3, 6, 9, 12]
    else:  # the ends of executions
        assert set(steps) <= {3, 4, 7, 8, 11, 12} and len(steps) >= 4 and steps[-1] == 12


def test_training_is_the_same_with_and_without_it(keras_module, tmp_path):
    weights = []
    for callbacks in ([], [tfap.PruningSummaries(tmp_path)]):
        keras_module.utils.set_random_seed(3)
        wrapped = tfap.prune(nets.mlp(keras_module), EVERY_STEP)
        nets.fit(wrapped, 2, [tfap.UpdatePruningStep(), *callbacks])
        weights.append(wrapped.get_weights())
    for ours, theirs in zip(*weights):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.smoke
def test_a_step_costs_nothing(keras_module, tmp_path):
    """Keras calls nothing of it at the end of a batch: its method is that of the base class."""
    base = keras_module.callbacks.Callback
    for name in ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"):
        method = getattr(tfap.PruningSummaries(tmp_path), name)
        assert method.__func__.__module__.split(".")[0] in ("keras", "tf_keras")
        assert name in vars(base)
    assert tfap.PruningSummaries(tmp_path, update_freq=2).on_train_batch_end.__name__ == "_end_batch"


@pytest.mark.slow
def test_a_subclassed_model(keras_module, tmp_path):
    hidden = tfap.prune(keras_module.layers.Dense(6, "relu"), EVERY_STEP, scope="local")
    model = nets.subclassed(keras_module, hidden)
    x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    callbacks = [tfap.UpdatePruningStep(), tfap.PruningSummaries(tmp_path)]
    model.fit(x, np.zeros(64, int), epochs=2, batch_size=16, verbose=0, callbacks=callbacks)
    found = events(tmp_path)
    assert found[f"pruning/{hidden.name}/sparsity", 1] > 0
    assert 0 < found[f"pruning/{hidden.name}/firing_rate", 1] < 1


def test_tensorboard_reads_it(keras_module, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fitted(keras_module, tmp_path, epochs=1)
    reader = accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    assert {"pruning/hidden_0/sparsity", "pruning/hidden_0/firing_rates"} <= set(reader.Tags()["tensors"])


def test_wrong_arguments(keras_module, tmp_path):
    with pytest.raises(TypeError, match="log_dir must be the path of a folder: received 3"):
        tfap.PruningSummaries(3)
    with pytest.raises(TypeError, match=r"update_freq must be an integer >= 1: received 'batch'"):
        tfap.PruningSummaries(tmp_path, update_freq="batch")
    with pytest.raises(ValueError, match="update_freq must be an integer >= 1: received 0"):
        tfap.PruningSummaries(tmp_path, update_freq=0)
    with pytest.raises(ValueError, match="data must be re-iterable"):
        tfap.PruningSummaries(tmp_path, data=iter([np.zeros((2, 12))]))
    with pytest.raises(ValueError, match="has no pruning wrappers: call tfap.prune"):
        nets.fit(nets.mlp(keras_module), callbacks=[tfap.PruningSummaries(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_without_tensorflow(monkeypatch, tmp_path):
    import sys

    from tfap.utils.summaries import Summaries

    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ModuleNotFoundError, match="PruningSummaries.* pip install tensorflow"):
        Summaries(tmp_path, "PruningSummaries")
