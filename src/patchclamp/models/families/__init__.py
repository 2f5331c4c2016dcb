"""One declarative file an architecture. Adding one is a table here and a row in the conformance test."""

from importlib import import_module
from pkgutil import iter_modules

from patchclamp.models.family import Family


def all_families() -> dict[str, Family]:
    """Every declared family, by the ``config.model_type`` it serves."""
    table: dict[str, Family] = {}
    for module in iter_modules(__path__):
        family: Family = import_module(f"{__name__}.{module.name}").FAMILY
        for model_type in family.model_types:
            if model_type in table:
                raise ValueError(f"{model_type!r} is declared by {table[model_type].name} and {family.name}")
            table[model_type] = family
    return table
