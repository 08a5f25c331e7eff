"""Files of many frames: cubes, an exposure or a camera an extension, amplifiers, windows."""

from __future__ import annotations

import builtins
import gzip

import numpy as np
import pytest
from astropy.io import fits
from small_nights import FIELD, INSTRUMENT, KEY, NIGHT, add_stars, read_out, write_frame

import opticam_dask
from opticam_dask import Instrument, Reducer, light_curves
from opticam_dask.frames.fits.names import FrameName, split_name
from opticam_dask.frames.fits_files import FitsReader, FrameError, read_header
from opticam_dask.frames.scanning import find_files, reader_of, scan

CAMERA = Instrument.from_json(INSTRUMENT)
START = np.datetime64("2024-01-01T20:00:00.000")
N_FRAMES, CADENCE = 10, 7.0


def stamp(seconds: float) -> str:
    return str(START + np.timedelta64(round(seconds * 1000), "ms"))


def header_of(seconds: float | None = 0.0, **cards) -> fits.Header:
    header = fits.Header({"EXPTIME": 5.0, "RA": "03:30:00", "DEC": "+20:00:00"} | cards)
    if seconds is not None:
        header["DATE-OBS"] = stamp(seconds)
    return header


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A short night of ten stars, (frame, y, x)."""
    rng = np.random.default_rng(22)
    field = add_stars(np.full((200, 200), 100.0), FIELD)
    return np.stack([read_out(field, rng) for _ in range(N_FRAMES)])


def reduced(directory, *, instrument=CAMERA, **options) -> Reducer:
    reducer = Reducer(
        directory.parent / f"{directory.name}-out",
        data_directory=directory,
        instrument=instrument,
        client="none",
        figures=False,
        **options,
    )
    reducer.create_catalogs()
    reducer.photometry(opticam_dask.AperturePhotometer())
    return reducer


def fluxes_of(directory, key=KEY):
    return light_curves(directory.parent / f"{directory.name}-out", key, "aperture").load()


@pytest.fixture(scope="module")
def single_files(pixels, tmp_path_factory):
    """The frames as files of their own, reduced: what all others are held to."""
    directory = tmp_path_factory.mktemp("single") / "frames"
    for number, image in enumerate(pixels):
        write_frame(directory / f"f{number:03d}.fits", image, CADENCE * number)
    reduced(directory)
    return fluxes_of(directory)


def same_bits(found, expected) -> None:
    for name in ("flux", "flux_err", "x", "y", "flags", "mjd_utc", "bmjd_tdb", "profile_chi2"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


# ---------------------------------------------------------------- cubes


def times_by_table(cube: np.ndarray, cadence: float) -> fits.HDUList:
    times = [stamp(cadence * number) for number in range(len(cube))]
    table = fits.BinTableHDU.from_columns([fits.Column("DATE-OBS", "23A", array=times)], name="TIMES")
    return fits.HDUList([fits.PrimaryHDU(cube, header_of(None)), table])


def times_by_step(cube: np.ndarray, cadence: float) -> fits.HDUList:
    return fits.HDUList([fits.PrimaryHDU(cube, header_of(KCT=cadence))])


def times_by_axis(cube: np.ndarray, cadence: float) -> fits.HDUList:
    axis = {"CTYPE3": "TIME", "CUNIT3": "s", "CRPIX3": 1.0, "CRVAL3": 0.0, "CDELT3": cadence}
    return fits.HDUList([fits.PrimaryHDU(cube, header_of(**axis))])


def times_by_keywords(cube: np.ndarray, cadence: float) -> fits.HDUList:
    own = {f"DATE{number + 1:04d}": stamp(cadence * number) for number in range(len(cube))}
    return fits.HDUList([fits.PrimaryHDU(cube, header_of(None, **own))])


def times_in_days(cube: np.ndarray, cadence: float) -> fits.HDUList:
    times = 60310.0 + 20 / 24 + cadence * np.arange(len(cube)) / 86400.0
    table = fits.BinTableHDU.from_columns([fits.Column("MJD_UTC", "D", array=times, unit="d")])
    return fits.HDUList([fits.PrimaryHDU(cube, header_of(None)), table])


WAYS = [times_by_table, times_by_step, times_by_axis, times_by_keywords, times_in_days]


@pytest.mark.parametrize("way", WAYS)
def test_cube__each_plane_has_its_time_and_its_pixels(tmp_path, way):
    cube = np.arange(12 * 6 * 8, dtype="u2").reshape(12, 6, 8)
    way(cube, 2.5).writeto(tmp_path / "cube.fits")
    found = scan([tmp_path / "cube.fits"], CAMERA)
    assert found.set_aside == []
    table = found.table
    assert table["plane"].tolist() == list(range(1, 13))
    assert table["file"].tolist() == [f"{tmp_path / 'cube.fits'}[0,{plane}]" for plane in range(1, 13)]
    expected = 60310.0 + (20 * 3600 + 2.5 + 2.5 * np.arange(12)) / 86400.0  # middle of 5 s
    np.testing.assert_allclose(table["mjd_utc"], expected, rtol=0, atol=2e-11 if way is not times_in_days else 1e-10)
    reader = reader_of(CAMERA)
    for name, image in zip(table["file"], cube, strict=True):
        np.testing.assert_array_equal(reader.read(name), image)


def test_cube__without_times_of_planes_is_set_aside_with_what_is_missing(tmp_path):
    fits.PrimaryHDU(np.zeros((3, 10, 12), "u2"), header_of()).writeto(tmp_path / "rgb.fits")
    ((file, reason),) = scan([tmp_path / "rgb.fits"], CAMERA).set_aside
    assert file.endswith("rgb.fits")
    assert "a cube of 3 planes, and its header does not say when each was taken" in reason
    with pytest.raises(FrameError, match=r"a cube of 3 planes: name one, as in .*rgb.fits\[0,1\]"):
        FitsReader().read(tmp_path / "rgb.fits")


@pytest.mark.parametrize("form", ["gz", "fz", "scaled"])
def test_cube__compressed_and_scaled(tmp_path, form):
    cube = np.arange(7 * 20 * 30, dtype="i4").reshape(7, 20, 30)
    path = tmp_path / "cube.fits"
    if form == "fz":
        hdus = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(cube, header_of(TSTEP=1.0))])
        hdus.writeto(path)
    else:
        hdu = fits.PrimaryHDU(cube, header_of(TSTEP=1.0))
        if form == "scaled":
            hdu.scale("int16", bscale=2.0, bzero=10.0)
        hdu.writeto(path)
    expected = fits.getdata(path)
    if form == "gz":
        path.rename(tmp_path / "plain")
        path = tmp_path / "cube.fits.gz"
        path.write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    table = scan([path], CAMERA).table
    assert len(table) == 7
    for name, image in zip(table["file"], expected, strict=True):
        np.testing.assert_array_equal(FitsReader().read(name), image)


def test_cube__of_a_thousand_planes_is_opened_once_for_a_block(tmp_path, monkeypatch):
    cube = np.random.default_rng(1).integers(0, 65535, (1000, 20, 24)).astype("u2")
    times_by_step(cube, 0.1).writeto(tmp_path / "cube.fits")
    (camera,) = opticam_dask.open_observations(tmp_path, instrument=CAMERA).values()
    opened = []
    monkeypatch.setattr(
        builtins, "open", lambda path, *how, really=open, **more: opened.append(str(path)) or really(path, *how, **more)
    )
    dataset = opticam_dask.open_frames(tmp_path, instrument=CAMERA, chunks=250)
    opened.clear()
    np.testing.assert_array_equal(dataset["image"].compute(scheduler="synchronous"), cube)
    assert opened.count(str(tmp_path / "cube.fits")) == 4
    assert dataset["plane"].to_numpy().tolist() == list(range(1, 1001))
    np.testing.assert_array_equal(camera[[17, 400]].compute(scheduler="synchronous"), cube[[17, 400]])


def test_cube__is_reduced_like_files_of_its_planes(pixels, single_files, tmp_path):
    directory = tmp_path / "cubes"
    directory.mkdir()
    times_by_table(pixels, CADENCE).writeto(directory / "cube.fits")
    reduced(directory)
    same_bits(fluxes_of(directory), single_files)
    frames = opticam_dask.open_reduction(tmp_path / "cubes-out")[f"1-V/{NIGHT}/frames"]
    assert frames["file"].to_numpy().tolist() == ["cube.fits"] * N_FRAMES
    assert frames["extension"].to_numpy().tolist() == [0] * N_FRAMES
    assert frames["plane"].to_numpy().tolist() == list(range(1, N_FRAMES + 1))
    reduced(directory)  # goes on: all is known
    same_bits(fluxes_of(directory), single_files)


# ---------------------------------------------------------------- several images in a file


def test_extensions__one_an_exposure(pixels, single_files, tmp_path):
    directory = tmp_path / "mef"
    directory.mkdir()
    hdus = [fits.ImageHDU(image, header_of(CADENCE * number)) for number, image in enumerate(pixels)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(directory / "a.fits")
    reduced(directory)
    same_bits(fluxes_of(directory), single_files)


THREE = Instrument.from_json(
    {name: value for name, value in INSTRUMENT.items() if name != "default_filter"}
    | {"cameras": {"1": ["g"], "2": ["r"], "3": ["z"]}}
)


def test_extensions__one_a_camera(pixels, single_files, tmp_path):
    directory = tmp_path / "three"
    directory.mkdir()
    for number, image in enumerate(pixels):
        hdus = [
            fits.ImageHDU(np.roll(image, 3 * index), fits.Header({"FILTER": name})) for index, name in enumerate("grz")
        ]
        hdus.append(fits.ImageHDU(np.sqrt(image + 1.0), name="ERR"))
        fits.HDUList([fits.PrimaryHDU(None, header_of(CADENCE * number)), *hdus]).writeto(directory / f"{number}.fits")
    found = scan(find_files(directory), THREE)
    assert found.table.groupby("key").size().to_dict() == {"1:g": N_FRAMES, "2:r": N_FRAMES, "3:z": N_FRAMES}
    assert found.set_aside == []
    assert set(found.table["extension"]) == {1, 2, 3}
    one = Instrument.from_json(INSTRUMENT | {"cameras": {"1": ["g"], "2": ["r"], "3": ["z"]}, "default_filter": "g"})
    reduced(directory, instrument=one)
    same_bits(fluxes_of(directory, "1:g"), single_files)
    assert len(fluxes_of(directory, "3:z")["frame"]) == N_FRAMES


def test_extensions__that_say_nothing_of_their_own_are_left_out_and_told(tmp_path):
    hdus = [fits.PrimaryHDU(np.zeros((6, 8), "u2"), header_of()), fits.ImageHDU(np.ones((3, 4)), name="SMALL")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    found = scan([tmp_path / "a.fits"], CAMERA)
    assert found.table["file"].tolist() == [str(tmp_path / "a.fits")]
    assert any("1 further image(s)" in line and "SMALL" in line for line in found.warnings)


@pytest.mark.parametrize("names", [("DQ", "SCI"), ("THUMB", "SCI", "DQ"), ("DQ", "SCI", "PREVIEW")])
def test_extensions__a_mask_or_preview_before_the_image_is_not_taken_for_it(tmp_path, names):
    pixels, mask = np.arange(48, dtype="u2").reshape(6, 8), np.zeros((6, 8), np.uint8)
    mask[2, 3] = 1
    data = {"SCI": pixels, "DQ": mask, "THUMB": pixels[:2, :2], "PREVIEW": pixels[:3, :4]}
    file = tmp_path / "a.fits"
    hdus = [fits.PrimaryHDU(header=header_of()), *(fits.ImageHDU(data[name], name=name) for name in names)]
    fits.HDUList(hdus).writeto(file)
    expected = np.where(mask, np.nan, pixels)
    np.testing.assert_array_equal(FitsReader().read(str(file)), expected)
    assert scan([file], CAMERA).table["file"].tolist() == [str(file)]


@pytest.mark.parametrize(
    ("order", "masks_of_images"),
    [("mimi", (0, 1)), ("imim", (0, 1)), ("iimm", (0, 1)), ("mmii", (0, 1)), ("mii", (0, 0)), ("iim", (0, 0)),
     ("imi", (0, None)), ("mimii", (0, 1, 1)), ("miti", (0, 0))],
)  # fmt: skip
def test_extensions__each_image_of_a_file_has_its_own_mask(tmp_path, order, masks_of_images):
    """i: an image, m: a mask with one bad pixel, t: a preview."""
    pixels = np.arange(48, dtype="u2").reshape(6, 8)
    hdus, seen = [fits.PrimaryHDU(header=header_of())], {"i": 0, "m": 0, "t": 0}
    for kind in order:
        number = seen[kind]
        if kind == "i":
            hdus.append(fits.ImageHDU(pixels + number, header_of(CADENCE * number), name=f"SCI{number}"))
        elif kind == "m":
            mask = np.zeros(pixels.shape, np.uint8)
            mask[2, 3 + number] = 1
            hdus.append(fits.ImageHDU(mask, name="MASK"))
        else:
            hdus.append(fits.ImageHDU(pixels, name="PREVIEW"))
        seen[kind] += 1
    file = tmp_path / "a.fits"
    fits.HDUList(hdus).writeto(file)
    names = scan([file], CAMERA).table.sort_values("mjd_utc")["file"].tolist()
    assert len(names) == len(masks_of_images)
    for number, (name, mask) in enumerate(zip(names, masks_of_images, strict=True)):
        expected = (pixels + number).astype(float)
        if mask is not None:
            expected[2, 3 + mask] = np.nan
        np.testing.assert_array_equal(FitsReader().read(name), expected)


# ---------------------------------------------------------------- amplifiers


def test_extensions__a_file_that_lacks_the_first_is_told_of(tmp_path):
    """Its image is that of another extension, which all other files leave out."""
    for number in range(4):
        first, second = (fits.ImageHDU(np.zeros((6, 7), np.int16), name=name) for name in ("LEFT", "RIGHT"))
        images = [second] if number == 2 else [first, second]
        fits.HDUList([fits.PrimaryHDU(header=header_of(6.0 * number)), *images]).writeto(tmp_path / f"{number}.fits")
    (tmp_path / "damaged.fits").touch()
    told = "the only image of a file is that of extension RIGHT (1 of 5 files, e.g. "
    assert [note for note in scan(find_files(tmp_path), CAMERA).warnings if note.startswith(told)]
    only = [str(tmp_path / name) for name in ("2.fits", "damaged.fits")]
    assert not any("extension RIGHT" in note for note in scan(only, CAMERA).warnings)


def amplifiers(image: np.ndarray, seconds: float, gains=(1.0, 1.0, 1.0, 1.0), levels=(100.0,) * 4) -> fits.HDUList:
    """Four quarters of a detector with an overscan each; those on the far side are read from its far corner."""
    ny, nx = (side // 2 for side in image.shape)
    hdus = [fits.PrimaryHDU(None, header_of(seconds, SATURATE=60000.0))]
    for index, (gain, level) in enumerate(zip(gains, levels, strict=True)):
        y, x = divmod(index, 2)
        part = image[y * ny : (y + 1) * ny, x * nx : (x + 1) * nx][:: -1 if y else 1, :: -1 if x else 1]
        raw = np.full((ny, nx + 20), level)
        raw[:, :nx] = part / gain + level
        ends = [(1, nx), (2 * nx, nx + 1)][x], [(1, ny), (2 * ny, ny + 1)][y]
        cards = {
            "DETSEC": f"[{ends[0][0]}:{ends[0][1]},{ends[1][0]}:{ends[1][1]}]",
            "DATASEC": f"[1:{nx},1:{ny}]",
            "BIASSEC": f"[{nx + 3}:{nx + 20},1:{ny}]",
            "GAIN": gain,
        }
        hdus.append(fits.ImageHDU(raw.astype("f4"), fits.Header(cards)))
    return fits.HDUList(hdus)


def test_amplifiers__are_put_together_with_their_own_gain_bias_and_overscan(tmp_path):
    image = np.arange(24 * 32, dtype=float).reshape(24, 32) * 8
    amplifiers(image, 0.0, gains=(2.0, 4.0, 1.0, 2.0), levels=(100.0, 300.0, 50.0, 1000.0)).writeto(tmp_path / "a.fits")
    found = scan([tmp_path / "a.fits"], CAMERA)
    assert found.table["file"].tolist() == [str(tmp_path / "a.fits")]
    assert found.table[["ny", "nx"]].to_numpy().tolist() == [[24, 32]]
    assert found.table["gain"].tolist() == [2.0]
    assert any("overscan" in line for line in found.warnings)
    np.testing.assert_array_equal(reader_of(CAMERA).read(tmp_path / "a.fits") * 2.0, image)


@pytest.mark.parametrize(
    ("cards", "told"),
    [
        ({"DETSEC": "[{0}:26, 1:6]"}, "DETSEC [{0}:26,1:6]"),
        ({"XORGSUBF": "{0}", "YORGSUBF": "0"}, "XORGSUBF {0}, YORGSUBF 0"),
    ],
)
def test_window_of_one_detector__that_moves_within_a_night_is_told(tmp_path, cards, told):
    for number, first in enumerate((11, 11, 21)):
        values = {name: text.format(first) for name, text in cards.items()}
        own = {name: int(text) if text.isdecimal() else text for name, text in values.items()}
        fits.PrimaryHDU(np.zeros((6, 7), np.int16), header_of(6.0 * number, **own)).writeto(tmp_path / f"{number}.fits")
    files = find_files(tmp_path)
    notes = [note.partition(" (")[0] for note in scan(files, CAMERA).warnings if "image lies" in note]
    assert notes == [f"{KEY}: the image lies at {told.format(first)} of the detector" for first in (11, 21)]
    assert not any("image lies" in note for note in scan(files[:2], CAMERA).warnings)


def test_amplifiers__saturated_pixels_stay_saturated(tmp_path):
    image = np.full((24, 32), 500.0)
    hdus = amplifiers(image, 0.0, levels=(1000.0,) * 4)
    hdus[2].data[3, 4] = 60000.0
    hdus.writeto(tmp_path / "a.fits")
    read = reader_of(CAMERA).read(tmp_path / "a.fits")
    assert read.max() == 60000.0
    assert np.count_nonzero(read == 500.0) == read.size - 1


def test_amplifiers__of_a_real_frame(real_data):
    path = real_data / "oddities" / "lco_mef_raw_test_frame.fits"
    read, header = FitsReader().read(path), read_header(path)
    assert (read.shape, header.values["GAIN"], header.has_overscan) == ((1024, 1024), 6.42, True)
    with fits.open(path) as hdus:
        largest = max(hdu.header["GAIN"] for hdu in hdus[1:5]) / 6.42
        assert header.saturation == pytest.approx(largest * hdus[0].header["SATURATE"], rel=1e-6)
        for (rows, columns), flips, hdu in (
            (np.s_[512:, :512], np.s_[::-1, :], hdus[1]),
            (np.s_[:512, :512], np.s_[:, :], hdus[2]),
            (np.s_[:512, 512:], np.s_[:, ::-1], hdus[3]),
            (np.s_[512:, 512:], np.s_[::-1, ::-1], hdus[4]),
        ):
            lit = hdu.data[:512, :512].astype(float)
            bias = hdu.data[:512, 519:540].astype(float)
            expected = (lit - bias.mean()) * hdu.header["GAIN"] / 6.42
            # the highest saturation of the four, by their gains
            expected = np.where(lit >= hdus[0].header["SATURATE"], np.maximum(expected, header.saturation), expected)
            np.testing.assert_allclose(read[rows, columns], expected[flips], atol=0.5)
    # the four meet without steps: levels along the seams agree within the noise
    assert abs(np.median(read[500:512]) - np.median(read[512:524])) < 3.0
    assert abs(np.median(read[:, 500:512]) - np.median(read[:, 512:524])) < 3.0


def test_overscan__of_a_real_frame(real_data):
    path = real_data / "oddities" / "saao_a8280271.fits"
    raw = fits.getdata(path).astype(float)
    read = FitsReader().read(path)
    assert read.shape == (520, 512)
    np.testing.assert_allclose(read, raw[:, 16:528] - raw[:, 3:13].mean(), atol=0.5)


# ---------------------------------------------------------------- windows


def windows(ccds: dict[str, np.ndarray], boxes, seconds: float, binning: int = 1, **flags) -> fits.HDUList:
    """A file as the pipeline of HiPERCAM writes it: the windows of each CCD, the first of them with its time."""
    hdus = [fits.PrimaryHDU(None, fits.Header({"NUMCCD": len(ccds), "TIMSTAMP": stamp(seconds), "HIPERCAM": "MCCD"}))]
    for label, image in ccds.items():
        for number, (y, x, ny, nx) in enumerate(boxes):
            cards = fits.Header({"CCD": label})
            if number == 0:
                mjd = 60310.0 + (20 * 3600 + seconds + 2.5) / 86400.0
                cards.update({"NXTOT": image.shape[1] * binning, "NYTOT": image.shape[0] * binning})
                cards.update({"MJDUTC": mjd, "GOODTIME": True, "DSTATUS": True, "EXPTIME": 5.0} | flags)
            llx, lly = x * binning + 1, y * binning + 1
            cards.update({"WINDOW": f"E{number + 1}", "LLX": llx, "LLY": lly, "XBIN": binning, "YBIN": binning})
            cards["DATASEC"] = f"[{llx}:{llx + nx * binning - 1},{lly}:{lly + ny * binning - 1}]"
            hdus.append(fits.ImageHDU(image[y : y + ny, x : x + nx], cards))
    return fits.HDUList(hdus)


HIPERCAM = Instrument.from_json(
    {name: value for name, value in INSTRUMENT.items() if name != "default_filter"}
    | {"time_keywords": ["MJDUTC"], "time_marks": "middle", "camera_keyword": "CCD", "filter_keyword": []}
    | {"cameras": {"1": ["u"], "2": ["g"]}}
)
BOXES = [(10, 12, 90, 180), (104, 12, 90, 180)]


def test_windows__keep_their_place_on_the_detector(tmp_path):
    image = np.arange(60 * 50, dtype="u2").reshape(60, 50)
    boxes = [(4, 6, 10, 12), (30, 20, 8, 9)]
    windows({"1": image, "2": image + 7}, boxes, 0.0, binning=2).writeto(tmp_path / "run_0001.hcm")
    table = scan(find_files(tmp_path), HIPERCAM).table
    assert table["key"].tolist() == ["1:u", "2:g"]
    assert table["file"].tolist() == [f"{tmp_path / 'run_0001.hcm'}[{extension}]" for extension in (1, 3)]
    read = reader_of(HIPERCAM).read(table["file"][1])
    expected = np.full(image.shape, np.nan, "f4")
    for y, x, ny, nx in boxes:
        expected[y : y + ny, x : x + nx] = (image + 7)[y : y + ny, x : x + nx]
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(("flag", "is_usable"), [("GOODTIME", True), ("DSTATUS", False)])
def test_windows__flags_of_time_and_data(tmp_path, flag, is_usable):
    image = np.arange(60 * 50, dtype="u2").reshape(60, 50)
    windows({"1": image}, [(4, 6, 10, 12)], 0.0, **{flag: False}).writeto(tmp_path / "a.hcm")
    found = scan(find_files(tmp_path), HIPERCAM)
    assert len(found.table) == is_usable
    if is_usable:
        assert found.table["is_time_suspect"].tolist() == [True]
        assert found.table["file"].tolist() == [str(tmp_path / "a.hcm")]
    else:
        assert "DSTATUS says that the frame holds no data" in found.set_aside[0][1]


def test_windows__are_reduced_like_files_of_the_same_pixels(pixels, tmp_path):
    several, single = tmp_path / "hcm", tmp_path / "single"
    several.mkdir()
    for number, image in enumerate(pixels):
        hdus = windows({"1": image, "2": image[::-1]}, BOXES, CADENCE * number)
        hdus.writeto(several / f"run_{number:04d}.hcm")
        seen = np.full(image.shape, np.nan, "f4")
        for y, x, ny, nx in BOXES:
            seen[y : y + ny, x : x + nx] = image[y : y + ny, x : x + nx]
        mjd = hdus[1].header["MJDUTC"]
        write_frame(single / f"f{number}.fits", seen, 0.0, MJDUTC=mjd, CCD="1")
    for directory in several, single:
        reduced(directory, instrument=HIPERCAM, barycenter=False)
    found, expected = fluxes_of(several, "1:u"), fluxes_of(single, "1:u")
    same_bits(found, expected)
    assert len(found["source"]) >= 9
    x, y = found["x"].median("frame").to_numpy(), found["y"].median("frame").to_numpy()
    for place in FIELD[:5]:
        assert np.hypot(x - place[0], y - place[1]).min() < 0.2


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", [FrameName("/d/a.fits"), FrameName("/d/a.fits", 3), FrameName("/d/a.fits", 0, 17)])
def test_names__as_text_and_back(name):
    assert split_name(str(name)) == name
    odd = name._replace(file="/d/a.fits[2]")
    assert split_name(str(odd)) == odd
