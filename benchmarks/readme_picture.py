"""Draws README's picture: accuracy against file size and against latency, with 95% intervals.

    python benchmarks/real_size.py --net mlp --seeds 5 \
        --arms dense,count,count_distilled,magnitude,scratch,scratch_distilled
    python benchmarks/readme_picture.py

The first command trains the models; the second measures them. Each point is a mean over the seeds. Sizes are
those of the LiteRT files. Latencies are those of the interpreter's invoke() at batch size 1 on one thread,
measured in interleaved rounds with every model of a seed. The figures go to a CSV file beside the picture.
"""

import csv
import pathlib

import matplotlib.figure
import numpy as np
import real_size
from absl import app, flags

import tfap
from tfap.keras_compat import load_model
from tfap.utils.statistics import interval

FLAGS = flags.FLAGS
flags.DEFINE_string("picture", "docs/results/readme.png", "The picture to write.")

ARMS = {  # name: label, color, marker, where the label stands
    "dense": ("dense", "#444444", "o", (-8, 12), "right"),
    "magnitude": ("tfmot, 90% zeros", "#E69F00", "s", (-8, -20), "right"),
    "count": ("tfap", "#0072B2", "D", (12, 4), "left"),
    "count_distilled": ("tfap, distilled", "#0072B2", "^", (12, 4), "left"),
    "scratch": ("from scratch", "#999999", "v", (12, -14), "left"),
    "scratch_distilled": ("from scratch, distilled", "#999999", "P", (12, 2), "left"),
}


def measured(folder, rows):
    """`{arm: [(accuracy in percent, kilobytes, microseconds) of each seed]}`."""
    found = {arm: [] for arm in ARMS}
    for seed in sorted({row["seed"] for row in rows}):
        accuracy = {row["arm"]: 100 * float(row["accuracy"]) for row in rows if row["seed"] == seed}
        files = {
            arm: tfap.export(
                load_model(folder / f"mlp-{arm}-{seed}.keras"),
                folder / f"mlp-{arm}-{seed}.tflite",
                format="tflite",
            )
            for arm in ARMS
            if arm in accuracy
        }
        times = real_size._invocations(files, batch=1)
        for arm, file in files.items():
            found[arm].append((accuracy[arm], file.stat().st_size / 1000, 1e6 * times[arm].median))
    return {arm: points for arm, points in found.items() if points}


def draw(points):
    figure = matplotlib.figure.Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
    sizes, latencies = figure.subplots(1, 2, sharey=True)
    panels = ((sizes, 1, "LiteRT file, kB"), (latencies, 2, "LiteRT latency at batch size 1, microseconds"))
    for axes, column, label in panels:
        for arm, values in points.items():
            mark(axes, arm, np.array(values)[:, [0, column]])
        axes.set_xscale("log")
        axes.set_xlabel(label, fontsize=14)
        axes.tick_params(labelsize=13)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.margins(x=0.25, y=0.15)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    sizes.set_ylabel("test accuracy, %", fontsize=14)
    sizes.yaxis.set_major_locator(matplotlib.ticker.MultipleLocator(1))
    figure.suptitle("Fashion-MNIST, MLP 784-300-200-100-50-10, 90% of every hidden layer pruned", fontsize=14)
    return figure


def mark(axes, arm, values):
    label, color, marker, offset, side = ARMS[arm]
    accuracy, x = interval(values[:, 0]), values[:, 1].mean()
    half = [[accuracy.mean - accuracy.low], [accuracy.high - accuracy.mean]]
    axes.errorbar(x, accuracy.mean, half, color=color, marker=marker, markersize=9, capsize=4, elinewidth=2)
    axes.annotate(
        label, (x, accuracy.mean), offset, textcoords="offset points", ha=side, color=color, fontsize=13
    )


def main(_):
    folder = pathlib.Path(FLAGS.folder)
    points = measured(folder, real_size.read(folder / "mlp.csv"))
    path = pathlib.Path(FLAGS.picture)
    draw(points).savefig(path)
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("arm", "seeds", "accuracy_percent", "accuracy_low", "accuracy_high", "kilobytes", "microseconds")
        )
        for arm, values in points.items():
            accuracy, kilobytes, microseconds = np.array(values).T
            found = interval(accuracy)
            figures = (found.mean, found.low, found.high, kilobytes.mean(), microseconds.mean())
            writer.writerow((arm, len(values), *(f"{figure:.4g}" for figure in figures)))


if __name__ == "__main__":
    app.run(main)
