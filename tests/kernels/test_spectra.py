"""Averaged power and cross spectra against stingray, and against signals of known power, coherence and lag."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from simulated_pairs import red_noise_pair

from opticam_dask.kernels.series import lags, spectra

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what stingray warns of when it is imported is not ours
    import stingray

LAG, BAND = 2.3, (0.0, 0.1)


def _stingray_curves(pair):
    gti = np.array([[pair[0][0][0] - 0.5, pair[0][0][-1] + 0.5]])
    return [
        stingray.Lightcurve(time, flux, err=err, err_dist="gauss", dt=1.0, gti=gti, skip_checks=True)
        for time, flux, err in pair
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", ["frac", "abs", "none"])
def test_power_spectrum__equals_stingray(norm):
    pair = red_noise_pair(1, n=1024, gaps=False)
    found = spectra.power_spectrum(*pair[0], 128, norm)
    expected = stingray.AveragedPowerspectrum.from_lightcurve(_stingray_curves(pair)[0], 128.0, norm=norm, silent=True)
    np.testing.assert_allclose(found.frequency, expected.freq)
    np.testing.assert_allclose(found.power, expected.power)
    np.testing.assert_allclose(found.power_err, expected.power_err)
    assert found.n_segments == expected.m == 8
    binned, theirs = spectra.rebin_power(found, 0.1), expected.rebin_log(0.1)
    np.testing.assert_allclose(binned.power, theirs.power)
    np.testing.assert_array_equal(binned.n_averaged, theirs.m)


@pytest.mark.filterwarnings("ignore")
def test_cross_spectrum__equals_stingray_but_for_the_sign_of_lags():
    pair = red_noise_pair(2, n=2048, gaps=False)
    found = spectra.cross_spectrum(*pair, 64, "frac")
    expected = stingray.AveragedCrossspectrum.from_lightcurve(
        *_stingray_curves(pair), segment_size=64.0, norm="frac", silent=True, power_type="all"
    )
    np.testing.assert_allclose(found.cross.conj(), expected.power)
    np.testing.assert_allclose(lags.phase_lag(found)[0], -expected.phase_lag()[0])


def test_power_spectrum__has_the_noise_of_its_errors():
    rng = np.random.default_rng(3)
    time, error = np.arange(20_000.0), rng.uniform(0.5, 1.5, 20_000)
    flux = 10.0 + error * rng.standard_normal(20_000)
    for norm, level in (
        ("frac", 2.0 * np.mean(error**2) / 100.0), ("abs", 2.0 * np.mean(error**2)), ("leahy", 2.0),
        ("none", 100 * np.mean(error**2)),
    ):  # fmt: skip
        found = spectra.power_spectrum(time, flux, error, 100, norm)
        assert found.noise == pytest.approx(level, rel=2e-3)
        pulls = (found.power - found.noise) / (found.noise / np.sqrt(found.n_averaged))
        assert abs(pulls.mean()) < 0.45  # 49 frequencies
        assert 0.7 < pulls.std() < 1.3


def test_power_spectrum__of_a_sinusoid_is_its_variance():
    time = np.arange(6000.0)
    flux = 2.0 * (1.0 + 0.03 * np.sin(2 * np.pi * 0.13 * time))
    found = spectra.power_spectrum(time, flux, np.full(6000, 1e-3), 100, "frac")
    assert np.sum(found.power) * 0.01 == pytest.approx(0.03**2 / 2, rel=1e-3)  # squared fractional rms


def test_find_segments__crosses_no_gap_and_takes_both_cameras():
    time1 = np.concatenate([np.arange(0.0, 25.0), np.arange(30.0, 45.0)])
    time2 = np.concatenate([np.arange(5.3, 25.3), np.arange(30.3, 44.3)])
    starts1, starts2 = spectra.find_segments(time1, time2, 10)
    np.testing.assert_array_equal(time1[starts1], [5.0, 15.0, 30.0])
    np.testing.assert_allclose(time2[starts2], [5.3, 15.3, 30.3])
    drifting = np.arange(3000.0) * (1.0 + 1e-5 * np.sin(np.arange(3000) / 500.0))  # barycentric times
    assert len(spectra.find_segments(drifting, drifting, 100)[0]) == 30


@pytest.mark.parametrize(
    ("time2", "message"),
    [
        (np.arange(0.0, 60.0, 2.0), "rebin them to the same step"),
        (np.arange(55.0, 75.0), "the longest without a gap has 5"),
    ],
)
def test_find_segments__says_what_to_do(time2, message):
    with pytest.raises(ValueError, match=message):
        spectra.find_segments(np.arange(60.0), time2, 10)


def test_uneven_sampling__is_refused_with_advice():
    rng = np.random.default_rng(0)
    time = np.cumsum(rng.uniform(0.5, 1.5, 500))
    assert not spectra.is_evenly_sampled(time)
    with pytest.raises(ValueError, match="compute_lomb_scargle_periodograms, compute_discrete_correlations"):
        spectra.power_spectrum(time, time, time, 50)


def test_power_spectrum__of_a_clock_with_coarse_ticks_has_the_right_frequencies():
    true = 0.2 * np.arange(20_000)
    time = np.round(true * 64.0) / 64.0
    assert spectra.sampling_step(time) == pytest.approx(0.2, rel=1e-4)  # the median step is 0.203 s
    flux = 1.0 + 0.1 * np.sin(2 * np.pi * 1.5 * true)
    found = spectra.power_spectrum(time, flux, np.full(len(time), 0.01), 1000)
    top = int(np.argmax(found.power))
    assert found.frequency[top] == pytest.approx(1.5, abs=0.003)
    assert found.power.sum() * found.frequency[0] == pytest.approx(0.1**2 / 2, rel=5e-3)


def test_lag__sign_is_positive_when_the_second_lags():
    first, second = red_noise_pair(5, lag=4.0, errors=(0.01, 0.01))
    found = spectra.cross_spectrum(first, second, 128)
    phase, error = lags.phase_lag(found)
    low = found.frequency < 0.05
    lag, lag_err = lags.time_lag(found.frequency, phase, error)
    assert np.median(lag[low]) == pytest.approx(4.0, abs=0.4)
    assert (lag_err[low] < 0.6).all()
    turned = lags.measure_lag(second, first, 128, BAND)
    assert turned.lag == pytest.approx(-4.0, abs=5 * turned.lag_err)


def test_time_lag__is_the_one_nearest_to_what_is_expected():
    frequency = np.array([0.1, 0.2, 0.3])
    phase = np.angle(np.exp(2j * np.pi * frequency * 12.0))
    lag, _ = lags.time_lag(frequency, phase, np.ones(3), near=11.0)
    np.testing.assert_allclose(lag, 12.0)


def test_lag__knows_when_the_second_camera_exposes_later():
    first, second = red_noise_pair(6, errors=(0.01, 0.01), late=0.4)
    assert second[0][0] == pytest.approx(first[0][0] + 0.4)
    found = lags.measure_lag(first, second, 128, BAND)
    assert found.lag == pytest.approx(LAG, abs=4 * found.lag_err)
    assert found.lag_err < 0.05


def test_lag__of_cameras_that_expose_apart_has_no_bias_of_segments_either():
    fits = [
        lags.measure_lag(*red_noise_pair(seed, n=3000, lag=0.0, late=0.4, errors=(0.01, 0.01)), 128, BAND)
        for seed in range(40)
    ]
    found = np.array([fit.lag for fit in fits])
    assert found.mean() == pytest.approx(0.0, abs=3 * found.std() / np.sqrt(40))


def test_lag__two_pi_wraps_do_not_matter_beyond_half_a_period():
    first, second = red_noise_pair(7, lag=31.0, errors=(0.02, 0.02))  # more than one period of most frequencies
    found = lags.measure_lag(first, second, 256, BAND)
    assert found.lag == pytest.approx(31.0, abs=4 * found.lag_err)


@pytest.fixture(scope="module")
def pulls():
    """Lag, coherence and phases of many pairs with gaps, as pulls, for coherent and half incoherent signals."""
    found = {}
    for coherence in (1.0, 0.6):
        found_lags, coherences, phases, bounded = [], [], [], []
        for seed in range(220):
            first, second = red_noise_pair(seed, coherence=coherence)
            fit = lags.measure_lag(first, second, 128, BAND)
            found_lags.append((fit.lag - LAG) / fit.lag_err)
            if seed >= 80:
                continue
            binned = spectra.rebin_cross(spectra.cross_spectrum(first, second, 128, delay=fit.lag), 0.3)
            used = binned.frequency < BAND[1]
            measured = spectra.coherence(binned)
            coherences.append(((measured.unbounded - coherence) / measured.error)[used])
            bounded.append(measured.value[used])
            phase, error = lags.phase_lag(binned)
            rest = np.angle(np.exp(1j * (phase - 2 * np.pi * binned.frequency * LAG)))
            phases.append((rest / error)[used])
        found[coherence] = np.array(found_lags), *map(np.concatenate, (coherences, phases, bounded))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("coherence", [1.0, 0.6])
def test_lag__pulls_have_width_one(pulls, coherence, capsys):
    found = pulls[coherence][0]
    with capsys.disabled():
        print(f"\nlag of {LAG} s, coherence {coherence}: pulls {found.mean():+.2f}, width {found.std():.2f}")
    assert abs(found.mean()) < 0.2
    assert 0.9 < found.std() < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("coherence", [1.0, 0.6])
def test_coherence__is_in_bounds_and_its_pulls_have_width_one(pulls, coherence, capsys):
    _, coherences, _, bounded = pulls[coherence]
    known = coherences[np.isfinite(coherences)]
    with capsys.disabled():
        print(f"\ncoherence {coherence}: pulls {np.median(known):+.2f}, width {known.std():.2f}")
    assert len(known) > 0.99 * len(coherences)
    assert ((bounded >= 0) & (bounded <= 1)).all()
    assert abs(np.median(known)) < 0.25
    assert 0.9 < known.std() < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("coherence", [1.0, 0.6])
def test_phase_lag__pulls_have_width_one(pulls, coherence):
    phases = pulls[coherence][2]
    # segments are cut a whole number of steps apart: the 0.3 steps that are left make a third of an error here
    assert abs(phases.mean()) < 0.45
    assert 0.9 < phases.std() < 1.1


def test_coherence__of_unrelated_light_curves_is_none():
    first, second = red_noise_pair(9, coherence=0.0)
    binned = spectra.rebin_cross(spectra.cross_spectrum(first, second, 128), 0.3)
    found = spectra.coherence(binned)
    used = np.isfinite(found.unbounded) & (binned.frequency < BAND[1])
    assert abs(np.mean((found.unbounded / found.error)[used])) < 1.0
    assert (found.value[used] < 0.2).all()


def test_phase_lag__of_one_average_tells_nothing():
    first, second = red_noise_pair(9, n=200, gaps=False)
    found = spectra.cross_spectrum(first, second, 200)
    assert np.isnan(spectra.coherence(found).unbounded).all()
    np.testing.assert_allclose(lags.phase_lag(found)[1], spectra.UNKNOWN_PHASE_ERR)
    with pytest.raises(ValueError, match=r"no lag can be had: no frequency from 0\.6 to 0\.9 Hz is coherent"):
        lags.fit_lag(found, (0.6, 0.9))


def test_spectra__refuse_what_cannot_be():
    pair = red_noise_pair(1, n=256, gaps=False)
    with pytest.raises(ValueError, match="norm must be one of"):
        spectra.power_spectrum(*pair[0], 64, "fraction")
    with pytest.raises(ValueError, match="at least 4 points: expected at least 4 s"):
        spectra.segment_points(pair[0][0], 3.0)
    with pytest.raises(ValueError, match="rebin factor above 0"):
        spectra.frequency_groups(np.arange(5.0), 0.0)
