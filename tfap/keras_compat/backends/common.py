"""What some backends need nothing for: the functions that do nothing, with their descriptions."""

import contextlib

NO_JIT = (
    "'%s' is compiled with jit_compile=True. tfap sets it to False: torch.compile splits the step at each "
    "wrapper, takes long to compile the parts, and changes no result."
)


@contextlib.contextmanager
def made_by_each_worker():
    """A context in which each of several workers makes variables; only TensorFlow sends them around."""
    yield


def sum_over_replicas(counts, seen):
    """Sums both over replicas; here, one program computes the whole batch, on however many devices."""
    return counts, seen


def replica():
    """Returns the number of the replica that calls; None outside of replicas."""


def noted(mask):
    """Returns what `masked` needs to know of a mask besides its variable, from the forward pass."""
    pass  # tf_keras calls it in a step, and AutoGraph does not convert a function without a statement


def sync(model):
    """Brings the state of a `fit` that runs into the variables, which otherwise are trained themselves."""


def protected(model):
    """Makes the model's train function keep the weights if it raises."""


def restored(model, arguments):
    """Puts the state back that a train function was called with."""


def keep_weights():
    """Keeps the weights of the `fit` that runs; called before a layer raises an error in a step."""
    pass  # as in `noted`


def prepared(model):
    """Prepares a model for `fit`; called when it begins."""
