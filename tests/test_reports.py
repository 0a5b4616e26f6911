import csv
import sys

import nets
import numpy as np
import pytest
import tensorflow as tf

import tfap
from tfap.reporting.latency import Latency, Ratio
from tfap.reporting.table import ModelReport, Report

pytestmark = pytest.mark.one_keras

LIKE_ANY_NUMBER = "The zeros are stored and computed like any number: compact() removes whole neurons."


# -- figures to words ------------------------------------------------------------------------------


def latencies(*ratio):
    return {1: Latency(0.001, 0.0009, 0.002, 100, Ratio(*ratio) if ratio else None)}


def made(times=None, **changes):
    """A report on a made-up model beside a made-up baseline."""
    figures = {"weights": 1000, "nonzero": 990, "bytes": 8000, "gzipped_bytes": 6000, "flops": 1800}
    base = ModelReport("dense", "keras", **figures, latency=latencies() if times else {}, score=0.9)
    row = ModelReport("small", "keras", **figures | changes, latency=latencies(*times) if times else {})
    return Report([base, row], "dense")


def test_zeros_that_bring_no_speed():
    assert made((1.0, 0.98, 1.02), nonzero=250, gzipped_bytes=2000).verdict == (
        "small: 75.0% of its weights are zero, but its kernels are of the same size as those of 'dense'. "
        f"It is not measurably faster (batch 1: x 1.00 (0.98 to 1.02)). {LIKE_ANY_NUMBER} "
        "Only its gzipped file is smaller, 3.0 times."
    )


def test_zeros_without_times():
    assert made(nonzero=250).verdict == (
        "small: 75.0% of its weights are zero, but its kernels are of the same size as those of 'dense'. "
        + LIKE_ANY_NUMBER
    )


def test_a_smaller_model():
    found = made((0.5, 0.45, 0.55), weights=200, nonzero=200, flops=300, bytes=2000).verdict
    assert found == (
        "small: It has 5.0 times fewer weights, 6.0 times fewer FLOPs, 4.0 times fewer bytes. "
        "It is faster at batch 1 (x 0.50 (0.45 to 0.55))."
    )


def test_zeros_that_are_left_in_a_smaller_model():
    assert LIKE_ANY_NUMBER in made((0.5, 0.45, 0.55), weights=500, nonzero=250).verdict


def test_a_runtime_that_skips_zeros_may_be_faster():
    assert LIKE_ANY_NUMBER not in made((0.5, 0.45, 0.55), nonzero=250).verdict


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((0.9, 0.8, 1.1), "not measurably faster"),
        ((0.96, 0.955, 0.965), "not measurably faster"),
        ((1.3, 1.2, 1.4), "slower at batch 1"),
    ],
)
def test_differences_within_the_noise(times, said):
    assert said in made(times).verdict


def test_without_a_baseline():
    row = ModelReport("pruned", "keras", weights=100, nonzero=25)
    assert Report([row]).verdict == f"pruned: 75.0% of its weights are zero. {LIKE_ANY_NUMBER}"
    assert Report([ModelReport("dense", "keras", weights=100, nonzero=99)]).verdict == ""


def test_the_table():
    report = Report([*made((1.0, 0.98, 1.02)), ModelReport("x", "onnx", latency=latencies(2, 2, 2))], "dense")
    lines = [line.split() for line in str(report).splitlines()]
    assert lines[3][:9] == ["dense", "1,000", "990", "1.0%", "8.0", "kB", "6.0", "kB", "1,800"]
    assert lines[3][-5:] == ["1", "(0.9", "to", "2)", "90.00%"]
    assert lines[5] == ["x", "1.00", "(0.98", "to", "1.02)"]  # below the time of the second row
    assert any(line[:7] == ["x", *["-"] * 6] for line in lines)
    assert repr(report) == str(report) and report.verdict.splitlines()[0][:40] in str(report)


def test_names_in_brackets_are_no_markup():
    assert "[bold]a" in str(Report([ModelReport("[bold]a", "keras", weights=10, nonzero=1)]))


# -- models to figures -----------------------------------------------------------------------------


