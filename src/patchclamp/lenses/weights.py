"""The weight lens: singular vectors of weight matrices as tokens, beside those of random matrices.

Source: Millidge and Black 2022, "The Singular Value Decompositions of Transformer Weight Matrices are Highly Interpretable".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.interrupts import guarded
from patchclamp.core.intervals import wilson
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions.provenance import provenance
from patchclamp.lenses.matrices import Face, Matrix, find_matrices
from patchclamp.lenses.vocabulary import Through, Vocabulary
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

LEVEL = 0.95
"""A list of tokens passes if it is more alike than this share of the random matrices' lists."""
SIGNS = ("+", "-")


@dataclass(eq=False)
class WeightLens(DatasetResult):
    """Singular directions of weight matrices, decoded to tokens, with a random-matrix control.

    ``data`` is a Dataset. ``singular_value [matrix, index]`` is the whole spectrum and ``control [matrix, draw, index]`` that
    of random matrices; ``token``, ``token_id``, ``score [matrix, direction, side, sign, top]`` are the tokens of the first
    directions; ``coherence [matrix, direction, side, sign]`` says how alike the tokens of one list are, and
    ``control_coherence [matrix, side, list]`` how alike those of random matrices are; ``vector [matrix, direction, side, d]``
    are the directions, of unit length in the residual stream. What a matrix lacks is NaN (or '').
    """

    kind: ClassVar[str] = "weight_lens"
    drawn_by: ClassVar[str] = "weights"
    shown_by: ClassVar[str] = "weights"

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the matrices."""
        return tuple(str(name) for name in self.dataset["matrix"].values)

    def sides(self, matrix: str) -> tuple[str, ...]:
        """The sides of a matrix that face the residual stream."""
        one = self._one(matrix)
        held = np.isfinite(one["coherence"].values).any((0, 2))
        return tuple(str(side) for side, has in zip(one["side"].values, held, strict=True) if has)

    def vector(self, matrix: str, direction: int, side: str) -> Tensor:
        """One direction, ``[d_model]``: for ``pc.Add``, ``pc.ProjectOut``, or a gate.

        Raises:
            InputError: There is no such matrix, direction or side.
        """
        if side not in self.sides(matrix):
            raise InputError(unknown(f"side of {matrix}", side, self.sides(matrix)))
        decoded = len(self.passes(matrix, side))
        if not 0 <= direction < decoded:
            raise InputError(f"direction {direction} of {matrix} is outside the {decoded} that were decoded")
        found = self._one(matrix)["vector"].sel(direction=direction, side=side)
        return torch.from_numpy(found.values.copy())

    def passing(self) -> "pd.DataFrame":
        """For each matrix and side, the share of token lists that are more alike than 95 % of random ones.

        Random directions pass 5 % of the time. ``low`` and ``high`` bound the share (Wilson, 95 %).
        """
        import pandas as pd

        rows = []
        for matrix in self.matrices:
            for side in self.sides(matrix):
                passed = self.passes(matrix, side)
                low, high = wilson(int(passed.sum()), passed.size)
                share = {"lists": passed.size, "passing": float(passed.mean()), "low": low, "high": high}
                rows.append({"matrix": matrix, "side": side, **share})
        return pd.DataFrame(rows)

    def passes(self, matrix: str, side: str) -> Any:
        """Which token lists of one side are more alike than 95 % of random ones, a bool array ``[direction, sign]``.

        It has the directions that the matrix has, which may be fewer than those of others in the result.
        """
        one = self._one(matrix).sel(side=side)
        alike = one["coherence"].values
        return alike[np.isfinite(alike).all(1)] > np.nanquantile(one["control_coherence"].values, LEVEL)

    def frame(self) -> "pd.DataFrame":
        """One row a matrix, direction, side and sign: the singular value, how alike the tokens are, and the tokens."""
        import pandas as pd

        rows = []
        for matrix in self.matrices:
            one = self._one(matrix)
            for side in self.sides(matrix):
                passed = self.passes(matrix, side)
                for direction, sign in np.ndindex(*passed.shape):
                    here = one.isel(direction=direction, sign=sign).sel(side=side)
                    row = {
                        "matrix": matrix,
                        "direction": direction,
                        "singular_value": float(one["singular_value"][direction]),
                    }
                    row |= {"side": side, "sign": SIGNS[sign], "coherence": float(here["coherence"])}
                    rows.append({**row, "passes": bool(passed[direction, sign]), "tokens": list(here["token"].values)})
        return pd.DataFrame(rows)

    def _one(self, matrix: str) -> "xr.Dataset":
        if matrix not in self.matrices:
            raise InputError(unknown("matrix", matrix, self.matrices))
        return self.dataset.sel(matrix=matrix)

    def __repr__(self) -> str:
        lines = [
            f"{row['matrix']:<12} {row['side']:<6} {row['passing']:.0%} of {row['lists']} token lists pass "
            f"({row['low']:.0%} to {row['high']:.0%}; random: 5%)"
            for row in self.passing().to_dict("records")
        ]
        return "\n".join(["Weight lens", *lines])


def decompose(faces: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Singular values, and the singular vectors on the side of each face.

    A product of two thin faces is never multiplied out: with ``A = Qa Ra`` and ``B = Qb Rb`` the singular vectors of
    ``A B^T`` are ``Qa`` and ``Qb`` times those of the small ``Ra Rb^T``. The entry of largest size of the first side's
    vector is positive.

    Args:
        faces: ``A`` alone, or ``A`` and ``B``, ``[d_model, width]`` each.

    Returns:
        ``[rank]``, and for each face ``[rank, d_model]``, of unit length.
    """
    if len(faces) == 1:
        left, values, _ = torch.linalg.svd(faces[0], full_matrices=False)
        sides = [left]
    else:
        (qa, ra), (qb, rb) = (torch.linalg.qr(face) for face in faces)
        left, values, right = torch.linalg.svd(ra @ rb.T)
        sides = [qa @ left, qb @ right.T]
    largest = sides[0].abs().argmax(0)
    signs = sides[0].gather(0, largest[None])[0].sign()
    return values, tuple((side * signs).T.contiguous() for side in sides)


