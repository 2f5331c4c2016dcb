"""The real text sets: counts, balance, and what has to hold between rows."""

import re
from collections import Counter
from itertools import groupby

import pytest

import patchclamp as pc

pytestmark = pytest.mark.assets

MALE, FEMALE = {"he", "him", "his", "himself"}, {"she", "her", "hers", "herself"}
OFFICES = {"carpenter": "male", "CEO": "male", "construction worker": "male", "nurse": "female", "librarian": "female"}


def _gender(word: str) -> str:
    return "male" if word in MALE else "female" if word in FEMALE else "none"


def test_winobias_pairs_differ_in_pronouns_alone() -> None:
    rows = pc.catalogue.winobias()
    assert len(rows) == 3128
    for number, (pair, both) in enumerate(groupby(rows, lambda row: row.pair)):
        pro, anti = both
        assert pair == number
        assert pro.stereotyped
        assert not anti.stereotyped
        assert {pro.gender, anti.gender} == {"male", "female"}
        assert (pro.kind, pro.split, pro.occupation, pro.occupation_start, pro.pronoun_start) == (
            anti.kind, anti.split, anti.occupation, anti.occupation_start, anti.pronoun_start,
        )  # fmt: skip
        assert pro.sentence[: pro.pronoun_start] == anti.sentence[: pro.pronoun_start]
        words = zip(pro.sentence.split(), anti.sentence.split(), strict=True)
        changed = [(a.rstrip("."), b.rstrip(".")) for a, b in words if a != b]
        assert changed[0] == (pro.pronoun, anti.pronoun)
        assert {(_gender(a), _gender(b)) for a, b in changed} == {(pro.gender, anti.gender)}


def test_winobias_is_balanced_and_its_spans_hold() -> None:
    rows = pc.catalogue.winobias()
    for row in rows:
        assert re.match(rf"{row.occupation}\b", row.sentence[row.occupation_start :])
        assert re.match(rf"{row.pronoun}\b", row.sentence[row.pronoun_start :])
        assert _gender(row.pronoun) == row.gender
        assert not re.search(r"[\[\]]|\s{2}|\s[.,']|\b[Tt]he the\b", row.sentence)
        if row.occupation in OFFICES:
            assert row.stereotyped == (OFFICES[row.occupation] == row.gender)
    assert len({row.occupation for row in rows}) == 40
    assert {row.pronoun for row in rows} == {"he", "him", "his", "she", "her"}
    count = Counter((row.kind, row.split, row.gender) for row in rows)
    assert count == {
        (1, "dev", "male"): 394, (1, "dev", "female"): 394, (1, "test", "male"): 391, (1, "test", "female"): 391,
        (2, "dev", "male"): 388, (2, "dev", "female"): 388, (2, "test", "male"): 391, (2, "test", "female"): 391,
    }  # fmt: skip
    first = rows[0]
    assert first.sentence == "The developer argued with the designer because he did not like the design."
    assert (first.occupation, first.occupation_start, first.pronoun, first.pronoun_start) == ("developer", 4, "he", 47)


def test_winogender_has_every_template_in_three_genders() -> None:
    rows = pc.catalogue.winogender()
    assert len(rows) == 720
    assert len({row.occupation for row in rows}) == 60
    assert Counter((row.answer, row.gender) for row in rows) == {
        (answer, gender): 120 for answer in ("occupation", "participant") for gender in ("male", "female", "neutral")
    }
    assert sum(row.participant == "someone" for row in rows) == 360
    for male, female, neutral in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert (male.gender, female.gender, neutral.gender) == ("male", "female", "neutral")
        assert (male.occupation, male.participant, male.answer) == (
            female.occupation,
            female.participant,
            female.answer,
        )
        words = zip(male.sentence.split(), female.sentence.split(), strict=True)
        changed = [(a.strip(".,"), b.strip(".,")) for a, b in words if a != b]
        assert {(_gender(a), _gender(b)) for a, b in changed} == {("male", "female")}


def test_gendered_words_have_sides() -> None:
    pairs = pc.catalogue.gendered_words()
    males, females = ({pair[side] for pair in pairs} for side in (0, 1))
    assert len(pairs) == len(set(pairs)) == 130
    assert not males & females
    assert {("king", "queen"), ("he", "she"), ("him", "her"), ("his", "her"), ("daddy", "mommy")} < set(pairs)
    assert all(re.fullmatch(r"[a-z']+\.?", word) for word in males | females)


def test_first_names_are_told_apart() -> None:
    names = pc.catalogue.first_names()
    assert (len(names.female), len(names.male), len(names.either)) == (4525, 3478, 419)
    assert not set(names.female) & set(names.male)
    assert {"Mary", "Elizabeth", "Susan"} < set(names.female)
    assert {"John", "William", "Richard"} < set(names.male)
    assert {"Leslie", "Robin"} < set(names.either)
    assert all(re.fullmatch(r"[A-Z][a-z]+(-[A-Z][a-z]+)?", name) for name in names.female + names.male + names.either)


