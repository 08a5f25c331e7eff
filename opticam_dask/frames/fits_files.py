"""Frames in FITS files: their headers and their pixels. The only reader of FITS.

A frame is a 2-D image, plain, gzipped or tile-compressed; a plane of a cube; one of several images of a file; or a
detector put together from its amplifiers or windows. What a file is shows in its first bytes, not in its name.
Whatever is wrong with one file is a `FrameError` with a reason, and costs the frames of that file only. What a header
declares is believed up to limits, so that no file can cost more time or memory than a large frame.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.cluster import open_files
from opticam_dask.frames.fits import layouts, planes
from opticam_dask.frames.fits.cards import Cards
from opticam_dask.frames.fits.errors import FrameError, OwnProduct
from opticam_dask.frames.fits.images import MOST_PIXELS, FitsHeader
from opticam_dask.frames.fits.layouts import Contents, ImageChoice, StoredFrame
from opticam_dask.frames.fits.names import FrameName, file_of, split_name
from opticam_dask.frames.fits.planes import PlaneKeywords
from opticam_dask.frames.fits.shared_cards import SharedCards
from opticam_dask.frames.fits.streams import (
    FRAME_REQUEST,
    HEADER_REQUEST,
    FrameErrors,
    PathLike,
    Source,
    inflate,
    opened,
    read_to_the_end,
)
from opticam_dask.frames.fits.tiles import Amplifiers
from opticam_dask.remote_paths import Facts

__all__ = [
    "MOST_PIXELS",
    "Amplifiers",
    "Cards",
    "FitsHeader",
    "FitsReader",
    "FrameError",
    "FrameHere",
    "FrameName",
    "ImageChoice",
    "OwnProduct",
    "PathLike",
    "PlaneKeywords",
    "SharedCards",
    "file_of",
    "ordinary_images",
    "read_header",
    "read_headers",
    "split_name",
]


def read_header(path: PathLike, extension: int | str | None = None) -> FitsHeader:
    """Read the header of the image in a FITS file, without reading its pixels.

    Parameters
    ----------
    path : path or URL
        FITS file, or the name of one frame in it; of a gzipped one only the beginning is inflated, of a remote one only
        the beginning is fetched.
    extension : int or str, optional
        Number or EXTNAME of the HDU; by default the first that holds an image.

    Returns
    -------
    FitsHeader

    Raises
    ------
    FrameError
        When the file is not FITS, is cut short, or holds no image there.
    OwnProduct
        When the file is a table that this program has exported.
    """
    name = split_name(str(path))
    with opened(name.file, gzip.open, HEADER_REQUEST) as source:
        return _picture(layouts.contents_of(source, ImageChoice(extension)), name).header


class FrameHere(NamedTuple):
    """One frame of a file, by its header.

    Attributes
    ----------
    name : FrameName
        Where it is.
    header : FitsHeader
        Its header; that of a plane knows the time of the plane.
    own : Cards
        The part of the header that it does not share with other frames of the file.
    problem : str
        Why it cannot be used, as far as the file shows; empty for a good one.
    is_cut_short : bool
        Whether it cannot be used because the file ends too early.
    """

    name: FrameName
    header: FitsHeader
    own: Cards
    problem: str = ""
    is_cut_short: bool = False


def read_headers(
    path: str,
    choice: ImageChoice | None = None,
    plane_keywords: PlaneKeywords | None = None,
    ordinary: SharedCards[tuple[FitsHeader, int] | None] | None = None,
    *,
    listed: Facts | None = None,
) -> tuple[list[FrameHere], Facts]:
    """Read the headers of all frames of a file, with its size and the time of its last change.

    A file of this machine is opened once for all: on a shared file system that is a question less for each frame.

    Parameters
    ----------
    path : path or URL
        FITS file.
    choice : ImageChoice, optional
        Which images are frames.
    plane_keywords : PlaneKeywords, optional
        What tells the times of the planes of a cube.
    ordinary : SharedCards, optional
        Result of `ordinary_images` for this choice: what ordinary files have in common is worked out once.
    listed : Facts, optional
        Size and time of a remote file, from the listing of its directory.

    Returns
    -------
    list of FrameHere
        In the order of the file.
    Facts

    Raises
    ------
    FrameError
        When the file is not FITS, is cut short, or holds no image.
    OwnProduct
        When the file is a table that this program has exported.
    """
    with opened(path, gzip.open, HEADER_REQUEST, None if listed is None else listed.size) as source:
        facts = listed or source.facts_with_checksum()
        cards, text = layouts.first_cards(source)
        if ordinary and (image := ordinary(cards)) and layouts.is_all_of(source, len(text), image[1]):
            return [FrameHere(FrameName(path), image[0]._replace(values=cards), cards)], facts
        contents = layouts.contents_of(source, choice or ImageChoice(), first=(cards, text))
        frames = list(_frames(path, source, contents, plane_keywords or PlaneKeywords()))
        return frames, facts


def ordinary_images(choice: ImageChoice) -> SharedCards[tuple[FitsHeader, int] | None]:
    """What the first headers of ordinary files say of their images, worked out once for headers that say the same."""
    return SharedCards(partial(layouts.ordinary_image, choice=choice))


def _frames(path: str, source: Source, contents: Contents, known: PlaneKeywords) -> Iterator[FrameHere]:
    for picture in contents.pictures:
        cut = picture.cut_short
        if not picture.n_planes:
            yield FrameHere(FrameName(path, picture.extension), picture.header, picture.own, cut, bool(cut))
            continue
        extension = picture.tiles[0].image.hdu.number
        try:
            headers = planes.headers_of(source, picture, contents.tables, known)
        except FrameError as error:
            cut = cut or contents.cut_short
            # how to define times is no advice for a file that has lost them
            reason = f"{cut}, and its header does not say when each was taken" if cut else error.reason
            yield FrameHere(FrameName(path, picture.extension), picture.header, picture.own, reason, bool(cut))
            continue
        n_timed = 0
        for n_timed, header in enumerate(headers, start=1):
            problem = cut if n_timed > picture.n_whole else ""
            yield FrameHere(FrameName(path, extension, n_timed), header, picture.own, problem, bool(problem))
        problem = cut or f"cut short: the table of times ends after {n_timed} of {picture.n_planes} planes"
        for plane in range(n_timed + 1, picture.n_planes + 1):
            yield FrameHere(FrameName(path, extension, plane), picture.header, picture.own, problem, True)
    problem, number = contents.cut_header
    if problem:
        header = contents.pictures[0].header._replace(extension=number)
        yield FrameHere(FrameName(path, number), header, Cards(), problem, True)


@dataclass(frozen=True)
class FitsReader(ImageChoice):
    """Reads FITS frames.

    Parameters
    ----------
    extension : int or str, optional
        Number or EXTNAME of the HDU; by default the first that holds an image.
    images : {"frames", "mosaic", "first"}, optional
        What several images of a file are; by default what their headers show.
    amplifiers : Amplifiers
        How the pixels of amplifiers become those of a frame.
    uses_errors : bool
        Whether an extension with the errors of the pixels is read.
    """

    def read(self, path: PathLike) -> np.ndarray:
        """Read the pixels of one frame.

        Parameters
        ----------
        path : path or URL
            FITS file, or the name of one frame in it. A gzipped one is inflated to its end, so that its checksum is
            verified. A remote one is fetched whole, in one request up to 32 MiB.

        Returns
        -------
        ndarray, shape (ny, nx)
            In native byte order, BZERO and BSCALE applied: uint16 for the usual unsigned frames. Trimmed to TRIMSEC or
            DATASEC, where the header has one that lies inside the image, less the level of the overscan, where there is
            a BIASSEC. NaN where an extension behind the image (BPM, MASK, DQ; not in gzip streams) is not 0, and where
            no window of the detector was read. With the errors of an extension behind the image (ERR, VAR, IVAR, ...)
            it is a `ReadPixels`, an array that has their ``variance``.

        Raises
        ------
        FrameError
            When the file cannot be read or is damaged.
        """
        name = split_name(str(path))
        with FrameErrors(), _open_file(name.file, self, is_one_of_many=name.extension > 0) as file:
            picture = _picture(file.contents, name)
            if picture.n_planes and not name.plane:
                raise FrameError(f"a cube of {picture.n_planes} planes: name one, as in {FrameName(name.file, 0, 1)}")
            pixels = layouts.read(file.source, picture, max(0, name.plane - 1))
            if file.source.is_gzip and not file.is_of_many:
                read_to_the_end(file.source.stream, picture.n_bytes)
        return pixels


# ---------------------------------------------------------------- open files


@dataclass
class _OpenFile:
    """A file with what it holds."""

    path: str
    choice: ImageChoice
    source: Source
    contents: Contents
    close: Callable[[], Any]

    @property
    def is_of_many(self) -> bool:
        """Whether it holds more than one frame."""
        return len(self.contents.pictures) > 1 or self.contents.pictures[0].n_planes > 0


@contextlib.contextmanager
def _open_file(path: str, choice: ImageChoice, *, is_one_of_many: bool) -> Iterator[_OpenFile]:
    """A file as long as it is needed; one of many frames until the block is done, or another file is read."""
    shelf = open_files.shelf()
    file = None if shelf is None else shelf.file
    if file is None or (file.path, file.choice) != (path, choice):
        if shelf is not None:
            shelf.clear()
        file = _opened(path, choice, is_one_of_many=is_one_of_many)
        if shelf is not None and file.is_of_many:
            shelf.keep(file)
    try:
        yield file
    except BaseException:
        if shelf is not None:
            shelf.clear()
        file.close()
        raise
    if shelf is None or shelf.file is not file:
        file.close()


def _opened(path: str, choice: ImageChoice, *, is_one_of_many: bool) -> _OpenFile:
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(opened(path, inflate, FRAME_REQUEST))
        contents = layouts.contents_of(source, choice, is_one_of_many=is_one_of_many)
        file = _OpenFile(path, choice, source, contents, stack.pop_all().close)
    if source.is_gzip and file.is_of_many:
        try:
            read_to_the_end(source.stream, sum(picture.n_bytes for picture in contents.pictures))
        except BaseException:
            file.close()
            raise
    return file


def _picture(contents: Contents, name: FrameName) -> StoredFrame:
    """The picture that a name means."""
    if not name.extension and not name.plane:
        return contents.pictures[0]
    for picture in contents.pictures:
        is_it = picture.extension == name.extension or picture.tiles[0].image.hdu.number == name.extension
        if is_it and (name.plane <= picture.n_planes or name.plane == 0):
            return picture
    plane = f", plane {name.plane}" if name.plane else ""
    raise FrameError(f"expected a frame in HDU {name.extension}{plane}, found none: the file changed")
