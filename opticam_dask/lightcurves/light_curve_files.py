"""Files of light curves beside the store, ``lcs/<label>/<key>_source_<N>.csv``, written by tasks.

A chunk of the store holds all sources of some frames, a file one source of all frames. So it is done in two steps: one
task for some thousand frames reads their chunks and writes the lines of every source into one scratch file, one task
for some sources puts the pieces of their files together. Every chunk is read once, no task holds a whole light curve,
and no line passes through the client.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np

import opticam_dask
from opticam_dask import locations
from opticam_dask.cluster.executors import BlockFunction, Executor, InProcess, Work
from opticam_dask.flags import SourceFlag
from opticam_dask.lightcurves.curation.spans import Span, bits_of, is_left_out, spans_of
from opticam_dask.lightcurves.reading.tables import as_csv, cells
from opticam_dask.lightcurves.source_times import SourceClock, clocks_of
from opticam_dask.pipeline.reduction import Progress, Silent, stage
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.groups import Group
from opticam_dask.store.scratch import remove_empty_scratch, scratch_folder
from opticam_dask.store.store import Store

#: What the files hold beside the time; the background is that of the frame where the label has none of its own.
_VARIABLES = ("flux", "flux_err", "background", "background_err", "flags")

#: What measurements that are marked cloud or junk do not have.
_MARKED = ("flux", "flux_err")

#: Headings of the times.
_TIMES = {"bmjd_tdb": "BMJD", "mjd_utc": "MJD"}

#: Measurements (frames times sources) that one task writes as text: about half a second of work.
_MEASUREMENTS = 1 << 17

#: Sources whose files one task puts together.
_SOURCES = 4

#: Beside the folder of the files, with its label before: a checksum of what they were made from.
_MARK = "made_from"

#: Bytes of one request for a piece of a remote scratch file.
_REQUEST = 1 << 16


def write_light_curves(
    out_directory: str | Path,
    label: str,
    executor: Executor | None = None,
    progress: Progress | None = None,
    *,
    if_changed: bool = False,
    keys: Collection[str] | None = None,
) -> Path:
    """Write ``lcs/<label>/<key>_source_<N>.csv``: time, flux, flux error and flags of every frame.

    The time column is ``BMJD``, or ``MJD`` (UTC) where no barycentric time is known at all.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of a reduction.
    label : str
        Photometry label.
    executor : Executor, optional
        Where it is done; by default in this process. The files are the same.
    progress : Progress, optional
        Where progress is reported; by default nowhere.
    if_changed : bool
        Leave files that are there and were made from the same measurements as they are.
    keys : collection of str, optional
        Cameras; by default all.

    Returns
    -------
    Path
        The directory of the files.
    """
    executor, progress = executor or InProcess(), progress or Silent()
    store = Store.open(out_directory)
    directory = locations.folder_in(out_directory, "lcs", label)
    jobs = [
        _job(store.camera(key), label, directory) for key in store.measured_keys(label) if keys is None or key in keys
    ]
    made_from, mark = _made_from(jobs), directory.parent / f".{label}_{_MARK}"
    if if_changed and made_from == _text_of(mark) and all(file.exists() for job in jobs for file in job.files):
        return directory
    pieces = [_work(job.write_piece, len(job.pieces), "light-curves") for job in jobs]
    files = [_work(job.write_files, len(job.groups), "light-curve-files") for job in jobs]
    try:
        with stage(progress, "Writing light curves", sum(job.n_frames for job in jobs)):
            for n_frames in executor.run(pieces):
                progress.advance(n_frames)
            for _ in executor.run(files):
                pass
        if made_from is not None and jobs:
            mark.write_text(made_from, encoding="utf-8")
    finally:
        with suppress(OSError):
            for job in jobs:
                locations.remove_tree(job.scratch)
            remove_empty_scratch(store.path)
    return directory


def _made_from(jobs: Sequence[_Job]) -> str | None:
    """Checksum of what the files of some cameras are made from; None on an object store, where looking takes as long.

    A chunk counts by the size and the time of its file: it is written anew whenever it is measured anew.
    """
    digest = hashlib.sha256(opticam_dask.__version__.encode())
    for job in jobs:
        if locations.is_remote(job.directory):
            return None
        digest.update(repr((job.time_name, job.headings, job.source_ids.tolist())).encode())
        digest.update(pickle.dumps((job.clocks, job.spans)))
        names = (*job.headings, "mjd_utc", "bmjd_tdb", *(("y",) if job.clocks else ()))
        groups = [group for part in job.parts for group in (part.photometry(job.label), part.frames)]
        for folder in (group.directory / name for group in groups for name in names):
            for file in _files_below(os.fspath(folder)):
                facts, place = file.stat(), file.path.removeprefix(os.fspath(job.parts[0].path))
                digest.update(f"{place} {facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def _files_below(directory: str) -> Iterator[os.DirEntry[str]]:
    """Files of a folder and of those in it, in the order of their names: of long nights a million."""
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in sorted(entries, key=attrgetter("name")):
            if entry.is_dir():
                yield from _files_below(entry.path)
            else:
                yield entry


def _text_of(file: Path) -> str:
    with suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8")
    return ""


def _work(function: BlockFunction, n_tasks: int, name: str) -> Work:
    return Work(function, range(n_tasks), name, has_time_limit=False)


@dataclass(frozen=True)
class _Piece:
    """Frames that follow each other in time.

    Attributes
    ----------
    ranges : tuple of (int, int, int)
        Number of a part, first and one past the last of its frames.
    order : ndarray of int, optional
        The frames among those of all ranges; by default all as they stand.
    """

    ranges: tuple[tuple[int, int, int], ...]
    order: np.ndarray | None = None

    @property
    def n_frames(self) -> int:
        return sum(stop - start for _, start, stop in self.ranges) if self.order is None else len(self.order)


@dataclass(frozen=True)
class _Job:
    """What tasks need to write the files of one camera and label.

    Attributes
    ----------
    parts : tuple of Part
    label : str
    directory, scratch : path
        Where the files go, and the pieces of them.
    time_name : str
        Time stamps that the files have.
    headings : dict of tuple of str
        Headings by variable: one, or one for each radius.
    of_frames : tuple of str
        Variables of the whole frame, the same for all its sources.
    source_ids : ndarray of int
    clocks : tuple of SourceClock, optional
        Of each part, where sources have times of their own.
    spans : tuple of Span
        What observers have marked: measurements that are left out have no flux.
    pieces : tuple of _Piece
        Frames whose lines one task writes.
    groups : tuple of range
        Places of the sources whose files one task puts together.
    """

    parts: tuple[Part, ...]
    label: str
    directory: Path
    scratch: Path
    time_name: str
    headings: Mapping[str, tuple[str, ...]]
    of_frames: tuple[str, ...]
    source_ids: np.ndarray
    pieces: tuple[_Piece, ...]
    groups: tuple[range, ...]
    clocks: tuple[SourceClock, ...] | None = None
    spans: tuple[Span, ...] = ()

    @property
    def n_frames(self) -> int:
        return sum(piece.n_frames for piece in self.pieces)

    @property
    def files(self) -> list[Path]:
        return [self.directory / self._file_name(place) for place in range(len(self.source_ids))]

    def write_piece(self, number: int) -> int:
        """Write the lines of all sources for the frames of a piece, source after source; return how many frames.

        Before the lines stands where those of each source end, in bytes.
        """
        piece, n_sources = self.pieces[number], len(self.source_ids)
        columns = {_TIMES[self.time_name]: self._times(piece, n_sources)}
        is_out = is_left_out(bits_of(self.spans, self._read(piece, "mjd_utc"), self.source_ids)) if self.spans else None
        for name in self.headings:
            values = self._read(piece, name)
            if is_out is not None and name in _MARKED:
                values[is_out] = np.nan
            columns |= self._columns(name, values, n_sources)
        text = as_csv(zip(*map(cells, columns.values()), strict=True))
        line_ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n")) + 1
        file = self._piece_file(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        with locations.replacing(file) as temporary, temporary.open("wb") as stream:
            stream.write(line_ends[piece.n_frames - 1 :: piece.n_frames].astype("<i8").tobytes())
            stream.write(text)
        return piece.n_frames

    def write_files(self, number: int) -> int:
        """Put the files of some sources together from their pieces; return how many files."""
        chosen = self.groups[number]
        names = [heading for headings in self.headings.values() for heading in headings]
        header = as_csv([[_TIMES[self.time_name], *names]])
        self.directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            streams = [opened.enter_context(_replaced(self.directory / self._file_name(place))) for place in chosen]
            for stream in streams:
                stream.write(header)
            for piece in range(len(self.pieces)):
                with locations.open_binary(self._piece_file(piece), at_least=_REQUEST) as source:
                    for stream, lines in zip(streams, self._lines(source, chosen), strict=True):
                        stream.write(lines)
            return len(chosen)

    def _read(self, piece: _Piece, name: str) -> np.ndarray:
        """Values of the frames of a piece, shape (frame,) or (frame, source) or (frame, source, radius)."""
        groups = [part.records(None if name in self.of_frames else self.label) for part in self.parts]
        values = np.concatenate([groups[part].read(name, start, stop) for part, start, stop in piece.ranges])
        return values if piece.order is None else values[piece.order]

    def _times(self, piece: _Piece, n_sources: int) -> np.ndarray:
        """Times of the frames of a piece, source after source."""
        if self.clocks is None:
            return np.tile(self._read(piece, self.time_name), n_sources)
        found = []
        for part, start, stop in piece.ranges:
            group, clock = self.parts[part].photometry(self.label), self.clocks[part]
            y = group.read("y", start, stop) if clock.row_time else None
            found.append(clock.times(group.read("mjd_utc", start, stop), group.read("bmjd_tdb", start, stop), y))
        values = np.concatenate(found)
        return (values if piece.order is None else values[piece.order]).T.ravel()

    def _columns(self, name: str, values: np.ndarray, n_sources: int) -> dict[str, np.ndarray]:
        """Columns of a variable, source after source; with several radii one for each."""
        if values.ndim == 1:
            return {name: np.tile(values, n_sources)}
        values = values & ~np.uint32(SourceFlag.REDUCED) if name == "flags" else values
        of_radii = values[..., np.newaxis] if values.ndim == 2 else values
        return {heading: of_radii[..., place].T.ravel() for place, heading in enumerate(self.headings[name])}

    def _lines(self, source: BinaryIO, chosen: range) -> list[bytes]:
        """Lines of sources that follow each other, from the scratch file of a piece."""
        ends = np.frombuffer(source.read(8 * len(self.source_ids)), dtype="<i8")
        bounds = [int(ends[place - 1]) if place else 0 for place in (*chosen, chosen.stop)]
        source.seek(8 * len(self.source_ids) + bounds[0])
        return [source.read(stop - start) for start, stop in pairwise(bounds)]

    def _piece_file(self, number: int) -> Path:
        return self.scratch / f"{number:06d}"

    def _file_name(self, place: int) -> str:
        return f"{self.parts[0].camera.name}_source_{int(self.source_ids[place])}.csv"


@contextmanager
def _replaced(file: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place at the end."""
    with locations.replacing(file) as temporary, temporary.open("wb") as stream:
        yield stream


