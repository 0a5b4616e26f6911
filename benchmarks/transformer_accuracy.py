"""Trains a ViT and an LSTM on images, prunes half of their weights, and compares, paired by seed.

    python benchmarks/transformer_accuracy.py                  # all seeds; resumes
    python benchmarks/transformer_accuracy.py --data digits --nets lstm --seeds 1

The data are digits of scikit-learn and the first images of Fashion-MNIST. The dense model of a seed
trains for some epochs. Then the arms train until each has had twice as many epochs:

- dense: the same model goes on.
- pruned: the dense model is pruned once and goes on. `tfap.prune_once` removes half of the heads of the ViT,
  and then neurons until half of the weights are left.
- scratch: a model with the layers of the pruned one starts from random weights.
- one_fit: `tfap.fit_and_compact` prunes by magnitude to half of the weights, heads and units together, from
  random weights, with growing regularization in the first third.

The first half of the epochs has a cosine decay from the rate, the second half one from half of it; scratch
and one_fit have one decay over all epochs. transformer_sizes.py writes the page from the rows in
DIRECTORY/rows.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import dataclasses
import json
import pathlib
import time

import keras
import transformer_nets as nets
from absl import app, flags
from recipes import without_tuning

import tfap
from tfap.datasets import load

FLAGS = flags.FLAGS
BATCH, DATA = 64, 1024  # DATA: images that pruning reads
ARMS = ("dense", "pruned", "scratch", "one_fit")

flags.DEFINE_string("directory", "build/transformers", "Folder of the rows and models.")
flags.DEFINE_list("nets", ["vit", "lstm"], "Nets.")
flags.DEFINE_integer("seeds", 3, "Number of seeds: 0 to n - 1.", 1)
flags.DEFINE_list("data", ["digits", "fashion_mnist"], "Data sets.")
flags.DEFINE_integer(
    "epochs", None, "Epochs of each half of the training. The default depends on the data.", 1
)
flags.DEFINE_integer("images", 5_000, "Training images, the first ones.", 128, 60_000)


# Per data set: the size of images and of patches, and the epochs of each half of the training.
SETS = {"digits": (8, 2, 10), "fashion_mnist": (28, 7, 4)}


def vit(size, patch):
    return nets.vit(keras, (size, size, 1), patch, width=48, heads=4, depth=2)


def vit_pruned(model, data):
    fewer_heads = tfap.prune_once(model, data, 0.5, granularity="head", target="neurons")
    return tfap.prune_once(fewer_heads, data, {"weights": model.count_params() // 2})


def lstm(size, patch):
    return nets.rows_of_image(keras, (size, size))


def lstm_pruned(model, data):
    return tfap.prune_once(model, data, {"weights": 0.5})


# Per net: how to build and to prune it, and the learning rate.
NETS = {"vit": (vit, vit_pruned, 2e-3), "lstm": (lstm, lstm_pruned, 4e-3)}


def compiled(model, rate, steps):
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(decay), loss, jit_compile=False)  # compiling takes longer


def fitted(model, data, rate, epochs):
    x, y = data
    compiled(model, rate, epochs * -(-len(x) // BATCH))
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def in_one_fit(model, data, rate, epochs):
    """Trains from random weights to half of them: heads and units decay, and are removed, on the way."""
    (x, y), steps = data, epochs * -(-len(data[0]) // BATCH)
    compiled(model, rate, steps)
    growing = tfap.GrowingRegularization(0.1, rank_by="criterion", end_step=steps // 3)
    arguments = {"criterion": "magnitude", "granularity": "unit", "target": "neurons", "stages": 4}
    fit = {"batch_size": BATCH, "epochs": epochs, "verbose": 0, "callbacks": [growing]}
    return tfap.fit_and_compact(model, {"weights": 0.5}, x, y, **arguments, **fit).model


def made(job, arm, data, path):
    """Trains the model of an arm. Those that start from the dense one load it from the path."""
    build, prune, rate = NETS[job.net]
    if arm == "scratch":
        small = keras.models.load_model(path.with_name(path.name.replace("dense", "pruned")))
        return fitted(keras.models.clone_model(small), data, rate, 2 * job.epochs)
    if arm == "one_fit":
        return in_one_fit(build(*SETS[job.data][:2]), data, rate, 2 * job.epochs)
    if not path.exists():
        fitted(build(*SETS[job.data][:2]), data, rate, job.epochs).save(path)
    model = keras.models.load_model(path)
    if arm == "pruned":
        model = prune(model, data[0][:DATA])
    return fitted(model, data, rate / 2, job.epochs)


@dataclasses.dataclass(frozen=True)
class Job:
    """The rows of a net, a data set, and a seed."""

    data: str
    net: str
    seed: int
    epochs: int


def main(_):
    without_tuning()
    folder = pathlib.Path(FLAGS.directory)
    for name in ("rows", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in FLAGS.data:
        data, epochs = load(name), FLAGS.epochs or SETS[name][2]
        for seed in range(FLAGS.seeds):
            for net in FLAGS.nets:
                run(folder, data, Job(name, net, seed, epochs))


def run(folder, data, job):
    channels = (1,) if job.net == "vit" else ()
    x, x_test = (part.reshape(*part.shape[:3], *channels) for part in (data.x_train, data.x_test))
    train = x[: FLAGS.images], data.y_train[: FLAGS.images]
    for arm in ARMS:
        row = folder / "rows" / f"accuracy-{job.data}-{job.net}-{arm}-{job.seed}.json"
        if row.exists():
            continue
        keras.utils.set_random_seed(job.seed)
        start = time.process_time()
        path = folder / "models" / f"{job.data}-{job.net}-dense-{job.seed}.keras"
        model = made(job, arm, train, path)
        if arm == "pruned":
            model.save(path.with_name(path.name.replace("dense", "pruned")))
        right = model.predict(x_test, 500, verbose=0).argmax(axis=1) == data.y_test
        found = {
            **{**dataclasses.asdict(job), "arm": arm, "epochs": 2 * job.epochs, "images": len(train[0])},
            **{"weights": model.count_params(), "flops": tfap.flops(model)},
            **{"accuracy": 100 * float(right.mean()), "seconds": time.process_time() - start},
        }
        print(found, flush=True)
        row.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main)
