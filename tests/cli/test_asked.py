"""What every verb asks of the library: each option, given another value than its default, reaches the call; and so do the defaults."""

from pathlib import Path
from typing import Any

import pytest
import torch

import patchclamp as pc
from patchclamp.cli import study
from patchclamp.cli.app import main


class Asked(Exception):
    """What was asked, and nothing is done."""


class Asking:
    """A model that tells what it is asked."""

    def __init__(self, *skipped: str) -> None:
        self.skipped = skipped
        self.sites = type("Sites", (), {"n_layers": 3, "layers": ("0",), "expand": lambda _, sites: sites})()

    def embedding(self, token: str) -> torch.Tensor:
        return torch.full((4,), float(len(token)))

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any, **options: Any) -> Any:
            if name in self.skipped:
                return self
            raise Asked(name, arguments, options)

        return ask


PAIR = ["--answer", " a", "--answer", " b"]
LOGIT = pc.LogitDifference(" a", " b")
NOISE = {
    "window": None,
    "samples": 10,
    "noise": 3.0,
    "std": None,
    "seed": 0,
    "method": "exact",
    "integrate": 0,
    "check": 20,
    "budget": "1GB",
    "verify": 0,
    "checkpoint": None,
}
FACT = {
    "layer": None,
    "true": None,
    "covariance": "gutenberg",
    "ridge": 1e-3,
    "prefixes": 5,
    "steps": 25,
    "lr": 0.5,
    "kl": 0.0625,
    "decay": 0.05,
    "clamp": 4.0,
    "seed": 0,
}
TUNE = {
    "tokens": 250_000,
    "length": None,
    "passes": 1,
    "held_out": 0.1,
    "optimizer": "adam",
    "learning_rate": None,
    "weight_decay": 0.0,
    "batch": 512,
    "seed": 0,
    "checkpoint": None,
}
CASES: dict[str, tuple[str, str, tuple[Any, ...], dict[str, Any]]] = {
    "top": ("top M P", "top", ("P", 10), {}),
    "top of three": ("top M P -k 3", "top", ("P", 3), {}),
    "patch": ("patch M S P {pair}", "patch", ("S", "P"),
        {"sites": ["resid_post"], "at": "each", "align": "equal", "read": [LOGIT], "budget": "1GB", "verify": 0, "checkpoint": None}),
    "patch, all options": ("patch M S P --site z.*.h* --site embed --at 2:3 --align ends --read loss --read kl --budget 2GB --verify 4 --checkpoint c", "patch", ("S", "P"),
        {"sites": ["z.*.h*", "embed"], "at": slice(2, 3), "align": "ends", "read": [pc.Loss(), pc.KL()], "budget": "2GB", "verify": 4, "checkpoint": "c"}),
    "attribute": ("attribute M S P {pair}", "attribution_patch", ("S", "P"),
        {"sites": ["resid_post"], "at": "each", "align": "equal", "read": [LOGIT], "integrate": 0, "check": 20}),
    "attribute, all options": ("attribute M S P --site embed --at 1 --align left --read loss --integrate 3 --check 4", "attribution_patch", ("S", "P"),
        {"sites": ["embed"], "at": 1, "align": "left", "read": [pc.Loss()], "integrate": 3, "check": 4}),
    "path": ("path M S P {pair}", "path_patch", ("S", "P"),
        {"sender": ["z.*.h*"], "receivers": ["final_norm"], "at": "all", "receive_at": "all", "freeze": ["attn_out", "mlp_out"],
         "align": "equal", "read": [LOGIT], "budget": "1GB", "verify": 0, "checkpoint": None}),
    "path, all options": ("path M S P --sender mlp_out --receiver q.2 --receiver k.2 --at 1 --receive-at last --freeze nothing --align right --read kl --budget 2GB --verify 3", "path_patch", ("S", "P"),
        {"sender": ["mlp_out"], "receivers": ["q.2", "k.2"], "at": 1, "receive_at": "last", "freeze": [], "align": "right",
         "read": [pc.KL()], "budget": "2GB", "verify": 3, "checkpoint": None}),
    "lens": ("lens M P", "lens", ("P", ["resid_post"], "all"), {"k": 5, "targets": "next", "tuned": None}),
    "lens, all options": ("lens M P --site resid_mid --at 2 -k 3 --target T", "lens", ("P", ["resid_mid"], 2), {"k": 3, "targets": "T", "tuned": None}),
    "curves": ("curves M gutenberg", "lens_curves", ("gutenberg", ["resid_post"], "all"), {"tuned": None, "length": 128, "tokens": 20_000, "progress": True}),
    "curves, all options": ("curves M gutenberg --site resid_mid --at last --tokens 64 --length 16", "lens_curves", ("gutenberg", ["resid_mid"], "last"),
        {"tuned": None, "length": 16, "tokens": 64, "progress": True}),
    "patchscope": ("patchscope M P", "patchscope", ("P", ["resid_post"], "last"), {"into": None, "into_at": "last", "k": 5, "max_new_tokens": 0}),
    "patchscope, all options": ("patchscope M P --target T --site resid_mid --at 0:2 --into resid_post.2 --into-at -1 -k 3 -n 7", "patchscope", ("P", ["resid_mid"], slice(0, 2)),
        {"into": "resid_post.2", "into_at": -1, "k": 3, "max_new_tokens": 7, "target": "T"}),
    "weights": ("weights M --matrix qk.1", "weight_lens", (["qk.1"],), {"directions": 5, "k": 8, "through": "embedding", "draws": 20, "seed": 0}),
    "weights, all options": ("weights M --matrix qk.1 --matrix ov.2 --directions 3 -k 4 --through unembedding --draws 6 --seed 7", "weight_lens", (["qk.1", "ov.2"],),
        {"directions": 3, "k": 4, "through": "unembedding", "draws": 6, "seed": 7}),
    "heads": ("heads M", "head_scores", (None, None), {"length": 32, "samples": 8, "seed": 0, "draws": 100}),
    "heads, all options": ("heads M --text T --word W --length 5 --samples 6 --seed 7 --draws 9", "head_scores", ("T", "W"),
        {"length": 5, "samples": 6, "seed": 7, "draws": 9}),
    "trace": ("trace M P --subject S", "causal_trace", ("P", "S", None), {"sites": ["resid_post"], **NOISE}),
    "trace, all options": ("trace M P --subject token:S#1 --answer A --site mlp_out --window 2 --samples 3 --noise 4 --std 5 --seed 6 --method gradient --integrate 7 --check 8 --budget 2GB --verify 9",
        "causal_trace", ("P", pc.token("S", 1), "A"),
        {"sites": ["mlp_out"], "window": 2, "samples": 3, "noise": 4.0, "std": 5.0, "seed": 6, "method": "gradient", "integrate": 7, "check": 8, "budget": "2GB", "verify": 9, "checkpoint": None}),
    "trace facts": ("trace M --facts facts.csv --seed 6", "trace_facts", ([("P one", "one", "A"), ("P two", "two", None)],),
        {"sites": ["resid_post"], "progress": True, **NOISE, "seed": 6}),
    "generate": ("generate M P Q", "generate", (["P", "Q"],), {"max_new_tokens": 40, "seed": None}),
    "generate, all options": ("generate M P -n 3 --seed 4 --temperature 0.5 --samples 2 --stop . --stop !", "generate", (["P"],),
        {"max_new_tokens": 3, "seed": 4, "do_sample": True, "temperature": 0.5, "num_return_sequences": 2, "stop_strings": [".", "!"]}),
    "edit fact": ("edit fact M P --subject S --target T", "rewrite_fact", ("P", "S", "T"), FACT),
    "edit fact, all options": ("edit fact M P --subject S --target T --layer 1 --true U --covariance identity --ridge 2 --prefixes 3 --steps 4 --lr 5 --kl 6 --decay 7 --clamp 8 --seed 9",
        "rewrite_fact", ("P", "S", "T"),
        {"layer": 1, "true": "U", "covariance": "identity", "ridge": 2.0, "prefixes": 3, "steps": 4, "lr": 5.0, "kl": 6.0, "decay": 7.0, "clamp": 8.0, "seed": 9}),
    "tune-lens": ("tune-lens M --out out", "tune_lens", ("gutenberg",), TUNE),
    "tune-lens, all options": ("tune-lens M --out out --corpus facts.csv --tokens 9 --length 8 --passes 7 --held-out 0.6 --optimizer sgd --learning-rate 5 --weight-decay 4 --batch 3 --seed 2 --checkpoint c",
        "tune_lens", (["prompt,subject,answer\nP one,one,A\nP two,two,\n"],),
        {"tokens": 9, "length": 8, "passes": 7, "held_out": 0.6, "optimizer": "sgd", "learning_rate": 5.0, "weight_decay": 4.0, "batch": 3, "seed": 2, "checkpoint": Path("c")}),
    "sweep": ("sweep M P Q --op add --token Rome_ --site mlp_out {pair}", "sweep", (["P", "Q"], [pc.Add(torch.full((4,), 5.0), site=("mlp_out",))]),
        {"sites": ["mlp_out"], "at": None, "cumulative": False, "over": {}, "read": [pc.Probability([" a", " b"])], "budget": "1GB", "verify": 0, "checkpoint": None}),
    "sweep, all options": ("sweep M P --op scale --scale 3 --site mlp_out --site embed --site mlp_out --at each --cumulative --over factor=1,2 --read kl --budget 2GB --verify 4 --checkpoint c",
        "sweep", (["P"], [pc.Scale(3.0, site=("mlp_out", "embed", "mlp_out"), at="each")]),
        {"sites": ["mlp_out", "embed"], "at": "each", "cumulative": True, "over": {"factor": [1, 2]}, "read": [pc.KL()], "budget": "2GB", "verify": 4, "checkpoint": "c"}),
    "plan of a sweep": ("sweep M P --op zero --site mlp_out --at each --read kl --cumulative --over factor=1 --budget 2GB --plan", "plan", (["P"], [pc.Zero(site=("mlp_out",), at="each")]),
        {"sites": ["mlp_out"], "at": "each", "cumulative": True, "over": {"factor": [1]}, "read": [pc.KL()], "budget": "2GB"}),
    "noise": ("sweep M P --op noise --std 2 --noise-seed 5 --site mlp_out --read kl", "sweep", (["P"], [pc.Noise(2.0, 5, site=("mlp_out",))]),
        {"sites": ["mlp_out"], "at": None, "cumulative": False, "over": {}, "read": [pc.KL()], "budget": "1GB", "verify": 0, "checkpoint": None}),
}  # fmt: skip


