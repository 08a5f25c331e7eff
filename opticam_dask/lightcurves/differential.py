"""Differential light curves: a target against comparison sources of the same camera."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from opticam_dask import locations, schema
from opticam_dask.flags import Mark, SourceFlag
from opticam_dask.kernels.series import ensemble, lightcurve, trends
from opticam_dask.lightcurves import results, targets
from opticam_dask.lightcurves.curation.comparisons import choose, left_out_sources, marks_of_measurements
from opticam_dask.lightcurves.curation.marks import Marks
from opticam_dask.lightcurves.field.comparison_stars import coverage_card, divide, without_shared_trends
from opticam_dask.lightcurves.field.conditions import conditions_of
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.lightcurves.targets import Target
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import DIFFERENTIAL
from opticam_dask.store.camera import group_name
from opticam_dask.store.errors import require_own_name
from opticam_dask.store.store import Store

#: What a light curve may be detrended against.
VECTORS = ("airmass", "fwhm", "background", "x", "y", "ellipticity", "transparency", "time")

#: Share of the frames in which a source must have a flux to be judged.
_OFTEN = 0.9


@held_to(DIFFERENTIAL)
def relative_light_curve(
    out_directory: str | Path,
    key: str,
    target: Target,
    comparisons: Target | Sequence[Target] | Literal["auto"],
    label: str = "aperture",
    *,
    radius: float | None = None,
    target_radius: float = targets.RADIUS,
    weighting: ensemble.Weighting = "sum",
    shared_trends: bool = False,
    detrend: Sequence[str] = (),
    detrend_without: tuple[float, float] | None = None,
    outliers: float = 5.0,
    without: Sequence[Target] = (),
) -> xr.Dataset:
    """Differential light curve over all nights.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key : str
        Camera key such as ``1:g``.
    target : int, str, (float, float) or SkyCoord
        Number of the target in the catalogue, name, or RA and Dec. Places are ICRS, in degrees or as sexagesimal text.
    comparisons : the same, a sequence of them, or "auto"
        Numbers or names of the comparison sources, or auto. ``"auto"`` chooses sources of similar brightness that are
        seldom flagged and do not vary; of the target's light curve nothing but its typical flux is looked at.
    label : str
        Photometry label.
    radius : float, optional
        One of the radii of a label that has several.
    target_radius : float
        Largest distance of the source from the place, in arcseconds.
    weighting : {"sum", "optimal"}
        Comparisons are weighted by their light, or by their errors and scatter. ``"sum"`` adds the fluxes of the
        comparisons; a frame in which one has no flux has no relative flux. With ``"optimal"`` a comparison that is
        missing in a frame makes no jump (:mod:`opticam_dask.kernels.series.ensemble`).
    shared_trends : bool
        Take off trends that the comparisons share, by SysRem. Night by night, in numbers that cross-validation chooses;
        levels of nights stay, a dip of the target is not taken for a trend
        (:mod:`opticam_dask.kernels.series.comparisons.shared_trends`).
    detrend : sequence of str
        Take off linear trends with airmass, fwhm, background, x, y, ellipticity, transparency, time. A trend can eat a
        signal that looks like it.
    detrend_without : (float, float), optional
        Start and end of the times that trends are not fitted to (a transit), in BMJD, or MJD without one. BMJD is TDB,
        MJD is UTC.
    outliers : float
        Distance from the neighbouring fluxes beyond which a flux is flagged, in sigma. The neighbours count by their
        running median, and sigma is the larger of error and scatter. The flag is ``outlier``; such fluxes are not
        fitted, and nothing is dropped.
    without : sequence of the same
        Sources that auto does not choose as comparisons.

    Returns
    -------
    xarray.Dataset
        Dim ``frame``; variables ``relative_flux``, ``relative_flux_err`` and ``flags`` (of target and comparisons
        together); coordinates mjd_utc, bmjd_tdb and night, and as far as they are known exposure_time, airmass, fwhm,
        background, transparency, ellipticity, and x and y of the target; attributes ``filter``, ``binning``,
        ``comparisons``, ``weights`` and, when they were chosen, ``reasons``: what was found out about each source, and
        ``choice``: the same in a few lines; ``coverage_...``: how often the errors of the comparisons hold against each
        other; with shared trends ``n_shared_trends_<night>``; with trends ``detrend``: their coefficients (relative
        change of the flux for one standard deviation of the vector), ``errors``, ``degrees_of_freedom``,
        ``reduced_chi2`` and ``warnings``.

    Raises
    ------
    ValueError
        When there is no such key, label or source; the message names those there are.
    """
    curves = results.light_curves_to_read(out_directory, key, label, radius)
    store = Store.open(out_directory)
    camera = store.camera(key)
    curve = compute_relative(
        curves,
        targets.source_number(out_directory, key, target, target_radius),
        _numbers(out_directory, key, comparisons, target_radius),
        weighting,
        shared_trends=shared_trends,
        detrend=detrend,
        detrend_without=detrend_without,
        outliers=outliers,
        coverage=True,
        without=[targets.source_number(out_directory, key, one, target_radius) for one in without],
        marks=Marks.of(store, camera.key, label).comparisons,
    )
    return curve.assign_attrs(filter=camera.attributes["filter"], binning=camera.measured_parts(label)[0].binning)


def _numbers(out_directory: str | Path, key: str, comparisons: Any, radius: float) -> Any:
    """Numbers of the comparison sources; ``"auto"`` stays."""
    if isinstance(comparisons, str) and comparisons == "auto":
        return comparisons
    return targets.source_numbers(out_directory, key, comparisons, radius)


@held_to(DIFFERENTIAL)
def compute_relative(
    curves: xr.Dataset,
    target: int,
    comparisons: int | Sequence[int] | Literal["auto"],
    weighting: ensemble.Weighting = "sum",
    *,
    shared_trends: bool = False,
    detrend: Sequence[str] = (),
    detrend_without: tuple[float, float] | None = None,
    outliers: float = 5.0,
    coverage: bool = False,
    without: Sequence[int] = (),
    marks: Mapping[int, Any] | None = None,
) -> xr.Dataset:
    """Differential light curve from the fluxes of all sources; see :func:`relative_light_curve`.

    Parameters
    ----------
    curves : xarray.Dataset
        Dims ``(frame, source)``: flux, flux_err, flags; coordinates mjd_utc, bmjd_tdb, night, source_id.
    target : int
        Id of the target.
    comparisons : int or sequence of int or "auto"
        Ids of the comparison sources; ``"auto"`` chooses them.
    weighting : {"sum", "optimal"}
        How the comparison sources are combined.
    shared_trends, detrend, detrend_without, outliers, without
        Trends, outliers and sources that are left out, as :func:`relative_light_curve` takes them.
    coverage : bool
        Tell how often the errors of the comparisons hold against each other, in the attributes.
    marks : dict, optional
        Marks of sources as comparisons, by source id (:class:`~opticam_dask.lightcurves.curation.marks.Marks`).

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    ValueError
        When a source is not in the catalogue, or is chosen twice, or none is fit to be chosen; when a vector is not
        known or does not change.
    """
    members, chosen, why = _members(curves, target, comparisons, without, marks or {})
    of_target = members.isel(source=0)
    relative, relative_err, weights = divide(members["flux"].to_numpy(), members["flux_err"].to_numpy(), weighting)
    found: dict[str, Any] = {name: curves.attrs[name] for name in ("key", "label", "radius") if name in curves.attrs}
    found |= {"target": int(target), "comparisons": chosen, "weighting": weighting}
    found |= {"weights": weights.round(6).tolist()} | why
    if coverage:
        found |= coverage_card(members, weighting, shared_trends=shared_trends)
    if shared_trends:
        corrected = without_shared_trends(members, relative, relative_err, _outside(of_target, detrend_without))
        relative, relative_err = corrected.flux, corrected.flux_err
        found |= {f"n_shared_trends_{night}": number for night, number in corrected.n_trends.items()}
    if detrend:
        fitted = _fit_trends(members, relative, relative_err, detrend, detrend_without, outliers)
        relative, relative_err = trends.remove_trends(relative, relative_err, fitted)
        found["detrend"] = json.dumps(_describe_trends(fitted))
    return _labelled(members, relative, relative_err, outliers).assign_attrs(found)


def _members(
    curves: xr.Dataset, target: int, comparisons: Any, without: Sequence[int], marks: Mapping[int, Any]
) -> tuple[xr.Dataset, list[int], dict[str, Any]]:
    """Target and comparisons, read; ids of the comparisons; and why they were chosen, where nobody named them."""
    if "radius" in curves.dims:
        radii = ", ".join(f"{value:g}" for value in curves["radius"].to_numpy())
        raise ValueError(f"photometry {curves.attrs.get('label', '')!r} has the radii {radii}: choose one (radius)")
    known = curves["source_id"].to_numpy().tolist()
    why = dict[str, Any]()
    if isinstance(comparisons, str):
        chosen, reasons, lines = choose(curves, target, left_out_sources(without, marks))
        if reasons:
            why = {"reasons": "\n".join(reasons), "choice": "\n".join(lines)}
    else:
        if without:
            raise ValueError('sources are left out of comparisons="auto"; leave them out of the numbers that you give')
        chosen = [int(number) for number in np.atleast_1d(comparisons)]
    targets.rows_of_sources(known, (target, *chosen), curves.attrs.get("key", "this key"))
    if not chosen or target in chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"comparisons must be other sources than the target, each once, got {chosen} for {target}")
    members = curves.isel(source=[known.index(number) for number in (target, *chosen)])
    # they are needed more than once: chunks are read once
    members = members.assign({name: members[name].load() for name in ("flux", "flux_err", "flags")})
    return members, chosen, why


def _labelled(members: xr.Dataset, relative: np.ndarray, relative_err: np.ndarray, outliers: float) -> xr.Dataset:
    """A relative flux with its flags, marks, times and conditions."""
    flags = np.bitwise_or.reduce(members["flags"].to_numpy(), axis=1)
    bits = marks_of_measurements(members)
    is_kept = np.any((bits & np.uint8(Mark.KEEP)) != 0, axis=1)
    flags[trends.find_outliers(relative, relative_err, outliers) & ~is_kept] |= np.uint32(SourceFlag.OUTLIER)
    attributes = {"units": "1", "long_name": "flux of the target divided by the summed flux of the comparisons"}
    of_target = members.isel(source=0)  # times may be those of each source
    times = [name for name in ("mjd_utc", "bmjd_tdb", "night") if name in members.coords]
    dataset = xr.Dataset(
        {
            "relative_flux": ("frame", relative, attributes),
            "relative_flux_err": ("frame", relative_err, {"units": "1", "long_name": "1-sigma error"}),
            "flags": ("frame", flags, members["flags"].attrs),
        },
        coords={name: of_target[name].variable for name in times} | conditions_of(members),
    )
    if "marks" in members:
        dataset["marks"] = ("frame", np.bitwise_or.reduce(bits, axis=1), members["marks"].attrs)
    return with_indexes(dataset)


def _fit_trends(
    members: xr.Dataset,
    relative: np.ndarray,
    relative_err: np.ndarray,
    names: Sequence[str],
    without: tuple[float, float] | None,
    outliers: float,
) -> trends.Trends:
    """Trends of a relative flux with what is known of the frames and of the target, the first of the members."""
    of_target = members.isel(source=0)
    time = _time_of(of_target)
    if unknown := [name for name in names if name not in VECTORS]:
        raise ValueError(f"a light curve is detrended against {', '.join(VECTORS)}, got {', '.join(unknown)}")
    vectors = {}
    for name in dict.fromkeys(names):
        stored = "frame_background" if name == "background" and "frame_background" in members.coords else name
        if name == "time":
            vectors[name] = time
        elif name in ("x", "y"):
            vectors[name] = members[name].to_numpy()[:, 0]
        elif stored in members.coords:
            vectors[name] = members[stored].to_numpy().astype(float)
        if name not in vectors or not np.isfinite(vectors[name]).any():
            raise ValueError(f"{name} is not known in any frame, so nothing can be detrended against it")
    use = ~trends.find_outliers(relative, relative_err, outliers)
    outside = _outside(of_target, without)
    if outside is not None:
        use &= outside
    return trends.fit_trends(relative, relative_err, vectors, use)


def _time_of(of_target: xr.Dataset) -> np.ndarray:
    """Barycentric time where any is known, else UTC."""
    times: np.ndarray = of_target["bmjd_tdb" if np.isfinite(of_target["bmjd_tdb"]).any() else "mjd_utc"].to_numpy()
    return times


def _outside(of_target: xr.Dataset, without: tuple[float, float] | None) -> np.ndarray | None:
    """Frames that are not within the times that trends are not fitted to; None where there are no such times."""
    if without is None:
        return None
    time = _time_of(of_target)
    return ~((time >= min(without)) & (time <= max(without)))


def _describe_trends(fitted: trends.Trends) -> dict[str, Any]:
    """Trends as JSON can hold them."""
    return {
        "coefficients": dict(zip(fitted.names, fitted.coefficients.tolist(), strict=True)),
        "errors": dict(zip(fitted.names, fitted.errors.tolist(), strict=True)),
        "degrees_of_freedom": fitted.degrees_of_freedom,
        "reduced_chi2": fitted.reduced_chi2,
        "warnings": list(fitted.warnings),
    }


def write_relative_light_curve(curve: xr.Dataset, out_directory: str | Path, prefix: str | None = None) -> Path:
    """Write ``relative_light_curves/<label>/<prefix>_<key>_light_curve.csv``.

    Columns are ``BMJD`` (or ``MJD``, UTC, where no barycentric time is known at all), ``rel_flux``,
    ``rel_flux_err`` and ``flags``; every frame has a row.

    Parameters
    ----------
    curve : xarray.Dataset
        From :func:`relative_light_curve`.
    out_directory : path
        Output directory of the reduction.
    prefix : str, optional
        Start of the file name, by default ``target``.

    Returns
    -------
    Path
        The file, which is complete or was not touched.

    Raises
    ------
    ValueError
        When the prefix is no file name, or the curve does not say its key and label.
    """
    prefix = "target" if prefix is None else prefix
    if Path(prefix).name != prefix:
        raise ValueError(f"prefix must be the start of a file name without directories, got {prefix!r}")
    if not {"key", "label"} <= set(curve.attrs):
        raise ValueError(f"the light curve must have attributes key and label, it has {sorted(curve.attrs)}")
    has_bmjd = bool(np.isfinite(curve["bmjd_tdb"]).any())
    time_name, time = ("BMJD", "bmjd_tdb") if has_bmjd else ("MJD", "mjd_utc")
    table = pd.DataFrame(
        {
            time_name: curve[time].to_numpy(),
            "rel_flux": curve["relative_flux"].to_numpy(),
            "rel_flux_err": curve["relative_flux_err"].to_numpy(),
            "flags": curve["flags"].to_numpy() & ~np.uint32(SourceFlag.REDUCED),
        }
    )
    name = f"{prefix}_{group_name(curve.attrs['key'])}_light_curve.csv"
    folder = locations.location(out_directory) / "relative_light_curves" / curve.attrs["label"]
    folder.mkdir(parents=True, exist_ok=True)
    with locations.replacing(folder / name) as temporary:
        table.to_csv(temporary, index=False)
    return folder / name


def keep_relative_light_curve(curve: xr.Dataset, out_directory: str | Path, name: str) -> None:
    """Keep a light curve in the store as ``<key>/differential/<name>``, in place of one of this name.

    Parameters
    ----------
    curve : xarray.Dataset
        From :func:`relative_light_curve`.
    out_directory : path
        Output directory of the reduction.
    name : str
        Name of the light curve.

    Raises
    ------
    ValueError
        When the name is none that a group can have.
    store.StoreError
        When it differs from that of another light curve in capital letters alone.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
        raise ValueError(f"a name must be letters, digits, '_', '.', '+' or '-', got {name!r}")
    store = Store.open(out_directory)
    camera = store.camera(curve.attrs["key"])
    require_own_name(name, camera.differential_names)
    store.begin_changes()
    arrays = {entry.name: curve[entry.name].to_numpy() for entry in schema.DIFFERENTIAL if entry.name in curve}
    camera.differential(name).write(arrays, curve.attrs)
    store.finish_changes()


