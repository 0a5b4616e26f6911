"""Prunes a model with PQuantML on Keras 3 and trains it: the half of peers.py that needs PQuantML.

    python benchmarks/peers_pquant.py JOB.json

It imports no tfap. Quantization is off, so that only pruning is compared: PDP, the library's magnitude
pruning with soft masks, per layer. The layers are replaced in the model's own graph, because the library's
replacement takes chains of layers only. Gradients are clipped to the norm 1: without that, the MLP ends with
NaN. It writes the weights in the order of the given model, pruned ones zero, and its figures to the files
that the job names.
"""

import json
import sys
import time

import keras
import numpy as np
import pquant
from pquant.core.keras import layers as pq
from pquant.core.keras.train import PQuantCallback


def configured(job):
    config = pquant.pdp_config()
    config.quantization_parameters.enable_quantization = False
    training, pruning = config.training_parameters, config.pruning_parameters
    training.pretraining_epochs, training.fine_tuning_epochs = 0, job["epochs"] // 3
    training.epochs, training.rounds = job["epochs"] - job["epochs"] // 3, 1
    pruning.sparsity, pruning.epsilon = 1 - 1 / job["times"], 1 / max(training.epochs // 2, 1)
    return config


def replaced(model, config):
    """Returns the model with layers that prune in place of those with kernels, but the last."""
    *_, last = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    activations = {}

    def clone(layer):
        if layer is not last and isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            activations[layer.name] = layer.activation
            common = {"name": layer.name, "use_bias": layer.use_bias}
            if isinstance(layer, keras.layers.Dense):
                return pq.PQDense(config, layer.units, **common)
            shape = {"strides": layer.strides, "padding": layer.padding}
            return pq.PQConv2d(config, layer.filters, layer.kernel_size, **shape, **common)
        return layer.__class__.from_config(layer.get_config())

    def call(layer, *arguments, **options):
        outputs = layer(*arguments, **options)
        return activations.get(layer.name, lambda x: x)(outputs)

    functional = keras.Model(model.inputs, model.outputs)
    made = keras.models.clone_model(functional, clone_function=clone, call_function=call)
    for layer in model.layers:
        own = made.get_layer(layer.name)
        if isinstance(own, pq.PQWeightBiasBase):
            kernel, *bias = layer.get_weights()
            own._kernel.assign(kernel)
            if bias:
                own._bias.assign(bias[0])
        else:
            own.set_weights(layer.get_weights())
    return made


def weights_of(made, model):
    """Returns the weights in the order of the given model."""
    arrays = []
    for layer in model.layers:
        own = made.get_layer(layer.name)
        if isinstance(own, pq.PQWeightBiasBase):
            arrays += [np.asarray(v) for v in (own.kernel, own.bias) if v is not None]
        else:
            arrays += own.get_weights()
    return arrays


def run(job):
    """Prunes and trains. Returns the figures of the row."""
    arrays, model = np.load(job["arrays"]), keras.models.load_model(job["model"], compile=False)
    callback = PQuantCallback(config := configured(job), log_ebops=False)
    made = replaced(model, config)
    steps = job["epochs"] * -(-len(arrays["x_train"]) // job["batch"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not job["softmax"])
    rate = keras.optimizers.schedules.CosineDecay(job["rate"], steps)
    # Gradients through its soft masks grow without bound at the rate of the other arms.
    made.compile(keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=1.0), loss)
    difference = np.abs(made.predict(arrays["x_few"], verbose=0) - arrays["y_few"]).max()
    if not difference <= 1e-4:
        raise SystemExit(f"The outputs of the dense models differ by {difference}.")
    start = time.process_time()
    made.fit(
        *(arrays["x_train"], arrays["y_train"], job["batch"], callback.total_epochs),
        verbose=0,
        callbacks=[callback],
    )
    seconds = time.process_time() - start
    np.savez(job["saved"], *weights_of(made, model))
    return {"fit_seconds": seconds, "difference": float(difference)}


def main():
    with open(sys.argv[1]) as file:
        job = json.load(file)
    keras.utils.set_random_seed(job["seed"])
    figures = run(job)
    with open(job["result"], "w") as file:
        json.dump(figures, file)


if __name__ == "__main__":
    main()
