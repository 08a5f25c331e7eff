"""Frames on disk or in remote directories: find them, and make the table of usable frames from their headers."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from opticam_dask.frames import telling
from opticam_dask.frames.finding import find_files
from opticam_dask.frames.fits_files import (
    Amplifiers,
    Cards,
    FitsHeader,
    FitsReader,
    FrameError,
    FrameHere,
    FrameName,
    ImageChoice,
    OwnProduct,
    PathLike,
    PlaneKeywords,
    SharedCards,
    file_of,
    ordinary_images,
    read_header,
    read_headers,
)
from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.contradictions import contradictions, time_gaps
from opticam_dask.frames.headers.exposures import kind_of
from opticam_dask.frames.headers.values import HeaderValues
from opticam_dask.frames.instruments import FrameHeader, Instrument, flat
from opticam_dask.kernels.series.timing import night_of
from opticam_dask.locations import is_remote
from opticam_dask.remote_paths import Facts, facts_of
from opticam_dask.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from opticam_dask.cluster.executors import Executor

__all__ = [
    "FakeReader",
    "FitsHeader",
    "FitsReader",
    "FrameError",
    "Reader",
    "Scan",
    "find_files",
    "in_order_of_names",
    "read_header",
    "reader_of",
    "scan",
    "time_gaps",
]

_TRIMMED = (
    "the image is trimmed to {}; the level of an overscan is not subtracted: it is part of the sky background, and of "
    "the biases where flats are given"
)
_OVERSCAN = "the level of the overscan (BIASSEC) is subtracted"
_NOT_TRIMMED = "the image is not trimmed: {} is no section [x1:x2,y1:y2] of its {} x {} pixels (columns x rows)"

#: Rows that are put into a table together.
_ROWS_AT_ONCE = 4096

#: More files than this are read on workers, where there are some: about two seconds of one processor.
MANY_FILES = 1 << 15
#: Files of one task: a quarter of a second of work.
_FILES_OF_TASK = 4096

#: Columns of the table of frames that come from the interpreted header, and their types.
_FROM_HEADER = dict.fromkeys(("key", "camera", "filter"), "object")
_FROM_HEADER |= dict.fromkeys(("mjd_utc", "exposure_time", "gain", "dark_current", "read_noise"), "float64")
_FROM_HEADER |= dict.fromkeys(("saturation", "linearity_limit", "airmass", "ra", "dec"), "float64")
_FROM_HEADER |= {"binning": "int64", "pixel_scale": "float64"}
_FROM_HEADER |= dict.fromkeys(("longitude", "latitude", "height"), "float64")
_FROM_HEADER |= {"time_reference": "object", "time_offset": "float64", "is_time_suspect": "bool"}
_COLUMNS = {"file": "object", "file_size": "int64", "file_mtime": "float64"}
_COLUMNS |= {"file_ctime": "float64", "file_checksum": "int64", **_FROM_HEADER}
_COLUMNS |= {"ny": "int64", "nx": "int64", "dtype": "object", "extension": "int64", "plane": "int64"}
_COLUMNS |= {"window": "object"}


class Reader(Protocol):
    """Reader of the pixels of a frame. It must be picklable: it goes to the workers."""

    def read(self, path: str) -> np.ndarray:
        """Return the pixels, ``(ny, nx)``, native byte order; raise `FrameError` when they cannot be had."""
        ...


@dataclass(frozen=True)
class FakeReader:
    """Makes up an image from the path, for tests: the same path gives the same pixels, and no file is opened.

    Parameters
    ----------
    shape : (int, int)
        Shape ``(ny, nx)`` of the image.
    seed : int
        Another seed gives other images.
    """

    shape: tuple[int, int]
    seed: int = 0

    def read(self, path: PathLike) -> np.ndarray:
        """Return a uint16 sky of 100 +- 10."""
        digest = hashlib.sha256(os.fspath(path).encode(errors="surrogateescape")).digest()
        rng = np.random.default_rng([self.seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])
        return np.clip(np.rint(rng.normal(100.0, 10.0, self.shape)), 0, None).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class Scan:
    """Contents of the headers of many files.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per usable frame, sorted by key, time and file. ``file`` is the name of the frame: the path of its file,
        with extension and plane behind it where the file holds several (``cube.fits[0,17]``).
    set_aside : list of (str, str)
        Files, and frames of files of many, that are not usable, each with the reason.
    warnings : list of str
        What is missing but can be done without, each with a count and an example.
    """

    table: pd.DataFrame
    set_aside: list[tuple[str, str]]
    warnings: list[str]


def scan(
    paths: Iterable[PathLike],
    instrument: Instrument,
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    reader_extension: int | str | None = None,
    kind: str = "light",
    executor: Executor | None = None,
) -> Scan:
    """Read the headers of files and interpret them.

    Parameters
    ----------
    paths : iterable of path
        Files, as from `find_files`. One that is given twice is read once.
    instrument : Instrument
        What the headers mean.
    n_threads : int, optional
        Most files read at a time; by default 8, and 32 where a file is remote. As long as the headers come faster than
        one processor can read them, one thread does it.
    progress : callable, optional
        Called with the number of files done and of all files.
    reader_extension : int or str, optional
        HDU of the image; by default that of the instrument.
    kind : {"light", "bias", "dark", "flat", "fringe"}
        What the frames are for: those that say in their header that they were taken for something else are set aside.
        Frames that do not say are of this kind. Tables that this program has exported are left out without a word.
    executor : Executor, optional
        Where the headers of very many files are read; by default here. The result is the same.

    Returns
    -------
    Scan
    """
    import pandas as pd

    files = sorted({str(path) if is_remote(path) else os.path.abspath(path) for path in paths})
    listed = facts_of(remote) if (remote := [file for file in files if is_remote(file)]) else {}
    n_threads = (32 if remote else 8) if n_threads is None else n_threads
    if n_threads < 1:
        raise ValueError(f"n_threads must be at least 1, found {n_threads}")
    if reader_extension is not None:
        instrument = replace(instrument, extension=reader_extension)
    scanner = _Scanner(instrument, kind, n_threads)
    if executor is not None and len(files) > MANY_FILES:
        found = _scan_on_workers(scanner, files, listed, executor, progress)
    else:
        found = scanner.scan(files, listed, progress)
    tables, set_aside, warned = found.tables, found.set_aside, found.warned
    table = pd.concat([part for part in tables if len(part)] or tables[:1], ignore_index=True)
    longitudes = table["longitude"].to_numpy()
    nights = night_of(table["mjd_utc"].to_numpy(), _usual(longitudes, instrument.longitude)).astype(object)
    table.insert(table.columns.get_loc("mjd_utc"), "night", nights)
    table = table.sort_values(["key", "mjd_utc"], kind="stable", ignore_index=True)  # rows are in the order of names
    n_frames = max(len(files), len(table))
    told = telling.worth_telling(warned, len(table)).items()
    notes = [f"{text} ({count} of {n_frames} files, e.g. {file})" for text, (count, file) in told]
    return Scan(table, set_aside, notes + contradictions(table))


class _Found:
    """What the headers of some files have told, in their order."""

    def __init__(self) -> None:
        self.tables, self.rows = [_as_table([])], list[tuple[Any, ...]]()
        self.set_aside: list[tuple[str, str]] = []
        self.warned: dict[str, tuple[int, str]] = {}

    def add(self, results: Sequence[_Result]) -> None:
        """Add the headers of some files."""
        self.rows += [result.row for result in results if result.row]
        if len(self.rows) >= _ROWS_AT_ONCE:  # a table takes a fraction of the memory
            self.close()
        self.set_aside += [(result.file, result.reason) for result in results if not result.row]
        for result in results:
            for text in result.warnings:
                self._warn(text, 1, result.file)

    def close(self) -> None:
        """Put all rows into tables."""
        self.tables.append(_as_table(self.rows))
        self.rows = []

    def merge(self, later: _Found) -> None:
        """Take in what files that come later have told."""
        self.tables += later.tables
        self.set_aside += later.set_aside
        for text, (count, example) in later.warned.items():
            self._warn(text, count, example)

    def _warn(self, text: str, count: int, example: str) -> None:
        before, first = self.warned.get(text, (0, example))
        self.warned[text] = (before + count, first)


class _Scanner(NamedTuple):
    """How headers are read and interpreted."""

    instrument: Instrument
    kind: str
    n_threads: int

    def scan(
        self, files: list[str], listed: Mapping[str, Facts], progress: Callable[[int, int], None] | None = None
    ) -> _Found:
        """Read the headers of some files, in this process."""
        found, n_done = _Found(), 0
        size = 16 if len(files) < 4096 else 256
        batches = [files[start : start + size] for start in range(0, len(files), size)]
        choice = reader_of(self.instrument)
        ways = choice, _plane_keywords(self.instrument), ordinary_images(choice)
        interpret = self.instrument.interpreter()

        def scan_batch(batch: list[str]) -> list[_Result]:
            # read, then interpreted: processors are quicker at one thing at a time
            read = [_read_file(file, self.instrument, ways, listed) for file in batch]
            return [
                _scan_frame(one, self.instrument, interpret, self.kind) if isinstance(one, _Read) else one
                for frames in read
                for one in frames
            ]

        each = _each_batch(scan_batch, batches, self.n_threads, is_slow=bool(listed))
        for batch, results in zip(batches, each, strict=True):
            found.add(results)
            n_done += len(batch)
            if progress is not None:
                progress(n_done, len(files))
        found.close()
        return found


def _scan_on_workers(
    scanner: _Scanner,
    files: list[str],
    listed: Mapping[str, Facts],
    executor: Executor,
    progress: Callable[[int, int], None] | None,
) -> _Found:
    """Read the headers of many files, some thousand to a task."""
    from opticam_dask.cluster.executors import Work  # with what tasks need: a table of frames alone needs none of it

    shares = [files[start : start + _FILES_OF_TASK] for start in range(0, len(files), _FILES_OF_TASK)]
    work = []
    for number, share in enumerate(shares):
        facts = {file: listed[file] for file in share if file in listed}
        scan_share = functools.partial(_scan_share, scanner, share, facts)
        work.append(Work(scan_share, [number], "headers", has_time_limit=False))
    by_number, n_done = dict[int, _Found](), 0
    for number, one in executor.run(work):
        by_number[number] = one
        n_done += len(shares[number])
        if progress is not None:
            progress(n_done, len(files))
    found = _Found()
    for number in range(len(shares)):
        found.merge(by_number[number])
    return found


def _scan_share(scanner: _Scanner, files: list[str], listed: Mapping[str, Facts], number: int) -> tuple[int, _Found]:
    """Task that reads the headers of some files."""
    return number, scanner.scan(files, listed)


def _usual(values: np.ndarray, otherwise: float | None) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else otherwise


def _each_batch(
    scan_batch: Callable[[list[str]], list[_Result]], batches: Iterable[list[str]], n_threads: int, *, is_slow: bool
) -> Iterator[list[_Result]]:
    """Batch after batch, with threads from where files are waited for longer than they are worked on.

    Threads that compute hinder each other: without waiting for files they take half as long again.
    """
    rest = iter(batches)
    while n_threads == 1 or not is_slow:
        if (batch := next(rest, None)) is None:
            return
        clock, processor = time.perf_counter(), time.thread_time()
        results = scan_batch(batch)
        is_slow = time.perf_counter() - clock > 2.0 * (time.thread_time() - processor)
        yield results
    with _threads(n_threads) as pool:
        yield from pool.map(scan_batch, rest)


@contextlib.contextmanager
def _threads(n_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that end at once when the work is interrupted, however much is still to do."""
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


