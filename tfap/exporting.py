"""Files for deployment, written by Keras's own exporters."""

import contextlib
import io

from tfap import keras_compat


def _saved_model(model, path):
    with contextlib.redirect_stdout(io.StringIO()):  # both Kerases print the signature
        model.export(path)


def _keras_file(model, path):
    model.save(path)


FORMATS = {"saved_model": _saved_model, "keras": _keras_file}


def export(model, path, format="saved_model"):
    """Writes a model for deployment; nothing of tfap is in the file.

    Args:
        model: a plain model of either Keras, such as `strip_pruning` or `compact` returns.
        path: folder (SavedModel) or file ending in `.keras`.
        format: "saved_model": Keras's inference export, for `tf.saved_model.load(path).serve(x)`;
            "keras": a `.keras` file.

    Raises:
        ValueError: an unknown format, a `.keras` path that does not end so, or a model that still has
            pruning wrappers.
    """
    if format not in FORMATS:
        raise ValueError(f"Unknown format '{format}'. Known: {', '.join(FORMATS)}.")
    path = str(path)
    if format == "keras" and not path.endswith(".keras"):
        raise ValueError(f"The path of a Keras file must end in .keras: received '{path}'.")
    if any(keras_compat.is_tfap_wrapper(layer) for layer in keras_compat.all_layers(model)):
        raise ValueError(f"The model '{model.name}' still has pruning wrappers: call strip_pruning() first.")
    FORMATS[format](model, path)
