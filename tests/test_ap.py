"""AP: the known answers of its authors, its variants against plain NumPy, and what it remembers."""

import json
import pathlib

import nets
import numpy as np
import pytest

import tfap
from tfap import criteria
from tfap.keras_compat.registry import serialize
from tfap.layers.settings import PruningSettings

pytestmark = pytest.mark.one_keras

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "ap_index.json").read_text())["cases"]


# -- the authors' answers --------------------------------------------------------------------------


class Theirs:
    """One file of the authors' arrays, in the layout of Keras."""

    def __init__(self, file):
        self._arrays = np.load(GOLDEN / file)
        self.case = CASES[file]
        self.names = [parameter["name"] for parameter in self.case["parameters"]]

    def kernels(self, key):
        return [np.moveaxis(self._arrays[f"{key}__{name}"], (0, 1), (-1, -2)) for name in self.names]

    def model(self, keras):
        """Three layers that hold the tensors; nothing is ever computed with them."""
        layers = keras.layers
        stack = [layers.Conv2D(6, 3, use_bias=False), layers.Conv2D(8, 3, use_bias=False)]
        stack += [layers.GlobalAveragePooling2D(), layers.Reshape((8,)), layers.Dense(32), layers.Dense(10)]
        model = keras.Sequential([layers.Input((8, 8, 3)), *stack])
        return model, [stack[0], stack[1], stack[-1]]


def in_their_order(kernel):
    """Flat, as torch has it."""
    return np.moveaxis(kernel, (-1, -2), (0, 1)).ravel()


def less_the_largest_mover(before, after, moved):
    """Their masks after AP with the one weight back that they prune too many."""
    went = [(old != 0) & (new == 0) for old, new in zip(before, after)]
    distances = [np.where(gone, move, -1) for gone, move in zip(went, moved)]
    layer = int(np.argmax([distance.max() for distance in distances]))
    right = [new != 0 for new in after]
    at = np.unravel_index(np.argmax(distances[layer]), distances[layer].shape)
    right[layer][at] = True
    return right


@pytest.mark.parametrize("file", CASES)
def test_authors_answers_in_cycles(keras_module, file):
    """Magnitude, AP, rewind, twice; after each cycle the masks go on as the authors have them."""
    theirs = Theirs(file)
    model, holders = theirs.model(keras_module)
    names = [layer.name for layer in holders]
    for cycle in theirs.case["cycles"]:
        at = f"c{cycle['cycle']}"
        number = cycle["n_pruned_lt"] + cycle["num_ap"]
        answers = {}
        # The share is of the recorded numbers: floor(share * n) is num_ap.
        for name, criterion, count in (
            ("after_lt", "magnitude", cycle["n_pruned_lt"]),
            ("after_ap", tfap.AP(share=cycle["num_ap"] / number), number),
        ):
            wrapped = tfap.prune(model, 0.5, criterion, include=names, skip=lambda x: x.name not in names)
            wrappers = tfap.prunable_layers(wrapped)
            for wrapper, previous, weights, mask in zip(
                wrappers, *(theirs.kernels(f"{at}_{key}") for key in ("w_prev", "w_curr", "mask_before"))
            ):
                kernel = wrapper.layer.kernel
                kernel.assign(previous)
                wrapper.mask.assign(mask)
                wrapper.note_weights()
                kernel.assign(weights * mask)
            before = nets.pruned_weights(wrapped)
            tfap.update_masks(wrapped, (before + count) / cycle["total"])
            assert nets.pruned_weights(wrapped) == before + count
            answers[name] = [wrapper.mask.numpy() for wrapper in wrappers]
        after_lt, after_ap = (theirs.kernels(f"{at}_mask_{key}") for key in ("after_lt", "after_ap"))
        moved = [
            np.abs(now - then)
            for now, then in zip(*(theirs.kernels(f"{at}_{key}") for key in ("w_curr", "w_prev")))
        ]
        for ours, expected in zip(answers["after_lt"], after_lt):
            np.testing.assert_array_equal(ours, expected)
        for ours, expected in zip(answers["after_ap"], less_the_largest_mover(after_lt, after_ap, moved)):
            np.testing.assert_array_equal(ours, expected)


# -- against plain NumPy ---------------------------------------------------------------------------


def moved_net(keras, criterion, scope="global", **options):
    """A wrapped net whose weights have moved since prune()."""
    wrapped = tfap.prune(nets.mlp(keras, (12, 16, 8, 4)), 0.5, criterion, scope, **options)
    generator = np.random.default_rng(1)
    for wrapper in tfap.prunable_layers(wrapped):
        kernel = wrapper.layer.kernel
        kernel.assign(kernel.numpy() + generator.normal(size=kernel.shape).astype("float32") * 0.1)
    return wrapped


