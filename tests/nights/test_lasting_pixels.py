"""Pixels that are hot or dark all night are found from the frames themselves, where the field drifts."""

from __future__ import annotations

import tracemalloc

import dask
import numpy as np
import pytest
from small_nights import INSTRUMENT, KEY, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask import AperturePhotometer, Instrument, OptimalPhotometer
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.images import lasting

SIZE, N_FRAMES, SKY = 200, 18, 100.0
STARS = (
    *((40.3, 50.2, 9e4), (150.7, 60.9, 7e4), (70.1, 160.4, 5e4), (165.8, 150.6, 4e4)),
    *((110.2, 40.3, 3e4), (30.4, 120.7, 2.5e4), (120.5, 170.2, 2e4)),
)


def odd_pixels(rng):
    """Places and electrons of hot pixels, and of dark ones, which count a tenth of what falls on them."""
    places = rng.permutation(SIZE * SIZE)[:240]
    return places[:200], rng.uniform(60.0, 1500.0, 200), places[200:]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("hot"), np.random.default_rng(5)
    hot, light, dark = odd_pixels(rng)
    for frame in range(N_FRAMES):
        electrons = np.full((SIZE, SIZE), SKY)
        for x, y, flux in STARS:
            add_star(electrons, x + 0.6 * frame, y - 0.4 * frame, flux)
        electrons.ravel()[hot] += light
        electrons.ravel()[dark] *= 0.1
        write_frame(directory / "frames" / f"f{frame:02d}.fits", read_out(electrons, rng), 10.0 * frame)
    return reduce_frames(directory, AperturePhotometer(), OptimalPhotometer())


def test_bad_pixels__are_those_that_matter(night):
    hot, light, dark = odd_pixels(np.random.default_rng(5))
    found = night.group(f"{night.night}/stack")["bad_pixel"].to_numpy()
    inside = np.ones((SIZE, SIZE), dtype=bool)
    inside[[0, -1]] = inside[:, [0, -1]] = False
    noise = np.sqrt(SKY + 9.0)
    is_clear = inside.ravel()[hot] & (light > 8.0 * noise)
    assert np.isin(hot[is_clear], found).mean() > 0.95
    assert np.isin(dark[inside.ravel()[dark]], found).mean() > 0.95
    assert np.isin(found, np.append(hot[light > 2.0 * noise], dark)).all()


@pytest.mark.parametrize("label", ["aperture", "optimal"])
def test_fluxes__without_them_are_right_and_say_so(night, label):
    found = night.curves(label).isel(source=[night.source_at(x, y, 12.0) for x, y, _ in STARS])
    pull = ((found["total"] - [flux for _, _, flux in STARS]) / found["total_err"]).values
    flags = found["flags"].values
    is_bad, is_contaminated = (flags & np.uint32(flag) != 0 for flag in (SourceFlag.BAD_PIXEL, SourceFlag.CONTAMINATED))
    assert is_contaminated.mean() < 0.03
    assert 0.02 < is_bad.mean() < 0.3
    assert np.abs(pull[~is_contaminated]).max() < 5.0
    assert pull.std() < 1.25


def test_steps__leave_them_out_too(night):
    with dask.config.set(scheduler="sync"):
        files, camera = night.out.parent / "frames", Instrument.from_json(INSTRUMENT)
        ds = opticam.open_frames(files, key=KEY, instrument=camera, chunks=5)
        ds = opticam.detect(opticam.background(opticam.calibrate(ds)))
        ref = opticam.reference(ds).load()
        ds = opticam.align(ds, ref)
        lazy = opticam.catalog(opticam.stack(ds, ref))
        flux = opticam.photometry(ds, lazy, OptimalPhotometer())["flux"].to_numpy()
        of_store = opticam.photometry(ds, opticam.open_catalog(night.out, KEY)[1], OptimalPhotometer())["flux"]
    stored = night.curves("optimal")["flux"].to_numpy()
    np.testing.assert_array_equal(flux[:, np.isfinite(flux).any(axis=0)], stored)
    np.testing.assert_array_equal(of_store, stored)


# ---------------------------------------------------------------- stars are no bad pixels


@pytest.mark.parametrize(("fwhm", "beta"), [(1.2, None), (1.5, 3.0), (2.5, 3.0), (6.0, None)])
def test_stars__that_stay_in_the_middle_of_their_pixels_are_none(fwhm, beta):
    rng, image = np.random.default_rng(2), np.zeros((120, 120))
    for x, y in np.stack(np.meshgrid(np.arange(10, 120, 20), np.arange(10, 120, 20)), -1).reshape(-1, 2):
        add_star(image, float(x), float(y), 10.0 ** rng.uniform(3.0, 5.5), fwhm, beta)
    frames = [rng.poisson(image + SKY) - SKY for _ in range(8)]
    found = [lasting.sharp_pixels(frame.astype(np.float32), np.sqrt(SKY), fwhm) for frame in frames]
    assert not len(lasting.bad_all_night(found, image.shape))


