"""Calibration frames: found in directories, matched to camera keys, and combined into masters.

Bias and dark frames belong to a camera, flats and fringes to a camera and filter; all to one frame shape and binning.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from opticam_dask import text
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.images.fringes import FringeMap
from opticam_dask.kernels.images.masters import HotPixels, Masters
from opticam_dask.store.camera import group_name
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["bias", "dark", "flat", "fringe"]
KINDS: tuple[Kind, ...] = ("bias", "dark", "flat", "fringe")

#: What each kind is called in messages, and the option that gives its frames.
PLURAL: dict[Kind, str] = {"bias": "biases", "dark": "darks", "flat": "flats", "fringe": "fringes"}
#: Kinds that belong to a filter.
_OF_FILTER: tuple[Kind, ...] = ("flat", "fringe")


#: Columns of the table of frames in which frames and those that correct them are the same.
_ALIKE = ["camera", "ny", "nx", "binning"]

#: A bias is not exposed; cameras write the shortest time that they know, up to this, s.
_LONGEST_BIAS = 1.0

#: Exposure times that differ by less than this share are equal.
_SAME_EXPOSURE = 1e-3


class CalibrationError(ValueError):
    """The calibration frames do not fit the frames; the message says what is missing and what there is."""


class Detector(NamedTuple):
    """Properties that calibration frames must share with the frames that they correct."""

    key: str
    shape: tuple[int, int]
    binning: int

    @property
    def camera(self) -> str:
        """Camera of the key."""
        return self.key.partition(":")[0]

    def __str__(self) -> str:
        """For messages."""
        return f"{self.key} with {self.shape[1]} x {self.shape[0]} pixels, binning {self.binning}"


@dataclass(frozen=True, eq=False)
class CalibrationFrames:
    """Calibration frames of one kind, from their headers.

    Attributes
    ----------
    kind : {"bias", "dark", "flat", "fringe"}
        Kind of the calibration frames.
    table : pandas.DataFrame
        One row a frame, with the columns of the table of ``frames.Scan``.
    set_aside : list of (str, str)
        Files that cannot be used, with the reason.
    """

    kind: Kind
    table: pd.DataFrame
    set_aside: list[tuple[str, str]]

    def record(self) -> dict[str, Any]:
        """Identity of these frames: number, names, sizes and modification times; of fringes also whose they are."""
        rows = sorted(
            f"{Path(file).name} {size} {mtime!r}"
            for file, size, mtime in zip(
                self.table["file"], self.table["file_size"].tolist(), self.table["file_mtime"].tolist(), strict=True
            )
        )
        digest = hashlib.sha256("\n".join(rows).encode(errors="surrogateescape")).hexdigest()[:16]
        keys = {"keys": sorted(set(self.table["key"]))} if self.kind == "fringe" else {}
        return {"n_files": len(rows), "digest": digest, **keys}

    def require_window_of(self, frames: pd.DataFrame) -> None:
        """Refuse frames that are not of the part of the detector whose frames they are to correct.

        Parameters
        ----------
        frames : pandas.DataFrame
            Table of the frames (``frames.Scan``). Windows that no header tells are not compared.

        Raises
        ------
        CalibrationError
            When those of one camera, shape and binning lie at several places of the detector.
        """
        for alike, rows in frames.groupby(_ALIKE):
            own = self.table[(self.table[_ALIKE] == list(alike)).all(axis=1)]
            places, theirs = _windows(own), _windows(rows)
            if places and theirs and len(places | theirs) > 1:
                told = "; ".join(f"{window} ({Path(file).name})" for window, file in (theirs | places).items())
                raise CalibrationError(
                    f"{PLURAL[self.kind]} must be of the part of the detector of the frames that they correct, found "
                    f"frames of camera {alike[0]} ({alike[2]} x {alike[1]} pixels) of several: {told}"
                )

    def select(self, detector: Detector, *, of_other_filters: bool = False) -> pd.DataFrame:
        """Frames that fit a camera key, in the order of their names.

        Flats and fringes are those of its filter; with ``of_other_filters``, where there are no flats, those of the
        filter of the camera of which there are most.

        Raises
        ------
        CalibrationError
            With fewer than two; of fringes one is enough, which is a map that is ready.
        """
        table = self.table
        is_same = (table["camera"] == detector.camera) & (table["binning"] == detector.binning)
        is_same &= (table["ny"] == detector.shape[0]) & (table["nx"] == detector.shape[1])
        key = detector.key
        if self.kind in _OF_FILTER:
            counts = table["key"][is_same].value_counts().sort_index()
            if of_other_filters and self.kind == "flat" and len(counts) and key not in counts:
                key = str(counts.idxmax())
            is_same &= table["key"] == key
        found = scanning.in_order_of_names(table[is_same])
        if len(found) < (1 if self.kind == "fringe" else 2):
            few = "none" if not len(found) else f"only {found['file'].iloc[0]}"
            raise CalibrationError(
                f"at least two {self.kind} frames of {detector} are needed, found {few}. "
                f"Those given are: {self._describe() or 'none that can be used'}."
            )
        return found

    def _describe(self) -> str:
        groups = self.table.groupby(["key", "nx", "ny", "binning"])
        return ", ".join(
            f"{len(rows)} of {key} ({nx} x {ny}, binning {binning})" for (key, nx, ny, binning), rows in groups
        )


def _windows(table: pd.DataFrame) -> dict[str, str]:
    """Read-out windows of frames by their headers, each with a file that has it."""
    known = table[table["window"] != ""].drop_duplicates("window")
    return dict(zip(known["window"], known["file"], strict=True))


def find_calibration_frames(kind: Kind, directories: Any, instrument: Instrument) -> CalibrationFrames:
    """Look for calibration frames of one kind in directories and read their headers.

    Frames of another kind by their header, and biases that were exposed, are set aside.

    Raises
    ------
    CalibrationError
        When there is none.
    FileNotFoundError
        When a directory does not exist.
    """
    found = scanning.scan(scanning.find_files(directories), instrument, kind=kind)
    table, set_aside = _without_exposed_biases(found) if kind == "bias" else (found.table, found.set_aside)
    if not len(table):
        told = text.reasons(set_aside)
        raise CalibrationError(f"no usable {kind} frame among {len(set_aside)} file(s). {told}".strip())
    return CalibrationFrames(kind, table, set_aside)


def sort_by_kind(directories: Any, instrument: Instrument) -> dict[Kind, list[str]]:
    """Files of directories by what their frames were taken for, as IMAGETYP, OBSTYPE and their like say.

    Parameters
    ----------
    directories : path or URL, or sequence of them
        Directories or files with calibration frames of all kinds; others in them, light frames too, are left out.
    instrument : Instrument
        What the headers mean.

    Returns
    -------
    dict of list of str
        Files by kind, for those kinds that there are.

    Raises
    ------
    CalibrationError
        When no frame says that it is one of them.
    FileNotFoundError
        When a directory does not exist.
    """
    files = scanning.find_files(directories)
    by_kind: dict[Kind, list[str]] = {}
    for file in files:
        kind = scanning.kind_of_file(file, instrument)
        for known in KINDS:
            if kind == known:
                by_kind.setdefault(known, []).append(file)
    if not by_kind:
        names = instrument.image_type_keyword
        told = names if isinstance(names, str) else ", ".join(names[:3])
        raise CalibrationError(
            f"none of the {len(files)} file(s) given as calibration says that it is a bias, dark, flat or fringe frame "
            f"({told}): give each kind by itself ({', '.join(PLURAL.values())})"
        )
    return {kind: by_kind[kind] for kind in KINDS if kind in by_kind}


def _without_exposed_biases(found: scanning.Scan) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    is_exposed = found.table["exposure_time"] > _LONGEST_BIAS
    exposed = [
        (str(file), f"a bias is not exposed: expected at most {_LONGEST_BIAS:g} s, found {exposure_time:g} s")
        for file, exposure_time in found.table.loc[is_exposed, ["file", "exposure_time"]].itertuples(index=False)
    ]
    return found.table[~is_exposed].reset_index(drop=True), sorted([*found.set_aside, *exposed])


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of a reduction: its frames, or the record of those that made the masters of a store.

    Attributes
    ----------
    frames : dict of CalibrationFrames
        By kind; empty when only the masters in the store are left.
    records : dict
        By kind, what tells the frames from others (``CalibrationFrames.record``).
    """

    frames: Mapping[Kind, CalibrationFrames]
    records: Mapping[Kind, dict[str, Any]]

    @classmethod
    def of(cls, *given: CalibrationFrames | None) -> Calibration | None:
        """Calibration with some kinds of frames; None without any."""
        by_kind = {found.kind: found for found in given if found is not None}
        return cls(by_kind, {kind: found.record() for kind, found in by_kind.items()}) if by_kind else None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Calibration | None:
        """Calibration of a store whose masters are made, from the record of its parameters."""
        records = {kind: dict(record[PLURAL[kind]]) for kind in KINDS if PLURAL[kind] in record}
        return cls({}, records) if records else None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of frames, in the order in which they are needed."""
        return tuple(kind for kind in KINDS if kind in self.records)

    def record(self) -> dict[str, Any]:
        """Identity of the calibration in the record of the parameters."""
        return {PLURAL[kind]: self.records[kind] for kind in self.kinds}

    def has_fringes(self, key: str) -> bool:
        """Whether fringes are taken off the frames of a camera key: few filters have any."""
        return key in self.records.get("fringe", {}).get("keys", ())

    def groups(self, detector: Detector, kinds: tuple[Kind, ...] | None = None) -> dict[Kind, str]:
        """Name of each master of a camera key in the store; none of fringes where it has none."""
        size = f"{detector.shape[1]}x{detector.shape[0]}_{detector.binning}x{detector.binning}"
        named = [kind for kind in kinds or self.kinds if kind != "fringe" or self.has_fringes(detector.key)]
        whose = {kind: group_name(detector.key if kind in _OF_FILTER else detector.camera) for kind in named}
        return {kind: f"{kind}_{whose[kind]}_{size}" for kind in named}

    def reader(self, store: Store, detector: Detector, kinds: tuple[Kind, ...] | None = None) -> Any:
        """Function without arguments that reads masters; picklable, and small."""
        groups = self.groups(detector, kinds)
        digests = tuple(str(self.records[kind]["digest"]) for kind in groups)
        return functools.partial(read_masters, store, tuple(groups.values()), digests)


@functools.lru_cache(maxsize=4)
def read_masters(store: Store, groups: tuple[str, ...], digests: tuple[str, ...]) -> Masters:
    """Masters of a camera key from the store; a process reads them once.

    Parameters
    ----------
    store : Store
        Where they are.
    groups : tuple of str
        Names of the masters in it.
    digests : tuple of str
        Digests of the frames that they are made from: other frames are other masters.
    """
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    for group in groups:
        master = store.master(group)
        arrays |= master.read_all()
        if (attributes := master.attributes).get("kind") == "dark":
            about = attributes
    return as_masters(arrays, about.get("mean_exposure_time"), about.get("gain"))


def as_masters(arrays: Mapping[str, np.ndarray], dark_time: float | None, dark_gain: float | None) -> Masters:
    """Masters from their variables.

    Parameters
    ----------
    arrays : dict of ndarray
        Variables of ``schema.CALIBRATION`` by name.
    dark_time : float, optional
        Mean exposure time of the darks in seconds. Stores of older versions do not have it: there, pixels that were
        called hot are bad in every frame.
    dark_gain : float, optional
        Electrons per ADU of the darks, where the bias is taken off them.
    """
    bad = [arrays[name] for name in ("bad_levels", "bad_responses") if name in arrays]
    hot = None
    if "dark" in arrays:
        bad.append(~np.isfinite(arrays["dark"]) if dark_time is not None else arrays["hot_pixels"])
    if dark_time is not None and "dark" in arrays:
        hot = HotPixels.of(arrays["dark"], arrays["hot_pixels"], arrays["dark_excess"], dark_time)
    return Masters(
        bias=arrays.get("bias"),
        dark=arrays.get("dark"),
        flat=arrays.get("flat"),
        flat_variance=arrays.get("flat_variance"),
        bad_pixels=np.logical_or.reduce(bad) if bad else None,
        hot_pixels=hot,
        dark_gain=dark_gain,
        fringe=FringeMap.of(arrays["fringe"]) if "fringe" in arrays else None,
    )


def same_exposure(first: float, second: float) -> bool:
    """Whether two exposure times are equal but for rounding."""
    return abs(first - second) <= _SAME_EXPOSURE * max(first, second)
