"""Lomb-Scargle periodograms, frequencies with errors, folding and binning: against astropy and simulated signals."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.timeseries import LombScargle, LombScargleMultiband

from opticam_dask.kernels.series import folding, periodograms, spectra

FREQUENCY, ERROR = 0.135, 0.03


def _sinusoid(seed, n=300, keep=1.0, amplitude=0.03, phase=0.3):
    rng = np.random.default_rng(seed)
    time = np.arange(n, dtype=float)[rng.random(n) < keep]
    flux = 1.0 + amplitude * np.sin(2 * np.pi * FREQUENCY * time + phase) + rng.normal(0.0, ERROR, len(time))
    return time, flux, np.full(len(time), ERROR)


def test_lomb_scargle__is_the_classical_periodogram_where_that_exists():
    time, flux, error = _sinusoid(1)
    classical = spectra.power_spectrum(time, flux, error, 300, "frac")
    found = periodograms.lomb_scargle(time, flux, error, classical.frequency, "frac")
    np.testing.assert_allclose(found.power, classical.power, rtol=1e-9)
    absolute = periodograms.lomb_scargle(time, flux, error, classical.frequency, "abs")
    np.testing.assert_allclose(absolute.power, spectra.power_spectrum(time, flux, error, 300, "abs").power, rtol=1e-9)


def test_lomb_scargle__has_the_levels_of_astropy():
    time, flux, error = _sinusoid(2, keep=0.7)
    grid = periodograms.frequency_grid([time])
    assert grid[0] == pytest.approx(1 / np.ptp(time))
    assert grid[-1] == pytest.approx(0.5)
    found = periodograms.lomb_scargle(time, flux, error, grid, "standard", probabilities=(0.1, 1e-3))
    theirs = LombScargle(time, flux, error)
    expected = [theirs.false_alarm_level(p, maximum_frequency=0.5, minimum_frequency=grid[0]) for p in (0.1, 1e-3)]
    np.testing.assert_allclose(found.false_alarm_level, expected)
    assert found.peak_frequency == pytest.approx(FREQUENCY, abs=5e-4)
    assert found.peak_probability < 1e-10
    for _ in range(2):
        shuffled = periodograms.lomb_scargle(
            time, flux, error, grid, "standard", probabilities=(0.1,), method="bootstrap", n_bootstraps=50, seed=1
        )
        assert shuffled.false_alarm_level[0] == pytest.approx(found.false_alarm_level[0], rel=0.25)
    with pytest.raises(ValueError, match="norm must be one of"):
        periodograms.lomb_scargle(time, flux, error, grid, "psd")


def test_lomb_scargle__finds_nothing_in_noise():
    time, flux, error = _sinusoid(3, keep=0.7, amplitude=0.0)
    found = periodograms.lomb_scargle(time, flux, error, periodograms.frequency_grid([time]))
    assert found.peak_probability > 0.01


def test_fit_frequency__has_the_error_of_montgomery_and_odonoghue():
    time, flux, error = _sinusoid(4, n=2000)
    found = periodograms.fit_frequency(time, flux, error, FREQUENCY)
    expected = np.sqrt(6 / 2000) * ERROR / (np.pi * 2000 * 0.03)
    assert found.frequency_err == pytest.approx(expected, rel=0.1)


def test_fit_frequency__pulls_have_width_one(capsys):
    pulls = []
    for seed in range(300):
        curve = _sinusoid(seed, keep=0.7, phase=seed)
        fit = periodograms.fit_frequency(*curve, 0.1352)
        pulls.append((fit.frequency - FREQUENCY) / fit.frequency_err)
    with capsys.disabled():
        print(f"\nfrequency: pulls {np.mean(pulls):+.2f}, width {np.std(pulls):.2f}")
    assert abs(np.mean(pulls)) < 0.2
    assert 0.9 < np.std(pulls) < 1.1


def test_fit_frequency__scales_all_errors_by_the_scatter(capsys):
    pulls = []
    for seed in range(60):
        time, flux, error = _sinusoid(seed, n=200, phase=seed)
        fit = periodograms.fit_frequency(time, flux, error / 3, 0.1352, scale_errors=True)
        pulls.append(
            [
                (fit.frequency - FREQUENCY) / fit.frequency_err,
                (fit.sinusoid.amplitude - 0.03) / fit.sinusoid.amplitude_err,
            ]
        )
    widths = np.std(pulls, axis=0)
    with capsys.disabled():
        print(f"\nerrors a third of the scatter: widths {widths[0]:.2f} (frequency), {widths[1]:.2f} (amplitude)")
    assert (widths > 0.75).all()
    assert (widths < 1.25).all()


def test_multiband__is_that_of_astropy_and_finds_what_one_band_cannot():
    curves = {name: _sinusoid(seed, keep=0.6, amplitude=0.014, phase=seed) for seed, name in enumerate("gri", 20)}
    grid = periodograms.frequency_grid([curve[0] for curve in curves.values()])
    grid = grid[(grid >= 0.05) & (grid <= 0.2)]
    found = periodograms.multiband_lomb_scargle(curves, grid, n_bootstraps=60, seed=3)
    bands = np.concatenate([np.full(len(curve[0]), name) for name, curve in curves.items()])
    time, flux, error = (np.concatenate([curve[i] for curve in curves.values()]) for i in range(3))
    few = grid[::20]
    theirs = LombScargleMultiband(time, flux, bands, error, nterms_base=0, nterms_band=1).power(few, method="flexible")
    np.testing.assert_allclose(found.power[::20], theirs, atol=2e-3)
    assert found.peak_frequency == pytest.approx(FREQUENCY, abs=1.5e-3)
    assert found.peak_probability < 0.1
    without = periodograms.multiband_lomb_scargle(curves, grid)
    assert np.isnan(without.false_alarm_level).all()


def test_frequency_grid__refuses_what_cannot_be():
    with pytest.raises(ValueError, match="more than two steps of 1 s, found 2 s"):
        periodograms.frequency_grid([np.arange(3.0)])
    with pytest.raises(ValueError, match="too many"):
        periodograms.frequency_grid([np.append(np.arange(100.0), 1e8)])


# ---------------------------------------------------------------- folding and binning


def test_fold__phase_is_zero_at_the_epoch():
    np.testing.assert_allclose(folding.fold(np.array([3.0, 4.0, 8.0, -1.0]), 5.0, 3.0), [0.0, 0.2, 0.0, 0.2])
    assert (folding.fold(np.array([-1e-18]), 1.0) < 1.0).all()
    with pytest.raises(ValueError, match="period above 0"):
        folding.fold(np.zeros(1), 0.0)


def test_phase_bins__are_weighted_means_with_their_errors():
    rng = np.random.default_rng(0)
    phase, error = rng.random(5000), rng.uniform(0.5, 2.0, 5000)
    flux = np.sin(2 * np.pi * phase) + error * rng.standard_normal(5000)
    found = folding.phase_bins(phase, flux, error, 20)
    assert found.n_points.sum() == 5000
    here = (phase >= 0.1) & (phase < 0.15)
    assert found.flux[2] == pytest.approx(np.average(flux[here], weights=error[here] ** -2.0))
    assert found.flux_err[2] == pytest.approx(np.sum(error[here] ** -2.0) ** -0.5)
    # the mean of a sinusoid over a bin
    expected = np.sin(2 * np.pi * found.phase) * np.sinc(1 / 20)
    pulls = (found.flux - expected) / found.flux_err
    assert 0.6 < pulls.std() < 1.4
    scaled = folding.phase_bins(phase, flux, error / 2, 20, scale_errors=True)
    assert np.median(scaled.flux_err / found.flux_err) == pytest.approx(1.0, abs=0.05)
    empty = folding.phase_bins(np.array([0.1, 0.12]), np.ones(2), np.ones(2), 4)
    assert np.isnan(empty.flux[1:]).all()
    with pytest.raises(ValueError, match="at least 2 bins"):
        folding.phase_bins(phase, flux, error, 1)


def test_time_bins__keep_what_is_covered():
    time = np.concatenate([np.arange(0.0, 10.0), np.arange(23.0, 40.0)])
    flux, error = np.arange(27.0), np.full(27, 0.2)
    found = folding.time_bins(time, flux, error, 5.0)
    np.testing.assert_allclose(found.time, [2.0, 7.0, 27.0, 32.0, 37.0])  # that of 20 to 25 is covered to two fifths
    np.testing.assert_array_equal(found.n_points, 5)
    assert found.flux[0] == 2.0
    assert found.flux_err[0] == pytest.approx(0.2 / np.sqrt(5))
    more = folding.time_bins(time, flux, error, 5.0, least_coverage=0.3)
    np.testing.assert_allclose(more.time, [2.0, 7.0, 22.0, 27.0, 32.0, 37.0])
    total = folding.time_bins(time, flux, error, 5.0, "sum")
    assert total.flux[0] == 10.0
    assert total.flux_err[0] == pytest.approx(0.2 * np.sqrt(5))
    with pytest.raises(ValueError, match="at least the time between frames, 1 s, got"):
        folding.time_bins(time, flux, error, 0.5)
    with pytest.raises(ValueError, match="method must be one of"):
        folding.time_bins(time, flux, error, 5.0, "median")


def test_time_bins__are_at_the_mean_time_of_their_points():
    for late in (0.0, 0.3, 0.7):
        time = np.arange(100.0) + late
        found = folding.time_bins(time, 5.0 + time, np.ones(100), 4.0, start=-0.5)
        whole = found.n_points == 4
        assert np.count_nonzero(whole) >= 24
        np.testing.assert_allclose(found.flux[whole], 5.0 + found.time[whole])  # a slope stays where it is
        np.testing.assert_allclose(np.diff(found.time), 4.0)
