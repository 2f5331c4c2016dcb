"""Causal tracing: corrupt the subject, set one state back to the clean run's, and see how much of the answer returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.kinds import Folder, Repeats, Seed
from patchclamp.core.progress import Listener
from patchclamp.interventions import (
    CLEAN,
    CORRUPTED,
    DEFAULT_BUDGET,
    Action,
    Cell,
    Outcome,
    PartFiles,
    Put,
    RunOptions,
    SweepTask,
    as_reads,
    provenance,
    run_cells,
    schedule,
)
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.models.sites import Site
from patchclamp.tracing.estimate import estimate, measured_error, midpoints
from patchclamp.tracing.setting import Setting, Std
from patchclamp.tracing.trace import Trace

if TYPE_CHECKING:
    import xarray as xr

Window = int | Mapping[str, int] | None
WINDOWS = {"mlp_out": 10, "attn_out": 10}
"""Layers restored together at one position, as in ROME; one anywhere else."""


@dataclass(frozen=True, eq=False)
class States:
    """The states that a trace restores: components by layers, in windows of layers."""

    sites: Mapping[tuple[str, int], Site]
    """Every site that a window can hold."""
    components: tuple[str, ...]
    layers: tuple[int, ...]
    windows: Mapping[str, int]

    @classmethod
    def of(cls, model: OpenModel, names: Any, window: Window) -> "States":
        """Read the sites of a trace.

        Raises:
            InputError: Sites outside the layers, single heads or neurons, or a window that is no number of layers.
            SiteError: A site is unknown or read-only.
        """
        site_list = model.sites.expand(names)
        misfit = next((site for site in site_list if site.layer is None or site.unit is not None), None)
        if misfit is not None:
            raise InputError(
                f"a trace restores whole states of layers, and {misfit} is none; for single neurons use "
                "model.neuron_importances, for heads model.patch with base=[pc.Noise(...)]"
            )
        components = tuple(dict.fromkeys(site.component for site in site_list))
        if isinstance(window, Mapping):
            for name in window:
                check_choice("site of window", name, components)
        windows = {
            name: WINDOWS.get(name, 1) if window is None else window if isinstance(window, int) else window.get(name, 1)
            for name in components
        }
        for size in windows.values():
            if isinstance(size, bool) or size < 1:
                raise InputError(f"a window is a number of layers, 1 or more; got {size!r}")
        sites = {(s.component, s.layer or 0): s for s in model.sites.expand(list(components))}
        for site in site_list:
            model.sites.check_writable(site)
        return cls(sites, components, tuple(sorted({site.layer or 0 for site in site_list})), windows)

    def window_sites(self, component: str, layer: int) -> list[Site]:
        """The window of layers centred on one: for a width of 10, from 5 below to 4 above."""
        width = self.windows[component]
        layers = range(max(layer - width // 2, 0), min(layer + (width + 1) // 2, len(self.sites)))
        return [self.sites[component, i] for i in layers if (component, i) in self.sites]


@recorded
def causal_trace(
    model: OpenModel,
    prompt: Any,
    subject: Any,
    answer: str | int | None = None,
    *,
    sites: Sites = "resid_post",
    window: Window = None,
    samples: Repeats = 10,
    noise: float = 3.0,
    std: Std = None,
    seed: Seed = 0,
    read: Any = None,
    method: Literal["exact", "gradient"] = "exact",
    integrate: Repeats = 0,
    check: int = 20,
    budget: float | str = DEFAULT_BUDGET,
    max_tokens: int | None = None,
    verify: int = 0,
    checkpoint: Folder | None = None,
    progress: bool | Listener | None = None,
) -> Trace:
    """Causal tracing: corrupt the subject, set one state back to the clean run's, and see how much of the answer returns.

    Source: Meng et al. 2022 (ROME), arXiv 2202.05262, section 2.1.

    Args:
        model: The model.
        prompt: One prompt.
        subject: Its subject as text (or any position): the tokens whose embeddings get noise.
        answer: One token; the clean run's likeliest by default. Its probability and log-odds are read.
        sites: The sites that are restored, a cell a site, layer and position: ``["resid_post", "mlp_out", "attn_out"]``.
        window: Layers restored together, centred on the cell's: one number, or one a site. By default 10 for
            ``mlp_out`` and ``attn_out`` (from 5 below to 4 above, as in ROME), else 1.
        samples: The number of noise samples; each sample has the same noise in all its cells.
        noise: The size of the noise, in ``std``.
        std: The standard deviation that noise is measured by: a number, or texts over whose tokens' embedding entries
            it is taken (ROME: the subjects of all known facts); by default over the subject's own tokens.
        seed: The seed of the noise.
        read: Something else to measure than the answer: one number a run.
        method: ``"gradient"`` estimates all cells from one backward pass a read, with the error measured. (A window's
            estimate is the sum over its layers, which counts paths through several of them more than once.)
        integrate: For the estimate: average the gradient over so many points between the two runs.
        check: For the estimate: random cells that are run exactly.
        budget: As for :meth:`patchclamp.Model.sweep`, as are all that follow.
        max_tokens: The number of rows times positions alive at once.
        verify: Run this many random cells again the slow way.
        checkpoint: A folder: a killed trace goes on from there.
        progress: True for a bar, a function for events.

    Raises:
        PositionError: The subject is not in the prompt, or not on token borders; the message shows the tokens.
        InputError: The answer is not one token, there are no samples, or the model reads both ways.
    """
    _check_method(method, integrate, checkpoint)
    states = States.of(model, sites, window)
    files = PartFiles.of(checkpoint, model, reads=() if read is None else as_reads(read))
    setting = Setting.of(model, prompt, subject, answer, noise=noise, std=std, samples=samples, seed=seed, read=read)
    clean, values = setting.clean(list(states.sites.values()))
    places = list(np.ndindex(len(states.components), len(states.layers), len(setting.prompt.ids)))
    actions_by_place = [_restoring_actions(states, setting, values, place) for place in places]
    cells = [Cell(sample, actions) for sample in range(samples) for actions in actions_by_place]
    job = SweepTask(model, setting.lines(), cells)
    options = RunOptions(budget=budget, max_tokens=max_tokens, verify=verify, files=files, progress=progress)
    error = None
    if method == "exact":
        outcome, plan = run_cells(job, options)
    else:
        plan = schedule(job, options).plan
        outcome = estimate(job, [setting.lines(share) for share in midpoints(integrate)])
        error = measured_error(job, outcome, check)
    record, tensors = provenance(
        model, [setting.prompt], setting.resolved(), sites=[str(s) for s in model.sites.expand(sites)],
        window=dict(states.windows), **setting.arguments(),
    )  # fmt: skip
    record["answer"] = None if setting.answer is None else model.output_label(setting.answer)
    if error is not None:
        record["agreement"] = error
    return Trace(_dataset(setting, states, job, outcome, clean), plan, record, tensors)


def _check_method(method: str, integrate: int, checkpoint: Folder | None) -> None:
    """Refuse what belongs to the other method."""
    if method == "exact" and integrate:
        raise InputError(f"integrate={integrate!r} averages gradients; it goes with method='gradient'")
    if method == "gradient" and checkpoint is not None:
        raise InputError(
            f"checkpoint={str(checkpoint)!r} keeps finished cells, and method='gradient' has none: it is one pass; leave it out"
        )


def _restoring_actions(
    states: States, setting: Setting, values: Mapping[Site, Any], place: Sequence[int]
) -> tuple[Action, ...]:
    """The actions by which one cell restores states; none before the subject, where the corrupted run is the clean one."""
    component, layer, position = states.components[place[0]], states.layers[place[1]], place[2]
    if position < setting.subject[0]:
        return ()
    sites = states.window_sites(component, layer)
    return tuple(Action(site, (position,), Put(values[site][[position]]), edit=1) for site in sites)


def _dataset(setting: Setting, states: States, job: SweepTask, outcome: Outcome, clean: Sequence[Any]) -> "xr.Dataset":
    import xarray as xr

    samples, length = len(job.lines), len(setting.prompt.ids)
    shape = (samples, len(states.components), len(states.layers), length)
    variables: dict[str, Any] = {}
    for number, bound in enumerate(job.lines[0].reads):
        corrupted = np.array([float(outcome.baseline[line][number]) for line in range(samples)])
        reads = [float(outcome.of_cell(cell)[number]) for cell in range(len(job.cells))]
        dims = ("site", "layer", "position", "sample")
        variables[bound.name] = (dims, np.moveaxis(np.array(reads).reshape(shape), 0, -1))
        variables[CORRUPTED + bound.name] = ("sample", corrupted)
        variables[CLEAN + bound.name] = ((), float(clean[number]))
    is_subject = np.isin(np.arange(length), setting.subject)
    coords = {
        "site": np.array(states.components, dtype=object), "layer": np.array(states.layers), "position": np.arange(length),
        "sample": np.arange(samples), "token": ("position", np.array(setting.prompt.tokens, dtype=object)),
        "subject": ("position", is_subject),
    }  # fmt: skip
    return xr.Dataset(variables, coords=coords)
