"""Which camera took a frame, and through which filter, from one header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.values import HeaderValues, Keyword
from opticam_dask.locations import MOST_BYTES
from opticam_dask.text import shown

#: Colours of the filters on a block of pixels, as programs that take images write them in BAYERPAT [S, N, I].
_BAYER = re.compile(r"[RGBCMYW]{4,}", re.IGNORECASE)
#: Characters of the name of a filter, which is part of names of files.
_LONGEST_FILTER = 64


class CameraEntries(Protocol):
    """Entries of an instrument that tell the camera and the filter of a frame."""

    @property
    def name(self) -> str: ...
    @property
    def cameras(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def camera_keyword(self) -> Keyword: ...
    @property
    def filter_keyword(self) -> Keyword: ...
    @property
    def default_filter(self) -> str | None: ...


def filter_of(instrument: CameraEntries, values: HeaderValues) -> str:
    """Filter by the header, else the only one of the camera that the header names, else the default; empty without."""
    name, value = values.find(instrument.filter_keyword)
    if value is None:
        filters = instrument.cameras.get(_named_camera(instrument, values), ())
        value = filters[0] if len(filters) == 1 else instrument.default_filter
        _tell_of_other_wheels(value, values)
    pattern = values.header.get("BAYERPAT")
    if isinstance(pattern, str) and _BAYER.fullmatch(pattern.strip()):
        values.warn(
            f"BAYERPAT is {pattern.strip()}: neighbouring pixels see different colours and are measured as if they "
            "saw one (rebin_factor 2 makes one pixel of four)"
        )
    if value is None:
        values.report_missing("filter", name)
        return ""
    filter_name = str(value)
    is_long = len(filter_name) > _LONGEST_FILTER or len(filter_name.encode()) > MOST_BYTES
    if is_long or not filter_name.isprintable():
        values.problems.append(
            f"filter: expected at most {_LONGEST_FILTER} printable characters ({MOST_BYTES} bytes) in keyword {name}, "
            f"found {shown(value)}"
        )
        return ""
    return filter_name


def _tell_of_other_wheels(used: str | None, values: HeaderValues) -> None:
    """Tell where the header names filters in keywords that the definition does not name."""
    others = [name for name in keywords.OTHER_FILTERS if str(values.header.get(name, "")).strip()]
    if used is not None and others and any(str(values.header[name]).strip() != used for name in others):
        listed = ", ".join(f"{name} is {shown(values.header[name])}" for name in others)
        values.warn(f"{listed}, which the definition does not name (filter_keyword): its filter {shown(used)} is used")


def camera_of(instrument: CameraEntries, filter_name: str, values: HeaderValues) -> str:
    """Camera that the header names, else the one that has the filter, else the only one."""
    if (named := _named_camera(instrument, values)) in instrument.cameras:
        return named
    having = [camera for camera, filters in instrument.cameras.items() if filter_name in filters]
    if not having and len(instrument.cameras) == 1:
        having = list(instrument.cameras)
    if len(having) == 1:
        return having[0]
    known = "; ".join(f"{camera}: {', '.join(filters)}" for camera, filters in instrument.cameras.items())
    values.problems.append(
        f"filter: expected in keyword {values.find(instrument.filter_keyword)[0]} a filter of one camera of "
        f"{instrument.name} ({known}), found {shown(filter_name)}"
    )
    return ""


def _named_camera(instrument: CameraEntries, values: HeaderValues) -> str:
    value = values.find(instrument.camera_keyword)[1]
    return "" if value is None else str(value)
