"""How one frame becomes a sky-subtracted image and a list of sources: the same steps in every pass.

A bad frame gives a flag and a message; a bad call raises. Only the exceptions named here become flags:
``frames.FrameError``, the refusals of the kernels, and whatever a user's own background or finder raises on a
frame. Everything else stops the run.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from astropy.utils.exceptions import AstropyDeprecationWarning
from scipy.spatial import KDTree

from opticam_dask.flags import UNUSABLE, FrameFlag, flag_names
from opticam_dask.frames.scanning import FrameError, Reader
from opticam_dask.kernels.images import background, calibrate, detect, segments, sky, star_choice
from opticam_dask.kernels.images.masters import Masters
from opticam_dask.kernels.sources import field_form, moments, photometry
from opticam_dask.locations import is_remote, location
from opticam_dask.methods.finders import DefaultFinder

#: The seeing of a frame is measured on so many of its brightest sources.
_SEEING_SOURCES = 30

#: A source is alone when none of this part of its light is within so many times its FWHM. The seeing is that of sources
#: that are alone, where there are so many of them.
_ALONE_LIGHT, _ALONE_REACH, _ENOUGH_ALONE = 0.1, 3.0, 3

#: Sky is what is so many FWHM (and no less than these pixels) away from a source of so many times the background RMS;
#: further from brighter ones, up to so much brighter.
_SKY_FROM, _LEAST_FWHM, _FAINT, _BRIGHT = 2.0, 2.0, 100.0, 700.0


#: Seconds by which file systems may differ about the modification time of one file.
_SAME_TIME = 2.0


class Background(Protocol):
    """What a background callable returns (photutils ``Background2D`` is one)."""

    background: np.ndarray
    background_rms: np.ndarray
    background_median: float
    background_rms_median: float


class FrameProblem(Exception):
    """A frame cannot be used; carries the flag and the message to store."""

    def __init__(self, flag: FrameFlag, message: str) -> None:
        super().__init__(message)
        self.flag = flag
        self.message = message


class FrameLost(OSError):
    """Frames that were there cannot be read any more: the run stops, and can be resumed."""


@dataclass(frozen=True)
class FrameSteps:
    """How a frame becomes a sky-subtracted image and a list of sources: the same in every pass.

    Attributes
    ----------
    reader : Reader
        Reads the frames.
    shape : (int, int)
        Shape ``(ny, nx)`` of the frames as read.
    rebin_factor : int
        Pixels of the frame that are summed along each axis.
    remove_cosmic_rays : bool
        Replace cosmic rays (L.A.Cosmic) before anything else is measured.
    background : callable or None
        Own background ``image -> Background``; None is the sky mesh of this package.
    box_size : (int, int)
        Mesh box ``(ny, nx)`` in rebinned pixels.
    finder : callable
        ``(image, threshold) -> QTable``.
    threshold : float
        In units of the background RMS.
    n_slots : int
        Detected sources kept.
    masters : callable, optional
        Reads the master bias, dark and flat; called in the process that needs them, which keeps them.
    has_flat : bool
        Whether there is a flat among them.
    image_filter : callable, optional
        The user's own ``array -> array`` on the raw frame (ADU), before anything else.
    looks_for_pile_up : bool
        Whether the level at which the pixels of a frame pile up is looked for, and taken for its saturation.
    """

    reader: Reader
    shape: tuple[int, int]
    rebin_factor: int
    remove_cosmic_rays: bool
    background: Callable[[np.ndarray], Background] | None
    box_size: tuple[int, int]
    finder: Callable[[np.ndarray, np.ndarray], Any]
    threshold: float
    n_slots: int
    masters: Callable[[], Masters] | None = None
    has_flat: bool = False
    image_filter: Callable[[np.ndarray], np.ndarray] | None = None
    looks_for_pile_up: bool = False

    @property
    def image_shape(self) -> tuple[int, int]:
        """Shape ``(ny, nx)`` after rebinning."""
        return self.shape[0] // self.rebin_factor, self.shape[1] // self.rebin_factor

    @property
    def has_mesh(self) -> bool:
        """Whether the sky image is the zoom of a mesh that is stored."""
        return self.background is None

    @property
    def mesh_shape(self) -> tuple[int, int] | None:
        """Shape of the sky mesh, None without one; boxes at the far edges may be cut."""
        if not self.has_mesh:
            return None
        (ny, nx), (box_y, box_x) = self.image_shape, self.box_size
        return -(-ny // box_y), -(-nx // box_x)

    @property
    def is_local(self) -> bool:
        """Whether a pixel of the calibrated frame depends on that raw pixel alone."""
        is_plain = not self.remove_cosmic_rays and self.image_filter is None
        return self.has_mesh and is_plain and self.rebin_factor == 1

    @property
    def finds_by_segments(self) -> bool:
        """Whether frames are searched by the kernel that gives what `DefaultFinder` gives, in a tenth of the time."""
        return type(self.finder) is DefaultFinder

    def read_masters(self) -> Masters:
        """Master frames; without any where there is no calibration."""
        return Masters() if self.masters is None else self.masters()


@dataclass(frozen=True)
class Image:
    """A calibrated frame: electrons with the sky in it, and what is wrong with which pixel.

    ``pile_up`` is the level (ADU) at which its raw pixels pile up; NaN where they do not, or it was not looked for.
    """

    electrons: np.ndarray
    saturated: np.ndarray | None
    cosmic_rays: np.ndarray | None
    non_linear: np.ndarray | None
    pile_up: float = float("nan")


@dataclass(frozen=True)
class Sky:
    """Sky background of one frame, of a user's own function."""

    image: np.ndarray
    rms_image: np.ndarray
    median: float
    rms_median: float


