"""Converters of the text sets, on archives small enough to read: every line stands for a slip found in the real ones."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.catalogue.converters import first_names, gender_bias, imdb, probing_sets, state_of_the_union
from tests.catalogue.archives import write_archive

Converted = Callable[[ModuleType, str, dict[str, bytes]], dict[str, Any]]


@pytest.fixture
def converted(tmp_path: Path) -> Converted:
    """Make an archive, convert it, and read back what was written."""

    def convert(converter: ModuleType, archive: str, files: dict[str, bytes]) -> dict[str, Any]:
        path, out = write_archive(tmp_path / archive, files), tmp_path / "out"
        out.mkdir()
        converter.convert(path, out)
        return {file.stem: json.loads(file.read_text()) for file in out.iterdir()}

    return convert


PAIRS = [
    ("[The cook] fed the guard because [she] cared.", "[The cook] fed the guard because [he] cared.", True),
    # two pronouns, a space before the 's, an article outside one bracket, an article said twice
    ("The chief 's wife saw [the cook] and [her] pan.", "The chief 's wife saw the [cook] and [his] pan.", True),
    ("The guard asked the [the CEO] if [he] paid [his] rent.", "The guard asked [the CEO] if [she] paid [her] rent.", True),
    # another word changed; one more word at the end; the same pronoun twice; the other occupation; a pronoun left as it was
    ("[The cook] fed the guard and [she] is kind.", "[The cook] fed the guard and [he] is rude.", False),
    ("[The cook] fed the guard and [she] left", "[The cook] fed the guard and [he] left today", False),
    ("[The cook] fed the guard and [she] left.", "[The cook] fed the guard and [she] left.", False),
    ("[The cook] fed the guard and [she] left.", "The cook fed [the guard] and [he] left.", False),
    ("The cook lent [the guard] her cup and hated [her].", "The cook lent [the guard] her cup and hated [him].", True),
    ("The cook robbed [the guard] of his cup and hated [him].", "The cook robbed [the guard] of [her] cup and hated [her].", False),
]  # fmt: skip


def _gender_files(pairs: list[tuple[str, str]]) -> dict[str, bytes]:
    files = {
        f"{gender_bias._WINOBIAS}{side}_stereotyped_type{kind}.txt.{split}": b""
        for side in ("pro", "anti")
        for kind in (1, 2)
        for split in ("dev", "test")
    }
    for side, column in (("pro", 0), ("anti", 1)):
        lines = [f"{i} {pair[column]}" for i, pair in enumerate(pairs, 1)]
        files[f"{gender_bias._WINOBIAS}{side}_stereotyped_type2.txt.dev"] = "\r\n".join(lines).encode()
    files[gender_bias._WINOGENDER] = (
        b"sentid\tsentence\nnurse.someone.0.neutral.txt\tThe nurse told someone that they would call.\n"
        b"nurse.patient.1.male.txt\tThe nurse asked the patient if he slept.\n"
    )
    files[gender_bias._WORDS] = (
        b"king \t queen \r\ngods\tgodesses\r\ndaddy\tmommy\r\nmommy\tdaddy\r\nking\tqueen\r\nmr.\tmrs.\r\nms.\tmr.\r\nheir\their\r\n"
    )
    return files


def test_gender_sets(converted: Converted) -> None:
    made = converted(gender_bias, "x.whl", _gender_files([(pro, anti) for pro, anti, _ in PAIRS]))
    rows = made["winobias"]
    assert len(rows) == 2 * sum(kept for *_, kept in PAIRS)
    assert {(row["kind"], row["split"]) for row in rows} == {(2, "dev")}
    assert [row["stereotyped"] for row in rows] == [True, False] * (len(rows) // 2)
    assert [row["pair"] for row in rows] == [i // 2 for i in range(len(rows))]
    assert rows[2]["sentence"] == "The chief's wife saw the cook and her pan."
    assert rows[3]["sentence"] == "The chief's wife saw the cook and his pan."
    assert rows[4]["sentence"] == "The guard asked the CEO if he paid his rent."
    for row in rows:
        for what in ("occupation", "pronoun"):
            assert row["sentence"][row[f"{what}_start"] :].startswith(row[what])
    assert made["winogender"] == [
        {"occupation": "nurse", "participant": "someone", "answer": "occupation", "gender": "neutral",
         "sentence": "The nurse told someone that they would call."},
        {"occupation": "nurse", "participant": "patient", "answer": "participant", "gender": "male",
         "sentence": "The nurse asked the patient if he slept."},
    ]  # fmt: skip
    assert made["gendered_words"] == [
        ["king", "queen"], ["gods", "goddesses"], ["daddy", "mommy"], ["mr.", "mrs."], ["mr.", "ms."],
    ]  # fmt: skip


@pytest.mark.parametrize(("pro", "anti", "kept"), PAIRS)
def test_a_pair_is_kept_if_and_only_if_it_is_minimal_and_either_side_may_come_first(
    pro: str, anti: str, kept: bool
) -> None:
    one, other = (gender_bias.read_sentence(f"1 {line}") for line in (pro, anti))
    assert gender_bias._is_minimal(one, other) is kept
    assert gender_bias._is_minimal(other, one) is kept


@given(
    st.lists(st.sampled_from(["chief", "saw", "the", "and", "cared", "CEO's"]), max_size=6),
    st.sampled_from(["cook", "construction worker"]),
    st.lists(st.sampled_from(["met", "paid", "told"]), min_size=1, max_size=4),
    st.sampled_from(["he", "her", "himself"]),
)
def test_spans_stand_where_the_brackets_stood(before: list[str], who: str, between: list[str], pronoun: str) -> None:
    row = gender_bias.read_sentence(" ".join(["7", *before, f"[a {who}]", *between, f"[{pronoun}]", "."]))
    assert row["sentence"] == " ".join([*before, "a", who, *between, pronoun]) + "."
    assert row["occupation_start"] == len(" ".join([*before, "a "]))
    assert row["pronoun_start"] == len(row["sentence"]) - len(pronoun) - 1
    assert (row["occupation"], row["pronoun"]) == (who, pronoun)


def test_names_are_distinct_and_capitalised(converted: Converted) -> None:
    made = converted(first_names, "x.tgz", {"package/data/names.txt": b"Zoe\nErvIn\nJo-Ann\nZoe\n"})
    assert made == {"names": ["Ervin", "Jo-Ann", "Zoe"]}


def test_speeches_come_in_the_order_of_time(converted: Converted) -> None:
    speech = {"year": 1897, "name": "William Mc Kinley", "party": "Republican", "text": " To the Senate: "}
    files = {
        "package/data/1897_william_mc_kinley_r.json": speech,
        "package/data/1790_george_washington_n.json": speech | {"year": 1790, "name": "George Washington"},
    }
    made = converted(state_of_the_union, "x.tgz", {name: json.dumps(data).encode() for name, data in files.items()})
    assert [row["year"] for row in made["speeches"]] == [1790, 1897]
    assert made["speeches"][1] == {
        "year": 1897, "president": "William McKinley", "party": "Republican", "text": "To the Senate:",
    }  # fmt: skip


@given(st.randoms(use_true_random=False))
def test_order_and_split_of_reviews_hang_on_their_text_alone(shuffle: random.Random) -> None:
    raw = [{"t": f"Film {i}.<br /><br />It's {'good' if i % 2 else 'bad'}!", "s": i % 2} for i in range(64)]
    rows = imdb.reviews(raw)
    shuffle.shuffle(raw)
    assert imdb.reviews(raw) == rows
    some = imdb.reviews(raw[:30])
    assert some == [row for row in rows if row in some]
    assert {row["split"] for row in rows} == {"train", "test"}
    assert all(row["positive"] is ("good" in row["text"]) for row in rows)


def test_reviews_that_differ_in_punctuation_stand_together() -> None:
    raw = [{"t": f"Film {i}", "s": 0} for i in range(50)] + [{"t": "Film 7 !!", "s": 0}, {"t": "film<br />7", "s": 0}]
    rows = imdb.reviews(raw)
    where = [i for i, row in enumerate(rows) if row["text"].lower().startswith("film 7")]
    assert where == list(range(where[0], where[0] + 3))
    assert len({rows[i]["split"] for i in where}) == 1


def test_reviews_are_cleaned_of_tags_and_control_characters(converted: Converted) -> None:
    raw = [{"t": "It\x92s \x96 well\x81 \u2014<br/><br />a  <i>film</i> ", "s": 1}]
    made = converted(imdb, "x.tgz", {"package/reviews.json": json.dumps(raw).encode()})
    assert [row["text"] for row in made["reviews"]] == ["It\u2019s \u2013 well \u2014 a <i>film</i>"]


def test_probing_sets_lose_repeated_and_contradicted_texts(converted: Converted) -> None:
    zstandard = pytest.importorskip("zstandard")
    files = {}
    for name, labels in probing_sets.SETS.items():
        first, second = labels
        table = f'prompt,prompt_len,target\nplain,1,{first}\n"two\nlines, a comma",2,{second}\nplain ,1,{first}\nboth,1,{first}\nboth,1,{second}\n'
        files[f"{probing_sets._FOLDER}{name}.csv.zst"] = zstandard.ZstdCompressor().compress(table.encode())
    made = converted(probing_sets, "x.whl", files)
    assert set(made) == set(probing_sets.SETS)
    assert made["92_glue_sst2"] == [
        {"prompt": "plain", "label": "negative", "group": 0},
        {"prompt": "two\nlines, a comma", "label": "positive", "group": 1},
    ]


@given(st.lists(st.tuples(st.integers(0, 150), st.integers(25, 45)), max_size=8))
def test_groups_are_the_connected_parts_of_the_graph_of_shared_passages(cuts: list[tuple[int, int]]) -> None:
    """On pieces of one document, against a slow oracle: reachability by a power of the matrix of sharing."""
    document = "".join(map(chr, range(0x4E00, 0x4E00 + 200)))
    texts = [document[start : start + length] for start, length in cuts]
    passages = [{text[i : i + 30] for i in range(len(text) - 29)} for text in texts]
    shares = [[i == j or bool(one & other) for j, other in enumerate(passages)] for i, one in enumerate(passages)]
    reached = np.linalg.matrix_power(np.array(shares, dtype=int).reshape(len(texts), len(texts)), 8) > 0
    assert probing_sets.groups(texts) == [row.tolist().index(True) for row in reached]


def test_groups_chain() -> None:
    left, right = "x" * 30, "y" * 30
    assert probing_sets.groups([left, "lone", right, f"{left} {right}", left[1:]]) == [0, 1, 0, 0, 4]


def test_missing_zstandard_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(pc.MissingDependencyError, match=r"needs zstandard.*pip install 'patchclamp\[assets\]'"):
        probing_sets.convert(tmp_path / "x.whl", tmp_path)
