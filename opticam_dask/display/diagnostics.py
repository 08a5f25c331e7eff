"""Diagnostic plots of a reduction: read their data from store and frames, draw and save them.

Every function takes an output directory and needs no ``Reducer``; each returns the files that it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import identities, locations
from opticam_dask.display import plotting, products
from opticam_dask.display.plotting import Figure, Picture
from opticam_dask.flags import UNUSABLE
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import FitsReader
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.robust import MAD_TO_SIGMA
from opticam_dask.kernels.sources import moments, noise, photometry
from opticam_dask.kernels.sources.profiles import growth
from opticam_dask.lightcurves import results
from opticam_dask.passes.calibration import Calibration
from opticam_dask.pipeline import preparation
from opticam_dask.pipeline.reduction import Setup
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import FrameProblem, FrameSteps, entry_of
from opticam_dask.store.camera import Camera, Part, group_name
from opticam_dask.store.store import Store

#: Source ids by camera key, or the same ids for all of them; None is all sources.
Targets = int | Sequence[int] | Mapping[str, int | Sequence[int]] | None

#: Growth curves reach so many FWHM, in steps of at most this many pixels.
_GROWTH_REACH, _GROWTH_STEP = 4.0, 0.5
#: Stamps of profiles reach so many FWHM to each side.
_STAMP_REACH = 2.5
#: Scatter of a normal distribution from its median absolute deviation.
_MODEL_FLUXES = 200


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
    for key, catalogue in _catalogues(out_directory).items():
        chosen = _chosen(key, catalogue, targets)
        if len(chosen):
            figure = plotting.plot_growth_curves(
                {key: _growth(out_directory, key, catalogue.isel(source=chosen), label)}
            )
            written += _keep(
                figure, out_directory, ("diag", "growth_curves", f"{group_name(key)}_growth_curves.pdf"), save, show
            )
    return written


def _growth(out_directory: str | Path, key: str, catalogue: xr.Dataset, label: str) -> xr.Dataset:
    image = _stack(out_directory, key)
    fwhm = _typical_fwhm(out_directory, key)
    reach = _GROWTH_REACH * fwhm
    radii = np.linspace(reach, 0.0, max(int(np.ceil(reach / _GROWTH_STEP)), 12), endpoint=False)[::-1]
    centre = float(np.nanmedian(image))
    # of a stack the scatter of the sky says how well a pixel is known; stars are few enough not to matter
    spread = MAD_TO_SIGMA * float(np.nanmedian(np.abs(image - centre)))
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    flux, error = growth.growth_curve(image, xy, radii, variance=spread**2)
    record = _photometer_record(out_directory, key, label)
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
    for key, catalogue in _catalogues(out_directory).items():
        if not catalogue.sizes["source"]:
            continue
        stamps = _stamps(_stack(out_directory, key), catalogue, _typical_fwhm(out_directory, key))
        if save:
            file = locations.file_in(out_directory, "psfs", f"{group_name(key)}_psfs.pdf")
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


def plot_snrs(
    out_directory: str | Path, label: str = "aperture", *, save: bool = True, show: bool = False
) -> list[Path]:
    """Write ``diag/<label>_snrs.pdf``: signal-to-noise ratio of every source.

    Raises
    ------
    ValueError
        When no camera has photometry of this label.
    """
    figure = plotting.plot_snrs(statistics_of_sources(out_directory, label))
    return _keep(figure, out_directory, ("diag", f"{label}_snrs.pdf"), save, show)


def plot_rms_vs_flux(
    out_directory: str | Path, label: str = "aperture", *, save: bool = True, show: bool = False
) -> list[Path]:
    """Write ``diag/<label>_rms_vs_flux.pdf``: robust scatter of every source against its median flux.

    Raises
    ------
    ValueError
        When no camera has photometry of this label.
    """
    figure = plotting.plot_rms_vs_flux(statistics_of_sources(out_directory, label))
    return _keep(figure, out_directory, ("diag", f"{label}_rms_vs_flux.pdf"), save, show)


def plot_noise(
    out_directory: str | Path, label: str = "aperture", *, save: bool = True, show: bool = False
) -> list[Path]:
    """Write ``diag/<label>_noise_characterisation.pdf``: measured scatter, and what theory says it is made of.

    Raises
    ------
    ValueError
        When no camera has photometry of this label, or it has no aperture whose noise could be computed.
    """
    statistics = statistics_of_sources(out_directory, label)
    models = {key: noise_model(out_directory, key, label, one) for key, one in statistics.items()}
    figure = plotting.plot_noise(statistics, models)
    return _keep(figure, out_directory, ("diag", f"{label}_noise_characterisation.pdf"), save, show)


def noise_model(out_directory: str | Path, key: str, label: str, statistics: xr.Dataset) -> xr.Dataset:
    """Noise of an aperture in a typical frame of a key, over the fluxes of its sources.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key, label : str
        Camera key and photometry label.
    statistics : Dataset
        As from :func:`source_statistics`.

    Returns
    -------
    Dataset
        Along ``flux`` (electrons, ascending): 1-sigma noise in electrons by component, and ``total``; see
        :func:`~opticam_dask.kernels.sources.noise.noise_components`. Empty when no source has a flux.

    Raises
    ------
    ValueError
        When the photometry has no aperture whose noise could be computed.
    """
    store = Store.open(out_directory)
    camera = store.camera(key)
    flux = statistics["median_flux"].to_numpy()
    flux = flux[flux > 0]
    if not len(flux):
        return xr.Dataset(coords={"flux": np.empty(0)})
    axes = _aperture_of(out_directory, key, label)
    frames = _of_usual_exposure(camera, products.frames_of(camera, with_quality=True))
    typical = {
        name: _median(frames[name].to_numpy())
        for name in ("background_rms", "dark_current", "exposure_time", "read_noise", "airmass")
    }
    definition = store.attributes.get("instrument_definition") or {}
    rebin = preparation.stored_parameters(out_directory).rebin_factor
    n_pixels = float(np.pi * axes[0] * axes[1])
    fluxes = np.geomspace(flux.min() / 1.5, flux.max() * 1.5, _MODEL_FLUXES)
    dark = float(np.nan_to_num(typical["dark_current"] * typical["exposure_time"]))
    read_noise = float(np.nan_to_num(typical["read_noise"]))
    # the level of the sky may hold the bias of the detector; its scatter does not, but it holds dark and read-out
    sky = np.nan_to_num(typical["background_rms"]) ** 2 - rebin**2 * (dark + read_noise**2)
    parts = noise.noise_components(
        fluxes,
        n_pixels=n_pixels,
        sky=float(sky),
        dark=dark,
        read_noise=read_noise,
        n_read_pixels=n_pixels * rebin**2,
        scintillation=_scintillation(definition, typical),
    )
    return xr.Dataset({name: ("flux", values) for name, values in parts.items()}, coords={"flux": fluxes})


def _scintillation(definition: Mapping[str, Any], typical: Mapping[str, float]) -> float:
    """Relative scatter by scintillation; 0 where telescope, exposure time or airmass are not known."""
    diameter, exposure, airmass = definition.get("diameter"), typical["exposure_time"], typical["airmass"]
    if not diameter or not exposure > 0 or not airmass >= 1:
        return 0.0
    relative = noise.scintillation_noise(
        diameter=float(diameter),
        exposure_time=exposure,
        airmass=airmass,
        height=float(definition.get("height") or 0.0),
        coefficient=float(definition.get("scintillation_coefficient", 1.5)),
    )
    return float(relative)


def statistics_of_sources(out_directory: str | Path, label: str) -> dict[str, xr.Dataset]:
    """Median flux, robust scatter and median error of every source, by camera key.

    Of a camera that changed its exposure time the frames with the usual one count: others have other fluxes.
    """
    cameras = Store.open(out_directory).cameras
    measured = [camera for camera in cameras if label in camera.labels]
    if not measured:
        known = sorted({name for camera in cameras for name in camera.labels})
        raise ValueError(f"no photometry {label!r} in {out_directory}; it has {', '.join(known) or 'none'}")
    names = ("flux", "flux_err")
    return {
        camera.key: xr.concat(
            [
                source_statistics(_of_usual_exposure(camera, group))
                for group in results.source_groups(out_directory, camera.key, label, names)
            ],
            dim="source",
        )
        for camera in measured
    }


def _of_usual_exposure(camera: Camera, dataset: xr.Dataset) -> xr.Dataset:
    """Frames of a dataset with the exposure time that most frames of the camera have; ties to the shorter."""
    frames = products.frames_of(camera, names=("exposure_time",))
    exposures, counts = np.unique(frames["exposure_time"].to_numpy(), return_counts=True)
    if len(exposures) < 2:
        return dataset
    is_usual = frames["exposure_time"].to_numpy() == exposures[np.argmax(counts)]
    return dataset.isel(frame=np.isin(dataset["mjd_utc"].to_numpy(), frames["mjd_utc"].to_numpy()[is_usual]))


def source_statistics(curves: xr.Dataset) -> xr.Dataset:
    """Median flux, robust scatter and median error of each source.

    Parameters
    ----------
    curves : Dataset
        flux, flux_err (frame, source) as from ``light_curves``; of several radii the first counts.

    Returns
    -------
    Dataset
        Along ``source``: median_flux, scatter (1.4826 times the median absolute deviation; NaN for fewer than three
        measurements), median_error, in electrons; source_id.
    """
    if "radius" in curves.dims:
        curves = curves.isel(radius=0)
    columns: dict[str, list[float]] = {"median_flux": [], "scatter": [], "median_error": []}
    for flux, error in zip(
        curves["flux"].transpose("source", "frame").to_numpy(),
        curves["flux_err"].transpose("source", "frame").to_numpy(),
        strict=True,
    ):
        middle = _median(flux)
        enough = np.count_nonzero(np.isfinite(flux)) >= 3
        columns["median_flux"].append(middle)
        columns["scatter"].append(MAD_TO_SIGMA * _median(np.abs(flux - middle)) if enough else np.nan)
        columns["median_error"].append(_median(error))
    return xr.Dataset(
        {name: ("source", np.array(values, dtype=float)) for name, values in columns.items()},
        coords={"source_id": ("source", curves["source_id"].to_numpy())},
    )


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


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
    for key, catalogue in _catalogues(out_directory).items():
        chosen = _chosen(key, catalogue, targets)
        if not len(chosen):
            continue
        record = (
            _photometer_record(out_directory, key, label) if photometer is None else identities.describe(photometer)
        )
        if record is None:
            raise ValueError(f"no photometry {label!r} of {key} in {out_directory}: run it first, or give a photometer")
        cutouts = _aperture_cutouts(out_directory, key, catalogue, chosen, record, label)
        figure = plotting.plot_apertures({key: cutouts})
        written += _keep(
            figure, out_directory, ("diag", "apertures", f"{group_name(key)}_{label}_apertures.pdf"), save, show
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
    fwhm = _typical_fwhm(out_directory, key)
    axes, rings = aperture_axes(record, fwhm), annulus_radii(record, fwhm)
    if axes is None:
        raise ValueError(f"photometry {label!r} has no aperture that could be drawn")
    part, index = _reference(Store.open(out_directory).camera(key))
    xy = np.column_stack([catalogue["x"], catalogue["y"]])[chosen]
    if label in part.labels:
        group = part.photometry(label)
        measured = np.column_stack([group.read(name, index, index + 1)[0] for name in ("x", "y")])
        xy = np.where(np.isfinite(measured[chosen]), measured[chosen], xy)
    entry = entry_of(part.manifest(), index)
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


def aperture_axes(record: Mapping[str, Any], fwhm: float) -> tuple[float, float, float] | None:
    """Semi-axes (pixels) and angle (degrees) of the aperture of a photometer; None when it has none.

    Parameters
    ----------
    record : mapping
        Attributes of the photometer, as the store keeps them.
    fwhm : float
        Of the catalogue, in pixels: the radius when none is given.
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


