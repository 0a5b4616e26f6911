"""Which ways to train on two replicas work, without and with tfap, in both Kerases: a table.

Every entry is a fit in a process of its own (two for several workers), since an error leaves TensorFlow's
collective operations unusable. The replicas are CPU devices.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import importlib
import json
import re
import socket
import subprocess
import sys

import numpy as np
import tensorflow as tf
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list("settings", [], "Only these rows, by their first words.")
flags.DEFINE_string("one", None, "For the script's own processes: what to train, as JSON.")
flags.DEFINE_integer("timeout", 1200, "Seconds after which a fit counts as failed.")

# Name -> arguments of the optimizer Adam, of compile, and the precision.
SETTINGS = {
    "plain": ({}, {}, None),
    "a moving average": ({"use_ema": True}, {}, None),
    "a moving average that overwrites": ({"use_ema": True, "ema_overwrite_frequency": 3}, {}, None),
    "gradient accumulation": ({"gradient_accumulation_steps": 2}, {}, None),
    "mixed_float16": ({}, {}, "mixed_float16"),
    "mixed_bfloat16": ({}, {}, "mixed_bfloat16"),
    "jit_compile": ({}, {"jit_compile": True}, None),
    "steps_per_execution": ({}, {"steps_per_execution": 2}, None),
    "run_eagerly": ({}, {"run_eagerly": True}, None),
    "two workers": ({}, {}, None),
}


def train(setting, world, with_tfap):
    """Fits a net; with tfap it checks that counts are complete and pruned weights zero on every replica."""
    optimizer, compiled, precision = SETTINGS[setting]
    strategy = (
        tf.distribute.MultiWorkerMirroredStrategy()
        if setting == "two workers"
        else tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    )
    if with_tfap:
        import tfap  # the strategy of several workers must come first

    keras = importlib.import_module(world)
    layers = keras.layers
    with strategy.scope():
        hidden = [layers.Dense(units, activation="relu", dtype=precision) for units in (16, 8)]
        model = keras.Sequential([layers.Input((12,)), *hidden, layers.Dense(3, dtype="float32")])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01, **optimizer), loss, **compiled)
        if with_tfap:
            schedule = tfap.PolynomialDecay(0.0, 0.7, 2, 12, frequency=2)
            model = tfap.prune(model, schedule, granularity="weight")
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(49, 12)).astype("float32"), generator.integers(0, 3, 49)
    callbacks = [tfap.UpdatePruningStep()] if with_tfap else []
    model.fit(x, y, epochs=3, batch_size=8, verbose=0, callbacks=callbacks)
    if with_tfap:
        check(tfap.prunable_layers(model))


def check(wrappers):
    """Raises AssertionError unless all was counted, enough pruned, and what was pruned is zero everywhere."""
    pruned = sum(int((wrapper.mask.numpy() == 0).sum()) for wrapper in wrappers)
    assert pruned == round(0.7 * (12 * 16 + 16 * 8)), pruned
    for wrapper in wrappers:
        assert int(wrapper.activations_seen.numpy()) == 3 * 49
        ((_, kernel, mask),) = wrapper.kernel_and_mask()
        variable = getattr(kernel, "value", kernel)
        variable = variable if isinstance(variable, tf.Variable) else kernel
        for one in getattr(getattr(variable, "_variable", variable), "values", [variable]):
            assert not one.numpy()[mask.numpy() == 0].any()


def result(setting, world, with_tfap):
    """`yes`, or the error of the fit in a process of its own."""
    number = 2 if setting == "two workers" else 1
    ports = [_free_port() for _ in range(number)]
    processes = []
    for index in range(number):
        environment = dict(os.environ)
        if number > 1:
            cluster = {"worker": [f"localhost:{port}" for port in ports]}
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        command = [sys.executable, __file__, f"--one={json.dumps([setting, world, with_tfap])}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    found = []
    for process in processes:
        try:
            found.append(process.communicate(timeout=FLAGS.timeout)[0].strip().split("\n")[-1])
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            found.append("no end")
    return next((text for text in found if text != "yes"), "yes")


def _free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def _in_short(error):
    """The type of an error and what it says first, without where."""
    lines = [line.strip() for line in str(error).split("\n")]
    told = [
        line
        for line in lines
        if re.search(r"[a-z] [a-z]", line) and not line.startswith(("Detected", "File"))
    ]
    said = next((line for line in told if "Graph execution error" not in line), "")
    said = re.sub(r" (sequential|dense)/\S*| \(defined @.*", "", said)  # which variable, and where
    return f"{type(error).__name__}: {said[:80]}"


def main(_):
    if FLAGS.one:
        setting, world, with_tfap = json.loads(FLAGS.one)
        cpu = tf.config.list_physical_devices("CPU")[0]
        if setting != "two workers":
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        try:
            train(setting, world, with_tfap)
        except Exception as error:
            print(_in_short(error).replace("|", "/"))
        else:
            print("yes")
        return
    print("| | Keras | without tfap | with tfap |\n|---|---|---|---|")
    for setting in SETTINGS:
        if FLAGS.settings and not setting.startswith(tuple(FLAGS.settings)):
            continue
        for world in ("keras", "tf_keras"):
            entries = [result(setting, world, with_tfap) for with_tfap in (False, True)]
            print(f"| {setting} | {world} | {' | '.join(entries)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
