"""Capitals: one small JSON file of countries that have a capital, the most populous first."""

import json
from pathlib import Path

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.core.files import write_json


def convert(archive: Path, out: Path) -> None:
    """Write ``capitals.json``."""
    rows = []
    for data in read_members(archive, "countryinfo/data/", ".json").values():
        country = json.loads(data)
        capital = country.get("capital")
        if isinstance(capital, list):  # the package lists the Vatican's
            (capital,) = capital
        if capital and country.get("name"):
            rows.append(
                {
                    "name": country["name"],
                    "capital": capital,
                    "region": country.get("region") or "",
                    "population": int(country.get("population") or 0),
                }
            )
    write_json(out / "capitals.json", sorted(rows, key=lambda row: (-row["population"], row["name"])))