def asked(line: str, monkeypatch: pytest.MonkeyPatch, *skipped: str) -> tuple[Any, ...]:
    """What a command asks of its model."""
    monkeypatch.setattr(pc, "load", lambda *_, **__: Asking(*skipped))
    words = [part for word in line.split() for part in (PAIR if word == "{pair}" else [word])]
    with pytest.raises(Asked) as caught:
        main(words)
    return caught.value.args


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_is_what_is_asked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("facts.csv").write_text("prompt,subject,answer\nP one,one,A\nP two,two,\n")
    line, method, arguments, options = CASES[name]
    found = asked(line, monkeypatch)
    assert found[0] == method
    assert found[1] == arguments
    assert found[2] == options


def test_a_run_shows_as_many_tokens_as_asked_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked("run M P --op zero --site mlp_out -k 4", monkeypatch) == ("top", ("P", 4), {})
    line = "run M P --op zero --site mlp_out --at 2 --record resid_post --record z.1"
    wanted = ("run", ("P", [pc.Zero(site=("mlp_out",), at=2)]), {"record": ["resid_post", "z.1"]})
    assert asked(line, monkeypatch, "top") == wanted


def test_a_direction_is_fitted_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n").write_text("a\nb")
    (tmp_path / "p").write_text("c\nd")
    line = f"direction fit M --site resid_post --out {tmp_path / 'out'} --negative {tmp_path / 'n'} --positive {tmp_path / 'p'}"
    name, (estimator, *rest), options = asked(line, monkeypatch)
    assert (name, rest) == ("fit_directions", [["a", "b", "c", "d"], [0, 0, 1, 1], "resid_post"])
    assert options == {"at": "rest", "groups": [0, 1, 0, 1], "holdout": 0.25, "seed": 0}
    assert isinstance(estimator, pc.directions.MeanDifference)
    line += " --at last --holdout 0.5 --seed 3 --method rlace --option rank=2"
    _, (estimator, *_), options = asked(line, monkeypatch)
    assert options == {"at": "last", "groups": [0, 1, 0, 1], "holdout": 0.5, "seed": 3}
    assert (type(estimator).__name__, estimator.rank) == ("RLACE", 2)


