"""The uncentred second moment of an MLP's keys over a corpus: which directions other inputs use."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from patchclamp import catalogue
from patchclamp.activations.corpus import cut, limited
from patchclamp.core import folders
from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, ModelError
from patchclamp.core.progress import Listener, task
from patchclamp.core.stored import Stored
from patchclamp.interventions import BATCH_TOKENS, Row, batches, forward
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.rewriting.projection import Projection

TOKENS, CONTEXT = 20_000, 256
"""The number of tokens that the moment is taken over, and of those that a forward pass reads at once if the model can."""


@dataclass(frozen=True, eq=False)
class Covariance(Stored):
    """``C = E[k k^T]`` of one layer's keys, in float64."""

    _form: ClassVar = folders.COVARIANCE

    matrix: Tensor
    """The matrix, ``[d_mlp, d_mlp]``."""
    layer: int
    tokens: int
    """The number of keys that it is the mean of."""
    corpus: str
    """The name of the corpus in the catalogue, or "texts"."""
    corpus_digest: str
    """The digest of the token ids."""
    model: str | None
    weights_sha256: str

    @checked
    def check(self, model: OpenModel, layer: int, weights: str | None = None) -> None:
        """Refuse keys of another layer or model.

        Args:
            model: The model that is to be rewritten.
            layer: The layer that is to be rewritten.
            weights: The hash of the model's weights, if it is known already.

        Raises:
            InputError: The layers or the models differ; the message names both.
        """
        if self.layer != layer:
            raise InputError(f"the covariance is of layer {self.layer}, not of layer {layer}")
        if self.weights_sha256 != (weights or model.weights_digest()):
            raise InputError(
                f"the covariance was made of {self.model or 'a live model'} with weights {self.weights_sha256[:12]}..., "
                f"not of this {model.source.name or 'live model'}; make it anew with pc.rewriting.covariance"
            )

    @checked
    def damped(self, ridge: float) -> Tensor:
        """``C + ridge * trace(C) / d * I``.

        Raises:
            InputError: The ridge is negative, or 0 where C cannot be inverted.
        """
        check_ridge(ridge)
        size = len(self.matrix)
        if ridge == 0 and self.tokens < size:
            raise InputError(
                f"{self.tokens} keys cannot span {size} dimensions, so C has no inverse; set ridge above 0"
            )
        return self.matrix + ridge * self.matrix.diagonal().mean() * torch.eye(size, dtype=torch.float64)

    @checked
    def condition(self, ridge: float = 0.0) -> float:
        """The largest over the smallest eigenvalue of the damped matrix."""
        values = torch.linalg.eigvalsh(self.damped(ridge))
        return float(values[-1] / values[0]) if values[0] > 0 else float("inf")

    @checked
    def solve(self, key: Tensor, ridge: float) -> Tensor:
        """``C^-1 k`` of the damped matrix, ``[d_mlp]``."""
        factor = torch.linalg.cholesky(self.damped(ridge))
        if key.shape != factor.shape[:1]:
            raise InputError(f"a key has {len(factor)} numbers, [d_mlp]; this one has shape {tuple(key.shape)}")
        return torch.cholesky_solve(key.to(factor).unsqueeze(1), factor).squeeze(1)

    def described(self) -> dict[str, Any]:
        """Everything but the numbers, as plain JSON."""
        names = ("layer", "tokens", "corpus", "corpus_digest", "model", "weights_sha256")
        return {name: getattr(self, name) for name in names}

    def _as_record(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        tensors["matrix"] = self.matrix
        return self.described()

    @classmethod
    def _from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor], context: Any = None) -> Self:
        del context
        matrix = tensors["matrix"]
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype != torch.float64:
            raise ValueError(f"a matrix of shape {tuple(matrix.shape)} and {matrix.dtype} is no covariance")
        covariance = cls(matrix, **record)
        texts = (covariance.corpus, covariance.corpus_digest, covariance.model or "", covariance.weights_sha256)
        if not all(isinstance(n, int) for n in (covariance.layer, covariance.tokens)) or not all(
            isinstance(t, str) for t in texts
        ):
            raise ValueError("its layer and tokens are numbers, the rest is text")
        return covariance


def check_ridge(ridge: float) -> None:
    """Refuse a negative ridge.

    Raises:
        InputError: It is below 0, or no number.
    """
    if not 0 <= ridge < float("inf"):
        raise InputError(f"ridge is a share of the mean second moment, 0 or more; got {ridge!r}")


@checked
def covariance(
    model: OpenModel,
    layer: int,
    corpus: str | Iterable[Any] = "gutenberg",
    *,
    tokens: int = TOKENS,
    context: int | None = None,
    cache: bool = True,
    progress: bool | Listener | None = None,
) -> Covariance:
    """The second moment of one layer's keys; see :func:`covariances`."""
    return covariances(model, [layer], corpus, tokens=tokens, context=context, cache=cache, progress=progress)[0]


