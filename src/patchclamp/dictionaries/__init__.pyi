# The public names of the package, and where each lives.

from .agreement import DictionaryAgreement as DictionaryAgreement
from .agreement import agreement as agreement
from .atoms import coherence as coherence
from .codes import Codes as Codes
from .decompositions import ICA as ICA
from .decompositions import NMF as NMF
from .decompositions import PCA as PCA
from .decompositions import KMeans as KMeans
from .dictionary import Dictionary as Dictionary
from .encoder import Encoder as Encoder
from .evaluation import DictionaryEvaluation as DictionaryEvaluation
from .evaluation import Frontier as Frontier
from .evaluation import evaluate as evaluate
from .evaluation import frontier as frontier
from .fista import FISTA as FISTA
from .fit import DictionaryFit as DictionaryFit
from .gated import Gated as Gated
from .jumprelu import JumpReLU as JumpReLU
from .ksvd import KSVD as KSVD
from .matryoshka import MatryoshkaBatchTopK as MatryoshkaBatchTopK
from .mod import MOD as MOD
from .online import OnlineDictionaryLearning as OnlineDictionaryLearning
from .pruning import prune as prune
from .pursuit import OMP as OMP
from .recovery import Recovery as Recovery
from .recovery import recovery as recovery
from .relu import ReLU as ReLU
from .scaling import RowScaling as RowScaling
from .sgd import SGD as SGD
from .superposition import Superposition as Superposition
from .superposition import superposition as superposition
from .threshold import LinearCoordinates as LinearCoordinates
from .threshold import NearestAtom as NearestAtom
from .threshold import Threshold as Threshold
from .topk import BatchTopK as BatchTopK
from .topk import TopKEncoder as TopKEncoder
from .toy import ToyData as ToyData
from .training import train as train

__all__ = [
    "FISTA",
    "ICA",
    "KSVD",
    "MOD",
    "NMF",
    "OMP",
    "PCA",
    "SGD",
    "BatchTopK",
    "Codes",
    "Dictionary",
    "DictionaryAgreement",
    "DictionaryEvaluation",
    "DictionaryFit",
    "Encoder",
    "Frontier",
    "Gated",
    "JumpReLU",
    "KMeans",
    "LinearCoordinates",
    "MatryoshkaBatchTopK",
    "NearestAtom",
    "OnlineDictionaryLearning",
    "ReLU",
    "Recovery",
    "RowScaling",
    "Superposition",
    "Threshold",
    "TopKEncoder",
    "ToyData",
    "agreement",
    "coherence",
    "evaluate",
    "frontier",
    "prune",
    "recovery",
    "superposition",
    "train",
]
