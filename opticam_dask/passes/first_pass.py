"""First pass over one block of frames: sky, sources and transform of each frame; and the probe for a reference frame.

The first pass measures sky, sources and transform of every frame of its block, adds the frames that are stacked
to a partial stack, and writes the records of the block, the flags last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.kernels.images.matching import align, match
from opticam_dask.kernels.images.stack import PartialStack, stack_groups
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import field_form
from opticam_dask.parameters import TransformType
from opticam_dask.steps.frame_steps import (
    BlockSummary,
    FrameProblem,
    FrameResult,
    FrameSteps,
    detect_frame,
    entry_of,
    measure_seeing,
    measure_sky,
    summarise,
)

#: Numbers that a frame has, or NaN.
_MEASURED = (
    *("background", "background_rms", "fwhm", "semimajor_sigma", "semiminor_sigma", "orientation"),
    "transform_rms",
)


#: A detection is a star of the reference frame within this distance (pixels); the seeing needs so many, or all.
_SAME_STAR, _FEWEST_STARS = 1.5, 3

#: A lone source this much narrower (along its short axis) or wider than the stars of the reference frame is a cosmic
#: ray or a trail.
_NARROWER, _WIDER = 0.6, 3.0

#: Two stars whose ratio of fluxes is turned over, and by more than this factor, have swapped their brightness.
_SWAPPED = 1.2

#: A level at which pixels pile up counts when so many frames have it.
_PILED_FRAMES = 2

#: A transform that rests on so many unsaturated stars needs no saturated ones, whose centres are less certain.
_ENOUGH_STARS = 6


@dataclass(frozen=True)
class Probe:
    """Sources of one candidate for the reference frame."""

    index: int
    xy: np.ndarray
    flux: np.ndarray
    fwhm: float
    minor_fwhm: float
    message: str
    pile_up: float = float("nan")
    saturation: float = float("nan")
    gain: float = float("nan")


@dataclass(frozen=True)
class PileUp:
    """Level at which the pixels of a night pile up below the saturation that its headers give.

    Attributes
    ----------
    level : float
        ADU.
    gain : float
        Of the frames it was seen in: another gain may have another level.
    saturation : float
        What the headers give, ADU; NaN when they give none.
    n_frames : int
        In how many frames it was seen.
    """

    level: float
    gain: float
    saturation: float
    n_frames: int

    def lowered(self, saturation: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Saturation of frames, shape (frame,), lowered to the level where the gain is the same."""
        is_same = (gain == self.gain) | (np.isnan(gain) & np.isnan(self.gain))
        return np.where(is_same, np.fmin(saturation, self.level), saturation)


@dataclass(frozen=True)
class ProbeJob:
    """What every task of the probe needs."""

    steps: FrameSteps
    frames_per_block: int
    n_alignment_sources: int
    read_manifest: Callable[[int], Mapping[str, np.ndarray]]


def probe_frame(job: ProbeJob, index: int, lost: Mapping[int, str] | None = None) -> Probe:
    """Detect the sources of frame ``index`` of a part, unless it is ``lost``; write nothing."""
    if lost:
        return Probe(index, np.empty((0, 2)), np.empty(0), np.nan, np.nan, lost[0])
    block, offset = divmod(index, job.frames_per_block)
    result = FrameResult()
    entry = entry_of(job.read_manifest(block), offset)
    try:
        detect_frame(replace(job.steps, looks_for_pile_up=True), entry, result)
    except FrameProblem as problem:
        return Probe(index, np.empty((0, 2)), np.empty(0), np.nan, np.nan, problem.message)
    xy, flux = alignment_sources(result, job.n_alignment_sources)
    levels = (float(result.values["pile_up"]), float(entry["saturation"]), float(entry["gain"]))
    return Probe(index, xy, flux, float(result.values["fwhm"]), _minor_fwhm(result), "", *levels)


def _minor_fwhm(result: FrameResult) -> float:
    """FWHM of the stars of a frame along their short axis, pixels."""
    return photometry.SIGMA_TO_FWHM * float(result.values["semiminor_sigma"])


