from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.interventions.patching import counterparts
from patchclamp.models.inputs import Prompt
from tests import tiny
from tests.interventions import by_hand

ids = st.lists(st.integers(0, 3), min_size=1, max_size=8)


def prompt(row: list[int]) -> Prompt:
    return Prompt(tuple(row), None, tuple(map(str, row)))


@given(ids, ids)
def test_alignment_rules(source: list[int], into: list[int]) -> None:
    a, b = prompt(source), prompt(into)
    left, right, ends = (counterparts(a, b, rule) for rule in ("left", "right", "ends"))
    shorter = min(len(source), len(into))
    assert left == {i: i for i in range(shorter)}
    assert {len(into) - k: len(source) - v for k, v in right.items()} == {i: i for i in range(1, shorter + 1)}
    assert all(source[v] == into[k] for k, v in ends.items()), "matched ends hold the same tokens"
    assert len(set(ends.values())) == len(ends)
    assert sorted(ends.values()) == [ends[k] for k in sorted(ends)], "order is kept"
    if len(source) == len(into):
        assert counterparts(a, b, "equal") == left == right
    else:
        with pytest.raises(pc.InputError, match=r"choose how they correspond with align='left', 'right' or 'ends'"):
            counterparts(a, b, "equal")
    if source == into:
        assert ends == left


def test_a_patch_is_the_hook_written_by_hand(llama: pc.Model) -> None:
    source, into = tiny.ids(2, 6)
    grid = llama.patch([source], [into], sites=["resid_post", "mlp_out"], read=pc.Logits())
    states: dict[str, torch.Tensor] = {}

    def keep(name: str, x: torch.Tensor) -> torch.Tensor:
        states[name] = x.clone()
        return x

    paths = {("resid_post", i): f"model.layers.{i}" for i in range(3)} | {
        ("mlp_out", i): f"model.layers.{i}.mlp" for i in range(3)
    }
    by_hand.run(llama.module, source, [(p, "out", lambda x, p=p: keep(p, x)) for p in paths.values()])
    for (site, layer), path in paths.items():
        for position in (0, 3, 5):
            change = by_hand.at(position, lambda _, path=path, position=position: states[path][:, position])
            wanted = by_hand.run(llama.module, into, [(path, "out", change)])[-1]
            found = torch.from_numpy(grid.data.sel(site=site, layer=layer, position=position).values.squeeze())
            assert torch.allclose(found, wanted, rtol=1e-12)


def test_patching_a_run_into_itself_changes_nothing(llama: pc.Model) -> None:
    source = tiny.ids(1, 6)
    grid = llama.patch(source, source, sites=["resid_post", "z.*"], read=pc.KL())
    assert float(abs(grid.data).max()) < 1e-12


def test_patching_the_whole_stream_brings_the_source_back(llama: pc.Model) -> None:
    source, into = ([row] for row in tiny.ids(2, 6))
    grid = llama.patch(source, into, sites="resid_pre", at="all", read=pc.LogitDifference(5, 9))
    assert float(grid.relative("recovery").sel(layer=0).squeeze()) == pytest.approx(1.0)
    assert abs(float(grid.baseline.squeeze()) - float(grid.reference.squeeze())) > 1e-3
    last = llama.patch(source, into, sites="resid_post", at="last", read=pc.LogitDifference(5, 9))
    assert float(last.relative("recovery").isel(layer=-1).squeeze()) == pytest.approx(1.0)


def test_prompts_of_unequal_length_follow_the_stated_rule(llama: pc.Model) -> None:
    source, into = tiny.ids(1, 7)[0], tiny.ids(1, 5, seed=3)[0]
    source[:2], source[-1:] = into[:2], into[-1:]
    with pytest.raises(pc.InputError, match="the source has 7 tokens and the target 5"):
        llama.patch([source], [into], read=pc.KL())
    grid = llama.patch([source], [into], read=pc.Logits(), align="ends")
    there = grid.data.isel(prompt=0, site=0, layer=1, token_id=0)
    assert [bool(n) for n in there.isnull()] == [False, False, True, True, False]
    value = llama.record([source], "resid_post.1")["resid_post.1"][0, 6]
    single = llama.run([into], pc.Patch(value, site="resid_post.1", at=4)).logits[0, -1]
    assert torch.allclose(torch.from_numpy(grid.data.sel(layer=1, position=4).values.squeeze()), single)
    with pytest.raises(pc.InputError, match="unknown align 'rigth'; did you mean 'right'"):
        llama.patch([source], [into], read=pc.KL(), align="rigth")  # type: ignore[arg-type]


