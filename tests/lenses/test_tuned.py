import json
import pickle
import shutil
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.core.plain import from_plain
from patchclamp.lenses import published, tuned
from patchclamp.models.sites import Site
from tests import tiny
from tests.lenses.families import opened, parametrised
from tests.old import undigested
from tests.traces import no_trace

TUNABLE = ["llama", "gpt2", "gemma2", "gpt_neox", "cohere", "mamba"]


def random_lens(model: pc.Model, seed: int = 0) -> pc.TunedLens:
    """Translators far from the identity, another one at every depth."""
    lens, generator = pc.TunedLens(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for own in (lens.weight, lens.bias):
            own.copy_(0.3 * torch.randn(own.shape, generator=generator, dtype=own.dtype))
    return lens


@pytest.mark.parametrize("name", parametrised(TUNABLE, ("llama", "gemma2")))
def test_a_new_lens_is_the_logit_lens(name: str) -> None:
    model, ids = opened(name), tiny.ids(2, 7)
    for sites in ("resid_post", "resid_pre"):
        assert model.lens(ids, sites, tuned=pc.TunedLens(model)).data.identical(model.lens(ids, sites).data)


@pytest.mark.parametrize("name", parametrised(["llama", "gpt_neox", "gpt2"], ("llama", "gpt2")))
def test_the_translator_of_a_layer_stands_before_the_head(name: str) -> None:
    """Against the formula on transformers' own hidden states, whose number i is the stream after i layers."""
    model, (ids,) = opened(name), tiny.ids(1, 6)
    lens = random_lens(model)
    norms = {"llama": "model.norm", "gpt_neox": "gpt_neox.final_layer_norm", "gpt2": "transformer.ln_f"}
    norm, head = model.module.get_submodule(norms[name]), model.module.get_output_embeddings()
    with torch.no_grad():
        hidden = model.module(torch.tensor([ids]), output_hidden_states=True).hidden_states
        wanted = [
            head(norm(h[0] + h[0] @ a.T + b)).log_softmax(-1)
            for h, a, b in zip(hidden[:-1], lens.weight, lens.bias, strict=True)
        ]
    seen = model.lens(ids, ["resid_pre", "resid_post"], k=97, tuned=lens).data.isel(prompt=0)
    for depth, logs in enumerate(wanted):
        sites = [f"resid_pre.{depth}", *([f"resid_post.{depth - 1}"] if depth else [])]
        for site in sites:
            row = seen.isel(layer=list(seen["site"].values).index(site))
            assert row["log_probability"].values[:-1] == pytest.approx(
                logs[:-1].gather(-1, torch.tensor(ids[1:]).unsqueeze(-1))[:, 0].numpy(), abs=1e-9
            )
            assert row["entropy"].values == pytest.approx(-(logs.exp() * logs).sum(-1).numpy(), abs=1e-9)
    last = seen.isel(layer=-1)
    assert last["site"] == "resid_post.2"
    assert (last["kl"].values == 0).all(), "the last layer is left alone"


def test_curves_of_a_corpus_go_through_the_lens_too(llama: pc.Model) -> None:
    lens, rows = random_lens(llama), tiny.ids(2, 6)
    found = llama.lens_curves(rows, length=6, tuned=lens).data["mean"].sel(metric="kl").values
    seen = llama.lens(rows, tuned=lens).data["kl"].values.mean(-1)
    assert found == pytest.approx(seen, rel=1e-9, abs=1e-12)
    assert found[:, 0] != pytest.approx(llama.lens(rows).data["kl"].values.mean(-1)[:, 0], rel=1e-2)


@pytest.mark.sensitive
def test_streaming_changes_no_bit(llama: pc.Model) -> None:
    lens, ids = random_lens(llama), tiny.ids(2, 9)
    whole = llama.lens(ids, tuned=lens, chunk=10**6)
    assert all(llama.lens(ids, tuned=lens, chunk=chunk).data.identical(whole.data) for chunk in (1, 3, 7))


def test_saved_and_loaded_it_is_the_same(llama: pc.Model, tmp_path: Path) -> None:
    lens, ids = random_lens(llama), tiny.ids(1, 5)
    assert lens.save_pretrained(tmp_path / "lens") == tmp_path / "lens"
    again = pc.TunedLens.from_pretrained(tmp_path / "lens", llama)
    assert torch.equal(again.weight, lens.weight)
    assert torch.equal(again.bias, lens.bias)
    assert not again.forced
    seen = llama.lens(ids, tuned=again)
    assert seen.data.identical(llama.lens(ids, tuned=lens).data)
    assert seen.record["parameters"]["tuned"]["digest"] == lens.digest()


def test_a_result_is_repeated_with_its_lens(llama: pc.Model, tmp_path: Path) -> None:
    lens, ids = random_lens(llama), tiny.ids(1, 5)
    llama.lens(ids, tuned=lens).save(tmp_path / "unsaved")
    with pytest.raises(pc.InputError, match="tuned lens was not saved"):
        pc.repeat(tmp_path / "unsaved", llama)
    lens.save_pretrained(tmp_path / "lens")
    first = llama.lens(ids, tuned=lens)
    first.save(tmp_path / "result")
    assert pc.repeat(tmp_path / "result", llama) == first
    random_lens(llama, seed=1).save_pretrained(tmp_path / "lens")
    with pytest.raises(pc.InputError, match="no longer the one"):
        pc.repeat(tmp_path / "result", llama)


def test_another_model_is_refused(llama: pc.Model, tmp_path: Path) -> None:
    lens = random_lens(llama)
    lens.save_pretrained(tmp_path)
    other = pc.wrap(tiny.build("llama"))
    assert torch.equal(pc.TunedLens.from_pretrained(tmp_path, other).weight, lens.weight), "equal weights, equal model"
    with torch.no_grad():
        other.module.get_submodule("model.layers.1.mlp.down_proj").weight[0, 0] *= 1.1
    with pytest.raises(pc.ModelError, match="the lens is for a live LlamaForCausalLM"):
        other.lens(tiny.ids(1, 4), tuned=lens)
    with pytest.raises(pc.ModelError, match=r"force=True takes it"):
        pc.TunedLens.from_pretrained(tmp_path, other)
    forced = pc.TunedLens.from_pretrained(tmp_path, other, force=True)
    assert forced.forced
    said = other.lens(tiny.ids(1, 4), tuned=forced).record["parameters"]["tuned"]
    assert said["forced"]
    assert said["trained_for"] == lens.model
    forced.save_pretrained(tmp_path / "again")
    with pytest.raises(pc.ModelError, match="force=True"):
        pc.TunedLens.from_pretrained(tmp_path / "again", other)


def test_a_change_of_the_weights_is_noticed_after_the_first_use() -> None:
    model, ids = pc.wrap(tiny.build("llama")), tiny.ids(1, 4)
    lens = random_lens(model)
    model.lens(ids, tuned=lens)
    with torch.no_grad():
        model.module.get_submodule("model.layers.1.mlp.down_proj").weight[0, 0] *= 1.1
    with pytest.raises(pc.ModelError, match="the lens is for"):
        model.lens(ids, tuned=lens)


def test_the_type_that_a_model_is_loaded_in_makes_no_other_model(tmp_path: Path) -> None:
    half = pc.wrap(tiny.build("llama", torch.bfloat16))
    wide = pc.wrap(tiny.build("llama", torch.bfloat16).float())
    lens = random_lens(wide)
    lens.save_pretrained(tmp_path)
    loaded = pc.TunedLens.from_pretrained(tmp_path, half)
    assert loaded.weight.dtype == torch.float32
    ids = tiny.ids(1, 6)
    a, b = (m.lens(ids, tuned=loaded).data["kl"].values[:, :-1] for m in (half, wide))
    assert a == pytest.approx(b, rel=0.2, abs=0.05)


def test_float16_makes_another_model_of_rounded_weights(tmp_path: Path) -> None:
    wide = pc.wrap(tiny.build("llama", torch.float32))
    rounded = {kind: pc.wrap(tiny.build("llama", torch.float32).to(kind)) for kind in (torch.bfloat16, torch.float16)}
    lens = random_lens(wide)
    lens.save_pretrained(tmp_path)
    loaded = pc.TunedLens.from_pretrained(tmp_path, rounded[torch.bfloat16])
    assert (loaded.trained_for["dtype"], loaded.model["dtype"], loaded.forced) == ("float32", "bfloat16", False)
    message = r"in float16 where that one was in float32: .* load it with dtype='float32'"
    with pytest.raises(pc.ModelError, match=message):
        pc.TunedLens.from_pretrained(tmp_path, rounded[torch.float16])
    with pytest.raises(pc.ModelError, match=message):
        rounded[torch.float16].lens(tiny.ids(1, 4), tuned=lens)


@pytest.mark.parametrize(
    "damage", ["nan", "width", "layers", "missing", "torn", "kind", "newer", "keys", "whose", "weights", "absent"]
)
def test_damaged_lenses(llama: pc.Model, tmp_path: Path, damage: str) -> None:
    undigested(random_lens(llama).save_pretrained(tmp_path), "config.json")
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    state, said = load_file(file), json.loads(config.read_text())
    wanted = {
        "nan": "depth 1 holds NaN", "width": r"weight of shape \(3, 16, 16\)", "layers": r"shape \(2, 32, 32\)",
        "missing": r"bias of shape None", "torn": "is damaged", "kind": "no tuned lens", "newer": "format version 9",
        "keys": "is damaged: KeyError: 'training'", "whose": "is damaged", "weights": "is damaged: KeyError: 'weights'",
        "absent": "no complete lens",
    }  # fmt: skip
    if damage == "nan":
        state["weight"][1, 2, 3] = torch.nan
    if damage == "width":
        state = {"weight": state["weight"][:, :16, :16].contiguous(), "bias": state["bias"][:, :16].contiguous()}
    if damage == "layers":
        state = {name: value[:2].contiguous() for name, value in state.items()}
    if damage == "missing":
        state.pop("bias")
    save_file(state, file)
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:100])
    if damage in ("kind", "newer"):
        config.write_text(json.dumps({**said, **({"kind": "grid"} if damage == "kind" else {"format_version": 9})}))
    if damage == "keys":
        config.write_text(json.dumps({name: value for name, value in said.items() if name != "training"}))
    if damage == "whose":
        config.write_text(json.dumps({**said, "trained_for": None}))
    if damage == "weights":
        del said["trained_for"]["weights"]
        config.write_text(json.dumps(said))
    if damage == "absent":
        config.unlink()
    with pytest.raises(pc.InputError, match=wanted[damage]):
        pc.TunedLens.from_pretrained(tmp_path, llama, force=True)


