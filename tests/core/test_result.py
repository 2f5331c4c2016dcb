"""Every kind of result: saved, opened, equal; repeated from its folder; never half-written."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import patchclamp as pc
from patchclamp.core import registry
from patchclamp.core.result import Result
from tests import tiny
from tests.polytopes.nets import networks


def _results(model: pc.Model) -> dict[str, Result]:
    prompts = [*tiny.ids(1, 6), *tiny.ids(1, 4, seed=2)]
    edit = pc.Scale(2.0, site="resid_post.1", at=-1)
    return {
        "run": model.run(prompts, [edit], record=["resid_post", "z.1"], at=[0, -1]),
        "activations": model.record(prompts, ["resid_post", "mlp_act.1.n3", "z"], at="all", edits=edit),
        "grid": model.sweep(
            prompts, pc.Scale(2.0), sites=["mlp_out", "attn_out"], at="each", read=[pc.TopK(2), pc.KL()]
        ),
        "generation": model.generate(prompts, [edit], max_new_tokens=3),
        "lens": model.lens(prompts, k=2),
        "lens_curves": model.lens_curves(tiny.ids(3, 5), length=5),
        "contributions": model.contributions([prompts[0]], [5, 9], heads=True),
        "patchscope": model.patchscope(prompts, target=tiny.ids(1, 5, seed=4), at=[0, -1], k=2, max_new_tokens=2),
        "weight_lens": model.weight_lens(["ov.1.h3", "mlp_out.2"], directions=3, k=3, draws=4),
        "trace": model.causal_trace([prompts[0]], [1, 2], 9, samples=2, sites=["resid_post", "mlp_out"]),
        "trace_average": model.trace_facts(
            [([prompts[0]], [1, 2], 9), ([prompts[1]], [1], 4)], samples=2, sites=["resid_post", "mlp_out"]
        ),
        "attribution": model.attribution_patch(
            [prompts[0]], tiny.ids(1, 6, seed=3), sites="resid_post", read=pc.LogitDifference(5, 9), check=5
        ),
        "heads": model.head_scores(length=4, samples=2, draws=3),
        "rewrite": model.rewrite_fact([prompts[0]], [1, 2], 9, layer=1, covariance="identity", prefixes=2, steps=4),
        "bias": pc.metrics.bias(model, [prompts], (5, 9), {"twice": edit}),
        "damage": pc.metrics.damage(model, {"twice": edit}, prompts),
        "divergence": pc.metrics.divergence(model, edit, [prompts[0]], [prompts[1]], max_new_tokens=3),
        "interchange": pc.metrics.interchange(
            model, [tiny.ids(2, 5)], torch.eye(32)[:2], "resid_post.1", (5, 9), at="all"
        ),
        "probe_report": _probed(),
        **_directed(model),
        **_walked(),
        "neurons": model.neuron_importances([prompts[0]], [1, 2], 9, samples=2, top=3),
        "spline_codes": model.spline_codes(prompts, at=[1, -1], labels={"class": ["a", "b"]}),
        "clusters": _clustered(),
    }


def _directed(model: pc.Model) -> dict[str, Result]:
    prompts, labels = tiny.ids(12, 6), [0, 1] * 6
    found = model.fit_directions("leace", prompts, labels, ["resid_post.0", "resid_post.2"], holdout=0)
    texts = tiny.ids(2, 5, seed=7)
    return {
        "layer_effects": model.layer_effects(
            {"leace": found}, [prompts[:2], prompts[2:4]], (5, 9), texts, edits=["swap", "to first"]
        ),
        "dose_response": model.dose_response({"leace": found[0]}, prompts[:3], (5, 9), [-1, 2.5], texts),
        "projections": model.projections(found[1], prompts, labels),
    }


def _walked() -> dict[str, Result]:
    points, labels = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), [0, 1] * 4
    return {
        "segment": NETWORK.segment(points[0], points[1]),
        "boundaries": NETWORK.boundaries(points, radii=[0.1, 1]),
        "radial_density": NETWORK.radial_density(points, edges=[0, 1, 4]),
        "scaling": NETWORK.scaling(points, ["1:out"], [0.5, 2], labels=labels),
        "paths": NETWORK.adversarial_paths(points, labels, eps=0.3, steps=5),
        "plane": NETWORK.plane(points[:3], names=["a", "b", "c"]),
        "raster": NETWORK.raster(points[:3], lines=4),
    }


def _probed() -> Result:
    rows = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    return pc.metrics.probe(rows, [0, 1] * 40, lambda x: 0 * x, probes=["linear"])


def _clustered() -> Result:
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    return pc.polytopes.cluster(rows, rows.relu(), [0, 1, 2] * 20, k=3, algorithms=["ward"])


NETWORK = pc.wrap(networks()["relu"][0])
WALKED = ("segment", "boundaries", "radial_density", "scaling", "paths", "plane", "raster")
"""Kinds made with a small network."""
ARRAYS = ("probe_report", "clusters")
"""Kinds made of arrays alone: they know no model, and cannot be repeated from their folder."""


@pytest.fixture(scope="module")
def results(llama: pc.Model) -> dict[str, Result]:
    return _results(llama)


def test_every_kind_is_covered(results: dict[str, Result]) -> None:
    assert set(results) == set(registry.KINDS)
    for name, kind in registry.KINDS.items():
        assert registry.find(name, "result").kind == name
        assert callable(registry.find(name, "figure")), kind
        assert callable(registry.find(name, "parts"))


@pytest.mark.parametrize("kind", registry.KINDS)
def test_opening_gives_an_equal_object_back(results: dict[str, Result], kind: str, tmp_path: Path) -> None:
    saved = results[kind]
    saved.save(tmp_path / "x")
    opened = pc.open(tmp_path / "x")
    assert type(opened) is type(saved)
    assert opened == saved
    assert opened.frame().equals(saved.frame())
    others = [r for name, r in results.items() if name != kind]
    assert all(opened != other for other in others)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_folder_holds_everything_and_works_offline(results: dict[str, Result], kind: str, tmp_path: Path) -> None:
    results[kind].save(tmp_path)
    files = {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert {"result.json", "arrays.safetensors", "data.csv", "figure.svg", "figure.png", "report.html"} <= files
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "@import" not in page
    HTMLParser().feed(page)
    record = json.loads((tmp_path / "result.json").read_text())
    assert {"kind", "format_version", "model", "versions", "parameters"} <= set(record)
    if kind in ARRAYS:
        assert record["model"] is None
    else:
        assert re.fullmatch(r"[0-9a-f]{64}", record["model"]["weights_sha256"])
    assert {"torch", "transformers", "patchclamp"} <= set(record["versions"])


def test_saving_twice_gives_the_same_bytes(results: dict[str, Result], tmp_path: Path) -> None:
    for name in ("a", "b"):
        results["grid"].save(tmp_path / name)
    for file in ("result.json", "arrays.safetensors", "data.csv", "figure.svg", "report.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_saving_keeps_strangers_in_the_folder(results: dict[str, Result], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    results["grid"].save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_save_is_not_taken_for_a_result(
    results: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results["grid"].save(tmp_path)
    monkeypatch.setattr(registry, "page_of", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        results["grid"].save(tmp_path)
    with pytest.raises(pc.InputError, match="holds no complete result"):
        pc.open(tmp_path)


def test_a_newer_format_and_an_empty_folder_are_refused(results: dict[str, Result], tmp_path: Path) -> None:
    with pytest.raises(pc.InputError, match="holds no complete result"):
        pc.open(tmp_path / "nowhere")
    results["run"].save(tmp_path)
    record = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**record, "format_version": 99}))
    with pytest.raises(pc.InputError, match="format version 99"):
        pc.open(tmp_path)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_result_can_be_repeated_from_its_folder(
    llama: pc.Model, results: dict[str, Result], kind: str, tmp_path: Path
) -> None:
    results[kind].save(tmp_path)
    if kind in ARRAYS:
        with pytest.raises(pc.InputError, match="made of arrays"):
            pc.repeat(tmp_path)
        return
    again = pc.repeat(tmp_path, NETWORK if kind in WALKED else llama)
    assert again == results[kind]
    assert again.frame().equals(results[kind].frame())


def test_patched_paths_can_be_repeated(llama: pc.Model, tmp_path: Path) -> None:
    source, into = tiny.ids(2, 5)
    made = llama.path_patch(
        [source], [into], sender="z.0.h*", receivers=["q.2.h1", "mlp_in.1"], receive_at=[1, -1], freeze="attn_out",
        read=pc.LogitDifference(5, 9),
    )  # fmt: skip
    made.save(tmp_path)
    assert pc.repeat(tmp_path, llama) == made == pc.open(tmp_path)


def test_a_live_model_must_be_passed_to_repeat(results: dict[str, Result], tmp_path: Path) -> None:
    results["grid"].save(tmp_path)
    with pytest.raises(pc.InputError, match="live model that has no name"):
        pc.repeat(tmp_path)


def test_a_sweep_with_a_function_says_why_it_cannot_be_repeated(llama: pc.Model, tmp_path: Path) -> None:
    grid = llama.sweep(tiny.ids(1, 4), pc.Call(lambda x: 2 * x), sites="mlp_out", at=-1, read=pc.TopK(1))
    grid.save(tmp_path)
    with pytest.raises(pc.InputError, match=r"cannot be repeated from its folder: edit: Call cannot be saved"):
        pc.repeat(tmp_path, llama)


@pytest.mark.parametrize("kind", ["run", "activations", "generation"])
def test_what_ran_under_a_function_is_kept_and_says_why_it_cannot_be_repeated(
    llama: pc.Model, kind: str, tmp_path: Path
) -> None:
    edit = pc.Call(lambda x: 2 * x, site="mlp_out.1", at=0)
    prompt = tiny.ids(1, 4)
    made = {
        "run": lambda: llama.run(prompt, edit),
        "activations": lambda: llama.record(prompt, "z", edits=edit),
        "generation": lambda: llama.generate(prompt, edit, max_new_tokens=2),
    }[kind]()
    made.save(tmp_path)
    assert pc.open(tmp_path) == made
    with pytest.raises(pc.InputError, match="edits: Call cannot be saved"):
        pc.repeat(tmp_path, llama)


def test_the_weight_hash_follows_the_weights() -> None:
    model = pc.wrap(tiny.build("gpt2"))
    before = model.weights_digest()
    assert model.weights_digest() == before
    result = model.run(tiny.ids(1, 4))
    assert result.plain_record()["model"]["weights_sha256"] == before
    late = model.run(tiny.ids(1, 4))
    with torch.no_grad():
        next(iter(model.module.parameters())).view(-1)[0].add_(1.0)
    assert model.weights_digest() != before
    assert late.plain_record()["model"]["weights_sha256"] is None, (
        "saved after training: the weights of the run are gone"
    )


@pytest.mark.assets
def test_a_named_model_is_opened_again_by_repeat(stories: pc.Model, tmp_path: Path) -> None:
    grid = stories.sweep(
        "Once upon a time", pc.Add(stories.embedding(" dog")), sites="mlp_out", at="each", read=pc.TopK(1)
    )
    grid.save(tmp_path)
    assert pc.repeat(tmp_path) == pc.open(tmp_path) == grid
