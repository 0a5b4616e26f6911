"""Checks that a training killed at random moments resumes bit-exactly.

    python benchmarks/kill_and_resume.py --keras keras --kills 20
    python benchmarks/kill_and_resume.py --keras keras --kills 20 --what cycles
    python benchmarks/kill_and_resume.py --keras keras --kills 10 --what shrink --epochs 8
    KERAS_BACKEND=jax python benchmarks/kill_and_resume.py --keras keras --kills 20

"fit" prunes a small CNN while it trains, with Keras's BackupAndRestore. "cycles" trains, prunes, and rewinds
it with tfap.prune_iteratively, AP, and a directory. "shrink" makes it smaller with tfap.shrink, in stages
with training, and a directory.

One process runs to the end without interruption. Other processes do the same, but each is killed (kill -9)
after a random time, except the last one. Weights, masks, counts, and steps must be bit-exact. In Keras 3, the
model has dropout. The dropout of tf_keras cannot be restored during a fit.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras.")
flags.DEFINE_integer("kills", 20, "Number of kills.", 0)
flags.DEFINE_enum("what", "fit", ["fit", "cycles", "shrink"], "What is killed.")
flags.DEFINE_integer("epochs", 40, "Number of epochs, cycles, or stages.", 1)
flags.DEFINE_integer("seed", 0, "Seed of the random times.")
flags.DEFINE_string("train_in", None, "Internal: train in this folder.")


def train(folder):
    import tfap

    keras = importlib.import_module(FLAGS.keras)
    model, x, y = network(keras)
    if FLAGS.what == "fit":
        model = tfap.prune(model, 0.8, granularity="weight")
        options = {"double_checkpoint": True} if FLAGS.keras == "keras" else {}
        backup = keras.callbacks.BackupAndRestore(str(folder / "backup"), **options)
        print("training", flush=True)
        callbacks = [backup, tfap.UpdatePruningStep()]
        model.fit(x, y, epochs=FLAGS.epochs, batch_size=32, shuffle=False, verbose=0, callbacks=callbacks)
        np.savez(folder / "final.npz", *model.get_weights())
        return

    if FLAGS.what == "shrink":
        shrink(tfap, model, x, y, folder)
        return

    def fit(model, callbacks):
        return model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)

    print("training", flush=True)
    cycles = tfap.prune_iteratively(
        model, fit, "ap", cycles=FLAGS.epochs, data=x, rewind=1, directory=folder / "cycles"
    )
    masks = [mask for cycle in range(FLAGS.epochs + 1) for mask in cycles.masks(cycle).values()]
    np.savez(folder / "final.npz", *cycles.model.get_weights(), *masks)


def shrink(tfap, model, x, y, folder):
    def fit(model):
        model.fit(x, y, epochs=2, verbose=0)

    print("training", flush=True)
    result = tfap.shrink(
        model, (x, y), {"weights": 0.2}, fit, stages=FLAGS.epochs, directory=folder / "stages"
    )
    np.savez(folder / "final.npz", *result.model.get_weights())


def network(keras):
    """Returns a compiled model and its data; deterministic."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    stack = [layers.Input((8, 8, 1)), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()]
    stack += [layers.Dropout(0.2, seed=3)] if FLAGS.keras == "keras" else []
    stack += [layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax")]
    model = keras.Sequential(stack)
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    generator = np.random.default_rng(0)
    return model, generator.normal(size=(512, 8, 8, 1)).astype("float32"), generator.integers(0, 10, 512)


def backend():
    """Returns the backend that the processes compute with, which they take from the environment."""
    return keras.config.backend() if FLAGS.keras == "keras" else "tensorflow"


def start(folder):
    folder.mkdir(exist_ok=True)
    arguments = [f"--{name}={FLAGS[name].value}" for name in ("keras", "what", "epochs")]
    arguments.append(f"--train_in={folder}")
    return subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(folder):
    """Runs a training to its end and returns its duration in seconds, without the setup."""
    process = start(folder)
    process.stdout.readline()
    begin = time.monotonic()
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    return time.monotonic() - begin


def kill_once(folder, seconds):
    """Kills a training after some seconds and returns whether it was still running."""
    process = start(folder)
    process.stdout.readline()
    time.sleep(seconds)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    if not running and process.returncode:
        raise RuntimeError(errors)
    return running


def main(_):
    if FLAGS.train_in:
        train(pathlib.Path(FLAGS.train_in))
        return
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = pathlib.Path(folder, "straight"), pathlib.Path(folder, "killed")
        seconds = finish(straight)
        generator, kills = np.random.default_rng(FLAGS.seed), 0
        # Finished cycles are not repeated: with longer times, none would remain for the last kills.
        longest = seconds / (2 if FLAGS.what == "fit" else FLAGS.kills / 2)
        while kills < FLAGS.kills:
            if kill_once(killed, generator.uniform(0, longest)):
                kills += 1
            else:
                shutil.rmtree(killed)  # it had finished: restart from scratch
        finish(killed)
        first, second = np.load(straight / "final.npz"), np.load(killed / "final.npz")
        different = [name for name in first.files if not np.array_equal(first[name], second[name])]
        print(f"{FLAGS.keras} on {backend()}, {FLAGS.what}: {kills} kills", end=" ")
        print(f"in {seconds:.1f} s of training;", end=" ")
        print(f"{len(first.files)} arrays, {len(different)} different", different)
        if different:
            raise SystemExit(1)


if __name__ == "__main__":
    app.run(main)
