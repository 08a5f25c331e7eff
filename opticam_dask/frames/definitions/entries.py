"""Check of the entries of an instrument: first their types, then their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from opticam_dask.frames.fits.images import MOST_PIXELS
from opticam_dask.frames.headers.times import TO_MIDDLE
from opticam_dask.kernels.series.timing import FAR_PLACES, TIME_SCALES
from opticam_dask.text import shown

#: Bytes of the name of a camera, which is part of names of files.
_LONGEST_CAMERA = 64


def wrong_types(values: Mapping[str, Any], types: Mapping[str, str]) -> list[str]:
    """List the entries whose values have a wrong type.

    Parameters
    ----------
    values : mapping of str to object
        Entries of an instrument.
    types : mapping of str to str
        Their types, as they are declared: ``"float | None"``. What is a choice or a keyword is left to `wrong_values`.
    """
    found = []
    for name, value in values.items():
        kind, *may_be_none = types.get(name, "").split(" | None")
        if kind in _TYPES and not (may_be_none and value is None):
            holds, expected = _TYPES[kind]
            if not holds(value):
                found.append(f"{name} must be {expected}{' or null' * bool(may_be_none)}, found {shown(value)}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, Integral) or float(value).is_integer())


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_table(value: Any, is_value: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(map(is_value, value.values()))


def _is_filters(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list | tuple) and all(map(_is_text, value)))


#: What is asked of a value by the type of its entry, and how to say so.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (_is_text, "a text in one line"),
    "float": (_is_number, "a number"),
    "int": (_is_whole, "a whole number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "Mapping[str, tuple[str, ...]]": (
        lambda value: _is_table(value, _is_filters),
        'an object of lists of names of filters, by camera: {"1": ["g", "r"]}',
    ),
    "Mapping[str, float]": (lambda value: _is_table(value, _is_number), 'an object of numbers, by camera: {"1": 0.5}'),
}


def wrong_values(one: Any) -> list[str]:
    """List what is wrong with the entries of an instrument."""
    levels = (one.default_saturation, one.default_linearity)
    positive = (one.default_gain, one.default_binning, *levels, one.diameter, one.source_pixels)
    names = [getattr(one, entry.name) for entry in fields(one) if entry.name.endswith("_keyword")]
    not_negative = (one.default_dark_current, one.default_read_noise)
    ways = one.time_keywords if isinstance(one.time_keywords, tuple) else ()
    checks = [
        (one.time_marks in TO_MIDDLE, "time_marks must be start, middle or end"),
        (one.time_scale in (None, *TIME_SCALES), f"time_scale must be one of {', '.join(TIME_SCALES)}"),
        (one.ra_unit in (None, "hourangle", "deg"), "ra_unit must be hourangle or deg"),
        (ways and all(map(_is_way, ways)), "time_keywords must be a list of keywords and pairs of keywords"),
        (all(map(_is_keyword, names)), "each ..._keyword must be a keyword or a list of keywords"),
        (
            one.cameras and all(map(_is_camera, one.cameras)),
            f"cameras must name a camera, without a colon, a dot before or blanks around it, in at most "
            f"{_LONGEST_CAMERA} bytes of one line",
        ),
        (one.pixel_scales.keys() <= one.cameras.keys(), "pixel_scales has a camera that cameras has not"),
        ((one.longitude is None) == (one.latitude is None), "longitude and latitude go together"),
        (one.images in (None, "frames", "mosaic", "first"), "images must be frames, mosaic or first"),
        (
            one.time_reference in (None, "observatory", *FAR_PLACES),
            f"time_reference must be observatory, {' or '.join(FAR_PLACES)}",
        ),
        (_is_extension(one.extension), "extension must be the number of an HDU, counted from 0, or its name"),
        (-180 <= (one.longitude or 0) <= 360, "longitude must be within -180 to 360 degrees"),
        (-90 <= (one.latitude or 0) <= 90, "latitude must be within -90 to 90 degrees"),
        (
            all(number is None or number > 0 for number in positive),
            "default_gain, default_binning, default_saturation, default_linearity, diameter and source_pixels must be "
            "above 0",
        ),
        (
            all(number is None or number >= 0 for number in not_negative),
            "default_dark_current and default_read_noise must be at least 0",
        ),
        (all(scale > 0 for scale in one.pixel_scales.values()), "pixel_scales must be above 0"),
        (
            max(one.source_pixels, one.default_binning or 1) <= MOST_PIXELS,
            f"source_pixels and default_binning must be at most {MOST_PIXELS}, the pixels of the largest frame",
        ),
        (one.scintillation_coefficient > 0, "scintillation_coefficient must be above 0"),
    ]
    return [sentence for holds, sentence in checks if not holds]


def _is_camera(name: str) -> bool:
    """Whether a name can begin the name of a group: a group whose name begins with a dot is hidden."""
    is_plain = _is_text(name) and name == name.strip() and ":" not in name and not name.startswith(".")
    return is_plain and len(name.encode()) <= _LONGEST_CAMERA


def _is_keyword(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple) and all(isinstance(name, str) for name in value))


def _is_extension(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_way(value: Any) -> bool:
    return _is_keyword(value) and (isinstance(value, str) or len(value) == 2)
