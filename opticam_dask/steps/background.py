"""Sky background of one frame: estimated, subtracted, and corrected where no source is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.flags import FrameFlag
from opticam_dask.kernels.images.sky import background, subtraction
from opticam_dask.kernels.images.sky.disks import Disks
from opticam_dask.kernels.robust import median
from opticam_dask.steps.calibrate import DetectionImage, Image, load_for_detection, load_image
from opticam_dask.steps.frame_steps import (
    Background,
    FrameProblem,
    FrameResult,
    FrameSteps,
    error_text,
    no_deprecation_warnings,
    remembered,
)

#: Pixels this many FWHM from a faint source are sky; the distance is larger from a brighter source.
_SKY_FROM = 2.0
#: A FWHM of less than this many pixels counts as this many.
_LEAST_FWHM = 2.0
#: Flux of a source, in units of the background RMS, from which the distance grows with the brightness,
_FAINT = 100.0
#: up to sources this many times brighter.
_BRIGHT = 700.0

#: Stars wider (FWHM) than this part of a box of the sky mesh fill it: the mesh takes part of their light for sky.
LARGEST_IN_BOX = 0.5
#: Boxes are then taken together until they are this many FWHM wide,
BOX_OF_STARS = 3.0
#: while so many are left along each side of the frame, which follow the course of the sky.
_FEWEST_BOXES = 4


@dataclass(frozen=True)
class Sky:
    """Sky background of one frame by a user's own function."""

    image: np.ndarray
    rms_image: np.ndarray
    median: float
    rms_median: float


def own_sky(function: Callable[[np.ndarray], Background], image: np.ndarray) -> Sky:
    """Sky background and its RMS by a user's own function.

    Raises
    ------
    FrameProblem
        When the function fails, or its sky has another shape than the frame.
    """
    try:
        with no_deprecation_warnings():
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


def sky_of(steps: FrameSteps, entry: Mapping[str, Any], image: Image) -> Sky:
    """Sky of a frame by the user's own function, which is called once where the frame has a memory.

    Raises
    ------
    FrameProblem
        As :func:`own_sky`.
    """
    assert steps.background is not None  # the function
    function = steps.background
    sky: Sky = remembered(entry, "sky", lambda: own_sky(function, image.electrons))
    return sky


def subtract_sky(steps: FrameSteps, entry: Mapping[str, Any], result: FrameResult) -> np.ndarray | None:
    """Load a frame and take its sky off; fill ``result`` with the image and the sky.

    Where the meshes of the frame are in ``result`` already, they are taken as they are.

    Returns
    -------
    ndarray, shape (ny, nx), or None
        Background RMS of a user's own function; None where it is the zoom of a mesh.

    Raises
    ------
    FrameProblem
        When the frame cannot be read, or has no sky.
    """
    if steps.background is not None:
        whole = load_image(steps, entry)
        level = sky_of(steps, entry, whole)
        result.saturated = whole.saturated
        result.values |= whole.levels._asdict()
        result.values |= {"background": level.median, "background_rms": level.rms_median}
        result.subtracted = whole.electrons - level.image
        return level.rms_image
    image = load_for_detection(steps, entry)
    result.saturated = image.saturated
    result.values |= image.levels._asdict()
    if not result.meshes:
        result.meshes = _meshes(steps, image)
    mesh, rms_mesh = result.meshes["background_mesh"], result.meshes["background_rms_mesh"]
    result.values |= {"background": median(mesh), "background_rms": median(rms_mesh)}
    result.frame = subtraction.subtract_sky(image.pixels, mesh, rms_mesh, steps.box_size, steps.threshold)
    result.subtracted = result.frame.image
    return None


