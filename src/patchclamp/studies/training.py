"""Tiny GPT-2s from nothing: stories to learn from, a tokenizer, and training that a killed process goes on with.

Every step is a function of the seed alone: the same command ends with the same weights on the same machine, interrupted or not.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.core import folders
from patchclamp.core.digest import digest
from patchclamp.core.files import read_record, write_record
from patchclamp.core.interrupts import guarded, resumable
from patchclamp.core.progress import Listener, task
from patchclamp.core.tensors import read_state, write_state

TOKENS, ROWS = 160, 2
"""Sampled after each opening, and samples of each opening in a round."""
END = "<|endoftext|>"
RATE, WARMUP, KEEP = 2e-3, 30, 100
"""Peak learning rate (then a cosine to zero), steps up to it, and steps between two checkpoints."""


@dataclass(frozen=True)
class Shape:
    """This says how large a tiny GPT-2 is and how long it is trained."""

    layers: int = 4
    d_model: int = 128
    heads: int = 4
    context: int = 64
    vocabulary: int = 1024
    steps: int = 3000
    batch: int = 32


def sample_stories(
    model: pc.Model,
    openings: Sequence[str],
    rounds: int,
    folder: Path,
    *,
    seed: int = 0,
    progress: bool | Listener | None = None,
) -> list[str]:
    """Stories that a model tells after openings. Rounds of the same request that the folder holds are read from it.

    Args:
        model: The teller.
        openings: How stories begin.
        rounds: Each gives :data:`ROWS` stories an opening.
        folder: Where each round is kept.
        seed: The stories are sampled with this seed in the first round, and with the next number in each later one.
        progress: True for a bar.
    """
    prompts = [opening for opening in openings for _ in range(ROWS)]
    stories: list[str] = []
    with task("stories", rounds, "rounds", show=progress) as bar:
        for number in range(rounds):
            path = folder / f"round-{number:03d}.json"
            parameters = {"model": model.identity(), "prompts": prompts, "tokens": TOKENS, "seed": seed + number}
            if _read_if_same(path, parameters) is None:
                completions = model.generate(
                    prompts, max_new_tokens=TOKENS, seed=seed + number, do_sample=True, temperature=0.9, top_k=50
                )
                texts = [f"{opening} {text.strip()}" for opening, text in zip(prompts, completions.texts, strict=True)]
                write_record(path, {"asked": parameters, "stories": texts})
            stories += read_record(path)["stories"]
            bar.advance()
    return stories


def _read_if_same(path: Path, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """What a file holds, if it was made for the same request."""
    record = read_record(path) if path.is_file() else None
    return record if record is not None and record.get("asked") == parameters else None


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer (GPT-2's kind) learnt from texts; :data:`END` is token 0."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token=END, bos_token=END, pad_token=END)


def stream(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """The tokens of all texts in a row, :data:`END` after each."""
    rows = tokenizer(list(texts))["input_ids"]
    return torch.tensor([token for row in rows for token in (*row, tokenizer.eos_token_id)])


def train_gpt2(
    folder: Path,
    tokenizer: Any,
    tokens: Tensor,
    held_out: Tensor,
    shape: Shape,
    *,
    dropout: float,
    seed: int,
    progress: bool | Listener | None = None,
) -> dict[str, Any]:
    """Train a GPT-2 and leave it in a folder as a plain ``transformers`` checkpoint.

    Initial weights and batches hang on the seed, not on the dropout. Interrupted training goes on from ``folder``'s neighbour
    ``NAME.pt`` and ends with the same weights; a finished folder is read. What was trained otherwise is trained anew.

    Args:
        folder: The trained model is saved in this folder.
        tokenizer: Saved with it.
        tokens: ``[n]`` to learn from.
        held_out: ``[n]`` to measure on.
        shape: This says how large the model is and how long it is trained.
        dropout: GPT-2's three: after embeddings, on attention patterns, on what each component adds to the residual stream.
        seed: The initial weights, the batches and the dropout are drawn with this seed.
        progress: True for a bar.

    Returns:
        Steps, tokens seen, and the loss on the held-out text without dropout, in nats a token.
    """
    parameters = {"shape": asdict(shape), "dropout": dropout, "seed": seed, "text": digest(tokens)}
    if _read_if_same(folder / "training.json", parameters) is not None:
        with folders.opened(folder, folders.TRAINED) as saved:
            return dict(saved["found"])
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    folders.check(folder, folders.TRAINED, *names)
    checkpoint = folder.with_suffix(".pt")
    with resumable(checkpoint), guarded(torch.random.fork_rng(devices=[])):
        model = _new_model(shape, tokenizer, dropout, seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95))
        first_step = _resume(checkpoint, parameters, model, optimizer)
        with task(f"training, dropout {dropout:g}", shape.steps, "steps", show=progress) as bar:
            bar.advance(first_step)
            for step in range(first_step, shape.steps):
                _step(model, optimizer, tokens, shape, seed, step)
                bar.advance()
                if (step + 1) % KEEP == 0:
                    _checkpoint(checkpoint, parameters, model, optimizer, step + 1)
    settings = {
        "dropout": dropout,
        "seed": seed,
        "steps": shape.steps,
        "tokens": shape.steps * shape.batch * shape.context,
    }
    report = {**settings, "held_out_loss": _loss(model, held_out, shape)}
    record = {"format_version": folders.TRAINED.version, "asked": parameters, "found": report}

    def write(into: Path) -> None:
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)

    folders.save(folder, folders.TRAINED, record, write)
    checkpoint.unlink(missing_ok=True)
    return report


def _new_model(shape: Shape, tokenizer: Any, dropout: float, seed: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    dropout_options = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        n_embd=shape.d_model, n_layer=shape.layers, n_head=shape.heads, n_positions=shape.context, vocab_size=len(tokenizer),
        bos_token_id=end, eos_token_id=end, **dropout_options,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def _step(model: Any, optimizer: Any, tokens: Tensor, shape: Shape, seed: int, step: int) -> None:
    """One step; its batch and its dropout are drawn from the seed and the step's number, so that no state has to be kept."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(tokens) - shape.context, (shape.batch,), generator=generator)
    rows = torch.stack([tokens[int(start) : int(start) + shape.context] for start in starts])
    torch.manual_seed(seed * 1_000_003 + step)
    share = min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / shape.steps))
    for group in optimizer.param_groups:
        group["lr"] = RATE * share
    model.train()
    model(rows, labels=rows).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _checkpoint(path: Path, parameters: dict[str, Any], model: Any, optimizer: Any, step: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    write_state(path, {"asked": parameters, "step": step, **state})


def _resume(path: Path, parameters: dict[str, Any], model: Any, optimizer: Any) -> int:
    state = read_state(path) if path.is_file() else None
    if state is None or state["asked"] != parameters:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _loss(model: Any, tokens: Tensor, shape: Shape) -> float:
    """Mean loss on the text, in windows of the context's length, without dropout."""
    model.eval()
    rows = tokens[: len(tokens) // shape.context * shape.context].view(-1, shape.context)
    with guarded(torch.no_grad()):
        losses = [float(model(part, labels=part).loss) * len(part) for part in rows.split(shape.batch)]
    return sum(losses) / len(rows)
