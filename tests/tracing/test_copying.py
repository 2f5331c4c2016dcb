from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import patchclamp as pc
from patchclamp.tracing import copying
from tests import tiny


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is no view of another one's memory."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known, self.size = {tensor.untyped_storage().data_ptr() for tensor in known}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.untyped_storage().data_ptr() not in self.known:
            self.size = max(self.size, found.numel())
        return found


def test_positivity_of_norms_that_centre() -> None:
    """The same with LayerNorm and learned positions, of which the circuit of tokens holds nothing."""
    module = tiny.shared("gpt2")
    found, _ = copying.ov_positivity(pc.wrap(module), 1, 0)
    embed, end = module.transformer.wte.weight.detach(), module.transformer.ln_f.weight.detach()
    centred = embed - embed.mean(-1, keepdim=True)
    normed = centred / centred.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
    for number, layer in enumerate(module.transformer.h):
        values = layer.attn.c_attn.weight.detach()[:, 64:].unflatten(1, (4, 8))
        writes = layer.attn.c_proj.weight.detach().unflatten(0, (4, 8))
        for head in range(4):
            read = (normed * layer.ln_1.weight.detach()) @ values[:, head]
            logits = ((writes[head] - writes[head].mean(-1, keepdim=True)) * end) @ embed.T
            circuit = (read - read.mean(0)) @ (logits - logits.mean(1, keepdim=True))
            values_of = torch.linalg.eigvals(circuit)
            wanted = float(values_of.real.sum() / values_of.abs().sum())
            assert float(found[number, head]) == pytest.approx(wanted, abs=1e-5)


def test_shuffles_follow_the_seed_and_their_number(llama: pc.Model) -> None:
    (real, first), (_, again), (_, other) = (copying.ov_positivity(llama, n, s) for n, s in ((2, 0), (3, 0), (2, 1)))
    assert torch.equal(first, again[:2]), "a draw depends on the seed and its number alone"
    for one, two in ((first[0], first[1]), (first[0], other[0]), (first[0], real)):
        assert (one - two).abs().max() > 0.05


def test_positivity_is_that_of_the_whole_circuit() -> None:
    """Against the eigenvalues of the matrix from token to token, for grouped heads."""
    module = tiny.shared("llama")
    found, _ = copying.ov_positivity(pc.wrap(module), 1, 0)
    embed, unembed = module.model.embed_tokens.weight.detach(), module.lm_head.weight.detach().T
    normed = embed / embed.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)  # the padding token's is 0
    for number, layer in enumerate(module.model.layers):
        attention, heads = layer.self_attn, len(found[number])
        values = attention.v_proj.weight.detach().T.unflatten(-1, (-1, attention.head_dim))
        for head in range(heads):
            read = (normed * layer.input_layernorm.weight.detach()) @ values[:, head * values.shape[1] // heads]
            write = (
                attention.o_proj.weight.detach().T.unflatten(0, (heads, -1))[head] * module.model.norm.weight.detach()
            )
            logits = write @ unembed
            circuit = (read - read.mean(0)) @ (logits - logits.mean(1, keepdim=True))
            values_of = torch.linalg.eigvals(circuit)
            wanted = float(values_of.real.sum() / values_of.abs().sum())
            assert float(found[number, head]) == pytest.approx(wanted, abs=1e-5)


def test_the_vocabulary_is_never_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny.build("llama")
    model = pc.wrap(module)
    whole = copying.ov_positivity(model, 2, 0)
    monkeypatch.setattr(copying, "TOKEN_BATCH", 8)
    with Largest(*module.parameters()) as seen:
        parts = copying.ov_positivity(model, 2, 0)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts, strict=True))
    assert seen.size < module.lm_head.weight.numel()