def plot_background_meshes(out_directory: str | Path, *, save: bool = True, show: bool = False) -> list[Path]:
    """Write ``diag/background_meshes.pdf``: the sky mesh of the reference frame of each camera.

    Raises
    ------
    ValueError
        When no camera has a reference frame with a sky mesh.
    """
    panels = {}
    for camera in Store.open(out_directory).cameras:
        if not camera.reference.is_whole:
            continue
        part, index = _reference(camera)
        if part.mesh_shape is None:
            continue
        meshes = [
            part.background.read(name, index, index + 1)[0] for name in ("background_mesh", "background_rms_mesh")
        ]
        steps = display_steps(out_directory, part)
        image = load_image(steps, entry_of(part.manifest(), index)).electrons
        panels[camera.key] = (image, meshes[0], meshes[1], steps.box_size)
    if not panels:
        raise ValueError(
            f"{out_directory} has no sky mesh: it has no reference frame yet, or its background is a function of yours"
        )
    return _keep(plotting.plot_background_meshes(panels), out_directory, ("diag", "background_meshes.pdf"), save, show)


def plot_quality(out_directory: str | Path, *, save: bool = True, show: bool = False) -> list[Path]:
    """Write ``diag/<key>_quality.pdf``: seeing, sky, transparency, airmass and more against time.

    Raises
    ------
    ValueError
        When there is no frame, or nothing is known of any.
    """
    written = []
    for camera in Store.open(out_directory).cameras:
        if camera.parts:
            figure = plotting.plot_quality({camera.key: products.frames_of(camera, with_quality=True)})
            written += _keep(figure, out_directory, ("diag", f"{camera.name}_quality.pdf"), save, show)
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
    for key, catalogue in _catalogues(out_directory).items():
        file = locations.file_in(out_directory, "cat", f"{group_name(key)}_images.gif")
        if overwrite or not file.exists():
            pictures = _pictures(out_directory, key, catalogue, max_frames)
            with locations.replacing(file) as temporary:
                plotting.write_animation(pictures, temporary, milliseconds=milliseconds)
            written.append(file)
    return written


