"""Plain tables that transit projects take: ExoClock and the Exoplanet Transit Database.

ExoClock (exoclock.space, Data Upload): three columns, time in BJD (TDB) at mid-exposure, relative flux, its error; the
transit is fitted by the project, so nothing is detrended. ETD (var.astro.cz; Poddany, Brat & Pejcha 2010, New Astron.
15, 297): three columns, geocentric JD (UTC) at mid-exposure, magnitude, its error; the project makes it heliocentric.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from opticam_dask.lightcurves.submission.observer import Submission
from opticam_dask.lightcurves.submission.rows import differential_magnitudes, not_numbers, rows_of

#: Time, flux or magnitude, and its error.
_COLUMNS = 3

#: Fewer points are no transit.
_LEAST_ROWS = 10

#: Julian date of 1950: a modified or truncated date is before it.
_FIRST_JD = 2433282.0
#: Julian date of 2100, the last that is believed.
_LAST_JD = 2488070.0


def make_exoclock(curve: xr.Dataset, about: Submission) -> str:
    """Text of a file for ExoClock: BJD (TDB), relative flux divided by its median, error.

    Frames without an error are no rows.

    Raises
    ------
    ValueError
        When no frame has a barycentric time and a flux.
    """
    rows = rows_of(curve, time="bmjd_tdb", leave_out=about.leave_out, needs_error=True)
    level = float(np.median(rows.flux))
    return _table("{:.8f} {:.8f} {:.8f}\n", rows.bjd_tdb, rows.flux / level, rows.flux_err / level)


def make_etd(curve: xr.Dataset, about: Submission) -> str:
    """Text of a file for the ETD: JD (UTC, at the observatory), differential magnitude about its median, error.

    Frames without an error are no rows.

    Raises
    ------
    ValueError
        When no frame has a flux.
    """
    rows = rows_of(curve, time="mjd_utc", leave_out=about.leave_out, needs_error=True)
    _, error = differential_magnitudes(rows.flux, rows.flux_err)
    magnitude, _ = differential_magnitudes(rows.flux / np.median(rows.flux), rows.flux_err)
    return _table("{:.6f} {:.5f} {:.5f}\n", rows.jd_utc, magnitude, error)


def _table(form: str, *columns: np.ndarray) -> str:
    return "".join(form.format(*row) for row in zip(*columns, strict=True))


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
