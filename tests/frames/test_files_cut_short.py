"""A file of many frames that is cut short costs the frames that are not whole in it, each with a reason."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits
from small_nights import INSTRUMENT

from opticam_dask import Instrument
from opticam_dask.frames.arrivals import incomplete_reason
from opticam_dask.frames.scanning import FrameError, reader_of, scan

CAMERA = Instrument.from_json(INSTRUMENT)
SHAPE = (40, 50)
CUBE = np.random.default_rng(3).integers(0, 65535, (8, *SHAPE)).astype("u2")
TIMES = [f"2024-01-01T20:00:{second:02d}" for second in range(8)]


def header_of(**cards) -> fits.Header:
    return fits.Header({"EXPTIME": 1.0} | cards)


def table_of_times() -> fits.BinTableHDU:
    return fits.BinTableHDU.from_columns([fits.Column("DATE-OBS", "19A", array=TIMES)], name="TIMES")


def write_cut(path, hdus: list, hdu: int, data_bytes: int) -> None:
    """Write a file up to so many bytes of the data of an HDU; negative: into its header."""
    fits.HDUList(hdus).writeto(path)
    with fits.open(path) as written:
        start = written.fileinfo(hdu)["datLoc"]
    path.write_bytes(path.read_bytes()[: start + data_bytes])


def held(path, planes, reason: str, camera: Instrument = CAMERA) -> list[str]:
    """Hold the table of a file to the planes that are whole, and the rest to a reason; the names of the frames."""
    found = scan([path], camera)
    assert found.table["plane"].tolist() == list(planes)
    assert found.set_aside
    assert {why for _, why in found.set_aside} == {reason}
    assert incomplete_reason(str(path)) is not None
    return found.table["file"].tolist()


def test_cube__is_reduced_up_to_where_it_ends(tmp_path):
    path = tmp_path / "cube.fits"
    write_cut(path, [fits.PrimaryHDU(CUBE, header_of(**{"DATE-OBS": TIMES[0], "KCT": 1.0}))], 0, 5 * 4000 + 1999)
    names = held(path, range(1, 6), "cut short: the file ends after 5 of 8 planes")
    reader = reader_of(CAMERA)
    for name, image in zip(names, CUBE, strict=False):
        np.testing.assert_array_equal(reader.read(name), image)
    with pytest.raises(FrameError, match="cut short"):
        reader.read(f"{path}[0,6]")


def test_cube__whose_table_comes_first_is_reduced_up_to_where_it_ends(tmp_path):
    hdus = [fits.PrimaryHDU(), table_of_times(), fits.ImageHDU(CUBE, header_of())]
    write_cut(tmp_path / "cube.fits", hdus, 2, 3 * 4000)
    held(tmp_path / "cube.fits", range(1, 4), "cut short: the file ends after 3 of 8 planes")


def test_cube__whose_table_of_times_is_cut_short(tmp_path):
    path = tmp_path / "cube.fits"
    write_cut(path, [fits.PrimaryHDU(CUBE, header_of()), table_of_times()], 1, 6 * 19 + 5)
    held(path, range(1, 7), "cut short: the table of times ends after 6 of 8 planes")
    times = scan([path], CAMERA).table["mjd_utc"].to_numpy()
    np.testing.assert_allclose((times - times[0]) * 86400.0, np.arange(6), atol=1e-5)


@pytest.mark.parametrize(
    ("hdu", "data_bytes", "where"),
    [
        (0, 5 * 4000 + 1999, "the file ends after 5 of 8 planes"),
        (1, 5, "the file ends before its table does"),
        (1, -80, "the file ends in the header of HDU 1"),
    ],
)
def test_cube__whose_table_of_times_is_lost_says_that_it_is_cut_short(tmp_path, hdu, data_bytes, where):
    path = tmp_path / "cube.fits"
    write_cut(path, [fits.PrimaryHDU(CUBE, header_of()), table_of_times()], hdu, data_bytes)
    zipped = tmp_path / "cube.fits.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, zipped):
        found = scan([file], CAMERA)
        assert not len(found.table)
        reasons = dict(found.set_aside)
        assert reasons[str(file)] == f"cut short: {where}, and its header does not say when each was taken"
        assert incomplete_reason(str(file)) is not None


def test_cube__in_a_whole_gzip_stream_is_reduced_up_to_where_it_ends(tmp_path):
    path, zipped = tmp_path / "cube.fits", tmp_path / "cube.fits.gz"
    write_cut(path, [fits.PrimaryHDU(CUBE, header_of(**{"DATE-OBS": TIMES[0], "KCT": 1.0}))], 0, 5 * 4000 + 1999)
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    names = held(zipped, range(1, 6), "cut short: the file ends after 5 of 8 planes")
    np.testing.assert_array_equal(reader_of(CAMERA).read(names[4]), CUBE[4])


def test_cube__no_plane_of_which_is_whole_is_one_file_cut_short(tmp_path):
    path = tmp_path / "cube.fits"
    write_cut(path, [fits.PrimaryHDU(CUBE, header_of(**{"DATE-OBS": TIMES[0], "KCT": 1.0}))], 0, 3999)
    ((file, reason),) = scan([path], CAMERA).set_aside
    assert (file, reason) == (str(path), "cut short: 32000 bytes of data expected, 3999 found")


def test_cube__with_a_keyword_missing_for_one_plane_loses_that_plane(tmp_path):
    for name, values in ("dates", TIMES), ("days", [60310.8 + second / 86400.0 for second in range(8)]):
        keywords = {f"DATE{number + 1:04d}": value for number, value in enumerate(values) if number != 3}
        fits.PrimaryHDU(CUBE, header_of(**keywords)).writeto(tmp_path / f"{name}.fits")
        found = scan([tmp_path / f"{name}.fits"], CAMERA)
        assert found.table["plane"].tolist() == [1, 2, 3, 5, 6, 7, 8]
        ((file, reason),) = found.set_aside
        assert file == f"{tmp_path / name}.fits[0,4]"
        assert "DATE of the plane" in reason


def exposures() -> list:
    own = [fits.ImageHDU(image, header_of(**{"DATE-OBS": time})) for image, time in zip(CUBE[:3], TIMES, strict=False)]
    return [fits.PrimaryHDU(), *own]


def test_extensions__whole_ones_are_frames_and_the_last_is_set_aside(tmp_path):
    path = tmp_path / "mef.fits"
    write_cut(path, exposures(), 3, 3000)
    found = scan([path], CAMERA)
    assert found.table["file"].tolist() == [f"{path}[1]", f"{path}[2]"]
    assert found.set_aside == [(f"{path}[3]", "cut short: the file ends before all pixels of this frame")]
    np.testing.assert_array_equal(reader_of(CAMERA).read(f"{path}[2]"), CUBE[1])


def test_extensions__a_header_in_which_the_file_ends_is_told(tmp_path):
    path = tmp_path / "mef.fits"
    write_cut(path, exposures(), 3, -100)
    found = scan([path], CAMERA)
    assert found.table["file"].tolist() == [f"{path}[1]", f"{path}[2]"]
    assert found.set_aside == [(f"{path}[3]", "the header is cut short: it has no END")]


@pytest.mark.parametrize("data_bytes", [1000, -100])
def test_amplifiers__a_detector_without_one_of_them_is_no_frame(tmp_path, data_bytes):
    path = tmp_path / "mosaic.fits"
    boxes = ["[1:50,1:40]", "[51:100,1:40]", "[1:50,41:80]", "[51:100,41:80]"]
    parts = [fits.ImageHDU(CUBE[number], fits.Header({"DETSEC": box})) for number, box in enumerate(boxes)]
    write_cut(path, [fits.PrimaryHDU(None, header_of(**{"DATE-OBS": TIMES[0]})), *parts], 4, data_bytes)
    found = scan([path], CAMERA)
    assert not len(found.table)
    assert "cut short: the file ends before all pixels of this frame" in [reason for _, reason in found.set_aside]
    assert incomplete_reason(str(path)) is not None


def test_marks__that_are_cut_short_cost_their_image(tmp_path):
    path = tmp_path / "marked.fits"
    marks = fits.ImageHDU(np.zeros(SHAPE, "u1"), name="BPM")
    write_cut(path, [fits.PrimaryHDU(CUBE[0], header_of(**{"DATE-OBS": TIMES[0]})), marks], 1, 100)
    found = scan([path], CAMERA)
    assert found.set_aside == [(str(path), "cut short: the file ends before all pixels of this frame")]
