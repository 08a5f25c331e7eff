"""One frame as the browser shows it: its pixels, and what was measured on them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.display.browser.camera_view import CameraView
from opticam_dask.flags import FrameFlag, QualityFlag, flag_names
from opticam_dask.frames.fits.names import FrameName, file_of
from opticam_dask.frames.scanning import FrameError
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.images.sky import background
from opticam_dask.methods.local_backgrounds import DefaultLocalBackground
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import FrameLost, FrameProblem, FrameSteps
from opticam_dask.steps.view import star_form
from opticam_dask.store.camera import Part


@dataclass(frozen=True)
class Ellipse:
    """An aperture in pixels of a frame; ``angle`` in degrees, counter-clockwise from x."""

    semimajor_axis: float
    semiminor_axis: float
    angle: float = 0.0


@dataclass(frozen=True)
class FramePicture:
    """One frame with what was measured on it.

    Attributes
    ----------
    index : int
        Number of the frame over all nights of the camera.
    file, night : str
        File and night of the frame.
    mjd_utc : float
        Mid-exposure of the frame (MJD, UTC).
    flags : list of str
        Names of the bits of the frame, those of its quality among them.
    message : str
        Why the frame was set aside; empty when it was not.
    image : ndarray, shape (ny, nx), or None
        Electrons, calibrated as in the reduction; None when there are no pixels to show.
    problem : str
        Why there is no image, or why it is another one than was asked for; empty when all is well.
    xy : ndarray, shape (source, 2)
        Where the sources of the catalogue were measured; NaN where they were not.
    apertures, annulus : list of Ellipse
        Apertures (one for each radius), and the two edges of the sky annulus; empty where there is none.
    has_aperture : bool
        Whether ``apertures`` are what the flux was summed in; else they show one FWHM.
    transform : ndarray, shape (3, 3)
        Transform of the reference to the frame; NaN when it was not aligned.
    level : float
        Sky that is still in the image, electrons per pixel.
    values : dict of float
        fwhm, background, n_sources, transparency, airmass, exposure_time of the frame.
    """

    index: int
    file: str
    night: str
    mjd_utc: float
    flags: list[str]
    message: str
    image: np.ndarray | None
    problem: str
    xy: np.ndarray
    apertures: list[Ellipse]
    annulus: list[Ellipse]
    has_aperture: bool
    transform: np.ndarray
    level: float
    values: dict[str, float]


def read_frame(view: CameraView, index: int, *, subtract_sky: bool = True) -> FramePicture:
    """Read one frame and what was measured on it.

    Parameters
    ----------
    view : CameraView
        The camera.
    index : int
        Number of the frame over all nights.
    subtract_sky : bool
        Take the stored sky off, as for photometry.
    """
    part, number = view.locate(index)
    entry = _entry(view, part, number)
    flags = view.read(part.frames, "flags", number, number + 1)[0]
    names = ("fwhm", "semimajor_sigma", "semiminor_sigma", "orientation", "transform")
    known = {name: view.read_one(part.frames, name, number) for name in (*names, "background", "n_sources")}
    message = str(part.frames.read("message", number, number + 1)[0])
    image, problem = _pixels(view, part, entry)
    level = float(known["background"])
    if image is not None and not problem and subtract_sky:
        image, level = _without_sky(view, part, number, image, level)
    bits = flag_names(int(flags), FrameFlag)
    bits += flag_names(int(view.records["quality_flags"][index]), QualityFlag)
    values = {name: float(known[name]) for name in ("fwhm", "background", "n_sources")}
    values |= {name: float(view.records[name][index]) for name in ("transparency", "airmass")}
    apertures, has_aperture = _apertures(view, known)
    return FramePicture(
        index=index,
        file=str(entry["file"]),
        night=part.night,
        mjd_utc=float(entry["mjd_utc"]),
        flags=bits,
        message=message,
        image=image,
        problem=problem,
        xy=_measured_at(view, part, number, known),
        apertures=apertures,
        annulus=_annulus(view, known),
        has_aperture=has_aperture,
        transform=np.asarray(known["transform"], dtype=float),
        level=level if np.isfinite(level) else 0.0,
        values=values | {"exposure_time": float(entry["exposure_time"])},
    )


def _entry(view: CameraView, part: Part, number: int) -> dict[str, Any]:
    """Manifest of one frame."""
    entry = {one.name: view.read_one(part.frames, one.name, number, otherwise=one.fill) for one in schema.MANIFEST}
    file = os.path.join(part.attributes["data_root"], str(entry["file"]))
    entry["file"] = str(FrameName(file, int(entry["extension"]), int(entry["plane"])))
    return entry


def _pixels(view: CameraView, part: Part, entry: Mapping[str, Any]) -> tuple[np.ndarray | None, str]:
    if "://" not in entry["file"] and not os.path.exists(file_of(entry["file"])):
        return None, (
            f"{entry['file']} is gone. What was measured on it is in the store, but its pixels cannot be shown: "
            "bring the file back to see it."
        )
    steps = view.steps_of(part)
    try:
        return load_image(steps, entry).electrons, ""
    except FrameLost as error:
        return None, str(error)
    except FrameProblem as error:
        return _raw(steps, entry, f"Shown as it was read (ADU), because it could not be used: {error.message}.")


def _raw(steps: FrameSteps, entry: Mapping[str, Any], told: str) -> tuple[np.ndarray | None, str]:
    try:
        return np.asarray(steps.reader.read(entry["file"]), dtype=float), told
    except FrameError as error:
        return None, f"{entry['file']} cannot be read: {error.reason}."


def _without_sky(
    view: CameraView, part: Part, number: int, image: np.ndarray, level: float
) -> tuple[np.ndarray, float]:
    """The image without the sky that is stored, and the level that is left in it."""
    if part.mesh_shape is None:
        return image, level
    mesh = view.read_one(part.background, "background_mesh", number)
    offset = view.read_one(part.background, "background_offset_mesh", number, otherwise=np.zeros_like(mesh))
    if not np.isfinite(mesh).all():
        return image, level
    box_size = view.steps_of(part).box_size
    sky: np.ndarray = background.zoom_mesh(mesh + np.nan_to_num(offset), image.shape, box_size)
    return image - sky, 0.0


def _measured_at(view: CameraView, part: Part, number: int, known: Mapping[str, Any]) -> np.ndarray:
    """Measured positions; without photometry those that the transform predicts."""
    if view.label is not None and view.has_photometry(part):
        group = part.photometry(view.label)
        return np.column_stack([view.read_one(group, name, number) for name in ("x", "y")])
    if not np.isfinite(known["transform"]).all() or not len(view.positions):
        return np.full(view.positions.shape, np.nan)
    return align.apply_transform(known["transform"], view.positions)


def _apertures(view: CameraView, known: Mapping[str, Any]) -> tuple[list[Ellipse], bool]:
    """Apertures as the photometer had them in this frame; a circle of one FWHM where it has none."""
    if not np.isfinite(known["transform"]).all():
        return [], False
    scale, fwhm = align.scale_of(known["transform"]), float(known["fwhm"])
    record = view.photometer
    if record.get("class") != AperturePhotometer.__qualname__:
        radius = fwhm if np.isfinite(fwhm) else view.fwhm * scale
        return ([Ellipse(radius, radius)] if np.isfinite(radius) else []), False
    names = ("semimajor_axis", "semiminor_axis", "orientation", "radius", "radius_unit")
    photometer = AperturePhotometer(**{name: record[name] for name in names if name in record})
    turned = 0.0
    if photometer.orientation is not None:
        turned = photometer.orientation + align.rotation_of(known["transform"])
    return [Ellipse(*axes, turned) for axes in photometer.axes(scale, view.fwhm, fwhm)], True


def _annulus(view: CameraView, known: Mapping[str, Any]) -> list[Ellipse]:
    """Edges of the annulus in which the sky was measured, around the form of the frame's stars."""
    record = view.photometer.get("local_background_estimator")
    form = star_form(known)
    if not isinstance(record, Mapping) or not form.is_known() or not np.isfinite(known["transform"]).all():
        return []
    scales = {name: float(record[name]) for name in ("r_in_scale", "r_out_scale") if name in record}
    edges = DefaultLocalBackground(**scales).edges(form.semimajor_sigma, form.semiminor_sigma)
    return [Ellipse(*axes, float(np.rad2deg(form.orientation))) for axes in edges]
