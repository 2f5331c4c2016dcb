"""What a command line says of edits, positions, reads and models, against what the library is given; without a model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import patchclamp as pc
from patchclamp.cli.options import EditOptions, Opening
from patchclamp.cli.specs import EditSpec, over_of, position, reads_of

ROME = torch.arange(4.0)


class Model:
    """Knows one token."""

    def embedding(self, token: str) -> torch.Tensor:
        assert token == " Rome"
        return ROME


WHERE: dict[str, Any] = {"site": ("mlp_out.1", "attn_out"), "at": -1}
SAID: dict[str, Any] = {"site": ["mlp_out.1", "attn_out"], "at": "-1"}
OPERATIONS: dict[str, tuple[dict[str, Any], pc.Edit]] = {
    "add": ({"op": "add", "token": " Rome", "scale": 2.5}, pc.Add(ROME, 2.5, **WHERE)),
    "add once": ({"op": "add", "token": " Rome"}, pc.Add(ROME, 1.0, **WHERE)),
    "patch from a prompt": ({"op": "patch", "source": "Italy"}, pc.Patch("Italy", **WHERE)),
    "patch a vector": ({"op": "patch", "token": " Rome"}, pc.Patch(ROME, **WHERE)),
    "zero": ({"op": "zero"}, pc.Zero(**WHERE)),
    "mean": ({"op": "mean", "source": "Italy"}, pc.MeanAblate(["Italy"], **WHERE)),
    "scale all": ({"op": "scale", "scale": 0.5}, pc.Scale(0.5, **WHERE)),
    "scale along": ({"op": "scale", "scale": 0.5, "token": " Rome"}, pc.Scale(0.5, ROME, **WHERE)),
    "project out": ({"op": "project-out", "token": " Rome"}, pc.ProjectOut(ROME, **WHERE)),
    "reflect": ({"op": "reflect", "token": " Rome"}, pc.Reflect(ROME, **WHERE)),
    "clamp": ({"op": "clamp", "low": -1.0, "high": 2.0}, pc.Clamp(-1.0, 2.0, **WHERE)),
    "clamp above": ({"op": "clamp", "high": 2.0}, pc.Clamp(None, 2.0, **WHERE)),
    "noise": ({"op": "noise", "std": 0.25, "noise_seed": 7}, pc.Noise(0.25, 7, **WHERE)),
    "noise as it comes": ({"op": "noise"}, pc.Noise(1.0, 0, **WHERE)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_the_librarys(name: str) -> None:
    said, wanted = OPERATIONS[name]
    built = EditSpec(**said, **SAID).build(Model())  # type: ignore[arg-type]
    assert (built.site, built.at) == (wanted.site, wanted.at)
    assert built == wanted
    others = [edit for other, (_, edit) in OPERATIONS.items() if other != name]
    assert built not in others, "no two of these are the same edit, so every option matters"


def test_an_edit_without_a_place_is_everywhere() -> None:
    assert EditSpec(op="zero").build(Model()) == pc.Zero()  # type: ignore[arg-type]


def test_vectors_of_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file({"v": 1 + ROME}, one)
    save_file({"v": 2 + ROME, "w": 3 + ROME}, two)

    def vector(said: str) -> pc.Edit:
        return EditSpec(op="add", vector=said).build(Model())  # type: ignore[arg-type]

    assert vector(str(one)) == vector(f"{one}:v") == pc.Add(1 + ROME)
    assert vector(f"{two}:v") == pc.Add(2 + ROME)
    assert vector(f"{two}:w") == pc.Add(3 + ROME)
    with pytest.raises(pc.InputError, match="unknown vector in .*two.safetensors"):
        vector(str(two))
    with pytest.raises(pc.InputError, match="none.safetensors' does not exist"):
        vector(str(tmp_path / "none.safetensors"))
    assert EditSpec(op="add", token=" Rome", vector=str(one)).build(Model()) == pc.Add(ROME)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "an edit needs an operation: --op with one of add, patch, zero"),
        ({"op": "mean"}, "--op mean needs --source PROMPT"),
        ({"op": "reflect"}, "--op reflect needs a vector: --token ' Rome'"),
        ({"op": "patch"}, "--op patch needs a vector"),
    ],
)
def test_what_an_operation_needs_is_asked_for(said: dict[str, Any], message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        EditSpec(**said).build(Model())  # type: ignore[arg-type]


def test_edits_as_json_come_before_the_one_spelled_out() -> None:
    model: Any = Model()
    several, short = [EditSpec(op="zero"), EditSpec(op="noise")], EditSpec(op="scale", scale=2.0)
    assert EditOptions(several, short).build(model) == [pc.Zero(), pc.Noise(1.0), pc.Scale(2.0)]
    assert EditOptions(several, EditSpec(scale=3.0)).build(model) == [pc.Zero(), pc.Noise(1.0)], (
        "nothing is spelled out"
    )
    assert EditOptions(None, short).build(model) == [pc.Scale(2.0)]
    assert EditOptions(None, None).build(model) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("last", "last"), ("each", "each"), ("3", 3), ("-2", -2), ("2:5", slice(2, 5)), ("-3:-1", slice(-3, -1)), (":4", slice(None, 4)),
        ("4:", slice(4, None)), ("0, 2,-1", [0, 2, -1]), ("1:3,7", [slice(1, 3), 7]), ("token: she", pc.token(" she")),
        ("token: a#1", pc.token(" a", 1)), ("token: a#0", pc.token(" a", 0)), ("token: a, b", pc.token(" a, b")),
    ],
)  # fmt: skip
def test_positions(text: str, wanted: object) -> None:
    assert position(text) == wanted


def test_reads() -> None:
    wanted = [
        pc.Probability([" a", " b"]),
        pc.Rank([" a", " b"]),
        pc.LogitDifference(" a", " b"),
        pc.Loss(),
        pc.KL(),
        pc.TopK(),
    ]
    found = reads_of(["probability", "rank", "logit-difference", "loss", "kl", "top"], [" a", " b"])
    assert [repr(one) for one in found] == [repr(one) for one in wanted]
    assert len({repr(one) for one in wanted}) == 6
    assert repr(reads_of(["logit-difference"], [" b", " a"])[0]) != repr(wanted[2]), "the first answer less the second"
    assert reads_of(["loss", "kl"], None) == [pc.Loss(), pc.KL()]
    for name in ("probability", "rank", "logit-difference"):
        with pytest.raises(pc.InputError, match=f"--read {name} needs --answer"):
            reads_of([name], None)  # type: ignore[list-item]
    with pytest.raises(pc.InputError, match="needs two answers, got 3"):
        reads_of(["logit-difference"], [" a", " b", " c"])


def test_swept_parameters() -> None:
    found = over_of(["scale=1,2.5,-4", "vector=a"])
    assert found == {"scale": [1, 2.5, -4], "vector": ["a"]}
    assert [type(value) for value in found["scale"]] == [int, float, int]
    assert over_of(None) == {}
    for wrong in ("scale", "scale=", "scale:1"):
        with pytest.raises(pc.InputError, match=f"--over takes name=value,value.*got '{wrong}'"):
            over_of([wrong])


def test_a_model_is_opened_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(pc, "load", lambda *names, **options: asked.append((names, options)))
    Opening().load("m")
    Opening(dtype="float64", device="cuda:0", revision="r", attention="eager").load("n")
    plain = {"dtype": "float32", "device_map": None, "revision": None, "attn_implementation": None}
    assert asked[0] == (("m",), plain)
    assert asked[1] == (
        ("n",),
        {"dtype": "float64", "device_map": "cuda:0", "revision": "r", "attn_implementation": "eager"},
    )
    said = {"dtype": "float64", "device": "cuda:0", "revision": "r", "attention": "eager"}
    assert Opening(**said).as_config() == said  # type: ignore[arg-type]
