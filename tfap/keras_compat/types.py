"""Type hints for what either Keras owns, and for the data that a model reads."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

if TYPE_CHECKING:
    import keras
    import tf_keras

    Model: TypeAlias = keras.Model | tf_keras.Model
    Layer: TypeAlias = keras.layers.Layer | tf_keras.layers.Layer
else:
    Model = Layer = Any  # tf_keras is imported only when it is used

# One array, a list of arrays, or a dict of arrays by input name.
Arrays: TypeAlias = npt.ArrayLike | Sequence[npt.ArrayLike] | Mapping[str, npt.ArrayLike]
# Whatever `fit` accepts: arrays, or batches such as a tf.data.Dataset or a PyDataset.
Data: TypeAlias = Any
