"""Sources that the observer places on the sky or on a reference frame, read from a file or a list."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table

from opticam_dask.frames import sky_catalogs
from opticam_dask.kernels.series import timing
from opticam_dask.kernels.units import JD_OF_MJD
from opticam_dask.text import shown

#: Names of the columns of pixels, in lower case without ``_``,
_X = ("x", "xcentroid", "xpix")
_Y = ("y", "ycentroid", "ypix")
#: and of the camera whose pixels they are.
_KEY = ("key", "camera")

#: Names of the column of times of a track: MJD, JD or date and time, UTC.
_TIME = (
    "mjd",
    "mjdutc",
    "jd",
    "jdutc",
    "time",
    "timeutc",
    "date",
    "datetime",
    "dateobs",
    "datetimestr",
    "epoch",
    "utc",
)

#: Days above this are Julian dates, not modified ones.
_LEAST_JD = 2400000.0
#: Julian date of MJD 0.

#: Places are the same when they agree to this part of a degree or of a pixel.
_SAME = 1e-6


@dataclass(frozen=True)
class PlacedSource:
    """A source to be measured at a position that the observer gives, detected or not.

    Attributes
    ----------
    name : str
        What the observer calls it; empty without a name.
    ra, dec : float
        ICRS, degrees; NaN where pixels are given.
    x, y : float
        On the reference frame of the camera ``key``; NaN where coordinates are given.
    key : str
        Camera key such as ``1:g``; empty for the first camera that has a catalogue.
    track : tuple of (float, float, float)
        MJD (UTC), right ascension and declination of something that moves, in the order of time; empty for a star.
    """

    name: str = ""
    ra: float = math.nan
    dec: float = math.nan
    x: float = math.nan
    y: float = math.nan
    key: str = ""
    track: tuple[tuple[float, float, float], ...] = ()

    @property
    def is_on_sky(self) -> bool:
        """Whether its place is one on the sky."""
        return math.isfinite(self.ra) and math.isfinite(self.dec)

    @property
    def place(self) -> tuple[float, float]:
        """Right ascension and declination, or x and y."""
        return (self.ra, self.dec) if self.is_on_sky else (self.x, self.y)

    @property
    def words(self) -> str:
        """Name of the source in a message."""
        where = f"RA {self.ra:.6f}, Dec {self.dec:+.6f}" if self.is_on_sky else f"x {self.x:.2f}, y {self.y:.2f}"
        return f"{shown(self.name)} ({where})" if self.name else where

    def is_same(self, other: PlacedSource) -> bool:
        """Whether another source has the same name and position."""
        is_alike = (self.name, self.key, self.track) == (other.name, other.key, other.track)
        is_alike &= self.is_on_sky == other.is_on_sky
        return is_alike and bool(np.allclose(self.place, other.place, rtol=0.0, atol=_SAME))

    def record(self) -> dict[str, Any]:
        """The source as JSON can hold it."""
        return {name: value for name, value in asdict(self).items() if value not in ("", ()) and value == value}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> PlacedSource:
        """The source from its :meth:`record`."""
        return cls(**{**record, "track": tuple(tuple(place) for place in record.get("track", ()))})


def read_sources(given: str | Path | Table | Sequence[Any] | None) -> tuple[PlacedSource, ...]:
    """Read sources to be placed from a file, a table or a list.

    Parameters
    ----------
    given : path, table or sequence, optional
        A file (CSV, ECSV, FITS, VOTable) or a table with columns ``name`` (optional), and ``ra`` and ``dec`` (degrees,
        the unit of the column, or sexagesimal text) or ``x`` and ``y`` (pixels of a reference frame, with its camera in
        a column ``key``); or a sequence of mappings with such entries.

    Raises
    ------
    ValueError
        When the file cannot be read, a source has no place, or two have one name.
    FileNotFoundError
        When there is no such file.
    """
    if given is None:
        return ()
    if isinstance(given, (str, Path)):
        table, origin = sky_catalogs.read_table(given), Path(given).name
        if not len(table):
            raise ValueError(
                f"{origin}: expected a source a row below columns name, ra, dec (or x, y), found no row, and "
                f"{shown(', '.join(table.colnames))} above (is a quotation mark open?)"
            )
    else:
        table, origin = _as_table(given), "sources"
    found = [_source(table, row, origin) for row in range(len(table))]
    names = [source.name for source in found if source.name]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{origin}: several sources have the name {shown(repeated[0])}")
    return tuple(found)


def _as_table(given: Any) -> Table:
    if isinstance(given, Table):
        return given
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # a data frame
        return Table.from_pandas(given)
    rows = [one.record() if isinstance(one, PlacedSource) else one for one in given]
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            "sources must be a file, a table, or a list of dictionaries with name and ra, dec (or x, y), got "
            f"{shown(str(given))}"
        )
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: [str(row.get(name, "")) for row in rows] for name in columns})


def _source(table: Table, row: int, origin: str) -> PlacedSource:
    def text(names: Sequence[str]) -> str:
        column = sky_catalogs.find_column(table, names)
        value = "" if column is None else table[column][row]
        return "" if value is np.ma.masked else str(value).strip()

    def angle(names: Sequence[str], sexagesimal: u.Unit) -> float:
        column = sky_catalogs.find_column(table, names)
        return math.nan if column is None else float(sky_catalogs.angles(table[column][row : row + 1], sexagesimal)[0])

    def number(names: Sequence[str]) -> float:
        column = sky_catalogs.find_column(table, names)
        return math.nan if column is None else float(sky_catalogs.numbers(table[column][row : row + 1])[0])

    name = text(sky_catalogs.NAME)
    ra, dec = angle(sky_catalogs.RA, u.hourangle), angle(sky_catalogs.DEC, u.deg)
    x, y = number(_X), number(_Y)
    if math.isfinite(ra) and math.isfinite(dec) and abs(dec) <= 90.0 and abs(ra) <= 360.0:
        return PlacedSource(name=name, ra=ra % 360.0, dec=dec)
    if math.isfinite(x) and math.isfinite(y):
        return PlacedSource(name=name, x=x, y=y, key=text(_KEY).replace("-", ":", 1))
    raise ValueError(
        f"{origin}: source {row + 1} {shown(name) if name else ''} has no place: expected columns name, ra, dec (or "
        f"x, y), found {shown(', '.join(table.colnames))}"
    )


def read_track(path: str | Path, name: str | None = None) -> PlacedSource:
    """Read the track of a moving source: an ephemeris, or its first and last position alone.

    Parameters
    ----------
    path : path
        CSV, ECSV, FITS or VOTable with columns of the time (``mjd``, ``jd`` or ``time``, UTC), ``ra`` and ``dec``.
    name : str, optional
        By default that of the file.

    Raises
    ------
    ValueError
        When the file cannot be read or has fewer than two places.
    FileNotFoundError
        When there is no such file.
    """
    table, origin = sky_catalogs.read_table(path), Path(path).name
    columns = [sky_catalogs.find_column(table, names) for names in (_TIME, sky_catalogs.RA, sky_catalogs.DEC)]
    if None in columns:
        raise ValueError(f"{origin}: expected columns time, ra and dec, found {shown(', '.join(table.colnames))}")
    when, ra, dec = (table[column] for column in columns)
    days = _days(when)
    places = np.column_stack([days, sky_catalogs.angles(ra, u.hourangle) % 360.0, sky_catalogs.angles(dec, u.deg)])
    places = places[np.isfinite(places).all(axis=1)]
    places = places[np.unique(places[:, 0], return_index=True)[1]]
    if len(places) < 2:
        raise ValueError(f"{origin}: expected at least two places at different times, found {len(places)}")
    middle = places[len(places) // 2]
    track = tuple((float(t), float(a), float(d)) for t, a, d in places)
    return PlacedSource(name=name or Path(path).stem, ra=float(middle[1]), dec=float(middle[2]), track=track)


def _days(column: Any) -> np.ndarray:
    """Times of a column as MJD; NaN where there is none."""
    values = sky_catalogs.numbers(column)
    if np.isfinite(values).any():
        return np.where(values > _LEAST_JD, values - JD_OF_MJD, values)
    found = np.full(len(column), np.nan)
    for row, text in enumerate(np.asarray(column).tolist()):
        try:
            found[row] = timing.utc_mjd(*timing.parse_iso(str(text).strip().replace(" ", "T")))
        except ValueError:
            continue
    return found
