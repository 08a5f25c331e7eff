"""Choice of the reference frame: sources of a few candidates, and which of them matches the others best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from opticam_dask.kernels.images.matching import match, problem
from opticam_dask.parameters import TransformType
from opticam_dask.steps.align import alignment_sources, may_be_stars, minor_fwhm
from opticam_dask.steps.detect import detect_frame
from opticam_dask.steps.frame_steps import FrameProblem, FrameResult, FrameSteps, entry_of

#: A level at which pixels pile up counts when this many frames have it.
_PILED_FRAMES = 2
#: Pixels this many times as high as the saturation show that it is none.
_FAR_BEYOND = 1.5


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
    highest: float = float("nan")


@dataclass(frozen=True)
class PileUp:
    """Level at which the pixels of a night pile up below the saturation that its headers give.

    Attributes
    ----------
    level : float
        Level at which values pile up, ADU.
    gain : float
        Gain of the frames it was seen in: another gain may have another level.
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
    """Everything a task needs to probe candidates for the reference frame."""

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
    return Probe(
        index,
        xy,
        flux,
        float(result.values["fwhm"]),
        minor_fwhm(result),
        "",
        pile_up=float(result.values["pile_up"]),
        saturation=float(entry["saturation"]),
        gain=float(entry["gain"]),
        highest=float(result.values["highest"]),
    )


def find_pile_up(probes: Sequence[Probe]) -> PileUp | None:
    """Find the lowest level below the saturation at which the pixels of two or more candidates pile up.

    If there is only one candidate, its level is taken.
    """
    lower = [probe for probe in probes if probe.pile_up < np.nan_to_num(probe.saturation, nan=np.inf)]
    for level in sorted({probe.pile_up for probe in lower}):
        seen = [probe for probe in lower if probe.pile_up == level]
        if len(seen) >= min(_PILED_FRAMES, len(probes)):
            return PileUp(level, seen[0].gain, seen[0].saturation, len(seen))
    return None


def doubtful_saturation(probes: Sequence[Probe]) -> tuple[float, float] | None:
    """Saturation of the headers and the highest pixel, ADU, where most candidates have pixels far above it.

    A detector that is full counts little further: such a level is the end of something else, or a wrong number.
    """
    beyond = [probe for probe in probes if probe.highest > _FAR_BEYOND * probe.saturation]
    if not beyond or 2 * len(beyond) < len(probes):
        return None
    return beyond[0].saturation, max(probe.highest for probe in beyond)


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
