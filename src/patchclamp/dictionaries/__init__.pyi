# The public names of the package, and where each lives.

from .agreement import Agreement as Agreement
from .agreement import agreement as agreement
from .atoms import coherence as coherence
from .codes import Codes as Codes
from .dictionary import Dictionary as Dictionary
from .encoder import Encoder as Encoder
from .evaluation import Evaluation as Evaluation
from .evaluation import Frontier as Frontier
from .evaluation import evaluate as evaluate
from .evaluation import frontier as frontier
from .fit import DictionaryFit as DictionaryFit
from .recovery import Recovery as Recovery
from .recovery import recovery as recovery
from .scaling import Scaling as Scaling
from .superposition import Superposition as Superposition
from .superposition import superposition as superposition
from .toy import ToyData as ToyData

__all__ = [
    "Agreement",
    "Codes",
    "Dictionary",
    "DictionaryFit",
    "Encoder",
    "Evaluation",
    "Frontier",
    "Recovery",
    "Scaling",
    "Superposition",
    "ToyData",
    "agreement",
    "coherence",
    "evaluate",
    "frontier",
    "recovery",
    "superposition",
]
