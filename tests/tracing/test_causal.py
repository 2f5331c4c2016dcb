from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from tests import tiny
from tests.lenses.families import opened
from tests.traces import no_trace
from tests.tracing import by_loop

IDS = tiny.ids(1, 7)[0]
SUBJECT = [2, 3]


def noise_of(model: pc.Model, trace: pc.Trace, sample: int) -> torch.Tensor:
    """The noise of a sample, as the difference that its edit makes."""
    said = trace.record["parameters"] | trace.record["resolved"]
    edit = pc.Noise(said["noise"] * said["std"], said["seeds"][sample], site="embed", at=SUBJECT)
    noisy = model.record([IDS], "embed", at=SUBJECT, edits=edit)["embed"][0]
    return noisy - model.record([IDS], "embed", at=SUBJECT)["embed"][0]


@pytest.mark.parametrize(
    ("family", "site", "width"),
    [
        ("llama", "resid_post", 1),
        ("llama", "mlp_out", 2),
        ("gpt2", "attn_out", 3),
        *(
            pytest.param(family, site, width, marks=pytest.mark.slow)
            for family, site, width in [
                ("gpt2", "resid_post", 1), ("gpt2", "mlp_out", 2), ("llama", "attn_out", 3), ("llama", "mlp_out", 10), ("gpt2", "mlp_out", 10),
            ]
        ),
    ],
)  # fmt: skip
def test_the_trace_is_romes_loop(family: str, site: str, width: int) -> None:
    module = tiny.shared(family)
    model = pc.wrap(module)
    with no_trace(module):
        trace = model.causal_trace([IDS], SUBJECT, 9, sites=site, window=width, samples=2)
    path = by_loop.PATHS[family][site]
    clean = by_loop.states(module, IDS, path, 3)
    for sample in range(2):
        noise = noise_of(model, trace, sample)
        base = by_loop.corrupted(module, family, IDS, SUBJECT, noise).softmax(-1)[9]
        assert abs(float(trace.corrupted["probability"][sample]) - base) < 1e-12
        for layer in range(3):
            for position in range(7):
                near = by_loop.window(layer, width, 3)
                restore = [(path.format(i), position, clean[i][position]) for i in near]
                p = by_loop.corrupted(module, family, IDS, SUBJECT, noise, restore).softmax(-1)[9]
                cell = trace.data.sel(site=site, layer=layer, position=position, sample=sample)
                assert abs(float(cell["probability"]) - p) < 1e-10
                assert abs(float(cell["log_odds"]) - torch.logit(p)) < 1e-8


def test_effects_are_differences(llama: pc.Model) -> None:
    trace = llama.causal_trace([IDS], SUBJECT, sites=["resid_post", "mlp_out"], samples=3)
    clean = llama.run([IDS]).logits[0, -1].softmax(-1)
    assert trace.answer == str(int(clean.argmax()))
    assert float(trace.clean["probability"]) == pytest.approx(float(clean.max()), rel=1e-12)
    total, indirect = trace.total_effect(), trace.indirect_effect("log_odds")
    assert total.dims == ("sample",)
    assert indirect.dims == ("site", "layer", "position", "sample")
    before = trace.indirect_effect().sel(position=[0, 1])
    assert (before == 0).all(), "restoring before the subject is no cell: the corrupted baseline itself"
    last = trace.indirect_effect().sel(site="resid_post", layer=2, position=6)
    assert np.allclose(last, total), "the last state of the last token is the clean run"
    assert float(trace.relative().sel(site="resid_post", layer=2, position=6)) == pytest.approx(1)
    whole = {
        name: trace.indirect_effect(name).transpose("site", "layer", "position", "sample").values
        for name in trace.reads
    }
    for name, effects in whole.items():
        average = effects.sum(-1) / 3
        error = np.sqrt(((effects - average[..., None]) ** 2).sum(-1) / 2 / 3)
        assert np.allclose(trace.mean(name)["standard_error"], error)
        lost = float((trace.clean[name] - trace.corrupted[name]).sum() / 3)
        assert np.allclose(trace.relative(name), average / lost)
        assert np.allclose(trace.layer_means(name), average[..., 2:].sum(-1) / 5), "from the subject on"
    average = whole["probability"].mean(-1)
    site, layer, position = np.unravel_index(abs(average).argmax(), average.shape)
    assert (
        f"largest    {average[site, layer, position]:.4g} at {trace.data['site'].values[site]}.{layer}, position {position} "
        in repr(trace)
    )
    assert "3 samples" in repr(trace)
    with pytest.raises(pc.InputError, match="unknown read 'probabilty'; did you mean 'probability'"):
        trace.mean("probabilty")


