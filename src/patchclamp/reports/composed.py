"""A page of your own: texts, tables and results under one heading."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from patchclamp.core import registry
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.files import write_text
from patchclamp.core.kinds import File
from patchclamp.core.result import Result, library_versions
from patchclamp.reports.beside import beside
from patchclamp.reports.page import Section, embed_figure, render, table

_SIGNATURE = b"<h2>How this was made</h2>"
"""The bytes that stand in every page, by which it is recognised as one of ours."""


@checked
def report(path: File, title: str, contents: Sequence[tuple[str, Any]], **record: Any) -> Path:
    """Write a self-contained page that works offline.

    Args:
        path: The HTML file.
        title: The heading of the page.
        contents: Headings with what stands under them: text, a pandas frame, a result (with all its parts), a list of results
            of one prompt (their pictures side by side, layer by layer on one line), or a matplotlib figure.
        **record: Facts about how the page was made, for its end, such as ``command``.

    Raises:
        InputError: Something that is none of these; or the file is there and is none that this function wrote.
    """
    file = Path(path)
    if file.is_file() and _SIGNATURE not in file.read_bytes():
        raise InputError(f"{str(path)!r} is there and is no report of patchclamp's; name another file")
    parts: list[Section] = []
    for heading, content in contents:
        if isinstance(content, Result):
            inner = registry.page_module(content.kind).parts(content)
            parts += [Section(f"{heading}: {part.title}", part.body) for part in inner]
            record.setdefault("results", {})[heading] = content.plain_record()
        elif isinstance(content, list | tuple) and all(isinstance(one, Result) for one in content):
            parts.append(Section(heading, beside(content)))
            record.setdefault("results", {})[heading] = [one.plain_record() for one in content]
        elif isinstance(content, pd.DataFrame):
            parts.append(Section(heading, table(content)))
        elif hasattr(content, "savefig"):
            parts.append(Section(heading, embed_figure(content)))
        elif isinstance(content, str):
            parts.append(
                Section(heading, Markup("").join(Markup("<p>{}</p>").format(text) for text in content.split("\n\n")))
            )
        else:
            raise InputError(
                f"a report takes text, frames, figures, results and lists of results; under {heading!r} stands a "
                f"{type(content).__name__}"
            )
    write_text(path, render(title, parts, {**record, "versions": library_versions()}))
    return Path(path)
