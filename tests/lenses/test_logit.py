from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.lenses.logit import LogitLens
from patchclamp.lenses.metrics import METRICS
from tests import tiny
from tests.lenses.families import opened, parametrised
from tests.traces import no_trace

NAMES = ["llama", "gpt2", "gemma2", "gpt_neox", "cohere", "granite", "phi", "opt", "falcon", "olmo2", "mamba", "bloom"]
FLOAT32_INSIDE = dict.fromkeys(tiny.FP32_SOFTMAX, 1e-5) | {"mamba": 1e-4}
"""What their softmax or their scan in float32 leaves of metrics in nats and of probabilities, some twenty steps deep, where rows of
another length are summed in another order."""
NORMS = {
    "llama": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "phi": "model.final_layernorm",
}


@pytest.fixture(params=parametrised(NAMES, ("llama", "gpt2", "gemma2", "granite", "mamba")))
def model(request: pytest.FixtureRequest) -> pc.Model:
    return opened(request.param)


def by_hand(module: Any, norm: str, ids: list[int], layer: int) -> Tensor:
    """Logits ``[position, vocabulary]`` after a layer, from transformers' own hidden states."""
    with torch.no_grad():
        output = module(torch.tensor([ids]), output_hidden_states=True)
        if layer == len(output.hidden_states) - 2:
            return output.logits[0]
        return module.get_output_embeddings()(module.get_submodule(norm)(output.hidden_states[layer + 1]))[0]


@pytest.mark.sensitive
def test_the_last_layer_is_the_model_itself(model: pc.Model) -> None:
    ids = tiny.ids(1, 16)
    states = model.record(ids, "resid_post.2")["resid_post.2"][0]
    own = model.run(ids).logits[0]
    assert torch.equal(LogitLens(model).logits(states), own)
    last = model.lens(ids, k=97).data.isel(prompt=0, layer=-1)
    logs = own.log_softmax(-1)
    assert np.array_equal(last["top_id"].values, own.topk(97).indices.numpy())
    assert np.array_equal(
        last["log_probability"].values[:-1], logs[:-1].gather(-1, torch.tensor(ids).T[1:])[:, 0].numpy()
    )
    assert (last["kl"].values == 0).all()
    assert (last["agreement"].values == 1).all()
    assert np.array_equal(last["final_probability"].values, last["top_probability"].values[:, 0])


@pytest.mark.sensitive
def test_streaming_is_full_materialisation_bit_for_bit(model: pc.Model) -> None:
    ids = tiny.ids(2, 9)
    whole = model.lens(ids, chunk=10**6)
    for chunk in (1, 3, 7):
        assert model.lens(ids, chunk=chunk).data.identical(whole.data)


@pytest.mark.parametrize("name", parametrised(list(NORMS), ("llama", "gpt2")))
def test_every_metric_against_its_definition(name: str) -> None:
    model = opened(name)
    (ids,) = tiny.ids(1, 7, seed=2)
    data = model.lens([ids], k=3).data.isel(prompt=0)
    final = by_hand(model.module, NORMS[name], ids, 2)
    for layer, position in np.ndindex(3, 7):
        logits = by_hand(model.module, NORMS[name], ids, layer)[position]
        p, q = logits.softmax(-1), final[position].softmax(-1)
        top = int(q.argmax())
        wanted = {
            "entropy": sum(-x * np.log(x) for x in p.tolist()),
            "kl": sum(x * np.log(x / y) for x, y in zip(q.tolist(), p.tolist(), strict=True)),
            "final_probability": p[top],
            "agreement": float(p.argmax() == top),
        }
        if position < 6:
            target = ids[position + 1]
            wanted |= {
                "probability": p[target],
                "log_probability": p[target].log(),
                "surprisal": -p[target].log(),
                "rank": sum(z > logits[target] for z in logits),
            }
        here = data.isel(layer=layer, position=position)
        for metric, value in wanted.items():
            assert float(here[metric]) == pytest.approx(float(value), rel=1e-6, abs=1e-8), (metric, layer, position)
        assert here["top_id"].values.tolist() == logits.topk(3).indices.tolist()
    assert data["kl"].values[:-1].min() > 1e-3, "early layers do differ from the last"


def test_the_last_position_has_no_next_token(llama: pc.Model) -> None:
    data = llama.lens(tiny.ids(1, 5)).data.isel(prompt=0)
    for name in ("probability", "log_probability", "rank", "surprisal"):
        assert np.isnan(data[name].values[:, -1]).all()
        assert np.isfinite(data[name].values[:, :-1]).all()
    assert data["target_id"].values[-1] == -1


