"""Stack of a part: its frames and their groups, the sums of blocks added in a tree, and the mean of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from opticam_dask.cluster.executors import Executor, Work
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images import lasting
from opticam_dask.kernels.images.stack import StackSums, combine_groups, mean_rms, stack_groups, stack_selection
from opticam_dask.passes import survey
from opticam_dask.pipeline.reduction import Progress, Setup, stage
from opticam_dask.store.camera import Part
from opticam_dask.store.ownership import check_owner
from opticam_dask.store.scratch import read_partial_stack, write_partial_stack

#: Partial stacks that one task of the tree adds.
_FAN_IN = 8


def stacked_frames(setup: Setup, part: Part) -> np.ndarray:
    """Indices of the frames of a part that are stacked; the survey looks at the same frames."""
    return stack_selection(part.n_frames, setup.parameters.stack_frames)


def _frames_of_groups(setup: Setup, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a part that are stacked, and the group of the stack that each is summed in."""
    selected = stacked_frames(setup, part)
    return selected, stack_groups(0, part.n_frames, part.n_frames, setup.parameters.stack_frames)[selected]


def _stack_blocks(setup: Setup, part: Part) -> dict[int, Sequence[int]]:
    """Blocks with frames of each group of the stack; consecutive ones as a range, which is small in a graph."""
    selected, groups = _frames_of_groups(setup, part)
    found: dict[int, Sequence[int]] = {}
    for group in np.unique(groups).tolist():
        numbers = np.unique(selected[groups == group] // part.frames_per_block).tolist()
        is_range = len(numbers) == numbers[-1] - numbers[0] + 1
        found[group] = range(numbers[0], numbers[-1] + 1) if is_range else numbers
    return found


def blocks_without_sums(setup: Setup, part: Part, among: range) -> list[int]:
    """Blocks, of those in ``among``, that lack their partial stack or what their frames tell of bad pixels."""
    without_sums = [
        block
        for group, numbers in _stack_blocks(setup, part).items()
        for block in numbers
        if block in among and not part.partial_stack_file(_level_name(0, group, block)).is_file()
    ]
    return without_sums + [
        block for block in _searched(setup, part) if block in among and not part.is_kept(block, "sums")
    ]


def _searched(setup: Setup, part: Part) -> list[int]:
    """Blocks of a part that hold a frame in which bad pixels are looked for."""
    chosen = lasting.candidates(part.n_frames, setup.parameters.stack_frames)
    found: list[int] = np.unique(chosen // part.frames_per_block).tolist()
    return found


def _level_name(level: int, group: int, number: int) -> str:
    return f"level-{level}-{group}-{number:06d}"


def write_partial(part: Part, level: int, group: int, number: int, sums: StackSums) -> None:
    """Write the sums of some stacked frames to a scratch file."""
    write_partial_stack(part.partial_stack_file(_level_name(level, group, number)), *sums)


def _read_partial(part: Part, level: int, group: int, number: int) -> StackSums:
    return StackSums(*read_partial_stack(part.partial_stack_file(_level_name(level, group, number))))


def finish_stacks(setup: Setup, parts: Sequence[Part], executor: Executor, progress: Progress) -> None:
    """Add the partial stacks of each group of some parts in a tree, and store the mean of what the groups agree on.

    Parts that have a stack are left as they are, all others go side by side.
    """
    check_owner(setup.out_directory)
    todo = [part for part in parts if not part.stack.is_whole]
    with stage(progress, "Adding up stacks", len(todo), "nights"):
        names = _merge_groups(setup, todo, executor)
        work = [
            Work(functools.partial(_write_stack, setup, part, of_part), [number], "stack", has_time_limit=False)
            for number, (part, of_part) in enumerate(zip(todo, names, strict=True))
        ]
        for number, n_bad in executor.run(work):
            progress.advance(1)
            if n_bad:
                part = f"{todo[number].key} {todo[number].night}"
                progress.tell(f"{part}: {n_bad} pixels are hot or dark all night: bad ones.")


def _write_stack(setup: Setup, part: Part, names: Sequence[tuple[int, int, int]], number: int) -> tuple[int, int]:
    """Task that writes the stack of a part, from the sums of its groups of frames; also how many pixels are bad."""
    image, coverage = combine_groups([_read_partial(part, *name) for name in names], _rms_of_groups(setup, part))
    bad = _bad_pixels(setup, part)
    found = {"image": image, "coverage": coverage} | ({"bad_pixel": bad} if len(bad) else {})
    part.stack.write(found, {"n_frames": int(coverage.max(initial=0))})
    part.remove_partial_stacks()
    return number, len(bad)


def _bad_pixels(setup: Setup, part: Part) -> np.ndarray:
    """Pixels that are hot or dark in most of the frames of a part that were searched; none where these are few."""
    sharp = [arrays["sharp"] for block in _searched(setup, part) for _, arrays in part.kept(block, folder="sums")]
    return lasting.bad_all_night(sharp, setup.steps_of(part).image_shape)


def _merge_groups(setup: Setup, parts: Sequence[Part], executor: Executor) -> list[list[tuple[int, int, int]]]:
    """Add the partial stacks of each group of each part; level, group and number of what then holds all of a group."""
    inputs = {
        (place, group): of for place, part in enumerate(parts) for group, of in _stack_blocks(setup, part).items()
    }
    levels = dict.fromkeys(inputs, 0)
    while unfinished := [name for name, numbers in inputs.items() if len(numbers) > 1]:
        work = []
        for name in unfinished:
            part, group = parts[name[0]], name[1]
            job = survey.MergeJob(
                inputs=inputs[name],
                fan_in=_FAN_IN,
                read=functools.partial(_read_partial, part, levels[name], group),
                write=functools.partial(write_partial, part, levels[name] + 1, group),
            )
            inputs[name] = range(-(-len(inputs[name]) // _FAN_IN))
            levels[name] += 1
            merge = functools.partial(survey.merge_stacks, job)
            work.append(Work(merge, list(inputs[name]), "merge-stacks"))
        for _ in executor.run(work):
            pass
    found: list[list[tuple[int, int, int]]] = [[] for _ in parts]
    for (place, group), numbers in inputs.items():
        found[place].append((levels[place, group], group, numbers[0]))
    return found


def _rms_of_groups(setup: Setup, part: Part) -> np.ndarray:
    """Background RMS of the frames of each group of the stack, electrons; 0 for a group without frames."""
    rms = part.frames["background_rms"]
    flags = part.frames["flags"]
    selected, groups = _frames_of_groups(setup, part)
    is_known = np.isfinite(rms[selected]) & ((flags[selected] & np.uint32(UNUSABLE)) == 0)
    of_groups = [rms[selected[is_known & (groups == group)]] for group in np.unique(groups)]
    return np.array([mean_rms(some) for some in of_groups])
