"""The page of benchmarks/transformer_sizes.py: tables of the rows that exist."""

from tfap.utils.statistics import interval

NAMES = {"tflite": "LiteRT", "onnx": "ONNX Runtime", "keras": "Keras 3", "tf_keras": "tf_keras"}
NETS = {"vit": "ViT", "lstm": "LSTM over rows"}
SETS = {"digits": ("digits", 360), "fashion_mnist": ("Fashion-MNIST", 10_000)}  # with test images
PAGE = """# Transformers and recurrent nets: sizes, speed and accuracy

What [attention heads](../attention.md), feed-forward units, [width](../width.md) and
[recurrent units](../recurrent.md) save if they are pruned by magnitude and removed. To measure everything and
to write this page:

    python benchmarks/transformer_accuracy.py
    python benchmarks/transformer_sizes.py --write docs/results/transformers.md

Machine: MACHINE. All processes had one core, which other work may have had too.

## Weights

Half of the feed-forward units are pruned, and a quarter of the parts in the column "Also". "Off" is the
largest difference between the outputs of the compacted model and of the masked model, relative to the largest
output. All weights are random, biases included.

WEIGHTS
- KerasHub's layers keep all heads. `TransformerEncoder` and `ViTEncoder` divide the width by `num_heads` to
  get the size of a head, so no config has fewer heads of the same size. Half of the units are a third of the
  encoder. The rows with three quarters of the units remove more than 40%.
- With LayerNormalization the width is kept, because the layer subtracts a mean over all channels: see
  [how it works](../width.md#how-it-works). With RMSNormalization, a quarter of the width is removed exactly.
- In the decoders, embeddings and the output layer have COUNT of the weights.
- tf_keras has no RMSNormalization, and KerasHub needs Keras 3.

## Latency

The dense and the smaller file run in turns in a new process, with one thread and batch 1. Each is loaded
five times. Times are processor time, because other work may have had the same core. The ratio is the median
of the loads, and the range is that of all loads. Models of the first table without a row here are not
measured yet.

LATENCY
## Recurrent layers

An Embedding (2,000 x 64), two stacked unrolled layers and a Dense layer read 32 tokens. Half of the units of
both layers are pruned by magnitude. The columns of LiteRT and ONNX Runtime have the largest difference
between the outputs of the file and of the compacted Keras model, relative to the largest output.

TEXT
## Accuracy

Nets for digits (8 x 8) and Fashion-MNIST (28 x 28). The column "Images" has the numbers of training and test
images. Every arm trains for as many epochs as "Epochs" says:

- dense: the dense net.
- pruned: the dense net after half of the epochs loses half of its weights with `tfap.prune_once`, and trains
  for the other half.
- scratch: a net with the layers of the pruned one trains from random weights.
- one_fit: `tfap.fit_and_compact` prunes the dense net from random weights to half of them, with
  [growing regularization](../silence.md).

The ViT has 16 patches, width 48 and 2 blocks. It loses half of its heads first, and then units. The LSTM has
two layers of 64 units and reads one row of the image per step. Differences are in points, with 95% CIs paired
by seed. One seed gives no CI, so its difference may be chance. The runs are short, so the accuracies are
below what these nets reach.

ACCURACY"""


def table(headings, lines):
    lines = list(lines)
    if not lines:
        return "No rows yet.\n"
    right = ["---"] + ["---:"] * (len(headings) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, right, *lines)) + "\n"


def gone(row, key):
    return f"{100 * (1 - row['small'][key] / row['dense'][key]):.1f}%"


def small(number):
    return f"{number:.0e}" if number else "0"


def weights_table(rows):
    headings = (
        "Model",
        "Keras",
        "Also",
        "Weights",
        "Compacted",
        "Encoder gone",
        "FLOPs gone",
        "All gone",
        "Off",
    )
    lines = (
        (
            *(row["subject"].title, NAMES[row["keras"]], row["subject"].also),
            *(f"{row[name]['weights']:,}" for name in ("dense", "small")),
            *(gone(row, key) for key in ("encoder", "flops", "weights")),
            small(row["off"]),
        )
        for row in rows
    )
    return table(headings, lines)


