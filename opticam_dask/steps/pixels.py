"""Pixels of one frame for photometry: cut-outs on demand, or those kept around its brightest stars.

The star profile of a night needs the surroundings of bright stars only. They are kept when a frame is surveyed, so that
it is not read again for the profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.frames.fits.read_pixels import ReadPixels, level_as_read
from opticam_dask.kernels.images.counts import Replaced
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import profile, ring_sums
from opticam_dask.steps.background import Sky, sky_of
from opticam_dask.steps.calibrate import (
    Image,
    counts_of,
    electrons_of,
    is_counted,
    layers_of,
    load_image,
    variance_of,
)
from opticam_dask.steps.frame_steps import FrameSteps
from opticam_dask.steps.read import EXTREMES, read_stored

#: Detections whose surroundings are kept, the brightest: more than the profile needs, as some are saturated.
_N_KEPT = 50

#: Beyond the pixels that a star is measured in, this many sigma are kept, to part it from its neighbours.
_BEYOND = 12.0

#: Where what is kept is this part of the frame or more, the frame is.
_WHOLE = 0.5


def read_pixels(steps: FrameSteps, entry: Mapping[str, Any], *, whole_frames: bool = False) -> RawPixels | ImagePixels:
    """Read the pixels of a frame for photometry: calibrated on demand where that is exact, else as a whole frame.

    Parameters
    ----------
    steps : FrameSteps
        How the frames are read and calibrated.
    entry : mapping
        Row of the manifest of the frame.
    whole_frames : bool
        Calibrate whole frames even where cut-outs are enough (the numbers are the same bits).

    Raises
    ------
    FrameProblem
        When the frame cannot be used.
    """
    is_raw = not whole_frames and (steps.is_local or is_counted(steps, entry, read_stored(steps, entry)))
    return (RawPixels if is_raw else ImagePixels).read(steps, entry)


class RawPixels:
    """Cut-outs of a raw frame, calibrated one by one: enough when every step is local.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Pixels as read; a ``ReadPixels`` where the file holds errors or overscan levels of them.
    entry : mapping
        Row of the manifest of the frame.
    masters : dict of ndarray
        Master frames for this frame, by the names of the parameters of ``calibrate.to_electrons``.
    dark_gain : float or None
        Gain of the frames of the master dark, electrons per ADU.
    known : ndarray of bool, shape (ny, nx), optional
        Which pixels there are; by default all.
    hit : ndarray of bool, shape (ny, nx), optional
        Pixels that cosmic rays hit, where these were removed.
    replaced : Replaced, optional
        What stands in their place.
    """

    def __init__(
        self,
        raw: np.ndarray,
        entry: Mapping[str, Any],
        masters: Mapping[str, np.ndarray],
        dark_gain: float | None,
        known: np.ndarray | None = None,
        *,
        hit: np.ndarray | None = None,
        replaced: Replaced | None = None,
    ) -> None:
        self.raw, self.entry, self.known = np.asarray(raw), entry, known
        self.hit, self.replaced = hit, replaced
        self._levels = {
            "saturation": entry["saturation"],
            "linearity_limit": level_as_read(raw, entry["linearity_limit"]),
        }
        self._variance = variance_of(raw, entry, masters.get("flat"))
        self.masters, self.dark_gain = masters, dark_gain
        self._highest = (entry.get("memory") or {}).get(EXTREMES, (np.nan, np.inf))[1]

    @classmethod
    def read(cls, steps: FrameSteps, entry: Mapping[str, Any]) -> RawPixels:
        """Read a frame."""
        stored, masters = read_stored(steps, entry), steps.read_masters()
        layers, hit, replaced = layers_of(masters, np.asarray(stored), entry), None, None
        if steps.remove_cosmic_rays:
            counts, hit = counts_of(steps, entry, stored)
            replaced = counts.replaced
        return cls(stored, entry, layers, masters.dark_gain, hit=hit, replaced=replaced)

    def electrons(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """Electrons with the sky in them."""
        masters = {name: photometry.cut_out(values, x0, y0, size) for name, values in self.masters.items()}
        if "bad_pixels" in masters:
            masters["bad_pixels"] = masters["bad_pixels"] == 1
        windows = photometry.cut_out(self.raw, x0, y0, size)
        electrons = self._of_counts(windows) if self._is_counted else self._calibrated(windows, masters)
        hit = self.cosmic_rays(x0, y0, size)
        if self.replaced is not None and hit is not None and hit.any():
            window, row, column = np.nonzero(hit)
            values = electrons[hit]
            self.replaced.put(values, (y0[window] + row) * self.raw.shape[1] + x0[window] + column)
            electrons[hit] = values
        if self.known is not None:
            electrons[photometry.cut_out(self.known, x0, y0, size) != 1] = np.nan
        return electrons

    def variance(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray | None:
        """Variance of pixels by their file, electrons squared; None where it tells none."""
        return None if self._variance is None else photometry.cut_out(self._variance, x0, y0, size)

    def saturated(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """Whether pixels are saturated."""
        return self._above("saturation", x0, y0, size)

    def non_linear(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """Whether pixels are above the linear range of the detector."""
        return self._above("linearity_limit", x0, y0, size)

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Electrons, and which are saturated, at places of the flattened frame."""
        raw = np.take(self.raw, places)
        masters = {name: np.take(values, places) for name, values in self.masters.items()}
        if "bad_pixels" in masters:
            masters["bad_pixels"] = masters["bad_pixels"] == 1
        with np.errstate(invalid="ignore"):
            electrons, is_saturated = self._calibrated(raw, masters), raw >= self.entry["saturation"]
        if self.replaced is not None:
            self.replaced.put(electrons, places)
        if self.known is not None:
            electrons[~np.take(self.known, places)] = np.nan
        return electrons, is_saturated

    @property
    def _is_counted(self) -> bool:
        """Whether electrons are the 16-bit counts times a factor plus an offset; such counts have no missing values."""
        return not self.masters and self.raw.dtype == np.uint16

    def _of_counts(self, windows: np.ndarray) -> np.ndarray:
        """Electrons from windows of counts, in place: the same as by ``calibrate.to_electrons``."""
        windows *= float(self.entry["gain"])
        if dark := float(self.entry["dark_current"] * self.entry["exposure_time"]):
            windows -= dark
        return windows

    def _calibrated(self, raw: np.ndarray, masters: dict[str, np.ndarray]) -> np.ndarray:
        return electrons_of(raw, self.entry, masters, self.dark_gain)

    def _above(self, name: str, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        level = self._levels[name]
        if not self._highest >= np.fmin.reduce(level, axis=None):
            return np.zeros((len(x0), size, size), dtype=bool)
        levels = photometry.cut_out(level, x0, y0, size) if isinstance(level, np.ndarray) else level
        with np.errstate(invalid="ignore"):
            above: np.ndarray = photometry.cut_out(self.raw, x0, y0, size) >= levels
        return above

    def cosmic_rays(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray | None:
        """Whether a cosmic ray hit pixels; None where cosmic rays were not searched for."""
        return None if self.hit is None else _mask_cutouts(self.hit, x0, y0, size)


class ImagePixels:
    """Cut-outs of a frame that was calibrated as a whole.

    Parameters
    ----------
    image : Image
        The calibrated frame.
    sky : Sky, optional
        By a user's own function, which needs the whole frame.
    """

    def __init__(self, image: Image, sky: Sky | None = None) -> None:
        self.image, self.sky = image, sky

    @classmethod
    def read(cls, steps: FrameSteps, entry: Mapping[str, Any]) -> ImagePixels:
        """Read and calibrate a frame."""
        image = load_image(steps, entry)
        return cls(image, None if steps.has_mesh else sky_of(steps, entry, image))

    def electrons(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """Electrons with the sky in them."""
        return photometry.cut_out(self.image.electrons, x0, y0, size)

    def variance(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray | None:
        """Variance of pixels by their file, electrons squared; None where it tells none."""
        return None if self.image.variance is None else photometry.cut_out(self.image.variance, x0, y0, size)

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Electrons, and which are saturated, at places of the flattened frame."""
        saturated = self.image.saturated
        is_saturated = np.zeros(len(places), dtype=bool) if saturated is None else np.take(saturated, places)
        return np.take(self.image.electrons, places), is_saturated

    def saturated(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """Whether pixels are saturated."""
        return _mask_cutouts(self.image.saturated, x0, y0, size)

    def non_linear(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """Whether pixels are above the linear range of the detector."""
        return _mask_cutouts(self.image.non_linear, x0, y0, size)

    def cosmic_rays(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray | None:
        """Whether a cosmic ray hit pixels; None where cosmic rays were not searched for."""
        return None if self.image.cosmic_rays is None else _mask_cutouts(self.image.cosmic_rays, x0, y0, size)


@dataclass(frozen=True, eq=False)
class KeptPixels:
    """Pixels of a frame around its brightest stars.

    Attributes
    ----------
    boxes : ndarray of int, shape (n, 4)
        First and one past the last row, first and one past the last column.
    layers : dict of ndarray
        Pixels box after box, by what they are: ``raw``, or what a calibrated frame consists of. Beside ``raw`` also
        places in the frame and electrons of pixels that cosmic rays hit (``hit_places``, ``hit_electrons``).
    """

    boxes: np.ndarray
    layers: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> KeptPixels:
        """Kept pixels from their arrays."""
        return cls(arrays["boxes"], {name: values for name, values in arrays.items() if name != "boxes"})

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, to be kept."""
        return {"boxes": self.boxes, **self.layers}

    def pixels(self, steps: FrameSteps, entry: Mapping[str, Any]) -> RawPixels | ImagePixels:
        """The frame as far as it is known; electrons of other pixels are NaN."""
        shape = steps.image_shape
        if "raw" in self.layers:
            is_whole = len(self.boxes) == 1 and self.boxes[0].tolist() == [0, shape[0], 0, shape[1]]
            known = None if is_whole else self._filled(np.zeros(shape, dtype=bool), True)
            raw, hit, replaced = self._restored("raw", shape, 0), None, None
            if "cosmic_rays" in self.layers:
                hit = self._restored("cosmic_rays", shape, False)
                replaced = Replaced(self.layers["hit_places"], self.layers["hit_electrons"])
            return RawPixels(raw, entry, {}, None, known, hit=hit, replaced=replaced)
        saturated, cosmic_rays, non_linear = (
            self._restored(name, shape, False) if name in self.layers else None for name in _MASKS
        )
        variance = self._restored("variance", shape, np.nan) if "variance" in self.layers else None
        electrons = self._restored("electrons", shape, np.nan)
        image = Image(electrons, saturated, cosmic_rays, non_linear, variance=variance)
        if steps.has_mesh:
            return ImagePixels(image)
        level, rms = (self._restored(name, shape, np.nan) for name in ("sky", "sky_rms"))
        return ImagePixels(image, Sky(level, rms, median=np.nan, rms_median=np.nan))

    def _restored(self, name: str, shape: tuple[int, int], unknown: Any) -> np.ndarray:
        values = self.layers[name]
        frame = np.zeros(shape, dtype=values.dtype) if not unknown else np.full(shape, unknown, dtype=values.dtype)
        return self._filled(frame, values)

    def _filled(self, frame: np.ndarray, values: Any) -> np.ndarray:
        start = 0
        for top, bottom, left, right in self.boxes.tolist():
            size = (bottom - top, right - left)
            stop = start + size[0] * size[1]
            frame[top:bottom, left:right] = values if np.ndim(values) == 0 else values[start:stop].reshape(size)
            start = stop
        return frame


#: What may be wrong with the pixels of a calibrated frame, by the names of ``Image``, in its order.
_MASKS = ("saturated", "cosmic_rays", "non_linear")


def keep_pixels(
    steps: FrameSteps, entry: Mapping[str, Any], result: Mapping[str, Any], stars: profile.Shape
) -> KeptPixels:
    """Pixels of a frame around its brightest detections; the whole frame where these cover most of it.

    Parameters
    ----------
    steps : FrameSteps
        How the frames are read and calibrated.
    entry : mapping
        Row of the manifest of the frame.
    result : mapping
        What was found out about the frame; detections are in the order of their fluxes.
    stars : Shape
        Size and form of its stars.

    Raises
    ------
    FrameProblem
        When the frame cannot be read.
    """
    boxes = _boxes(result, stars, steps.image_shape)
    stored = read_stored(steps, entry)
    if is_counted(steps, entry, stored):
        counts, hit = counts_of(steps, entry, stored)
        kept = {"raw": _cut(stored, boxes)}
        if counts.replaced is not None and hit is not None:
            replaced = {"hit_places": counts.replaced.places, "hit_electrons": counts.replaced.electrons}
            kept |= {"cosmic_rays": _cut(hit, boxes)} | replaced
        return KeptPixels(boxes, kept)
    if steps.is_local and steps.masters is None and not isinstance(stored, ReadPixels):
        return KeptPixels(boxes, {"raw": _cut(stored, boxes)})
    pixels = ImagePixels.read(steps, entry)
    layers = {"electrons": pixels.image.electrons} | {
        name: getattr(pixels.image, name) for name in (*_MASKS, "variance")
    }
    if pixels.sky is not None:
        layers |= {"sky": pixels.sky.image, "sky_rms": pixels.sky.rms_image}
    return KeptPixels(boxes, {name: _cut(values, boxes) for name, values in layers.items() if values is not None})


def _boxes(result: Mapping[str, Any], stars: profile.Shape, shape: tuple[int, int]) -> np.ndarray:
    """Boxes around the brightest detections, cut at the edges of the frame."""
    if not stars.is_known():
        return np.zeros((0, 4), dtype=np.int64)
    half = int(np.ceil((ring_sums.SKY_REACH + _BEYOND) * stars.semimajor_sigma)) + 2
    xy = np.column_stack([result["x"], result["y"]])
    xy = xy[np.isfinite(xy).all(axis=1)][:_N_KEPT]
    x0, y0 = photometry.origins(xy, 2 * half + 1)
    edges = np.column_stack([y0, y0 + 2 * half + 1, x0, x0 + 2 * half + 1])
    boxes: np.ndarray = np.clip(edges, 0, np.repeat(shape, 2))
    sizes = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    if sizes.sum() >= _WHOLE * shape[0] * shape[1]:
        return np.array([[0, shape[0], 0, shape[1]]])
    return boxes


def _cut(values: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    pieces = [values[top:bottom, left:right].ravel() for top, bottom, left, right in boxes.tolist()]
    return np.concatenate(pieces) if pieces else values[:0, 0]


def _mask_cutouts(mask: np.ndarray | None, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    if mask is None:
        return np.zeros((len(x0), size, size), dtype=bool)
    return photometry.cut_out(mask, x0, y0, size) > 0
