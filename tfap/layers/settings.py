"""The arguments of `tfap.prune` that every wrapper holds: how its layer is pruned."""

import dataclasses
import json
import re

import numpy as np

from tfap import criteria, schedules
from tfap.keras_compat.registry import serialize
from tfap.masks.patterns import PATTERNS
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
    group: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        self._set("pruning_schedule", schedules.get(self.pruning_schedule))
        self._set("criterion", criteria.get(self.criterion))
        if self.granularity is None:
            self._set("granularity", self.criterion.granularity)
        checks.choice("scope", self.scope, ("global", "local", "layerwise"))
        checks.choice("granularity", self.granularity, tuple(PATTERNS))
        checks.integer("min_weights_per_layer", self.min_weights_per_layer, least=0)
        checks.integer("sample_every", self.sample_every)
        checks.choice("target", self.target, _TARGETS)
        if not isinstance(self.remove_disconnected, bool):
            raise TypeError(
                f"remove_disconnected must be True or False: received {self.remove_disconnected!r}."
            )
        checks.text("group", self.group, none=True)
        if self.target not in self.pattern.targets:
            raise ValueError(
                f"target='{self.target}' counts whole neurons: it needs granularity='neuron', received "
                f"'{self.granularity}'."
            )
        supported = self.criterion.granularities
        if supported is not None and self.granularity not in supported:
            raise ValueError(
                f"{self.criterion} does not support granularity='{self.granularity}': it needs "
                f"granularity={' or '.join(map(repr, supported))}."
            )

    @property
    def pattern(self):
        """The `tfap.masks.patterns.Pattern` in which weights are pruned."""
        return PATTERNS[self.granularity](self.min_weights_per_layer)

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
        return config if self.group is None else {**config, "group": self.group}

    @property
    def key(self):
        """The group or, without one, a text that is equal for equal settings, also in a loaded model."""
        if self.group is not None:
            return self.group
        # A custom criterion or schedule may have settings that its get_config does not return.
        own = [getattr(thing, "__dict__", {}) for thing in (self.criterion, self.pruning_schedule)]
        return json.dumps(_plain([self.get_config(), own]), sort_keys=True)


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
