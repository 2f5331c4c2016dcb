"""What results of planned cells have in common: the plan is saved and opened with them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from patchclamp.core.result import Result, Saved
from patchclamp.interventions.planning import Plan

if TYPE_CHECKING:
    import xarray as xr


@dataclass(eq=False)
class PlannedResult(Result):
    """A labelled dataset with the plan of the cells that gave it."""

    dataset: "xr.Dataset"
    plan: Plan
    record: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def _dataset(self) -> "xr.Dataset":
        return self.dataset

    def plain_record(self) -> dict[str, Any]:
        """``record`` as plain JSON, with the plan."""
        return {**super().plain_record(), "plan": self.plan.as_record()}

    @classmethod
    def _from_saved(cls, saved: Saved) -> Self:
        return cls(saved.dataset, Plan.from_record(saved.record.pop("plan")), saved.record, saved.tensors)
