"""Measurements of a sample of the frames of a part, which the tasks return instead of writing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.steps.frame_steps import FrameProblem, entry_of
from opticam_dask.steps.pixels import KeptPixels, keep_pixels
from opticam_dask.steps.view import Measuring, frame_view, star_form


@dataclass(frozen=True)
class SampleJob:
    """Everything a task needs to measure a sample of the frames of a part.

    Attributes
    ----------
    measuring : Measuring
        What a frame looks like to a photometer.
    measure : callable
        ``measure(view)`` of one frame; None where nothing can be measured.
    frames : tuple of int
        The frames that are measured; there is an upper limit to how many.
    frames_per_block : int
        Number of frames in a block.
    read_manifest, read_results, read_kept : callable
        Bound functions of the store; ``read_kept(block, frames)`` gives what the survey has kept of these frames, with
        their indices and in their order.
    """

    measuring: Measuring
    measure: Callable[[FrameView], Any]
    frames: tuple[int, ...]
    frames_per_block: int
    read_manifest: Callable[[int], Mapping[str, np.ndarray]]
    read_results: Callable[[int], Mapping[str, np.ndarray]]
    read_kept: Callable[[int, Sequence[int]], Iterator[tuple[int, Mapping[str, np.ndarray]]]]


def measure_block(job: SampleJob, block: int, lost: Mapping[int, str] | None = None) -> dict[int, Any]:
    """Measure the chosen frames of a block.

    Returns
    -------
    dict
        By the index of the frame; None where a frame cannot be read. Frames in ``lost`` are not touched.
    """
    manifest, results = job.read_manifest(block), job.read_results(block)
    found: dict[int, Any] = {}
    chosen = sorted(index for index in job.frames if index // job.frames_per_block == block)
    for index, kept in _with_kept(chosen, job.read_kept(block, chosen)):
        offset = index - block * job.frames_per_block
        watchdog.still_working()
        is_lost = lost is not None and offset in lost
        entry, result = entry_of(manifest, offset), entry_of(results, offset)
        found[index] = None if is_lost else measure_frame(job.measuring, job.measure, entry, result, kept)
    return found


def try_frame(job: SampleJob, block: int, offset: int) -> None:
    """Do the work on one frame of a block, if it is a chosen one."""
    if block * job.frames_per_block + offset in job.frames:
        manifest, results = job.read_manifest(block), job.read_results(block)
        index = block * job.frames_per_block + offset
        for _, kept in _with_kept([index], job.read_kept(block, [index])):
            measure_frame(job.measuring, job.measure, entry_of(manifest, offset), entry_of(results, offset), kept)


def _with_kept(
    frames: Sequence[int], kept: Iterator[tuple[int, Mapping[str, np.ndarray]]]
) -> Iterator[tuple[int, KeptPixels | None]]:
    """Frames of a block in order, each with its kept cut-outs; one is in memory at a time."""
    nothing: dict[str, np.ndarray] = {}
    latest: tuple[float, Mapping[str, np.ndarray]] = (-1, nothing)
    for index in frames:
        while latest[0] < index:
            latest = next(kept, (np.inf, nothing))
        yield index, KeptPixels.of(latest[1]) if latest[0] == index else None


def measure_frame(
    job: Measuring,
    measure: Callable[[FrameView], Any],
    entry: Mapping[str, Any],
    result: Mapping[str, Any],
    kept: KeptPixels | None = None,
) -> Any:
    """Result of a function on the bright stars of one frame; None where the frame cannot be used.

    Parameters
    ----------
    job : Measuring
        What a frame looks like to a photometer.
    measure : callable
        ``measure(view)`` measures one frame.
    entry, result : mapping
        What the headers and the survey say about the frame.
    kept : KeptPixels, optional
        Pixels of the frame around bright stars. Without them the frame is read, with the same result.
    """
    try:
        if kept is None:
            kept = keep_pixels(job.steps, entry, result, star_form(result, job.steps.image_shape))
        return measure(frame_view(job, entry, result, kept.pixels(job.steps, entry)))
    except FrameProblem:
        return None
