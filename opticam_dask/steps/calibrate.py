"""Calibration of one frame: from the counts of the camera to electrons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.flags import FrameFlag
from opticam_dask.frames.fits.read_pixels import ReadPixels, level_as_read
from opticam_dask.kernels.images import calibrate
from opticam_dask.kernels.images.counts import Counts, extremes
from opticam_dask.kernels.images.masters import Masters
from opticam_dask.kernels.images.matching import star_choice
from opticam_dask.steps.frame_steps import FrameProblem, FrameSteps, error_text, remembered
from opticam_dask.steps.read import EXTREMES, above, read_stored


class Levels(NamedTuple):
    """Level at which the raw pixels of a frame pile up, and what the highest reach, ADU; NaN where not looked for."""

    pile_up: float = float("nan")
    highest: float = float("nan")


@dataclass(frozen=True)
class Image:
    """A calibrated frame: electrons with the sky in them, and flags of its pixels.

    ``variance`` is that of each pixel by the file (electrons squared, NaN where that tells none); None without.
    """

    electrons: np.ndarray
    saturated: np.ndarray | None
    cosmic_rays: np.ndarray | None
    non_linear: np.ndarray | None
    levels: Levels = field(default_factory=Levels)
    variance: np.ndarray | None = None


@dataclass(frozen=True)
class DetectionImage:
    """A calibrated frame for the detection of sources, in single precision where that holds every digit of its pixels.

    ``pixels`` are electrons with the sky in them, or 16-bit counts that are electrons but for a factor and an offset;
    the rest is as in :class:`Image`.
    """

    pixels: np.ndarray | Counts
    saturated: np.ndarray | None
    levels: Levels
    variance: np.ndarray | None


def load_image(steps: FrameSteps, entry: Mapping[str, Any]) -> Image:
    """Read and calibrate one frame, in double precision.

    The order is: image filter, bias, dark, gain, flat, fringes, bad pixels, cosmic rays, rebinning.

    Parameters
    ----------
    steps : FrameSteps
        How the frames are read, calibrated and searched for sources.
    entry : mapping
        Row of the manifest of the frame.

    Raises
    ------
    FrameProblem
        When the frame cannot be read, holds nothing, or is saturated.
    """
    image: Image = remembered(entry, "image", lambda: _calibrated(steps, entry, is_single=False))
    return image


def load_for_detection(steps: FrameSteps, entry: Mapping[str, Any]) -> DetectionImage:
    """As :func:`load_image`, as precise as sky and sources need it."""
    entry = entry if "memory" in entry else {**entry, "memory": {}}  # it is read once
    stored = read_stored(steps, entry)
    if is_counted(steps, entry, stored):
        counts = counts_of(steps, entry, stored)[0]
        return DetectionImage(counts, *_saturated(steps, entry, stored), None)
    if not steps.remove_cosmic_rays:
        image = _calibrated(steps, entry, is_single=True)
        return DetectionImage(image.electrons, image.saturated, image.levels, image.variance)
    # cosmic rays are looked for once, as that takes longer than everything else
    image = load_image(steps, entry)
    is_single = steps.image_filter is None and _fits_float32(np.asarray(stored).dtype)
    electrons = image.electrons.astype(np.float32) if is_single else image.electrons
    return DetectionImage(electrons, image.saturated, image.levels, image.variance)


def is_counted(steps: FrameSteps, entry: Mapping[str, Any], stored: np.ndarray) -> bool:
    """Whether the pixels of a frame become electrons by a factor and an offset, but for those that cosmic rays hit."""
    is_whole = type(stored) is np.ndarray and stored.dtype == np.uint16 and stored.flags.c_contiguous
    return is_whole and steps.is_plain and steps.masters is None and 0.0 < entry["gain"] < np.inf


def counts_of(steps: FrameSteps, entry: Mapping[str, Any], stored: np.ndarray) -> tuple[Counts, np.ndarray | None]:
    """Frame of counts, without cosmic rays where these are removed, and the mask of them; None where they are not."""
    counts = Counts(stored, float(entry["gain"]), float(entry["dark_current"] * entry["exposure_time"]))
    if not steps.remove_cosmic_rays:
        return counts, None
    # half a count lower, so that rounding leaves no saturated pixel below it
    level = (float(entry["saturation"]) - 0.5) * counts.gain - counts.offset
    settings = {"read_noise": entry["read_noise"], "saturation": np.inf if np.isnan(level) else level}
    found: tuple[Counts, np.ndarray] = remembered(
        entry, "cosmic_rays", lambda: calibrate.remove_cosmic_rays(counts, **settings)
    )
    return found


def _saturated(steps: FrameSteps, entry: Mapping[str, Any], raw: np.ndarray) -> tuple[np.ndarray | None, Levels]:
    """Saturated pixels of a frame, None without any, and levels of its pixels."""
    levels = Levels(star_choice.pile_up(raw), star_choice.highest(raw)) if steps.looks_for_pile_up else Levels()
    highest = remembered(entry, EXTREMES, lambda: extremes(raw))[1]
    return above(raw, np.fmin(entry["saturation"], levels.pile_up), highest), levels


def _calibrated(steps: FrameSteps, entry: Mapping[str, Any], *, is_single: bool) -> Image:
    stored = read_stored(steps, entry)
    raw = np.asarray(stored)
    saturated, levels = _saturated(steps, entry, raw)
    non_linear = above(raw, level_as_read(stored, entry["linearity_limit"]))
    if steps.image_filter is not None:
        raw = _filtered(steps.image_filter, raw)
    masters = steps.read_masters()
    dtype = np.float32 if is_single and _fits_float32(raw.dtype) else np.float64
    electrons = electrons_of(raw, entry, layers_of(masters, raw, entry), masters.dark_gain, dtype)
    variance = variance_of(stored, entry, masters.flat)
    cosmic_rays = None
    if is_counted(steps, entry, stored):
        counts, cosmic_rays = counts_of(steps, entry, stored)
        if counts.replaced is not None:
            electrons.ravel()[counts.replaced.places] = counts.replaced.electrons
    elif steps.remove_cosmic_rays:
        # what was subtracted, and the flat, move saturated pixels from the level of saturation
        is_known = saturated is not None and np.isfinite(electrons[saturated]).any()
        level = float(np.nanmin(electrons[saturated])) if is_known else np.inf
        electrons, cosmic_rays = calibrate.remove_cosmic_rays(
            electrons, read_noise=entry["read_noise"], saturation=level
        )
    if steps.rebin_factor == 1:
        return Image(electrons, saturated, cosmic_rays, non_linear, levels, variance)
    saturated, cosmic_rays, non_linear = (
        None if mask is None else calibrate.rebin_mask(mask, steps.rebin_factor)
        for mask in (saturated, cosmic_rays, non_linear)
    )
    variance = None if variance is None else calibrate.rebin(variance, steps.rebin_factor)
    electrons = calibrate.rebin(electrons, steps.rebin_factor)
    return Image(electrons, saturated, cosmic_rays, non_linear, levels, variance)


def variance_of(stored: np.ndarray, entry: Mapping[str, Any], flat: np.ndarray | None) -> np.ndarray | None:
    """Variance of pixels by their file in electrons squared, NaN where it tells none; None where it tells nothing."""
    if not isinstance(stored, ReadPixels) or stored.variance is None:
        return None
    variance: np.ndarray = stored.variance * float(entry["gain"]) ** 2
    return variance if flat is None else variance / np.where(flat > 0, flat, np.nan) ** 2


def layers_of(masters: Masters, raw: np.ndarray, entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Masters for one frame: a pixel may be too hot for a long exposure of a dark sky, and good in others."""
    names = ("gain", "exposure_time", "read_noise")
    layers = masters.layers_of(raw, **{name: float(entry[name]) for name in names})
    if masters.fringe is not None:
        fringe, sampled = masters.fringe, {name: values[masters.fringe.rows] for name, values in layers.items()}
        scale = remembered(
            entry,
            "fringe_scale",
            lambda: fringe.scale(electrons_of(raw[fringe.rows], entry, sampled, masters.dark_gain)),
        )
        layers["fringe"] = scale * fringe.waves
    return layers


