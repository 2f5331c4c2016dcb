"""A dictionary in any coordinates: what folding keeps, what is saved comes back, what does not fit is refused."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.core.plain import savable
from patchclamp.dictionaries import (
    FISTA,
    OMP,
    Codes,
    Dictionary,
    Encoder,
    NearestAtom,
    ReLU,
    RowScaling,
    Threshold,
    TopKEncoder,
)  # fmt: skip
from tests import tiny
from tests.dictionaries.linear import Positive

D, WIDTH = 6, 11


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ROWS = draw(0, 40, D) @ draw(1, D, D) + 5 * draw(2, D)


def make(whiten: str = "none", weights: bool = True) -> Dictionary:
    return Dictionary(
        draw(3, WIDTH, D),
        Positive(),
        bias=draw(4, D),
        weights={"weight": draw(5, WIDTH, D), "offset": draw(6, WIDTH)} if weights else None,
        scaling=RowScaling.of(ROWS, whiten=whiten),  # type: ignore[arg-type]
        card={"site": "mlp_out.3"},
    )


@pytest.mark.parametrize("whiten", ["none", "pca", "zca"])
def test_scaled_rows_are_centred_of_length_d_and_come_back(whiten: str) -> None:
    scaling = RowScaling.of(ROWS, whiten=whiten, ridge=0)  # type: ignore[arg-type]
    scaled = scaling(ROWS)
    assert torch.allclose(scaled.mean(0), torch.zeros(D, dtype=torch.float64), atol=1e-12)
    assert float(scaled.square().sum(1).mean()) == pytest.approx(D)
    assert torch.allclose(scaling.undo(scaled), ROWS)
    covariance = scaled.T @ scaled / len(ROWS)
    white = torch.allclose(covariance, torch.eye(D, dtype=torch.float64), atol=1e-9)
    assert white == (whiten != "none"), "without whitening the axes are of unlike spread: the control"
    if whiten == "zca":
        assert torch.allclose(scaling.whitening, scaling.whitening.T)  # type: ignore[union-attr]


def test_nothing_is_done_that_is_not_asked_for() -> None:
    plain = RowScaling.of(ROWS, centre=False, scale=False)
    assert not plain.changes
    assert torch.equal(plain(ROWS), ROWS)
    assert RowScaling.of(ROWS, centre=False).changes
    with pytest.raises(pc.InputError, match="all rows are equal"):
        RowScaling.of(torch.ones(4, 3))


@pytest.mark.parametrize(("whiten", "weights"), [("none", True), ("pca", True), ("zca", True), ("none", False)])
def test_folding_changes_neither_codes_nor_reconstructions(whiten: str, weights: bool) -> None:
    dictionary = make(whiten, weights)
    folded = dictionary.folded()
    assert not folded.scaling.changes
    assert torch.allclose(folded.encode(ROWS), dictionary.encode(ROWS), atol=1e-9)
    assert torch.allclose(folded(ROWS), dictionary(ROWS), atol=1e-9)
    assert not torch.allclose(folded.atoms, dictionary.atoms), "the control: folding moved the atoms"


@pytest.mark.parametrize(
    "rule",
    [
        Threshold(value=0.5), Threshold(k=2), FISTA(penalty=0.3, iterations=5000, tolerance=1e-12), FISTA(penalty=0.3, nonnegative=False),
        OMP(k=3), OMP(k=3, tolerance=0.2), NearestAtom(), ReLU(), TopKEncoder(2),
    ],
    ids=str,
)  # fmt: skip
def test_rules_with_a_size_of_their_own_are_folded_too(rule: Encoder) -> None:
    rows, bare = 7 * ROWS, make()
    dictionary = Dictionary(bare.atoms, rule, bias=bare.bias, scaling=RowScaling.of(rows))
    codes = dictionary.encode(rows)
    assert codes.any()
    assert torch.allclose(dictionary.folded().encode(rows), codes, atol=1e-4)


def test_a_rule_without_weights_cannot_be_folded_where_angles_change() -> None:
    with pytest.raises(pc.InputError, match="which whitening changes"):
        make("pca", weights=False).folded()


def test_encode_and_decode_are_the_plain_formulas() -> None:
    dictionary, scaling = make(), RowScaling.of(ROWS)
    x = scaling(ROWS) - dictionary.bias
    codes = (x @ dictionary.weights["weight"].T + dictionary.weights["offset"]).relu()
    assert torch.allclose(dictionary.encode(ROWS), codes)
    assert torch.allclose(dictionary.decode(codes), scaling.undo(codes @ dictionary.atoms + dictionary.bias))
    assert torch.allclose(dictionary.decode(Codes.of_dense(codes)), dictionary.decode(codes))
    assert torch.allclose(dictionary(ROWS.reshape(4, 10, D)), dictionary.decode(codes).reshape(4, 10, D))
    assert torch.equal(dictionary.transform(ROWS), dictionary.encode(ROWS))
    assert dictionary.encode(ROWS[:0]).shape == (0, WIDTH)
    assert dictionary(ROWS[:0]).shape == (0, D)


def test_any_encoder_runs_on_any_atoms() -> None:
    dictionary = make()
    bare = Dictionary(dictionary.atoms, Positive(), bias=dictionary.bias, scaling=dictionary.scaling)
    learned, along_atoms = dictionary.encode(ROWS), bare.encode(ROWS)
    assert not torch.allclose(learned, along_atoms)

    @savable
    @dataclass(frozen=True)
    class OneHot(Positive):
        def codes(self, x: Tensor, atoms: Tensor, weights: object) -> Codes:
            best = (x @ atoms.T).argmax(1, keepdim=True)
            return Codes.of_top(best, torch.ones(len(x), 1, dtype=x.dtype), len(atoms))

    assert torch.equal(dictionary.encode(ROWS, OneHot()).sum(1), torch.ones(len(ROWS), dtype=torch.float64))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    dictionary = make("zca")
    dictionary.save_pretrained(tmp_path / "d")
    again = Dictionary.from_pretrained(tmp_path / "d")
    assert again.encoder == dictionary.encoder
    assert again.card == {"site": "mlp_out.3"}
    for name, value in dictionary.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.equal(again(ROWS), dictionary(ROWS))
    with pytest.raises(pc.InputError):
        pc.TunedLens.from_pretrained(tmp_path / "d", pc.wrap(tiny.shared("llama")))
    weights = tmp_path / "d" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(pc.InputError, match=r"model\.safetensors"):
        Dictionary.from_pretrained(tmp_path / "d")
    with pytest.raises(pc.InputError, match="no sparse dictionary|holds no"):
        Dictionary.from_pretrained(tmp_path / "nothing")


def test_a_dictionary_can_be_spliced_into_a_model() -> None:
    model = pc.wrap(tiny.shared("llama"))
    ids = tiny.ids(1, 5)
    states = model.record(ids, "resid_post.1", at="last")["resid_post.1"]
    width = states.shape[-1]
    dictionary = Dictionary(draw(1, 20, width).to(states.dtype), Positive())
    plain = model.run(ids).logits
    kept = model.run(ids, [pc.Splice(dictionary, {3: 2.0}, site="resid_post.1", at=-1)])
    swapped = model.run(ids, [pc.Splice(dictionary, {}, keep_error=False, site="resid_post.1", at=-1)])
    assert not torch.allclose(kept.logits, plain)
    assert not torch.allclose(swapped.logits, plain)
    states = states.reshape(1, width)
    codes = dictionary.encode(states)
    target = states + (2.0 - codes[:, 3:4]) * dictionary.atoms[3]
    edited = model.run(ids, [pc.Patch(target[0], site="resid_post.1", at=-1)])
    assert torch.allclose(kept.logits, edited.logits, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    dictionary = make()
    for call, message in (
        (lambda: dictionary.encode(draw(0, 3, D + 1)), r"\[\.\.\., 6\]"),
        (lambda: dictionary.encode(torch.ones(3, D, dtype=torch.int64)), "int64"),
        (lambda: dictionary.encode(torch.full((3, D), np.nan)), "hold 18 NaN"),
        (lambda: dictionary.decode(draw(0, 3, D)), "not of this dictionary of 11 latents"),
        (lambda: Dictionary(draw(0, D), Positive()), r"\[width, d\]"),
        (lambda: Dictionary(draw(0, WIDTH, D), Positive(), bias=draw(0, D + 1)), "bias has the shape"),
        (
            lambda: Dictionary(draw(0, WIDTH, D), Positive(), weights={"weight": draw(0, D, WIDTH)}),
            "weight has the shape",
        ),
        (lambda: Dictionary(draw(0, WIDTH, D), Positive(), weights={"weight": draw(0, WIDTH)}), "weight has the shape"),
        (
            lambda: Dictionary(draw(0, WIDTH, D), Positive(), weights={"gate": draw(0, WIDTH, D, 1)}),
            "gate has the shape",
        ),
        (lambda: Dictionary(draw(0, WIDTH, D), Positive(), bias=draw(0, D).float()), "bias .* is torch.float32"),
        (lambda: dictionary.encode(ROWS, "omp"), "encoder is a rule"),  # type: ignore[arg-type]
        (lambda: Dictionary(draw(0, WIDTH, D) / 0, Positive()), "atoms of a dictionary holds NaN"),
    ):
        with pytest.raises(pc.InputError, match=message):
            call()  # type: ignore[no-untyped-call]
