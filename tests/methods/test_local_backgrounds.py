"""Local sky in an annulus: against truth and against photutils."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.stats import SigmaClip
from photutils.aperture import ApertureStats, EllipticalAnnulus

from opticam_dask import DefaultLocalBackground
from opticam_dask.kernels.sources import annulus, photometry


def _sky(seed=0, shape=(101, 121)):
    return np.random.default_rng(seed).normal(100.0, 10.0, shape)


@pytest.mark.parametrize(("axes", "theta"), [((2.0, None), 0.0), ((2.4, 1.6), 0.8)])
def test_default_local_background__equals_photutils_on_the_same_pixels(axes, theta):
    image, place = _sky(), (57.3, 48.6)
    image[50:53, 68:70] += 400.0
    level, scatter = DefaultLocalBackground()(image, place, *axes, theta)
    major, minor = axes[0], axes[1] or axes[0]
    ring = EllipticalAnnulus(place, 5.0 * major, 7.5 * major, b_out=7.5 * minor, b_in=5.0 * minor, theta=theta)
    stats = ApertureStats(image, ring, sigma_clip=SigmaClip(3.0, maxiters=10), sum_method="center")
    np.testing.assert_allclose([level, scatter], [stats.mean, stats.std], rtol=1e-12)
    assert abs(level - 100.0) < 5.0
    assert abs(scatter - 10.0) < 2.0


def test_clipped_statistics__missing_pixels_do_not_count_and_nothing_gives_nan():
    windows = np.array([_sky(1, (31, 31)), np.full((31, 31), np.nan)])
    windows[0, :, :10] = np.nan
    mean, scatter, n_pixels = annulus.clipped_statistics(windows, np.ones(windows.shape, dtype=bool))
    assert abs(mean[0] - 100.0) < 2.0
    assert n_pixels[0] <= 31 * 21
    assert np.isnan([mean[1], scatter[1]]).all()
    assert n_pixels[1] == 0


def test_annulus_mask__is_that_of_the_pixel_centres():
    xy = np.array([[40.2, 39.7]])
    x0, y0 = photometry.origins(xy, 41)
    mask = annulus.annulus_mask(xy, x0, y0, 41, (6.0, 6.0), (10.0, 10.0), 0.3)
    rows, columns = np.indices((41, 41))
    distance = np.hypot(columns + x0[0] - xy[0, 0], rows + y0[0] - xy[0, 1])
    np.testing.assert_array_equal(mask[0], (distance >= 6.0) & (distance < 10.0))


@pytest.mark.parametrize("edges", [(0.0, 3.0), (5.0, 5.0), (7.0, 6.0), (5.0, np.inf)])
def test_default_local_background__an_annulus_without_pixels_is_refused(edges):
    with pytest.raises(ValueError, match="0 < r_in_scale < r_out_scale"):
        DefaultLocalBackground(*edges)
