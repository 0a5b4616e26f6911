"""Wraps the layers of a model for pruning, and strips the wrappers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from tfap import keras_compat, layers
from tfap.budgets import trained
from tfap.budgets.budget import Budget, is_budget
from tfap.criteria import Criterion
from tfap.graph import layer_types
from tfap.graph.activation import fires
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement, equality
from tfap.keras_compat.types import Layer, Model
from tfap.layers.find import prunable_layers
from tfap.layers.settings import PruningSettings
from tfap.pruning import strip
from tfap.pruning.plan import IS_OUTPUT, NAMED_IN_SKIP, LayerSelection, PruningPlan, make_plan, why_not_built

if TYPE_CHECKING:
    from tfap.schedules import PruningSchedule


def prune(
    to_prune: Model | Layer | Sequence[Layer],
    pruning_schedule: PruningSchedule | float | Mapping[str, Any],
    criterion: Criterion | str = "activation_count",
    scope: str = "global",
    granularity: str | None = None,
    include: LayerSelection = (),
    skip: LayerSelection = (),
    min_weights_per_layer: int = 0,
    sample_every: int = 1,
    target: str = "weights",
    remove_disconnected: bool = False,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: tuple[int, int] | None = None,
    round_to: int = 1,
) -> Model | Layer | list[Layer]:
    """Wraps the layers of a model so that `fit()` prunes them.

    Train the result with `tfap.UpdatePruningStep()`, then call `tfap.strip_pruning()`.

    Args:
        to_prune: A built Sequential or Functional model, a layer, or a list of layers. Unchanged. In a list,
            the last layer is pruned too.
        pruning_schedule: A `PruningSchedule`, or the final sparsity: a float in [0, 1), reached by cubic
            decay between 10% and 70% of the fit. Or a budget of the whole model, such as `{"flops": 0.5}`,
            `{"weights": 50_000}` or `{"bytes": 300_000}`: the final sparsity with which the compacted model
            meets it. It needs `granularity="neuron"`, "head" or "unit", and `scope="local"`. With
            `granularity="weight"`, only weights that are not zero count, for a budget of weights.
        criterion: A `tfap.Criterion` or its name: "activation_count", "magnitude", "lamp", "lookahead",
            "gradient", "group_taylor", "hessian_diagonal", "fpgm", "wanda", "reconstruction", "ap".
        scope: "global" ranks all layers together; "local", each kernel; "isomorphic", the layers of the same
            structure, each of which loses the same fraction; "layerwise" prunes one layer per update, and the
            sparsity is a fraction of that layer.
        granularity: "weight", "neuron", or None (default of the criterion; "weight" with `block_size` or
            `sparsity_m_by_n`, which exclude "neuron"). With "neuron", coupled channels
            are pruned together, and every layer keeps at least one neuron. Or "head": whole heads of
            MultiHeadAttention and GroupedQueryAttention, and no other layers. "unit" prunes these heads, and
            the neurons of all other layers.
        include: Output layers to prune: layers, names, paths, or predicates. A nested model selects all
            layers in it.
        skip: Layers not to prune, in the same form.
        min_weights_per_layer: Integer. Weights to keep in every layer.
        sample_every: Integer. Counts activations every n-th training step.
        target: Unit of the sparsity: "weights" or, for neurons, "neurons" or "flops".
        remove_disconnected: Whether to also prune the weights of disconnected neurons. Inference outputs do
            not change. Needs a Sequential or Functional model.
        block_size: Tuple of two integers. Weights are pruned in blocks of so many rows and columns of the
            kernel, as in tfmot, and the sparsity is a fraction of the blocks.
        block_pooling_type: "AVG" or "MAX". How the scores of its weights make the score of a block.
        sparsity_m_by_n: Tuple of two integers, such as (2, 4): m weights of every n consecutive input
            channels are pruned, as in tfmot. The final sparsity is m / n.
        round_to: Integer >= 1. With `granularity="neuron"`, a layer with at least as many neurons keeps a
            multiple of it, or all of them, because some runtimes are slower with other numbers.

    Returns:
        A new model, compiled the same way if `to_prune` was; or the wrapped layer; or the list with its
        prunable layers wrapped.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, the model is subclassed, unbuilt, or wrapped, or nothing can be
            pruned. `tfap.plan` gives the reason for each layer.
        RuntimeError: If the outputs of the new model differ, because a layer's config does not capture
            everything.

    Example:

    >>> import keras, tfap
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    >>> len(tfap.prunable_layers(tfap.prune(model, 0.5)))
    1

    References:
        - [Ganguli and Chong, 2024](https://doi.org/10.3390/a17010048)
    """
    arguments = locals()
    if is_budget(pruning_schedule):
        arguments["pruning_schedule"] = _sparsity_of_budget(arguments)
    settings = PruningSettings.among(arguments)
    together = dataclasses.replace(settings, group=uuid.uuid4().hex)
    if keras_compat.is_model(to_prune):
        _check_prunable_model(to_prune)
        return _prune_model(to_prune, together, make_plan(to_prune, settings, include, skip))
    if include or skip:
        raise ValueError("include and skip choose among the layers of a model: pass a model to tfap.prune.")
    if isinstance(to_prune, list | tuple):
        return _prune_list(to_prune, together)
    if keras_compat.is_layer(to_prune):
        return _prune_layer(to_prune, settings)
    raise TypeError(
        "tfap.prune takes a Sequential or Functional model, a layer or a list of layers, of Keras 3 or "
        f"tf_keras: received an object of type {type(to_prune).__name__}."
    )


def _sparsity_of_budget(arguments):
    """Returns the final sparsity with which a model meets a budget, from the arguments of `prune`."""
    model, budget = arguments["to_prune"], Budget.of(arguments["pruning_schedule"])
    if not keras_compat.is_model(model):
        raise TypeError(
            "A budget is of a whole model: received an object of type "
            f"{type(model).__name__}. Pass a model to tfap.prune, or a sparsity."
        )
    settings = PruningSettings.among({**arguments, "pruning_schedule": 0.0})
    _check_prunable_model(model)
    plan = make_plan(model, settings, arguments["include"], arguments["skip"])
    return trained.sparsity_for(model, budget, settings, [(row.path, row.weight) for row in plan.pruned])


def plan(
    model: Model,
    pruning_schedule: PruningSchedule | float = 0.0,
    criterion: Criterion | str = "activation_count",
    scope: str = "global",
    granularity: str | None = None,
    include: LayerSelection = (),
    skip: LayerSelection = (),
    min_weights_per_layer: int = 0,
    sample_every: int = 1,
    target: str = "weights",
    remove_disconnected: bool = False,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: tuple[int, int] | None = None,
    round_to: int = 1,
) -> PruningPlan:
    """Shows which layers `tfap.prune` would prune, and why not the others.

    The arguments are those of `tfap.prune`. The schedule does not affect the plan.

    Args:
        model: A built Sequential or Functional model of either Keras. Unchanged.

    Returns:
        A `PruningPlan`: a sequence of rows in graph order, at least one for every layer with weights. A row
        has `path`, `weight`, `shape`, `fires_at`, `trainable`, `pruned`, and `reason`. The plan prints as a
        table, which leaves out layers without a kernel, such as BatchNormalization.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, or the model is subclassed, unbuilt, or wrapped.

    Example:

    >>> import keras, tfap
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    >>> [(row.shape, row.pruned) for row in tfap.plan(model)]
    [((8, 16), True), ((16, 3), False)]
    """
    settings = PruningSettings.among(locals())
    _check_prunable_model(model)
    return make_plan(model, settings, include, skip)


def strip_pruning(model: Model | Layer) -> Model | Layer:
    """Removes tfap's wrappers and sets the pruned weights to zero.

    The result contains nothing of tfap: it saves, loads, and exports where tfap is not installed.

    Args:
        model: A wrapped Sequential or Functional model of either Keras, or a layer that is wrapped or holds
            wrapped layers. Unchanged.

    Returns:
        A new model of the same Keras, with the same graph and layer names, compiled alike if `model` was. For
        a layer, a layer without the wrappers.

    Raises:
        TypeError: If `model` is neither a model nor such a layer.
        ValueError: If the model is subclassed or unbuilt, or a layer that is wrapped or holds wrapped layers
            cannot be rebuilt from its config.
        RuntimeError: If the outputs of the new model differ, or a custom training loop has never told the
            callback of the end of a step or an epoch, so that nothing was pruned.

    Example:

    >>> import keras, tfap
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    >>> stripped = tfap.strip_pruning(tfap.prune(model, 0.5))
    >>> len(tfap.prunable_layers(stripped))
    0
    """
    strip.check_loop(model)
    holds_wrappers = not keras_compat.is_model(model) and strip.wrappers_inside(model)
    if keras_compat.is_any_wrapper(model) or holds_wrappers:
        return strip.built_layer(model)
    _check_graph_model(
        model,
        "Strip the models and layers that it holds, and build a new one from them: generator = "
        "tfap.strip_pruning(gan.generator)",
    )
    weight_tying = keras_compat.tied_layers(layer for _, layer in Graph(model).layers())
    stripped = keras_compat.rebuild(
        model, lambda layer: Replacement(layer) if id(layer) in weight_tying else strip.stripped(layer)
    )
    left = [repr(wrapper.name) for wrapper in strip.wrappers_inside(stripped)]
    if left:
        raise ValueError(
            f"The layers {', '.join(left)} cannot be stripped: another layer holds them too, as for weight "
            "tying, so they cannot be rebuilt."
        )
    if all(_is_zeroed(wrapper) for wrapper in prunable_layers(model)):
        equality.check_identical(model, stripped)
    return stripped


def _is_zeroed(wrapper):
    """Whether all pruned weights are zero, as they are unless a callback has written old weights back."""
    return all(map(np.array_equal, wrapper.masked_weights(), wrapper.layer.get_weights()))


def prune_scope() -> contextlib.AbstractContextManager:
    """Returns a scope in which either Keras loads files that contain tfap's and tfmot's wrappers.

    `import tfap` registers its classes with both Kerases, so `load_model()` rarely needs this scope.

    Returns:
        A custom-object scope for a `with` statement.

    Example:

    >>> import keras, tempfile, tfap
    >>> model = tfap.prune(
    ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]), 0.5
    ... )
    >>> with tempfile.TemporaryDirectory() as folder, tfap.prune_scope():
    ...     model.save(f"{folder}/model.keras")
    ...     loaded = keras.models.load_model(f"{folder}/model.keras")
    >>> len(tfap.prunable_layers(loaded))
    1
    """
    classes: dict[str, Any] = {
        "PruneByActivation": layers.PruneByActivation,
        "CountActivations": layers.CountActivations,
    }
    if keras_compat.loaded("tf_keras"):  # tfmot wraps layers of tf_keras only
        classes["PruneLowMagnitude"] = keras_compat.PruneLowMagnitude
    return keras_compat.custom_object_scope(classes)


def _prune_model(model, settings, plan):
    if not plan.pruned:
        raise ValueError(f"There is nothing to prune in the model '{model.name}':\n{plan}")
    largest = max(math.prod(row.shape) for row in plan.pruned)
    if settings.min_weights_per_layer >= largest:
        raise ValueError(
            f"min_weights_per_layer={settings.min_weights_per_layer} leaves nothing to prune in the model "
            f"'{model.name}': its largest layer has {largest} weights."
        )
    _warn_of_frozen([row.path for row in plan.pruned if not row.trainable])
    _tell_left_out(plan)
    graph = Graph(model)
    pruned_paths = {row.path for row in plan.pruned}
    data_formats = {
        site.path: getattr(graph.calls_of[row.path][0].layer, "data_format", None)
        for row in plan.pruned
        if row.firing
        for site in row.firing.sites
    }
    weight_tying = _weight_tying(graph)

    def replace(layer):
        if id(layer) in weight_tying:
            return Replacement(layer)
        replacement, path = keras_compat.copied(layer), graph.path_of(layer)
        if path in pruned_paths:
            return _wrapped(replacement, settings)
        if path in data_formats:
            return _counted(replacement, settings, data_formats[path])
        return replacement

    pruned = keras_compat.rebuild(model, replace)
    equality.check_identical(model, pruned)
    for wrapper in prunable_layers(pruned):  # links each wrapper to the layer that counts for it
        wrapper.note_weights()
    return pruned


def _warn_of_frozen(names):
    names = list(dict.fromkeys(names))
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        logging.warning(
            "Frozen layers are pruned (%s%s): they cannot train to make up for it. Name them in skip, or set "
            "trainable=True.",
            ", ".join(names[:5]),
            more,
        )


def _tell_left_out(plan):
    """Logs why layers with a kernel are not pruned: a warning, unless the caller or a default chose so."""
    left_out: dict[str, list[str]] = {}
    for row in plan:
        if not row.pruned and row.has_kernel:
            left_out.setdefault(row.reason, []).append(row.path)
    for reason, paths in left_out.items():
        chosen = reason in (NAMED_IN_SKIP, IS_OUTPUT)
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        listed = ", ".join(dict.fromkeys(paths[:5]))
        log = logging.info if chosen else logging.warning
        log("Not pruned (%s%s): %s.", listed, more, reason)


def _weight_tying(graph):
    """`{id: reason}` of the layers with weight tying. Warns if training changes the given model."""
    layers_in_graph = [layer for _, layer in graph.layers()]
    weight_tying = keras_compat.tied_layers(layers_in_graph)
    for layer in filter(keras_compat.is_layer, layers_in_graph):
        reason = weight_tying.get(id(layer)) or keras_compat.why_shared(layer)
        if reason and layer.trainable_weights:
            logging.warning(
                "The layer '%s' is shared with the given model, so training changes both models: %s.",
                layer.name,
                reason,
            )
    return weight_tying


def _wrapped(replacement, settings):
    wrapper = layers.PruneByActivation(replacement.layer, **vars(settings))
    return Replacement(wrapper, replacement.weights, holder=replacement.layer)


def _counted(replacement, settings, data_format):
    counter = layers.CountActivations(
        replacement.layer,
        threshold=settings.criterion.threshold,
        sample_every=settings.sample_every,
        data_format=data_format,
        statistic=settings.criterion.statistic,
    )
    return Replacement(counter, replacement.weights, holder=replacement.layer)


def _prune_layer(layer, settings):
    reason = _why_not_prunable_alone(layer, settings)
    if reason:
        raise ValueError(f"The layer '{layer.name}' cannot be pruned: {reason}.")
    _warn_of_frozen([layer.name] if not layer.trainable else [])
    return _wrapped_alone(layer, settings)


def _wrapped_alone(layer, settings):
    return layers.PruneByActivation(keras_compat.built_copy_of(layer), **vars(settings))


def _prune_list(given_layers, settings):
    """Wraps the prunable layers of a list and returns the others unchanged."""
    if not given_layers:
        raise ValueError("There is nothing to prune: the list of layers is empty.")
    for layer in given_layers:
        if not keras_compat.is_layer(layer):
            raise TypeError(f"Expected a list of Keras layers: it contains {layer!r}.")
    reasons = [_why_not_prunable_alone(layer, settings) for layer in given_layers]
    if all(reasons):
        listed = "; ".join(f"'{layer.name}': {reason}" for layer, reason in zip(given_layers, reasons))
        raise ValueError(f"None of the {len(given_layers)} layers can be pruned: {listed}.")
    pruned = [layer for layer, reason in zip(given_layers, reasons) if not reason]
    _warn_of_frozen([layer.name for layer in pruned if not layer.trainable])
    return [
        layer if reason else _wrapped_alone(layer, settings) for layer, reason in zip(given_layers, reasons)
    ]


def _why_not_prunable_alone(layer, settings):
    """Why a layer outside a model cannot be pruned, or None."""
    if keras_compat.is_any_wrapper(layer):
        return "it is already wrapped for pruning"
    reason, side = layer_types.why_not_prunable(layer), settings.criterion.counts
    specs = settings.pattern.kernel_specs(layer)  # none if the layer lists them itself and is not built
    whole_neurons = settings.pattern.couples_neurons
    if reason is None and specs and not any(spec.countable(side, whole_neurons) for spec in specs):
        reason = layer_types.NOT_COUNTABLE[side]
    by_heads = any(spec.heads for spec in specs)
    if reason is None and side == "output" and not by_heads and not fires(layer):
        reason = "it has no activation of its own, which the criterion needs to count"
    if reason is None and keras_compat.copy_of(layer) is None:
        reason = "it cannot be rebuilt from its config: give its class a get_config()"
    return reason or why_not_built(layer)


def _check_prunable_model(model):
    _check_graph_model(
        model,
        "Wrap its layers one by one where they are made: self.dense = "
        "tfap.prune(keras.layers.Dense(64, activation='relu'), pruning_schedule)",
    )
    wrapped_paths = [
        path
        for path, layer in Graph(model).layers()
        if keras_compat.is_any_wrapper(layer) or strip.wrappers_inside(layer)
    ]
    if wrapped_paths:
        raise ValueError(
            f"The model '{model.name}' is already wrapped for pruning (layers {', '.join(wrapped_paths)}): "
            "call strip_pruning() on it first."
        )


def _check_graph_model(model, fix_if_subclassed):
    if not keras_compat.is_model(model):
        raise TypeError(f"Expected a Keras model: received an object of type {type(model).__name__}.")
    keras_compat.keras_of(model)
    if not keras_compat.is_graph_model(model):
        raise ValueError(
            f"The model '{model.name}' is subclassed, so the order of its layers is unknown. "
            f"{fix_if_subclassed}."
        )
    if not keras_compat.is_built(model):
        raise ValueError(
            f"The model '{model.name}' is not built, so it has no weights yet: give it an Input layer, or "
            "call it on data once."
        )
