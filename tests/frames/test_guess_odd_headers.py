"""Headers that a definition is proposed for although they are not as most of their writer are."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from opticam_dask import cli, guess_instrument

STAMP = "2023-11-14T03:12:11.250"
NINA = {"SWCREATE": "N.I.N.A. 3.0.0.1056 (x64)", "IMAGETYP": "LIGHT", "EXPTIME": 8.0, "EGAIN": 0.41, "XBINNING": 1}
INDI = {"EXPTIME": 8.0, "FRAME": "Light", "XBINNING": 1, "GAIN": 4.0, "DATE-OBS": STAMP}
SHOC = {"INSTRUME": "SHOC 2", "EXPOSURE": 8.0, "GPSSTART": STAMP, "DATE-OBS": STAMP[:-4], "FRAME": STAMP, "HBIN": 2}
HIPERCAM = {"HIPERCAM": "MCCD", "INSTRUME": "HIPERCAM", "CCD": "1", "XBIN": 1, "MJDUTC": 60262.1, "EXPTIME": 1.5}


def write(directory, *headers):
    for number, cards in enumerate(headers):
        fits.writeto(directory / f"{number}.fits", np.zeros((8, 9), "u2"), fits.Header(cards))
    return directory


@pytest.mark.parametrize(
    ("cards", "writer", "entries"),
    [
        (NINA | {"DATE-LOC": "2023-11-14T04:12:11.250", "DATE-UTC": STAMP}, "N.I.N.A.", {"gain_keyword": "EGAIN"}),
        (INDI, "INDI", {"time_keywords": ("DATE-OBS",), "time_marks": "start"}),
        (SHOC, "SAAO", {"time_keywords": ("GPSSTART",), "exposure_time_keyword": "EXPOSURE"}),
    ],
)
def test_guess__odd_headers_of_known_writers(tmp_path, cards, writer, entries):
    guess = guess_instrument(write(tmp_path, cards))
    assert guess.writer == writer
    found = {name: getattr(guess.instrument, name) for name in entries}
    found |= {"time_keywords": found["time_keywords"][:1]} if "time_keywords" in found else {}
    assert found == entries
    assert not any("time of the frames" in one for one in guess.missing)
    frame = guess.instrument.interpret(fits.Header(cards))
    assert abs((frame.mjd_utc - 60262.0) * 86400.0 - (3 * 3600 + 12 * 60 + 11.25 + 4.0)) < 1e-4
    assert "kind" not in [one.quantity for one in guess.findings if one.source.endswith(f"{STAMP!r}")]


def test_guess__a_gain_that_indi_writes_is_a_setting(tmp_path):
    guess = guess_instrument(write(tmp_path, INDI))
    assert any("default_gain" in one and "as INDI writes it" in one for one in guess.missing)


def test_guess__a_known_definition_is_proposed_although_one_frame_is_no_good(tmp_path):
    good = HIPERCAM | {"DSTATUS": True}
    assert guess_instrument(write(tmp_path, good, good, good | {"DSTATUS": False})).known == "hipercam"


def test_check__names_a_definition_only_where_it_reads_the_frames(tmp_path, capsys):
    cli.main(["check", str(write(tmp_path, {name: value for name, value in NINA.items() if name != "EXPTIME"}))])
    told = capsys.readouterr().out
    assert "written by N.I.N.A." in told
    assert "--instrument nina" not in told


def test_exposure_time__in_milliseconds_by_its_comment(tmp_path):
    header = fits.Header({"EXPTIME": 160000.0, "GAIN": 3.2, "DATE-OBS": STAMP})
    header.comments["EXPTIME"] = "exposure time in ms"
    assert guess_instrument(write(tmp_path, header)).instrument.interpret(header).exposure_time == 160.0
