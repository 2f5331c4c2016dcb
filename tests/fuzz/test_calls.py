"""Runs, recordings, generations and edits around the user's own calls are what plain hooks give, prompt by prompt."""

import warnings
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import patchclamp as pc
from tests import tiny
from tests.effort import examples
from tests.fuzz import check, draws, oracle
from tests.fuzz.formulas import gaussian
from tests.fuzz.places import CAUSAL, TINY
from tests.traces import no_trace

SEED = st.integers(0, 2**32 - 1)
PHASES = [Phase.generate]
"""A failure names the seed of its draw, which is all that it takes to see it again; smaller seeds are not simpler draws."""
FAMILY = st.sampled_from(list(TINY))


def opened(family: str) -> pc.Model:
    """A tiny model of a family."""
    return pc.wrap(tiny.shared(family))


class Opened(dict[str, pc.Model]):
    """Models that are opened when first asked for: not where tests are only collected."""

    def __missing__(self, family: str) -> pc.Model:
        self[family] = opened(family)
        return self[family]


MODELS = Opened()


def begun(seed: int, family: str, **options: Any) -> tuple[Random, pc.Model, Any, Any, Any]:
    """The stream of a draw, a model of the family with its module, and prompts drawn with their ids."""
    rng = Random(seed)
    return rng, MODELS[family], tiny.shared(family), *draws.prompts(rng, **options)


@given(seed=SEED, family=FAMILY)
@settings(max_examples=examples(20, 300), phases=PHASES)
def test_a_run_is_what_hooks_give(seed: int, family: str) -> None:
    rng, model, module, inputs, rows = begun(seed, family)
    edits = draws.edits(rng, family, rows)
    site, keep = draws.site(rng, family), rng.choice(["all", "last"])
    at, resolve = draws.position(rng, [len(r) for r in rows])
    wanted = check.by_hand(module, family, rows, edits, (site,))
    with no_trace(module), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.run(inputs, [one.edit for one in edits], record=site, at=at, logits=keep)
    names = [one.operation.name for one in edits]
    for i, (ids, one) in enumerate(zip(rows, wanted, strict=True)):
        logits = found.logits[i, : len(ids)] if keep == "all" else found.logits[i].unsqueeze(0)
        assert check.close(logits, one.logits if keep == "all" else one.logits[-1:]), (
            f"logits of prompt {i} under {names}"
        )
        where = resolve(len(ids), i)
        assert check.close(check.recorded(found.activations, site, i, len(where)), one.sites[site][where]), (
            f"{site} under {names}"
        )
    assert list(found.fired) == [sum(n) for n in zip(*(one.fired for one in wanted), strict=True)], names


@given(seed=SEED, family=FAMILY)
@settings(max_examples=examples(15, 200), phases=PHASES)
def test_a_recording_is_what_hooks_see(seed: int, family: str) -> None:
    rng, model, module, inputs, rows = begun(seed, family, most=5)
    edits = draws.edits(rng, family, rows)
    sites = tuple(dict.fromkeys(draws.site(rng, family) for _ in range(rng.randint(1, 3))))
    at, resolve = draws.position(rng, [len(r) for r in rows])
    wanted = check.by_hand(module, family, rows, edits, sites)
    with no_trace(module):
        found = model.record(
            inputs, list(sites), at, edits=[one.edit for one in edits], batch_tokens=rng.choice([1, 3, 16, 2048])
        )
    for i, ids in enumerate(rows):
        where = resolve(len(ids), i)
        for site in sites:
            assert check.close(check.recorded(found, site, i, len(where)), wanted[i].sites[site][where]), (site, i)


def pinned(rng: Random, family: str, rows: draws.Ids) -> draws.Drawn:
    """An edit that means something of tokens that may follow."""
    while (found := draws.edit(rng, family, rows)).operation.needs_tokens:
        pass
    return found


def generated_positions(rng: Random, shortest: int) -> tuple[Any, Callable[[int, int], list[int]]]:
    """A position in a generation, and ``(tokens of the prompt, tokens so far) -> positions``."""
    one = rng.randrange(-shortest, shortest)
    return rng.choice([
        (one, lambda p, _: [one % p]),
        ("last", lambda p, _: [p - 1]),
        ("all", lambda _, n: list(range(n))),
        ("rest", lambda _, n: list(range(1, n))),
        ("prompt", lambda p, _: list(range(p))),
        ("generated", lambda p, n: list(range(p, n))),
        (slice(1, None), lambda p, _: list(range(1, p))),
        ([0, "generated"], lambda p, n: [0, *range(p, n)]),
    ])  # fmt: skip


