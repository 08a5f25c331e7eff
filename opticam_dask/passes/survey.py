"""Survey of one block: sky, sources and transform of the frames that are stacked, and their sums.

What is found out about a frame goes to its place in the store, so that nobody does it again; the pixels around its
bright stars, which the star profile is measured on, and the sums of the frames go to scratch files.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.kernels.images import lasting
from opticam_dask.kernels.images.stack import PartialStack, StackSums, added, stack_groups
from opticam_dask.passes import star_profiles
from opticam_dask.steps.align import Aligning, reduce_frame
from opticam_dask.steps.frame_steps import BlockSummary, FrameResult, entry_of, summarise
from opticam_dask.steps.pixels import keep_pixels
from opticam_dask.steps.records import block_arrays, record_of
from opticam_dask.steps.stack import resampled, sharp_pixels
from opticam_dask.steps.view import star_form

#: Takes what is kept of a frame: its index in the part, and arrays by name.
Keep = Callable[[int, Mapping[str, np.ndarray]], None]
#: The same, with a function that makes the arrays if the frame is one of which they are kept.
KeepSome = Callable[[int, Callable[[], Mapping[str, np.ndarray]]], None]


@dataclass(frozen=True, kw_only=True)
class Survey(Aligning):
    """Everything a task needs to survey blocks of one part; its size does not grow with the number of frames.

    Attributes
    ----------
    n_frames, frames_per_block, stack_frames : int
        Frames of the part, of a block, and at most in the stack.
    read_manifest, read_flags, write, write_stack, keeping, searching : callable
        Bound functions of the store; ``keeping(block)`` is a context in which ``keep(index, arrays)`` takes what is
        kept of a frame, ``searching(block)`` one for the pixels that stand out in it.
    """

    n_frames: int
    frames_per_block: int
    stack_frames: int
    read_manifest: Callable[[int], Mapping[str, np.ndarray]]
    read_flags: Callable[[int], np.ndarray]
    write: Callable[[int, Mapping[str, Mapping[str, np.ndarray]]], None]
    write_stack: Callable[[int, int, StackSums], None]
    keeping: Callable[[int], AbstractContextManager[Keep]]
    searching: Callable[[int], AbstractContextManager[Keep]]


def survey_block(job: Survey, block: int, lost: Mapping[int, str] | None = None) -> BlockSummary:
    """Survey the frames of one block that are stacked; the records of all others stay empty.

    Parameters
    ----------
    job : Survey
        What the survey needs to know of the part.
    block : int
        Number of the block of frames.
    lost : dict of str, optional
        Frames of the block that end the process they are worked on in, with what happened: they are not touched.
    """
    manifest = job.read_manifest(block)
    n_frames = len(manifest["file"])
    start = block * job.frames_per_block
    groups = stack_groups(start, start + n_frames, job.n_frames, job.stack_frames)
    surveyed = np.flatnonzero(groups >= 0).tolist()
    with (
        _only_of(star_profiles.candidates(job.n_frames, job.stack_frames), job.keeping, block, start, n_frames) as keep,
        _only_of(lasting.candidates(job.n_frames, job.stack_frames), job.searching, block, start, n_frames) as mark,
    ):
        results = _survey_frames(job, block, manifest, groups, lost or {}, keep, mark)
    if not job.read_flags(block).any():  # sums that were lost are made again; the records are there
        arrays = block_arrays(job.steps, results, manifest)
        arrays["frames"]["flags"][groups < 0] = 0
        job.write(block, arrays)
    return summarise(block, [results[index].message for index in surveyed], manifest["file"][surveyed])


@contextlib.contextmanager
def _only_of(
    chosen: np.ndarray,
    keeping: Callable[[int], AbstractContextManager[Keep]],
    block: int,
    start: int,
    n_frames: int,
) -> Iterator[KeepSome]:
    """Where arrays of the chosen frames of a block are kept; a file is made when the block has such frames."""
    mine = {*chosen[(chosen >= start) & (chosen < start + n_frames)].tolist()}
    with keeping(block) if mine else contextlib.nullcontext() as keep:

        def keep_some(index: int, arrays: Callable[[], Mapping[str, np.ndarray]]) -> None:
            if keep is not None and index in mine:
                keep(index, arrays())

        yield keep_some


def _survey_frames(
    job: Survey,
    block: int,
    manifest: Mapping[str, np.ndarray],
    groups: np.ndarray,
    lost: Mapping[int, str],
    keep: KeepSome,
    mark: KeepSome,
) -> list[FrameResult]:
    """Survey the frames of a block that are in a group of the stack, and write their sums; a result for each frame."""
    start, last = block * job.frames_per_block, {group: index for index, group in enumerate(groups.tolist())}
    stack: PartialStack | None = None
    results = [FrameResult(FrameFlag(0)) for _ in groups]
    for index in np.flatnonzero(groups >= 0).tolist():
        watchdog.still_working()
        entry, group = entry_of(manifest, index) | {"memory": {}}, int(groups[index])
        result = lost_frame(lost[index]) if index in lost else reduce_frame(job, entry)
        stack = stack or PartialStack(job.reference_shape)
        if not result.flags & UNUSABLE:
            stack.add(resampled(job.reference_shape, result))
            keep(start + index, functools.partial(_kept, job, entry, result))
            mark(start + index, functools.partial(_sharp, result))
        if index == last[group]:  # the groups of a night follow each other: one sum is held at a time
            job.write_stack(group, block, stack.sums)
            stack = None
        results[index] = result.without_pixels()
    return results


def _sharp(result: FrameResult) -> dict[str, np.ndarray]:
    """Pixels of a frame that are too sharp to be stars: those that are so in many frames are bad."""
    return {"sharp": sharp_pixels(result)}


def _kept(job: Aligning, entry: Mapping[str, object], result: FrameResult) -> Mapping[str, np.ndarray]:
    """Pixels of a surveyed frame that are kept for the star profile."""
    found = record_of(block_arrays(job.steps, [result], {"scan_flags": np.zeros(1, dtype=np.uint32)}))
    return keep_pixels(job.steps, entry, found, star_form(found, job.steps.image_shape)).arrays


def try_frame(job: Survey, block: int, index: int) -> None:
    """Do the work of the survey on one frame of a block; write nothing."""
    start = block * job.frames_per_block + index
    if stack_groups(start, start + 1, job.n_frames, job.stack_frames)[0] < 0:
        return
    entry = entry_of(job.read_manifest(block), index) | {"memory": {}}
    result = reduce_frame(job, entry)
    if not result.flags & UNUSABLE:
        resampled(job.reference_shape, result)
        _kept(job, entry, result)
        sharp_pixels(result)


def lost_frame(reason: str) -> FrameResult:
    """Result of a frame that ended the process it was worked on in."""
    return FrameResult(FrameFlag.REDUCED | FrameFlag.WORKER_LOST, reason)


# ---------------------------------------------------------------- the tree of partial stacks


@dataclass(frozen=True)
class MergeJob:
    """Everything a task needs to add partial stacks at one level of the tree.

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
    read: Callable[[int], StackSums]
    write: Callable[[int, StackSums], None]


def merge_stacks(job: MergeJob, index: int) -> int:
    """Add ``fan_in`` partial stacks into one of the next level."""
    numbers = job.inputs[index * job.fan_in : (index + 1) * job.fan_in]
    sums = job.read(numbers[0])
    for number in numbers[1:]:  # two are held at a time
        sums = added([sums, job.read(number)])
    job.write(index, sums)
    return index
