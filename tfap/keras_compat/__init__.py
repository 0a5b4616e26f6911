"""The two Keras worlds: which one owns an object, and how to read, copy, rebuild and run a model of either.

Everything above this floor is written once for Keras 3 (`keras`) and Keras 2 (`tf_keras`). Only this
folder and `tfap/layers/` name a Keras.
"""

from tfap.keras_compat.copying import Replacement, built_copy_of, copied, copy_of, tied_layers, why_shared
from tfap.keras_compat.graphs import (
    all_layers,
    calls,
    check_measurable,
    check_plain,
    check_readable,
    is_any_wrapper,
    is_built,
    is_graph_model,
    is_tfap_wrapper,
)
from tfap.keras_compat.owner import (
    Callback,
    Regularizer,
    is_keras3,
    is_keras_class,
    is_layer,
    is_layer_class,
    is_model,
    is_variable,
    keras_of,
    kind_of,
    set_seeds,
    start_afresh,
    tensorflow_variable,
    weights_of,
)
from tfap.keras_compat.rebuilding import rebuild
from tfap.keras_compat.registry import (
    custom_object_scope,
    register,
    registered_class,
    registered_name,
    snake_case,
)
from tfap.keras_compat.running import (
    call_signature,
    inference,
    inputs_of,
    load_model,
    packed_inputs,
    write_saved_model,
)
from tfap.keras_compat.tfmot_import import PruneLowMagnitude, TfmotPruning, tfmot
from tfap.keras_compat.training import (
    SeedStates,
    has_loss_in_replicas,
    is_compiled,
    optimizer_slots,
    steps_per_execution,
    untrained_variables,
)

__all__ = [
    "Callback",
    "PruneLowMagnitude",
    "Regularizer",
    "Replacement",
    "SeedStates",
    "TfmotPruning",
    "all_layers",
    "built_copy_of",
    "call_signature",
    "calls",
    "check_measurable",
    "check_plain",
    "check_readable",
    "copied",
    "copy_of",
    "custom_object_scope",
    "has_loss_in_replicas",
    "inference",
    "inputs_of",
    "is_any_wrapper",
    "is_built",
    "is_compiled",
    "is_graph_model",
    "is_keras3",
    "is_keras_class",
    "is_layer",
    "is_layer_class",
    "is_model",
    "is_tfap_wrapper",
    "is_variable",
    "keras_of",
    "kind_of",
    "load_model",
    "optimizer_slots",
    "packed_inputs",
    "rebuild",
    "register",
    "registered_class",
    "registered_name",
    "set_seeds",
    "snake_case",
    "start_afresh",
    "steps_per_execution",
    "tensorflow_variable",
    "tfmot",
    "tied_layers",
    "untrained_variables",
    "weights_of",
    "why_shared",
    "write_saved_model",
]
