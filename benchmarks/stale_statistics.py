"""How much accuracy old BatchNormalization statistics cost, by the training steps since the mask update.

    python benchmarks/stale_statistics.py

A small CNN on digits, half of its channels pruned after one training step. A row is the mean over the seeds.
"""

import argparse

import keras
import numpy as np
from absl import logging

import tfap
from tfap import datasets
from tfap.utils import statistics

STEPS = (20, 40, 80, 160, 230, 300, 460, 690)
BATCH = 32


def network():
    layers = keras.layers
    steps = [layers.Input((8, 8, 1))]
    for channels in (16, 32, 32):
        steps += [layers.Conv2D(channels, 3, padding="same", use_bias=False)]
        steps += [layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential([*steps, layers.GlobalAveragePooling2D(), layers.Dense(10)])


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def accuracies(data, seed, trained_epochs):
    """Percent with moving and with recalibrated statistics, after each number of steps."""
    keras.utils.set_random_seed(seed)
    x, x_test = data.x_train[..., None], data.x_test[..., None]
    model = compiled(network())
    model.fit(x, data.y_train, batch_size=BATCH, epochs=trained_epochs, verbose=0)
    schedule = tfap.ConstantSparsity(0.5, 1, frequency=10**6)
    pruned = tfap.prune(model, schedule, criterion="magnitude", granularity="neuron", scope="local")
    order = np.random.default_rng(seed)
    done, rows = -1, []  # the update comes after the first step
    for steps in STEPS:
        samples = order.integers(0, len(x), BATCH * (steps - done))
        fit_data = x[samples], data.y_train[samples]
        pruned.fit(*fit_data, batch_size=BATCH, verbose=0, callbacks=[tfap.UpdatePruningStep()])
        done = steps
        plain = tfap.strip_pruning(pruned)
        both = (compiled(each) for each in (plain, tfap.recalibrate(plain, x)))
        rows.append([100 * each.evaluate(x_test, data.y_test, verbose=0)[1] for each in both])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    data = datasets.load("digits")
    print("| Start | Steps since the update | Old share | Moving | Recalibrated | Difference |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, epochs in (("untrained", 0), ("trained 12 epochs", 12)):
        found = np.array([accuracies(data, seed, epochs) for seed in range(arguments.seeds)])
        for at, steps in enumerate(STEPS):
            moving, recalibrated = found[:, at].mean(axis=0)
            difference = statistics.interval(found[:, at, 1] - found[:, at, 0]).text("{:+.1f}".format)
            cells = (
                name,
                steps,
                f"{100 * 0.99**steps:.1f}%",
                f"{moving:.1f}",
                f"{recalibrated:.1f}",
                difference,
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