def most_variable(curves: xr.Dataset) -> int:
    """Find the source that varies most against all others, by reduced chi-squared.

    A source without flux in more than a tenth of the frames is neither judged nor compared with: it would take
    those frames from all others.

    Parameters
    ----------
    curves : xarray.Dataset
        Dims ``(frame, source)``: flux, flux_err, flags; coordinate source_id.

    Returns
    -------
    int
        Number of the source in the catalogue.

    Raises
    ------
    ValueError
        With fewer than three sources that are measured in most frames.
    """
    loaded = curves[["flux", "flux_err", "flags"]].load()
    numbers = often_measured(loaded)
    if len(numbers) < 3:
        raise ValueError(
            "at least 3 sources with a flux in most frames are needed to tell which one varies; "
            f"{len(numbers)} of {loaded.sizes['source']} have one"
        )
    excess = []
    for number in numbers:
        others = [other for other in numbers if other != number]
        one = compute_relative(loaded, number, others, outliers=np.inf)
        excess.append(lightcurve.reduced_chi2(one["relative_flux"].to_numpy(), one["relative_flux_err"].to_numpy()))
    if not np.isfinite(excess).any():
        raise ValueError("no two frames have a flux of every source, so none can be called variable")
    return int(numbers[int(np.nanargmax(excess))])


