"""From the table of frames to the parts and blocks of a reduction; nothing here opens a file."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opticam_dask import locations, schema
from opticam_dask.flags import FrameFlag
from opticam_dask.frames.fits.names import file_of, full_names
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.series import timing
from opticam_dask.kernels.units import SECONDS_PER_DAY

if TYPE_CHECKING:
    import pandas as pd

#: Raw pixels of one block, in bytes: about a second of work on one core.
_BLOCK_BYTES = 1 << 25
#: Frames of one block at least: fewer make too many tasks and files.
_FEWEST = 32
#: Frames of one block at most, however small they are.
_MOST = 256

#: A night is credible as reference night with at least this many frames,
_CREDIBLE_FRAMES = 3
#: and this share of the frames of the longest night.
_CREDIBLE_SHARE = 0.05

_TABLE_COLUMNS = tuple(entry.name for entry in schema.MANIFEST if entry.name not in ("file", "bmjd_tdb", "scan_flags"))


def frames_per_block(shape: tuple[int, int], dtype: np.dtype) -> int:
    """Frames of one block, from frame shape and pixel type alone: 32 to 256, a power of two.

    Parameters
    ----------
    shape : (int, int)
        Shape ``(ny, nx)`` of a frame.
    dtype : dtype
        Type of its pixels.
    """
    n_bytes = max(1, shape[0] * shape[1] * np.dtype(dtype).itemsize)
    frames = 1 << max(0, (_BLOCK_BYTES // n_bytes).bit_length() - 1)
    return min(max(frames, _FEWEST), _MOST)


@dataclass(frozen=True)
class PlannedPart:
    """Frames that become one part of the store, in time order, with their manifest."""

    key: str
    camera: str
    filter: str
    night: str
    shape: tuple[int, int]
    dtype: str
    binning: int
    data_root: str
    manifest: dict[str, np.ndarray]
    notes: tuple[str, ...]
    site: tuple[float, float, float] | None = None

    @property
    def names(self) -> np.ndarray:
        """Names of the frames, with absolute paths."""
        files = [os.path.join(self.data_root, file) for file in self.manifest["file"]]
        return full_names(files, self.manifest["extension"], self.manifest["plane"])


def credible_nights(n_frames: Mapping[str, int]) -> list[str]:
    """Nights that may serve as reference night, in order.

    A frame whose clock was wrong makes a night of its own; such a night must not become the reference.

    Parameters
    ----------
    n_frames : dict of int
        Frames by night.
    """
    longest = max(n_frames.values(), default=0)
    least = min(longest, max(_CREDIBLE_FRAMES, _CREDIBLE_SHARE * longest))
    return [night for night in sorted(n_frames) if n_frames[night] >= least]


def plan_parts(
    table: pd.DataFrame,
    instrument: Instrument,
    *,
    taken: Mapping[str, Mapping[str, int]] | None = None,
    barycenter: bool = True,
    target_coord: tuple[float, float] | None = None,
) -> list[PlannedPart]:
    """Cut the table of frames into parts: one for each key, night, shape and binning.

    Parameters
    ----------
    table : DataFrame
        Table of ``scanning.scan``.
    instrument : Instrument
        What the headers mean.
    taken : dict of dict of int, optional
        Parts that each key has already, with their numbers of frames; new frames of such a night become a further
        part.
    barycenter : bool
        Compute barycentric times.
    target_coord : (float, float), optional
        RA and DEC in degrees that go before those of the headers.

    Returns
    -------
    list of PlannedPart
        The largest part of a night bears its name, further ones ``<night>.2``, ``<night>.3``, ...
    """
    planned = []
    for key, of_key in table.groupby("key", sort=True):
        present = dict(taken.get(str(key), {})) if taken else {}
        names = set(present)
        counts = {str(night): int(n) for night, n in of_key.groupby("night").size().items()}
        for name, n_frames in present.items():
            night = name.split(".")[0]
            counts[night] = counts.get(night, 0) + n_frames
        credible = set(credible_nights(counts))
        for night, of_night in of_key.groupby("night", sort=True):
            groups = [group for _, group in of_night.groupby(["ny", "nx", "binning"], sort=True)]
            groups.sort(key=lambda group: (-len(group), group["mjd_utc"].min()))
            for rank, group in enumerate(groups):
                name = _free_name(str(night), names)
                names.add(name)
                flags = FrameFlag(0) if rank == 0 else FrameFlag.OTHER_SHAPE
                if night not in credible:
                    flags |= FrameFlag.SUSPECT_TIME
                ordered = group.sort_values("mjd_utc", kind="stable")
                planned.append(_plan_part(ordered, name, flags, groups[0], instrument, barycenter, target_coord))
    return planned


def _free_name(night: str, taken: set[str]) -> str:
    number = 1
    while (name := night if number == 1 else f"{night}.{number}") in taken:
        number += 1
    return name


def _plan_part(
    rows: pd.DataFrame,
    name: str,
    flags: FrameFlag,
    main: pd.DataFrame,
    instrument: Instrument,
    barycenter: bool,
    target_coord: tuple[float, float] | None,
) -> PlannedPart:
    first = rows.iloc[0]
    shape = (int(first["ny"]), int(first["nx"]))
    files = [file_of(name) for name in rows["file"].tolist()]
    data_root = common_root(files)
    manifest = {column: rows[column].to_numpy(copy=True) for column in _TABLE_COLUMNS}
    manifest["file"] = np.array([name_below(file, data_root) for file in files], dtype=object)
    if target_coord is not None:
        manifest["ra"], manifest["dec"] = (np.full(len(rows), angle) for angle in target_coord)
    sites = _sites(rows, instrument)
    given = _given_barycentric(rows, manifest, sites)
    manifest["bmjd_tdb"] = _barycentric(manifest, sites, barycenter)
    if barycenter:
        manifest["bmjd_tdb"] = np.where(np.isnan(given), manifest["bmjd_tdb"], given)
    scan_flags = np.full(len(rows), int(flags), dtype=np.uint32)
    scan_flags[_is_far(rows) & np.isnan(manifest["ra"] + manifest["dec"])] |= np.uint32(FrameFlag.SUSPECT_TIME)
    scan_flags[_is_repeated(rows["mjd_utc"].to_numpy())] |= np.uint32(FrameFlag.SUSPECT_TIME)
    if "is_time_suspect" in rows:  # as the header says
        scan_flags[rows["is_time_suspect"].to_numpy(dtype=bool)] |= np.uint32(FrameFlag.SUSPECT_TIME)
    if barycenter:
        scan_flags[np.isnan(manifest["bmjd_tdb"])] |= np.uint32(FrameFlag.NO_POSITION)
    manifest["scan_flags"] = scan_flags
    return PlannedPart(
        key=str(first["key"]),
        camera=str(first["camera"]),
        filter=str(first["filter"]),
        night=name,
        shape=shape,
        dtype=str(first["dtype"]),
        binning=int(first["binning"]),
        data_root=data_root,
        manifest=manifest,
        notes=_notes(rows, name, flags, main, scan_flags),
        site=_common_site(sites),
    )


def _common_site(sites: np.ndarray) -> tuple[float, float, float] | None:
    """Longitude, latitude and height of the telescope; None where they are not known, or not the same in all frames."""
    if np.isnan(sites).any() or np.any(sites != sites[0]):
        return None
    longitude, latitude, height = sites[0].tolist()
    return longitude, latitude, height


def common_root(files: Collection[str]) -> str:
    """Directory or URL that files are below; empty where some are of another place than others."""
    if any(locations.is_remote(file) for file in files):
        return locations.common_root(files)
    # absolute paths: what is before the last separator is the directory (`dirname` takes four times as long)
    return os.path.commonpath({file.rpartition("/")[0] or "/" for file in files})


def name_below(file: str, data_root: str) -> str:
    """Name of a file below such a directory; its whole path where there is none."""
    # files are below their root, by absolute paths, so that nothing but text needs to be cut off
    return file[len(data_root) :].removeprefix("/") if data_root else file


def _sites(rows: pd.DataFrame, instrument: Instrument) -> np.ndarray:
    """Longitude, latitude and height of each frame, (n, 3); NaN where they are not known."""
    names = ("longitude", "latitude", "height")
    defined = np.array([math.nan if value is None else value for value in (getattr(instrument, n) for n in names)])
    columns = [rows[name].to_numpy(float) if name in rows else np.full(len(rows), math.nan) for name in names]
    sites = np.column_stack(columns)
    sites[np.isnan(sites[:, :2]).any(axis=1)] = defined
    sites[:, 2] = np.nan_to_num(sites[:, 2], nan=0.0)  # of a height that nobody knows
    return sites


def _distinct(sites: np.ndarray) -> np.ndarray:
    """Sites of frames, each once, (n, 3): most often they are all one, which needs no sorting."""
    return sites[:1] if np.all(sites == sites[:1]) else np.unique(sites, axis=0)


def _barycentric(manifest: Mapping[str, np.ndarray], sites: np.ndarray, barycenter: bool) -> np.ndarray:
    mjd_utc, ra, dec = (manifest[name].astype(float) for name in ("mjd_utc", "ra", "dec"))
    times = np.full(len(mjd_utc), np.nan)
    if not barycenter:
        return times
    for site in _distinct(sites[~np.isnan(sites).any(axis=1)]):
        is_here = (sites == site).all(axis=1)
        times[is_here] = timing.barycentric_mjd(mjd_utc[is_here], ra[is_here], dec[is_here], *site)
    return times


def _is_far(rows: pd.DataFrame) -> np.ndarray:
    """Frames whose headers give the time at the Sun or at the barycentre."""
    return (
        (rows["time_reference"] != "").to_numpy(dtype=bool) if "time_reference" in rows else np.zeros(len(rows), bool)
    )


def _given_barycentric(rows: pd.DataFrame, manifest: dict[str, np.ndarray], sites: np.ndarray) -> np.ndarray:
    """Barycentric times that headers give, MJD (TDB); NaN for others.

    From the times at the Sun and the barycentre, what light took to get there is taken off: ``mjd_utc`` of the manifest
    is that of the telescope then, as far as position and site are known.
    """
    given = np.full(len(rows), np.nan)
    for place in timing.FAR_PLACES if _is_far(rows).any() else ():
        is_here = (rows["time_reference"] == place).to_numpy(dtype=bool)
        if place == "barycentre":
            given[is_here] = timing.utc_to_tdb(manifest["mjd_utc"][is_here])
        known = is_here & np.isfinite(sites).all(axis=1) & np.isfinite(manifest["ra"] + manifest["dec"])
        for site in _distinct(sites[known]):
            chosen = known & (sites == site).all(axis=1)
            ra, dec = (manifest[name][chosen].astype(float) for name in ("ra", "dec"))
            # exposures are timed at the telescope: the time of the header is taken there before a part of one is added
            offset = rows["time_offset"].to_numpy(dtype=float)[chosen] / SECONDS_PER_DAY
            told = manifest["mjd_utc"][chosen] - offset
            here = timing.at_telescope(told, ra, dec, *site, place=place)
            manifest["mjd_utc"][chosen] = here + offset
            if place == "barycentre":
                start, middle = (timing.barycentric_mjd(times, ra, dec, *site) for times in (here, here + offset))
                given[chosen] = timing.utc_to_tdb(told) + (middle - start)
    return given


def _is_repeated(times: np.ndarray) -> np.ndarray:
    same = np.zeros(len(times) + 1, dtype=bool)
    same[1:-1] = np.diff(times) == 0
    return same[:-1] | same[1:]


def _notes(
    rows: pd.DataFrame, name: str, flags: FrameFlag, main: pd.DataFrame, scan_flags: np.ndarray
) -> tuple[str, ...]:
    """What the user should be told about a part that is not as expected."""
    first = rows.iloc[0]
    key, night = first["key"], first["night"]
    notes = []
    if flags & FrameFlag.OTHER_SHAPE:
        usual = main.iloc[0]
        notes.append(
            f"{key} {night}: {len(rows)} frame(s) of {first['ny']} x {first['nx']} pixels, binning {first['binning']}, "
            f"among {len(main)} of {usual['ny']} x {usual['nx']}, binning {usual['binning']}: reduced as part {name} "
            f"(first {os.path.basename(first['file'])})"
        )
    if flags & FrameFlag.SUSPECT_TIME:
        notes.append(
            f"{key} {night}: only {len(rows)} frame(s) bear this date; if their clock was wrong, leave them out "
            f"(first {os.path.basename(first['file'])})"
        )
    else:
        n_repeated = int(np.count_nonzero(scan_flags & np.uint32(FrameFlag.SUSPECT_TIME)))
        if n_repeated:
            notes.append(f"{key} {name}: {n_repeated} frames share their time stamp with another frame")
    return tuple(notes)