@dataclass
class FrameResult:
    """What the first pass finds out about one frame."""

    flags: FrameFlag = FrameFlag.REDUCED
    message: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    meshes: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, np.ndarray] = field(default_factory=dict)
    subtracted: np.ndarray | None = None
    saturated: np.ndarray | None = None
    #: the frame without its sky, where the sky is a mesh; and detections for which there is no slot
    frame: sky.SubtractedFrame | None = None
    beyond_slots: dict[str, np.ndarray] = field(default_factory=dict)
    #: which sources are whole stars, and which are saturated, by slot
    is_whole: np.ndarray | None = None
    is_saturated: np.ndarray | None = None
    #: semimajor_sigma, semiminor_sigma and orientation (radians) of the sources whose moments were measured, by slot
    moments: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockSummary:
    """The small thing a task returns: how it went, and what to tell the user."""

    block: int
    n_frames: int
    n_usable: int
    flag_counts: dict[str, int]
    problems: tuple[tuple[str, str], ...]


def load_image(steps: FrameSteps, entry: Mapping[str, Any], *, for_detection: bool = False) -> Image:
    """Read and calibrate one frame.

    The order is: image filter, bias, dark, gain, flat, bad pixels, cosmic rays, rebinning.

    Parameters
    ----------
    steps : FrameSteps
        How the frames are read, calibrated and searched for sources.
    entry : mapping
        Of the manifest.
    for_detection : bool
        Single precision where it holds every digit of the pixels: enough for sky and sources. Fluxes are measured in
        double precision.

    Raises
    ------
    FrameProblem
        When the frame cannot be read, holds nothing, or is saturated.
    """
    raw = read_raw(steps, entry)
    pile_up = star_choice.pile_up(raw) if steps.looks_for_pile_up else float("nan")
    saturated = above(raw, np.fmin(entry["saturation"], pile_up))
    non_linear = above(raw, entry["linearity_limit"])
    if steps.image_filter is not None:
        raw = _filtered(steps.image_filter, raw)
    masters = steps.read_masters()
    electrons = calibrate.to_electrons(
        raw,
        gain=entry["gain"],
        dark_current=entry["dark_current"],
        exposure_time=entry["exposure_time"],
        dark_gain=masters.dark_gain,
        dtype=np.float32 if for_detection and _fits_float32(raw.dtype) else np.float64,
        **layers_of(masters, raw, entry),
    )
    cosmic_rays = None
    if steps.remove_cosmic_rays:
        level = entry["saturation"] * entry["gain"]
        electrons, cosmic_rays = calibrate.remove_cosmic_rays(
            electrons, read_noise=entry["read_noise"], saturation=np.inf if np.isnan(level) else level
        )
    if steps.rebin_factor == 1:
        return Image(electrons, saturated, cosmic_rays, non_linear, pile_up)
    saturated, cosmic_rays, non_linear = (
        None if mask is None else calibrate.rebin_mask(mask, steps.rebin_factor)
        for mask in (saturated, cosmic_rays, non_linear)
    )
    return Image(calibrate.rebin(electrons, steps.rebin_factor), saturated, cosmic_rays, non_linear, pile_up)


