"""A small model trained with a larger one as its teacher, in either Keras."""

import keras

from tfap.keras_compat import private
from tfap.keras_compat.copying import copied, fresh
from tfap.keras_compat.graphs import is_graph_model
from tfap.keras_compat.owner import is_keras3, is_model, keras_of
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


class Lesson:
    """Teaches models in their own `fit`: adds the divergence from a teacher's outputs to their loss.

    Args:
        model: A compiled model without wrappers, like those that are taught.
        teacher: A built model of the same Keras, inputs and output: logits, or probabilities. Unchanged.
        temperature: Float > 0.
        student_weight: Float in [0, 1].

    Raises:
        TypeError: If the teacher is not a model.
        ValueError: If the models do not fit.
    """

    def __init__(self, model, teacher, temperature, student_weight):
        reason = _why_no_lesson(model, teacher)
        if reason is not None:
            raise ValueError(f"teacher= trains the model on the outputs of a teacher, but {reason}.")
        self._temperature, self._weight = float(temperature), float(student_weight)
        self._teacher = rebuild(teacher, copied)
        self._teacher.trainable = False

    def give(self, model):
        """Replaces the loss of a compiled model by that of a student. Evaluation keeps its own loss."""
        make = _keras3_loss if is_keras3(model) else _tf_keras_loss
        make(model, self._teacher, self._temperature, self._weight)


def _why_no_lesson(model, teacher):
    if not is_model(teacher):
        raise TypeError(f"teacher must be a Keras model: received {type(teacher).__name__}.")
    if is_keras3(teacher) != is_keras3(model):
        names = [keras_of(each).__name__ for each in (teacher, model)]
        return f"the teacher belongs to {names[0]}, and the model to {names[1]}"
    if not is_graph_model(teacher):
        return "the teacher is not a built Sequential or Functional model"
    if _shapes(teacher) != _shapes(model):
        return f"the teacher has inputs and outputs {_shapes(teacher)}, and the model {_shapes(model)}"
    if _is_probability(teacher) != _is_probability(model):
        return "one of both models ends with a softmax, and the other does not"
    return why_not_distilled(model)


def _shapes(model):
    return [tuple(tensor.shape) for tensor in [*model.inputs, *model.outputs]]


def _keras3_loss(model, teacher, temperature, student_weight):
    distillation, own = _outputs_distillation(model, temperature), model.compute_loss

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = own(x, y, y_pred, sample_weight, training=training)
        if not training:
            return loss
        targets = keras.ops.stop_gradient(teacher(x, training=False))
        distilled = distillation.compute_loss(targets, y_pred)
        return student_weight * loss + (1 - student_weight) * keras.ops.cast(distilled, loss.dtype)

    model.compute_loss = compute_loss


def _tf_keras_loss(model, teacher, temperature, student_weight):
    divergence, own, own_test_step = (
        _tf_keras_divergence(model, temperature),
        model.compute_loss,
        model.test_step,
    )
    evaluates = []

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None):
        loss = own(x, y, y_pred, sample_weight)
        if evaluates:
            return loss
        return student_weight * loss + (1 - student_weight) * divergence(teacher(x, training=False), y_pred)

    def test_step(data):
        evaluates.append(True)
        try:
            return own_test_step(data)
        finally:
            evaluates.pop()

    model.compute_loss, model.test_step = compute_loss, test_step


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


def _outputs_distillation(student, temperature):
    """Returns the distillation loss of Keras 3 for the outputs of a model."""
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

    # Of the name "kl_divergence", Keras 3.15 makes a function, and applies it to the logits themselves.
    return OutputsDistillation(temperature, keras.losses.KLDivergence())


def _keras3_distiller(teacher, student, temperature, student_weight):
    model = keras.distillation.Distiller(
        rebuild(teacher, copied),  # its layers are frozen
        student,
        _outputs_distillation(student, temperature),
        student_loss_weight=student_weight,
    )
    arguments = _compile_arguments(student)
    kept = {key: value for key, value in arguments.items() if key not in _NOT_COMPILED}
    names = [key for key in ("optimizer", "loss", "metrics") if key in arguments]
    model.compile(**{key: arguments[key] for key in names}, **kept)
    return model


def _tf_keras_divergence(student, temperature):
    """Returns the same as a function of the outputs of the teacher and of the student, for tf_keras."""
    module, is_probability = keras_of(student), _is_probability(student)
    divergence = module.losses.KLDivergence()

    def softened(outputs):
        backend = module.backend
        logits = backend.log(backend.maximum(outputs, _SMALLEST)) if is_probability else outputs
        return module.activations.softmax(logits / temperature)

    def diverged(targets, outputs):
        return divergence(softened(targets), softened(outputs)) * temperature**2

    return diverged


def _tf_keras_distiller(teacher, student, temperature, student_weight):
    module, divergence = keras_of(student), _tf_keras_divergence(student, temperature)

    class Distiller(module.Model):
        """The student, with the teacher in its loss only, so that the weights are the student's."""

        def __init__(self):
            super().__init__(name="distiller")
            self.student = student

        def call(self, inputs, training=None):
            return self.student(inputs, training=training)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            own = super().compute_loss(x, y, y_pred, sample_weight)
            distilled = divergence(teacher(x, training=False), y_pred)
            return student_weight * own + (1 - student_weight) * distilled

    model = Distiller()
    model.compile(**_compile_arguments(student))
    return model
