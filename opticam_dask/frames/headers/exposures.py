"""Exposure and read-out of a frame from its header: exposure time, binning, dark current, kind of frame."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Protocol

from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.values import HeaderValues, Keyword, as_number
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.text import shown

#: A longer exposure is not believed: the header is damaged, or in other units.
_LONGEST_EXPOSURE = SECONDS_PER_DAY
#: Nor is a coarser binning.
_LARGEST_BINNING = 1024
#: Exposure times in two keywords contradict each other when they differ by more than this share,
_SAME_EXPOSURE = 0.05
#: and by more than this many seconds.
_SAME_SECONDS = 0.05


class ExposureEntries(Protocol):
    """Entries of an instrument that tell exposure time, binning, dark current and kind of a frame."""

    @property
    def exposure_time_keyword(self) -> Keyword: ...
    @property
    def binning_keyword(self) -> Keyword: ...
    @property
    def default_binning(self) -> int | None: ...
    @property
    def dark_current_keyword(self) -> Keyword: ...
    @property
    def default_dark_current(self) -> float | None: ...
    @property
    def image_type_keyword(self) -> Keyword: ...


def binning_of(instrument: ExposureEntries, values: HeaderValues) -> int:
    """Binning, which must be equal along both axes; 0 when it is not known."""
    name, value = values.find(instrument.binning_keyword)
    if value is None:
        if instrument.default_binning is None:
            values.report_missing("binning", name)
        else:
            _hold_against_other_binnings("", instrument.default_binning, values)
        return instrument.default_binning or 0
    other = keywords.SECOND_AXIS.get(name)
    if other is not None and (along_y := values.header.get(other)) is not None:
        name, value = f"{name} and {other}", f"{value}x{along_y}"
    factor = _common_factor(str(value))
    if (digits := _two_digits(str(value))) and digits != factor:
        values.warn(f"{name} is {shown(value)}: it is taken for {digits} x {digits}, not for {factor} x {factor}")
        factor = digits
    if not factor:
        values.problems.append(
            f"binning: expected one whole number for both axes (such as 2x2) in keyword {name}, found {shown(value)}"
        )
    else:
        _hold_against_other_binnings(name, factor, values)
    return factor


def _hold_against_other_binnings(name: str, factor: int, values: HeaderValues) -> None:
    """Tell where another keyword has another binning; ``name`` is empty where that of the definition is used."""
    for other in (*keywords.BINNING, *keywords.OTHER_BINNINGS):
        value = values.header.get(other)
        if value is None or other in name.split():
            continue
        second = _two_digits(str(value)) or _common_factor(str(value).strip())
        if second and second != factor:
            used, whose = (f"in {name}", f"that in {name}") if name else ("of the definition", "that of the definition")
            values.warn(f"the binnings {used} ({factor}) and {other} ({second}) are not the same: {whose} is used")


@lru_cache(maxsize=1024)
def _common_factor(text: str) -> int:
    """Binning of both axes; 0 where they differ or are no such numbers."""
    factors = {as_number(part) for part in re.split(r"\s*[xX,*]\s*|\s+", text.strip("[]() "))}
    factor = factors.pop()
    is_binning = not factors and 1.0 <= factor <= _LARGEST_BINNING and factor.is_integer()
    return int(factor) if is_binning else 0


@lru_cache(maxsize=1024)
def _two_digits(text: str) -> int:
    """Binning of both axes that is written without anything between its two digits (22); 0 for other texts."""
    found = re.fullmatch(r"\s*([1-9])\1(\.0*)?\s*", text)
    return int(found[1]) if found else 0


def dark_current_of(instrument: ExposureEntries, values: HeaderValues) -> float:
    """Dark current in electrons per pixel and second; 0 where it is not known."""
    names, default = instrument.dark_current_keyword, instrument.default_dark_current
    name, value = values.find(names)
    if value is None and default is None:
        values.warnings.append(f"keyword {name} is missing or empty: the dark current is taken as 0")
        return 0.0
    return values.number("dark_current", names, default, "at least 0")


def exposure_time_of(instrument: ExposureEntries, values: HeaderValues) -> float:
    """Exposure time in seconds; NaN and a problem when it is not known."""
    name, value = values.find(instrument.exposure_time_keyword)
    keyword = instrument.exposure_time_keyword if value is None else name
    exposure_time = values.number("exposure_time", keyword, None, "at least 0", math.inf)
    exposure_time *= _seconds_in(name, values)
    if exposure_time > _LONGEST_EXPOSURE:
        values.problems.append(f"exposure_time: expected at most a day, found {exposure_time:g} s")
        return math.nan
    for other in ("EXPTIME", "EXPOSURE"):
        if other == name or other not in values.header:
            continue
        second = values.number_of(other) * _seconds_in(other, values)
        if abs(second - exposure_time) > max(_SAME_SECONDS, _SAME_EXPOSURE * exposure_time):
            values.warn(f"the exposure times in {name} and {other} are not the same: that in {name} is used")
    tell_of_cycles(exposure_time, values)
    return exposure_time


def tell_of_cycles(exposure_time: float, values: HeaderValues) -> None:
    """Tell of an exposure that takes longer than the time to the next one."""
    for name in keywords.CYCLES:
        if 0.0 < values.number_of(name) < (1.0 - _SAME_EXPOSURE) * exposure_time - _SAME_SECONDS:
            values.warn(
                f"{name} says that an exposure is made every {values.number_of(name):g} s, and the exposure time is "
                f"{exposure_time:g} s: is it in milliseconds? ([ms] in its comment says so)"
            )


def tell_of_sums(values: HeaderValues) -> None:
    """Tell of a frame that is made of several exposures: its middle and its noise are those of one exposure."""
    for name in keywords.N_EXPOSURES:
        if (number := values.number_of(name)) > 1.0:
            values.warn(
                f"{name} says that the frame is made of {number:.0f} exposures: times are those of one exposure as "
                "long as the exposure time says, and errors are right for the gain and read noise of the sum or mean"
            )
            return


def _seconds_in(name: str, values: HeaderValues) -> float:
    """Seconds in the unit of an exposure time, by its keyword or by the unit that the comment of its card names."""
    if name in keywords.SECONDS:
        return keywords.SECONDS[name]
    return _seconds_by_comment(values.comment(name))


@lru_cache(maxsize=256)
def _seconds_by_comment(comment: str) -> float:
    return next((seconds for words, seconds in keywords.SECONDS_IN_COMMENT if words.search(comment)), 1.0)


def kind_of(instrument: ExposureEntries, values: HeaderValues) -> tuple[str, str]:
    """Kind of a frame (science, flat, ...) and the keyword that tells it: the first one with a known word.

    Where another keyword says another kind, that is told.
    """
    named = instrument.image_type_keyword
    names = (named,) if isinstance(named, str) else named
    if str(values.header.get("ESO DPR CATG", "")).upper().startswith("ACQ") and not isinstance(named, str):
        return "acquisition", "ESO DPR CATG"  # DPR TYPE is OBJECT in these
    found, source, unknown = "light", "", ""
    for name in names if isinstance(named, str) else (*names, *keywords.OTHER_IMAGE_TYPES):
        value = values.header.get(name)
        if not (isinstance(value, str) and value.strip()):
            continue
        if not (kind := kind_by_words(value)):
            is_word = name != "FRAME" and not any(letter.isdigit() for letter in value)  # that of Andor is a time
            unknown = unknown or (f"{name} is {shown(value)}" if is_word and name != "OBSMODE" else "")
        elif not source:
            found, source = kind, name
        elif kind != found:
            values.warn(f"{source} says that the frame is a {found} and {name} that it is a {kind}: {source} is used")
    if (
        not source
        and not unknown
        and keywords.CALIBRATION_OBJECT.fullmatch(title := str(values.header.get("OBJECT", "")))
    ):
        unknown = f"OBJECT is {shown(title)}, and nothing says what kind of frame it is"
    if not source and unknown:
        values.warn(f"{unknown}: the frame is taken for a light frame")
    return found, source


@lru_cache(maxsize=256)
def kind_by_words(text: str) -> str:
    """Kind of a frame that a text names; empty where it names none."""
    words = text.replace("_", " ")
    found = next((kind for kind, pattern in keywords.KINDS if pattern.search(words)), "")
    return found or ("light" if keywords.LIGHT.search(words) else "")