def flat(model):
    """`(weights, weights at prune(), masks)` of all kernels, each as one row."""
    wrappers = tfap.prunable_layers(model)
    rows = [(w.layer.kernel.numpy(), w.previous(w.specs[0]), w.mask.numpy()) for w in wrappers]
    return [np.concatenate([part.ravel() for part in column]) for column in zip(*rows)]


def expected_masks(weights, previous, mask, count, share, sign=-1):
    """Base magnitude and then AP by stable sorts; masks of one row."""
    mask, chosen = mask.copy(), int(share * count + 1e-9)
    alive = np.flatnonzero(mask)
    mask[alive[np.argsort(abs(weights[alive]), kind="stable")[: count - chosen]]] = 0
    there = np.flatnonzero((mask == 1) & (weights * sign > 0))
    order = np.lexsort((there, abs(weights[there]), abs(weights - previous)[there]))
    mask[there[order[:chosen]]] = 0
    return mask


@pytest.mark.parametrize("sign", ["negative", "positive"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.29, 1.0])
def test_least_moved(keras_module, share, sign):
    model = moved_net(keras_module, tfap.AP(share=share, sign=sign, which="least_moved"))
    for sparsity in (0.2, 0.35):
        weights, previous, mask = flat(model)
        count = round(sparsity * mask.size) - int((mask == 0).sum())
        tfap.update_masks(model, sparsity)
        expected = expected_masks(weights, previous, mask, count, share, -1 if sign == "negative" else 1)
        np.testing.assert_array_equal(flat(model)[2], expected)
        for wrapper in tfap.prunable_layers(model):  # has moved since the update
            wrapper.layer.kernel.assign(wrapper.layer.kernel.numpy() * wrapper.mask.numpy() * 1.1)


