"""Plots of the scatter of measured fluxes against the noise that theory expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import locations
from opticam_dask.display import plotting, products
from opticam_dask.display.diagnostics.inputs import keep_figure
from opticam_dask.display.diagnostics.sources import aperture_of
from opticam_dask.display.drawn import keep_drawn
from opticam_dask.kernels.robust import MAD_TO_SIGMA, finite_median
from opticam_dask.kernels.sources import noise
from opticam_dask.lightcurves.reading.columns import CurveArrays, along
from opticam_dask.lightcurves.reading.opening import curves_of_source_groups
from opticam_dask.pipeline import preparation
from opticam_dask.store.camera import Camera
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import xarray as xr

#: Fluxes at which the noise is computed: enough for a smooth line.
_MODEL_FLUXES = 200


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
    return keep_figure(figure, out_directory, ("diag", f"{label}_snrs.pdf"), save, show)


def plot_rms_vs_flux(
    out_directory: str | Path,
    label: str = "aperture",
    *,
    save: bool = True,
    show: bool = False,
    if_changed: bool = False,
) -> list[Path]:
    """Write ``diag/<label>_rms_vs_flux.pdf``: robust scatter of every source against its median flux.

    With ``if_changed`` a file that shows the same already is left as it is.

    Raises
    ------
    ValueError
        When no camera has photometry of this label.
    """
    statistics = _statistics(out_directory, label)
    if save and if_changed:
        file = locations.file_in(out_directory, "diag", f"{label}_rms_vs_flux.pdf")
        return [keep_drawn(file, lambda shown: plotting.plot_rms_vs_flux(shown), statistics, show=show)]
    figure = plotting.plot_rms_vs_flux(statistics)
    return keep_figure(figure, out_directory, ("diag", f"{label}_rms_vs_flux.pdf"), save, show)


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
    return keep_figure(figure, out_directory, ("diag", f"{label}_noise_characterisation.pdf"), save, show)


def noise_model(out_directory: str | Path, key: str, label: str, statistics: xr.Dataset) -> xr.Dataset:
    """Noise of an aperture in a typical frame of a key, over the fluxes of its sources.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key, label : str
        Camera key and photometry label.
    statistics : Dataset
        Result of :func:`source_statistics`.

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
    import xarray as xr

    store = Store.open(out_directory)
    camera = store.camera(key)
    flux = statistics["median_flux"].to_numpy()
    flux = flux[flux > 0]
    if not len(flux):
        return xr.Dataset(coords={"flux": np.empty(0)})
    axes = aperture_of(camera, label)
    frames = _of_usual_exposure(camera, products.frames_of(camera, with_quality=True))
    typical = {
        name: finite_median(frames[name].to_numpy())
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
    return {key: _as_dataset(one) for key, one in _statistics(out_directory, label).items()}


def _statistics(out_directory: str | Path, label: str) -> dict[str, CurveArrays]:
    """What :func:`statistics_of_sources` gives, without xarray, whose import takes longer than this does."""
    found = {}
    for camera in Store.open(out_directory).measured_cameras(label):
        groups = curves_of_source_groups(out_directory, camera.key, label, ("flux", "flux_err"))
        some = [_statistics_of(_of_usual_exposure(camera, group)) for group in groups]
        whole = {name: np.concatenate([one[name].to_numpy() for one in some]) for name in some[0]}
        found[camera.key] = along("source", whole, ["source_id"])
    return found


def _as_dataset(statistics: CurveArrays) -> xr.Dataset:
    import xarray as xr

    columns = {name: ("source", one.to_numpy()) for name, one in statistics.columns.items()}
    return xr.Dataset(columns).set_coords(list(statistics.coords))


def _of_usual_exposure(camera: Camera, dataset: CurveArrays) -> CurveArrays:
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
    return _as_dataset(_statistics_of(curves))


def _statistics_of(curves: xr.Dataset | CurveArrays) -> CurveArrays:
    if "radius" in curves.dims:
        curves = curves.isel(radius=0)
    columns: dict[str, list[float]] = {"median_flux": [], "scatter": [], "median_error": []}
    by_source = (
        np.moveaxis(one.to_numpy(), one.dims.index("source"), 0) for one in (curves["flux"], curves["flux_err"])
    )
    for flux, error in zip(*by_source, strict=True):
        middle = finite_median(flux)
        enough = np.count_nonzero(np.isfinite(flux)) >= 3
        columns["median_flux"].append(middle)
        columns["scatter"].append(MAD_TO_SIGMA * finite_median(np.abs(flux - middle)) if enough else np.nan)
        columns["median_error"].append(finite_median(error))
    found = {name: np.array(values, dtype=float) for name, values in columns.items()}
    return along("source", found | {"source_id": curves["source_id"].to_numpy()}, ["source_id"])
