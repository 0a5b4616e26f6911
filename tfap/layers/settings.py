"""The arguments of `tfap.prune` that every wrapper holds: how its layer is pruned."""

import dataclasses
import json
import math
import re

import numpy as np

from tfap import criteria, schedules
from tfap.keras_compat.registry import serialize
from tfap.masks.blocks import POOLING_TYPES
from tfap.masks.patterns import PATTERNS, Blocks, MByN, Pattern, SingleWeights
from tfap.utils import checks

# In the order of the patterns, each once.
_TARGETS = tuple(dict.fromkeys(target for pattern in PATTERNS.values() for target in pattern.targets))


@dataclasses.dataclass(frozen=True)
class PruningSettings:
    """Checks and holds the settings of a wrapper. Wrappers with the same `key` are updated together.

    Attributes are the arguments of `tfap.prune` of the same names; `granularity` is never None.

    Attributes:
        group: String. The same for all wrappers of one call of `tfap.prune`, and for no others. None for a
            layer that was wrapped alone, and in files of tfap 0.1.0.
        as_tfmot: Whether `tfap.prune_low_magnitude` made them: the number of kept weights is rounded, instead
            of that of pruned ones, and depthwise kernels are not pruned, both as in tfmot.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid.
    """

    pruning_schedule: object
    criterion: object = "activation_count"
    scope: str = "global"
    granularity: str | None = None
    min_weights_per_layer: int = 0
    sample_every: int = 1
    target: str = "weights"
    remove_disconnected: bool = False
    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None
    round_to: int = 1
    group: str | None = dataclasses.field(default=None, kw_only=True)
    as_tfmot: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        self._set("pruning_schedule", schedules.get(self.pruning_schedule))
        self._set("criterion", criteria.get(self.criterion))
        self._set("block_size", two_integers("block_size", self.block_size))
        if self.sparsity_m_by_n is not None:
            self._set("sparsity_m_by_n", _m_by_n(self.sparsity_m_by_n))
        checks.choice("block_pooling_type", self.block_pooling_type, POOLING_TYPES)
        if self.granularity is None:
            self._set("granularity", "weight" if self._structure else self.criterion.granularity)
        checks.choice("scope", self.scope, ("global", "local", "isomorphic", "layerwise"))
        checks.choice("granularity", self.granularity, tuple(PATTERNS))
        checks.integer("min_weights_per_layer", self.min_weights_per_layer, least=0)
        checks.integer("sample_every", self.sample_every)
        checks.choice("target", self.target, _TARGETS)
        if not isinstance(self.remove_disconnected, bool):
            raise TypeError(
                f"remove_disconnected must be True or False: received {self.remove_disconnected!r}."
            )
        if checks.integer("round_to", self.round_to) > 1 and self.granularity not in ("neuron", "unit"):
            raise ValueError(
                f"round_to={self.round_to} is a number of neurons: it needs granularity='neuron', received "
                f"'{self.granularity}'."
            )
        checks.text("group", self.group, none=True)
        if self.target not in self.pattern.targets:
            raise ValueError(
                f"target='{self.target}' counts whole neurons: it needs granularity='neuron', received "
                f"'{self.granularity}'."
            )
        if self._structure:
            self._check_structure()
        supported = self.criterion.granularities
        needed = ("neuron", "head") if self.granularity == "unit" else (self.granularity,)
        if supported is not None and not set(needed) <= set(supported):
            raise ValueError(
                f"{self.criterion} does not support granularity='{self.granularity}': it needs "
                f"granularity={' or '.join(map(repr, supported))}."
            )

    @property
    def pattern(self) -> Pattern:
        """The `tfap.masks.patterns.Pattern` in which weights are pruned."""
        if self.sparsity_m_by_n:
            return MByN(self.sparsity_m_by_n, self.min_weights_per_layer)
        if self.block_size != (1, 1):
            return Blocks(self.block_size, self.block_pooling_type, self.min_weights_per_layer, self.as_tfmot)
        if self.as_tfmot:
            return SingleWeights(self.min_weights_per_layer, rounds_kept=True)
        if self.round_to > 1:
            return PATTERNS[self.granularity](self.min_weights_per_layer, self.round_to)
        return PATTERNS[self.granularity](self.min_weights_per_layer)

    @property
    def _structure(self):
        """The arguments that arrange pruned weights in blocks or groups, as text. Empty if there are none."""
        blocks = f"block_size={self.block_size}" if self.block_size != (1, 1) else ""
        return f"sparsity_m_by_n={self.sparsity_m_by_n}" if self.sparsity_m_by_n else blocks

    def _check_structure(self):
        if self.sparsity_m_by_n and self.block_size != (1, 1):
            raise ValueError(
                f"block_size={self.block_size} and {self._structure} exclude each other: leave one out."
            )
        if self.granularity != "weight":
            raise ValueError(
                f"{self._structure} arranges single weights: it needs granularity='weight' or None, received "
                f"'{self.granularity}'."
            )
        if self.block_size != (1, 1) and not self.criterion.supports_blocks:
            raise ValueError(
                f"{self.criterion} chooses single weights and does not support block_size: leave it out, or "
                "choose another criterion."
            )
        if self.sparsity_m_by_n:
            self._check_sparsity(*self.sparsity_m_by_n)

    def _check_sparsity(self, zeros, size):
        """Checks a final sparsity that is known: m by n sparsity has no other than m / n."""
        schedule = self.pruning_schedule
        names = ("final_sparsity", "target_sparsity")
        known = [getattr(schedule, name) for name in names if hasattr(schedule, name)]
        final = schedule if isinstance(schedule, float) else known[0] if known else None
        if final is not None and not math.isclose(float(final), zeros / size, abs_tol=1e-3):
            raise ValueError(
                f"sparsity_m_by_n=({zeros}, {size}) is a sparsity of {zeros / size:g}: received a final "
                f"sparsity of {float(final):g}. Pass {zeros / size:g}, or another sparsity_m_by_n."
            )

    @classmethod
    def among(cls, arguments):
        """Makes the settings from the arguments of a function, a dict by name."""
        names = [field.name for field in dataclasses.fields(cls) if not field.kw_only]
        return cls(**{name: arguments[name] for name in names})

    @classmethod
    def split(cls, positional, named):
        """Splits the arguments of a layer's constructor into settings and the other named arguments."""
        own = {field.name for field in dataclasses.fields(cls)} & set(named)
        rest = {name: value for name, value in named.items() if name not in own}
        return cls(*positional, **{name: named[name] for name in own}), rest

    def _set(self, name, value):
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def get_config(self):
        config = {
            "pruning_schedule": schedules.serialize(self.pruning_schedule),
            "criterion": serialize(self.criterion),
            "scope": self.scope,
            "granularity": self.granularity,
            "min_weights_per_layer": self.min_weights_per_layer,
            "sample_every": self.sample_every,
            "target": self.target,
            "remove_disconnected": self.remove_disconnected,
        }
        # Only what is set, so that older releases load the files of models without it.
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("block_size", "block_pooling_type", "sparsity_m_by_n", "round_to", "group", "as_tfmot"):
            if getattr(self, name) != defaults[name]:
                config[name] = getattr(self, name)
        return config

    @property
    def key(self):
        """The group or, without one, a text that is equal for equal settings, also in a loaded model."""
        if self.group is not None:
            return self.group
        # A custom criterion or schedule may have settings that its get_config does not return.
        own = [getattr(thing, "__dict__", {}) for thing in (self.criterion, self.pruning_schedule)]
        return json.dumps(_plain([self.get_config(), own]), sort_keys=True)


def two_integers(name, value):
    """Checks a list or tuple of two integers >= 1, and returns a tuple."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise TypeError(f"{name} must be a tuple of two integers: received {value!r}.")
    return tuple(checks.integer(f"{name}[{at}]", item) for at, item in enumerate(value))


def _m_by_n(value):
    zeros, size = two_integers("sparsity_m_by_n", value)
    if zeros >= size:
        raise ValueError(
            f"sparsity_m_by_n=({zeros}, {size}) must prune fewer weights than a group has: pass the number "
            "of pruned weights first, as in (2, 4)."
        )
    return zeros, size


def _plain(value):
    """Converts a value to what JSON can hold, equal for values that are equal in two processes."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    return re.sub(r" at 0x\w+", "", repr(value))
