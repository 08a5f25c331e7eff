"""Plain tables that transit projects take: ExoClock and the Exoplanet Transit Database.

ExoClock (exoclock.space, Data Upload): three columns, time in BJD (TDB) at mid-exposure, relative flux, its error; the
transit is fitted by the project, so nothing is detrended. ETD (var.astro.cz; Poddany, Brat & Pejcha 2010, New Astron.
15, 297): three columns, geocentric JD (UTC) at mid-exposure, magnitude, its error; the project makes it heliocentric.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from opticam_dask.lightcurves.submission.rows import not_numbers, rows_of

_MAGNITUDES = 2.5 / np.log(10.0)

_COLUMNS = 3

#: Fewer points are no transit.
_LEAST_ROWS = 10

#: Julian date of 1950: a modified or truncated date is before it.
_FIRST_JD = 2433282.0
#: Julian date of 2100, the last that is believed.
_LAST_JD = 2488070.0


def make_exoclock(curve: xr.Dataset, *, leave_out: tuple[str, ...] = ("outlier",)) -> str:
    """Text of a file for ExoClock: BJD (TDB), relative flux divided by its median, error.

    Parameters
    ----------
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`.
    leave_out : tuple of str
        Frames with one of these flags are no rows, as are those without an error.

    Raises
    ------
    ValueError
        When no frame has a barycentric time and a flux.
    """
    rows = rows_of(curve, time="bmjd_tdb", leave_out=leave_out, needs_error=True)
    level = float(np.median(rows.flux))
    lines = [
        f"{time:.8f} {flux / level:.8f} {error / level:.8f}"
        for time, flux, error in zip(rows.bjd_tdb, rows.flux, rows.flux_err, strict=True)
    ]
    return "\n".join(lines) + "\n"


def make_etd(curve: xr.Dataset, *, leave_out: tuple[str, ...] = ("outlier",)) -> str:
    """Text of a file for the ETD: JD (UTC, at the observatory), differential magnitude about its median, error.

    Parameters
    ----------
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`.
    leave_out : tuple of str
        Frames with one of these flags are no rows, as are those without an error.

    Raises
    ------
    ValueError
        When no frame has a flux.
    """
    rows = rows_of(curve, time="mjd_utc", leave_out=leave_out, needs_error=True)
    magnitude = -2.5 * np.log10(rows.flux / np.median(rows.flux))
    error = _MAGNITUDES * rows.flux_err / rows.flux
    lines = [
        f"{time:.6f} {value:.5f} {one:.5f}" for time, value, one in zip(rows.jd_utc, magnitude, error, strict=True)
    ]
    return "\n".join(lines) + "\n"


def problems_of_table(text: str) -> list[str]:
    """Reasons to refuse a table of three columns; none when it is all right."""
    rows = [line.split() for line in text.splitlines()]
    found = []
    if len(rows) < _LEAST_ROWS:
        found.append(f"{len(rows)} rows are no transit")
    before = -np.inf
    for place, fields in enumerate(rows, start=1):
        if len(fields) != _COLUMNS or not_numbers(fields, allowed=()):
            found.append(f"row {place} is not three numbers: {' '.join(fields)}")
            continue
        time, _, error = map(float, fields)
        if not _FIRST_JD < time < _LAST_JD:
            found.append(f"row {place} has the date {fields[0]}, which is no whole Julian Date")
        if time <= before:
            found.append(f"row {place} is not later than the one before")
        if not error > 0:
            found.append(f"row {place} has the error {fields[2]}")
        before = time
    return found
