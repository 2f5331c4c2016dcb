"""A language model on the axes of the digits: countries are the classes, sentences that ask for their capitals the images.

Added is ``a - b``, the difference of two countries' mean activations, in sentences that the means have not seen: at the country's
token, or at the last one, where the answer is made. Transfer is the share of b's sentences whose likeliest capital is now a's,
retention the share of the other countries' sentences that keep theirs. The loss on unrelated text, which the posts on steering
language models report, is beside it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

import patchclamp as pc

COUNTRIES = ("France", "Italy", "Spain", "Japan", "Russia", "Germany", "Egypt", "Poland", "Cuba", "Norway")
SEEN = (
    "The capital of {} is",
    "The capital city of {} is",
    "The city that is the capital of {} is",
    "The name of the capital of {} is",
)
"""Sentences that vectors and gates are made of."""
UNSEEN = ("In {}, the capital is", "The government of {} sits in the capital,")
"""Sentences that everything is measured on."""
STEP = 3
"""Pairs: a stands so many places after b in the list of countries."""
COEFFICIENTS = (0.25, 0.5, 1.0, 1.5)
TEXTS = 2
Place = tuple[Literal["country", "last"], int]


def word_additions(
    model: pc.Model,
    places: Sequence[Place],
    *,
    coefficients: Sequence[float] = COEFFICIENTS,
    countries: Sequence[str] = COUNTRIES,
    texts: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Effect and cost, one row for each place, vector, gate and coefficient.

    Losses are in nats: ``loss others`` of the right capital among the countries' on the sentences of neither a nor b, ``loss
    text`` of the next token on unrelated text while the vector (of the first pair of each step) is added at every position, ``loss
    text, one token`` while it is added at the second token alone, as often as in a sentence.

    Args:
        model: A language model.
        places: Which token, ``"country"`` or ``"last"``, and after which layer the vector is added to the residual stream.
        coefficients: Every vector is added once with each of these factors.
        countries: Whose capitals are single tokens.
        texts: Unrelated text; passages of books by default.
        seed: The random vectors are drawn with this seed.

    Raises:
        InputError: A country is not in the catalogue, or its capital is not one token of the model.
    """
    capitals = {country.name: country.capital for country in pc.catalogue.capitals()}
    if missing := [name for name in countries if name not in capitals]:
        raise pc.InputError(
            f"no capital is known of {missing[0]!r}; the countries are those of pc.catalogue.capitals()"
        )
    answers = [model.token_id(f" {capitals[name]}") for name in countries]
    neutral = pc.metrics.neutral_texts(TEXTS, characters=400) if texts is None else list(texts)
    tables = [_at_place(model, place, countries, answers, coefficients, neutral, seed) for place in places]
    return pd.concat(tables, ignore_index=True)


def _at_place(
    model: pc.Model,
    place: Place,
    countries: Sequence[str],
    answers: list[int],
    coefficients: Sequence[float],
    texts: list[str],
    seed: int,
) -> pd.DataFrame:
    token, layer = place
    site, count = f"resid_post.{layer}", len(countries)
    train_prompts, test_prompts = (
        [frame.format(name) for name in countries for frame in frames] for frames in (SEEN, UNSEEN)
    )

    def at(frames: Sequence[str]) -> Any:
        return "last" if token == "last" else pc.per_prompt([pc.token(f" {c}") for c in countries for _ in frames])

    means = model.record(train_prompts, site, at=at(SEEN))[site].unflatten(0, (count, len(SEEN))).mean(1)
    hidden = model.record(test_prompts, site, at=at(UNSEEN))[site]
    pairs = [((b + STEP) % count, b) for b in range(count)]
    additions = torch.stack([means[a] - means[b] for a, b in pairs])
    noise = torch.randn(additions.shape, generator=torch.Generator().manual_seed(seed))
    kinds = {"means": additions, "random": noise * (additions.norm(dim=-1) / noise.norm(dim=-1)).unsqueeze(-1)}
    classes = torch.arange(count).repeat_interleave(len(UNSEEN))
    gates = torch.stack([pc.Nearest(means, b)(hidden) for _, b in pairs], 1)
    clean = model.run(test_prompts, logits="last").logits[:, answers]
    rows = []
    for vector, values in kinds.items():
        logits = _logits_under_additions(model, test_prompts, site, at(UNSEEN), values, coefficients, answers)
        gated_logits = torch.where(gates[..., None, None], logits, clean[:, None, None])
        costs = _text_losses(model, site, values[0], coefficients, texts)
        for gate, gate_logits in (("none", logits), ("activation", gated_logits))[: 2 if vector == "means" else 1]:
            for number, coefficient in enumerate(coefficients):
                columns = {"token": token, "layer": layer, "vector": vector, "gate": gate, "coefficient": coefficient}
                cost = costs[number] if gate == "none" else {}
                rows.append({**columns, **scores(gate_logits[:, :, number], clean, classes, pairs), **cost})
    return pd.DataFrame(rows)


def _logits_under_additions(
    model: pc.Model,
    prompts: list[str],
    site: str,
    at: Any,
    vectors: Tensor,
    coefficients: Sequence[float],
    answers: list[int],
) -> Tensor:
    """Logits ``[prompt, pair, coefficient, country]`` with a vector added at one token."""
    grid = model.sweep(
        prompts, pc.Add(vectors[0]), sites=site, at=at, over={"vector": list(vectors), "scale": list(coefficients)},
        read=pc.Logits(answers),
    )  # fmt: skip
    axes = ("prompt", "vector", "scale", "answer")
    data = grid.data.squeeze([axis for axis in grid.data.dims if axis not in axes], drop=True)
    return torch.tensor(data.transpose(*axes).values)


def _text_losses(
    model: pc.Model, site: str, vector: Tensor, coefficients: Sequence[float], texts: list[str]
) -> list[dict[str, float]]:
    """Loss on unrelated text for each coefficient: added at every position, at one, and not at all."""
    places: dict[str, Any] = {"loss text": "all", "loss text, one token": 1}
    edits = {f"{name} {c}": pc.Add(vector, c, site=site, at=at) for name, at in places.items() for c in coefficients}
    losses = pc.metrics.damage(model, edits, texts).data["loss"]
    mean = losses.weighted(losses["tokens"]).mean("text").values
    cost_table = mean[1:].reshape(len(places), len(coefficients))
    return [
        {"clean loss text": float(mean[0]), **dict(zip(places, column.tolist(), strict=True))}
        for column in cost_table.T
    ]


def scores(logits: Tensor, clean: Tensor, asked: Tensor, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Transfer, retention and losses, means over pairs.

    Args:
        logits: Under each pair's addition, ``[prompt, pair, class]``.
        clean: Without one, ``[prompt, class]``.
        asked: The class of each prompt.
        pairs: Classes a and b.
    """
    rows = []
    for number, (a, b) in enumerate(pairs):
        mask_b, mask_others = asked == b, (asked != a) & (asked != b)
        row = {}
        for name, values in (("", logits[:, number]), ("clean ", clean)):
            predictions, loss = values.argmax(-1), -values.double().log_softmax(-1)[torch.arange(len(asked)), asked]
            row[f"{name}transfer"] = float((predictions[mask_b] == a).double().mean())
            row[f"{name}retention"] = float((predictions == asked)[mask_others].double().mean())
            row[f"{name}loss others"] = float(loss[mask_others].mean())
        rows.append(row)
    return {str(name): float(value) for name, value in pd.DataFrame(rows).mean().items()}