def test_windows_are_romes_unless_others_are_given(llama: pc.Model) -> None:
    def windows(given: object) -> object:
        sites = ["resid_post.1", "mlp_out.1", "attn_out.1"]
        return llama.causal_trace([IDS], SUBJECT, 9, sites=sites, samples=1, window=given).record["parameters"][
            "window"
        ]  # type: ignore[arg-type]

    assert windows(None) == {"resid_post": 1, "mlp_out": 10, "attn_out": 10}
    assert windows(2) == {"resid_post": 2, "mlp_out": 2, "attn_out": 2}
    assert windows({"mlp_out": 3}) == {"resid_post": 1, "mlp_out": 3, "attn_out": 1}


def test_restoring_everything_gives_the_clean_run(llama: pc.Model) -> None:
    whole = llama.causal_trace([IDS], [0], 9, sites="resid_pre.0", samples=2)
    assert np.allclose(whole.indirect_effect().sel(position=0), whole.total_effect(), atol=1e-13)


def test_without_noise_nothing_is_lost(llama: pc.Model) -> None:
    trace = llama.causal_trace([IDS], SUBJECT, samples=2, noise=0)
    assert float(abs(trace.total_effect()).max()) < 1e-14
    assert float(abs(trace.indirect_effect()).max()) < 1e-14


def test_seeds_decide_the_noise_and_nothing_else_does(llama: pc.Model) -> None:
    few, many, other = (
        llama.causal_trace([IDS], SUBJECT, 9, samples=n, seed=s, sites="resid_post.1")
        for n, s in ((2, 0), (3, 0), (2, 1))
    )
    assert np.array_equal(few.corrupted["probability"], many.corrupted["probability"][:2])
    assert not np.isclose(few.corrupted["probability"], other.corrupted["probability"]).any()
    assert few == llama.causal_trace([IDS], SUBJECT, 9, samples=2, sites="resid_post.1")


def test_the_deviation_is_that_of_the_stated_tokens(llama: pc.Model) -> None:
    own = llama.record([IDS], "embed", at=SUBJECT)["embed"].std()
    trace = llama.causal_trace([IDS], SUBJECT, samples=1, sites="resid_post.0")
    assert trace.record["resolved"]["std"] == pytest.approx(float(own))
    assert "the subject's 2 tokens" in repr(trace)
    given = llama.causal_trace([IDS], SUBJECT, samples=1, sites="resid_post.0", std=0.5)
    assert given.record["resolved"]["std"] == 0.5


def test_another_read(llama: pc.Model) -> None:
    trace = llama.causal_trace([IDS], SUBJECT, samples=1, read=pc.LogitDifference(5, 9))
    assert trace.reads == ("logit_difference",)
    assert trace.answer is None
    with pytest.raises(pc.InputError, match="not both"):
        llama.causal_trace([IDS], SUBJECT, 5, read=pc.LogitDifference(5, 9))
    with pytest.raises(pc.InputError, match="one number a run"):
        llama.causal_trace([IDS], SUBJECT, read=pc.Logits())


def test_saved_and_opened(llama: pc.Model, tmp_path: Path) -> None:
    trace = llama.causal_trace([IDS], SUBJECT, samples=2, sites=["resid_post", "mlp_out"])
    trace.save(tmp_path)
    assert pc.open(tmp_path) == trace
    assert "Indirect effect: log odds" in (tmp_path / "report.html").read_text()
    for layers in ("up", "right"):
        assert trace.figure(layers=layers).axes
    labels = [t.get_text() for t in trace.figure().axes[0].get_xticklabels()]
    assert [label.endswith("*") for label in labels] == [i in SUBJECT for i in range(7)]


