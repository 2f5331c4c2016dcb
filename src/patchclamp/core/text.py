r"""Text from others, made safe and visible: one function for each medium that shows it.

A token, a label or a file's name may hold what is not seen but acts: a terminal's commands, marks that turn the direction of
writing, halves of characters, and what a spreadsheet takes for a formula. Each is written out as Python writes it
(``\x1b``, ``\u202e``), so that it does nothing and everyone sees that it is there.
"""

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_CLASS = (
    "[\x00-\x1f\x7f-\x9f"  # commands of a terminal
    "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # no width, or another direction
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    "\ud800-\udfff\ufdd0-\ufdef"  # no characters: halves of a pair, and what Unicode keeps free
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "]"
)
_UNSEEN = re.compile(_CLASS)
_BEFORE_ESCAPE = re.compile(rf"(?<!\\)\\+(?=x[0-9a-f]{{2}}|u[0-9a-f]{{4}}|U[0-9a-f]{{8}}|(?![\n\t]){_CLASS})")
_FORMULA = re.compile("'*[=+\\-@\t\n\uff1d\uff0b\uff0d\uff20]")
LONGEST = 400
"""Characters of one text of a figure: a longer one would leave the picture no room."""


def escaped(text: str, keep: str = "\n") -> str:
    r"""Text in which nothing acts unseen.

    Args:
        text: Any text.
        keep: Characters that the medium shows as they are meant.

    >>> escaped("a\x1b[31mb\u202e")
    'a\\x1b[31mb\\u202e'
    """
    return _UNSEEN.sub(lambda match: match[0] if match[0] in keep else _code(match[0]), text)


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def for_terminal(text: str) -> str:
    """Text for a terminal: it holds no control character but the end of a line."""
    return escaped(text.expandtabs(8))


def shown_literally(method: Callable[[Any], str]) -> Callable[[Any], str]:
    """Decorate a ``__repr__`` or ``__str__`` of what others may have sent: people show it on a terminal."""

    @wraps(method)
    def show(self: Any) -> str:
        return for_terminal(method(self))

    return show


def for_figure(text: str) -> str:
    """Text for a figure; one that is far too long is cut."""
    safe = escaped(text)
    return safe if len(safe) <= LONGEST else safe[: LONGEST - 1] + "…"


def for_page(html: str) -> str:
    """A complete HTML page: what stands in it has been escaped for HTML before."""
    return escaped(html, keep="\n\t")


def for_csv(text: str) -> str:
    r"""A cell of a CSV file, which no spreadsheet takes for a formula.

    What begins with ``= + - @``, a tab or a new line gets ``'`` before it, and so does what begins with such a ``'``. What
    cannot be seen is written as an escape, and a backslash before an escape is doubled: so the text can be had back.
    """
    safe = escaped(_BEFORE_ESCAPE.sub(lambda match: 2 * match[0], text), keep="\n\t")
    return f"'{safe}" if _FORMULA.match(safe) else safe


def csv_text(frame: "pd.DataFrame", *, index: bool = False) -> str:
    """A frame as CSV: texts by :func:`for_csv`, numbers as they are."""
    table = frame.copy(deep=False)
    for place, dtype in enumerate(table.dtypes):
        if dtype.kind not in "biufcmM":
            table.isetitem(place, table.iloc[:, place].astype(object).map(_cell).to_list())
    if index:
        table.index = table.index.map(_cell)
    text: str = table.to_csv(index=index, header=[_cell(name) for name in table.columns])
    return text


def _cell(value: Any) -> Any:
    return for_csv(value) if isinstance(value, str) else value


def json_text(value: Any, **options: Any) -> str:
    """JSON with every letter as it is and everything unseen as its code; the options are those of ``json.dumps``."""
    return _UNSEEN.sub(
        lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1],
        json.dumps(value, ensure_ascii=False, **options),
    )
