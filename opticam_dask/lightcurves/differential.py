"""Differential light curves: a target against comparison sources of the same camera."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from opticam_dask import locations, schema
from opticam_dask.flags import Mark, SourceFlag
from opticam_dask.kernels.series import ensemble, trends
from opticam_dask.lightcurves import targets
from opticam_dask.lightcurves.curation.comparisons import choose, marks_of_measurements
from opticam_dask.lightcurves.curation.marks import last_mark
from opticam_dask.lightcurves.field import detrending
from opticam_dask.lightcurves.field.comparison_stars import coverage_card, divide, without_shared_trends
from opticam_dask.lightcurves.field.conditions import conditions_of
from opticam_dask.lightcurves.reading.columns import CurveArrays, NamedArray
from opticam_dask.lightcurves.reading.opening import curves_to_read
from opticam_dask.lightcurves.reading.tables import as_csv, cells
from opticam_dask.lightcurves.targets import Target
from opticam_dask.locations import MOST_BYTES, require_name
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import DIFFERENTIAL
from opticam_dask.store.camera import group_name
from opticam_dask.store.errors import require_own_name
from opticam_dask.store.store import Store
from opticam_dask.text import shown

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Comparing:
    """How a target is compared with its comparison sources: arguments of :func:`relative_light_curve`."""

    weighting: ensemble.Weighting = "sum"
    shared_trends: bool = False
    detrend: Sequence[str] = ()
    detrend_without: tuple[float, float] | None = None
    outliers: float = 5.0
    without: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("weighting", "outliers"):
            DIFFERENTIAL[name].check(name, getattr(self, name))


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
        ``reduced_chi2`` and ``warnings``; ``last_mark``: number of the last mark that it knows of (:func:`mark`), 0
        before there is one; ``made_with``: the arguments as JSON, with which it is made again when marks change.

    Raises
    ------
    ValueError
        When there is no such key, label or source; the message names those there are.
    """
    how = Comparing(weighting, shared_trends, detrend, detrend_without, outliers)
    found = relative_curve(
        out_directory, key, target, comparisons, label, how, radius=radius, target_radius=target_radius, without=without
    )
    return found.to_xarray()


def relative_curve(
    out_directory: str | Path,
    key: str,
    target: Target,
    comparisons: Target | Sequence[Target] | Literal["auto"],
    label: str,
    how: Comparing,
    *,
    radius: float | None,
    target_radius: float,
    without: Sequence[Target],
) -> CurveArrays:
    """Differential light curve as :func:`relative_light_curve` gives it, without xarray."""
    curves = curves_to_read(out_directory, key, label, radius)
    store = Store.open(out_directory)
    camera = store.camera(key)
    number = targets.source_number(out_directory, key, target, target_radius)
    numbers = _numbers(out_directory, key, comparisons, target_radius)
    how = replace(how, without=[targets.source_number(out_directory, key, one, target_radius) for one in without])
    curve = _computed(curves, number, numbers, how, coverage=True)
    asked = {"target": number, "comparisons": numbers, "label": label, "radius": radius}
    about = {"filter": camera.attributes["filter"], "binning": camera.measured_parts(label)[0].binning}
    about |= {"last_mark": last_mark(store), "made_with": as_made(asked | asdict(how))}
    return curve.assign_attrs(about)


def as_made(how: Mapping[str, Any]) -> str:
    """Attribute ``made_with``: how a light curve was asked for, as JSON, whether in numbers of Python or of NumPy."""
    return json.dumps(how, default=lambda value: np.asarray(value).tolist())


def _numbers(out_directory: str | Path, key: str, comparisons: Any, radius: float) -> Any:
    """Numbers of the comparison sources; ``"auto"`` stays."""
    if isinstance(comparisons, str) and comparisons == "auto":
        return comparisons
    return targets.source_numbers(out_directory, key, comparisons, radius)


