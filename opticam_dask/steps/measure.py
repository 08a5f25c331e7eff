"""Photometry of the sources of a catalogue in the frames of a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.cluster import watchdog
from opticam_dask.flags import UNUSABLE, FrameFlag, SourceFlag
from opticam_dask.methods.frame_view import Measurement, Photometer
from opticam_dask.steps.frame_steps import FrameProblem, FrameSteps, entry_of, error_text
from opticam_dask.steps.pixels import read_pixels
from opticam_dask.steps.view import Measuring, frame_view
from opticam_dask.store.camera import photometry_group


def measured_variables(photometer: Photometer, *, has_common_error: bool = False) -> tuple[str, ...]:
    """What a photometer measures beyond the variables of every label; also the error common to all frames, if any."""
    names = tuple(getattr(photometer, "variables", ()))
    return (*names, *(name for name in _COMMON_ERROR if has_common_error and name not in names))


def has_common_error(steps: FrameSteps, profile_err: float) -> bool:
    """Whether fluxes have an error that is common to all frames: that of a master flat, or of the star profile."""
    return steps.has_flat or profile_err > UNCERTAIN_TOTAL


#: Total fluxes that the star profile leaves uncertain by more than this part have that error, and it is told.
UNCERTAIN_TOTAL = 0.005

#: Variables that every label has when frames are divided by a flat, or their star profile is uncertain.
_COMMON_ERROR = ("flux_err_sys",)


def measured_radii(photometer: Photometer) -> tuple[float, ...]:
    """Radii of the last dimension of what a photometer measures; empty without one."""
    return tuple(getattr(photometer, "radii", ()))


def empty_columns(
    photometer: Photometer, n_frames: int, n_sources: int, *, has_common_error: bool = False
) -> dict[str, np.ndarray]:
    """Arrays for the measurements of a block, before any frame is measured: no number, and the flag that says so."""
    radii = measured_radii(photometer)
    sizes = {"frame": n_frames, "source": n_sources, "radius": len(radii)}
    kind = "photometry_radii" if radii else "photometry"
    columns = {}
    for name in (*schema.ALWAYS_MEASURED, *measured_variables(photometer, has_common_error=has_common_error)):
        shape = tuple(sizes[dim] for dim in schema.variable(kind, name).dims)
        if name == "flags":
            columns[name] = np.full(shape, int(SourceFlag.REDUCED | SourceFlag.NO_TRANSFORM), dtype=np.uint32)
        else:
            columns[name] = np.full(shape, np.nan)
    return columns


def empty_arrays(job: Measuring, n_frames: int) -> dict[str, dict[str, np.ndarray]]:
    """Arrays for the measurements of some frames by group (``photometry/<label>``), before any is measured."""
    is_common = has_common_error(job.steps, job.profile_err)
    return {
        photometry_group(label): empty_columns(photometer, n_frames, len(job.catalog_xy), has_common_error=is_common)
        for label, photometer in job.photometers.items()
    }


def mark_placed(job: Measuring, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    """Flag the measurements of sources that were placed."""
    for columns in arrays.values():
        columns["flags"][:, job.n_found :] |= np.uint32(SourceFlag.PLACED)


def measure_arrays(
    job: Measuring,
    manifest: Mapping[str, np.ndarray],
    results: Mapping[str, np.ndarray],
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Photometry of some frames; nothing is written.

    Parameters
    ----------
    job : Measuring
        What the second pass needs to know of the part.
    manifest, results : dict of ndarray, shape (frame, ...)
        What the headers and the first pass say about the frames.

    Returns
    -------
    arrays : dict of dict of ndarray
        Measurements by group (``photometry/<label>``) and variable.
    messages : list of str
        Why a frame could not be measured; empty where it could.
    """
    n_frames = len(manifest["file"])
    arrays = empty_arrays(job, n_frames)
    messages = [""] * n_frames
    usable = (results["flags"] != 0) & ((results["flags"] & np.uint32(UNUSABLE)) == 0)
    for index in np.flatnonzero(usable).tolist():
        watchdog.still_working()
        entry, result = entry_of(manifest, index), entry_of(results, index)
        messages[index] = measure_frame(job, entry, result, index, arrays)
    mark_placed(job, arrays)
    return arrays, messages


