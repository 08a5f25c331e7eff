"""Amplifiers and windows of one detector, put together to one image; the overscan of each is taken off."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.frames.fits import images
from opticam_dask.frames.fits.cards import Cards, joined
from opticam_dask.frames.fits.errors import FrameError
from opticam_dask.frames.fits.images import FitsHeader, Hdu, Section, StoredImage
from opticam_dask.frames.fits.read_pixels import Taken
from opticam_dask.frames.fits.streams import Source
from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.gains import detector_gain, is_in_electrons, level_of
from opticam_dask.frames.headers.values import HeaderValues, Keyword, as_number
from opticam_dask.kernels.images.overscan import overscan_level

_ENDS = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")


class Placed(NamedTuple):
    """Position of an image on the frame: rows and columns, and whether they run the other way."""

    section: Section
    is_flipped: tuple[bool, bool]


class Tile(NamedTuple):
    """One stored image as part of a frame.

    Attributes
    ----------
    image : StoredImage
        As it is stored.
    taken : Section or None
        Its pixels that see light; None for all.
    placed : Placed or None
        Where they go; None for a frame of this image alone.
    bias : Section or None
        Its overscan; None where that is not taken off.
    factor : float
        Gain relative to that of the frame.
    saturation : float or None
        Level from which pixels of this image are saturated, as they are stored; None where it is not known.
    """

    image: StoredImage
    taken: Section | None
    placed: Placed | None
    bias: Section | None = None
    factor: float = 1.0
    saturation: float | None = None


@dataclass(frozen=True)
class Amplifiers:
    """Amplifiers of a detector, and how their pixels are put together to a frame.

    Attributes
    ----------
    takes_overscan_off : bool
        Whether the level of the overscan (BIASSEC) is subtracted.
    gain_keyword, saturation_keyword : str or tuple of str
        Keywords of the gain of an amplifier, and of its saturation in ADU.
    default_gain, default_saturation : float, optional
        Where the header has none: electrons per ADU, and ADU.
    """

    takes_overscan_off: bool = True
    gain_keyword: Keyword = keywords.GAIN
    saturation_keyword: Keyword = keywords.SATURATION
    default_gain: float | None = None
    default_saturation: float | None = None

    def overscan_of(self, values: Mapping[str, Any], shape: tuple[int, int], taken: Section | None) -> Section | None:
        """Overscan of an image: BIASSEC, where it is a part of the image that the section of the pixels leaves out."""
        if not self.takes_overscan_off or taken is None:
            return None
        bias = images.section_of(values, "BIASSEC", shape)
        return None if bias is None or _overlap(bias, taken) else bias

    def gain_of(self, values: Mapping[str, Any]) -> float:
        """Gain of one amplifier by its own header; NaN where that has none."""
        return self._number(self.gain_keyword, values)

    def saturation_of(self, values: Cards) -> float | None:
        """Saturation by a header, in the unit of its pixels; None where it is not known."""
        header = HeaderValues(values)
        gain = detector_gain(self, header)
        found = level_of(self, self.saturation_keyword, self.default_saturation, gain, header)
        return None if math.isnan(found) else found

    @staticmethod
    def _number(names: Keyword, values: Mapping[str, Any]) -> float:
        for name in (names,) if isinstance(names, str) else names:
            if (number := as_number(values.get(name))) > 0.0:
                return number
        return math.nan


def shape_of(section: Section) -> tuple[int, int]:
    """``(ny, nx)`` of a section."""
    return section[0].stop - section[0].start, section[1].stop - section[1].start


def as_float(dtype: np.dtype) -> np.dtype:
    """Type of float that holds the values of a type of pixels, and NaN."""
    return dtype if dtype.kind == "f" else np.dtype("f4" if dtype.itemsize <= 2 else "f8")


def _overlap(one: Section, other: Section) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------- what belongs together


def groups(hdus: Sequence[Hdu], *, is_told: bool) -> list[list[Hdu]]:
    """Images that are amplifiers or windows of one detector, by their headers.

    Windows as HiPERCAM, ULTRACAM and ULTRASPEC write them have LLX and LLY, and those of one CCD its label. Amplifiers
    have a DETSEC that no other of the same CCDNAME overlaps.

    Parameters
    ----------
    hdus : sequence of Hdu
        Images of a file.
    is_told : bool
        Images with a place on a detector are put together even if there is only one of that detector.
    """
    windows, amplifiers = dict[str, list[Hdu]](), dict[str, list[Hdu]]()
    for hdu in hdus:
        if _is_window(hdu.cards):
            windows.setdefault(str(hdu.cards.get("CCD", "")), []).append(hdu)
        elif _ends(hdu.cards) is not None:
            amplifiers.setdefault(str(hdu.cards.get("CCDNAME", "")), []).append(hdu)
    whole = list(windows.values())
    for group in amplifiers.values():
        boxes = [_box(_ends(hdu.cards) or (1, 1, 1, 1)) for hdu in group]
        is_apart = not any(_overlap(a, b) for index, a in enumerate(boxes) for b in boxes[:index])
        if is_apart and len(group) > 1:
            whole.append(group)
    if is_told and not whole and len(hdus) > 1:
        raise FrameError("expected DETSEC, or LLX and LLY, in the headers of several images: they are no mosaic")
    return whole


def _is_window(cards: Cards) -> bool:
    return all(isinstance(cards.get(name), int) for name in ("LLX", "LLY", "XBIN", "YBIN"))


def _ends(cards: Cards) -> tuple[int, int, int, int] | None:
    """First and last pixel of DETSEC as written; the first is larger where an axis is read backwards."""
    text = cards.get("DETSEC")
    found = _ENDS.search(text) if isinstance(text, str) else None
    if found is None:
        return None
    x1, x2, y1, y2 = map(int, found.groups())
    return (x1, x2, y1, y2) if min(x1, x2, y1, y2) >= 1 else None


def _box(ends: tuple[int, int, int, int]) -> Section:
    x1, x2, y1, y2 = ends
    return slice(min(y1, y2) - 1, max(y1, y2)), slice(min(x1, x2) - 1, max(x1, x2))


# ---------------------------------------------------------------- where each goes


def placed(group: Sequence[Hdu], primary: Cards, amplifiers: Amplifiers) -> tuple[tuple[Tile, ...], tuple[int, int]]:
    """Positions of the images of a detector on it, and the shape ``(ny, nx)`` of the whole.

    Raises
    ------
    FrameError
        When their places and sizes contradict each other.
    """
    if _is_window(group[0].cards):
        return _windows(group)
    return _amplified(group, primary, amplifiers)


def _windows(group: Sequence[Hdu]) -> tuple[tuple[Tile, ...], tuple[int, int]]:
    """Windows at their places on the whole detector, in binned pixels."""
    size = [_whole(group, name) for name in ("NYTOT", "NXTOT")]
    binning = [_whole(group, name) for name in ("YBIN", "XBIN")]
    shape = (size[0] // binning[0], size[1] // binning[1])
    found = []
    for hdu in group:
        image = images.describe(hdu)
        corner = [(hdu.cards[name] - 1) // step for name, step in zip(("LLY", "LLX"), binning, strict=True)]
        section = (slice(corner[0], corner[0] + image.shape[0]), slice(corner[1], corner[1] + image.shape[1]))
        _require_inside(section, shape, hdu)
        found.append(Tile(image, None, Placed(section, (False, False))))
    return tuple(found), shape


def _whole(group: Sequence[Hdu], name: str) -> int:
    """Number that all windows of a detector have in common, or the first of them has."""
    values = {hdu.cards[name] for hdu in group if name in hdu.cards}
    if len(values) != 1 or not isinstance(value := values.pop(), int) or value < 1:
        raise FrameError(f"expected one {name} for all windows of a CCD, found {sorted(map(str, values)) or 'none'}")
    return value


def _amplified(
    group: Sequence[Hdu], primary: Cards, amplifiers: Amplifiers
) -> tuple[tuple[Tile, ...], tuple[int, int]]:
    ends = [_ends(hdu.cards) or (1, 1, 1, 1) for hdu in group]
    boxes = [_box(one) for one in ends]
    origin = [min(box[axis].start for box in boxes) for axis in (0, 1)]
    far = [max(box[axis].stop for box in boxes) for axis in (0, 1)]
    gains = [amplifiers.gain_of(hdu.cards) for hdu in group]
    headers = [joined(hdu.cards, primary) for hdu in group]
    has_gains = all(gain > 0.0 for gain in gains) and not is_in_electrons(HeaderValues(headers[0]))
    found, steps = list[Tile](), set[tuple[int, int]]()
    for hdu, values, box, (x1, x2, y1, y2), gain in zip(group, headers, boxes, ends, gains, strict=True):
        image = images.describe(hdu)
        taken, step = _lit(hdu, image, shape_of(box))
        steps.add(step)
        corner = [(box[axis].start - origin[axis]) // step[axis] for axis in (0, 1)]
        size = image.shape if taken is None else shape_of(taken)
        section = (slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1]))
        bias = amplifiers.overscan_of(values, image.shape, taken)
        factor = gain / gains[0] if has_gains else 1.0
        place = Placed(section, (y1 > y2, x1 > x2))
        found.append(Tile(image, taken, place, bias, factor, amplifiers.saturation_of(values)))
    if len(steps) != 1:
        raise FrameError(f"expected the same binning of all amplifiers, found DETSEC and sizes for {sorted(steps)}")
    (step,) = steps
    return tuple(found), ((far[0] - origin[0]) // step[0], (far[1] - origin[1]) // step[1])


def _lit(hdu: Hdu, image: StoredImage, on_detector: tuple[int, int]) -> tuple[Section | None, tuple[int, int]]:
    """Pixels of an amplifier that see light, and its binning: the section that has the shape of its DETSEC."""
    sections = [images.section_of(hdu.cards, name, image.shape) for name in ("DATASEC", "TRIMSEC")]
    for section in [*sections, None]:
        size = image.shape if section is None else shape_of(section)
        step = (on_detector[0] // size[0], on_detector[1] // size[1])
        if min(step) >= 1 and (size[0] * step[0], size[1] * step[1]) == on_detector:
            return (None if section is None or size == image.shape else section), step
    raise FrameError(
        f"HDU {hdu.number}: expected a DATASEC of the size of its DETSEC ({on_detector[1]} x {on_detector[0]} pixels), "
        f"or a whole part of it"
    )


def _require_inside(section: Section, shape: tuple[int, int], hdu: Hdu) -> None:
    if any(side.start < 0 or side.stop > length for side, length in zip(section, shape, strict=True)):
        raise FrameError(
            f"HDU {hdu.number}: expected a window within {shape[1]} x {shape[0]} pixels, found columns "
            f"{section[1].start + 1} to {section[1].stop}, rows {section[0].start + 1} to {section[0].stop}"
        )


def pixel_type(parts: Sequence[Tile], shape: tuple[int, int]) -> np.dtype:
    """Type of the pixels of a frame of several images: float where some were not read, or are scaled."""
    common = np.result_type(*(part.image.dtype for part in parts))
    sizes = [part.image.shape if part.taken is None else shape_of(part.taken) for part in parts]
    is_full = sum(map(math.prod, sizes)) == math.prod(shape)
    is_changed = any(part.bias is not None or part.factor != 1.0 for part in parts)
    return common if is_full and not is_changed else as_float(common)


def saturation_of(parts: Sequence[Tile], dtype: np.dtype) -> float | None:
    """Level from which pixels of a frame of several images are saturated: the highest that any of them reaches.

    No pixel below the saturation of its own amplifier comes up to it.
    """
    levels = [part.saturation * part.factor for part in parts if part.saturation is not None]
    if not levels:
        return None
    if dtype.kind == "f":
        return float(dtype.type(max(levels)))
    return float(min(math.ceil(max(levels)), np.iinfo(dtype).max))


# ---------------------------------------------------------------- reading


def read(
    source: Source, parts: Sequence[Tile], header: FitsHeader, plane: int, marks: np.ndarray | None
) -> tuple[np.ndarray, tuple[Taken, ...]]:
    """Pixels of a frame from the images that it is made of, without their overscan, and what was taken off.

    A pixel that is saturated stays so: it has at least the level of saturation of the frame, whatever is taken off and
    at whichever level its amplifier saturates.
    """
    if len(parts) == 1 and parts[0].placed is None:
        pixels = images.read_plane(source, parts[0].image, plane)
        lit, level = _lit_pixels(parts[0], pixels, header, marks)
        return lit, (Taken(None, level, parts[0].factor),)
    taken = []
    frame = np.empty(header.shape, dtype=header.dtype)
    if header.dtype.kind == "f":
        frame.fill(np.nan)
    for part in parts:
        assert part.placed is not None  # of several, each has its place
        pixels = images.read_plane(source, part.image, plane)
        lit, level = _lit_pixels(part, pixels, header, None)
        (flip_y, flip_x), (rows, columns) = part.placed.is_flipped, part.placed.section
        frame[rows, columns] = lit[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        taken.append(Taken(part.placed.section, level, part.factor))
    return frame, tuple(taken)


def _lit_pixels(
    part: Tile, pixels: np.ndarray, header: FitsHeader, marks: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Pixels of one image that see light, and the level of its overscan."""
    dtype, level = header.dtype, 0.0
    whole = pixels if part.taken is None else pixels[part.taken]
    lit = whole.astype(dtype, copy=False)
    is_changed = part.bias is not None or part.factor != 1.0
    if is_changed:
        level = level if part.bias is None else overscan_level(pixels[part.bias])
        lit = ((whole.astype(float) - level) * part.factor).astype(dtype)
    own, of_frame = part.saturation, header.saturation
    if own is not None and of_frame is not None and (is_changed or own < of_frame):
        is_saturated = whole >= own
        lit = lit.copy() if lit is whole else lit
        lit[is_saturated] = np.maximum(lit[is_saturated], dtype.type(of_frame))
    if marks is not None:
        lit = lit.copy() if lit is pixels else lit
        lit[marks if part.taken is None else marks[part.taken]] = np.nan
    return np.ascontiguousarray(lit), level
