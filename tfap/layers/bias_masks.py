"""Masks of biases: those of neurons that vary, or have an effect, without any weights.

A unit of a recurrent layer without incoming weights is not constant but varies with time, unless the bias of
its gates is zero too: then it is always zero.
"""

import numpy as np

from tfap.graph.kernel import KernelSpec


class BiasMasks:
    """Zeroes biases with the kernels next to them, for wrappers with `settings`, `specs` and `_masks`."""

    def _add_bias_masks(self):
        if not self.settings.pattern.couples_neurons:
            return
        for cell in dict.fromkeys(self._cell(spec) for spec in self.specs if _prunes_bias(spec)):
            bias = KernelSpec(f"{cell}.bias").find(self.layer)
            if bias is not None:
                name = f"{cell}.bias"
                mask = self._add_state(f"{name.replace('.', '_')}_mask", bias.shape, "uint8", "ones")
                self._bias_masks[cell] = bias, mask
                self._zeroing[name] = self._constrain(bias, mask)

    @staticmethod
    def _cell(spec):
        return spec.name.rpartition(".")[0]

    def zero_biases(self):
        """Zeroes the biases of units of a recurrent layer, and of heads, that have no weights left."""
        for cell, (bias, mask) in self._bias_masks.items():
            masks = [
                (spec, self._masks[spec.name].numpy()) for spec in self.specs if self._cell(spec) == cell
            ]
            if masks[0][0].heads:  # kernel (inputs, heads, dimensions), bias (heads, dimensions)
                kept = masks[0][1].any(axis=(0, 2))[:, None]
            else:
                kept = np.any([_by_unit(spec, values).any(axis=(0, 1)) for spec, values in masks], 0)
                kept = np.tile(kept, masks[0][0].gates)
            mask.assign(np.broadcast_to(kept, mask.shape).astype(np.uint8))
            bias.assign(bias.numpy() * mask.numpy())


def _prunes_bias(spec):
    """Returns whether the bias next to a kernel is pruned with its neurons, which vary without weights."""
    return spec.first_neuron is not None or (spec.heads and spec.neuron_axes != (0,))


def _by_unit(spec, mask):
    """Reshapes the mask of a kernel of a recurrent layer to `(weights, gates, units)`."""
    return mask.reshape(-1, spec.gates, mask.shape[-1] // spec.gates)