@checked
def covariances(
    model: OpenModel,
    layers: Sequence[int],
    corpus: str | Iterable[Any] = "gutenberg",
    *,
    tokens: int = TOKENS,
    context: int | None = None,
    cache: bool = True,
    progress: bool | Listener | None = None,
) -> list[Covariance]:
    """``C = E[k k^T]`` of the keys (``mlp_act``) of some layers, over a corpus, in one pass and in float64.

    Source: Meng et al. 2022, arXiv 2202.05262, section 3.1 and appendix E.

    Args:
        model: The model.
        layers: The layers whose keys are read.
        corpus: ``"gutenberg"`` (passages from each book in turn), ``"gutenberg:TITLE"`` (one book), or texts or lists of
            token ids, read until there are enough tokens.
        tokens: The largest number of keys.
        context: Tokens that a forward pass reads at once; longer texts are cut. At most the model's own context; None for 256
            or that, whichever is less.
        cache: Keep it, in the cache of the catalogue, by everything that decides it: the model with its config, layer and
            corpus.
        progress: True for a bar, a function for events.

    Raises:
        InputError: An unknown corpus, an empty one, no such layer, or a longer context than the model's.
        ModelError: The layer's keys are not those of one matrix, or a key is not finite.
    """
    projections = [Projection.of(model, layer) for layer in layers]
    size = min(CONTEXT, model.context or CONTEXT) if context is None else context
    if tokens < 1 or size < 1:
        raise InputError(f"tokens and context are 1 or more; got {tokens!r} and {size!r}")
    if model.context is not None and size > model.context:
        raise InputError(f"context={size} is longer than the model's own, {model.context}")
    rows = limited(cut(model, corpus, size), tokens)
    prompts = [Prompt(tuple(row.ids.tolist())) for row in rows]
    if not prompts:
        raise InputError("the corpus is empty: it gives no token")
    name = corpus if isinstance(corpus, str) else "texts"
    corpus_digest, weights = digest([list(prompt.ids) for prompt in prompts]), model.weights_digest()
    folders_by_layer = _cache_folders(model, projections, corpus_digest) if cache else {}
    covariances_by_layer = {
        layer: _open_cached(folder)
        for layer, folder in folders_by_layer.items()
        if (folder / "covariance.json").is_file()
    }
    missing = [p for p in projections if p.layer not in covariances_by_layer]
    if missing:
        token_count = sum(len(prompt.ids) for prompt in prompts)
        for layer, matrix in _moments(model, missing, prompts, progress).items():
            covariances_by_layer[layer] = Covariance(
                matrix, layer, token_count, name, corpus_digest, model.source.name, weights
            )
            if layer in folders_by_layer:
                covariances_by_layer[layer].save(folders_by_layer[layer])
    return [covariances_by_layer[p.layer] for p in projections]


def _open_cached(folder: Path) -> Covariance:
    try:
        return Covariance.open(folder)
    except InputError as error:
        raise InputError(f"{error}; or delete the folder, and it is made anew") from error


def _cache_folders(model: OpenModel, projections: Sequence[Projection], corpus_digest: str) -> dict[int, Path]:
    """The folder in which each layer's covariance is kept; none for a model that cannot be told from others in another process."""
    try:
        model_identity = model.identity()
    except InputError:
        return {}
    return {
        p.layer: catalogue.cache_root() / "covariances" / f"{model_identity}-layer{p.layer}-{corpus_digest}"
        for p in projections
    }


def _moments(
    model: OpenModel, projections: Sequence[Projection], prompts: Sequence[Prompt], progress: bool | Listener | None
) -> dict[int, Tensor]:
    totals = {p.layer: torch.zeros(len(p.matrix), len(p.matrix), dtype=torch.float64) for p in projections}
    token_count = 0
    with task("covariance", sum(len(p.ids) for p in prompts), "tokens", show=progress) as bar:
        for indices in batches(prompts, BATCH_TOKENS, model.causal):
            lengths = [len(prompts[i].ids) for i in indices]

            def add(layer: int, value: Tensor, lengths: list[int] = lengths) -> None:
                keys = torch.cat([row[:n] for row, n in zip(value, lengths, strict=True)]).double().cpu()
                totals[layer].addmm_(keys.T, keys)

            taps = {p.key_site: lambda value, layer=p.layer: add(layer, value) for p in projections}
            forward(model, [Row(prompts[i]) for i in indices], taps=taps, logits=False)
            token_count += sum(lengths)
            bar.advance(sum(lengths))
    for layer, total in totals.items():
        if not bool(torch.isfinite(total).all()):
            raise ModelError(f"the keys of layer {layer} are not finite on this corpus")
    return {layer: total / token_count for layer, total in totals.items()}