def test_made_again_from_its_folder(llama: pc.Model, tmp_path: Path) -> None:
    made = {
        "trace": llama.causal_trace(
            [IDS], SUBJECT, samples=1, sites=["resid_post", "mlp_out"], method="gradient", check=2
        ),
        "neurons": llama.neuron_importances([IDS], SUBJECT, samples=2, verify=2),
        "attribution": llama.attribution_patch(
            [IDS], tiny.ids(1, 7, seed=5), read=pc.LogitDifference(5, 9), integrate=2, check=2
        ),
    }
    for name, result in made.items():
        result.save(tmp_path / name)
        assert pc.repeat(tmp_path / name, llama)._dataset().identical(result._dataset()), name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 0}, "samples is how often noise is drawn, 1 or more; got 0"),
        ({"noise": -1.0}, "0 or more; got -1.0"),
        ({"std": -1.0}, "std must be 0 or more"),
        ({"subject": 9}, "position 9 is outside the prompt"),
        ({"sites": "embed"}, "a trace restores whole states of layers"),
        ({"sites": "z.1.h0"}, "neuron_importances"),
        ({"window": 0}, "a window is a number of layers"),
        ({"window": {"mlp_out": 3}}, "unknown site of window 'mlp_out'"),
        ({"method": "fast"}, "unknown method 'fast'"),
        ({"answer": 97}, "output 97 is outside 0..96"),
    ],
)
def test_what_does_not_fit_is_refused(llama: pc.Model, options: dict[str, object], said: str) -> None:
    with no_trace(llama.module), pytest.raises(pc.InputError, match=said):
        llama.causal_trace([IDS], **{"subject": SUBJECT, **options})  # type: ignore[arg-type]


def test_encoders_and_several_prompts_are_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="BertForMaskedLM reads both ways"):
        opened("bert").causal_trace([IDS], SUBJECT)
    with pytest.raises(pc.InputError, match="one prompt made of tokens, got 2"):
        llama.causal_trace(tiny.ids(2, 4), SUBJECT)


@pytest.mark.assets
def test_text_is_checked_against_the_tokens(smollm2: pc.Model) -> None:
    prompt = "The capital of France is"
    with pytest.raises(pc.PositionError, match=r"'Spain' is not in the prompt; its tokens are \['The', ' capital'"):
        smollm2.causal_trace(prompt, "Spain")
    with pytest.raises(pc.PositionError, match=r"does not end on token borders: it lies inside ' France'"):
        smollm2.causal_trace(prompt, "Fran")
    with pytest.raises(pc.InputError, match="is not one token"):
        smollm2.causal_trace(prompt, "France", " Ouagadougou")
    trace = smollm2.causal_trace(prompt, "France", samples=1, sites="resid_post.0", std=["Rome", "a cat"])
    ids = [token for text in ("Rome", "a cat") for token in smollm2.tokenizer(text)["input_ids"]]
    wanted = float(smollm2.module.get_input_embeddings().weight.detach()[ids].std())
    said = trace.record["resolved"]
    assert (said["std"], said["std_of"]) == (pytest.approx(wanted, rel=1e-5), f"the {len(ids)} tokens of 2 texts")


@pytest.mark.assets
def test_the_early_and_the_late_site(smollm2: pc.Model) -> None:
    layers = "resid_post.0,8,16,24,29"
    trace = smollm2.causal_trace("The capital of France is", "France", " Paris", sites=layers, samples=3)
    share = trace.relative().sel(site="resid_post")
    assert float(trace.total_effect().mean()) > 0.3
    assert (share.sel(layer=[0, 8], position=3) > 0.8).all(), "early site: the subject's last token"
    assert (abs(share.sel(layer=[0, 8], position=4)) < 0.1).all()
    assert (share.sel(layer=29, position=4) > 0.99).all(), "late site: the last token"
    assert (abs(share.sel(layer=29, position=3)) < 1e-6).all()
    assert (trace.indirect_effect().sel(position=[0, 1, 2]) == 0).all(), "control: before the subject"
