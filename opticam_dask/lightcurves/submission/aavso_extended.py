"""The extended format of the AAVSO: magnitudes of variable stars.

Rules: aavso.org/aavso-extended-file-format, version 1.2 (December 2021). Dates are JD (UTC), mid-exposure: the format
takes no barycentric ones. Magnitudes are those of the variable (``STD``), or against a comparison (``DIF``); what is
not known is ``na``, an upper limit begins with ``<``.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from opticam_dask.lightcurves.submission.observer import Observer, Submission
from opticam_dask.lightcurves.submission.rows import (
    UNKNOWN,
    not_numbers,
    number,
    parameters_and_rows,
    problems_of_code,
    rows_of,
    software,
)

#: Fields in order, with the most characters that each may have.
_FIELDS = {
    "NAME": 30,
    "DATE": 16,
    "MAG": 8,
    "MERR": 6,
    "FILT": 5,
    "TRANS": 3,
    "MTYPE": 3,
    "CNAME": 20,
    "CMAG": 8,
    "KNAME": 20,
    "KMAG": 8,
    "AMASS": 7,
    "GROUP": 5,
    "CHART": 20,
    "NOTES": 1000,
}

_REQUIRED = ("TYPE", "OBSCODE", "SOFTWARE", "DELIM", "DATE", "OBSTYPE")

#: Dates that the format takes; a barycentric one is refused by the archive.
_DATES = ("JD", "HJD", "EXCEL")


def make_aavso_extended(curve: xr.Dataset, about: Submission) -> str:
    """Text of a file in the AAVSO extended format.

    Parameters
    ----------
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`; with the variable ``magnitude`` those are written.
    about : Submission
        With the name of the star in the VSX, or its AUID, and the observer's ``aavso``.

    Raises
    ------
    ValueError
        When something that the format needs is not known.
    """
    about.observer.needed("aavso")
    if not about.star:
        raise ValueError("the extended format wants the name of the star (--star)")
    rows = rows_of(curve, time="mjd_utc", leave_out=about.leave_out, keep_faint=True)
    band = about.observer.band(str(curve.attrs.get("filter", "")), "aavso")
    for what, text in (("name of the star", about.star), ("chart", about.chart), ("code of the band", band)):
        if "," in text or text.startswith("#"):
            raise ValueError(f"the extended format takes no comma, and no # at the start, in the {what}: {text}")
    lines = [f"#{name}={value}" for name, value in _header(about.observer).items()]
    lines.append("#" + ",".join(_FIELDS))
    is_calibrated = "magnitude" in rows.columns
    comparison = _comparison(curve, is_calibrated)
    is_transformed = "YES" if curve.attrs.get("colour_term_is_applied") else "NO"
    airmass = rows.columns.get("airmass", np.full(len(rows), np.nan))
    comment, chart = about.notes.replace(",", ";") or UNKNOWN, about.chart or UNKNOWN
    for place, (value, error) in enumerate(zip(*rows.magnitudes, strict=True)):
        is_limit = not np.isfinite(value)
        magnitude = f"<{rows.columns['magnitude_limit'][place]:.3f}" if is_limit else f"{value:.4f}"
        fields = [about.star, f"{rows.jd_utc[place]:.6f}", magnitude, UNKNOWN if is_limit else number(error, 4)]
        fields += [band, is_transformed]
        fields += ["STD" if is_calibrated else "DIF", comparison, UNKNOWN, UNKNOWN, UNKNOWN]
        fields += [number(airmass[place], 4), UNKNOWN, chart, comment]
        lines.append(",".join(fields))
    return "\n".join(lines) + "\n"


def _header(observer: Observer) -> dict[str, str]:
    return {
        "TYPE": "EXTENDED",
        "OBSCODE": observer.aavso,
        "SOFTWARE": software(),
        "DELIM": ",",
        "DATE": "JD",
        "OBSTYPE": "CCD",
    }


def _comparison(curve: xr.Dataset, is_calibrated: bool) -> str:
    numbers = np.atleast_1d(curve.attrs.get("comparisons", []))
    if len(numbers) == 1 and not is_calibrated:
        return str(curve.attrs.get("comparison_name") or f"source {numbers[0]}")
    return "ENSEMBLE"


def problems_of_aavso_extended(text: str) -> list[str]:
    """Violations of the rules of the format in a file; none when it is all right."""
    if not all(line.strip() for line in text.splitlines()):
        return ["there is a blank line, which the archive refuses"]
    header, data = parameters_and_rows(text)
    header = {name.upper(): value for name, value in header.items()}
    found = [f"#{name}= is missing or empty" for name in _REQUIRED if not header.get(name)]
    found += problems_of_code(header.get("OBSCODE", ""))
    if header.get("DATE", "JD").upper() not in _DATES:
        found.append(f"#DATE={header['DATE']} is not one of {', '.join(_DATES)}: the format takes no barycentric times")
    if header.get("TYPE", "").upper() != "EXTENDED":
        found.append("#TYPE= is not EXTENDED")
    if header.get("OBSTYPE", "CCD").upper() not in ("CCD", "DSLR", "PEP", "CMOS"):
        found.append(f"#OBSTYPE={header['OBSTYPE']} is not known")
    if not data:
        found.append("there is no row")
    for place, line in enumerate(data, start=1):
        found += [f"row {place}: {reason}" for reason in _problems_of_row(line.split(header.get("DELIM", ",")))]
    return found


def _problems_of_row(fields: list[str]) -> list[str]:
    if len(fields) != len(_FIELDS):
        return [f"{len(fields)} fields, {len(_FIELDS)} are needed"]
    row = dict(zip(_FIELDS, fields, strict=True))
    found = [
        f"{name} has {len(row[name])} characters, {most} are allowed"
        for name, most in _FIELDS.items()
        if len(row[name]) > most
    ]
    found += [f"{name} is empty" for name, value in row.items() if not value]
    magnitude = row["MAG"].removeprefix("<")
    if not_numbers([magnitude], allowed=()) or "." not in magnitude:
        found.append(f"MAG {row['MAG']} is no magnitude with a decimal point")
    for name in ("DATE", "MERR", "CMAG", "KMAG", "AMASS"):
        if not_numbers([row[name]], allowed=() if name == "DATE" else (UNKNOWN,)):
            found.append(f"{name} {row[name]} is no number")
    if row["TRANS"] not in ("YES", "NO") or row["MTYPE"] not in ("STD", "DIF", "ABS"):
        found.append(f"TRANS {row['TRANS']} or MTYPE {row['MTYPE']} is not known")
    if row["MTYPE"] == "DIF" and row["CNAME"] == UNKNOWN:
        found.append("a differential magnitude needs the name of its comparison")
    return found
