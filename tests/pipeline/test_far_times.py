"""Times of headers at the Sun or the barycentre: taken to the telescope once, and given back as they were."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time
from small_nights import INSTRUMENT

from opticam_dask import Instrument
from opticam_dask.frames.scanning import scan
from opticam_dask.kernels.series.timing import utc_mjd
from opticam_dask.pipeline import plan

PLACE = {"longitude": -115.46, "latitude": 31.04, "height": 2790.0}
SITE = EarthLocation.from_geodetic(*PLACE.values())
STAR = SkyCoord(52.5, 20.0, unit="deg")
#: Long, so that the Earth moves by 12 milliseconds of light travel in half of it.
EXPOSURE = 240.0 * u.s
MIDDLE = Time("2023-11-14T03:12:11.250123", scale="utc", location=SITE)
#: A double holds MJD to 0.6 microseconds, JD to 40; TDB of the geocentre is within 2 of that of the telescope.
ROUNDING = {"BMJD_TDB": 4e-6, "BJD_TDB": 45e-6, "BJD_UTC": 45e-6, "HJD_UTC": 45e-6, "HJD_TDB": 45e-6}


def far(time: Time, kind: str) -> Time:
    return time.tdb + time.light_travel_time(STAR, kind=kind, ephemeris="builtin")


@pytest.mark.parametrize("marks", ["start", "middle", "end"])
@pytest.mark.parametrize("keyword", ROUNDING)
def test_far_time__as_astropy_has_it(tmp_path, keyword, marks):
    told = MIDDLE + {"start": -0.5, "middle": 0.0, "end": 0.5}[marks] * EXPOSURE
    at_place = far(told, "heliocentric" if keyword.startswith("H") else "barycentric")
    at_place = at_place if keyword.endswith("TDB") else at_place.utc
    header = fits.Header({"EXPTIME": EXPOSURE.value, "RA": 52.5, "DEC": 20.0})
    header[keyword] = at_place.mjd if "MJD" in keyword else at_place.jd
    fits.writeto(tmp_path / "f.fits", np.zeros((8, 9), "u2"), header)
    reference = "heliocentre" if keyword.startswith("H") else "barycentre"
    camera = {"time_keywords": [keyword], "time_marks": marks, "time_reference": reference}
    instrument = Instrument.from_json(INSTRUMENT | PLACE | camera)
    [part] = plan.plan_parts(
        scan([tmp_path / "f.fits"], instrument).table, instrument, barycenter=True, target_coord=None
    )
    here = Time(part.manifest["mjd_utc"][0], format="mjd", scale="utc", location=SITE)
    at_barycentre = Time(part.manifest["bmjd_tdb"][0], format="mjd", scale="tdb")
    assert abs((here - MIDDLE).to_value("s")) < ROUNDING[keyword]
    assert abs((at_barycentre - far(MIDDLE, "barycentric")).to_value("s")) < ROUNDING[keyword]


@pytest.mark.parametrize("date", ["1999-07-03", "2010-01-15", "2023-11-14"])
def test_tdb__as_astropy_has_it(date):
    time = Time(f"{date}T03:12:11.25", scale="utc")
    day = int(time.tdb.mjd)
    seconds = ((time.tdb.jd1 - 2400000.5 - day) + time.tdb.jd2) * 86400.0
    assert abs((Time(utc_mjd(day, seconds, "tdb"), format="mjd", scale="utc") - time).to_value("s")) < 1e-6
