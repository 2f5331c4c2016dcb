from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.models.loading import DTYPES, _spreads, auto_class
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("saved") / "gpt2"
    tiny.build("gpt2", torch.float32).save_pretrained(found)
    return found


def test_a_folder_is_opened_as_saved_and_in_a_chosen_dtype(folder: Path) -> None:
    model = pc.load(folder)
    assert (model.dtype, model.sites.family.name, model.tokenizer) == (torch.float32, "gpt2", None)
    assert not model.module.training
    assert pc.load(str(folder), dtype="float64").dtype == torch.float64
    assert pc.load(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    wrapped = pc.wrap(model.module)
    assert torch.equal(model.run([[3, 4]]).logits, wrapped.run([[3, 4]]).logits)


def test_eager_attention_shows_patterns(folder: Path) -> None:
    model = pc.load(folder, attn_implementation="eager")
    pattern = model.record([[3, 4, 5]], "attn_pattern.1")["attn_pattern.1"]
    assert pattern.shape == (1, 3, 4, 3)  # prompt, query, head, key
    assert torch.allclose(pattern.sum(-1), torch.ones(1, 3, 4))
    assert bool((pattern[0, 0, :, 1:] == 0).all()), "the first position attends to itself only"
    one = model.record([[3, 4, 5]], "attn_pattern.1.h2")["attn_pattern.1.h2"]
    assert torch.equal(one[:, :, 0] if one.ndim == 4 else one, pattern[:, :, 2])
    with pytest.raises(pc.SiteError, match=r"attn_pattern.1 is read-only.*edit q or k"):
        model.run([[3, 4]], pc.Zero(site="attn_pattern.1"))


def test_what_was_asked_for_is_remembered(folder: Path) -> None:
    model = pc.load(folder, dtype=torch.float64, attn_implementation="eager")
    assert (model.source.name, model.source.options) == (
        str(folder), {"dtype": "float64", "attn_implementation": "eager"},
    )  # fmt: skip
    assert model.config._attn_implementation == "eager"
    assert pc.load(folder).source.options == {"dtype": "auto"}


def test_names_of_types_mean_what_they_say() -> None:
    assert {name: found for name, found in DTYPES.items() if name != "auto"} == {
        str(dtype).removeprefix("torch."): dtype
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    }


@pytest.mark.parametrize(
    ("device_map", "spreads"),
    [("auto", False), ("balanced", False), ("sequential", False), ("cpu", False), ("cuda:0", False),
     ({"": 0}, False), ({"a": 0, "b": 0}, False), ({"a": 0, "b": "cpu"}, True), (torch.device("cpu"), False)],
)  # fmt: skip
def test_a_map_of_devices_spreads_if_it_names_several(device_map: object, spreads: bool) -> None:
    assert _spreads(device_map) is spreads


@pytest.mark.parametrize(
    ("architecture", "config", "auto"),
    [
        ("BertForMaskedLM", "BertConfig", "BertForMaskedLM"),
        ("BertForTokenClassification", "BertConfig", "BertForTokenClassification"),
        ("GPT2LMHeadModel", "GPT2Config", "GPT2LMHeadModel"),
        ("LlamaModel", "LlamaConfig", "LlamaModel"),
        ("BartForConditionalGeneration", "BartConfig", "BartForConditionalGeneration"),
        (None, "GPT2Config", "AutoModelForCausalLM"),
        ("GPT2LMHeadModel", "LlamaConfig", "AutoModelForCausalLM"),
        ("PreTrainedTokenizerFast", "LlamaConfig", "AutoModelForCausalLM"),
        ("NoSuchModel", "T5Config", "AutoModelForSeq2SeqLM"),
        (None, "BartConfig", "AutoModelForSeq2SeqLM"),
        (None, "ViTConfig", "AutoModel"),
    ],
)
def test_a_checkpoint_is_opened_as_what_it_was_saved_as(architecture: str | None, config: str, auto: str) -> None:
    import transformers

    made = getattr(transformers, config)(architectures=architecture and [architecture])
    assert auto_class(made) is getattr(transformers, auto)


@pytest.mark.parametrize("name", ["smolm2-135m", "smollm2"])
def test_an_unknown_name_names_the_nearest_of_the_catalogue(name: str) -> None:
    with pytest.raises(pc.ModelError, match=rf"unknown model '{name}'; in the catalogue, 'smollm2-135m' is near"):
        pc.load(name)


def test_a_broken_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(pc.ModelError, match=r"unknown model .*: the folder holds no config.json"):
        pc.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(pc.ModelError, match="could not be loaded"):
        pc.load(tmp_path)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(pc.InputError, match="unknown dtype 'float23'; did you mean 'float32'"):
        pc.load("smollm2-135m", dtype="float23")


def test_a_base_model_without_head_records_and_says_why_it_gives_no_logits() -> None:
    base = tiny.build("llama").model
    model = pc.wrap(base)
    assert model.record([[3, 4]], "resid_post.1")["resid_post.1"].shape == (1, 2, 32)
    with pytest.raises(pc.SiteError, match="has no head; load the model with one"):
        model.sites.expand("logits")
    with pytest.raises(pc.ModelError, match="without logits"):
        model.run([[3, 4]])


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.lstm(x)[0])
        return out


