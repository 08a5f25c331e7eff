"""What header keywords mean, by the FITS standard and by the habit of the software that wrote them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import FK4, FK5, EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time

from opticam_dask import OPTICAM_MX, Instrument
from opticam_dask.frames import scanning
from opticam_dask.frames.fits_files import read_header
from opticam_dask.frames.headers.calibrated import steps_done
from opticam_dask.frames.headers.contradictions import contradictions
from opticam_dask.kernels.series.timing import barycentric_mjd, utc_mjd
from opticam_dask.pipeline import plan

SECOND = 1.0 / 86400.0
USUAL = {"DATE-OBS": "2024-01-01T20:00:00.000", "EXPTIME": 5.0, "RA": "03:30:00", "DEC": "+20:00:00"}
START = 60310.0 + 20.0 / 24.0


def definition(**entries):
    """A camera whose definition says nothing that a header can say."""
    required = {"name": "x", "time_keywords": ("DATE-OBS",), "time_marks": "start", "cameras": {"1": ()}}
    return Instrument(
        **(required | {"default_filter": "V", "default_gain": 1.0, "default_binning": 1, "default_dark_current": 0.0})
        | entries
    )


def header_of(**changes):
    """Header with comments where a value is a pair; names with blanks are hierarchical ones."""
    header = fits.Header()
    for name, value in (USUAL | changes).items():
        if value is not None:
            header[f"HIERARCH {name}" if " " in name else name] = value
    return header


def interpreted(instrument=None, **changes):
    return (instrument or definition()).interpret(header_of(**changes))


# ---------------------------------------------------------------- right ascension and declination

WCS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.7, "CRVAL2": 41.2}


@pytest.mark.parametrize(
    ("cards", "ra"),
    [
        ({"RA": 10.68, "DEC": 41.27, "OBJCTRA": "00 42 43.2", "OBJCTDEC": "+41 16 12"}, 10.68),
        ({"RA": 0.712, "DEC": 41.27, "OBJCTRA": "00 42 43.2", "OBJCTDEC": "+41 16 12"}, 10.68),
        (
            {"RA": 10.68, "DEC": 41.27, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.7, "CRVAL2": 41.2},
            10.68,
        ),
        ({"RA": (10.68, "[deg] RA of telescope"), "DEC": 41.27}, 10.68),
        ({"RA": (0.712, "Right ascension in hours"), "DEC": 41.27}, 10.68),
        ({"RA": 210.68, "DEC": 41.27}, 210.68),
        ({"RA": None, "DEC": None, "OBJCTRA": "00 42 43.2", "OBJCTDEC": "+41 16 12"}, 10.68),
        ({"RA": None, "DEC": None, "RA_OBS": 10.68, "DEC_OBS": 41.27}, 10.68),
        ({"RA": "10d40m48s", "DEC": 41.27}, 10.68),
        ({"RA": "0", "DEC": "0", "OBJCTRA": "00 42 43.2", "OBJCTDEC": "+41 16 12"}, 10.68),
    ],
)
def test_position__unit_of_right_ascension_is_what_the_header_shows(cards, ra):
    header = header_of(**{name: None for name in ("RA", "DEC") if name not in cards})
    for name, value in cards.items():
        if value is None:
            del header[name]
        else:
            header[name] = value
    frame = definition().interpret(header)
    assert frame.ra == pytest.approx(ra, abs=1e-6)
    assert frame.warnings == ()


def test_position__plain_number_without_a_witness_is_degrees_and_told():
    frame = interpreted(RA=10.68, DEC=41.27)
    assert (frame.ra, frame.dec) == (10.68, 41.27)
    assert "taken for degrees" in frame.warnings[0]
    assert interpreted(definition(ra_unit="hourangle"), RA=10.0, DEC=41.0).ra == 150.0


def test_position__contradiction_is_told():
    frame = interpreted(
        definition(ra_unit="hourangle"), RA=10.68, DEC=41.27, OBJCTRA="00 42 43.2", OBJCTDEC="+41 16 12"
    )
    assert any("RA and DEC are more than 1 degree from another position in the header" in w for w in frame.warnings)
    assert interpreted(RA="03:30:00", DEC="20:00:00", OBJCTRA="03 30 10", OBJCTDEC="+20 01 00").warnings == ()


@pytest.mark.parametrize(
    ("text", "degrees"),
    [
        ("+19:59:60.0", 20.0), ("59:60", 60.0), ("-00:30:00", -0.5), ("-0:00:36", -0.01), ("- 05 30 00", -5.5),
        ("+41d16m12s", 41.27), ("41 16 12", 41.27), ("+41:16.2", 41.27), ("-22:57:08:99", -22.9524972),
        (" +20 ", 20.0), ("-00 00 00.5", -0.5 / 3600),
    ],
)  # fmt: skip
def test_position__declinations_as_they_are_written(text, degrees):
    assert interpreted(DEC=text).dec == pytest.approx(degrees, abs=1e-7)


@pytest.mark.parametrize(("text", "degrees"), [("23:59:60.0", 0.0), ("05:59:60", 90.0), ("24:00:00", 0.0)])
def test_position__right_ascensions_rounded_up_to_sixty(text, degrees):
    assert interpreted(RA=text).ra == pytest.approx(degrees, abs=1e-9)


@pytest.mark.parametrize("text", ["12:61:00", "12:00:75", "1:2:3:4:5", "north", "12:-5:00", ":"])
def test_position__what_is_no_angle_stays_unknown(text):
    assert math.isnan(interpreted(DEC=text).dec)


# ---------------------------------------------------------------- gain


@pytest.mark.parametrize(
    ("cards", "gain", "words"),
    [
        ({"GAIN": 139, "EGAIN": 0.8}, 0.8, "the gains in EGAIN (0.8) and GAIN (139) are not the same"),
        ({"GAIN": (139, "Sensor gain")}, 1.7, "GAIN holds a setting of the camera (its comment is 'Sensor gain')"),
        ({"GAIN": 5, "SWCREATE": "N.I.N.A. 3.1.2.9001 (x64)"}, 1.7, "SWCREATE is 'N.I.N.A. 3.1.2.9001"),
        ({"GAIN": 5, "SWCREATE": "SharpCap v4.1.12111.0, 64 bit"}, 1.7, "GAIN holds a setting"),
        ({"GAIN": (20, "gain in 0.1 dB units")}, 1.7, "GAIN holds a setting"),
        ({"GAIN": 139}, 1.7, "139 electrons per ADU are hardly possible"),
        ({"GAIN": 1.9}, 1.9, ""),
        ({"CVF": 5.0}, 5.0, ""),
        ({"CCDGAIN": 2.0}, 2.0, ""),
        ({"ESO DET OUT1 CONAD": 1.25, "ESO DET OUT1 GAIN": 0.8}, 1.25, ""),
        ({"ESO DET OUT1 GAIN": 0.8}, 1.25, ""),
        ({"GAIN": "1.5, 1.5, 1.5, 1.5"}, 1.5, ""),
        ({"GAIN": "[1.0 2.0]"}, 1.5, "GAIN lists different gains"),
    ],
)
def test_gain__is_electrons_per_adu(cards, gain, words):
    frame = interpreted(definition(default_gain=1.7), **cards)
    assert frame.problems == ()
    assert frame.gain == pytest.approx(gain)
    assert any(words in warning for warning in frame.warnings) if words else frame.warnings == ()


@pytest.mark.parametrize("comment", ["[ADU/e-]", "inverse gain, ADU per electron", "DN/e"])
def test_gain__a_comment_says_that_it_is_the_other_way_round(comment):
    frame = interpreted(GAIN=(0.5, comment))
    assert frame.gain == 2.0
    assert "is ADU per electron" in frame.warnings[0]
    assert interpreted(GAIN=(0.5, "[e-/ADU] electrons per ADU")).gain == 0.5
    assert interpreted(**{"GAIN": (0.8, comment), "ESO DET OUT1 CONAD": 1.25}).warnings == ()


def test_gain__words_are_a_setting():
    frame = interpreted(definition(default_gain=1.7), GAIN="High")
    assert (frame.gain, frame.problems) == (1.7, ())
    assert "GAIN holds a setting of the camera (it is 'High')" in frame.warnings[0]
    assert "setting" in interpreted(definition(default_gain=None), GAIN="High").problems[0]


@pytest.mark.parametrize(("comment", "level"), [("[e-] saturation", 5e4), ("in electrons", 5e4), ("[ADU] of a", 1e5)])
def test_saturation__in_electrons_by_its_comment(comment, level):
    assert interpreted(GAIN=2.0, SATURATE=(1e5, comment)).saturation == level
    assert interpreted(GAIN=2.0, BUNIT="electron", SATURATE=(1e5, comment)).saturation == 1e5


def test_contradictions__of_binnings_and_kinds_are_told():
    frame = interpreted(BINNING="1x1", XBINNING=2, YBINNING=2)
    assert frame.binning == 1
    assert "the binnings in BINNING (1) and XBINNING (2) are not the same" in frame.warnings[0]
    assert interpreted(CCDSUM="2 2", XBINNING=2, YBINNING=2).warnings == ()
    frame = interpreted(IMAGETYP="Light", OBSTYPE="SKYFLAT")
    assert frame.kind == "light"
    assert "IMAGETYP says that the frame is a light and OBSTYPE that it is a flat" in frame.warnings[0]
    assert interpreted(IMAGETYP="Light Frame", OBSTYPE="EXPOSE").warnings == ()


def test_gain__setting_without_electrons_is_refused():
    frame = interpreted(definition(default_gain=None), GAIN=(100, "Sensor gain"))
    assert math.isnan(frame.gain)
    assert "setting of the camera" in frame.problems[0]


def test_gain__keyword_of_the_definition_is_believed_and_doubted():
    frame = interpreted(definition(gain_keyword="GAIN"), GAIN=139, EGAIN=1.0)
    assert frame.gain == 139.0
    assert sum("gain" in warning for warning in frame.warnings) == 2
    assert interpreted(definition(gain_keyword="GAIN"), GAIN=139, BITPIX=8).warnings == ()


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("cards", "entries"),
    [
        ({"DATE-OBS": "2024-01-01", "UTC-OBS": "20:00:00.0"}, {"time_keywords": ("DATE-OBS", ("DATE-OBS", "UTC-OBS"))}),
        ({"DATE-OBS": "2024-01-01", "UT": "20:00:00.0"}, {}),
        ({"DATE-OBS": "2024-01-01", "TIME-OBS": "20 00 00.0"}, {}),
        ({"DATE-OBS": "2024-01-01", "UTSTART": "20h00m00s"}, {}),
        ({"DATE-OBS": "2024/01/01", "UT": "20:00:00.0"}, {}),
        ({"MJD-OBS": 60310.0, "UT": "20:00:00.0"}, {"time_keywords": ("MJD-OBS",)}),
        ({"DATE-OBS": "2024-01-01", "MJD-OBS": START}, {"time_keywords": ("DATE-OBS", "MJD-OBS")}),
        ({"DATE-OBS": "2024-01-01T22:00:00+0200"}, {}),
        ({"DATE-LOC": "2024-01-01T22:00:00+02:00"}, {"time_keywords": ("DATE-LOC",)}),
        ({"JD_UTC": START + 2400000.5}, {"time_keywords": ("JD_UTC",)}),
    ],
)  # fmt: skip
def test_time__a_date_alone_is_never_midnight(cards, entries):
    frame = interpreted(definition(**entries), **({"DATE-OBS": None} | cards))
    assert frame.problems == ()
    assert abs(frame.mjd_utc - (START + 2.5 * SECOND)) < 0.01 * SECOND


@pytest.mark.parametrize(
    ("cards", "entries", "words"),
    [
        ({"DATE-OBS": "2024-01-01"}, {}, "is a date without a time of day"),
        ({"DATE-OBS": "31/12/98"}, {}, "is a date without a time of day"),
        ({"MJD-OBS": 60310.0}, {"time_keywords": ("MJD-OBS",)}, "is a day without a time of day"),
        ({"DATE-OBS": "01/02/24", "UT": "20:00:00"}, {"time_keywords": (("DATE-OBS", "UT"),)}, "is not from 1970"),
        ({"JD-HELIO": 2460311.3}, {"time_keywords": ("JD-HELIO",)}, "a time at the Sun or the barycentre"),
        ({"BJD_TDB": 2460311.3}, {"time_keywords": ("BJD_TDB",)}, "a time at the Sun or the barycentre"),
        ({"TREFPOS": "BARYCENTER"}, {}, "not the telescope"),
        ({"LOCALTIM": "2024-01-01T20:00:00"}, {"time_keywords": ("LOCALTIM",)}, "is local time"),
        ({"TIMESYS": "LOCAL"}, {}, "expected a time scale in keyword TIMESYS"),
    ],
)
def test_time__what_is_no_time_of_the_telescope_is_refused(cards, entries, words):
    frame = interpreted(definition(**entries), **cards)
    assert math.isnan(frame.mjd_utc)
    assert words in frame.problems[0]


def test_time__two_digit_years_are_of_the_last_century():
    frame = interpreted(definition(time_keywords=(("DATE-OBS", "UT"),)), **{"DATE-OBS": "31/12/98", "UT": "20:00:00"})
    assert abs(frame.mjd_utc - Time("1998-12-31T20:00:02.5").mjd) < 1e-9


@pytest.mark.parametrize("scale", ["TDB", "TT", "TAI", "TCG", "TCB", "TT(TAI)", "TDT", "UTC(NIST)", "ET"])
def test_time__scale_of_the_header_equals_astropy(scale):
    same = {"TDT": "tt", "ET": "tdb"}.get(scale, scale.partition("(")[0].lower())
    expected = Time("2024-01-01T20:00:02.5", scale=same).utc.mjd
    assert abs(interpreted(TIMESYS=scale).mjd_utc - expected) < 5e-5 * SECOND


def test_time__tdb_is_69_seconds_ahead_and_a_definition_goes_before():
    assert (START + 2.5 * SECOND - interpreted(TIMESYS="TDB").mjd_utc) / SECOND == pytest.approx(69.184, abs=0.002)
    frame = interpreted(definition(time_scale="utc"), TIMESYS="TDB")
    assert abs(frame.mjd_utc - (START + 2.5 * SECOND)) < 1e-9
    assert "TIMESYS is 'TDB', but the definition says utc" in frame.warnings[0]
    frame = interpreted(TIMESYS="GPS", EXPTIME=0.0)
    assert (START - frame.mjd_utc) / SECOND == pytest.approx(18.0, abs=1e-4)
    frame = interpreted(TIMESYS="UT1", EXPTIME=0.0, **{"UT1-UTC": -0.25})
    assert (frame.mjd_utc - START) / SECOND == pytest.approx(0.25, abs=1e-4)


def test_time__leap_second_and_fractions():
    frame = interpreted(EXPTIME=0.0, **{"DATE-OBS": "2016-12-31T23:59:60.123456"})
    assert abs(frame.mjd_utc - Time("2016-12-31T23:59:60.123456").mjd) < 1e-6 * SECOND
    assert utc_mjd(60310, 72000.123456) == pytest.approx(START + 0.123456 * SECOND, abs=1e-11)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"DATE-END": "2024-01-01T20:01:00.0"}, None),
        ({"DATE-END": "2024-01-01T20:01:09.0"}, None),  # of the read-out
        ({"DATE-END": "2024-01-01T20:00:30.0"}, "fits the middle of the exposure and is taken for the start"),
        ({"DATE-END": "2024-01-01T20:00:00.0"}, "fits the end of the exposure"),
        ({"DATE-END": "2024-01-01T20:00:15.0"}, "is not that of the exposure"),
        ({"DATE-AVG": "2024-01-01T20:00:30.0"}, None),
        ({"DATE-AVG": "2024-01-01T20:00:00.0"}, "fits the middle"),
        ({"DATE-BEG": "2024-01-01T20:00:00.0"}, None),
        ({"MJD-OBS": START}, None),
        ({"MJD-OBS": round(START, 2)}, None),
        ({"MJD-OBS": 60310.0}, None),  # a day
        ({"MJD-OBS": START + 7.0 / 24.0}, "they are not of the same exposure"),
        ({"JD": 2400000.5 + START - 1.0}, "they are not of the same exposure"),
        ({"JD": 0.0}, None),
    ],
)
def test_time__other_times_of_the_exposure_are_held_against_it(cards, words):
    frame = interpreted(EXPTIME=60.0, **cards)
    assert abs(frame.mjd_utc - (START + 30.0 * SECOND)) < 1e-9
    assert (frame.warnings == ()) if words is None else (words in frame.warnings[0])


@pytest.mark.parametrize(
    ("cards", "is_told"),
    [
        ({"UT": "22:00:00"}, True), ({"TIME-OBS": "10:00:00.5"}, True), ({"UT": "20:01:30"}, False),
        ({"UT": "20 00 01"}, False), ({"UTC": 72000.5}, False), ({"UT": "2024-01-01T20:00:00"}, False),
        ({"DATE-OBS": "2024-01-01T23:59:59", "UT": "00:00:05"}, False),
    ],
)  # fmt: skip
def test_time__another_time_of_day_is_told(cards, is_told):
    warnings = interpreted(**cards).warnings
    assert any("contradict each other: they are not of the same exposure" in w for w in warnings) == is_told


def test_exposure__in_milliseconds_shows_by_the_time_of_the_end():
    warnings = interpreted(EXPTIME=5000.0, **{"DATE-END": "2024-01-01T20:00:05.0"}).warnings
    assert "a thousandth of it: is it in milliseconds?" in warnings[0]


def test_time__keywords_of_the_standard_mark_what_it_says():
    for name, middle in (("DATE-BEG", 30.0), ("DATE-AVG", 0.0), ("DATE-END", -30.0)):
        cards = {"DATE-OBS": None, name: "2024-01-01T20:00:00.0"}
        frame = interpreted(definition(time_keywords=(name,)), EXPTIME=60.0, **cards)
        assert (frame.mjd_utc - START) / SECOND == pytest.approx(middle, abs=1e-4)
        assert bool(frame.warnings) == (name != "DATE-BEG")


# ---------------------------------------------------------------- exposure, binning, filter


@pytest.mark.parametrize(
    ("cards", "seconds"),
    [
        ({"EXPTIME": (250.0, "[ms] exposure time")}, 0.25),
        ({"EXPTIME": (250.0, "Exposure time in milliseconds")}, 0.25),
        ({"EXPTIME": 0.25, "EXPOSURE": 0.25}, 0.25),
        ({"EXPTIME": None, "EXPOINUS": 250000}, 0.25),
        ({"EXPTIME": None, "XPOSURE": 0.25}, 0.25),
        ({"EXPTIME": (0.25, "[s] Exposure length (not ms)")}, 0.25),
        ({"EXPTIME": (2.0, "[min] exposure")}, 120.0),
        ({"EXPTIME": (2.0, "Exposure time in minutes")}, 120.0),
        ({"EXPTIME": (2.0, "seconds, not minutes")}, 2.0),
    ],
)
def test_exposure__is_in_seconds(cards, seconds):
    frame = interpreted(**cards)
    assert frame.exposure_time == pytest.approx(seconds)
    assert frame.warnings == ()


def test_exposure__two_that_differ_are_told():
    assert "exposure times in EXPTIME and EXPOSURE are not the same" in interpreted(EXPOSURE=5000.0).warnings[0]


@pytest.mark.parametrize(
    ("cards", "binning"),
    [
        ({"XBINNING": 2, "YBINNING": 2}, 2), ({"CCDXBIN": 4, "CCDYBIN": 4}, 4), ({"CCDSUM": "2 2"}, 2),
        ({"BINX": 3}, 3), ({"ESO DET WIN1 BINX": 2, "ESO DET WIN1 BINY": 2}, 2), ({}, 1),
    ],
)  # fmt: skip
def test_binning__by_its_many_names(cards, binning):
    assert interpreted(**cards).binning == binning


def test_binning__unequal_axes_are_refused():
    assert "XBINNING and YBINNING" in interpreted(XBINNING=2, YBINNING=1).problems[0]


# ---------------------------------------------------------------- site

SITE = (-104.015173, 30.679833, 2030.0)
XYZ = [value.to_value(u.m) for value in EarthLocation.from_geodetic(*SITE).to_geocentric()]


@pytest.mark.parametrize(
    "cards",
    [
        {"SITELAT": 30.679833, "SITELONG": -104.015173, "SITEELEV": 2030.0},
        {"SITELAT": "30 40 47.4", "SITELONG": "-104 00 54.62", "SITEELEV": 2030.0},
        {"SITELAT": "30:40:47.4 N", "SITELONG": "104:00:54.62 W", "SITEELEV": 2030.0},
        {"LATITUDE": 30.679833, "LONGITUD": 255.984827, "HEIGHT": 2030.0},
        {"LATITUDE": 30.679833, "LONGITUD": (104.015173, "degrees, positive west"), "HEIGHT": 2030.0},
        {"LAT-OBS": 30.679833, "LONG-OBS": -104.015173, "ALT-OBS": 2030.0},
        {"ESO TEL GEOLAT": 30.679833, "ESO TEL GEOLON": -104.015173, "ESO TEL GEOELEV": 2030.0},
        {"OBSGEO-B": 30.679833, "OBSGEO-L": -104.015173, "OBSGEO-H": 2030.0},
        {"OBSGEO-X": XYZ[0], "OBSGEO-Y": XYZ[1], "OBSGEO-Z": XYZ[2]},
    ],
)
def test_site__is_that_of_the_header(cards):
    frame = interpreted(**cards)
    assert (frame.longitude, frame.latitude, frame.height) == pytest.approx(SITE, abs=1e-5, rel=1e-7)
    assert frame.warnings == ()


def test_site__definition_serves_where_the_header_has_none_and_disagreement_is_told():
    there = definition(longitude=SITE[0], latitude=SITE[1], height=SITE[2])
    assert interpreted(there).longitude == SITE[0]
    assert interpreted(there, SITELAT=0.0, SITELONG=0.0).latitude == SITE[1]  # placeholders
    assert interpreted(there, SITELAT=30.68, SITELONG=104.0152).longitude == pytest.approx(-104.0152)  # to the west
    frame = interpreted(there, SITELAT=28.3, SITELONG=-16.51, SITEELEV=2390.0)
    assert (frame.longitude, frame.latitude, frame.height) == (-16.51, 28.3, 2390.0)
    assert "more than 1 km from that of the definition" in frame.warnings[0]
    frame = interpreted(SITELAT=28.3, SITELONG=-16.51, LATITUDE=28.3, LONGITUD=16.51)
    assert "are not the same" in frame.warnings[0]


def test_site__barycentric_times_are_those_of_the_headers(tmp_path):
    places = [(SITE[1], SITE[0]), (-29.26, -70.73)]
    for number, (latitude, longitude) in enumerate(places):
        header = header_of(SITELAT=latitude, SITELONG=longitude, SITEELEV=2000.0)
        header["DATE-OBS"] = f"2024-01-01T20:0{number}:00"
        fits.writeto(tmp_path / f"{number}.fits", np.zeros((8, 8), "u2"), header)
    found = scanning.scan(scanning.find_files(tmp_path), definition())
    assert any("the site of the telescope is not the same in all frames (1 of 2" in line for line in found.warnings)
    (part,) = plan.plan_parts(found.table, definition())
    for row, (latitude, longitude) in enumerate(places):
        expected = barycentric_mjd(part.manifest["mjd_utc"][row : row + 1], 52.5, 20.0, longitude, latitude, 2000.0)
        assert abs(part.manifest["bmjd_tdb"][row] - expected[0]) < 1e-6 * SECOND


# ---------------------------------------------------------------- whole headers as programs write them


def test_nina_header():
    header = fits.Header()
    for name, value, comment in (
        ("IMAGETYP", "LIGHT", "Type of exposure"), ("EXPOSURE", 30.0, "[s] Exposure duration"),
        ("EXPTIME", 30.0, "[s] Exposure duration"), ("DATE-LOC", "2024-01-01T21:00:00.000", "Time (local)"),
        ("DATE-OBS", "2024-01-01T20:00:00.000", "Time of observation (UTC)"), ("XBINNING", 2, "X axis binning factor"),
        ("YBINNING", 2, "Y axis binning factor"), ("GAIN", 139, "Sensor gain"), ("OFFSET", 21, "Sensor gain offset"),
        ("EGAIN", 0.25, "[e-/ADU] Electrons per A/D unit"), ("SITEELEV", 450.0, "[m] Observation site elevation"),
        ("SITELAT", 51.2, "[deg] Observation site latitude"), ("SITELONG", 7.1, "[deg] Observation site longitude"),
        ("FILTER", "L", "Active filter name"), ("RA", 10.68, "[deg] RA of telescope"),
        ("DEC", 41.27, "[deg] Declination of telescope"), ("SWCREATE", "N.I.N.A. 3.1 (x64)", "Software"),
    ):  # fmt: skip
        header[name] = (value, comment)
    frame = definition().interpret(header)
    assert frame.problems == ()
    assert (frame.exposure_time, frame.binning, frame.gain, frame.filter, frame.kind) == (30.0, 2, 0.25, "L", "light")
    assert (frame.ra, frame.dec, frame.longitude, frame.latitude, frame.height) == (10.68, 41.27, 7.1, 51.2, 450.0)
    assert abs(frame.mjd_utc - (START + 15.0 * SECOND)) < 1e-9
    assert frame.warnings == ()  # GAIN is a setting, as its comment says


def test_eso_header():
    frame = interpreted(
        **{"DATE-OBS": None, "MJD-OBS": START, "RA": (10.68, "[deg] 00:42:43.2 RA (J2000) pointing"), "DEC": 41.27,
           "ESO TEL GEOLAT": -29.2543, "ESO TEL GEOLON": -70.7346, "ESO TEL GEOELEV": 2335.0,
           "ESO DPR TYPE": "FLAT,SKY", "ESO DET OUT1 CONAD": 1.46, "ESO DET OUT1 RON": 4.5,
           "ESO INS FILT1 NAME": "V/89", "ESO DET WIN1 BINX": 1}
    )  # fmt: skip
    assert frame.problems == ("time: expected a date and time from 1970 to 2100; DATE-OBS is missing or empty",)
    assert (frame.gain, frame.filter, frame.read_noise, frame.kind) == (1.46, "V/89", 4.5, "flat")
    assert (frame.ra, frame.longitude, frame.height) == (10.68, -70.7346, 2335.0)


def test_lco_header(real_data):
    instrument = definition(default_gain=None)
    values = read_header(real_data / "oddities" / "lco_mef_raw_test_frame.fits").values
    frame = instrument.interpret(values)
    assert frame.problems == ()
    assert (frame.gain, frame.binning, frame.filter, frame.kind) == (6.42, 2, "w", "light")
    assert (frame.longitude, frame.latitude, frame.height) == pytest.approx((-104.015173, 30.679833, 2030.0), abs=1e-4)
    assert abs(frame.mjd_utc - Time("2021-10-08T01:56:04.6315").mjd) < 0.001 * SECOND


def test_saao_header(real_data):
    instrument = definition(time_keywords=("DATE-OBS", ("DATE-OBS", "UT")), default_gain=None)
    frame = instrument.interpret(read_header(real_data / "oddities" / "saao_a8280271.fits").values)
    assert frame.problems == ()
    assert (frame.gain, frame.filter, frame.read_noise, frame.kind) == (1.9, "48", 5.0, "light")
    assert abs(frame.mjd_utc - Time("2013-07-13T00:58:48.02").mjd) < 0.001 * SECOND
    assert frame.ra == pytest.approx(331.0334, abs=1e-3)


def test_opticam_headers_have_nothing_to_tell_but_their_position(real_data):
    frame = OPTICAM_MX().interpret(read_header(real_data / "opticam" / "get_last_c1.fit").values)
    assert len(frame.warnings) == 1
    assert frame.kind_source == "IMGTYPE"
    assert (frame.longitude, frame.latitude, frame.height) == pytest.approx((-115.4661, 31.045, 2790.0), abs=1e-3)


# ---------------------------------------------------------------- equinox, unit of pixels, clock


@pytest.mark.parametrize(
    ("cards", "frame"),
    [
        ({"EQUINOX": 1950.0}, FK4(equinox="B1950")),
        ({"RADECSYS": "FK4", "RA": 52.5}, FK4(equinox="B1950")),
        ({"EQUINOX": "B1950.0"}, FK4(equinox="B1950")),
        ({"EQUINOX": 2023.9, "EPOCH": 2000.0}, FK5(equinox="J2023.9")),  # as the telescope of OPTICAM writes it
        ({"RADESYS": "FK5", "EPOCH": 1975.0}, FK5(equinox="J1975")),
        ({"RADESYS": "FK5", "EPOCH": 2024.0}, FK5(equinox="J2024")),  # the date, and said to be an equinox
        ({"EPOCH": "JNOW"}, FK5(equinox=Time(START, format="mjd"))),
        ({"EQUINOX": "JNOW"}, FK5(equinox=Time(START, format="mjd"))),
        ({"RADESYS": "GAPPT"}, FK5(equinox=Time(START, format="mjd"))),
    ],
)
def test_position__equinox_of_the_header_is_turned_to_icrs(cards, frame):
    found = interpreted(**cards)
    expected = SkyCoord(52.5 * u.deg, 20.0 * u.deg, frame=frame).icrs
    assert SkyCoord(found.ra, found.dec, unit="deg").separation(expected).arcsec < 0.05
    assert [text for text in found.warnings if "turned to ICRS" in text]


@pytest.mark.parametrize(
    "cards", [{"EQUINOX": 2000.0}, {"EPOCH": "J2000"}, {"RADESYS": "ICRS", "EQUINOX": 2016.0}, {"RADESYS": "FK5"}]
)
def test_position__of_j2000_stays_without_a_word(cards):
    found = interpreted(**cards)
    assert (found.ra, found.dec, found.warnings) == (52.5, 20.0, ())


def test_position__equinox_that_is_none_is_told():
    found = interpreted(EQUINOX="spring")
    assert (found.ra, found.dec) == (52.5, 20.0)
    assert "EQUINOX is 'spring'" in found.warnings[0]


def test_position__epoch_that_is_the_date_of_the_frame_is_no_equinox():
    found = interpreted(EPOCH=2024.0)
    assert (found.ra, found.dec) == (52.5, 20.0)
    assert "EPOCH is 2024.0, the date of the frame" in found.warnings[0]


@pytest.mark.parametrize(("unit", "factor"), [("electron", 2.5), ("adu", 1.0)])
def test_levels__of_the_definition_are_adu_also_where_pixels_are_electrons(unit, factor):
    camera = definition(gain_keyword=("EGAIN",), default_saturation=60000.0, default_linearity=40000.0)
    found = interpreted(camera, BUNIT=unit, EGAIN=2.5)
    assert (found.saturation, found.linearity_limit) == (60000.0 * factor, 40000.0 * factor)
    assert interpreted(camera, BUNIT=unit, EGAIN=2.5, SATURATE=50000.0).saturation == 50000.0


@pytest.mark.parametrize("unit", ["electron", "electrons", "e-", "photo-electrons", "E", "electron/pixel", "[e-]"])
def test_gain__of_pixels_in_electrons_is_one(unit):
    found = interpreted(definition(gain_keyword=("EGAIN", "GAIN")), BUNIT=unit, EGAIN=2.5)
    assert (found.gain, len(found.warnings)) == (1.0, 1)
    assert "the pixels are electrons already" in found.warnings[0]
    assert interpreted(definition(default_gain=1.7), BUNIT=unit).gain == 1.0
    assert interpreted(BUNIT=unit).warnings == ()


@pytest.mark.parametrize("unit", ["adu", "ADU", "DN", "counts", "Converged ADU", "raw mode", ""])
def test_gain__of_pixels_in_adu_is_that_of_the_header(unit):
    found = interpreted(definition(gain_keyword=("EGAIN",)), BUNIT=unit, EGAIN=2.5)
    assert (found.gain, found.problems) == (2.5, ())


@pytest.mark.parametrize(
    "unit", ["electron/s", "adu / sec", "counts s-1", "e- s**-1", "Jy/beam", "nanomaggy", "mag", "W/m2"]
)
def test_gain__pixels_that_are_no_counts_are_refused(unit):
    (problem,) = interpreted(BUNIT=unit).problems
    assert problem.startswith("gain: expected pixels in ADU or electrons")
    assert unit in problem


@pytest.mark.parametrize(
    ("word", "kind"),
    [("ACQUISITION", "acquisition"), ("Guide", "acquisition"), ("SPECTRUM", "spectrum"), ("guided light", "light")],
)
def test_kind__frames_that_are_no_images_of_the_target(word, kind):
    assert interpreted(OBSTYPE=word).kind == kind


def test_exposure__of_zero_is_told_for_a_light_alone():
    assert "exposure time is 0" in interpreted(EXPTIME=0.0).warnings[0]
    assert interpreted(EXPTIME=0.0, IMAGETYP="bias").warnings == ()


@pytest.mark.parametrize(("year", "is_told"), [(1970, True), (2024, False), (2095, True)])
def test_clock__that_was_not_set_is_told(tmp_path, year, is_told):
    for second in range(3):
        name = tmp_path / f"f{second}.fits"
        cards = header_of(**{"DATE-OBS": f"{year}-02-01T00:00:{20 * second:02d}"})
        fits.writeto(name, np.zeros((8, 8), np.uint16), cards)
    scan = scanning.scan(scanning.find_files(tmp_path), definition())
    assert any("was the clock of the camera set" in line for line in contradictions(scan.table)) == is_told


@pytest.mark.parametrize(
    ("comment", "read_noise"), [("[ADU] read noise", 4.0), ("noise in counts", 4.0), ("[e-]", 2.0)]
)
def test_read_noise__in_adu_by_its_comment(comment, read_noise):
    assert interpreted(RDNOISE=(2.0, comment), GAIN=2.0).read_noise == read_noise


@pytest.mark.parametrize("comment", ["[h] right ascension", "RA (h)"])
def test_position__unit_of_hours_in_brackets(comment):
    assert interpreted(RA=(3.5, comment), DEC=20.0).ra == 52.5


@pytest.mark.parametrize("name", ["COADDS", "NCOMBINE", "STACKCNT", "SNAPSHOT", "ESO DET NDIT"])
def test_exposure__frames_made_of_several_are_told(name):
    assert f"{name} says that the frame is made of 10 exposures" in interpreted(**{name: 10}).warnings[0]
    assert interpreted(**{name: 1}).warnings == ()


def test_kind__acquisition_of_eso():
    cards = {"ESO DPR CATG": "ACQUISITION", "ESO DPR TYPE": "OBJECT"}
    assert interpreted(**cards).kind == "acquisition"
    assert interpreted(**cards | {"ESO DPR CATG": "SCIENCE"}).kind == "light"


# ---------------------------------------------------------------- nothing is guessed without a word


@pytest.mark.parametrize(
    "unit", ["counts per second", "e-/min", "ADU/hr", "cps", "Hz", "photons per sec", "DN / ms"]
)  # fmt: skip
def test_gain__rates_in_words_are_refused(unit):
    assert unit in interpreted(BUNIT=unit).problems[0]


@pytest.mark.parametrize(
    ("unit", "is_told"),
    [
        ("blah", True), ("kADU", True), ("10 electron", True), ("K", True), ("ct", False), ("[ADU]", False),
        ("Counts / pixel", False), ("digital number", False), ("RAW", False), ("None", False),
    ],
)  # fmt: skip
def test_gain__an_unknown_unit_of_pixels_is_told(unit, is_told):
    frame = interpreted(BUNIT=unit)
    assert frame.problems == ()
    assert [f"BUNIT is {unit!r}, which is no unit" in warning for warning in frame.warnings] == [True] * is_told


@pytest.mark.parametrize(
    ("entries", "cards", "words"),
    [
        ({}, {"GAIN": 1.0, "RO_GAIN": 2.0}, "the gains in GAIN (1) and RO_GAIN (2) are not the same"),
        ({}, {"GAIN": 2.0, "RO_GAIN": 2.0}, ""),
        ({}, {"GAIN1": 1.6}, "the gain of the definition (1) and that in GAIN1 (1.6)"),
        ({"gain_keyword": "CAMGAIN"}, {"EGAIN": 0.5}, "the gain of the definition (1) and that in EGAIN (0.5)"),
        ({"gain_keyword": "CAMGAIN"}, {"GAIN": 139}, ""),
        ({"gain_keyword": ("EGAIN",)}, {"EGAIN": (4.0, "[ADU/e-]")}, "EGAIN says that it is ADU per electron"),
        ({}, {"GAIN": 1.0, "EMGAIN": 100}, "EMGAIN says that electrons were multiplied by 100"),
        ({}, {"GAIN": 1.0, "EMGAIN": 1}, ""),
        ({"default_gain": 1.7}, {"GAIN": 20, "PROGRAM": "CCDciel 0.9.86"}, "GAIN holds a setting of the camera"),
        ({}, {"BINNING": 22}, "BINNING is 22: it is taken for 2 x 2, not for 22 x 22"),
        ({}, {"XBINNING": 22, "YBINNING": 22}, ""),
        ({}, {"BINNING": "[2, 2]"}, ""),
        ({}, {"HBIN": 2, "VBIN": 2}, "the binnings of the definition (1) and HBIN (2) are not the same"),
        ({"binning_keyword": "XBINNING"}, {"XBINNING": 1, "CCDSUM": "2 2"}, "and CCDSUM (2) are not the same"),
        ({}, {"FILTER1": "Clear", "FILTER2": "R"}, "FILTER1 is 'Clear', FILTER2 is 'R', which the definition does not"),
        ({}, {"FILTER": "R", "FILTER1": "Clear"}, ""),
        ({}, {"IMAGETYP": "SKY"}, "IMAGETYP is 'SKY': the frame is taken for a light frame"),
        ({}, {"IMAGETYP": "SKY", "OBSTYPE": "OBJECT"}, ""),
        ({}, {"FRAME": "2024-01-01T20:00:00"}, ""),
        ({}, {"OBJECT": "Master Dark 5"}, "OBJECT is 'Master Dark 5', and nothing says what kind of frame it is"),
        ({}, {"OBJECT": "Dark Nebula B33"}, ""),
        ({}, {"OBJECT": "skyflat", "IMAGETYP": "Light"}, ""),
        ({}, {"TIMEOFFS": 3600.0}, "TIMEOFFS is 3600.0: it is not added"),
        ({}, {"TM_ZONE": "local"}, "TM_ZONE is 'local': DATE-OBS is taken for utc"),
        ({}, {"TIMEZONE": -7}, ""),
        ({}, {"EXPTIME": 5000.0, "KCT": 5.1}, "KCT says that an exposure is made every 5.1 s"),
        ({}, {"EXPTIME": 5.0, "KCT": 5.1}, ""),
        ({}, {"MJD-MID": 60310.912345}, "DATE-OBS and MJD-MID contradict each other"),
        ({}, {"CCDSUM": "1 1", "CCDBIN": "2x2"}, "the binnings in CCDSUM (1) and CCDBIN (2) are not the same"),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00.0", "System Clock:Frame Received")}, "says that it is the end of the"),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00.0", "System Clock:Est. Frame Start")}, ""),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00", "UTC at the end of exposure")}, "says that it is the end of the"),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00", "mid-exposure [UTC]")}, "says that it is the middle of the"),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00", "start (not end) of exposure")}, ""),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00", "local time of start")}, "says local time: it is taken for utc"),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00", "start, UTC (local is +2)")}, ""),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00", "[TAI] start")}, "says tai: it is taken for utc"),
        ({}, {"DATE-OBS": ("2024-01-01T20:00:00", "[TAI] start"), "TIMESYS": "TAI"}, ""),
    ],
)  # fmt: skip
def test_what_a_header_says_beside_what_is_used_is_told(entries, cards, words):
    frame = interpreted(definition(**entries), **cards)
    assert frame.problems == ()
    assert any(words in warning for warning in frame.warnings) if words else frame.warnings == ()


@pytest.mark.parametrize(("airmass", "expected"), [(1.2, 1.2), (99.0, math.nan), (0.0, math.nan)])
def test_airmass__that_is_none_is_not_known(airmass, expected):
    assert interpreted(AIRMASS=airmass).airmass == pytest.approx(expected, nan_ok=True)


def test_what_is_told_is_used():
    assert interpreted(BINNING=22).binning == 2
    assert interpreted(XBINNING=22, YBINNING=22).binning == 22
    assert interpreted(BINNING="(3, 3)").binning == 3
    assert interpreted(definition(gain_keyword=("EGAIN",)), EGAIN=(4.0, "[ADU/e-]")).gain == 0.25
    assert interpreted(FRAMETYP="Dark").kind == "dark"
    assert interpreted(definition(image_type_keyword="IMAGETYP"), FRAMETYP="Dark").kind == "light"


@pytest.mark.parametrize(
    ("cards", "done"),
    [
        ({"CALSTAT": "BDF"}, ["bias", "dark", "flat"]), ({"CALSTAT": "D "}, ["dark"]), ({"CALSTAT": "none"}, []),
        ({"CALSTAT": ""}, []), ({}, []), ({"FLATCOR": "Jan 01 20:00 Flat field image is Flat.fits"}, ["flat"]),
        ({"L1IDBIAS": "master.fits", "L1IDFLAT": "N/A"}, ["bias"]), ({"SUBBIAS": "subtract_bias"}, ["bias"]),
    ],
)  # fmt: skip
def test_calibration__that_a_frame_has_had(cards, done):
    assert list(steps_done(header_of(**cards))) == done