def _pictures(out_directory: str | Path, key: str, catalogue: xr.Dataset, max_frames: int) -> Iterator[Picture]:
    """Read and yield the chosen frames of a key one by one, in time order within each part."""
    camera = Store.open(out_directory).camera(key)
    reference, index = _reference(camera)
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    radius = 2.0 * _typical_fwhm(out_directory, key)
    parts = camera.parts
    begins = np.cumsum([0, *(part.n_frames for part in parts)])
    at = next(int(begin) + index for part, begin in zip(parts, begins, strict=False) if part.night == reference.night)
    chosen = evenly_spaced(int(begins[-1]), max_frames, at)
    for part, begin in zip(parts, begins, strict=False):
        mine = chosen[(chosen >= begin) & (chosen < begin + part.n_frames)] - begin
        if not len(mine):
            continue
        steps = display_steps(out_directory, part)
        manifest = part.manifest()
        flags, transforms = (part.frames[name] for name in ("flags", "transform"))
        for number in mine.tolist():
            usable = flags[number] != 0 and not flags[number] & np.uint32(UNUSABLE)
            state = "reference" if begin + number == at else "aligned" if usable else "unaligned"
            places = align.apply_transform(transforms[number], xy) if usable else np.full(xy.shape, np.nan)
            entry = entry_of(manifest, number)
            title = f"{key}  {Path(entry['file']).name}  ({state})"
            yield Picture(_pixels(steps, entry), places, radius, title, state)


