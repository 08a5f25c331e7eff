"""First pass over one block of frames: sky, sources and transform of each frame; and the probe for a reference frame.

The first pass measures sky, sources and transform of every frame of its block, adds the frames that are stacked
to a partial stack, and writes the records of the block, the flags last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.kernels.images.matching import match, problem
from opticam_dask.kernels.images.stack import PartialStack, stack_groups
from opticam_dask.parameters import TransformType
from opticam_dask.steps.align import Aligning, alignment_sources, may_be_stars, minor_fwhm, reduce_frame
from opticam_dask.steps.detect import detect_frame
from opticam_dask.steps.frame_steps import BlockSummary, FrameProblem, FrameResult, FrameSteps, entry_of, summarise
from opticam_dask.steps.records import block_arrays
from opticam_dask.steps.stack import resampled

#: A level at which pixels pile up counts when so many frames have it.
_PILED_FRAMES = 2


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
    return Probe(index, xy, flux, float(result.values["fwhm"]), minor_fwhm(result), "", *levels)


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
    if found.n_matched < problem.LEAST_FOR_ROTATION:
        one, other = ((probe.fwhm, probe.minor_fwhm) for probe in (reference, frame))
        if not (may_be_stars(one, other) and may_be_stars(other, one)):
            return 0
    return found.n_matched


@dataclass(frozen=True, kw_only=True)
class FirstPass(Aligning):
    """What every task of the first pass over one part needs; nothing here grows with the number of frames.

    Attributes
    ----------
    n_frames, frames_per_block, stack_frames : int
        Frames of the part, of a block, and at most in the stack.
    read_manifest, write, write_stack : callable
        Bound functions of the store.
    """

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
                stack.add(resampled(job.reference_shape, result))
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
        resampled(job.reference_shape, result)


def _lost_frame(reason: str) -> FrameResult:
    return FrameResult(FrameFlag.REDUCED | FrameFlag.WORKER_LOST, reason)


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