def pruned(keras):
    """An MLP, and a copy of which three quarters of the hidden neurons are zero."""
    dense = nets.mlp(keras, (12, 64, 32, 4))
    model = keras.models.clone_model(dense)
    model.set_weights(dense.get_weights())
    for layer in model.layers[:-1]:
        kernel, bias = layer.get_weights()
        kernel[:, layer.units // 4 :] = 0
        layer.set_weights([kernel, bias])
    return dense, model


def quick(model, baseline=None, data=None, **settings):
    return tfap.report(model, baseline, data, **{"batch_sizes": (), **settings})


def test_a_pruned_model_gets_the_plain_verdict(keras_module):
    dense, model = pruned(keras_module)
    report = tfap.report({"pruned": model}, dense, nets.data(dense), batch_sizes=(1, 3), seconds=0)
    base, row = report
    assert (base.name, row.name) == ("baseline", "pruned") and report["pruned"] is row
    assert base.weights == row.weights == 12 * 64 + 64 + 64 * 32 + 32 + 32 * 4 + 4
    biases = 64 + 32 + 4
    assert row.weights - row.nonzero == 12 * 48 + 64 * 24 + biases
    assert base.flops == row.flops and row.bytes == pytest.approx(base.bytes, rel=0.02)
    assert row.gzipped_bytes < base.gzipped_bytes
    assert "but its kernels are of the same size as those of 'baseline'." in report.verdict
    assert set(row.latency) == {1, 3} and base.latency[1].ratio is None
    taken = row.latency[3]
    assert taken.rounds == 20 and 0 < taken.low <= taken.median <= taken.high and taken.ratio.median > 0


def test_a_compacted_model_is_smaller(keras_module):
    dense, model = pruned(keras_module)
    report = quick({"dense": dense, "pruned": model, "compacted": tfap.compact(model)}, "dense")
    assert [row.name for row in report] == ["dense", "pruned", "compacted"]
    before, after = report["pruned"], report["compacted"]
    assert after.weights == 12 * 16 + 16 + 16 * 8 + 8 + 8 * 4 + 4
    assert after.flops == 2 * (12 * 16 + 16 * 8 + 8 * 4) < before.flops
    assert after.bytes < before.bytes and after.gzipped_bytes < before.gzipped_bytes
    assert "compacted: It has 8.0 times fewer weights, 8.4 times fewer FLOPs" in report.verdict


@pytest.mark.smoke
def test_accuracy(keras_module):
    model = nets.mlp(keras_module)
    x, y = nets.data(model, samples=300)
    outputs = model.predict(x, verbose=0)
    right = (outputs.argmax(-1) == y).mean()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
    for data in ((x, y), [x, y[:, None]], (x, np.eye(4)[y]), batches):
        assert quick(model, data=data)["model"].score == pytest.approx(right)

    def mean_square(y, outputs):
        return np.mean((outputs[np.arange(len(y)), y] - 1) ** 2)

    report = quick(model, data=(x, y), metric=mean_square)
    assert report.to_dict()["model"]["mean_square"] == pytest.approx(mean_square(y, outputs))


@pytest.mark.parametrize("format", ["saved_model", "keras"])
@pytest.mark.smoke
def test_a_path_and_the_live_model_agree(keras_module, tmp_path, format):
    model = nets.cnn(keras_module)
    path = tmp_path / ("model.keras" if format == "keras" else "model")
    tfap.export(model, path, format=format)
    report = quick({"live": model, "file": path}, data=nets.data(model))
    live, file = report
    assert (file.weights, file.nonzero, file.score) == (live.weights, live.nonzero, live.score)
    assert file.flops == (live.flops if format == "keras" else None)
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    assert file.bytes == sum(found.stat().st_size for found in files) > file.gzipped_bytes > 0
    assert quick(str(path))[0].name == path.name


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_files_of_other_runtimes(keras_module, tmp_path, monkeypatch, format):
    dense, model = pruned(keras_module)
    for layer in model.layers:  # converters leave out biases that are zero
        layer.set_weights([layer.get_weights()[0], np.ones(layer.units)])
    path = tfap.export(model, tmp_path / f"model.{format}", format=format)
    report = quick(path, model, nets.data(dense))
    live, file = report
    assert (file.weights, file.nonzero, file.score) == (live.weights, live.nonzero, live.score)
    assert file.format == format and file.flops is None and file.bytes == path.stat().st_size
    assert report.notes == (f"The models run in different runtimes, which differ in speed: keras, {format}.",)
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    assert (quick(path)[0].weights is None) == (format == "onnx")


def test_csv(keras_module, tmp_path):
    dense, model = pruned(keras_module)
    report = tfap.report(model, dense, nets.data(dense), batch_sizes=(2,), seconds=0)
    report.to_csv(tmp_path / "report.csv")
    with open(tmp_path / "report.csv", newline="") as file:
        base, row = csv.DictReader(file)
    assert (base["model"], row["model"]) == ("baseline", "model")
    figures = report.to_dict()["model"]
    assert float(row["accuracy"]) == figures["accuracy"]
    assert float(row["batch_2_ms"]) == figures["batch_2_ms"] == 1000 * report["model"].latency[2].median
    assert int(row["nonzero"]) == report["model"].nonzero
    assert base["batch_2_ratio"] == "" and float(row["batch_2_ratio"]) > 0


def test_integer_inputs_and_open_sizes(keras_module):
    layers = keras_module.layers
    words = [layers.Embedding(10, 3), layers.GlobalAveragePooling1D(), layers.Dense(2)]
    model = keras_module.Sequential([layers.Input((5,), dtype="int32"), *words])
    assert tfap.report(model, batch_sizes=(2,), seconds=0)[0].latency[2].median > 0
    model = keras_module.Sequential([layers.Input((None, 4)), layers.LSTM(3, name="lstm")])
    with pytest.raises(ValueError, match="The size of the input .* is open.*: give data"):
        tfap.report(model)
    x, y = np.ones((2, 5, 4), "float32"), np.array([0, 2])
    report = tfap.report(model, data=(x, y), batch_sizes=(1,), seconds=0)
    assert report[0].flops is None and "'lstm' depend on undefined dimensions" in str(report)


@pytest.mark.not_on_torch(reason="its layer cannot be imported, so no SavedModel of it is written")
def test_what_flops_leave_out_is_said(keras_module):
    class Mixer(keras_module.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 8), name="w")

        def call(self, x):
            return x @ self.w

    model = keras_module.Sequential([keras_module.layers.Input((4,)), Mixer(name="mixer")])
    assert quick(model).notes == ("'model': FLOPs without those of mixer.",)


