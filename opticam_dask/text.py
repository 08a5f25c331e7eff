"""Text for people: lines with nothing in them that a terminal would obey, and summaries as HTML for notebooks.

And text that people write: files of entries and values.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

#: A value in a message is cut at this many characters.
_LONGEST_VALUE = 80
#: Rows that a table of a summary shows at most.
MOST_ROWS = 50
#: Width of the picture of a series, pixels.
_WIDTH = 420
#: Its height, pixels.
_HEIGHT = 60
#: Columns that it is drawn in.
_COLUMNS = 140
#: Style of a summary, readable on light and dark pages.
_STYLE = (
    "font-family:sans-serif;font-size:13px;line-height:1.5;border:1px solid rgba(128,128,128,.4);border-radius:4px;"
    "padding:6px 12px;display:inline-block;max-width:100%;overflow-x:auto"
)


def read_by_hand(path: Path) -> str:
    """Text of a file that people write, without the mark that editors put before it (a BOM).

    Raises
    ------
    ValueError
        When it is not UTF-8, or a directory.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except IsADirectoryError as error:
        raise ValueError("it is a directory, and a file was expected") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text ({error.reason}): save it as UTF-8") from error


def json_by_hand(text: str) -> Any:
    """Contents of a JSON text that people write.

    Raises
    ------
    ValueError
        When it is no JSON, or names an entry twice: which of the two is meant, nobody knows.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except RecursionError as error:
        raise ValueError("brackets stand in brackets too many times") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands in it twice")
    return found


def printable(text: str) -> str:
    r"""Escape what cannot be printed: a name of a file may hold line feeds or the commands of a terminal.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        The same text, with line feeds, control characters, invisible characters and bytes that are no UTF-8 as in a
        Python string (``\n``, ``\x1b``).
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def shown(value: object) -> str:
    """Representation of a value for a message, cut where it gets long.

    Parameters
    ----------
    value : object
        Any value.
    """
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


# ---------------------------------------------------------------- summaries as HTML, escaped, with parts that fold


class Fold(NamedTuple):
    """A part that can be folded: its heading, its HTML, and whether it is unfolded at first."""

    heading: str
    body: str
    is_open: bool = False


def escape(text: object) -> str:
    """Text as HTML shows it, with nothing in it that a browser would obey."""
    return html.escape(printable(str(text)), quote=True)


def reasons(set_aside: Sequence[tuple[str, str]]) -> str:
    """The first three of the files that cannot be used, each with its reason."""
    return "; ".join(f"{os.path.basename(file)}: {reason}" for file, reason in set_aside[:3])


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 night``, ``2 nights``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def wrap(heading: str, body: str, folds: Iterable[Fold] = ()) -> str:
    """Box with a heading, HTML, and parts that fold.

    Parameters
    ----------
    heading : str
        Plain text.
    body : str
        HTML that follows the heading.
    folds : iterable of Fold
        Parts that fold.
    """
    parts = "".join(
        f"<details{' open' if fold.is_open else ''}><summary>{escape(fold.heading)}</summary>{fold.body}</details>"
        for fold in folds
    )
    return f'<div style="{_STYLE}"><strong>{escape(heading)}</strong>{body}{parts}</div>'


def table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Table of plain texts; of many rows the first ones, and how many there are beside them."""
    cell = 'style="text-align:left;padding:1px 14px 1px 0;vertical-align:top"'
    head = "".join(f"<th {cell}>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td {cell}>{escape(value)}</td>" for value in row) + "</tr>" for row in rows[:MOST_ROWS]
    )
    more = f"<p>... and {len(rows) - MOST_ROWS:,} more</p>" if len(rows) > MOST_ROWS else ""
    return f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values, one pair a line."""
    cell = 'style="text-align:left;padding:1px 14px 1px 0"'
    rows = "".join(
        f'<tr><td {cell}><span style="opacity:.65">{escape(name)}</span></td><td {cell}>{escape(value)}</td></tr>'
        for name, value in pairs
    )
    return f'<table style="border-collapse:collapse">{rows}</table>'


def sparkline(values: np.ndarray) -> str:
    """Small picture of a series as SVG: the range of the values in each of some columns.

    Parameters
    ----------
    values : ndarray, shape (n,)
        What is not finite is left out.
    """
    import numpy as np  # not for the help of a command

    columns = np.array_split(np.asarray(values, dtype=float), min(_COLUMNS, max(1, len(values))))
    ranges = [(column, part[np.isfinite(part)]) for column, part in enumerate(columns)]
    known = [(column, part.min(), part.max()) for column, part in ranges if len(part)]
    if not known:
        return ""
    low, high = min(part[1] for part in known), max(part[2] for part in known)
    scale = (_HEIGHT - 4) / ((high - low) or 1.0)
    step = _WIDTH / len(columns)
    bars = [(step * (column + 0.5), scale * (top - low), scale * (bottom - low)) for column, bottom, top in known]
    lines = "".join(f"M{x:.1f} {_HEIGHT - 1 - top:.1f}V{_HEIGHT - 3 - bottom:.1f}" for x, top, bottom in bars)
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="series">'
        f'<path d="{lines}" stroke="currentColor" stroke-width="{max(step * 0.6, 1):.1f}" fill="none"/></svg>'
    )
