"""Measurement of one block: sky, sources and transform of frames not surveyed yet, and photometry of all.

A frame is read once for both. Sources of the catalogue are measured where the transform puts them, on the sky of the
stored mesh, evaluated only at the cut-outs. A frame that was surveyed before and is read again for its photometry gives
the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.flags import UNUSABLE, FrameFlag, SourceFlag
from opticam_dask.passes.survey import lost_frame
from opticam_dask.steps.align import Aligning, reduce_frame
from opticam_dask.steps.frame_steps import BlockSummary, entry_of, summarise
from opticam_dask.steps.measure import empty_arrays, mark_placed, measure_frame, measure_lost
from opticam_dask.steps.records import block_arrays, record_of
from opticam_dask.steps.view import Measuring, frame_view
from opticam_dask.store.camera import photometry_group

#: Arrays of a block by group and variable.
Arrays = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Everything a task needs to measure blocks of one part; its size does not grow with the number of frames.

    Attributes
    ----------
    alignment : Aligning
        Settings for sky, sources and transform of frames that were not surveyed.
    measuring : Measuring or None
        Settings of the photometry; None where there is no catalogue, or no photometer.
    read_manifest, read_results, read_records, read_flags, write, write_columns : callable
        Bound functions of the store. ``read_results(block)`` gives what measuring needs of the records of the block by
        name, ``read_records(block)`` all of them by group and name; ``read_flags(label, block)`` the flags of the
        measurements that are there; ``write_columns(block, label, first, arrays)`` writes the sources from the one at
        place ``first`` on.
    """

    alignment: Aligning
    measuring: Measuring | None
    read_manifest: Callable[[int], Mapping[str, np.ndarray]]
    read_results: Callable[[int], Mapping[str, np.ndarray]]
    read_records: Callable[[int], Arrays]
    read_flags: Callable[[str, int], np.ndarray]
    write: Callable[[int, Mapping[str, Mapping[str, np.ndarray]]], None]
    write_columns: Callable[[int, str, int, Mapping[str, np.ndarray]], None]


def measure_block(job: Measure, block: int, lost: Mapping[int, str] | None = None) -> BlockSummary:
    """Measure one block of frames, each on one read, and write it, the flags last.

    Frames that are set aside are not measured, and those that were set aside before are not read.

    Parameters
    ----------
    job : Measure
        Settings of the part, and its place in the store.
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
    begin = {} if is_new.any() else _first_unmeasured(job, block)
    messages, unmeasured = [""] * n_frames, [""] * n_frames
    for index in range(n_frames):
        watchdog.still_working()
        entry, result = entry_of(manifest, index) | {"memory": {}}, entry_of(results, index)
        if is_new[index]:
            result = _find_out(job.alignment, entry, lost.get(index), records, index)
            messages[index] = str(result["message"])
        if job.measuring is None or FrameFlag(int(result["flags"])) & UNUSABLE:
            continue
        if index in lost:
            unmeasured[index] = measure_lost(job.measuring, lost[index], index, columns)
        else:
            unmeasured[index] = measure_frame(job.measuring, entry, result, index, columns, begin)
    if job.measuring is not None:
        mark_placed(job.measuring, columns)
    _write(job, block, records, columns, begin)
    return summarise(block, messages, manifest["file"], unmeasured)


def _write(job: Measure, block: int, records: Arrays, columns: Arrays, begin: Mapping[str, int]) -> None:
    """Write records and measurements; of a label that lacks only its newest sources, the columns of those."""
    added = {photometry_group(label): (label, first) for label, first in begin.items() if first}
    job.write(block, records | {group: values for group, values in columns.items() if group not in added})
    for group, (label, first) in added.items():
        job.write_columns(block, label, first, {name: values[:, first:] for name, values in columns[group].items()})


def _first_unmeasured(job: Measure, block: int) -> dict[str, int]:
    """Place of the first source that a label lacks in a block, by label; 0 when all are to be measured."""
    stages, labels = ((), ()) if job.measuring is None else (job.measuring.stages, tuple(job.measuring.photometers))
    if len(stages) < 2:
        return dict.fromkeys(labels, 0)
    found = {}
    for label in labels:
        flags = job.read_flags(label, block)
        of_source = flags.reshape(*flags.shape[:2], -1)
        n_done = int(np.count_nonzero(np.cumprod(np.all(of_source != 0, axis=(0, 2)))))
        if np.any(of_source & np.uint32(SourceFlag.FRAME_LOST)):  # the file may be there again
            n_done = 0
        found[label] = max((stage for stage in stages[:-1] if stage <= n_done), default=0)
    return found


def _find_out(
    alignment: Aligning, entry: Mapping[str, Any], lost: str | None, records: Arrays, index: int
) -> dict[str, Any]:
    """Sky, sources and transform of one frame, put into row ``index`` of the records."""
    found = reduce_frame(alignment, entry) if lost is None else lost_frame(lost)
    row = block_arrays(alignment.steps, [found], {"scan_flags": np.array([entry["scan_flags"]], dtype=np.uint32)})
    for group, variables in row.items():
        for name, values in variables.items():
            records[group][name][index] = values[0]
    return record_of(row)


def try_frame(job: Measure, block: int, index: int) -> None:
    """Do the work on one frame of a block; write nothing."""
    entry = entry_of(job.read_manifest(block), index) | {"memory": {}}
    result = entry_of(job.read_results(block), index)
    if result["flags"] == 0:
        found = reduce_frame(job.alignment, entry)
        row = block_arrays(job.alignment.steps, [found], {"scan_flags": np.zeros(1, dtype=np.uint32)})
        result = record_of(row)
    if job.measuring is None or result["flags"] & np.uint32(UNUSABLE):
        return
    view = frame_view(job.measuring, entry, result)
    for photometer in job.measuring.photometers.values():
        with contextlib.suppress(Exception):  # one photometer that fails does not keep the next from being tried
            photometer.measure(view)
