"""Headers of writers that are not known: what is found, and where what is not found may be."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from small_nights import INSTRUMENT

from opticam_dask import Instrument, guess_instrument
from opticam_dask.frames.scanning import find_files, scan

#: As the Isaac Newton Group writes them ("FITS headers" of its pages), the image in an extension.
ING = {
    "IMAGETYP": "object", "INSTRUME": "ACAM", "TELESCOP": "WHT", "CCDXBIN": 1, "CCDYBIN": 1, "EXPTIME": 20.0,
    "ACAMFILT": ("CLEAR+SlnG", "Filters in wh1/wh2"), "CAGAFILT": ("1", "Cass. A&G box autoguider filter"),
    "LATITUDE": 28.760556, "LONGITUD": (-17.881639, "Telescope longitude (degrees), +ve east"), "HEIGHT": 2332,
    "RA": "20:07:30.1", "DEC": "+22:43:15", "EQUINOX": "J2000.0", "GAIN": (1.86, "Nominal Photo-electrons per ADU."),
    "READNOIS": 6.5, "SATURATE": 65535.0, "UTSTART": ("20:00:10.250", "UT at start of integration"),
    "DATE-OBS": ("2024-01-01", "Date at start of integration"),
}  # fmt: skip
#: As Pi of the Sky writes them ("Data format" of its pages); JD is rounded to a second.
PI = {
    "RA": (5.72024117, "Right Ascension [ hours ]"), "DEC": (-17.81845528, "Declination [ degrees ]"),
    "TELLONG": (-70.7, "Longitude [ degrees ]"), "TELLAT": (-29.0, "Latitude [ degrees ]"), "FILTER": "IR_cut",
    "EXPTIME": (10.0, "Exposure time [sec], negative means dark frame"), "DATE-OBS": "2024-01-01",
    "UT-START": "20:00:10.250", "JD": 2460311.33345, "ELECGAIN": (2.5, "e/ADU"), "GAIN": (3, "gain setting"),
}  # fmt: skip
#: As ASIAIR writes them, of a camera with a Bayer matrix.
ASIAIR = {
    "CREATOR": "ZWO ASIAIR Plus", "IMAGETYP": "Light", "EXPTIME": 20.0, "XBINNING": 1, "YBINNING": 1, "RA": 85.8,
    "DEC": -17.8, "DATE-OBS": "2024-01-01T20:00:10.250000", "GAIN": 100, "EGAIN": 0.25, "BAYERPAT": "RGGB",
}  # fmt: skip


def written(directory, cards):
    for number in range(3):
        header = fits.Header()
        for keyword, value in cards.items():
            header[keyword] = value
        for keyword in ("UT-START", "UTSTART", "DATE-OBS"):
            if ":10.25" in str(header.get(keyword)):
                header[keyword] = header[keyword].replace(":10", f":{10 + 30 * number // 2}")
        if "JD" in header:
            header["JD"] = round(header["JD"] + 15 * number / 86400.0, 5)
        fits.writeto(directory / f"{number}.fits", np.zeros((8, 9), "u2"), header)
    return guess_instrument(directory)


def missing(guess, words):
    return next(sentence for sentence in guess.missing if words in sentence)


@pytest.mark.parametrize("cards", [ING, PI, ASIAIR], ids=["ING", "Pi of the Sky", "ASIAIR"])
def test_guess__takes_the_finer_time(tmp_path, cards):
    guess = written(tmp_path, cards)
    camera = Instrument.from_json(guess.definition | {"default_gain": 1.0, "gain_keyword": []})
    times = scan(find_files(tmp_path), camera).table["mjd_utc"].to_numpy()
    middle = 60310.0 + (20 * 3600 + 10.25 + 15 * np.arange(3) + cards_seconds(cards) / 2) / 86400.0
    np.testing.assert_allclose(times, middle, rtol=0, atol=1e-9)


def cards_seconds(cards):
    value = cards["EXPTIME"]
    return value[0] if isinstance(value, tuple) else value


def test_guess__names_keywords_that_may_hold_what_was_not_found(tmp_path):
    for name, cards in ("ing", ING), ("pi", PI):
        (tmp_path / name).mkdir()
        guess = written(tmp_path / name, cards)
        if name == "ing":
            assert missing(guess, "the filter").endswith("it may be in ACAMFILT (filter_keyword)")
            assert not [sentence for sentence in guess.missing if "site" in sentence or "gain" in sentence]
        else:
            assert missing(guess, "the gain").endswith("it may be in ELECGAIN (gain_keyword)")
            assert missing(guess, "the site").endswith("it may be in TELLONG, TELLAT (longitude, latitude, height)")


def test_bayer_matrix__is_told(tmp_path):
    assert written(tmp_path, ASIAIR).writer == "ASIAIR"
    found = scan(find_files(tmp_path), Instrument.from_json(INSTRUMENT))
    assert len(found.table) == 3
    (told,) = [text for text in found.warnings if "BAYERPAT" in text]
    assert "BAYERPAT is RGGB: neighbouring pixels see different colours" in told
    assert "(3 of 3 files" in told