def test_dark_column__is_found_between_stars_or_not():
    rng, image = np.random.default_rng(4), np.zeros((60, 60))
    add_star(image, 27.0, 30.0, 3e4, 3.0)
    add_star(image, 33.0, 30.0, 3e4, 3.0)
    image[10:50, 40] = -90.0
    frames = [rng.poisson(image + SKY) - SKY for _ in range(8)]
    found = lasting.bad_all_night([lasting.sharp_pixels(frame, np.sqrt(SKY), 3.0) for frame in frames], image.shape)
    assert set((found % 60).tolist()) == {40}
    assert len(found) > 30


@pytest.mark.parametrize("turn", [np.asarray, np.transpose], ids=["column", "row"])
def test_hot_line__is_bad_where_a_star_hides_it_and_a_few_hot_pixels_are_no_line(turn):
    rng, image = np.random.default_rng(6), np.zeros((90, 90))
    add_star(image, 40.3, 45.0, 3e5, 4.0)
    image[:, 40] += 200.0
    image[[20, 24, 28, 61], 70] += 500.0
    frames = [turn(rng.poisson(image + SKY) - SKY) for _ in range(8)]
    found = lasting.bad_all_night([lasting.sharp_pixels(frame, np.sqrt(SKY), 4.6) for frame in frames], (90, 90))
    is_bad = np.zeros((90, 90), dtype=bool)
    is_bad.ravel()[found] = True
    expected = np.zeros((90, 90), dtype=bool)
    expected[1:-1, 40] = expected[[20, 24, 28, 61], 70] = True
    np.testing.assert_array_equal(turn(is_bad), expected)


def test_sharp_pixels__are_sought_without_a_copy_of_the_frame():
    image = np.random.default_rng(5).normal(0.0, 5.0, (500, 500)).astype(np.float32)
    image[250, 240], image[20, 30], image[100, 100] = 200.0, -200.0, np.nan
    image[101, 102] = 200.0  # beside none without data, two pixels away
    image[300, 300], image[301, 301] = 200.0, np.inf
    tracemalloc.start()
    found = lasting.sharp_pixels(image, 5.0, 3.0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {250 * 500 + 240, 20 * 500 + 30, 101 * 500 + 102} <= set(found.tolist())
    assert not {300 * 500 + 300, 301 * 500 + 301, 100 * 500 + 100} & set(found.tolist())
    assert most < 3 * image.nbytes  # eight pixels around each of a few per cent, not of all


def test_few_frames__tell_no_bad_pixel():
    image = np.zeros((20, 20))
    image[10, 10] = 1000.0
    found = lasting.sharp_pixels(image, 5.0, 3.0)
    assert found.tolist() == [210]
    assert lasting.bad_all_night([found] * 6, (20, 20)).tolist() == [210]
    assert not len(lasting.bad_all_night([found] * 5, (20, 20)))


@pytest.mark.parametrize("fwhm", [3.0, 5.0, 8.0])
def test_bad_column__in_the_core_of_a_guided_star_makes_no_pixel_beside_it_hot(fwhm):
    rng, frames = np.random.default_rng(1), []
    for _ in range(12):
        image = rng.normal(0.0, 10.0, (60, 60))
        add_star(image, 30.2, 30.1, 1e4 * fwhm**2, fwhm, None)
        image[:, 31] = np.nan
        image[10, 10] += 500.0
        frames.append(lasting.sharp_pixels(image, 10.0, fwhm))
    assert lasting.bad_all_night(frames, (60, 60)).tolist() == [610]


@pytest.mark.parametrize(("fwhm", "beta"), [(1.8, 3.0), (2.5, 3.0), (3.5, 3.0), (5.0, 3.0), (5.0, None)])
def test_stars__of_crowded_frames_that_seem_half_as_wide_again_are_none(fwhm, beta):
    rng, image = np.random.default_rng(2), np.zeros((120, 120))
    hot = np.array([13 * 120 + 31, 60 * 120 + 55, 101 * 120 + 77])
    for x, y in np.stack(np.meshgrid(np.arange(10, 120, 20), np.arange(10, 120, 20)), -1).reshape(-1, 2):
        add_star(image, float(x), float(y), 10.0 ** rng.uniform(3.0, 5.5), fwhm, beta)
    image.ravel()[hot] += 800.0
    frames = [rng.poisson(image + SKY) - SKY for _ in range(8)]
    found = [lasting.sharp_pixels(frame.astype(np.float32), np.sqrt(SKY), 1.5 * fwhm) for frame in frames]
    assert lasting.bad_all_night(found, image.shape).tolist() == hot.tolist()