def test_a_lens_that_holds_nan_is_not_saved(llama: pc.Model, tmp_path: Path) -> None:
    lens = random_lens(llama)
    with torch.no_grad():
        lens.bias[2, 0] = torch.inf
    with pytest.raises(pc.ModelError, match="bias at depth 2"):
        lens.save_pretrained(tmp_path / "lens")
    assert not (tmp_path / "lens").exists()


def test_a_save_that_fails_leaves_the_earlier_lens(
    llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = random_lens(llama)
    first.save_pretrained(tmp_path)
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_: pytest.fail("disk full"))
    with pytest.raises(pytest.fail.Exception, match="disk full"):
        random_lens(llama, seed=1).save_pretrained(tmp_path)
    assert pc.TunedLens.from_pretrained(tmp_path, llama).digest() == first.digest()


def test_what_a_lens_says_of_its_model(llama: pc.Model) -> None:
    assert repr(pc.TunedLens(llama)) == "TunedLens(3 translators of width 32 for a live model)"
    live = {"name": None, "revision": None, "class": "LlamaForCausalLM", "dtype": "float32", "weights": "a"}
    one = {**live, "name": "some/model", "revision": "abc"}
    for wanted, other, said in (
        (live, one, "the lens is for a live LlamaForCausalLM; this is some/model (revision abc)"),
        (one, live, "the lens is for some/model (revision abc); this is a live LlamaForCausalLM"),
        (
            one,
            {**one, "weights": "b"},
            "the lens is for some/model (revision abc); this is the same name with other weights",
        ),
        (
            live,
            {**live, "dtype": "bfloat16"},
            "the lens is for a live LlamaForCausalLM; this is a live LlamaForCausalLM",
        ),
    ):
        assert tuned._mismatch(wanted, other) == said
    module = tiny.build("llama", torch.float32)
    module.config._commit_hash = "abc"
    found = pc.TunedLens(pc.wrap(module)).model
    assert (found["revision"], found["dtype"], found["class"]) == ("abc", "float32", "LlamaForCausalLM")


