"""Catalogues of stars from a file: positions at an epoch, proper motions, magnitudes and names."""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.table import Table

from opticam_dask.kernels.units import DAYS_PER_YEAR, JD_OF_MJD, MJD_OF_J2000
from opticam_dask.text import read_by_hand, shown

#: Names of columns, in lower case without ``_``, the first that is there counts.
RA = ("ra", "raicrs", "radeg", "raj2000", "alphaj2000", "rightascension", "raepoch2000")
DEC = ("dec", "deicrs", "decicrs", "dedeg", "decdeg", "decj2000", "dej2000", "deltaj2000", "declination", "de")
_PM_RA = ("pmra", "pmracosdec", "pmrastar", "propermotionra", "mualpha")
_PM_DEC = ("pmdec", "pmde", "propermotiondec", "mudelta")
_EPOCH = ("epoch", "refepoch", "epochyr")
NAME = ("name", "mainid", "id", "designation", "sourceid", "objid", "identifier", "source", "star", "gaia", "target")
_MAGNITUDE = re.compile(r"^(?!e_|.*(err|error|sigma))(.*mag(nitude)?|mag_?.*|[ugrizyubvjhk]'?|bp|rp)$", re.IGNORECASE)
#: What surrounds the name of a band in the names of columns.
_BAND_AFFIXES = re.compile(r"phot_|_?mean|_?mag(nitude)?_?", re.IGNORECASE)
#: Epochs of a catalogue that are believed: from this year,
_FIRST_YEAR = 1800.0
#: to this one.
_LAST_YEAR = 2200.0
#: Radians of a milliarcsecond.
_MAS = math.radians(1.0 / 3.6e6)


@dataclass(frozen=True, eq=False)
class SkyCatalog:
    """Stars of the sky.

    Attributes
    ----------
    ra, dec : ndarray, shape (star,)
        ICRS, degrees, at ``epoch``.
    pm_ra, pm_dec : ndarray, shape (star,)
        Proper motion along right ascension (times the cosine of the declination) and declination, mas a year; 0 where
        the catalogue has none.
    epoch : ndarray, shape (star,)
        Julian year of the positions.
    name : ndarray of str, shape (star,)
        Empty where there is none.
    magnitudes : dict of ndarray, shape (star,)
        By band, the first is the one that stars are ordered by; NaN where unknown.
    origin : str
        Where it is from, in words.
    """

    ra: np.ndarray
    dec: np.ndarray
    pm_ra: np.ndarray
    pm_dec: np.ndarray
    epoch: np.ndarray
    name: np.ndarray
    magnitudes: Mapping[str, np.ndarray] = field(default_factory=dict)
    origin: str = ""

    def __len__(self) -> int:
        return len(self.ra)

    def at(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination, degrees, at a time: straight motion along the tangent."""
        years = 2000.0 + (mjd - MJD_OF_J2000) / DAYS_PER_YEAR - self.epoch
        ra, dec = np.radians(self.ra), np.radians(self.dec)
        radial = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
        east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)])
        north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
        x, y, z = radial + _MAS * years * (self.pm_ra * east + self.pm_dec * north)
        return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))

    def brightness(self) -> np.ndarray | None:
        """Flux in the first band, in any unit; None where the catalogue has no magnitudes."""
        if not self.magnitudes:
            return None
        flux: np.ndarray = 10.0 ** (-0.4 * (next(iter(self.magnitudes.values())) - 15.0))
        return flux


def read_sky_catalog(path: str | Path, epoch: float | None = None) -> SkyCatalog:
    """Read a catalogue of stars: CSV, ECSV, FITS, VOTable, or what else astropy tells by the name of a file.

    Columns are found by their names, in any case: ``ra`` and ``dec`` (degrees, the unit of the column, or sexagesimal
    text with hours), and where they are there ``pmra``, ``pmdec`` (mas a year), ``ref_epoch``, a name, and magnitudes
    (``..._mag``, ``mag_...``). Stars without a position are left out.

    Parameters
    ----------
    path : path
        The file.
    epoch : float, optional
        Julian year of the positions, where the file does not tell it.

    Raises
    ------
    ValueError
        When the file cannot be read, has no positions, or moves stars without an epoch.
    FileNotFoundError
        When there is no such file.
    """
    return from_table(read_table(path), f"{Path(path).name}", epoch)


def read_table(path: str | Path) -> Table:
    """Read a table of any format that its name or its first bytes tell.

    Raises
    ------
    ValueError
        When the file cannot be read as a table.
    FileNotFoundError
        When there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    is_csv = path.suffix.lower() in (".csv", ".txt", ".dat")
    try:
        # VOTables of other suffixes, and ECSV under the name of a CSV, are told by their first bytes
        head = path.read_bytes()[:1000].lstrip()
        is_ecsv = head.removeprefix(codecs.BOM_UTF8).startswith(b"# %ECSV")
        name = "ascii.ecsv" if is_ecsv else ("ascii.csv" if path.suffix.lower() == ".csv" else "")
        name = "votable" if b"<VOTABLE" in head else name
        name = name or ("ascii" if is_csv else "")
        if not head.removeprefix(codecs.BOM_UTF8).strip(b"\0"):
            raise ValueError("there is nothing in it")
        if name == "ascii.csv":
            return _read_csv(read_by_hand(path))
        if head.startswith(codecs.BOM_UTF8) and name.startswith("ascii"):  # as spreadsheets write it
            return Table.read(read_by_hand(path), format=name)
        return Table.read(path, format=name) if name else Table.read(path)
    except Exception as error:
        # astropy lists every format that it knows on many lines
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{path} cannot be read as a table of stars: {reason} (expected CSV with commas, ECSV, FITS or VOTable)"
        ) from error


