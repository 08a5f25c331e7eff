"""Measuring one block: what the survey has not found out about its frames, and the photometry of their sources.

A frame is read once. Sources are measured where the transform puts those of the catalogue, on the sky of the stored
mesh, evaluated only at the cut-outs. The two can be done one after the other as well: the numbers are the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.passes.survey import lost_frame
from opticam_dask.steps.align import Aligning, reduce_frame
from opticam_dask.steps.frame_steps import BlockSummary, entry_of, summarise
from opticam_dask.steps.measure import empty_arrays, measure_frame, measure_lost
from opticam_dask.steps.records import block_arrays, record_of
from opticam_dask.steps.view import Measuring, frame_view

#: Arrays of a block by group and variable.
Arrays = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What every task that measures blocks of one part needs; nothing here grows with the number of frames.

    Attributes
    ----------
    alignment : Aligning
        What it takes to find out about frames that the survey has not looked at.
    measuring : Measuring or None
        What it takes to measure sources; None where there is no catalogue, or no photometer.
    read_manifest, read_results, read_records, write : callable
        Bound functions of the store. ``read_results(block)`` gives what measuring needs of the records of the block by
        name, ``read_records(block)`` all of them by group and name.
    """

    alignment: Aligning
    measuring: Measuring | None
    read_manifest: Callable[[int], Mapping[str, np.ndarray]]
    read_results: Callable[[int], Mapping[str, np.ndarray]]
    read_records: Callable[[int], Arrays]
    write: Callable[[int, Mapping[str, Mapping[str, np.ndarray]]], None]


def measure_block(job: Measure, block: int, lost: Mapping[int, str] | None = None) -> BlockSummary:
    """Measure one block of frames, each on one read, and write it, the flags last.

    Frames that are set aside are not measured, and those that were set aside before are not read.

    Parameters
    ----------
    job : Measure
        What it takes.
    block : int
        Number of the block of frames.
    lost : dict of str, optional
        Frames of the block that end the process they are worked on in, with what happened: they are not touched.
    """
    manifest, results = job.read_manifest(block), job.read_results(block)
    n_frames, lost = len(manifest["file"]), lost or {}
    is_new = results["flags"] == 0
    records = job.read_records(block) if is_new.any() else {}
    columns: Arrays = {} if job.measuring is None else empty_arrays(job.measuring, n_frames)
    messages, unmeasured = [""] * n_frames, [""] * n_frames
    flags = [FrameFlag(int(value)) for value in results["flags"]]
    for index in range(n_frames):
        watchdog.still_working()
        entry, result = entry_of(manifest, index) | {"memory": {}}, entry_of(results, index)
        if is_new[index]:
            result = _find_out(job.alignment, entry, lost.get(index), records, index)
            flags[index], messages[index] = FrameFlag(int(result["flags"])), str(result["message"])
        if job.measuring is None or flags[index] & UNUSABLE:
            continue
        if index in lost:
            unmeasured[index] = measure_lost(job.measuring, lost[index], index, columns)
        else:
            unmeasured[index] = measure_frame(job.measuring, entry, result, index, columns)
    job.write(block, records | columns)
    return summarise(block, flags, messages, manifest["file"], unmeasured)


def _find_out(
    alignment: Aligning, entry: Mapping[str, Any], lost: str | None, records: Arrays, index: int
) -> dict[str, Any]:
    """Sky, sources and transform of one frame, put into row ``index`` of the records."""
    found = reduce_frame(alignment, entry) if lost is None else lost_frame(lost)
    row = block_arrays(alignment.steps, [found], {"scan_flags": np.array([entry["scan_flags"]], dtype=np.uint32)})
    for group, variables in row.items():
        for name, values in variables.items():
            records[group][name][index] = values[0]
    return record_of(row, 0)


def try_frame(job: Measure, block: int, index: int) -> None:
    """Do the work on one frame of a block; write nothing."""
    entry = entry_of(job.read_manifest(block), index) | {"memory": {}}
    result = entry_of(job.read_results(block), index)
    if result["flags"] == 0:
        found = reduce_frame(job.alignment, entry)
        row = block_arrays(job.alignment.steps, [found], {"scan_flags": np.zeros(1, dtype=np.uint32)})
        result = record_of(row, 0)
    if job.measuring is None or result["flags"] & np.uint32(UNUSABLE):
        return
    view = frame_view(job.measuring, entry, result)
    for photometer in job.measuring.photometers.values():
        with contextlib.suppress(Exception):  # one photometer that fails does not keep the next from being tried
            photometer.measure(view)