def test_sites_and_models_without_a_translator(llama: pc.Model) -> None:
    with pytest.raises(pc.SiteError, match="no translator for resid_mid.0"):
        llama.lens(tiny.ids(1, 4), ["resid_post", "resid_mid"], tuned=pc.TunedLens(llama))
    states = torch.zeros(2, 32)
    for where, depth in ((4, 4), (9, 9), (-1, -1), (Site("resid_post", 3), 4)):
        with pytest.raises(pc.SiteError, match=rf"depth {depth} is outside 0\.\.3"):
            pc.TunedLens(llama).translate(where, states)
    with pytest.raises(pc.ModelError, match="is an encoder"):
        pc.TunedLens(opened("bert"))
    with pytest.raises(pc.ModelError, match="no final norm"):
        pc.TunedLens(opened("opt_post_norm"))
    with pytest.raises(pc.InputError, match="not a folder"):
        pc.TunedLens.from_pretrained("nowhere", llama)
    with pytest.raises(pc.InputError, match="tuned='folder' cannot be used; valid: a TunedLens"):
        llama.lens(tiny.ids(1, 4), tuned="folder")  # type: ignore[arg-type]
    with pytest.raises(pc.InputError, match="no training report"):
        pc.TunedLens(llama).frame()


def test_leaves_no_trace(tmp_path: Path) -> None:
    model = pc.wrap(tiny.build("llama"))
    with no_trace(model.module):
        lens = random_lens(model)
        lens.save_pretrained(tmp_path)
        seen = model.lens(tiny.ids(1, 4), tuned=pc.TunedLens.from_pretrained(tmp_path, model))
    assert seen.data["kl"].values[:, 0].min() > 0


