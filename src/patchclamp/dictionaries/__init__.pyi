# The public names of the package, and where each lives.

from .codes import Codes as Codes
from .dictionary import Dictionary as Dictionary
from .encoder import Encoder as Encoder
from .fit import DictionaryFit as DictionaryFit
from .gated import Gated as Gated
from .initial import initial_atoms as initial_atoms
from .jumprelu import JumpReLU as JumpReLU
from .matryoshka import MatryoshkaBatchTopK as MatryoshkaBatchTopK
from .relu import ReLU as ReLU
from .scaling import Scaling as Scaling
from .schedule import default_learning_rate as default_learning_rate
from .sgd import SGD as SGD
from .topk import BatchTopK as BatchTopK
from .topk import TopK as TopK
from .training import train as train

__all__ = [
    "SGD",
    "BatchTopK",
    "Codes",
    "Dictionary",
    "DictionaryFit",
    "Encoder",
    "Gated",
    "JumpReLU",
    "MatryoshkaBatchTopK",
    "ReLU",
    "Scaling",
    "TopK",
    "default_learning_rate",
    "initial_atoms",
    "train",
]
