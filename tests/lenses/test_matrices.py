"""A folded matrix is what the model itself does between two states, in every family."""

import pytest
import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.interventions.recording import record
from patchclamp.lenses import matrices
from patchclamp.lenses.matrices import Face, Matrix, Side, find_matrices
from tests import tiny
from tests.lenses.families import SUMS, TELLING, opened, parametrised

NORMED_QUERIES = ("qwen3", "gemma3", "olmo2")
GATED = ("llama", "gemma2", "olmo2", "granite", "cohere", "stablelm")
SHORT = (*TELLING, "glm4")


def odd(model: pc.Model, site: str, x: Tensor, *seen: str) -> list[Tensor]:
    """What is odd in ``x`` of some activations, when ``x`` is put at a site of a prompt of one token: biases cancel."""
    plus, minus = (model.record([[7]], list(seen), edits=pc.Patch(y, site=site, at=0)) for y in (x, -x))
    return [((plus[name] - minus[name]) / 2).flatten() for name in seen]


def along(found: Tensor, wanted: Tensor) -> float:
    return float(torch.cosine_similarity(found, wanted, dim=0))


def without_biases(name: str) -> pc.Model:
    """A norm after a projection is odd in its weights only where there is no bias."""
    module = tiny.build(name)
    with torch.no_grad():
        for path, parameter in module.named_parameters():
            if path.endswith("_proj.bias"):
                parameter.zero_()
    return pc.wrap(module)


def whole(matrix: Matrix) -> Tensor:
    faces = [face.fold(face.weight) for face in matrix.faces]
    return faces[0] @ faces[1].T if len(faces) == 2 else faces[0]


def vector(width: int, seed: int) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stream(model: pc.Model) -> str:
    return "resid_pre.1" if ("resid_mid", 1) in model.sites.refused else "resid_mid.1"


@pytest.mark.parametrize("name", parametrised(SUMS, SHORT))
def test_ov_is_what_attention_does_with_a_token_that_sees_itself_alone(name: str) -> None:
    model = without_biases(name) if name == "glm4" else opened(name)
    x = vector(32, 0)
    (found,) = odd(model, "resid_pre.1", x, "attn_out.1")
    folded = find_matrices(model, "ov.1.h*")
    assert [matrix.name for matrix in folded] == [f"ov.1.h{h}" for h in range(4)]
    before = folded[0].faces[1].gain
    heads = torch.stack([x @ whole(matrix) for matrix in folded])
    assert along(found, heads.sum(0)) == pytest.approx(1.0, abs=1e-6)
    unfolded = sum((x @ m.faces[0].weight) @ m.faces[1].weight.T for m in folded)
    moves = not torch.equal(folded[0].faces[0].gain, torch.ones(32)) or len(before.unique()) > 1
    assert (along(found, unfolded) > 1 - 1e-6) is not moves, "without the norms it is another matrix"