def _read_csv(text: str) -> Table:
    """Table of a text with commas; of semicolons or tabs, as spreadsheets of many countries write them, without any."""
    lines = text.splitlines()
    names = next(line for line in lines if line.strip())
    separator = next((one for one in ",;\t" if one in names), ",")
    _require_closed_quotes(text, separator)
    columns = [name.strip() for name in next(csv.reader([names], delimiter=separator))]
    texts = {name: str for name in columns if _plain(name) in NAME}  # 0012 is a name, and not 12
    return Table.read(lines, format="ascii.csv", delimiter=separator, converters=texts)


def _require_closed_quotes(text: str, separator: str) -> None:
    """Refuse a table with an open quotation mark, which hides every row from there on."""
    rows = csv.reader(text.splitlines(keepends=True), strict=True, delimiter=separator)
    first_line = 1
    try:
        for _ in rows:
            first_line = rows.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise ValueError(
                f"a quotation mark in line {first_line} is open, and what follows would be lost"
            ) from error


def from_table(table: Table, origin: str, epoch: float | None = None) -> SkyCatalog:
    """Make a catalogue of the columns of a table, as :func:`read_sky_catalog` does.

    Raises
    ------
    ValueError
        When right ascension or declination is missing, or proper motions have no epoch.
    """
    ra_name, dec_name = find_column(table, RA), find_column(table, DEC)
    if ra_name is None or dec_name is None:
        raise ValueError(f"{origin}: expected columns ra and dec, found {shown(', '.join(table.colnames))}")
    ra, dec = angles(table[ra_name], u.hourangle), angles(table[dec_name], u.deg)
    good = np.isfinite(ra) & (np.abs(dec) <= 90.0) & (np.abs(ra) <= 360.0)
    if not good.any():
        raise ValueError(f"{origin}: none of {len(table)} rows has a right ascension and declination in degrees")
    pm_ra, pm_dec = (_motion(table, names) for names in (_PM_RA, _PM_DEC))
    years = _years(table, epoch)
    if np.isnan(years).any():
        if (pm_ra != 0).any() or (pm_dec != 0).any():
            raise ValueError(
                f"{origin} has proper motions but no epoch: expected a column ref_epoch of Julian years (or sky_epoch)"
            )
        years = np.full(len(table), 2000.0)
    name = find_column(table, NAME)
    names = np.array(["" if value is np.ma.masked else str(value).strip() for value in table[name]] if name else [""])
    return SkyCatalog(
        ra=ra[good] % 360.0,
        dec=dec[good],
        pm_ra=pm_ra[good],
        pm_dec=pm_dec[good],
        epoch=years[good],
        name=np.broadcast_to(names.astype(object), len(table))[good],
        magnitudes={band: values[good] for band, values in _magnitudes(table).items()},
        origin=origin,
    )


