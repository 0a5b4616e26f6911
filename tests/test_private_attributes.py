"""Private attributes of Keras, tf_keras, TensorFlow and tfmot: in one file, listed, and still there."""

import ast
import importlib.util
import inspect
import pathlib
import re
import warnings

import keras
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.python.distribute import collective_all_reduce_strategy

from tfap.keras_compat import TfmotPruning, private

PACKAGE = pathlib.Path(__file__).parent.parent / "tfap"
FILES = sorted(PACKAGE.rglob("*.py"))
HOME = PACKAGE / "keras_compat/private.py"
# By package: what the table of layer types knows of Keras's own layers.
ELSEWHERE = {"graph": {"_attention_axes"}}
ROWS = [
    (name, owner)
    for table in (private.SEEN_IN, private.SEEN_IN_BASES)
    for name, owners in table.items()
    for owner in owners
]


def is_private(name):
    return re.match(r"_[a-zA-Z]", name) is not None


def is_own_object(node):
    """True for `self`, `cls` and `super()`, whose attributes are those of a class of tfap's."""
    if isinstance(node, ast.Call):
        node = node.func
    return isinstance(node, ast.Name) and node.id in ("self", "cls", "super")


def accesses(tree):
    """`(object, name)` of every private attribute that is read or written, also by getattr and its like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.value, node.attr
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            held, name = node.args[:2]
            if isinstance(name, ast.Constant) and is_private(name.value):
                yield held, name.value


def defined(tree):
    """Private names that the file's own classes define or set on themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own_object(node.value)
        ):
            yield node.attr


def foreign(path):
    """Private names that a file accesses on objects that are not of its own classes."""
    tree = ast.parse(path.read_text())
    own = set(defined(tree))
    return {name for held, name in accesses(tree) if not is_own_object(held) and name not in own}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_file_touches_private_attributes_of_others(path):
    if path != HOME:
        assert foreign(path) <= ELSEWHERE.get(path.relative_to(PACKAGE).parts[0], set())


def test_the_table_lists_each():
    functions = [node for node in ast.parse(HOME.read_text()).body if isinstance(node, ast.FunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function)]
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {name for name in names if re.fullmatch(r"_[a-z_]+", name)} == set(private.SEEN_IN)
    assert all(ast.get_docstring(function) for function in functions)


@pytest.fixture(scope="module")
def owners():
    """An object or a class for each owner that the table names."""
    found = {
        "tf.Variable": tf.Variable(0.0),
        "tf.Graph": tf.Graph(),
        "tf.distribute.MultiWorkerMirroredStrategy.extended": (
            collective_all_reduce_strategy.CollectiveAllReduceExtended
        ),
        "tfmot.Pruning": TfmotPruning,
        "keras.Sequential": keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]),
    }
    for module in (keras, tf_keras):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras 3 prefers an Input object
            inputs, dense = module.Input((2,)), module.layers.Dense(1, input_shape=(2,))
        model = module.Model(inputs, dense(inputs))
        model.compile("adamw" if module is keras else module.optimizers.AdamW(), "mse")
        model.optimizer.exclude_from_weight_decay(var_names=["bias"])
        model.optimizer.build(model.trainable_variables)
        name = module.__name__
        found |= {
            f"{name}.Model": model,
            f"{name}.layers.Layer": dense,
            f"{name}.KerasTensor": inputs,
            f"{name}.optimizers.Optimizer": model.optimizer,
            f"{name}.layers.MultiHeadAttention": module.layers.MultiHeadAttention(1, 1),
            f"{name}.callbacks.Callback": module.callbacks.Callback(),
        }
    found["keras.layers.GroupedQueryAttention"] = keras.layers.GroupQueryAttention(1, 1, 1)
    policy = tf_keras.mixed_precision.Policy("mixed_bfloat16")
    layer = tf_keras.layers.Dense(1, dtype=policy)
    layer.build((None, 2))
    found["tf_keras.AutoCastVariable"] = layer.kernel
    if importlib.util.find_spec("jax"):
        from keras.src.backend.jax.trainer import JAXTrainer

        found["keras.Model on JAX"] = JAXTrainer
    return found


@pytest.mark.parametrize("name,owner", ROWS)
def test_it_is_still_there(owners, name, owner):
    if owner not in owners:
        pytest.skip("JAX is not installed")
    thing = owners[owner]
    there = hasattr(thing, name)
    if isinstance(thing, type) and not there:  # set in its constructor
        there = f"self.{name}" in "".join(inspect.getsource(cls) for cls in thing.__mro__[:-1])
    assert there
