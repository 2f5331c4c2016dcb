"""A sweep up to its schedule, as ``model.sweep`` comes to it."""

from typing import Any

import patchclamp as pc
from patchclamp.interventions.options import RunOptions
from patchclamp.interventions.plan import Schedule, schedule
from patchclamp.interventions.record import record_sources
from patchclamp.interventions.sweep import Sweep


def scheduled(
    model: pc.Model, prompts: Any, edit: pc.Edit, options: RunOptions | None = None, **sweep: Any
) -> Schedule:
    request = Sweep.of(model, prompts, edit, **sweep)
    return schedule(request.job(record_sources(model, request.sources)), options or RunOptions())
