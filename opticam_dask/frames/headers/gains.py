"""Electrons per ADU, from one header: what GAIN means depends on who wrote it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Protocol

from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.values import LARGEST_NUMBER, HeaderValues, Keyword, as_number
from opticam_dask.text import shown

#: Electrons that a pixel can hold at most, unbinned: the deepest detectors have less than half of it.
_FULLEST_WELL = 2e6
#: Units of pixels that are electrons already.
_ELECTRONS = re.compile(r"\[?((photo-?)?e(lectrons?|-)?|photons?)\s*(/\s*pix(els?)?)?\]?", re.IGNORECASE)
#: Units of pixels that are no numbers of electrons or ADU any more: rates, and fluxes or magnitudes.
_NO_COUNTS = re.compile(
    r".*(/\s*s(ec(ond)?s?)?\b|\bs(ec)?\s*(\*\*|\^)?\s*\(?-1|Jy\b|\berg\b|\bmag(s|nitudes?)?\b|maggy|\bwatt|\bW\s*/?\s*m).*",
    re.IGNORECASE,
)
#: The same in words.
_RATES = re.compile(
    r".*(\bper\s+(s|sec|min|h|second|minute|hour)s?\b|/\s*(ms|min|h(ou)?rs?|h)\b|\b(cps|hz)\b).*", re.IGNORECASE
)
#: Units of pixels that are ADU, and words that say nothing.
_ADU = re.compile(
    r"\W*((raw|converged)\s+)?(adus?|counts?|cts?|dns?|data\s+numbers?|digital\s+(numbers?|units?)|"
    r"analog.to.digital\s+units?|none|unknown|unitless|dimensionless|n/?a|raw|)(\s*/\s*pix(els?)?)?\W*",
    re.IGNORECASE,
)
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
    the header shows that it is a setting of the camera. What cannot be is told. Pixels whose unit (BUNIT) is electrons
    have a gain of 1, whatever the gain of the detector was.
    """
    unit = str(values.header.get("BUNIT", "")).strip()
    if unit and (_NO_COUNTS.fullmatch(unit) or _RATES.fullmatch(unit)):
        values.problems.append(f"gain: expected pixels in ADU or electrons, found {shown(unit)} in keyword BUNIT")
        return math.nan
    if is_in_electrons(values):
        return _of_electrons(instrument, unit, values)
    if not _ADU.fullmatch(unit):
        values.warn(f"BUNIT is {shown(unit)}, which is no unit that is known here: the pixels are taken for ADU")
    _tell_of_multiplication(values)
    name, value = values.find(instrument.gain_keyword)
    if value is None:
        name, value = _inverse(values) or (name, value)
    elif isinstance(value, str):
        value = _of_amplifiers(name, value, values)
    elif name in keywords.GAIN and value > 0.0 and _is_adu_per_electron(name, values):
        values.warn(f"the comment of {name} says that it is ADU per electron: electrons per ADU are 1 / {name}")
        value = 1.0 / value
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
        _hold_default_against_header(instrument.default_gain, binning, values)
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


def _of_electrons(instrument: GainEntries, unit: str, values: HeaderValues) -> float:
    """Gain of pixels that are electrons: 1, which is told where the header has another one."""
    gain = detector_gain(instrument, values)
    if abs(gain - 1.0) > _SAME_GAIN:
        values.warn(
            f"BUNIT is {shown(unit)}: the pixels are electrons already, and the gain of {gain:g} is that of the levels "
            "of the definition alone"
        )
    return 1.0


def detector_gain(instrument: GainEntries, values: HeaderValues) -> float:
    """Electrons per ADU of the detector; 1 where they are not known.

    The levels of a definition (saturation, linearity) are in ADU, also where the pixels of a file are electrons.
    """
    value = values.find(instrument.gain_keyword)[1]
    gain = as_number(instrument.default_gain if value is None else value)
    return gain if 0.0 < gain <= LARGEST_NUMBER else 1.0


def adu_in_pixel_units(instrument: GainEntries, values: HeaderValues) -> float:
    """What one ADU is in the unit of the pixels: the gain where these are electrons already, otherwise 1."""
    return detector_gain(instrument, values) if is_in_electrons(values) else 1.0


def level_of(
    instrument: GainEntries, keyword: Keyword, default: float | None, gain: float, values: HeaderValues
) -> float:
    """A level of the detector (saturation, linearity) in the unit of the pixels; NaN where it is not known.

    Levels of a header are in the unit of the pixels, unless the comment of the card says electrons; those of a
    definition are in ADU.
    """
    name, value = values.find(keyword)
    level = as_number(value)
    if not 1.0 <= level <= LARGEST_NUMBER:
        return math.nan if default is None else float(default) * adu_in_pixel_units(instrument, values)
    if keywords.ELECTRONS_COMMENT.search(values.comment(name)) and not is_in_electrons(values) and gain > 0.0:
        return level / gain
    return level


