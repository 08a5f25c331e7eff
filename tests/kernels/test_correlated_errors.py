"""Errors of fitted shapes where the noise is correlated: they hold for depth and mid-time, by simulated nights."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.fitting import shapes
from opticam_dask.kernels.fitting.correlated import LinearSeries, whitening
from opticam_dask.kernels.fitting.posterior import FreeValue, Series, fit_shape

PERIOD, RATIO, AXIS, INCLINATION = 2.15, 0.1515, 6.0, 88.9
N_FRAMES, WHITE, MINUTE = 80, 0.002, 1.0 / 1440.0


def _covariance(time: np.ndarray, kind: str) -> np.ndarray:
    """Covariance of white noise, and of noise as strong as half of it that is slow as the ingress or smooth."""
    apart = np.abs(time[:, None] - time)
    correlated = {
        "white": 0.0,
        "as air": np.exp(-apart / (22.0 * MINUTE)),
        "smooth": np.exp(-0.5 * (apart / (14.0 * MINUTE)) ** 2),
    }[kind]
    return WHITE**2 * (np.eye(len(time)) + 0.25 * correlated)


def _vectors(time: np.ndarray, n_terms: int, rng: np.random.Generator) -> np.ndarray:
    """What a baseline depends on: airmass, and places on the detector that wander."""
    columns = np.column_stack([time**2 + 0.03 * time, *np.cumsum(rng.normal(size=(2, len(time))), axis=1)])[:, :n_terms]
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


def _pulls(kind: str, n_terms: int, n_nights: int) -> np.ndarray:
    """Pulls of mid-time and depth, shape (night, 2)."""
    rng = np.random.default_rng(8)
    time = np.linspace(-0.11, 0.11, N_FRAMES)
    transit = shapes.Transit(time, PERIOD)
    true = transit.flux(0.0, RATIO, AXIS, INCLINATION)
    colour = np.linalg.cholesky(_covariance(time, kind))
    parameters = [FreeValue("mid_time", -0.05, 0.05, 0.002), FreeValue("radius_ratio", 1e-3, 0.5, 0.01)]
    found = []
    for _ in range(n_nights):
        vectors = _vectors(time, n_terms, rng)
        flux = true * (1.0 + 0.001 * vectors.sum(axis=1)) + colour @ rng.normal(size=N_FRAMES)
        fit = fit_shape(
            [Series(time, flux, np.full(N_FRAMES, WHITE), vectors)],
            [lambda values: transit.flux(values[0], values[1], AXIS, INCLINATION)],
            parameters,
            [[0.001, 0.15]],
            lambda values: 0.0,
            lambda values: shapes.ingress_duration(PERIOD, values[1], AXIS, INCLINATION),
            n_steps=0,
        )
        depth = fit.samples[:, 1] ** 2
        found.append(
            [np.median(fit.samples[:, 0]) / fit.samples[:, 0].std(), (np.median(depth) - RATIO**2) / depth.std()]
        )
    return np.array(found)


@pytest.mark.parametrize(("kind", "n_terms"), [("white", 0), ("white", 1), ("white", 3), ("as air", 1), ("smooth", 1)])
def test_errors_of_mid_time_and_depth_hold(kind: str, n_terms: int) -> None:
    scatter = np.sqrt(np.mean(_pulls(kind, n_terms, 100) ** 2, axis=0))
    # the scatter of 100 pulls is known to 7 per cent
    assert np.all(scatter < 1.25), scatter
    assert np.all(scatter > 0.8), scatter


def _error_of_depth(residual: np.ndarray) -> float:
    """Error of the depth of a box in the middle of a series, by its whitening."""
    design = _box(len(residual))
    left = residual - design @ np.linalg.lstsq(design, residual)[0]
    white = whitening(LinearSeries(np.arange(float(len(residual))), left, design))
    assert white is not None
    shaped = white(design)
    return float(np.sqrt(np.linalg.inv(shaped.T @ shaped)[1, 1]))


def _box(n_points: int) -> np.ndarray:
    at = np.arange(n_points) / n_points
    return np.column_stack([np.ones(n_points), (at > 0.3) & (at < 0.7)]).astype(float)


@pytest.mark.parametrize("n_points", [200, 1500])
def test_whitening__error_is_that_of_generalised_least_squares(n_points: int) -> None:
    """As large as it is where the noise is known; the longer series is told in groups."""
    rng = np.random.default_rng(5)
    design, index = _box(n_points), np.arange(n_points)
    slow = 0.3 * np.eye(n_points) + np.exp(-np.abs(index[:, None] - index) / (0.04 * n_points))
    for covariance in (np.eye(n_points), slow):
        colour = np.linalg.cholesky(covariance)
        known = np.linalg.inv(design.T @ np.linalg.solve(covariance, design))[1, 1] ** 0.5
        found = [_error_of_depth(colour @ rng.normal(size=n_points)) for _ in range(4)]
        assert np.median(found) == pytest.approx(known, rel=0.35)


def test_errors_of_depths_are_not_too_small_in_an_ordinary_night() -> None:
    """80 frames with half as much noise again, correlated over a tenth of the series: too few to be sure of it."""
    rng, index, design = np.random.default_rng(1), np.arange(80), _box(80)
    covariance = np.eye(80) + 0.25 * np.exp(-np.abs(index[:, None] - index) / 7.5)
    colour = np.linalg.cholesky(covariance)
    known = np.linalg.inv(design.T @ np.linalg.solve(covariance, design))[1, 1] ** 0.5
    errors = np.array([_error_of_depth(colour @ rng.normal(size=80)) for _ in range(100)])
    # the width of pulls that the errors make; 1.18 where white noise is favoured so much that it hides the rest
    assert 0.9 < np.sqrt(np.mean((known / errors) ** 2)) < 1.12


def test_whitening__makes_noise_white_and_nothing_is_told_of_a_few_points() -> None:
    rng = np.random.default_rng(6)
    time = np.arange(240.0)
    slow = np.exp(-0.5 * ((time[:, None] - time) / 12.0) ** 2)
    noise = np.linalg.cholesky(slow + 0.3 * np.eye(240)) @ rng.normal(size=240)
    white = whitening(LinearSeries(time, noise, np.ones((240, 1))))
    assert white is not None
    flat = white(noise[:, None])[:, 0]
    assert np.std(flat) == pytest.approx(1.0, abs=0.12)
    assert abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 0.15 < np.corrcoef(noise[1:], noise[:-1])[0, 1]
    assert whitening(LinearSeries(time[:8], noise[:8], np.ones((8, 1)))) is None
