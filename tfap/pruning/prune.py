"""The entry: wrap a model for pruning, and take the wrappers off again."""

import math

from absl import logging

from tfap import keras_compat, layers
from tfap.graph import layer_types
from tfap.graph.activation import fires
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement
from tfap.layers.find import is_pruning_wrapper, prunable_layers
from tfap.layers.settings import PruningSettings
from tfap.pruning.plan import make_plan


def prune(
    to_prune,
    pruning_schedule,
    criterion="activation_count",
    scope="global",
    granularity=None,
    include=(),
    skip=(),
    min_weights_per_layer=0,
    sample_every=1,
    target="weights",
    remove_disconnected=False,
):
    """Wraps a model's layers so that `fit` prunes them.

    Train the result with `callbacks=[tfap.UpdatePruningStep()]`, then call `tfap.strip_pruning`.

    Args:
        to_prune: a Sequential or Functional model (nested ones too), one layer, or a list of layers, of
            Keras 3 or tf_keras. It is not changed: the result has its own copies of the weights, and is
            compiled with the same settings (a fresh optimizer) if the model was. Layers given one by one
            are all pruned, the last one too, and fire at their own activation.
        pruning_schedule: a tfmot or tfap `PruningSchedule`; or a float in [0, 1), the final sparsity, which
            is reached by cubic decay between 10% and 70% of the fit.
        criterion: a `tfap.Criterion` or its name: "activation_count", "magnitude", "lamp", "lookahead",
            "gradient", "ap".
        scope: "global" ranks the weights of all layers together, "local" those of each kernel by itself;
            "layerwise" prunes one layer an update, in graph order and round again, and a sparsity is a share
            of that layer.
        granularity: "weight" or "neuron" (whole neurons or channels, scored by the mean over their
            weights; channels tied by a residual Add or a depthwise convolution go together, so that
            `tfap.compact` can remove them, and every layer keeps one); None is the criterion's own:
            "neuron" for activation counts, else "weight".
        include: layers to prune although they make the model's outputs: layers, their names or paths, and
            predicates. A nested model means all layers in it; predicates are asked about each of these.
        skip: layers to leave alone, given in the same ways.
        min_weights_per_layer: weights that every layer keeps, whatever their scores.
        sample_every: count activations in every n-th training step only.
        target: what a sparsity is a share of: "weights"; or, for whole neurons, "neurons" or "flops", the
            floating-point operations of the layers that are pruned.
        remove_disconnected: every mask update also prunes what is left of the weights of neurons that
            nothing flows into or nothing reads, on top of the number asked for. Outputs in inference mode do
            not change: constants move into biases, and where they cannot, weights stay. Needs a Sequential
            or Functional model.

    Returns:
        A new model of the same Keras; or the wrapped layer, or a list with the prunable layers wrapped.

    Raises:
        TypeError, ValueError: an argument that cannot be used, a model that is not built or is
            subclassed, a model that is wrapped already, or nothing to prune. Layers that cannot be
            pruned are no error: `tfap.plan` gives the reasons.

    >>> import keras, tfap
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    ... )
    >>> pruned = tfap.prune(model, 0.5)
    >>> [layer.name for layer in tfap.prunable_layers(pruned)] == [model.layers[0].name]
    True
    """
    settings = PruningSettings.among(locals())
    if keras_compat.is_model(to_prune):
        _check_model(to_prune)
        return _prune_model(to_prune, settings, make_plan(to_prune, settings, include, skip))
    if include or skip:
        raise ValueError("include and skip choose among the layers of a model: give prune() a model.")
    if isinstance(to_prune, list | tuple):
        return _prune_list(to_prune, settings)
    if keras_compat.is_layer(to_prune):
        return _prune_layer(to_prune, settings)
    raise TypeError(
        "tfap.prune takes a Sequential or Functional model, a layer or a list of layers, of Keras 3 or "
        f"tf_keras: received an object of type {type(to_prune).__name__}."
    )


def plan(
    model,
    pruning_schedule=0.0,
    criterion="activation_count",
    scope="global",
    granularity=None,
    include=(),
    skip=(),
    min_weights_per_layer=0,
    sample_every=1,
    target="weights",
    remove_disconnected=False,
):
    """What `tfap.prune` would do with a model: each layer's decision and the reason.

    The arguments are those of `tfap.prune`; the schedule does not matter here.

    Returns:
        A `PruningPlan`: a sequence of rows (path, weight, shape, fires_at, pruned, reason) in graph
        order, one for every layer with weights. It prints as a table.

    >>> import keras, tfap
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    ... )
    >>> [(row.shape, row.pruned) for row in tfap.plan(model)]
    [((8, 16), True), ((16, 3), False)]
    """
    settings = PruningSettings.among(locals())
    _check_model(model)
    return make_plan(model, settings, include, skip)


def strip_pruning(model):
    """Takes tfap's wrappers off: a plain model with the pruned weights exactly zero.

    Args:
        model: a wrapped Sequential or Functional model of either Keras, or a wrapped layer of a subclassed
            one. It is not changed.

    Returns:
        A new model of the same Keras, graph and layer names, with nothing of tfap in it: it saves, loads
        and exports where tfap is not installed. Compiled with the same settings if `model` was. For a
        layer, a plain layer.

    Raises:
        TypeError: neither a model nor a wrapped layer. ValueError: a subclassed or unbuilt model.
    """
    if is_pruning_wrapper(model):
        plain = keras_compat.built_copy_of(model.layer)
        if model.built:
            plain.set_weights(model.masked_weights())
        return plain
    _check_graph_model(model, "Strip its layers one by one: net.dense = tfap.strip_pruning(net.dense)")
    tied = keras_compat.tied_layers(layer for _, layer in Graph(model).layers())
    return keras_compat.rebuild(
        model, lambda layer: Replacement(layer) if id(layer) in tied else _stripped(layer)
    )