def random_like(faces: Sequence[Face], generator: torch.Generator) -> list[Tensor]:
    """Gaussian weights of the same shape and Frobenius norm as each face's, behind the same norms."""
    found = []
    for face in faces:
        drawn = torch.randn(face.held.shape, generator=generator, dtype=torch.float64).to(face.held.device)
        found.append(face.folded(drawn * (face.weight.norm() / drawn.norm())))
    return found


@recorded
def weight_lens(
    model: OpenModel,
    matrices: str | Sequence[str],
    *,
    directions: int = 10,
    k: int = 10,
    through: Through = "embedding",
    draws: Repeats = 20,
    seed: Seed = 0,
    progress: bool | Listener | None = None,
) -> WeightLens:
    """The weight lens: singular vectors of weight matrices as tokens, beside those of random matrices.

    The norm's gain is folded in on each side that has one. What a direction reads is decoded through the embedding,
    what it writes through the final norm's gain and the unembedding.

    Source: Millidge and Black 2022; the control is ours.

    Args:
        model: The model.
        matrices: ``"ov.23.h4"``, ``"qk.5.h*"``, ``"mlp_pre.5"``, ``"mlp_up.5"``, ``"mlp_out.0-3"``, or a list of them.
        directions: How many singular directions to decode, strongest first.
        k: Tokens for each direction and sign.
        through: What reading sides are decoded through.
        draws: Random matrices of the same shape and norm, decoded in the same way.
        seed: Of the random matrices.
        progress: True for a bar, a function for events.

    Raises:
        SiteError: There is no such matrix in this model (experts, recurrent layers, normalised queries).
        ModelError: The model normalises the stream itself, or a projection lies before its unembedding.
    """
    model.look()
    if not model.takes_tokens:
        raise InputError(f"{type(model.module).__name__} reads no tokens, so its weights are not decoded to any")
    _check_numbers(model, directions, k, draws)
    found = find_matrices(model, matrices)
    if not found:
        raise InputError("no matrix was given, as in model.weight_lens('ov.5.h0')")
    writing, reading = Vocabulary.writing(model), Vocabulary.reading(model, through)
    books = {side: writing if side == "write" else reading for matrix in found for side in _sides(matrix)}
    with task("weights", len(found) * (1 + draws), "matrices", show=progress) as bar, guarded(torch.no_grad()):
        rows = []
        for matrix in found:
            rows.append(_Decoded.of(matrix, books, directions, k, draws, seed, bar.advance))
    record = provenance(model, [], matrices=[matrix.name for matrix in found])
    return WeightLens(_labelled(model, rows, list(books), directions, k), *record)


def _check_numbers(model: OpenModel, directions: int, k: int, draws: int) -> None:
    tokens = min(model.outputs, model.vocabulary or model.outputs)
    width = model.sites.width(Site("resid_post", 0)) or directions
    bounds = {"k": (k, 2, tokens), "directions": (directions, 1, width), "draws": (draws, 1, 10**4)}
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise InputError(f"{name}={value} is outside {low}..{high}")


