"""Whole models through the steps of benchmarks/model_table.py: all of model_zoo's but the large ones."""

import dataclasses

import model_table
import model_zoo
import numpy as np
import pytest
from model_table import PLAIN_STEPS, STEPS, Plain, Pruned, kernels, outcomes

import tfap
from tfap.graph.kept import Kept

pytestmark = pytest.mark.one_keras

# entry -> kernels that are prunable, of all, and those that can be counted; weights pruned of those wrapped
EXPECTED = {
    "vision transformer": ("15 of 15, 2 counted", "1,860 of 7,056"),
    "text: Embedding and LSTM": ("9 of 9, 7 counted", "353 of 1,608"),
    "U-Net": ("8 of 8, 7 counted", "3,330 of 7,704"),
    "siamese with shared layers": ("5 of 5, 4 counted", "3,174 of 10,648"),
    "custom and Lambda layers": ("4 of 4, 3 counted", "154 of 584"),
    "subclassed model wrapped layer by layer": ("layer by layer", "112 of 416"),
}
TESTED = [dataclasses.replace(entry, eager=True) for entry in model_zoo.CUSTOM if entry.name in EXPECTED]
NO_EXPORT = {step: needs for step, needs in STEPS.items() if step != "export"}


NOT_ON_TORCH = pytest.mark.not_on_torch(reason="Keras does not train it there: grad_input must be contiguous")
ON_BACKENDS = [pytest.param(each, marks=NOT_ON_TORCH if each.name == "U-Net" else []) for each in TESTED]


@pytest.mark.parametrize("entry", ON_BACKENDS, ids=lambda entry: entry.name)
@pytest.mark.slow
def test_model(keras_module, entry, tmp_path):
    found = outcomes(NO_EXPORT, Pruned(entry, keras_module, tmp_path, "magnitude"))
    assert (found["plan"], found["two steps"]) == EXPECTED[entry.name]
    if entry.name.startswith("custom") and keras_module.__name__ == "tf_keras":
        # tf_keras calls every function in a Lambda layer unsafe
        plain = Plain(entry, keras_module, tmp_path)
        plain.save()
        assert outcomes({"load": ()}, plain)["load"] == found["load"] != "equal"
    else:
        assert found["load"] == "equal"
    assert found["strip"] == "equal"
    removed = "not subclassed models" if entry.name.startswith("subclassed") else "equal, "
    assert found["compact"].startswith(removed) and "nothing" not in found["compact"]


def blocks_class(keras):
    @keras.saving.register_keras_serializable(package="test_models")
    class Blocks(keras.layers.Layer):
        """Two Dense layers in a list, which is there once the layer is built."""

        def build(self, shape):
            self.blocks = [keras.layers.Dense(shape[-1], activation="relu") for _ in range(2)]
            for block in self.blocks:
                block.build(shape)
            self.built = True

        def call(self, x):
            return self.blocks[1](self.blocks[0](x))

    specs = [
        tfap.KernelSpec(f"blocks.{number}.kernel", feeds_output=False, reads_input=False) for number in (0, 1)
    ]
    tfap.register_prunable_layer(Blocks, specs)
    return Blocks


def test_kernels_in_a_list_of_layers(keras_module, tmp_path):
    layers = keras_module.layers
    model = keras_module.Sequential(
        [layers.Input((4,)), blocks_class(keras_module)(name="blocks"), layers.Dense(2)]
    )
    prunable, others = kernels(model, "magnitude")
    assert len(prunable) == 3 and not others
    wrapped = tfap.prune(model, 0.5, "magnitude")
    tfap.update_masks(wrapped, 0.5)
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras_module.models.load_model(tmp_path / "wrapped.keras")
    plain = tfap.strip_pruning(loaded)
    assert sum(int((block.get_weights()[0] == 0).sum()) for block in plain.layers[-2].blocks) == 16
    x = np.ones((3, 4), "float32")
    np.testing.assert_array_equal(plain(x), wrapped(x))


def test_a_step_that_fails_tells_its_error_and_those_after_it_nothing():
    class Walk:
        def two_steps(self):
            return "yes"

        def save(self):
            raise OSError("disk | full\nmore")

        def export(self):
            return "yes"

    assert outcomes(PLAIN_STEPS, Walk()) == {
        "two steps": "yes",
        "save": r"OSError: disk \| full",
        "load": "",
        "export": "yes",
    }


def test_rows_stand_side_by_side():
    entry = model_zoo.Entry("net", None, criteria=("magnitude",))
    found = {
        "outcomes": {
            "magnitude": dict.fromkeys(STEPS, "a"),
            model_table.WITHOUT: dict.fromkeys(PLAIN_STEPS, "b"),
        }
    }
    (row,) = model_table.rows(entry, "keras", found)
    assert row == f"| net | keras | magnitude | {' | '.join('a' * len(STEPS) + 'b' * len(PLAIN_STEPS))} |"
    (row,) = model_table.rows(entry, "keras", {"problem": "killed"})
    assert row == "| net | keras | | killed |"


def test_what_stays_is_listed_by_reason():
    kept = [
        Kept("a", 2, "'norm_1' divides it"),
        Kept("b", 3, "'norm_2' divides it"),
        Kept("b", 1, "it is an output of the model"),
    ]
    reasons = model_table.stayed(kept)
    assert reasons == [[2, 5, "a layer divides it"], [1, 1, "it is an output of the model"]]
    entry = model_zoo.Entry("net", None)
    results = [(entry, name, {"stayed": {"magnitude": reasons[:1]}}) for name in ("keras", "tf_keras")]
    (row,) = model_table.stayed_rows(results)
    assert row == "| net | keras, tf_keras | magnitude | 2 | 5 | a layer divides it |"


def test_rows_of_a_page_are_found_again(tmp_path):
    page = tmp_path / "models.md"
    assert model_table.rows_by_model(page) == {}
    rows = ["| net | keras | magnitude | 1 |", "| net | keras | ap | 2 |"]
    page.write_text("\n".join(["# Page", *rows, "", "## Limitations", "| x | keras | y | z |"]))
    assert model_table.rows_by_model(page) == {("net", "keras"): rows}
