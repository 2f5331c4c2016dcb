# The public names of the package, and where each lives.

from .activation_addition import ActivationAddition as ActivationAddition
from .direction import Direction as Direction
from .gradient import GradientDirection as GradientDirection
from .inlp import INLP as INLP
from .layers import fit_layers as fit_layers
from .leace import LEACE as LEACE
from .logistic import LogisticDirection as LogisticDirection
from .mean_difference import MeanDifference as MeanDifference
from .oracle_leace import OracleLEACE as OracleLEACE
from .pca_difference import PCADifference as PCADifference
from .quadratic_leace import QuadraticLEACE as QuadraticLEACE
from .random import RandomDirection as RandomDirection
from .rlace import RLACE as RLACE
from .sal import SAL as SAL

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
