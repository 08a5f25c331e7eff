"""Alignment of one frame: its transform from the reference frame, and its seeing by the stars of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.flags import FrameFlag
from opticam_dask.kernels.images.matching import align, match, problem
from opticam_dask.kernels.sources import photometry
from opticam_dask.parameters import TransformType
from opticam_dask.steps.background import measure_sky, sky_beside_stars
from opticam_dask.steps.calibrate import fringes_of
from opticam_dask.steps.detect import detect_frame, measure_seeing
from opticam_dask.steps.frame_steps import FrameProblem, FrameResult, FrameSteps

#: A detection is a star of the reference frame within this distance, pixels.
_SAME_STAR = 1.5
#: Stars that the seeing is measured by at least, or all where there are fewer.
_FEWEST_STARS = 3

#: A lone source narrower (along its short axis) than this part of the stars of the reference frame is a cosmic ray.
_NARROWER = 0.6
#: A lone source wider than this many times the stars of the reference frame is a trail.
_WIDER = 3.0

#: Two stars whose ratio of fluxes is turned over, and by more than this factor, have swapped their brightness.
_SWAPPED = 1.2

#: In a frame with no more stars than this,
_FEW_STARS = 6
#: two that are nearer than this many FWHM may be one in another frame.
_MAY_BE_ONE = 2.0

#: A transform that rests on this many unsaturated stars needs no saturated ones, whose centres are less certain.
_ENOUGH_STARS = 6


#: Positions (n, 2) and fluxes (n,).
_Stars = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Aligning:
    """Reference stars and limits with which a frame is aligned to the reference frame.

    Attributes
    ----------
    steps : FrameSteps
        How the frames are read, calibrated and searched for sources.
    reference_xy, reference_flux : ndarray, shape (n, 2) and (n,)
        Aligning sources of the reference frame.
    reference_fwhm, reference_minor_fwhm : float
        FWHM of its stars, and along their short axis, pixels; NaN when unknown.
    reference_shape : (int, int)
        Grid of the stack.
    transform_type, rotation_limit, translation_limit, scale_limit
        Kind of the transforms and their limits, as in :class:`~opticam_dask.parameters.ReductionParameters`.
    expected_scale : float
        Reference pixel in units of pixels of the frame (1 for equal binning).
    n_alignment_sources : int
        How many of the brightest sources are used to align a frame.
    """

    steps: FrameSteps
    reference_xy: np.ndarray
    reference_flux: np.ndarray
    reference_fwhm: float
    reference_minor_fwhm: float
    reference_shape: tuple[int, int]
    transform_type: TransformType
    rotation_limit: float | None
    translation_limit: float | tuple[float, float] | None
    scale_limit: float | None
    expected_scale: float
    n_alignment_sources: int


def reduce_frame(job: Aligning, entry: Mapping[str, Any]) -> FrameResult:
    """Sky, sources and transform of one frame; a frame that fails keeps what was found before.

    Where stars fill the boxes of the sky mesh, sky and sources are looked for once more, by the sky beside the stars.
    """
    entry = entry if "memory" in entry else {**entry, "memory": {}}  # it is read once
    result = _reduced(job, entry, FrameResult())
    meshes = sky_beside_stars(result)
    return result if meshes is None else _reduced(job, entry, FrameResult(meshes=meshes))


def _reduced(job: Aligning, entry: Mapping[str, Any], result: FrameResult) -> FrameResult:
    """A frame without its sky, its sources and its transform."""
    try:
        detect_frame(job.steps, entry, result, with_seeing=False)
        result.values |= fringes_of(entry)
        _align(job, result)
    except FrameProblem as problem:
        result.flags |= problem.flag
        result.message = problem.message
    measure_sky(result)
    return result


def alignment_sources(result: FrameResult, n_sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(n, 2)`` and fluxes ``(n,)`` of the brightest whole stars of a frame.

    Where these are too few, saturated stars come after them; where even those are too few, everything else.
    """
    sources = result.sources
    assert result.is_whole is not None  # told with the sources
    assert result.is_saturated is not None
    is_known = np.isfinite(sources["x"]) & np.isfinite(sources["y"])
    chosen = np.flatnonzero(result.is_whole)
    if len(chosen) < _ENOUGH_STARS:
        chosen = np.append(chosen, np.flatnonzero(result.is_saturated))
    if len(chosen) < _FEWEST_STARS:
        chosen = np.flatnonzero(is_known)
    chosen = chosen[:n_sources]
    return np.column_stack([sources["x"][chosen], sources["y"][chosen]]), sources["flux"][chosen]


def _align(job: Aligning, result: FrameResult) -> None:
    reference, frame = (job.reference_xy, job.reference_flux), alignment_sources(result, job.n_alignment_sources)
    try:
        found, reference, frame = _matched(job, reference, frame)
    except match.AlignmentError as error:
        measure_seeing(result)
        raise FrameProblem(FrameFlag.NOT_ALIGNED, str(error)) from error
    result.values |= {"transform": found.transform, "transform_rms": found.rms, "n_matched": found.n_matched}
    _measure_seeing_of_stars(job, result)
    if found.n_matched < problem.LEAST_FOR_ROTATION:
        _require_stars(job, result)
    if found.n_matched == 2 and _have_swapped(reference[1][found.reference_index], frame[1][found.frame_index]):
        result.flags |= FrameFlag.SWAPPED
    reason = align.limit_reason(
        found.transform,
        rotation_limit=job.rotation_limit,
        translation_limit=job.translation_limit,
        scale_limit=job.scale_limit,
        shape=job.reference_shape,
        expected_scale=job.expected_scale,
    )
    if reason is not None:
        raise FrameProblem(FrameFlag.BEYOND_LIMIT, reason)


