"""Frames on disk or in remote directories: find them, and make the table of usable frames from their headers."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import operator
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from opticam_dask.frames.fits_files import (
    Amplifiers,
    FitsHeader,
    FitsReader,
    FrameError,
    FrameHere,
    FrameName,
    ImageChoice,
    OwnProduct,
    PathLike,
    PlaneKeywords,
    file_of,
    read_header,
    read_headers,
)
from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.contradictions import contradictions, time_gaps
from opticam_dask.frames.headers.exposures import kind_of
from opticam_dask.frames.headers.values import HeaderValues
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.series.timing import night_of
from opticam_dask.locations import files_below, is_remote, local_path, location
from opticam_dask.remote_paths import Facts, facts_of
from opticam_dask.text import printable

if TYPE_CHECKING:
    import pandas as pd

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

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\.(fits|fit|fts|hcm)(\.(gz|fz))?$", re.IGNORECASE)

#: A directory that holds this one is the output directory of a reduction; what it makes there beside light curves and
#: plots, and may hold FITS files, is never looked into.
_STORE_NAME = "reduction.zarr"
_OWN_NAMES = frozenset({_STORE_NAME, "export", "watch", "scratch", "planned_run"})

_TRIMMED = (
    "the image is trimmed to {}; the level of an overscan is not subtracted: it is part of the sky background, and of "
    "the biases where flats are given"
)
_OVERSCAN = "the level of the overscan (BIASSEC) is subtracted"

#: Rows that are put into a table together.
_ROWS_AT_ONCE = 4096

#: Columns of the table of frames that come from the interpreted header, and their types.
_FROM_HEADER = dict.fromkeys(("key", "camera", "filter"), "object")
_FROM_HEADER |= dict.fromkeys(("mjd_utc", "exposure_time", "gain", "dark_current", "read_noise"), "float64")
_FROM_HEADER |= dict.fromkeys(("saturation", "linearity_limit", "airmass", "ra", "dec"), "float64")
_FROM_HEADER |= {"binning": "int64", "pixel_scale": "float64"}
_FROM_HEADER |= dict.fromkeys(("longitude", "latitude", "height"), "float64")
_FROM_HEADER |= {"time_reference": "object", "is_time_suspect": "bool"}
_COLUMNS = {"file": "object", "file_size": "int64", "file_mtime": "float64", **_FROM_HEADER}
_COLUMNS |= {"ny": "int64", "nx": "int64", "dtype": "object", "extension": "int64", "plane": "int64"}


class Reader(Protocol):
    """Reader of the pixels of a frame. It must be picklable: it goes to the workers."""

    def read(self, path: str) -> np.ndarray:
        """Return the pixels, ``(ny, nx)``, native byte order; raise `FrameError` when they cannot be had."""
        ...


def find_files(paths: PathLike | Sequence[PathLike]) -> list[str]:
    """Find the FITS files in directories, and in all directories below them.

    Parameters
    ----------
    paths : path or URL, or sequence of them
        Directories or files, of this machine or of any place that fsspec knows (``s3://bucket/directory``).
        A file that is given itself is taken whatever its name; in directories it is ``.fits``, ``.fit``, ``.fts`` or
        ``.hcm``, also followed by ``.gz`` or ``.fz``, in any case. Names that start with a dot are skipped there, and
        what reductions have made: the store, exported tables, live files.

    Returns
    -------
    list of str
        Absolute paths and URLs, sorted, each file once, even where symbolic links lead to it several times.

    Raises
    ------
    FileNotFoundError
        When a path does not exist.
    OSError
        When a remote place cannot be reached.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    remote = _remote_files([str(path) for path in given if is_remote(path)])
    tops = [os.path.abspath(os.path.expanduser(local_path(path))) for path in given if not is_remote(path)]
    if missing := [top for top in tops if not os.path.lexists(top)]:
        raise FileNotFoundError(f"expected a directory or a FITS file, but there is none at {', '.join(missing)}")
    files = [top for top in tops if not os.path.isdir(top)]
    files += _files_below([top for top in tops if os.path.isdir(top)])
    real_directory = cache(os.path.realpath)  # asked once for the many files of a directory
    links = dict.fromkeys(file for file in files if os.path.islink(file))
    # A link loses against the file it leads to.
    by_target = {os.path.realpath(file): file for file in links}
    for file in files:
        if file not in links:
            directory, name = os.path.split(file)
            by_target[os.path.join(real_directory(directory), name)] = file
    return sorted([*by_target.values(), *remote])


def _remote_files(tops: list[str]) -> set[str]:
    """Frames in remote directories, from one listing each."""
    files: set[str] = set()
    for top in (str(location(given)) for given in tops):
        try:
            found = files_below(top)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"expected a directory or a FITS file, but there is none at {top}") from error
        own = _own_places(found)
        for url in found:
            below = url[len(top) :].strip("/")
            if own and any(url.startswith(place) for place in own):
                continue
            is_hidden = any(word.startswith(".") for word in below.split("/"))
            if not below or (_NAME.search(url) and not is_hidden):
                files.add(url)
    return files


