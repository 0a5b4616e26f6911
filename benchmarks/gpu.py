"""Measures pruning by counts on a GPU with the JAX backend: training steps, memory, mask updates.

    python benchmarks/gpu.py                # ResNet50 and ViT-B at 224 x 224, at most 8 minutes
    python benchmarks/gpu.py --size toy     # the same script on a CPU, in a minute

Every variant trains in its own process, in bfloat16 (`mixed_bfloat16`), on one batch that stays in the
memory of the device: the dense model, the model pruned by counts (it counts in every step and keeps half of
its neurons at zero), the compacted model, and the dense model again as the control. It needs no TensorFlow.

The last table compares masks with those of a CPU, at fixed weights. In a net of integers every activation
is exact, so its masks must be equal. Those of a real convolution can differ where an activation is close to
zero, since devices add in different orders.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import keras
import numpy as np
from absl import app, flags

import tfap

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import networks

FLAGS = flags.FLAGS
flags.DEFINE_enum("size", "full", ["full", "toy"], "Real nets, or small ones to try the script.")
flags.DEFINE_list("nets", ["resnet50", "vit"], "Networks.")
flags.DEFINE_integer("steps", 20, "Training steps per timed block.", 1)
flags.DEFINE_integer("blocks", 7, "Timed blocks; the table has their median.", 1)
flags.DEFINE_string("child", None, "Set by the script itself: what this process measures.")

VARIANTS = ("dense", "counted", "compacted", "dense again")
CLASSES = 1000


def resnet50():
    if FLAGS.size == "full":
        return keras.applications.ResNet50(weights=None, input_shape=(224, 224, 3), classes=CLASSES), 128
    return networks.small_resnet(keras, (32, 32, 3), CLASSES), 4


def vit():
    """Builds a Vision Transformer (Dosovitskiy et al., 2021, table 1: ViT-B/16), or a small one."""
    full = FLAGS.size == "full"
    image, patch, depth, width, heads, batch = (224, 16, 12, 768, 12, 64) if full else (32, 8, 2, 32, 2, 4)
    layers = keras.layers
    inputs = keras.Input((image, image, 3))
    x = layers.Conv2D(width, patch, patch, name="patches")(inputs)
    x = layers.Reshape(((image // patch) ** 2, width))(x)
    for block in range(depth):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"attention{block}")(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="relu", name=f"mlp{block}_1")(y)
        x = layers.Add()([x, layers.Dense(width, name=f"mlp{block}_2")(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax", dtype="float32")(x)), batch


NETS = {"resnet50": resnet50, "vit": vit}


class SameBatch(keras.utils.PyDataset):
    """One batch in the device's memory, again and again."""

    def __init__(self, batch, steps):
        super().__init__()
        self.batch, self.steps = batch, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return self.batch


def compiled(model):
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9), "sparse_categorical_crossentropy")
    return model


def fit(model, batch, steps):
    callbacks = [tfap.UpdatePruningStep()] if tfap.prunable_layers(model) else []
    start = time.perf_counter()
    model.fit(SameBatch(batch, steps), verbose=0, callbacks=callbacks)
    return time.perf_counter() - start


def counted(model):
    """Wraps the model: it counts, and no mask update is due by itself."""
    return compiled(tfap.prune(model, tfap.ConstantSparsity(0.5, 10**9), scope="local"))


def memory():
    """Returns the peak of the device's memory in MB; on a CPU, that of the process."""
    stats = jax.local_devices()[0].memory_stats()
    peak = stats["peak_bytes_in_use"] if stats else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6


def measure_variant(net, variant):
    """Trains one variant and returns its row."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, size = NETS[net]()
    generator = np.random.default_rng(0)
    images = generator.normal(size=(size, *model.input_shape[1:])).astype("float32")
    batch = jax.device_put((images, generator.integers(0, CLASSES, size)))
    row = {"weights": model.count_params()}
    if variant in ("counted", "compacted"):
        model = counted(model)
        fit(model, batch, 3)
        start = time.perf_counter()
        tfap.update_masks(model, 0.5)
        row["update_seconds"] = time.perf_counter() - start
        if variant == "compacted":
            model = compiled(tfap.compact(tfap.strip_pruning(model)))
            row["weights"] = model.count_params()
    compiled(model) if variant.startswith("dense") else None
    row["compile_seconds"] = fit(model, batch, 3)
    blocks = [fit(model, batch, FLAGS.steps) / FLAGS.steps for _ in range(FLAGS.blocks)]
    return {**row, "images_per_second": size / float(np.median(blocks)), "memory_mb": memory(), "batch": size}


def masks_of(integers):
    """Counts at fixed weights and returns the masks at 50%, packed as one list of bits."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((16, 16, 4))]
    for filters in (16, 32):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same", activation="relu"))
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    generator = np.random.default_rng(2)
    images = generator.normal(size=(64, 16, 16, 4))
    if integers:
        model.set_weights([np.round(8 * weight) for weight in model.get_weights()])
        images = np.round(images)
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 10**9), granularity="weight")
    wrapped.compile(keras.optimizers.SGD(0.0), "mse")
    data = images.astype("float32"), np.zeros((64, 10), "float32")
    wrapped.fit(*data, batch_size=16, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    tfap.update_masks(wrapped, 0.5)
    return [int(bit) for layer in tfap.prunable_layers(wrapped) for bit in np.ravel(layer.mask)]


def child(task):
    """Runs a task in its own process and returns what it prints."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        arguments = [f"--child={json.dumps([*task[:-1], file.name])}", f"--size={FLAGS.size}"]
        arguments += [f"--steps={FLAGS.steps}", f"--blocks={FLAGS.blocks}"]
        subprocess.run([sys.executable, __file__, *arguments], check=True, env={**os.environ, **task[-1]})
        return json.load(file)


def run_child():
    *task, path = json.loads(FLAGS.child)
    result = masks_of(*task[1:]) if task[0] == "masks" else measure_variant(*task[1:])
    with open(path, "w") as file:
        json.dump(result, file)


def print_rows(net):
    for variant in VARIANTS:
        row = child(["variant", net, variant, {}])
        update = f"{row['update_seconds']:.2f}" if "update_seconds" in row else ""
        print(
            f"| {net}, {row['batch']} | {variant} | {row['weights']:,} | {row['images_per_second']:.0f} "
            f"| {row['memory_mb']:,.0f} | {update} | {row['compile_seconds']:.1f} |",
            flush=True,
        )


def main(_):
    if FLAGS.child:
        run_child()
        return
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, Keras {keras.__version__}\n")
    print("| Net, batch | Variant | Weights | Images/s | Peak memory, MB | Mask update, s | First steps, s |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for net in FLAGS.nets:
        print_rows(net)
    print("\n| Masks here and on a CPU | Bits | Different |\n|---|---:|---:|")
    for name, integers in (("integers", True), ("random weights", False)):
        here = np.array(child(["masks", integers, {}]))
        cpu = np.array(child(["masks", integers, {"JAX_PLATFORMS": "cpu"}]))
        assert 0 < here.sum() < len(here), "nothing was pruned"
        print(f"| {name} | {len(here):,} | {int(np.sum(here != cpu)):,} |", flush=True)


if __name__ == "__main__":
    app.run(main)
