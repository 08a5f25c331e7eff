"""Marks that observers put on frames, measurements and comparisons, and what light curves make of them.

A mark says *cloud*, *junk* or *keep*: of all sources in some frames, of one source in some frames (a measurement), or
of one source as a comparison. It has a number, who made it, when and why; one that was taken back stays on the list.
The flags of the store are never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import schema
from opticam_dask.flags import Mark, flag_attributes
from opticam_dask.lightcurves.curation.spans import is_left_out
from opticam_dask.lightcurves.reading.columns import CurveArrays, NamedArray
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

#: What a mark may say of measurements.
KINDS: tuple[str, ...] = tuple(str(mark.name).lower() for mark in Mark)
#: Mark that gives a frame the transform that its own stars did not.
TRANSFORM = "transform"

#: Coordinate of light curves along ``source`` that says which sources are marked as comparisons.
COMPARISON_MARK = "comparison_mark"

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
    return _as_table(store.read_marks(), undone=undone)


def _as_table(columns: Mapping[str, Sequence[Any]], *, undone: bool) -> pd.DataFrame:
    import pandas as pd  # half a second, where there is no mark for nothing

    types = {entry.name: object if entry.dtype == "str" else entry.dtype for entry in schema.MARKS}
    table = pd.DataFrame(columns).astype(types).set_index("number")
    return table if undone else table[table["undone_when"] == ""].drop(columns=["undone_by", "undone_when"])


def last_mark(store: Store) -> int:
    """Number of the last mark that was made; 0 before there is one."""
    return max(store.read_marks()["number"], default=0)


def last_marks(out_directory: str | Path, key: str, label: str) -> list[int]:
    """Numbers of the marks that were last put on a camera and photometry, of whatever kind they are.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of a reduction.
    key, label : str
        Camera key such as ``1:g``, and photometry label.

    Returns
    -------
    list of int
        Several where they were made together; none where there is no mark.
    """
    table = marks(out_directory)
    table = table[(table["key"] == key) & table["label"].isin(("", label))]
    if not len(table):
        return []
    together = ["when", "kind", "who", "why"]
    is_last = (table[together] == table[together].iloc[-1]).all(axis=1)
    return table.index[is_last].tolist()


@dataclass(frozen=True)
class Marks:
    """Marks that apply to one camera key and photometry label.

    Attributes
    ----------
    table : DataFrame or None
        As from :func:`marks`; None where the store has no marks.
    """

    table: pd.DataFrame | None

    @classmethod
    def of(cls, store: Store, key: str, label: str) -> Marks:
        """Marks of a store that apply to a camera key and photometry label."""
        columns = store.read_marks()
        if not columns["number"]:
            return cls(None)
        table = _as_table(columns, undone=False)
        table = table[table["kind"] != TRANSFORM]
        return cls(table[(table["key"] == key) & table["label"].isin(("", label))])

    def apply(self, curves: CurveArrays) -> CurveArrays:
        """Light curves in which measurements that are left out have no flux.

        Parameters
        ----------
        curves : CurveArrays
            Along ``frame`` and ``source``, with the coordinates mjd_utc and source_id in memory.

        Returns
        -------
        CurveArrays
            With ``marks`` (dims ``frame``, or ``(frame, source)``), and NaN in ``flux`` and ``flux_err`` where a mark
            says so; where sources are marked as comparisons with the coordinate ``comparison_mark``; the same where
            nothing is marked.
        """
        if self.table is None:
            return curves
        if told := self._of_comparisons:
            of_sources = [told.get(number, "") for number in curves["source_id"].to_numpy().tolist()]
            about = {"long_name": "mark of the source as a comparison, and by whom"}
            mark = NamedArray.of(["source"], np.array(of_sources, dtype=object), about)
            curves = curves.assign_coords({COMPARISON_MARK: mark})
        bits = self._bits(curves)
        if bits is None:
            return curves
        names = [name for name in ("flux", "flux_err") if name in curves]
        is_used = ~is_left_out(bits.to_numpy())
        return curves.assign(**_where(curves, names, is_used), marks=bits)

    def apply_to_relative(self, curve: CurveArrays) -> CurveArrays:
        """A relative light curve that was kept, without what has been marked since it was made.

        Parameters
        ----------
        curve : CurveArrays
            Along ``frame``; the attribute ``last_mark`` is the number of the last mark that it knew.

        Returns
        -------
        CurveArrays
            With NaN where a mark leaves the target out, or one that came later leaves out a comparison.
        """
        if self.table is None:
            return curve
        times = curve["mjd_utc"].to_numpy()
        is_out = is_left_out(self.of_source(times, int(curve.attrs["target"])))
        later = Marks(self.table[self.table.index > int(curve.attrs.get("last_mark", 0))])
        for number in np.atleast_1d(curve.attrs["comparisons"]).tolist() if list(later._rows()) else []:
            is_out |= is_left_out(self.of_source(times, number)) & is_left_out(later.of_source(times, number))
        if not is_out.any():
            return curve
        names = [name for name in curve.data_vars if name.startswith(("relative_flux", "magnitude"))]
        return curve.assign(**_where(curve, names, ~is_out))

    def _rows(self) -> Iterable[Any]:
        return [] if self.table is None else self.table.itertuples()

    def _bits(self, curves: CurveArrays) -> NamedArray | None:
        """Marks of each frame, or where single sources are marked of each measurement; None without any."""
        times, sources = curves["mjd_utc"].to_numpy(), curves["source_id"].to_numpy()
        of_frames = np.zeros(len(times), dtype=np.uint8)
        of_sources: dict[int, np.ndarray] = {}
        for row in self._rows():
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
            return NamedArray.of(["frame"], of_frames, attributes)
        bits = np.repeat(of_frames[:, np.newaxis], len(sources), axis=1)
        for column in columns:
            bits[:, column] |= of_sources[int(sources[column])]
        return NamedArray.of(["frame", "source"], bits, attributes)

    def of_source(self, times: np.ndarray, source_id: int) -> np.ndarray:
        """Marks of the measurements of one source, uint8 (frame,)."""
        bits = np.zeros(len(times), dtype=np.uint8)
        for row in self._rows():
            if row.source_id in (0, source_id):
                bits[(times >= row.mjd_start) & (times <= row.mjd_end)] |= np.uint8(Mark[str(row.kind).upper()])
        return bits

    @property
    def _of_comparisons(self) -> dict[int, str]:
        """Latest mark of each source as a comparison, by source id: kind, who, when and why in words."""
        return {
            int(row.source_id): f"{row.kind} by {row.who}, {row.when}{f': {row.why}' if row.why else ''}"
            for row in self._rows()
            if np.isnan(row.mjd_start) and row.source_id
        }


def _where(curves: CurveArrays, names: Iterable[str], is_used: np.ndarray) -> dict[str, NamedArray]:
    """Columns with NaN where they are not used, along ``frame`` or ``(frame, source)``."""

    def masked(values: Any) -> Any:
        return np.where(is_used.reshape(is_used.shape + (1,) * (values.ndim - is_used.ndim)), values, np.nan)

    return {name: curves[name].mapped(masked) for name in names}


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