def often_measured(curves: xr.Dataset) -> list[int]:
    """Numbers of the sources with a flux in nine tenths of the frames in which any source has one."""
    measured = np.isfinite(curves["flux"].to_numpy())
    n_frames = np.count_nonzero(measured.any(axis=1))
    often = (measured.sum(axis=0) >= _OFTEN * n_frames) & (n_frames > 0)
    found: list[int] = curves["source_id"].to_numpy()[often].tolist()
    return found


def chance_of_variation(curves: xr.Dataset, number: int) -> float:
    """Probability that noise alone makes any source vary as much as this one does.

    Parameters
    ----------
    curves : xarray.Dataset
        Light curves of all sources, as :func:`most_variable` takes them.
    number : int
        Of the source that varies most.

    Returns
    -------
    float
        From its chi-squared, times the number of sources among which it was chosen; at most 1.
    """
    from scipy.special import chdtrc  # probability that chi-squared is exceeded

    numbers = often_measured(curves)
    one = compute_relative(curves, number, [other for other in numbers if other != number], outliers=np.inf)
    flux, error = one["relative_flux"].to_numpy(), one["relative_flux_err"].to_numpy()
    freedom = np.count_nonzero(np.isfinite(flux)) - 1
    return min(1.0, len(numbers) * float(chdtrc(freedom, freedom * lightcurve.reduced_chi2(flux, error))))