@pytest.mark.smoke
def test_each_kernel_by_itself(keras_module):
    model = moved_net(keras_module, tfap.AP(share=0.3), scope="local")
    before = [(w.layer.kernel.numpy(), w.previous(w.specs[0])) for w in tfap.prunable_layers(model)]
    tfap.update_masks(model, 0.5)
    for wrapper, (weights, previous) in zip(tfap.prunable_layers(model), before):
        ones = np.ones(weights.size, "uint8")
        expected = expected_masks(weights.ravel(), previous.ravel(), ones, weights.size // 2, 0.3)
        np.testing.assert_array_equal(wrapper.mask.numpy().ravel(), expected)


def test_fewer_negatives_than_asked_for(keras_module):
    model = moved_net(keras_module, tfap.AP(share=1.0))
    negative = int((flat(model)[0] < 0).sum())
    tfap.update_masks(model, 0.9)
    assert nets.pruned_weights(model) == negative < 0.9 * nets.prunable_weights(model)
    tfap.update_masks(model, 0.95)
    assert nets.pruned_weights(model) == negative


def test_a_floor_under_every_layer(keras_module):
    """100 weights may go, 18 of them in the second layer."""
    model = moved_net(keras_module, tfap.AP(share=0.5), min_weights_per_layer=110)
    tfap.update_masks(model, 0.3)
    alive = [int(mask.sum()) for mask in nets.masks(model).values()]
    assert alive[1] == 110 and nets.pruned_weights(model) == 96
    tfap.update_masks(model, 0.9)
    assert nets.pruned_weights(model) == 100


def test_what_has_not_moved_is_a_tie_of_sizes(keras_module):
    model = tfap.prune(nets.mlp(keras_module), 0.5, tfap.AP(share=1.0))
    weights = flat(model)[0]
    tfap.update_masks(model, 10 / weights.size)
    smallest = np.sort(np.where(weights < 0, -weights, np.inf))[:10]
    np.testing.assert_array_equal(np.sort(-weights[flat(model)[2] == 0]), smallest)


def test_random_negatives_repeat_by_seed_and_update(keras_module):
    def pruned(seed, updates=0):
        model = moved_net(keras_module, tfap.AP(share=1.0, which="random", seed=seed))
        for wrapper in tfap.prunable_layers(model):
            assert not wrapper.keeps_previous
            wrapper.layer.kernel.assign(np.resize([-1, 1, 1], wrapper.layer.kernel.shape))
            wrapper.updates_made.assign(updates)
        tfap.update_masks(model, 0.2)
        signs = np.concatenate([w.layer.get_weights()[0].ravel() for w in tfap.prunable_layers(model)])
        assert (signs > 0).any() and (signs == 0).sum() == 64
        return signs == 0

    np.testing.assert_array_equal(pruned(0), pruned(0))
    for other in (pruned(1), pruned(0, updates=1)):
        assert (other != pruned(0)).any()


@pytest.mark.parametrize(
    "base,which",
    [
        ("lamp", "least_moved"),
        ("gradient", "least_moved"),
        ("activation_count", "random"),
        ("lookahead", "least_moved"),
    ],
)
def test_over_every_base_in_fit(keras_module, base, which):
    model = tfap.prune(nets.mlp(keras_module), 0.4, tfap.AP(base, 0.2, which))
    callback = tfap.UpdatePruningStep(gradient_data=nets.data(model))
    nets.fit(model, epochs=3, callbacks=[callback])
    assert nets.pruned_weights(model) == round(0.4 * nets.prunable_weights(model))
    for wrapper in tfap.prunable_layers(model):
        assert not wrapper.layer.get_weights()[0][wrapper.mask.numpy() == 0].any()


# -- what it remembers -----------------------------------------------------------------------------


def test_movement_counts_from_the_last_update_that_pruned(keras_module):
    model = moved_net(keras_module, tfap.AP())
    before = flat(model)[1]
    tfap.update_masks(model, 0.0)
    np.testing.assert_array_equal(flat(model)[1], before)
    tfap.update_masks(model, 0.1)
    np.testing.assert_array_equal(flat(model)[1], flat(model)[0])


def test_a_rewind(keras_module):
    """Movement counts from the weights that were noted."""
    model = moved_net(keras_module, tfap.AP(share=1.0))
    for wrapper in tfap.prunable_layers(model):
        wrapper.note_weights()
    weights, previous, _ = flat(model)
    np.testing.assert_array_equal(weights, previous)


@pytest.mark.smoke
def test_a_subclassed_model_notes_its_weights_after_the_first_step(keras_module):
    hidden = tfap.prune(
        keras_module.layers.Dense(8, activation="relu"), tfap.ConstantSparsity(0.5, 3, frequency=1), tfap.AP()
    )
    model = nets.subclassed(keras_module, hidden)
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    model.fit(x, np.zeros(32), batch_size=8, verbose=0, callbacks=[tfap.UpdatePruningStep()])
    assert np.isfinite(hidden.previous(hidden.specs[0])).all() and not hidden.previous_unknown
    assert nets.pruned_weights(model) == 16


@pytest.mark.parametrize(
    "criterion", [tfap.AP(share=0.4), tfap.AP(share=0.4, which="random", seed=3)], ids=repr
)
@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_bits(keras_module, tmp_path, criterion):
    schedule = tfap.PolynomialDecay(0.0, 0.8, 2, 14, frequency=2)
    straight = tfap.prune(nets.mlp(keras_module), schedule, criterion)
    stopped = tfap.prune(nets.mlp(keras_module), schedule, criterion)
    stopped.set_weights(straight.get_weights())
    nets.fit(straight, epochs=4)
    nets.fit(stopped, epochs=2)
    stopped.save(tmp_path / "stopped.keras")
    resumed = keras_module.models.load_model(tmp_path / "stopped.keras")
    nets.fit(resumed, epochs=4, initial_epoch=2)
    assert nets.pruned_weights(straight) > 0
    for ours, theirs in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_with_disconnected_neurons(keras_module):
    model = tfap.prune(nets.mlp(keras_module), 0.8, tfap.AP(share=0.3), remove_disconnected=True)
    nets.fit(model, epochs=4)
    assert nets.pruned_weights(model) >= 0.79 * nets.prunable_weights(model)


# -- arguments -------------------------------------------------------------------------------------


def test_a_saved_ap_comes_back():
    mine = tfap.AP(tfap.ActivationCount(False, threshold=0.5), 0.25, "random", "positive")
    again = criteria.get(serialize(mine))
    assert repr(again) == repr(mine) and again.threshold == 0.5 and again.counts == "output"
    keys = {PruningSettings(0.5, criterion).key for criterion in (mine, again)}
    assert len(keys) == 1 and isinstance(criteria.get("ap").base, tfap.Magnitude)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(share=1.5), "share must be a number in"),
        (dict(which="largest"), "which must be one of"),
        (dict(sign="both"), "sign must be one of"),
        (dict(seed=-1), "seed must be an integer"),
        (dict(base="ap"), "must not be another AP"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfap.AP(**arguments)


def test_whole_neurons_are_refused(keras_module):
    with pytest.raises(ValueError, match="it needs granularity='weight'"):
        tfap.prune(nets.mlp(keras_module), 0.5, "ap", granularity="neuron")


@pytest.mark.tensorflow_only(reason="tfmot's callback")
def test_tfmots_callback_alone_does_not_suffice():
    import tf_keras

    model = tfap.prune(nets.mlp(tf_keras), tfap.ConstantSparsity(0.5, 1), tfap.AP(which="random"), "local")
    assert not tfap.prunable_layers(model)[0].prunes_in_graph
    lamp = tfap.prune(nets.mlp(tf_keras), tfap.ConstantSparsity(0.5, 1), "lamp", "local")
    assert tfap.prunable_layers(lamp)[0].prunes_in_graph
