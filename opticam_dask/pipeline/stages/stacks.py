"""Stack of a part: its frames and their groups, the sums of blocks added in a tree, and the mean of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from opticam_dask.cluster.executors import Executor, Work
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images.stack import StackSums, combine_groups, mean_rms, stack_groups, stack_selection
from opticam_dask.passes import survey
from opticam_dask.pipeline.reduction import Setup
from opticam_dask.store.camera import Part
from opticam_dask.store.ownership import check_owner
from opticam_dask.store.scratch import read_partial_stack, write_partial_stack

#: Partial stacks that one task of the tree adds.
_FAN_IN = 8


def stacked_frames(setup: Setup, part: Part) -> np.ndarray:
    """Frames of a part that are stacked, which are those that are surveyed."""
    return stack_selection(part.n_frames, setup.parameters.stack_frames)


def _frames_of_groups(setup: Setup, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a part that are stacked, and the group of the stack that each is summed in."""
    selected = stacked_frames(setup, part)
    return selected, stack_groups(0, part.n_frames, part.n_frames, setup.parameters.stack_frames)[selected]


def _stack_blocks(setup: Setup, part: Part) -> dict[int, Sequence[int]]:
    """Blocks that hold a frame of each group of the stack; a range where it is all of them, small in a graph."""
    selected, groups = _frames_of_groups(setup, part)
    found: dict[int, Sequence[int]] = {}
    for group in np.unique(groups).tolist():
        numbers = np.unique(selected[groups == group] // part.frames_per_block).tolist()
        is_range = len(numbers) == numbers[-1] - numbers[0] + 1
        found[group] = range(numbers[0], numbers[-1] + 1) if is_range else numbers
    return found


def blocks_without_sums(setup: Setup, part: Part, among: range) -> list[int]:
    """Blocks, of those in ``among``, that hold a stacked frame and whose partial stack is not there."""
    return [
        block
        for group, numbers in _stack_blocks(setup, part).items()
        for block in numbers
        if block in among and not part.partial_stack_file(_level_name(0, group, block)).is_file()
    ]


def _level_name(level: int, group: int, number: int) -> str:
    return f"level-{level}-{group}-{number:06d}"


def write_partial(part: Part, level: int, group: int, number: int, sums: StackSums) -> None:
    """Write the sums of some stacked frames to a scratch file."""
    write_partial_stack(part.partial_stack_file(_level_name(level, group, number)), *sums)


def _read_partial(part: Part, level: int, group: int, number: int) -> StackSums:
    return StackSums(*read_partial_stack(part.partial_stack_file(_level_name(level, group, number))))


def finish_stack(setup: Setup, part: Part, executor: Executor) -> None:
    """Add the partial stacks of each group of a part in a tree, and store the mean of what the groups agree on."""
    check_owner(setup.out_directory)
    if part.stack.is_whole:
        return
    names = _merge_groups(setup, part, executor)
    groups = [_read_partial(part, *name) for name in names]
    image, coverage = combine_groups(groups, _rms_of_groups(setup, part))
    arrays = {"image": image, "coverage": coverage}
    part.stack.write(arrays, {"n_frames": int(coverage.max(initial=0))})
    part.remove_partial_stacks()


def _merge_groups(setup: Setup, part: Part, executor: Executor) -> list[tuple[int, int, int]]:
    """Add the partial stacks of each group; level, group and number of what then holds all of a group."""
    inputs = _stack_blocks(setup, part)
    levels = dict.fromkeys(inputs, 0)
    while unfinished := [group for group, numbers in inputs.items() if len(numbers) > 1]:
        work = []
        for group in unfinished:
            job = survey.MergeJob(
                inputs=inputs[group],
                fan_in=_FAN_IN,
                read=functools.partial(_read_partial, part, levels[group], group),
                write=functools.partial(write_partial, part, levels[group] + 1, group),
            )
            inputs[group] = range(-(-len(inputs[group]) // _FAN_IN))
            levels[group] += 1
            merge = functools.partial(survey.merge_stacks, job)
            work.append(Work(merge, list(inputs[group]), "merge-stacks"))
        for _ in executor.run(work):
            pass
    return [(levels[group], group, numbers[0]) for group, numbers in inputs.items()]


def _rms_of_groups(setup: Setup, part: Part) -> np.ndarray:
    """Background RMS of the frames of each group of the stack, electrons; 0 for a group without frames."""
    rms = part.frames["background_rms"]
    flags = part.frames["flags"]
    selected, groups = _frames_of_groups(setup, part)
    is_known = np.isfinite(rms[selected]) & ((flags[selected] & np.uint32(UNUSABLE)) == 0)
    of_groups = [rms[selected[is_known & (groups == group)]] for group in np.unique(groups)]
    return np.array([mean_rms(some) for some in of_groups])
