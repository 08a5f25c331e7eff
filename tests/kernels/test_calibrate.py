"""Calibration of one frame against simulated exposures."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.images import calibrate
from opticam_dask.kernels.sources import photometry

READ_NOISE, SKY = 1.3, 200.0
STARS = ((30, 30, 5e4), (80, 40, 5e3), (60, 90, 2e5))


def _exposure(seed=0, sky=SKY, read_noise=READ_NOISE, stars=STARS, shape=(120, 120)):
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = np.full(shape, sky)
    for x0, y0, flux in stars:
        image += flux / (2 * np.pi * 1.6**2) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 1.6**2)
    return rng.poisson(image).astype(float) + rng.normal(0, read_noise, shape)


def _core(x, y, half=3):
    return slice(y - half, y + half + 1), slice(x - half, x + half + 1)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, ">u2", ">f8"])
def test_to_electrons__is_the_same_on_a_cut_out_as_on_the_frame(dtype):
    raw = np.random.default_rng(0).integers(0, 65535, (50, 60)).astype(dtype)
    raw.setflags(write=False)
    known = {"gain": 1.7, "dark_current": 0.3, "exposure_time": 2.5}
    whole = calibrate.to_electrons(raw, **known)
    assert whole.dtype == np.float64
    x0, y0 = np.array([10, -4, 55]), np.array([20, 0, 45])
    cut = calibrate.to_electrons(photometry.cut_out(raw, x0, y0, 9), **known)
    np.testing.assert_array_equal(cut, photometry.cut_out(whole, x0, y0, 9))
    np.testing.assert_allclose(whole, raw.astype(float) * 1.7 - 0.75, rtol=1e-14)


def test_to_electrons__takes_the_dark_current_off_in_electrons():
    rng = np.random.default_rng(1)
    gain, dark_current, exposure_time = 2.4, 1.5, 30.0
    raw = rng.poisson(SKY + dark_current * exposure_time, (200, 200)) / gain
    electrons = calibrate.to_electrons(raw, gain=gain, dark_current=dark_current, exposure_time=exposure_time)
    assert abs(electrons.mean() - SKY) < 4.0 * np.sqrt((SKY + 45.0) / raw.size)


def test_to_electrons__keeps_pixels_without_data():
    found = calibrate.to_electrons(np.array([[np.nan, 1.0]]), gain=2.0, dark_current=0.0, exposure_time=1.0)
    np.testing.assert_array_equal(found, [[np.nan, 2.0]])


def test_rebin__sums_and_refuses_what_does_not_divide():
    image = np.arange(24.0).reshape(4, 6)
    np.testing.assert_array_equal(calibrate.rebin(image, 2), [[14, 22, 30], [62, 70, 78]])
    np.testing.assert_array_equal(calibrate.rebin(image, 1), image)
    for factor in (4, 3, 0, -2):
        with pytest.raises(ValueError, match=rf"must divide the frame: got shape \(4, 6\) and factor {factor}"):
            calibrate.rebin(image, factor)


def test_rebin__missing_pixels_count_as_the_mean_of_the_others():
    image = np.full((4, 4), 3.0)
    image[1, 2] = np.nan
    image[2:, :2] = np.nan
    np.testing.assert_array_equal(calibrate.rebin(image, 2), [[12, 12], [np.nan, 12]])


def test_rebin_response__is_the_mean_with_its_variance():
    rng = np.random.default_rng(4)
    response, variance = rng.normal(1, 0.02, (4, 6)), np.full((4, 6), 4e-6)
    response[0, 0] = np.nan
    response[2:, 4:] = np.nan
    mean, error = calibrate.rebin_response(response, variance, 2)
    np.testing.assert_allclose(mean[0, 0], np.nanmean(response[:2, :2]), rtol=1e-14)
    np.testing.assert_allclose(mean[1, 1], response[2:, 2:4].mean(), rtol=1e-14)
    np.testing.assert_allclose(error, [[4e-6 / 3, 1e-6, 1e-6], [1e-6, 1e-6, np.nan]], rtol=1e-12)
    assert np.isnan(mean[1, 2])


@pytest.mark.parametrize("gain", [0.5, 4.0])
def test_to_electrons__undoes_bias_dark_and_response(gain):
    rng = np.random.default_rng(5)
    truth = rng.uniform(100, 5000, (40, 50))
    bias, dark, flat = rng.normal(300, 5, (40, 50)), rng.uniform(0, 2, (40, 50)), rng.normal(1, 0.02, (40, 50))
    flat[3, 4], flat[5, 6], flat[7, 8] = 0.0, -0.1, np.nan
    bad = np.zeros((40, 50), bool)
    bad[10, 11] = True
    raw = truth / gain * flat + dark * 20.0 + bias
    masters = {"bias": bias, "dark": dark, "flat": flat, "bad_pixels": bad}
    # the dark current of the header must not be taken off as well
    found = calibrate.to_electrons(raw, gain=gain, dark_current=9.0, exposure_time=20.0, **masters)
    unusable = bad | ~(flat > 0)
    np.testing.assert_array_equal(np.isnan(found), unusable)
    np.testing.assert_allclose(found[~unusable], truth[~unusable], rtol=1e-10)
    x0, y0 = np.array([10, 2]), np.array([20, 1])
    cut = {name: photometry.cut_out(master, x0, y0, 9) for name, master in masters.items()}
    part = calibrate.to_electrons(
        photometry.cut_out(raw, x0, y0, 9),
        gain=gain,
        dark_current=9.0,
        exposure_time=20.0,
        **(cut | {"bad_pixels": cut["bad_pixels"] == 1}),
    )
    np.testing.assert_array_equal(part, photometry.cut_out(found, x0, y0, 9))


def test_to_electrons__header_dark_current_is_taken_off_before_the_flat():
    found = calibrate.to_electrons(
        np.array([[30.0]]), gain=2.0, dark_current=5.0, exposure_time=4.0, flat=np.array([[0.8]])
    )
    np.testing.assert_allclose(found, [[(60 - 20) / 0.8]], rtol=1e-14)


def test_rebin_mask__any_pixel_marks_the_block():
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    assert calibrate.rebin_mask(mask, 2).tolist() == [[False, True, False], [False, False, False]]
    with pytest.raises(ValueError, match="must divide the frame"):
        calibrate.rebin_mask(mask, 4)


def test_remove_cosmic_rays__repairs_hits_and_leaves_stars_alone():
    clean = _exposure()
    hit = clean.copy()
    cells = (np.array([15, 50, 51, 100]), np.array([70, 20, 20, 110]))
    hit[cells] += 3000.0
    hit.setflags(write=False)
    repaired, mask = calibrate.remove_cosmic_rays(hit, read_noise=READ_NOISE)
    assert mask[cells].all()
    assert mask.sum() < 10
    # the mean of some twenty neighbours: as good as the sky to a few times its noise
    assert np.all(np.abs(repaired[cells] - SKY) < 3.0 * np.sqrt(SKY))
    np.testing.assert_array_equal(repaired[~mask], hit[~mask])
    for x, y, _ in STARS:
        assert not mask[_core(x, y)].any()


def test_remove_cosmic_rays__hardly_marks_anything_in_frames_without_hits():
    marked = sum(calibrate.remove_cosmic_rays(_exposure(seed), read_noise=READ_NOISE)[1].sum() for seed in range(5))
    assert marked < 1e-4 * 5 * 120 * 120


def test_remove_cosmic_rays__low_read_noise_finds_what_a_high_one_takes_for_noise():
    hit = _exposure(sky=2.0, stars=())
    hit[60, 60] += 60.0
    assert calibrate.remove_cosmic_rays(hit, read_noise=READ_NOISE)[1][60, 60]
    assert not calibrate.remove_cosmic_rays(hit, read_noise=20.0)[1][60, 60]
    # unknown counts as none, which gives a finite answer
    assert calibrate.remove_cosmic_rays(hit, read_noise=float("nan"))[1][60, 60]


def test_remove_cosmic_rays__saturated_stars_are_not_hits():
    image = np.minimum(_exposure(stars=((60, 60, 3e6),)), 30_000.0)
    image[58:63, 66:69] = 30_000.0  # charge that spilled along the rows: edges as sharp as those of a hit
    _, mask = calibrate.remove_cosmic_rays(image, read_noise=READ_NOISE, saturation=30_000.0)
    assert not mask[image >= 30_000.0].any()
    _, mask = calibrate.remove_cosmic_rays(image, read_noise=READ_NOISE)
    assert mask[image >= 30_000.0].any()


def test_remove_cosmic_rays__pixels_without_data_stay_so_and_are_no_hits():
    image = _exposure()
    image[5, 5] = image[0, 0] = np.nan
    image[70:80, 10:20] = np.nan
    image[15, 70] += 3000.0
    repaired, mask = calibrate.remove_cosmic_rays(image, read_noise=READ_NOISE)
    np.testing.assert_array_equal(np.isnan(repaired), np.isnan(image))
    assert not mask[np.isnan(image)].any()
    assert mask[15, 70]
    empty, mask = calibrate.remove_cosmic_rays(np.full((20, 20), np.nan), read_noise=READ_NOISE)
    assert np.isnan(empty).all()
    assert not mask.any()


def test_remove_cosmic_rays__the_same_frame_gives_the_same_bits():
    image = _exposure(3)
    image[40, 50] += 2000.0
    first, again = (calibrate.remove_cosmic_rays(image.copy(), read_noise=READ_NOISE) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.tobytes() == other.tobytes()
