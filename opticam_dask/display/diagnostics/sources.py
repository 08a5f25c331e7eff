"""Growth curves, profiles and apertures of single sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import identities, locations
from opticam_dask.display import plotting
from opticam_dask.display.diagnostics.inputs import (
    Targets,
    catalogues,
    chosen_rows,
    display_steps,
    keep_figure,
    photometer_record,
    reference_frame,
    stack_of,
    typical_fwhm,
)
from opticam_dask.kernels.robust import MAD_TO_SIGMA
from opticam_dask.kernels.sources import moments, photometry
from opticam_dask.kernels.sources.profiles import growth
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import entry_of
from opticam_dask.store.camera import Camera, file_start
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import xarray as xr

#: Growth curves reach this many FWHM.
_GROWTH_REACH = 4.0
#: Step of the radii of growth curves at most, pixels.
_GROWTH_STEP = 0.5
#: Stamps of profiles reach this many FWHM to each side.
_STAMP_REACH = 2.5


def plot_growth_curves(
    out_directory: str | Path,
    targets: Targets = None,
    *,
    label: str = "aperture",
    save: bool = True,
    show: bool = False,
) -> list[Path]:
    """Write ``diag/growth_curves/<key>_growth_curves.pdf``: flux on the stack in growing apertures.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    targets : int or str, sequence of them, or dict of them by camera key, optional
        Source ids; by default all sources.
    label : str
        Photometry whose aperture is marked, where it has one.
    save, show : bool
        Write the files; show the figures in a notebook.

    Raises
    ------
    ValueError
        When there is no catalogue, or no such source.
    """
    written = []
    for camera, catalogue in catalogues(out_directory).items():
        chosen = chosen_rows(camera, catalogue, targets)
        if len(chosen):
            figure = plotting.plot_growth_curves({camera.key: _growth(camera, catalogue.isel(source=chosen), label)})
            names = ("diag", "growth_curves", f"{camera.name}_growth_curves.pdf")
            written += keep_figure(figure, out_directory, names, save, show)
    return written


def _growth(camera: Camera, catalogue: xr.Dataset, label: str) -> xr.Dataset:
    image, fwhm = stack_of(camera), typical_fwhm(camera)
    reach = _GROWTH_REACH * fwhm
    radii = np.linspace(reach, 0.0, max(int(np.ceil(reach / _GROWTH_STEP)), 12), endpoint=False)[::-1]
    centre = float(np.nanmedian(image))
    # of a stack the scatter of the sky says how well a pixel is known; stars are few enough not to matter
    spread = MAD_TO_SIGMA * float(np.nanmedian(np.abs(image - centre)))
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    flux, error = growth.growth_curve(image, xy, radii, variance=spread**2)
    record = photometer_record(camera, label)
    axes = None if record is None else aperture_axes(record, fwhm)
    import xarray as xr

    return xr.Dataset(
        {"flux": (("source", "radius"), flux), "flux_err": (("source", "radius"), error)},
        coords={"source_id": ("source", catalogue["source_id"].to_numpy()), "radius": radii},
        attrs={"fwhm": fwhm, "aperture": np.nan if axes is None else float(np.sqrt(axes[0] * axes[1]))},
    )


def plot_psfs(out_directory: str | Path, *, save: bool = True, show: bool = False) -> list[Path]:
    """Write ``psfs/<key>_psfs.pdf``: contours and cuts of every catalogue source on the stack, four to a page.

    Raises
    ------
    ValueError
        When there is no catalogue.
    """
    written = []
    for camera, catalogue in catalogues(out_directory).items():
        if not catalogue.sizes["source"]:
            continue
        stamps = _stamps(stack_of(camera), catalogue, typical_fwhm(camera))
        if save:
            file = locations.file_in(out_directory, "psfs", f"{camera.name}_psfs.pdf")
            plotting.save_pages(plotting.profile_pages(camera.key, stamps), file)
            written.append(file)
        if show:
            plotting.show_in_notebook(next(plotting.profile_pages(camera.key, stamps)))
    return written


def _stamps(image: np.ndarray, catalogue: xr.Dataset, fwhm: float) -> dict[int, dict[str, Any]]:
    size = 2 * int(np.ceil(_STAMP_REACH * fwhm)) + 1
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    x0, y0 = photometry.origins(xy, size)
    cutouts = photometry.cut_out(image, x0, y0, size)
    # moments of the core: those of the catalogue are isophotal, and wider for a star with wings
    axes = moments.adaptive_moments(cutouts, x0, y0, xy, fwhm / photometry.SIGMA_TO_FWHM)
    stamps = {}
    for source, number in enumerate(catalogue["source_id"].to_numpy().tolist()):
        major, minor, theta = (float(values[source]) for values in axes[:3])
        x, y = xy[source] - (x0[source], y0[source])
        shape = growth.gaussian_profile((size, size), (x, y), major, minor, theta)
        amplitude, level = growth.fit_amplitude(cutouts[source], shape)
        stamps[number] = {
            "image": cutouts[source],
            "model": amplitude * shape + level,
            **{"x": x, "y": y, "x0": x0[source], "y0": y0[source]},
            **{"semimajor_sigma": major, "semiminor_sigma": minor, "orientation": np.degrees(theta)},
        }
    return stamps


def plot_apertures(
    out_directory: str | Path,
    photometer: Any = None,
    targets: Targets = None,
    *,
    label: str = "aperture",
    save: bool = True,
    show: bool = False,
) -> list[Path]:
    """Write ``diag/apertures/<key>_<label>_apertures.pdf``: apertures where sources lie on the reference frame.

    Where the photometry is in the store, apertures are drawn at the measured positions; else at those of the catalogue.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    photometer : Photometer, optional
        By default the one that the photometry ``label`` was made with.
    targets : int or str, sequence of them, or dict of them by camera key, optional
        Source ids; by default all sources.
    label : str
        Used without a photometer.
    save, show : bool
        Save the figure beside the store; show it in the notebook.

    Raises
    ------
    ValueError
        When there is no catalogue or source, or the photometer has no aperture.
    """
    written = []
    label = label if photometer is None else photometer.label
    keys = Store.open(out_directory).keys
    for camera, catalogue in catalogues(out_directory).items():
        key, chosen = camera.key, chosen_rows(camera, catalogue, targets)
        if not len(chosen):
            continue
        record = photometer_record(camera, label) if photometer is None else identities.describe(photometer)
        if record is None:
            raise ValueError(f"no photometry {label!r} of {key} in {out_directory}: run it first, or give a photometer")
        figure = plotting.plot_apertures({key: _aperture_cutouts(camera, catalogue, chosen, record, label)})
        names = ("diag", "apertures", f"{file_start(key, label, keys)}_apertures.pdf")
        written += keep_figure(figure, out_directory, names, save, show)
    return written


def _aperture_cutouts(
    camera: Camera, catalogue: xr.Dataset, chosen: np.ndarray, record: Mapping[str, Any], label: str
) -> list[dict[str, Any]]:
    fwhm = typical_fwhm(camera)
    axes, rings = aperture_axes(record, fwhm), annulus_radii(record, fwhm)
    if axes is None:
        raise ValueError(f"photometry {label!r} has no aperture that could be drawn")
    part, index = reference_frame(camera)
    xy = np.column_stack([catalogue["x"], catalogue["y"]])[chosen]
    if label in part.labels:
        group = part.photometry(label)
        measured = np.column_stack([group.read(name, index, index + 1)[0] for name in ("x", "y")])
        xy = np.where(np.isfinite(measured[chosen]), measured[chosen], xy)
    entry = entry_of(part.manifest(), index)
    image = load_image(display_steps(part), entry).electrons
    size = 2 * int(np.ceil(1.4 * max(*axes[:2], *(rings or (0.0,))) + 2.0)) + 1
    x0, y0 = photometry.origins(xy, size)
    numbers = catalogue["source_id"].to_numpy()[chosen]
    return [
        {
            "source_id": int(number), "image": stamp, "x": x - left, "y": y - low, "aperture": axes, "annulus": rings,
        }
        for number, stamp, (x, y), left, low in zip(
            numbers, photometry.cut_out(image, x0, y0, size), xy, x0, y0, strict=True
        )
    ]  # fmt: skip


def aperture_axes(record: Mapping[str, Any], fwhm: float) -> tuple[float, float, float] | None:
    """Semi-axes (pixels) and angle (degrees) of the aperture of a photometer; None when it has none.

    Parameters
    ----------
    record : mapping
        Attributes of the photometer, as the store keeps them.
    fwhm : float
        FWHM of the catalogue, in pixels: the radius when none is given.
    """
    if "radius" not in record and "semimajor_axis" not in record:
        return None
    if record.get("semimajor_axis") is not None:
        return float(record["semimajor_axis"]), float(record["semiminor_axis"]), float(record["orientation"])
    radius = record.get("radius")
    unit = fwhm if radius is None or record.get("radius_unit", "pixel") != "pixel" else 1.0
    radius = 1.0 if radius is None else radius
    # of several radii the first is the one that all others are compared with
    radius = unit * float(radius[0] if isinstance(radius, Sequence) else radius)
    return radius, radius, 0.0


def annulus_radii(record: Mapping[str, Any], fwhm: float) -> tuple[float, float] | None:
    """Inner and outer radius (pixels) of the annulus in which a photometer measures the sky; None when it has none."""
    for name in ("local_background_estimator", "local_background", "annulus"):
        found = record.get(name)
        if isinstance(found, Mapping) and {"r_in_scale", "r_out_scale"} <= set(found):
            sigma = fwhm / photometry.SIGMA_TO_FWHM
            return float(found["r_in_scale"]) * sigma, float(found["r_out_scale"]) * sigma
    return None


def aperture_of(camera: Camera, label: str) -> tuple[float, float, float]:
    """Semi-axes (pixels) and angle (degrees) of the aperture that a photometry was made with."""
    record = photometer_record(camera, label)
    axes = None if record is None else aperture_axes(record, typical_fwhm(camera))
    if axes is None:
        raise ValueError(f"photometry {label!r} of {camera.key} has no aperture whose noise could be computed")
    return axes
