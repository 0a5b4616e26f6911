"""What `import tfap` imports, and what happens where TensorFlow, tf_keras and tfmot are not installed."""

import ast
import importlib
import json
import sys

import keras
import numpy as np
import pytest
from processes import ROOT, run

import tfap
from tfap.keras_compat import lazy
from tfap.schedules import own

OPTIONAL = ("tensorflow", "tf_keras", "tensorflow_model_optimization")


# -- names -------------------------------------------------------------------------------------------


def test_type_checkers_see_the_names_that_are_loaded():
    (for_type_checkers,) = (
        node
        for node in ast.parse((ROOT / "tfap/__init__.py").read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = {alias.asname or alias.name for node in for_type_checkers.body for alias in node.names}
    assert (
        imported
        == set(tfap.__all__) - {"__version__"}
        == {
            *tfap._MODULE_OF,
            *("layers", "low_rank"),
            "measure_latency",
        }
    )
    for node in for_type_checkers.body:
        for alias in node.names:
            loaded = getattr(tfap, alias.asname or alias.name)
            assert loaded is getattr(importlib.import_module(node.module), alias.name)
    assert set(tfap.__all__) <= set(dir(tfap))
    with pytest.raises(AttributeError, match="module 'tfap' has no attribute 'prun'"):
        _ = tfap.prun


def test_old_paths_lead_to_the_new_modules():
    from tfap.callbacks import StopWhenPruned
    from tfap.disconnected import kept
    from tfap.runtimes import load

    assert (StopWhenPruned, kept, load) == (tfap.StopWhenPruned, tfap.unremovable_neurons, tfap.load_runtime)
    names = {}
    exec("from tfap.latency import *", names)
    assert names["measure"] is tfap.measure_latency
    assert importlib.import_module("tfap.flops").flops is tfap.flops
    with pytest.raises(ImportError, match="cannot import name 'loads'"):
        from tfap.runtimes import loads  # noqa: F401


# -- lazy modules ------------------------------------------------------------------------------------


def test_what_is_not_installed_is_one_sentence():
    module = lazy.LazyModule("not_there")
    with pytest.raises(ImportError) as error:
        _ = module.anything
    assert str(error.value) == "This needs not_there, which is not installed: pip install not_there"
    with pytest.raises(AttributeError):
        _ = module.__file__  # tools look at every module


def test_an_object_is_of_no_class_whose_module_is_not_loaded():
    assert not lazy.is_instance(1, "not_there.Class") and not lazy.is_subclass(int, "json.not_there")
    assert lazy.is_instance(json.JSONDecoder(), "not_there.Class", "json.JSONDecoder")
    assert "not_there" not in sys.modules


def test_a_class_is_found_in_a_module_that_its_package_hides(monkeypatch):
    decoder = json.JSONDecoder()
    monkeypatch.delattr(json, "decoder")  # as tfmot does
    assert lazy.is_instance(decoder, "json.decoder.JSONDecoder")


def test_an_import_is_waited_for(tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text(
        "import os\nif os.environ.get('FAILS'): raise OSError\nx = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FAILS", "1")
    finders, seen = list(sys.meta_path), []
    for _ in range(2):
        lazy.when_loaded("imported_late", lambda module: seen.append(module.x))
        assert lazy.is_installed("imported_late") and not seen  # which asks for it, and imports nothing
    with pytest.raises(OSError):
        importlib.import_module("imported_late")
    assert not seen
    monkeypatch.delenv("FAILS")
    importlib.import_module("imported_late")
    assert seen == [1, 1] and sys.meta_path == finders
    lazy.when_loaded("imported_late", lambda module: seen.append(2))
    assert seen == [1, 1, 2]


# -- processes ---------------------------------------------------------------------------------------

IMPORTS = """
import sys, keras
before = set(sys.modules)
import tfap
print(*sorted(set(sys.modules) - before))
print("tensorflow" in sys.modules)
"""


@pytest.mark.parametrize("backend", ["jax", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_the_import_takes_little_besides_keras(backend):
    modules, has_tensorflow = run(IMPORTS, backend).splitlines()
    packages = {name.partition(".")[0] for name in modules.split()} - sys.stdlib_module_names
    assert packages == {"tfap"}
    later = ("activations", "comparison", "compaction", "exporting", "iterative", "reporting", "training")
    assert not [name for name in modules.split() if name.startswith(tuple(f"tfap.{part}" for part in later))]
    assert has_tensorflow == str(backend == "tensorflow")


WITHOUT_TENSORFLOW = """
import pathlib, tempfile, keras, numpy, tfap
Dense = keras.layers.Dense
model = keras.Sequential([keras.Input((8,)), Dense(16, "relu"), Dense(8, "gelu"), Dense(3)])
for layer in model.layers[:2]:
    kernel, bias = layer.get_weights()
    kernel[:, ::2] = 0
    layer.set_weights([kernel, bias + 0.5])
compacted = tfap.compact(model)
report = tfap.compaction_report(model, compacted)
print([layer.units for layer in compacted.layers], report.exact, report.difference.values > 0)
print([row.path for row in tfap.plan(model).pruned] == [layer.name for layer in model.layers[:2]])
row = tfap.report(compacted, batch_sizes=(2,), seconds=0)
print(row["model"].weights, row["model"].bytes, "pip install tensorflow" in str(row))
penalty = tfap.low_rank.SingularValueRegularizer(1)
print(len(tfap.low_rank.singular_values(model)), float(penalty(numpy.eye(3))))
schedule = tfap.PolynomialDecay(0.0, 0.5, 10, 20, frequency=5)
print([(bool(due), float(sparsity)) for due, sparsity in map(schedule, (10, 15, 20, 21))])
due, sparsity = tfap.IterativeSparsity(0.5, updates=2, frequency=3)(numpy.arange(1, 10))
print(due.tolist(), sparsity.tolist(), isinstance(schedule, tfap.PruningSchedule))
folder = pathlib.Path(tempfile.mkdtemp())
path = tfap.export(compacted, folder / "model.keras", "keras")
print(tfap.load_runtime(path)(numpy.ones((2, 8)))[0].shape)
for name, path in (("saved_model", "model"), ("tflite", "model.tflite"), ("onnx", "model.onnx")):
    try:
        tfap.export(model, folder / path, name)
    except ImportError as error:
        print(error)
print(sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.slow
def test_models_are_pruned_and_compacted_without_tensorflow():
    *lines, sentence, second, third, files = run(WITHOUT_TENSORFLOW, blocked=OPTIONAL).splitlines()
    assert lines == [
        "[8, 4, 3] True True",
        "True",
        "123 None True",
        "3 3.0",
        "[(True, 0.0), (True, 0.4375), (True, 0.5), (False, 0.5)]",
        f"{[False, False, True, False, False, True, False, False, False]} "
        f"{[0.0, 0.0, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.75]} True",
        "(2, 3)",
    ]
    assert sentence == "This needs tensorflow, which is not installed: pip install tensorflow"
    assert sentence == second == third and files == "['model.keras']"


LATER = """
import keras, tfap
monitor, penalty = tfap.UpdatePruningStep(), tfap.low_rank.SingularValueRegularizer(0.1)
import sys, tf_keras
print(isinstance(monitor, tf_keras.callbacks.Callback), isinstance(monitor, keras.callbacks.Callback))
print(isinstance(penalty, tf_keras.regularizers.Regularizer))
names = ("PruneByActivation", "IterativeSparsity", "Magnitude", "SingularValueRegularizer")
print([tf_keras.saving.get_registered_object(f"tfap>{name}") is not None for name in names])
print("tensorflow_model_optimization" in sys.modules)
import numpy
layers = [tf_keras.Input((8,)), tf_keras.layers.Dense(16, "relu"), tf_keras.layers.Dense(3)]
model = tfap.prune(tf_keras.Sequential(layers), 0.5)
model.compile("sgd", "mse")
x = numpy.random.default_rng(0).normal(size=(64, 8))
history = model.fit(x, x[:, :3], epochs=4, batch_size=8, verbose=0, callbacks=[monitor])
print(history.history["sparsity"][-1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])  # of Keras 3, while tf_keras is on TensorFlow
def test_tf_keras_may_be_imported_later(backend):
    *lines, sparsity = run(LATER, backend).splitlines()
    assert lines == ["True True", "True", "[True, True, True, True]", "False"]
    assert float(sparsity) == 0.5


SAVE = """
import sys, tf_keras, tfap
schedule = tfap.IterativeSparsity(0.5, updates=2, frequency=3)
layers = [tf_keras.Input((8,)), tf_keras.layers.Dense(16, "relu"), tf_keras.layers.Dense(3)]
tfap.prune(tf_keras.Sequential(layers), schedule).save(sys.argv[1])
"""
LOAD = """
import sys, tfap, tf_keras
(wrapper,) = tfap.prunable_layers(tf_keras.models.load_model(sys.argv[1]))
print(type(wrapper.pruning_schedule).__name__, isinstance(wrapper, tfap.layers.PruneByActivation))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_tf_keras_finds_the_classes_in_files(name, tmp_path):
    path = f"sys.argv.append({str(tmp_path / name)!r})\n"
    run("import sys, warnings; warnings.simplefilter('ignore')\n" + path + SAVE, "tensorflow")
    assert run("import sys\n" + path + LOAD, "tensorflow") == "IterativeSparsity True\n"


# -- schedules without tfmot -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [(0.0, 0.9, 3, 50), (0.2, 0.65, 0, 997, 3, 7), (0.5, 0.1, 10, 20, 1.5, 2)]
)
def test_own_decay_is_that_of_tfmot(arguments):
    steps = np.arange(1, 1200)
    mine, theirs = own.PolynomialDecay(*arguments), tfap.PolynomialDecay(*arguments)
    (due, sparsity), (expected_due, expected) = mine(steps), theirs(steps)
    assert np.array_equal(due, expected_due) and due.any() and sparsity.dtype == np.float32
    np.testing.assert_allclose(sparsity, expected, rtol=0, atol=2e-7)  # two roundings of float32
    assert sparsity[-1] == np.float32(arguments[1])
    assert mine.get_config() == theirs.get_config()


@pytest.mark.parametrize("arguments", [(0.5, 3), (0.25, 0, -1, 7), (0.9, 5, 40, 1)])
def test_own_constant_sparsity_is_that_of_tfmot(arguments):
    steps = np.arange(1, 500)
    mine, theirs = own.ConstantSparsity(*arguments), tfap.ConstantSparsity(*arguments)
    (due, sparsity), (expected_due, expected) = mine(steps), theirs(steps)
    assert np.array_equal(due, expected_due) and due.any() and sparsity == expected.numpy()
    assert mine.get_config() == theirs.get_config()


@pytest.mark.parametrize(
    "arguments",
    [(-0.1, 0.5, 1, 2), (0.0, 1.0, 1, 2), (0.0, 0.5, -1, 2), (0.0, 0.5, 3, 2), (0.0, 0.5, 1, -1),
     (0.0, 0.5, 1, 2, 3, 0)],
)  # fmt: skip
def test_own_schedules_refuse_what_tfmot_refuses(arguments):
    for cls in (own.PolynomialDecay, tfap.PolynomialDecay):
        with pytest.raises(ValueError):
            cls(*arguments)


def test_a_custom_schedule_needs_no_tfmot():
    class Own(own.PruningSchedule):
        def __call__(self, step):
            return step == 2, 0.5

        def get_config(self):
            return {"class_name": "Own", "config": {}}

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    (wrapper,) = tfap.prunable_layers(tfap.prune(model, Own()))
    assert isinstance(wrapper.pruning_schedule, Own)
