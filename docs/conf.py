"""Sphinx configuration. Tables that repeat facts of the code are written from the code."""

import inspect
import re
from collections.abc import Collection
from pathlib import Path

import patchclamp
from patchclamp.catalogue import ASSETS
from patchclamp.models.components import COMPONENTS
from patchclamp.models.families import all_families

project = "patchclamp"
author = "The patchclamp developers"
copyright = "2026, the patchclamp developers"
version = release = patchclamp.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
html_theme = "furo"
html_title = "patchclamp"
html_static_path = ["_static"]
exclude_patterns = ["_build", "_generated", "notebooks"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "kind"}
napoleon_google_docstring = True
nitpicky = False


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def write_tables() -> None:
    """Write the tables of components, families and the catalogue."""
    folder = Path(__file__).parent / "_generated"
    folder.mkdir(exist_ok=True)
    rows = [
        [f"`{c.name}`", "every layer" if c.per_layer else "once", c.axis.replace("_", " "), c.meaning]
        for c in COMPONENTS.values()
    ]
    (folder / "methods.md").write_text(methods_page(inspect.getsource(patchclamp.Model)))
    (folder / "components.md").write_text(_table(["component", "where", "last dimension", "what it is"], rows))
    families = {family.name: family for family in all_families().values()}
    rows = [
        [", ".join(f"`{name}`" for name in f.model_types), f.residual.replace("_", " "), _refused(f.refused)]
        for f in sorted(families.values(), key=lambda f: f.name)
    ]
    (folder / "families.md").write_text(_table(["`config.model_type`", "block", "always refused"], rows))
    rows = [
        [f"`{a.name}`", a.says, f"{a.registry}: {a.package} {a.version}", f"{a.megabytes:g} MB", a.licence]
        for a in ASSETS.values()
    ]
    (folder / "catalogue.md").write_text(_table(["name", "what it is", "package", "size", "licence"], rows))


def methods_page(source: str) -> str:
    """The methods of a model for the reference, in the groups in which the class binds them."""
    parts = []
    for line in source.splitlines():
        heading, bound = re.match(r"    # (.+)", line), re.match(r"    (\w+) = ", line)
        parts += [f"### {heading[1]}\n"] if heading else []
        parts += [f"```{{eval-rst}}\n.. automethod:: patchclamp.Model.{bound[1]}\n```\n"] if bound else []
    return "\n".join(parts)


def _refused(components: Collection[str]) -> str:
    few = len(components) < 9
    return ", ".join(f"`{name}`" for name in components) if few else "all but the residual stream"


write_tables()


def _skip_requests(app, what, name, obj, skip, options):
    """Methods that scikit-learn generates for its metadata routing refer to pages of its own."""
    return True if name.startswith("set_") and name.endswith("_request") else skip


def _list_new_pages(app, docname, source):
    """Put pages that the index does not name at the end of the guide, so that a new page needs no second place."""
    if docname == "index":
        listed = set(source[0].split())
        pages = [
            path.stem for path in sorted(Path(__file__).parent.glob("*.md")) if path.stem not in {*listed, "index"}
        ]
        source[0] = source[0].replace("\ncatalogue\n", "\n".join(["", "catalogue", *pages, ""]))


def _bind(app, what, name, obj, options, lines):
    """A method's text without the model, which a function of a model takes first."""
    if what == "method" and name.startswith("patchclamp.Model."):
        lines[:] = [line for line in lines if not line.startswith("    model: ")]


def setup(app):
    """Leave out what is not ours, and list what is new."""
    app.connect("autodoc-skip-member", _skip_requests)
    app.connect("source-read", _list_new_pages)
    app.connect("autodoc-process-docstring", _bind, priority=400)  # before napoleon reads the sections