def studied(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Any, ...]:
    """What a command asks of a study, and the configuration that it leaves."""
    from importlib import import_module

    name = line.split()[0]
    module = import_module(f"patchclamp.studies.{name.replace('-', '_')}")
    seen: list[Any] = []
    monkeypatch.setattr(
        pc, "load", lambda name, **_: f"opened {name}" if "directions" not in module.__name__ else Asking()
    )

    class Found:
        def summary(self) -> dict[str, Any]:
            return {"found": 1}

        def text(self) -> str:
            return "it was found"

    def stub(*arguments: Any, **options: Any) -> Found:
        seen.append((arguments, options))
        return Found()

    monkeypatch.setattr(module, "study", stub)
    monkeypatch.setattr(study, "remember", lambda *args: seen.append(args))
    capsys.readouterr()
    assert main(["study", *line.split()]) == 0
    assert capsys.readouterr().out == "it was found\n"
    assert main(["study", *line.split(), "--json"]) == 0
    assert capsys.readouterr().out == '{"found": 1}\n'
    (arguments, options), (out, _, verb, config) = seen[:2]
    assert verb == f"study.{name}"
    return arguments, options, out, config


def outs(name: str) -> Path:
    return Path("out") / name


SHAPED = {"progress": True}
M, N = "opened smollm2-135m", "opened n"


