"""What earlier occurrences of a name are worth to a later one, and which heads carry it."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

import patchclamp as pc
from patchclamp.core.intervals import bootstrap
from patchclamp.studies.names import NamePassage

COUNTS = (1, 4, 16)
RANDOM_DRAWS = 2


def surprisals(model: pc.Model, rows: Sequence[Sequence[int]], positions: Sequence[int]) -> Any:
    """Surprisal of the token after each position, in nats, ``[row, position]``; read at the last layer, which is the model."""
    last = f"resid_post.{model.sites.n_layers - 1}"
    found = model.lens([list(row) for row in rows], last, list(positions), k=1)
    return found.data["surprisal"].isel(layer=0).to_numpy()


def worth(model: pc.Model, found: NamePassage, other: Sequence[int], *, draws: int = 20, seed: int = 0) -> pd.DataFrame:
    """What replacing the earlier names costs each token of the last one, against replacing as many other tokens.

    Args:
        model: The model.
        found: The passage.
        other: Tokens of the name that replaces.
        draws: How often other places are drawn for the control.
        seed: Of these.

    Returns:
        A row a token of the name: its surprisal, and how much more it has without the earlier names, without only the first,
        without only the one before, and with other tokens replaced (mean and largest over the draws), in nats.
    """
    size, earlier = len(found.name), found.starts[:-1]
    places = [(), earlier, earlier[:1], earlier[-1:], *_elsewhere(found, draws, seed)]
    rows = [found.put(other, starts, size) for starts in places]
    seen = surprisals(model, rows, range(found.last - 1, found.last + size - 1))
    more, control = seen - seen[0], (seen - seen[0])[4:]
    return pd.DataFrame(
        {
            "token": [model.output_label(token) for token in found.name],
            "surprisal": seen[0],
            "earlier names": more[1],
            "the first alone": more[2],
            "the one before alone": more[3],
            "other tokens": control.mean(0),
            "other tokens, most": control.max(0),
        }
    )


def _elsewhere(found: NamePassage, draws: int, seed: int) -> list[list[int]]:
    """Places for as many spans as there are earlier names, away from every name and from the last five tokens."""
    size, draw = len(found.name), random.Random(seed)
    taken = set(found.positions())
    free = [i for i in range(1, found.last - size - 5) if not taken & set(range(i, i + size))]
    several = []
    for _ in range(draws):
        chosen: list[int] = []
        for _ in found.starts[:-1]:
            left = [i for i in free if all(abs(i - j) >= size for j in chosen)]
            if not left:
                raise pc.InputError(
                    f"{found.label!r} is too short for a control: besides the names it has no room for as many other tokens"
                )
            chosen.append(draw.choice(left))
        several.append(chosen)
    return several


def worth_of(model: pc.Model, found: NamePassage, other: Sequence[int], *, seed: int = 0) -> dict[str, Any]:
    """One passage in a line: the whole name's surprisal, and what earlier names and other tokens are worth to it."""
    table = worth(model, found, other, draws=10, seed=seed)
    total = table[["surprisal", "earlier names", "other tokens"]].sum()
    numbers = {str(name): float(value) for name, value in total.items()}
    return {"passage": found.label, "tokens": len(found.name), "occurrences": len(found.starts), **numbers}


