"""The Analyzer: any light curve in, results with units out; and the timing notebook on the frames of the tutorial."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy import units as u
from astropy.table import MaskedColumn, QTable
from astropy.time import Time
from astropy.timeseries import TimeSeries
from astropy.utils.masked import Masked
from simulated_pairs import red_noise_pair

from opticam_dask import Analyzer
from opticam_dask.api.analysis import pairs
from opticam_dask.api.differential_photometer import DifferentialLightCurves
from opticam_dask.display.plotting import Figure
from opticam_dask.flags import SourceFlag
from opticam_dask.lightcurves import conversions
from opticam_dask.lightcurves.differential import write_relative_light_curve

MJD = 60309.2
QUIET = {"show_plots": False, "verbose": False}


def _curve(time, flux, error, key="1:g", flags=None):
    """A differential light curve as the package makes it, of times in seconds."""
    frames = xr.Dataset(
        {
            "relative_flux": ("frame", flux),
            "relative_flux_err": ("frame", error),
            "flags": ("frame", np.ones(len(time), np.uint32) if flags is None else flags),
        },
        coords={"mjd_utc": ("frame", MJD - 0.003 + time / 86400), "bmjd_tdb": ("frame", MJD + time / 86400)},
    )
    return frames.assign_attrs(key=key, label="aperture")


def _pair(seed=1, lag=4.0, **options):
    first, second = red_noise_pair(seed, n=2000, lag=lag, **options)
    return {"1:g": _curve(*first), "2:r": _curve(*second, key="2:r")}


def _sinusoids(lag=1.5, keep=0.7, period=7.4, n=500):
    rng = np.random.default_rng(8)
    time = np.arange(n, dtype=float)[rng.random(n) < keep]
    curves = {}
    for number, (key, late) in enumerate({"1:g": 0.0, "2:r": lag}.items()):
        noise = np.random.default_rng(number).normal(0, 0.01, len(time))
        flux = 0.8 * (1 + 0.03 * np.sin(2 * np.pi * (time - late) / period) + noise)
        curves[key] = _curve(time, flux, np.full(len(time), 0.008), key)
    return curves


# ---------------------------------------------------------------- light curves


def test_light_curves__are_the_same_from_every_kind_of_object():
    whole = _pair()["1:g"]
    time, flux, error = (whole[name].to_numpy() for name in ("bmjd_tdb", "relative_flux", "relative_flux_err"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = {
            "dataset": whole,
            "table": pd.DataFrame({"BMJD": time, "rel_flux": flux, "rel_flux_err": error}),
            "series": conversions.to_timeseries(whole),
            "stingray": conversions.to_stingray(whole),
        }
    expected = Analyzer(light_curves={"1:g": whole}, **QUIET).get_lc("1:g")
    assert expected["flux"].mean() == pytest.approx(1.0)
    assert expected.attrs["reference_mjd"] == 60309.0
    for name, curve in kinds.items():
        found = Analyzer(light_curves={"1:g": curve}, **QUIET).get_lc("1:g")
        np.testing.assert_allclose(found["time"], expected["time"], atol=2e-6, err_msg=name)
        np.testing.assert_allclose(found["flux"], expected["flux"], err_msg=name)
        np.testing.assert_allclose(found["flux_err"], expected["flux_err"], err_msg=name)
    both = TimeSeries(time=Time(time, format="mjd", scale="tdb"))
    for key in ("1:g", "2:r"):
        both[f"{key}_rel_flux"], both[f"{key}_rel_flux_err"] = flux, error
    assert Analyzer(light_curves=both, **QUIET).keys == ["1:g", "2:r"]
    with pytest.raises(TypeError, match="got list"):
        Analyzer(light_curves={"1:g": [1, 2]}, **QUIET)
    with pytest.raises(ValueError, match="expected columns BMJD or MJD, rel_flux and rel_flux_err, found a"):
        Analyzer(light_curves={"1:g": pd.DataFrame({"a": [1.0]})}, **QUIET)


def test_light_curves__are_normalised_without_touching_the_callers():
    curves = _sinusoids()
    before = curves["1:g"].copy(deep=True)
    for norm, level in (("mean", 1.0), ("none", 0.8), ("max", 0.96)):
        found = Analyzer(light_curves=curves, norm=norm, **QUIET).get_lc("1:g")
        assert found["flux"].mean() == pytest.approx(level, abs=0.02)
        assert (found["flux_err"] / found["flux"]).mean() == pytest.approx(0.01, abs=2e-4)
    xr.testing.assert_identical(curves["1:g"], before)
    with pytest.raises(ValueError, match="norm must be one of mean, max, none"):
        Analyzer(light_curves=curves, norm="median", **QUIET)


def test_light_curves__leave_out_what_has_no_flux_and_say_which_are_flagged(capsys):
    time = np.arange(50.0)
    flux = np.ones(50)
    flux[3], flux[10] = np.nan, 9.0
    flags = np.ones(50, np.uint32)
    flags[10] |= np.uint32(SourceFlag.OUTLIER)
    curve = _curve(time, flux, np.full(50, 0.1), flags=flags)
    assert Analyzer(light_curves=curve, show_plots=False).get_lc("1:g").sizes["time"] == 48
    assert "1:g: 1 of 50 frames left out (outlier)." in capsys.readouterr().out
    assert Analyzer(light_curves=curve, exclude_flags=0, **QUIET).get_lc("1:g").sizes["time"] == 49
    with pytest.raises(ValueError, match="1 frames at the same time as another"):
        Analyzer(light_curves=_curve(np.r_[time, 5.0], np.ones(51), np.ones(51)), **QUIET)
    with pytest.raises(ValueError, match="has 1 frames with a time, a flux and an error"):
        Analyzer(light_curves=_curve(time[:1], flux[:1], flux[:1]), **QUIET)


def test_get_lc__takes_what_a_camera_is_called_everywhere_else():
    found = Analyzer(light_curves=_sinusoids(), **QUIET)
    for name in ("1:g", "1-g", "g"):
        assert found.get_lc(name).identical(found.light_curves["1:g"])
    with pytest.raises(ValueError, match="no such key: 'u' in this analysis; it has 1:g"):
        found.get_lc("u")


def test_light_curves__of_different_time_scales_are_refused():
    curves = _sinusoids()
    curves["2:r"]["bmjd_tdb"] = curves["2:r"]["bmjd_tdb"] * np.nan
    with pytest.raises(ValueError, match="1:g: TDB, 2:r: UTC"):
        Analyzer(light_curves=curves, **QUIET)


def test_files__are_found_by_prefix_and_label(tmp_path):
    for label in ("aperture", "optimal"):
        directory = tmp_path / "relative_light_curves" / label
        directory.mkdir(parents=True)
        for key in ("1-g", "2-r"):
            table = {"BMJD": MJD + np.arange(9.0), "rel_flux": np.arange(1.0, 10.0), "rel_flux_err": np.ones(9)}
            pd.DataFrame(table).to_csv(directory / f"my_star_{key}_light_curve.csv", index=False)
    found = Analyzer(tmp_path, phot_label="optimal", **QUIET)
    assert (found.keys, found.prefix, found.phot_label) == (["1:g", "2:r"], "my_star", "optimal")
    found.plot_light_curves()
    assert (tmp_path / "plots" / "my_star_optimal_light_curves.pdf").exists()
    with pytest.raises(ValueError, match=r"phot_label must be given.*there are aperture, optimal"):
        Analyzer(tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"no prefix in .* called 'other'; there are my_star"):
        Analyzer(tmp_path, prefix="other", phot_label="optimal", **QUIET)
    with pytest.raises(ValueError, match="make light curves first"):
        Analyzer(tmp_path / "nothing", **QUIET)
    with pytest.raises(ValueError, match="expected light_curves, or an out_directory"):
        Analyzer(**QUIET)


def test_differential_light_curves__become_an_analyzer(tmp_path):
    curves = DifferentialLightCurves(_sinusoids())
    found = curves.to_analyzer(tmp_path, norm="none", prefix="star", phot_label="aperture", **QUIET)
    assert found.keys == ["1:g", "2:r"]
    assert (found.norm, found.out_directory) == ("none", tmp_path)


def test_join__adds_cameras_and_nights():
    curves = _sinusoids()
    later = curves["1:g"].assign_coords(bmjd_tdb=curves["1:g"]["bmjd_tdb"] + 1, mjd_utc=curves["1:g"]["mjd_utc"] + 1)
    one = Analyzer(light_curves=curves["1:g"], **QUIET)
    n_frames = one.get_lc("1:g").sizes["time"]
    both = one.join(Analyzer(light_curves=curves["2:r"], **QUIET)).join(Analyzer(light_curves=later, **QUIET))
    assert both.keys == ["1:g", "2:r"]
    assert both.get_lc("1:g").sizes["time"] == 2 * n_frames
    assert both.get_lc("1:g")["flux"].mean() == pytest.approx(1.0)
    assert both.get_lc("1:g")["time"][n_frames] - both.get_lc("1:g")["time"][0] == pytest.approx(86400.0, abs=1e-5)
    assert one.join(one).get_lc("1:g").sizes["time"] == n_frames  # frames in both are taken once


def test_rebin__keeps_cameras_simultaneous_and_errors_right():
    found = Analyzer(light_curves=_pair(), **QUIET)
    assert len(found.good_time_intervals["1:g"]) > 5
    found.rebin_light_curves(5 * u.s)
    first, second = found.light_curves.values()
    np.testing.assert_allclose(np.diff(first["time"]) % 5.0 % 5.0, 0.0, atol=1e-6)
    np.testing.assert_allclose(first["time"], second["time"])
    assert first["flux_err"].median() == pytest.approx(0.05 / np.sqrt(5), rel=0.02)
    with pytest.raises(ValueError, match="dt must be a time"):
        found.rebin_light_curves(5 * u.m)


def test_rebin__makes_no_lag_of_cameras_that_expose_apart():
    period, curves = 7.4, {}
    for number, (key, late) in enumerate({"1:g": 0.0, "2:r": 0.4}.items()):
        time = np.arange(1000.0) + late
        flux = 1 + 0.03 * np.sin(2 * np.pi * time / period) + np.random.default_rng(number).normal(0, 0.01, 1000)
        curves[key] = _curve(time, flux, np.full(1000, 0.01), key)
    found = Analyzer(light_curves=curves, **QUIET).rebin_light_curves(2.0)
    first, second = found.light_curves.values()
    np.testing.assert_allclose(second["time"][5:10] - first["time"][5:10], 0.4, atol=1e-5)
    lag = found.compute_phase_lags(period)["1:g x 2:r"]
    assert float(lag["lag"]) == pytest.approx(0.0, abs=3 * float(lag["lag_err"]))
    assert float(lag["lag_err"]) < 0.05  # without their delay it is -0.4 s
    pair = dict(zip(("1:g", "2:r"), red_noise_pair(2, n=4000, lag=0.0, late=0.4, errors=(0.01, 0.01)), strict=True))
    apart = Analyzer(light_curves={key: _curve(*curve, key) for key, curve in pair.items()}, **QUIET)
    fit = apart.rebin_light_curves(2.0).compute_time_lags(128, (0, 0.1))["1:g x 2:r"]
    assert float(fit["lag"]) == pytest.approx(0.0, abs=4 * float(fit["lag_err"]))
    assert float(fit["lag_err"]) < 0.05


def test_cross_correlations__of_cameras_that_expose_apart_and_at_another_rate_have_their_lag():
    time = np.arange(0.0, 2000.0)
    slow = np.arange(0.9, 2000.0, 2.0)  # half-way between the bins that begin with the first camera
    curves = {
        key: _curve(times, 1 + 0.1 * np.sin(2 * np.pi * (times - late) / 40.0), np.full(len(times), 0.01), key)
        for key, times, late in (("1:g", time, 0.0), ("2:r", slow, 6.0))
    }
    found = Analyzer(light_curves=curves, **QUIET).compute_cross_correlations(max_lag=20)["1:g x 2:r"]
    near = found.sel(lag=slice(2.5, 9.5))
    fit = np.polynomial.Polynomial.fit(near["lag"], near["correlation"], 2).convert().coef
    assert -fit[1] / (2 * fit[2]) == pytest.approx(6.0, abs=0.15)


def test_rebin__that_is_refused_changes_nothing():
    fine, slow = np.arange(100.0), np.arange(0.0, 100.0, 4.0)
    curves = {"1:g": _curve(fine, 1 + fine, fine + 1), "2:r": _curve(slow, 1 + slow, slow + 1, "2:r")}
    found = Analyzer(light_curves=curves, **QUIET)
    with pytest.raises(ValueError, match="at least the time between frames, 4 s, got"):
        found.rebin_light_curves(2.0)
    assert found.get_lc("1:g").sizes["time"] == 100


def test_join__of_other_time_scales_is_refused():
    curves = _sinusoids()
    utc = curves["2:r"].assign_coords(bmjd_tdb=curves["2:r"]["bmjd_tdb"] * np.nan)
    barycentric = Analyzer(light_curves=curves["1:g"], **QUIET)
    with pytest.raises(ValueError, match=r"1:g: TDB, 2:r: UTC.*their lags would mean nothing"):
        barycentric.join(Analyzer(light_curves=utc, **QUIET))
    with pytest.raises(ValueError, match="1:g: TDB, 1:g: UTC"):
        barycentric.join(Analyzer(light_curves=utc.assign_attrs(key="1:g"), **QUIET))


def test_series__masked_and_flagged_points_are_left_out_as_of_other_kinds():
    time, flags = MJD + np.arange(20.0) / 86400, np.zeros(20, np.uint32)
    flags[7] = np.uint32(SourceFlag.OUTLIER)
    hidden = np.arange(20) < 5
    flux = np.where(hidden, 1e20, 1.0)
    masked = [MaskedColumn(flux, mask=hidden), Masked(u.Quantity(flux), mask=hidden)]
    for column in masked:
        series = TimeSeries(time=Time(time, format="mjd", scale="tdb"), data={"flux_err": np.full(20, 0.1)})
        series["flux"] = column
        assert Analyzer(light_curves={"1:g": series}, **QUIET).get_lc("1:g").sizes["time"] == 15
        series["flags"] = flags
        assert Analyzer(light_curves={"1:g": series}, **QUIET).get_lc("1:g").sizes["time"] == 14
        series.rename_column("flags", "quality")  # lightkurve's, whose bits are of any telescope
        assert Analyzer(light_curves={"1:g": series}, **QUIET).get_lc("1:g").sizes["time"] == 15
        series.meta.update(target=2, comparisons=[1])
        assert Analyzer(light_curves={"1:g": series}, **QUIET).get_lc("1:g").sizes["time"] == 14
    curve = _curve(np.arange(20.0), np.ones(20), np.full(20, 0.1), flags=flags)
    assert Analyzer(light_curves={"1:g": conversions.to_timeseries(curve)}, **QUIET).get_lc("1:g").sizes["time"] == 19
    table = pd.DataFrame({"BMJD": time, "1:g_rel_flux": 1.0, "1:g_rel_flux_err": 0.1, "1:g_flags": flags})
    assert Analyzer(light_curves=table, **QUIET).get_lc("1:g").sizes["time"] == 19


def test_times__are_barycentric_where_one_frame_is_not(tmp_path):
    curve = _sinusoids()["1:g"]
    barycentric = curve["bmjd_tdb"].to_numpy().copy()
    barycentric[3] = np.nan
    curve = curve.assign_coords(bmjd_tdb=("frame", barycentric))
    found = DifferentialLightCurves({"1:g": curve}).to_analyzer(**QUIET).get_lc("1:g")
    of_file = Analyzer(light_curves={"1:g": write_relative_light_curve(curve, tmp_path)}, **QUIET).get_lc("1:g")
    assert found.attrs["time_scale"] == of_file.attrs["time_scale"] == "tdb"
    assert found.sizes["time"] == curve.sizes["frame"] - 1
    np.testing.assert_allclose(found["time"], of_file["time"], atol=2e-6)


def test_export_to_stingray__is_in_seconds_with_gtis():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what stingray warns of when it is imported is not ours
        found = Analyzer(light_curves=_pair(), **QUIET).export_light_curves_to_stingray()["1:g"]
    assert found.mjdref == 60309.0
    assert found.err_dist == "gauss"
    assert found.dt == pytest.approx(1.0, abs=1e-5)
    assert len(found.gti) > 5


# ---------------------------------------------------------------- analyses


def test_power_spectra__of_gaps_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"1:g, 2:r: no periodogram.*compute_averaged_power_spectra.*rebin"):
        Analyzer(light_curves=_pair(), **QUIET).compute_power_spectra()
    whole = Analyzer(light_curves=_pair(gaps=False), **QUIET).compute_power_spectra()
    assert whole["1:g"].sizes["frequency"] == 999


def test_averaged_power_spectra__say_how_many(capsys):
    found = Analyzer(light_curves=_pair(), show_plots=False).compute_averaged_power_spectra(64 * u.s, 0.1)
    assert re.search(r"\d+ 1:g segments averaged\.", capsys.readouterr().out)
    spectrum = found["1:g"]
    noise = 2 * 0.05**2
    assert spectrum.attrs["noise_level"] == pytest.approx(noise, rel=0.1)  # of the mean of the whole
    assert spectrum["power"][-1] == pytest.approx(noise, rel=0.3)
    assert spectrum["power"].attrs["units"] == "1/Hz"
    assert spectrum["n_averaged"][-1] > spectrum["n_averaged"][0] == spectrum.attrs["n_segments"]


def test_lomb_scargle__finds_the_period_of_each_and_of_all():
    found = Analyzer(light_curves=_sinusoids(), **QUIET)
    each = found.compute_lomb_scargle_periodograms()
    for spectrum in each.values():
        error = spectrum.attrs["peak_frequency_err"]
        assert spectrum.attrs["peak_frequency"] == pytest.approx(1 / 7.4, abs=4 * error)
        assert error < 1e-4
        assert spectrum.attrs["amplitude"] == pytest.approx(0.03, abs=0.004)
        assert spectrum["power"].max() > spectrum["false_alarm_level"].sel(false_alarm_probability=0.001)
    together = found.compute_multiband_lomb_scargle_periodogram()["all"]
    assert together.attrs["peak_frequency_err"] < each["1:g"].attrs["peak_frequency_err"]
    given = found.compute_lomb_scargle_periodograms(frequency=np.linspace(0.1, 0.2, 50) * u.Hz)
    assert given["1:g"].sizes["frequency"] == 50


def test_lags__of_red_noise_agree_and_turn_with_the_order():
    curves = _pair(seed=3, lag=4.0, errors=(0.02, 0.02))
    found = Analyzer(light_curves=curves, **QUIET)
    pair = "1:g x 2:r"
    fit = found.compute_time_lags(64 * u.s, (0, 0.1))[pair]
    assert float(fit["lag"]) == pytest.approx(4.0, abs=4 * float(fit["lag_err"]))
    assert found.compute_cross_correlations(max_lag=30 * u.s)[pair].attrs["peak_lag"] == pytest.approx(4.0, abs=1.1)
    assert found.compute_discrete_correlations(20 * u.s)[pair].attrs["peak_lag"] == pytest.approx(4.0, abs=1.1)
    random = found.compute_randomised_lags(12 * u.s, n_realisations=20)[pair].attrs
    assert random["centroid_low"] - 1 < 4.0 < random["centroid_high"] + 1
    turned = {"1:g": curves["2:r"], "2:r": curves["1:g"]}
    back = Analyzer(light_curves=turned, **QUIET).compute_time_lags(64 * u.s, (0, 0.1) * u.Hz)[pair]
    assert float(back["lag"]) == pytest.approx(-4.0, abs=4 * float(back["lag_err"]))


def test_cross_spectra__have_coherence_in_bounds_and_lags():
    found = Analyzer(light_curves=_pair(seed=4), **QUIET).compute_averaged_cross_spectra(64 * u.s, 0.3, delay=4 * u.s)
    spectrum = found["1:g x 2:r"]
    known = spectrum["coherence"].dropna("frequency")
    assert ((known >= 0) & (known <= 1)).all()
    low = spectrum.sel(frequency=slice(0, 0.05))
    assert (abs(low["time_lag"] - 4.0) < 5 * low["time_lag_err"]).all()
    table = found.to_table()
    assert isinstance(table, QTable)
    assert table["time_lag"].unit == u.s
    assert table["frequency"].unit == u.Hz
    assert set(table["name"]) == {"1:g x 2:r"}
    with pytest.raises(ValueError, match="a pair of light curves is needed"):
        Analyzer(light_curves=_pair()["1:g"], **QUIET).compute_averaged_cross_spectra(64 * u.s)


def test_phase_lags__of_a_periodic_signal_with_gaps():
    found = Analyzer(light_curves=_sinusoids(lag=1.5), **QUIET)
    for period in (None, 7.4 * u.s):
        lag = found.compute_phase_lags(period)["1:g x 2:r"]
        assert float(lag["lag"]) == pytest.approx(1.5, abs=4 * float(lag["lag_err"]))
        assert float(lag["lag_err"]) < 0.1
        assert float(lag["phase_lag"]) == pytest.approx(2 * np.pi * 1.5 / 7.4, abs=0.2)
    table = found.compute_phase_lags(7.4).to_table()
    assert table["lag"].unit == u.s
    assert len(table) == 1


def test_phase_lags__of_cameras_at_different_times_have_the_error_of_the_frequency(capsys):
    pulls = []
    for seed in range(60):
        rng, curves = np.random.default_rng(seed), {}
        for key, begin in (("1:g", 0.0), ("2:r", 150.0)):
            time = begin + np.arange(200.0)
            flux = 1 + 0.03 * np.sin(2 * np.pi * time / 7.4) + rng.normal(0, 0.03, 200)
            curves[key] = _curve(time, flux, np.full(200, 0.03), key)
        lag = Analyzer(light_curves=curves, **QUIET).compute_phase_lags()["1:g x 2:r"]
        pulls.append(float(lag["lag"] / lag["lag_err"]))
    with capsys.disabled():
        print(f"\nphase lags of cameras 150 s apart: pulls {np.mean(pulls):+.2f}, width {np.std(pulls):.2f}")
    assert 0.75 < np.std(pulls) < 1.25


def test_phase_lags__of_no_known_frequency_have_the_error_of_an_unknown_phase(monkeypatch):
    curves = _sinusoids()
    later = curves["2:r"].assign_coords(bmjd_tdb=curves["2:r"]["bmjd_tdb"] + 1e-3)
    found = Analyzer(light_curves={"1:g": curves["1:g"], "2:r": later}, **QUIET)
    monkeypatch.setattr(pairs, "common_frequency", lambda curves, near: (near, np.inf))
    assert float(found.compute_phase_lags()["1:g x 2:r"]["phase_lag_err"]) == pytest.approx(np.pi / np.sqrt(3))


def test_cross_correlations__of_other_sampling_are_rebinned_or_refused():
    first, second = red_noise_pair(5, n=2000, lag=4.0, slope=2.0, gaps=False)
    slow = tuple(column[: 2 * (len(second[0]) // 2)].reshape(-1, 2).mean(axis=1) for column in second)
    found = Analyzer(light_curves={"1:g": _curve(*first), "2:r": _curve(*slow)}, **QUIET)
    with pytest.raises(ValueError, match="rebin them to the same step"):
        found.compute_cross_correlations(force_match=False)
    peak = found.compute_cross_correlations(max_lag=30)["1:g x 2:r"].attrs["peak_lag"]
    assert peak == pytest.approx(4.0, abs=2.1)


def test_folding__keeps_the_epoch():
    found = Analyzer(light_curves=_sinusoids(), **QUIET)
    epoch = MJD + 1.85 / 86400  # the first maximum of the first camera
    bins = found.phase_bin_light_curves(7.4 * u.s, epoch, n_bins=10)["1:g"]
    assert int(np.argmax(bins["flux"].to_numpy())) in (0, 9)
    assert bins["n_points"].sum() == found.get_lc("1:g").sizes["time"]
    same = found.phase_bin_light_curves(7.4, Time(epoch, format="mjd", scale="tdb"), n_bins=10, subplot=False)["1:g"]
    xr.testing.assert_allclose(same, bins)
    folded = found.phase_fold_light_curves(7.4 * u.s)["1:g"]
    assert folded["phase"].min() >= 0
    assert folded["phase"].max() < 1
    with pytest.raises(ValueError, match="period must be above 0"):
        found.phase_fold_light_curves(0 * u.s)


def test_plots__are_made_of_all_results(tmp_path):
    found = Analyzer(tmp_path, light_curves=_sinusoids(), prefix="star", phot_label="aperture", **QUIET)
    results = [
        found.compute_averaged_power_spectra(10, scale="loglog"),
        found.compute_lomb_scargle_periodograms(),
        found.compute_averaged_cross_spectra(10),
        found.compute_cross_correlations(),
        found.compute_randomised_lags(3.0, n_realisations=2),
        found.phase_fold_light_curves(7.4),
        found.phase_bin_light_curves(7.4),
        found.compute_phase_lags(7.4),
        Analyzer(tmp_path, light_curves=_pair(), prefix="star", phot_label="aperture", **QUIET).compute_time_lags(
            64, (0, 0.1)
        ),
    ]
    assert all(isinstance(result.plot(), Figure) for result in results)
    names = {file.name for file in (tmp_path / "plots").iterdir()}
    assert {
        "star_aperture_averaged_power_spectra.pdf", "star_aperture_L-S_periodograms.pdf",
        "star_aperture_cross_correlations.pdf", "star_aperture_P=7.4000s_phase_bin.pdf",
        "star_aperture_phase_lags.pdf", "star_aperture_time_lags.pdf",
    } <= names  # fmt: skip
    with pytest.raises(ValueError, match="scale must be one of"):
        found.compute_averaged_power_spectra(10, scale="square")