def test_speeches_have_the_party_of_their_president() -> None:
    speeches = pc.catalogue.state_of_the_union()
    assert Counter(speech.party for speech in speeches) == {
        "Republican": 92, "Democratic": 90, "Democratic-Republican": 28, "none": 7, "Federalist": 4,
        "Whig": 4, "Whig & Democratic": 4, "National Union": 4,
    }  # fmt: skip
    party = {speech.president: speech.party for speech in speeches}
    assert len({(speech.president, speech.party) for speech in speeches}) == len(party) == 43
    for president, expected in {
        "George Washington": "none", "John Adams": "Federalist", "Thomas Jefferson": "Democratic-Republican",
        "Andrew Jackson": "Democratic", "John Tyler": "Whig & Democratic", "Zachary Taylor": "Whig",
        "Abraham Lincoln": "Republican", "Andrew Johnson": "National Union", "Grover Cleveland": "Democratic",
        "William McKinley": "Republican", "Woodrow Wilson": "Democratic", "Herbert Hoover": "Republican",
        "Franklin D Roosevelt": "Democratic", "Dwight D Eisenhower": "Republican", "John F Kennedy": "Democratic",
        "Richard Nixon": "Republican", "Ronald Reagan": "Republican", "Barack Obama": "Democratic",
        "Donald J Trump": "Republican", "Joseph R Biden": "Democratic",
    }.items():  # fmt: skip
        assert party[president] == expected
    assert [s.president for s in speeches if s.year in (1864, 1941)] == ["Abraham Lincoln", "Franklin D Roosevelt"]
    years = [speech.year for speech in speeches]
    assert years == sorted(years)
    assert set(range(1790, 2022)) - set(years) == {1933}
    (freedoms,) = [speech for speech in speeches if speech.year == 1941]
    assert "freedom from want" in freedoms.text.lower()
    assert all(len(s.text) > 5000 and "\n" not in s.text and s.text == s.text.strip() for s in speeches)


@pytest.mark.slow
def test_reviews_are_whole_balanced_and_split_without_a_leak() -> None:
    reviews = pc.catalogue.imdb()
    assert len(reviews) == 50000
    assert sum(review.positive for review in reviews) == 25000
    assert not any(re.search(r"<br|[\x80-\x9f]|\s{2}", review.text) for review in reviews)
    for start in range(0, 50000, 5000):  # no part of the order is of one class, as in the package
        assert 2300 < sum(review.positive for review in reviews[start : start + 5000]) < 2700
    train, test = pc.catalogue.imdb("train"), pc.catalogue.imdb("test")
    assert (len(train), len(test)) == (24847, 25153)
    assert Counter(train) + Counter(test) == Counter(reviews)
    bare = [{re.sub(r"[\W_]", "", review.text).lower() for review in half} for half in (train, test)]
    assert not bare[0] & bare[1]
    assert len(bare[0] | bare[1]) < 50000  # there are repeats that could have leaked
    with pytest.raises(pc.InputError, match="did you mean 'test'"):
        pc.catalogue.imdb("tests")  # type: ignore[arg-type]


SIZES = {
    "5_hist_fig_ismale": {"female": 1873, "male": 2409},
    "7_hist_fig_ispolitician": {"other": 2381, "politician": 2008},
    "21_headline_istrump": {"Trump": 1591, "other": 2377},
    "56_wikidatasex_or_gender": {"female": 1666, "male": 1679},
    "58_wikidatapolitical_party": {"Democratic": 965, "Republican": 966},
    "87_glue_cola": {"acceptable": 2057, "unacceptable": 1589},
    "92_glue_sst2": {"negative": 2410, "positive": 2418},
    "96_spam_is": {"ham": 682, "spam": 426},
    "113_movie_sent": {"negative": 1904, "positive": 1912},
    "139_news_class_Politics": {"other": 1241, "politics": 1230},
}


@pytest.mark.slow
def test_probing_sets_have_the_labels_they_say() -> None:
    assert pc.catalogue.probing_sets() == list(SIZES)
    label = {}
    for name, sizes in SIZES.items():
        rows = pc.catalogue.probing_set(name)
        assert Counter(row.label for row in rows) == sizes
        assert len({row.prompt for row in rows}) == len(rows)
        assert all(row.prompt == row.prompt.strip() for row in rows)
        grouped = {(row.group, row.prompt[start : start + 30]) for row in rows for start in range(len(row.prompt) - 29)}
        assert len({passage for _, passage in grouped}) == len(grouped)  # no passage stands in two groups
        label |= {(name, row.prompt): row.label for row in rows}
    assert label["5_hist_fig_ismale", "Margaret of Savoy, Duchess of Anjou"] == "female"
    assert label["21_headline_istrump", "House G.O.P. Signals Break With Trump Over Tariff Threat."] == "Trump"
    assert label["87_glue_cola", "John write books."] == "unacceptable"
    assert label["92_glue_sst2", "layered , well-developed characters and some surprises"] == "positive"
    assert all("trump" in prompt.lower() for (name, prompt), of in label.items() if of == "Trump")
    with pytest.raises(pc.InputError, match="did you mean '92_glue_sst2'"):
        pc.catalogue.probing_set("glue_sst2")