# Checkpoints of the tuned-lens package


def theirs(module: Any, norm: str, hidden: tuple[Tensor, ...], state: dict[str, Tensor]) -> Tensor:
    """Their formula, one ``nn.Linear`` a layer, added to its input; ``[layer, position, vocabulary]``."""
    rows = []
    for index, h in enumerate(hidden[:-1]):
        linear = torch.nn.Linear(h.shape[-1], h.shape[-1], dtype=h.dtype)
        linear.load_state_dict({"weight": state[f"{index}.weight"], "bias": state[f"{index}.bias"]})
        rows.append(module.get_output_embeddings()(module.get_submodule(norm)(h + linear(h)))[0])
    return torch.stack(rows)


def write_theirs(folder: Path, model: pc.Model, **config: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    state = {
        f"{i}.{part}": 0.3 * torch.randn(*shape, generator=generator)
        for i in range(3)
        for part, shape in (("weight", (32, 32)), ("bias", (32,)))
    }
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "params.pt")
    said = {
        "base_model_name_or_path": "tiny/llama", "d_model": 32, "num_hidden_layers": 3, "bias": True,
        "base_model_revision": None, "unembed_hash": published.unembedding_hash(model), "lens_type": "linear_tuned_lens",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    return state


def test_a_published_lens_says_what_its_own_package_says(tmp_path: Path) -> None:
    model, (ids,) = pc.wrap(tiny.build("llama", torch.float32)), tiny.ids(1, 6)
    state = write_theirs(tmp_path, model)
    lens = pc.TunedLens.from_pretrained(tmp_path, model)
    with torch.no_grad():
        hidden = model.module(torch.tensor([ids]), output_hidden_states=True).hidden_states
        wanted = theirs(model.module, "model.norm", hidden, state).softmax(-1)
    seen = model.lens(ids, "resid_pre", k=97, tuned=lens).data.isel(prompt=0)
    for index in range(3):
        order = torch.from_numpy(seen["top_id"].values[index])
        assert seen["top_probability"].values[index] == pytest.approx(wanted[index].gather(-1, order).numpy(), abs=1e-6)
    shifted = model.lens(ids, "resid_post.0", k=97, tuned=lens).data.isel(prompt=0, layer=0)
    assert np.array_equal(shifted["kl"].values, seen["kl"].values[1]), "their translator 1 reads what layer 0 gives"


def test_the_hash_of_an_unembedding_is_that_of_its_printed_corners() -> None:
    """SHA-256 of what numpy prints of the matrix in float32, with one decimal."""
    head = torch.nn.Linear(3, 2, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.25, -1.0, 2.125], [3.5, 0.0, -0.375]]))
    module = SimpleNamespace(get_output_embeddings=lambda: head)
    wanted = sha256(b"[[ 0.2 -1.   2.1]\n [ 3.5  0.  -0.4]]").hexdigest()
    assert published.unembedding_hash(SimpleNamespace(module=module)) == wanted


def test_a_published_lens_without_biases_has_zeros(tmp_path: Path) -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))
    state = write_theirs(tmp_path, model)
    torch.save({name: value for name, value in state.items() if name != "1.bias"}, tmp_path / "params.pt")
    lens = pc.TunedLens.from_pretrained(tmp_path, model)
    assert torch.equal(lens.weight, torch.stack([state[f"{i}.weight"] for i in range(3)]))
    assert torch.equal(lens.bias, torch.stack([state["0.bias"], torch.zeros(32), state["2.bias"]]))


