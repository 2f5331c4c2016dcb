"""Leaving out what a wide dictionary has too much of: atoms that are nearly equal, and atoms that are not used."""

import torch
from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array
from patchclamp.dictionaries.dictionary import BLOCK, Dictionary


@checked
def prune(
    dictionary: Dictionary, X: Array, *, duplicate: float = 0.95, firing: float = 0.0, strength: float = 0.0
) -> Dictionary:
    """Merge atoms that are nearly equal and drop those that rows do not use.

    Atoms are looked at from the most to the least active (by the sum of absolute codes times their lengths): each takes in the
    later ones whose cosine with it is above ``duplicate``, and becomes their mean, weighted by activity, at its own length.
    Weights that an encoder learned are those of the most active one of a group. A dictionary that was trained wide, to recover
    more, has a better precision after it. So many rows are needed that the rarest feature is active in several.

    Args:
        dictionary: Any dictionary; it stays as it is.
        X: Rows of activations ``[row, d]``, of the model's coordinates, numpy or torch.
        duplicate: The cosine above which two atoms are one; 1 merges none.
        firing: Atoms that are active in no more than this share of the rows are dropped.
        strength: Atoms are dropped whose mean contribution where they are active (absolute code times length) is below this
            share of the median atom's: those that only fill what the others leave. It costs recall where features differ in size.

    Returns:
        The smaller dictionary; its card says under ``pruned`` how many atoms there were, were merged, and were dropped.

    Raises:
        InputError: Rows of another width, not finite or none; shares outside 0..1; or nothing is left.
    """
    if not 0 < duplicate <= 1 or not 0 <= firing < 1 or not 0 <= strength < 1:
        raise InputError(
            "duplicate is above 0 and up to 1, firing and strength at least 0 and below 1; got "
            f"duplicate={duplicate}, firing={firing}, strength={strength}"
        )
    stream = ActivationStream.from_array(X, batch_size=BLOCK, shuffle=False)
    lengths = dictionary.atoms.norm(dim=1)
    firings = torch.zeros(dictionary.width, dtype=torch.int64, device=lengths.device)
    activity, count = torch.zeros_like(lengths, dtype=torch.float64), 0
    with torch.no_grad():
        for batch in stream:
            codes = dictionary.codes(batch.rows.to(dictionary.atoms))
            firings += codes.firings()
            activity = activity.index_add(0, codes.latents, codes.values.abs().double())
            count += len(batch.rows)
    activity = activity * lengths
    used = (firings > firing * count) & (lengths > 0)
    if not bool(used.any()):
        raise InputError(f"no atom is active in more than {firing:.3g} of these {count} rows: nothing would be left")
    means = activity / firings.clamp_min(1)
    used = used & (means >= strength * means[used].median())
    leaders, atoms = _merged(dictionary.atoms, activity, used, duplicate)
    pruned = {"width": dictionary.width, "merged": int(used.sum()) - len(leaders), "dropped": int((~used).sum())}
    return Dictionary(
        atoms,
        dictionary.encoder,
        bias=dictionary.bias,
        weights={name: value[leaders] if value.ndim else value for name, value in dictionary.weights.items()},
        scaling=dictionary.scaling,
        card={**dictionary.card, "pruned": pruned},
    )


def _merged(atoms: Tensor, activity: Tensor, used: Tensor, duplicate: float) -> tuple[Tensor, Tensor]:
    """The most active atom of each group, in their order in the dictionary, and what the groups become."""
    lengths = atoms.norm(dim=1, keepdim=True)
    directions = atoms / lengths.clamp_min(torch.finfo(atoms.dtype).tiny)
    free, merged = used.clone(), {}
    for j in torch.argsort(activity, descending=True, stable=True).tolist():
        if not bool(free[j]):
            continue
        group = free & (directions @ directions[j] > duplicate)
        group[j] = True
        free &= ~group
        weights = activity[group].to(atoms.dtype)
        mean = weights @ directions[group] if float(weights.sum()) > 0 else directions[j]
        merged[j] = lengths[j] * torch.nn.functional.normalize(mean, dim=0) if int(group.sum()) > 1 else atoms[j]
    leaders = sorted(merged)
    return torch.tensor(leaders, device=atoms.device), torch.stack([merged[j] for j in leaders])
