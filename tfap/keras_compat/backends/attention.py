"""How far the heads of an attention layer are from attending everywhere alike, on any backend."""

import string

_MASKED = -1e30  # a score in float32 below all others


def excess(ops, query, key, mask=None, is_causal=False, axes=(1,)):
    """Compares the largest attention weight of each query with twice the uniform weight.

    Without the sum in the softmax, the largest weight is 1, and the sum of all is s = sum(exp(score - max)).
    So the largest weight, in units of the uniform weight 1 / keys, is keys / s.

    Args:
        ops: The functions of a backend, with the names of `keras.ops`.
        query: Tensor, shape `(batch, ..., heads, key_dim)`. The projected queries, not scaled.
        key: Tensor, shape `(batch, ..., heads, key_dim)`. The projected keys, for as many heads.
        mask: Tensor. Where a query may attend, as Keras passes it on: `(batch, queries, keys)`, or with an
            axis of heads before the queries. None for everywhere.
        is_causal: Boolean. Whether no query attends to later keys, besides the mask.
        axes: Tuple of integers. The axes of the queries and keys that attend to each other.

    Returns:
        float32 tensor, shape `(batch, ..., heads)`: `largest weight x keys / 2 - 1`. `keys` are those that
        the query may attend to. It is -1 without any.
    """
    query, key = (ops.cast(ops.stop_gradient(each), "float32") for each in (query, key))
    rank = len(query.shape)
    axes = [axis % rank for axis in axes]
    letters, others = string.ascii_lowercase[:rank], string.ascii_uppercase
    keys = "".join(others[axis] for axis in axes)
    key_letters = "".join(others[axis] if axis in axes else letters[axis] for axis in range(rank))
    equation = f"{letters},{key_letters}->{letters[:-1]}{keys}"
    scores = ops.einsum(equation, query * query.shape[-1] ** -0.5, key)
    allowed = _allowed(ops, scores, mask, is_causal, axes)
    last = list(range(rank - 1, rank - 1 + len(axes)))
    scores = ops.where(allowed, scores, ops.zeros_like(scores) + _MASKED)
    powers = ops.exp(scores - ops.max(scores, axis=last, keepdims=True))
    keys, total = (
        ops.sum(ops.where(allowed, each, ops.zeros_like(each)), axis=last)
        for each in (ops.ones_like(powers), powers)
    )
    return keys / ops.maximum(total, 1.0) / 2 - 1


def _allowed(ops, scores, mask, is_causal, axes):
    """Returns which keys a query may attend to, a boolean tensor that broadcasts against the scores.

    The scores have the axes of the queries with their heads, then those of the keys. Masks have the heads
    before the axes of the queries.
    """
    rank = len(scores.shape)
    allowed = ops.ones_like(scores) > 0
    if mask is not None:
        for _ in range(rank - len(mask.shape)):
            mask = ops.expand_dims(mask, -2 * len(axes) - 1)
        of_queries = range(rank - len(axes))
        before = [axis for axis in of_queries if axis not in axes]
        order = [*before, *axes, *range(rank - len(axes), rank)]  # of the mask
        mask = ops.transpose(mask, [order.index(axis) for axis in range(rank)])
        allowed = ops.logical_and(allowed, ops.cast(mask, "bool"))
    if is_causal:  # queries on axis 1, before the heads
        sizes = ops.shape(scores)
        queries, keys = ops.arange(sizes[1]), ops.arange(sizes[rank - 1])
        earlier = ops.expand_dims(queries, -1) >= keys
        allowed = ops.logical_and(allowed, ops.expand_dims(earlier, 1))
    return allowed