def _own_places(urls: Iterable[str]) -> tuple[str, ...]:
    """Beginnings of the URLs of what reductions have made, from a listing that shows their stores."""
    outputs = {url.partition(f"/{_STORE_NAME}/")[0] for url in urls if f"/{_STORE_NAME}/" in url}
    return tuple(f"{output}/{name}/" for output in outputs for name in _OWN_NAMES)


def _files_below(tops: list[str]) -> Iterator[str]:
    visited: set[tuple[int, int]] = set()
    directories, links = list(tops), list[str]()
    while directories or links:
        directory = directories.pop() if directories else links.pop()
        try:
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(directory))
        except OSError as error:
            logger.warning("%s cannot be searched: %s", printable(directory), error.strerror)
            continue
        is_output = any(entry.name == _STORE_NAME for entry in entries)
        for entry in entries:
            if entry.name.startswith(".") or (is_output and entry.name in _OWN_NAMES):
                continue
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(entry.path)
            elif _NAME.search(entry.name):
                yield entry.path


@dataclass(frozen=True)
class FakeReader:
    """Makes up an image from the path, for tests: the same path gives the same pixels, and no file is opened.

    Parameters
    ----------
    shape : (int, int)
        ``(ny, nx)``.
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
    size = 16 if len(files) < 4096 else 256
    batches = [files[start : start + size] for start in range(0, len(files), size)]
    tables, rows, set_aside, n_done = [_as_table([])], list[tuple[Any, ...]](), list[tuple[str, str]](), 0
    warned: dict[str, tuple[int, str]] = {}

    ways = choice_of(instrument), _plane_keywords(instrument)

    def scan_batch(batch: list[str]) -> list[_Result]:
        return [result for file in batch for result in _scan_file(file, instrument, ways, listed, kind)]

    for batch, results in zip(batches, _each_batch(scan_batch, batches, n_threads, is_slow=bool(remote)), strict=True):
        rows += [result.row for result in results if result.row]
        if len(rows) >= _ROWS_AT_ONCE:  # a table takes a fraction of the memory
            tables.append(_as_table(rows))
            rows = []
        set_aside += [(result.file, result.reason) for result in results if not result.row]
        for result in results:
            for text in result.warnings:
                count, example = warned.get(text, (0, result.file))
                warned[text] = (count + 1, example)
        n_done += len(batch)
        if progress is not None:
            progress(n_done, len(files))
    tables.append(_as_table(rows))
    table = pd.concat([part for part in tables if len(part)] or tables[:1], ignore_index=True)
    longitudes = table["longitude"].to_numpy()
    nights = night_of(table["mjd_utc"].to_numpy(), _usual(longitudes, instrument.longitude)).astype(object)
    table.insert(table.columns.get_loc("mjd_utc"), "night", nights)
    table = table.sort_values(["key", "mjd_utc"], kind="stable", ignore_index=True)  # rows are in the order of names
    n_frames = max(len(files), len(table))
    notes = [f"{text} ({count} of {n_frames} files, e.g. {file})" for text, (count, file) in warned.items()]
    return Scan(table, set_aside, notes + contradictions(table))


def _usual(values: np.ndarray, otherwise: float | None) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else otherwise


def _each_batch(
    scan_batch: Callable[[list[str]], list[_Result]], batches: Iterable[list[str]], n_threads: int, *, is_slow: bool
) -> Iterator[list[_Result]]:
    """Batch after batch, with threads from where files are waited for longer than they are worked on.

    Threads that do not wait hinder each other: they take half as long again for the same files.
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


