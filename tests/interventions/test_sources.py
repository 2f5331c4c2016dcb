"""Where values come from: which prompt, which position, which mean, which stream of random numbers."""

import pytest
import torch

import patchclamp as pc
from patchclamp.interventions.axes import Axes
from patchclamp.interventions.operations import Put
from patchclamp.interventions.sources import DrawnNoise, MeanAblate, Scene, Source, values_from
from patchclamp.models.inputs import Prompt
from patchclamp.models.sites import Site
from tests import tiny

SITE = Site("mlp_out", 1)


def scene(
    index: int, positions: tuple[int, ...] | None, rows: list[torch.Tensor], found: tuple[int, ...] = ()
) -> Scene:
    prompt = Prompt((5, 6, 7), None, ("5", "6", "7"))
    return Scene(prompt, index, SITE, positions, lambda *_: rows, lambda *_: found)


def rows(*starts: float) -> list[torch.Tensor]:
    """For each prompt three positions of width two: start, start + 1, ..."""
    return [start + torch.arange(6.0).reshape(3, 2) for start in starts]


def test_values_of_a_source_by_hand() -> None:
    plain, one = Source([1, 2, 3]), rows(0.0)
    assert values_from(plain, scene(0, (2, 0), one)).tolist() == [[4, 5], [0, 1]]
    assert values_from(plain, scene(1, (1,), one)).tolist() == [[2, 3]], "one source serves every prompt"
    assert values_from(plain, scene(1, (1,), rows(0.0, 10.0))).tolist() == [[12, 13]], "or one a prompt"
    assert values_from(plain, scene(0, None, one)).tolist() == one[0].tolist()
    aligned = Source([1, 2, 3], counterpart={0: 2, 1: 0})
    assert values_from(aligned, scene(0, (0, 1), one)).tolist() == [[4, 5], [0, 1]]
    at = Source([1, 2, 3], at=-1)
    assert values_from(at, scene(0, (0, 1), one, (2,))).tolist() == [4, 5], "one position serves all"
    assert values_from(at, scene(0, None, one, (1,))).tolist() == [2, 3]
    assert values_from(at, scene(0, (0, 1), one, (2, 1))).tolist() == [[4, 5], [2, 3]]
    with pytest.raises(pc.EditError, match="position 2 .* has no counterpart in the source, which has 3 positions"):
        values_from(aligned, scene(0, (0, 2), one))
    with pytest.raises(pc.EditError, match="the source has 2 prompts and the edit prompt number 2"):
        values_from(plain, scene(2, (0,), rows(0.0, 10.0)))
    with pytest.raises(pc.EditError, match="the source gives 2 positions and the edit has all"):
        values_from(at, scene(0, None, one, (2, 1)))


def test_a_mean_is_over_every_position_of_every_prompt_in_float64() -> None:
    short = torch.tensor([[40.0, 50.0]])
    made = MeanAblate(Source([[1, 2, 3], [4]])).bind(scene(0, (0,), [*rows(0.0), short]))
    assert isinstance(made, Put)
    assert made.value.tolist() == [(0 + 2 + 4 + 40) / 4, (1 + 3 + 5 + 50) / 4], "a longer prompt weighs more"
    half = MeanAblate(Source([1])).bind(scene(0, (0,), [torch.tensor([[256.0], [1.0]]).bfloat16()]))
    assert half.value.dtype == torch.float64
    assert half.value.tolist() == [128.5]


def test_each_prompt_can_have_its_own_source(llama: pc.Model) -> None:
    prompts, sources = tiny.ids(2, 5), tiny.ids(2, 5, seed=9)
    both = llama.run(prompts, pc.Patch(sources, site="resid_post.1", at=-1)).logits
    for i in range(2):
        alone = llama.run(prompts[i], pc.Patch([sources[i]], site="resid_post.1", at=-1)).logits[0]
        assert torch.allclose(both[i], alone, rtol=1e-10)
    acts = llama.record(sources, "resid_post.1")
    assert torch.allclose(llama.run(prompts, pc.Patch(acts, site="resid_post.1", at=-1)).logits, both, rtol=1e-10)
    with pytest.raises(pc.InputError, match="2 prompts were recorded; prompt number 2 is not among them"):
        llama.run(tiny.ids(3, 5), pc.Patch(acts, site="resid_post.1", at=-1))