def test_ties_do_not_count_against_the_target() -> None:
    module = tiny.build("llama")
    with torch.no_grad():
        module.get_output_embeddings().weight.zero_()
    data = pc.wrap(module).lens(tiny.ids(1, 4)).data
    assert (data["rank"].values[..., :-1] == 0).all()
    assert data["entropy"].values == pytest.approx(np.log(97))


def test_given_targets(llama: pc.Model) -> None:
    ids = tiny.ids(2, 5)
    one = llama.lens(ids, at="last", targets=7)
    each = llama.lens(ids, at="last", targets=[7, 9])
    assert one.data["target_id"].values.tolist() == [[7], [7]]
    assert each.data["target_id"].values.tolist() == [[7], [9]]
    logs = llama.run(ids).logits[:, -1].log_softmax(-1)
    assert each.data["log_probability"].values[:, -1, 0] == pytest.approx([float(logs[0, 7]), float(logs[1, 9])])
    assert one.data["log_probability"].values[1, -1, 0] == pytest.approx(float(logs[1, 7]))


def test_sites_and_positions(llama: pc.Model) -> None:
    ids = tiny.ids(1, 6)
    every = llama.lens(ids, ["resid_post", "resid_mid", "resid_pre.0"])
    assert every.data["site"].values.tolist() == [
        "resid_pre.0", "resid_mid.0", "resid_post.0", "resid_mid.1", "resid_post.1", "resid_mid.2", "resid_post.2",
    ]  # fmt: skip
    pre, post = llama.lens(ids, "resid_pre.1-2"), llama.lens(ids, "resid_post.0-1")
    assert np.array_equal(pre.data["kl"].values, post.data["kl"].values), (
        "what enters a layer is what left the one before"
    )
    assert llama.lens(ids).data["site"].values.tolist() == [f"resid_post.{layer}" for layer in range(3)]
    some = llama.lens(ids, "resid_post.1", at=[4, 1])
    assert some.data["token"].values.tolist() == [[str(ids[0][4]), str(ids[0][1])]]
    assert some.data["target"].values.tolist() == [[str(ids[0][5]), str(ids[0][2])]]
    assert some.data["at"].values.tolist() == [[4, 1]]
    whole = every.data.isel(layer=4, position=[4, 1])["surprisal"].values
    assert np.array_equal(some.data["surprisal"].values[:, 0], whole)


@pytest.mark.sensitive
def test_padding_and_company_change_nothing(model: pc.Model) -> None:
    ids = [row[:length] for row, length in zip(tiny.ids(3, 9), (9, 4, 6), strict=True)]
    together = model.lens(ids)
    tolerance = FLOAT32_INSIDE.get(model.sites.family.name, 1e-10)
    for i, row in enumerate(ids):
        alone, mine = model.lens([row]).data, together.data.isel(prompt=[i], position=slice(0, len(row)))
        for name in METRICS:
            assert mine[name].values == pytest.approx(alone[name].values, rel=tolerance, abs=tolerance, nan_ok=True)
        assert np.isnan(together.data["entropy"].values[i, :, len(row) :]).all()
        assert (together.data["top_id"].values[i, :, len(row) :] == -1).all()
    assert len(together.frame()) == 3 * (9 + 4 + 6)


def test_leaves_no_trace() -> None:
    model = pc.wrap(tiny.build("llama"))
    with no_trace(model.module):
        model.lens(tiny.ids(2, 5), ["resid_mid", "resid_post"])
        model.contributions(tiny.ids(1, 5), [3], heads=True)
        with pytest.raises(pc.InputError):
            model.lens(tiny.ids(2, 5), "mlp_out")


