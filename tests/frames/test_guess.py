"""A definition proposed from headers: of real cameras, and of the writers whose documentation says what they write."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time

from opticam_dask import OPTICAM_MX, Instrument, cli, guess_instrument, known_instruments, load_instrument
from opticam_dask.frames.definitions import library
from opticam_dask.frames.fits_files import read_headers
from opticam_dask.frames.guessing.guess import guess_from_headers
from opticam_dask.frames.scanning import find_files, scan
from opticam_dask.pipeline import plan

HEADERS = Path(__file__).parents[1] / "data" / "written_headers.txt"
#: Writer: its name, entries of the definition, and mid-exposure (seconds of the day), gain, binning, RA and longitude.
WRITTEN = {
    "nina": ("N.I.N.A.", {"time_keywords": ("DATE-OBS",), "gain_keyword": "EGAIN"}, (72915.123, 0.78, 2, 202.47, 8.3)),
    "sharpcap": ("SharpCap", {"gain_keyword": "EGAIN"}, (72900.2484567, 1.1, 1, 10.68, math.nan)),
    "maxim": ("MaxIm DL", {"gain_keyword": "EGAIN", "diameter": 0.35}, (72930.0, 1.4, 1, 83.82083, -110.87889)),
    "acp": ("ACP", {"gain_keyword": "EGAIN", "ra_keyword": "RA"}, (72930.0, 1.4, 1, 83.82125, -110.87889)),
    "lco": (
        "LCO",
        {"saturation_keyword": "SATURATE", "binning_keyword": "CCDSUM"},
        (44115.123, 2.3, 1, 202.47, 149.0708),
    ),
    "eso": ("ESO", {"gain_keyword": "ESO DET OUT1 CONAD"}, (8110.1234, 1.43, 2, 202.47, -70.404)),
    "noirlab": ("NOIRLab", {"gain_keyword": "GAIN", "filter_keyword": "FILTERS"}, (8145.0, 2.7, 2, 202.47, math.nan)),
    "saao": ("SAAO", {"time_keywords": (("DATE-OBS", "UT"),)}, (3528.02, 1.9, 1, 331.03333, math.nan)),
}


def cards_of(name):
    """Cards of one writer: value and comment by keyword."""
    (block,) = (text for text in HEADERS.read_text().split("\n\n") if text.startswith(f"[{name}]"))
    cards = {}
    for line in block.splitlines()[1:]:
        keyword, _, rest = line.partition(" = ")
        value, _, comment = rest.partition(" / ")
        cards[keyword] = (json.loads(value), comment)
    return cards


def write(path, cards, *, pixels=None, **changes):
    header = fits.Header()
    for keyword, value in {**cards, **changes}.items():
        header[keyword] = value
    fits.writeto(path, np.zeros((8, 9), "u2") if pixels is None else pixels, header)
    return path


@pytest.mark.parametrize("name", WRITTEN)
def test_guess__of_headers_as_their_writers_document_them(tmp_path, name):
    writer, entries, expected = WRITTEN[name]
    headers = _headers(write(tmp_path / "a.fits", cards_of(name)))
    guess = guess_from_headers(headers)
    assert guess.writer == writer
    instrument = guess.instrument
    assert {entry: getattr(instrument, entry) for entry in entries} == entries
    frame = instrument.interpret(headers[0])
    assert frame.problems == ()
    found = ((frame.mjd_utc % 1.0) * 86400.0, frame.gain, frame.binning, frame.ra, frame.longitude)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 if name != "sharpcap" else 1e-3)


def _headers(path):
    return [frame.header.values for frame in read_headers(str(path))[0]]


def test_guess__says_what_it_could_not_know(tmp_path):
    cards = {
        key: value
        for key, value in cards_of("nina").items()
        if key not in ("EGAIN", "SITELAT", "RA", "OBJCTRA", "FOCALLEN")
    }
    guess = guess_from_headers(_headers(write(tmp_path / "a.fits", cards)))
    missing = "\n".join(guess.missing)
    for words in (
        "(default_gain): keyword GAIN holds a setting",
        "site of the telescope",
        "position",
        "pixel scale",
        "read noise",
    ):
        assert words in missing, words
    assert "default_gain" not in guess.definition


@pytest.mark.parametrize(
    ("keyword", "value", "scale", "reference"),
    [
        ("JD", 2460371.5 + 1 / 3, None, None),
        ("MJD", 60371.0 + 1 / 3, None, None),
        ("HJD", 2460371.5 + 1 / 3, None, "heliocentre"),
        ("BJD", 2460371.5 + 1 / 3, "tdb", "barycentre"),
        ("BJD_TDB", 2460371.5 + 1 / 3, None, "barycentre"),
        ("BJD_UTC", 2460371.5 + 1 / 3, None, "barycentre"),
    ],
)
def test_guess__of_days(tmp_path, keyword, value, scale, reference):
    paths = [write(tmp_path / f"{n}.fits", {"EXPTIME": 1.0, keyword: value + n / 8640.0}) for n in range(3)]
    guess = guess_from_headers([header for path in paths for header in _headers(path)])
    assert guess.definition["time_keywords"] == (keyword,)
    assert (guess.definition.get("time_scale"), guess.definition.get("time_reference")) == (scale, reference)


def test_guess__of_extensions_that_are_cameras(tmp_path):
    for number in range(3):
        shared = {"DATE-OBS": f"2024-01-01T20:00:0{number}", "EXPTIME": 0.5, "GAIN": 1.5, "BINNING": "1x1"}
        images = [fits.ImageHDU(np.ones((8, 9), "u2"), name=name) for name in ("BLUE", "RED")]
        fits.HDUList([fits.PrimaryHDU(None, fits.Header(shared)), *images]).writeto(tmp_path / f"{number}.fits")
    guess = guess_instrument(tmp_path)
    assert guess.definition["cameras"] == {"BLUE": ["BLUE"], "RED": ["RED"]}
    found = scan(find_files(tmp_path), guess.instrument)
    assert found.table.groupby("key").size().to_dict() == {"BLUE:BLUE": 3, "RED:RED": 3}


# ---------------------------------------------------------------- real frames


def test_guess__of_real_frames_is_what_hand_written_definitions_say(real_data):
    night = find_files(real_data / "hat-p-32")
    by_hand = load_instrument("microobservatory")
    raw = guess_from_headers([header for path in night[:20] for header in _headers(path)]).instrument
    same = ("time_keywords", "time_marks", "filter_keyword", "exposure_time_keyword", "ra_keyword", "dec_keyword")
    same += ("ra_unit", "cameras", "pixel_scales", "longitude", "latitude", "source_pixels", "default_binning")
    assert {name: getattr(raw, name) for name in same} == {name: getattr(by_hand, name) for name in same}
    guess = guess_instrument(real_data / "hat-p-32")
    assert (guess.known, guess.instrument) == ("microobservatory", by_hand)
    guess = guess_instrument(real_data / "opticam")
    assert (guess.known, guess.instrument) == ("opticam", OPTICAM_MX())
    for name, known in (
        ("lco_mef_raw_test_frame.fits", "lco"),
        ("saao_a8280271.fits", "saao-ste"),
        ("panoptes_unsolved.fits", "panoptes"),
    ):
        assert guess_instrument(real_data / "oddities" / name).known == known
    nothing = guess_instrument(real_data / "oddities" / "panoptes_noheader.fits")
    assert sum(words in "\n".join(nothing.missing) for words in ("time", "exposure", "filter", "gain")) == 4


# ---------------------------------------------------------------- definitions that are known


def test_known_instruments__are_valid_and_a_dozen():
    assert len(known_instruments()) >= 12
    assert load_instrument("OPTICAM") == OPTICAM_MX()


def test_known_instruments__of_ones_own_go_first(tmp_path, monkeypatch):
    own = {"name": "Mine", "time_keywords": ["DATE-OBS"], "time_marks": "end", "cameras": {"1": ["V"]}}
    own["_recognise"] = {"INSTRUME": "^MINE"}
    for name in ("mine", "lco"):
        (tmp_path / f"{name}.json").write_text(json.dumps(own))
    monkeypatch.setenv(library.FOLDERS_VARIABLE, str(tmp_path))
    assert load_instrument("mine").time_marks == load_instrument("lco").time_marks == "end"
    assert library.recognised({"INSTRUME": "MINE 2"}) in ("mine", "lco")
    with pytest.raises(ValueError, match=r"no file nobody, and no definition of this name: .*hipercam"):
        load_instrument("nobody")


# ---------------------------------------------------------------- the command


def test_command__guess_fill_in_check(tmp_path, capsys):
    for number in range(3):
        write(tmp_path / "data" / f"{number}.fits", cards_of("saao")) if number else (tmp_path / "data").mkdir()
    assert cli.main(["check", str(tmp_path / "data")]) == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert "2 file(s) are no frames of OPTICAM_MX (SAAO 1.0m STE4 CCD, written by SAAO)" in told[1]
    assert "--instrument saao-ste reads them" in told[1]
    file = tmp_path / "camera.json"
    assert cli.main(["instrument", "guess", str(tmp_path / "data"), "--to", str(file)]) == 0
    assert "the definition saao-ste reads them" in capsys.readouterr().out.casefold()
    assert cli.main(["instrument", "check", str(file), str(tmp_path / "data")]) == 0
    assert "2 usable frame(s)" in capsys.readouterr().out
    assert cli.main(["instrument", "guess", str(tmp_path / "data"), "--to", str(file)]) == 1  # it is kept
    assert cli.main(["check", str(tmp_path / "data"), "--instrument", "saao-ste"]) == 0
    assert cli.main(["instrument", "template", str(tmp_path)]) == 0
    assert cli.main(["instrument", "list"]) == 0
    assert "hipercam" in capsys.readouterr().out


# ---------------------------------------------------------------- times that were corrected already


@pytest.mark.parametrize("keyword", ["BJD_TDB", "HJD"])
def test_times__of_the_barycentre_and_the_sun_are_never_converted_twice(tmp_path, keyword):
    site = EarthLocation.from_geodetic(20.8107, -32.3795, 1798.0)
    target = SkyCoord(331.0, -1.0, unit="deg")
    utc = Time(60370.0 + np.arange(3) / 100.0, format="mjd", scale="utc", location=site)
    kind = "barycentric" if keyword == "BJD_TDB" else "heliocentric"
    travel = utc.light_travel_time(target, kind=kind, ephemeris="builtin")
    far = (utc.tdb + travel).jd if keyword == "BJD_TDB" else (utc + travel).jd
    for number, day in enumerate(far):
        write(tmp_path / f"{number}.fits", {keyword: day, "EXPTIME": 0.0, "RA": 331.0, "DEC": -1.0})
    instrument = Instrument(
        name="far", time_keywords=(keyword,), time_marks="middle",
        time_reference="barycentre" if keyword == "BJD_TDB" else "heliocentre",
        cameras={"1": ("V",)}, default_filter="V", default_gain=1.0, default_binning=1, default_dark_current=0.0,
        longitude=20.8107, latitude=-32.3795, height=1798.0,
    )  # fmt: skip
    found = scan(find_files(tmp_path), instrument)
    (part,) = plan.plan_parts(found.table, instrument)
    expected = (utc.tdb + utc.light_travel_time(target, kind="barycentric", ephemeris="builtin")).mjd
    np.testing.assert_allclose(part.manifest["mjd_utc"], utc.mjd, rtol=0, atol=(100 * u.us).to_value("day"))
    np.testing.assert_allclose(part.manifest["bmjd_tdb"], expected, rtol=0, atol=(100 * u.us).to_value("day"))
