"""Photometry kernels against photutils, sep and truth."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from hypothesis import given, settings
from hypothesis import strategies as st
from known_frames import field_shape
from photutils.aperture import CircularAperture, EllipticalAperture, aperture_photometry

from opticam_dask.kernels.sources import centroids, moments, noise, photometry


def _gaussian(shape, x0, y0, sigma_x, sigma_y=None, theta=0.0, flux=1000.0):
    sigma_y = sigma_y or sigma_x
    y, x = np.indices(shape)
    u = (x - x0) * np.cos(theta) + (y - y0) * np.sin(theta)
    v = -(x - x0) * np.sin(theta) + (y - y0) * np.cos(theta)
    return flux / (2 * np.pi * sigma_x * sigma_y) * np.exp(-0.5 * ((u / sigma_x) ** 2 + (v / sigma_y) ** 2))


def _positions(n=40, seed=0, low=-3.0, high=103.0):
    return np.random.default_rng(seed).uniform(low, high, (n, 2))


@pytest.mark.parametrize("radius", [0.4, 1.0, 3.7, 9.2])
def test_aperture_flux__circle_equals_photutils_and_sep(radius):
    image = np.random.default_rng(1).normal(10.0, 3.0, (100, 100))
    xy = _positions()
    size = 2 * int(np.ceil(radius)) + 3
    x0, y0 = photometry.origins(xy, size)
    cutouts = photometry.cut_out(image, x0, y0, size)
    flux, _ = photometry.aperture_flux(cutouts, photometry.circular_weights(xy, x0, y0, size, radius))
    expected = aperture_photometry(image, CircularAperture(xy, radius), method="exact")["aperture_sum"]
    inside = np.isfinite(flux)
    np.testing.assert_allclose(flux[inside], np.asarray(expected)[inside], rtol=1e-10, atol=1e-8)
    within = np.all((xy > radius + 1) & (xy < 98 - radius), axis=1)
    other, _, _ = sep.sum_circle(image, xy[within, 0], xy[within, 1], radius, subpix=0)
    np.testing.assert_allclose(flux[within], other, rtol=1e-6)


@pytest.mark.parametrize("theta", [0.0, 0.6, 2.5])
def test_aperture_flux__ellipse_equals_photutils(theta):
    image = np.random.default_rng(1).normal(10.0, 3.0, (100, 100))
    xy = _positions(low=12.0, high=88.0)
    x0, y0 = photometry.origins(xy, 17)
    weights = photometry.elliptical_weights(xy, x0, y0, 17, 6.3, 3.1, theta)
    flux, share = photometry.aperture_flux(photometry.cut_out(image, x0, y0, 17), weights)
    expected = aperture_photometry(image, EllipticalAperture(xy, 6.3, 3.1, theta=theta), method="exact")["aperture_sum"]
    np.testing.assert_allclose(flux, np.asarray(expected), rtol=1e-10)
    np.testing.assert_allclose(share, 1.0)


def test_aperture_flux__nan_pixels_count_as_missing_area():
    cutouts = np.ones((2, 5, 5))
    cutouts[0, 2, 2] = np.nan
    cutouts[1] = np.nan
    flux, share = photometry.aperture_flux(cutouts, np.ones((2, 5, 5)))
    assert flux[0] == 24.0
    assert share[0] == 24.0 / 25.0
    assert np.isnan(flux[1])


def test_cut_out__beyond_the_frame_is_nan_and_nan_positions_give_nothing():
    image = np.arange(12.0).reshape(3, 4)
    windows = photometry.cut_out(image, *photometry.origins(np.array([[0.0, 0.0], [3.4, 2.4], [np.nan, 1.0]]), 3), 3)
    np.testing.assert_array_equal(windows[0], [[np.nan] * 3, [np.nan, 0, 1], [np.nan, 4, 5]])
    np.testing.assert_array_equal(windows[1][:2, :2], image[1:, 2:])
    assert np.isnan(windows[2]).all()


def _all_results(image, xy, sigma):
    """Every kernel on every source: one row of numbers each."""
    x0, y0 = photometry.origins(xy, 15)
    cutouts = photometry.cut_out(image, x0, y0, 15)
    rms = np.full(cutouts.shape, 0.1)
    weights = photometry.circular_weights(xy, x0, y0, 15, 4.0)
    ellipses = photometry.elliptical_weights(xy, x0, y0, 15, 5.0, 3.0, 0.4)
    centres, converged = centroids.windowed_centroids(cutouts, x0, y0, xy, 1.8)
    return np.column_stack(
        [
            *photometry.aperture_flux(cutouts, weights),
            *photometry.aperture_flux(cutouts, ellipses),
            noise.aperture_variance(weights, cutouts, rms),
            centres,
            converged,
            centroids.centroid_errors(cutouts, rms, x0, y0, centres, 1.8),
            *moments.adaptive_moments(cutouts, x0, y0, xy, sigma),
        ]
    )


@pytest.mark.parametrize("chosen", [[0], [7], [3, 2], [11, 4, 0, 7, 7], slice(None, None, -1)])
def test_kernels__one_source_does_not_depend_on_the_others(chosen):
    rng = np.random.default_rng(0)
    xy = _positions(16)
    xy[5] = np.nan
    image = sum(
        _gaussian((100, 100), x, y, rng.uniform(1, 3), flux=rng.uniform(5, 1e3)) for x, y in xy[np.r_[:5, 6:16]]
    )
    image = image + rng.normal(0, 0.1, (100, 100))
    image[30, 30:35] = np.nan
    sigma = rng.uniform(0.5, 6.0, 16)
    sigma[4] = np.nan
    whole = _all_results(image, xy, sigma)
    assert np.isfinite(whole).mean() > 0.5
    np.testing.assert_array_equal(_all_results(image, xy[chosen], sigma[chosen]), whole[chosen])


@settings(max_examples=50, deadline=None)
@given(st.floats(18.0, 22.0), st.floats(18.0, 22.0), st.floats(1.0, 2.5))
def test_windowed_centroids__of_a_clean_star_are_exact(x, y, sigma):
    image = _gaussian((41, 41), x, y, sigma)
    x0, y0 = np.array([10]), np.array([10])
    cutouts = photometry.cut_out(image, x0, y0, 21)
    xy, converged = centroids.windowed_centroids(cutouts, x0, y0, np.array([[20.0, 20.0]]), 1.8, n_iterations=30)
    if np.hypot(x - 20, y - 20) < 2.0:
        assert converged[0]
        np.testing.assert_allclose(xy[0], [x, y], atol=0.01)


@pytest.mark.parametrize("flux", [1e3, 1e4, 1e5])
def test_windowed_centroids__scatter_as_much_as_their_photons_allow(flux):
    rng = np.random.default_rng(int(flux))
    sigma, sky, n_stars = 1.6, 100.0, 1000
    truth = 10.0 + rng.uniform(-0.5, 0.5, (n_stars, 2))
    stars = np.stack([_gaussian((21, 21), x, y, sigma, flux=flux) for x, y in truth])
    cutouts = rng.poisson(stars + sky) - sky
    zeros = np.zeros(n_stars, int)
    xy, converged = centroids.windowed_centroids(cutouts, zeros, zeros, np.full((n_stars, 2), 10.0), sigma)
    assert converged.mean() > 0.99
    off = (xy - truth)[converged]
    # variance of the window's first moment: sum(w^2 dx^2 V) / (sum(w S) / 2)^2
    window = stars[0] / stars[0].max()
    dx = np.arange(21) - truth[0, 0]
    expected = 2.0 * np.sqrt(np.sum(window**2 * dx**2 * (stars[0] + sky))) / np.sum(window * stars[0])
    assert np.all(np.abs(off.std(axis=0) / expected - 1.0) < 0.1)
    assert np.all(np.abs(off.mean(axis=0)) < 4.0 * expected / np.sqrt(n_stars))


def test_windowed_centroids__noise_alone_stays_where_it_was():
    cutouts = np.random.default_rng(3).normal(0.0, 1.0, (50, 21, 21)) - 5.0
    start = np.full((50, 2), 10.0)
    xy, converged = centroids.windowed_centroids(cutouts, np.zeros(50, int), np.zeros(50, int), start, 1.5)
    assert not converged.any()
    np.testing.assert_array_equal(xy, start)


@pytest.mark.parametrize(("sigma_x", "sigma_y", "theta"), [(1.5, 1.5, 0.0), (2.5, 1.5, 0.7), (3.0, 1.2, -1.1)])
def test_adaptive_moments__give_the_shape_of_a_gaussian(sigma_x, sigma_y, theta):
    image = _gaussian((61, 61), 30.2, 29.6, sigma_x, sigma_y, theta)
    origin = np.array([0])
    found = moments.adaptive_moments(
        image[None], origin, origin, np.array([[30.0, 30.0]]), np.array([2.0]), n_iterations=100
    )
    assert found[3][0]
    np.testing.assert_allclose([found[0][0], found[1][0]], [sigma_x, sigma_y], rtol=0.01)
    if sigma_x != sigma_y:
        np.testing.assert_allclose(np.exp(2j * found[2][0]), np.exp(2j * theta), atol=0.02)


def test_adaptive_moments__of_a_star_summed_over_pixels_are_those_of_the_pixels():
    sigma, fine = 1.5, 11
    parts = (np.arange(41 * fine) + 0.5) / fine - 0.5
    profile = np.exp(-0.5 * ((parts - 20.3) / sigma) ** 2)
    image = np.outer(profile, profile).reshape(41, fine, 41, fine).sum(axis=(1, 3))
    origin = np.array([0])
    semimajor, semiminor, _, ok = moments.adaptive_moments(
        image[None], origin, origin, np.array([[20.0, 20.0]]), np.array([2.0])
    )
    assert ok[0]
    # a pixel adds the variance of a box of width 1
    np.testing.assert_allclose([semimajor[0], semiminor[0]], np.sqrt(sigma**2 + 1.0 / 12.0), rtol=0.005)


def test_field_shape__is_that_of_the_stars_and_leaves_saturated_ones_out():
    image = sum(_gaussian((100, 100), x, y, 2.0) for x, y in ((20, 20), (70, 30), (40, 75)))
    image = image + _gaussian((100, 100), 80, 80, 5.0, flux=1e5)
    xy = np.array([[20.0, 20], [70, 30], [40, 75], [80, 80]])
    saturated = image > 500
    form = field_shape(image, xy, np.full(4, 2.0), 1.0, saturated=saturated)
    np.testing.assert_allclose(form.fwhm, 2.0 * photometry.SIGMA_TO_FWHM, rtol=0.01)
    np.testing.assert_allclose([form.semimajor_sigma, form.semiminor_sigma], 2.0, rtol=0.01)
    assert all(np.isnan(value).all() for value in field_shape(image, np.empty((0, 2)), np.empty(0), 1.0))


def test_field_shape__follows_elongated_stars_and_not_a_blend():
    places = ((20, 20), (70, 30), (40, 75), (75, 78))
    image = sum(_gaussian((100, 100), x, y, 2.4, 1.6, 0.5, flux=2e4) for x, y in places)
    image = image + _gaussian((100, 100), 25, 45, 1.7, flux=5e4) + _gaussian((100, 100), 28, 48, 1.7, flux=5e4)
    noise = np.random.default_rng(3).normal(0.0, 3.0, image.shape)
    xy = np.array([*places, (26.5, 46.5)], dtype=float)
    form = field_shape(image + noise, xy, np.full(5, 2.0), 3.0)
    np.testing.assert_allclose([form.semimajor_sigma, form.semiminor_sigma], [2.4, 1.6], rtol=0.02)
    np.testing.assert_allclose(form.orientation, 0.5, atol=0.03)


def test_match_one_to_one__closest_first_and_each_detection_once():
    predicted = np.array([[0.0, 0.0], [1.0, 0.0], [50.0, 50.0], [np.nan, 0.0]])
    detected = np.array([[0.6, 0.0], [1.5, 0.0], [np.nan, np.nan], [58.0, 50.0]])
    assert photometry.match_one_to_one(predicted, detected, 5.0).tolist() == [1, 0, -1, -1]
    assert photometry.match_one_to_one(predicted, np.empty((0, 2)), 5.0).tolist() == [-1] * 4
    assert photometry.match_one_to_one(np.empty((0, 2)), detected, 5.0).tolist() == []
    assert photometry.match_one_to_one(predicted, predicted, 5.0).tolist() == [0, 1, 2, -1]


@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_match_one_to_one__equals_picking_the_closest_pair_again_and_again(seed, n, m):
    rng = np.random.default_rng(seed)
    predicted, detected = rng.uniform(0, 20, (n, 2)), rng.uniform(0, 20, (m, 2))
    distance = np.hypot(*(predicted[:, None] - detected[None]).T).T.reshape(n, m)
    expected = np.full(n, -1)
    while distance.size and distance.min() <= 4.0:
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        expected[i], distance[i, :], distance[:, j] = j, np.inf, np.inf
    assert photometry.match_one_to_one(predicted, detected, 4.0).tolist() == expected.tolist()


def test_recentring_weight__bright_sources_follow_their_centroid_and_faint_ones_do_not():
    cutouts = np.stack([_gaussian((21, 21), 10, 10, 1.5, flux=flux) for flux in (1e6, 30.0, -5.0)])
    zeros = np.zeros(3, int)
    errors = centroids.centroid_errors(cutouts, np.full((3, 21, 21), 10.0), zeros, zeros, np.full((3, 2), 10.0), 1.5)
    weight = centroids.recentring_weight(errors, prior_sigma=0.1)
    assert weight[0] > 0.99
    assert weight[1] < 0.05
    assert weight[2] == 0.0


def test_aperture_variance__a_negative_source_leaves_that_of_the_sky():
    shape = (1, 3, 3)
    assert noise.aperture_variance(np.ones(shape), np.full(shape, -5.0), np.full(shape, 2.0))[0] == 36.0


def test_aperture_variance__equals_the_scatter_of_simulated_apertures():
    rng = np.random.default_rng(0)
    star = _gaussian((15, 15), 7.2, 6.9, 1.6, flux=3000.0)
    origin, xy = np.array([0]), np.array([[7.2, 6.9]])
    weights = photometry.circular_weights(xy, origin, origin, 15, 4.0)
    frames = rng.poisson(star + 100.0, (20_000, 15, 15)) - 100.0 + rng.normal(0.0, 5.0, (20_000, 15, 15))
    sums = np.einsum("nij,ij->n", frames, weights[0])
    rms = np.full((20_000, 15, 15), np.sqrt(100.0 + 25.0))
    variance = noise.aperture_variance(np.broadcast_to(weights, frames.shape), frames, rms)
    assert abs(np.sqrt(variance.mean()) / sums.std() - 1.0) < 0.02


@pytest.mark.parametrize("radius", [2.3, 5.0, 7.7])
def test_circular_weights__pixels_beyond_the_disk_have_none(radius):
    rng, size = np.random.default_rng(8), 19
    xy = 30.0 + rng.uniform(-0.5, 0.5, (200, 2))
    corners = np.full(200, 30 - size // 2)
    weights = photometry.circular_weights(xy, corners, corners, size, radius)
    pixels = 30 - size // 2 + np.arange(size)
    away = [np.maximum(np.abs(pixels - xy[:, axis, None]) - 0.5, 0.0) for axis in (0, 1)]
    nearest = np.hypot(away[0][:, None, :], away[1][:, :, None])
    assert not weights[nearest > radius].any()
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), np.pi * radius**2, rtol=1e-12)