def test_edited_runs_on_either_side(llama: pc.Model) -> None:
    source, into = ([row] for row in tiny.ids(2, 6))
    noise = pc.Noise(0.5, site="embed", at=[1, 2])
    grid = llama.patch(into, into, base=[noise], sites="resid_post", read=pc.Logits(), verify=5)
    clean = llama.run(into).logits[0, -1]
    assert torch.allclose(torch.from_numpy(grid.baseline.values[0]), llama.run(into, noise).logits[0, -1])
    assert torch.allclose(torch.from_numpy(grid.reference.values[0]), clean)
    edited = llama.patch(source, into, source_edits=[noise], sites="resid_post.1", at=3, read=pc.Logits())
    value = llama.record(source, "resid_post.1", edits=[noise])["resid_post.1"][0, 3]
    single = llama.run(into, pc.Patch(value, site="resid_post.1", at=3)).logits[0, -1]
    assert torch.allclose(torch.from_numpy(edited.data.values.squeeze()), single)


def test_one_prompt_on_each_side(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="one source and one target"):
        llama.patch(tiny.ids(2, 4), tiny.ids(1, 4), read=pc.KL())


@pytest.mark.assets
@pytest.mark.slow
def test_the_capital_follows_the_country(smollm2: pc.Model) -> None:
    grid = smollm2.patch(
        "The capital of Italy is", "The capital of Spain is", read=pc.LogitDifference(" Rome", " Madrid")
    )
    recovery = grid.relative("recovery").isel(prompt=0, site=0)
    assert float(recovery.sel(layer=0, position=3)) > 0.9
    assert float(recovery.sel(layer=29, position=4)) > 0.9
    assert abs(float(recovery.sel(layer=29, position=3))) < 1e-6
    assert list(grid.data["token"].values[0]) == ["The", " capital", " of", " Spain", " is"]


@pytest.mark.parametrize(
    ("taken", "put", "path"), [(2, 0, "model.layers.0"), (0, 2, "model.layers.2"), (1, 1, "model.layers.1")]
)
def test_a_source_may_name_a_site_of_its_own(llama: pc.Model, taken: int, put: int, path: str) -> None:
    source, into = tiny.ids(1, 6), tiny.ids(1, 4, seed=5)
    edit = pc.Patch(pc.source(source, at=3, site=f"resid_post.{taken}"), site=f"resid_post.{put}", at=1)
    states: list[torch.Tensor] = []
    by_hand.run(llama.module, source[0], [(f"model.layers.{taken}", "out", lambda x: states.append(x.clone()) or x)])
    wanted = by_hand.run(llama.module, into[0], [(path, "out", by_hand.at(1, lambda _: states[0][:, 3]))])
    assert torch.allclose(llama.run(into, edit).logits[0], wanted, rtol=1e-12)
    swept = llama.sweep(
        into, pc.Patch(pc.source(source, at=3, site=f"resid_post.{taken}")), sites="resid_post", at=1, read=pc.Logits()
    )
    assert torch.allclose(torch.from_numpy(swept.data.sel(layer=put).values.squeeze()), wanted[-1], rtol=1e-12)
    assert edit != pc.Patch(pc.source(source, at=3), site=f"resid_post.{put}", at=1)


def test_a_sweep_over_source_layers(llama: pc.Model, tmp_path: Path) -> None:
    source, into = tiny.ids(1, 6), tiny.ids(1, 4, seed=5)
    taken = [pc.source(source, at=-1, site=f"resid_post.{layer}") for layer in range(3)]
    grid = llama.sweep(into, pc.Patch(taken[0]), sites="resid_pre.1", at=2, over={"source": taken}, read=pc.TopK(1))
    for number, one in enumerate(taken):
        alone = llama.sweep(into, pc.Patch(one), sites="resid_pre.1", at=2, read=pc.TopK(1))
        assert (
            float(abs(grid.data["top_probability"][..., number, :].values - alone.data["top_probability"].values).max())
            < 1e-12
        )
    grid.save(tmp_path)
    assert pc.repeat(tmp_path, llama).frame().equals(grid.frame())


def test_a_source_site_must_be_one_and_as_wide(llama: pc.Model) -> None:
    source, into = tiny.ids(2, 6)
    for site, message in (
        ("resid_post", "names 3"),
        ("resid_pst.1", "did you mean"),
        ("resid_post.7", "layer 7"),
        ("mlp_act.1", "width 48"),
    ):
        with pytest.raises(pc.InputError, match=message):
            llama.run([into], pc.Patch(pc.source([source], at=-1, site=site), site="resid_post.1", at=-1))
