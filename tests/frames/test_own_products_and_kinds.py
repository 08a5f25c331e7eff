"""Which files are frames of what: own products are none, flats are no light frames, overscan is no image."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from small_nights import FIELD, INSTRUMENT, add_stars, read_out, write_frame

from opticam_dask import Instrument, cli
from opticam_dask.frames.arrivals import Arrivals, incomplete_reason
from opticam_dask.frames.fits_files import Amplifiers
from opticam_dask.frames.headers.contradictions import contradictions
from opticam_dask.frames.scanning import FitsReader, find_files, read_header, scan
from opticam_dask.passes.calibration import CalibrationError, find_calibration_frames

CAMERA = Instrument.from_json(INSTRUMENT)


def small(path, seconds=0.0, shape=(12, 16), **cards):
    write_frame(path, np.full(shape, 100, "u2"), seconds, **cards)
    return path


# ---------------------------------------------------------------- own products


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Frames with an output directory inside, and its exported tables."""
    data = tmp_path_factory.mktemp("own") / "data"
    rng = np.random.default_rng(20)
    for frame in range(6):
        image = add_stars(np.full((200, 200), 100.0), FIELD)
        write_frame(data / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame)
    definition = data.parent / "camera.json"
    CAMERA.to_json(definition)
    arguments = [str(data), "--out", str(data / "out"), "--instrument", str(definition), "--cluster", "none"]
    assert cli.main(["reduce", *arguments]) == 0
    assert cli.main(["export", str(data / "out"), "--format", "fits"]) == 0
    return data


def frames_in(directory):
    return [path.split("/")[-1] for path in find_files(directory)]


def test_own_products__inside_the_data_are_not_looked_at(reduced):
    assert list((reduced / "out" / "export").rglob("*.fits"))
    assert frames_in(reduced) == [f"f{frame:03d}.fits" for frame in range(6)]
    found = scan(find_files(reduced), CAMERA)
    assert (len(found.table), found.set_aside, found.warnings) == (6, [], [])


def test_own_products__data_inside_the_output_directory_are_found(reduced, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(reduced / "out", out)
    for place in (out / "night", out):  # below it and beside the store
        small(place / "frame.fits")
    assert frames_in(out) == ["frame.fits", "frame.fits"]
    assert frames_in(out / "night") == ["frame.fits"]


def test_own_products__are_known_under_another_name_and_elsewhere(reduced, tmp_path):
    for number, table in enumerate(sorted((reduced / "out" / "export").rglob("*.fits"))[:3]):
        shutil.copy(table, tmp_path / f"mine{number}.fits")
    small(tmp_path / "frame.fits")
    found = scan(find_files(tmp_path), CAMERA)
    assert (len(found.table), found.set_aside) == (1, [])


def test_own_products__are_not_waited_for(reduced, tmp_path):
    table = next((reduced / "out" / "export").rglob("*.fits"))
    shutil.copy(table, tmp_path / "mine.fits")
    assert incomplete_reason(str(tmp_path / "mine.fits")) is None
    arrivals = Arrivals([reduced], clock=lambda: 0.0)
    arrivals.look()
    assert len(arrivals.look()) == 6
    assert arrivals.waiting == {}


# ---------------------------------------------------------------- kinds of frames


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("IMAGETYP", "Flat Field", "flat"), ("IMAGETYP", "FLAT", "flat"), ("OBSTYPE", "SKYFLAT", "flat"),
        ("IMAGETYP", "Bias Frame", "bias"), ("IMAGETYP", "zero", "bias"), ("FRAME", "Dark", "dark"),
        ("IMAGETYP", "DARKFLAT", "dark"), ("IMGTYPE", "focus", "focus"), ("OBSTYPE", "comp", "lamp"),
        ("IMAGETYP", "LIGHT", "light"), ("IMAGETYP", "Light Frame", "light"), ("OBSTYPE", "EXPOSE", "light"),
        ("IMGTYPE", "object", "light"), ("IMAGETYP", "", "light"), ("IMAGETYP", "whatever", "light"),
        ("FRAME", 17, "light"),
    ],
)  # fmt: skip
def test_kind__by_the_words_of_the_header(keyword, value, kind):
    header = fits.Header({"DATE-OBS": "2024-01-01T20:00:00", "EXPTIME": 1.0, keyword: value})
    assert CAMERA.interpret(header).kind == kind


