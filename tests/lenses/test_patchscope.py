import numpy as np
import pytest
import torch
from torch import Tensor

import patchclamp as pc
from tests import tiny
from tests.interventions import by_hand
from tests.lenses.families import opened

SOURCE, TARGET = tiny.ids(1, 7), tiny.ids(1, 5, seed=3)


def states_by_hand(model: pc.Model, ids: list[int]) -> list[Tensor]:
    """What each layer of a Llama gives, ``[position, d]``, kept by hooks."""
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x[0].clone())
        return x

    by_hand.run(model.module, ids, [(f"model.layers.{i}", "out", keep) for i in range(3)])
    return kept


def patched_by_hand(model: pc.Model, ids: list[int], layer: int, position: int, state: Tensor) -> Tensor:
    """Logits after a prompt with one state put in, ``[vocabulary]``."""
    change = by_hand.at(position, lambda _: state[None])
    return by_hand.run(model.module, ids, [(f"model.layers.{layer}", "out", change)])[-1]


@pytest.mark.parametrize("into", [None, 0, 2])
@pytest.mark.parametrize("into_at", ["last", 1])
def test_it_is_the_hook_written_by_hand(llama: pc.Model, into: int | None, into_at: str | int) -> None:
    site = None if into is None else f"resid_post.{into}"
    found = llama.patchscope(SOURCE, target=TARGET, into=site, into_at=into_at, k=97)
    states, own = states_by_hand(llama, SOURCE[0]), llama.run(SOURCE).logits[0]
    shown = found.record["target"]
    assert (shown["ids"], shown["token"]) == (TARGET[0], str(TARGET[0][4 if into_at == "last" else 1]))
    for layer, position in np.ndindex(3, 7):
        place = 4 if into_at == "last" else 1
        logits = patched_by_hand(llama, TARGET[0], layer if into is None else into, place, states[layer][position])
        here = found.data.isel(prompt=0, layer=layer, position=position)
        assert list(here["top_id"].values) == logits.argsort(descending=True).tolist()
        logs, final = logits.log_softmax(-1), own[position].log_softmax(-1)
        assert float(here["kl"]) == pytest.approx(float((final.exp() * (final - logs)).sum()), abs=1e-9)
        if position < 6:
            target = SOURCE[0][position + 1]
            assert int(here["target_id"]) == target
            assert float(here["surprisal"]) == pytest.approx(-float(logs[target]), abs=1e-9)
            assert float(here["rank"]) == float((logits > logits[target]).sum())
        else:
            assert np.isnan(here["surprisal"])
        assert float(here["final_probability"]) == pytest.approx(float(logs.exp()[own[position].argmax()]), abs=1e-12)


def test_a_prompt_inside_itself_is_itself(llama: pc.Model) -> None:
    found = llama.patchscope(SOURCE, target=SOURCE, at="last").data
    assert float(abs(found["kl"]).max()) < 1e-12
    assert bool((found["agreement"] == 1).all())
    other = llama.patchscope(SOURCE, target=SOURCE, at=0).data
    assert float(other["kl"].isel(layer=slice(2)).min()) > 1e-6, "another position's state is something else"


def test_the_last_layer_needs_no_prompt(llama: pc.Model) -> None:
    """After the last layer nothing of the target can act on the state: lens and Patchscope are the same there."""
    scope, lens = (f.data.sel(layer=2) for f in (llama.patchscope(SOURCE, target=TARGET, k=3), llama.lens(SOURCE, k=3)))
    for name in ("top_probability", "entropy", "surprisal"):
        assert np.allclose(scope[name], lens[name], rtol=1e-10, equal_nan=True)
    assert np.array_equal(scope["top_id"], lens["top_id"])


def test_a_model_in_half_precision_has_logits_in_full() -> None:
    model = opened("llama", torch.bfloat16)
    scope, lens = (
        f.data.sel(layer=2) for f in (model.patchscope(SOURCE, target=TARGET, k=97), model.lens(SOURCE, k=97))
    )
    for name in ("top_probability", "entropy", "surprisal"):
        assert np.allclose(scope[name], lens[name], rtol=1e-6, equal_nan=True), (
            "rounded logits differ by up to 1 in 256"
        )
    assert np.array_equal(scope["top_id"], lens["top_id"])


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox", "qwen3", "mamba"])
def test_other_families(name: str) -> None:
    model = opened(name)
    state = model.record(SOURCE, "resid_post.0", at=2)["resid_post.0"][0]
    run = model.run(TARGET, pc.Patch(state, site="resid_post.1", at=-1))
    found = model.patchscope(SOURCE, "resid_post.0", at=2, target=TARGET, into="resid_post.1", k=4)
    assert list(found.data["top_id"].values.flatten()) == list(run.top(4)["id"])


