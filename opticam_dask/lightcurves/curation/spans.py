"""Marks as plain spans of time, for tasks: workers need neither pandas nor xarray to leave measurements out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.flags import Mark
from opticam_dask.store.store import Store

#: Marks with which a measurement is left out of every product, unless it is kept.
LEFT_OUT = Mark.CLOUD | Mark.JUNK


class Span(NamedTuple):
    """One mark of measurements: of a source (0: all) between two times, MJD (UTC), both included."""

    mark: Mark
    source_id: int
    start: float
    end: float


def spans_of(store: Store, key: str, label: str) -> tuple[Span, ...]:
    """Marks of measurements of a camera key and photometry label that hold."""
    names = ("kind", "key", "label", "source_id", "mjd_start", "mjd_end", "undone_when")
    marks = store.read_marks()
    rows = zip(*(marks[name] for name in names), strict=True)
    return tuple(
        Span(Mark[kind.upper()], int(source), start, end)
        for kind, of_key, of_label, source, start, end, undone in rows
        if of_key == key
        and of_label in ("", label)
        and not undone
        and start <= end
        and kind.upper() in Mark.__members__
    )


def bits_of(spans: Sequence[Span], times: np.ndarray, source_ids: np.ndarray) -> np.ndarray:
    """Marks of each measurement, uint8 (frame, source)."""
    bits = np.zeros((len(times), len(source_ids)), dtype=np.uint8)
    for span in spans:
        is_meant = (times >= span.start) & (times <= span.end)
        bits[np.ix_(is_meant, (source_ids == span.source_id) | (span.source_id == 0))] |= np.uint8(span.mark)
    return bits


def is_left_out(bits: Any) -> Any:
    """Whether measurements with these marks are left out: cloud or junk, and not to be kept all the same."""
    return ((bits & np.uint8(LEFT_OUT)) != 0) & ((bits & np.uint8(Mark.KEEP)) == 0)