def test_kind__other_frames_are_set_aside_with_their_kind_and_counted(tmp_path):
    for number, kind in enumerate(["Light", "Flat", "Flat", "Bias", "", "Focus"]):
        small(tmp_path / f"{number}.fits", 10.0 * number, IMAGETYP=kind)
    found = scan(find_files(tmp_path), CAMERA)
    assert [reason for _, reason in found.set_aside] == [
        "a flat frame by IMAGETYP", "a flat frame by IMAGETYP", "a bias frame by IMAGETYP", "a focus frame by IMAGETYP",
    ]  # fmt: skip
    assert len(found.table) == 2
    assert any(
        line.startswith("a flat frame by IMAGETYP, not a light frame: set aside (2 of 6") for line in found.warnings
    )
    assert len(scan(find_files(tmp_path), Instrument.from_json(INSTRUMENT | {"image_type_keyword": []})).table) == 6


def test_kind__calibration_uses_only_the_right_ones(tmp_path):
    for number, kind in enumerate(["bias", "bias", "dark", "dark", "dark", "object", "flat", ""]):
        small(tmp_path / f"{number}.fits", 300.0 * number, IMAGETYP=kind, EXPTIME=0.0 if kind == "bias" else 180.0)
    for kind, names in (("bias", "01"), ("dark", "2347"), ("flat", "67")):
        found = find_calibration_frames(kind, tmp_path, CAMERA)
        assert [file[-6] for file in found.table["file"]] == list(names)
        assert len(found.table) + len(found.set_aside) == 8


def test_kind__biases_that_were_exposed_are_refused(tmp_path):
    for number in range(3):
        small(tmp_path / f"{number}.fits", 300.0 * number, IMAGETYP="bias", EXPTIME=180.0)
    with pytest.raises(CalibrationError, match="a bias is not exposed: expected at most 1 s, found 180 s"):
        find_calibration_frames("bias", tmp_path, CAMERA)


# ---------------------------------------------------------------- between the frames of a night


def told(directory):
    return contradictions(scan(find_files(directory), CAMERA).table)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"EGAIN": 2.0}, "the gain is not the same in all frames: 1, 2 (1 of 12 frames, e.g. f03.fits)"),
        ({"XBINNING": 2}, "frames of one shape have the binnings 1, 2"),
        ({"RA": "05:00:00"}, "frames point more than 1 degree away from the others"),
        ({"EXPTIME": 5000.0}, "exposures take longer than the time to the next frame"),
        ({"seconds": -400.0}, "the time goes back 1 time(s) in the order of names, first at f03.fits"),
        ({}, None),
    ],
)
def test_contradictions__are_told_once(tmp_path, cards, words):
    for number in range(12):
        others = dict(cards) if number == 3 else {}
        small(tmp_path / f"f{number:02d}.fits", others.pop("seconds", 10.0 * number), **others)
    lines = told(tmp_path)
    assert lines == [] if words is None else any(words in line for line in lines)
    assert all(line.startswith("1:V 2024-01-01: ") for line in lines)


def test_contradictions__names_without_leading_zeros_are_in_order(tmp_path):
    for number in range(12):
        small(tmp_path / f"f{number}.fits", 10.0 * number)
    assert told(tmp_path) == []


