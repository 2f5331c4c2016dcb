"""The frame of every report: heading, parts, evidence; one style and one script, all in the file."""

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from patchclamp.core import registry
from patchclamp.core.result import Result
from patchclamp.core.text import for_page, json_text
from patchclamp.figures.style import write


@dataclass(frozen=True)
class Section:
    """One part of a page."""

    title: str
    body: Markup


def preformatted(text: str) -> Markup:
    """Text as a terminal shows it."""
    return Markup("<pre>{}</pre>").format(text)


def result_page(result: Result) -> str:
    """The page of one result, as :meth:`Result.save` writes it."""
    parts = registry.page_module(result.kind).parts(result)
    return render(_title(result), parts, result.plain_record())


def summary_parts(
    result: Result, figure: str, tables: Mapping[str, Any], pictures: Iterable[Section] = ()
) -> list[Section]:
    """What most pages begin with: what the result says of itself, its figure, and tables.

    Args:
        result: The result.
        figure: The heading of the figure.
        tables: Pandas frames by their headings.
        pictures: What stands before the figure, as maps with numbers under the mouse.
    """
    rest = [Section(title, table(frame)) for title, frame in tables.items()]
    summary = Section("Summary", preformatted(repr(result)))
    return [summary, *pictures, Section(figure, embed_result(result)), *rest]


def _title(result: Result) -> str:
    kind = result.kind.replace("_", " ").capitalize()
    prompts = result.record.get("prompts", [])
    names = dict.fromkeys(str(row.get("text") or "tokens") for row in prompts[:3])
    return f"{kind}: {', '.join(names)}" if names else kind


def render(title: str, parts: list[Section], record: dict[str, Any]) -> str:
    """A complete page.

    Args:
        title: The heading.
        parts: The parts between the heading and the record.
        record: The record of the call, which stands at the end.
    """
    environment = Environment(
        loader=PackageLoader("patchclamp.reports"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assets = files("patchclamp.reports") / "templates"
    html = environment.get_template("page.html").render(
        title=title,
        parts=parts,
        command=record.get("command"),
        evidence=json_text(record, indent=2),
        style=Markup((assets / "page.css").read_text(encoding="utf-8")),
        script=Markup((assets / "page.js").read_text(encoding="utf-8")),
    )
    return for_page(html)


def embed_result(result: Result, **options: Any) -> Markup:
    """Embed the result's figure in the page, drawn with these options."""
    return embed_figure(result.figure(**options))


def embed_figure(figure: Any) -> Markup:
    """Embed a matplotlib figure in the page."""
    buffer = io.BytesIO()
    write(figure, buffer, "png", dpi=160)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup('<img alt="figure" src="data:image/png;base64,{}">').format(data)


def table(frame: Any, most: int = 50) -> Markup:
    """Write a pandas frame as an HTML table."""
    head = Markup("").join(Markup("<th>{}</th>").format(column) for column in frame.columns)
    rows = []
    for _, row in frame.head(most).iterrows():
        rows.append(
            Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(_cell(value)) for value in row))
        )
    remainder = Markup("<p>{} more rows in data.csv</p>").format(len(frame) - most) if len(frame) > most else Markup("")
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}").format(
        head, Markup("").join(rows), remainder
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
