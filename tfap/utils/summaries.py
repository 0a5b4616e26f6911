"""Numbers and histograms for TensorBoard, which need TensorFlow to write but no TensorBoard."""

import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

_BINS = 30


class Summaries:
    """Writes to a folder that TensorBoard reads.

    Args:
        folder: Path of the folder.
        user: String. Name of what writes, for the message.

    Raises:
        ModuleNotFoundError: If TensorFlow is not installed. The message has the pip command.
    """

    def __init__(self, folder: str | os.PathLike[str], user: str) -> None:
        try:
            import tensorflow
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{user}(log_dir=...) writes TensorBoard files with TensorFlow, which is not installed: pip "
                "install tensorflow, or leave log_dir out."
            ) from error
        self._tensorflow = tensorflow
        self._writer = tensorflow.summary.create_file_writer(str(folder))

    def write(
        self, numbers: Mapping[str, float], step: int, samples: Mapping[str, npt.ArrayLike] | None = None
    ) -> None:
        """Writes what belongs to one step.

        Args:
            numbers: Dict of name to number.
            step: Integer. The step, such as an epoch.
            samples: Dict of name to a non-empty array of values in [0, 1], whose histogram is written.
        """
        with self._writer.as_default(step=step):
            for name, number in numbers.items():
                self._write(name, number, "scalars", 1)  # DATA_CLASS_SCALAR
            for name, values in (samples or {}).items():
                self._write(name, _histogram(values), "histograms", 2)  # DATA_CLASS_TENSOR
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, name, value, plugin, data_class):
        """Does what `tf.summary.scalar` and `histogram` do, but without TensorBoard."""
        tf = self._tensorflow
        data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
        metadata = tf.compat.v1.SummaryMetadata(plugin_data=data, data_class=data_class)
        tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)


def _histogram(values):
    """Returns rows of (left edge, right edge, number of values)."""
    numbers, edges = np.histogram(values, _BINS, (0, 1))
    return np.stack([edges[:-1], edges[1:], numbers], axis=1)