def test_keys_of_sources() -> None:
    base = Source([1, 2])
    others = [Source([1, 3]), Source([1, 2], (pc.Zero(site="embed"),)), Source([1, 2], at=0), Source([1, 2], counterpart={0: 1}),
              Source([1, 2], site="embed")]  # fmt: skip
    assert len({source.key for source in [base, *others]}) == 6
    assert [source.run_key == base.run_key for source in others] == [False, False, True, True, True]
    shown = [str(source) for source in (base, *others[1:3], others[4])]
    assert shown == ["[1, 2]", "[1, 2], 1 edits", "[1, 2], at 0", "[1, 2], embed"]
    edits = [pc.Patch(base), pc.Patch(others[0]), pc.MeanAblate(base), pc.Patch(torch.ones(2)), pc.Noise(1.0), pc.Noise(1.0, 1),
             pc.Noise(2.0), pc.Rotate(base, rank=1, d=2), pc.Rotate(torch.ones(2), rank=1, d=2)]  # fmt: skip
    assert len({edit.key for edit in edits}) == len(edits)


def test_drawn_noise_is_that_of_its_keys() -> None:
    def drawn(
        seed: int = 0, prompt: str = "p", site: str = "embed", where: tuple[int, ...] | None = None, std: float = 1.0
    ) -> torch.Tensor:
        noise = DrawnNoise(std, seed, prompt, site, where)
        return noise(torch.zeros(1, 3 if where is None else len(where), 4))[0]

    base = drawn()
    assert torch.equal(base, drawn())
    for other in (drawn(seed=1), drawn(prompt="q"), drawn(site="resid_pre.0")):
        assert (base - other).abs().min() > 0, "every number is another one"
    assert torch.equal(drawn(where=(2, 0)), base[[2, 0]])
    assert torch.equal(drawn(std=3.0), 3.0 * base)
    assert torch.equal(DrawnNoise(1.0, 0, "p", "embed", None).select([2, 1])(torch.zeros(2, 4)), base[[2, 1]])
    assert torch.equal(DrawnNoise(1.0, 0, "p", "embed", (5, 2, 1)).select([1])(torch.zeros(1, 4)), base[[2]])
    assert len({tuple(row.tolist()) for row in base}) == 3, "positions differ"
    x = torch.ones(2, 3, 4)
    assert torch.equal(DrawnNoise(1.0, 0, "p", "embed", None)(x), x + base)


def test_a_subspace_starts_from_its_seed_or_its_directions() -> None:
    weights = [pc.Subspace(6, 2, seed=seed).weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert (weights[0] - weights[2]).abs().max() > 0.1
    rotated = [pc.Rotate([1], rank=2, d=6, seed=seed).operation.subspace.weight for seed in (0, 1)]
    assert torch.allclose(rotated[0], weights[0])
    assert torch.allclose(rotated[1], weights[2])
    raw = torch.randn(2, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = pc.Subspace(6, 2, directions=raw).weight
    assert torch.allclose(found @ found.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-14)
    assert torch.allclose(raw @ found.T @ found, raw, rtol=0, atol=1e-14), "they span what the directions span"
    x, source = torch.ones(6), torch.arange(6.0)
    whole = pc.Subspace(6, 2, directions=torch.eye(6)[[1, 4]])(x, source)
    assert torch.allclose(whole, torch.tensor([1.0, 1.0, 1.0, 1.0, 4.0, 1.0]), atol=1e-5)
    with pytest.raises(pc.EditError, match=r"directions have shape \(2, 6\).*needs \[2, 5\]"):
        pc.Subspace(5, 2, directions=raw)


def test_axes_of_a_sweep(llama: pc.Model) -> None:
    """Before the layers is -1, behind them their number; tokens label positions; values are called by what they are."""
    prompts = llama.prompts([[5, 6, 7], [8, 9]])
    over = {"scale": [0, 1.5], "vector": [torch.ones(2), torch.zeros(2)], "at": ["all", -1]}
    axes = Axes.of(llama, prompts, ["embed", "mlp_out.1-2", "final_norm", "logits"], "each", over)
    assert axes.components == ("embed", "mlp_out", "final_norm", "logits")
    assert axes.layers == (-1, 1, 2, 3)
    assert (axes.units, axes.unit_kind, axes.longest) == ((), "", 3)
    assert axes.dims() == {"prompt": 2, "site": 4, "layer": 4, "position": 3, "scale": 2, "vector": 2, "at": 2}
    coords = axes.coords()
    assert coords["token"][1].tolist() == [["5", "6", "7"], ["8", "9", ""]]
    assert coords["position"].tolist() == [0, 1, 2]
    assert coords["scale"].tolist() == [0.0, 1.5]
    assert coords["vector"].tolist() == ["0", "1"]
    assert coords["at"].tolist() == ["all", "-1"]
    heads = Axes.of(llama, prompts, ["z.1.h1", "z.1.h3"], -1, None)
    assert (heads.units, heads.unit_kind, heads.layers, heads.each) == ((1, 3), "head", (1,), False)
    assert heads.dims() == {"prompt": 2, "site": 1, "layer": 1, "head": 2}
    assert Axes.of(llama, prompts, "embed", -1, None).dims() == {"prompt": 2, "site": 1}
