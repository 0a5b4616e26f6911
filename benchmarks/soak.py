"""Checks that memory stays flat over a long training with many mask updates.

    python benchmarks/soak.py

For Keras 3 and tf_keras, a process trains a small model for 20,000 steps with a mask update by activation
counts every 50 steps. Another process trains the same model without tfap. The script reads the resident
memory after every 1,000 steps. It fails if the memory grows by 1% or more from step 1,000 to the end. Linux
only.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gc
import importlib
import multiprocessing
import sys

import numpy as np
from absl import app, flags

import tfap

FLAGS = flags.FLAGS
flags.DEFINE_list("keras", ["keras", "tf_keras"], "Names of the Keras modules.")
flags.DEFINE_integer("steps", 20_000, "Training steps.", 3000)
flags.DEFINE_integer("every", 50, "Steps between mask updates.", 1)

_SHOWN = (0, 1000, 2000, 5000, 10_000, 15_000, 20_000)
_EPOCH = 1000  # steps
_BATCH = 16


def resident():
    """Returns the resident memory of the process in MiB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def train(name, pruned, steps, every):
    """Trains one model and returns `(MiB by step, mask updates, sparsity)`."""
    keras = importlib.import_module(name)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((20,)), keras.layers.Dense(64, activation="relu")]
    layers += [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(5, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    schedule = tfap.PolynomialDecay(0.0, 0.8, every, steps, frequency=every)
    model = tfap.prune(model, schedule) if pruned else model
    found = {}

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found[(epoch + 1) * _EPOCH] = resident()

    generator = np.random.default_rng(0)
    x = generator.normal(size=(_EPOCH * _BATCH, 20)).astype("float32")
    y = generator.integers(0, 5, len(x))
    found[0] = resident()
    callbacks = [*([tfap.UpdatePruningStep()] if pruned else []), Watch()]
    history = model.fit(x, y, epochs=steps // _EPOCH, batch_size=_BATCH, verbose=0, callbacks=callbacks)
    wrappers = tfap.prunable_layers(model)
    updates = int(wrappers[0].updates_made.numpy()) if wrappers else 0
    return found, updates, history.history.get("sparsity", [0.0])[-1]


def main(_):
    shown = [step for step in _SHOWN if step <= FLAGS.steps]
    heads = ["model", "mask updates", "sparsity", *(f"step {step:,}" for step in shown), "growth"]
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    grown = []
    for name in FLAGS.keras:
        for pruned in (False, True):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found, updates, sparsity = pool.apply(train, (name, pruned, FLAGS.steps, FLAGS.every))
            growth = found[max(found)] / found[1000] - 1
            cells = [f"{name}, {'tfap' if pruned else 'dense'}", updates, f"{sparsity:.0%}"]
            cells += [f"{found[step]:.1f} MiB" for step in shown]
            print("| " + " | ".join(map(str, cells)) + f" | {growth:+.2%} |", flush=True)
            grown += [name] if pruned and growth >= 0.01 else []
    if grown:
        sys.exit(f"Memory is not flat: {', '.join(grown)}.")


if __name__ == "__main__":
    app.run(main)
