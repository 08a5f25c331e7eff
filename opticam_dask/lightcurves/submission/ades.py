"""ADES in its form as a table (PSV): places and magnitudes of moving targets for the Minor Planet Center.

Rules: IAU Astrometry Data Exchange Standard, version 2022 (github.com/IAU-ADES/ADES-Master, ADES_Description.pdf;
minorplanetcenter.net/iau/info/ADESFieldValues.html). Times are UTC, mid-exposure; places are ICRS, degrees.
"""

from __future__ import annotations

import re

import numpy as np
import xarray as xr
from astropy.time import Time

from opticam_dask.kernels.units import JD_OF_MJD, SECONDS_PER_DAY
from opticam_dask.lightcurves.submission.observer import Observer, Submission
from opticam_dask.lightcurves.submission.places import SkyPlaces
from opticam_dask.lightcurves.submission.rows import Rows, not_numbers, rows_of

_VERSION = "2022"

#: Columns of a row; those of magnitudes only where there are some.
_PLACE = ("permID", "provID", "trkSub", "mode", "stn", "obsTime", "ra", "dec", "rmsRA", "rmsDec", "astCat")
_MAGNITUDE = ("mag", "rmsMag", "band", "photCat")
_REQUIRED = ("mode", "stn", "obsTime", "ra", "dec", "astCat")

_MODES = {"CCD": "CCD", "CMOS": "CMO", "CMO": "CMO"}

#: Catalogues of stars by what is in their names, in lower case (field values of the Minor Planet Center).
_CATALOGUES = (("gaia dr3", "Gaia3E"), ("gaia edr3", "Gaia3E"), ("gaia dr2", "Gaia2"), ("gaia", "Gaia3E"))
_UNKNOWN_CATALOGUE = "UNK"

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def make_ades(curve: xr.Dataset, about: Submission, places: SkyPlaces) -> str:
    """Text of an ADES file (PSV).

    Parameters
    ----------
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`, of the moving target; with the variable ``magnitude`` those are
        written.
    about : Submission
        With the observer's ``name``, ``mpc`` and the telescope's ``design``, ``aperture`` and ``detector``; with the
        number of the minor planet (``permID``), its provisional designation (``2023 MQ5``), or a name of the observer's
        own of at most eight letters and digits as its designation.
    places : SkyPlaces
        Where the target was on the sky in each frame of the light curve.

    Raises
    ------
    ValueError
        When something that the format needs is not known.
    """
    observer = about.observer
    observer.needed("name", "mpc")
    if missing := [name for name in ("design", "aperture", "detector") if not observer.telescope.get(name)]:
        raise ValueError(
            f"ADES wants {', '.join(missing)} of the telescope: a table [telescope] of the observer's file"
        )
    if not (about.number or about.designation):
        raise ValueError("ADES wants the number or the designation of the target (--number, --designation)")
    on_sky = curve.assign(ra=("frame", places.ra), dec=("frame", places.dec))
    known = np.isfinite(places.ra) & np.isfinite(places.dec)
    if not known.any():
        raise ValueError("the place of the target on the sky is not known in any frame (opticam-dask sky)")
    chosen = on_sky.isel(frame=np.flatnonzero(known))
    rows = rows_of(chosen, time="mjd_utc", leave_out=about.leave_out)
    order = np.searchsorted(chosen["mjd_utc"].to_numpy(), rows.jd_utc - JD_OF_MJD + _HALF_MILLISECOND) - 1
    taken = np.flatnonzero(known)[order]
    has_magnitudes = "magnitude" in rows.columns
    names = (*_PLACE, *(_MAGNITUDE if has_magnitudes else ()))
    fixed = _identity(about.number, about.designation) | {
        "mode": _MODES.get(str(observer.telescope["detector"]).upper(), "CCD"),
        "stn": observer.mpc,
        "astCat": _catalogue_of(places.origin),
    }
    # a row without a magnitude has no band either
    of_magnitudes = {"photCat": fixed["astCat"]}
    if has_magnitudes:
        of_magnitudes["band"] = observer.band(str(curve.attrs.get("filter", "")), "ades")
    table = [fixed | _of_row(rows, row, places, int(frame)) for row, frame in enumerate(taken.tolist())]
    table = [entry | (of_magnitudes if "mag" in entry else {}) for entry in table]
    widths = {name: max(len(name), *(len(entry.get(name, "")) for entry in table)) for name in names}
    lines = [f"# version={_VERSION}", *_header(observer)]
    lines.append("|".join(name.ljust(widths[name]) for name in names))
    lines += ["|".join(entry.get(name, "").ljust(widths[name]) for name in names) for entry in table]
    return "\n".join(lines) + "\n"


#: Times of light curve and rows are the same to rounding.
_HALF_MILLISECOND = 0.5e-3 / SECONDS_PER_DAY


