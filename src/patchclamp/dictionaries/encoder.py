"""What every encoder is: a rule with its settings that gives the codes of rows, for any dictionary."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

from jaxtyping import Float
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.dictionaries.codes import Codes


class Encoder(ABC):
    """A rule by which rows get codes. Subclasses are frozen dataclasses of settings, marked ``@savable``.

    Weights that an encoder learned are not its own but the dictionary's, so that any encoder runs on any dictionary: a linear
    one without weights reads along the atoms themselves.
    """

    weight_names: ClassVar[tuple[str, ...]] = ()
    """The names of the tensors that it learns, as ``weight`` ``[width, d]`` and ``offset`` ``[width]``."""

    @abstractmethod
    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows.

        Args:
            x: Rows in the coordinates of the dictionary, without its bias, so that codes and atoms alone make them.
            atoms: The atoms of the dictionary, of any length.
            weights: What was learned with the dictionary, by name; empty where nothing was.
        """

    def rescaled(self, factor: float) -> Self:  # noqa: ARG002
        """The rule that gives rows and atoms of ``factor`` times the length the codes that this one gives them."""
        return self

    def check(self, width: int) -> None:
        """Refuse a dictionary of ``width`` latents for which the settings make no sense.

        Raises:
            InputError: For instance more active latents than there are.
        """
        k = getattr(self, "k", None)
        if k is not None and k > width:
            raise InputError(f"{type(self).__name__}(k={k}): a dictionary of {width} latents has no {k} to choose")
