"""Labelled texts for probes: one JSON file a set, without repeated texts."""

import csv
import io
from pathlib import Path
from typing import Any

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.core.errors import missing_dependency
from patchclamp.core.files import write_json

_FOLDER = "sae_probes/data/cleaned_data/"

SETS = {
    "5_hist_fig_ismale": {"0": "female", "1": "male"},
    "7_hist_fig_ispolitician": {"0": "other", "1": "politician"},
    "21_headline_istrump": {"False": "other", "True": "Trump"},
    "56_wikidatasex_or_gender": {"female": "female", "male": "male"},
    "58_wikidatapolitical_party": {"Democratic Party": "Democratic", "Republican Party": "Republican"},
    "87_glue_cola": {"0": "unacceptable", "1": "acceptable"},
    "92_glue_sst2": {"0": "negative", "1": "positive"},
    "96_spam_is": {"0": "ham", "1": "spam"},
    "113_movie_sent": {"0": "negative", "1": "positive"},
    "139_news_class_Politics": {"0": "other", "1": "politics"},
}
"""The sets that are kept, and what their labels are called here."""

SHARED = 30
"""Characters in a row that put two texts into one group: enough for a clause, more than most names."""


def convert(archive: Path, out: Path) -> None:
    """Write one file a set."""
    try:
        import zstandard
    except ImportError:
        raise missing_dependency("probing-sets (tables compressed with zstd)", "zstandard", "assets") from None
    for name, labels in SETS.items():
        member = f"{_FOLDER}{name}.csv.zst"
        data = read_members(archive, member)[member]
        table = zstandard.ZstdDecompressor().stream_reader(data).read().decode()
        write_json(out / f"{name}.json", rows(table, labels))


def rows(table: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    """Distinct texts with labels and groups, in the order of the table; a text under two labels is left out."""
    text_labels: dict[str, set[str]] = {}
    for row in csv.DictReader(io.StringIO(table, newline="")):
        text_labels.setdefault(row["prompt"].strip(), set()).add(labels[row["target"]])
    label = {prompt: next(iter(names)) for prompt, names in text_labels.items() if len(names) == 1}
    members = groups(list(label))
    return [
        {"prompt": prompt, "label": label[prompt], "group": group} for prompt, group in zip(label, members, strict=True)
    ]


def groups(texts: list[str]) -> list[int]:
    """Group of every text: the number of the first text that it shares a passage with, itself or through others.

    A passage is ``SHARED`` characters in a row. The groups are the connected parts of the graph of sharing.
    """
    parent = list(range(len(texts)))

    def root(text: int) -> int:
        while parent[text] != text:
            parent[text] = text = parent[parent[text]]
        return text

    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        for start in range(len(text) - SHARED + 1):
            one, other = root(first.setdefault(text[start : start + SHARED], number)), root(number)
            parent[max(one, other)] = min(one, other)
    return [root(number) for number in range(len(texts))]
