"""Kill -9 at random moments: does a training that starts again end as if nothing had happened?

    python benchmarks/kill_and_resume.py --keras keras --kills 20

One process trains a small CNN to the end. Then the same training is started again and again with Keras's
BackupAndRestore, killed after a random time, and at last left to finish. Weights, masks, counts and steps
must be equal to the bit. In Keras 3 the net has dropout; tf_keras's dropout cannot be restored.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3 or tf_keras.")
flags.DEFINE_integer("kills", 20, "How often the training is killed.", 0)
flags.DEFINE_integer("epochs", 40, "Epochs of the training.", 1)
flags.DEFINE_integer("seed", 0, "Seed of the moments.")
flags.DEFINE_string("train_in", None, "Used by the script itself: train in this folder.")


def train(folder):
    import tfap

    keras = importlib.import_module(FLAGS.keras)
    keras.utils.set_random_seed(1)
    layers = keras.layers
    stack = [layers.Input((8, 8, 1)), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()]
    stack += [layers.Dropout(0.2, seed=3)] if FLAGS.keras == "keras" else []
    stack += [layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax")]
    model = keras.Sequential(stack)
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    model = tfap.prune(model, 0.8, granularity="weight")

    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(512, 8, 8, 1)).astype("float32"), generator.integers(0, 10, 512)
    options = {"double_checkpoint": True} if FLAGS.keras == "keras" else {}
    backup = keras.callbacks.BackupAndRestore(str(folder / "backup"), **options)
    print("training", flush=True)
    callbacks = [backup, tfap.UpdatePruningStep()]
    model.fit(x, y, epochs=FLAGS.epochs, batch_size=32, shuffle=False, verbose=0, callbacks=callbacks)
    np.savez(folder / "final.npz", *model.get_weights())


def start(folder):
    folder.mkdir(exist_ok=True)
    arguments = [f"--keras={FLAGS.keras}", f"--epochs={FLAGS.epochs}", f"--train_in={folder}"]
    return subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(folder):
    """Lets a training run to its end; returns its seconds after the preparations."""
    process = start(folder)
    process.stdout.readline()
    begin = time.monotonic()
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    return time.monotonic() - begin


def kill_once(folder, seconds):
    """True if the training was still running when it was killed."""
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
        while kills < FLAGS.kills:
            kills += kill_once(killed, generator.uniform(0, seconds / 2))
        finish(killed)
        first, second = np.load(straight / "final.npz"), np.load(killed / "final.npz")
        different = [name for name in first.files if not np.array_equal(first[name], second[name])]
        print(f"{FLAGS.keras}: {kills} kills in a training of {seconds:.1f} s;", end=" ")
        print(f"{len(first.files)} arrays, {len(different)} different", different)
        if different:
            raise SystemExit(1)


if __name__ == "__main__":
    app.run(main)
