"""Saliency criteria, which score weights. The weights with the lowest scores are pruned first."""

from tfap.criteria.ap import AP
from tfap.criteria.base import Criterion, get
from tfap.criteria.counts import ActivationCount
from tfap.criteria.gradient import Gradient
from tfap.criteria.lookahead import Lookahead
from tfap.criteria.magnitude import LAMP, Magnitude
from tfap.criteria.reconstruction import Reconstruction

__all__ = [
    "AP",
    "LAMP",
    "ActivationCount",
    "Criterion",
    "Gradient",
    "Lookahead",
    "Magnitude",
    "Reconstruction",
    "get",
]
