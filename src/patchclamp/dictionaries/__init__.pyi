# The public names of the package, and where each lives.

from .codes import Codes as Codes
from .dictionary import Dictionary as Dictionary
from .encoder import Encoder as Encoder
from .fit import DictionaryFit as DictionaryFit
from .pursuit import OMP as OMP
from .scaling import Scaling as Scaling
from .toy import ToyData as ToyData

__all__ = ["OMP", "Codes", "Dictionary", "DictionaryFit", "Encoder", "Scaling", "ToyData"]
