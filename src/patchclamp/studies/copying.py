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
    result = model.lens([list(row) for row in rows], last, list(positions), k=1)
    return result.data["surprisal"].isel(layer=0).to_numpy()


def worth(
    model: pc.Model, passage: NamePassage, other: Sequence[int], *, draws: int = 20, seed: int = 0
) -> pd.DataFrame:
    """What replacing the earlier names costs each token of the last one, against replacing as many other tokens.

    Args:
        model: The model.
        passage: The passage.
        other: Tokens of the name that replaces.
        draws: How often other places are drawn for the control.
        seed: The other places are drawn with this seed.

    Returns:
        A row a token of the name: its surprisal, and how much more it has without the earlier names, without only the first,
        without only the one before, and with other tokens replaced (mean and largest over the draws), in nats.
    """
    size, earlier = len(passage.name), passage.starts[:-1]
    places = [(), earlier, earlier[:1], earlier[-1:], *_elsewhere(passage, draws, seed)]
    rows = [passage.put(other, starts, size) for starts in places]
    values = surprisals(model, rows, range(passage.last - 1, passage.last + size - 1))
    gains, control = values - values[0], (values - values[0])[4:]
    return pd.DataFrame(
        {
            "token": [model.output_label(token) for token in passage.name],
            "surprisal": values[0],
            "earlier names": gains[1],
            "the first alone": gains[2],
            "the one before alone": gains[3],
            "other tokens": control.mean(0),
            "other tokens, most": control.max(0),
        }
    )


def _elsewhere(passage: NamePassage, draws: int, seed: int) -> list[list[int]]:
    """Places for as many spans as there are earlier names, away from every name and from the last five tokens."""
    size, generator = len(passage.name), random.Random(seed)
    occupied = set(passage.positions())
    free = [i for i in range(1, passage.last - size - 5) if not occupied & set(range(i, i + size))]
    placements = []
    for _ in range(draws):
        starts: list[int] = []
        for _ in passage.starts[:-1]:
            candidates = [i for i in free if all(abs(i - j) >= size for j in starts)]
            if not candidates:
                raise pc.InputError(
                    f"{passage.label!r} is too short for a control: besides the names it has no room for as many other tokens"
                )
            starts.append(generator.choice(candidates))
        placements.append(starts)
    return placements


def worth_of(model: pc.Model, passage: NamePassage, other: Sequence[int], *, seed: int = 0) -> dict[str, Any]:
    """One passage in a line: the whole name's surprisal, and what earlier names and other tokens are worth to it."""
    table = worth(model, passage, other, draws=10, seed=seed)
    total = table[["surprisal", "earlier names", "other tokens"]].sum()
    numbers = {str(name): float(value) for name, value in total.items()}
    return {"passage": passage.label, "tokens": len(passage.name), "occurrences": len(passage.starts), **numbers}