def over_passages(table: pd.DataFrame) -> dict[str, Any]:
    """Means over passages with 95 % bootstrap intervals."""
    if table.empty:
        return {}
    found: dict[str, Any] = {"passages": len(table)}
    for name in ("earlier names", "other tokens"):
        values = table[name].to_numpy()
        low, high = bootstrap(values, seed=0)
        found[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return found


def said(table: pd.DataFrame) -> str:
    """:func:`over_passages` in a sentence."""
    found = over_passages(table)
    if not found:
        return "No other passages were looked at."
    own, control = (
        f"{one['mean']:.1f} [{one['low']:.1f}, {one['high']:.1f}]"
        for one in (found["earlier names"], found["other tokens"])
    )
    return f"On {found['passages']} passages of novels with other names: {own} nats, other tokens {control}."


def said_of_heads(table: pd.DataFrame) -> str:
    """:func:`together` in a sentence."""
    rows = [row for row in table.to_dict("records") if row["heads"] in COUNTS]
    found = []
    for row in rows:
        held = f", on held-out passages {row['held-out passages']:.2f}" if "held-out passages" in row else ""
        found.append(f"{row['heads']} {row['share']:.2f}{held} (random heads {row['random heads']:.2f})")
    return f"The strongest heads together bring back of the log-odds: {'; '.join(found)}."


def heads(model: pc.Model, found: NamePassage, other: Sequence[int]) -> pd.DataFrame:
    """Every head by what its own output carries: taken from the clean run into one whose earlier names are replaced.

    The effect is on the log-odds of each token of the last name, at the position before it; shares are of the sum over
    tokens of what the replacement took away. Shares of single heads need not add up to one.
    """
    total, effects = 0.0, None
    for step in range(len(found.name)):
        clean, without = found.until(step), found.put(other, found.starts[:-1], step)
        read = pc.LogOdds(int(found.name[step]))
        grid = model.patch([clean], [without], sites="z.*.h*", at=[-1], read=read)
        before = float(grid.baseline.squeeze())
        moved = grid.data.squeeze(drop=True).transpose("layer", "head").to_numpy() - before
        effects = moved if effects is None else effects + moved
        total += _log_odds(model, clean, step, found) - before
    assert effects is not None
    rows = [
        {"site": f"z.{layer}.h{head}", "layer": layer, "head": head, "share": float(effects[layer, head] / total)}
        for layer, head in np.ndindex(*effects.shape)
    ]
    return pd.DataFrame(rows).sort_values("share", ascending=False, ignore_index=True)


def _log_odds(model: pc.Model, ids: list[int], step: int, found: NamePassage, edits: Sequence[pc.Edit] = ()) -> float:
    logits = model.run([ids], list(edits), logits="last").logits[0].double()
    logs = logits.log_softmax(-1)[found.name[step]]
    return float(logs - torch.log1p(-logs.exp()))


def together(
    model: pc.Model,
    found: NamePassage,
    other: Sequence[int],
    ranked: pd.DataFrame,
    held_out: Sequence[tuple[NamePassage, Sequence[int]]],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """The strongest heads patched at once, here and on passages that did not choose them, beside random heads.

    Args:
        model: The model.
        found: The passage by which heads were ranked.
        other: Its other name.
        ranked: What :func:`heads` gave.
        held_out: Other passages with their other names.
        seed: Of the random heads.

    Returns:
        A row a count of heads: share of the log-odds that comes back, on the passage, on the held-out ones (mean), and with as
        many random heads on both.
    """
    sites, draw = list(ranked["site"]), random.Random(seed)
    counts = [count for count in COUNTS if count < len(sites)]
    sets: dict[tuple[str, int], list[list[str]]] = {}
    for count in counts:
        sets["strongest", count] = [sites[:count]]
        sets["random", count] = [draw.sample(sites, count) for _ in range(RANDOM_DRAWS)]
    sets["all", len(sites)] = [sites]
    here = _shares(model, found, other, sets)
    there = [_shares(model, one, name, sets) for one, name in held_out]
    rows = []
    for count in (*counts, len(sites)):
        own, chance = ("strongest", "random") if count < len(sites) else ("all", None)
        row: dict[str, Any] = {"heads": count, "share": here[own, count]}
        row["random heads"] = here[chance, count] if chance else np.nan
        if there:
            row["held-out passages"] = float(np.mean([one[own, count] for one in there]))
            row["random, held-out"] = float(np.mean([one[chance, count] for one in there])) if chance else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _shares(
    model: pc.Model, found: NamePassage, other: Sequence[int], sets: Mapping[tuple[str, int], Sequence[Sequence[str]]]
) -> dict[tuple[str, int], float]:
    """Share of the log-odds that comes back under each set of heads; the mean over several sets of one kind."""
    gained = dict.fromkeys(sets, 0.0)
    total = 0.0
    for step in range(len(found.name)):
        clean, without = found.until(step), found.put(other, found.starts[:-1], step)
        outputs = model.record([clean], "z", at=-1)["z"][:, 0]
        before = _log_odds(model, without, step, found)
        total += _log_odds(model, clean, step, found) - before
        for kind, several in sets.items():
            values = [
                _log_odds(model, without, step, found, [_put(outputs, site) for site in chosen]) for chosen in several
            ]
            gained[kind] += float(np.mean(values)) - before
    return {kind: value / total for kind, value in gained.items()}


def _put(outputs: torch.Tensor, site: str) -> pc.Edit:
    """One head's output ``[layer, head, d_head]`` at the last position, as an edit."""
    _, layer, head = site.split(".")
    return pc.Patch(outputs[int(layer), int(head[1:])], site=site, at=-1)
