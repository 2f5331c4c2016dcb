import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import patchclamp as pc
from patchclamp.lenses import weights
from patchclamp.lenses.logit import LogitLens
from patchclamp.lenses.matrices import find_matrices
from patchclamp.lenses.vocabulary import Vocabulary, _check_width
from patchclamp.lenses.weights import _Decoding, decompose, random_like
from tests import tiny
from tests.lenses.families import opened, parametrised


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 10**6))
def test_the_thin_decomposition_is_that_of_the_product(d: int, width: int, seed: int) -> None:
    a, b = normal(d, width, seed=seed), normal(d, width, seed=seed + 1)
    values, (left, right) = decompose([a, b])
    assert np.allclose(values, np.linalg.svd((a @ b.T).numpy(), compute_uv=False)[: len(values)], atol=1e-10)
    assert torch.allclose((left.T * values) @ right, a @ b.T, atol=1e-10), "it puts the product together again"
    for side in (left, right):
        assert torch.allclose(side @ side.T, torch.eye(len(values), dtype=torch.float64), atol=1e-10)
    assert bool((left.gather(1, left.abs().argmax(1, keepdim=True)) > 0).all()), "the sign is fixed"


@given(st.integers(2, 12), st.integers(1, 20), st.integers(0, 10**6))
def test_one_face_alone(d: int, width: int, seed: int) -> None:
    a = normal(d, width, seed=seed)
    values, (left,) = decompose([a])
    assert torch.allclose((left.T * values**2) @ left, a @ a.T, atol=1e-9)


def test_the_basis_inside_a_head_does_not_matter(llama: pc.Model) -> None:
    (matrix,) = find_matrices(llama, "ov.1.h3")
    faces = [face.fold(face.weight) for face in matrix.faces]
    basis = torch.linalg.qr(normal(8, 8))[0]
    plain, turned = decompose(faces), decompose([face @ basis for face in faces])
    assert torch.allclose(plain[0], turned[0], rtol=1e-10)
    assert all(torch.allclose(x, y, atol=1e-8) for x, y in zip(plain[1], turned[1], strict=True))
    uneven = decompose([face @ torch.diag(torch.arange(1.0, 9).double()) for face in faces])
    assert not torch.allclose(plain[0], uneven[0], rtol=0.1), "only rotations are free"


def test_random_matrices_have_the_same_norm_and_stand_behind_the_same_gain(llama: pc.Model) -> None:
    (matrix,) = find_matrices(llama, "mlp_pre.1")
    (face,) = matrix.faces
    (drawn,) = random_like(matrix.faces, torch.Generator().manual_seed(3))
    raw = drawn / face.gain[:, None]
    assert torch.allclose(raw.norm(), face.weight.norm())
    assert abs(float(torch.corrcoef(torch.stack([raw.flatten(), face.weight.flatten()]))[0, 1])) < 0.1


