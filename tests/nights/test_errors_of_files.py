"""Frames with the errors of their pixels are measured with these; levels of detectors have the overscan in them."""

from __future__ import annotations

import pickle

import dask
import numpy as np
import pytest
import small_nights
from astropy.io import fits

from opticam_dask import (
    AperturePhotometer,
    FitsReader,
    Instrument,
    OptimalPhotometer,
    align,
    background,
    calibrate,
    coadd,
    detect,
    open_catalog,
    open_frames,
    photometry,
)
from opticam_dask.flags import SourceFlag
from opticam_dask.frames.fits.read_pixels import ReadPixels, Taken, level_as_read
from opticam_dask.frames.scanning import find_files, scan

SIDE, SKY, N_FRAMES, N_AVERAGED = 200, 400.0, 8, 16
CAMERA = Instrument.from_json(small_nights.INSTRUMENT)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Means of 16 exposures: their noise is a quarter of what their electrons tell; the file knows it."""
    directory, rng = tmp_path_factory.mktemp("errors"), np.random.default_rng(8)
    for frame in range(N_FRAMES):
        image, shift = np.full((SIDE, SIDE), SKY), rng.normal(0, 0.8, 2)
        for star in small_nights.FIELD:
            small_nights.add_star(image, *(star[:2] + shift), star[2])
        variance = (image + 9.0) / N_AVERAGED
        variance[:, :3] = np.nan
        pixels = rng.normal(image, np.sqrt((image + 9.0) / N_AVERAGED)).astype(np.float32)
        small_nights.write_frame(directory / f"frames/f{frame}.fits", pixels, 10.0 * frame)
        with fits.open(directory / f"frames/f{frame}.fits", mode="append") as hdus:
            hdus.append(fits.ImageHDU(np.sqrt(variance).astype(np.float32), name="ERR"))
    kinds = AperturePhotometer(radius=5.0), OptimalPhotometer()
    return small_nights.reduce_frames(directory, *kinds)


@pytest.mark.parametrize("label", ["aperture", "optimal"])
def test_fluxes__scatter_as_the_errors_of_the_files_say(night, label):
    curves = night.curves(label)
    sources = [night.source_at(x, y, within=5.0) for x, y, _ in small_nights.FIELD]
    flux, error = (curves[name].to_numpy()[:, sources] for name in ("flux", "flux_err"))
    pulls = (flux - flux.mean(axis=0)) / error * np.sqrt(N_FRAMES / (N_FRAMES - 1))
    assert 0.75 < np.std(pulls) < 1.25
    # by the electrons alone the errors would be four times as large
    in_aperture = np.pi * 25.0 * (SKY + 9.0)
    if label == "aperture":
        np.testing.assert_allclose(error, np.sqrt((flux + in_aperture) / N_AVERAGED), rtol=0.03)


def test_sky__has_the_noise_of_the_files_which_sources_are_found_above(night):
    rms = night.frames["background_rms"].to_numpy()
    np.testing.assert_allclose(rms, np.sqrt((SKY + 9.0) / N_AVERAGED), rtol=0.02)


def test_scan__tells_where_the_noise_is_from_and_a_definition_may_decline(night):
    files = find_files(night.out.parent / "frames")
    assert any("the noise of pixels is that of the extension ERR" in note for note in scan(files, CAMERA).warnings)
    assert FitsReader().read(files[0]).variance is not None
    plain = FitsReader(uses_errors=False).read(files[0])
    assert type(plain) is np.ndarray


@pytest.mark.parametrize(("chunks", "is_changed"), [(3, False), (None, False), (3, True)])
def test_steps__measure_with_the_errors_of_the_files_as_well(night, chunks, is_changed):
    """Where tasks read the frames themselves, and where these are in memory or went through other hands."""
    ds = open_frames(night.out.parent / "frames", instrument=CAMERA, chunks=chunks)
    if is_changed:
        ds = ds.assign(image=(ds["image"] + 0).assign_attrs(ds["image"].attrs))
    ref, cat = open_catalog(night.out, small_nights.KEY)
    with dask.config.set(scheduler="sync"):
        ds = align(detect(background(calibrate(ds))), ref)
        found = photometry(ds, cat, OptimalPhotometer()).compute()
    stored = night.curves("optimal")
    for name in ("flux", "flux_err", "flags", "profile_chi2"):
        np.testing.assert_array_equal(found[name], stored[name], err_msg=name)
    with pytest.raises(ValueError, match=r"coadd expected frames without errors of their pixels \(extension ERR\)"):
        coadd(ds, ref, frames=2)


def test_pixels_with_errors__keep_them_on_the_way_to_another_process():
    pixels = ReadPixels.of(np.ones((2, 3)), np.full((2, 3), 4.0), (Taken(None, 100.0, 1.5),))
    again = pickle.loads(pickle.dumps(pixels))
    np.testing.assert_array_equal(again, pixels)
    np.testing.assert_array_equal(again.variance, pixels.variance)
    assert again.taken == pixels.taken


@pytest.mark.parametrize(
    ("name", "cards", "as_stored"),
    [
        ("ERR", {}, np.sqrt),
        ("VAR", {}, np.asarray),
        ("IVAR", {}, np.reciprocal),
        ("UNCERT", {}, np.sqrt),
        ("UNCERT", {"UTYPE": "VarianceUncertainty"}, np.asarray),
        ("UNCERT", {"UTYPE": "InverseVariance"}, np.reciprocal),
    ],
)
def test_variance__is_what_the_extension_means(tmp_path, name, cards, as_stored):
    rng = np.random.default_rng(1)
    variance = rng.uniform(4.0, 50.0, (20, 30))
    stored = as_stored(variance)
    stored[3, 4], stored[5, 6] = 0.0, np.inf
    image = fits.PrimaryHDU(rng.normal(100.0, 3.0, variance.shape))
    image.header["TRIMSEC"] = "[3:30,1:20]"
    fits.HDUList([image, fits.ImageHDU(stored, fits.Header(cards), name=name)]).writeto(tmp_path / "a.fits")
    found = FitsReader().read(tmp_path / "a.fits").variance
    variance[3, 4] = variance[5, 6] = np.nan
    np.testing.assert_allclose(found, variance[:, 2:], rtol=1e-12)


def _with_overscan(path, amplifiers):
    """A frame of one or two amplifiers, each with an overscan of its own at its right."""
    hdus = [fits.PrimaryHDU()]
    for number, (pixels, level, gain) in enumerate(amplifiers):
        ny, nx = pixels.shape
        stored = np.concatenate([pixels + level, np.full((ny, 10), level)], axis=1)
        hdu = fits.ImageHDU(stored.astype(np.float32), name=f"IM{number}")
        hdu.header["DATASEC"], hdu.header["BIASSEC"] = f"[1:{nx},1:{ny}]", f"[{nx + 1}:{nx + 10},1:{ny}]"
        if len(amplifiers) > 1:
            hdu.header["DETSEC"] = f"[{number * nx + 1}:{(number + 1) * nx},1:{ny}]"
            hdu.header["GAIN"] = gain
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)
    return FitsReader().read(path)


def test_linearity__is_a_level_of_the_detector_with_its_overscan(tmp_path):
    pixels = np.full((20, 30), 500.0)
    read = _with_overscan(tmp_path / "one.fits", [(pixels, 2000.0, 1.0)])
    assert level_as_read(read, 30000.0) == pytest.approx(28000.0)
    assert np.isnan(level_as_read(read, np.nan))
    read = _with_overscan(tmp_path / "two.fits", [(pixels, 2000.0, 1.0), (pixels, 1000.0, 1.5)])
    levels = level_as_read(read, 30000.0)
    np.testing.assert_allclose(levels[:, :30], 28000.0)
    np.testing.assert_allclose(levels[:, 30:], 43500.0)


def test_linearity__a_star_above_it_is_flagged_whatever_the_overscan_is(tmp_path):
    """The brightest star peaks below the limit of 20000 ADU by less than the overscan, which is 3000 ADU of it."""
    rng, level = np.random.default_rng(3), 3000.0
    for frame in range(4):
        image = np.full((SIDE, SIDE), SKY)
        for x, y, flux in small_nights.FIELD:
            small_nights.add_star(image, x, y, flux * 2.4)
        stored = np.full((SIDE, SIDE + 20), level)
        stored[:, :SIDE] = small_nights.read_out(image, rng, bias=level)
        cards = {"DATASEC": f"[1:{SIDE},1:{SIDE}]", "BIASSEC": f"[{SIDE + 1}:{SIDE + 20},1:{SIDE}]"}
        path = tmp_path / f"frames/f{frame}.fits"
        small_nights.write_frame(path, stored.astype(np.uint16), 10.0 * frame, **cards)
    found = small_nights.reduce_frames(tmp_path, instrument={"default_linearity": 20000.0})
    assert 17000.0 < image.max() < 20000.0
    flags = found.curves()["flags"].to_numpy()
    is_flagged = (flags & np.uint32(SourceFlag.NON_LINEAR)) != 0
    brightest = found.source_at(*small_nights.FIELD[0, :2])
    assert is_flagged[:, brightest].all()
    assert not np.delete(is_flagged, brightest, axis=1).any()


def test_errors__are_those_of_their_own_image(tmp_path):
    """With EXTVER, or right behind their image; where nobody knows whose they are, they are nobody's."""
    image, errors = np.arange(400.0).reshape(20, 20), np.full((20, 20), 2.0)

    def variances(name, *hdus):
        made = [fits.ImageHDU(image if kind == "SCI" else errors * level, name=kind) for kind, level, _ in hdus]
        for hdu, (_, _, version) in zip(made, hdus, strict=True):
            if version:
                hdu.header["EXTVER"] = version
        fits.HDUList([fits.PrimaryHDU(), *made]).writeto(tmp_path / name)
        numbers = [number for number, (kind, _, _) in enumerate(hdus, start=1) if kind == "SCI"]
        read = [FitsReader().read(f"{tmp_path / name}[{number}]") for number in numbers]
        return [float(pixels.variance[0, 0]) if hasattr(pixels, "variance") else None for pixels in read]

    sci, err, other = ("SCI", 1, 0), ("ERR", 1, 0), ("ERR", 3, 0)
    assert variances("alternating.fits", sci, err, sci, other) == [4.0, 36.0]
    assert variances("one.fits", sci, sci, err) == [None, 4.0]
    assert variances("apart.fits", sci, sci, err, other) == [None, None]
    versions = [("SCI", 1, 1), ("SCI", 1, 2), ("ERR", 1, 1), ("ERR", 3, 2)]
    assert variances("versions.fits", *versions) == [4.0, 36.0]
