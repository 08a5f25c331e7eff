"""Instruments: headers interpreted, definitions in JSON."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from opticam_dask.frames.instruments import OPTICAM_MX, Instrument, generate_instrument_json_template

MICROOBSERVATORY = Path(__file__).parents[2] / "notebooks" / "microobservatory.json"
SECOND = 1.0 / 86400.0

HEADER = {
    "FILTER": "g       ",
    "BINNING": "2x2",
    "EXPOSURE": 3.0,
    "GAIN": 1.0,
    "DARKCURR": 0.0986,
    "SATLEVEL": 32302,
    "AIRMASS": 1.137,
    "INITTIME": "2024-11-04 03:46:42.700",
    "UT": "2024-11-04 05:59:34.688 ",
    "UTMIDDLE": "00:00:00.0000",
    "JD": 0.0,
    "DATE-OBS": "2024-11-03",
    "RA": "0:30:14.76",
    "DEC": "+59:27:15.89",
}


def header(**changes):
    """The header of a good frame with changes; None takes a keyword out."""
    values = HEADER | {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in values.items() if value is not None}


def generic(**entries):
    """An instrument with one camera, whose time stamps mark the middle of the exposure."""
    required = {"name": "x", "time_keywords": ("DATE-OBS",), "time_marks": "middle", "cameras": {"1": ()}}
    return Instrument(**(required | {"default_gain": 1.0, "default_binning": 1} | entries))


def mjd_of(frame):
    return Time(frame.mjd_utc, format="mjd")


def test_interpret__real_header_of_the_instrument():
    frame = OPTICAM_MX().interpret(HEADER)
    assert frame.problems == ()
    assert frame.warnings == ()
    assert (frame.camera, frame.filter, frame.key, frame.binning) == ("1", "g", "1:g", 2)
    assert (frame.gain, frame.dark_current, frame.exposure_time) == (1.0, 0.0986, 3.0)
    assert (frame.airmass, frame.saturation, frame.read_noise) == (1.137, 32302.0, 1.3)
    assert frame.pixel_scale == pytest.approx(2 * 0.1397)
    assert frame.ra == pytest.approx(Angle("0h30m14.76s").deg, abs=1e-9)
    assert frame.dec == pytest.approx(Angle("59d27m15.89s").deg, abs=1e-9)


def test_interpret__middle_of_the_exposure():
    frame = OPTICAM_MX().interpret(HEADER)
    middle = Time("2024-11-04T05:59:36.188")  # DATE-OBS names the day before: it must not be used
    assert abs(frame.mjd_utc - middle.mjd) < 1e-5 * SECOND


@pytest.mark.parametrize(("marks", "shift"), [("start", 15.0), ("middle", 0.0), ("end", -15.0)])
def test_interpret__time_marks(marks, shift):
    frame = generic(time_marks=marks).interpret({"FILTER": "V", "EXPTIME": 30.0, "DATE-OBS": "2024-01-01T00:00:00"})
    assert (frame.mjd_utc - 60310.0) * 86400.0 == pytest.approx(shift, abs=1e-5)


def test_interpret__time_scale():
    values = {"FILTER": "V", "EXPTIME": 30.0, "DATE-OBS": "2024-01-01T00:00:18"}
    assert generic(time_scale="gps").interpret(values).mjd_utc == 60310.0


@pytest.mark.parametrize(
    ("filter_name", "key"),
    [("u", "1:u"), ("g'", "1:g'"), (" r ", "2:r"), ("r'", "2:r'"), ("i", "3:i"), ("z'", "3:z'"), ("z", "3:z")],
)
def test_interpret__cameras_by_filter(filter_name, key):
    assert OPTICAM_MX().interpret(header(FILTER=filter_name)).key == key


def test_interpret__filter_that_no_camera_has():
    frame = OPTICAM_MX().interpret(header(FILTER="Halpha"))
    assert len(frame.problems) == 1
    for text in ("FILTER", "'Halpha'", "1: u, u', g, g'", "3: i, i', z, z'"):
        assert text in frame.problems[0]
    assert frame.key == ""


def test_interpret__one_camera_takes_any_filter():
    values = {"FILTER": "Clear", "EXPTIME": 30.0, "DATE-OBS": "2024-01-01T00:00:00"}
    assert generic().interpret(values).key == "1:Clear"
    assert generic(cameras={"main": ("V",)}).interpret(values).key == "main:Clear"


def test_interpret__camera_keyword_decides():
    instrument = generic(cameras={"east": ("r",), "west": ("r", "g")}, camera_keyword="CAM")
    values = {"EXPTIME": 30.0, "DATE-OBS": "2024-01-01T00:00:00", "FILTER": "r"}
    assert instrument.interpret(values | {"CAM": "west "}).key == "west:r"
    assert instrument.interpret(values | {"CAM": "east", "FILTER": "Halpha"}).key == "east:Halpha"
    assert instrument.interpret(values | {"FILTER": "g"}).key == "west:g"
    assert "a filter of one camera" in instrument.interpret(values).problems[0]


@pytest.mark.parametrize("gpstime", ["2022-03-01 05:12:12.5", "2022-03-01 05:12:12.5 0.0001"])
def test_interpret__gpstime_of_older_data_is_utc(gpstime):
    frame = OPTICAM_MX().interpret(header(GPSTIME=gpstime, UT=None))
    assert abs(frame.mjd_utc - Time("2022-03-01T05:12:14").mjd) < 1e-5 * SECOND
    assert frame.warnings == ()


def test_interpret__gpstime_that_is_no_time():
    frame = OPTICAM_MX().interpret(header(GPSTIME="no fix"))
    assert frame.problems == ()
    assert abs(frame.mjd_utc - Time("2024-11-04T05:59:36.188").mjd) < 1e-5 * SECOND
    assert "GPSTIME" in frame.warnings[0]


def test_interpret__date_only_where_ut_has_none():
    frame = OPTICAM_MX().interpret(header(UT="05:59:34.688"))
    assert abs(frame.mjd_utc - Time("2024-11-03T05:59:36.188").mjd) < 1e-5 * SECOND
    assert "DATE-OBS + UT is used" in frame.warnings[0]


def test_interpret__impossible_date_is_not_mended():
    frame = OPTICAM_MX().interpret(header(UT="2024-13-04 05:59:34.688"))
    assert math.isnan(frame.mjd_utc)
    assert len(frame.problems) == 1
    assert "there is no such date: '2024-13-04 05:59:34.688'" in frame.problems[0]


@pytest.mark.parametrize("stamp", ["1969-12-31T23:59:59", "2101-01-01T00:00:00", "0000-00-00", "", "garbage", None])
def test_interpret__times_that_cannot_be(stamp):
    frame = generic().interpret({"FILTER": "V", "EXPTIME": 1.0, "DATE-OBS": stamp})
    assert math.isnan(frame.mjd_utc)
    assert "DATE-OBS" in frame.problems[0]


@pytest.mark.parametrize("value", [60310.25, "60310.25", 2460310.75, " 2460310.75 "])
def test_interpret__mjd_and_jd(value):
    frame = generic(time_keywords=("MJD",)).interpret({"FILTER": "V", "EXPTIME": 1.0, "MJD": value})
    assert frame.mjd_utc == pytest.approx(60310.25, abs=1e-9)
    assert "MJD" in generic(time_keywords=("MJD",)).interpret({"FILTER": "V", "EXPTIME": 1.0, "MJD": 0.0}).problems[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"EXPOSURE": None}, ("exposure_time", "EXPOSURE", "missing")),
        ({"EXPOSURE": -1.0}, ("exposure_time", "EXPOSURE", "at least 0", "-1.0")),
        ({"EXPOSURE": math.nan}, ("exposure_time", "EXPOSURE", "nan")),
        ({"EXPOSURE": math.inf}, ("exposure_time", "EXPOSURE", "inf")),
        ({"EXPOSURE": 1e300}, ("exposure_time", "at most a day")),
        ({"EXPOSURE": "three"}, ("exposure_time", "EXPOSURE", "'three'")),
        ({"EXPOSURE": True}, ("exposure_time", "EXPOSURE", "True")),
        ({"GAIN": None}, ("gain", "GAIN", "missing", "default_gain")),
        ({"GAIN": " "}, ("gain", "GAIN", "missing")),
        ({"GAIN": 0.0}, ("gain", "GAIN", "above 0", "0.0")),
        ({"GAIN": -2}, ("gain", "GAIN", "-2")),
        ({"GAIN": math.nan}, ("gain", "GAIN", "nan")),
        ({"DARKCURR": -0.1}, ("dark_current", "DARKCURR", "-0.1")),
        ({"BINNING": None}, ("binning", "BINNING", "missing")),
        ({"BINNING": "1x2"}, ("binning", "BINNING", "'1x2'")),
        ({"BINNING": "0x0"}, ("binning", "BINNING", "'0x0'")),
        ({"BINNING": "two"}, ("binning", "BINNING", "'two'")),
        ({"BINNING": 1.5}, ("binning", "BINNING", "1.5")),
        ({"BINNING": 1 << 70}, ("binning", "BINNING", str(1 << 70))),
        ({"GAIN": 1e300}, ("gain", "above 0 and at most 1e+09", "1e+300")),
        ({"GAIN": "x" * 9999}, ("gain", "'xxx", "xxx...")),
        ({"FILTER": "g\x1b[31m"}, ("filter", "FILTER", "printable", "'g\\x1b[31m'")),
        ({"UT": "2024-01-01 00:00:00" + " 0" * 9999}, ("time", "UT", "expected a date and time")),
        ({"UT": "2024-01-01 00:00:00 (CET)"}, ("time", "UT", "(CET)")),
        ({"FILTER": None}, ("filter", "FILTER", "missing")),
        ({"FILTER": "  "}, ("filter", "FILTER", "missing")),
        ({"UT": None}, ("time", "UT", "missing")),
    ],
)
def test_interpret__problems_name_keyword_and_value(changes, words):
    frame = OPTICAM_MX().interpret(header(**changes))
    assert len(frame.problems) == 1
    for word in words:
        assert word in frame.problems[0]


def test_interpret__empty_header_lists_everything():
    problems = OPTICAM_MX().interpret({}).problems
    assert [problem.split(":")[0] for problem in problems] == ["filter", "binning", "exposure_time", "gain", "time"]


@pytest.mark.parametrize(
    ("binning", "expected"),
    [("16x16", 16), ("2X2", 2), ("2 2", 2), ("4,4", 4), ("3", 3), (2, 2), (2.0, 2), (" 1 x 1 ", 1)],
)
def test_interpret__binning(binning, expected):
    assert OPTICAM_MX().interpret(header(BINNING=binning)).binning == expected


def test_interpret__defaults_where_the_header_is_silent():
    instrument = generic(
        default_gain=2.5, default_dark_current=0.1, default_binning=2, default_filter="V",
        default_read_noise=4.0, default_saturation=65535.0, pixel_scales={"1": 0.5},
    )  # fmt: skip
    frame = instrument.interpret({"EXPTIME": 30.0, "DATE-OBS": "2024-01-01T00:00:00"})
    assert frame.problems == ()
    assert (frame.gain, frame.dark_current, frame.binning, frame.filter) == (2.5, 0.1, 2, "V")
    assert (frame.read_noise, frame.saturation, frame.pixel_scale) == (4.0, 65535.0, 1.0)
    present = {"EXPTIME": 30.0, "DATE-OBS": "2024-01-01T00:00:00", "GAIN": 7.0, "RDNOISE": 5.0, "SATURATE": 100}
    frame = instrument.interpret(present)
    assert (frame.gain, frame.read_noise, frame.saturation) == (7.0, 5.0, 100.0)


def test_interpret__keyword_alternatives_in_order():
    instrument = generic(gain_keyword=("EGAIN", "GAIN"), time_keywords=("TIME", ("DAY", "UT")))
    values = {"FILTER": "V", "EXPTIME": 1.0, "DAY": "2024-01-01", "UT": "06:00:00", "GAIN": 1.0}
    assert instrument.interpret(values | {"EGAIN": 2.0}).gain == 2.0
    assert instrument.interpret(values | {"EGAIN": ""}).gain == 1.0
    assert instrument.interpret(values).mjd_utc == 60310.25
    ignoring = generic(gain_keyword=(), default_gain=3.0)
    assert ignoring.interpret(values | {"DATE-OBS": "2024-01-01", "GAIN": 0.0}).gain == 3.0


def test_interpret__missing_dark_current_is_a_warning():
    frame = OPTICAM_MX().interpret(header(DARKCURR=None))
    assert frame.problems == ()
    assert frame.dark_current == 0.0
    assert "DARKCURR" in frame.warnings[0]


@pytest.mark.parametrize(
    ("airmass", "saturation"), [(0.0, -1), ("", ""), (math.nan, math.nan), ("x", "none"), (None, None)]
)
def test_interpret__useless_optional_numbers_are_unknown(airmass, saturation):
    frame = OPTICAM_MX().interpret(header(AIRMASS=airmass, SATLEVEL=saturation))
    assert frame.problems == ()
    assert math.isnan(frame.airmass)
    assert math.isnan(frame.saturation)


@pytest.mark.parametrize(
    ("ra", "dec"),
    [
        ("0", "31"),
        ("0", "0"),
        ("0.0", "0.0"),
        ("", ""),
        ("00:00:00", "+00:00:00"),
        (None, "12:00:00"),
        ("5:00:00", None),
    ],
)
def test_interpret__placeholder_positions(ra, dec):
    frame = OPTICAM_MX().interpret(header(RA=ra, DEC=dec))
    assert frame.problems == ()
    assert math.isnan(frame.ra)
    assert math.isnan(frame.dec)
    assert "RA and DEC" in frame.warnings[0]


@pytest.mark.parametrize(
    ("ra", "dec"), [("25:00:00", "0:00:01"), ("1:00:00", "91:00:00"), ("N/A", "N/A"), ("1:75:00", "5")]
)
def test_interpret__positions_that_cannot_be(ra, dec):
    frame = OPTICAM_MX().interpret(header(RA=ra, DEC=dec))
    assert np.isnan([frame.ra, frame.dec]).all()
    assert len(frame.warnings) == 1


def test_interpret__numeric_zero_is_a_position():
    frame = OPTICAM_MX().interpret(header(RA=0.0, DEC=0.0))
    assert (frame.ra, frame.dec, frame.warnings) == (0.0, 0.0, ())


@pytest.mark.parametrize(
    ("unit", "ra", "expected"),
    [("hourangle", 2.0, 30.0), ("deg", 31.312099, 31.312099), ("deg", "31.5", 31.5), ("deg", "02:00:00", 30.0),
     ("hourangle", "02 05 15.0", 31.3125), ("hourangle", "2h05m15s", 31.3125), ("deg", -10.0, 350.0)],
)  # fmt: skip
def test_interpret__units_of_right_ascension(unit, ra, expected):
    values = {"FILTER": "V", "EXPTIME": 1.0, "DATE-OBS": "2024-01-01", "RA": ra, "DEC": "-0:30:00"}
    frame = generic(ra_unit=unit).interpret(values)
    assert frame.ra == pytest.approx(expected, abs=1e-9)
    assert frame.dec == pytest.approx(-0.5, abs=1e-12)


characters = st.sampled_from("0123456789:-+.,/xXTZegr' \u00bd\u0661\u00e9")
header_values = st.one_of(st.text(characters, max_size=30), st.floats(), st.integers(), st.booleans(), st.none())


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*HEADER, "GPSTIME"]), header_values))
def test_interpret__never_raises(changes):
    frame = OPTICAM_MX().interpret(HEADER | changes)
    assert frame.problems or (
        math.isfinite(frame.mjd_utc) and frame.gain > 0 and frame.exposure_time >= 0 and frame.key and frame.binning
    )


def test_interpret__real_opticam_frames(real_data):
    for name, key in (("c1", "1:g"), ("c2", "2:r"), ("c3", "3:z")):
        frame = OPTICAM_MX().interpret(fits.getheader(real_data / "opticam" / f"get_last_{name}.fit"))
        assert frame.problems == ()
        assert (frame.key, frame.binning, frame.saturation) == (key, 2, 32302.0)
        assert abs(frame.mjd_utc - Time("2023-11-22T03:02:51.5").mjd) < 1e-5 * SECOND
        assert math.isnan(frame.ra)  # the header says '0'
        assert len(frame.warnings) == 1


def test_interpret__microobservatory(real_data):
    instrument = Instrument.from_json(MICROOBSERVATORY)
    frame = instrument.interpret(fits.getheader(real_data / "hat-p-32" / "HATP-32171220013343.FITS"))
    assert frame.problems == ()
    assert frame.warnings == ()
    assert (frame.key, frame.binning, frame.saturation, frame.pixel_scale) == ("1:Clear", 1, 4095.0, 5.21)
    assert (frame.ra, frame.dec, frame.exposure_time) == (31.312099, 46.769087, 60.0)
    assert abs(frame.mjd_utc - Time("2017-12-20T01:34:13.317").mjd) < 1e-5 * SECOND


def test_instrument__microobservatory_definition():
    instrument = Instrument.from_json(MICROOBSERVATORY)
    assert instrument.source_pixels == 9
    assert instrument.longitude == pytest.approx(-110.88)  # the header's 110.88 is positive to the west


def test_instrument__opticam_constants():
    instrument = OPTICAM_MX()
    assert (instrument.longitude, instrument.latitude, instrument.height) == (-115.463611, 31.044167, 2790.0)
    assert (instrument.diameter, instrument.source_pixels, instrument.extension) == (2.1, 128, None)
    assert instrument.scintillation_coefficient == 1.67  # San Pedro Martir, Osborn et al. (2015)
    assert instrument.pixel_scales == {"1": 0.1397, "2": 0.1406, "3": 0.1661}


def test_instrument__is_a_value():
    assert OPTICAM_MX() == OPTICAM_MX()
    assert hash(OPTICAM_MX()) == hash(OPTICAM_MX())
    assert OPTICAM_MX(default_gain=2.0) != OPTICAM_MX()
    assert pickle.loads(pickle.dumps(OPTICAM_MX())) == OPTICAM_MX()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"time_marks": "begin"}, "time_marks must be start, middle or end"),
        ({"time_scale": "ut1"}, "time_scale must be one of utc"),
        ({"ra_unit": "rad"}, "ra_unit"),
        ({"time_keywords": ()}, "time_keywords"),
        ({"time_keywords": "UT"}, "time_keywords"),
        ({"time_keywords": (("A", "B", "C"),)}, "time_keywords"),
        ({"gain_keyword": 5}, "keyword"),
        ({"cameras": {}}, "cameras"),
        ({"cameras": {"1:a": ()}}, "without a colon"),
        ({"cameras": {"..": ()}}, "a dot before"),
        ({"cameras": {"a\nb": ()}}, "of one line"),
        ({"cameras": {" ": ()}}, "blanks around it"),
        ({"pixel_scales": {"2": 0.1}}, "pixel_scales"),
        ({"longitude": 10.0}, "longitude and latitude go together"),
        ({"longitude": 400.0, "latitude": 0.0}, "longitude must be within"),
        ({"longitude": 0.0, "latitude": 100.0}, "latitude must be within"),
        ({"default_gain": 0.0}, "above 0"),
        ({"source_pixels": 0}, "above 0"),
        ({"scintillation_coefficient": 0.0}, "scintillation_coefficient must be above 0"),
        ({"extension": -1}, "extension must be the number of an HDU"),
        ({"extension": ""}, "extension must be"),
        ({"extension": True}, "extension must be"),
        ({"extension": 1.0}, "extension must be"),
        ({"name": ""}, "name must be a text in one line, found ''"),
        ({"name": None}, "name must be a text in one line"),
        ({"time_scale": 3}, "time_scale must be a text in one line or null, found 3"),
        ({"default_read_noise": "x"}, "default_read_noise must be a number or null, found 'x'"),
        ({"default_read_noise": float("nan")}, "default_read_noise must be a number or null, found nan"),
        ({"default_read_noise": -1.0}, "default_dark_current and default_read_noise must be at least 0"),
        ({"default_gain": True}, "default_gain must be a number or null, found True"),
        ({"default_binning": 1.5}, "default_binning must be a whole number or null"),
        ({"default_binning": 10**12}, "source_pixels and default_binning must be at most"),
        ({"source_pixels": None}, "source_pixels must be a whole number, found None"),
        ({"use_errors": "no"}, "use_errors must be true or false"),
        ({"cameras": ["g"]}, "cameras must be an object of lists of names of filters, by camera"),
        ({"cameras": {"1": [3]}}, "cameras must be an object of lists"),
        ({"pixel_scales": {"1": "0.1"}}, "pixel_scales must be an object of numbers"),
        ({"pixel_scales": {"1": 0.0}}, "pixel_scales must be above 0"),
    ],
)
def test_instrument__refuses_impossible_entries(entries, words):
    with pytest.raises(ValueError, match=words):
        generic(**entries)


def test_to_json__round_trip(tmp_path):
    for number, instrument in enumerate((OPTICAM_MX(), OPTICAM_MX(extension="SCI", default_gain=1.5))):
        path = tmp_path / f"{number}.json"
        instrument.to_json(path)
        assert OPTICAM_MX.from_json(path) == instrument
        assert OPTICAM_MX.from_json(json.loads(path.read_text())) == instrument
        plain = Instrument.from_json(path)
        assert repr(plain.interpret(HEADER)) == repr(instrument.interpret(HEADER))  # NaN is not equal to itself
        plain.to_json(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_text() == path.read_text()


def test_from_json__names_what_is_unknown_and_missing():
    with pytest.raises(ValueError, match="unknown names: colour, gane; missing names: cameras, time_marks") as error:
        Instrument.from_json({"name": "x", "time_keywords": ["UT"], "gane": 1, "colour": 2})
    assert "default_gain" in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{not json", "is not a JSON file"),
        ("[1, 2]", "expected a JSON object"),
        ("", "is not a JSON file"),
        ("[" * 100_000, "is not a JSON file: brackets stand in brackets too many times"),
    ],
)
def test_from_json__file_that_is_no_definition(tmp_path, text, words):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        Instrument.from_json(path)


@pytest.mark.parametrize(
    "entries", [{"cameras": 3}, {"cameras": {"1": 5}}, {"default_gain": "much"}, {"pixel_scales": [1]}]
)
def test_from_json__wrong_type(entries):
    values = {"name": "x", "time_keywords": ["UT"], "time_marks": "start", "cameras": {"1": []}}
    with pytest.raises(ValueError, match=f"{next(iter(entries))} must be"):
        Instrument.from_json(values | entries)


def test_generate_instrument_json_template__describes_every_entry(tmp_path):
    path = generate_instrument_json_template(tmp_path / "new" / "place")
    values = json.loads(path.read_text())
    names = [name for name in values if not name.startswith("_")]
    assert all(values[f"_{name}_description"] for name in names)
    assert {"name", "gain_keyword", "time_keywords", "longitude", "pixel_scales", "source_pixels"} <= set(names)
    assert Instrument.from_json(path).name == "my instrument"


def test_generate_instrument_json_template__keeps_a_file_that_is_there(tmp_path):
    path = generate_instrument_json_template(tmp_path)
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        generate_instrument_json_template(tmp_path)
    assert path.read_text() == "mine"
