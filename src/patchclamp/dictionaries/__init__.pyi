# The public names of the package, and where each lives.

from .agreement import Agreement as Agreement
from .agreement import agreement as agreement
from .atoms import coherence as coherence
from .codes import Codes as Codes
from .decompositions import ICA as ICA
from .decompositions import NMF as NMF
from .decompositions import PCA as PCA
from .decompositions import KMeans as KMeans
from .dictionary import Dictionary as Dictionary
from .encoder import Encoder as Encoder
from .evaluation import Evaluation as Evaluation
from .evaluation import Frontier as Frontier
from .evaluation import evaluate as evaluate
from .evaluation import frontier as frontier
from .fista import FISTA as FISTA
from .fit import DictionaryFit as DictionaryFit
from .ksvd import KSVD as KSVD
from .mod import MOD as MOD
from .online import OnlineDictionaryLearning as OnlineDictionaryLearning
from .pruning import prune as prune
from .pursuit import OMP as OMP
from .recovery import Recovery as Recovery
from .recovery import recovery as recovery
from .scaling import Scaling as Scaling
from .threshold import LinearCoordinates as LinearCoordinates
from .threshold import Nearest as Nearest
from .threshold import Threshold as Threshold
from .toy import ToyData as ToyData

__all__ = [
    "FISTA",
    "ICA",
    "KSVD",
    "MOD",
    "NMF",
    "OMP",
    "PCA",
    "Agreement",
    "Codes",
    "Dictionary",
    "DictionaryFit",
    "Encoder",
    "Evaluation",
    "Frontier",
    "KMeans",
    "LinearCoordinates",
    "Nearest",
    "OnlineDictionaryLearning",
    "Recovery",
    "Scaling",
    "Threshold",
    "ToyData",
    "agreement",
    "coherence",
    "evaluate",
    "frontier",
    "prune",
    "recovery",
]
