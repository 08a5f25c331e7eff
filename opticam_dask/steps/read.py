"""Reading of one frame: the pixels of its file, or the reason why they cannot be used."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from opticam_dask.flags import FrameFlag
from opticam_dask.frames.fits.names import file_of
from opticam_dask.frames.fits.read_pixels import ReadPixels
from opticam_dask.frames.fits.streams import checksum_of
from opticam_dask.frames.scanning import FrameError
from opticam_dask.kernels.images.counts import extremes
from opticam_dask.kernels.images.unread import unread_pixels
from opticam_dask.locations import is_remote, location
from opticam_dask.steps.frame_steps import FrameLost, FrameProblem, FrameSteps, remembered

#: Name of the lowest and the highest pixel in the memory of a frame.
EXTREMES = "extremes"

#: Seconds by which file systems may differ about the modification time of one file.
_SAME_TIME = 2.0


def read_raw(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
    """Read one frame and refuse what holds no signal.

    Parameters
    ----------
    steps : FrameSteps
        How the frames are read.
    entry : mapping
        Row of the manifest of the frame; with ``pixels`` where they are in memory already. A frame with a memory (see
        :func:`~opticam_dask.steps.frame_steps.remembered`) is read once.

    Raises
    ------
    FrameProblem
        When it cannot be read or holds no signal.
    FrameLost
        When not the frame but its whole directory cannot be read.
    """
    return np.asarray(read_stored(steps, entry))


def read_stored(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
    """As :func:`read_raw`, with variances and overscan levels where the file has them (``ReadPixels``)."""
    raw: np.ndarray = remembered(entry, "raw", lambda: _read_checked(steps, entry))
    return raw


def _read_checked(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
    _require_same_file(entry)
    stored: np.ndarray = entry["pixels"] if "pixels" in entry else _read_file(steps, entry)
    raw = np.asarray(stored)
    if raw.shape != steps.shape:
        raise FrameProblem(
            FrameFlag.FILE_CHANGED, f"shape is {raw.shape}, it was {steps.shape} when the headers were read"
        )
    lowest, highest = remembered(entry, EXTREMES, lambda: extremes(raw))
    if not (np.isfinite(lowest) or np.isfinite(highest) or np.isfinite(raw).any()):
        raise FrameProblem(FrameFlag.NO_DATA, "no pixel holds a finite number")
    level = entry["saturation"]
    saturated = above(raw, level, highest)
    if saturated is not None and np.count_nonzero(saturated) > raw.size / 2:
        raise FrameProblem(FrameFlag.SATURATED, f"more than half of the pixels are at or above {level:g} ADU")
    if lowest == highest:
        raise FrameProblem(FrameFlag.CONSTANT, f"all pixels are {lowest:g}")
    unread = unread_pixels(raw, lowest)
    return stored if unread is None else _without(stored, unread)


def _without(stored: np.ndarray, unread: np.ndarray) -> np.ndarray:
    """Pixels of a frame with NaN for those that were not read out."""
    kept = stored.astype(np.result_type(stored.dtype, np.float32))
    kept[unread] = np.nan
    if isinstance(stored, ReadPixels):
        return ReadPixels.of(np.asarray(kept), stored.variance, stored.taken)
    return kept


def above(raw: np.ndarray, level: float | np.ndarray, highest: float | None = None) -> np.ndarray | None:
    """Mask of pixels at or above a level (ADU, one for all or one a pixel); None where none is or the level is NaN.

    The ``highest`` pixel is looked for where it is not known. A pixel whose own level is NaN is not marked.
    """
    if not (extremes(raw)[1] if highest is None else highest) >= np.fmin.reduce(level, axis=None):
        return None
    # whole numbers are compared as they are: conversion to floats takes longer than all the rest
    if raw.dtype.kind in "iu" and not isinstance(level, np.ndarray):
        lowest = np.iinfo(raw.dtype).min
        level = raw.dtype.type(max(math.ceil(level), lowest))
    with np.errstate(invalid="ignore"):
        marked: np.ndarray = raw >= level
    return marked


def _read_file(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
    try:
        return steps.reader.read(entry["file"])
    except FrameError as error:
        if isinstance(error.__cause__, OSError):
            _require_directory(file_of(entry["file"]))
        raise FrameProblem(FrameFlag.UNREADABLE, error.reason) from error


def _require_same_file(entry: Mapping[str, Any]) -> None:
    """Refuse a file that was written again since its header was read: exposure, gain and time are of the old one.

    Raises
    ------
    FrameProblem
    """
    with contextlib.suppress(OSError):  # a file that is gone: whoever reads it says so
        if not _is_as_scanned(entry):
            raise FrameProblem(FrameFlag.FILE_CHANGED, "the file was written again after its header was read")


def is_back(entry: Mapping[str, Any]) -> bool:
    """Whether the file of a frame is there (again), as it was when its header was read."""
    file = file_of(entry["file"])
    try:
        is_there = location(file).exists() if is_remote(file) else os.access(file, os.R_OK)
        return is_there and _is_as_scanned(entry)
    except (OSError, ValueError):
        return False


def _is_as_scanned(entry: Mapping[str, Any]) -> bool:
    """Whether a file is the one that was scanned; True where that takes a request to another machine."""
    if is_remote(entry["file"]):
        return True
    file = file_of(entry["file"])
    status = os.stat(file)
    is_same_time = abs(status.st_mtime - entry["file_mtime"]) <= _SAME_TIME
    if status.st_size != entry["file_size"] or not is_same_time:
        return False
    # another file may have been given the time of this one; permissions, names and copies do not change a frame
    is_known = entry["file_checksum"] == 0 or status.st_ctime == entry["file_ctime"]
    return bool(is_known or _checksum_of(file) == entry["file_checksum"])


def _checksum_of(file: str) -> int:
    with open(file, "rb") as stream:
        return checksum_of(stream.fileno(), os.fstat(stream.fileno()).st_size)


def _require_directory(file: str) -> None:
    """Raise when the directory of a file is gone or empty, as when a disk is unmounted: no fault of the frame."""
    directory = os.path.dirname(file)
    if is_remote(file):
        is_there, reason = _is_reachable(directory)
    else:
        is_there, reason = _is_filled(directory)
    if not is_there:
        raise FrameLost(
            f"{directory}, which held {os.path.basename(file)}, cannot be read any more ({reason}). "
            "What was reduced is kept: bring it back and run the same command again to go on. When the frames have "
            "moved, opticam-dask relocate OUT DATA tells the reduction where they are."
        )


def _is_reachable(url: str) -> tuple[bool, str]:
    try:
        return location(url).exists(), "nothing is there"
    except (OSError, ValueError) as error:
        return False, getattr(error, "strerror", None) or str(error)


def _is_filled(directory: str) -> tuple[bool, str]:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None, "is empty"
    except OSError as error:
        return False, error.strerror or str(error)
