"""Apertures of several sizes in some frames of the reference night, by which the best of them is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.flags import SourceFlag
from opticam_dask.methods.frame_view import TrialFluxes
from opticam_dask.methods.photometers import TRIAL_RADII, AperturePhotometer
from opticam_dask.passes.second_pass import SecondPass, frame_view
from opticam_dask.steps.frame_steps import FrameProblem, entry_of

#: Frames that are measured: the scatter of a star is then known to a tenth, its ratio in two apertures better.
N_FRAMES = 64

#: A measurement with one of these says nothing about its aperture; light of neighbours does.
_USELESS = np.uint32(
    SourceFlag.OFF_FRAME
    | SourceFlag.EDGE
    | SourceFlag.SATURATED
    | SourceFlag.NON_LINEAR
    | SourceFlag.BAD_PIXEL
    | SourceFlag.COSMIC_RAY
)


@dataclass(frozen=True)
class TrialJob:
    """What every task of the trial needs.

    Attributes
    ----------
    second_pass : SecondPass
        What a frame looks like to a photometer.
    photometer : AperturePhotometer
        That of :func:`trial_photometer`.
    frames : tuple of int
        The frames that are measured.
    frames_per_block : int
    read_manifest, read_results : callable
        Bound functions of the store.
    """

    second_pass: SecondPass
    photometer: AperturePhotometer
    frames: tuple[int, ...]
    frames_per_block: int
    read_manifest: Callable[[int], Mapping[str, np.ndarray]]
    read_results: Callable[[int], Mapping[str, np.ndarray]]


#: Fluxes, errors and flags of one frame, shape (source, radius) each.
Measured = tuple[np.ndarray, np.ndarray, np.ndarray]


def measure_block(job: TrialJob, block: int, lost: Mapping[int, str] | None = None) -> dict[int, Measured]:
    """Measure the chosen frames of a block, by the index of the frame; those that cannot be read are left out."""
    manifest, results = job.read_manifest(block), job.read_results(block)
    found: dict[int, Measured] = {}
    for index in job.frames:
        number, offset = divmod(index, job.frames_per_block)
        if number != block or (lost is not None and offset in lost):
            continue
        watchdog.still_working()
        measured = _measure_frame(job, entry_of(manifest, offset), entry_of(results, offset))
        if measured is not None:
            found[index] = measured
    return found


def try_frame(job: TrialJob, block: int, offset: int) -> None:
    """Do the work on one frame of a block, if it is a chosen one."""
    if block * job.frames_per_block + offset in job.frames:
        _measure_frame(job, entry_of(job.read_manifest(block), offset), entry_of(job.read_results(block), offset))


def _measure_frame(job: TrialJob, entry: Mapping[str, Any], result: Mapping[str, Any]) -> Measured | None:
    try:
        view = frame_view(job.second_pass, entry, result)
    except FrameProblem:
        return None
    measured = job.photometer.measure(view)
    return measured.flux, measured.flux_err, measured.flags


def collect(found: Mapping[int, Measured]) -> TrialFluxes | None:
    """Fluxes of all frames in the order of the frames; None without any frame."""
    if not found:
        return None
    flux, error, flags = (np.stack([found[index][column] for index in sorted(found)]) for column in range(3))
    return TrialFluxes(TRIAL_RADII, flux, error, (flags & _USELESS) != 0)
