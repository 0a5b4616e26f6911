"""tfmot's `prune_low_magnitude` for Keras 3 and tf_keras."""

from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

from tfap import keras_compat, layers, schedules
from tfap.graph import layer_types
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement, equality
from tfap.keras_compat.types import Layer, Model
from tfap.layers.find import prunable_layers
from tfap.layers.settings import PruningSettings, two_integers
from tfap.schedules import PruningSchedule
from tfap.schedules.function import FunctionSchedule


def prune_low_magnitude(
    to_prune: Model | Layer | Sequence[Layer],
    pruning_schedule: PruningSchedule | Callable | float | None = None,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: Any = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    **kwargs: Any,
) -> Model | Layer | list[Layer]:
    """Wraps the layers of a model so that `fit()` prunes the smallest weights of each kernel, as tfmot does.

    It takes the arguments of tfmot's function of this name, for models of Keras 3 and tf_keras. It prunes the
    same kernels: also those of output layers, but no depthwise ones. Every kernel has the sparsity of the
    schedule and keeps at least one weight. A weight that is pruned stays pruned.

    Train the result with `tfap.UpdatePruningStep()` or, on tf_keras, with tfmot's callback. Then call
    `tfap.strip_pruning()` or, on tf_keras, tfmot's. To prune by other criteria, use `tfap.prune`.

    Args:
        to_prune: A Sequential or Functional model, also a Sequential model that is not built yet; a layer; or
            a list of layers. It is not changed. Layers that are wrapped already stay as they are.
        pruning_schedule: A `PruningSchedule`, a function `step -> (should_prune, sparsity)`, or the final
            sparsity as in `tfap.prune`. None stands for `ConstantSparsity(0.5, 0)`.
        block_size: Tuple of two integers. Weights are pruned in blocks of so many rows and columns.
        block_pooling_type: "AVG" or "MAX". How the absolute weights of a block make its score.
        pruning_policy: A `tfap.PruningPolicy`, or one of tfmot's on tf_keras, that chooses the layers of a
            model. None prunes all layers that have kernels.
        sparsity_m_by_n: Tuple of two integers, such as (2, 4): m weights of every n consecutive input
            channels are pruned, in one update at step 1, whatever the schedule.
        **kwargs: Arguments of the wrapper of a single layer, such as `input_shape`.

    Returns:
        A new model, the wrapped layer, or the list with its layers wrapped. A layer without kernels, such as
        Dropout, is not wrapped.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, the model is subclassed or does not suit the policy, nothing can be
            pruned, or a custom layer has weights but does not say which ones to prune.

    Example:

    >>> import keras, tfap
    >>> layers = [keras.layers.Dense(16), keras.layers.Dense(4)]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> pruned = tfap.prune_low_magnitude(model, tfap.ConstantSparsity(0.5, 0), block_size=(1, 4))
    >>> [tuple(wrapper.mask.shape) for wrapper in tfap.prunable_layers(pruned)]
    [(8, 16), (16, 4)]

    References:
        - [Zhu and Gupta, *To prune, or not to prune*, 2017](https://arxiv.org/abs/1710.01878)
    """
    settings = _settings(pruning_schedule, block_size, block_pooling_type, sparsity_m_by_n)
    is_model, is_list = keras_compat.is_model(to_prune), isinstance(to_prune, list | tuple)
    if not is_model and not is_list and not keras_compat.is_layer(to_prune):
        raise TypeError(
            "tfap.prune_low_magnitude takes a Sequential or Functional model, a layer or a list of layers, "
            f"of Keras 3 or tf_keras: received an object of type {type(to_prune).__name__}."
        )
    if kwargs and (is_model or is_list):
        raise TypeError(
            f"Only a single layer takes further arguments: received {', '.join(kwargs)} with a "
            f"{'model' if is_model else 'list'}."
        )
    if pruning_policy is not None:
        _check_policy(pruning_policy, to_prune, is_model)
    if is_model:
        return _prune_model(to_prune, settings, pruning_policy)
    if is_list:
        return _prune_list(to_prune, settings)
    return _prune_layer(to_prune, settings, **kwargs)


def _settings(schedule, block_size, block_pooling_type, sparsity_m_by_n):
    if schedule is None:
        schedule = schedules.ConstantSparsity(0.5, 0)
    elif callable(schedule) and not isinstance(schedule, PruningSchedule | type):
        schedule = FunctionSchedule(schedule)
    arranged = {
        "block_size": block_size,
        "block_pooling_type": block_pooling_type,
        "sparsity_m_by_n": sparsity_m_by_n,
    }
    fixed = {"criterion": "magnitude", "scope": "local", "granularity": "weight", "as_tfmot": True}
    if sparsity_m_by_n is not None:
        schedules.get(schedule)  # it has no effect, but must be one
        zeros, size = two_integers("sparsity_m_by_n", sparsity_m_by_n)
        share = min(zeros / size, 0.999)  # the settings refuse what is not below 1
        schedule = schedules.ConstantSparsity(share, 1, end_step=1, frequency=1)
    return PruningSettings(schedule, **arranged, **fixed)


