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
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.interrupts import guarded
from patchclamp.core.intervals import wilson
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance
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
        matrix_data = self._data_of(matrix)
        has_side = np.isfinite(matrix_data["coherence"].values).any((0, 2))
        return tuple(str(side) for side, present in zip(matrix_data["side"].values, has_side, strict=True) if present)

    def vector(self, matrix: str, direction: int, side: str) -> Tensor:
        """One direction, ``[d_model]``: for ``pc.Add``, ``pc.ProjectOut``, or a gate.

        Raises:
            InputError: There is no such matrix, direction or side.
        """
        check_choice(f"side of {matrix}", side, self.sides(matrix))
        count = len(self.passes(matrix, side))
        if not 0 <= direction < count:
            raise InputError(f"direction {direction} of {matrix} is outside the {count} that were decoded")
        vector = self._data_of(matrix)["vector"].sel(direction=direction, side=side)
        return torch.from_numpy(vector.values.copy())

    def passing(self) -> "pd.DataFrame":
        """For each matrix and side, the share of token lists that are more alike than 95 % of random ones.

        Random directions pass 5 % of the time. ``low`` and ``high`` bound the share (Wilson, 95 %).
        """
        import pandas as pd

        rows = []
        for matrix in self.matrices:
            for side in self.sides(matrix):
                passes = self.passes(matrix, side)
                low, high = wilson(int(passes.sum()), passes.size)
                share = {"lists": passes.size, "passing": float(passes.mean()), "low": low, "high": high}
                rows.append({"matrix": matrix, "side": side, **share})
        return pd.DataFrame(rows)

    def passes(self, matrix: str, side: str) -> Any:
        """Which token lists of one side are more alike than 95 % of random ones, a bool array ``[direction, sign]``.

        It has the directions that the matrix has, which may be fewer than those of others in the result.
        """
        side_data = self._data_of(matrix).sel(side=side)
        coherence = side_data["coherence"].values
        return coherence[np.isfinite(coherence).all(1)] > np.nanquantile(side_data["control_coherence"].values, LEVEL)

    def frame(self) -> "pd.DataFrame":
        """One row a matrix, direction, side and sign: the singular value, how alike the tokens are, and the tokens."""
        import pandas as pd

        rows = []
        for matrix in self.matrices:
            matrix_data = self._data_of(matrix)
            for side in self.sides(matrix):
                passes = self.passes(matrix, side)
                for direction, sign in np.ndindex(*passes.shape):
                    list_data = matrix_data.isel(direction=direction, sign=sign).sel(side=side)
                    row = {
                        "matrix": matrix,
                        "direction": direction,
                        "singular_value": float(matrix_data["singular_value"][direction]),
                    }
                    row |= {"side": side, "sign": SIGNS[sign], "coherence": float(list_data["coherence"])}
                    rows.append(
                        {**row, "passes": bool(passes[direction, sign]), "tokens": list(list_data["token"].values)}
                    )
        return pd.DataFrame(rows)

    def _data_of(self, matrix: str) -> "xr.Dataset":
        check_choice("matrix", matrix, self.matrices)
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
        faces: The faces: ``A`` alone, or ``A`` and ``B``, ``[d_model, width]`` each.

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
    """Draw Gaussian weights of the same shape and Frobenius norm as each face's, behind the same norms."""
    weights = []
    for face in faces:
        noise = torch.randn(face.parameter.shape, generator=generator, dtype=torch.float64).to(face.parameter.device)
        weights.append(face.fold(noise * (face.weight.norm() / noise.norm())))
    return weights


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
        directions: The number of singular directions to decode, strongest first.
        k: The number of tokens for each direction and sign.
        through: What reading sides are decoded through.
        draws: Random matrices of the same shape and norm, decoded in the same way.
        seed: The seed of the random matrices.
        progress: True for a bar, a function for events.

    Raises:
        SiteError: There is no such matrix in this model (experts, recurrent layers, normalised queries).
        ModelError: The model normalises the stream itself, or a projection lies before its unembedding.
    """
    model.look()
    if not model.takes_tokens:
        raise InputError(f"{type(model.module).__name__} reads no tokens, so its weights are not decoded to any")
    _check_numbers(model, directions, k, draws)
    matrix_list = find_matrices(model, matrices)
    if not matrix_list:
        raise InputError("no matrix was given, as in model.weight_lens('ov.5.h0')")
    writing, reading = Vocabulary.writing(model), Vocabulary.reading(model, through)
    vocabularies = {side: writing if side == "write" else reading for matrix in matrix_list for side in _sides(matrix)}
    with task("weights", len(matrix_list) * (1 + draws), "matrices", show=progress) as bar, guarded(torch.no_grad()):
        rows = []
        for matrix in matrix_list:
            rows.append(_Decoding.of(matrix, vocabularies, directions, k, draws, seed, bar.advance))
    record = provenance(model, [], matrices=[matrix.name for matrix in matrix_list])
    return WeightLens(_dataset(model, rows, list(vocabularies), directions, k), *record)


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
class _Decoding:
    """One matrix, and its random counterparts."""

    matrix: Matrix
    values: Tensor
    """The singular values, ``[rank]``."""
    control: Tensor
    """The spectra of the random matrices, ``[draw, rank]``, each scaled to the Frobenius norm of the matrix itself."""
    vectors: dict[str, Tensor]
    """The directions of each side, ``[direction, d_model]``."""
    ids: dict[str, Tensor]
    """The token ids of each side, ``[direction, sign, k]``."""
    scores: dict[str, Tensor]
    coherence: dict[str, Tensor]
    """The coherence of each side, ``[direction, sign]``."""
    chance: dict[str, Tensor]
    """The coherence of every list of the random matrices, by side."""

    @classmethod
    def of(
        cls,
        matrix: Matrix,
        vocabularies: dict[str, Vocabulary],
        directions: int,
        k: int,
        draws: int,
        seed: int,
        advance: Any,
    ) -> "_Decoding":
        """Decompose a matrix and as many random ones, and decode them in the same way."""
        values, vectors = decompose([face.fold(face.weight) for face in matrix.faces])
        advance(1)
        directions_by_side = dict(
            zip(_sides(matrix), (side[:directions].clone() for side in vectors), strict=True)
        )  # not the whole basis
        generator = torch.Generator().manual_seed(int(digest(seed, matrix.name), 16) % 2**63)
        spectra: list[Tensor] = []
        random_directions: dict[str, list[Tensor]] = {side: [] for side in directions_by_side}
        for _ in range(draws):
            spectrum, sides = decompose(random_like(matrix.faces, generator))
            spectra.append(spectrum * (values.norm() / spectrum.norm()))
            for side, rows in zip(directions_by_side, sides, strict=True):
                random_directions[side].append(rows[:directions].clone())
            advance(1)
        tops = {
            side: vocabularies[side].top(torch.cat([rows, *random_directions[side]]), k)
            for side, rows in directions_by_side.items()
        }
        coherence = {side: vocabularies[side].coherence(ids) for side, (ids, _) in tops.items()}
        return cls(
            matrix, values, torch.stack(spectra), directions_by_side,
            {side: tops[side][0][: len(rows)] for side, rows in directions_by_side.items()},
            {side: tops[side][1][: len(rows)] for side, rows in directions_by_side.items()},
            {side: coherence[side][: len(rows)] for side, rows in directions_by_side.items()},
            {side: coherence[side][len(rows) :].flatten() for side, rows in directions_by_side.items()},
        )  # fmt: skip


def _dataset(
    model: OpenModel, rows: Sequence[_Decoding], sides: Sequence[str], directions: int, k: int
) -> "xr.Dataset":
    import xarray as xr

    rank, count = max(len(row.values) for row in rows), len(rows)
    direction_count = min(directions, rank)
    width, draws = len(rows[0].matrix.faces[0].gain), len(rows[0].control)
    lists = draws * direction_count * 2
    variable_shapes = {
        "singular_value": (("matrix", "index"), (rank,)),
        "control": (("matrix", "draw", "index"), (draws, rank)),
        "coherence": (("matrix", "direction", "side", "sign"), (direction_count, len(sides), 2)),
        "control_coherence": (("matrix", "side", "list"), (len(sides), lists)),
        "score": (("matrix", "direction", "side", "sign", "top"), (direction_count, len(sides), 2, k)),
        "vector": (("matrix", "direction", "side", "d"), (direction_count, len(sides), width)),
    }
    arrays = {name: np.full((count, *shape), np.nan) for name, (_, shape) in variable_shapes.items()}
    ids = np.full((count, direction_count, len(sides), 2, k), -1)
    for number, row in enumerate(rows):
        arrays["singular_value"][number, : len(row.values)] = row.values.cpu()
        arrays["control"][number, :, : len(row.values)] = row.control.cpu()
        for side, vectors in row.vectors.items():
            side_index, vector_count = sides.index(side), len(vectors)
            arrays["vector"][number, :vector_count, side_index] = vectors.cpu()
            arrays["score"][number, :vector_count, side_index] = row.scores[side].cpu()
            arrays["coherence"][number, :vector_count, side_index] = row.coherence[side].cpu()
            arrays["control_coherence"][number, side_index, : len(row.chance[side])] = row.chance[side].cpu()
            ids[number, :vector_count, side_index] = row.ids[side].cpu()
    names = {int(i): model.output_label(int(i)) for i in np.unique(ids) if i >= 0}
    texts = np.array([names.get(int(i), "") for i in ids.flat], dtype=object).reshape(ids.shape)
    dims = variable_shapes["score"][0]
    variables = {name: (variable_dims, arrays[name]) for name, (variable_dims, _) in variable_shapes.items()}
    variables |= {"token_id": (dims, ids), "token": (dims, texts)}
    coords = {
        "matrix": np.array([row.matrix.name for row in rows], dtype=object), "direction": np.arange(direction_count),
        "side": np.array(sides, dtype=object), "sign": np.array(SIGNS, dtype=object),
    }  # fmt: skip
    return xr.Dataset(variables, coords)
