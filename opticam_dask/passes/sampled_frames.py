"""A sample of the frames of a part: tasks that measure them and return what they find instead of writing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opticam_dask.cluster import watchdog
from opticam_dask.methods.frame_view import FrameView
from opticam_dask.passes.second_pass import SecondPass
from opticam_dask.steps.frame_steps import FrameProblem, entry_of
from opticam_dask.steps.view import Measuring, frame_view


@dataclass(frozen=True)
class SampleJob:
    """What every task needs to measure some frames of a part.

    Attributes
    ----------
    second_pass : SecondPass
        What a frame looks like to a photometer, and where it is read from.
    measure : callable
        ``measure(view)`` of one frame; None where nothing can be measured.
    frames : tuple of int
        The frames that are measured; there is an upper limit to how many.
    frames_per_block : int
        Number of frames in a block.
    """

    second_pass: SecondPass
    measure: Callable[[FrameView], Any]
    frames: tuple[int, ...]
    frames_per_block: int


def measure_block(job: SampleJob, block: int, lost: Mapping[int, str] | None = None) -> dict[int, Any]:
    """Measure the chosen frames of a block.

    Returns
    -------
    dict
        By the index of the frame; None where a frame cannot be read. Frames in ``lost`` are not touched.
    """
    manifest, results = job.second_pass.read_manifest(block), job.second_pass.read_results(block)
    found: dict[int, Any] = {}
    for index in job.frames:
        number, offset = divmod(index, job.frames_per_block)
        if number != block:
            continue
        watchdog.still_working()
        is_lost = lost is not None and offset in lost
        entry, result = entry_of(manifest, offset), entry_of(results, offset)
        found[index] = None if is_lost else measure_frame(job.second_pass, job.measure, entry, result)
    return found


def try_frame(job: SampleJob, block: int, offset: int) -> None:
    """Do the work on one frame of a block, if it is a chosen one."""
    if block * job.frames_per_block + offset in job.frames:
        manifest, results = job.second_pass.read_manifest(block), job.second_pass.read_results(block)
        measure_frame(job.second_pass, job.measure, entry_of(manifest, offset), entry_of(results, offset))


def measure_frame(
    job: Measuring, measure: Callable[[FrameView], Any], entry: Mapping[str, Any], result: Mapping[str, Any]
) -> Any:
    """What a function finds in one frame; None where it finds nothing or the frame cannot be read."""
    try:
        return measure(frame_view(job, entry, result))
    except FrameProblem:
        return None