def fringes_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """Scale of the fringes subtracted from a frame, by its name in the store; empty where it is not remembered."""
    memory: Mapping[str, Any] = entry.get("memory") or {}
    return {name: float(memory[name]) for name in ("fringe_scale",) if name in memory}


def electrons_of(
    raw: np.ndarray,
    entry: Mapping[str, Any],
    layers: Mapping[str, np.ndarray],
    dark_gain: float | None,
    dtype: type[np.floating] = np.float64,
) -> np.ndarray:
    """Electrons of some pixels of a frame, with its masters there."""
    return calibrate.to_electrons(
        raw,
        gain=entry["gain"],
        dark_current=entry["dark_current"],
        exposure_time=entry["exposure_time"],
        dark_gain=dark_gain,
        dtype=dtype,
        **layers,
    )


def rebinned_response(steps: FrameSteps) -> tuple[np.ndarray, np.ndarray]:
    """Master flat in the pixels of the calibrated frame, and its error.

    The response of a rebinned pixel is the mean of its good pixels; NaN where none is good.
    """
    masters = steps.read_masters()
    assert masters.flat is not None  # asked for where there is one
    assert masters.flat_variance is not None
    response, variance = masters.flat.astype(float), masters.flat_variance.astype(float)
    if masters.bad_pixels is not None:
        response[masters.bad_pixels] = np.nan
    if steps.rebin_factor > 1:
        response, variance = calibrate.rebin_response(response, variance, steps.rebin_factor)
    return response, np.sqrt(variance)


def _fits_float32(dtype: np.dtype) -> bool:
    """Whether float32 holds every pixel of a type exactly."""
    return np.can_cast(dtype, np.float32)


def _filtered(image_filter: Callable[[np.ndarray], np.ndarray], raw: np.ndarray) -> np.ndarray:
    try:
        filtered = np.asarray(image_filter(raw))
    except Exception as error:
        raise FrameProblem(FrameFlag.STEP_FAILED, f"image filter: {error_text(error)}") from error
    if filtered.shape != raw.shape:
        raise FrameProblem(
            FrameFlag.STEP_FAILED, f"image filter: shape {filtered.shape} came back, {raw.shape} was expected"
        )
    return filtered