@pytest.mark.parametrize(
    ("line", "arguments", "options"),
    [
        ("activation-addition", (M, outs("activation-addition")), {}),
        ("facts", (M, outs("facts")), {"template": "The capital of {} is the city of", "most": 40, "samples": 4, "seed": 0, **SHAPED}),
        ("facts --model n --most 5 --samples 2 --seed 3 --template x{} --out o", (N, Path("o")), {"template": "x{}", "most": 5, "samples": 2, "seed": 3, **SHAPED}),
        ("dursley --text t.txt --name n --other m --passages 3 --samples 2 --seed 1", (M, outs("dursley")),
         {"text": "a text", "name": "n", "other": "m", "passages": 3, "samples": 2, "seed": 1}),
        ("rome-capitals --model n", (N, outs("rome-capitals")), {}),
        ("gender-erasure --layer 3 4", (M, outs("gender-erasure")), {"layers": [3, 4]}),
        ("gender-erasure", (M, outs("gender-erasure")), {"layers": None}),
        ("meaningless-direction", (M, outs("meaningless-direction")), {"layer": None, "draws": 3, "steps": 20, **SHAPED}),
        ("meaningless-direction --layer 4 --draws 1 --steps 2", (M, outs("meaningless-direction")), {"layer": 4, "draws": 1, "steps": 2, **SHAPED}),
        ("sentiment-steering", (M, outs("sentiment-steering")), {}),
        ("politics", (M, outs("politics")), {"layer": 15, "each": 16}),
        ("politics --layer 4 --each 5", (M, outs("politics")), {"layer": 4, "each": 5}),
        ("concept-matrix", (M, outs("concept-matrix")), {"layer": 15, "count": 80}),
        ("concept-matrix --layer 4 --count 5", (M, outs("concept-matrix")), {"layer": 4, "count": 5}),
        ("polytopes-smollm2", (M, outs("polytopes-smollm2")), {"layers": (2, 8, 14), "count": 36, "seed": 0, **SHAPED}),
        ("polytopes-smollm2 --layer 1 2 --count 3 --seed 4", (M, outs("polytopes-smollm2")), {"layers": (1, 2), "count": 3, "seed": 4, **SHAPED}),
        ("mnist-additions", (outs("mnist-additions"),),
         {"data": "mnist", "kinds": ["residual", "mlp"], "seeds": [0, 1, 2], "epochs": 10, "rows": 500, "pairs": [(3, 1), (1, 8)], **SHAPED}),
        ("mnist-additions --data fashion-mnist --kind cnn --seeds 4 5 --epochs 2 --pair 7-2 --rows 9", (outs("mnist-additions"),),
         {"data": "fashion-mnist", "kinds": ["cnn"], "seeds": [4, 5], "epochs": 2, "rows": 9, "pairs": [(7, 2)], **SHAPED}),
        ("what-additions-need --small --seeds 3 --rows 7 --case a b", (outs("what-additions-need"),), {"cases": ["a", "b"], "seeds": [3], "rows": 7, **SHAPED}),
        ("what-additions-need --vision v", (outs("what-additions-need"),),
         {"cases": None, "seeds": [0, 1], "rows": 100, "model": M, "vision": "opened v", **SHAPED}),
    ],
)  # fmt: skip
def test_a_study_is_run_as_asked(
    line: str, arguments: tuple[Any, ...], options: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("a text")
    found = studied(line, monkeypatch, capsys)
    assert found[:2] == (arguments, options)
    assert found[2] == arguments[-1], "the configuration lies with the rest"
    assert found[3]["out"] == arguments[-1]
    said = {
        k: v
        for k, v in options.items()
        if k not in ("progress", "layers", "cases", "kinds", "pairs", "model", "vision", "text")
    }
    assert {k: found[3][k] for k in said} == said


def test_studies_of_networks_get_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from patchclamp.studies.classes_and_maps import NetworkSetting
    from patchclamp.studies.polytopes_mnist import Sizes
    from patchclamp.studies.training import Shape

    line = "classes-and-maps --data fashion-mnist --seeds 2 --train 30 --epochs 4 --width 5"
    found = studied(line, monkeypatch, capsys)
    assert found[:2] == ((outs("classes-and-maps"), NetworkSetting("fashion-mnist", 2, 30, 4, 5)), SHAPED)
    found = studied("classes-and-maps", monkeypatch, capsys)
    assert found[0][1] == NetworkSetting()
    found = studied("polytopes-mnist --kind mlp --seed 4 5 --epochs 2 --width 3 --pairs 6", monkeypatch, capsys)
    wanted = {
        "kinds": ("mlp",),
        "seeds": (4, 5),
        "sizes": Sizes(pairs=6),
        "data": "mnist",
        "epochs": 2,
        "width": 3,
        **SHAPED,
    }
    assert found[:2] == ((outs("polytopes-mnist"),), wanted)
    found = studied("polytopes-mnist", monkeypatch, capsys)
    assert found[1] == {
        "kinds": ("mlp", "residual"),
        "seeds": (0, 1, 2),
        "sizes": Sizes(),
        "data": "mnist",
        "epochs": 10,
        "width": 512,
        **SHAPED,
    }
    found = studied("dropout --model a --other b --seeds 2 --rounds 3 --steps 4", monkeypatch, capsys)
    assert found[1]["models"] == {"a": "opened a", "b": "opened b"}
    assert (found[1]["seeds"], found[1]["rounds"], found[1]["shape"]) == (2, 3, Shape(steps=4))
    assert studied("dropout", monkeypatch, capsys)[1]["models"] is None
    assert main(["study", "dropout", "--model", "a"]) == 2
    assert "belong together" in capsys.readouterr().err
    found = studied("code-directions --seeds 2", monkeypatch, capsys)
    assert found[1] == {"seeds": 2, "since": [0, 1, 2]}, "thirds of three layers"
    assert studied("code-directions --since 1", monkeypatch, capsys)[1] == {"seeds": 3, "since": [1]}


def test_pairs_of_classes() -> None:
    assert study._read_pair("3-1") == (3, 1)
    a, b = study._read_pair("random")
    assert a != b
    assert {a, b} <= set(range(10))
    for wrong in ("3", "a-1", "3-", "-1"):
        with pytest.raises(pc.InputError, match="a pair is two class numbers"):
            study._read_pair(wrong)
