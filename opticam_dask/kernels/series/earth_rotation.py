"""Rotation of the Earth: the table that comes with astropy, read in a twentieth of the time astropy takes for it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from astropy.utils.iers import IERS, IERS_B

#: Bytes of a line of finals2000A.all (its ReadMe counts them from 1) with the value of Bulletin A and that of B.
_VALUES = {
    "PM_x": (slice(18, 27), slice(134, 144)),
    "PM_y": (slice(37, 46), slice(144, 154)),
    "UT1_UTC": (slice(58, 68), slice(154, 165)),
    "dX_2000A": (slice(97, 106), slice(165, 175)),
    "dY_2000A": (slice(116, 125), slice(175, 185)),
}
_MJD = slice(7, 15)
#: Bytes of a line, with its end.
_WIDTH = 188
#: The byte with the flag of Bulletin A (I: measured, P: predicted), and the values that it is about.
_FLAGS = {"PolPMFlag": (16, ("PM_x", "PM_y")), "UT1Flag": (57, ("UT1_UTC",)), "NutFlag": (95, ("dX_2000A", "dY_2000A"))}
_UNITS = {"PM_x": "arcsec", "PM_y": "arcsec", "UT1_UTC": "s", "dX_2000A": "marcsec", "dY_2000A": "marcsec"}
#: Values of eopc04 by the number of their column, after the date; the last two are in arcsec there.
_OF_B = {"PM_x": 1, "PM_y": 2, "UT1_UTC": 3, "dX_2000A": 4, "dY_2000A": 5}


@lru_cache(maxsize=1)
def bundled_table() -> IERS:
    """Earth rotation by Bulletins A and B of the IERS, equal to what `astropy.utils.iers.IERS_Auto.open` reads.

    Where lines have another length, as in another format, it is astropy that reads the file.
    """
    from astropy import units as u
    from astropy.utils import iers

    content = Path(iers.IERS_A_FILE).read_bytes()
    width = content.index(b"\n") + 1
    if width != _WIDTH or len(content) % width:
        return iers.IERS_Auto.open()
    lines = np.frombuffer(content, dtype="S1").reshape(-1, width)
    is_used = np.isfinite(_numbers(lines, _VALUES["UT1_UTC"][0])) & (lines[:, _FLAGS["PolPMFlag"][0]] != b" ")
    lines = lines[is_used]
    mjd = _numbers(lines, _MJD)
    of_a, of_b = ({name: _numbers(lines, places[one]) for name, places in _VALUES.items()} for one in (0, 1))
    _substitute(of_b, mjd, _bulletin_b(iers.IERS_B_FILE))
    columns = {"MJD": mjd << u.d}
    for flag, (place, names) in _FLAGS.items():
        is_of_a = np.any([np.isnan(of_b[name]) for name in names], axis=0)
        columns[flag] = np.where(is_of_a, lines[:, place].astype(str), "B")
        for name in names:
            columns[name] = np.where(is_of_a, of_a[name], of_b[name]) << u.Unit(_UNITS[name])
    first = min(np.searchsorted(lines[:, _FLAGS[flag][0]].astype(str), "P") for flag in ("UT1Flag", "PolPMFlag"))
    return iers.IERS_Auto(columns, meta={"predictive_index": first, "predictive_mjd": mjd[first]})


@lru_cache(maxsize=1)
def universal_time() -> IERS_B:
    """UT1 - UTC alone by Bulletin B, to the bit what `astropy.utils.iers.IERS_B.open` reads."""
    from astropy import units as u
    from astropy.utils import iers

    latest = _bulletin_b(iers.IERS_B_FILE)
    return iers.IERS_B({"MJD": latest[:, 0] << u.d, "UT1_UTC": latest[:, _OF_B["UT1_UTC"]] << u.s})


@lru_cache(maxsize=1)
def _bulletin_b(file: str) -> np.ndarray:
    """Date and values of the lines of eopc04, shape (day, 6)."""
    return np.loadtxt(file, usecols=range(4, 10))


def _numbers(lines: np.ndarray, place: slice) -> np.ndarray:
    """Numbers at a place of all lines; NaN where it is blank."""
    texts = np.ascontiguousarray(lines[:, place]).view(f"S{place.stop - place.start}").ravel()
    return np.where(np.char.strip(texts) == b"", b"nan", texts).astype(np.float64)


def _substitute(of_b: dict[str, np.ndarray], mjd: np.ndarray, latest: np.ndarray) -> None:
    """Take the values of Bulletin B from its own file, which is later than what Bulletin A repeats of it."""
    from astropy import units as u

    known = mjd[np.isfinite(of_b["UT1_UTC"])]
    latest = latest[(latest[:, 0] >= known[0]) & (latest[:, 0] <= known[-1])]
    for name, column in _OF_B.items():
        scale = u.arcsec.to(u.marcsec) if _UNITS[name] == "marcsec" else 1.0  # not 1000 to the last bit
        of_b[name][: len(latest)] = scale * latest[:, column]
