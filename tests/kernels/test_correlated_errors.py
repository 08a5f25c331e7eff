"""Errors of fitted shapes where the noise is correlated: they hold for depth and mid-time, by simulated nights."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.fitting import shapes
from opticam_dask.kernels.fitting.correlated import LinearSeries, error_factors
from opticam_dask.kernels.fitting.posterior import FreeValue, Series, fit_shape

PERIOD, RATIO, AXIS, INCLINATION = 2.15, 0.1515, 6.0, 88.9
N_FRAMES, WHITE, RED, CORRELATED = 150, 0.002, 0.001, 0.015


def _noise(rng: np.random.Generator, red: float) -> np.ndarray:
    """White noise and an exponentially correlated process on the time scale of the ingress (22 minutes)."""
    step = 0.22 / N_FRAMES
    keep = np.exp(-step / CORRELATED)
    slow = np.empty(N_FRAMES)
    slow[0] = rng.normal()
    for place in range(1, N_FRAMES):
        slow[place] = keep * slow[place - 1] + np.sqrt(1.0 - keep**2) * rng.normal()
    return rng.normal(0.0, WHITE, N_FRAMES) + red * slow


def _pulls(red: float, n_nights: int) -> np.ndarray:
    """Pulls of mid-time and depth, shape (night, 2)."""
    rng = np.random.default_rng(8)
    time = np.linspace(-0.11, 0.11, N_FRAMES)
    transit = shapes.Transit(time, PERIOD)
    true = transit.flux(0.0, RATIO, AXIS, INCLINATION)
    airmass = time**2 - np.mean(time**2)
    vectors = (airmass / airmass.std())[:, None]
    parameters = [FreeValue("mid_time", -0.05, 0.05, 0.002), FreeValue("radius_ratio", 1e-3, 0.5, 0.01)]
    found = []
    for _ in range(n_nights):
        flux = true * (1.0 + 0.001 * vectors[:, 0]) + _noise(rng, red)
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


@pytest.mark.parametrize(("red", "least"), [(0.0, 0.65), (RED, 0.8)])
def test_errors_of_mid_time_and_depth_hold(red: float, least: float) -> None:
    scatter = np.sqrt(np.mean(_pulls(red, 60) ** 2, axis=0))
    assert np.all(scatter < 1.2), scatter
    assert np.all(scatter > least), scatter


def test_factors__are_those_of_means_of_correlated_points() -> None:
    """A constant alone has the error of a mean; a slope of fast wiggles hardly knows of slow noise."""
    rng = np.random.default_rng(5)
    time = np.arange(200.0)
    factors = []
    for _ in range(8):
        slow = np.convolve(rng.normal(size=220), np.ones(21), "valid") / np.sqrt(21)
        wiggles = np.tile([1.0, -1.0], 100)
        series = LinearSeries(time, slow - slow.mean(), np.column_stack([np.ones(200), wiggles]))
        factors.append(error_factors([series], 2, np.zeros((2, 2))))
    # the mean of 200 points that are correlated over 21 has the error of about 200 / 21 independent ones
    assert np.median(factors, axis=0)[0] == pytest.approx(np.sqrt(21), rel=0.35)
    assert np.median(factors, axis=0)[1] == pytest.approx(1.0, abs=0.1)
