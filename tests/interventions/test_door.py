"""The door of the engine: every name on it is there, and none is also the name of a file behind it."""

from pathlib import Path
from types import ModuleType

from patchclamp import interventions as engine

FILES = {"operations", "positions"}
"""Files that are themselves names of the door."""


def test_every_name_is_there_and_only_two_are_files() -> None:
    assert len(engine.__all__) > 80
    modules = {name for name in engine.__all__ if isinstance(getattr(engine, name), ModuleType)}
    assert modules == FILES


def test_a_file_and_a_name_of_the_door_are_never_called_alike() -> None:
    """Otherwise it would hang on the order of imports which of the two a package gets."""
    behind = {path.stem for path in Path(engine.__file__).parent.glob("*.py")}
    assert {"sweeping", "recording"} <= behind, "control: these are files"
    assert behind & set(engine.__all__) == FILES
