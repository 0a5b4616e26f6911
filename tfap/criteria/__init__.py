"""Saliency criteria, which score weights. The weights with the lowest scores are pruned first."""

from tfap.criteria.ap import AP
from tfap.criteria.base import Criterion, get
from tfap.criteria.counts import ActivationCount
from tfap.criteria.fpgm import FPGM
from tfap.criteria.gradient import Gradient
from tfap.criteria.hessian import HessianDiagonal
from tfap.criteria.lookahead import Lookahead
from tfap.criteria.magnitude import LAMP, Magnitude
from tfap.criteria.reconstruction import Reconstruction
from tfap.criteria.taylor import GroupTaylor
from tfap.criteria.wanda import Wanda

__all__ = [
    "AP",
    "FPGM",
    "LAMP",
    "ActivationCount",
    "Criterion",
    "Gradient",
    "GroupTaylor",
    "HessianDiagonal",
    "Lookahead",
    "Magnitude",
    "Reconstruction",
    "Wanda",
    "get",
]
