"""Transforms of observers: frames that could not be aligned are where somebody matched their stars by eye."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.pipeline.reduction import Progress, Setup
from opticam_dask.pipeline.stages.borrowing import NOT_PLACED, write_transforms
from opticam_dask.store.camera import Part

_BY_HAND = np.uint32(FrameFlag.BY_HAND)
#: Message of a frame whose transform was taken back.
_TAKEN_BACK = "the transform that an observer gave it was taken back"


class Told(NamedTuple):
    """Frames of a part that observers gave a transform, and those whose transform was taken back."""

    part: Part
    frames: np.ndarray
    transform: np.ndarray
    rms: np.ndarray
    n_matched: np.ndarray
    taken_back: np.ndarray


def find_told(setup: Setup) -> Iterator[Told]:
    """Frames of all parts whose transform is not, or no longer, what observers say."""
    told = _transforms(setup)
    for part in setup.store.parts:
        flags = part.frames["flags"]
        if not any(key == part.key for key, _ in told) and not np.any(flags & _BY_HAND):
            continue
        times, now = part.frames["mjd_utc"], part.frames["transform"]
        given = {index: told[part.key, time] for index, time in enumerate(times.tolist()) if (part.key, time) in told}
        wrong = flags & np.uint32(UNUSABLE)
        due = [index for index, one in given.items() if _is_due(int(flags[index]), int(wrong[index]), now[index], one)]
        back = [index for index in np.flatnonzero(flags & _BY_HAND).tolist() if index not in given]
        if due or back:
            values = [given[index] for index in due]
            yield Told(
                part,
                np.array(due, dtype=int),
                np.array([one["transform"] for one in values]).reshape(-1, 3, 3),
                np.array([one["rms"] for one in values], dtype=float),
                np.array([one["n_matched"] for one in values], dtype=int),
                np.array(back, dtype=int),
            )


def write_told(found: Told, progress: Progress) -> list[int]:
    """Write the transforms of observers into the frames of a part; return the blocks that changed."""
    part, n_back = found.part, len(found.taken_back)
    values = {"transform": found.transform, "transform_rms": found.rms, "n_matched": found.n_matched}
    blocks = set(write_transforms(part, found.frames, values, FrameFlag.BY_HAND))
    if n_back:
        nothing = {"transform": np.full((n_back, 3, 3), np.nan), "transform_rms": np.full(n_back, np.nan)}
        blocks |= set(write_transforms(part, found.taken_back, nothing, FrameFlag.NOT_ALIGNED))
        _take_back(part, found.taken_back)
    told = (
        [f"{len(found.frames)} frame(s) get the transform of an observer (flag by_hand)"] if len(found.frames) else []
    )
    told += [f"{n_back} frame(s) lose it, as it was taken back"] if n_back else []
    progress.tell(f"{part.key} {part.night}: {', '.join(told)}.")
    return sorted(blocks)


def _take_back(part: Part, frames: np.ndarray) -> None:
    """Say of frames why they are not aligned any more."""
    for index in frames.tolist():
        block = index // part.frames_per_block
        start, stop = part.block_range(block)
        arrays = {name: np.array(part.frames.read(name, start, stop)) for name in ("message", "flags")}
        arrays["message"][index - start] = _TAKEN_BACK
        arrays["flags"][index - start] &= ~_BY_HAND
        part.write_block(block, {"frames": arrays})


def _is_due(flags: int, wrong: int, now: np.ndarray, given: dict[str, object]) -> bool:
    """Whether a frame that was looked at lacks the transform that it is given; pixels of no use stay of no use."""
    if not flags or wrong & ~int(NOT_PLACED):
        return False
    has_it = flags & int(_BY_HAND) and np.array_equal(now, np.array(given["transform"]))
    return (wrong != 0 or bool(flags & int(_BY_HAND))) and not has_it


def _transforms(setup: Setup) -> dict[tuple[str, float], dict[str, object]]:
    """Transforms that observers gave, by camera key and time of the frame; the latest counts."""
    marks = setup.store.read_marks()
    columns = (marks[name] for name in ("key", "mjd_start", "transform", "undone_when"))
    return {
        (key, mjd): json.loads(text) for key, mjd, text, undone in zip(*columns, strict=True) if text and not undone
    }