def _pixels(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
    """A frame to look at; empty where it cannot be read."""
    try:
        return load_image(steps, entry).electrons
    except FrameProblem:
        return np.full(steps.image_shape, np.nan)


def evenly_spaced(n_frames: int, n_chosen: int, keep: int) -> np.ndarray:
    """Indices of at most ``n_chosen`` of ``n_frames`` frames, evenly spaced, ``keep`` among them; 0 takes all."""
    if n_chosen == 0 or n_chosen >= n_frames:
        return np.arange(n_frames)
    chosen = np.unique(np.linspace(0, n_frames - 1, n_chosen).round().astype(int))
    chosen[np.argmin(np.abs(chosen - keep))] = keep
    return chosen


# ---------------------------------------------------------------- what the plots are made of


def _catalogues(out_directory: str | Path) -> dict[str, xr.Dataset]:
    found = {}
    for camera in Store.open(out_directory).cameras:
        if camera.catalog.is_whole:
            arrays = camera.catalog.read_all()
            found[camera.key] = xr.Dataset({name: ("source", values) for name, values in arrays.items()})
    if not found:
        raise ValueError(f"no camera has a catalogue in {out_directory}: reduce its frames first")
    return found


def _chosen(key: str, catalogue: xr.Dataset, targets: Targets) -> np.ndarray:
    """Rows of the catalogue that hold the sources asked for."""
    numbers = catalogue["source_id"].to_numpy()
    wanted = targets.get(key, targets.get(group_name(key), ())) if isinstance(targets, Mapping) else targets
    if wanted is None:
        return np.arange(len(numbers))
    ids = [int(wanted)] if isinstance(wanted, (int, np.integer)) else [int(one) for one in wanted]
    row_of = {int(number): row for row, number in enumerate(numbers)}
    if unknown := [number for number in ids if number not in row_of]:
        has = f"1 to {numbers.max()}" if len(numbers) else "no source"
        raise ValueError(f"{key} has no source {', '.join(map(str, unknown))} in its catalogue; it has {has}")
    return np.array([row_of[number] for number in ids], dtype=int)


def _stack(out_directory: str | Path, key: str) -> np.ndarray:
    return Store.open(out_directory).camera(key).reference["image"].astype(float)


def _typical_fwhm(out_directory: str | Path, key: str) -> float:
    return float(Store.open(out_directory).camera(key).catalog.attributes["fwhm"])


def _reference(camera: Camera) -> tuple[Part, int]:
    """Part and index of the reference frame of a camera.

    Raises
    ------
    ValueError
        When its night is not in the store any more.
    """
    attributes = camera.reference.attributes
    night, part = attributes["reference_night"], camera.part(attributes["reference_night"])
    if part is None:
        raise ValueError(f"the night {night} of the reference frame of {camera.key} is not in the store")
    return part, int(attributes["reference_index"])


def display_steps(out_directory: str | Path, part: Part) -> FrameSteps:
    """Steps that calibrate a frame to look at it: cosmic rays stay, the sky stays."""
    attributes = Store.open(out_directory).attributes
    extension = (attributes.get("instrument_definition") or {}).get("extension")
    parameters = preparation.stored_parameters(out_directory)
    # the instrument gives defaults of the finder, which is not run here; what matters is where the image is
    setup = Setup(locations.location(out_directory), OPTICAM_MX(), parameters, reader=FitsReader(extension))
    record = json.loads(attributes["parameters"])
    setup = replace(setup, calibration=Calibration.from_record(record))
    return replace(setup.steps_of(part), remove_cosmic_rays=False)


def _photometer_record(out_directory: str | Path, key: str, label: str) -> dict[str, Any] | None:
    """Attributes of the photometer that a photometry was made with; None when there is no such photometry."""
    for part in Store.open(out_directory).camera(key).parts:
        if label in part.labels:
            attributes = part.photometry(label).attributes
            # what was measured: a best aperture has been chosen there
            return dict(json.loads(attributes.get("prepared", attributes["parameters"])))
    return None


def _aperture_of(out_directory: str | Path, key: str, label: str) -> tuple[float, float, float]:
    record = _photometer_record(out_directory, key, label)
    axes = None if record is None else aperture_axes(record, _typical_fwhm(out_directory, key))
    if axes is None:
        raise ValueError(f"photometry {label!r} of {key} has no aperture whose noise could be computed")
    return axes


def _keep(figure: Figure, out_directory: str | Path, names: Sequence[str], save: bool, show: bool) -> list[Path]:
    if show:
        plotting.show_in_notebook(figure)
    if not save:
        return []
    file = locations.file_in(out_directory, *names)
    with locations.replacing(file) as temporary:
        plotting.save_figure(figure, temporary)
    return [file]


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