def read_noise_of(keyword: Keyword, default: float | None, gain: float, values: HeaderValues) -> float:
    """Read noise in electrons, also where the comment of its card says ADU; NaN where it is not known."""
    read_noise = values.optional_number(keyword, default, least=0.0)
    name, value = values.find(keyword)
    is_in_adu = as_number(value) == read_noise and keywords.ADU_COMMENT.search(values.comment(name)) is not None
    return read_noise * gain if is_in_adu and gain > 0.0 and not is_in_electrons(values) else read_noise


def is_in_electrons(values: HeaderValues) -> bool:
    """Whether the pixels are electrons already, by BUNIT."""
    return _ELECTRONS.fullmatch(str(values.header.get("BUNIT", "")).strip()) is not None


def _inverse(values: HeaderValues) -> tuple[str, float] | None:
    """Gain of a keyword that holds ADU per electron."""
    for name in keywords.ADU_PER_ELECTRON:
        if (number := values.number_of(name)) > 0.0:
            return name, 1.0 / number
    return None


def _is_adu_per_electron(name: str, values: HeaderValues) -> bool:
    """Whether the comment of a gain says that it is the other way round."""
    return keywords.ADU_PER_ELECTRON_COMMENT.search(values.comment(name)) is not None


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
    if said := _said_to_be_setting(values):
        return said
    number = as_number(value)
    if isinstance(value, str) and not re.search(r"\d", value) and not math.isfinite(number):
        return f"it is {shown(value)}"
    return f"{number:g} electrons per ADU are hardly possible" if _is_impossible(number, binning, values) else ""


def _said_to_be_setting(values: HeaderValues) -> str:
    """Evidence that GAIN is a setting of the camera: its comment or the program that wrote it; empty if none."""
    comment = values.comment("GAIN")
    if keywords.SETTING_COMMENT.search(comment):
        return f"its comment is {shown(comment)}"
    for name in keywords.WRITER:
        writer = values.header.get(name)
        if isinstance(writer, str) and keywords.WRITERS_OF_SETTINGS.search(writer):
            return f"{name} is {shown(writer)}"
    frame = values.header.get("FRAME")
    if isinstance(frame, str) and keywords.INDI_FRAME.search(frame.strip()):
        return f"FRAME is {shown(frame)}, as INDI writes it"
    return ""


def _is_impossible(gain: float, binning: int, values: HeaderValues) -> bool:
    """Whether pixels at the end of their range would hold more electrons than any detector can."""
    bits = values.header.get("ZBITPIX", values.header.get("BITPIX"))
    if not isinstance(bits, int) or not 8 <= bits <= 16:
        bits = 16
    return gain * 2.0**bits > _FULLEST_WELL * max(1, binning) ** 2


def _hold_against_others(name: str, gain: float, values: HeaderValues) -> None:
    """Tell where another keyword has another gain."""
    for other, number in _other_gains(name, gain, values):
        values.warn(f"the gains in {name} ({gain:g}) and {other} ({number:g}) are not the same: that in {name} is used")


def _hold_default_against_header(default: float | None, binning: int, values: HeaderValues) -> None:
    """Tell where the header has a gain, in a keyword that the definition does not name, and it is not the default."""
    for other, number in [] if default is None else _other_gains("", default, values):
        if not _is_impossible(number, binning, values):  # a setting
            values.warn(
                f"the gain of the definition ({default:g}) and that in {other} ({number:g}) are not the same: that of "
                "the definition is used, which names another gain_keyword"
            )


def _other_gains(name: str, gain: float, values: HeaderValues) -> Iterator[tuple[str, float]]:
    """Keywords beside the one that is used which have another gain, and their gain."""
    for other in (*keywords.GAIN, *keywords.OTHER_GAINS):
        if other == name or other not in values.header or (other == "GAIN" and _said_to_be_setting(values)):
            continue
        number = values.number_of(other)
        if number > 0.0 and _is_adu_per_electron(other, values):
            number = 1.0 / number
        if number > 0.0 and abs(number - gain) > _SAME_GAIN * gain:
            yield other, number


def _tell_of_multiplication(values: HeaderValues) -> None:
    """Tell of electrons that were multiplied before they were read: a gain counts those that the light made."""
    for name in keywords.MULTIPLICATIONS:
        if (number := values.number_of(name)) > 1.0:
            values.warn(
                f"{name} says that electrons were multiplied by {number:g} before they were read: the gain must be "
                "electrons per ADU of those that light made (divided by this number), and errors by photons are up to "
                "1.4 times too small"
            )
            return
