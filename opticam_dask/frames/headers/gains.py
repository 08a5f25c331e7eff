"""Electrons per ADU, from one header: what GAIN means depends on who wrote it."""

from __future__ import annotations

import math
import re
from typing import Protocol

from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.values import LARGEST_NUMBER, HeaderValues, Keyword, as_number
from opticam_dask.text import shown

#: Electrons that a pixel can hold at most, unbinned: the deepest detectors have less than half of it.
_FULLEST_WELL = 2e6
#: Gains that differ by less than this share are the same.
_SAME_GAIN = 0.02


class GainEntries(Protocol):
    """Entries of an instrument that tell the gain."""

    @property
    def gain_keyword(self) -> Keyword: ...
    @property
    def default_gain(self) -> float | None: ...


def gain_of(instrument: GainEntries, values: HeaderValues, binning: int) -> float:
    """Electrons per ADU; NaN and a problem when they are not known.

    The keywords of the definition go in their order. GAIN, unless the definition names it alone, is not believed where
    the header shows that it is a setting of the camera. What cannot be is told.
    """
    name, value = values.find(instrument.gain_keyword)
    if value is None:
        name, value = _inverse(values) or (name, value)
    elif isinstance(value, str):
        value = _of_amplifiers(name, value, values)
    is_open = name == "GAIN" and not isinstance(instrument.gain_keyword, str)
    if is_open and value is not None and (reason := _reason_for_setting(value, binning, values)):
        if instrument.default_gain is None:
            values.problems.append(
                f"gain: keyword GAIN holds a setting of the camera ({reason}), not electrons per ADU, and the "
                "instrument has no default_gain"
            )
            return math.nan
        values.warn(f"GAIN holds a setting of the camera ({reason}): the gain of the definition is used")
        return float(instrument.default_gain)
    if value is None:
        return values.number("gain", instrument.gain_keyword, instrument.default_gain, "above 0")
    gain = as_number(value)
    if not 0.0 < gain <= LARGEST_NUMBER:
        return values.number("gain", name, instrument.default_gain, "above 0")
    _hold_against_others(name, gain, values)
    if _is_impossible(gain, binning, values):
        values.warn(
            f"a gain of {gain:g} electrons per ADU in {name} is hardly possible: pixels would hold more than "
            f"{_FULLEST_WELL:g} electrons. Is it a setting of the camera? (gain_keyword, default_gain)"
        )
    return gain


def _inverse(values: HeaderValues) -> tuple[str, float] | None:
    """Gain of a keyword that holds ADU per electron."""
    for name in keywords.ADU_PER_ELECTRON:
        if (number := values.number_of(name)) > 0.0:
            return name, 1.0 / number
    return None


def _of_amplifiers(name: str, value: str, values: HeaderValues) -> str | float:
    """Gain of a text that lists one for each amplifier: their mean, which is told where they differ."""
    gains = [as_number(part) for part in re.split(r"[,;\s]+", value.strip("[]() ")) if part]
    if len(gains) < 2 or not all(gain > 0.0 for gain in gains):
        return value
    if max(gains) > (1.0 + _SAME_GAIN) * min(gains):
        values.warn(f"{name} lists different gains ({shown(value)}): their mean is used for the whole image")
    return sum(gains) / len(gains)


def _reason_for_setting(value: str | float, binning: int, values: HeaderValues) -> str:
    """Why GAIN is taken for a setting of the camera; empty where nothing shows it."""
    comment = values.comment("GAIN")
    if keywords.SETTING_COMMENT.search(comment):
        return f"its comment is {shown(comment)}"
    for name in keywords.WRITER:
        writer = values.header.get(name)
        if isinstance(writer, str) and keywords.WRITERS_OF_SETTINGS.search(writer):
            return f"{name} is {shown(writer)}"
    number = as_number(value)
    return f"{number:g} electrons per ADU are hardly possible" if _is_impossible(number, binning, values) else ""


def _is_impossible(gain: float, binning: int, values: HeaderValues) -> bool:
    """Whether pixels at the end of their range would hold more electrons than any detector can."""
    bits = values.header.get("ZBITPIX", values.header.get("BITPIX"))
    if not isinstance(bits, int) or not 8 <= bits <= 16:
        bits = 16
    return gain * 2.0**bits > _FULLEST_WELL * max(1, binning) ** 2


def _hold_against_others(name: str, gain: float, values: HeaderValues) -> None:
    """Tell where another keyword has another gain."""
    for other in keywords.GAIN:
        if other == name or other not in values.header:
            continue
        number = values.number_of(other)
        if number > 0.0 and abs(number - gain) > _SAME_GAIN * gain:
            values.warn(
                f"the gains in {name} ({gain:g}) and {other} ({number:g}) are not the same: that in {name} is used"
            )
