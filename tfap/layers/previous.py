"""What a pruning wrapper remembers of its weights, for criteria that ask how far they have moved."""

import tensorflow as tf


class PreviousWeights:
    """A mixin for wrappers that have `kernel_and_mask()` and `_add_state`.

    State: `previous`, each kernel as it was when masks last changed; NaN until `note_weights` is called.
    """

    keeps_previous = False

    def _add_previous(self):
        self.keeps_previous = True
        self._previous = {
            spec.name: self._add_state(
                f"{spec.name.replace('.', '_')}_previous", kernel.shape, "float32", _unknown
            )
            for spec, kernel, _ in self.kernel_and_mask()
        }

    def _previous_state(self):
        if not self.keeps_previous:
            return {}
        return {f"{name}_previous": variable for name, variable in self._previous.items()}

    def note_weights(self):
        """Counts movement from the present weights on: after a mask update, `prune()` and a rewind."""
        if self.keeps_previous:
            for spec, kernel, mask in self.kernel_and_mask():
                self._previous[spec.name].assign(kernel.numpy() * mask.numpy())

    @property
    def previous_unknown(self):
        """True until `note_weights` has been called for the first time."""
        return self.keeps_previous and any(
            tf.math.is_nan(tf.reshape(variable, [-1])[0]) for variable in self._previous.values()
        )

    def previous(self, spec):
        """The weights from which movement counts; as they are now, if nobody has noted any."""
        now = next(kernel for own, kernel, _ in self.kernel_and_mask() if own.name == spec.name)
        return (now if self.previous_unknown else self._previous[spec.name]).numpy()


def _unknown(shape, dtype=None):
    return tf.fill(shape, tf.constant(float("nan"), dtype or "float32"))
