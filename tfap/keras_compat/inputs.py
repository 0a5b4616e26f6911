"""Random inputs for running a model when no data is given."""

import numpy as np


def listed(inputs, names):
    """A model's inputs as a list in its order; a dict goes by their names, or else by its sorted keys.

    >>> listed({"b": 1, "a": 2}, ["b", "a"]), listed({"b": 1, "a": 2}, ["x", "y"]), listed(3, ["x"])
    ([1, 2], [2, 1], [3])
    """
    if isinstance(inputs, dict):
        return [inputs[name] for name in (names if set(names) == set(inputs) else sorted(inputs))]
    return list(inputs) if isinstance(inputs, list | tuple) else [inputs]


def random_arrays(inputs, samples, free_size=None, integers_below=2, seed=0, uniform=False):
    """A random array for each input.

    Args:
        inputs: things with a `name`, a `shape` whose first axis is the batch, and a `dtype`, such as
            `tf.TensorSpec`s.
        samples: size of the batch.
        free_size: size of axes that are open (None); without it they are an error.
        integers_below: limit of integers; 0 and 1 are valid for any lookup.
        seed: of the generator.
        uniform: floats from a uniform distribution over [0, 1) instead of a normal one.

    Returns:
        List of arrays: floats from a normal distribution, integers, booleans, digits as strings.

    Raises:
        ValueError: an open axis, or a dtype of which there are no random values.
    """
    generator = np.random.default_rng(seed)
    floats = generator.random if uniform else generator.normal
    return [_random(entry, samples, free_size, integers_below, generator, floats) for entry in inputs]


def _random(entry, samples, free_size, integers_below, generator, floats):
    shape = (samples, *(free_size if size is None else size for size in entry.shape[1:]))
    if None in shape:
        raise ValueError(f"The size of the input '{entry.name}' is open, {entry.shape}: give data.")
    dtype = np.dtype(getattr(entry.dtype, "as_numpy_dtype", entry.dtype))
    if dtype.kind in "iub":
        return generator.integers(0, integers_below, shape).astype(dtype)
    if dtype.kind in "OSU":  # strings
        return generator.integers(0, 10, shape).astype(str).astype(object)
    try:
        return floats(size=shape).astype(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"There are no random {dtype} values for the input '{entry.name}': give data."
        ) from error
