"""Directions that stand for a concept: find them, erase them, swap, scale, add."""

from patchclamp.directions.activation_addition import ActivationAddition as ActivationAddition
from patchclamp.directions.direction import Direction as Direction
from patchclamp.directions.gradient import GradientDirection as GradientDirection
from patchclamp.directions.inlp import INLP as INLP
from patchclamp.directions.layers import fit_layers as fit_layers
from patchclamp.directions.leace import LEACE as LEACE
from patchclamp.directions.logistic import LogisticDirection as LogisticDirection
from patchclamp.directions.mean_difference import MeanDifference as MeanDifference
from patchclamp.directions.oracle_leace import OracleLEACE as OracleLEACE
from patchclamp.directions.pca_difference import PCADifference as PCADifference
from patchclamp.directions.quadratic_leace import QuadraticLEACE as QuadraticLEACE
from patchclamp.directions.random import RandomDirection as RandomDirection
from patchclamp.directions.rlace import RLACE as RLACE
from patchclamp.directions.sal import SAL as SAL

__all__ = [
    "INLP",
    "LEACE",
    "RLACE",
    "SAL",
    "ActivationAddition",
    "Direction",
    "GradientDirection",
    "LogisticDirection",
    "MeanDifference",
    "OracleLEACE",
    "PCADifference",
    "QuadraticLEACE",
    "RandomDirection",
    "fit_layers",
]