def _identity(number: int, designation: str) -> dict[str, str]:
    if number:
        return {"permID": str(number)}
    is_provisional = re.fullmatch(r"(\d{4} [A-Z]{2}\d*|[CPDX]/\d{4} [A-Z]\d+|\d{4} [PT]-[LT123])", designation)
    return {"provID" if is_provisional else "trkSub": designation}


def _catalogue_of(origin: str) -> str:
    words = origin.lower().replace("_", " ").replace("-", " ")
    return next((code for name, code in _CATALOGUES if name in words), _UNKNOWN_CATALOGUE)


def _header(observer: Observer) -> list[str]:
    telescope = observer.telescope
    lines = ["# observatory", f"! mpcCode {observer.mpc}", *([f"! name {observer.site}"] if observer.site else [])]
    lines += ["# submitter", f"! name {observer.submitter or observer.name}"]
    lines += ["# observers", f"! name {observer.name}", "# measurers", f"! name {observer.measurer or observer.name}"]
    lines += ["# telescope"]
    known = (("name", "name"), ("design", "design"), ("aperture", "aperture"), ("f_ratio", "fRatio"))
    lines += [f"! {ades} {telescope[name]}" for name, ades in known if telescope.get(name)]
    return [*lines, f"! detector {telescope['detector']}"]


def _of_row(rows: Rows, row: int, places: SkyPlaces, frame: int) -> dict[str, str]:
    time = Time(rows.jd_utc[row] - JD_OF_MJD, format="mjd", scale="utc")
    time.precision = 3
    found = {
        "obsTime": f"{time.isot}Z",
        "ra": f"{places.ra[frame]:.6f}",
        "dec": f"{places.dec[frame]:+.6f}",
    }
    for name, errors in (("rmsRA", places.ra_err), ("rmsDec", places.dec_err)):
        if np.isfinite(errors[frame]):
            found[name] = f"{errors[frame]:.3f}"
    if "magnitude" in rows.columns and np.isfinite(rows.columns["magnitude"][row]):
        found["mag"] = f"{rows.columns['magnitude'][row]:.3f}"
        if np.isfinite(rows.columns["magnitude_err"][row]):
            found["rmsMag"] = f"{rows.columns['magnitude_err'][row]:.3f}"
    return found


def problems_of_ades(text: str) -> list[str]:
    """Violations of the rules of the format in a file; none when it is all right."""
    lines = text.splitlines()
    found = [] if lines and lines[0].startswith("# version=") else ["the first line does not tell the version"]
    told = [line for line in lines if line.startswith(("#", "!"))]
    for needed in ("# observatory", "# submitter", "# measurers", "# telescope"):
        if needed not in told:
            found.append(f"the header has no {needed.removeprefix('# ')}")
    apertures = [line.removeprefix("! aperture ") for line in told if line.startswith("! aperture ")]
    found += [f"the aperture {text} of the telescope is no number of metres" for text in not_numbers(apertures, ())]
    table = [line for line in lines if not line.startswith(("#", "!"))]
    if len(table) < 2:
        return [*found, "there is no row"]
    names = [name.strip() for name in table[0].split("|")]
    found += [f"there is no column {name}" for name in _REQUIRED if name not in names]
    for place, line in enumerate(table[1:], start=1):
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != len(names):
            found.append(f"row {place} has {len(fields)} fields, {len(names)} are named")
        else:
            found += [f"row {place}: {reason}" for reason in _problems_of_row(dict(zip(names, fields, strict=True)))]
    return found


def _problems_of_row(row: dict[str, str]) -> list[str]:
    found = [f"{name} is empty" for name in _REQUIRED if not row.get(name)]
    if not any(row.get(name) for name in ("permID", "provID", "trkSub")):
        found.append("the target has neither permID, provID nor trkSub")
    if len(row.get("trkSub", "")) > 8 or not re.fullmatch(r"[A-Za-z0-9_]*", row.get("trkSub", "")):
        found.append(f"trkSub {row['trkSub']!r} is not up to eight letters and digits")
    if not _TIME.fullmatch(row.get("obsTime", "")):
        found.append(f"obsTime {row.get('obsTime')!r} is no UTC time")
    numbers = ("ra", "dec", "rmsRA", "rmsDec", "mag", "rmsMag")
    if bad := not_numbers([row.get(name, "") for name in numbers], allowed=("",)):
        return [*found, f"{', '.join(map(repr, bad))} is no number"]
    if row.get("ra") and not (0 <= float(row["ra"]) < 360 and -90 <= float(row["dec"]) <= 90):
        found.append(f"ra {row['ra']}, dec {row['dec']} is no place on the sky")
    if bool(row.get("mag")) != bool(row.get("band")):
        found.append("a magnitude needs a band, and a band a magnitude")
    if not re.fullmatch(r"[A-Z0-9]\d\d[0-9]?", row.get("stn", "")):
        found.append(f"stn {row.get('stn')!r} is no code of a site")
    return found
