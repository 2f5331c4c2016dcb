"""What an edit did: to the answers, to unrelated text, to what is generated, and to what a probe can still read.

Nothing here knows how an edit was made: every function takes edits (or arrays) and measures them beside the unedited model.
"""

from patchclamp.metrics.bias import Bias as Bias
from patchclamp.metrics.bias import bias as bias
from patchclamp.metrics.bias import ratio as ratio
from patchclamp.metrics.damage import Damage as Damage
from patchclamp.metrics.damage import damage as damage
from patchclamp.metrics.divergence import Divergence as Divergence
from patchclamp.metrics.divergence import divergence as divergence
from patchclamp.metrics.interchange import Interchange as Interchange
from patchclamp.metrics.interchange import confusion as confusion
from patchclamp.metrics.interchange import interchange as interchange
from patchclamp.metrics.neutral import neutral_texts as neutral_texts
from patchclamp.metrics.probes import ProbeReport as ProbeReport
from patchclamp.metrics.probes import probe as probe
from patchclamp.metrics.splits import split as split

__all__ = [
    "Bias",
    "Damage",
    "Divergence",
    "Interchange",
    "ProbeReport",
    "bias",
    "confusion",
    "damage",
    "divergence",
    "interchange",
    "neutral_texts",
    "probe",
    "ratio",
    "split",
]
