"""Draws the figures of activation_based_pruning.py from the files of its runs."""

import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tfap.comparison import Run


def draw(compared, setting):
    """Writes all figures to the directory of the experiment and prints their names."""
    runs = shown_runs(compared)
    figures = {
        "accuracy_against_sparsity": compared.plot_sparsity(),
        "accuracy_against_size": compared.plot_size(),
        "singular_values": singular_values(setting, runs),
        "firing_rates": firing_rates(setting, runs),
    }
    for number, run in enumerate(runs):
        if "before/0/hidden_1" in np.load(setting.file(run, "fit")):
            figures[f"prunes_{number}"] = prunes(setting, run)
    for name, figure in figures.items():
        path = pathlib.Path(setting.directory) / f"{name}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight")
        print(path)


def shown_runs(compared):
    """Returns the run with the lowest seed of the dense model and of each method at its highest sparsity."""
    best = {}
    for row in compared.rows:
        if row.method not in best or (row.sparsity, -row.seed) > (
            best[row.method].sparsity,
            -best[row.method].seed,
        ):
            best[row.method] = row
    return [Run(row.method, row.sparsity, row.seed) for row in best.values()]


def _axes(count, title, height=2.6):
    figure = Figure(figsize=(2.6 * count, height), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _kernels(setting, run):
    """Returns the kernels of the hidden layers after training."""
    saved = np.load(setting.file(run, "weights"))
    return [saved[f"arr_{2 * number}"] for number in range(len(setting.widths) - 2)]


def _name(run):
    return f"{run.method} {run.sparsity:.0%}" if run.sparsity else run.method


def singular_values(setting, runs):
    """Draws one panel per hidden layer and one line per model. A line ends at the rank."""
    figure, axes = _axes(len(setting.widths) - 2, "Singular values of the hidden kernels after training")
    for run in runs:
        for axis, kernel in zip(axes, _kernels(setting, run)):
            values = np.linalg.svd(kernel.astype("float64"), compute_uv=False)
            values = values[values > 1e-6 * values[0]]
            axis.plot(np.arange(1, len(values) + 1), values, label=_name(run))
    for number, axis in enumerate(axes, start=1):
        axis.set(title=f"hidden {number}", xlabel="place", yscale="log", ylim=(0.05, 4), yticks=[0.1, 1.0])
        axis.yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("singular value")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def prunes(setting, run):
    """Draws the singular values before (solid) and after (dashed) every mask update of a run."""
    saved = np.load(setting.file(run, "fit"))
    count = len({name.split("/")[1] for name in saved if name.startswith("before/")})
    figure, axes = _axes(
        len(setting.widths) - 2, f"{_name(run)}: before (solid) and after (dashed) each mask update"
    )
    for number, axis in enumerate(axes, start=1):
        for prune in range(count):
            color = f"C{prune}"
            for moment, style in (("before", "-"), ("after", "--")):
                values = saved[f"{moment}/{prune}/hidden_{number}"]
                label = f"update {prune + 1}" if moment == "before" else None
                axis.plot(np.arange(1, len(values) + 1), values, style, color=color, lw=1, label=label)
        axis.set(title=f"hidden {number}", xlabel="place")
    axes[0].set_ylabel("singular value")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=count)
    return figure


def firing_rates(setting, runs):
    """Draws how often the neurons fire on the training images; neurons without inputs are red."""
    figure, axes = _axes(len(runs), "Firing rates of the hidden neurons after training", height=2.8)
    for axis, run in zip(axes, runs):
        saved = np.load(setting.file(run, "weights"))
        kernels = _kernels(setting, run)
        rates = [saved[f"rates/hidden_{number}"] for number in range(1, len(kernels) + 1)]
        connected = np.concatenate([kernel.any(axis=0) for kernel in kernels])
        rates = np.concatenate(rates)
        fired = [rates[connected], rates[~connected]]
        axis.hist(fired, bins=20, range=(0, 1), stacked=True, color=["C0", "C3"])
        axis.set_title(f"{_name(run)}\n{connected.sum()} of {connected.size} have inputs", fontsize=9)
        axis.set_xlabel("firing rate")
    axes[0].set_ylabel("neurons")
    return figure
