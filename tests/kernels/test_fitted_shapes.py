"""Fits of shapes: transits, eclipses and sinusoids of known values come back with errors that are right."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.fitting import shapes
from opticam_dask.kernels.fitting.red_noise import time_averaging_beta

HOURS = 1.0 / 24.0


def test_transit__agrees_with_the_uniform_disc_of_mandel_and_agol():
    time = np.array([0.0])
    model = shapes.Transit(time, 3.0, (0.0, 0.0))
    # a dark disc of a tenth of the radius before a uniform one takes a hundredth
    assert model.flux(0.0, 0.1, 8.0, 90.0)[0] == pytest.approx(0.99, abs=1e-6)


def test_transit__contacts_are_where_the_durations_say():
    period, ratio, axis, inclination = 2.15, 0.15, 6.05, 88.0
    total = shapes.transit_duration(period, ratio, axis, inclination)
    ingress = shapes.ingress_duration(period, ratio, axis, inclination)
    time = np.array([-total / 2 - 1e-4, -total / 2 + 1e-4, -total / 2 + ingress - 1e-3, -total / 2 + ingress + 1e-4])
    flux = shapes.Transit(time, period, (0.0, 0.0)).flux(0.0, ratio, axis, inclination)
    assert flux[0] == 1.0
    assert flux[1] < 1.0
    assert flux[2] > flux[3]
    assert flux[3] == pytest.approx(1.0 - ratio**2, abs=2e-5)


def test_transit__a_planet_that_misses_the_star_has_no_duration():
    assert shapes.transit_duration(2.0, 0.1, 5.0, 70.0) == 0.0


def test_eclipse__a_long_exposure_averages_the_ingress():
    time = np.linspace(-3, 3, 601) * HOURS
    sharp = shapes.eclipse_flux(time, 0.0, 0.3, 2 * HOURS, 0.25 * HOURS)
    smooth = shapes.eclipse_flux(time, 0.0, 0.3, 2 * HOURS, 0.25 * HOURS, exposure=0.2 * HOURS)
    kernel = np.ones(21) / 21
    direct = np.convolve(sharp, kernel, mode="same")
    inner = slice(30, -30)
    np.testing.assert_allclose(smooth[inner], direct[inner], atol=0.01)
    assert smooth.min() == pytest.approx(0.7)
    period = shapes.eclipse_flux(time + 10.0, 0.0, 0.3, 2 * HOURS, 0.25 * HOURS, period=2.5)
    np.testing.assert_allclose(period, sharp, atol=1e-9)


def test_sinusoid__exposure_takes_the_sinc_of_the_amplitude():
    time = np.linspace(0, 1, 2001)
    fine = shapes.sinusoid_flux(time, 0.1, 3.0, 0.4)
    width = 201
    averaged = np.convolve(fine - 1.0, np.ones(width) / width, mode="valid") + 1.0
    direct = shapes.sinusoid_flux(time[100:-100], 0.1, 3.0, 0.4, exposure=width * (time[1] - time[0]))
    np.testing.assert_allclose(direct, averaged, atol=2e-4)


def test_beta__is_one_for_white_noise_and_follows_noise_that_is_correlated():
    rng = np.random.default_rng(5)
    time = np.arange(600) / 600 * 0.25
    white = [time_averaging_beta(time, rng.standard_normal(600), 0.015) for _ in range(60)]
    assert 1.0 <= np.mean(white) < 1.2
    red = []
    for _ in range(60):
        steps = rng.standard_normal(640)
        slow = np.convolve(steps, np.ones(41) / np.sqrt(41), mode="valid")
        red.append(time_averaging_beta(time, rng.standard_normal(600) + 0.5 * slow, 0.015))
    # bins of about 36 points: variance (1 / n + 0.25 * correlated share) against 1.25 / n
    assert 2.0 < np.mean(red) < 4.0


def test_beta__tells_nothing_of_too_few_points():
    assert time_averaging_beta(np.arange(8.0), np.ones(8), 2.0) == 1.0
