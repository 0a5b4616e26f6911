"""Writes the table and figures of activate_while_pruning.py from the folder of its runs."""

import csv
import dataclasses

import numpy as np
import scipy.stats

from tfap.utils import plots
from tfap.utils.plots import Line
from tfap.utils.statistics import interval

ALONE = "X"  # the arm without AP
FEWEST_RANKED = 5  # minimum number of cycles for a rank correlation
SHOWN = (0.5, 0.8, 0.9, 0.95, 0.98)  # sparsities in the table, if there are many
FIGURES = {"accuracy": "accuracy", "dead_dynamic": "dynamic dead-neuron rate"}


@dataclasses.dataclass(frozen=True)
class Run:
    """Identifies a run.

    >>> Run.of("lamp-AP_+_X-init-3")
    Run(base='lamp', arm='AP + X', rewind='init', seed=3)
    """

    base: str
    arm: str
    rewind: str
    seed: int

    @property
    def name(self):
        """A valid folder name."""
        return "-".join(map(str, dataclasses.astuple(self))).replace(" ", "_")

    @classmethod
    def of(cls, name):
        *words, seed = name.replace("_", " ").split("-")
        return cls(*words, int(seed))


def read(folder):
    """Returns `{Run: rows}` of all finished runs; a row is a dict of numbers."""
    found = {}
    for path in sorted(folder.glob("*/rows.csv")):
        with open(path, newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        found[Run.of(path.parent.name)] = rows
    return found


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm and X alone, over their common seeds.

    Attributes:
        alone, beside: Dicts from figure name to array `(seeds, cycles)`, of X alone and of the arm.
    """

    base: str
    rewind: str
    name: str
    alone: dict
    beside: dict

    @property
    def seeds(self):
        return len(self.beside["cycle"])

    @property
    def kept(self):
        """Fraction of weights kept in each cycle."""
        return 1 - self.alone["sparsity"][0]

    def differences(self, figure):
        return self.beside[figure] - self.alone[figure]

    def correlation(self):
        """Returns, per seed, the rank correlation of accuracy and dynamic dead-neuron rate over cycles."""
        pairs = zip(self.differences("dead_dynamic")[:, 1:], self.differences("accuracy")[:, 1:])
        return [scipy.stats.spearmanr(dead, accuracy).statistic for dead, accuracy in pairs]


def arms_of(runs):
    """Returns every `Arm` in `{Run: rows}`, grouped by X, with X alone first."""
    groups = dict.fromkeys((run.base, run.rewind, run.arm) for run in runs)
    arms = []
    for base, rewind, name in sorted(groups, key=lambda group: (*group[:2], group[2] != ALONE)):
        seeds = [run.seed for run in runs if (run.base, run.rewind, run.arm) == (base, rewind, name)]
        seeds = [seed for seed in seeds if Run(base, ALONE, rewind, seed) in runs]
        if seeds:
            alone, beside = (
                _arrays([runs[Run(base, arm, rewind, seed)] for seed in seeds]) for arm in (ALONE, name)
            )
            arms.append(Arm(base, rewind, name, alone, beside))
    return arms


def _arrays(runs):
    return {name: np.array([[row[name] for row in rows] for rows in runs]) for name in runs[0][0]}


def write(folder):
    """Writes `rows.csv`, `table.md`, and the figures to the folder, and prints the table."""
    runs = read(folder)
    _to_csv(runs, folder / "rows.csv")
    arms = arms_of(runs)
    (folder / "table.md").write_text(table(arms))
    print(table(arms))
    for base, rewind in dict.fromkeys((arm.base, arm.rewind) for arm in arms):
        group = [arm for arm in arms if (arm.base, arm.rewind) == (base, rewind)]
        for figure in FIGURES:
            path = folder / f"{base}-{rewind}-{figure}.png".replace(" ", "_")
            draw(group, figure).savefig(path)
            print(path)


def _to_csv(runs, path):
    rows = [{**dataclasses.asdict(run), **row} for run, rows in runs.items() for row in rows]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


COLUMNS = (
    *("X", "rewind", "arm", "sparsity", "seeds", "accuracy", "vs. X alone"),
    *("dynamic dead", "vs. X alone", "static dead", "rank correlation"),
)


def table(arms):
    """Returns a Markdown table: means over seeds in percent, differences from X alone in points with 95% CIs.

    "pruned" is the mean over all cycles except the first. The rank correlation (Spearman) is between the
    differences in accuracy and in the dynamic rate, over the cycles of a seed, if there are enough cycles.
    """
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for arm in arms:
        for cycle in _shown(arm.kept):
            rows.append((*_cells(arm, f"{100 * (1 - arm.kept[cycle]):.4g}%", slice(cycle, cycle + 1)), ""))
        ranked = arm.name != ALONE and len(arm.kept) > FEWEST_RANKED
        correlation = interval(arm.correlation()).text(_signed) if ranked else ""
        rows.append((*_cells(arm, "pruned", slice(1, None)), correlation))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _signed(number):
    return f"{number:+.2f}"


def _shown(kept):
    if len(kept) <= len(SHOWN) + 1:
        return range(len(kept))
    nearest = [int(np.argmin(np.abs(np.log(kept / (1 - sparsity))))) for sparsity in SHOWN]
    return sorted({0, *nearest, len(kept) - 1})


def _cells(arm, sparsity, cycles):
    def mean(figure):
        return f"{100 * arm.beside[figure][:, cycles].mean():.2f}"

    def difference(figure):
        if arm.name == ALONE:
            return ""
        return interval(100 * arm.differences(figure)[:, cycles].mean(axis=1)).text(_signed)

    return (
        *(arm.base, arm.rewind, arm.name, sparsity, str(arm.seeds)),
        *(mean("accuracy"), difference("accuracy"), mean("dead_dynamic"), difference("dead_dynamic")),
        mean("dead_static"),
    )


def draw(arms, figure):
    """Draws a figure against sparsity: one line per arm, with 95% CIs over the seeds."""
    lines = [Line(arm.name, arm.kept, [interval(values) for values in arm.beside[figure].T]) for arm in arms]
    label = f"{FIGURES[figure]} (mean with 95% CI)"
    drawn = plots.lines(lines, None, "sparsity", label, share=figure == "accuracy", spread=1.04)
    plots.label_sparsity(drawn, list(arms[0].kept))
    return drawn