def layers_of(masters: Masters, raw: np.ndarray, entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Masters for one frame: a pixel may be too hot for a long exposure of a dark sky, and good in others."""
    names = ("gain", "exposure_time", "read_noise")
    return masters.layers_of(raw, **{name: float(entry[name]) for name in names})


def rebinned_response(steps: FrameSteps) -> tuple[np.ndarray, np.ndarray]:
    """Master flat in the pixels of the calibrated frame, and its error.

    The response of a rebinned pixel is the mean of its good pixels; NaN where none is good.
    """
    masters = steps.read_masters()
    assert masters.flat is not None  # asked for where there is one
    assert masters.flat_variance is not None
    response, variance = masters.flat.astype(float), masters.flat_variance.astype(float)
    if masters.bad_pixels is not None:
        response[masters.bad_pixels] = np.nan
    if steps.rebin_factor > 1:
        response, variance = calibrate.rebin_response(response, variance, steps.rebin_factor)
    return response, np.sqrt(variance)


def _fits_float32(dtype: np.dtype) -> bool:
    """Whether float32 holds every pixel of a type exactly."""
    return np.can_cast(dtype, np.float32)


def above(raw: np.ndarray, level: float) -> np.ndarray | None:
    """Pixels at or above a level in ADU; None where no pixel is, or there is no such level (NaN)."""
    if not np.fmax.reduce(raw, axis=None) >= level:
        return None
    if raw.dtype.kind in "iu":  # compared as they are: conversion to floats takes longer than all the rest
        lowest = np.iinfo(raw.dtype).min
        level = raw.dtype.type(max(math.ceil(level), lowest))
    with np.errstate(invalid="ignore"):
        marked: np.ndarray = raw >= level
    return marked


def _filtered(image_filter: Callable[[np.ndarray], np.ndarray], raw: np.ndarray) -> np.ndarray:
    try:
        filtered = np.asarray(image_filter(raw))
    except Exception as error:
        raise FrameProblem(FrameFlag.STEP_FAILED, f"image filter: {error_text(error)}") from error
    if filtered.shape != raw.shape:
        raise FrameProblem(
            FrameFlag.STEP_FAILED, f"image filter: shape {filtered.shape} came back, {raw.shape} was expected"
        )
    return filtered


def read_raw(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
    """Read one frame and refuse what holds no signal.

    Parameters
    ----------
    steps : FrameSteps
        How the frames are read.
    entry : mapping
        Of the manifest; with ``pixels`` where they are in memory already.

    Raises
    ------
    FrameProblem
    FrameLost
        When not the frame but its whole directory cannot be read.
    """
    _require_same_file(entry)
    raw = entry["pixels"] if "pixels" in entry else _read_file(steps, entry)
    if raw.shape != steps.shape:
        raise FrameProblem(
            FrameFlag.FILE_CHANGED, f"shape is {raw.shape}, it was {steps.shape} when the headers were read"
        )
    lowest, highest = np.fmin.reduce(raw, axis=None), np.fmax.reduce(raw, axis=None)
    if not (np.isfinite(lowest) or np.isfinite(highest) or np.isfinite(raw).any()):
        raise FrameProblem(FrameFlag.NO_DATA, "no pixel holds a finite number")
    level = entry["saturation"]
    saturated = above(raw, level) if highest >= level else None
    if saturated is not None and np.count_nonzero(saturated) > raw.size / 2:
        raise FrameProblem(FrameFlag.SATURATED, f"more than half of the pixels are at or above {level:g} ADU")
    if lowest == highest:
        raise FrameProblem(FrameFlag.CONSTANT, f"all pixels are {lowest:g}")
    return raw


def _read_file(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
    try:
        return steps.reader.read(entry["file"])
    except FrameError as error:
        if isinstance(error.__cause__, OSError):
            _require_directory(entry["file"])
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
    try:
        is_there = location(entry["file"]).exists() if is_remote(entry["file"]) else os.access(entry["file"], os.R_OK)
        return is_there and _is_as_scanned(entry)
    except (OSError, ValueError):
        return False


def _is_as_scanned(entry: Mapping[str, Any]) -> bool:
    """Whether a file has the size and time of the scan; True where that takes a request to another machine."""
    if is_remote(entry["file"]):
        return True
    status = os.stat(entry["file"])
    is_same_time = abs(status.st_mtime - entry["file_mtime"]) <= _SAME_TIME
    return bool(status.st_size == entry["file_size"] and is_same_time)


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


def own_sky(function: Callable[[np.ndarray], Background], image: np.ndarray) -> Sky:
    """Sky background and its RMS by a user's own function.

    Raises
    ------
    FrameProblem
    """
    try:
        with _no_deprecation_warnings():
            found = function(image)
        sky, rms = np.asarray(found.background, float), np.asarray(found.background_rms, float)
        medians = float(found.background_median), float(found.background_rms_median)
    except Exception as error:
        raise FrameProblem(FrameFlag.STEP_FAILED, f"background: {error_text(error)}") from error
    if sky.shape != image.shape or rms.shape != image.shape:
        raise FrameProblem(
            FrameFlag.STEP_FAILED,
            f"background: shape {sky.shape} and {rms.shape}, {image.shape} was expected",
        )
    return Sky(sky, rms, *medians)


@contextlib.contextmanager
def _no_deprecation_warnings() -> Iterator[None]:
    """Spare the user one warning a frame about an old name in a function of their own."""
    with warnings.catch_warnings():
        for category in (AstropyDeprecationWarning, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield


def find_sources(steps: FrameSteps, subtracted: np.ndarray, rms: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Detected sources, brightest first and NaN-padded to the slots at least, and how many there are in all.

    Raises
    ------
    FrameProblem
    """
    try:
        with _no_deprecation_warnings():
            table = steps.finder(subtracted, steps.threshold * rms)
        n_sources = 0 if table is None else len(table)
        sources = detect.source_arrays(table, max(steps.n_slots, n_sources)) if n_sources else {}
    except Exception as error:
        raise FrameProblem(FrameFlag.STEP_FAILED, f"finder: {error_text(error)}") from error
    return sources, n_sources


def _sources_of_segments(steps: FrameSteps, frame: sky.SubtractedFrame) -> tuple[dict[str, np.ndarray], int]:
    """As :func:`find_sources`, from the pixels that stand out alone."""
    assert isinstance(steps.finder, DefaultFinder)
    found = segments.find_sources(frame.image, frame.flagged, steps.finder.n_pixels, steps.finder.border_width)
    n_sources = len(found["x"])
    missing = np.full(max(0, steps.n_slots - n_sources), np.nan)
    return {name: np.append(values, missing) for name, values in found.items()}, n_sources


def detect_frame(steps: FrameSteps, entry: Mapping[str, Any], result: FrameResult) -> None:
    """Load, subtract the sky and detect; fill ``result`` as far as it goes.

    Raises
    ------
    FrameProblem
    """
    detect_sources(steps, subtract_sky(steps, entry, result), result)


def subtract_sky(steps: FrameSteps, entry: Mapping[str, Any], result: FrameResult) -> np.ndarray | None:
    """Load a frame and take its sky off; fill ``result`` with the image and the sky.

    Returns
    -------
    ndarray, shape (ny, nx), or None
        Background RMS of a user's own function; None where it is the zoom of a mesh.

    Raises
    ------
    FrameProblem
    """
    image = load_image(steps, entry, for_detection=steps.has_mesh)
    result.saturated, result.values["pile_up"] = image.saturated, image.pile_up
    if steps.background is not None:
        level = own_sky(steps.background, image.electrons)
        result.values |= {"background": level.median, "background_rms": level.rms_median}
        result.subtracted = image.electrons - level.image
        return level.rms_image
    try:
        mesh, rms_mesh = background.sky_mesh(image.electrons, steps.box_size)
    except ValueError as error:
        raise FrameProblem(FrameFlag.NO_BACKGROUND, str(error)) from error
    result.values |= {"background": float(np.median(mesh)), "background_rms": float(np.median(rms_mesh))}
    result.meshes = {"background_mesh": mesh, "background_rms_mesh": rms_mesh}
    result.frame = sky.subtract_sky(image.electrons, mesh, rms_mesh, steps.box_size, steps.threshold)
    result.subtracted = result.frame.image
    return None


def detect_sources(steps: FrameSteps, rms_image: np.ndarray | None, result: FrameResult) -> None:
    """Search a frame without its sky; fill ``result`` with sources and seeing.

    Parameters
    ----------
    steps : FrameSteps
    rms_image : ndarray, shape (ny, nx), or None
        As :func:`subtract_sky` returns it.
    result : FrameResult
        Of :func:`subtract_sky`.

    Raises
    ------
    FrameProblem
    """
    assert result.subtracted is not None  # the sky is off
    if result.frame is not None and steps.finds_by_segments:
        sources, n_sources = _sources_of_segments(steps, result.frame)
    else:
        if rms_image is None:
            rms_mesh = result.meshes["background_rms_mesh"]
            rms_image = background.zoom_mesh(rms_mesh, result.subtracted.shape, steps.box_size)
        sources, n_sources = find_sources(steps, result.subtracted, rms_image)
    _keep_sources(steps, result, sources, n_sources)


def measure_sky(result: FrameResult) -> None:
    """Correct the mesh of a frame to the level of the sky away from all detections; fills the meshes of ``result``.

    Its seeing must be final: photometry covers the same disks again.
    """
    if result.frame is None:
        return
    mesh, rms_mesh = result.meshes["background_mesh"], result.meshes["background_rms_mesh"]
    sources = {
        name: np.append(result.sources.get(name, ()), result.beyond_slots.get(name, ())) for name in ("x", "y", "flux")
    }
    disks = source_disks(
        np.column_stack([sources["x"], sources["y"]]),
        sources["flux"],
        background_rms=result.values["background_rms"],
        fwhm=result.values.get("fwhm", np.nan),
    )
    found = sky.count_sky(result.frame, mesh, rms_mesh, disks, result.saturated)
    level = found.level(rms_mesh, (result.frame.image.shape, result.frame.box_size))
    result.meshes |= {
        "background_offset_mesh": level - mesh,
        "background_n_sky": found.number,
        "background_mean_mesh": found.mean,
    }


def _keep_sources(steps: FrameSteps, result: FrameResult, sources: dict[str, np.ndarray], n_sources: int) -> None:
    """Put the sources of a frame into its result, with the seeing."""
    if not n_sources:
        raise FrameProblem(FrameFlag.NO_SOURCES, f"no source above {steps.threshold:g} times the background RMS")
    result.sources = {name: values[: steps.n_slots] for name, values in sources.items()}
    result.beyond_slots = {name: values[steps.n_slots :] for name, values in sources.items()}
    result.values["n_sources"] = n_sources
    result.is_whole, result.is_saturated = star_choice.whole_stars(result.sources, result.saturated)
    measure_seeing(result, result.is_whole)


def source_disks(xy: np.ndarray, flux: np.ndarray, *, background_rms: float, fwhm: float) -> sky.Disks:
    """Where sources shine: bright ones further than faint ones.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Sources without a position (NaN) have no disk.
    flux : ndarray, shape (n,)
        Electrons; NaN counts as faint.
    background_rms : float
        Of the frame, electrons per pixel.
    fwhm : float
        Of the frame, in pixels.
    """
    known = np.all(np.isfinite(xy), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.nan_to_num(flux[known] / (_FAINT * background_rms))
    # the wings of a Moffat star of beta 3 fall with the sixth power
    reach = np.clip(relative, 1.0, _BRIGHT) ** (1.0 / 6.0)
    return sky.Disks(xy[known], _SKY_FROM * np.fmax(fwhm, _LEAST_FWHM) * reach)


def measure_seeing(result: FrameResult, is_star: np.ndarray) -> None:
    """FWHM (median) and mean form of the brightest unsaturated stars of a frame, in pixels and degrees.

    Parameters
    ----------
    result : FrameResult
        With its image and sources; gets the numbers.
    is_star : ndarray of bool, shape (slot,)
        Which sources count.
    """
    assert result.subtracted is not None  # sources were found on it
    sources, is_alone = result.sources, is_star & _are_alone(result.sources)
    chosen = np.flatnonzero(is_alone if np.count_nonzero(is_alone) >= _ENOUGH_ALONE else is_star)[:_SEEING_SOURCES]
    positions = np.column_stack([sources["x"], sources["y"]])
    new = np.array([slot for slot in chosen.tolist() if slot not in result.moments], dtype=np.intp)
    sigma = np.sqrt(sources["semimajor_sigma"] * sources["semiminor_sigma"])[new]
    shapes = moments.source_shapes(result.subtracted, positions[new], sigma)
    result.moments.update(zip(new.tolist(), shapes.T, strict=True))
    shapes = np.array([result.moments[slot] for slot in chosen.tolist()]).reshape(-1, 3).T
    noise = result.values["background_rms"]
    form = field_form.field_shape(result.subtracted, positions[chosen], shapes, noise, saturated=result.saturated)
    result.values |= form._asdict() | {"orientation": float(np.rad2deg(form.orientation))}


def _are_alone(sources: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which sources of a frame have no neighbour whose light would add to their width."""
    xy = np.column_stack([sources["x"], sources["y"]])
    size = np.sqrt(sources["semimajor_sigma"] * sources["semiminor_sigma"])
    is_alone, known = np.zeros(len(xy), dtype=bool), np.flatnonzero(np.isfinite(xy).all(axis=1) & np.isfinite(size))
    if not len(known):
        return is_alone
    reach = _ALONE_REACH * photometry.SIGMA_TO_FWHM * float(np.median(size[known]))
    flux = sources["flux"][known]
    is_alone[known] = True
    for one, other in KDTree(xy[known]).query_pairs(reach, output_type="ndarray").tolist():
        for star, neighbour in ((one, other), (other, one)):
            is_alone[known[star]] &= not flux[neighbour] > _ALONE_LIGHT * flux[star]
    return is_alone


def error_text(error: Exception) -> str:
    """Type and text of an error, for a message."""
    return f"{type(error).__name__}: {error}"


def entry_of(arrays: Mapping[str, np.ndarray], index: int) -> dict[str, Any]:
    """Values of one frame from arrays over the frames of a block."""
    return {name: values[index] for name, values in arrays.items()}


def summarise(block: int, flags: list[FrameFlag], messages: list[str], files: np.ndarray) -> BlockSummary:
    """Count the flags of a block and collect its messages."""
    counts: Counter[str] = Counter()
    for value in flags:
        counts.update(flag_names(int(value), FrameFlag))
    problems = [(str(file), message) for file, message in zip(files, messages, strict=True) if message]
    n_usable = sum(not value & UNUSABLE for value in flags)
    return BlockSummary(block, len(flags), n_usable, dict(counts), tuple(problems))