def find_pile_up(probes: Sequence[Probe]) -> PileUp | None:
    """Find the lowest level below the saturation at which the pixels of two or more candidates pile up.

    Where there is but one candidate, its level counts.
    """
    lower = [probe for probe in probes if probe.pile_up < np.nan_to_num(probe.saturation, nan=np.inf)]
    for level in sorted({probe.pile_up for probe in lower}):
        seen = [probe for probe in lower if probe.pile_up == level]
        if len(seen) >= min(_PILED_FRAMES, len(probes)):
            return PileUp(level, seen[0].gain, seen[0].saturation, len(seen))
    return None


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


def choose_reference(probes: list[Probe], find: Callable[[Probe, Probe], int]) -> Probe | None:
    """Pick the candidate with most well-matched sources per FWHM, ties to the earlier frame.

    Parameters
    ----------
    probes : list of Probe
        What was found in each probed frame.
    find : callable
        ``find(reference, frame)`` gives how many sources match, 0 for no alignment.

    Returns
    -------
    Probe or None
        None when no candidate has a source.
    """
    usable = sorted((probe for probe in probes if len(probe.xy)), key=lambda probe: probe.index)
    if not usable:
        return None
    counts = np.zeros((len(usable), len(usable)))
    for i, first in enumerate(usable):
        for j in range(i + 1, len(usable)):
            counts[i, j] = counts[j, i] = find(first, usable[j])
    others = ~np.eye(len(usable), dtype=bool)
    matched = [np.median(counts[i][others[i]]) if len(usable) > 1 else len(usable[0].xy) for i in range(len(usable))]
    widths = np.array([probe.fwhm for probe in usable])
    widths = np.where(np.isfinite(widths) & (widths > 0), widths, np.inf if np.isfinite(widths).any() else 1.0)
    return usable[int(np.argmax(np.asarray(matched) / widths))]


def count_matches(transform_type: TransformType, reference: Probe, frame: Probe) -> int:
    """How many sources of two candidates for the reference frame match; 0 for no alignment."""
    try:
        found = match.find_transform(
            reference.xy,
            frame.xy,
            transform_type=transform_type,
            reference_weights=reference.flux,
            frame_weights=frame.flux,
            shift_of_few=True,
        )
    except match.AlignmentError:
        return 0
    if found.n_matched < match.LEAST_FOR_ROTATION:
        one, other = ((probe.fwhm, probe.minor_fwhm) for probe in (reference, frame))
        if not (may_be_stars(one, other) and may_be_stars(other, one)):
            return 0
    return found.n_matched


