"""Lets tests read the outputs of models with NumPy on PyTorch, which refuses tensors that have gradients.

That tensors are detached is for the tests' own lines alone: in tfap the same must be an error.
"""

import os
import pathlib
import sys

import torch

TESTS = pathlib.Path(__file__).parent
array_of = torch.Tensor.__array__


def array_of_detached(tensor, *arguments, **keywords):
    frame = sys._getframe(1)
    while f"{os.sep}numpy{os.sep}" in frame.f_code.co_filename or "<" in frame.f_code.co_filename:
        frame = frame.f_back
    of_a_test = pathlib.Path(frame.f_code.co_filename).parent == TESTS
    return array_of(tensor.detach() if of_a_test else tensor, *arguments, **keywords)


torch.Tensor.__array__ = array_of_detached