def over_passages(table: pd.DataFrame) -> dict[str, Any]:
    """Means over passages with 95 % bootstrap intervals."""
    if table.empty:
        return {}
    means: dict[str, Any] = {"passages": len(table)}
    for name in ("earlier names", "other tokens"):
        values = table[name].to_numpy()
        low, high = bootstrap(values, seed=0)
        means[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return means


def summary_sentence(table: pd.DataFrame) -> str:
    """:func:`over_passages` in a sentence."""
    means = over_passages(table)
    if not means:
        return "No other passages were looked at."
    earlier, control = (
        f"{interval['mean']:.1f} [{interval['low']:.1f}, {interval['high']:.1f}]"
        for interval in (means["earlier names"], means["other tokens"])
    )
    return f"On {means['passages']} passages of novels with other names: {earlier} nats, other tokens {control}."


def heads_sentence(table: pd.DataFrame) -> str:
    """:func:`together` in a sentence."""
    rows = [row for row in table.to_dict("records") if row["heads"] in COUNTS]
    parts = []
    for row in rows:
        suffix = f", on held-out passages {row['held-out passages']:.2f}" if "held-out passages" in row else ""
        parts.append(f"{row['heads']} {row['share']:.2f}{suffix} (random heads {row['random heads']:.2f})")
    return f"The strongest heads together bring back of the log-odds: {'; '.join(parts)}."


def heads(model: pc.Model, passage: NamePassage, other: Sequence[int]) -> pd.DataFrame:
    """Every head by what its own output carries: taken from the clean run into one whose earlier names are replaced.

    The effect is on the log-odds of each token of the last name, at the position before it; shares are of the sum over
    tokens of what the replacement took away. Shares of single heads need not add up to one.
    """
    total, effects = 0.0, None
    for step in range(len(passage.name)):
        clean, without = passage.until(step), passage.put(other, passage.starts[:-1], step)
        read = pc.LogOdds(int(passage.name[step]))
        grid = model.patch([clean], [without], sites="z.*.h*", at=[-1], read=read)
        before = float(grid.baseline.squeeze())
        change = grid.data.squeeze(drop=True).transpose("layer", "head").to_numpy() - before
        effects = change if effects is None else effects + change
        total += _log_odds(model, clean, step, passage) - before
    assert effects is not None
    rows = [
        {"site": f"z.{layer}.h{head}", "layer": layer, "head": head, "share": float(effects[layer, head] / total)}
        for layer, head in np.ndindex(*effects.shape)
    ]
    return pd.DataFrame(rows).sort_values("share", ascending=False, ignore_index=True)


def _log_odds(model: pc.Model, ids: list[int], step: int, passage: NamePassage, edits: Sequence[pc.Edit] = ()) -> float:
    logits = model.run([ids], list(edits), logits="last").logits[0].double()
    logs = logits.log_softmax(-1)[passage.name[step]]
    return float(logs - torch.log1p(-logs.exp()))


def together(
    model: pc.Model,
    passage: NamePassage,
    other: Sequence[int],
    ranked: pd.DataFrame,
    held_out: Sequence[tuple[NamePassage, Sequence[int]]],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """The strongest heads patched at once, here and on passages that did not choose them, beside random heads.

    Args:
        model: The model.
        passage: The passage by which heads were ranked.
        other: Its other name.
        ranked: What :func:`heads` gave.
        held_out: Other passages with their other names.
        seed: The random heads are drawn with this seed.

    Returns:
        A row a count of heads: share of the log-odds that comes back, on the passage, on the held-out ones (mean), and with as
        many random heads on both.
    """
    sites, generator = list(ranked["site"]), random.Random(seed)
    counts = [count for count in COUNTS if count < len(sites)]
    sets: dict[tuple[str, int], list[list[str]]] = {}
    for count in counts:
        sets["strongest", count] = [sites[:count]]
        sets["random", count] = [generator.sample(sites, count) for _ in range(RANDOM_DRAWS)]
    sets["all", len(sites)] = [sites]
    shares = _shares(model, passage, other, sets)
    held_out_shares = [_shares(model, held, name, sets) for held, name in held_out]
    rows = []
    for count in (*counts, len(sites)):
        kind, chance = ("strongest", "random") if count < len(sites) else ("all", None)
        row: dict[str, Any] = {"heads": count, "share": shares[kind, count]}
        row["random heads"] = shares[chance, count] if chance else np.nan
        if held_out_shares:
            row["held-out passages"] = float(np.mean([held[kind, count] for held in held_out_shares]))
            row["random, held-out"] = (
                float(np.mean([held[chance, count] for held in held_out_shares])) if chance else np.nan
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _shares(
    model: pc.Model, passage: NamePassage, other: Sequence[int], sets: Mapping[tuple[str, int], Sequence[Sequence[str]]]
) -> dict[tuple[str, int], float]:
    """Share of the log-odds that comes back under each set of heads; the mean over several sets of one kind."""
    gains = dict.fromkeys(sets, 0.0)
    total = 0.0
    for step in range(len(passage.name)):
        clean, without = passage.until(step), passage.put(other, passage.starts[:-1], step)
        outputs = model.record([clean], "z", at=-1)["z"][:, 0]
        before = _log_odds(model, without, step, passage)
        total += _log_odds(model, clean, step, passage) - before
        for kind, head_sets in sets.items():
            values = [
                _log_odds(model, without, step, passage, [_put(outputs, site) for site in heads]) for heads in head_sets
            ]
            gains[kind] += float(np.mean(values)) - before
    return {kind: value / total for kind, value in gains.items()}


def _put(outputs: torch.Tensor, site: str) -> pc.Edit:
    """One head's output ``[layer, head, d_head]`` at the last position, as an edit."""
    _, layer, head = site.split(".")
    return pc.Patch(outputs[int(layer), int(head[1:])], site=site, at=-1)