#: Which images of a file are frames, what tells the times of planes, and what ordinary files have in common.
_Ways = tuple[ImageChoice, PlaneKeywords, SharedCards[tuple[FitsHeader, int] | None]]


class _Result(NamedTuple):
    file: str
    row: tuple[Any, ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()


class _Read(NamedTuple):
    """One frame whose header was read."""

    frame: FrameHere
    facts: Facts
    warnings: tuple[str, ...] = ()


def _read_file(path: str, instrument: Instrument, ways: _Ways, listed: Mapping[str, Facts]) -> list[_Read | _Result]:
    """The frames of one file by their headers; nothing for what this program has made."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return [_Result(printable(path), reason="the name of the file is not UTF-8 text: rename it")]
    try:
        listed_facts = _remote_facts(path, listed) if listed and is_remote(path) else None
        frames, facts = read_headers(path, *ways, listed=listed_facts)
    except OwnProduct:
        return []
    except FrameError as error:
        return [_Result(path, reason=error.reason)]
    exposures, others = _exposures(frames, instrument)
    if exposures == frames[:1] and not frames[0].name.plane:  # the image of the file, as a reader takes it
        exposures = [frames[0]._replace(name=FrameName(path))]
    read: list[_Read | _Result] = [_Read(frame, facts) for frame in exposures]
    if len(frames) == 1:
        read[0] = _Read(exposures[0], facts, telling.image_of(frames[0].own))
    if others:
        names = ", ".join(
            printable(str(frame.own.get("EXTNAME", f"HDU {frame.header.extension}"))) for frame in others[:3]
        )
        told = (
            f"{len(others)} further image(s) of a file have no time, filter or camera of their own and are left out "
            f"({names}{', ...' * (len(others) > 3)}; images of the definition says what they are)"
        )
        read[0] = _Read(exposures[0], facts, (told,))
    return read


def _exposures(frames: list[FrameHere], instrument: Instrument) -> tuple[list[FrameHere], list[FrameHere]]:
    """Frames of a file, and its further images whose own headers do not tell them from the first."""
    if len(frames) == 1 or instrument.images is not None:
        return frames, []
    own = _telling_keywords(instrument)
    is_frame = [not own.isdisjoint(frame.own) if frame.name.plane == 0 else True for frame in frames]
    if not any(is_frame) or (frames[0].name.plane == 0 and not any(frame.name.plane for frame in frames)):
        is_frame[0] = True  # its time is in the primary header
    # a header in which the file ends has no cards, and nobody knows of what it is
    pairs = [(frame, one or not frame.own) for frame, one in zip(frames, is_frame, strict=True)]
    return [frame for frame, is_one in pairs if is_one], [frame for frame, is_one in pairs if not is_one]


@lru_cache(maxsize=16)
def _telling_keywords(instrument: Instrument) -> frozenset[str]:
    """Keywords that tell one exposure of a file from another: of times, filters and cameras."""
    ways = instrument.time_keywords, instrument.filter_keyword, instrument.camera_keyword
    return frozenset(flat(ways)) | keywords.MARKS.keys() | {"DATE-OBS", "MJD-OBS", "CCD", *keywords.FILTER}


def _scan_frame(read: _Read, instrument: Instrument, interpret: Callable[[Cards], FrameHeader], kind: str) -> _Result:
    frame_here, facts, told_of_file = read
    name, header = str(frame_here.name), frame_here.header
    frame = interpret(header.values)
    if frame.kind_source and frame.kind != kind:
        reason = f"a {frame.kind} frame by {frame.kind_source}"
        return _Result(name, reason=reason, warnings=(f"{reason}, not a {kind} frame: set aside", *told_of_file))
    if frame_here.problem or frame.problems:
        return _Result(name, reason=frame_here.problem or "; ".join(frame.problems), warnings=told_of_file)
    if header.saturation not in (None, frame.saturation):  # that of all amplifiers
        frame = replace(frame, saturation=header.saturation)
    interpreted = [getattr(frame, column) for column in _FROM_HEADER]
    window = telling.window_of(header.values)
    row = (name, *facts, *interpreted, *header.shape, _name_of(header.dtype), *frame_here.name[1:], window)
    told = [*telling.place_of(frame.key, window)]
    if header.has_overscan or header.section:
        told.append(_OVERSCAN if header.has_overscan else _TRIMMED.format(header.section))
    if header.unused_section:
        ny, nx = header.shape
        told.append(_NOT_TRIMMED.format(printable(header.unused_section), nx, ny))
    if header.bad_pixels:
        told.append(f"pixels that the extension {header.bad_pixels} marks are bad")
    if header.errors:
        told.append(f"the noise of pixels is that of the extension {header.errors}")
    if frame.is_time_suspect:
        told.append(f"{instrument.time_flag_keyword} says that the time is not to be trusted")
    return _Result(name, row=row, warnings=(*frame.warnings, *told, *told_of_file))


_name_of = lru_cache(maxsize=64)(operator.attrgetter("name"))  # NumPy puts it together anew each time


def reader_of(instrument: Instrument) -> FitsReader:
    """Reader of the frames of an instrument, which knows which images of a file are frames."""
    amplifiers = Amplifiers(
        takes_overscan_off=instrument.subtract_overscan,
        gain_keyword=instrument.gain_keyword,
        saturation_keyword=instrument.saturation_keyword,
        default_gain=instrument.default_gain,
        default_saturation=instrument.default_saturation,
    )
    return FitsReader(instrument.extension, instrument.images, amplifiers, instrument.use_errors)


def _plane_keywords(instrument: Instrument) -> PlaneKeywords:
    return PlaneKeywords(tuple(flat(instrument.time_keywords)), instrument.plane_step_keyword)


def kind_of_file(path: str, instrument: Instrument) -> str:
    """Kind of the (first) frame of a file by its header; empty where the header does not tell."""
    try:
        frames, _ = read_headers(path, reader_of(instrument))
    except FrameError:
        return ""
    kind, source = kind_of(instrument, HeaderValues(frames[0].header.values))
    return kind if source else ""


def in_order_of_names(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table of frames by file, extension and plane."""
    files = np.array([file_of(name) for name in table["file"]], dtype=str)
    return table.iloc[np.lexsort((table["plane"], table["extension"], files))]


def _remote_facts(url: str, listed: Mapping[str, Facts]) -> Facts:
    if url not in listed:
        raise FrameError("cannot be read: it is gone since its directory was searched")
    return listed[url]


def _as_table(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
    data = {name: np.array(values, dtype=_COLUMNS[name]) for name, values in zip(_COLUMNS, columns, strict=True)}
    import pandas as pd  # a third of a second, which reading headers does not need

    return pd.DataFrame(data)
