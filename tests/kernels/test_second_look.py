"""The second search of a stack looks at parts of it where that is enough, and finds the same as in the whole."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from opticam_dask.kernels.sources import second_look, stack_psf
from opticam_dask.kernels.sources.profiles import profile

SHAPE = 90, 110
RNG = np.random.default_rng(3)
IMAGE, INVERSE = RNG.normal(0.0, 1.0, SHAPE), RNG.uniform(0.5, 2.0, SHAPE)


@pytest.mark.parametrize("n_pixels", [6, 4000])  # windows around them, or the whole image
def test_matched_at__is_the_filter_of_the_whole_image(n_pixels):
    row, column = (np.append(RNG.integers(0, side, n_pixels), [0, side - 1]) for side in SHAPE)
    expected = second_look._matched(IMAGE, INVERSE, 1.7)[row, column]
    np.testing.assert_array_equal(second_look._matched_at(IMAGE, INVERSE, 1.7, row, column), expected)


def test_peaks__are_the_pixels_that_equal_the_highest_around_them():
    values = np.round(IMAGE, 1)  # some neighbours are equal
    is_known = RNG.random(SHAPE) > 0.1
    expected = (values == maximum_filter(values, size=3)) & (values > 1.0) & is_known
    np.testing.assert_array_equal(second_look._peaks(values, 1.0, is_known), np.nonzero(expected))


def test_summed__adds_the_sum_of_each_part_to_the_image():
    parts = [(RNG.integers(0, IMAGE.size, 5000), RNG.normal(size=5000)) for _ in range(3)]
    expected = sum(np.bincount(places, values, minlength=IMAGE.size) for places, values in parts)
    np.testing.assert_array_equal(second_look._summed(iter(parts), SHAPE), expected.reshape(SHAPE))


@pytest.mark.parametrize("moved", [0, 3])
def test_psf__deviations_from_a_radial_profile_end_with_their_grid_in_windows_of_all_sizes(moved):
    gaussian, grid = profile.gaussian_profile().table(), 0.01 * RNG.random((9, 9))
    psf = stack_psf.Psf(gaussian, profile.Shape(1.5, 1.2, 0.4), grid, grid)
    radial = stack_psf.Psf(gaussian, psf.shape)
    xy = np.array([[40.3, 52.8], [61.0, 33.49]])
    _, x0, y0 = psf.light(xy, 20)
    x0 = x0 + moved
    light, alone = psf.light_in(xy, x0, y0, 41), radial.light_in(xy, x0, y0, 41)
    np.testing.assert_array_equal(light, alone + stack_psf._looked_up(grid, xy, x0, y0, 41))
    assert np.count_nonzero(light != alone) > 100
    expected = np.hypot(radial.error(xy, 20), stack_psf._looked_up(grid, xy, x0 - moved, y0, 41))
    np.testing.assert_array_equal(psf.error(xy, 20), expected)
