"""The arguments of `tfap.prune_once`, checked before any work starts."""

from tfap.budgets.budget import Budget, is_budget
from tfap.compaction.allocation import Allocation, is_allocation
from tfap.compaction.planned_units import every_unit
from tfap.compaction.sensitivity_table import Sensitivity
from tfap.utils import checks

_TARGETS = ("weights", "flops", "neurons")
_COMPENSATIONS = (True, False, "mean")


def check(target, scope, compensate, recalibrate, ridge):
    checks.choice("target", target, _TARGETS)
    if not isinstance(scope, Sensitivity):
        checks.choice("scope", scope, ("global", "local", "isomorphic", "allocated"))
    checks.choice("compensate", compensate, _COMPENSATIONS)
    checks.choice("recalibrate", recalibrate, (True, False))
    if checks.number("ridge", ridge) < 0:
        raise ValueError(f"ridge must be a number >= 0: received {ridge}.")


def goal_of(sparsity, target, model):
    """Returns the sparsity as a float, the budget, or the allocation."""
    if is_allocation(sparsity, model):
        return sparsity if isinstance(sparsity, Allocation) else Allocation(sparsity)
    if not is_budget(sparsity):
        if not 0 <= checks.number("sparsity", sparsity) < 1:
            raise ValueError(f"sparsity must be in [0, 1): received {sparsity}.")
        return float(sparsity)
    if target != "weights":
        raise ValueError(
            f"target is the unit of a fraction, and a budget names its own: received target={target!r} with "
            f"{sparsity}. Leave target out."
        )
    return Budget.of(sparsity)


def granularity_of(granularity, data, criterion, scope, goal):
    """Returns the granularity that was given, or that None stands for."""
    if granularity is None:
        measured = scope.has_heads if isinstance(scope, Sensitivity) else scope == "allocated"
        with_heads = data is not None and (measured or isinstance(goal, Allocation))
        return every_unit(criterion) if with_heads else "neuron"
    checks.choice("granularity", granularity, ("neuron", "head", "unit"))
    if granularity != "neuron" and data is None:
        raise ValueError(
            f"granularity='{granularity}' needs inputs as data, because no weights tell which heads are "
            "similar: received no data. Pass a few hundred inputs."
        )
    return granularity


def check_without_data(criterion, compensate, scope, goal):
    if scope not in ("global", "local") or isinstance(goal, Allocation):
        raise ValueError(
            "data is None, so nothing tells how much the outputs bear of each layer: pass a few hundred "
            'inputs as data, or scope="local" or "global" and a sparsity or budget.'
        )
    if criterion != "reconstruction" or compensate is not True:
        raise ValueError(
            "data is None, so similar neurons are merged by their weights alone, which needs the default "
            f"criterion and compensate=True: received criterion={criterion!r}, compensate={compensate!r}. "
            "Pass a few hundred inputs as data for other ones."
        )
