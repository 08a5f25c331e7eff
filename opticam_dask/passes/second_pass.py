"""What one task does in the second pass: photometry of the catalogue's sources in the frames of its block.

It neither detects nor estimates the sky again: positions come from the stored transforms, the sky from the stored
mesh, evaluated only at the cut-outs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from opticam_dask.flags import UNUSABLE, FrameFlag, SourceFlag
from opticam_dask.steps.frame_steps import BlockSummary, entry_of, summarise
from opticam_dask.steps.measure import measure_arrays
from opticam_dask.steps.view import Measuring, frame_view
from opticam_dask.store.camera import photometry_group


@dataclass(frozen=True, kw_only=True)
class SecondPass(Measuring):
    """What every task of the photometry of one part needs; nothing here grows with the number of frames.

    Attributes
    ----------
    read_manifest, read_results, write : callable
        Bound functions of the store; ``read_results(block)`` gives the first-pass arrays of the block by name.
    read_flags : callable, optional
        ``read_flags(label, block)`` gives the flags of the measurements that are there; by default there are none.
    write_columns : callable, optional
        ``write_columns(block, label, first, arrays)`` writes the sources from the one at place ``first`` on.
    """

    read_manifest: Callable[[int], Mapping[str, np.ndarray]]
    read_results: Callable[[int], Mapping[str, np.ndarray]]
    write: Callable[[int, Mapping[str, Mapping[str, np.ndarray]]], None]
    read_flags: Callable[[str, int], np.ndarray] | None = None
    write_columns: Callable[[int, str, int, Mapping[str, np.ndarray]], None] | None = None


def measure_block(job: SecondPass, block: int, lost: Mapping[int, str] | None = None) -> BlockSummary:
    """Photometry of the frames of one block; the frames that were set aside are not read.

    Parameters
    ----------
    job : SecondPass
        What the second pass needs to know of the part.
    block : int
        Number of the block of frames.
    lost : dict of str, optional
        Frames of the block that end the process they are worked on in, with what happened: they are not touched.
    """
    manifest, results = job.read_manifest(block), job.read_results(block)
    begin = {label: _first_unmeasured(job, label, block) for label in job.photometers}
    arrays, messages = measure_arrays(job, manifest, results, lost, begin)
    whole = {group: columns for group, columns in arrays.items() if not begin[group.partition("/")[2]]}
    if whole:
        job.write(block, whole)
    for label, first in begin.items():
        if first:
            assert job.write_columns is not None  # whoever reads what is there can write beside it
            added = {name: values[:, first:] for name, values in arrays[photometry_group(label)].items()}
            job.write_columns(block, label, first, added)
    flags = [FrameFlag.STEP_FAILED if message else FrameFlag.REDUCED for message in messages]
    return summarise(block, flags, messages, manifest["file"])


def _first_unmeasured(job: SecondPass, label: str, block: int) -> int:
    """Place of the first source that a label lacks in a block; 0 when all are to be measured."""
    if job.read_flags is None or len(job.stages) < 2:
        return 0
    flags = job.read_flags(label, block)
    of_source = flags.reshape(*flags.shape[:2], -1)
    if np.any(of_source & np.uint32(SourceFlag.FRAME_LOST)):  # the file may be there again
        return 0
    n_done = int(np.count_nonzero(np.cumprod(np.all(of_source != 0, axis=(0, 2)))))
    return max((stage for stage in job.stages[:-1] if stage <= n_done), default=0)


def try_frame(job: SecondPass, block: int, index: int) -> None:
    """Do the work of the second pass on one frame of a block; write nothing."""
    result = entry_of(job.read_results(block), index)
    if result["flags"] == 0 or result["flags"] & np.uint32(UNUSABLE):
        return
    view = frame_view(job, entry_of(job.read_manifest(block), index), result)
    for photometer in job.photometers.values():
        with contextlib.suppress(Exception):  # one photometer that fails does not keep the next from being tried
            photometer.measure(view)