def latency_table(rows):
    lines = (
        (
            *(row["subject"].title, NAMES[row["keras"]], NAMES[row["runtime"]]),
            *(f"{row[name]:.3g} ms" for name in ("dense", "small")),
            f"{row['ratio']:.2f}x",
            f"{row['low']:.2f} to {row['high']:.2f}",
        )
        for row in rows
    )
    return table(("Model", "Keras", "Runtime", "Dense", "Compacted", "Ratio", "Range"), lines)


def text_table(rows):
    headings = ("Model", "Keras", "Recurrent weights", "Compacted", "Fewer", "Off", "LiteRT", "ONNX Runtime")
    lines = (
        (
            *(row["subject"].title, NAMES[row["keras"]]),
            *(f"{row[name]['encoder']:,}" for name in ("dense", "small")),
            f"{row['dense']['encoder'] / row['small']['encoder']:.2f}x",
            small(row["off"]),
            *(small(row["exported"][runtime]) for runtime in ("tflite", "onnx")),
        )
        for row in rows
    )
    return table(headings, lines)


def accuracy_table(rows):
    def lines():
        for data, net in sorted({(row["data"], row["net"]) for row in rows}):
            its = {(row["arm"], row["seed"]): row for row in rows if (row["data"], row["net"]) == (data, net)}
            for arm in ("dense", "pruned", "scratch", "one_fit"):
                found = [row for (name, _), row in its.items() if name == arm]
                if found:
                    yield (SETS[data][0], NETS[net], arm, *cells(found, its), *training(found, data))

    headings = ("Data", "Net", "Arm", "Seeds", "Weights", "FLOPs", "Accuracy", "Minus dense", "Minus scratch")
    return table((*headings, "Epochs", "Images"), lines())


def cells(found, its):
    """Returns means, and differences to the other arms of the same seeds."""
    size = [f"{sum(row[key] for row in found) / len(found):,.0f}" for key in ("weights", "flops")]
    accuracy = f"{interval([row['accuracy'] for row in found]).mean:.1f}%"
    return str(len(found)), *size, accuracy, *(against(other, found, its) for other in ("dense", "scratch"))


def training(found, data):
    """Returns the numbers of epochs and of images."""
    epochs, images = (sorted({row[key] for row in found}) for key in ("epochs", "images"))
    numbers = " or ".join(f"{number:,}" for number in images)
    return " or ".join(map(str, epochs)), f"{numbers} / {SETS[data][1]:,}"


def against(other, found, its):
    pairs = [(row, its.get((other, row["seed"]))) for row in found if row["arm"] != other]
    differences = [row["accuracy"] - pair["accuracy"] for row, pair in pairs if pair]
    return interval(differences).text("{:+.1f}".format) if differences else ""


def page(rows, subjects, machine):
    """Returns the page. `subjects` is a dict of model name to what was pruned, in the order of the tables."""
    order = list(subjects)
    rows = [{**row, "subject": subjects.get(row.get("model"))} for row in rows]
    kinds = {kind: [row for row in rows if row.get("kind") == kind] for kind in ("size", "latency", "text")}
    for its in kinds.values():
        its.sort(key=lambda row: (order.index(row["model"]), row["keras"], row["runtime"] or ""))
    accuracy = [row for row in rows if "arm" in row]
    parts = {
        "MACHINE": machine,
        "WEIGHTS": weights_table(kinds["size"]),
        "LATENCY": latency_table(kinds["latency"]),
        "TEXT": text_table(kinds["text"]),
        "ACCURACY": accuracy_table(accuracy),
        "COUNT": count(kinds["size"]),
    }
    text = PAGE
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


def count(rows):
    """Returns the fractions of the decoders' weights that are outside of their blocks."""
    outside = [
        1 - row["dense"]["encoder"] / row["dense"]["weights"] for row in rows if "decoder" in row["model"]
    ]
    return " to ".join(sorted({f"{100 * each:.0f}%" for each in outside}))
