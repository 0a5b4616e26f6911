"""Group lasso over coupled channels."""

from tfap.regularization.regularizer import NeuronRegularizer


class GroupLasso(NeuronRegularizer):
    """Adds the norms of all weights of each channel to the loss, so that whole channels become zero.

    The penalty is `strength * sum_g sqrt(n_g) * norm(w_g)`. Group g has all n_g weights of a group of coupled
    channels: the kernels and biases that produce them, the scale and shift of normalization layers, and the
    kernels that consume them. Only channels that can be removed are in the sum.

    Its arguments are those of `tfap.NeuronRegularizer`: `strength`, `begin_step`, `end_step`, `frequency`,
    `zero_below` and `skip`.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential(layers)
    >>> model.compile("sgd", "mse")
    >>> data = {"x": numpy.ones((32, 4)), "y": numpy.ones((32, 1)), "batch_size": 8, "verbose": 0}
    >>> history = model.fit(**data, epochs=20, callbacks=[tfap.GroupLasso(0.1)])
    >>> emptied = history.history["zeroed_channels"][-1]
    >>> tfap.compact(model).layers[0].units == 8 - emptied
    True

    References:
        - Yuan and Lin, *Model selection and estimation in regression with grouped variables*, 2006, section 2
        - Wen et al., *Learning structured sparsity in deep neural networks*, NeurIPS 2016 (arXiv 1608.03665)
        - Fang et al., *DepGraph*, CVPR 2023 (arXiv 2301.12900), section 3.3, for coupled channels
    """
