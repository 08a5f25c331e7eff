"""Which frames a file holds: one, the planes of a cube, an image an exposure or camera, amplifiers, windows."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from opticam_dask.frames.fits import images, tiles
from opticam_dask.frames.fits.cards import BLOCK, MOST_HEADER_BLOCKS, Cards, joined, read_cards
from opticam_dask.frames.fits.errors import CutHeader, FrameError, OwnProduct
from opticam_dask.frames.fits.images import FitsHeader, Hdu, StoredImage
from opticam_dask.frames.fits.read_pixels import ReadPixels
from opticam_dask.frames.fits.streams import MOST_BEFORE, TIMES_IMAGE, Source
from opticam_dask.frames.fits.tiles import Amplifiers, Tile

#: Names of extensions whose pixels are not 0 where the image's are bad (IRAF, LCO, HST).
_BAD_PIXELS = frozenset({"BPM", "MASK", "DQ", "BADPIX", "BADPIXELS", "BAD PIXELS", "BAD_PIXELS"})
#: Names of extensions with the errors of pixels (LCO, HST, ESO, astropy), by the power of the error that they hold.
_ERRORS = dict.fromkeys(("ERR", "ERROR", "ERRORS", "UNCERT", "UNCERTAINTY", "SIGMA", "STD"), 1) | {
    **dict.fromkeys(("VAR", "VARIANCE"), 2),
    "IVAR": -2,
}
#: What astropy calls the powers, in UTYPE of an uncertainty.
_UTYPES = {"STDDEVUNCERTAINTY": 1, "VARIANCEUNCERTAINTY": 2, "INVERSEVARIANCE": -2}
#: Names of extensions that go with an image and are no frames: its errors, weights, or sky (IRAF, LCO, HST, ESO).
_COMPANIONS = _BAD_PIXELS | {
    *(*_ERRORS, "RMS", "WHT", "WEIGHT", "EXP", "SAMP", "TIME", "BKG", "BACKGROUND", "SKY", "THUMBNAIL", "PREVIEW"),
    *("THUMB", "CON", "CTX", "QUAL"),
}
#: Keywords of an image that hold for its own pixels alone.
_OF_PIXELS = frozenset({"CTYPE1", "CTYPE2", "CRPIX1", "CRPIX2"})
#: Planes of one file; a night of a second at a hundred frames a second is a third of it.
_MOST_PLANES = 1 << 20


@dataclass(frozen=True)
class StoredFrame:
    """One frame of a file, or all planes of one of its cubes.

    Attributes
    ----------
    extension : int
        Number of the HDU where it is one of several of its file, else 0.
    header : FitsHeader
        Its header.
    own : Cards
        The part of its header that it does not share with other images of the file.
    tiles : tuple of Tile
        Stored images that it is made of.
    n_planes : int
        Planes of a cube; 0 for an image.
    marks : StoredImage, optional
        Image whose pixels are not 0 where those of the picture are bad.
    errors : StoredImage, optional
        Image with the errors of its pixels, to the power of ``error_power``.
    error_power : int
        1 for errors, 2 for variances, -2 for their inverse.
    n_whole : int
        Number of its frames that are complete in the file; fewer than it has where the file is cut short.
    """

    extension: int
    header: FitsHeader
    own: Cards
    tiles: tuple[Tile, ...]
    n_planes: int = 0
    marks: StoredImage | None = None
    errors: StoredImage | None = None
    error_power: int = 1
    n_whole: int = 1

    @property
    def cut_short(self) -> str:
        """Why the file is cut short; empty where it is whole."""
        if self.n_whole >= (self.n_planes or 1):
            return ""
        if self.n_planes:
            return f"cut short: the file ends after {self.n_whole} of {self.n_planes} planes"
        return "cut short: the file ends before all pixels of this frame"

    @property
    def n_bytes(self) -> int:
        """Bytes of its pixels as stored."""
        return sum(tile.image.hdu.n_bytes for tile in self.tiles)


class Contents(NamedTuple):
    """Contents of a file.

    Attributes
    ----------
    pictures : tuple of StoredFrame
        Its frames.
    tables : tuple of Hdu
        Its tables, where the times of planes may be.
    cut_header : (str, int)
        What is wrong with a header in which the file ends, and the number of its HDU; an empty text for most files.
    most_bytes : int
        How many bytes there can be; of a gzip stream that ends before its last HDU does, as many as there are.
    """

    pictures: tuple[StoredFrame, ...]
    tables: tuple[Hdu, ...]
    cut_header: tuple[str, int]
    most_bytes: int

    @property
    def cut_short(self) -> str:
        """Where the file ends too early, behind its pixels; empty where it does not."""
        if self.cut_header[0]:
            return f"cut short: the file ends in the header of HDU {self.cut_header[1]}"
        is_cut = any(table.start + table.n_bytes > self.most_bytes for table in self.tables)
        return "cut short: the file ends before its table does" if is_cut else ""


@dataclass(frozen=True)
class ImageChoice:
    """Which images of a file are its frames, and how their amplifiers are read: as `FitsReader` is told it."""

    extension: int | str | None = None
    images: str | None = None
    amplifiers: Amplifiers = field(default_factory=Amplifiers)
    uses_errors: bool = True


def ordinary_image(cards: Cards, choice: ImageChoice) -> tuple[FitsHeader, int] | None:
    """Header of the image of a file by its first header, and bytes of its pixels; None for what is no ordinary file.

    Raises
    ------
    FrameError
        When the header says what cannot be.
    """
    hdu = Hdu(0, cards, images.image_axes(cards), 0, images.data_bytes(cards))
    if len(hdu.axes) != 2 or choice.images == "mosaic" or not _is_wanted(hdu, choice.extension):
        return None
    return _single(hdu, cards, choice, is_only=True).header, hdu.n_bytes


def is_all_of(source: Source, start: int, n_bytes: int) -> bool:
    """Whether the image of the first HDU is whole, and nothing that is looked at follows it."""
    most = source.most_bytes
    return start + n_bytes <= most and (_is_endless(source) or start + -(-n_bytes // BLOCK) * BLOCK + BLOCK > most)


def _is_endless(source: Source) -> bool:
    """Whether HDUs behind the image can only be found by inflating or fetching the whole image."""
    return source.is_gzip or source.most_bytes == sys.maxsize


def contents_of(
    source: Source, choice: ImageChoice, *, is_one_of_many: bool = False, first: tuple[Cards, str] | None = None
) -> Contents:
    """Find the frames of a file, of which the ``first`` header may have been read.

    Of an ordinary file only the header of its image is read; others where there is more behind it. A gzip stream is
    inflated up to the image, and further only where that is a cube or in an extension; and so is a remote file fetched
    whose end is not known, or where one of many frames is asked for (``is_one_of_many``).

    Raises
    ------
    FrameError
        When the file is not FITS, is cut short, or holds no image there.
    OwnProduct
        When the file is a table that this program has exported.
    """
    hdus = _each_hdu(source, first)
    seen: list[Hdu] = []
    for hdu in hdus:
        seen.append(hdu)
        if _is_wanted(hdu, choice.extension):
            image = images.describe(hdu)  # raises for what cannot be a frame
            if not image.whole_planes(source.most_bytes):
                n_found = max(0, source.most_bytes - hdu.start)
                raise FrameError(f"cut short: {hdu.n_bytes} bytes of data expected, {n_found} found")
            break
        if _is_own_product(hdu.cards):
            raise OwnProduct("a light curve that this program has exported")
    else:
        raise FrameError(_nothing_found(seen, choice.extension))
    found = seen[-1]
    is_plain = found.number == 0 and len(found.axes) == 2
    behind: list[Hdu] = []
    cut_header, most_bytes = ("", 0), source.most_bytes
    if is_one_of_many or not (_is_endless(source) and (is_plain or choice.extension is not None)):
        try:
            behind.extend(hdus)
            if source.is_gzip and (end := source.stream.tell()) < [*seen, *behind][-1].end:
                most_bytes = end  # nothing more came out of it
        except CutHeader as error:
            cut_header = (error.reason, found.number + len(behind) + 1)
        except FrameError:  # what follows an image need not be FITS
            pass
    tables = tuple(hdu for hdu in [*seen, *behind] if hdu.cards.get("XTENSION") in ("BINTABLE", "TABLE"))
    primary = seen[0].cards
    found, behind = _image_before_companions(found, behind, choice)
    pictures = [
        _with_companions(picture, found, behind, choice) for picture in _pictures(found, behind, primary, choice)
    ]
    pictures = [_held(picture, most_bytes, cut_header[0]) for picture in pictures]
    pictures.sort(key=lambda picture: picture.n_planes > 0)  # the image of a file is a picture, where it has one
    tables = tuple(table for table in tables if table.cards.get("ZIMAGE") is not True)
    return Contents(tuple(pictures), tables, cut_header, most_bytes)


def _image_before_companions(found: Hdu, behind: list[Hdu], choice: ImageChoice) -> tuple[Hdu, list[Hdu]]:
    """The image of a file, where a mask, a preview or the like stands before it, and all others."""
    if choice.extension is not None or found.name not in _COMPANIONS:
        return found, behind
    image = next((hdu for hdu in behind if hdu.is_image and hdu.name not in _COMPANIONS), None)
    return (found, behind) if image is None else (image, [found, *(hdu for hdu in behind if hdu is not image)])


def _held(picture: StoredFrame, file_bytes: int, cut_header: str) -> StoredFrame:
    """Frames of a file with how many of them are whole in it, errors and bad pixels included.

    Of a detector of several amplifiers or windows one may be missing where the file ends in a header.
    """
    planes = [tile.image.whole_planes(file_bytes) for tile in picture.tiles]
    for image in (picture.marks, picture.errors):
        if image is not None and (image.n_planes > 1 or not image.whole_planes(file_bytes)):
            planes.append(image.whole_planes(file_bytes))
    if cut_header and len(picture.tiles) > 1:
        planes = [0]
    return replace(picture, n_whole=min(planes))


def first_cards(source: Source) -> tuple[Cards, str]:
    """Read the first header of a file: values, and the text of its blocks."""
    return read_cards(source.stream, is_primary=True, most_blocks=MOST_HEADER_BLOCKS)


def _each_hdu(source: Source, first: tuple[Cards, str] | None) -> Iterator[Hdu]:
    """HDU after HDU; the header of the next one is read when it is asked for."""
    own, text = first or first_cards(source)
    number, position, n_blocks, largest = 0, 0, 0, 0
    while n_blocks < MOST_HEADER_BLOCKS:
        if number:
            most_blocks = MOST_HEADER_BLOCKS - n_blocks
            own, text = read_cards(source.stream, is_primary=False, most_blocks=most_blocks)
        if not own:
            return
        n_blocks += len(text) // BLOCK
        hdu = Hdu(number, own, images.image_axes(own), position + len(text), images.data_bytes(own))
        yield hdu
        number, position = number + 1, hdu.end
        if position >= source.most_bytes:
            return
        largest = max(largest, hdu.n_bytes if _can_be_frame(hdu) else 0)
        if source.is_gzip and position > MOST_BEFORE + TIMES_IMAGE * largest:
            raise FrameError(
                f"expected an image within the first {MOST_BEFORE >> 20} MiB of a gzip stream, but HDU {hdu.number} "
                f"ends after {position >> 20} MiB"
            )
        source.stream.seek(position)


def _can_be_frame(hdu: Hdu) -> bool:
    return hdu.is_image and math.prod(hdu.axes[-2:]) <= images.MOST_PIXELS


def _is_wanted(hdu: Hdu, extension: int | str | None) -> bool:
    if extension is None:
        return hdu.is_image
    return hdu.name == extension.strip().upper() if isinstance(extension, str) else hdu.number == extension


def _nothing_found(seen: Sequence[Hdu], extension: int | str | None) -> str:
    wanted = "a 2-D image" if extension is None else f"the image of HDU {extension!r}"
    listed = [f"HDU {hdu.number} holds {images.named(hdu.axes)}" for hdu in seen]
    more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
    return f"expected {wanted}, found: {', '.join(listed[:10])}{more}"


def _is_own_product(header: Cards) -> bool:
    """Whether an HDU is a table of a light curve as this program exports it (``exports``), by its own cards."""
    return (
        header.get("XTENSION") == "BINTABLE"
        and header.get("TIMECOL") in ("mjd_utc", "bmjd_tdb")
        and "LABEL" in header
        and "CAMERA" in header
    )


def _pictures(first: Hdu, behind: Sequence[Hdu], primary: Cards, choice: ImageChoice) -> Iterator[StoredFrame]:
    others = [hdu for hdu in behind if hdu.is_image and hdu.name not in _COMPANIONS]
    if choice.extension is not None or choice.images == "first":
        yield _single(first, primary, choice, is_only=True)
        return
    all_images = [first, *others]
    if not others and choice.images != "mosaic":  # an ordinary file
        yield _single(first, primary, choice, is_only=True)
        return
    groups = [] if choice.images == "frames" else tiles.groups(all_images, is_told=choice.images == "mosaic")
    in_groups = {hdu.number: group for group in groups for hdu in group}
    n_frames = len(groups) + len(all_images) - len(in_groups)
    for hdu in all_images:
        group = in_groups.get(hdu.number)
        if group is None:
            picture = _single(hdu, primary, choice, is_only=hdu is first)
        elif group[0] is hdu:
            picture = _assembled(group, primary, choice)
        else:
            continue
        yield replace(picture, extension=hdu.number if n_frames > 1 else 0)


def _single(hdu: Hdu, primary: Cards, choice: ImageChoice, *, is_only: bool) -> StoredFrame:
    """An image or cube that is a frame, or whose planes are frames."""
    image = images.describe(hdu)
    # a section in the primary header is that of the first image
    beside = primary if is_only else hdu.cards
    named, section, unused = images.data_section(hdu.cards, beside, image.shape)
    values = joined(hdu.cards, primary)
    bias = choice.amplifiers.overscan_of(values, image.shape, section)
    shape = image.shape if section is None else tiles.shape_of(section)
    dtype = image.dtype if bias is None else tiles.as_float(image.dtype)
    saturation = choice.amplifiers.saturation_of(values)
    header = FitsHeader(
        values,
        shape,
        dtype,
        hdu.number,
        named,
        saturation=saturation,
        has_overscan=bias is not None,
        unused_section=unused,
    )
    if image.n_planes > _MOST_PLANES:
        raise FrameError(f"expected at most {_MOST_PLANES} planes in HDU {hdu.number}, found {image.n_planes}")
    n_planes = image.n_planes if image.n_planes > 1 else 0
    tile = Tile(image, section, None, bias, saturation=saturation)
    return StoredFrame(0, header, hdu.cards, (tile,), n_planes)


def _assembled(group: Sequence[Hdu], primary: Cards, choice: ImageChoice) -> StoredFrame:
    """A detector that was read by several amplifiers, or in several windows."""
    # the world coordinates of one amplifier or window are not those of all
    own = Cards({key: value for key, value in group[0].cards.items() if key not in _OF_PIXELS})
    own.text, own.contradicted = group[0].cards.text, group[0].cards.contradicted
    values = joined(own, primary)
    parts, shape = tiles.placed(group, primary, choice.amplifiers)
    if math.prod(shape) > images.MOST_PIXELS:
        raise FrameError(
            f"expected at most {images.MOST_PIXELS} pixels, found {shape[0]} x {shape[1]} of all amplifiers"
        )
    if len({part.image.n_planes for part in parts}) > 1:
        raise FrameError("expected equal numbers of planes in all amplifiers or windows of a detector")
    dtype = tiles.pixel_type(parts, shape)
    header = FitsHeader(
        values,
        shape,
        dtype,
        group[0].number,
        saturation=tiles.saturation_of(parts, dtype),
        has_overscan=any(part.bias is not None for part in parts),
    )
    n_planes = parts[0].image.n_planes
    return StoredFrame(group[0].number, header, group[0].cards, parts, n_planes if n_planes > 1 else 0)


def _with_companions(picture: StoredFrame, first: Hdu, behind: Sequence[Hdu], choice: ImageChoice) -> StoredFrame:
    """A picture with the extensions, of its shape and EXTVER, that mark bad pixels and tell errors.

    Errors stand behind it, and before the ``first`` one of a file as well; masks wherever :func:`_marks_of` says.
    """
    if len(picture.tiles) > 1:
        return picture
    stored = picture.tiles[0].image
    version = stored.hdu.cards.get("EXTVER", 1)
    alike = [
        hdu
        for hdu in (first, *behind)
        if hdu.axes in (stored.shape, stored.hdu.axes) and hdu.cards.get("EXTVER", 1) == version
    ]
    own = [
        hdu
        for hdu in alike
        if hdu is not first and (hdu.number > stored.hdu.number or stored.hdu.number == first.number)
    ]
    if marks := _marks_of(stored.hdu, sorted(alike, key=lambda hdu: hdu.number)):
        name = str(marks.cards["EXTNAME"]).strip()
        header = picture.header._replace(dtype=tiles.as_float(picture.header.dtype), bad_pixels=name)
        picture = replace(picture, header=header, marks=images.describe(marks))
    errors = _errors_of(own) if choice.uses_errors else None
    if errors is not None:
        named = str(errors.cards.get("UTYPE", "")).strip().upper()
        power = _UTYPES.get(named, _ERRORS[errors.name])
        header = picture.header._replace(errors=str(errors.cards["EXTNAME"]).strip())
        picture = replace(picture, header=header, errors=images.describe(errors), error_power=power)
    return picture


def _marks_of(image: Hdu, alike: Sequence[Hdu]) -> Hdu | None:
    """The mask of one image of a file, among all HDUs of its shape in their order.

    As many masks as images belong to them in their order; fewer or more hold for the images before them, up to the mask
    before, or, in a file that begins with a mask, for the images behind them.
    """
    marks = [hdu for hdu in alike if hdu.name in _BAD_PIXELS]
    numbers = [hdu.number for hdu in alike if hdu.name not in _COMPANIONS]
    if not marks or not numbers:
        return None
    if len(marks) == len(numbers) and image.number in numbers:
        return marks[numbers.index(image.number)]
    if marks[0].number < numbers[0]:
        return next((hdu for hdu in reversed(marks) if hdu.number < image.number), None)
    return next((hdu for hdu in marks if hdu.number > image.number), None)


def _errors_of(behind: Sequence[Hdu]) -> Hdu | None:
    """The one extension with errors before the next image; of several, nobody knows whose each is."""
    found = []
    for hdu in behind:
        if hdu.name not in _COMPANIONS:
            break
        if hdu.name in _ERRORS:
            found.append(hdu)
    return found[0] if len(found) == 1 else None


def read(source: Source, picture: StoredFrame, plane: int) -> np.ndarray:
    """Pixels of a picture.

    Parameters
    ----------
    source : Source
        Open file.
    picture : StoredFrame
        The frame, as :func:`contents_of` returns it.
    plane : int
        Number of the plane in a cube, from 0.

    Returns
    -------
    ndarray, shape (ny, nx)
        Without overscan; NaN where pixels are bad or were not read. `ReadPixels`, where the file says more of them.

    Raises
    ------
    FrameError
        When bytes are missing or damaged.
    """
    marks = None
    if picture.marks is not None:
        marks = images.read_plane(source, picture.marks, plane if picture.marks.n_planes > 1 else 0) != 0
    pixels, taken = tiles.read(source, picture.tiles, picture.header, plane, marks)
    return ReadPixels.of(pixels, _variance(source, picture, plane), taken)


def _variance(source: Source, picture: StoredFrame, plane: int) -> np.ndarray | None:
    """Variance of the pixels by the file; NaN where it tells none. None without such an extension."""
    if picture.errors is None:
        return None
    stored = images.read_plane(source, picture.errors, plane if picture.errors.n_planes > 1 else 0).astype(float)
    lit = stored if picture.tiles[0].taken is None else stored[picture.tiles[0].taken]
    known = np.where(np.isfinite(lit) & (lit > 0), lit, np.nan)
    return known if picture.error_power == 2 else known ** (2.0 / picture.error_power)
