"""What patchclamp has observed of a model: when it was opened (:mod:`~patchclamp.interventions.verification`) and as it ran."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ladder:
    """How far a sweep of a model may share work, as measured when the model was opened.

    ``strategy`` is "wavefront" (layers below an edit and positions before it are shared), "layers" (layers only), "rows"
    (many cells in one forward) or "cell" (one forward a cell); ``reason`` says what stopped it from going higher.
    On the wavefront, ``packs`` says whether short rows of different start positions may share a row of a call.
    """

    strategy: str
    reason: str = ""
    packs: bool = False

    @property
    def rung(self) -> str:
        """The old name of ``strategy``."""
        return self.strategy


@dataclass
class Capabilities:
    """What is known of a model because it was tried."""

    ladder: Ladder = field(default_factory=lambda: Ladder("rows", "no layers are known"))
    narrows: bool = False
    """Whether the code after the last layer was seen to work position by position."""
    arity: int | None = None
    """Length of the tuple that a layer returns; None if it returns the hidden states themselves."""
    seen_causal: bool | None = None
    """Whether a later token was seen to leave earlier positions alone."""
    overflow: str | None = None
    """The first site with NaN or infinity when the model was looked at; None if there was none."""
    pads: bool = False
    """Whether shorter prompts may be padded in a call whose output is read."""
    together: bool = True
    """Whether several rows may share such a call: a head without a padding token takes one."""
    pads_left: bool | None = None
    """Whether left padding was seen to change nothing in generation; None if it was not tried."""
    width_of_logits: int | None = None
    """Measured on the first run."""
    once: set[tuple[str, str, tuple[int | str, ...]]] = field(default_factory=set)
    """Ports of raw module paths that were seen to run once in a whole pass."""
