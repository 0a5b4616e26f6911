"""Prunes a model with Torch-Pruning and trains it: the PyTorch half of peers.py, which starts it.

    python benchmarks/peers_torch.py JOB.json

It imports neither Keras nor tfap, so that it runs in an environment with PyTorch alone. The job has the
layers of a Keras model, its weights, the data, and the arm. The script checks that both models compute the
same, prunes, trains, writes an ONNX file, and writes its figures to the file that the job names.
"""

import importlib.metadata
import json
import math
import sys
import time

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional

TOLERANCE = 1e-4  # of the dense outputs before a softmax, relative to the largest
STEPS = 200  # of pruning at most, so that a step removes few channels
GRADIENT_BATCHES = 1  # per step


class Net(nn.Module):
    """The layers of a Keras model, without a softmax at the end."""

    def __init__(self, layers, weights):
        super().__init__()
        self.layers = layers
        self.modules_of = nn.ModuleDict()
        for layer in layers:
            arrays = [torch.tensor(weights[name]) for name in layer["weights"]]
            module = {"Conv2D": _convolution, "Dense": _dense, "BatchNormalization": _normalization}.get(
                layer["kind"]
            )
            if module is not None:
                self.modules_of[layer["name"]] = module(layer, *arrays)

    def forward(self, x):
        values = {"input": x}
        for layer in self.layers:
            inputs = [values[name] for name in layer["inputs"]]
            values[layer["output"]] = self._apply(layer, *inputs)
        return values[self.layers[-1]["output"]]

    def _apply(self, layer, *inputs):
        kind = layer["kind"]
        if kind == "Add":
            return inputs[0] + inputs[1]
        (x,) = inputs
        if kind == "Flatten":
            return torch.flatten(x, 1)
        if kind == "GlobalAveragePooling2D":
            return x.mean(dim=(2, 3))
        if kind == "ReLU":
            return functional.relu(x)
        if kind == "Conv2D" and layer["pad"] is not None:
            x = functional.pad(x, layer["pad"])
        x = self.modules_of[layer["name"]](x)
        return functional.relu(x) if layer["activation"] == "relu" else x


def _convolution(layer, kernel, bias=None):
    height, width, inputs, outputs = kernel.shape
    padding = layer["padding"] if layer["pad"] is None else 0
    module = nn.Conv2d(inputs, outputs, (height, width), layer["stride"], padding, bias=bias is not None)
    module.weight.data = kernel.permute(3, 2, 0, 1).contiguous()
    if bias is not None:
        module.bias.data = bias
    return module


def _dense(layer, kernel, bias):
    module = nn.Linear(*kernel.shape)
    module.weight.data, module.bias.data = kernel.T.contiguous(), bias
    return module


def _normalization(layer, scale, shift, mean, variance):
    module = nn.BatchNorm2d(len(scale), eps=layer["epsilon"], momentum=1 - layer["momentum"])
    module.weight.data, module.bias.data = scale, shift
    module.running_mean.data, module.running_var.data = mean, variance
    return module


class Trainer:
    """Trains as `recipes.Recipe` does: SGD with momentum and a cosine decay of the rate."""

    def __init__(self, job, x, y):
        self.job, self.x, self.y = job, x, y
        self.generator = torch.Generator().manual_seed(job["seed"])

    def fit(self, model, epochs, rate, before_step=lambda: None):
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
        batches = -(-len(self.x) // self.job["batch"])
        model.train()
        for step in range(int(epochs * batches)):
            if step % batches == 0:
                order = torch.randperm(len(self.x), generator=self.generator)
            chosen = order[step % batches * self.job["batch"] :][: self.job["batch"]]
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / (epochs * batches))) / 2
            optimizer.zero_grad()
            functional.cross_entropy(model(self.x[chosen]), self.y[chosen]).backward()
            before_step()
            optimizer.step()
        model.eval()

    def gradients(self, model):
        """Accumulates gradients of the loss in inference mode."""
        model.zero_grad()
        for at in range(GRADIENT_BATCHES):
            rows = slice(at * self.job["batch"], (at + 1) * self.job["batch"])
            functional.cross_entropy(model(self.x[rows]), self.y[rows]).backward()


# -- what a model costs, as tfap counts it -------------------------------------------------------------