def find_column(table: Table, names: Sequence[str]) -> str | None:
    """Name of the first column that is called one of ``names``, but for case and underscores."""
    plain = {_plain(column): column for column in reversed(table.colnames)}
    return next((plain[name] for name in names if name in plain), None)


def _plain(column: str) -> str:
    return column.lower().replace("_", "").replace(" ", "")


def numbers(column: Any) -> np.ndarray:
    """Values as float64, NaN where there is none."""
    values = np.ma.asarray(getattr(column, "value", column))
    try:
        return np.ma.filled(values.astype(float), np.nan)
    except (ValueError, TypeError):
        return np.array([_number(value) for value in values.tolist()])


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def angles(column: Any, sexagesimal: u.Unit) -> np.ndarray:
    """Angles of a column in degrees, NaN where there is none; plain numbers without a unit are degrees."""
    values = np.ma.asarray(getattr(column, "value", column))
    if values.dtype.kind in "US" or values.dtype == object:
        return np.array([angle_of(text, sexagesimal) for text in values.tolist()])
    unit = column.unit if getattr(column, "unit", None) is not None else u.deg
    return numbers(column) * float(u.Unit(unit).to(u.deg))


def angle_of(text: object, sexagesimal: u.Unit) -> float:
    """An angle in degrees: a number, or text such as ``05:34:31.9`` or ``5h34m31.9s``; NaN for anything else."""
    plain = str(text).strip()
    if math.isfinite(number := _number(plain)):
        return number
    try:
        has_unit = any(letter in plain for letter in "hdms°'\"")
        return float(Angle(plain, unit=None if has_unit else sexagesimal).deg)
    except (ValueError, TypeError, u.UnitsError):
        return math.nan


def place_of(ra: object, dec: object) -> tuple[float, float]:
    """Right ascension and declination in degrees: numbers, or text such as ``05:34:31.9`` (hours) and ``+22:00:52``.

    Raises
    ------
    ValueError
        For what is no place on the sky.
    """
    place = angle_of(ra, u.hourangle), angle_of(dec, u.deg)
    if not (np.isfinite(place).all() and abs(place[0]) <= 360.0 and abs(place[1]) <= 90.0):
        raise ValueError(f"expected RA and Dec as degrees, or as 05:34:31.9 +22:00:52, got {ra} {dec}")
    return place[0] % 360.0, place[1]


def _motion(table: Table, names: Sequence[str]) -> np.ndarray:
    column = find_column(table, names)
    if column is None:
        return np.zeros(len(table))
    unit = table[column].unit
    factor = 1.0 if unit is None else float(u.Unit(unit).to(u.mas / u.yr))
    return np.nan_to_num(numbers(table[column]) * factor)


def _years(table: Table, epoch: float | None) -> np.ndarray:
    """Julian year of each position; NaN where nothing says it."""
    column = find_column(table, _EPOCH)
    of_meta = next((value for name, value in table.meta.items() if str(name).lower() in ("epoch", "ref_epoch")), None)
    given = epoch if epoch is not None else _number(str(of_meta).lstrip("Jj"))
    if column is None or epoch is not None:
        return np.full(len(table), given)
    values = table[column]
    years = numbers(values)
    if np.isnan(years).all():
        years = np.array([_number(str(value).lstrip("Jj")) for value in values])
    years = np.where(years > _LAST_YEAR, 2000.0 + (years % JD_OF_MJD - MJD_OF_J2000) / DAYS_PER_YEAR, years)
    return np.where((years > _FIRST_YEAR) & (years < _LAST_YEAR), years, given)


def _magnitudes(table: Table) -> dict[str, np.ndarray]:
    """Columns of magnitudes by the name of their band, in the order of the table."""
    found = {}
    for column in table.colnames:
        is_of_unit = getattr(table[column], "unit", None) == u.mag and not re.search("err|^e_", column, re.IGNORECASE)
        if is_of_unit or _MAGNITUDE.match(column):
            values = numbers(table[column])
            if np.isfinite(values).any():
                found[_BAND_AFFIXES.sub("", column).strip("_ ") or "mag"] = values
    return found
