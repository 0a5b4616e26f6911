"""Transformers and recurrent nets that benchmarks/transformer_sizes.py and transformer_accuracy.py prune.

Functional nets take the Keras that makes them. Layers that the benchmarks prune have names: `up_*` make
feed-forward units, and `stem` and `down_*` write to the residual stream.
"""


def _biases(norm):
    """Whether layers have biases: with them, a pruned channel is not zero, and RMSNormalization reads it."""
    return norm != "RMSNormalization"


def _block(keras, x, block, heads, ratio, norm, gated=False, **call):
    """Adds attention and a feed-forward part to the stream, each behind a normalization."""
    layers, width, biases = keras.layers, x.shape[-1], _biases(norm)
    y = getattr(layers, norm)(name=f"norm_a{block}")(x)
    name = f"attention_{block}"
    attention = layers.MultiHeadAttention(heads, width // heads, use_bias=biases, name=name)
    x = layers.Add()([x, attention(y, y, **call)])
    y = getattr(layers, norm)(name=f"norm_b{block}")(x)
    units = ratio * width
    if gated:
        gate = layers.Dense(units, activation="silu", use_bias=False, name=f"up_gate_{block}")(y)
        y = layers.Multiply()([gate, layers.Dense(units, use_bias=False, name=f"up_{block}")(y)])
    else:
        y = layers.Dense(units, activation="gelu", use_bias=biases, name=f"up_{block}")(y)
    return layers.Add()([x, layers.Dense(width, use_bias=biases, name=f"down_{block}")(y)])


def vit(keras, shape, patch, width, heads, depth, classes=10, ratio=4, norm="LayerNormalization"):
    """Builds a vision transformer. A depthwise convolution encodes the positions (Chu et al., 2023)."""
    layers, biases = keras.layers, _biases(norm)
    inputs = keras.Input(shape)
    x = layers.Conv2D(width, patch, patch, use_bias=biases, name="stem")(inputs)
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same", use_bias=biases, name="positions")(x)])
    x = layers.Reshape((-1, width))(x)
    for block in range(depth):
        x = _block(keras, x, block, heads, ratio, norm)
    x = layers.GlobalAveragePooling1D()(getattr(layers, norm)(name="norm_last")(x))
    return keras.Model(inputs, layers.Dense(classes, name="output")(x))


def decoder(keras, length, vocabulary, width, heads, depth, ratio=4, norm="LayerNormalization", gated=False):
    """Builds a GPT-like decoder that predicts the next token. Token and position embeddings are added."""
    layers = keras.layers
    tokens, positions = (keras.Input((length,), dtype="int32", name=name) for name in ("tokens", "positions"))
    embedded = layers.Embedding(vocabulary, width, name="stem")(tokens)
    x = layers.Add()([embedded, layers.Embedding(length, width, name="stem_positions")(positions)])
    for block in range(depth):
        x = _block(keras, x, block, heads, ratio, norm, gated, use_causal_mask=True)
    x = getattr(layers, norm)(name="norm_last")(x)
    return keras.Model([tokens, positions], layers.Dense(vocabulary, name="output")(x))


def text(keras, kind, units, length=32, vocabulary=2000, width=64, classes=4):
    """Builds a text classifier of two stacked recurrent layers, unrolled for TFLite."""
    layers = keras.layers
    recurrent = getattr(layers, kind)
    stack = [
        layers.Input((length,), dtype="int32"),
        layers.Embedding(vocabulary, width, name="embedding"),
        recurrent(units, return_sequences=True, unroll=True, name="first"),
        recurrent(units, unroll=True, name="second"),
        layers.Dense(classes, activation="softmax", name="output"),
    ]
    return keras.Sequential(stack)


def rows_of_image(keras, shape, units=64, classes=10):
    """Builds two stacked LSTM layers that read an image, one row per step."""
    layers = keras.layers
    stack = [
        layers.Input(shape),
        layers.LSTM(units, return_sequences=True, name="first"),
        layers.LSTM(units, name="second"),
        layers.Dense(classes, name="output"),
    ]
    return keras.Sequential(stack)
