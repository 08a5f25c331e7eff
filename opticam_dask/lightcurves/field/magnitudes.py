"""Calibrated magnitudes: a light curve against stars of the field whose magnitudes are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from astropy.table import QTable

from opticam_dask import locations
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.series import ensemble
from opticam_dask.kernels.series.comparisons.zero_points import ZeroPoint, fit_zero_point
from opticam_dask.kernels.units import MAGNITUDES_PER_SHARE
from opticam_dask.lightcurves import differential, results, targets
from opticam_dask.lightcurves.curation.comparisons import sources_marked
from opticam_dask.lightcurves.targets import Target
from opticam_dask.store.camera import Camera, group_name
from opticam_dask.store.store import Store

#: A calibrating star has a flux in this share of the frames,
_OFTEN = 0.8
#: is flagged in no more than this share of them,
_SELDOM = 0.1
#: and is this many times brighter than its error.
_BRIGHT = 10.0

_USELESS = np.uint32(
    SourceFlag.OFF_FRAME | SourceFlag.EDGE | SourceFlag.SATURATED | SourceFlag.NON_LINEAR | SourceFlag.BLENDED
)


def magnitudes(
    out_directory: str | Path,
    key: str,
    target: Target,
    band: str | None = None,
    *,
    colour: Sequence[str] = (),
    target_colour: float | None = None,
    limit_sigma: float = 3.0,
    label: str = "aperture",
    radius: float | None = None,
    target_radius: float = targets.RADIUS,
) -> xr.Dataset:
    """Light curve of a target in magnitudes of a catalogue, with a zero point for each night.

    The target is divided by the mean light curve of the stars whose magnitudes are known; their levels in a night give
    the zero point and the colour term of the night by a robust fit.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction whose field was found on the sky with a catalogue that has magnitudes.
    key : str
        Camera key such as ``1:g``.
    target : int, str, (float, float) or SkyCoord
        Number of the target in the catalogue, name, or RA and Dec.
    band : str, optional
        Band of the sky catalogue. By default that of the filter's name.
    colour : (str, str)
        Two bands whose difference is the colour of a colour term. Without them there is none.
    target_colour : float, optional
        Colour of the target. By default that of the catalogue; where it is unknown its error has the spread of the
        colours.
    limit_sigma : float
        Fluxes below this multiple of their error become upper limits.
    label : str
        Photometry label.
    radius : float, optional
        One of the radii of a label that has several.
    target_radius : float
        Largest distance of the source from the place, in arcseconds.

    Returns
    -------
    Dataset
        As from :func:`~opticam_dask.relative_light_curve`, with ``magnitude`` (NaN below the limit), ``magnitude_err``,
        which has the error of the zero point in it, ``magnitude_err_sys``, that error alone, which all frames of a
        night have in common, and ``magnitude_limit``. Attributes tell zero point, its error, scatter of the stars,
        colour term and number of stars of each night.

    Raises
    ------
    ValueError
        When the catalogue has no magnitudes or no such band, or too few stars have one.
    """
    if not limit_sigma > 0:
        raise ValueError(f"limit_sigma must be greater than 0, got {limit_sigma}")
    camera = Store.open(out_directory).camera(key)
    known = _known(camera, band, colour)
    number = targets.source_number(out_directory, key, target, target_radius)
    curves = results.light_curves(out_directory, key, label, radius=radius)
    loaded = curves[["flux", "flux_err", "flags"]].load()
    chosen = _calibrators(loaded, known, number)
    numbers = [int(one) for one in loaded["source_id"].to_numpy()[chosen]]
    curve = differential.relative_light_curve(
        out_directory, key, number, numbers, label, radius=radius, weighting="optimal"
    )
    how = {"band": band, "colour": list(colour), "target_colour": target_colour, "limit_sigma": limit_sigma}
    how |= {"target": number, "label": label, "radius": radius}
    curve = curve.assign_attrs(made_with=differential.as_made({"make": "magnitudes"} | how))
    row = int(np.flatnonzero(loaded["source_id"].to_numpy() == number)[0])
    of_target = known.colour[row] if target_colour is None else target_colour
    stars = known._replace(magnitude=known.magnitude[chosen], colour=known.colour[chosen])
    return _calibrated(curve, loaded.isel(source=chosen), stars, of_target, limit_sigma)


class _Known(NamedTuple):
    """Magnitudes and colours of the sources of a camera, NaN where not known, and the names of the bands."""

    magnitude: np.ndarray
    colour: np.ndarray
    band: str
    colour_bands: tuple[str, ...]


def _known(camera: Camera, band: str | None, colour: Sequence[str]) -> _Known:
    catalog = camera.catalog
    if "magnitude" not in catalog:
        raise ValueError(
            f"no magnitudes are known of the sources of {camera.key}: opticam-dask sky {camera.path.parent} "
            "--sky-catalog FILE takes them from a catalogue of stars"
        )
    bands = [str(name) for name in catalog["band"]]
    wanted = str(camera.attributes["filter"]) if band is None else band
    if colour and len(colour) != 2:
        raise ValueError(f"a colour is the difference of two bands, got {', '.join(colour)}")
    table = catalog["magnitude"]
    columns = [table[:, _column(bands, name, camera.key)] for name in (wanted, *colour)]
    colours = columns[1] - columns[2] if colour else np.full(len(table), np.nan)
    return _Known(columns[0], colours, wanted, tuple(colour))


def _column(bands: Sequence[str], name: str, key: str) -> int:
    """Column of a band: its name as it is, or else in any case."""
    if name in bands:
        return bands.index(name)
    alike = [place for place, band in enumerate(bands) if band.lower() == name.lower()]
    if len(alike) != 1:
        raise ValueError(f"the sky catalogue of {key} has no band {name!r}; it has {', '.join(bands)} (--band)")
    return alike[0]


def _calibrators(curves: xr.Dataset, known: _Known, target: int) -> np.ndarray:
    """Columns of the stars that the zero point is fitted to."""
    flux, error = curves["flux"].to_numpy(), curves["flux_err"].to_numpy()
    measured = np.isfinite(flux) & np.isfinite(error) & (error > 0)
    flagged = ((curves["flags"].to_numpy() & _USELESS) != 0) & measured
    n_frames = max(1, int(np.count_nonzero(measured.any(axis=1))))
    chosen = np.isfinite(known.magnitude) & (curves["source_id"].to_numpy() != target)
    chosen &= ~np.isin(curves["source_id"].to_numpy(), list(sources_marked(curves, "junk")))
    chosen &= (measured.sum(axis=0) >= _OFTEN * n_frames) & (flagged.sum(axis=0) <= _SELDOM * n_frames)
    if known.colour_bands:
        chosen &= np.isfinite(known.colour)
    for column in np.flatnonzero(chosen):
        use = measured[:, column]
        chosen[column] = np.median(flux[use, column] / error[use, column]) > _BRIGHT
    if np.count_nonzero(chosen) < 3:
        n_known = np.count_nonzero(np.isfinite(known.magnitude))
        raise ValueError(
            f"{np.count_nonzero(chosen)} of {n_known} sources with a magnitude in {known.band} are bright, measured in "
            "most frames and seldom flagged; at least 3 are needed for a zero point"
        )
    return np.flatnonzero(chosen)


def _calibrated(
    curve: xr.Dataset, stars: xr.Dataset, known: _Known, target_colour: float, limit_sigma: float
) -> xr.Dataset:
    flux, error = stars["flux"].to_numpy(), stars["flux_err"].to_numpy()
    mean = ensemble.combine_stars(flux, error, "optimal").flux[:, None]
    nights = curve["night"].to_numpy().astype(object)
    relative, relative_err = curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()
    zero, zero_err = np.full((2, len(relative)), np.nan)
    told: dict[str, Any] = {"magnitude_band": known.band, "colour_term_is_applied": int(bool(known.colour_bands))}
    if known.colour_bands:
        told["colour"] = "-".join(known.colour_bands)
    for night in dict.fromkeys(nights.tolist()):
        rows = np.flatnonzero(nights == night)
        with np.errstate(invalid="ignore", divide="ignore"):
            levels, levels_err = _levels(flux[rows] / mean[rows], error[rows] / mean[rows])
        found = fit_zero_point(levels, levels_err, known.magnitude, known.colour if known.colour_bands else None)
        zero[rows], zero_err[rows] = found.at(target_colour)
        told |= _of_night(str(night), found)
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = zero - 2.5 * np.log10(relative)
        random = MAGNITUDES_PER_SHARE * relative_err / relative
        limit = zero - 2.5 * np.log10(np.maximum(relative, 0.0) + limit_sigma * relative_err)
    is_seen = relative > limit_sigma * relative_err
    units = {"units": "mag"}
    return curve.assign(
        magnitude=("frame", np.where(is_seen, magnitude, np.nan), units | {"long_name": f"magnitude in {known.band}"}),
        magnitude_err=(
            "frame",
            np.where(is_seen, np.hypot(random, zero_err), np.nan),
            units | {"long_name": "1-sigma error of the magnitude, with that of the zero point"},
        ),
        magnitude_err_sys=("frame", zero_err, units | {"long_name": "1-sigma error of the zero point of the night"}),
        magnitude_limit=("frame", limit, units | {"long_name": f"{limit_sigma:g}-sigma upper limit"}),
    ).assign_attrs(told)


def _levels(relative: np.ndarray, relative_err: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Instrumental magnitudes of stars in a night, and their errors from their own scatter."""
    magnitude, error = np.full((2, relative.shape[1]), np.nan)
    for place, (values, errors) in enumerate(zip(relative.T, relative_err.T, strict=True)):
        use = np.isfinite(values) & np.isfinite(errors)
        level = float(np.median(values[use])) if use.any() else 0.0
        if level > 0:
            scatter = max(float(np.std(values[use])), float(np.median(errors[use])))
            magnitude[place] = -2.5 * np.log10(level)
            error[place] = MAGNITUDES_PER_SHARE * scatter / level / np.sqrt(np.count_nonzero(use))
    return magnitude, error


