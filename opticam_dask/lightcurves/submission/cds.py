"""Machine-readable table of journals and of the CDS: fixed columns under a byte-by-byte description.

Rules: Standards for Astronomical Catalogues, version 2.0 (cds.unistra.fr/doc/catstd.htx); AAS machine-readable tables
(journals.aas.org/mrt-standards). A number that is not known is blank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from opticam_dask.lightcurves.submission.observer import Submission
from opticam_dask.lightcurves.submission.rows import Rows, not_numbers, rows_of

#: Lines between the parts of a description, as wide as archives allow.
_RULE = "=" * 80
_THIN = "-" * 80


@dataclass(frozen=True)
class _Column:
    """A column: name, unit and sentence, values, decimals."""

    name: str
    unit: str
    sentence: str
    values: np.ndarray
    digits: int

    @property
    def texts(self) -> list[str]:
        return [f"{value:.{self.digits}f}" if np.isfinite(value) else "" for value in self.values]


#: Conditions that go into the table: name of the column, unit, decimals.
_CONDITIONS = {
    "exposure_time": ("ExpTime", "s", 3, "Exposure time"),
    "airmass": ("Airmass", "---", 4, "Airmass at mid-exposure"),
    "fwhm": ("FWHM", "pix", 3, "Full width at half maximum of the stars"),
    "x": ("Xpos", "pix", 3, "Place of the target on the frame, along x"),
    "y": ("Ypos", "pix", 3, "Place of the target on the frame, along y"),
}


def make_cds(curve: xr.Dataset, about: Submission) -> str:
    """Text of a table: times, relative flux, magnitudes where there are some, and conditions.

    Parameters
    ----------
    curve : Dataset
        From :func:`~opticam_dask.relative_light_curve`.
    about : Submission
        The observer is its author, the name of the star is in its title.

    Raises
    ------
    ValueError
        When no frame has a flux.
    """
    rows = rows_of(curve, time="mjd_utc", leave_out=about.leave_out)
    columns = [column for column in _columns(rows) if np.isfinite(column.values).any()]
    texts = [column.texts for column in columns]
    widths = [max(map(len, column)) for column in texts]
    description, start = [], 1
    for column, width in zip(columns, widths, strict=True):
        stop = start + width - 1
        span = f"{start:>4d}-{stop:>4d}"
        is_gappy = not np.isfinite(column.values).all()
        sentence = f"{'?' if is_gappy else ''}{' ' if is_gappy else ''}{column.sentence}"
        form = f"F{width}.{column.digits}"
        description.append(f"{span} {form:<7} {column.unit:<7} {column.name:<9} {sentence}")
        start = stop + 2
    name = about.star or f"source {curve.attrs.get('target', '')}".strip()
    lines = [f"Title: Light curve of {name}", f"Authors: {about.observer.name or '---'}"]
    lines += [f"Table: Differential photometry of {name}"]
    lines += [_RULE, "Byte-by-byte Description of file: table.txt", _THIN]
    lines += [f"{'Bytes':>9} {'Format':<7} {'Units':<7} {'Label':<9} Explanations", _THIN, *description, _THIN]
    lines += [
        " ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in zip(*texts, strict=True)
    ]
    return "\n".join(lines) + "\n"


def _columns(rows: Rows) -> list[_Column]:
    columns = [
        _Column("JD", "d", "Julian Date (UTC), mid-exposure", rows.jd_utc, 7),
        _Column("BJD", "d", "Barycentric Julian Date (TDB), mid-exposure", rows.bjd_tdb, 7),
        _Column("Flux", "---", "Flux relative to the comparison stars", rows.flux, 7),
        _Column("e_Flux", "---", "1-sigma error of Flux", rows.flux_err, 7),
    ]
    if "magnitude" in rows.columns:
        columns += [
            _Column("mag", "mag", "Magnitude", rows.columns["magnitude"], 4),
            _Column("e_mag", "mag", "1-sigma error of mag", rows.columns["magnitude_err"], 4),
        ]
    for stored, (name, unit, digits, sentence) in _CONDITIONS.items():
        if stored in rows.columns:
            columns.append(_Column(name, unit, sentence, rows.columns[stored], digits))
    return columns


def problems_of_cds(text: str) -> list[str]:
    """Rows of a table that differ from their description; none when it is all right."""
    lines = text.splitlines()
    rules = [place for place, line in enumerate(lines) if line == _THIN]
    if len(rules) < 3:
        return ["there is no byte-by-byte description"]
    spans = []
    for line in lines[rules[-2] + 1 : rules[-1]]:
        first, last = line[:9].split("-")
        spans.append((int(first) - 1, int(last), "?" in line[26:]))
    found, data = list[str](), lines[rules[-1] + 1 :]
    if not text.isascii():
        found.append(f"the tables are ASCII, {next(line for line in lines if not line.isascii())!r} is not")
    if not data:
        found.append("there is no row")
    longest = max((stop for _, stop, _ in spans), default=0)
    for place, line in enumerate(data, start=1):
        if len(line) != longest:
            found.append(f"row {place} has {len(line)} bytes, {longest} are described")
            continue
        for start, stop, may_be_blank in spans:
            field = line[start:stop].strip()
            if not field and may_be_blank:
                continue
            if not_numbers([field], allowed=()):
                found.append(f"row {place}, bytes {start + 1}-{stop}: {field!r} is no number")
    return found