@pytest.mark.parametrize("n_frames", [3, 30])
def test_contradictions__the_date_of_the_evening_after_midnight(tmp_path, n_frames):
    """The night changes at the noon of the site: what is a day too early is in another one."""
    for number in range(n_frames):
        after = 86400.0 if number >= n_frames // 2 + 1 else 0.0
        seconds = 4.0 * 3600.0 - 10.0 * (n_frames // 2 + 1 - number)
        small(tmp_path / f"f{number}.fits", seconds - after)
    lines = [line for line in told(tmp_path) if "passes midnight" in line]
    assert len(lines) == 1
    assert f"midnight at f{n_frames // 2 + 1}.fits, and the date stays" in lines[0]


def test_contradictions__nights_in_any_order_pass_no_midnight(tmp_path):
    for night in range(3):
        for number in range(4):
            small(tmp_path / f"{3 - night}" / f"f{number}.fits", 86160.0 * night + 10.0 * number)
        small(tmp_path / f"once{3 - night}.fits", 86160.0 * night + 7000.0)
    assert not any("passes midnight" in line for line in told(tmp_path))


# ---------------------------------------------------------------- overscan


@pytest.mark.parametrize("name", ["plain.fits", "packed.fits.gz", "tiled.fits.fz"])
def test_overscan__is_trimmed_and_told(tmp_path, name):
    data = np.arange(12 * 16, dtype="u2").reshape(12, 16)
    header = fits.Header({"DATE-OBS": "2024-01-01T20:00:00", "EXPTIME": 1.0, "TRIMSEC": "[  3: 14, 1:10]"})
    header["BIASSEC"] = "[15:16,1:12]"
    tiled = fits.CompImageHDU(data, header)
    hdus = [fits.PrimaryHDU(), tiled] if "fz" in name else [fits.PrimaryHDU(data, header)]
    fits.HDUList(hdus).writeto(tmp_path / name)
    assert read_header(tmp_path / name).shape == (10, 12)
    level = data[:, 14:].mean()
    np.testing.assert_array_equal(FitsReader().read(tmp_path / name), data[:10, 2:14] - np.float32(level))
    as_read = FitsReader(amplifiers=Amplifiers(takes_overscan_off=False)).read(tmp_path / name)
    np.testing.assert_array_equal(as_read, data[:10, 2:14])
    found = scan([tmp_path / name], CAMERA)
    assert found.table[["ny", "nx"]].to_numpy().tolist() == [[10, 12]]
    assert any("the level of the overscan (BIASSEC) is subtracted" in w for w in found.warnings)
    found = scan([tmp_path / name], replace(CAMERA, subtract_overscan=False))
    assert any(
        "trimmed to TRIMSEC [3:14,1:10]; the level of an overscan is not subtracted" in w for w in found.warnings
    )


@pytest.mark.parametrize("section", ["[1:16,1:12]", "[1:17,1:12]", "[0:4,1:12]", "UNKNOWN", 5, "[1:2048,1:2048]"])
def test_overscan__sections_that_are_no_part_of_the_image_are_ignored_and_told(tmp_path, section):
    path = small(tmp_path / "a.fits", TRIMSEC=section)
    assert read_header(path).shape == FitsReader().read(path).shape == (12, 16)
    told = [line for line in scan([path], CAMERA).warnings if "is not trimmed" in line]
    is_whole = section == "[1:16,1:12]"
    assert len(told) == (0 if is_whole else 1)
    assert is_whole or f"TRIMSEC {section} is no section [x1:x2,y1:y2] of its 16 x 12 pixels" in told[0]


# ---------------------------------------------------------------- bad pixels beside the image


def with_marks(path, name, *, tiled=False, version=1, shape=(12, 16), section=None):
    data = np.arange(12 * 16, dtype="u2").reshape(12, 16)
    marks = np.zeros(shape, "u1")
    marks[2, 3] = 1
    marks[5, 6] = 4
    header = fits.Header({"DATE-OBS": "2024-01-01T20:00:00", "EXPTIME": 1.0})
    if section:
        header["TRIMSEC"] = section
    kind = fits.CompImageHDU if tiled else fits.ImageHDU
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
    image = kind(data, header, name="SCI")
    behind = kind(marks, name=name)
    behind.header["EXTVER"] = version
    fits.HDUList([fits.PrimaryHDU(), image, table, behind]).writeto(path)
    return data


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("name", ["BPM", "mask", "DQ", "BAD PIXELS"])
def test_bad_pixels__of_an_extension_are_missing_and_told(tmp_path, name, tiled):
    data = with_marks(tmp_path / "a.fits", name, tiled=tiled).astype("f4")
    data[2, 3] = data[5, 6] = np.nan
    assert read_header(tmp_path / "a.fits").dtype == np.dtype("f4")
    np.testing.assert_array_equal(FitsReader().read(tmp_path / "a.fits"), data)
    assert any("pixels that the extension" in line for line in scan([tmp_path / "a.fits"], CAMERA).warnings)


def test_bad_pixels__are_trimmed_as_the_image(tmp_path):
    data = with_marks(tmp_path / "a.fits", "BPM", section="[3:14,1:10]").astype("f4")
    data[2, 3] = data[5, 6] = np.nan
    np.testing.assert_array_equal(FitsReader().read(tmp_path / "a.fits"), data[:10, 2:14])


@pytest.mark.parametrize("options", [{"version": 2}, {"shape": (10, 16)}, {"name": "WEIGHT"}])
def test_bad_pixels__of_another_image_are_not_taken(tmp_path, options):
    data = with_marks(tmp_path / "a.fits", **({"name": "BPM"} | options))
    pixels = FitsReader().read(tmp_path / "a.fits")
    np.testing.assert_array_equal(pixels, data)
    assert pixels.dtype == np.dtype("u2")