def boxes_together(shape: tuple[int, int], box_size: tuple[int, int], fwhm: float) -> int:
    """How many boxes of the sky mesh, along each side, are taken together so that stars do not fill them.

    Parameters
    ----------
    shape, box_size : (int, int)
        Shape of the frame and size of the boxes, ``(ny, nx)``, pixels.
    fwhm : float
        FWHM of the stars, pixels; NaN when unknown.

    Returns
    -------
    int
        1 where each box is by itself: stars are narrower than half of it, or the frame has too few boxes.
    """
    if not fwhm > LARGEST_IN_BOX * min(box_size):
        return 1
    most = min(size // box for size, box in zip(shape, box_size, strict=True)) // _FEWEST_BOXES
    return max(1, min(int(np.ceil(BOX_OF_STARS * fwhm / min(box_size))), most))


def widened(shape: tuple[int, int], box_size: tuple[int, int], fwhm: float) -> tuple[int, int]:
    """Boxes of the sky mesh of :func:`boxes_together`; size ``(ny, nx)`` in pixels."""
    together = boxes_together(shape, box_size, fwhm)
    return box_size[0] * together, box_size[1] * together


def are_too_narrow(shape: tuple[int, int], box_size: tuple[int, int], fwhm: float) -> bool:
    """Whether stars fill the boxes of the sky mesh, and the frame has too few of these to take several together."""
    return fwhm > LARGEST_IN_BOX * min(widened(shape, box_size, fwhm))


def _meshes(steps: FrameSteps, image: DetectionImage) -> dict[str, np.ndarray]:
    """Sky level and its noise in boxes; the noise comes from the errors in the file, if it has some."""
    try:
        mesh, rms_mesh = background.sky_mesh(image.pixels, steps.box_size, saturated=image.saturated)
        if image.variance is not None:
            told = background.box_medians(np.sqrt(image.variance), steps.box_size)
            rms_mesh = np.where(np.isfinite(told), told, rms_mesh)
    except ValueError as error:
        raise FrameProblem(FrameFlag.NO_BACKGROUND, str(error)) from error
    return {"background_mesh": mesh, "background_rms_mesh": rms_mesh}


def measure_sky(result: FrameResult) -> None:
    """Correct the mesh of a frame to the level of the sky away from all detections; fills the meshes of ``result``.

    Its seeing must be final: photometry covers the same disks again.
    """
    if result.frame is None:
        return
    mesh, rms_mesh = result.meshes["background_mesh"], result.meshes["background_rms_mesh"]
    sources = {
        name: np.concatenate([result.sources.get(name, ()), result.beyond_slots.get(name, ())])
        for name in ("x", "y", "flux")
    }
    disks = source_disks(
        np.column_stack([sources["x"], sources["y"]]),
        sources["flux"],
        background_rms=result.values["background_rms"],
        fwhm=result.values.get("fwhm", np.nan),
    )
    found = subtraction.count_sky(result.frame, mesh, rms_mesh, disks, result.saturated)
    level = level_of_sky(found, rms_mesh, result.frame.grid, result.values.get("fwhm", np.nan))
    result.meshes |= {
        "background_offset_mesh": level - mesh,
        "background_n_sky": found.number,
        "background_mean_mesh": found.mean,
    }


def level_of_sky(sky: subtraction.SkyPixels, rms_mesh: np.ndarray, grid: subtraction.Grid, fwhm: float) -> np.ndarray:
    """Level of the sky at each box from its sky pixels; shape (mesh_y, mesh_x).

    Parameters
    ----------
    sky : SkyPixels
        The sky pixels of each box.
    rms_mesh : ndarray, shape (mesh_y, mesh_x)
        Scatter of a pixel of the sky.
    grid : ((int, int), (int, int))
        Shape of the frame and of the boxes of the mesh.
    fwhm : float
        FWHM of the stars of the frame, pixels; where they fill boxes, several of these tell the level together.
    """
    together = boxes_together(*grid, fwhm)
    return sky.level(rms_mesh, grid) if together == 1 else sky.level_of_many(rms_mesh, grid, together)


def sky_beside_stars(result: FrameResult) -> dict[str, np.ndarray] | None:
    """Meshes of a frame whose stars fill their boxes, from its sky pixels; None where they do not.

    Such stars have part of their light in the mesh, and look narrower than they are, or are not found.

    Parameters
    ----------
    result : FrameResult
        With sky, sources, seeing, and what :func:`measure_sky` makes of it.
    """
    fwhm = result.values.get("fwhm", np.nan)
    if result.frame is None or boxes_together(*result.frame.grid, fwhm) == 1:
        return None
    rms_mesh, grid = result.meshes["background_rms_mesh"], result.frame.grid
    scatter = subtraction.SkyPixels(result.meshes["background_n_sky"], rms_mesh)
    return {
        "background_mesh": result.meshes["background_mesh"] + result.meshes["background_offset_mesh"],
        "background_rms_mesh": np.clip(level_of_sky(scatter, rms_mesh, grid, fwhm), rms_mesh.min(), rms_mesh.max()),
    }


def source_disks(xy: np.ndarray, flux: np.ndarray, *, background_rms: float, fwhm: float) -> Disks:
    """Disks around sources that are not sky: larger ones around brighter sources.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Sources without a position (NaN) have no disk.
    flux : ndarray, shape (n,)
        Electrons; NaN counts as faint.
    background_rms : float
        Background RMS of the frame, electrons per pixel.
    fwhm : float
        FWHM of the stars of the frame, in pixels.
    """
    known = np.all(np.isfinite(xy), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = flux[known] / (_FAINT * background_rms)
    # the wings of a Moffat star of beta 3 fall with the sixth power
    reach = np.fmin(np.fmax(relative, 1.0), _BRIGHT) ** (1.0 / 6.0)
    return Disks(xy[known], _SKY_FROM * np.fmax(fwhm, _LEAST_FWHM) * reach)
