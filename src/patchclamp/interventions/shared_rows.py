"""How the runs of a wavefront share work: at each layer, one row for every distinct history of edits so far.

Called by ``memory.py`` while a job is planned. Runs whose edits agree up to a layer are one row there; where they part, the row
forks. Below its first edit a run is no row at all: it is its line's own recorded state. (Cells planned as a tree: the structure
that every sweep has.) In the example of ``docs/engine.md``, cells 0 and 1 are one row in layer 0 and two from layer 1 on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from patchclamp.interventions.actions import Action
from patchclamp.interventions.sweep_task import SweepTask
from patchclamp.models.sites import Site

CLEAN, EMBEDDED, ROW = "clean", "embedded", "row"


@dataclass(frozen=True, eq=False)
class Step:
    """What happens at one depth: a layer's index, or the number of layers for the head."""

    parents: tuple[tuple[str, int], ...]
    """Where each row comes from: ``(ROW, row of the previous step)``, ``(CLEAN, line)`` or ``(EMBEDDED, run)``."""
    lines: tuple[int, ...]
    """The line of each row."""
    entry: tuple[tuple[Action, ...], ...]
    """Edits of each row's residual stream before the layer runs."""
    inside: tuple[tuple[Action, ...], ...]
    """Edits within the layer."""
    row_of: dict[int, int]
    """Run -> row, for the runs that are rows here."""

    @property
    def rows(self) -> int:
        """How many rows the layer runs on."""
        return len(self.parents)


@dataclass(eq=False)
class Group:
    """Runs of equally long prompts whose first edited position is the same: they can share every layer call."""

    start: int
    """First position that is computed; those before it are the line's own keys and values."""
    length: int
    """Positions of the prompt."""
    runs: list[int]
    steps: list[Step]

    @property
    def width(self) -> int:
        """Positions that are computed."""
        return self.length - self.start


def depth_of(site: Site, layers: Sequence[str]) -> int | None:
    """The step at which a site is edited: 0 for the embedding, ``len(layers)`` for the head, None if it lies elsewhere."""
    count = len(layers)
    if site.is_raw:
        assert site.module is not None
        return next(
            (i for i, path in enumerate(layers) if site.module == path or site.module.startswith(f"{path}.")), None
        )
    if site.component == "embed":
        return 0
    if site.layer is None:
        return count
    return site.layer + (site.component == "resid_post")


def at_entry(site: Site) -> bool:
    """Whether a site is the residual stream between two layers, so that it is edited before a layer runs."""
    return not site.is_raw and site.component in ("resid_pre", "resid_post")


def build_steps(job: SweepTask, runs: Sequence[int], start: int) -> list[Step]:
    """The steps of a group of runs.

    Args:
        job: The sweep.
        runs: Indices into ``job.unique_cells``.
        start: First computed position.
    """
    layers = job.model.sites.layers
    by_depth = {run: _by_depth(job.unique_cells[run].actions, layers) for run in runs}
    base = {line: _by_depth(job.lines[line].base, layers) for line in {job.unique_cells[run].line for run in runs}}
    state: dict[int, int] = {}
    steps: list[Step] = []
    for depth in range(len(layers) + 1):
        row_by_key: dict[tuple[object, ...], int] = {}
        parents: list[tuple[str, int]] = []
        lines: list[int] = []
        entry: list[tuple[Action, ...]] = []
        inside: list[tuple[Action, ...]] = []
        row_of: dict[int, int] = {}
        for run in runs:
            actions = by_depth[run].get(depth, ())
            if run not in state and not actions:
                continue
            line = job.unique_cells[run].line
            embedded = [a for a in actions if a.site.component == "embed"]
            parent = (ROW, state[run]) if run in state else (EMBEDDED, run) if embedded else (CLEAN, line)
            identity = ("embedded", line) if embedded else parent
            key = (*identity, *(action.key for action in actions))
            if key not in row_by_key:
                row_by_key[key] = len(parents)
                shared = [a for a in base[line].get(depth, ()) if a.positions is None or max(a.positions) >= start]
                parents.append(parent)
                lines.append(line)
                entry.append(
                    tuple(
                        sorted(
                            (a for a in (*(shared if parent[0] == ROW else ()), *actions) if at_entry(a.site)),
                            key=_entry_order,
                        )
                    )
                )
                inside.append(
                    tuple(a for a in (*shared, *actions) if not at_entry(a.site) and a.site.component != "embed")
                )
            row_of[run] = row_by_key[key]
        steps.append(Step(tuple(parents), tuple(lines), tuple(entry), tuple(inside), row_of))
        state = dict(row_of)
    return steps


def _entry_order(action: Action) -> int:
    return 0 if action.site.component == "resid_post" else 1


def _by_depth(actions: Sequence[Action], layers: Sequence[str]) -> dict[int, tuple[Action, ...]]:
    by_depth: dict[int, tuple[Action, ...]] = {}
    for action in actions:
        depth = depth_of(action.site, layers)
        assert depth is not None, "the planner sends sites outside the layers to another strategy"
        by_depth[depth] = (*by_depth.get(depth, ()), action)
    return by_depth


def group_runs(job: SweepTask, share_positions: bool, runs: Iterable[int]) -> list[Group]:
    """Group some runs by prompt length and first edited position."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index in runs:
        run = job.unique_cells[index]
        length = job.lines[run.line].prompt.length
        assert length is not None
        firsts = [min(action.positions) for action in run.actions if action.positions]
        groups.setdefault((length, min(firsts, default=0) if share_positions else 0), []).append(index)
    return [
        Group(start, length, members, build_steps(job, members, start))
        for (length, start), members in sorted(groups.items())
    ]


def split(job: SweepTask, group: Group, most_rows: int) -> list[Group]:
    """Parts of a group with at most ``most_rows`` runs each (a row is never more than its runs)."""
    if len(group.runs) <= most_rows:
        return [group]
    ordered = sorted(group.runs, key=lambda run: (job.unique_cells[run].line, len(job.unique_cells[run].actions)))
    parts = [ordered[i : i + most_rows] for i in range(0, len(ordered), most_rows)]
    return [Group(group.start, group.length, part, build_steps(job, part, group.start)) for part in parts]
