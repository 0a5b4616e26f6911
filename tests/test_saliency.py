"""Criteria that look further than at one weight, against the simplest NumPy that can be right."""

import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfap
from tfap.criteria import LAMP
from tfap.criteria.gradient import MeanGradients
from tfap.criteria.lookahead import AdjacentLayers
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.training import mask_update

pytestmark = pytest.mark.one_keras


def scores_of(model, gradients=None):
    """`{path: scores}` as a mask update would see them."""
    weights = mask_update.pruned_weights(model)
    kernels = mask_update.gathered(weights, gradients)
    return {kernel.path: weights[0].wrapper.criterion.scores(kernel) for kernel in kernels}


def kernels_of(model):
    return [layer.get_weights()[0] for layer in tfap.strip_pruning(model).layers if layer.get_weights()]


# -- LAMP ------------------------------------------------------------------------------------------


def test_lamp_is_the_share_among_the_alive_weights_that_are_not_smaller():
    generator = np.random.default_rng(0)
    weights = generator.integers(-5, 6, (6, 7)).astype(float)  # with ties and zeros
    mask = generator.integers(0, 2, weights.shape).astype("uint8")
    scores = LAMP().scores(Kernel("dense", KernelSpec(), weights, mask))
    for at in zip(*np.nonzero(mask)):
        others = weights[(mask == 1) & (np.abs(weights) >= np.abs(weights[at]))]
        expected = weights[at] ** 2 / np.sum(others**2) if weights[at] else 0
        assert scores[at] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value,expected", [(0.0, 0.0), (2.0, 0.25)])
def test_lamp_of_equal_weights(value, expected):
    kernel = Kernel("dense", KernelSpec(), np.full((2, 2), value, "float32"), np.ones((2, 2), "uint8"))
    np.testing.assert_array_equal(LAMP().scores(kernel), np.full((2, 2), expected))


def test_lamp_does_not_see_the_scale_of_a_layer(keras_module):
    """Global magnitude empties the layer of small weights but for one, LAMP prunes both alike."""
    model = nets.mlp(keras_module, (8, 8, 8, 4))
    for layer, scale in zip(model.layers, (1.0, 1e-3, 1.0)):
        layer.set_weights([np.arange(1, 1 + layer.kernel.shape[1] * 8).reshape(8, -1) * scale, layer.bias])
    wrapped = {name: tfap.prune(model, 0.5, name) for name in ("lamp", "magnitude")}
    for each in wrapped.values():
        tfap.update_masks(each, 0.5)
    assert [int((mask == 0).sum()) for mask in nets.masks(wrapped["magnitude"]).values()] == [1, 63]
    assert [int((mask == 0).sum()) for mask in nets.masks(wrapped["lamp"]).values()] == [32, 32]


# -- Lookahead -------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_lookahead_in_a_chain(keras_module):
    """The output layer is not pruned but counts; the data and the model's output do not."""
    wrapped = tfap.prune(nets.mlp(keras_module, (5, 6, 7, 3)), 0.5, "lookahead")
    tfap.update_masks(wrapped, 0.3)
    first, second, output = kernels_of(wrapped)
    into, out_of = np.linalg.norm(first, axis=0), np.linalg.norm(output, axis=1)
    scores = scores_of(wrapped)
    np.testing.assert_allclose(scores["hidden_0"], abs(first) * np.linalg.norm(second, axis=1), rtol=1e-6)
    np.testing.assert_allclose(scores["hidden_1"], abs(second) * np.outer(into, out_of), rtol=1e-6)
    assert nets.pruned_weights(wrapped) == round(0.3 * nets.prunable_weights(wrapped))


def test_lookahead_of_the_output_layer(keras_module):
    wrapped = tfap.prune(nets.mlp(keras_module, (5, 6, 3)), 0.5, "lookahead", include=["output"])
    first, output = kernels_of(wrapped)
    expected = abs(output) * np.linalg.norm(first, axis=0)[:, None]
    np.testing.assert_allclose(scores_of(wrapped)["output"], expected, rtol=1e-6)


