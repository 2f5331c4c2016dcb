"""The study of a recurring name: its parts on a tiny model, against the same by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

import patchclamp as pc
from patchclamp.studies import copying, darkness, names
from patchclamp.studies.names import NamePassage

NAME, OTHER = (7, 11), (50, 51)
IDS = (3, 7, 11, 20, 21, 22, 23, 24, 25, 26, 27, 7, 11, 30, 31, 32, 33, 34, 7, 11, 40)
FOUND = NamePassage("made up", IDS, NAME, (1, 11, 18))


def by_hand(model: pc.Model, ids: list[int], token: int) -> float:
    """Log-probability of a token after some others."""
    with torch.no_grad():
        return float(model.module(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])


def test_a_passage_puts_other_names_in_place() -> None:
    assert FOUND.until(1) == list(IDS[:19])
    assert FOUND.earlier() == [1, 2, 11, 12]
    assert FOUND.put(OTHER, [1, 11], 0) == [3, 50, 51, *IDS[3:11], 50, 51, *IDS[13:18]]
    assert FOUND.ids == IDS, "nothing is changed in place"


def test_worth_is_the_difference_of_surprisals(llama: pc.Model) -> None:
    table = copying.worth(llama, FOUND, OTHER, draws=3)
    for step in range(2):
        clean, without = (
            -by_hand(llama, ids, NAME[step]) for ids in (FOUND.until(step), FOUND.put(OTHER, [1, 11], step))
        )
        alone = -by_hand(llama, FOUND.put(OTHER, [11], step), NAME[step])
        assert table["surprisal"][step] == pytest.approx(clean, abs=1e-9)
        assert table["earlier names"][step] == pytest.approx(without - clean, abs=1e-9)
        assert table["the one before alone"][step] == pytest.approx(alone - clean, abs=1e-9)


def test_the_control_leaves_names_and_the_end_alone() -> None:
    for places in copying._elsewhere(FOUND, 30, 0):
        assert len(places) == 2
        covered = {p + i for p in places for i in range(2)}
        assert len(covered) == 4
        assert not covered & set(FOUND.positions())
        assert max(covered) < FOUND.last - 4
    with pytest.raises(pc.InputError, match="too short for a control"):
        copying._elsewhere(NamePassage("short", (1, 7, 11, 7, 11), NAME, (1, 3)), 1, 0)


def test_all_heads_together_bring_everything_back(llama: pc.Model) -> None:
    """The position before the name holds the same token in both runs: what differs there came through heads."""
    ranked = copying.heads(llama, FOUND, OTHER)
    table = copying.together(llama, FOUND, OTHER, ranked, [(FOUND, OTHER)]).set_index("heads")
    assert len(ranked) == 12
    assert table["share"][12] == pytest.approx(1, abs=1e-9)
    assert table["share"][1] == pytest.approx(ranked["share"][0], abs=1e-9)
    assert table["held-out passages"].tolist() == pytest.approx(table["share"].tolist())
    assert table["share"][1] > table["random heads"][1]


def test_places_are_those_of_the_next_token() -> None:
    places = darkness._places(FOUND)
    assert places[0] == "before the first name"
    assert places[1] == "inside the first name"
    assert places[2] == "after a name"
    assert (places[10], places[11], places[17], places[18]) == tuple(["before a later name", "inside a later name"] * 2)
    assert places.count("elsewhere") == len(IDS) - 9


def test_a_name_at_the_very_beginning_has_no_place_before_it() -> None:
    begun = NamePassage("begun", IDS[1:], NAME, (0, 10, 17))
    places = darkness._places(begun)
    assert len(places) == len(begun.ids)
    assert places[:2] == ["inside the first name", "after a name"]
    assert "before the first name" not in places


def test_darkness_is_found_where_it_is_put() -> None:
    """Darkness made of surprisal alone correlates by 1 with it; the gap put at the name comes out; nothing else does."""
    random = np.random.default_rng(0)
    frames = []
    for number in range(6):
        surprisal = random.exponential(2, len(IDS))
        dark = pd.Series(surprisal).rank().to_numpy() / 100
        table = pd.DataFrame({"passage": str(number), "place": darkness._places(FOUND), "surprisal": surprisal})
        frames.append(table.assign(entropy=random.normal(size=len(IDS)), darkness=dark))
    found = {row["what"]: row for row in darkness.answers(pd.concat(frames), draws=200)}
    assert found["correlation of darkness and surprisal, elsewhere"]["value"] > 0.9
    null = found["correlation of darkness and entropy, elsewhere"]
    assert null["low"] < 0 < null["high"]
    shifted = pd.concat(frames)
    shifted.loc[shifted["place"] == "after a name", "darkness"] += 5
    (gap,) = [row for row in darkness.answers(shifted, draws=50) if row["what"] == "darkness after a name - elsewhere"]
    assert gap["value"] == pytest.approx(5, abs=0.1)
    assert gap["low"] > 4.9


def test_measured_darkness_is_the_lenses(llama: pc.Model) -> None:
    table = darkness.measure(llama, [FOUND])
    data = llama.lens([list(IDS)]).data.isel(prompt=0)
    assert np.allclose(table["darkness"], 1 - data["final_probability"].mean("layer")[:-1])
    assert np.allclose(table["surprisal"], data["surprisal"].isel(layer=-1)[:-1])
    assert darkness.figure(table).axes


@pytest.mark.assets
def test_names_are_found_in_texts_and_books(stories: pc.Model) -> None:
    found = names.passage(stories, "Lily met Tom. Tom was kind, and Lily liked Tom", " Tom")
    assert "".join(stories.tokens([list(found.until(0))])).endswith("liked")
    with pytest.raises(pc.InputError, match=r"' Anna' does not recur: .*: 0; .* tokens"):
        names.passage(stories, "Lily met Tom. Tom was kind, and Lily liked Tom", " Anna")
    book = {title: pc.catalogue.gutenberg(title)[title] for title in ("chesterton-brown",)}
    several = names.recurring_passages(stories, book, 3, seed=1)
    assert [one.label for one in several] == [one.label for one in names.recurring_passages(stories, book, 3, seed=1)]
    for one in several:
        assert len({one.ids[s : s + len(one.name)] for s in one.starts}) == 1
        other = names.stand_in(stories, one)
        assert len(other) == len(one.name)
        assert not set(other) & set(one.ids)
    with pytest.raises(pc.InputError, match="only 0 passages"):
        names.recurring_passages(stories, {"x": "Nothing here. " * 300}, 1)


@pytest.mark.assets
@pytest.mark.slow
def test_the_whole_study(smollm2: pc.Model, tmp_path) -> None:
    from patchclamp.studies.dursley import study

    found = study(smollm2, tmp_path, passages=3, samples=1)
    worth = found.worth[["earlier names", "other tokens, most"]].sum()
    assert worth["earlier names"] > 5
    assert worth["earlier names"] > 5 * worth["other tokens, most"]
    assert found.together.set_index("heads")["share"][270] == pytest.approx(1, abs=1e-3)
    assert {"report.html", "side-by-side.png", "darkness.svg", "worth.csv", "lens", "neurons", "heads"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert pc.open(tmp_path / "lens") == found.lens


def test_means_over_passages_have_the_bootstrap_interval_of_seed_0() -> None:
    table = pd.DataFrame(
        {"earlier names": [0.0, 1.0, 5.0, 2.5, -3.25, 7.75], "other tokens": [0.5, 0.25, 4.0, 1.0, 2.0, 8.0]}
    )
    draws = np.random.default_rng(0).integers(6, size=(2000, 6))
    found = copying.over_passages(table)
    assert found["passages"] == 6
    for name in table:
        values = table[name].to_numpy()
        low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
        assert found[name] == pytest.approx({"mean": values.mean(), "low": low, "high": high})
    assert copying.over_passages(table.iloc[:0]) == {}
