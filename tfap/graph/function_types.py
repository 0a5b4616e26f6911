"""The table of the functions in graphs: one row with what a function does to channels."""

import dataclasses

from tfap.graph.layer_rules import MERGE, RESHAPE, ChannelRule, ConstantRule, LayerType, same

_ELEMENTWISE_NAMES = {
    "Absolute", "Cast", "Celu", "Clip", "Elu", "Erf", "Exp", "Expm1", "Gelu", "HardShrink", "HardSigmoid",
    "HardSilu", "HardTanh", "LeakyRelu", "Log", "Log1p", "LogSigmoid", "Negative", "Reciprocal", "Relu",
    "Relu6", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu", "SoftShrink", "Softplus", "Softsign", "Sqrt",
    "Square", "Tanh", "TanhShrink", "Threshold",
    "abs", "cast", "clip_by_value", "elu", "erf", "exp", "expm1", "gelu", "leaky_relu", "log", "log1p",
    "log_sigmoid", "negative", "reciprocal", "relu", "relu6", "rsqrt", "selu", "sigmoid", "sign", "silu",
    "softplus", "softsign", "sqrt", "square", "tanh",
}  # fmt: skip
# Rows of the functions in graphs, by the name of the operation in Keras 3, such as `Relu6`, and of the
# function in TensorFlow, such as `relu6`. tfap counts only at layers, so no neurons fire in a function.
FUNCTIONS = {
    **dict.fromkeys(("Add", "Maximum", "Minimum", "Subtract"), MERGE),
    **dict.fromkeys(("add", "add_n", "maximum", "minimum", "subtract"), MERGE),
    **dict.fromkeys(
        (
            *("Divide", "Multiply", "Power", "TrueDivide"),
            *("divide", "multiply", "pow", "squared_difference", "truediv"),
        ),
        dataclasses.replace(MERGE, keeps_neurons=False),
    ),
    **dict.fromkeys(("StopGradient", "identity", "stop_gradient"), same(ConstantRule.APPLIED)),
    **dict.fromkeys(_ELEMENTWISE_NAMES, same(ConstantRule.APPLIED, keeps_neurons=False)),
    **dict.fromkeys(("Concatenate", "concat"), LayerType(channels=ChannelRule.CONCATENATED)),
    **dict.fromkeys(("Stack", "stack"), LayerType(channels=ChannelRule.STACKED)),
    **dict.fromkeys(
        ("GetItem", "Split", "Unstack", "getitem", "split", "unstack"),
        LayerType(channels=ChannelRule.SELECTED),
    ),
    **dict.fromkeys(("Reshape", "reshape"), RESHAPE),
    **dict.fromkeys(
        (
            *("ExpandDims", "Moveaxis", "Squeeze", "Swapaxes", "Transpose"),
            *("expand_dims", "squeeze", "transpose"),
            *("Max", "Mean", "Min", "Sum", "reduce_max", "reduce_mean", "reduce_min", "reduce_sum"),
        ),
        LayerType(channels=ChannelRule.PERMUTED),
    ),
    **dict.fromkeys(
        ("LogSoftmax", "Softmax", "log_softmax", "softmax"), LayerType(channels=ChannelRule.ALONG_AXIS)
    ),
    **dict.fromkeys(("Einsum", "Matmul", "einsum", "matmul"), LayerType(channels=ChannelRule.CONTRACTED)),
    "shape": LayerType(channels=ChannelRule.SHAPE),
}