def _match(job: Aligning, reference: _Stars, frame: _Stars) -> match.FoundTransform:
    """Transform from the reference frame to a frame, by positions and fluxes of stars in both."""
    return match.find_transform(
        reference[0],
        frame[0],
        transform_type=job.transform_type,
        reference_weights=reference[1],
        frame_weights=frame[1],
        expected_scale=job.expected_scale,
        shift_of_few=True,
    )


def _matched(job: Aligning, reference: _Stars, frame: _Stars) -> tuple[match.FoundTransform, _Stars, _Stars]:
    """Transform of a frame, and the stars that it was found by; of few stars, two that are close may be one in a frame.

    Raises
    ------
    AlignmentError
        When they do not match either way.
    """
    try:
        return _match(job, reference, frame), reference, frame
    except match.AlignmentError as error:
        reach = _MAY_BE_ONE * job.reference_fwhm
        if not 0 < max(len(reference[1]), len(frame[1])) <= _FEW_STARS or not np.isfinite(reach):
            raise
        merged = _without_pairs(*reference, reach), _without_pairs(*frame, reach * job.expected_scale)
        if len(merged[0][1]) == len(reference[1]) and len(merged[1][1]) == len(frame[1]):
            raise
        try:
            found = _match(job, *merged)
        except match.AlignmentError:
            raise error from None
        if found.n_matched < 2:  # the middle of a star and a cosmic ray beside it is nothing's place
            raise
        return found, *merged


def _without_pairs(xy: np.ndarray, flux: np.ndarray, reach: float) -> _Stars:
    """Stars, brightest first, with those nearer to each other than ``reach`` merged, as the frame shows them."""
    labels = np.arange(len(xy))
    for first, second in np.argwhere(np.triu(np.hypot(*(xy[:, None] - xy[None]).T) < reach, 1)):
        labels[labels == labels[second]] = labels[first]
    light = np.maximum(flux, 0.0)
    total = np.array([light[labels == label].sum() for label in np.unique(labels)])
    middle = [
        np.average(xy[labels == label], axis=0, weights=light[labels == label] + 1e-9) for label in np.unique(labels)
    ]
    order = np.argsort(-total, kind="stable")
    return np.array(middle)[order], total[order]


def _require_stars(job: Aligning, result: FrameResult) -> None:
    """Refuse a shift that rests on one or two sources which do not look like the stars of the reference frame.

    Raises
    ------
    FrameProblem
    """
    width, minor = float(result.values["fwhm"]), minor_fwhm(result)
    expected, expected_minor = job.reference_fwhm * job.expected_scale, job.reference_minor_fwhm * job.expected_scale
    if not may_be_stars((width, minor), (expected, expected_minor)):
        raise FrameProblem(
            FrameFlag.NOT_ALIGNED,
            f"what matches the one or two stars of the reference frame is no star: FWHM {width:.1f} pixels "
            f"({minor:.1f} along the short axis), {expected:.1f} ({expected_minor:.1f}) on the reference frame",
        )


def may_be_stars(widths: tuple[float, float], stars: tuple[float, float]) -> bool:
    """Whether sources may be stars, by their FWHM and that along the short axis, and those of stars (pixels)."""
    return not (widths[1] < _NARROWER * stars[1] or widths[0] > _WIDER * stars[0])


def minor_fwhm(result: FrameResult) -> float:
    """FWHM of the stars of a frame along their short axis, pixels."""
    return photometry.SIGMA_TO_FWHM * float(result.values["semiminor_sigma"])


def _have_swapped(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether two stars have swapped their brightness: one is eclipsed, or the field is turned by half a turn."""
    if not (np.all(before > 0) and np.all(now > 0)):
        return False
    first, second = np.log(before[0] / before[1]), np.log(now[0] / now[1])
    return bool(first * second < 0 and abs(first - second) > 2.0 * np.log(_SWAPPED))


def _measure_seeing_of_stars(job: Aligning, result: FrameResult) -> None:
    """Measure the seeing on the sources that are on the reference frame as well.

    Hot pixels and cosmic rays, which may be most of what is detected, are not where the transform takes the stars.
    Where hardly any are on both, all whole stars count.
    """
    predicted = align.apply_transform(result.values["transform"], job.reference_xy)
    detected = np.column_stack([result.sources["x"], result.sources["y"]])
    matched = photometry.match_one_to_one(predicted, detected, _SAME_STAR)
    if np.count_nonzero(matched >= 0) < min(_FEWEST_STARS, max(len(predicted), 1)):
        measure_seeing(result)
        return
    is_star = np.zeros(len(detected), dtype=bool)
    is_star[matched[matched >= 0]] = True
    if result.is_whole is not None and np.any(is_star & result.is_whole):
        is_star &= result.is_whole
    measure_seeing(result, is_star)