class _Result(NamedTuple):
    file: str
    row: tuple[Any, ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()


def _scan_file(
    path: str, instrument: Instrument, ways: tuple[ImageChoice, PlaneKeywords], listed: Mapping[str, Facts], kind: str
) -> list[_Result]:
    """What the frames of one file are; nothing for what this program has made."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return [_Result(printable(path), reason="the name of the file is not UTF-8 text: rename it")]
    try:
        listed_facts = _remote_facts(path, listed) if is_remote(path) else None
        frames, facts = read_headers(path, *ways, listed=listed_facts)
    except OwnProduct:
        return []
    except FrameError as error:
        return [_Result(path, reason=error.reason)]
    exposures, others = _exposures(frames, instrument)
    if exposures == frames[:1] and not frames[0].name.plane:  # the image of the file, as a reader takes it
        exposures = [frames[0]._replace(name=FrameName(path))]
    results = [_scan_frame(frame, facts, instrument, kind) for frame in exposures]
    if others:
        names = ", ".join(
            printable(str(frame.own.get("EXTNAME", f"HDU {frame.header.extension}"))) for frame in others[:3]
        )
        told = (
            f"{len(others)} further image(s) of a file have no time, filter or camera of their own and are left out "
            f"({names}{', ...' * (len(others) > 3)}; images of the definition says what they are)"
        )
        results[0] = results[0]._replace(warnings=(*results[0].warnings, told))
    return results


def _exposures(frames: list[FrameHere], instrument: Instrument) -> tuple[list[FrameHere], list[FrameHere]]:
    """Frames of a file, and its further images whose own headers do not tell them from the first."""
    if len(frames) == 1 or instrument.images is not None:
        return frames, []
    own = _telling_keywords(instrument)
    is_frame = [not own.isdisjoint(frame.own) if frame.name.plane == 0 else True for frame in frames]
    if not any(is_frame) or (frames[0].name.plane == 0 and not any(frame.name.plane for frame in frames)):
        is_frame[0] = True  # its time is in the primary header
    pairs = list(zip(frames, is_frame, strict=True))
    return [frame for frame, is_one in pairs if is_one], [frame for frame, is_one in pairs if not is_one]


@lru_cache(maxsize=16)
def _telling_keywords(instrument: Instrument) -> frozenset[str]:
    """Keywords that tell one exposure of a file from another: of times, filters and cameras."""
    ways = instrument.time_keywords, instrument.filter_keyword, instrument.camera_keyword
    return frozenset(_flat(ways)) | keywords.MARKS.keys() | {"DATE-OBS", "MJD-OBS", "CCD", *keywords.FILTER}


def _flat(words: Any) -> Iterator[str]:
    if isinstance(words, str):
        yield words
    else:
        for word in words:
            yield from _flat(word)


def _scan_frame(frame_here: FrameHere, facts: Facts, instrument: Instrument, kind: str) -> _Result:
    name, header = str(frame_here.name), frame_here.header
    frame = instrument.interpret(header.values)
    if frame.kind_source and frame.kind != kind:
        reason = f"a {frame.kind} frame by {frame.kind_source}"
        return _Result(name, reason=reason, warnings=(f"{reason}, not a {kind} frame: set aside",))
    if frame_here.problem or frame.problems:
        return _Result(name, reason=frame_here.problem or "; ".join(frame.problems))
    interpreted = [getattr(frame, column) for column in _FROM_HEADER]
    row = (name, *facts, *interpreted, *header.shape, _name_of(header.dtype), *frame_here.name[1:])
    told = []
    if header.has_overscan:
        told.append(_OVERSCAN)
    elif header.section:
        told.append(_TRIMMED.format(header.section))
    if header.bad_pixels:
        told.append(f"pixels that the extension {header.bad_pixels} marks are bad")
    if header.errors:
        told.append(f"the noise of pixels is that of the extension {header.errors}")
    if frame.is_time_suspect:
        told.append(f"{instrument.time_flag_keyword} says that the time is not to be trusted")
    return _Result(name, row=row, warnings=(*frame.warnings, *told))


_name_of = lru_cache(maxsize=64)(operator.attrgetter("name"))  # NumPy puts it together anew each time


def choice_of(instrument: Instrument) -> ImageChoice:
    """Which images of a file are frames, and how their amplifiers are read, by a definition."""
    amplifiers = Amplifiers(
        takes_overscan_off=instrument.subtract_overscan,
        gain_keyword=instrument.gain_keyword,
        saturation_keyword=instrument.saturation_keyword,
        default_saturation=instrument.default_saturation,
    )
    return ImageChoice(instrument.extension, instrument.images, amplifiers, instrument.use_errors)


def _plane_keywords(instrument: Instrument) -> PlaneKeywords:
    return PlaneKeywords(tuple(_flat(instrument.time_keywords)), instrument.plane_step_keyword)


def kind_of_file(path: str, instrument: Instrument) -> str:
    """Kind of the (first) frame of a file by its header; empty where the header does not tell."""
    try:
        frames, _ = read_headers(path, choice_of(instrument))
    except FrameError:
        return ""
    kind, source = kind_of(instrument, HeaderValues(frames[0].header.values))
    return kind if source else ""


def reader_of(instrument: Instrument) -> FitsReader:
    """Reader of the frames of an instrument."""
    choice = choice_of(instrument)
    return FitsReader(choice.extension, choice.images, choice.amplifiers, choice.uses_errors)


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