def convolutions(keras):
    """A grouped convolution, pooling and Flatten: three channels become twelve units."""
    layers = keras.layers
    stack = [layers.Conv2D(4, 3, name="a", activation="relu"), layers.BatchNormalization()]
    stack += [layers.Conv2D(6, 1, groups=2, name="b"), layers.ReLU(), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dense(2, name="c")]
    return nets.compiled(keras, keras.Sequential([layers.Input((6, 6, 3)), *stack]))


def test_lookahead_through_groups_and_flatten(keras_module):
    wrapped = tfap.prune(convolutions(keras_module), 0.5, "lookahead")
    kernels = {layer.name: layer.get_weights()[0] for layer in tfap.strip_pruning(wrapped).layers
               if layer.name in "abc"}  # fmt: skip
    a, b, c = (kernels[name] for name in "abc")
    reads = [c[channel::6] for channel in range(6)]  # units of a channel: every sixth one
    behind = np.array([np.linalg.norm(rows) for rows in reads])
    halves = [b[..., :3], b[..., 3:]]  # inputs 0 and 1 feed the first three channels, 2 and 3 the others
    out_of = [np.linalg.norm(halves[channel // 2][:, :, channel % 2]) for channel in range(4)]
    scores = scores_of(wrapped)
    np.testing.assert_allclose(scores["a"], abs(a) * out_of, rtol=1e-6)
    into = np.linalg.norm(a.reshape(-1, 4), axis=0)
    before = np.stack([np.repeat(into[[0, 2]], 3), np.repeat(into[[1, 3]], 3)])
    np.testing.assert_allclose(scores["b"], abs(b) * before * behind, rtol=1e-6)


def test_all_branches_of_an_add_count_together(keras_module):
    model = nets.cnn(keras_module)
    norms = AdjacentLayers(model).norms()
    both = [model.get_layer(name).get_weights()[0].reshape(-1, 6) for name in ("conv_a", "conv_b")]
    depthwise = model.get_layer("depthwise").get_weights()[0].reshape(-1, 6, 2)
    fed = np.sum([np.sum(kernel**2, axis=0) for kernel in both], axis=0) + np.sum(depthwise**2, axis=(0, 2))
    np.testing.assert_allclose(norms["conv_b", "kernel"]["input_norms"].ravel(), np.sqrt(fed), rtol=1e-6)
    assert norms["conv_a", "kernel"]["input_norms"] == 1
    assert norms["output", "kernel"]["neuron_norms"].tolist() == [[1] * 5]


def test_lookahead_without_a_graph_is_magnitude(keras_module):
    hidden = tfap.prune(keras_module.layers.Dense(8, activation="relu"), 0.5, "lookahead")
    model = nets.subclassed(keras_module, hidden)
    model(np.zeros((1, 4)))
    np.testing.assert_array_equal(*scores_of(model).values(), abs(hidden.layer.get_weights()[0]))


# -- Gradient --------------------------------------------------------------------------------------


def logistic(keras, **options):
    """One unit with a sigmoid: its gradient can be written down."""
    dense = keras.layers.Dense(1, activation="sigmoid", name="dense", **options)
    model = keras.Sequential([keras.layers.Input((3,)), dense])
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=["accuracy"])
    return tfap.prune(model, 0.5, "gradient", include=["dense"])


X = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
Y = np.array([0, 1] * 5, "float32")[:, None]


@pytest.mark.smoke
def test_gradient_by_hand(keras_module):
    """Batches of unequal sizes: 10 samples as 7 and 3. The regularizer is a part of the loss."""
    wrapped = logistic(keras_module, kernel_regularizer=keras_module.regularizers.L2(0.1))
    kernel, bias = tfap.prunable_layers(wrapped)[0].layer.get_weights()
    expected = X.T @ (1 / (1 + np.exp(-X @ kernel - bias)) - Y) / 10 + 0.2 * kernel
    sets = tf.data.Dataset.from_tensor_slices((X, Y)).batch(7), [(X[:7], Y[:7]), (X[7:], Y[7:])], (X, Y)
    for data in sets:
        scores = scores_of(wrapped, MeanGradients(wrapped, data))["dense"]
        np.testing.assert_allclose(scores, abs(kernel * expected), rtol=1e-4, atol=1e-7)
    first = scores_of(wrapped, MeanGradients(wrapped, sets[0], steps=1))["dense"]
    of_first = X[:7].T @ (1 / (1 + np.exp(-X[:7] @ kernel - bias)) - Y[:7]) / 7 + 0.2 * kernel
    np.testing.assert_allclose(first, abs(kernel * of_first), rtol=1e-4, atol=1e-7)


def test_gradient_is_what_the_loss_changes_by(keras_module):
    """Finite differences of `evaluate`, past BatchNormalization, pooling and an Add."""
    wrapped = tfap.prune(nets.cnn(keras_module), 0.5, "gradient")
    x, y = nets.data(wrapped, 32)
    scores = scores_of(wrapped, MeanGradients(wrapped, (x, y)))
    for wrapper in tfap.prunable_layers(wrapped):
        kernel = wrapper.layer.get_weights()[0]
        at = np.unravel_index(np.argmax(scores[wrapper.name]), kernel.shape)
        losses = []
        for step in (-2e-3, 2e-3):
            moved = kernel.copy()
            moved[at] += step
            wrapper.layer.set_weights([moved, *wrapper.layer.get_weights()[1:]])
            losses.append(wrapped.evaluate(x, y, verbose=0))
        wrapper.layer.set_weights([kernel, *wrapper.layer.get_weights()[1:]])
        slope = (losses[1] - losses[0]) / 4e-3
        assert scores[wrapper.name][at] == pytest.approx(abs(kernel[at] * slope), rel=0.05)


def test_gradients_leave_no_trace(keras_module):
    """Two fits, one of which takes gradients after every step that do not matter."""
    histories, models = [], []
    for criterion, options in (
        ("magnitude", {}),
        ("gradient", {"gradient_data": (np.ones((9, 8, 8, 3)), np.ones(9))}),
    ):
        keras_module.utils.set_random_seed(0)
        schedule = tfap.ConstantSparsity(0.0, 1, frequency=1)
        wrapped = tfap.prune(nets.cnn(keras_module), schedule, criterion)
        histories.append(nets.fit(wrapped, 2, [tfap.UpdatePruningStep(**options)]).history)
        models.append(wrapped)
    assert histories[0] == histories[1]
    for plain, with_gradients in zip(models[0].get_weights(), models[1].get_weights()):
        np.testing.assert_array_equal(plain, with_gradients)


@pytest.mark.parametrize("scope", ["global", "local"])
def test_gradient_in_fit(keras_module, scope):
    wrapped = tfap.prune(nets.cnn(keras_module), 0.6, "gradient", scope)
    callback = tfap.UpdatePruningStep(gradient_data=nets.data(wrapped), gradient_steps=1)
    nets.fit(wrapped, epochs=4, callbacks=[callback])
    assert nets.pruned_weights(wrapped) == pytest.approx(0.6 * nets.prunable_weights(wrapped), abs=3)


def test_both_kerases_give_the_same_gradients(both_kerases):
    scores = []
    for keras in both_kerases:
        wrapped = logistic(keras)
        tfap.prunable_layers(wrapped)[0].layer.set_weights([np.array([[1.0], [-2.0], [0.5]]), np.zeros(1)])
        scores.append(scores_of(wrapped, MeanGradients(wrapped, (X, Y)))["dense"])
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_gradient_data_is_what_fit_takes(keras_module):
    """Dicts, datasets of them, sample weights, and inputs alone if all losses come from add_loss."""

    class SquaredSum(keras_module.layers.Layer):
        def call(self, x):
            self.add_loss(nets.mean_square(keras_module, x))
            return x

    inputs = keras_module.Input((3,), name="x")
    outputs = SquaredSum()(keras_module.layers.Dense(1, name="dense")(inputs))
    model = keras_module.Model({"x": inputs}, outputs)
    model.compile(keras_module.optimizers.SGD(0.1))
    wrapped = tfap.prune(model, 0.5, "gradient", include=["dense"])
    kernel, _ = tfap.prunable_layers(wrapped)[0].layer.get_weights()
    expected = abs(kernel * (2 * X.T @ (X @ kernel) / 10))
    of = {"x": X}
    dataset = tf.data.Dataset.from_tensor_slices
    for data in (
        of, (of,), (of, None), (of, Y), (of, Y, np.ones(10)), [{"x": X[:7]}, {"x": X[7:]}],
        dataset(of).batch(7), dataset((of, Y)).batch(7), dataset((of, Y, Y[:, 0])).batch(7),
    ):  # fmt: skip
        scores = scores_of(wrapped, MeanGradients(wrapped, data))["dense"]
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)
    wrapped.fit(of, verbose=0, callbacks=[tfap.UpdatePruningStep(gradient_data=of)])
    compiled = logistic(keras_module)
    for data in (X, [X], dataset(X).batch(5)):
        with pytest.raises(TypeError, match="inputs alone, .* needs targets"):
            tfap.update_masks(compiled, 0.5, gradient_data=data)


def test_gradients_that_cannot_be_taken(keras_module):
    wrapped = logistic(keras_module)
    with pytest.raises(ValueError, match="needs gradients: pass tfap.UpdatePruningStep"):
        wrapped.fit(X, Y, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    with pytest.raises(ValueError, match="needs gradients"):
        tfap.update_masks(wrapped, 0.5)
    with pytest.raises(TypeError, match="read only once"):
        tfap.update_masks(wrapped, 0.5, gradient_data=iter([(X, Y)]))
    with pytest.raises(TypeError, match="received int"):
        tfap.update_masks(wrapped, 0.5, gradient_data=3)
    with pytest.raises(ValueError, match="gradient_data is infinite"):
        tfap.update_masks(wrapped, 0.5, tf.data.Dataset.from_tensors((X, Y)).repeat())
    with pytest.raises(ValueError, match="gradient_steps must be an integer"):
        tfap.update_masks(wrapped, 0.5, (X, Y), gradient_steps=0)
    with pytest.raises(ValueError, match="is empty"):
        tfap.update_masks(wrapped, 0.5, gradient_data=[])
    bare = tfap.prune(keras_module.Sequential([keras_module.layers.Input((3,)), keras_module.layers.Dense(2),
                                               keras_module.layers.Dense(1)]), 0.5, "gradient")  # fmt: skip
    with pytest.raises(ValueError, match="is not compiled"):
        tfap.update_masks(bare, 0.5, gradient_data=(X, Y))
    tfap.update_masks(wrapped, 0.34, gradient_data=(X, Y))
    assert nets.pruned_weights(wrapped) == 1


# -- group Taylor, the Hessian diagonal, Wanda ----------------------------------------------------


def normalized(keras):
    """Two channels with scale and shift, at weights with which every number below is a small integer."""
    layers = keras.layers
    norm = layers.BatchNormalization(epsilon=1.0, name="norm")
    model = keras.Sequential(
        [layers.Input((1,)), layers.Dense(2, name="hidden"), norm, layers.Dense(1, use_bias=False)]
    )
    model.layers[0].set_weights([np.array([[1.0, 2.0]]), np.array([0.0, 1.0])])
    norm.set_weights([np.array(values, float) for values in ([1, 2], [0, 1], [0, 0], [0, 0])])
    model.layers[2].set_weights([np.array([[1.0], [1.0]])])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


ONE = np.array([[1.0]], "float32"), np.array([[7.0]], "float32")
# The output is 8, so the loss is (8 - 7)^2, and its gradient with respect to both channels is 2.
# w * gradient of channel 0: scale 1 * 2, shift 0 * 2, kernel 1 * 2, bias 0 * 2.
# Of channel 1, which is 2 * (2 x + 1) + 1: scale 2 * 6, shift 1 * 2, kernel 2 * 4, bias 1 * 4.
CHANGES = [4.0, 26.0]


def test_group_taylor_sums_the_kernel_bias_scale_and_shift(keras_module):
    wrapped = tfap.prune(normalized(keras_module), 0.5, "group_taylor")
    scores = scores_of(wrapped, MeanGradients(wrapped, ONE))["hidden"]
    np.testing.assert_array_equal(scores, [CHANGES])
    tfap.update_masks(wrapped, 0.5, gradient_data=ONE)
    np.testing.assert_array_equal(tfap.prunable_layers(wrapped)[0].mask, [[0, 1]])


def test_prune_once_by_group_taylor(keras_module):
    model, options = normalized(keras_module), {"compensate": False, "recalibrate": False}
    small = tfap.prune_once(model, ONE, 0.5, "group_taylor", **options)
    np.testing.assert_array_equal(small.layers[0].get_weights()[0], [[2.0]])
    with pytest.raises(ValueError, match="GroupTaylor.* needs gradients, and so data with labels"):
        tfap.prune_once(model, ONE[0], 0.5, "group_taylor")


def test_group_taylor_counts_what_is_coupled(keras_module):
    """Both branches of a residual sum have the change of the sum of their parameters."""
    layers = keras_module.layers
    inputs = keras_module.Input((1,))
    branches = [layers.Dense(2, use_bias=False, name=name)(inputs) for name in "ab"]
    outputs = layers.Dense(1, use_bias=False, name="output")(layers.Add()(branches))
    model = keras_module.Model(inputs, outputs)
    model.compile("sgd", "mse")
    for name, weights in {"a": [[1.0, 2.0]], "b": [[3.0, -1.0]], "output": [[1.0], [1.0]]}.items():
        model.get_layer(name).set_weights([np.array(weights)])
    wrapped = tfap.prune(model, 0.5, "group_taylor")
    data = ONE[0], np.array([[4.0]], "float32")  # the output is 5
    scores = scores_of(wrapped, MeanGradients(wrapped, data))
    assert {name: its.tolist() for name, its in scores.items()} == {"a": [[8, 2]], "b": [[8, 2]]}


def test_group_taylor_without_a_graph_sums_the_kernel(keras_module):
    hidden = tfap.prune(keras_module.layers.Dense(2, use_bias=False), 0.5, "group_taylor")
    net = nets.subclassed(keras_module, hidden)
    x, y = np.ones((4, 3), "float32"), np.zeros(4, int)
    net(x)
    net.compile("sgd", "sparse_categorical_crossentropy")
    gradients = MeanGradients(net, (x, y))
    (gradient,) = gradients.of([hidden.layer.kernel])
    (scores,) = scores_of(net, gradients).values()
    expected = np.abs((hidden.layer.get_weights()[0] * gradient).sum(axis=0))
    np.testing.assert_allclose(scores, np.tile(expected, (3, 1)), rtol=1e-6)


def test_hessian_diagonal_squares_the_gradients_of_batches(keras_module):
    """Outputs are 1 and -1, so the gradients of the batches are (2, 0) and (-2, -2)."""
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((2,)), layers.Dense(1, use_bias=False, name="dense")])
    model.layers[0].set_weights([np.array([[1.0], [-2.0]])])
    model.compile("sgd", "mse")
    wrapped = tfap.prune(model, 0.5, "hessian_diagonal", include=["dense"])
    x, y = np.array([[1.0, 0.0], [1.0, 1.0]], "float32"), np.zeros((2, 1), "float32")
    by_sample = MeanGradients(wrapped, [(x[:1], y[:1]), (x[1:], y[1:])])
    np.testing.assert_array_equal(scores_of(wrapped, by_sample)["dense"], [[1 * 4], [4 * 2]])
    together = MeanGradients(wrapped, (x, y))  # the mean gradient is (0, -1)
    np.testing.assert_array_equal(scores_of(wrapped, together)["dense"], [[0], [4 * 1]])
    with pytest.raises(ValueError, match="HessianDiagonal.* needs gradients: pass tfap.UpdatePruningStep"):
        tfap.update_masks(wrapped, 0.5)


