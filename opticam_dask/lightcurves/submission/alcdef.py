"""ALCDEF: light curves of minor planets.

Rules: Asteroid Lightcurve Data Exchange Format, Definition and Standards, version 2.2 (alcdef.org; Stephens, Warner &
Harris 2010, DPS 42). A session is a block of metadata and a block of data; dates are JD (UTC), mid-exposure, not
corrected for light time unless the metadata say so.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from astropy.time import Time

from opticam_dask.kernels.units import JD_OF_MJD
from opticam_dask.lightcurves.submission.observer import Observer, Submission
from opticam_dask.lightcurves.submission.rows import Rows, not_numbers, rows_of

_REQUIRED = (
    *("OBJECTNUMBER", "OBJECTNAME", "CONTACTNAME", "CONTACTINFO", "OBSERVERS", "SESSIONDATE", "SESSIONTIME"),
    *("FILTER", "MAGBAND", "DIFFERMAGS", "STANDARD", "LTCTYPE", "LTCAPP", "REDUCEDMAGS", "DELIMITER", "REVISEDDATA"),
)

_CHOICES = {
    "DIFFERMAGS": ("TRUE", "FALSE"),
    "REVISEDDATA": ("TRUE", "FALSE"),
    "STANDARD": ("NONE", "INTERNAL", "TRANSFORMED"),
    "LTCTYPE": ("NONE", "POINT", "MIDPOINT"),
    "LTCAPP": ("NONE", "AVERAGE", "MIDPOINT"),
    "REDUCEDMAGS": ("NONE", "AVERAGE", "POINT"),
    "DELIMITER": ("PIPE", "TAB"),
}


def make_alcdef(curve: xr.Dataset, about: Submission) -> str:
    """Text of an ALCDEF file: one session a night; frames without an error are no rows.

    Parameters
    ----------
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`; with the variable ``magnitude`` those are written, else
        magnitudes against the comparisons (``DIFFERMAGS=TRUE``).
    about : Submission
        With the observer's ``name`` and ``contact``, and the name of the minor planet (as that of the star) or its
        designation.

    Raises
    ------
    ValueError
        When something that the format needs is not known.
    """
    about.observer.needed("name", "contact")
    if not (about.star or about.designation):
        raise ValueError("ALCDEF wants the name of the minor planet, or its designation (--star, --designation)")
    nights = curve["night"].to_numpy().astype(object)
    blocks = []
    for night in dict.fromkeys(nights.tolist()):
        session = curve.isel(frame=np.flatnonzero(nights == night))
        rows = rows_of(session, time="mjd_utc", leave_out=about.leave_out, needs_error=True)
        metadata = _metadata(curve, about.observer, rows) | {
            "OBJECTNUMBER": str(about.number),
            "OBJECTNAME": about.star or about.designation,
            "MPCDESIG": about.designation,
            "COMMENT": about.notes,
        }
        lines = [f"{key}={value}" for key, value in metadata.items() if value or key not in ("MPCDESIG", "COMMENT")]
        blocks += ["STARTMETADATA", *lines, "ENDMETADATA", *_data(rows), "ENDDATA"]
    return "\n".join(blocks) + "\n"


def _metadata(curve: xr.Dataset, observer: Observer, rows: Rows) -> dict[str, str]:
    middle = Time((rows.jd_utc[0] + rows.jd_utc[-1]) / 2.0 - JD_OF_MJD, format="mjd", scale="utc").isot
    band = observer.band(str(curve.attrs.get("filter", "")), "alcdef")
    calibrated = curve.attrs.get("magnitude_band")
    is_calibrated = "magnitude" in rows.columns
    return {
        "REVISEDDATA": "FALSE",
        "CONTACTNAME": observer.name,
        "CONTACTINFO": observer.contact,
        "OBSERVERS": observer.name,
        "SESSIONDATE": middle[:10],
        "SESSIONTIME": middle[11:19],
        "FILTER": band,
        "MAGBAND": observer.band(str(calibrated), "alcdef") if calibrated else band,
        "STANDARD": "INTERNAL" if is_calibrated else "NONE",
        "DIFFERMAGS": "FALSE" if is_calibrated else "TRUE",
        "LTCTYPE": "NONE",
        "LTCAPP": "NONE",
        "REDUCEDMAGS": "NONE",
        "DELIMITER": "PIPE",
        **({"MPCCODE": observer.mpc} if observer.mpc else {}),
    }


def _data(rows: Rows) -> list[str]:
    airmass = rows.columns.get("airmass", np.full(len(rows), np.nan))
    lines = []
    for time, value, one, mass in zip(rows.jd_utc, *rows.magnitudes, airmass, strict=True):
        if np.isfinite(value) and np.isfinite(one):
            fields = [f"{time:.6f}", f"{value:+.4f}", f"{one:+.4f}", *([f"{mass:.3f}"] if np.isfinite(mass) else [])]
            lines.append("DATA=" + "|".join(fields))
    return lines


def problems_of_alcdef(text: str) -> list[str]:
    """Violations of the rules of the format in a file; none when it is all right."""
    found: list[str] = []
    metadata: dict[str, str] = {}
    where, n_rows, n_sessions = "", 0, 0
    for place, line in enumerate(text.splitlines(), start=1):
        if line == "STARTMETADATA":
            metadata, where, n_sessions = {}, "metadata", n_sessions + 1
        elif line == "ENDMETADATA":
            found += _problems_of_metadata(metadata)
            where, n_rows = "data", 0
        elif line == "ENDDATA":
            found += [] if n_rows else [f"session {n_sessions} has no row"]
            where = ""
        elif where == "metadata" and "=" in line:
            name, _, value = line.partition("=")
            metadata[name] = value
        elif where == "data" and line.startswith("DATA="):
            n_rows += 1
            found += _problems_of_row(line.removeprefix("DATA=").split("|"), place)
        else:
            found.append(f"line {place} belongs to no session: {line}")
    if where or not n_sessions:
        found.append("the file is no series of sessions that end")
    return found


def _problems_of_metadata(metadata: dict[str, str]) -> list[str]:
    found = [f"{name} is missing or empty" for name in _REQUIRED if not metadata.get(name)]
    found += [
        f"{name}={metadata[name]} is not one of {', '.join(known)}"
        for name, known in _CHOICES.items()
        if metadata.get(name, known[0]) not in known
    ]
    if not metadata.get("OBJECTNUMBER", "0").isdecimal():
        found.append(f"OBJECTNUMBER={metadata['OBJECTNUMBER']} is no whole number")
    return found


def _problems_of_row(fields: list[str], place: int) -> list[str]:
    if len(fields) not in (3, 4) or not_numbers(fields, allowed=()):
        return [f"line {place} is not a date, a magnitude, its error and perhaps an airmass: {'|'.join(fields)}"]
    return [] if float(fields[2]) > 0 else [f"line {place} has the error {fields[2]}"]