def compute_relative(
    curves: xr.Dataset,
    target: int,
    comparisons: int | Sequence[int] | Literal["auto"],
    weighting: ensemble.Weighting = "sum",
    *,
    coverage: bool = False,
    **options: Any,
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
    coverage : bool
        Tell how often the errors of the comparisons hold against each other, in the attributes.
    **options
        Trends, outliers and sources that are left out: further fields of :class:`Comparing`.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    ValueError
        When a source is not in the catalogue, or is chosen twice, or none is fit to be chosen; when a vector is not
        known or does not change.
    """
    how = Comparing(weighting, **options)
    return _computed(CurveArrays.of(curves), target, comparisons, how, coverage=coverage).to_xarray()


def _computed(
    curves: CurveArrays,
    target: int,
    comparisons: int | Sequence[int] | Literal["auto"],
    how: Comparing,
    *,
    coverage: bool,
) -> CurveArrays:
    """Differential light curve of columns; see :func:`compute_relative`."""
    check_relative(curves, target, comparisons, how)
    members, chosen, why = _members(curves, target, comparisons, how.without)
    of_target = members.isel(source=0)
    relative, relative_err, weights = divide(members["flux"].to_numpy(), members["flux_err"].to_numpy(), how.weighting)
    found: dict[str, Any] = {name: curves.attrs[name] for name in ("key", "label", "radius") if name in curves.attrs}
    found |= {"target": int(target), "comparisons": chosen, "weighting": how.weighting}
    found |= {"weights": weights.round(6).tolist()} | why
    if coverage:
        found |= coverage_card(members, how.weighting, shared_trends=how.shared_trends)
    if how.shared_trends:
        corrected = without_shared_trends(
            members, relative, relative_err, detrending.outside(of_target, how.detrend_without)
        )
        relative, relative_err = corrected.flux, corrected.flux_err
        found |= {f"n_shared_trends_{night}": number for night, number in corrected.n_trends.items()}
    if how.detrend:
        fitted = detrending.fit(members, relative, relative_err, how.detrend, how.detrend_without, how.outliers)
        relative, relative_err = trends.remove_trends(relative, relative_err, fitted)
        found["detrend"] = json.dumps(detrending.described(fitted))
    return _labelled(members, relative, relative_err, how.outliers).assign_attrs(found)


def check_relative(
    curves: xr.Dataset | CurveArrays, target: int, comparisons: int | Sequence[int] | Literal["auto"], how: Comparing
) -> None:
    """Refuse arguments of :func:`compute_relative` that cannot work whatever the fluxes are.

    Raises
    ------
    ValueError
        When a source is not in the catalogue, or is chosen twice, a radius is to be chosen, or a vector is not known.
    """
    if "radius" in curves.dims:
        radii = ", ".join(f"{value:g}" for value in curves["radius"].to_numpy())
        raise ValueError(f"photometry {curves.attrs.get('label', '')!r} has the radii {radii}: choose one (radius)")
    if unknown := [name for name in how.detrend if name not in detrending.VECTORS]:
        raise ValueError(
            f"a light curve is detrended against {', '.join(detrending.VECTORS)}, got {', '.join(unknown)}"
        )
    known, key = curves["source_id"].to_numpy().tolist(), curves.attrs.get("key", "this key")
    if isinstance(comparisons, str):
        targets.rows_of_sources(known, (target, *how.without), key)
        return
    if how.without:
        raise ValueError('sources are left out of comparisons="auto"; leave them out of the numbers that you give')
    chosen = [int(number) for number in np.atleast_1d(comparisons)]
    targets.rows_of_sources(known, (target, *chosen), key)
    if not chosen or target in chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"comparisons must be other sources than the target, each once, got {chosen} for {target}")


def _members(
    curves: CurveArrays, target: int, comparisons: Any, without: Sequence[int]
) -> tuple[CurveArrays, list[int], dict[str, Any]]:
    """Target and comparisons, read; ids of the comparisons; and why they were chosen, where nobody named them."""
    known = curves["source_id"].to_numpy().tolist()
    why = dict[str, Any]()
    if isinstance(comparisons, str):
        chosen, reasons, lines = choose(curves, target, without)
        if reasons:
            why = {"reasons": "\n".join(reasons), "choice": "\n".join(lines)}
    else:
        chosen = [int(number) for number in np.atleast_1d(comparisons)]
    members = curves.isel(source=[known.index(number) for number in (target, *chosen)])
    # they are needed more than once: chunks are read once
    read = {name: NamedArray.of(one.dims, one.to_numpy(), one.attrs) for name, one in members.columns.items()
            if name in ("flux", "flux_err", "flags")}  # fmt: skip
    members = members.assign(**read)
    return members, chosen, why


def _labelled(members: CurveArrays, relative: np.ndarray, relative_err: np.ndarray, outliers: float) -> CurveArrays:
    """A relative flux with its flags, marks, times and conditions."""
    flags = np.bitwise_or.reduce(members["flags"].to_numpy(), axis=1)
    bits = marks_of_measurements(members)
    is_kept = np.any((bits & np.uint8(Mark.KEEP)) != 0, axis=1)
    flags[trends.find_outliers(relative, relative_err, outliers) & ~is_kept] |= np.uint32(SourceFlag.OUTLIER)
    found = {"relative_flux": relative, "relative_flux_err": relative_err, "flags": flags}
    if "marks" in members:
        found["marks"] = np.bitwise_or.reduce(bits, axis=1)
    return _beside_conditions(members, found)


def relative_dataset(members: xr.Dataset, found: Mapping[str, Any]) -> xr.Dataset:
    """Dataset of what was found of a relative flux along its frames, with their times and conditions.

    Parameters
    ----------
    members : Dataset
        Light curves of which the first is that of the target, lazy or not.
    found : dict of array, shape (frame,)
        ``relative_flux``, ``relative_flux_err``, ``flags`` and, where there are such, ``marks``.
    """
    return _beside_conditions(CurveArrays.of(members), found).to_xarray()


def _beside_conditions(members: CurveArrays, found: Mapping[str, Any]) -> CurveArrays:
    """What was found of a relative flux, with the times and conditions of its frames."""
    about = {
        "relative_flux": {
            "units": "1",
            "long_name": "flux of the target divided by the summed flux of the comparisons",
        },
        "relative_flux_err": {"units": "1", "long_name": "1-sigma error"},
        **{name: members[name].attrs for name in ("flags", "marks") if name in members},
    }
    of_target = members.isel(source=0)  # times may be those of each source
    times = (name for name in members.coords if name in ("mjd_utc", "bmjd_tdb", "night"))
    coords = {name: of_target[name] for name in times} | conditions_of(members)
    columns = {name: NamedArray.of(["frame"], values, about[name]) for name, values in found.items()}
    return CurveArrays(columns | coords, tuple(coords), {"frame": members.sizes["frame"]})


def write_relative_light_curve(
    curve: xr.Dataset | CurveArrays, out_directory: str | Path, prefix: str | None = None
) -> Path:
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
    if Path(prefix).name != prefix or len(prefix.encode()) > MOST_BYTES:
        raise ValueError(
            f"prefix must be the start of a file name without directories, at most {MOST_BYTES} bytes, got "
            f"{shown(prefix)}"
        )
    if not {"key", "label"} <= set(curve.attrs):
        raise ValueError(f"the light curve must have attributes key and label, it has {sorted(curve.attrs)}")
    has_bmjd = bool(np.isfinite(curve["bmjd_tdb"].to_numpy()).any())
    time_name, time = ("BMJD", "bmjd_tdb") if has_bmjd else ("MJD", "mjd_utc")
    columns = [curve[name].to_numpy() for name in (time, "relative_flux", "relative_flux_err")]
    columns.append(curve["flags"].to_numpy() & ~np.uint32(SourceFlag.REDUCED))
    header = [time_name, "rel_flux", "rel_flux_err", "flags"]
    file = relative_file(curve, out_directory, prefix)
    file.parent.mkdir(parents=True, exist_ok=True)
    with locations.replacing(file) as temporary:
        temporary.write_bytes(as_csv([header, *zip(*map(cells, columns), strict=True)]))
    return file


def relative_file(curve: xr.Dataset | CurveArrays, out_directory: str | Path, prefix: str) -> Path:
    """Where :func:`write_relative_light_curve` writes a light curve."""
    folder = locations.location(out_directory) / "relative_light_curves" / curve.attrs["label"]
    return folder / f"{prefix}_{group_name(curve.attrs['key'])}_light_curve.csv"


def keep_relative_light_curve(curve: xr.Dataset | CurveArrays, out_directory: str | Path, name: str) -> None:
    """Keep a light curve in the store as ``<key>/differential/<name>``; see :func:`keep_relative_light_curves`."""
    keep_relative_light_curves([curve], out_directory, name)


def keep_relative_light_curves(
    curves: Iterable[xr.Dataset | CurveArrays], out_directory: str | Path, name: str
) -> None:
    """Keep light curves of cameras in the store as ``<key>/differential/<name>``; older ones of this name are replaced.

    Parameters
    ----------
    curves : iterable of xarray.Dataset or CurveArrays
        From :func:`relative_light_curve`, or the arrays that it is made of.
    out_directory : path
        Output directory of the reduction.
    name : str
        Name of the light curves.

    Raises
    ------
    ValueError
        When the name is none that a group can have.
    store.StoreError
        When it is that of another light curve where capital letters do not count.
    """
    require_name("a name", name)
    store = Store.open(out_directory)
    of_cameras = [(store.camera(curve.attrs["key"]), curve) for curve in curves]
    for camera, _ in of_cameras:
        require_own_name(name, camera.differential_names)
    store.begin_changes()
    for camera, curve in of_cameras:
        camera.differential(name).write(arrays_of(curve), curve.attrs)
    store.finish_changes()


def arrays_of(curve: xr.Dataset | CurveArrays) -> dict[str, np.ndarray]:
    """What the store keeps of a light curve."""
    return {entry.name: curve[entry.name].to_numpy() for entry in schema.DIFFERENTIAL if entry.name in curve}
