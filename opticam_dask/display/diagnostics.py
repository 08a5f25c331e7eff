"""Diagnostic plots of a reduction: read their data from store and frames, draw and save them.

Every function takes an output directory and needs no ``Reducer``; each returns the files that it wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import identities, locations
from opticam_dask.display import plotting, products
from opticam_dask.display.plot_inputs import (
    Targets,
    aperture_axes,
    catalogues_of,
    chosen_sources,
    display_steps,
    evenly_spaced,
    figure_name,
    keep_figure,
    photometer_record,
    pixels_of,
    reference_image,
    stack_image,
    typical_fwhm,
)
from opticam_dask.display.plotting import Picture
from opticam_dask.display.source_noise import plot_noise, plot_rms_vs_flux, plot_snrs
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images import align
from opticam_dask.kernels.robust import MAD_TO_SIGMA
from opticam_dask.kernels.sources import growth, moments, photometry
from opticam_dask.steps.frame_steps import entry_of, load_image
from opticam_dask.store import layout

#: Growth curves reach so many FWHM, in steps of at most this many pixels.
_GROWTH_REACH, _GROWTH_STEP = 4.0, 0.5
#: Stamps of profiles reach so many FWHM to each side.
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
    targets : int, sequence of int, or dict of them by camera key, optional
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
    for key, catalogue in catalogues_of(out_directory).items():
        chosen = chosen_sources(key, catalogue, targets)
        if len(chosen):
            figure = plotting.plot_growth_curves(
                {key: _growth(out_directory, key, catalogue.isel(source=chosen), label)}
            )
            written += keep_figure(
                figure, out_directory, ("diag", "growth_curves", f"{figure_name(key)}_growth_curves.pdf"), save, show
            )
    return written


def _growth(out_directory: str | Path, key: str, catalogue: xr.Dataset, label: str) -> xr.Dataset:
    image = stack_image(out_directory, key)
    fwhm = typical_fwhm(out_directory, key)
    reach = _GROWTH_REACH * fwhm
    radii = np.linspace(reach, 0.0, max(int(np.ceil(reach / _GROWTH_STEP)), 12), endpoint=False)[::-1]
    centre = float(np.nanmedian(image))
    # of a stack the scatter of the sky says how well a pixel is known; stars are few enough not to matter
    spread = MAD_TO_SIGMA * float(np.nanmedian(np.abs(image - centre)))
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    flux, error = growth.growth_curve(image, xy, radii, variance=spread**2)
    record = photometer_record(out_directory, key, label)
    axes = None if record is None else aperture_axes(record, fwhm)
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
    for key, catalogue in catalogues_of(out_directory).items():
        if not catalogue.sizes["source"]:
            continue
        stamps = _stamps(stack_image(out_directory, key), catalogue, typical_fwhm(out_directory, key))
        if save:
            file = locations.file_in(out_directory, "psfs", f"{figure_name(key)}_psfs.pdf")
            with locations.replacing(file) as temporary:
                plotting.save_pages(plotting.profile_pages(key, stamps), temporary)
            written.append(file)
        if show:
            plotting.show_in_notebook(next(plotting.profile_pages(key, stamps)))
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
    targets
        As for :func:`plot_growth_curves`.
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
    for key, catalogue in catalogues_of(out_directory).items():
        chosen = chosen_sources(key, catalogue, targets)
        if not len(chosen):
            continue
        record = photometer_record(out_directory, key, label) if photometer is None else identities.describe(photometer)
        if record is None:
            raise ValueError(f"no photometry {label!r} of {key} in {out_directory}: run it first, or give a photometer")
        cutouts = _aperture_cutouts(out_directory, key, catalogue, chosen, record, label)
        figure = plotting.plot_apertures({key: cutouts})
        written += keep_figure(
            figure, out_directory, ("diag", "apertures", f"{figure_name(key)}_{label}_apertures.pdf"), save, show
        )
    return written


def _aperture_cutouts(
    out_directory: str | Path,
    key: str,
    catalogue: xr.Dataset,
    chosen: np.ndarray,
    record: Mapping[str, Any],
    label: str,
) -> list[dict[str, Any]]:
    fwhm = typical_fwhm(out_directory, key)
    axes, rings = aperture_axes(record, fwhm), annulus_radii(record, fwhm)
    if axes is None:
        raise ValueError(f"photometry {label!r} has no aperture that could be drawn")
    path, part, index = reference_image(out_directory, key)
    xy = np.column_stack([catalogue["x"], catalogue["y"]])[chosen]
    if label in layout.photometry_labels(path, part):
        group = f"{part.group}/photometry/{label}"
        measured = np.column_stack([layout.read_array(path, group, name, index, index + 1)[0] for name in ("x", "y")])
        xy = np.where(np.isfinite(measured[chosen]), measured[chosen], xy)
    entry = entry_of(layout.read_manifest(path, part), index)
    image = load_image(display_steps(out_directory, part), entry).electrons
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


def annulus_radii(record: Mapping[str, Any], fwhm: float) -> tuple[float, float] | None:
    """Inner and outer radius (pixels) of the annulus in which a photometer measures the sky; None when it has none."""
    for name in ("local_background_estimator", "local_background", "annulus"):
        found = record.get(name)
        if isinstance(found, Mapping) and {"r_in_scale", "r_out_scale"} <= set(found):
            sigma = fwhm / photometry.SIGMA_TO_FWHM
            return float(found["r_in_scale"]) * sigma, float(found["r_out_scale"]) * sigma
    return None


def plot_background_meshes(out_directory: str | Path, *, save: bool = True, show: bool = False) -> list[Path]:
    """Write ``diag/background_meshes.pdf``: the sky mesh of the reference frame of each camera.

    Raises
    ------
    ValueError
        When no camera has a reference frame with a sky mesh.
    """
    path = layout.require_store(out_directory)
    panels = {}
    for key in layout.keys(path):
        if not layout.has_product(path, f"{figure_name(key)}/reference"):
            continue
        _, part, index = reference_image(out_directory, key)
        if part.mesh_shape is None:
            continue
        group = f"{part.group}/background"
        meshes = [
            layout.read_array(path, group, name, index, index + 1)[0]
            for name in ("background_mesh", "background_rms_mesh")
        ]
        steps = display_steps(out_directory, part)
        image = load_image(steps, entry_of(layout.read_manifest(path, part), index)).electrons
        panels[key] = (image, meshes[0], meshes[1], steps.box_size)
    if not panels:
        raise ValueError(
            f"{out_directory} has no sky mesh: it has no reference frame yet, or its background is a function of yours"
        )
    return keep_figure(
        plotting.plot_background_meshes(panels), out_directory, ("diag", "background_meshes.pdf"), save, show
    )


def plot_quality(out_directory: str | Path, *, save: bool = True, show: bool = False) -> list[Path]:
    """Write ``diag/<key>_quality.pdf``: seeing, sky, transparency, airmass and more against time.

    Raises
    ------
    ValueError
        When there is no frame, or nothing is known of any.
    """
    path = layout.require_store(out_directory)
    written = []
    for key in layout.keys(path):
        if layout.parts(path, key):
            figure = plotting.plot_quality({key: products.frames_of(path, key, with_quality=True)})
            written += keep_figure(figure, out_directory, ("diag", f"{figure_name(key)}_quality.pdf"), save, show)
    return written


def create_gifs(
    out_directory: str | Path, *, max_frames: int = 200, milliseconds: int = 200, overwrite: bool = True
) -> list[Path]:
    """Write ``cat/<key>_images.gif``: the frames with circles where the transforms put the sources.

    Titles are blue for the reference frame, black for aligned frames and red for those that are not.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    max_frames : int
        Frames of each camera at most, evenly spaced, the reference among them; 0 takes all.
    milliseconds : int
        Time that each frame is shown.
    overwrite : bool
        Replace an animation that is there.

    Raises
    ------
    ValueError
        When there is no catalogue.
    """
    if max_frames < 0 or milliseconds <= 0:
        raise ValueError(f"max_frames must be at least 0 and milliseconds above 0, got {max_frames} and {milliseconds}")
    written = []
    for key, catalogue in catalogues_of(out_directory).items():
        file = locations.file_in(out_directory, "cat", f"{figure_name(key)}_images.gif")
        if overwrite or not file.exists():
            pictures = _pictures(out_directory, key, catalogue, max_frames)
            with locations.replacing(file) as temporary:
                plotting.write_animation(pictures, temporary, milliseconds=milliseconds)
            written.append(file)
    return written


def _pictures(out_directory: str | Path, key: str, catalogue: xr.Dataset, max_frames: int) -> Iterator[Picture]:
    """Read and yield the chosen frames of a key one by one, in time order within each part."""
    path, reference, index = reference_image(out_directory, key)
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    radius = 2.0 * typical_fwhm(out_directory, key)
    parts = layout.parts(path, key)
    begins = np.cumsum([0, *(part.n_frames for part in parts)])
    at = next(int(begin) + index for part, begin in zip(parts, begins, strict=False) if part.night == reference.night)
    chosen = evenly_spaced(int(begins[-1]), max_frames, at)
    for part, begin in zip(parts, begins, strict=False):
        mine = chosen[(chosen >= begin) & (chosen < begin + part.n_frames)] - begin
        if not len(mine):
            continue
        steps = display_steps(out_directory, part)
        manifest = layout.read_manifest(path, part)
        flags, transforms = (layout.read_array(path, f"{part.group}/frames", name) for name in ("flags", "transform"))
        for number in mine.tolist():
            usable = flags[number] != 0 and not flags[number] & np.uint32(UNUSABLE)
            state = "reference" if begin + number == at else "aligned" if usable else "unaligned"
            places = align.apply_transform(transforms[number], xy) if usable else np.full(xy.shape, np.nan)
            entry = entry_of(manifest, number)
            title = f"{key}  {Path(entry['file']).name}  ({state})"
            yield Picture(pixels_of(steps, entry), places, radius, title, state)


# ---------------------------------------------------------------- what the plots are made of


#: What can be drawn, by the word of the command line.
KINDS: dict[str, Callable[..., list[Path]]] = {
    "growth-curves": plot_growth_curves,
    "psfs": plot_psfs,
    "snrs": plot_snrs,
    "noise": plot_noise,
    "rms": plot_rms_vs_flux,
    "apertures": plot_apertures,
    "meshes": plot_background_meshes,
    "quality": plot_quality,
    "gifs": create_gifs,
}


def plot(out_directory: str | Path, kind: str, *, label: str = "aperture", targets: Targets = None) -> list[Path]:
    """Draw one kind of plot and return its files.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    kind : str
        A key of :data:`KINDS`.
    label : str
        Photometry label, for the kinds that need one.
    targets
        As for :func:`plot_growth_curves`, for the kinds that draw single sources.

    Raises
    ------
    ValueError
        For another kind, or when what is needed is not there.
    """
    if kind not in KINDS:
        raise ValueError(f"a plot is one of {', '.join(KINDS)}, got {kind!r}")
    options: dict[str, Any] = {}
    if kind in ("growth-curves", "snrs", "noise", "rms", "apertures"):
        options["label"] = label
    if kind in ("growth-curves", "apertures"):
        options["targets"] = targets
    return KINDS[kind](out_directory, **options)