def _sides(matrix: Matrix) -> tuple[str, ...]:
    return tuple(face.side for face in matrix.faces)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """One matrix, and its random counterparts."""

    matrix: Matrix
    values: Tensor
    """``[rank]``."""
    control: Tensor
    """``[draw, rank]``, each scaled to the Frobenius norm of the matrix itself."""
    vectors: dict[str, Tensor]
    """By side ``[direction, d_model]``."""
    ids: dict[str, Tensor]
    """By side ``[direction, sign, k]``."""
    scores: dict[str, Tensor]
    coherence: dict[str, Tensor]
    """By side ``[direction, sign]``."""
    chance: dict[str, Tensor]
    """By side: the coherence of every list of the random matrices."""

    @classmethod
    def of(
        cls, matrix: Matrix, books: dict[str, Vocabulary], directions: int, k: int, draws: int, seed: int, advance: Any
    ) -> "_Decoded":
        """Decompose a matrix and as many random ones, and decode them in the same way."""
        values, vectors = decompose([face.folded(face.weight) for face in matrix.faces])
        advance(1)
        own = dict(
            zip(_sides(matrix), (side[:directions].clone() for side in vectors), strict=True)
        )  # not the whole basis
        generator = torch.Generator().manual_seed(int(digest(seed, matrix.name), 16) % 2**63)
        spectra: list[Tensor] = []
        random: dict[str, list[Tensor]] = {side: [] for side in own}
        for _ in range(draws):
            drawn, sides = decompose(random_like(matrix.faces, generator))
            spectra.append(drawn * (values.norm() / drawn.norm()))
            for side, rows in zip(own, sides, strict=True):
                random[side].append(rows[:directions].clone())
            advance(1)
        tops = {side: books[side].top(torch.cat([rows, *random[side]]), k) for side, rows in own.items()}
        alike = {side: books[side].coherence(ids) for side, (ids, _) in tops.items()}
        return cls(
            matrix, values, torch.stack(spectra), own,
            {side: tops[side][0][: len(rows)] for side, rows in own.items()},
            {side: tops[side][1][: len(rows)] for side, rows in own.items()},
            {side: alike[side][: len(rows)] for side, rows in own.items()},
            {side: alike[side][len(rows) :].flatten() for side, rows in own.items()},
        )  # fmt: skip


def _labelled(
    model: OpenModel, rows: Sequence[_Decoded], sides: Sequence[str], directions: int, k: int
) -> "xr.Dataset":
    import xarray as xr

    rank, count = max(len(row.values) for row in rows), len(rows)
    kept = min(directions, rank)
    width, draws = len(rows[0].matrix.faces[0].gain), len(rows[0].control)
    lists = draws * kept * 2
    empty = {
        "singular_value": (("matrix", "index"), (rank,)),
        "control": (("matrix", "draw", "index"), (draws, rank)),
        "coherence": (("matrix", "direction", "side", "sign"), (kept, len(sides), 2)),
        "control_coherence": (("matrix", "side", "list"), (len(sides), lists)),
        "score": (("matrix", "direction", "side", "sign", "top"), (kept, len(sides), 2, k)),
        "vector": (("matrix", "direction", "side", "d"), (kept, len(sides), width)),
    }
    arrays = {name: np.full((count, *shape), np.nan) for name, (_, shape) in empty.items()}
    ids = np.full((count, kept, len(sides), 2, k), -1)
    for number, row in enumerate(rows):
        arrays["singular_value"][number, : len(row.values)] = row.values.cpu()
        arrays["control"][number, :, : len(row.values)] = row.control.cpu()
        for side, found in row.vectors.items():
            place, held = sides.index(side), len(found)
            arrays["vector"][number, :held, place] = found.cpu()
            arrays["score"][number, :held, place] = row.scores[side].cpu()
            arrays["coherence"][number, :held, place] = row.coherence[side].cpu()
            arrays["control_coherence"][number, place, : len(row.chance[side])] = row.chance[side].cpu()
            ids[number, :held, place] = row.ids[side].cpu()
    names = {int(i): model.output_label(int(i)) for i in np.unique(ids) if i >= 0}
    texts = np.array([names.get(int(i), "") for i in ids.flat], dtype=object).reshape(ids.shape)
    dims = empty["score"][0]
    variables = {name: (where, arrays[name]) for name, (where, _) in empty.items()}
    variables |= {"token_id": (dims, ids), "token": (dims, texts)}
    coords = {
        "matrix": np.array([row.matrix.name for row in rows], dtype=object), "direction": np.arange(kept),
        "side": np.array(sides, dtype=object), "sign": np.array(SIGNS, dtype=object),
    }  # fmt: skip
    return xr.Dataset(variables, coords)
