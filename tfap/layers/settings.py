"""The arguments of `tfap.prune` that every wrapper holds: how its layer is pruned."""

import dataclasses
import json

from tfap import criteria, schedules
from tfap.keras_compat.registry import serialize
from tfap.masks.patterns import PATTERNS
from tfap.utils import checks


@dataclasses.dataclass(frozen=True)
class PruningSettings:
    """Checks and holds the settings of a wrapper. Wrappers with equal settings (`key`) are ranked together.

    Attributes are the arguments of `tfap.prune` of the same names; `granularity` is never None.

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

    def __post_init__(self):
        self._set("pruning_schedule", schedules.get(self.pruning_schedule))
        self._set("criterion", criteria.get(self.criterion))
        if self.granularity is None:
            self._set("granularity", self.criterion.granularity)
        checks.choice("scope", self.scope, ("global", "local", "layerwise"))
        checks.choice("granularity", self.granularity, tuple(PATTERNS))
        checks.integer("min_weights_per_layer", self.min_weights_per_layer, least=0)
        checks.integer("sample_every", self.sample_every)
        checks.choice("target", self.target, ("weights", "neurons", "flops"))
        if not isinstance(self.remove_disconnected, bool):
            raise TypeError(
                f"remove_disconnected must be True or False: received {self.remove_disconnected!r}."
            )
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
        return cls(**{field.name: arguments[field.name] for field in dataclasses.fields(cls)})

    @classmethod
    def split(cls, positional, named):
        """Splits the arguments of a layer's constructor into settings and the other named arguments."""
        own = {field.name for field in dataclasses.fields(cls)} & set(named)
        rest = {name: value for name, value in named.items() if name not in own}
        return cls(*positional, **{name: named[name] for name in own}), rest

    def _set(self, name, value):
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def get_config(self):
        return {
            "pruning_schedule": schedules.serialize(self.pruning_schedule),
            "criterion": serialize(self.criterion),
            "scope": self.scope,
            "granularity": self.granularity,
            "min_weights_per_layer": self.min_weights_per_layer,
            "sample_every": self.sample_every,
            "target": self.target,
            "remove_disconnected": self.remove_disconnected,
        }

    @property
    def key(self):
        """Equal for equal settings, also after saving and loading."""
        # A custom criterion or schedule may have settings that its get_config does not return.
        own = [
            sorted(vars(thing).items())
            for thing in (self.criterion, self.pruning_schedule)
            if hasattr(thing, "__dict__")
        ]
        return json.dumps([self.get_config(), own], sort_keys=True, default=_plain)


def _plain(value):
    """Converts NumPy numbers to Python's, as they come back from a file."""
    return value.item() if hasattr(value, "item") else repr(value)
