"""Master calibration frames against exposures of known level and noise."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.images import masters


def _frames(n_frames=20, shape=(64, 80), sigma=4.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(300, 20, shape)
    return truth, truth + rng.normal(0, sigma, (n_frames, *shape))


@pytest.mark.parametrize("n_frames", [5, 20])
def test_combine__variance_is_that_of_theory_and_of_the_errors(n_frames):
    truth, frames = _frames(n_frames, shape=(200, 200))
    mean, variance = masters.combine(frames)
    assert abs(variance.mean() / (16.0 / n_frames) - 1) < 0.02
    assert abs((mean - truth).std() / np.sqrt(16.0 / n_frames) - 1) < 0.02


def test_combine__leaves_hits_out():
    truth, frames = _frames()
    frames[3, 10, 11] += 5000.0
    frames[7, 20, 21] = np.nan
    mean, variance = masters.combine(frames)
    cells = np.array([10, 20]), np.array([11, 21])
    assert np.all(np.abs(mean - truth)[cells] < 5 * 4.0 / np.sqrt(19))
    assert np.all(variance[cells] < 5 * 16.0 / 19)


def test_combine__strips_of_any_height_give_the_same_bits():
    _, frames = _frames(n_frames=9)
    frames[2, 5] = np.nan
    whole = masters.combine(frames)
    for height in (1, 7, 33):
        strips = [masters.combine(frames[:, y : y + height]) for y in range(0, 64, height)]
        for index in range(2):
            assert np.concatenate([strip[index] for strip in strips]).tobytes() == whole[index].tobytes()


def test_combine__equal_frames_have_no_variance_and_lost_pixels_are_nan():
    frames = np.full((4, 3, 5), 7.0)
    frames[1:, 2, 2] = np.nan
    frames[:, 1, 1] = np.nan
    mean, variance = masters.combine(frames)
    lost = np.zeros((3, 5), bool)
    lost[2, 2] = lost[1, 1] = True
    np.testing.assert_array_equal(mean, np.where(lost, np.nan, 7.0))
    np.testing.assert_array_equal(variance, np.where(lost, np.nan, 0.0))


def test_combine__refuses_a_single_frame():
    with pytest.raises(ValueError, match=r"at least two frames .* got an array of shape \(1, 3, 5\)"):
        masters.combine(np.ones((1, 3, 5)))


def test_find_hot_pixels__finds_those_and_hardly_any_other():
    dark = np.random.default_rng(1).normal(0.5, 0.05, (100, 100))
    dark[4, 5], dark[6, 7] = 8.0, np.nan
    spread, times = np.full(dark.shape, 0.05**2), np.full(10, 20.0)
    hot, excess = masters.find_hot_pixels(dark, spread, times, 1.0)
    assert list(zip(*np.nonzero(hot), strict=True)) == [(4, 5), (6, 7)]
    assert not excess.any()
    assert not masters.find_hot_pixels(np.ones((5, 5)), np.zeros((5, 5)), times, 1.0)[0].any()


def test_find_bad_responses__finds_zero_negative_and_missing():
    flat = np.random.default_rng(2).normal(1, 0.02, (50, 50))
    flat[0, :5] = [0.0, -0.3, np.nan, 0.05, np.inf]
    bad = masters.find_bad_responses(flat)
    assert bad[0, :5].all()
    assert bad.sum() == 5
