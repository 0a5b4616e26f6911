"""Writes the error messages of tfap for invalid input to docs/errors.md.

    python benchmarks/error_table.py > docs/errors.md

Every entry is an invalid expression, with the expected error and a pattern of its message. The names in the
expressions are those of `names`. tests/test_bad_input.py runs them in Keras 3 and tf_keras and checks that
models, masks, and files do not change.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import pathlib
import re
import tempfile

import numpy as np
import tensorflow as tf
from absl import app

import tfap
from tfap import low_rank

HEAD = """# Look up an error

Use this page to find out why a call fails. tfap raises these errors before it trains or writes anything, so
models and masks do not change. `python benchmarks/error_table.py > docs/errors.md` generates the page.

The calls use these names:

- `model` is a compiled model with two hidden layers, `hidden_0` and `hidden_1`, and an `output` layer.
- `pruned` is `tfap.prune(model, 0.5, "magnitude")`.
- `linear` has no activations and is not compiled; `normalized` has a BatchNormalization.
- `net` is a subclassed model, and `Unknown` is a custom layer class.
- `x` and `y` are eight samples.
"""

CASES = {
    "Models": {
        "tfap.prune(None, 0.5)": (TypeError, "takes a .* model, a layer or a list of layers.*NoneType"),
        "tfap.prune('model.keras', 0.5)": (TypeError, "takes a .* model.*received an object of type str"),
        "tfap.prune([3], 0.5)": (TypeError, "a list of Keras layers: it contains 3"),
        "tfap.prune([], 0.5)": (ValueError, "the list of layers is empty"),
        "tfap.prune(keras.layers.Dense, 0.5)": (TypeError, "received an object of type type"),
        "tfap.prune(linear, 0.5)": (ValueError, "nothing to prune in the model(.|\n)*no activation follows"),
        "tfap.prune(unbuilt, 0.5)": (ValueError, "is not built.*give it an Input layer"),
        "tfap.prune(net, 0.5)": (ValueError, r"self.dense = tfap.prune\(keras.layers.Dense"),
        "tfap.prune(pruned, 0.5)": (ValueError, "already.*hidden_0, hidden_1.*strip_pruning"),
        "tfap.prune(pruned.layers[0], 0.5)": (ValueError, "'hidden_0' cannot be pruned: it is already"),
        "tfap.prune([keras.layers.Dropout(0.5, name='drop')], 0.5)": (
            ValueError,
            "None of the 1 layers can be pruned: 'drop'",
        ),
        "tfap.prune(keras.layers.Dense(3, name='d'), 0.5)": (ValueError, "has no activation of its own"),
        "tfap.prune(keras.layers.BatchNormalization(name='norm'), 0.5)": (
            ValueError,
            "'norm' cannot be pruned: BatchNormalization layers have no kernel",
        ),
        "tfap.prune(keras.layers.Dense(3, 'relu'), 0.5, skip=['dense'])": (
            ValueError,
            "include and skip choose among the layers of a model",
        ),
        "tfap.plan(None)": (TypeError, "Expected a Keras model: .*NoneType"),
        "tfap.plan(net)": (ValueError, "is subclassed"),
        "tfap.plan(pruned)": (ValueError, "already wrapped for pruning"),
        "tfap.strip_pruning(None)": (TypeError, "Expected a Keras model"),
        "tfap.strip_pruning(model.layers[0])": (TypeError, "Expected a Keras model: .*Dense"),
        "tfap.strip_pruning(net)": (ValueError, r"build a new one from them"),
        "tfap.prunable_layers('model')": (TypeError, "Expected a Keras model: .*str"),
        "pruned.fit(x, y, verbose=0)": (RuntimeError, r"callbacks=\[tfap.UpdatePruningStep\(\)\]"),
    },
    "prune_low_magnitude": {
        "tfap.prune_low_magnitude(None)": (TypeError, "a layer or a list of layers.*NoneType"),
        "tfap.prune_low_magnitude(keras.layers.Dense)": (TypeError, "received an object of type type"),
        "tfap.prune_low_magnitude([])": (ValueError, "the list of layers is empty"),
        "tfap.prune_low_magnitude([3])": (TypeError, "a list of Keras layers: it contains 3"),
        "tfap.prune_low_magnitude(net)": (ValueError, "is subclassed.*one by one where they are made"),
        "tfap.prune_low_magnitude(model, 1.5)": (ValueError, r"must be in \[0, 1\): received 1.5"),
        "tfap.prune_low_magnitude(model, 'cubic')": (
            TypeError,
            "must be a PruningSchedule.*received 'cubic'",
        ),
        "tfap.prune_low_magnitude(model, tfap.PolynomialDecay)": (TypeError, "must be a PruningSchedule"),
        "tfap.prune_low_magnitude(model, 'cubic', sparsity_m_by_n=(2, 4))": (TypeError, "PruningSchedule"),
        "tfap.prune_low_magnitude(model, block_size=(4,))": (
            TypeError,
            "tuple of two integers: received .4,",
        ),
        "tfap.prune_low_magnitude(model, block_size=(-1, 4))": (ValueError, ">= 1: received -1"),
        "tfap.prune_low_magnitude(model, block_pooling_type='avg')": (ValueError, "received 'avg'"),
        "tfap.prune_low_magnitude(model, block_pooling_type=1)": (TypeError, "must be one of .*received 1"),
        "tfap.prune_low_magnitude(model, sparsity_m_by_n=2)": (
            TypeError,
            "tuple of two integers: received 2",
        ),
        "tfap.prune_low_magnitude(model, sparsity_m_by_n=(4, 4))": (
            ValueError,
            "must prune fewer weights than",
        ),
        "tfap.prune_low_magnitude(model, block_size=(1, 4), sparsity_m_by_n=(2, 4))": (
            ValueError,
            "exclude each other",
        ),
        "tfap.prune_low_magnitude(model, pruning_policy='xnnpack')": (
            TypeError,
            "must be a tfap.PruningPolicy, such as .*'xnnpack'",
        ),
        "tfap.prune_low_magnitude(model, pruning_policy=tfap.PruneForLatencyOnXNNPack)": (
            TypeError,
            r"such as tfap.PruneForLatencyOnXNNPack\(\)",
        ),
        "tfap.prune_low_magnitude(model, pruning_policy=tfap.PruneForLatencyOnXNNPack())": (
            ValueError,
            "does not suit PruneForLatencyOnXNNPack:(.|\n)*no sparse inference begins",
        ),
        "tfap.prune_low_magnitude(keras.layers.Dense(3), pruning_policy=tfap.PruneForLatencyOnXNNPack())": (
            ValueError,
            "pass a model, or leave it out",
        ),
        "tfap.prune_low_magnitude(model, input_shape=(4,))": (TypeError, "Only a single layer takes further"),
        "tfap.prune_low_magnitude(keras.Sequential([keras.layers.ReLU()], name='relus'))": (
            ValueError,
            "There is nothing to prune",
        ),
        "tfap.prune_low_magnitude(Unknown(name='own'))": (
            ValueError,
            r"'own' cannot be pruned.*get_prunable_weights\(\) that returns a list",
        ),
    },
    "Arguments of prune": {
        "tfap.prune(model, 1.0)": (ValueError, r"must be in \[0, 1\): received 1.0"),
        "tfap.prune(model, 80)": (ValueError, "received 80. Write 0.9 to prune 90%"),
        "tfap.prune(model, -0.1)": (ValueError, r"must be in \[0, 1\): received -0.1"),
        "tfap.prune(model, float('nan'))": (ValueError, r"must be in \[0, 1\): received nan"),
        "tfap.prune(model, None)": (TypeError, "must be a PruningSchedule.*received None"),
        "tfap.prune(model, 'cubic')": (TypeError, "must be a PruningSchedule.*received 'cubic'"),
        "tfap.prune(model, True)": (TypeError, "must be a PruningSchedule.*received True"),
        "tfap.prune(model, tfap.PolynomialDecay)": (TypeError, "must be a PruningSchedule"),
        "tfap.prune(model, {'begin_step': 0})": (ValueError, "A budget has no 'begin_step'"),
        "tfap.prune(model, {'class_name': 'os.system', 'config': {}})": (ValueError, "is not registered"),
        "tfap.prune(model, 0.5, 'magnitud')": (
            ValueError,
            "Unknown criterion 'magnitud'. Known: activation_c",
        ),
        "tfap.prune(model, 0.5, tfap.Magnitude)": (TypeError, "must be a tfap.Criterion.*<class"),
        "tfap.prune(model, 0.5, None)": (TypeError, "must be a tfap.Criterion.*received None"),
        "tfap.prune(model, 0.5, scope='layer')": (ValueError, "scope must be one of .*global.*'layer'"),
        "tfap.prune(model, 0.5, scope=1)": (TypeError, "scope must be one of .*received 1"),
        "tfap.prune(model, 0.5, granularity='block')": (ValueError, "granularity must be .*received 'block'"),
        "tfap.prune(model, 0.5, target='bytes')": (ValueError, "target must be one of .*received 'bytes'"),
        "tfap.prune(model, 0.5, 'magnitude', target='flops')": (ValueError, "needs granularity='neuron'"),
        "tfap.prune(model, 0.5, 'ap', granularity='neuron')": (ValueError, "needs granularity='weight'"),
        "tfap.prune(model, 0.5, remove_disconnected='yes')": (TypeError, "must be True or False.*'yes'"),
        "tfap.prune(model, 0.5, skip=['hiden_0'])": (
            ValueError,
            "skip names the layer 'hiden_0'.*Its layers are: hidden_0",
        ),
        "tfap.prune(model, 0.5, include=[3])": (
            TypeError,
            "include takes layer names, layers and predicates",
        ),
        "tfap.prune(model, 0.5, include=None)": (TypeError, "include takes .*received None"),
        "tfap.prune(model, 0.5, skip=linear.layers)": (
            ValueError,
            "skip has the layer 'a', which is not in the model",
        ),
        "tfap.prune(model, 0.5, skip=lambda layer: True)": (
            ValueError,
            "nothing to prune in the model(.|\n)*named in skip",
        ),
        "tfap.prune(model, 0.5, block_shape=(1, 4))": (
            TypeError,
            "unexpected keyword argument 'block_shape'",
        ),
        "tfap.prune(model, 0.5, 'magnitude', block_size=4)": (TypeError, "tuple of two integers: received 4"),
        "tfap.prune(model, 0.5, 'magnitude', block_size=(1, 0.5))": (
            TypeError,
            "block_size.1. must be an in",
        ),
        "tfap.prune(model, 0.5, 'magnitude', block_size=(0, 4))": (ValueError, ">= 1: received 0"),
        "tfap.prune(model, 0.5, block_size=(1, 4), block_pooling_type='SUM')": (ValueError, "received 'SUM'"),
        "tfap.prune(model, 0.5, block_size=(1, 4), granularity='neuron')": (
            ValueError,
            "arranges single weights: it needs granularity='weight' or None, received 'neuron'",
        ),
        "tfap.prune(model, 0.5, 'ap', block_size=(1, 4))": (ValueError, "does not support block_size"),
        "tfap.prune(model, 0.5, sparsity_m_by_n='2:4')": (TypeError, "tuple of two integers: received '2:4'"),
        "tfap.prune(model, 0.5, sparsity_m_by_n=(2, 4, 8))": (TypeError, "tuple of two integers"),
        "tfap.prune(model, 0.5, sparsity_m_by_n=(4, 2))": (ValueError, "the number of pruned weights first"),
        "tfap.prune(model, 0.8, sparsity_m_by_n=(2, 4))": (
            ValueError,
            "is a sparsity of 0.5: received a .*0.8",
        ),
        "tfap.prune(model, 0.5, sparsity_m_by_n=(2, 4), block_size=(1, 4))": (
            ValueError,
            "exclude each other",
        ),
        "tfap.prune(model, 0.5, sparsity_m_by_n=(2, 4), target='flops')": (
            ValueError,
            "granularity='neuron'",
        ),
        "tfap.prune(model, 0.5, min_weights_per_layer=-1)": (
            ValueError,
            "must be an integer >= 0: received -1",
        ),
        "tfap.prune(model, 0.5, min_weights_per_layer=0.5)": (
            TypeError,
            "must be an integer >= 0: received 0.5",
        ),
        "tfap.prune(model, 0.5, min_weights_per_layer=1000)": (
            ValueError,
            "min_weights_per_layer=1000 leaves nothing to prune .* largest layer has 192 weights",
        ),
        "tfap.prune(model, 0.5, sample_every=0)": (ValueError, "sample_every must be an integer >= 1"),
        "tfap.prune(model, 0.5, sample_every='2')": (TypeError, "sample_every must be an integer >= 1"),
    },
    "Mask updates": {
        "tfap.update_masks(None, 0.5)": (TypeError, "Expected a Keras model"),
        "tfap.update_masks(model, 0.5)": (ValueError, "has no pruning wrappers: call tfap.prune first"),
        "tfap.update_masks(pruned, 1)": (ValueError, r"must be in \[0, 1\): received 1"),
        "tfap.update_masks(pruned, float('nan'))": (ValueError, "finite number: received nan"),
        "tfap.update_masks(pruned, 'half')": (TypeError, "sparsity must be a number: received 'half'"),
        "tfap.update_masks(by_counts, 0.5)": (ValueError, "No activations of 'hidden_0' have been counted"),
        "tfap.update_masks(by_gradient, 0.5)": (ValueError, r"needs gradients: .*gradient_data=\(x, y\)"),
        "tfap.update_masks(by_gradient, 0.5, gradient_data=3)": (TypeError, "tuple of arrays .*received int"),
        "tfap.update_masks(by_gradient, 0.5, gradient_data=x)": (TypeError, "inputs alone, .* needs targets"),
        "tfap.update_masks(by_gradient, 0.5, gradient_data=[x])": (
            TypeError,
            "inputs alone, .* needs targets",
        ),
        "tfap.update_masks(by_gradient, 0.5, gradient_data=[])": (ValueError, "gradient_data is empty"),
        "tfap.update_masks(by_gradient, 0.5, gradient_data=iter([(x, y)]))": (TypeError, "only once"),
        "tfap.update_masks(by_gradient, 0.5, gradient_data=(x, y), gradient_steps=0)": (
            ValueError,
            "gradient_steps must be an integer >= 1",
        ),
        "tfap.update_masks(by_gradient, 0.5, gradient_data=(0 * x + np.nan, y))": (
            ValueError,
            "Gradient gave scores for 'hidden_0' that are not finite",
        ),
    },
    "Callbacks": {
        "fit(model, tfap.UpdatePruningStep())": (ValueError, "has no pruning wrappers: call tfap.prune"),
        "fit(tfap.prune(model, 0.5), tfap.UpdatePruningStep(), tfap.UpdatePruningStep())": (
            ValueError,
            "There are two",
        ),
        "fit(by_gradient, tfap.UpdatePruningStep())": (ValueError, "needs gradients"),
        "tfap.UpdatePruningStep(total_steps=0)": (ValueError, "total_steps must be an integer >= 1"),
        "tfap.UpdatePruningStep(total_steps='all')": (TypeError, "integer >= 1: received 'all'"),
        "tfap.UpdatePruningStep(gradient_steps=0)": (ValueError, "gradient_steps must be an integer"),
        "tfap.StopWhenPruned(mode='up')": (ValueError, "mode must be one of .*received 'up'"),
        "tfap.StopWhenPruned('quality')": (ValueError, 'mode="max" or mode="min"'),
        "tfap.StopWhenPruned(value='high')": (TypeError, "value must be a number: received 'high'"),
        "tfap.StopWhenPruned(3)": (TypeError, "metric must be a string: received 3"),
        "tfap.DeadNeuronMonitor(iter([x]))": (ValueError, "data must be re-iterable.*used up"),
        "tfap.DeadNeuronMonitor(x, every=0)": (ValueError, "every must be an integer >= 1"),
        "tfap.DeadNeuronMonitor(x, batch_size=0)": (ValueError, "batch_size must be an integer >= 1"),
    },
    "Criteria": {
        "tfap.ActivationCount('output')": (TypeError, "weighted must be True or False: received 'output'"),
        "tfap.ActivationCount(side='both')": (ValueError, "side must be one of .*received 'both'"),
        "tfap.ActivationCount(statistic='max')": (ValueError, "statistic must be one of .*received 'max'"),
        "tfap.ActivationCount(threshold='low')": (TypeError, "threshold must be a number: received 'low'"),
        "tfap.ActivationCount(threshold=float('nan'))": (ValueError, "threshold must be a finite number"),
        "tfap.ActivationCount(decay=2)": (ValueError, r"decay must be in \[0, 1\]: received 2"),
        "tfap.ActivationCount(decay='slow')": (TypeError, "decay must be a number: received 'slow'"),
        "tfap.ActivationCount(metric=3)": (TypeError, "metric must be a string or None: received 3"),
        "tfap.AP(share='half')": (TypeError, "share must be a number: received 'half'"),
        "tfap.AP(sign=-1)": (TypeError, "sign must be one of .*received -1"),
        "tfap.AP(share=1.5)": (ValueError, r"share must be a number in \[0, 1\]: received 1.5"),
        "tfap.AP(which='best')": (ValueError, "which must be one of .*received 'best'"),
        "tfap.AP(sign='both')": (ValueError, "sign must be one of .*received 'both'"),
        "tfap.AP(seed=-1)": (ValueError, "seed must be an integer >= 0"),
        "tfap.AP(tfap.AP())": (ValueError, "base of AP must not be another AP"),
    },
    "Schedules": {
        "tfap.IterativeSparsity(1.0, 3, 10)": (ValueError, r"rate must be in \(0, 1\): received 1.0"),
        "tfap.IterativeSparsity('half', 3, 10)": (TypeError, "rate must be a number: received 'half'"),
        "tfap.IterativeSparsity(0.5, 0, 10)": (ValueError, "updates must be an integer >= 1"),
        "tfap.IterativeSparsity(0.5, 3, 1.5)": (TypeError, "frequency must be an integer >= 1"),
        "tfap.AccuracyIntervals(1.0)": (ValueError, r"final_sparsity must be in \(0, 1\): received 1.0"),
        "tfap.AccuracyIntervals(0.8, prunes=0)": (ValueError, "prunes must be an integer >= 1"),
        "tfap.AccuracyIntervals(0.8, decay=-1)": (ValueError, r"decay must be in \[0, 1\]: received -1"),
        "tfap.AccuracyIntervals(0.8, begin=float('nan'))": (ValueError, "begin must be a finite number"),
        "tfap.AccuracyIntervals(0.8, metric=3)": (TypeError, "metric must be a string: received 3"),
        "tfap.PolynomialDecay(0.0, 1.5, 0, 10)": (ValueError, r"final_sparsity must be in range \[0,1\)"),
    },
    "Layers": {
        "tfap.layers.PruneByActivation('dense', 0.5)": (TypeError, "Expected a Keras layer"),
        "tfap.layers.PruneByActivation(keras.layers.Dropout(0.5, name='drop'), 0.5)": (
            ValueError,
            "cannot be pruned",
        ),
        "tfap.layers.PruneByActivation(keras.layers.Dense(3, 'relu'), 2.0)": (ValueError, r"in \[0, 1\)"),
        "tfap.layers.CountActivations('relu')": (TypeError, "Expected a Keras layer: received 'relu'"),
        "tfap.layers.CountActivations(keras.layers.ReLU(name='r'), threshold='x')": (
            TypeError,
            "must be a number",
        ),
        "tfap.layers.CountActivations(keras.layers.ReLU(name='r'), sample_every=0)": (
            ValueError,
            "integer >= 1",
        ),
        "tfap.layers.CountActivations(keras.layers.ReLU(name='r'), sample_every='2')": (
            TypeError,
            "sample_every must be an integer >= 1: received '2'",
        ),
        "tfap.layers.CountActivations(keras.layers.ReLU(name='r'), statistic='max')": (
            ValueError,
            "must be one of",
        ),
        "tfap.layers.CountActivations(keras.layers.ReLU(name='r'), data_format='last')": (
            ValueError,
            "'last'",
        ),
        "tfap.register_prunable_layer(int, [tfap.KernelSpec()])": (TypeError, "must be a layer class"),
        "tfap.register_prunable_layer(keras.layers.ReLU(name='r'), [])": (TypeError, "must be a layer class"),
        "tfap.register_prunable_layer(keras.layers.ReLU, ['kernel'])": (TypeError, "list of tfap.KernelSpec"),
        "tfap.register_prunable_layer(keras.layers.ReLU, tfap.KernelSpec())": (TypeError, "must be a list"),
        "tfap.KernelSpec(3)": (TypeError, "name must be a string: received 3"),
        "tfap.KernelSpec('w', neuron_axes=0)": (TypeError, "neuron_axes must be a tuple of integers"),
    },
    "Smaller models": {
        "tfap.compact(None)": (TypeError, "tfap.compact takes a Keras model"),
        "tfap.compact(pruned)": (ValueError, r"call strip_pruning\(\) first"),
        "tfap.compact(net)": (ValueError, "takes Sequential and Functional models"),
        "tfap.compact(model, drop_silent=True)": (ValueError, "go together"),
        "tfap.compact(model, [1], drop_silent=True)": (TypeError, "counts must be {layer path"),
        "tfap.compact(model, {'a': counts}, drop_silent=True)": (ValueError, "names the layer 'a'"),
        "tfap.compact(model, {'hidden_0': counts}, drop_silent=True)": (
            ValueError,
            "has 3 neurons for .* 16",
        ),
        "tfap.compaction_report(model, linear)": (ValueError, "is not a compacted version"),
        "tfap.compaction_report(model, model, 'test')": (TypeError, "data must be an array"),
        "tfap.fit_and_compact(None, 0.5, x, y)": (TypeError, "takes a Keras model"),
        "tfap.fit_and_compact(linear, 0.5, x, y)": (ValueError, r"call compile\(\) on it first"),
        "tfap.fit_and_compact(model, 0.5, x, y, epochs=2, stages=3)": (ValueError, "number of epochs, 2"),
        "tfap.fit_and_compact(model, 0.5, x, y, epochs='2')": (TypeError, "epochs must be an integer"),
        "tfap.fit_and_compact(model, 0.5, x, y, callbacks=tfap.UpdatePruningStep())": (
            ValueError,
            "adds UpdatePruningStep itself",
        ),
        "tfap.fit_and_compact(pruned, 0.5, x, y)": (ValueError, "already wrapped for pruning"),
    },
    "Files and reports": {
        "tfap.export(None, 'model')": (TypeError, "tfap.export takes a Keras model"),
        "tfap.export(model, 'model', format='h5')": (ValueError, "Unknown format 'h5'. Known: saved_model"),
        "tfap.export(model, 'model', format='keras')": (ValueError, "must end in .keras"),
        "tfap.export(model, 'model.onnx')": (ValueError, "Pass format='onnx'"),
        "tfap.export(model, 'model.tflite', 'tflite', quantize='int4')": (
            ValueError,
            "Unknown quantize='int4'. Known: None, 'dynamic_range', 'float1",
        ),
        "tfap.export(model, 'model.keras', 'keras', quantize='dynamic_range')": (ValueError, "'tflite' only"),
        "tfap.export(pruned, 'model')": (ValueError, r"call strip_pruning\(\) first"),
        "tfap.export(model, 'file')": (ValueError, "is a file: choose another path"),
        "tfap.export(model, 'folder')": (ValueError, "is not an earlier export"),
        "tfap.export(model, 'model.keras', 'keras', data=x[:, :2])": (
            ValueError,
            r"shape \(8, 2\); expected",
        ),
        "tfap.export(model, 'model.tflite', 'tflite', quantize='int8')": (
            ValueError,
            "quantize='int8' takes the ranges of activations from data: received none. Pass data=",
        ),
        "tfap.export(model, 'model.onnx', 'onnx', quantize='int8')": (
            ValueError,
            "takes the ranges of activations from data: received none",
        ),
        "tfap.export(model, 'model.tflite', 'tflite', quantize='int8', data=x[:, :2])": (
            ValueError,
            r"array of shape \(8, 2\); expected \(None, 12\)",
        ),
        "tfap.export(model, 'model.tflite', 'tflite', quantize='int8', data=[x, x])": (
            ValueError,
            "has 1 inputs: received data with 2 arrays",
        ),
        "tfap.export(model, 'model.tflite', 'tflite', quantize='int8', data=x[:0])": (
            ValueError,
            r"data has \[0\] samples per input, expected .* at least 1",
        ),
        "tfap.export(model, 'model.tflite', 'tflite', quantize='int8', data=x, inputs='uint8')": (
            ValueError,
            "Unknown inputs='uint8'. Known: 'float', 'int8', 'int16'",
        ),
        "tfap.export(model, 'model.tflite', 'tflite', quantize='int8', data=x, inputs='int16')": (
            ValueError,
            "inputs are 'float' or 'int8': received inputs='int16'",
        ),
        "tfap.export(model, 'model.tflite', 'tflite', inputs='int8')": (
            ValueError,
            "inputs='int8' is for format='tflite' with quantize='int8' or",
        ),
        "tfap.export(model, 'model.onnx', 'onnx', quantize='int8', data=x, inputs='int8')": (
            ValueError,
            "received format='onnx'",
        ),
        "tfap.export(model, 'model.onnx', 'onnx', quantize='int16x8', data=x)": (
            ValueError,
            "quantize='int16x8' is for format='tflite' on",
        ),
        "tfap.export(model, 'model', quantize='int8', data=x)": (
            ValueError,
            "is for format='onnx, tflite' only",
        ),
        "tfap.export(model, 'model.onnx', 'onnx', sparse=True)": (
            ValueError,
            "sparse=True is for format='tflite' only: received format='onnx'",
        ),
        "tfap.export_report(model, 'folder')": (ValueError, "Expected a .tflite or .onnx file: received "),
        "tfap.export_report('model.tflite', model)": (
            TypeError,
            "takes the Keras model first: received str",
        ),
        "tfap.export_report(model, 'none.tflite')": (FileNotFoundError, "There is no model at"),
        "tfap.report({})": (ValueError, "needs a model: the dict is empty"),
        "tfap.report(3)": (TypeError, "must be a Keras model or a path: received 3"),
        "tfap.report('missing.keras')": (FileNotFoundError, "there is no file or folder 'missing.keras'"),
        "tfap.report(pruned)": (ValueError, r"call strip_pruning\(\) first"),
        "tfap.report(model, batch_sizes=(0,))": (ValueError, "batch_sizes must be a tuple of integers"),
        "tfap.report(model, seconds=-1)": (ValueError, "seconds must be a number >= 0"),
        "tfap.report(model, metric='accuracy', data=(x, y))": (TypeError, "metric must be a function"),
        "tfap.report(model, data=x, batch_sizes=())": (TypeError, r"data must be \(x, y\)"),
        "tfap.report(model, data=(x, y[:3]), batch_sizes=())": (ValueError, r"\[8\] samples and 3 labels"),
    },
    "Activations": {
        "tfap.measure_activations(None, x)": (TypeError, "takes a Keras model"),
        "tfap.measure_activations(net, x)": (ValueError, "'net' is subclassed"),
        "tfap.measure_activations(model, None)": (TypeError, "data must be an array.*NoneType"),
        "tfap.measure_activations(model, 'x.npy')": (TypeError, "data must be an array.*str"),
        "tfap.measure_activations(model, x[:0])": (ValueError, "The data is empty"),
        "tfap.measure_activations(model, [x, x])": (ValueError, "data has 2 arrays; .* has 1 inputs"),
        "tfap.measure_activations(model, x, batch_size=0)": (ValueError, "batch_size must be an integer"),
        "tfap.measure_activations(model, x, steps=0)": (ValueError, "steps must be an integer >= 1"),
        "tfap.measure_activations(model, x, threshold='0')": (TypeError, "threshold must be a number"),
        "tfap.measure_activations(model, endless)": (ValueError, "The dataset has no end"),
        "tfap.dead_neuron_report(None)": (TypeError, "counts must be {layer path"),
        "tfap.dead_neuron_report({})": (ValueError, "counts is empty"),
        "tfap.dead_neuron_report({'a': unseen})": (ValueError, "has no activations of the layer 'a'"),
    },
    "Pruning once": {
        "tfap.prune_once(None, x, 0.5)": (TypeError, "prune_once takes a Keras model"),
        "tfap.prune_once(net, x, 0.5)": (ValueError, "'net' is subclassed"),
        "tfap.prune_once(pruned, x, 0.5)": (ValueError, r"call strip_pruning\(\) first"),
        "tfap.prune_once(unbuilt, x, 0.5)": (ValueError, "give 'unbuilt' an Input layer"),
        "tfap.prune_once(model, x, 1.0)": (ValueError, r"sparsity must be in \[0, 1\)"),
        "tfap.prune_once(model, x, '0.5')": (TypeError, "sparsity must be a number"),
        "tfap.prune_once(model, x, 0.5, 'l1')": (ValueError, "Unknown criterion 'l1'"),
        "tfap.prune_once(model, x, 0.5, 'gradient')": (
            ValueError,
            "needs gradients, and so data with labels",
        ),
        "tfap.prune_once(model, x, 0.5, target='bytes')": (ValueError, "target must be one of"),
        "tfap.prune_once(model, x, 0.5, scope='layer')": (ValueError, "scope must be one of"),
        "tfap.prune_once(model, x, 0.5, compensate='median')": (ValueError, "compensate must be one of"),
        "tfap.prune_once(model, x, 0.5, samples=0)": (ValueError, "samples must be an integer >= 1"),
        "tfap.prune_once(model, x, 0.5, ridge=-1)": (ValueError, "ridge must be a number >= 0"),
        "tfap.prune_once(model, x, 0.5, skip='hidden_9')": (
            ValueError,
            "'hidden_9', which is not in the model",
        ),
        "tfap.prune_once(model, x[:0], 0.5)": (ValueError, "The data is empty"),
        "tfap.prune_once(model, x[:, :3], 0.5)": (ValueError, "does not fit the inputs of the model"),
        "tfap.prune_once(model, x + np.nan, 0.5)": (ValueError, "data contains NaN or infinity"),
        "tfap.prune_once(model, [x, x], 0.5)": (ValueError, "data has 2 arrays; .* has 1 inputs"),
        "tfap.prune_once(model, y, 0.5)": (ValueError, "does not fit the inputs of the model"),
        "tfap.prune_once(model, 'x.npy', 0.5)": (TypeError, "data must be an array.*str"),
        "tfap.prune_once(model, None, 0.5, 'magnitude')": (ValueError, "data is None, so similar neurons"),
        "tfap.recalibrate(None, x)": (TypeError, "recalibrate takes a Keras model"),
        "tfap.recalibrate(pruned, x)": (ValueError, r"call strip_pruning\(\) first"),
        "tfap.recalibrate(model, x)": (ValueError, "has no BatchNormalization that training updates"),
        "tfap.recalibrate(normalized, None)": (TypeError, "data must be an array.*NoneType"),
        "tfap.recalibrate(normalized, x[:0])": (ValueError, "The data is empty"),
        "tfap.recalibrate(normalized, x[:, :3])": (ValueError, "does not fit the inputs of the model"),
        "tfap.recalibrate(normalized, endless)": (ValueError, "has no end"),
        "fit(pruned, tfap.UpdatePruningStep(compensate=x))": (ValueError, "no layer is pruned by neurons"),
        "fit(by_counts, tfap.UpdatePruningStep(compensate=x[:0]))": (ValueError, "The data is empty"),
        "fit(by_counts, tfap.UpdatePruningStep(compensate=x + np.nan))": (
            ValueError,
            "contains NaN or infinity",
        ),
        "fit(by_counts, tfap.UpdatePruningStep(recalibrate=x))": (ValueError, "has no BatchNormalization"),
        "fit(tfap.prune(model, 0.5, 'reconstruction'), tfap.UpdatePruningStep())": (
            ValueError,
            r"needs inputs to measure on: pass tfap.UpdatePruningStep\(reconstruction_data=x\)",
        ),
    },
    "Removing named neurons": {
        "tfap.remove(None, {})": (TypeError, "remove takes a Keras model"),
        "tfap.remove(pruned, {})": (ValueError, r"call strip_pruning\(\) first"),
        "tfap.remove(model, [0, 1])": (TypeError, "neurons must be a dict of layer path to neurons"),
        "tfap.remove(model, {'hidden_9': [0]})": (ValueError, "'hidden_9', which is not in the model"),
        "tfap.remove(model, {'hidden_0': [99]})": (ValueError, r"names \[99\], but the layer has"),
        "tfap.remove(model, {'hidden_0': 0.5})": (TypeError, "a sequence of integers or a boolean array"),
        "tfap.remove(model, {'hidden_0': [True]})": (ValueError, r"mask .* has the shape \(1,\)"),
        "tfap.remove(model, {'output': [0]})": (ValueError, "are not removable. The reason: "),
    },
    "Budgets": {
        "tfap.prune_once(model, x, {'flop': 0.5})": (ValueError, "no 'flop'. Did you mean 'flops'"),
        "tfap.prune_once(model, x, {})": (ValueError, "exactly one of weights, .*: received none"),
        "tfap.prune_once(model, x, {'weights': 1, 'flops': 0.5})": (ValueError, "received 2: weights, flops"),
        "tfap.prune_once(model, x, {'flops': 0.5, 'runtime': 'onnx'})": (ValueError, "flops has no runtime"),
        "tfap.prune_once(model, x, {'weights': 1.5})": (ValueError, r"a float in \(0, 1\].*received 1.5"),
        "tfap.prune_once(model, x, {'weights': 1})": (ValueError, "cannot be met: with the fewest channels"),
        "tfap.prune_once(model, x, {'speedup': 0.5})": (ValueError, "speedup must be at least 1"),
        "tfap.prune_once(model, x, {'latency_ms': 0})": (ValueError, "must be greater than 0"),
        "tfap.prune_once(model, x, {'speedup': 2, 'runtime': 'c'})": (ValueError, "runtime must be one of"),
        "tfap.prune_once(model, x, 0.5, round_to=0)": (ValueError, "round_to must be an integer >= 1"),
        "tfap.prune(model, {'speedup': 2.0})": (ValueError, "cannot measure a budget of speedup before"),
    },
    "Sensitivity and shrink": {
        "tfap.sensitivity(None, x)": (TypeError, "sensitivity takes a Keras model"),
        "tfap.sensitivity(model, x, rates=(0.5, 1.0))": (ValueError, r"rates must be in \(0, 1\)"),
        "tfap.sensitivity(model, x, rates=0.5)": (TypeError, "rates must be a tuple of floats"),
        "tfap.sensitivity(model, x, metric=max)": (ValueError, "A metric needs labels"),
        "tfap.sensitivity(model, x, directory='file')": (NotADirectoryError, "is not a directory"),
        "tfap.shrink(None, x, {'flops': 0.5})": (TypeError, "shrink takes a Keras model"),
        "tfap.shrink(model, x, 0.5)": (TypeError, "A budget is a dict"),
        "tfap.shrink(model, x, {'flops': 0.5}, fit=3)": (TypeError, "fit must be a function or None"),
        "tfap.shrink(model, x, {'flops': 0.5}, max_drop=0.01)": (ValueError, "max_drop needs labels"),
        "tfap.shrink(model, x, {'flops': 0.5}, teacher=True)": (ValueError, "but fit is None"),
        "tfap.shrink(model, x, {'flops': 0.5}, stages=3)": (ValueError, "stages are for fit or max_drop"),
    },
    "Cycles and comparisons": {
        "tfap.prune_iteratively(net, fit)": (ValueError, "'net' is subclassed"),
        "tfap.prune_iteratively(model, None)": (TypeError, "fit must be a function: received None"),
        "tfap.prune_iteratively(model, fit, rate='half')": (TypeError, "rate must be a number"),
        "tfap.prune_iteratively(model, fit, cycles=0)": (ValueError, "cycles must be an integer >= 1"),
        "tfap.prune_iteratively(model, fit, rewind='first')": (ValueError, 'rewind must be "init"'),
        "tfap.prune_iteratively(model, fit, skip=['a'])": (ValueError, "skip names the layer 'a'"),
        "tfap.prune_iteratively(model, fit, directory='file')": (
            NotADirectoryError,
            "'file' is not a directory",
        ),
        "tfap.compare(None, fit, fit)": (TypeError, "build_model must be a function: received None"),
        "tfap.compare(build, fit, fit, ['magnitud'])": (ValueError, "The method 'magnitud': Unknown"),
        "tfap.compare(build, fit, fit, sparsities=1.0)": (
            ValueError,
            r"sparsities must be numbers in \(0, 1\)",
        ),
        "tfap.compare(build, fit, fit, sparsities=None)": (ValueError, "sparsities must be .*received None"),
        "tfap.compare(build, fit, fit, seeds=[1, 1])": (ValueError, "seeds must differ"),
        "tfap.compare(build, fit, fit, directory='file')": (NotADirectoryError, "'file' is not a directory"),
    },
    "Low rank": {
        "low_rank.singular_values(None)": (TypeError, "takes a Keras model"),
        "low_rank.ranks(model, tolerance=-1)": (ValueError, "tolerance must be None or a number >= 0"),
        "low_rank.factorize(model)": (ValueError, "Pass exactly one of rank, energy and error"),
        "low_rank.factorize(model, rank=0)": (ValueError, "rank must be at least 1"),
        "low_rank.factorize(model, rank=0.5)": (TypeError, "rank must be an int"),
        "low_rank.factorize(model, energy=2.0)": (ValueError, r"energy must be in \(0, 1\]"),
        "low_rank.factorize(model, rank=2, layers=['a'])": (ValueError, "There is no layer 'a'"),
        "low_rank.factorize(pruned, rank=1)": (ValueError, r"call strip_pruning\(\) first"),
        "low_rank.pca_reconstruction(model, -1)": (ValueError, "ranks must be at least 0"),
        "low_rank.svd_reconstruction(model, {'a': 1})": (ValueError, "ranks names 'a'"),
        "low_rank.SingularValueRegularizer('a')": (TypeError, "strength must be a number"),
        "low_rank.SingularValueRegularizer(-1)": (ValueError, "strength must be a finite number >= 0"),
    },
}


def names(keras):
    """Returns the names in `CASES` for one Keras, and creates a file and a folder in the current folder."""
    layers = keras.layers
    stack = [layers.Input((12,), name="x"), layers.Dense(16, "relu", name="hidden_0")]
    stack += [layers.Dense(8, "relu", name="hidden_1"), layers.Dense(4, "softmax", name="output")]
    model = keras.Sequential(stack, name="model")
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    pruned = tfap.prune(model, 0.5, "magnitude")
    tfap.update_masks(pruned, 0.25)
    x, y = np.random.default_rng(0).normal(size=(8, 12)).astype("float32"), np.arange(8) % 4

    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.hidden = layers.Dense(4)

        def call(self, inputs):
            return self.hidden(inputs)

    class Unknown(layers.Layer):
        def call(self, inputs):
            return inputs

    def fit(model, *callbacks):
        return model.fit(x, y, verbose=0, callbacks=list(callbacks))

    pathlib.Path("file").write_text("!")
    pathlib.Path("folder").mkdir()
    pathlib.Path("folder", "thesis.txt").write_text("!")
    return {
        **{"keras": keras, "np": np, "tfap": tfap, "low_rank": low_rank, "x": x, "y": y, "fit": fit},
        "model": model,
        "pruned": pruned,
        "by_counts": tfap.prune(model, 0.5),
        "by_gradient": tfap.prune(model, 0.5, "gradient"),
        "linear": keras.Sequential(
            [layers.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2)], name="linear"
        ),
        "unbuilt": keras.Sequential([layers.Dense(4, "relu")], name="unbuilt"),
        "normalized": keras.Sequential(
            [layers.Input((12,), name="x"), layers.Dense(3), layers.BatchNormalization()], name="normalized"
        ),
        "net": Net(),
        "Unknown": Unknown,
        "build": lambda: model,
        "counts": tfap.ActivationCounts(np.zeros(3, int), 1),
        "unseen": tfap.ActivationCounts(np.zeros(3, int), 0),
        "endless": tf.data.Dataset.from_tensor_slices(x).batch(4).repeat(),
    }


def error_of(code, given):
    """Returns the exception that an expression raises, or None."""
    try:
        eval(code, dict(given))
    except Exception as error:
        return error
    return None


def row(code, error, message):
    """Returns the row of the table, with the first line of the error that matches the expected message."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    shown = next((line for line in lines if re.search(message, line)), lines[0])
    shown = re.sub(r" at 0x\w+", "", shown).strip().replace("|", "\\|").replace("<", "\\<")
    return f"| `{code}` | {type(error).__name__} | {shown} |"


def main(_):
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        given = names(importlib.import_module("keras"))
        for title, cases in CASES.items():
            print(f"## {title}\n\n| Call | Error | Message |\n|---|---|---|")
            for code, (_, message) in cases.items():
                print(row(code, error_of(code, given), message))
            print()


if __name__ == "__main__":
    app.run(main)
