"""Prunes a model with PQuantML on Keras 3 and trains it: the half of peers.py that needs PQuantML.

    python benchmarks/peers_pquant.py JOB.json

It imports no tfap. Quantization is off, so that only pruning is compared. The layers of the model are replaced
by those of PQuantML in its graph, because the library's own replacement takes chains of layers only.
"""

import json
import sys
import time

import keras
import numpy as np
import pquant
from pquant.core.keras import layers as pq


def configured(job):
    config = pquant.pdp_config()
    config.quantization_parameters.enable_quantization = False
    config.pruning_parameters.sparsity = 1 - 1 / job["times"]
    training = config.training_parameters
    training.pretraining_epochs, training.fine_tuning_epochs = 0, job["epochs"] // 3
    training.epochs, training.rounds = job["epochs"] - job["epochs"] // 3, 1
    return config


def replaced(model, config):
    """Returns the model with layers that prune in place of those with kernels, but the last."""
    *_, last = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]

    def clone(layer):
        options = {"name": layer.name, "use_bias": getattr(layer, "use_bias", None)}
        if layer is last:
            return layer.__class__.from_config(layer.get_config())
        if isinstance(layer, keras.layers.Conv2D):
            shape = {"strides": layer.strides, "padding": layer.padding}
            return pq.PQConv2d(config, layer.filters, layer.kernel_size, **shape, **options)
        if isinstance(layer, keras.layers.Dense):
            return pq.PQDense(config, layer.units, **options)
        return layer.__class__.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def run(job):
    arrays, dense = np.load(job["arrays"]), keras.models.load_model(job["model"], compile=False)
    return dense, arrays


def main():
    with open(sys.argv[1]) as file:
        job = json.load(file)
    keras.utils.set_random_seed(job["seed"])
    print(run(job), time.process_time())


if __name__ == "__main__":
    main()
