"""Sums over windows, and counts of their pixels, in C and in NumPy: the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_kernels import needs_compiled

from opticam_dask.kernels import compiled
from opticam_dask.kernels.sources import centroids, noise, photometry, window_sums


def _windows(n, size, *, seed=0):
    """Weights, electrons with gaps, RMS and light of windows."""
    rng = np.random.default_rng(seed)
    weights = np.clip(rng.normal(0.4, 0.6, (n, size, size)), 0.0, 1.0)
    electrons = rng.normal(0.0, 30.0, weights.shape) * np.exp(rng.normal(0.0, 3.0, weights.shape))
    electrons[rng.random(weights.shape) < 0.03] = np.nan
    electrons[rng.random(weights.shape) < 0.01] = np.inf
    rms = np.where(weights > 0, rng.uniform(5.0, 9.0, weights.shape), np.nan)
    return weights, electrons, rms, rng.random(weights.shape)


@needs_compiled
@pytest.mark.parametrize("size", [1, 2, 3, 11, 13, 19, 41])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_sums_over_windows__are_the_same_bits_in_both_forms(both, n, size):
    weights, electrons, rms, light = _windows(n, size)
    flat = np.broadcast_to(np.full((n, 1, 1), 6.5), rms.shape)
    for of_pixel in (rms, flat):
        for share in (light, None):
            np.testing.assert_array_equal(*both(window_sums.aperture_sums, weights, electrons, of_pixel, share))
    corner, xy = np.arange(n) * 7 - 3, (np.arange(n) * 7.0)[:, None] + np.array([0.3, 0.1]) + size / 2.0 - 3.5
    for of_pixel in (np.nan_to_num(rms, nan=6.0), flat):
        np.testing.assert_array_equal(
            *both(centroids.centroid_errors, electrons, of_pixel, corner, corner, xy, 0.2 * size + 0.5)
        )


def test_sums_over_apertures__give_flux_and_variance():
    weights, electrons, rms, light = _windows(9, 13)
    sums = window_sums.aperture_sums(weights, electrons, rms, light)
    flux, share = photometry.aperture_flux(electrons, weights)
    np.testing.assert_array_equal(sums.flux, flux)
    np.testing.assert_array_equal(sums.area / sums.whole, share)
    np.testing.assert_array_equal(sums.variance, noise.aperture_variance(weights, electrons, rms))
    np.testing.assert_array_equal(sums.inside, np.sum(weights * light, axis=(1, 2)))
    np.testing.assert_array_equal(
        sums.seen, np.sum(np.where(np.isfinite(electrons), weights * light, 0.0), axis=(1, 2))
    )
    assert np.isnan(window_sums.aperture_sums(weights, electrons, rms).inside).all()


@needs_compiled
def test_pixels__are_counted_the_same_by_both_forms(both):
    rng, shape = np.random.default_rng(1), (20, 30)
    corners = np.array([-4, 10, 25, 40, -20]), np.array([-4, 3, 15, 5, 2])
    counted, saturated, stray = (rng.random((5, 9, 9)) < share for share in (0.5, 0.1, 0.2))
    electrons = np.where(rng.random(counted.shape) < 0.1, np.nan, 1.0)
    fast, plain = both(window_sums.pixel_facts, corners, counted, electrons, saturated, stray, shape)
    np.testing.assert_array_equal(fast, plain)
    assert fast.there[1] == counted[1].sum()
    assert fast.beyond[3] == counted[3].sum()
    assert (fast.there + fast.beyond == counted.sum(axis=(1, 2))).all()


@needs_compiled
@pytest.mark.parametrize(("size", "block"), [(1, 2), (11, 2), (19, 3), (25, 4)])
def test_blocks_of_deviations__are_the_same_in_both_forms(both, size, block):
    rng = np.random.default_rng(size)
    deviation, used = rng.normal(0.0, 1.5, (6, size, size)), rng.random((6, size, size)) < 0.6
    used[0], deviation[1, 0, 0] = False, np.nan
    used[1, 0, 0] = True
    fast, plain = both(window_sums.block_excess, deviation, used, block)
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@needs_compiled
@pytest.mark.parametrize("radius", [0.3, 1.7, 4.0, 30.0])
def test_shares_of_pixels_in_a_disk__are_the_same_bits_in_both_forms(both, radius):
    xy = np.random.default_rng(3).uniform(-1.0, 1.0, (9, 2)) + np.array([50.0, 20.0])
    xy[7], xy[8] = np.nan, [48.5, 20.0]
    weights, plain = both(photometry.circular_weights, xy, np.full(9, 45), np.full(9, 15), 11, radius)
    np.testing.assert_array_equal(weights, plain)
    np.testing.assert_array_equal(weights[7], 0.0)


@needs_compiled
def test_windows_are_added_and_cut_the_same_by_both_forms(both):
    rng = np.random.default_rng(4)
    windows, of = rng.normal(size=(30, 9, 9)), rng.integers(-1, 5, 30)
    fast, plain = both(window_sums.added_windows, 5, of, rng.normal(size=30), windows)
    np.testing.assert_array_equal(fast, plain)
    x, y = rng.integers(0, 5, (2, 30))
    for values in (windows, windows > 0, np.broadcast_to(windows[:, :1, :1], windows.shape)):
        fast, plain = both(window_sums.inner_windows, values, x, y, 5)
        np.testing.assert_array_equal(fast, plain)
        np.testing.assert_array_equal(fast[7], values[7, y[7] : y[7] + 5, x[7] : x[7] + 5])


@needs_compiled
def test_windows_that_do_not_belong_together__are_refused():
    native, one, two = compiled.native, np.zeros((1, 3, 3)), np.zeros((2, 3, 3))
    with pytest.raises(ValueError, match="windows must have one shape"):
        native.aperture_sums(one, two, one, None, np.empty((7, 1)))
    with pytest.raises(ValueError, match=r"sums must have shape \(7, n\)"):
        native.aperture_sums(one, one, one, None, np.empty((6, 1)))
    with pytest.raises(ValueError, match="rms belong to them"):
        native.centroid_sums(one, two, np.zeros((4, 1, 3)), np.empty((3, 1)), 16.0)
    with pytest.raises(ValueError, match=r"along must have shape \(4, n, size\)"):
        native.centroid_sums(one, one, np.zeros((3, 1, 3)), np.empty((3, 1)), 16.0)
    mask = np.zeros((1, 3, 3), dtype=bool)
    with pytest.raises(ValueError, match="blocks have pixels"):
        native.block_excess(one, mask, np.empty((3, 1)), 0)
    with pytest.raises(ValueError, match=r"found must have shape \(3, n\)"):
        native.block_excess(one, mask, np.empty((2, 1)), 2)
    nothing = np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match="must lie in their windows"):
        native.inner_windows(one, nothing, nothing + 1, np.empty((1, 3, 3)))
    with pytest.raises(ValueError, match="do not belong together"):
        native.add_windows(one, nothing + 1, np.zeros(1), one)
    with pytest.raises(ValueError, match="edges must have shape"):
        native.disk_shares(np.zeros((5, 1, 3)), one, 0.0)
    mask, facts = np.zeros((1, 3, 3), dtype=bool), np.empty((6, 1), dtype=np.int64)
    with pytest.raises(ValueError, match="windows must have one shape"):
        native.pixel_facts(np.zeros((2, 1), dtype=np.int64), mask, two, mask, mask, facts, 9, 9)
    with pytest.raises(ValueError, match=r"corners must have shape \(2, n\)"):
        native.pixel_facts(np.zeros((1, 2), dtype=np.int64), mask, one, mask, mask, facts, 9, 9)