@pytest.mark.parametrize(
    "name",
    parametrised(["llama", "gpt2", "gemma2", "gpt_neox", "cohere", "falcon", "phi"], ("llama", "gpt2", "gemma2")),
)
def test_a_written_direction_is_decoded_as_the_model_would(name: str) -> None:
    """The model's own head on a state v and on -v: what is odd in v is the score of each token, up to one factor."""
    model = opened(name)
    v = normal(3, 32)
    lens = LogitLens(model)
    logits = (lens.logits(v) - lens.logits(-v)) / 2
    if name == "gemma2":
        cap = model.config.final_logit_softcapping
        logits = cap * torch.atanh(lens.logits(v) / cap)
    ids, scores = Vocabulary.writing(model).top(v, 5)
    best = logits.topk(5)
    assert torch.equal(ids[:, 0], best.indices)
    assert torch.equal(ids[:, 1], (-logits).topk(5).indices)
    ratio = scores[:, 0] / best.values
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 10, 97, 8192])
def test_blocks_of_the_vocabulary_change_nothing(llama: pc.Model, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("patchclamp.lenses.vocabulary._BLOCK_ROWS", rows)
    table = llama.weight("embed").detach()
    unit = table / table.pow(2).mean(1, keepdim=True).sqrt().clamp(min=1e-12)
    found = Vocabulary.reading(llama, "embedding")
    v = normal(4, 32)
    ids, scores = found.top(v, 7)
    wanted = (v @ unit.T).topk(7)
    assert torch.equal(ids[:, 0], wanted.indices)
    assert torch.allclose(scores[:, 0], wanted.values)
    mean, whiten = unit.mean(0), np.linalg.inv(np.linalg.cholesky(np.cov(unit.T.numpy(), bias=True)))
    white = (unit - mean) @ torch.from_numpy(whiten).T  # another square root: cosines do not depend on which
    for place, list_of in np.ndenumerate(found.coherence(ids).numpy()):
        one = torch.nn.functional.normalize(white[ids[place]], dim=1)
        pairs = (one @ one.T)[~torch.eye(7, dtype=torch.bool)]
        assert list_of == pytest.approx(float(pairs.mean()), abs=1e-9)


def test_directions_that_no_token_uses_do_not_count() -> None:
    """Tokens in a plane of a larger space are as alike as the same tokens in a space of their own."""
    flat = normal(20, 3)
    basis = torch.linalg.qr(normal(6, 3, seed=1))[0]
    ones = torch.ones(6, dtype=torch.float64)
    ids = torch.tensor([[0, 1, 2], [5, 9, 13]])
    inside = Vocabulary(flat, ones[:3], False, False).coherence(ids)
    assert torch.allclose(Vocabulary(flat @ basis.T, ones, False, False).coherence(ids), inside, atol=1e-9)
    nearly = flat @ basis.T + 1e-6 * normal(20, 6, seed=2)
    assert torch.allclose(Vocabulary(nearly, ones, False, False).coherence(ids), inside, atol=1e-3)


def test_a_table_of_another_width_than_the_stream_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.ModelError, match="the embedding of LlamaForCausalLM is 31 wide and the stream 32"):
        _check_width(llama, torch.zeros(97, 31), "embedding")


def test_the_control_follows_the_seed_and_the_matrix(llama: pc.Model) -> None:
    def control(seed: int, names: list[str]) -> list[np.ndarray]:
        found = llama.weight_lens(names, directions=2, k=2, draws=3, seed=seed).data
        size = (found["singular_value"] ** 2).sum("index")
        assert np.allclose((found["control"] ** 2).sum("index").T, size), "spectra of one size"
        assert found["control_coherence"].sizes["list"] == 3 * 2 * 2
        return [(found["control"].sel(matrix=name) / np.sqrt(size.sel(matrix=name))).values for name in names]

    both = ["ov.1.h2", "ov.1.h3"]
    first, again, other = control(0, both), control(0, both[1:]), control(1, both)
    assert np.array_equal(first[1], again[0]), "it does not depend on its company"
    assert abs(first[1] - other[1]).max() > 1e-3
    assert abs(first[0] - first[1]).max() > 1e-3, "each matrix has draws of its own"
    assert abs(first[0][0] - first[0][1]).max() > 1e-3


def test_the_unembedding_can_be_read_through(llama: pc.Model) -> None:
    one, other = (llama.weight_lens("qk.1.h0", through=t, k=3, draws=2) for t in ("embedding", "unembedding"))  # type: ignore[arg-type]
    assert np.array_equal(one.data["vector"], other.data["vector"])
    assert not np.array_equal(one.data["token_id"], other.data["token_id"])
    assert one.sides("qk.1.h0") == ("query", "key")


def planted() -> pc.Model:
    """Tokens 10 to 14 share a direction of the unembedding, and head 1.3 writes it."""
    module = tiny.build("llama")
    shared = normal(32, seed=5)
    with torch.no_grad():
        module.lm_head.weight[10:15] += 0.1 * shared / module.model.norm.weight
        module.model.layers[1].self_attn.o_proj.weight[:, 24] += 10 * shared
    return pc.wrap(module)


