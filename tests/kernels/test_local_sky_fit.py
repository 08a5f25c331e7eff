"""Sky that is uneven around stars: where it is, and what it is there."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import add_star

from opticam_dask.kernels.images.sky import subtraction, uneven
from opticam_dask.kernels.sources.profiles.profile import Shape, gaussian_profile, profile_weights

BOX, MESH, RMS = 16, 12, 10.0
GRID = ((BOX * MESH, BOX * MESH), (BOX, BOX))


def pixels_of(level, rng):
    """Sky pixels of boxes whose level is given at every place of the frame, with the noise of their pixels."""
    means = level.reshape(MESH, BOX, MESH, BOX).mean(axis=(1, 3)) + rng.normal(0.0, RMS / BOX, (MESH, MESH))
    return subtraction.SkyPixels(np.full((MESH, MESH), BOX * BOX), means)


def test_unevenness__by_a_ridge_and_a_step_and_not_by_noise_or_slopes():
    rows, columns = np.mgrid[: GRID[0][0], : GRID[0][1]].astype(float)
    xy, noise = np.array([(40.0, 40.0), (150.0, 40.0), (np.nan, 3.0), (150.0, 150.0)]), np.full((MESH, MESH), RMS)
    smooth = 200.0 + 0.5 * columns + 0.001 * (rows - 90.0) ** 2
    odd = 0
    for seed in range(50):
        sky = pixels_of(smooth, np.random.default_rng(seed))
        odd += np.count_nonzero(uneven.unevenness(sky, sky.level(noise, GRID), noise, GRID, xy))
    assert odd <= 2
    ridge = smooth + 40.0 * np.exp(-((columns - rows) ** 2) / 2.0 / 8.0**2)
    for light in (ridge, smooth + 20.0 * ((columns > 46.0) & (columns < 140.0))):
        sky = pixels_of(light, np.random.default_rng(1))
        found = uneven.unevenness(sky, sky.level(noise, GRID), noise, GRID, xy)
        assert 4.0 < found[0] < 60.0
        assert found[2] == 0.0
    # around the ridge alone
    sky = pixels_of(ridge, np.random.default_rng(1))
    assert not uneven.unevenness(sky, sky.level(noise, GRID), noise, GRID, xy)[1]


def windows(skies, flux, rng, size=25):
    """Windows of a star in its middle on each of some skies, and what the fit takes beside them."""
    # pixels make a star of sigma 2 a little wider
    sigma, n = np.sqrt(4.0 + 1.0 / 12.0), len(skies)
    shape = Shape(sigma, sigma, 0.0)
    xy = np.tile((size // 2 + 0.2, size // 2 - 0.3), (n, 1))
    corners = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
    star = np.zeros((size, size))
    add_star(star, *xy[0], flux, 2.0 * np.sqrt(8.0 * np.log(2.0)), None)
    table, wide = gaussian_profile().table(), Shape(1.01 * sigma, 1.01 * sigma, 0.0)
    light = profile_weights(table, xy, *corners, size, shape)
    wider = (profile_weights(table, xy, *corners, size, wide) - light) / 0.01
    mean = np.array(skies) + star
    electrons = mean + rng.normal(0.0, 1.0, mean.shape) * np.sqrt(RMS**2 + np.maximum(mean, 0.0))
    usable, foreign = np.ones(mean.shape, dtype=bool), np.zeros(mean.shape)
    return electrons, usable, np.full(n, RMS), light, wider, foreign, xy, corners, np.full(n, 30.0)


@pytest.mark.parametrize("flux", [0.0, 2e3, 3e4])
def test_fit_sky__is_that_of_a_polynomial_within_its_error(flux):
    y, x = np.mgrid[:25, :25] - 12.0
    sky = 30.0 + 4.0 * x - 2.0 * y + 0.3 * x * x - 0.2 * y * y + 0.1 * x * y
    rng = np.random.default_rng(4)
    given = windows([sky] * 200, flux, rng)
    found = uneven.fit_sky(*given)
    level = found.level(np.arange(200), *given[-2], 25)[:, 12, 12]
    pull = (level - sky[12, 12]) / found.error
    assert np.abs(pull.mean()) < 0.2
    assert 0.2 < pull.std() < 1.2
    assert found.error.mean() < 7.0


def test_fit_sky__has_the_error_of_what_no_polynomial_is():
    x = np.mgrid[:25, :25][1] - 12.0
    skies = [40.0 * (x > edge) for edge in (2.0, 4.0, 6.0, 8.0)] + [40.0 * np.exp(-((x - 5.0) ** 2) / 18.0)]
    given = windows(skies, 1e4, np.random.default_rng(5))
    found = uneven.fit_sky(*given)
    level = found.level(np.arange(len(skies)), *given[-2], 25)[:, 9:16, 9:16].mean(axis=(1, 2))
    true = np.array(skies)[:, 9:16, 9:16].mean(axis=(1, 2))
    assert np.all(np.abs(level - true) < 2.5 * found.error)
    assert np.all(found.error < 20.0)


def test_fit_sky__leaves_out_what_stands_out_and_takes_nothing_from_windows_without_pixels():
    sky = np.full((25, 25), 12.0)
    given = windows([sky] * 3, 5e3, np.random.default_rng(6))
    given[0][:, 3:6, 18:22] += 500.0
    given[1][1] = False
    given[1][2, :, 5:] = False
    found = uneven.fit_sky(*given)
    assert found.level(np.arange(1), given[-2][0][:1], given[-2][1][:1], 25)[0, 12, 12] == pytest.approx(12.0, abs=4.0)
    assert not found.terms[1:].any()
    assert found.error[1:] == pytest.approx(30.0)


def test_fit_sky__is_the_less_believed_the_less_the_mesh_may_be_wrong():
    given = list(windows([np.full((25, 25), 12.0)] * 3, 5e3, np.random.default_rng(6)))
    given[-1] = np.array([0.1, 2.0, 100.0])
    found = uneven.fit_sky(*given)
    assert np.all(found.error < [0.11, 2.0, 3.0])
    assert np.all(np.diff(np.abs(found.terms[:, 0] - 12.0)) < 0.0)


def test_level__beyond_the_pixels_that_were_fitted_is_that_of_the_mesh():
    place, corner = np.array([(50.0, 50.0)]), (np.array([38]), np.array([38]))
    terms = np.zeros((1, uneven.N_TERMS))
    terms[0, [0, 1, -1]] = 5.0, 2.0, 30.0
    sky = uneven.LocalSky(place, 12.5, terms, np.array([1.0]), np.array([9.0]))
    fitted = sky.level(np.array([0]), *corner, 25)[0]
    wide = sky.level(np.array([0]), corner[0] - 40, corner[1] - 40, 105)[0]
    np.testing.assert_allclose(wide[40:65, 40:65], fitted, rtol=0.0, atol=1e-12)
    wide[40:65, 40:65] = 0.0
    assert not wide.any()
    assert sky.error_in(np.array([0]), 25) == 1.0
    assert sky.error_in(np.array([0]), 50) == pytest.approx(0.25 * 1.0 + 0.75 * 9.0)


def test_level_of_group__is_that_of_the_nearest_star():
    places, corner = np.array([(20.0, 20.0), (44.0, 20.0)]), (np.array([0]), np.array([0]))
    terms = np.zeros((2, uneven.N_TERMS))
    terms[:, 0], terms[0, -1] = (7.0, 0.0), 40.0
    sky = uneven.LocalSky(places, 12.5, terms, np.array([1.0, np.nan]), np.array([9.0, 0.0]))
    level = sky.level_of_group(np.arange(2), *corner, 65)
    alone = sky.level(np.array([0]), *corner, 65)[0]
    np.testing.assert_array_equal(level[:, :32], alone[:, :32])
    assert not level[:, 33:].any()
