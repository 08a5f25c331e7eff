"""Correlations against lag, z-DCF, and errors of lags, against direct sums, stingray and simulated signals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from simulated_pairs import red_noise_pair

from opticam_dask.kernels.series import correlation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what stingray warns of when it is imported is not ours
    import stingray


def _on_grid(first, second):
    return correlation.on_common_grid(first[0], first[1], second[0], second[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", ["none", "variance"])
def test_cross_correlation__equals_stingray_but_for_the_sign(norm):
    pair = red_noise_pair(1, n=400, lag=5.0, slope=2.0, gaps=False)
    curves = [stingray.Lightcurve(t, f, err=e, err_dist="gauss", dt=1.0, skip_checks=True) for t, f, e in pair]
    theirs = stingray.CrossCorrelation(*curves, mode="full", norm=norm)
    grid1, grid2, step, _ = _on_grid(*pair)
    noise = [float(np.mean(error)) ** 2 for _, _, error in pair]
    found = correlation.cross_correlation(grid1, grid2, step, "full", norm, tuple(noise))
    np.testing.assert_allclose(found.lag, -theirs.time_lags[::-1], atol=1e-9)
    np.testing.assert_allclose(found.correlation, theirs.corr[::-1], atol=1e-9)
    assert found.lag[np.argmax(found.correlation)] == pytest.approx(5.0, abs=1.0)
    assert -theirs.time_shift == pytest.approx(5.0, abs=1.0)


def test_cross_correlation__is_the_coefficient_of_the_pairs_there_are():
    first, second = red_noise_pair(2, n=600, lag=4.0, slope=2.0)
    second = tuple(column[30:] for column in second)
    grid1, grid2, step, offset = _on_grid(first, second)
    assert (step, offset) == (1.0, pytest.approx(0.0, abs=1e-9))
    found = correlation.cross_correlation(grid1, grid2, step)
    for lag in (-50, 0, 4, 100):
        at = int(np.flatnonzero(found.lag == lag)[0])
        x, y = (grid1[: len(grid1) - lag], grid2[lag:]) if lag >= 0 else (grid1[-lag:], grid2[:lag])
        both = np.isfinite(x) & np.isfinite(y)
        assert found.n_pairs[at] == both.sum()
        assert found.correlation[at] == pytest.approx(np.corrcoef(x[both], y[both])[0, 1], abs=1e-9)
    usable = np.where(found.n_pairs > 100, found.correlation, -1)
    assert found.lag[np.nanargmax(usable)] == pytest.approx(4.0, abs=1.0)
    for mode, size in (("valid", 1), ("same", len(grid1)), ("full", 2 * len(grid1) - 1)):
        assert len(correlation.cross_correlation(grid1, grid2, step, mode).lag) == size
    with pytest.raises(ValueError, match="mode must be one of"):
        correlation.cross_correlation(grid1, grid2, step, "all")


def test_common_grid__knows_parts_of_a_step_and_refuses_other_sampling():
    time = np.arange(50.0)
    assert _on_grid((time, time), (time + 0.3, time))[3] == pytest.approx(0.3)
    with pytest.raises(ValueError, match="rebin them to the same step"):
        _on_grid((time, time), (2 * time, time))
    uneven = np.cumsum(np.random.default_rng(0).uniform(0.4, 1.6, 200))
    with pytest.raises(ValueError, match="fit no even grid"):
        _on_grid((uneven, uneven), (uneven, uneven))


def test_fisher_errors__cover_68_percent():
    rng = np.random.default_rng(3)
    for rho, n in ((0.0, 11), (0.7, 11), (0.7, 50)):
        x, z = rng.standard_normal((2, 4000, n))
        y = rho * x + np.sqrt(1 - rho**2) * z
        r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
        low, high = correlation.fisher_errors(r, np.full(4000, n))
        inside = (r - low <= rho) & (rho <= r + high)
        assert 0.64 < inside.mean() < 0.72
    assert np.isnan(correlation.fisher_errors(np.array([0.5]), np.array([3]))[0]).all()


def test_discrete_correlation__of_uneven_times_finds_the_lag():
    rng = np.random.default_rng(4)
    time1, time2 = (np.sort(rng.uniform(0.0, 300.0, 250)) for _ in "12")
    error = np.full(250, 0.1)
    # a signal without period: three incommensurable tones
    tones = [(0.021, 0.3), (0.034, 1.0), (0.05, 2.0)]

    def signal(time):
        return sum(np.sin(2 * np.pi * f * time + p) for f, p in tones)

    first = time1, signal(time1) + error * rng.standard_normal(250), error
    second = time2, signal(time2 - 6.0) + error * rng.standard_normal(250), error
    found = correlation.discrete_correlation(first, second, max_lag=25.0, n_realisations=50)
    assert found.n_pairs.min() >= 11
    assert np.abs(found.lag).max() <= 25.0
    assert ((found.lag_low <= found.lag) & (found.lag <= found.lag_high)).all()
    high = found.correlation > 0.9 * found.correlation.max()
    assert np.mean(found.lag[high]) == pytest.approx(6.0, abs=0.7)
    again = correlation.discrete_correlation(first, second, max_lag=25.0, n_realisations=50)
    np.testing.assert_array_equal(again.correlation, found.correlation)  # seeded


def test_discrete_correlation__uses_each_point_once_a_bin():
    rng = np.random.default_rng(5)
    time = np.sort(rng.uniform(0.0, 60.0, 60))
    first, second = correlation._pairs_within(time, time, 20.0)
    lags = time[second] - time[first]
    order = np.argsort(lags, kind="stable")
    first, second, lags = first[order], second[order], lags[order]
    chosen, starts = correlation._independent_bins(first, second, lags, 11, 1e-6)
    for begin, end in zip(starts, np.append(starts[1:], len(chosen)), strict=True):
        members = chosen[begin:end]
        assert len(members) >= 11
        assert len(set(first[members])) == len(set(second[members])) == len(members)


def test_discrete_correlation__on_a_grid_is_the_correlation_of_each_lag():
    first, second = red_noise_pair(6, n=300, lag=3.0, slope=2.0)
    found = correlation.discrete_correlation(first, second, max_lag=10.0, n_realisations=0)
    np.testing.assert_allclose(found.lag, np.arange(-10.0, 11.0), atol=1e-9)
    grid1, grid2, step, _ = _on_grid(first, second)
    whole = correlation.cross_correlation(grid1, grid2, step)
    same = np.isin(whole.lag, np.round(found.lag))
    np.testing.assert_allclose(found.correlation, whole.correlation[same], atol=1e-9)
    np.testing.assert_array_equal(found.n_pairs, whole.n_pairs[same])


def test_discrete_correlation__refuses_what_cannot_be():
    time = np.arange(20_000.0)
    long = time, np.sin(time), np.ones(20_000)
    with pytest.raises(ValueError, match=r"pairs of points are more than 1e\+07: choose a smaller max_lag"):
        correlation.discrete_correlation(long, long)
    short = tuple(column[:8] for column in long)
    with pytest.raises(ValueError, match="at least 11 independent pairs"):
        correlation.discrete_correlation(short, short)
    with pytest.raises(ValueError, match="at least 5 pairs"):
        correlation.discrete_correlation(short, short, least_pairs=2)


def test_randomised_lags__are_right_and_cautious(capsys):
    pulls = []
    for seed in range(25):
        first, second = red_noise_pair(seed, n=400, lag=4.0, slope=2.0)
        lags = correlation.randomised_lags(first, second, 15.0, n_realisations=40, seed=seed)
        low, middle, high = np.nanpercentile(lags.centroid, [15.87, 50, 84.13])
        pulls.append((middle - 4.0) / (0.5 * (high - low)))
    with capsys.disabled():
        print(f"\nrandomised lags: pulls {np.mean(pulls):+.2f}, width {np.std(pulls):.2f} (known to be cautious)")
    assert abs(np.mean(pulls)) < 0.4
    assert 0.3 < np.std(pulls) < 1.1
    # the sign turns with the order
    turned = correlation.randomised_lags(second, first, 15.0, n_realisations=40)
    assert np.nanmedian(turned.centroid) == pytest.approx(-4.0, abs=2.0)


def test_randomised_lags__leave_out_lags_of_few_pairs():
    first, second = red_noise_pair(3, n=60, lag=2.0, slope=2.0, gaps=False, errors=(0.02, 0.02))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = correlation.randomised_lags(first, second, 62.0, n_realisations=40)
    # three pairs are easily correlated by 1, and at lags beyond the length there is none; draws keep 38 points or so
    assert np.nanmax(np.abs(found.peak)) < 57.0
    values = correlation._interpolated_correlation(
        *first[:2], *second[:2], np.array([[-0.5, 59.5]]), np.arange(-62.0, 63.0)
    )
    assert np.isnan(values[np.abs(np.arange(-62.0, 63.0)) > 54.0]).all()
    assert np.isfinite(values[np.abs(np.arange(-62.0, 63.0)) < 54.0]).all()
    assert np.isnan(correlation._peak_and_centroid(np.arange(5.0), np.array([np.nan, 1, 0.5, 0, 0]))).all()


def test_peak__at_the_end_of_the_lags_is_none():
    lags = np.arange(-3.0, 4.0)
    assert np.isnan(correlation._peak_and_centroid(lags, lags)).all()
    assert np.isnan(correlation._peak_and_centroid(lags, np.full(7, np.nan))).all()
    peak, centroid = correlation._peak_and_centroid(lags, np.array([0, 0, 0.85, 1, 0.85, 0, 0.9]))
    assert (peak, centroid) == (0.0, pytest.approx(0.0))
