"""What the package imports is what it declares, and no floor lies below a published hole."""

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {canonicalize_name(r.name): r for r in map(Requirement, PROJECT["dependencies"])}
EXTRA = {
    canonicalize_name(Requirement(line).name) for lines in PROJECT["optional-dependencies"].values() for line in lines
}

FIXED = {
    "torch": "2.10",  # CVE-2026-24747: the weights-only unpickler
    "transformers": "5.10",  # CVE-2026-4372, CVE-2026-5241, CVE-2026-9856: a checkpoint runs code, or writes elsewhere
    "filelock": "3.20.3",  # CVE-2025-68146, CVE-2026-22701
    "jinja2": "3.1.6",  # CVE-2025-27516
}
"""The first release without each published hole."""


def imported() -> dict[str, bool]:
    """The packages that the sources import, and whether one of them is needed to import a module or to call a function."""
    found: dict[str, bool] = {}
    for file in SOURCES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        optional = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in names:
                root = name.partition(".")[0]
                found[root] = found.get(root, False) or id(node) not in optional
    return {name: needed for name, needed in found.items() if name not in (*sys.stdlib_module_names, "patchclamp")}


@cache
def distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def distribution(module: str) -> str:
    return canonicalize_name(distributions()[module][0])


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    found = imported()
    needed = {distribution(module) for module, is_needed in found.items() if is_needed}
    assert needed - set(DECLARED) - EXTRA == set()
    assert {distribution(module) for module in found} - set(DECLARED) - EXTRA == set()
    assert set(DECLARED) - {distribution(module) for module in found} == set(), "declared, but never imported"


@pytest.mark.parametrize("name", FIXED)
def test_no_floor_admits_a_published_hole(name: str) -> None:
    floor = next(Version(s.version) for s in DECLARED[name].specifier if s.operator == ">=")
    assert floor >= Version(FIXED[name])


WATCHED = re.compile(
    "from_pretrained|from_config|loads?|Unpickler|exec|eval|compile|exec_module|run(_path|_module)?|Popen|call|check_call|"
    "check_output|getoutput|system|popen|exec[lv].*|spawn.*|full_load|unsafe_load|safe_load"
)
MODULES = "pickle|joblib|dill|yaml|marshal|shelve"


@cache
def calls() -> list[tuple[str, ast.Call]]:
    """The calls in the sources that may read a file as more than data, with the text of what is called."""
    found = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            last = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and WATCHED.fullmatch(last):
                found.append((f"{file.relative_to(ROOT / 'src' / 'patchclamp')}: {ast.unparse(node.func)}", node))
    return found


def said(call: ast.Call, name: str) -> Any:
    """The value of a keyword of a call, if it is written there."""
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def test_files_are_read_as_data() -> None:
    """Nothing unpickles, and transformers is told at every door to run no code of a checkpoint."""
    doors = 0
    for where, call in calls():
        name = where.partition(": ")[2]
        if name.endswith((".from_pretrained", ".from_config")) and not re.match(
            r"(pc\.)?(dictionaries\.)?(TunedLens|cls|NearestLinear|Dictionary|ToyData)\b", name
        ):
            doors += 1
            assert said(call, "trust_remote_code") is False, where
        if name == "torch.load":
            assert said(call, "weights_only") is True, where
        if name in ("np.load", "numpy.load"):
            assert said(call, "allow_pickle") is False, where
        assert not re.match(rf"({MODULES})\.", name), where
    assert doors >= 4, "the doors were looked at"


def test_code_runs_at_the_doors_that_are_known() -> None:
    """Where a file could become code: a network that the person names. Where another program is started: fetching."""
    runs = {where for where, _ in calls() if re.search(r": (exec|eval|compile|.*exec_module|runpy\..*)$", where)}
    assert runs == {"cli/networks.py: exec", "cli/networks.py: compile"}
    starts = {w for w, _ in calls() if re.search(r": (subprocess\.|os\.(system|popen|exec|spawn))", w)}
    assert starts == {"catalogue/fetching.py: subprocess.run"}
