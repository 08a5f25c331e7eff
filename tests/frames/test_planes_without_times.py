"""A plane of a cube whose time is missing costs that plane and no other."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from small_nights import INSTRUMENT

from opticam_dask import Instrument
from opticam_dask.frames.scanning import scan

DAYS = 60310.8 + np.arange(5) / 86400.0
SECONDS = 0.5 * np.arange(5)
DATES = [f"2024-01-01T20:00:{second:02d}" for second in range(5)]


def without_third(values, fill):
    return [fill if number == 2 else value for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (("MJD_UTC", "D"), without_third(DAYS, np.nan)),
        (("MJD_UTC", "D"), without_third(DAYS, 0.0)),
        (("MJD_UTC", "D"), without_third(DAYS, 1e20)),
        (("JD", "D"), without_third(DAYS + 2400000.5, np.nan)),
        (("DATE-OBS", "20A"), without_third(DATES, "")),
        (("DATE-OBS", "20A"), without_third(DATES, "not yet")),
        (("TIME", "D", "s"), without_third(SECONDS, np.nan)),
        (("TIME", "D", "s"), without_third(SECONDS, 1e20)),
        (("TIME", "D", "s"), without_third(SECONDS, DAYS[2] + 2400000.5)),
    ],
)
def test_cube__with_one_time_missing_loses_one_plane(tmp_path, column, values):
    cube = np.arange(5 * 6 * 7, dtype="u2").reshape(5, 6, 7)
    table = fits.BinTableHDU.from_columns([fits.Column(*column, array=values)])
    header = fits.Header({"EXPTIME": 0.5, "DATE-OBS": "2024-01-01T20:00:00"})
    fits.HDUList([fits.PrimaryHDU(cube, header), table]).writeto(tmp_path / "c.fits")
    found = scan([tmp_path / "c.fits"], Instrument.from_json(INSTRUMENT))
    assert found.table["plane"].tolist() == [1, 2, 4, 5]
    [(file, reason)] = found.set_aside
    assert file == f"{tmp_path / 'c.fits'}[0,3]"
    assert reason.startswith("time: ")
    assert len(reason) < 200


def test_cube__with_a_table_of_another_length_says_how_long_it_is(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("MJD", "D", array=60310.0 + np.arange(4.0))])
    header = fits.Header({"EXPTIME": 0.5, "DATE-OBS": "2024-01-01T20:00:00"})
    fits.HDUList([fits.PrimaryHDU(np.zeros((5, 6, 7), "u2"), header), table]).writeto(tmp_path / "c.fits")
    [(_, reason)] = scan([tmp_path / "c.fits"], Instrument.from_json(INSTRUMENT)).set_aside
    assert "expected a table with a row a plane" in reason
    assert reason.endswith("found tables of 4 row(s) in HDU 1")