def measure_lost(job: Measuring, reason: str, index: int, arrays: dict[str, dict[str, np.ndarray]]) -> str:
    """Mark the frame in row ``index``, which ends the process it is measured in; return why."""
    _flag_row(arrays, list(job.photometers), index, SourceFlag.WORKER_LOST)
    return reason


def measure_frame(
    job: Measuring,
    entry: Mapping[str, Any],
    result: Mapping[str, Any],
    index: int,
    arrays: dict[str, dict[str, np.ndarray]],
    begin: Mapping[str, int] | None = None,
) -> str:
    """Measure one frame into row ``index``; return why it could not be measured, or nothing."""
    messages: dict[str, None] = {}
    begin, pixels = begin or {}, None
    for stage, (first, last) in enumerate(pairwise((0, *(job.stages or (len(job.catalog_xy),))))):
        wanted = {label: photometer for label, photometer in job.photometers.items() if begin.get(label, 0) <= first}
        if not wanted:
            continue
        try:
            pixels = pixels or read_pixels(job.steps, entry, whole_frames=job.whole_frames)
            view = frame_view(job.at_stage(stage, entry["mjd_utc"]), entry, result, pixels)
        except FrameProblem as problem:
            is_lost = bool(problem.flag & (FrameFlag.UNREADABLE | FrameFlag.FILE_CHANGED))
            _flag_row(arrays, list(wanted), index, SourceFlag.FRAME_LOST if is_lost else SourceFlag.STEP_FAILED)
            return f"{problem.message} {_WHEN_LOST}" if is_lost else problem.message
        for label, photometer in wanted.items():
            columns = {name: values[:, first:last] for name, values in arrays[photometry_group(label)].items()}
            try:
                measured = (_forced(photometer) if stage else photometer).measure(view)
            except Exception as error:  # noqa: BLE001 - a user's photometer may raise anything; one bad frame must not stop the night
                columns["flags"][index] = int(SourceFlag.REDUCED | SourceFlag.STEP_FAILED)
                messages[f"photometer {label}: {error_text(error)}"] = None
                continue
            _keep(job, measured, columns, index, slice(first, last))
    return "; ".join(messages)


def _keep(job: Measuring, measured: Measurement, columns: dict[str, np.ndarray], index: int, sources: slice) -> None:
    """Put what was measured of some sources of a frame into row ``index`` of their columns."""
    for name in set(columns) - {"flags"}:
        values = getattr(measured, name)
        columns[name][index] = np.nan if values is None else np.asarray(values)[sources]
    if job.profile_err > UNCERTAIN_TOTAL:
        of_profile = job.profile_err * np.abs(columns["flux"][index])
        columns["flux_err_sys"][index] = np.hypot(np.nan_to_num(columns["flux_err_sys"][index]), of_profile)
    columns["flags"][index] = np.asarray(measured.flags, dtype=np.uint32)[sources] | np.uint32(SourceFlag.REDUCED)


def _forced(photometer: Photometer) -> Photometer:
    """A photometer that stays at the predicted places, which is how placed sources are measured."""
    has_choice = is_dataclass(photometer) and hasattr(photometer, "forced")
    return replace(photometer, forced=True) if has_choice else photometer  # type: ignore[type-var]  # a dataclass


#: What helps against a file that is gone or changed since the first pass.
_WHEN_LOST = "(the first pass could use it: bring the file back and run the same command again to measure it)"


def _flag_row(
    arrays: dict[str, dict[str, np.ndarray]], labels: list[str], index: int, flag: SourceFlag = SourceFlag.STEP_FAILED
) -> None:
    """Mark the frame in row ``index`` as one in which the second pass failed."""
    for label in labels:
        arrays[photometry_group(label)]["flags"][index] = int(SourceFlag.REDUCED | flag)
