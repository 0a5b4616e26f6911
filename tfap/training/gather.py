"""What criteria need to know of the kernels of a mask update besides weights and counts."""

import dataclasses

import numpy as np

from tfap import keras_compat
from tfap.compensation import removal
from tfap.compensation.removal import RemovalErrors
from tfap.criteria import gradient as by_gradient
from tfap.criteria.gradient import MeanGradients
from tfap.criteria.taylor import CoupledParameters, loss_change_of
from tfap.graph.calls import Graph
from tfap.graph.channels import ChannelMap

OF_ADJACENT_LAYERS = {"input_norms", "neuron_norms"}  # fields of a `Kernel` that other layers fill in


def gathered(weights, gradients=None, errors=None):
    """Reads the `Kernel`s of a group with all that its criterion needs.

    Args:
        weights: The `PrunedWeight`s of one group.
        gradients: `MeanGradients` for a criterion that needs them, else None.
        errors: `RemovalErrors` for a criterion that needs them, else None.

    Raises:
        ValueError: If the criterion needs what is None.
    """
    kernels, criterion = [weight.gather() for weight in weights], weights[0].wrapper.criterion
    if criterion.needs & OF_ADJACENT_LAYERS:
        kernels = _with_norms(weights, kernels)
    if criterion.needs & by_gradient.NEEDS:
        if gradients is None:
            raise ValueError(by_gradient.MISSING.format(criterion=criterion))
        kernels = _with_gradients(weights, kernels, gradients, criterion.needs)
    if "removal_errors" in criterion.needs:
        if errors is None:
            raise ValueError(removal.MISSING.format(criterion=criterion))
        by_path = errors.by_path()
        kernels = [
            dataclasses.replace(kernel, removal_errors=_errors_of(weight, by_path))
            for weight, kernel in zip(weights, kernels)
        ]
    return kernels


def _with_norms(weights, kernels):
    norms = {found: found.norms() for found in {weight.adjacent_layers for weight in weights} - {None}}
    return [
        dataclasses.replace(
            kernel,
            **norms.get(weight.adjacent_layers, {}).get((weight.found.path_in_part, weight.spec.name), {}),
        )
        for weight, kernel in zip(weights, kernels)
    ]


def _with_gradients(weights, kernels, gradients, needs):
    variables = [weight.variable for weight in weights]
    if "squared_gradients" in needs:
        squares = gradients.squares_of(variables)
        kernels = [
            dataclasses.replace(kernel, squared_gradients=its) for kernel, its in zip(kernels, squares)
        ]
    if "loss_changes" in needs:
        return _with_loss_changes(weights, kernels, gradients)
    if "gradients" in needs:
        found = gradients.of(variables)
        kernels = [dataclasses.replace(kernel, gradients=its) for kernel, its in zip(kernels, found)]
    return kernels


def _with_loss_changes(weights, kernels, gradients):
    coupled = {part: _coupled_parameters(part) for part in dict.fromkeys(w.found.part for w in weights)}
    together = [weight.variable for weight in weights]
    together += [variable for each in coupled.values() if each is not None for variable in each.variables]
    variables = list({id(variable): variable for variable in together}.values())  # each once
    found = dict(zip(map(id, variables), gradients.of(variables)))
    changes = {
        part: {} if each is None else each.changes([found[id(variable)] for variable in each.variables])
        for part, each in coupled.items()
    }
    filled = []
    for weight, kernel in zip(weights, kernels):
        kernel = dataclasses.replace(kernel, gradients=found[id(weight.variable)])
        key = weight.found.path_in_part, weight.spec.name
        its = loss_change_of(kernel, changes[weight.found.part].get(key))
        filled.append(dataclasses.replace(kernel, loss_changes=its))
    return filled


def _coupled_parameters(part):
    if part is None:
        return None
    graph = Graph(part.model)
    return CoupledParameters(graph, ChannelMap(graph))


def _errors_of(weight, by_path):
    """Returns the removal errors of a weight's neurons, the largest for those that cannot be removed."""
    largest = max((its[np.isfinite(its)].max(initial=0) for its in by_path.values()), default=0)
    if weight.spec.heads:
        heads = by_path.get(f"{weight.path}:heads", np.full(1, np.inf))
        its = heads.repeat(weight.neurons // len(heads))
    else:
        its = weight.spec.of_output(by_path.get(weight.path, ()), weight.neurons)
    its = its if len(its) == weight.neurons else np.full(weight.neurons, np.inf)
    return np.where(np.isfinite(its), its, 2 * largest + 1)


def gradients_for(model, wrappers, data, steps):
    """Makes `MeanGradients` if the criterion of a wrapper needs them, else returns None.

    Raises:
        TypeError: If they are needed and the data cannot be iterated at every update.
        ValueError: If they are needed and there is no data or no loss.
    """
    needing = [wrapper.criterion for wrapper in wrappers if wrapper.criterion.needs & by_gradient.NEEDS]
    if not needing:
        return None
    if data is None:
        raise ValueError(by_gradient.MISSING.format(criterion=needing[0]))
    return MeanGradients(model, data, steps)


def errors_for(model, wrappers, data):
    """Makes `RemovalErrors` if the criterion of a wrapper needs them, else returns None.

    Raises:
        TypeError: If they are needed and the data cannot be read at every update.
        ValueError: If they are needed and there is no data, or the model has no graph.
    """
    needing = [wrapper.criterion for wrapper in wrappers if "removal_errors" in wrapper.criterion.needs]
    if not needing:
        return None
    if data is None:
        raise ValueError(removal.MISSING.format(criterion=needing[0]))
    keras_compat.check_measurable(model, str(needing[0]))
    return RemovalErrors(model, data)
