"""Makes the linear map of a layer by its type."""

from tfap.graph import attention_map, layer_types, linear, recurrent
from tfap.graph.layer_types import ChannelRule


def from_layer(layer, masks=None):
    """Makes the `LinearMap` of a layer.

    Args:
        layer: A built layer of `ChannelRule.LINEAR` or `ChannelRule.DEPTHWISE`.
        masks: Dict of weight name to mask, for a layer in training: only masked weights then count as zero,
            because the others may change. None uses the values of the weights.
    """
    row, specs = layer_types.of(layer), layer_types.kernel_specs(layer)
    if row.per_time_step:  # a TimeDistributed has the weights of the layer inside
        return from_layer(layer.layer, linear.without_prefix("layer.", masks))
    if row.recurrent:
        return recurrent.from_layer(layer, masks)
    if row.attention:
        return attention_map.Attention(layer, masks)
    if row.channels is ChannelRule.DEPTHWISE:
        return linear.Depthwise(layer, masks)
    if len(specs) > 1:
        return linear.Separable(layer, masks)
    if not specs[0].reads_input:
        return linear.Embedding(layer, masks)
    is_grouped = getattr(layer, "groups", 1) > 1
    return linear.Grouped(layer, masks) if is_grouped else linear.LinearMap(layer, masks)
