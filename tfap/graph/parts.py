"""The parts of a model that have a graph, such as the generator and the discriminator in a subclassed GAN."""

import dataclasses
from typing import Any

from tfap import keras_compat
from tfap.graph.calls import Graph


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A built Sequential or Functional model that is not nested in the graph of another part.

    Attributes:
        model: The model.
        graph: Its `calls.Graph`.
        prefix: String. The path of a layer is this prefix and its path in the graph. Empty if the part is the
            whole model.
    """

    model: Any
    graph: Graph
    prefix: str


def parts_of(model: Any) -> list[Part]:
    """Lists the parts of a model of any kind: the model itself, or those that its layers hold.

    A subclassed model that trains Functional models has no graph, but its parts have. A layer of a Functional
    model, such as TimeDistributed, may hold a part too.

    Args:
        model: A model or layer of either Keras.

    Returns:
        A list of `Part`s, the whole model first. Several may share layers.

    Example:

    >>> import keras
    >>> class Trainer(keras.Model):
    ...     def __init__(self, net):
    ...         super().__init__()
    ...         self.net = net
    >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")], name="net")
    >>> [(part.prefix, part.graph.layers()[0][0]) for part in parts_of(Trainer(net))]
    [('net/', 'dense')]
    """
    graphs, nested = {}, set()
    for held in (model, *keras_compat.all_layers(model)):
        known = keras_compat.is_graph_model(held) and keras_compat.is_built(held)
        if known and id(held) not in nested and id(held) not in graphs:
            graph = Graph(held)
            nested |= {id(inner) for inner, _ in graph.entries}
            graphs[id(held)] = held, graph
    parts: list[Part] = []
    for held, graph in graphs.values():
        if id(held) not in nested:
            prefix = "" if held is model else f"{held.name}/"
            while any(part.prefix == prefix for part in parts):
                prefix = f"{prefix[:-1]}'/"
            parts.append(Part(held, graph, prefix))
    return parts