def test_chunks_of_cells_change_nothing(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [*SOURCE, *tiny.ids(1, 4, seed=9)]
    whole = llama.patchscope(prompts, target=TARGET, max_new_tokens=2)
    monkeypatch.setattr("patchclamp.lenses.patchscope._BATCH_CELLS", 4)
    monkeypatch.setattr("patchclamp.lenses.patchscope._BATCH_TEXTS", 2)
    parts = llama.patchscope(prompts, target=TARGET, max_new_tokens=2)
    assert (parts.frame()["text"] == whole.frame()["text"]).all()
    for name in ("kl", "rank", "top_id"):
        assert np.allclose(parts.data[name], whole.data[name], atol=1e-10, equal_nan=True)
    assert len(whole.frame()) == 3 * (7 + 4)


@pytest.mark.parametrize("into", [None, "resid_post.0"])
def test_generation_with_the_cache_is_generation_without_it(llama: pc.Model, into: str | None) -> None:
    found = llama.patchscope(SOURCE, target=TARGET, into=into, max_new_tokens=4, at=[2, -1])
    states = states_by_hand(llama, SOURCE[0])
    for layer in range(3):
        for place, position in enumerate((2, 6)):
            ids = list(TARGET[0])
            for _ in range(4):
                logits = patched_by_hand(llama, ids, layer if into is None else 0, 4, states[layer][position])
                ids.append(int(logits.argmax()))
            assert found.data["text"].values[0, layer, place] == str(ids[5:])


def test_bad_requests_are_refused(llama: pc.Model) -> None:
    def hooks() -> list[list[object]]:
        return [[*m._forward_hooks.values(), *m._forward_pre_hooks.values()] for m in llama.module.modules()]

    before = hooks()
    for options, message in (
        ({"into_at": 5}, "position 5 is outside the prompt, which has 5 tokens"),
        ({"into_at": [0, 1]}, r"into_at=\[0, 1\] gives 2, at tokens"),
        ({"into": "resid_post"}, "names 3"),
        ({"into": "mlp_out.1"}, "unknown site for a Patchscope 'mlp_out.1'"),
        ({"sites": "z.1.h0"}, "unknown site for a Patchscope"),
        ({"k": 0}, r"k=0 is outside 1\.\.97"),
        ({"k": 98}, r"k=98 is outside 1\.\.97"),
        ({"max_new_tokens": -1}, "0 or more, got -1"),
        ({"target": tiny.ids(2, 4)}, "one target prompt; 2 were given"),
        ({"at": 7}, "outside the prompt"),
    ):
        with pytest.raises(pc.InputError, match=message):
            llama.patchscope(SOURCE, **{"target": TARGET, **options})  # type: ignore[arg-type]
    with pytest.raises(pc.ModelError, match="it is an encoder"):
        opened("bert").patchscope(SOURCE, target=TARGET)
    assert hooks() == before


@pytest.mark.assets
def test_a_placeholder_must_be_one_token_of_the_target(stories: pc.Model) -> None:
    target = "dog -> dog; cat -> cat; dog"
    with pytest.raises(pc.PositionError, match=r"'fish' is not in the prompt; its tokens are \["):
        stories.patchscope("Once upon a time", target=target, into_at=pc.token("fish"))
    with pytest.raises(pc.PositionError, match="'dog' stands 3 times"):
        stories.patchscope("Once upon a time", target=target, into_at=pc.token("dog"))
    found = stories.patchscope("Once upon a time", target=target, into_at=pc.token("dog", -1), at="last", k=1)
    assert found.record["target"]["token"] == " dog"


@pytest.mark.assets
def test_the_identity_prompt_sees_what_the_lens_does_not_yet(smollm2: pc.Model) -> None:
    prompt, sites = "The capital of Spain is", "resid_post.24-26"
    scope, lens = (look(prompt, sites, at="last").data for look in (smollm2.patchscope, smollm2.lens))
    assert set(scope["top_token"].isel(top=0).values.flatten()) == {" Madrid"}
    assert float(scope["kl"].max()) < 0.1 < 5 < float(lens["kl"].min())