def test_half_precision_gives_float32_logits() -> None:
    module = tiny.build("gemma2", torch.bfloat16)
    model, ids = pc.wrap(module), tiny.ids(1, 8)
    states = model.record(ids, "resid_post.2")["resid_post.2"][0]
    logits = LogitLens(model).logits(states)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits.bfloat16(), model.run(ids).logits[0], rtol=2e-2, atol=2e-2)
    with torch.no_grad():
        normed = module.model.norm(states).float()
        wanted = 30.0 * torch.tanh(normed @ module.lm_head.weight.float().T / 30.0)
    assert torch.allclose(logits, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.equal(logits, logits.bfloat16().float()), "they are finer than half precision"
    assert model.lens(ids).data["kl"].dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": "mlp_out"}, "unknown site for a lens 'mlp_out.0'"),
        ({"sites": "z.0.h1"}, "unknown site for a lens"),
        ({"sites": "resid_pots"}, "did you mean 'resid_post'"),
        ({"sites": "resid_post.9"}, "layer 9 of 'resid_post' is outside"),
        ({"sites": []}, "no site to look at"),
        ({"k": 0}, r"k=0 is outside 1..97"),
        ({"k": 98}, r"k=98 is outside 1..97"),
        ({"chunk": 0}, "chunk=0"),
        ({"at": 9}, "position 9 is outside the prompt"),
        ({"at": "lsat"}, "did you mean 'last'"),
        ({"targets": [1, 2]}, "2 targets for 1 prompts"),
        ({"targets": 97}, "output 97 is outside"),
    ],
)
def test_bad_requests_are_refused(llama: pc.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        llama.lens(tiny.ids(1, 4), **options)


def test_an_empty_prompt_is_refused(llama: pc.Model) -> None:
    for empty in ([], [[]]):
        with pytest.raises(pc.InputError, match="empty"):
            llama.lens(empty)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bert", "BertForMaskedLM: it is an encoder"),
        ("opt_post_norm", "it has no final norm"),
        ("vit", "its output is not a prediction of tokens"),
        ("resnet", "its output is not a prediction of tokens"),
    ],
)
def test_models_without_a_lens_are_refused_with_the_reason(name: str, reason: str) -> None:
    model = opened(name)
    for ask in (lambda: model.lens([[1, 2]]), lambda: model.contributions([[1, 2]], 3)):
        with pytest.raises(pc.ModelError, match=reason):
            ask()


def test_models_without_layers_or_head_are_refused() -> None:
    with pytest.raises(pc.ModelError, match="it is a plain module"):
        pc.wrap(torch.nn.Sequential(torch.nn.Linear(3, 3)).eval()).lens(torch.zeros(1, 3))
    with pytest.raises(pc.ModelError, match="has no head; load the model with one"):
        pc.wrap(tiny.build("llama").model).lens([[1, 2]])


def test_logits_that_are_not_numbers_are_refused() -> None:
    model = tiny.opened_then_infinite()
    with pytest.raises(pc.ModelError, match="gives NaN or infinity, which arises first at mlp_out.1"):
        model.lens(tiny.ids(1, 4))


def test_saved_and_opened_it_is_the_same(llama: pc.Model, tmp_path: Path) -> None:
    ids = [row[:length] for row, length in zip(tiny.ids(2, 6), (6, 3), strict=True)]
    lens = llama.lens(ids, ["resid_mid", "resid_post"], k=2)
    lens.save(tmp_path / "lens")
    assert pc.open(tmp_path / "lens") == lens
    assert pc.repeat(tmp_path / "lens", llama).frame().equals(lens.frame())
    page = (tmp_path / "lens" / "report.html").read_text()
    assert "resid_mid.1, position 2" in page
    assert "final probability" in page
    assert {"site", "rank", "kl", "top_token", "token", "target"} <= set(lens.frame().columns)


def test_the_likeliest_tokens_of_a_position(llama: pc.Model) -> None:
    lens = llama.lens(tiny.ids(1, 4), k=3)
    assert lens.top(0).shape == (3, 3)
    assert lens.top()[0].tolist() == [str(i) for i in lens.data["top_id"].values[0, :, -1, 0]]
    short, long = [7, 8], [7, 8, 9, 10]
    both, alone = llama.lens([short, long], k=3), llama.lens([short], k=3)
    for position in (-2, -1, 0, 1):
        assert both.top(position).equals(alone.top(position)), "positions are counted in their own prompt"
    assert both.top(-1, 1).loc["resid_post.2"].tolist() == [str(i) for i in llama.run([long]).top(3)["id"]]
    with pytest.raises(pc.InputError, match="position 2 is outside the 2 positions"):
        both.top(2)
    for options in ({"position": 4}, {"position": -5}, {"prompt": 1}, {"prompt": -2}):
        with pytest.raises(pc.InputError, match="outside"):
            lens.top(**options)


@pytest.mark.assets
def test_the_capital_comes_late(smollm2: pc.Model) -> None:
    prompt = "The capital of Spain is"
    data = smollm2.lens(prompt, at="last", targets=" Madrid").data.isel(prompt=0, position=0)
    assert data["rank"].values[-1] == 0
    assert data["rank"].values[:20].min() > 10, "early layers do not know it"
    assert float(data["probability"].values[-1]) == pytest.approx(
        float(smollm2.top(prompt, 1)["probability"][0]), abs=1e-5
    )
    shuffled = smollm2.lens("is Spain of capital The", at="last", targets=" Madrid").data
    assert float(shuffled["probability"].values[0, -1, 0]) < 0.05


def test_a_lens_of_inputs_without_tokens_says_so() -> None:
    model = pc.wrap(tiny.shared("llama"))
    with pytest.raises(pc.InputError, match="no tokens"):
        model.lens({"inputs_embeds": torch.randn(1, 3, 32)})
