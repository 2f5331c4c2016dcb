"""The result of a sweep: one number (or a few) a cell, labelled by prompt, site, layer, position and parameter.

Made by ``Sweep.grid`` from what ``execute.py`` gave, for sweeps, patches and paths.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from patchclamp.core.errors import InputError, unknown
from patchclamp.interventions.planned_result import PlannedResult
from patchclamp.interventions.reads import BASELINE, REFERENCE

if TYPE_CHECKING:
    import xarray as xr


@dataclass(eq=False)
class Grid(PlannedResult):
    """What a sweep measured.

    ``data`` is a DataArray with dims ``prompt, site, layer, [head], [position], *over, *read`` (a Dataset if several
    things were read); cells that do not exist are NaN. ``baseline`` is the same read without the swept edit.
    """

    kind: ClassVar[str] = "grid"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of what was measured, in the order of the reads; of several reads of one name ``loss``, ``loss:2``, ..."""
        return tuple(str(name) for name in self.dataset.data_vars if f"{BASELINE}{name}" in self.dataset)

    def _pick(self, prefix: str) -> "xr.DataArray | xr.Dataset":
        arrays = {name: self.dataset[f"{prefix}{name}"].rename(name) for name in self.reads}
        if len(arrays) == 1:
            return next(iter(arrays.values()))
        import xarray as xr

        return xr.Dataset(arrays)

    @property
    def data(self) -> "xr.DataArray | xr.Dataset":
        """The measured numbers."""
        return self._pick("")

    @property
    def baseline(self) -> "xr.DataArray | xr.Dataset":
        """The same reads without the swept edit: of each prompt, under the shared edits if there are any."""
        return self._pick(BASELINE)

    @property
    def reference(self) -> "xr.DataArray | xr.Dataset":
        """For ``model.patch``: the same reads of the source run.

        Raises:
            InputError: This grid is no patching result.
        """
        if f"{REFERENCE}{self.reads[0]}" not in self.dataset:
            raise InputError("only the result of model.patch has a reference: the source run")
        return self._pick(REFERENCE)

    def relative(self, how: Literal["difference", "ratio", "recovery"] = "difference") -> "xr.DataArray | xr.Dataset":
        """Numbers relative to the baseline.

        Args:
            how: ``difference`` from the baseline; ``ratio`` to it; or, for ``model.patch``, ``recovery``: 0 where the
                patch changes nothing and 1 where it brings back the source run's value.
        """
        if how == "difference":
            return self.data - self.baseline
        if how == "ratio":
            return self.data / self.baseline
        if how == "recovery":
            return (self.data - self.baseline) / (self.reference - self.baseline)
        raise InputError(unknown("relative", how, ("difference", "ratio", "recovery")))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim} {size}" for dim, size in self.dataset[self.reads[0]].sizes.items())
        return f"Grid of {', '.join(self.reads)}: {sizes}\n{self.plan}"
