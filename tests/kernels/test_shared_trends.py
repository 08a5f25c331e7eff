"""Trends that stars share are taken off and transits are not; how often errors hold is told as it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from opticam_dask.kernels.series import shared_trends
from opticam_dask.kernels.series.coverage import coverage_of

N_FRAMES, N_STARS, NOISE = 150, 24, 0.002


def _night(seed, *, amplitude=1.0):
    """Relative fluxes of a target (first) with a 1 % transit and of stars, with extinction and flat residuals."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0.0, 0.25, N_FRAMES)
    airmass = 1.1 + 6.0 * (time - 0.1) ** 2
    drift = np.cumsum(rng.normal(0, 0.6, N_FRAMES))
    conditions = np.column_stack([airmass, airmass**2, drift])
    scaled = (conditions - conditions.mean(axis=0)) / conditions.std(axis=0)
    colour, response = rng.normal(0, 1, (2, N_STARS + 1))
    shared = amplitude * (0.005 * scaled[:, :1] * colour + 0.003 * scaled[:, 2:] * response)
    noise = NOISE * np.exp(rng.normal(0, 0.3, N_STARS + 1))
    transit = np.where(np.abs(time - 0.12) < 0.03, 0.99, 1.0)
    flux = (1.0 + shared) * (1.0 + noise * rng.standard_normal((N_FRAMES, N_STARS + 1)))
    flux[:, 0] *= transit
    return flux, np.broadcast_to(noise, flux.shape), transit == 1.0, conditions


def _corrected(flux, error, conditions):
    found = shared_trends.shared_trends(flux[:, 1:], error[:, 1:])
    effects, _ = shared_trends.explained_by(found.effects, found.effects_err, conditions)
    deviation, deviation_err = shared_trends.relative_to_level(flux[:, :1], error[:, :1])
    beside = shared_trends.coefficients_beside_a_dip(deviation[:, 0], deviation_err[:, 0], effects)
    return flux[:, 0] / (1.0 + effects @ beside[1:]), found.n_components


def test_sysrem__leaves_white_noise_and_the_transit():
    scatter, depths, before, numbers = [], [], [], []
    for seed in range(25):
        flux, error, outside, conditions = _night(seed)
        corrected, number = _corrected(flux, error, conditions)
        numbers.append(number)
        before.append(np.std(flux[outside, 0]) / error[0, 0])
        scatter.append(np.std(corrected[outside]) / error[0, 0])
        depths.append(1.0 - np.mean(corrected[~outside]) / np.mean(corrected[outside]))
    assert np.mean(before) > 1.8
    assert np.mean(scatter) < 1.1
    assert np.mean(depths) == pytest.approx(0.01, rel=0.03)
    assert np.median(numbers) == 2


def test_sysrem__nothing_is_taken_off_where_nothing_is_shared():
    for seed in range(5):
        flux, error, _, conditions = _night(seed, amplitude=0.0)
        corrected, number = _corrected(flux, error, conditions)
        assert number == 0
        np.testing.assert_array_equal(corrected, flux[:, 0])


def test_sysrem__equal_errors_give_the_principal_components():
    rng = np.random.default_rng(3)
    deviation = np.outer(rng.normal(0, 1, 80), rng.normal(0, 0.02, 12)) + rng.normal(0, 0.002, (80, 12))
    effects, _ = shared_trends.find_effects(deviation, np.full_like(deviation, 0.002), 1)
    first = np.linalg.svd(deviation)[0][:, 0]
    assert abs(np.corrcoef(effects[:, 0], first)[0, 1]) > 1.0 - 1e-6


def test_sysrem__gaps_and_stars_without_flux_do_no_harm():
    flux, error, _, _ = _night(4)
    flux = flux.copy()
    flux[10:20, 5] = np.nan
    flux[:, 9] = np.nan
    flux[40] = np.nan
    found = shared_trends.shared_trends(flux[:, 1:], error[:, 1:])
    assert found.n_components == 2
    assert np.isfinite(found.effects).all()
    # nothing is known of a frame without a star
    assert np.all(found.effects_err[40] == 0)


def test_coverage__is_right_on_two_hundred_nights():
    time = np.linspace(0.0, 0.25, 120)
    differences, factors, betas = [], [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        claimed = rng.uniform(0.6, 1.8)
        noise = 0.003 * np.exp(rng.normal(0, 0.3, 8))
        flux = 1.0 + noise * rng.standard_normal((120, 8))
        told = np.broadcast_to(noise / claimed, flux.shape)
        others = (flux.sum(axis=1, keepdims=True) - flux) / 7
        others_err = np.sqrt((told**2).sum(axis=1, keepdims=True) - told**2) / 7
        found = coverage_of(time, flux / others, np.hypot(told, others_err), 0.014)
        differences.append(found.within_one - erf(1.0 / claimed / np.sqrt(2.0)))
        factors.append(found.factor / claimed)
        betas.append(found.beta)
    assert abs(np.mean(differences)) < 0.01
    assert np.mean(np.abs(differences) < 0.03) > 0.9
    assert np.mean(factors) == pytest.approx(1.0, abs=0.03)
    assert np.mean(betas) < 1.25
    assert found.n_points == 960


def test_coverage__without_a_star_is_not_known():
    found = coverage_of(np.arange(5.0), np.full((5, 2), np.nan), np.full((5, 2), np.nan), 1.0)
    assert np.isnan(found.within_one)
    assert found.n_stars == 0