NETS = {
    "mlp": (MLP, (2, 4), "layers.2:out", 8),
    "cnn": (CNN, (2, 1, 5, 5), "conv1:out", 4),
    "lstm": (Recurrent, (2, 6, 4), "lstm:out", 5),
}


@pytest.mark.parametrize("kind", NETS)
def test_any_module_by_path(kind: str) -> None:
    """Reads, edits and sweeps of plain networks equal what a hand-written hook does."""
    make, shape, site, width = NETS[kind]
    net = make().double().eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.randn(width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = pc.wrap(net)
    seen: list[torch.Tensor] = []

    def hook(_: nn.Module, __: object, output: object) -> object:
        first = output[0] if isinstance(output, tuple) else output
        assert isinstance(first, torch.Tensor)
        seen.append(first)
        added = first + (v[:, None, None] if kind == "cnn" else v)
        return (added, *output[1:]) if isinstance(output, tuple) else added

    handle = net.get_submodule(site.split(":")[0]).register_forward_hook(hook)
    with torch.no_grad():
        wanted = net(x)
    handle.remove()
    recorded = model.record(x, site)[site]
    flat = seen[0].flatten(2).transpose(1, 2) if kind == "cnn" else seen[0]
    assert torch.equal(recorded, flat.squeeze(1) if kind == "mlp" else flat)
    edited = model.run(x, pc.Add(v, site=site)).logits
    assert torch.equal(edited, wanted)
    assert model.sites.width(model.sites.expand(site)[0]) == width
    with pytest.raises(pc.EditError, match=f"has width {width}"):
        model.run(x, pc.Add(v[:-1], site=site))
    grid = model.sweep(x, pc.Scale(2.0), sites=[site], read=pc.Logits([0, 1, 2]), over={"factor": [0.0, 1.0, 2.0]})
    assert grid.plan.strategy == "rows"
    assert np.allclose(grid.data.sel(factor=1.0).values.squeeze(), grid.baseline.values, rtol=1e-12)
    assert not np.allclose(grid.data.sel(factor=2.0).values.squeeze(), grid.baseline.values)


def test_positions_of_a_plain_network() -> None:
    model = pc.wrap(Recurrent().double().eval())
    x = torch.randn(1, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain, edited = (model.run(x, e).logits for e in ([], pc.Zero(site="lstm:out", at=2)))
    assert bool((plain != edited)[0, 2].any())
    assert torch.equal(plain[0, [0, 1, 3, 4, 5]], edited[0, [0, 1, 3, 4, 5]])
    with pytest.raises(pc.PositionError, match="position 6 is outside the activation at 'lstm', which has 6 positions"):
        model.run(x, pc.Zero(site="lstm:out", at=6))
    with pytest.raises(pc.PositionError, match="this input has no tokens"):
        model.run(x, pc.Zero(site="lstm:out", at="last"))


def test_a_module_that_runs_twice_is_refused_and_one_that_never_runs_too() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(self.inner(x))
            return out

    model = pc.wrap(Twice().eval())
    with pytest.raises(pc.SiteError, match="inner:out ran 2 times in one forward pass"):
        model.run(torch.zeros(1, 3), pc.Zero(site="inner:out"))
    with pytest.raises(pc.NotFiredError, match="idle:out was to be edited, but the forward pass never went there"):
        model.run(torch.zeros(1, 3), pc.Zero(site="idle:out"))


def test_names_are_refused_on_a_plain_module() -> None:
    model = pc.wrap(MLP().eval())
    with pytest.raises(pc.SiteError, match="this is a plain module, so only module paths are sites"):
        model.sites.expand("mlp_out")
    assert "layers.0:out" in str(model.sites)


def test_a_ports_key_reaches_into_a_tuple() -> None:
    model = pc.wrap(Recurrent().eval())
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    for one in x.split(1):
        acts = model.record(one, ["lstm:out", "lstm:out[1][0]"])
        assert torch.allclose(acts["lstm:out[1][0]"].reshape(1, 5), acts["lstm:out"][:, -1]), (
            "the last state is the last output"
        )
    with pytest.raises(pc.InputError, match=r"has shape \(1, 2, 5\) for 2 prompts; .* one by one"):
        model.record(x, "lstm:out[1][0]")  # its first axis is the layers
    with pytest.raises(pc.SiteError, match="there is NoneType instead of a tensor"):
        model.record(x, "lstm:out[5]")