def test_a_planted_direction_passes_and_a_random_model_does_not() -> None:
    found = planted().weight_lens(["ov.1.h3", "ov.2.h1"], directions=4, k=5, draws=30)
    assert found.passes("ov.1.h3", "write")[0].sum() == 1
    sign = int(found.passes("ov.1.h3", "write")[0].argmax())
    ids = found.data["token_id"].sel(matrix="ov.1.h3", side="write", direction=0).values[sign]
    assert set(ids) == set(range(10, 15))
    assert not found.passes("ov.2.h1", "write")[0].any()
    spectrum, control = (found.data[name].sel(matrix="ov.1.h3").isel(index=0) for name in ("singular_value", "control"))
    assert float(spectrum) > float(control.max()), "it stands out of the random spectra too"


@pytest.mark.sensitive
def test_random_weights_pass_as_often_as_chance_says(llama: pc.Model) -> None:
    names = ["ov.*.h*", "mlp_pre", "mlp_up", "mlp_out"]
    table = llama.weight_lens(names, directions=8, k=5, draws=10).passing()
    share = (table["passing"] * table["lists"]).sum() / table["lists"].sum()
    assert table["lists"].sum() == 528
    assert 0.02 < share < 0.09


def test_tables_say_what_the_numbers_say(llama: pc.Model) -> None:
    found = llama.weight_lens(["ov.1.h3", "mlp_out.0"], directions=4, k=3, draws=3)
    shares = found.passing().set_index(["matrix", "side"])
    assert list(shares.index) == [("ov.1.h3", "read"), ("ov.1.h3", "write"), ("mlp_out.0", "write")]
    for (matrix, side), row in shares.iterrows():
        one = found.data.sel(matrix=matrix, side=side)
        alike, chance = one["coherence"].values, np.sort(one["control_coherence"].values)
        assert len(chance) == 24
        limit = chance[21] + 0.85 * (
            chance[22] - chance[21]
        )  # 0.95 of the way through 24 sorted values: 0.95 * 23 = 21.85
        passed = alike > limit
        assert np.array_equal(found.passes(matrix, side), passed)
        p, n, z = passed.mean(), 8, 1.959963984540054
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        assert (row["lists"], row["passing"]) == (8, p)
        assert (row["low"], row["high"]) == pytest.approx((middle - half, middle + half), abs=1e-12)
    for row in found.frame().to_dict("records"):
        here = found.data.sel(matrix=row["matrix"], direction=row["direction"], side=row["side"], sign=row["sign"])
        assert row["singular_value"] == float(found.data["singular_value"].sel(matrix=row["matrix"])[row["direction"]])
        assert row["coherence"] == float(here["coherence"])
        assert row["tokens"] == [llama.output_label(int(i)) for i in here["token_id"].values]
        place = (row["direction"], "+-".index(row["sign"]))
        assert row["passes"] == found.passes(row["matrix"], row["side"])[place]


def test_matrices_of_unlike_rank_in_one_result(llama: pc.Model) -> None:
    both = llama.weight_lens(["ov.1.h3", "mlp_out.2"], directions=20, k=3, draws=3)
    alone = llama.weight_lens("ov.1.h3", directions=20, k=3, draws=3)
    assert both.data.sizes["index"] == 32
    assert alone.data.sizes["index"] == 8, "the rank of a product of two thin faces is at most its width"
    one = both.data.sel(matrix="ov.1.h3")
    assert np.array_equal(one["singular_value"][:8], alone.data["singular_value"][0])
    assert np.isnan(one["singular_value"][8:]).all()
    assert both.data.sizes["direction"] == 20
    assert np.isnan(one["vector"].isel(direction=slice(8, None))).all()
    kept = both.frame().groupby("matrix").size()
    assert (kept["ov.1.h3"], kept["mlp_out.2"]) == (8 * 2 * 2, 20 * 2), "a direction that is not there is no row"
    assert both.sides("ov.1.h3") == ("read", "write")
    assert both.sides("mlp_out.2") == ("write",)
    lists = both.passing().set_index(["matrix", "side"])
    wanted = alone.passing().set_index(["matrix", "side"])
    assert lists.loc["ov.1.h3"].equals(wanted.loc["ov.1.h3"]), "the share is of the lists that are there"
    assert lists.loc[("mlp_out.2", "write"), "lists"] == 20 * 2
    assert both.passes("ov.1.h3", "read").shape == (8, 2)
    with pytest.raises(pc.InputError, match=r"direction 8 of ov\.1\.h3 is outside the 8"):
        both.vector("ov.1.h3", 8, "read")
    assert bool(both.vector("mlp_out.2", 8, "write").isfinite().all())
    both.figure(matrix="ov.1.h3", directions=20)


