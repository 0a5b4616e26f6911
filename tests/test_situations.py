"""Every situation of tests/situations.py through all steps of pruning, with their expected values."""

import numpy as np
import pytest
import tensorflow as tf
from situations import SAMPLES, SITUATIONS

import tfap
from tfap.layers.find import with_paths

pytestmark = pytest.mark.one_keras

UPDATE = 2  # of four steps: two epochs of two batches


# Their layers or training steps call TensorFlow.
IN_TENSORFLOW = {
    *("distiller", "gan", "residual_layers", "super_resolution", "super_resolution_in_a_trainer"),
    *("tabular", "vae"),
}


def marks(situation):
    if situation.make.__name__ in IN_TENSORFLOW:
        yield pytest.mark.tensorflow_only(reason="it is written in TensorFlow")
    if situation.heavy:
        yield pytest.mark.slow


RUNS = [pytest.param(each, id=each.make.__name__, marks=list(marks(each))) for each in SITUATIONS]


@pytest.mark.parametrize("situation", RUNS)
def test_situation(keras_module, situation, tmp_path):
    case = situation.make(keras_module, np.random.default_rng(0))
    check_plan(situation, case)
    wrapped = check_training(situation, case)
    check_files(keras_module, case, wrapped, tmp_path)
    plain = check_stripped(case, wrapped)
    smaller = check_compacted(situation, case, wrapped, plain)
    check_exported(situation, case, smaller, tmp_path)
    check_report(situation, case, {"plain": plain, "smaller": smaller})


def check_plan(situation, case):
    rows = tfap.plan(case.model, **situation.prune)
    assert {row.path for row in rows if row.pruned} == set(situation.pruned), rows
    skipped = {row.path: row.reason for row in rows if not row.pruned and row.path not in situation.pruned}
    for path, reason in situation.skipped.items():
        assert reason in skipped.pop(path), rows
    # The others have no kernel.
    assert all("layers have no kernel that tfap knows" in reason for reason in skipped.values()), rows


def check_training(situation, case):
    schedule = tfap.ConstantSparsity(0.5, UPDATE, end_step=UPDATE, frequency=1)
    wrapped = tfap.prune(case.model, schedule, **situation.prune)
    before = wrapped.get_weights()
    assert_equal(outputs(wrapped, case), outputs(case.model, case))
    trained = case.trainer(wrapped) if case.trainer else wrapped
    history = trained.fit(
        **{"x": case.x, "y": case.y, **case.fit},
        epochs=2,
        batch_size=SAMPLES // 2,
        shuffle=False,
        verbose=0,
        callbacks=[tfap.UpdatePruningStep()],
    ).history
    assert all(np.isfinite(values).all() for values in history.values()), history
    masks, size = {}, 0
    for path, wrapper in with_paths(wrapped):
        assert int(wrapper.pruning_step.numpy()) == 4 and int(wrapper.last_update_step.numpy()) == UPDATE
        kernels = [(np.asarray(kernel), mask.numpy()) for _, kernel, mask in wrapper.kernel_and_mask()]
        assert all(not kernel[mask == 0].any() for kernel, mask in kernels)
        masks[path] = tuple(int((mask == 0).sum()) for _, mask in kernels)
        size += sum(mask.size for _, mask in kernels)
        if wrapper.criterion.counts:
            assert wrapper.counted().seen % (4 * SAMPLES // 2) == 0 < wrapper.counted().seen
    pruned = {path: counts if len(counts) > 1 else counts[0] for path, counts in masks.items()}
    assert pruned == situation.pruned
    assert history["sparsity"] == pytest.approx([sum(map(sum, masks.values())) / size] * 2)
    changed = [not np.array_equal(old, new) for old, new in zip(before, wrapped.get_weights())]
    assert np.mean(changed) > 0.3
    return wrapped


def check_files(keras, case, wrapped, folder):
    wrapped.save(folder / "wrapped.keras")
    loaded = keras.models.load_model(folder / "wrapped.keras")
    assert_equal(outputs(loaded, case), outputs(wrapped, case))
    for (path, mine), (same_path, others) in zip(with_paths(loaded), with_paths(wrapped), strict=True):
        assert path == same_path
        for (*_, mask), (*_, same_mask) in zip(mine.kernel_and_mask(), others.kernel_and_mask(), strict=True):
            np.testing.assert_array_equal(mask.numpy(), same_mask.numpy())


def check_stripped(case, wrapped):
    plain = tfap.strip_pruning(wrapped)
    assert not tfap.prunable_layers(plain)
    assert plain.count_params() == case.model.count_params()
    assert_equal(outputs(plain, case), outputs(wrapped, case))
    return plain


def check_compacted(situation, case, wrapped, plain):
    smaller = tfap.compact(plain, data=case.x)
    report = tfap.compaction_report(plain, smaller, case.x)
    assert report.exact and report.on_data
    assert report.weights == (plain.count_params(), smaller.count_params())
    assert {
        path: after
        for path, (before, after) in [(change.path, change.units) for change in report.layers]
        if after != before
    } == situation.units
    assert {kept.path for kept in report.kept} == set(situation.kept), report.kept
    for kept in report.kept:
        channels, reason = situation.kept[kept.path]
        assert channels in (None, kept.channels) and reason in kept.reason, kept
    assert (report.weights[1] < report.weights[0]) == bool(situation.units)
    return smaller


def check_exported(situation, case, smaller, folder):
    options = {"format": "saved_model", **situation.export}
    suffix = "" if options["format"] == "saved_model" else f".{options['format']}"
    path = tfap.export(smaller, folder / f"smaller{suffix}", data=case.x, **options)
    served = tfap.load_runtime(path)(*inputs_in_order(smaller, case.x))
    for mine, others in zip(served, outputs(smaller, case), strict=True):
        allowed = situation.tolerance * np.abs(others).max()
        np.testing.assert_allclose(mine, others, rtol=0, atol=allowed)


def check_report(situation, case, models):
    arguments = dict(data=(case.x, case.y), metric=situation.metric) if situation.score else {}
    report = tfap.report(models, "plain", batch_sizes=(), **arguments)
    for name, model in models.items():
        floats = [weight.size for weight in model.get_weights() if "float" in str(weight.dtype)]
        assert report[name].weights == sum(floats)
        if situation.score:
            assert report[name].score == pytest.approx(score(situation, case, model), rel=1e-4)
        else:
            assert report[name].score is None


def score(situation, case, model):
    found = outputs(model, case)
    if situation.metric:
        return situation.metric(case.y, found[0])
    if len(found) > 1:
        return model.evaluate(case.x, case.y, batch_size=SAMPLES, verbose=0, return_dict=True)["loss"]
    return np.mean(found[0].argmax(axis=-1) == case.y)


def inputs_in_order(model, x):
    if isinstance(x, dict):
        return [np.asarray(x[tensor.name.split(":")[0]]) for tensor in model.inputs]
    return [x]


def outputs(model, case):
    return [np.asarray(output) for output in tf.nest.flatten(model(case.x, training=False))]


def assert_equal(received, expected):
    for mine, others in zip(received, expected, strict=True):
        assert np.isfinite(mine).all()
        np.testing.assert_array_equal(mine, others)
