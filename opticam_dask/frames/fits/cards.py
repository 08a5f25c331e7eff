"""Headers of FITS files: cards, their values and comments, up to the END."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

from opticam_dask.frames.fits.errors import CutHeader, FrameError
from opticam_dask.text import shown

#: Bytes of a block, of which all FITS files are made (FITS 4.0, section 3.1).
BLOCK = 2880
#: Bytes of one card of a header.
CARD = 80
#: Header blocks of all HDUs up to the image: 360,000 cards.
MOST_HEADER_BLOCKS = 10000
_LONGEST_TEXT = 1 << 16  # of a value that goes on over many cards
_QUOTED = re.compile(r"\s*'((?:[^']|'')*)'")


class PlaneTime(NamedTuple):
    """Time at which a plane of a cube was taken.

    Attributes
    ----------
    name : str
        Keyword or column that says so.
    value : str or float or None
        Date and time, MJD or JD; None where the header's own time is that of the first plane.
    offset : float
        Seconds after that.
    """

    name: str
    value: str | float | None = None
    offset: float = 0.0


class Cards(dict[str, Any]):
    """Values of a header by keyword; the comments of its cards are looked up when they are asked for.

    Attributes
    ----------
    text : str
        The cards as they stand in the file; of several with one keyword the first counts.
    plane_time : PlaneTime or None
        When the plane of a cube was taken; it goes before every time of the header.
    contradicted : frozenset of str
        Keywords that stand in the header again with another value.
    """

    text: str = ""
    plane_time: PlaneTime | None = None
    contradicted: frozenset[str] = frozenset()

    def comment(self, keyword: str) -> str:
        """Comment of a keyword; empty where it has none."""
        start = f"{keyword:8s}=" if len(keyword) <= 8 else f"HIERARCH {keyword}"
        position = self.text.find(start)
        while position >= 0 and position % CARD:
            position = self.text.find(start, position + 1)
        return _comment_of(self.text[position : position + CARD]) if position >= 0 else ""


def read_cards(stream: BinaryIO, *, is_primary: bool, most_blocks: int) -> tuple[Cards, str]:
    """Read one header up to its END: values, and the text of its blocks. Nothing where no further HDU begins."""
    block = stream.read(BLOCK).decode("latin-1")
    if not block.startswith("SIMPLE  =" if is_primary else "XTENSION="):
        if is_primary:
            raise FrameError(f"not a FITS file: expected SIMPLE at its beginning, found {block[:20]!r}")
        return Cards(), ""
    cards = Cards()
    blocks = [block]
    long_text = ""
    while len(block) == BLOCK:
        for start in range(0, BLOCK, CARD):
            card = block[start : start + CARD]
            keyword, value = _split_card(card)
            if keyword == "END":
                cards.text = "".join(blocks)
                return cards, cards.text
            if keyword == "CONTINUE" and card[8:10] != "= ":
                long_text = _continue(cards, long_text, value)
            elif keyword and keyword not in cards:  # the first one counts
                cards[keyword] = value
                long_text = keyword if value.__class__ is str and value.endswith("&") else ""
            else:
                long_text = ""
                # a text that goes on in further cards is not compared
                if keyword and value is not None and value != cards[keyword] and not str(value).endswith("&"):
                    cards.contradicted |= {keyword}
        if len(blocks) == most_blocks:
            raise FrameError(f"expected the END of the header within {MOST_HEADER_BLOCKS} blocks, found none")
        block = stream.read(BLOCK).decode("latin-1")
        blocks.append(block)
    raise CutHeader("the header is cut short: it has no END")


def integer(header: Mapping[str, Any], keyword: str, default: int | None = None) -> int:
    """Whole number of a keyword that says how data are stored, at least 0 but for BITPIX.

    Raises
    ------
    FrameError
        When there is none.
    """
    value = header.get(keyword, default)
    if not isinstance(value, int) or isinstance(value, bool) or (value < 0 and not keyword.endswith("BITPIX")):
        raise FrameError(f"damaged header: expected a whole number in keyword {keyword}, found {shown(value)}")
    return value


def _continue(cards: Cards, keyword: str, value: object) -> str:
    """Add a further piece to the text of a keyword; the keyword is returned where it goes on in the next card."""
    if not keyword:
        return ""
    cards[keyword] = (cards[keyword][:-1] + str(value))[:_LONGEST_TEXT]
    return keyword if cards[keyword].endswith("&") else ""


@lru_cache(maxsize=1 << 14)
def _split_card(card: str) -> tuple[str, str | int | float | bool | None]:
    """Keyword and value of a card, no keyword where it has none; the frames of a run have most of them in common.

    The END may be filled up with zeros, as some writers do.
    """
    keyword, value_text = card[:8].rstrip().upper(), card[10:]
    if keyword == "HIERARCH" and "=" in card:
        keyword, _, value_text = card[9:].partition("=")
        keyword = keyword.strip().upper()
    elif card[8:10] != "= " and keyword != "CONTINUE":
        return ("END" if card.startswith("END") and not card[3:].strip(" \0") else ""), None
    return keyword, _parse_value(value_text)


@lru_cache(maxsize=1 << 10)
def _comment_of(card: str) -> str:
    text = card.partition("=")[2]
    quoted = _QUOTED.match(text)
    return (text[quoted.end() :] if quoted else text).partition("/")[2].strip()


def _parse_value(text: str) -> str | int | float | bool | None:
    """Value of a card; a text that is no FITS value is returned as it stands."""
    if quoted := _QUOTED.match(text):
        return quoted[1].replace("''", "'").rstrip()
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    if "_" in text:  # in Python it may stand in a number
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return text or None


def joined(own: Cards, primary: Cards) -> Cards:
    """Values of the image's own header, and of the primary one where the own has none."""
    if own is primary:
        return own
    values = Cards({**primary, **own})
    values.text = own.text + primary.text
    values.contradicted = own.contradicted | (primary.contradicted - own.keys())
    return values
