"""A small model trained with a larger one as its teacher, in either Keras."""

import keras

from tfap.keras_compat import private
from tfap.keras_compat.copying import copied, fresh
from tfap.keras_compat.owner import is_keras3, keras_of
from tfap.keras_compat.rebuilding import rebuild

_SMALLEST = 1e-7  # probability of which the logarithm is taken
_NOT_COMPILED = ("optimizer", "loss", "metrics", "loss_weights", "weighted_metrics")


def why_not_distilled(model):
    """Returns why a model cannot be trained with a teacher, or None."""
    if is_keras3(model) and not hasattr(keras, "distillation"):
        return f"keras {keras.__version__} has no keras.distillation: pip install 'keras>=3.12'"
    if len(model.outputs) != 1:
        return f"it has {len(model.outputs)} outputs, and one is expected"
    arguments = private.compile_arguments(model) or {}
    if not arguments.get("loss"):
        return "it is compiled without a loss"
    if is_keras3(model) and isinstance(arguments.get("metrics"), dict):
        return "its metrics are a dict, and keras.distillation.Distiller takes a list"
    return None


def distiller(teacher, student, temperature, student_weight):
    """Makes a compiled model whose `fit` trains the student, which is changed in place.

    The loss is `student_weight` times that of the student, plus `1 - student_weight` times the divergence
    (Kullback-Leibler) of its outputs from the teacher's. Both are softened by the temperature, and the
    divergence is multiplied by its square.

    Args:
        teacher: A built model with one output: logits, or probabilities of a softmax. Unchanged.
        student: A compiled model of the same Keras, inputs and outputs.
        temperature: Float > 0.
        student_weight: Float in [0, 1].

    Returns:
        On Keras 3, a `keras.distillation.Distiller`. On tf_keras, a model with the same loss, whose logs have
        the loss of the student alone.

    References:
        - Hinton et al., *Distilling the knowledge in a neural network*, 2015 (arXiv 1503.02531)
    """
    make = _keras3_distiller if is_keras3(student) else _tf_keras_distiller
    return make(teacher, student, float(temperature), float(student_weight))


def _is_probability(model):
    """Whether the output of a model is that of a softmax, and not logits."""
    layer = private.producer_of(model.outputs[0])
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    return activation == "softmax" or isinstance(layer, keras_of(model).layers.Softmax)


def _compile_arguments(student):
    arguments = {key: value for key, value in private.compile_arguments(student).items() if value is not None}
    arguments["optimizer"] = fresh(student.optimizer)
    for key in ("metrics", "weighted_metrics"):
        if key in arguments:
            arguments[key] = fresh(arguments[key])
    return arguments


def _keras3_distiller(teacher, student, temperature, student_weight):
    is_probability = _is_probability(student)

    class OutputsDistillation(keras.distillation.LogitsDistillation):
        """The distillation of logits, also of those that a softmax has made into probabilities."""

        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            if is_probability:
                teacher_outputs, student_outputs = (
                    keras.ops.log(keras.ops.maximum(outputs, _SMALLEST))
                    for outputs in (teacher_outputs, student_outputs)
                )
            return super().compute_loss(teacher_outputs, student_outputs, **kwargs)

    model = keras.distillation.Distiller(
        rebuild(teacher, copied),  # its layers are frozen
        student,
        # Of the name "kl_divergence", Keras 3.15 makes a function, and applies it to the logits themselves.
        OutputsDistillation(temperature, keras.losses.KLDivergence()),
        student_loss_weight=student_weight,
    )
    arguments = _compile_arguments(student)
    kept = {key: value for key, value in arguments.items() if key not in _NOT_COMPILED}
    names = [key for key in ("optimizer", "loss", "metrics") if key in arguments]
    model.compile(**{key: arguments[key] for key in names}, **kept)
    return model


def _tf_keras_distiller(teacher, student, temperature, student_weight):
    module, is_probability = keras_of(student), _is_probability(student)
    divergence = module.losses.KLDivergence()

    def softened(outputs):
        backend = module.backend
        logits = backend.log(backend.maximum(outputs, _SMALLEST)) if is_probability else outputs
        return module.activations.softmax(logits / temperature)

    def targets(x):
        return softened(teacher(x, training=False))

    class Distiller(module.Model):
        """The student, with the teacher in its loss only, so that the weights are the student's."""

        def __init__(self):
            super().__init__(name="distiller")
            self.student = student

        def call(self, inputs, training=None):
            return self.student(inputs, training=training)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            own = super().compute_loss(x, y, y_pred, sample_weight)
            distilled = divergence(targets(x), softened(y_pred)) * temperature**2
            return student_weight * own + (1 - student_weight) * distilled

    model = Distiller()
    model.compile(**_compile_arguments(student))
    return model