@pytest.mark.smoke
def test_a_subclassed_model_has_no_flops(keras_module):
    model = nets.subclassed(keras_module, keras_module.layers.Dense(5))
    x = np.ones((4, 3), "float32")
    model(x)
    if keras_module.__name__ == "tf_keras":
        model.predict(x, verbose=0)  # from which it knows its inputs
    report = tfap.report(model, data=(x, [0, 1, 2, 0]), batch_sizes=(2,), seconds=0)
    assert report[0].flops is None and report[0].weights == 3 * 5 + 5 + 5 * 3 + 3
    assert "no FLOPs. FLOPs need a built Sequential or Functional" in str(report)


# -- bad input -------------------------------------------------------------------------------------


def test_bad_models(keras_module, tmp_path):
    model = nets.mlp(keras_module)
    with pytest.raises(ValueError, match="'model' still has pruning wrappers: call strip_pruning"):
        quick(tfap.prune(model, 0.5))
    with pytest.raises(FileNotFoundError, match="'gone.keras': there is no file or folder"):
        quick(tmp_path / "gone.keras")
    with pytest.raises(TypeError, match="'model' must be a Keras model or a path: received 3"):
        quick(3)
    with pytest.raises(ValueError, match="the dict is empty"):
        quick({})
    with pytest.raises(ValueError, match="The name 'baseline' is already that of a model"):
        quick({"baseline": model}, model)
    with pytest.raises(ValueError, match=r"'model' expects inputs of shapes .*12.*: received .*13"):
        tfap.report(model, nets.mlp(keras_module, (13, 4, 4)))


def test_bad_data(keras_module):
    model = nets.mlp(keras_module)
    x, y = nets.data(model)
    pairs = tf.data.Dataset.from_tensor_slices((x, y))
    for data, message in [
        ((x, y[:-1]), r"\[64\] samples and 63 labels"),
        ((x[:, :-1], y), r"expects inputs of shapes"),
        ((x[:0], y[:0]), r"\[0\] samples and 0 labels"),
        ((x, np.eye(3)[y % 3]), r"Labels of shape \(1, 3\) do not fit outputs of shape \(1, 4\)"),
        (pairs, r"must be batched"),
        (pairs.batch(8).repeat(), r"must be a finite dataset"),
    ]:
        with pytest.raises(ValueError, match=message):
            quick(model, data=data)
    for data in (x, pairs.batch(8).map(lambda x, y: x), {"x": x}):
        with pytest.raises(TypeError, match="data must be"):
            quick(model, data=data)


