"""Saturation and gain of the amplifiers of a detector: each has its own, in ADU or where its pixels are electrons."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from small_nights import INSTRUMENT

from opticam_dask import Instrument
from opticam_dask.frames.scanning import reader_of, scan

HEIGHT, WIDTH = 40, 30


def write_mosaic(path, halves, cards=({}, {}), **primary):
    """A detector of two amplifiers side by side."""
    header = fits.Header({"DATE-OBS": "2024-01-01T20:00:00", "EXPTIME": 5.0, **primary})
    hdus = [fits.PrimaryHDU(header=header)]
    for number, (pixels, own) in enumerate(zip(halves, cards, strict=True)):
        section = f"[{1 + number * WIDTH}:{(number + 1) * WIDTH},1:{HEIGHT}]"
        hdus.append(fits.ImageHDU(pixels, fits.Header({"DETSEC": section, **own})))
    fits.HDUList(hdus).writeto(path)


def frame_of(path, **definition):
    camera = Instrument.from_json(INSTRUMENT | {"default_saturation": None} | definition)
    [row] = scan([path], camera).table.itertuples()
    return reader_of(camera).read(row.file), row


@pytest.fixture
def halves():
    rng = np.random.default_rng(8)
    return rng.integers(900, 1100, (2, HEIGHT, WIDTH)).astype(np.uint16)


def test_saturation__of_each_amplifier_by_its_own_header(halves, tmp_path):
    halves[:, 5, 7] = 45000  # beyond the end of the second amplifier, not of the first
    write_mosaic(tmp_path / "f.fits", halves, ({"SATURATE": 60000.0}, {"SATURATE": 40000.0}))
    pixels, row = frame_of(tmp_path / "f.fits")
    assert row.saturation == 60000.0
    assert np.argwhere(pixels >= row.saturation).tolist() == [[5, WIDTH + 7]]
    expected = np.concatenate(halves, axis=1)
    expected[5, WIDTH + 7] = 60000
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(("unit", "level"), [("electron", 100000.0), ("adu", 50000.0)])
def test_saturation__of_the_definition_is_adu_also_where_pixels_are_electrons(halves, tmp_path, unit, level):
    halves = halves.astype(np.float32)
    halves[0, 3, 4], halves[1, 5, 7] = 0.99 * level, 1.01 * level
    write_mosaic(tmp_path / "f.fits", halves, ({"EGAIN": 2.0}, {"EGAIN": 2.0}), BUNIT=unit)
    pixels, row = frame_of(tmp_path / "f.fits", gain_keyword="EGAIN", default_saturation=50000.0)
    assert row.saturation == level
    assert np.argwhere(pixels >= level).tolist() == [[5, WIDTH + 7]]


@pytest.mark.parametrize(("unit", "factor"), [("electron", 1.0), ("adu", 1.5)])
def test_gain__of_an_amplifier__does_not_scale_pixels_that_are_electrons(halves, tmp_path, unit, factor):
    write_mosaic(tmp_path / "f.fits", halves, ({"EGAIN": 2.0}, {"EGAIN": 3.0}), BUNIT=unit)
    pixels, row = frame_of(tmp_path / "f.fits", gain_keyword="EGAIN")
    assert row.gain == (1.0 if unit == "electron" else 2.0)
    np.testing.assert_array_equal(pixels, np.concatenate([halves[0], halves[1] * factor], axis=1))


@pytest.mark.parametrize(
    ("cards", "stored", "level"),
    [
        (({"SATURATE": 40000.0}, {"SATURATE": 60000.0}), [(0, 45000), (1, 61000)], 60000.0),
        (({}, {"SATURATE": 40000.0}), [(1, 45000)], 40000.0),
        (({"SATURATE": 40000.0}, {"SATURATE": 90000.0}), [(0, 45000), (1, 65535)], 65535.0),
        (({"SATURATE": 40000.0}, {"SATURATE": 50000.5}), [(0, 45000), (1, 50001)], 50001.0),
        (({"GAIN": 2.0, "SATURATE": 60000.0}, {"GAIN": 3.0, "SATURATE": 60000.0}), [(0, 61000), (1, 60000)], 90000.0),
    ],
    ids=["later-is-higher", "later-alone", "beyond-the-range", "fraction", "gain"],
)
def test_saturation__is_the_highest_of_all_amplifiers(halves, tmp_path, cards, stored, level):
    halves[1, 9, 9] = 39999 if level == 40000.0 else 50000  # below its end in every case
    expected = []
    for number, value in stored:
        halves[number, 5, 7] = value
        expected.append([5, 7 + number * WIDTH])
    write_mosaic(tmp_path / "f.fits", halves, cards)
    pixels, row = frame_of(tmp_path / "f.fits")
    assert row.saturation == level
    assert np.argwhere(pixels >= row.saturation).tolist() == expected