@pytest.mark.parametrize("name", ["group_taylor", "fpgm", "reconstruction"])
def test_criteria_of_whole_neurons_refuse_single_weights(keras_module, name):
    with pytest.raises(ValueError, match="does not support granularity='weight'"):
        tfap.prune(nets.mlp(keras_module), 0.5, name, granularity="weight")


def test_wanda_prunes_the_same_fraction_of_every_neuron(keras_module):
    """The inputs have the root mean squares 1 and 2."""
    layers = keras_module.layers
    model = keras_module.Sequential([layers.Input((2,)), layers.Dense(3, name="a"), layers.Dense(1)])
    weights = np.array([[1.0, -20.0, 3.0], [4.0, 50.0, -1.0]])
    model.layers[0].set_weights([weights, np.zeros(3)])
    model.compile(keras_module.optimizers.SGD(0.0), "mse")
    wrapped = tfap.prune(model, tfap.ConstantSparsity(0.5, 3), "wanda")
    x = np.array([[1.0, 2.0], [-1.0, 2.0]], "float32")
    wrapped.fit(x, np.zeros((2, 1)), batch_size=1, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    np.testing.assert_array_equal(scores_of(wrapped)["a"], np.abs(weights) * [[1], [2]])
    tfap.update_masks(wrapped, 0.5)
    np.testing.assert_array_equal(tfap.prunable_layers(wrapped)[0].mask, [[0, 0, 1], [1, 1, 0]])
    tfap.update_masks(wrapped, 0.67)  # one more weight: the smallest of those that are next in their neuron
    np.testing.assert_array_equal(tfap.prunable_layers(wrapped)[0].mask, [[0, 0, 0], [1, 1, 0]])


def test_wanda_of_a_convolution_reads_its_input_channels(keras_module):
    wrapped = tfap.prune(nets.cnn(keras_module), tfap.ConstantSparsity(0.5, 9), "wanda", skip=["depthwise"])
    x, y = nets.data(wrapped)
    wrapped.fit(x, y, batch_size=len(x), verbose=0, callbacks=[tfap.UpdatePruningStep()])
    root_mean_square = np.sqrt((x.astype("float64") ** 2).mean(axis=(0, 1, 2)))
    first = tfap.prunable_layers(wrapped)[0]
    expected = np.abs(first.layer.get_weights()[0]) * root_mean_square[:, None]
    np.testing.assert_allclose(scores_of(wrapped)["conv_a"], expected, rtol=1e-5)


def test_prune_once_by_wanda_ranks_channels(keras_module):
    model = nets.mlp(keras_module, (2, 4, 3))
    weights = np.array([[1.0, 0.0, 4.0, 2.0], [0.0, 1.0, 0.0, 1.0]])
    model.layers[0].set_weights([weights, np.ones(4)])
    x = np.array([[1.0, 3.0], [-1.0, -3.0]], "float32")  # mean scores 0.5, 1.5, 2, 2.5
    small = tfap.prune_once(model, x, 0.5, "wanda", target="neurons", compensate=False)
    np.testing.assert_array_equal(small.layers[0].get_weights()[0], weights[:, 2:])


# -- all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["lamp", "lookahead", "wanda"])
@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.slow
def test_in_fit(keras_module, criterion, scope):
    wrapped = tfap.prune(nets.cnn(keras_module), 0.6, criterion, scope)
    nets.fit(wrapped, epochs=4)
    assert nets.pruned_weights(wrapped) == pytest.approx(0.6 * nets.prunable_weights(wrapped), abs=3)


@pytest.mark.tensorflow_only(reason="a strategy of tf_keras")
def test_gradients_under_a_strategy_of_tf_keras_are_refused_before_training():
    keras = tf_keras
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = tfap.prune(nets.mlp(keras), 0.5, "gradient")
        model.compile("sgd", "sparse_categorical_crossentropy")
    callback = tfap.UpdatePruningStep(gradient_data=nets.data(model))
    with pytest.raises(ValueError, match="cannot be taken under MirroredStrategy in tf_keras"):
        nets.fit(model, callbacks=[callback])
    assert int(tfap.prunable_layers(model)[0].pruning_step.numpy()) <= 0
