"""Fluxes by one profile in the seeings of a night, against stars that were integrated over the pixels without noise."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import add_star

from opticam_dask.kernels.sources import moments, photometry
from opticam_dask.kernels.sources.profiles import profile, profile_fit, ring_sums

FLUX, USUAL_FWHM, RADIUS = 1e5, 3.6, 3.6
SLOPES = (None, 4.5, 3.0)


def _stars(fwhm, beta, n_stars=8, size=101):
    """Stars anywhere in their pixels, where they are, and their form."""
    xy = size // 2 + np.random.default_rng(2).uniform(-0.5, 0.5, (n_stars, 2))
    images = np.zeros((n_stars, size, size))
    for image, place in zip(images, xy, strict=True):
        add_star(image, *place, FLUX, fwhm, beta)
    corner = np.zeros(n_stars, dtype=int)
    major, minor, _, converged = moments.adaptive_moments(images, corner, corner, xy, fwhm / 2.35)
    assert converged.all()
    sigma = float(np.sqrt(np.mean(major * minor)))
    return images, xy, profile.Shape(sigma, sigma, 0.0)


@pytest.fixture(scope="module", params=SLOPES, ids=str)
def night(request):
    """Slope of the stars, and the profile of a night in its usual seeing."""
    images, xy, shape = _stars(USUAL_FWHM, request.param)
    rms, corner, fitted = np.full(images.shape, 0.5), np.zeros(len(xy), dtype=int), None
    for _ in range(2):
        table = None if fitted is None else fitted.table()
        rings = ring_sums.measure_rings(images + 10.0, rms, xy, corner, corner, shape, table=table)
        fitted = profile_fit.fit_profile(ring_sums.add_rings([rings] * 100))
    return request.param, fitted


def _totals(night, fwhm):
    """Mean total flux relative to the truth by optimal weights and in an aperture, in one seeing."""
    beta, fitted = night
    images, xy, shape = _stars(fwhm, beta)
    window = np.zeros(len(xy), dtype=int), np.zeros(len(xy), dtype=int), images.shape[1]
    light = profile.profile_weights(fitted.tables().at(shape), xy, *window, shape)
    near = np.where(profile.elliptical_radius(xy, *window, shape) < 4.5, light, 0.0)
    inside = photometry.circular_weights(xy, *window, RADIUS)
    return [float(np.mean(np.sum(one * images, (1, 2)) / np.sum(one * light, (1, 2)))) / FLUX for one in (near, inside)]


def test_total_fluxes__are_the_same_in_all_seeing_and_by_all_weights(night):
    usual = _totals(night, USUAL_FWHM)
    # without wings that nobody sees the total is known
    assert usual == pytest.approx([1.0, 1.0], abs=5e-4)
    assert usual[0] == pytest.approx(usual[1], abs=1e-4)
    for fwhm in (2.7, 3.1, 4.4, 6.5):
        assert _totals(night, fwhm) == pytest.approx(usual, abs=1e-4)


def test_profile__keeps_its_light_and_its_width_whatever_the_size_of_the_pixels(night):
    fitted = night[1]
    rho = np.arange(0.0, 30.0, 0.01)
    usual = np.sum(fitted.at(rho) * rho)
    for part in (0.25, 0.5, 2.0):
        other = fitted.sampled_by(part * fitted.pixel_area)
        assert np.sum(other.at(rho) * rho) == pytest.approx(usual, rel=2e-4)
        assert (other.width > 1.0) == (part < 1.0)


def test_tables__of_an_unknown_seeing_or_of_large_pixels_are_the_one_of_the_night(night):
    fitted = night[1]
    tables, nan = fitted.tables(), float("nan")
    assert np.array_equal(tables.at(profile.Shape(nan, nan, 0.0)), fitted.table())
    coarse = profile.Profile(fitted.coefficients, 2.0)
    assert np.array_equal(coarse.tables().at(profile.Shape(0.6, 0.6, 0.0)), coarse.table())
    # seeing that is better or worse than any that is tabulated counts as the last
    areas = tables.areas
    edge, beyond = (profile.Shape(float(np.sqrt(a)), float(np.sqrt(a)), 0.0) for a in (1 / areas[0], 9 / areas[0]))
    assert tables.at(beyond) == pytest.approx(tables.at(edge), abs=1e-12)


def test_coefficients__of_profiles_with_and_without_rings():
    plain, rho = profile.gaussian_profile(), np.linspace(0, 4, 9)
    rings = profile.Profile(np.concatenate([plain.coefficients, np.full(len(profile.RINGS), 0.01)]))
    rows = profile.coefficients_of([plain, rings])
    assert np.array_equal(profile.Profile(rows[0]).at(rho), plain.at(rho))
    assert np.array_equal(profile.Profile(rows[1]).at(rho), rings.at(rho))