def flops(model, example):
    """Counts two FLOPs per multiply-add of convolutions and Dense layers."""
    counts, hooks = [], []

    def count(module, _, output):
        counts.append(2 * output[0].numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(count))
    with torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def weights(model):
    """Counts weights and moving statistics, as Keras does."""
    arrays = [*model.parameters(), *(b for b in model.buffers() if b.dim())]
    return sum(array.numel() for array in arrays)


COSTS = {"flops": flops, "weights": lambda model, _: weights(model)}

# -- the arms -----------------------------------------------------------------------------------------

# Name -> the importance, whether channels of all layers are ranked together, and further arguments.
ARMS = {
    "tp_magnitude": (lambda: tp.importance.MagnitudeImportance(p=2), {}),
    "tp_taylor": (lambda: tp.importance.GroupTaylorImportance(), {}),
    "tp_taylor_isomorphic": (
        lambda: tp.importance.GroupTaylorImportance(),
        {"global_pruning": True, "isomorphic": True},
    ),
    "tp_group_norm": (lambda: tp.importance.GroupMagnitudeImportance(p=2), {"global_pruning": True}),
}


def run(job):
    """Prunes and trains. Returns the figures of the row."""
    arrays = np.load(job["arrays"])
    x, y = (torch.tensor(arrays[name]) for name in ("x_train", "y_train"))
    model = Net(job["layers"], arrays).eval()
    difference = _difference(model, arrays)
    example, trainer = x[:1], Trainer(job, x, y)
    dense = {"flops": flops(model, example), "weights": weights(model)}
    if dense != {name: job["dense"][name] for name in dense}:
        raise SystemExit(f"The dense models differ: {dense} in PyTorch, {job['dense']} in Keras.")
    start, sparse, epochs = time.process_time(), 0.0, job["epochs"]
    pruner = _pruner(model, example, job["arm"])
    if job["arm"] == "tp_group_norm":  # half of the epochs teach the groups to be small
        trainer.fit(model, epochs / 2, job["rate"], lambda: pruner.regularize(model))
        sparse, epochs = time.process_time() - start, epochs / 2
        start = time.process_time()
    _prune(pruner, model, example, trainer, job)
    pruning, start = time.process_time() - start, time.process_time()
    trainer.fit(model, epochs, job["rate"])
    _export(model, example, job)
    return {
        "weights": weights(model),
        "flops": flops(model, example),
        "prune_seconds": pruning,
        "fit_seconds": sparse + time.process_time() - start,
        "difference": difference,
        "versions": {
            "torch": torch.__version__,
            "torch-pruning": importlib.metadata.version("torch-pruning"),
        },
    }


def _difference(model, arrays):
    with torch.no_grad():
        outputs = model(torch.tensor(arrays["x_few"])).numpy()
    expected = arrays["logits_few"]
    difference = float(np.abs(outputs - expected).max() / max(1, np.abs(expected).max()))
    if not difference <= TOLERANCE:
        raise SystemExit(f"The outputs of the dense models differ by {difference}.")
    return difference


def _pruner(model, example, arm):
    importance, options = ARMS[arm]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    kind = tp.pruner.GroupNormPruner if arm == "tp_group_norm" else tp.pruner.BasePruner
    arguments = {"pruning_ratio": 0.98, "iterative_steps": STEPS, "ignored_layers": linear[-1:], **options}
    return kind(model, example, importance(), **arguments)


def _prune(pruner, model, example, trainer, job):
    """Removes channels step by step until the cost is within the budget."""
    cost = COSTS[job["unit"]]
    limit = cost(model, example) / job["times"]
    for _ in range(STEPS):
        if cost(model, example) <= limit:
            return
        if "taylor" in job["arm"]:
            trainer.gradients(model)
        pruner.step()
    if cost(model, example) > limit:
        raise SystemExit(f"{job['arm']} cannot make the model {job['times']} times smaller.")


def _export(model, example, job):
    whole = nn.Sequential(model, nn.Softmax(1)) if job["softmax"] else model
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    torch.onnx.export(whole.eval(), (example,), job["onnx"], dynamo=False, **names)


def main():
    with open(sys.argv[1]) as file:
        job = json.load(file)
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    figures = run(job)
    with open(job["result"], "w") as file:
        json.dump(figures, file)


if __name__ == "__main__":
    main()
