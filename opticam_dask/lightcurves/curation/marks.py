"""Marks that observers put on frames, measurements and comparisons, and what light curves make of them.

A mark says *cloud*, *junk* or *keep*: of all sources in some frames, of one source in some frames (a measurement), or
of one source as a comparison. It has a number, who made it, when and why; one that was taken back stays on the list.
The flags of the store are never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from opticam_dask import schema
from opticam_dask.flags import Mark, flag_attributes
from opticam_dask.lightcurves.curation.spans import is_left_out
from opticam_dask.store.store import Store

#: What a mark may say of measurements.
KINDS: tuple[str, ...] = tuple(str(mark.name).lower() for mark in Mark)
#: Mark that gives a frame the transform that its own stars did not.
TRANSFORM = "transform"

#: Names of the columns of the list of marks.
COLUMNS: tuple[str, ...] = tuple(entry.name for entry in schema.MARKS)


def marks(out_directory: str | Path, *, undone: bool = False) -> pd.DataFrame:
    """Marks of a reduction.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of a reduction.
    undone : bool
        Those that were taken back as well.

    Returns
    -------
    DataFrame
        One row a mark, by its number: ``kind`` (cloud, junk, keep, transform), ``key``, ``source_id`` (0: all sources),
        ``label`` (empty: all photometry), ``mjd_start`` and ``mjd_end`` (UTC, mid-exposure, both included; NaN: the
        source as a comparison), ``who``, ``when``, ``why``, ``transform`` (JSON, of the kind transform), and with
        ``undone`` ``undone_by`` and ``undone_when``.

    Raises
    ------
    store.StoreError
        When there is no store.
    """
    return marks_of(Store.open(out_directory), undone=undone)


def marks_of(store: Store, *, undone: bool = False) -> pd.DataFrame:
    """Marks of an open store; see :func:`marks`."""
    group = store.marks
    arrays: Mapping[str, np.ndarray] = group.read_all() if group.is_whole else {}
    empty = {entry.name: np.empty(0, dtype=object if entry.dtype == "str" else entry.dtype) for entry in schema.MARKS}
    if "number" in arrays:  # marks of older versions are without what later ones may have
        empty |= {"transform": np.full(len(arrays["number"]), "", dtype=object)}
    table = pd.DataFrame({name: arrays.get(name, empty[name]) for name in COLUMNS}).set_index("number")
    return table if undone else table[table["undone_when"] == ""].drop(columns=["undone_by", "undone_when"])


@dataclass(frozen=True)
class Marks:
    """Marks that apply to one camera key and photometry label.

    Attributes
    ----------
    table : DataFrame
        As from :func:`marks`.
    """

    table: pd.DataFrame

    @classmethod
    def of(cls, store: Store, key: str, label: str) -> Marks:
        """Marks of a store that apply to a camera key and photometry label."""
        table = marks_of(store)
        table = table[table["kind"] != TRANSFORM]
        return cls(table[(table["key"] == key) & table["label"].isin(("", label))])

    def apply(self, curves: xr.Dataset) -> xr.Dataset:
        """Light curves in which measurements that are left out have no flux.

        Parameters
        ----------
        curves : Dataset
            Dims ``(frame, source)``, with the coordinates mjd_utc and source_id in memory.

        Returns
        -------
        Dataset
            With the variable ``marks`` (dims ``frame``, or ``(frame, source)``), and NaN in ``flux`` and ``flux_err``
            where a mark says so; the same dataset when nothing in it is marked.
        """
        bits = self._bits(curves)
        if bits is None:
            return curves
        is_used = ~is_left_out(bits)
        masked = {
            name: curves[name].where(is_used).transpose(*curves[name].dims).assign_attrs(curves[name].attrs)
            for name in ("flux", "flux_err")
            if name in curves
        }
        return curves.assign(masked | {"marks": bits})

    def _bits(self, curves: xr.Dataset) -> xr.DataArray | None:
        """Marks of each frame, or where single sources are marked of each measurement; None without any."""
        times, sources = curves["mjd_utc"].to_numpy(), curves["source_id"].to_numpy()
        of_frames = np.zeros(len(times), dtype=np.uint8)
        of_sources: dict[int, np.ndarray] = {}
        for row in self.table.itertuples():
            is_meant = (times >= row.mjd_start) & (times <= row.mjd_end)
            bit = np.uint8(Mark[str(row.kind).upper()])
            if row.source_id == 0:
                of_frames[is_meant] |= bit
            elif is_meant.any():
                of_sources.setdefault(int(row.source_id), np.zeros(len(times), dtype=np.uint8))[is_meant] |= bit
        columns = np.flatnonzero(np.isin(sources, list(of_sources))).tolist()
        if not columns and not of_frames.any():
            return None
        attributes = {"units": "1", "long_name": "marks of observers"} | flag_attributes(Mark)
        if not columns:
            return xr.DataArray(of_frames, dims="frame", attrs=attributes)
        bits = np.repeat(of_frames[:, np.newaxis], len(sources), axis=1)
        for column in columns:
            bits[:, column] |= of_sources[int(sources[column])]
        return xr.DataArray(bits, dims=("frame", "source"), attrs=attributes)

    def of_source(self, times: np.ndarray, source_id: int) -> np.ndarray:
        """Marks of the measurements of one source, uint8 (frame,)."""
        bits = np.zeros(len(times), dtype=np.uint8)
        for row in self.table[self.table["source_id"].isin((0, source_id))].itertuples():
            bits[(times >= row.mjd_start) & (times <= row.mjd_end)] |= np.uint8(Mark[str(row.kind).upper()])
        return bits

    @property
    def comparisons(self) -> dict[int, Any]:
        """Marks of sources as comparisons, by source id: the row of the latest."""
        rows = self.table[self.table["mjd_start"].isna() & (self.table["source_id"] != 0)]
        return {int(row.source_id): row for row in rows.itertuples()}


def describe(table: pd.DataFrame) -> list[str]:
    """Marks as lines for a person."""
    lines = []
    for row in table.itertuples():
        what = "" if row.source_id == 0 else f" source {row.source_id}"
        label = f" in {row.label}" if row.label else ""
        if np.isnan(row.mjd_start):
            when = " as a comparison"
        elif row.mjd_start == row.mjd_end:
            when = f" at MJD {row.mjd_start:.8f}"
        else:
            when = f" from MJD {row.mjd_start:.8f} to {row.mjd_end:.8f}"
        why = f": {row.why}" if row.why else ""
        undone = f" (taken back by {row.undone_by}, {row.undone_when})" if getattr(row, "undone_when", "") else ""
        lines.append(f"{row.Index}: {row.kind}, {row.key}{what}{label}{when}, by {row.who}, {row.when}{why}{undone}")
    return lines
