"""Inputs made up for a model: what its outputs are compared on where no data is given."""

import numpy as np

from tfap import graph, keras_compat

_UNKNOWN_SIZE = 16  # of an axis that the model leaves open


def random_inputs(model, samples=16, seed=0):
    """Random arrays for a built Sequential or Functional model, as its call takes them.

    Floats are drawn from a normal distribution, integers from what the model's Embedding layers know.
    """
    generator = np.random.default_rng(seed)
    vocabularies = [
        layer.input_dim for _, layer in graph.Graph(model).layers() if hasattr(layer, "input_dim")
    ]
    arrays = []
    for tensor in model.inputs:
        shape = [samples, *(_UNKNOWN_SIZE if size is None else size for size in tensor.shape[1:])]
        dtype = keras_compat.dtype_name(tensor)
        if "int" in dtype:
            arrays.append(generator.integers(0, min(vocabularies, default=2), shape).astype(dtype))
        elif dtype == "string":
            arrays.append(generator.integers(0, 10, shape).astype(str).astype(object))
        elif dtype == "bool":
            arrays.append(generator.integers(0, 2, shape).astype(bool))
        else:
            arrays.append(generator.normal(size=shape).astype(dtype))
    return keras_compat.packed_inputs(model, arrays)
