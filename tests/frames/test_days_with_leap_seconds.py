"""Times of headers within a day that ends with a leap second: they mean what astropy takes them for."""

from __future__ import annotations

import pytest
from astropy.io import fits
from astropy.time import Time
from small_nights import INSTRUMENT

from opticam_dask import Instrument

TIMES = ["2016-12-31T00:00:01.25", "2016-12-31T12:00:00.75", "2016-12-31T23:59:59", "2016-12-31T23:59:60.5"]


def interpreted(keyword: str, value: object, **entries):
    camera = Instrument.from_json(INSTRUMENT | {"time_keywords": [keyword], "time_marks": "middle"} | entries)
    return camera.interpret(fits.Header({keyword: value, "EXPTIME": 1.0}))


@pytest.mark.parametrize("text", TIMES)
@pytest.mark.parametrize(("keyword", "form", "slack"), [("MJD-OBS", "mjd", 2e-11), ("JD", "jd", 1e-9)])
def test_days__of_utc_count_in_the_seconds_of_their_day(text, keyword, form, slack):
    time = Time(text, scale="utc")
    assert interpreted(keyword, getattr(time, form)).mjd_utc == pytest.approx(time.mjd, abs=slack, rel=0)
    assert interpreted("DATE-OBS", text).mjd_utc == pytest.approx(time.mjd, abs=2e-11, rel=0)


@pytest.mark.parametrize("text", TIMES)
@pytest.mark.parametrize("scale", ["tai", "tt", "tdb"])
def test_days__of_scales_without_leap_seconds(text, scale):
    time = Time(text, scale="utc")
    value = getattr(time, scale).mjd
    assert interpreted("MJD-OBS", value, time_scale=scale).mjd_utc == pytest.approx(time.mjd, abs=3e-11, rel=0)


def test_days__agree_with_the_date_of_the_same_header():
    time = Time(TIMES[1], scale="utc")
    camera = Instrument.from_json(INSTRUMENT | {"time_keywords": ["DATE-OBS"]})
    header = fits.Header({"DATE-OBS": TIMES[1], "MJD-OBS": time.mjd, "EXPTIME": 1.0})
    assert not [text for text in camera.interpret(header).warnings if "contradict" in text]
