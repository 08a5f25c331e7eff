"""Detection of the sources of one frame, and its seeing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opticam_dask.flags import FrameFlag
from opticam_dask.kernels.images import detect, segments
from opticam_dask.kernels.images.matching import star_choice
from opticam_dask.kernels.images.sky import background, subtraction
from opticam_dask.kernels.robust import median
from opticam_dask.kernels.sources import moments, photometry
from opticam_dask.kernels.sources.profiles import field_form
from opticam_dask.methods.finders import DefaultFinder
from opticam_dask.steps.background import subtract_sky
from opticam_dask.steps.frame_steps import FrameProblem, FrameResult, FrameSteps, error_text, no_deprecation_warnings

#: The seeing of a frame is measured on this many of its sources, the brightest without neighbours first.
_SEEING_SOURCES = 30


def detect_frame(steps: FrameSteps, entry: Mapping[str, Any], result: FrameResult, *, with_seeing: bool = True) -> None:
    """Load, subtract the sky and detect; fill ``result`` as far as it goes, without the seeing where that comes later.

    Raises
    ------
    FrameProblem
        When the frame cannot be read, has no sky, or the finder fails.
    """
    detect_sources(steps, subtract_sky(steps, entry, result), result, with_seeing=with_seeing)


def detect_sources(
    steps: FrameSteps, rms_image: np.ndarray | None, result: FrameResult, *, with_seeing: bool = True
) -> None:
    """Search a frame without its sky; fill ``result`` with sources and seeing.

    Parameters
    ----------
    steps : FrameSteps
        How frames are searched.
    rms_image : ndarray, shape (ny, nx), or None
        As :func:`subtract_sky` returns it.
    result : FrameResult
        Frame without its sky, as :func:`subtract_sky` fills it.
    with_seeing : bool
        Measure the seeing on all whole stars.

    Raises
    ------
    FrameProblem
        When the finder fails.
    """
    assert result.subtracted is not None  # the sky is off
    if result.frame is not None and steps.finds_by_segments:
        sources, n_sources = _sources_of_segments(steps, result.frame)
    else:
        if rms_image is None:
            rms_mesh = result.meshes["background_rms_mesh"]
            rms_image = background.zoom_mesh(rms_mesh, result.subtracted.shape, steps.box_size)
        sources, n_sources = find_sources(steps, result.subtracted, rms_image)
    _keep_sources(steps, result, sources, n_sources)
    if with_seeing:
        measure_seeing(result)


def find_sources(steps: FrameSteps, subtracted: np.ndarray, rms: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Detected sources, brightest first and NaN-padded to the slots at least, and how many there are in all.

    Raises
    ------
    FrameProblem
        When the finder fails.
    """
    try:
        with no_deprecation_warnings():
            table = steps.finder(subtracted, steps.threshold * rms)
        n_sources = 0 if table is None else len(table)
        sources = detect.source_arrays(table, max(steps.n_slots, n_sources)) if n_sources else {}
    except Exception as error:
        raise FrameProblem(FrameFlag.STEP_FAILED, f"finder: {error_text(error)}") from error
    return sources, n_sources


def _sources_of_segments(steps: FrameSteps, frame: subtraction.SubtractedFrame) -> tuple[dict[str, np.ndarray], int]:
    """As :func:`find_sources`, from the pixels that stand out alone."""
    assert isinstance(steps.finder, DefaultFinder)
    found = segments.find_sources(frame.image, frame.flagged, steps.finder.n_pixels, steps.finder.border_width)
    n_sources = len(found["x"])
    missing = np.full(max(0, steps.n_slots - n_sources), np.nan)
    return {name: np.concatenate([values, missing]) for name, values in found.items()}, n_sources


def _keep_sources(steps: FrameSteps, result: FrameResult, sources: dict[str, np.ndarray], n_sources: int) -> None:
    """Put the sources of a frame into its result."""
    if not n_sources:
        raise FrameProblem(FrameFlag.NO_SOURCES, f"no source above {steps.threshold:g} times the background RMS")
    result.sources = {name: values[: steps.n_slots] for name, values in sources.items()}
    result.beyond_slots = {name: values[steps.n_slots :] for name, values in sources.items()}
    result.values["n_sources"] = n_sources
    result.is_whole, result.is_saturated = star_choice.whole_stars(result.sources, result.saturated)


def measure_seeing(result: FrameResult, is_star: np.ndarray | None = None) -> None:
    """FWHM (median) and mean form of the brightest unsaturated stars of a frame, in pixels and degrees.

    Stars with neighbours count less, the more light these have and the nearer they are.

    Parameters
    ----------
    result : FrameResult
        With its image and sources; gets the numbers.
    is_star : ndarray of bool, shape (slot,), optional
        Which sources count; by default all whole stars.
    """
    is_star = result.is_whole if is_star is None else is_star
    assert result.subtracted is not None  # sources were found on it
    assert is_star is not None
    sources, noise = result.sources, result.values["background_rms"]
    positions = np.column_stack([sources["x"], sources["y"]])
    rough = np.sqrt(sources["semimajor_sigma"] * sources["semiminor_sigma"])
    typical = median(rough[np.isfinite(rough)]) if np.isfinite(rough).any() else float("nan")
    doubt = field_form.neighbour_doubt(positions, sources["flux"], photometry.SIGMA_TO_FWHM * typical)
    uncertain = np.hypot(field_form.moment_errors(sources["flux"], noise), doubt)
    chosen = np.flatnonzero(is_star)
    chosen = np.sort(chosen[np.argsort(uncertain[chosen], kind="stable")[:_SEEING_SOURCES]])
    new = np.array([slot for slot in chosen.tolist() if slot not in result.moments], dtype=np.intp)
    shapes = moments.source_shapes(result.subtracted, positions[new], rough[new])
    result.moments.update(zip(new.tolist(), shapes.T, strict=True))
    shapes = np.array([result.moments[slot] for slot in chosen.tolist()]).reshape(-1, 3).T
    form = field_form.field_shape(
        result.subtracted, positions[chosen], shapes, noise, saturated=result.saturated, doubt=doubt[chosen]
    )
    result.values |= form._asdict() | {"orientation": float(np.rad2deg(form.orientation))}
