"""Relocation of frames that were moved or copied: the store is told where they are now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from opticam_dask.frames import scanning
from opticam_dask.frames.fits.names import file_of
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.locations import PathLike, location
from opticam_dask.pipeline.plan import common_root, name_below
from opticam_dask.pipeline.reduction import ReductionError
from opticam_dask.store.camera import Part
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

#: Mid-exposure times that differ by less are equal, days (0.1 ms): both were read from the same header, and older
#: versions read times in TDB to 30 microseconds.
_SAME_TIME = 1e-4 / SECONDS_PER_DAY
#: What a copy has in common with the frame that was reduced.
_COMPARED = ("file_size", "mjd_utc", "exposure_time", "file_checksum")
_NO_FILE = "there is no such file"
#: What it has of its own; the checksum may not have been known before.
_OF_COPIES = ("file_mtime", "file_ctime", "file_checksum")


def relocate(out_directory: str | Path, data: PathLike | Sequence[PathLike], instrument: Instrument) -> list[str]:
    """Tell a store where its frames are after they were moved or copied to another directory, disk or host.

    A part (camera key and night) is found again when all its frames are below one directory of ``data``, by the same
    names as before, with the same sizes, times and exposure times; or anywhere in it and by any names, with the same
    checksums (which stores before schema 1.7 do not know). Modification times may differ, as they do in copies.
    What was reduced stays as it is. Frames that are nowhere, neither there nor where they were, are told of, as long as
    more than half of a part is there: they cannot be measured again.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    data : path or URL, or sequence of them
        Where the frames are now.
    instrument : Instrument
        What the headers mean.

    Returns
    -------
    list of str
        What was found where, a line each.

    Raises
    ------
    ReductionError
        When no part is found there, frames of a part are missing that are at the old place, or files are not what was
        reduced; nothing is changed then.
    FileNotFoundError
        When a directory does not exist.
    """
    store = Store.open(out_directory)
    store.require_present_version()
    files = scanning.find_files(data)
    scan = scanning.scan(files, instrument)
    headers = _Headers(scan.table.set_index("file"), dict(scan.set_aside))
    parts = store.parts
    found = {part: place for part in parts if (place := _find(part, files, headers)) is not None}
    if not found:
        before = sorted({str(part.attributes["data_root"]) for part in parts})
        raise ReductionError(
            f"none of the {len(parts)} part(s) of {out_directory} is among the {len(files)} FITS file(s) given. "
            f"Expected the frames that were below {', '.join(before)}, by the same names."
        )
    store.begin_changes()
    lines = []
    for part in parts:
        if part not in found:
            lines.append(f"{part.key} {part.night}: not found; it stays at {part.attributes['data_root']}.")
            continue
        for name, values in found[part].facts.items():
            part.frames.array(name).write_whole(values)
        part.update({"data_root": found[part].root})
        lines.append(
            f"{part.key} {part.night}: {part.n_frames} frames, now below {found[part].root}{found[part].lost}."
        )
    store.finish_changes()
    return lines


class _FoundFrames(NamedTuple):
    """Where the frames of a part are: a directory, their files and what these are known by, and which are no more."""

    root: str
    facts: dict[str, np.ndarray]
    lost: str = ""


class _Headers(NamedTuple):
    """What was read of the files given: the table of frames by name, and why others cannot be used."""

    rows: pd.DataFrame
    reasons: dict[str, str]


def _find(part: Part, files: Sequence[str], headers: _Headers) -> _FoundFrames | None:
    """The place of the frames of a part among files; None where none of them is.

    Frames of several nights often have the same names, so a directory in which no file is a frame of the part is
    another night's. Of several copies, the one whose path resembles the old one most is taken. Frames that are not
    below one directory by the names that they had are known by their checksums.

    Raises
    ------
    ReductionError
        When only some of them are there as they were reduced, and others are at the old place or are other files.
    """
    manifest = part.manifest()
    root = str(part.attributes["data_root"])
    old = [str(file).removeprefix(root).lstrip("/") for file in manifest["file"]]
    refused = ""
    for place, paths in _placements(manifest, old, files, root, headers.rows):
        problems = [_problem(manifest, index, path, headers) for index, path in enumerate(paths)]
        faults = {name: problem for name, problem in zip(old, problems, strict=True) if problem}
        is_lost = [_is_nowhere(file_of(f"{root}/{name}"), problem) for name, problem in faults.items()]
        if all(is_lost) and 2 * len(faults) < len(old):
            return _FoundFrames(
                place, _facts_of_copies(manifest, headers.rows, place, paths), _told_of_lost(list(faults))
            )
        if len(faults) < len(old) and not refused:
            name = next((name for name, lost in zip(faults, is_lost, strict=True) if not lost), next(iter(faults)))
            refused = (
                f"{part.key} {part.night}: {problems.count('')} of {len(old)} frames are below {place}, but {name} is "
                f"not as it was reduced: {faults[name]}. Bring it there from {root} and run the same command again."
            )
    if refused:
        raise ReductionError(refused)
    return None


def _placements(
    manifest: Mapping[str, np.ndarray], old: Sequence[str], files: Sequence[str], root: str, rows: pd.DataFrame
) -> Iterator[tuple[str, list[str]]]:
    """Directories in which the frames of a part may be, each with the names of all frames there.

    First those below which files have the names of before, then where files of the same checksums are.
    """
    for place in _candidates([file_of(name) for name in old], files, root):
        yield place, [f"{place}/{name}" for name in old]
    by_name_downwards = rows[rows["file_checksum"] != 0].sort_index(ascending=False)
    of_checksum = dict(zip(_keys(by_name_downwards), by_name_downwards.index, strict=True))
    found = [of_checksum.get(key) for key in _keys(manifest)]
    if there := [file_of(path) for path in found if path]:
        place = common_root(there)
        yield place, [path or f"{place}/{name}" for path, name in zip(found, old, strict=True)]


def _keys(frames: Mapping[str, np.ndarray] | pd.DataFrame) -> Iterator[tuple[int, ...]]:
    """What tells a frame from all others, whatever its name."""
    return zip(*(frames[name].tolist() for name in ("file_checksum", "extension", "plane")), strict=True)


def _problem(manifest: Mapping[str, np.ndarray], index: int, path: str, headers: _Headers) -> str:
    """Why a file is not the frame of a part that was reduced; nothing where it is."""
    if path in headers.reasons:
        return headers.reasons[path]
    if path not in headers.rows.index:
        return _NO_FILE
    return _difference({name: manifest[name][index] for name in _COMPARED}, headers.rows.loc[path])


def _is_nowhere(old: str, problem: str) -> bool:
    """Whether a frame that is not at the new place is not at the old one either."""
    return problem == _NO_FILE and not location(old).exists()


def _told_of_lost(names: Sequence[str]) -> str:
    return f", but for {len(names)} that are nowhere and cannot be measured again, e.g. {names[0]}" if names else ""


def _facts_of_copies(
    manifest: Mapping[str, np.ndarray], rows: pd.DataFrame, place: str, paths: Sequence[str]
) -> dict[str, np.ndarray]:
    """Files of the copies and what they are known by; of a frame that is lost, what it was known by."""
    is_there = np.isin(np.asarray(paths, dtype=str), rows.index.to_numpy(dtype=str))
    there = [path for path, is_one in zip(paths, is_there, strict=True) if is_one]
    facts = {}
    for name in _OF_COPIES:
        facts[name] = np.array(manifest[name])
        facts[name][is_there] = rows.loc[there, name].to_numpy()
    facts["file"] = np.array([name_below(file_of(path), place) for path in paths], dtype=object)
    return facts


def _candidates(names: Sequence[str], files: Sequence[str], old: str) -> list[str]:
    """Directories below which files of these names are: most of them first, then what resembles the old path most."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_name[file.rpartition("/")[2]].append(file)
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        for file in by_name[name.rpartition("/")[2]]:
            if file.endswith(f"/{name}"):
                counts[file[: -len(name) - 1]] += 1
    return sorted(counts, key=lambda root: (-counts[root], -_common_tail(old, root), root))


def _common_tail(one: str, other: str) -> int:
    """Number of last directories that two paths have in common."""
    pairs = list(zip(reversed(one.split("/")), reversed(other.split("/")), strict=False))
    return next((count for count, (left, right) in enumerate(pairs) if left != right), len(pairs))


def _difference(before: Mapping[str, float], now: Mapping[str, float]) -> str:
    """In what a file differs from the frame that was reduced; nothing when it is the same."""
    if before["file_size"] != now["file_size"]:
        return f"it has {now['file_size']} bytes, that frame had {before['file_size']}"
    if not abs(before["mjd_utc"] - now["mjd_utc"]) < _SAME_TIME:
        return f"it was exposed at MJD {now['mjd_utc']:.8f}, that frame at {before['mjd_utc']:.8f}"
    if before["exposure_time"] != now["exposure_time"]:
        return f"it was exposed for {now['exposure_time']:g} s, that frame for {before['exposure_time']:g} s"
    if 0 != before["file_checksum"] != now["file_checksum"] != 0:
        return "its header or its pixels are other ones"
    return ""