@pytest.mark.parametrize("name", parametrised(SUMS, SHORT))
def test_qk_is_the_product_of_query_and_key(name: str) -> None:
    model = opened(name)
    if name in NORMED_QUERIES:
        with pytest.raises(pc.SiteError, match=r"qk\.1: .* normalises queries and keys"):
            find_matrices(model, "qk.1.h0")
        return
    x, y = vector(32, 0), vector(32, 1)
    queries, keys = odd(model, "resid_pre.1", x, "q.1")[0], odd(model, "resid_pre.1", y, "k.1")[0]
    queries = queries.unflatten(0, (4, -1))
    keys = keys.unflatten(0, (-1, queries.shape[1])).repeat_interleave(4 // (len(keys) // queries.shape[1]), 0)
    scores = (queries * keys).sum(1)
    folded = torch.stack([x @ whole(matrix) @ y for matrix in find_matrices(model, "qk.1.h*")])
    assert along(scores, folded) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", parametrised(SUMS, SHORT))
def test_mlp_matrices_are_what_the_neurons_read_and_write(name: str) -> None:
    model, x = opened(name), vector(32, 0)
    (read,), (wrote,) = (find_matrices(model, f"{kind}.1") for kind in ("mlp_pre", "mlp_out"))
    (found,) = odd(model, stream(model), x, "mlp_pre.1")
    assert along(found, x @ whole(read)) == pytest.approx(1.0, abs=1e-6)
    neurons = vector(wrote.faces[0].weight.shape[1], 2)
    (added,) = odd(model, "mlp_act.1", neurons, "mlp_out.1")
    wanted = whole(wrote) @ neurons
    assert along(added, wanted) == pytest.approx(1.0, abs=1e-6)
    if name not in ("gemma2", "gemma3", "olmo2", "glm4"):
        assert torch.allclose(added, wanted, rtol=1e-9), (
            "no norm follows, so the size is right too: multipliers included"
        )


@pytest.mark.parametrize("name", parametrised(GATED, ("llama", "gemma2")))
def test_the_other_projection_of_a_gated_mlp(name: str) -> None:
    model, x = opened(name), vector(32, 0)
    (matrix,) = find_matrices(model, "mlp_up.1")
    mlp = model.module.model.layers[1].mlp
    runs = [
        model.record([[7]], ["mlp_act.1", "mlp_pre.1"], edits=pc.Patch(y, site=stream(model), at=0)) for y in (x, -x)
    ]
    with torch.no_grad():
        ups = [run["mlp_act.1"] / mlp.act_fn(run["mlp_pre.1"]) for run in runs]
    assert along(((ups[0] - ups[1]) / 2).flatten(), x @ whole(matrix)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("side", ["read", "write"])
@pytest.mark.parametrize("centred", [True, False])
def test_a_face_is_folded_as_its_norm_would(side: Side, centred: bool) -> None:
    """At a scale of one a norm is linear: its gain times what it reads, less the mean where it is centred."""
    gain, held, x = vector(6, 0), vector(24, 1).unflatten(0, (6, 4)), vector(6, 2)
    centre = torch.eye(6, dtype=torch.float64) - (torch.full((6, 6), 1 / 6, dtype=torch.float64) if centred else 0)
    norm = gain[:, None] * centre
    found = Face(side, held, gain, centred).fold(held)
    if side == "read":
        assert torch.allclose(x @ found, (norm @ x) @ held, rtol=1e-12)
    else:
        assert torch.allclose(found, norm @ held, rtol=1e-12)


def test_matrices_are_views_and_each_norm_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened("llama", torch.float32)
    probed: list[str] = []
    monkeypatch.setattr(matrices, "record", lambda *args: probed.append(args[2][1]) or record(*args))
    found = find_matrices(model, ["ov.*.h*", "qk.*.h*", "mlp_pre", "mlp_up", "mlp_out"])
    assert sorted(probed) == [f"{site}.{layer}" for site in ("attn_in", "mlp_in") for layer in range(3)]
    own = {parameter.untyped_storage().data_ptr() for parameter in model.module.parameters()}
    assert len(found) == 3 * (4 + 4 + 3)
    for face in (face for matrix in found for face in matrix.faces):
        assert face.parameter.untyped_storage().data_ptr() in own, "whole models are decoded without a copy of them"
        assert face.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "matrix", "message"),
    [
        ("llama", "vo.1.h0", "unknown matrix 'vo.1.h0'.*Valid: ov, qk, mlp_pre, mlp_up, mlp_out"),
        ("llama", "mlp_in.1", "unknown matrix 'mlp_in.1'"),
        ("llama", "ov.1", r"each head has its own ov matrix; write ov\.1\.h0"),
        ("llama", "ov.1.n3", "each head has its own ov matrix"),
        ("llama", "ov.9.h0", r"ov\.9\.h0: layer 9"),
        ("llama", "qk.1.h4", r"qk\.1\.h4: .*head 4 is outside 0\.\.3"),
        ("llama", "mlp_out.1.n3", "mlp_out is one matrix of a layer"),
        ("gpt2", "mlp_up.1", "has no separate up-projection"),
        ("mixtral", "mlp_out.1", "routes each token to a few experts"),
        ("mamba", "ov.1.h0", "Mamba's layers are one recurrent mixer"),
    ],
)
def test_what_is_no_matrix_is_refused(name: str, matrix: str, message: str) -> None:
    with pytest.raises(pc.SiteError, match=message):
        find_matrices(opened(name, torch.float32 if name == "mixtral" else torch.float64), matrix)


def test_a_stream_that_is_normalised_itself_is_refused() -> None:
    for name in ("opt_post_norm", "bert"):
        with pytest.raises(pc.ModelError, match="normalises the stream itself"):
            find_matrices(opened(name), "mlp_out.1")
