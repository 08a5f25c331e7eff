"""The exoplanet format of the AAVSO: one transit a file, raw relative flux with the vectors of its baseline.

Rules: aavso.org/apps/exosite/doc, revision 1.0. Times are BJD (TDB), mid-exposure; fluxes are not detrended and are 1
out of transit (``Rnflux``); at most four detrending columns; what is not known is ``na``.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from opticam_dask.lightcurves.fitting.outcome import OLD_FIT, value_of
from opticam_dask.lightcurves.submission.observer import Submission
from opticam_dask.lightcurves.submission.rows import (
    Rows,
    not_numbers,
    number,
    parameters_and_rows,
    problems_of_code,
    rows_of,
    software,
)
from opticam_dask.store.camera import group_name

#: Detrending columns that the format has.
_MOST_VECTORS = 4

#: Lengths that the format allows.
_LIMITS = {
    "SOFTWARE": 255,
    "STAR_NAME": 100,
    "EXOPLANET_NAME": 100,
    "DETREND_PARAMETERS": 100,
    "SECONDARY_OBSCODES": 60,
    "PRIORS": 250,
    "RESULTS": 250,
}

_REQUIRED = (
    *("TYPE", "OBSCODE", "SOFTWARE", "DELIM", "DATE_TYPE", "OBSTYPE", "STAR_NAME", "EXOPLANET_NAME", "BINNING"),
    *("EXPOSURE_TIME", "FILTER", "DETREND_PARAMETERS", "MEASUREMENT_TYPE"),
)

_CHOICES = {
    "TYPE": ("EXOPLANET",),
    "DELIM": (",", ";", "|", ":", "!", "/", "?", "tab"),
    "DATE_TYPE": ("JD_UTC", "HJD_UTC", "BJD_UTC", "BJD_TT", "BJD_TDB"),
    "OBSTYPE": ("CCD", "DSLR"),
    "BINNING": ("1x1", "2x2", "3x3", "4x4"),
    "MEASUREMENT_TYPE": ("Rnflux", "Dmag"),
}

#: Longest exposure that is taken, seconds.
_LONGEST_EXPOSURE = 600.0

#: The model is this close to 1 out of transit.
_OUT_OF_TRANSIT = 1e-9


def make_aavso_exoplanet(curve: xr.Dataset, about: Submission, fit: xr.Dataset | None) -> str:
    """Text of a file in the AAVSO exoplanet format.

    Parameters
    ----------
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`.
    about : Submission
        With the name of the star and the observer's ``aavso``; the planet is ``<star> b`` where it has no name.
    fit : Dataset
        From :func:`~opticam_dask.fit_transit` to it, which says what is out of transit.

    Raises
    ------
    ValueError
        When something that the format needs is not known.
    """
    observer, star = about.observer, about.star
    observer.needed("aavso")
    if fit is None or fit.attrs.get("shape") != "transit":
        raise ValueError(
            "the exoplanet format wants fluxes that are 1 out of transit: fit the transit first (fit-transit with the "
            "same --prefix)"
        )
    if any(str(name).startswith("detrend") for name in curve.attrs):
        raise ValueError("the exoplanet format wants raw fluxes: make the light curve without --detrend")
    if not star:
        raise ValueError("the exoplanet format wants the name of the star (--star)")
    rows = rows_of(curve, time="bmjd_tdb", leave_out=about.leave_out)
    level = _out_of_transit(rows, fit, str(curve.attrs.get("key", "")))
    vectors = [name for name in _vectors(curve, fit) if name in rows.columns][:_MOST_VECTORS]
    exposure = float(np.nanmedian(rows.columns["exposure_time"])) if "exposure_time" in rows.columns else float("nan")
    binning = curve.attrs.get("binning", 1)
    header = {
        "TYPE": "EXOPLANET",
        "OBSCODE": observer.aavso,
        "SOFTWARE": software(),
        "DELIM": ",",
        "DATE_TYPE": "BJD_TDB",
        "OBSTYPE": "CCD",
        "STAR_NAME": star,
        "EXOPLANET_NAME": about.planet or f"{star} b",
        "BINNING": f"{binning}x{binning}",
        "EXPOSURE_TIME": f"{exposure:g}" if np.isfinite(exposure) else "",
        "FILTER": observer.band(str(curve.attrs.get("filter", "")), "aavso"),
        "DETREND_PARAMETERS": ",".join(name.upper() for name in vectors),
        "MEASUREMENT_TYPE": "Rnflux",
        "SECONDARY_OBSCODES": ",".join(observer.secondary),
        "PRIORS": _priors(fit, str(curve.attrs.get("key", ""))),
        "RESULTS": _results(fit),
        "NOTES": " ".join(f"{about.notes} {_comparisons(curve, rows.n_left_out)}{_age_of(fit)}".split()),
    }
    optional = ("SECONDARY_OBSCODES",)
    lines = [f"#{name}={value}" for name, value in header.items() if value or name not in optional]
    lines.append("#" + ",".join(["DATE", "DIFF", "ERR", *(f"DETREND_{place}" for place in range(1, len(vectors) + 1))]))
    columns = [rows.columns[name] for name in vectors]
    for place in range(len(rows)):
        fields = [
            f"{rows.bjd_tdb[place]:.8f}",
            f"{rows.flux[place] / level:.8f}",
            number(rows.flux_err[place] / level, 6),
            *(number(column[place], 6) for column in columns),
        ]
        lines.append(",".join(fields))
    return "\n".join(lines) + "\n"


def _out_of_transit(rows: Rows, fit: xr.Dataset, key: str) -> float:
    """Mean relative flux out of transit, from the present rows: marks may have changed them since the fit."""
    own = fit.isel(point=np.flatnonzero(fit["key"].to_numpy().astype(object) == key)).sortby("bjd")
    outside = (np.abs(own["model"].to_numpy() - 1.0) < _OUT_OF_TRANSIT) & own["is_fitted"].to_numpy()
    # the fit may be of averages of frames: the points before and after a frame are to be outside
    is_level = np.interp(rows.bjd_tdb, own["bjd"].to_numpy(), outside.astype(float)) > 0.99 if len(outside) else outside
    if not is_level.any():
        raise ValueError("no frame of the fit is out of transit, so fluxes cannot be brought to 1 there")
    return float(np.mean(rows.flux[is_level]))


def _vectors(curve: xr.Dataset, fit: xr.Dataset) -> list[str]:
    """Vectors of the baseline of the fit that are columns of the light curve."""
    found = [str(name).split("_", 2)[1] for name in fit.attrs if str(name).startswith("baseline_")]
    return [name for name in dict.fromkeys(found) if name in curve.coords]


def _priors(fit: xr.Dataset, key: str) -> str:
    name = group_name(key)
    told = {"Period": fit.attrs.get("period")}
    told |= {"a/R*": fit.attrs.get("prior_a_over_rs"), "inc": fit.attrs.get("prior_inclination")}
    told |= {"u1": fit.attrs.get(f"u1_{name}"), "u2": fit.attrs.get(f"u2_{name}")}
    return ",".join(f"{prior}={value:.10g}" for prior, value in told.items() if value is not None)


def _results(fit: xr.Dataset) -> str:
    names = [str(name) for name in fit["parameter"].to_numpy()]
    ratio = next(name for name in names if name.startswith("radius_ratio"))
    pieces = []
    for word, name, digits in (("Tc", "mid_time", 5), ("Rp/R*", ratio, 5), ("a/R*", "a_over_rs", 3)):
        value, error = value_of(fit, name)
        pieces.append(f"{word}={value:.{digits}f} +/- {error:.{digits}f}")
    value, error = value_of(fit, ratio.replace("radius_ratio", "depth"))
    pieces.append(f"Depth={value / 100:.5f} +/- {error / 100:.5f}")
    value, error = value_of(fit, "inclination")
    return ",".join([*pieces, f"inc={value:.2f} +/- {error:.2f}"])


def _comparisons(curve: xr.Dataset, n_left_out: int) -> str:
    n_stars = len(np.atleast_1d(curve.attrs.get("comparisons", [])))
    left = f", {n_left_out} frame(s) left out" if n_left_out else ""
    return f"{n_stars} comparison star(s), raw fluxes, not detrended{left}"


def _age_of(fit: xr.Dataset) -> str:
    return f", {OLD_FIT}" if OLD_FIT in str(fit.attrs.get("notes", "")) else ""


def problems_of_aavso_exoplanet(text: str) -> list[str]:
    """Violations of the rules of the format in a file; none when it is all right."""
    header, data = parameters_and_rows(text)
    found = [f"#{name}= is missing" for name in _REQUIRED if name not in header]
    found += [
        f"#{name}={header[name]} is not one of {', '.join(known)}"
        for name, known in _CHOICES.items()
        if name in header and header[name] not in known
    ]
    found += [
        f"#{name}= has {len(header[name])} characters, {most} are allowed"
        for name, most in _LIMITS.items()
        if len(header.get(name, "")) > most
    ]
    found += problems_of_code(header.get("OBSCODE", ""))
    found += [f"#{name}= is empty" for name in _REQUIRED if header.get(name) == "" and name != "DETREND_PARAMETERS"]
    if not_numbers([header.get("EXPOSURE_TIME", "")]) or not 0 < float(header["EXPOSURE_TIME"]) <= _LONGEST_EXPOSURE:
        found.append(f"#EXPOSURE_TIME={header.get('EXPOSURE_TIME', '')} is not a number of seconds up to 600")
    named = [name for name in header.get("DETREND_PARAMETERS", "").split(",") if name]
    if len(named) > _MOST_VECTORS:
        found.append(f"{len(named)} detrending columns are named, four are allowed")
    if not data:
        found.append("there is no row")
    return found + _problems_of_rows(data, header.get("DELIM", ","), 3 + len(named))


def _problems_of_rows(data: list[str], delimiter: str, n_fields: int) -> list[str]:
    found = []
    for place, line in enumerate(data, start=1):
        fields = line.split("\t" if delimiter == "tab" else delimiter)
        if len(fields) != n_fields:
            found.append(f"row {place} has {len(fields)} fields, {n_fields} are named")
        elif bad := not_numbers(fields[:2], allowed=()) + not_numbers(fields[2:]):
            found.append(f"row {place} has {', '.join(map(repr, bad))} where a number or na must be")
        elif not 2400000.0 < float(fields[0]) < 2600000.0:
            found.append(f"row {place} has the date {fields[0]}, which is no Julian Date")
    return found