def _of_night(night: str, found: ZeroPoint) -> dict[str, Any]:
    return {
        f"zero_point_{night}": found.zero,
        f"zero_point_err_{night}": found.zero_err,
        f"zero_point_scatter_{night}": found.scatter,
        f"colour_term_{night}": found.term,
        f"colour_term_err_{night}": found.term_err,
        f"n_zero_point_stars_{night}": int(np.count_nonzero(found.is_used)),
    }


def describe_magnitudes(curve: xr.Dataset) -> list[str]:
    """Zero points that were found, one line a night."""
    lines = []
    for night in dict.fromkeys(curve["night"].to_numpy().astype(object).tolist()):
        told = {name: curve.attrs[f"{name}_{night}"] for name in ("zero_point", "zero_point_err", "zero_point_scatter")}
        term = f", colour term {curve.attrs[f'colour_term_{night}']:.3f}" if curve.attrs.get("colour") else ""
        lines.append(
            f"{night}: zero point {told['zero_point']:.4f} +- {told['zero_point_err']:.4f} from "
            f"{curve.attrs[f'n_zero_point_stars_{night}']} stars that scatter by {told['zero_point_scatter']:.3f} mag"
            f"{term}"
        )
    magnitude = curve["magnitude"].to_numpy()
    n_limits = int(np.count_nonzero(~np.isfinite(magnitude) & np.isfinite(curve["magnitude_limit"].to_numpy())))
    middle = f"median {np.nanmedian(magnitude):.3f}, " if np.isfinite(magnitude).any() else ""
    return [*lines, f"{np.count_nonzero(np.isfinite(magnitude))} magnitudes, {middle}{n_limits} upper limits"]


def write_magnitudes(curve: xr.Dataset, out_directory: str | Path, prefix: str) -> Path:
    """Write ``magnitudes/<label>/<prefix>_<key>_magnitudes.ecsv``, a row a frame.

    Parameters
    ----------
    curve : Dataset
        From :func:`magnitudes`.
    out_directory : path
        Output directory of the reduction.
    prefix : str
        Start of the file name.

    Returns
    -------
    Path
    """
    table = QTable(
        meta={str(name): value for name, value in curve.attrs.items() if isinstance(value, (int, float, str))}
    )
    for name in ("mjd_utc", "bmjd_tdb", "magnitude", "magnitude_err", "magnitude_err_sys", "magnitude_limit", "flags"):
        table[name] = curve[name].to_numpy()
    path = magnitudes_file(curve, out_directory, prefix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locations.replacing(path) as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)
    return path


def magnitudes_file(curve: xr.Dataset, out_directory: str | Path, prefix: str) -> Path:
    """Where :func:`write_magnitudes` writes a light curve."""
    folder = locations.location(out_directory) / "magnitudes" / curve.attrs["label"]
    return folder / f"{prefix}_{group_name(curve.attrs['key'])}_magnitudes.ecsv"