def generating(
    rng: Random, family: str, rows: draws.Ids
) -> tuple[list[pc.Edit], Callable[[list[int], int], Callable[[int], list[oracle.Change]]]]:
    """Edits that mean something of tokens that are not written yet, and what they are by hand in a text of so many tokens."""
    drawn, wheres = [], []
    while len(drawn) < rng.choice([1, 1, 2]):
        one = draws.edit(rng, family, rows)
        if not one.operation.needs_tokens and not one.site.startswith("logits"):
            drawn.append(one)
            wheres.append(generated_positions(rng, min(map(len, rows))))
    edits = [one.edit.on(at=at) for one, (at, _) in zip(drawn, wheres, strict=True)]

    def changes(ids: list[int], number: int) -> Callable[[int], list[oracle.Change]]:
        made = [one.change(ids, number) for one in drawn]

        def of(length: int) -> list[oracle.Change]:
            return [
                oracle.Change(one.site, tuple(resolve(len(ids), length)), one.formula, one.gate)
                for one, (_, resolve) in zip(made, wheres, strict=True)
            ]

        return of

    return edits, changes


@given(seed=SEED, family=st.sampled_from(CAUSAL))
@settings(max_examples=examples(6, 60), phases=PHASES)
def test_a_generation_is_what_the_whole_text_gives_anew_for_each_token(seed: int, family: str) -> None:
    rng, model, module, inputs, rows = begun(seed, family)
    edits, changes = generating(rng, family, rows)
    new, cache = rng.randint(2, 4), rng.choice([True, False])
    wanted = [tuple(oracle.generate(module, family, ids, changes(ids, i), new, 2)) for i, ids in enumerate(rows)]
    if max(map(len, wanted)) < 2:
        return  # one new token is not fed back, so an edit of the new tokens would be refused
    with no_trace(module):
        found = model.generate(inputs, edits, max_new_tokens=new, use_cache=cache)
    assert found.ids == tuple(wanted), (edits, cache)


@given(seed=SEED, family=st.sampled_from(CAUSAL))
@settings(max_examples=examples(5, 100), phases=PHASES)
def test_edits_around_the_users_own_call_are_what_hooks_give(seed: int, family: str) -> None:
    rng, model, module, _, rows = begun(seed, family)
    edits = [one for one in draws.edits(rng, family, rows) if not one.operation.needs_tokens] or [
        pinned(rng, family, rows)
    ]
    width = max(map(len, rows))
    left = rng.random() < 0.5
    ids = torch.tensor([[0] * (width - len(r)) + r if left else r + [0] * (width - len(r)) for r in rows])
    mask = torch.tensor(
        [[0] * (width - len(r)) + [1] * len(r) if left else [1] * len(r) + [0] * (width - len(r)) for r in rows]
    )
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    wanted = check.by_hand(module, family, rows, edits)
    with no_trace(module), torch.no_grad(), model.editing([one.edit for one in edits]):
        found = module(input_ids=ids, attention_mask=mask, position_ids=places).logits
    for row, keep, one in zip(found, mask.bool(), wanted, strict=True):
        assert check.close(row[keep], one.logits), [one.operation.name for one in edits]


@pytest.mark.parametrize("family", TINY)
def test_the_oracle_tells_edits_apart(family: str) -> None:
    """The negative control: another vector, position or site gives other logits, far beyond the tolerance."""
    module, ids, v = tiny.shared(family), tiny.ids(1, 6)[0], gaussian(Random(0), 32)

    def logits(site: str, at: int, size: float) -> torch.Tensor:
        return oracle.run(module, family, ids, [oracle.Change(site, (at,), lambda x: x + size * v)]).logits

    plain = logits("resid_post.1", 2, 1.0)
    for other in (logits("resid_post.1", 2, 1.001), logits("resid_post.1", 3, 1.0), logits("resid_pre.1", 2, 1.0)):
        assert not check.close(other, plain)
    assert check.close(logits("resid_post.0", 2, 1.0), logits("resid_pre.1", 2, 1.0))
