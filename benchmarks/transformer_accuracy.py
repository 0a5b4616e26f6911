"""Trains a ViT and an LSTM on Fashion-MNIST, prunes half of their weights, and compares, paired by seed.

    python benchmarks/transformer_accuracy.py                  # all seeds; resumes
    python benchmarks/transformer_accuracy.py --nets lstm --seeds 1

The dense model of a seed trains for `--epochs`. Then the arms train until each has had twice as many epochs:

- dense: the same model goes on.
- pruned: the dense model is pruned once and goes on. `tfap.prune_once` removes half of the heads of the ViT,
  and then neurons until half of the weights are left.
- scratch: a model with the layers of the pruned one starts from random weights.

The first half of the epochs has a cosine decay from the rate, the second half one from half of it; scratch
has one decay over all epochs. transformer_sizes.py writes the page from the rows in DIRECTORY/rows.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import json
import pathlib
import time

import keras
import tensorflow as tf
import transformer_nets as nets
from absl import app, flags

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
BATCH, TEST, DATA = 64, 10_000, 1024  # DATA: images that pruning reads
ARMS = ("dense", "pruned", "scratch")

flags.DEFINE_string("directory", "build/transformers", "Folder of the rows and models.")
flags.DEFINE_list("nets", ["vit", "lstm"], "Nets.")
flags.DEFINE_integer("seeds", 3, "Number of seeds: 0 to n - 1.", 1)
flags.DEFINE_integer("epochs", 4, "Epochs of each half of the training.", 1)
flags.DEFINE_integer("images", 5_000, "Training images, the first ones.", 128, 60_000)


def vit():
    return nets.vit(keras, (28, 28, 1), patch=7, width=48, heads=4, depth=2)


def vit_pruned(model, data):
    fewer_heads = tfap.prune_once(model, data, 0.5, granularity="head", target="neurons")
    return tfap.prune_once(fewer_heads, data, {"weights": model.count_params() // 2})


def lstm_pruned(model, data):
    return tfap.prune_once(model, data, {"weights": 0.5})


# Per net: how to build and to prune it, the learning rate, and the shape of an image.
NETS = {
    "vit": (vit, vit_pruned, 2e-3, (28, 28, 1)),
    "lstm": (lambda: nets.rows_of_image(keras), lstm_pruned, 4e-3, (28, 28)),
}


def fitted(model, data, rate, epochs):
    x, y = data
    decay = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(decay), loss, jit_compile=False)  # compiling takes longer
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def made(net, arm, data, path):
    """Trains the model of an arm. Those that start from the dense one load it from the path."""
    build, prune, rate, _ = NETS[net]
    if arm == "scratch":
        small = keras.models.load_model(path.with_name(path.name.replace("dense", "pruned")))
        return fitted(keras.models.clone_model(small), data, rate, 2 * FLAGS.epochs)
    if not path.exists():
        fitted(build(), data, rate, FLAGS.epochs).save(path)
    model = keras.models.load_model(path)
    if arm == "pruned":
        model = prune(model, data[0][:DATA])
    return fitted(model, data, rate / 2, FLAGS.epochs)


def main(_):
    # With tf.data's autotuning, every epoch ends with a wait for its thread.
    class Options(tf.data.Options):
        def __init__(self):
            super().__init__()
            self.autotune.enabled = False

    tf.data.Options = Options
    folder, data = pathlib.Path(FLAGS.directory), load("fashion_mnist")
    for name in ("rows", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in range(FLAGS.seeds):
        for net in FLAGS.nets:
            run(folder, data, net, seed)


def run(folder, data, net, seed):
    shape = NETS[net][3]
    train = data.x_train[: FLAGS.images].reshape(-1, *shape), data.y_train[: FLAGS.images]
    test = data.x_test[:TEST].reshape(-1, *shape), data.y_test[:TEST]
    for arm in ARMS:
        row = folder / "rows" / f"accuracy-{net}-{arm}-{seed}.json"
        if row.exists():
            continue
        keras.utils.set_random_seed(seed)
        start = time.process_time()
        path = folder / "models" / f"{net}-dense-{seed}.keras"
        model = made(net, arm, train, path)
        if arm == "pruned":
            model.save(path.with_name(f"{net}-pruned-{seed}.keras"))
        right = model.predict(test[0], 500, verbose=0).argmax(axis=1) == test[1]
        found = {
            **{"net": net, "arm": arm, "seed": seed, "epochs": 2 * FLAGS.epochs, "images": FLAGS.images},
            **{"weights": model.count_params(), "flops": tfap.flops(model)},
            **{"accuracy": 100 * float(right.mean()), "seconds": time.process_time() - start},
        }
        print(found, flush=True)
        row.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main)