@pytest.mark.filterwarnings("error")
def test_published_lenses_for_other_weights(tmp_path: Path) -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))
    write_theirs(tmp_path, model, unembed_hash="0" * 64)
    with pytest.raises(pc.ModelError, match="trained for tiny/llama, whose unembedding is not that of this live model"):
        pc.TunedLens.from_pretrained(tmp_path, model)
    assert pc.TunedLens.from_pretrained(tmp_path, model, force=True).forced
    write_theirs(tmp_path, model, unembed_hash=None)
    with pytest.warns(PatchclampWarning, match="does not say which weights"):
        assert not pc.TunedLens.from_pretrained(tmp_path, model).forced


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("damage", ["code", "torn", "list", "names", "width", "layers", "config", "json"])
def test_damaged_published_lenses(llama: pc.Model, tmp_path: Path, damage: str) -> None:
    state, file = write_theirs(tmp_path, llama), tmp_path / "params.pt"
    if damage == "code":
        with file.open("wb") as stream:
            pickle.dump({"0.weight": Bomb(tmp_path / "exploded")}, stream)
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:300])
    if damage == "list":
        torch.save([1, 2], file)
    if damage == "names":
        torch.save({"probe.0.weight": state["0.weight"]}, file)
    if damage == "width":
        torch.save({**state, "1.bias": torch.zeros(16)}, file)
    if damage == "layers":
        write_theirs(tmp_path, llama, num_hidden_layers=4)
    if damage == "config":
        (tmp_path / "config.json").write_text("{}")
    if damage == "json":
        (tmp_path / "config.json").write_text("{")
    message = {
        "json": "config.json' is damaged", "code": "holds more than tensors", "torn": "is damaged", "list": "holds list", "names": "not one of 3 translators",
        "width": r"1.bias has shape \(16,\)", "layers": "not one of 4 translators", "config": "not that of a tuned lens",
    }  # fmt: skip
    with pytest.raises(pc.InputError, match=message[damage]):
        pc.TunedLens.from_pretrained(tmp_path, llama)
    assert not (tmp_path / "exploded").exists()


def test_ids_of_the_hub(llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def download(repository: str, file: str, *, revision: Any, subfolder: Any, repo_type: Any) -> str:
        asked.append((repository, file, revision, subfolder, repo_type))
        return str(tmp_path / (subfolder or "ours") / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (tmp_path / "lens/facebook").mkdir(parents=True)
    write_theirs(tmp_path / "lens/facebook/opt-125m", llama)
    pc.TunedLens.from_pretrained("AlignmentResearch/tuned-lens/facebook/opt-125m", llama)
    where = ("AlignmentResearch/tuned-lens", None, "lens/facebook/opt-125m", "space")
    assert {(a, c, d, e) for a, _, c, d, e in asked} == {where}
    random_lens(llama).save_pretrained(tmp_path / "ours")
    asked.clear()
    pc.TunedLens.from_pretrained("someone/lens", llama, revision="abc")
    assert asked == [("someone/lens", name, "abc", None, None) for name in ("config.json", "model.safetensors")]
    shutil.rmtree(tmp_path / "ours")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _refuse)
    for place in ("/nowhere/at/all", "./nowhere/lens"):
        with pytest.raises(pc.InputError, match=f"there is no lens '{place}'"):
            pc.TunedLens.from_pretrained(place, llama)
    with pytest.raises(pc.InputError, match="no lens in 'someone/lens': config.json was not found"):
        pc.TunedLens.from_pretrained("someone/lens", llama)


def _refuse(*_: Any, **__: Any) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("offline")


def test_only_the_record_of_a_result_has_a_lens_opened(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of edits and directions are read without a model: what one of them names is not fetched."""
    opened: list[str] = []
    monkeypatch.setattr(
        pc.TunedLens, "from_pretrained", lambda folder, *_, **__: opened.append(folder) or random_lens(llama)
    )
    named = {"$type": "TunedLens", "folder": "somebody/lens", "forced": False, "digest": random_lens(llama).digest()}
    with pytest.raises(pc.EditError, match="the record of a result alone"):
        from_plain(named, {})
    assert not opened
    assert isinstance(from_plain(named, {}, llama), pc.TunedLens)
    assert opened == ["somebody/lens"], "control: with a model it is"