@dataclass(frozen=True)
class FirstPass:
    """What every task of the first pass over one part needs; nothing here grows with the number of frames.

    Attributes
    ----------
    steps : FrameSteps
        How the frames are read, calibrated and searched for sources.
    reference_xy, reference_flux : ndarray, shape (n, 2) and (n,)
        Alignment sources of the reference frame.
    reference_fwhm, reference_minor_fwhm : float
        FWHM of its stars, and along their short axis, pixels; NaN when unknown.
    reference_shape : (int, int)
        Grid of the stack.
    transform_type, rotation_limit, translation_limit, scale_limit
        See :class:`~opticam_dask.parameters.ReductionParameters`.
    expected_scale : float
        Reference pixel in units of pixels of this part (1 for equal binning).
    n_alignment_sources : int
        How many of the brightest sources are used to align a frame.
    n_frames, frames_per_block, stack_frames : int
        Frames of the part, of a block, and at most in the stack.
    read_manifest, write, write_stack : callable
        Bound functions of the store.
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
    n_frames: int
    frames_per_block: int
    stack_frames: int
    read_manifest: Callable[[int], Mapping[str, np.ndarray]]
    write: Callable[[int, Mapping[str, Mapping[str, np.ndarray]]], None]
    write_stack: Callable[[int, int, np.ndarray, np.ndarray], None]


def reduce_block(job: FirstPass, block: int, lost: Mapping[int, str] | None = None) -> BlockSummary:
    """First pass over one block: measure each frame, write the records, and the flags last.

    Parameters
    ----------
    job : FirstPass
        What the first pass needs to know of the part.
    block : int
        Number of the block of frames.
    lost : dict of str, optional
        Frames of the block that end the process they are worked on in, with what happened: they are not touched.
    """
    manifest = job.read_manifest(block)
    n_frames = len(manifest["file"])
    start = block * job.frames_per_block
    groups = stack_groups(start, start + n_frames, job.n_frames, job.stack_frames).tolist()
    last = {group: index for index, group in enumerate(groups)}
    stack: PartialStack | None = None
    results = []
    for index, group in enumerate(groups):
        watchdog.still_working()
        result = _lost_frame(lost[index]) if lost and index in lost else reduce_frame(job, entry_of(manifest, index))
        if group >= 0:
            stack = stack or PartialStack(job.reference_shape)
            if not result.flags & UNUSABLE:
                stack.add(resampled(job, result))
            if index == last[group]:  # the groups of a night follow each other: one sum is held at a time
                job.write_stack(group, block, stack.total, stack.coverage)
                stack = None
        result.subtracted = result.saturated = result.frame = result.is_whole = result.is_saturated = None
        results.append(result)
    job.write(block, block_arrays(job.steps, results, manifest))
    return summarise(block, [result.flags for result in results], [r.message for r in results], manifest["file"])


def try_frame(job: FirstPass, block: int, index: int) -> None:
    """Do the work of the first pass on one frame of a block; write nothing."""
    result = reduce_frame(job, entry_of(job.read_manifest(block), index))
    if not result.flags & UNUSABLE:
        resampled(job, result)


def _lost_frame(reason: str) -> FrameResult:
    return FrameResult(FrameFlag.REDUCED | FrameFlag.WORKER_LOST, reason)


def resampled(job: FirstPass, result: FrameResult) -> np.ndarray:
    """Image of a usable frame without its sky on the grid of the reference frame, shape (ny, nx)."""
    assert result.subtracted is not None  # only a frame that was set aside has none
    return align.resample(result.subtracted, result.values["transform"], job.reference_shape)


def reduce_frame(job: FirstPass, entry: Mapping[str, Any]) -> FrameResult:
    """Sky, sources and transform of one frame; a frame that fails keeps what was found before."""
    result = FrameResult()
    try:
        detect_frame(job.steps, entry, result)
        _align(job, result)
    except FrameProblem as problem:
        result.flags |= problem.flag
        result.message = problem.message
    measure_sky(result)
    return result


def _align(job: FirstPass, result: FrameResult) -> None:
    xy, flux = alignment_sources(result, job.n_alignment_sources)
    try:
        found = match.find_transform(
            job.reference_xy,
            xy,
            transform_type=job.transform_type,
            reference_weights=job.reference_flux,
            frame_weights=flux,
            expected_scale=job.expected_scale,
            shift_of_few=True,
        )
    except match.AlignmentError as error:
        raise FrameProblem(FrameFlag.NOT_ALIGNED, str(error)) from error
    result.values |= {"transform": found.transform, "transform_rms": found.rms, "n_matched": found.n_matched}
    _measure_seeing_of_stars(job, result)
    if found.n_matched < match.LEAST_FOR_ROTATION:
        _require_stars(job, result)
    if found.n_matched == 2 and _have_swapped(job.reference_flux[found.reference_index], flux[found.frame_index]):
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


def _require_stars(job: FirstPass, result: FrameResult) -> None:
    """Refuse a shift that rests on one or two sources which do not look like the stars of the reference frame.

    Raises
    ------
    FrameProblem
    """
    width, minor = float(result.values["fwhm"]), _minor_fwhm(result)
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


def _have_swapped(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether two stars have swapped their brightness: one is eclipsed, or the field is turned by half a turn."""
    if not (np.all(before > 0) and np.all(now > 0)):
        return False
    first, second = np.log(before[0] / before[1]), np.log(now[0] / now[1])
    return bool(first * second < 0 and abs(first - second) > 2.0 * np.log(_SWAPPED))


