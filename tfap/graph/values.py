"""A tensor in the graph of a model."""


class Value:
    """One tensor of the graph.

    Attributes:
        shape: Tuple. The static shape, with the batch axis.
        consumers: List of `(Call, index)`: the calls that consume the tensor as their input number `index`.
    """

    def __init__(self, shape):
        self.shape = tuple(shape)
        self.consumers = []