def _check_policy(policy, to_prune, is_model):
    if not all(callable(getattr(policy, name, None)) for name in _POLICY) or isinstance(policy, type):
        raise TypeError(
            f"pruning_policy must be a tfap.PruningPolicy, such as tfap.PruneForLatencyOnXNNPack(): received "
            f"{policy!r}."
        )
    if not is_model:
        raise ValueError("pruning_policy chooses among the layers of a model: pass a model, or leave it out.")
    of_tfmot = type(policy).__module__.split(".")[0] == "tensorflow_model_optimization"
    if of_tfmot and keras_compat.is_keras3(to_prune):
        raise ValueError(
            f"{type(policy).__name__} of tfmot reads models of tf_keras only: use "
            f"tfap.{type(policy).__name__}() for the Keras 3 model '{to_prune.name}'."
        )
    policy.ensure_model_supports_pruning(to_prune)


_POLICY = ("allow_pruning", "ensure_model_supports_pruning")


def _prune_model(model, settings, policy):
    keras_compat.keras_of(model)
    if not keras_compat.is_graph_model(model):
        raise ValueError(
            f"The model '{model.name}' is subclassed, so the order of its layers is unknown. Wrap its layers "
            "one by one where they are made: self.dense = tfap.prune_low_magnitude(keras.layers.Dense(64))."
        )

    def chosen(layer):
        allowed = policy is None or keras_compat.is_any_wrapper(layer) or policy.allow_pruning(layer)
        return allowed and _is_prunable(layer, settings)

    if not keras_compat.is_built(model):
        return _prune_unbuilt(model, settings, chosen)
    weight_tying = keras_compat.tied_layers(layer for _, layer in Graph(model).layers())

    def replace(layer):
        if id(layer) in weight_tying or _is_of_tfmot(layer):
            return Replacement(layer)
        replacement = keras_compat.copied(layer)
        if keras_compat.is_layer(layer) and chosen(layer):
            wrapper = layers.PruneByActivation(replacement.layer, **vars(settings))
            return Replacement(wrapper, replacement.weights, holder=replacement.layer)
        return replacement

    pruned = keras_compat.rebuild(model, replace)
    equality.check_identical(model, pruned)
    _check_not_empty(pruned)
    return pruned


def _check_not_empty(pruned):
    if not prunable_layers(pruned) and not any(map(_is_of_tfmot, keras_compat.all_layers(pruned))):
        raise ValueError(
            f"There is nothing to prune in the model '{pruned.name}': it has no kernels, or the "
            "pruning_policy allows none of its layers."
        )


def _prune_unbuilt(model, settings, chosen):
    """Makes the same Sequential model, which is not built yet, of wrapped layers."""
    made = []
    for layer in model.layers:
        if keras_compat.is_model(layer):
            made.append(_prune_model(layer, settings, None))
        elif chosen(layer):
            made.append(_wrapped(layer, settings))
        else:
            made.append(layer if _is_of_tfmot(layer) else keras_compat.built_copy_of(layer) or layer)
    pruned = keras_compat.keras_of(model).Sequential(made, name=model.name)
    _check_not_empty(pruned)
    return pruned


def _prune_list(given, settings):
    for layer in given:
        if not keras_compat.is_layer(layer):
            raise TypeError(f"Expected a list of Keras layers: it contains {layer!r}.")
    if not given:
        raise ValueError("There is nothing to prune: the list of layers is empty.")
    return [
        _prune_model(layer, settings, None) if keras_compat.is_model(layer) else _prune_layer(layer, settings)
        for layer in given
    ]


def _prune_layer(layer, settings, **kwargs):
    return _wrapped(layer, settings, **kwargs) if _is_prunable(layer, settings) else layer


def _wrapped(layer, settings, **kwargs):
    copied = keras_compat.built_copy_of(layer)
    if copied is None:
        logging.warning("'%s' is wrapped itself: it cannot be copied from its config.", layer.name)
    return layers.PruneByActivation(copied or layer, **{**vars(settings), **kwargs})


def _is_prunable(layer, settings):
    """Whether a layer has kernels that tfmot prunes.

    Raises:
        ValueError: If it is a custom layer whose weights are not known.
    """
    if keras_compat.is_any_wrapper(layer):
        return False
    reason = layer_types.why_not_prunable(layer)
    if reason is None:
        specs = layer_types.kernel_specs(layer)
        return layer_types.lists_weights(layer) or not all(map(layer_types.is_depthwise, specs))
    if keras_compat.kind_of(layer) is None and (layer.weights or not layer.built):
        raise ValueError(
            f"The layer '{layer.name}' cannot be pruned: {reason}. Give {type(layer).__name__} a method "
            "get_prunable_weights() that returns a list of its variables, call tfap.register_prunable_layer, "
            "or wrap the other layers one by one."
        )
    return False


def _is_of_tfmot(layer):
    """Whether it is a wrapper of tfmot's own, which both models share."""
    return keras_compat.is_any_wrapper(layer) and not keras_compat.is_tfap_wrapper(layer)