def test_only_the_directions_asked_for_are_kept(llama: pc.Model) -> None:
    (matrix,) = find_matrices(llama, "mlp_pre.1")
    decoded = _Decoding.of(matrix, {"read": Vocabulary.reading(llama, "embedding")}, 2, 3, 1, 0, lambda _: None)
    assert decoded.vectors["read"].untyped_storage().nbytes() == 2 * 32 * 8


def test_a_direction_is_a_vector_for_edits(llama: pc.Model) -> None:
    found = llama.weight_lens("ov.1.h3", directions=8, draws=2, k=2)
    acts = llama.record(tiny.ids(1, 6), ["z.1.h3"])
    added = acts["z.1.h3"][0] @ llama.weight("attn_out.1.h3")
    basis = torch.stack([found.vector("ov.1.h3", i, "write") for i in range(8)])
    assert torch.allclose(added, added @ basis.T @ basis, atol=1e-10), "a head writes only along its directions"
    edited = llama.record(tiny.ids(1, 6), ["attn_out.1"], edits=pc.ProjectOut(basis, site="attn_out.1"))["attn_out.1"]
    assert float((edited[0] @ basis.T).abs().max()) < 1e-10
    for bad, message in ((("ov.1.h3", 8, "write"), "direction 8"), (("ov.1.h3", -1, "write"), "direction -1"), (("ov.1.h3", 0, "key"), "unknown side"), (("ov.1.h2", 0, "read"), "unknown matrix")):  # fmt: skip
        with pytest.raises(pc.InputError, match=message):
            found.vector(*bad)


def test_a_model_in_half_precision_is_decoded_as_its_weights_are() -> None:
    half = pc.wrap(tiny.build("llama", torch.bfloat16))
    wide = pc.wrap(tiny.build("llama", torch.bfloat16).double())
    one, other = (model.weight_lens(["ov.1.h3", "mlp_pre.0"], k=3, draws=2) for model in (half, wide))
    gap = abs(one.data["singular_value"] / other.data["singular_value"] - 1)
    assert float(gap.max()) < 1e-4


def test_numbers_are_checked_before_any_matrix_is_read(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_matrices", lambda *_: pytest.fail("read"))
    for options in ({"k": 98}, {"directions": 33}, {"draws": 0}):
        with pytest.raises(pc.InputError, match="is outside"):
            llama.weight_lens("ov.1.h3", **options)  # type: ignore[arg-type]


def test_bad_requests_are_refused(llama: pc.Model) -> None:
    for options, message in (
        ({"k": 1}, r"k=1 is outside 2\.\.97"),
        ({"k": 98}, "k=98"),
        ({"directions": 0}, r"directions=0 is outside 1\.\.32"),
        ({"draws": 0}, "draws=0"),
        ({"draws": 10_001}, r"draws=10001 is outside 1\.\.10000"),
        ({"through": "head"}, "unknown through 'head'"),
    ):
        with pytest.raises(pc.InputError, match=message):
            llama.weight_lens("ov.1.h3", **options)  # type: ignore[arg-type]
    with pytest.raises(pc.InputError, match="no matrix was given"):
        llama.weight_lens([])
    with pytest.raises(pc.InputError, match="reads no tokens"):
        opened("vit").weight_lens("mlp_out.1")
    with pytest.raises(pc.InputError, match="at least one direction"):
        llama.weight_lens("ov.1.h3", k=2, draws=1).figure(directions=0)


@pytest.mark.assets
def test_the_head_that_moves_capitals_writes_countries(smollm2: pc.Model) -> None:
    found = smollm2.weight_lens("ov.23.h4", directions=5, draws=30)
    frame = found.frame()
    written = frame[(frame["matrix"] == "ov.23.h4") & (frame["side"] == "write") & frame["passes"]]
    tokens = {token for row in written["tokens"] for token in row}
    assert {" France", " Germany", "Japan", " Portugal"} <= tokens
    assert found.passing()["low"][1] > 0.05, "of all written lists, more pass than chance lets through"
