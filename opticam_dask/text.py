"""Text for people: one line, with nothing in it that a terminal would obey."""

from __future__ import annotations

_LONGEST_VALUE = 80


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