def prune_scope():
    """A scope in which files with tfap's and tfmot's wrappers load, for loaders that need one.

    Importing tfap registers its classes with both Kerases, so `load_model` seldom needs it.
    """
    return keras_compat.custom_object_scope(
        {
            "PruneLowMagnitude": keras_compat.PruneLowMagnitude,
            "PruneByActivation": layers.PruneByActivation,
            "CountActivations": layers.CountActivations,
        }
    )


def _prune_model(model, settings, plan):
    if not plan.pruned:
        raise ValueError(f"There is nothing to prune in the model '{model.name}':\n{plan}")
    largest = max(math.prod(row.shape) for row in plan.pruned)
    if settings.min_weights_per_layer >= largest:
        raise ValueError(
            f"min_weights_per_layer={settings.min_weights_per_layer} leaves nothing to prune in the model "
            f"'{model.name}': its largest layer has {largest} weights."
        )
    layers_of = Graph(model)
    wrap = {row.path for row in plan.pruned}
    formats = {
        site.path: getattr(layers_of.calls_of[row.path][0].layer, "data_format", None)
        for row in plan.pruned
        if row.firing
        for site in row.firing.sites
    }

    tied = _tied_and_warned(layers_of)

    def replace(layer):
        if id(layer) in tied:
            return Replacement(layer)
        replacement, path = keras_compat.copied(layer), layers_of.path_of(layer)
        if path in wrap:
            return _wrapped(replacement, settings)
        if path in formats:
            return _counted(replacement, settings, formats[path])
        return replacement

    pruned = keras_compat.rebuild(model, replace)
    for wrapper in prunable_layers(pruned):  # links every wrapper to the layer that counts for it
        wrapper.note_weights()
    return pruned


def _tied_and_warned(layers_of):
    """`tied_layers` of a graph; warns of those whose training changes the given model."""
    layers = [layer for _, layer in layers_of.layers()]
    tied = keras_compat.tied_layers(layers)
    for layer in filter(keras_compat.is_layer, layers):
        reason = tied.get(id(layer)) or keras_compat.why_shared(layer)
        if reason and layer.trainable_weights:
            logging.warning(
                "The layer '%s' is shared with the given model, which is trained with the new one: %s.",
                layer.name,
                reason,
            )
    return tied


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


def _stripped(layer):
    if is_pruning_wrapper(layer):
        plain = keras_compat.copy_of(layer.layer)
        if plain is None:
            raise ValueError(
                f"The layer '{layer.name}' cannot be rebuilt from its config: give its class a get_config()."
            )
        return Replacement(plain, layer.masked_weights())
    return keras_compat.copied(layer.layer if keras_compat.is_any_wrapper(layer) else layer)


def _prune_layer(layer, settings):
    reason = _why_not_alone(layer, settings)
    if reason:
        raise ValueError(f"The layer '{layer.name}' cannot be pruned: {reason}.")
    return layers.PruneByActivation(keras_compat.built_copy_of(layer), **vars(settings))


def _prune_list(given, settings):
    """Layers as they stand in a Sequential model: what cannot be pruned stays itself."""
    if not given:
        raise ValueError("There is nothing to prune: the list of layers is empty.")
    for layer in given:
        if not keras_compat.is_layer(layer):
            raise TypeError(f"Expected a list of Keras layers: it contains {layer!r}.")
    reasons = [_why_not_alone(layer, settings) for layer in given]
    if all(reasons):
        listed = "; ".join(f"'{layer.name}': {reason}" for layer, reason in zip(given, reasons))
        raise ValueError(f"None of the {len(given)} layers can be pruned: {listed}.")
    return [layer if reason else _prune_layer(layer, settings) for layer, reason in zip(given, reasons)]


def _why_not_alone(layer, settings):
    if keras_compat.is_any_wrapper(layer):
        return "it is wrapped for pruning already"
    reason, side = layer_types.why_not_prunable(layer), settings.criterion.counts
    if reason is None and not any(spec.countable(side) for spec in layer_types.kernel_specs(layer)):
        reason = layer_types.NOT_COUNTABLE[side]
    if reason is None and side == "output" and not fires(layer):
        reason = "it has no activation of its own, and its neurons must fire to be counted"
    if reason is None and keras_compat.copy_of(layer) is None:
        reason = "it cannot be rebuilt from its config: give its class a get_config()"
    return reason


def _check_model(model):
    _check_graph_model(
        model,
        "Wrap its layers one by one where they are made: self.dense = "
        "tfap.prune(keras.layers.Dense(64, activation='relu'), pruning_schedule)",
    )
    already = [path for path, layer in Graph(model).layers() if keras_compat.is_any_wrapper(layer)]
    if already:
        raise ValueError(
            f"The model '{model.name}' is wrapped for pruning already (layers {', '.join(already)}): "
            "call strip_pruning() on it first."
        )


def _check_graph_model(model, if_subclassed):
    if not keras_compat.is_model(model):
        raise TypeError(f"Expected a Keras model: received an object of type {type(model).__name__}.")
    keras_compat.keras_of(model)
    if not keras_compat.is_graph_model(model):
        raise ValueError(
            f"The model '{model.name}' is subclassed, so its layers' order is unknown. {if_subclassed}."
        )
    if not keras_compat.is_built(model):
        raise ValueError(
            f"The model '{model.name}' is not built, so its weights do not exist yet: give it an Input "
            "layer, or call it on data once."
        )