def test_one_output_needs_a_metric(keras_module):
    model = keras_module.Sequential([keras_module.layers.Input((3,)), keras_module.layers.Dense(1)])
    data = np.ones((4, 3), "float32"), np.ones(4)
    with pytest.raises(ValueError, match="one output per sample.*pass a metric"):
        quick(model, data=data)
    assert np.isfinite(quick(model, data=data, metric=lambda y, z: np.mean(y - z[:, 0]))[0].score)


def two_headed(keras_module):
    layers, inputs = keras_module.layers, keras_module.Input((3,))
    heads = [layers.Dense(2, activation="softmax", name="kind"), layers.Dense(1, name="size")]
    model = keras_module.Model(inputs, [head(inputs) for head in heads])
    generator = np.random.default_rng(0)
    kind, size = generator.integers(0, 2, 40), generator.normal(size=(40, 1)).astype("float32")
    return model, generator.normal(size=(40, 3)).astype("float32"), [kind, size]


def test_several_outputs(keras_module, tmp_path):
    """The compiled loss is the score, or a metric of all outputs."""
    model, x, y = two_headed(keras_module)
    message = "'model' has 2 outputs and is not a compiled Keras model.*pass a metric"
    with pytest.raises(ValueError, match=message):
        quick(model, data=(x, y))
    model.compile("sgd", ["sparse_categorical_crossentropy", "mse"], metrics=[["accuracy"], []])
    before = model.get_weights()
    kind, size = model.predict(x, verbose=0)
    expected = -np.log(kind[np.arange(40), y[0]]).mean() + ((size - y[1]) ** 2).mean()
    report = tfap.report({"a": model, "b": model}, "a", (x, y), batch_sizes=(1,), seconds=0)
    assert report.to_dict()["b"]["loss"] == report["a"].score == pytest.approx(expected, rel=1e-4)
    assert "loss" in str(report) and "accuracy" not in str(report)
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)
    batches = tf.data.Dataset.from_tensor_slices((x, tuple(y))).batch(7)
    assert quick(model, data=batches)[0].score == pytest.approx(expected, rel=1e-4)

    def error_of_sizes(y, outputs):
        return np.mean((y[1] - outputs[1]) ** 2)

    path = tfap.export(model, tmp_path / "model.keras", format="keras")
    score = quick({"live": model, "file": path}, data=(x, y), metric=error_of_sizes)
    assert score["file"].score == score["live"].score == pytest.approx(((size - y[1]) ** 2).mean(), rel=1e-4)
    with pytest.raises(ValueError, match="'file' has 2 outputs and is not a compiled Keras model"):
        quick({"live": model, "file": path}, data=(x, y))
    with pytest.raises(ValueError, match=r"\[40\] samples and 39, 39 labels"):
        quick(model, data=(x, {"kind": y[0][1:], "size": y[1][1:]}))


def test_bad_settings(keras_module):
    model = nets.mlp(keras_module)
    for sizes in ((1, 0), 64, (1.5,)):
        with pytest.raises(ValueError, match="batch_sizes must be a tuple of integers"):
            quick(model, batch_sizes=sizes)
    with pytest.raises(ValueError, match="seconds must be"):
        quick(model, seconds=-1)
    with pytest.raises(TypeError, match="metric must be a function"):
        quick(model, data=nets.data(model), metric="accuracy")
    with pytest.raises(ValueError, match="A metric needs data"):
        quick(model, metric=len)


@pytest.mark.parametrize("name", ["weights", "bytes", "flops", "format", "model", "batch_2_ms"])
def test_a_metric_named_like_another_column(name, tmp_path):
    """It would overwrite that column in to_dict() and to_csv()."""

    def metric(y, outputs):
        raise AssertionError("the name is checked first")

    metric.__name__ = name
    message = f"The metric is named '{name}', like another column.*Expected.*rename the function"
    with pytest.raises(ValueError, match=message):
        tfap.report(tmp_path / "not looked at", data=([], []), metric=metric, batch_sizes=(2,))
    with pytest.raises(ValueError, match=message):
        Report([ModelReport("dense", "keras", latency={2: latencies()[1]})], metric=name)
