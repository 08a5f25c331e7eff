"""Values of one header: looked up, turned into numbers and angles, with a reason where that cannot be done."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from numbers import Real
from typing import Any, cast

from opticam_dask.text import shown

Keyword = str | tuple[str, ...]

#: No number of a detector is larger; beyond it squares of electrons leave the range of 32-bit floats.
LARGEST_NUMBER = 1e9
#: Keywords that a message names.
_NAMED = 3

_SIGN = re.compile(r"\s*([+-]?)\s*")
_BETWEEN = re.compile(r"[:\shdms\xb0'\"]+")


class HeaderValues:
    """One header being read: looks values up and collects what is wrong with them.

    Attributes
    ----------
    problems : list of str
        Why the frame cannot be used.
    warnings : list of str
        What a person should know; in the same words for every frame, so that equal warnings can be counted.
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        self.header = header
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def find(self, keywords: Keyword) -> tuple[str, str | float | None]:
        """Look up the first keyword that holds something; the names of all and None when none does."""
        names = (keywords,) if isinstance(keywords, str) else keywords
        for name in names:
            value = self.header.get(name)
            if value is None:  # most keywords that are asked for
                continue
            if isinstance(value, str) and value.strip():
                return name, value.strip()
            # the abstract type comes last: asking it takes as long as all the rest
            if isinstance(value, (int, float, Real)):
                return name, cast(float, value)
        return named(names), None

    def number_of(self, keyword: str) -> float:
        """Number in one keyword; NaN where there is none."""
        return as_number(self.header.get(keyword))

    def comment(self, keyword: str) -> str:
        """Comment of one keyword; empty where none is known."""
        look_up = cast("Callable[[str], str] | None", getattr(self.header, "comment", None))
        if look_up is not None:
            return look_up(keyword)
        comments = getattr(self.header, "comments", None)  # of an astropy header
        return str(comments[keyword]) if comments is not None and keyword in self.header else ""

    def warn(self, sentence: str) -> None:
        """Report a problem that does not prevent the use of the frame."""
        self.warnings.append(sentence)

    def report_missing(self, what: str, names: str) -> None:
        """Report a missing keyword without which the frame cannot be used."""
        hint = "" if what == "exposure_time" else f", and the instrument has no default_{what}"
        self.problems.append(f"{what}: keyword {names} is missing or empty{hint}")

    def number(
        self, what: str, keywords: Keyword, default: float | None, limit: str, most: float = LARGEST_NUMBER
    ) -> float:
        """Read a number ("above 0" or "at least 0") without which the frame cannot be used."""
        name, value = self.find(keywords)
        if value is None:
            if default is None:
                self.report_missing(what, name)
            return math.nan if default is None else float(default)
        number = as_number(value)
        is_in_range = number > 0.0 or (number == 0.0 and limit == "at least 0")
        if is_in_range and math.isfinite(number) and number <= most:
            return number
        too_large = f" and at most {most:g}" if number > most else ""
        self.problems.append(f"{what}: expected a number {limit}{too_large} in keyword {name}, found {shown(value)}")
        return math.nan

    def optional_number(
        self, keywords: Keyword, default: float | None, *, least: float, most: float = LARGEST_NUMBER
    ) -> float:
        """Read a number that the frame can do without: the default or NaN when it is missing or absurd."""
        number = as_number(self.find(keywords)[1])
        if least <= number <= most:
            return number
        return math.nan if default is None else float(default)


def named(names: tuple[str, ...]) -> str:
    """Names of keywords for a message, the first few of many."""
    return " or ".join(names[:_NAMED] + ("...",) * (len(names) > _NAMED)) or "(none)"


def as_number(value: Any) -> float:
    """Convert a header value; NaN when it is no number."""
    if isinstance(value, bool) or value is None:
        return math.nan
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return math.nan


def as_angle(value: Any) -> float:
    """Convert a plain number or a sexagesimal text such as ``-0:30:14.7``; NaN when it is neither."""
    return sexagesimal(value) if isinstance(value, str) else as_number(value)


@lru_cache(maxsize=1024)
def sexagesimal(value: str) -> float:
    """Number of a text of one to three parts between colons, blanks, unit letters or signs; NaN when it is none.

    Sixty minutes or seconds are one more of the unit before: writers round so. A fourth part without a point is the
    fraction of the third, as PRISM writes it. The sign of ``-00`` counts.
    """
    sign = cast(re.Match[str], _SIGN.match(value))
    texts = [text for text in _BETWEEN.split(value[sign.end() :]) if text]
    if len(texts) == 4 and all(text.isdigit() for text in texts):
        texts[2:] = [f"{texts[2]}.{texts[3]}"]
    parts = [as_number(text) for text in texts]
    if not 1 <= len(parts) <= 3 or not parts[0] >= 0.0 or not all(0.0 <= part <= 60.0 for part in parts[1:]):
        return math.nan
    size = sum(part / 60.0**place for place, part in enumerate(parts))
    return -size if sign[1] == "-" else size