def _job(camera: Camera, label: str, directory: Path) -> _Job:
    parts = camera.measured_parts(label)
    groups = [part.photometry(label) for part in parts]
    source_ids, clocks = groups[0]["source_id"], clocks_of(parts)
    if clocks is not None:
        clocks = [clock.of_columns(slice(len(source_ids))) for clock in clocks]
    has_bmjd = any(np.isfinite(group["bmjd_tdb"]).any() for group in groups)
    has_bmjd |= clocks is not None and bool(np.isfinite(clocks[0].ra).any())
    own = _headings(groups[0])
    headings = {name: own.get(name, (name,)) for name in _VARIABLES if name in own or name == "background"}
    per_block = parts[0].frames_per_block
    per_piece = per_block * max(1, _MEASUREMENTS // (per_block * max(1, len(source_ids))))
    return _Job(
        parts=tuple(parts),
        label=label,
        directory=directory,
        scratch=scratch_folder(camera.path, "light-curves", label, camera.name),
        time_name="bmjd_tdb" if has_bmjd else "mjd_utc",
        headings=headings,
        of_frames=() if "background" in own else ("background",),
        source_ids=source_ids,
        pieces=tuple(_in_pieces([group["mjd_utc"] for group in groups], per_piece)),
        groups=tuple(
            range(start, min(start + _SOURCES, len(source_ids))) for start in range(0, len(source_ids), _SOURCES)
        ),
        spans=spans_of(Store(camera.path), camera.key, label),
        clocks=tuple(clocks) if clocks is not None and has_bmjd else None,
    )


def _headings(group: Group) -> dict[str, tuple[str, ...]]:
    """Headings of the variables that a label has: one, or one for each radius."""
    attributes = group.attributes
    suffixes = [f"_r{radius:g}" for radius in attributes.get("radii") or ()]
    found: dict[str, tuple[str, ...]] = {}
    for name in _VARIABLES:
        with suppress(FileNotFoundError):
            n_dims = len(group.array(name).shape)
            found[name] = tuple(name + suffix for suffix in suffixes) if n_dims > 2 else (name,)
    return found


def _in_pieces(times: Sequence[np.ndarray], size: int) -> Iterator[_Piece]:
    """Frames of all parts in time order, in pieces of at most so many.

    Parameters
    ----------
    times : sequence of ndarray
        MJD of the frames of each part.
    size : int
        Whole blocks, so that no chunk is in two pieces where parts follow each other.
    """
    first = np.concatenate([[0], np.cumsum([len(one) for one in times])])
    order = np.argsort(np.concatenate(times), kind="stable")
    if np.all(np.diff(order) == 1):
        for part, one in enumerate(times):
            for start in range(0, len(one), size):
                yield _Piece(((part, start, min(start + size, len(one))),))
        return
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        part_of = np.searchsorted(first, chosen, side="right") - 1
        ranges, places, n_before = [], np.empty(len(chosen), dtype=np.int64), 0
        for part in np.unique(part_of):
            frames = chosen[part_of == part] - first[part]
            begin, end = int(frames.min()), int(frames.max()) + 1
            places[part_of == part] = n_before + frames - begin
            ranges.append((int(part), begin, end))
            n_before += end - begin
        yield _Piece(tuple(ranges), places)
