"""Prints which ways to train on two replicas work, with and without tfap, in Keras 3 and tf_keras.

Every entry is a fit in its own process (two processes for two workers), because an error leaves the
collective operations of TensorFlow unusable. The replicas are CPU devices.
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
flags.DEFINE_list("settings", [], "Rows to run, by their first words; all if empty.")
flags.DEFINE_string("one", None, "Internal: what to train, as JSON.")
flags.DEFINE_integer("timeout", 1200, "Seconds after which a fit counts as failed.")

# Name -> arguments of Adam, arguments of compile, precision.
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


def train(setting, keras_name, with_tfap):
    """Fits a model. With tfap, checks that counts are complete and pruned weights zero on every replica."""
    optimizer, compiled, precision = SETTINGS[setting]
    strategy = (
        tf.distribute.MultiWorkerMirroredStrategy()
        if setting == "two workers"
        else tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    )
    if with_tfap:
        import tfap  # must follow the creation of the multi-worker strategy

    keras = importlib.import_module(keras_name)
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
    """Checks the number of counts and pruned weights, and that pruned weights are zero everywhere."""
    pruned = sum(int((wrapper.mask.numpy() == 0).sum()) for wrapper in wrappers)
    assert pruned == round(0.7 * (12 * 16 + 16 * 8)), pruned
    for wrapper in wrappers:
        assert int(wrapper.activations_seen.numpy()) == 3 * 49
        ((_, kernel, mask),) = wrapper.kernel_and_mask()
        variable = getattr(kernel, "value", kernel)
        variable = variable if isinstance(variable, tf.Variable) else kernel
        for one in getattr(getattr(variable, "_variable", variable), "values", [variable]):
            assert not one.numpy()[mask.numpy() == 0].any()


def result(setting, keras_name, with_tfap):
    """Returns `yes` or the error of a fit in its own process."""
    number = 2 if setting == "two workers" else 1
    ports = [_free_port() for _ in range(number)]
    processes = []
    for index in range(number):
        environment = dict(os.environ)
        if number > 1:
            cluster = {"worker": [f"localhost:{port}" for port in ports]}
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        command = [sys.executable, __file__, f"--one={json.dumps([setting, keras_name, with_tfap])}"]
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


def _summary(error):
    """Returns the type and the first statement of an error, without locations."""
    lines = [line.strip() for line in str(error).split("\n")]
    statements = [
        line
        for line in lines
        if re.search(r"[a-z] [a-z]", line) and not line.startswith(("Detected", "File"))
    ]
    first = next((line for line in statements if "Graph execution error" not in line), "")
    first = re.sub(r" (sequential|dense)/\S*| \(defined @.*", "", first)  # variable name and location
    return f"{type(error).__name__}: {first[:80]}"


def main(_):
    if FLAGS.one:
        setting, keras_name, with_tfap = json.loads(FLAGS.one)
        cpu = tf.config.list_physical_devices("CPU")[0]
        if setting != "two workers":
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        try:
            train(setting, keras_name, with_tfap)
        except Exception as error:
            print(_summary(error).replace("|", "/"))
        else:
            print("yes")
        return
    print("| Setting | Keras | without tfap | with tfap |\n|---|---|---|---|")
    for setting in SETTINGS:
        if FLAGS.settings and not setting.startswith(tuple(FLAGS.settings)):
            continue
        for keras_name in ("keras", "tf_keras"):
            entries = [result(setting, keras_name, with_tfap) for with_tfap in (False, True)]
            print(f"| {setting} | {keras_name} | {' | '.join(entries)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