def _measure_seeing_of_stars(job: FirstPass, result: FrameResult) -> None:
    """Measure the seeing on the sources that are on the reference frame as well.

    Hot pixels and cosmic rays, which may be most of what is detected, are not where the transform takes the stars.
    """
    predicted = align.apply_transform(result.values["transform"], job.reference_xy)
    detected = np.column_stack([result.sources["x"], result.sources["y"]])
    matched = photometry.match_one_to_one(predicted, detected, _SAME_STAR)
    if np.count_nonzero(matched >= 0) >= min(_FEWEST_STARS, max(len(predicted), 1)):
        is_star = np.zeros(len(detected), dtype=bool)
        is_star[matched[matched >= 0]] = True
        if result.is_whole is not None and np.any(is_star & result.is_whole):
            is_star &= result.is_whole
        measure_seeing(result, is_star)


def block_arrays(
    steps: FrameSteps, results: list[FrameResult], manifest: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Records of a block as arrays over its frames, NaN where a frame has no value."""
    n_frames, n_slots = len(results), steps.n_slots
    frames: dict[str, np.ndarray] = {
        name: np.array([result.values.get(name, np.nan) for result in results], dtype=float) for name in _MEASURED
    }
    for name in ("n_sources", "n_matched"):
        frames[name] = np.array([result.values.get(name, 0) for result in results], dtype=np.int32)
    for name, shape in (("transform", (3, 3)), ("form_terms", (3, field_form.N_TERMS))):
        nothing = np.full(shape, np.nan)
        frames[name] = np.array([result.values.get(name, nothing) for result in results]).reshape(-1, *shape)
    frames["message"] = np.array([result.message for result in results], dtype=object)
    own = np.array([int(result.flags) for result in results], dtype=np.uint32)
    frames["flags"] = own | manifest["scan_flags"]
    empty = np.full(n_slots, np.nan)
    names = ("x", "y", "flux", "semimajor_sigma", "semiminor_sigma", "orientation")
    arrays = {
        "frames": frames,
        "sources": {
            name: np.array([result.sources.get(name, empty) for result in results]).reshape(n_frames, n_slots)
            for name in names
        },
    }
    if steps.mesh_shape is not None:
        no_mesh = np.full(steps.mesh_shape, np.nan)
        arrays["background"] = {
            name: np.array([result.meshes.get(name, no_mesh) for result in results])
            for name in ("background_mesh", "background_rms_mesh", "background_offset_mesh", "background_mean_mesh")
        }
        nowhere = np.zeros(steps.mesh_shape, dtype=np.int32)
        arrays["background"]["background_n_sky"] = np.array(
            [result.meshes.get("background_n_sky", nowhere) for result in results], dtype=np.int32
        )
    return arrays


# ---------------------------------------------------------------- the tree of partial stacks


@dataclass(frozen=True)
class MergeJob:
    """What every task of one level of the tree of partial stacks needs.

    Attributes
    ----------
    inputs : sequence of int
        Numbers of the partial stacks of the level below; a range where there are none between.
    fan_in : int
        How many of them one task adds.
    read, write : callable
        Bound functions of the store.
    """

    inputs: Sequence[int]
    fan_in: int
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    write: Callable[[int, np.ndarray, np.ndarray], None]


def merge_stacks(job: MergeJob, index: int) -> int:
    """Add ``fan_in`` partial stacks into one of the next level."""
    numbers = job.inputs[index * job.fan_in : (index + 1) * job.fan_in]
    first, first_coverage = job.read(numbers[0])
    # they are read in the smallest type that holds them
    total, coverage = first.astype(np.int64), first_coverage.astype(np.uint32)
    for number in numbers[1:]:
        more, seen = job.read(number)
        total += more
        coverage += seen
    job.write(index, total, coverage)
    return index
