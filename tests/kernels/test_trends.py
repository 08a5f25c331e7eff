"""Trends and outliers of light curves against simulated ones."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.series import trends

N = 200


def _vectors(rng):
    phase = np.linspace(0.0, 1.0, N)
    return {
        "airmass": 1.0 + 1.2 * phase**2,
        "fwhm": 4.0 + 0.5 * np.sin(9.0 * phase) + 0.1 * rng.normal(size=N),
        "x": 100.0 + np.cumsum(rng.normal(size=N)),
    }


def _scaled(vectors, use=slice(None)):
    return {name: (values - values[use].mean()) / values[use].std() for name, values in vectors.items()}


def test_fit_trends__recovers_planted_trends_within_errors():
    truth = {"airmass": 0.03, "fwhm": -0.02, "x": 0.01}
    pulls, clean = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        vectors = _vectors(rng)
        model = 1.0 + sum(truth[name] * values for name, values in _scaled(vectors).items())
        error = 0.01 * rng.uniform(0.7, 1.3, N)
        flux = 0.4 * model + 0.4 * error * rng.normal(size=N)
        found = trends.fit_trends(flux, 0.4 * error, vectors)
        pulls.append((found.coefficients - list(truth.values())) / found.errors)
        corrected, corrected_err = trends.remove_trends(flux, 0.4 * error, found)
        clean.append((corrected - 0.4)[::20] / corrected_err[::20])
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 4 / np.sqrt(300))
    # errors are scaled up where chi-squared is above 1 by chance, never down: 0.98 of the width on average
    assert np.all(np.abs(np.std(pulls, axis=0) - 0.98) < 0.08)
    assert 0.95 < np.std(clean) < 1.05


def test_fit_trends__is_not_pulled_by_a_transit_that_is_left_out():
    rng = np.random.default_rng(1)
    vectors = {"airmass": 1.0 + np.linspace(0.0, 1.0, N) ** 2}
    in_transit = np.zeros(N, dtype=bool)
    in_transit[120:170] = True
    scaled = _scaled(vectors, ~in_transit)["airmass"]
    flux = (1.0 + 0.02 * scaled) * np.where(in_transit, 0.97, 1.0) + 0.002 * rng.normal(size=N)
    error = np.full(N, 0.002)
    free = trends.fit_trends(flux, error, vectors, ~in_transit)
    assert abs(free.coefficients[0] - 0.02) < 4 * free.errors[0]
    corrected, _ = trends.remove_trends(flux, error, free)
    depth = 1 - corrected[in_transit].mean() / corrected[~in_transit].mean()
    assert depth == pytest.approx(0.03, abs=0.002)
    pulled = trends.fit_trends(flux, error, vectors)
    assert abs(pulled.coefficients[0] - free.coefficients[0]) > 10 * free.errors[0]


def test_fit_trends__says_which_vectors_are_alike():
    rng = np.random.default_rng(2)
    vectors = _vectors(rng)
    vectors["y"] = vectors["x"] + 0.05 * rng.normal(size=N)
    found = trends.fit_trends(1.0 + 0.01 * rng.normal(size=N), np.full(N, 0.01), vectors)
    assert len(found.warnings) == 1
    assert "y and x are nearly the same" in found.warnings[0]
    assert trends.fit_trends(np.ones(N) + 0.01 * rng.normal(size=N), np.full(N, 0.01), _vectors(rng)).warnings == ()
    three = {name: rng.normal(size=N) for name in ("a", "b", "c")}
    three["d"] = three["a"] + three["b"] + three["c"] + 0.02 * rng.normal(size=N)
    found = trends.fit_trends(1.0 + 0.01 * rng.normal(size=N), np.full(N, 0.01), three)
    assert "a, b, c, d are nearly dependent" in found.warnings[0]


def test_fit_trends__frames_without_a_vector_have_no_flux():
    rng = np.random.default_rng(3)
    vectors = {"fwhm": rng.normal(4, 0.3, N)}
    vectors["fwhm"][7] = np.nan
    flux = 1.0 + 0.01 * rng.normal(size=N)
    found = trends.fit_trends(flux, np.full(N, 0.01), vectors)
    corrected, error = trends.remove_trends(flux, np.full(N, 0.01), found)
    assert np.flatnonzero(np.isnan(corrected)).tolist() == np.flatnonzero(np.isnan(error)).tolist() == [7]
    assert found.degrees_of_freedom == N - 1 - 2


def test_fit_trends__scatter_beyond_the_errors_widens_those_of_the_coefficients():
    rng = np.random.default_rng(4)
    vectors = {"fwhm": rng.normal(4, 0.3, N)}
    flux = 1.0 + 0.03 * rng.normal(size=N)
    found = trends.fit_trends(flux, np.full(N, 0.01), vectors)
    assert found.reduced_chi2 == pytest.approx(9.0, rel=0.3)
    assert found.errors[0] == pytest.approx(0.03 / np.sqrt(N), rel=0.2)


def test_fit_trends__refuses_what_tells_nothing():
    flux, error = np.ones(N), np.full(N, 0.01)
    with pytest.raises(ValueError, match="airmass does not change"):
        trends.fit_trends(flux, error, {"airmass": np.full(N, 1.2)})
    with pytest.raises(ValueError, match="cannot be told apart"):
        trends.fit_trends(flux, error, {"x": np.arange(N), "y": 2 * np.arange(N) + 1})
    with pytest.raises(ValueError, match="at least 4 frames are needed to fit trends with x, got 3"):
        trends.fit_trends(flux[:3], error[:3], {"x": np.arange(3)})


def test_find_outliers__finds_what_stands_out_and_little_else():
    rng = np.random.default_rng(5)
    wave = 1.0 + 0.05 * np.sin(np.linspace(0, 6, 20_000))
    error = np.full(20_000, 0.01)
    flux = wave + error * rng.normal(size=20_000)
    planted = rng.choice(20_000, 50, replace=False)
    flux[planted] += np.where(rng.random(50) < 0.5, -0.12, 0.12)
    flux[3:9] = np.nan
    marked = trends.find_outliers(flux, error)
    assert marked[np.setdiff1d(planted, np.arange(3, 9))].all()
    assert np.count_nonzero(marked) <= 50 + 5
    assert not marked[3:9].any()


def test_find_outliers__a_noisy_stretch_and_a_transit_are_none():
    rng = np.random.default_rng(6)
    error = np.full(300, 0.002)
    flux = 1.0 + error * rng.normal(size=300)
    flux[150:200] += 0.02 * rng.normal(size=50)  # clouds: ten times the error
    flux[220:260] -= 0.02  # a transit, flat-bottomed
    assert np.count_nonzero(trends.find_outliers(flux, error)) <= 4
    assert not trends.find_outliers(flux, error)[225:255].any()


def test_find_outliers__few_points_and_impossible_arguments():
    assert not trends.find_outliers(np.array([1.0, 9.0, 1.0]), np.full(3, 0.1)).any()
    with pytest.raises(ValueError, match="expected n_sigma above 0, got 0"):
        trends.find_outliers(np.ones(9), np.ones(9), n_sigma=0.0)
