"""Differential light curves: arithmetic, errors, sinusoids, periodograms, datasets and files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.series.lightcurve import fit_sinusoid, lomb_scargle_peak, reduced_chi2, relative_flux
from opticam_dask.lightcurves.differential import (
    compute_relative,
    relative_light_curve,
    write_relative_light_curve,
)
from opticam_dask.lightcurves.field.variables import most_variable
from opticam_dask.store.errors import StoreError

FLUXES = np.array([9000.0, 6000.0, 5000.0, 4000.0, 1500.0])


def curves_of(n_frames=200, *, variable=1, amplitude=0.0, cloud=0.0, seed=0):
    """Poisson fluxes of five sources, one of them variable, all dimmed by the same cloud."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(n_frames, dtype=float)
    expected = np.outer(1 - cloud * np.exp(-0.5 * ((seconds - n_frames / 2) / (n_frames / 10)) ** 2), FLUXES)
    expected[:, variable] *= 1 + amplitude * np.sin(2 * np.pi * 0.135 * seconds)
    flux = rng.poisson(expected).astype(float)
    mjd = 60310.0 + seconds / 86400.0
    return xr.Dataset(
        {
            "flux": (("frame", "source"), flux),
            "flux_err": (("frame", "source"), np.sqrt(flux)),
            "flags": (("frame", "source"), np.full(flux.shape, SourceFlag.REDUCED, dtype=np.uint32)),
        },
        coords={
            "mjd_utc": ("frame", mjd),
            "bmjd_tdb": ("frame", mjd + 0.004),
            "night": ("frame", np.full(n_frames, "2023-12-31", dtype=object)),
            "frame_flags": ("frame", np.ones(n_frames, dtype=np.uint32)),
            "source_id": ("source", np.arange(1, 6)),
        },
        attrs={"key": "1:g", "label": "aperture"},
    )


# ---------------------------------------------------------------- relative_flux


def test_relative_flux__is_target_over_plain_sum():
    relative, error = relative_flux(np.array([10.0]), np.array([1.0]), np.array([[30.0, 20.0]]), np.array([[3.0, 4.0]]))
    np.testing.assert_allclose(relative, 0.2, rtol=1e-14)
    # R sqrt((eT/T)^2 + (eC/C)^2) with eC = 5
    np.testing.assert_allclose(error, 0.2 * np.hypot(0.1, 0.1), rtol=1e-14)


def test_relative_flux__error_is_the_scatter_of_poisson_fluxes():
    rng = np.random.default_rng(3)
    flux = rng.poisson([400, 900, 600], size=(40000, 3)).astype(float)
    error = np.sqrt(flux)
    relative, relative_err = relative_flux(flux[:, 0], error[:, 0], flux[:, 1:], error[:, 1:])
    pull = (relative - 400 / 1500) / relative_err
    assert abs(np.mean(pull)) < 0.05
    assert 0.97 < np.std(pull) < 1.03


def test_relative_flux__target_without_flux_keeps_its_error():
    relative, error = relative_flux(np.zeros(1), np.full(1, 2.0), np.full((1, 1), 100.0), np.full((1, 1), 10.0))
    assert relative[0] == 0.0
    np.testing.assert_allclose(error, 0.02, rtol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_relative_flux__any_unusable_member_makes_the_frame_nan(bad):
    target, comparisons = np.array([1.0, bad, 1.0]), np.array([[2.0, 3.0], [2.0, 3.0], [2.0, bad]])
    relative, error = relative_flux(target, np.ones(3), comparisons, np.ones((3, 2)))
    np.testing.assert_array_equal(np.isnan(relative), [False, True, True])
    np.testing.assert_array_equal(np.isnan(error), [False, True, True])


def test_relative_flux__sum_of_zero_is_nan_without_warning():
    relative, error = relative_flux(np.ones(1), np.ones(1), np.array([[5.0, -5.0]]), np.ones((1, 2)))
    assert np.isnan(relative[0])
    assert np.isnan(error[0])


def test_relative_flux__leaves_read_only_inputs_alone():
    arrays = [np.ones(4), np.ones(4), np.ones((4, 2)), np.ones((4, 2))]
    for array in arrays:
        array.setflags(write=False)
    np.testing.assert_array_equal(relative_flux(*arrays)[0], 0.5)


def test_relative_flux__shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"shape \(frame, k\), got \(3,\), \(3,\), \(3,\)"):
        relative_flux(np.ones(3), np.ones(3), np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="must have shape"):
        relative_flux(np.ones(1), np.ones(1), np.ones((3, 2)), np.ones((3, 2)))


# ---------------------------------------------------------------- fit_sinusoid


def test_fit_sinusoid__recovers_noise_free_parameters():
    time = np.linspace(100, 200, 77)
    flux = 3.0 * (1 + 0.25 * np.sin(2 * np.pi * 0.135 * time + 1.2))
    fit = fit_sinusoid(time, flux, np.full(77, 0.01), 0.135)
    np.testing.assert_allclose([fit.amplitude, fit.phase, fit.offset], [0.25, 1.2, 3.0], rtol=1e-10)
    assert fit.chi2 < 1e-15
    assert fit.n_points == 77


def test_fit_sinusoid__errors_are_the_scatter_of_the_results():
    rng = np.random.default_rng(11)
    time = np.sort(rng.uniform(0, 60, 80))
    error = rng.uniform(0.1, 0.4, 80)
    model = 2.0 * (1 + 0.4 * np.sin(2 * np.pi * 0.135 * time + 0.7))
    fits = [fit_sinusoid(time, model + error * rng.normal(size=80), error, 0.135) for _ in range(1500)]
    for name, truth in (("amplitude", 0.4), ("phase", 0.7), ("offset", 2.0)):
        pulls = [(getattr(fit, name) - truth) / getattr(fit, f"{name}_err") for fit in fits]
        assert abs(np.mean(pulls)) < 0.1, name
        assert 0.93 < np.std(pulls) < 1.07, name
    # 80 points, three parameters
    assert abs(np.mean([fit.chi2 for fit in fits]) - 77) < 2


def test_fit_sinusoid__amplitude_error_knows_the_error_of_the_offset():
    # a third of a cycle: the offset is hardly known, and the relative amplitude with it
    rng = np.random.default_rng(4)
    time = np.linspace(0, 0.6, 200)
    model = 10.0 * (1 + 0.8 * np.sin(2 * np.pi * time))
    fits = [fit_sinusoid(time, model + 0.3 * rng.normal(size=200), np.full(200, 0.3), 1.0) for _ in range(800)]
    scatter = np.std([fit.amplitude for fit in fits])
    assert scatter == pytest.approx(np.mean([fit.amplitude_err for fit in fits]), rel=0.1)


def test_fit_sinusoid__nan_and_unweighted_points_do_not_count():
    time = np.arange(40.0)
    flux = 1 + 0.1 * np.sin(2 * np.pi * 0.135 * time)
    error = np.full(40, 0.01)
    spoiled, spoiled_err = flux.copy(), error.copy()
    spoiled[3], spoiled_err[5], spoiled_err[6] = np.nan, np.nan, 0.0
    spoiled[5:7] = 99.0
    kept = np.setdiff1d(np.arange(40), [3, 5, 6])
    assert fit_sinusoid(time, spoiled, spoiled_err, 0.135) == fit_sinusoid(time[kept], flux[kept], error[kept], 0.135)


def test_fit_sinusoid__no_signal_has_no_phase():
    fit = fit_sinusoid(np.arange(10.0), np.zeros(10), np.ones(10), 0.135)
    assert fit.amplitude == 0.0
    assert fit.phase_err == np.inf


@pytest.mark.parametrize("frequency", [0.0, 1.0])
def test_fit_sinusoid__frequency_that_the_times_cannot_see(frequency):
    with pytest.raises(ValueError, match="cannot be told from a constant"):
        fit_sinusoid(np.arange(50.0), np.ones(50), np.ones(50), frequency)


def test_fit_sinusoid__too_few_points():
    with pytest.raises(ValueError, match="at least 4 usable points, got 3"):
        fit_sinusoid(np.arange(5.0), np.array([1, 2, np.nan, np.nan, 1]), np.ones(5), 0.1)


# ---------------------------------------------------------------- lomb_scargle_peak


@pytest.mark.parametrize("n_frames", [60, 1000])
def test_lomb_scargle_peak__frequency_of_gappy_points_within_its_error(n_frames):
    rng = np.random.default_rng(7)
    time = np.sort(rng.choice(int(1.4 * n_frames), n_frames, replace=False)).astype(float)
    flux = 1 + 0.03 * np.sin(2 * np.pi * 0.135 * time + 1) + 0.02 * rng.normal(size=n_frames)
    peak = lomb_scargle_peak(time, flux, np.full(n_frames, 0.02))
    # Montgomery & O'Donoghue (1999): sqrt(6 / N) sigma / (pi T A)
    error = np.sqrt(6 / n_frames) * 0.02 / (np.pi * np.ptp(time) * 0.03)
    assert abs(peak.frequency - 0.135) < 4 * error
    assert 0 < peak.power < 1
    assert peak.false_alarm_probability < 1e-6


def test_lomb_scargle_peak__white_noise_is_no_detection():
    rng = np.random.default_rng(8)
    low = [
        lomb_scargle_peak(np.arange(100.0), rng.normal(size=100), np.ones(100)).false_alarm_probability < 0.02
        for _ in range(100)
    ]
    assert np.sum(low) <= 7


def test_lomb_scargle_peak__pieces_of_the_grid_agree(monkeypatch):
    rng = np.random.default_rng(9)
    time = np.sort(rng.uniform(0, 900, 400))
    flux = 1 + 0.1 * np.sin(2 * np.pi * 0.0731 * time) + 0.05 * rng.normal(size=400)
    whole = lomb_scargle_peak(time, flux, np.full(400, 0.05))
    monkeypatch.setattr("opticam_dask.kernels.series.lightcurve._FREQUENCIES_AT_ONCE", 97)
    pieces = lomb_scargle_peak(time, flux, np.full(400, 0.05))
    assert pieces.frequency == pytest.approx(whole.frequency, abs=0.01 / 900)


def test_lomb_scargle_peak__unix_times_and_perfect_signal():
    time = 1.7e9 + np.arange(200.0)
    peak = lomb_scargle_peak(time, 5 + np.sin(2 * np.pi * 0.135 * time), np.full(200, 0.1))
    assert peak.frequency == pytest.approx(0.135, abs=1e-5)
    assert peak.power == pytest.approx(1.0, abs=1e-6)
    assert peak.false_alarm_probability < 1e-100


@pytest.mark.parametrize(
    ("time", "flux", "message"),
    [
        (np.arange(7.0), np.arange(7.0), "at least 8 usable points, got 7"),
        (np.zeros(20), np.arange(20.0), "times and fluxes that differ"),
        (np.arange(20.0), np.ones(20), "times and fluxes that differ"),
        (np.repeat([0.0, 1.0], 10), np.arange(20.0), "no frequency has two cycles"),
        (np.append(np.arange(20.0), 1e9), np.arange(21.0), "too many"),
    ],
)
def test_lomb_scargle_peak__impossible_calls(time, flux, message):
    with pytest.raises(ValueError, match=message):
        lomb_scargle_peak(time, flux, np.ones(len(time)))


# ---------------------------------------------------------------- reduced_chi2


def test_reduced_chi2__is_one_for_noise_of_unequal_errors():
    rng = np.random.default_rng(2)
    error = rng.uniform(0.5, 2, 20000)
    assert reduced_chi2(7 + error * rng.normal(size=20000), error) == pytest.approx(1, abs=0.04)


def test_reduced_chi2__one_point_has_none():
    assert np.isnan(reduced_chi2(np.array([1.0, np.nan]), np.ones(2)))


# ---------------------------------------------------------------- datasets


def test_compute_relative__removes_a_cloud():
    relative = compute_relative(curves_of(cloud=0.4, seed=1), 2, [1, 3])
    assert reduced_chi2(relative["relative_flux"].to_numpy(), relative["relative_flux_err"].to_numpy()) < 1.3
    np.testing.assert_allclose(relative["relative_flux"].mean(), 6000 / 14000, rtol=0.01)


def test_compute_relative__coordinates_attributes_and_units():
    relative = compute_relative(curves_of(), np.int64(2), 1)
    assert set(relative.coords) == {"mjd_utc", "bmjd_tdb", "night", "time"}
    assert relative.attrs == {
        **{"key": "1:g", "label": "aperture", "target": 2, "comparisons": [1]},
        **{"weighting": "sum", "weights": [1.0]},
    }
    assert relative.sizes == {"frame": 200}
    assert all("units" in relative[name].attrs for name in ("relative_flux", "relative_flux_err"))


def test_compute_relative__flags_are_those_of_all_members_and_no_other():
    curves = curves_of(n_frames=3)
    curves["flags"][0, 1] |= np.uint32(SourceFlag.EDGE)
    curves["flags"][0, 2] |= np.uint32(SourceFlag.SATURATED)
    curves["flags"][1, 4] |= np.uint32(SourceFlag.BAD_PIXEL)
    flags = compute_relative(curves, 2, [1, 3])["flags"].to_numpy()
    assert flags.dtype == np.uint32
    np.testing.assert_array_equal(flags, [1 | SourceFlag.EDGE | SourceFlag.SATURATED, 1, 1])


def test_compute_relative__sources_go_by_number_not_by_place():
    curves = curves_of()
    turned = curves.isel(source=[4, 2, 0, 1, 3])
    xr.testing.assert_identical(compute_relative(curves, 2, [1, 5]), compute_relative(turned, 2, [1, 5]))


def test_compute_relative__lazy_input_gives_the_same():
    curves = curves_of()
    lazy = compute_relative(curves.chunk(frame=64), 2, [1, 3])
    xr.testing.assert_identical(lazy, compute_relative(curves, 2, [1, 3]))


@pytest.mark.parametrize(
    ("target", "comparisons", "message"),
    [
        (9, [1], "no source 9 in the catalogue of 1:g; it has 1 to 5"),
        (1, [2, 7], "no source 7"),
        (1, [1, 2], "other sources than the target"),
        (1, [2, 2], "each once"),
        (1, [], "comparisons must be"),
    ],
)
def test_compute_relative__wrong_sources(target, comparisons, message):
    with pytest.raises(ValueError, match=message):
        compute_relative(curves_of(n_frames=3), target, comparisons)


def test_compute_relative__empty_catalogue_is_said():
    with pytest.raises(ValueError, match="it has no sources"):
        compute_relative(curves_of(n_frames=3).isel(source=[]), 1, [2])


def test_relative_light_curve__without_a_reduction(tmp_path):
    with pytest.raises(StoreError, match="holds no reduction"):
        relative_light_curve(tmp_path, "1:g", 1, [2])


@pytest.mark.parametrize("variable", [0, 3])
def test_most_variable__finds_it_under_a_cloud(variable):
    assert most_variable(curves_of(variable=variable, amplitude=0.08, cloud=0.5)) == variable + 1


def test_most_variable__source_that_is_rarely_measured_spoils_nothing():
    curves = curves_of(variable=1, amplitude=0.08)
    curves["flux"][:, 4] = np.nan
    curves["flux"][:100, 3] = np.nan
    assert most_variable(curves) == 2


def test_most_variable__too_few_sources():
    curves = curves_of()
    curves["flux"][:, 2:] = np.nan
    with pytest.raises(ValueError, match="2 of 5 have one"):
        most_variable(curves)


# ---------------------------------------------------------------- files


def test_write_relative_light_curve__reads_back_bit_for_bit(tmp_path):
    curves = curves_of(n_frames=50)
    curves["flux"][7, 1] = np.nan
    curves["flags"][7, 1] |= np.uint32(SourceFlag.OFF_FRAME)
    relative = compute_relative(curves, 2, [1, 3])
    file = write_relative_light_curve(relative, tmp_path, "night")
    assert file == tmp_path / "relative_light_curves" / "aperture" / "night_1-g_light_curve.csv"
    table = pd.read_csv(file, dtype=str).astype(float)
    assert table.columns.tolist() == ["BMJD", "rel_flux", "rel_flux_err", "flags"]
    np.testing.assert_array_equal(table["BMJD"], relative["bmjd_tdb"])
    np.testing.assert_array_equal(table["rel_flux"], relative["relative_flux"])
    np.testing.assert_array_equal(table["rel_flux_err"], relative["relative_flux_err"])
    assert table["flags"].tolist() == [SourceFlag.OFF_FRAME if row == 7 else 0 for row in range(50)]


def test_write_relative_light_curve__utc_without_barycentric_times(tmp_path):
    curves = curves_of(n_frames=5)
    curves["bmjd_tdb"] = curves["bmjd_tdb"] * np.nan
    file = write_relative_light_curve(compute_relative(curves, 2, [1]), tmp_path)
    assert file.name == "target_1-g_light_curve.csv"
    table = pd.read_csv(file, dtype=str).astype(float)
    np.testing.assert_array_equal(table["MJD"], curves["mjd_utc"])


def test_write_relative_light_curve__replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    for target in (2, 3):
        file = write_relative_light_curve(compute_relative(curves_of(n_frames=5), target, [1]), tmp_path)
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    assert pd.read_csv(file)["rel_flux"].mean() == pytest.approx(5000 / 9000, rel=0.05)


def test_write_relative_light_curve__prefix_stays_in_its_directory(tmp_path):
    with pytest.raises(ValueError, match="without directories"):
        write_relative_light_curve(compute_relative(curves_of(n_frames=5), 2, [1]), tmp_path, "../up")


def test_write_relative_light_curve__curve_that_does_not_say_what_it_is(tmp_path):
    relative = compute_relative(curves_of(n_frames=5), 2, [1])
    del relative.attrs["key"]
    with pytest.raises(ValueError, match="attributes key and label"):
        write_relative_light_curve(relative, tmp_path)


# ---------------------------------------------------------------- comparisons by weight and by choice


def _simulated_curves(n_frames=400, seed=2):
    """Six constant stars, of which the second varies and the third is saturated, behind a changing sky."""
    rng = np.random.default_rng(seed)
    levels = np.array([4e4, 5e4, 6e4, 3e4, 2e4, 2.5e4])
    truth = (1.0 + 0.2 * np.sin(np.linspace(0.0, 6.0, n_frames)))[:, None] * levels
    truth[:, 1] *= 1.0 + 0.05 * np.sin(np.arange(n_frames) / 9.0)
    error = np.sqrt(truth + 2000.0)
    flags = np.ones(truth.shape, dtype=np.uint32)
    flags[:, 2] |= np.uint32(SourceFlag.SATURATED)
    return xr.Dataset(
        {
            "flux": (("frame", "source"), truth + error * rng.standard_normal(truth.shape)),
            "flux_err": (("frame", "source"), error),
            "flags": (("frame", "source"), flags),
        },
        coords={"source_id": ("source", np.arange(1, 7)), "mjd_utc": ("frame", 60000.0 + np.arange(n_frames) / 1e4)},
        attrs={"key": "1:g", "label": "aperture"},
    )


def test_compute_relative__auto_chooses_and_says_why():
    relative = compute_relative(_simulated_curves(), 1, "auto", "optimal")
    assert relative.attrs["comparisons"] == [4, 5, 6]
    reasons = relative.attrs["reasons"]
    assert "source 2: varies" in reasons
    assert "source 3: flagged in 100 % of the frames" in reasons
    flux, error = relative["relative_flux"].to_numpy(), relative["relative_flux_err"].to_numpy()
    pulls = (flux - 4e4 / 7.5e4) / error
    assert abs(pulls.mean()) < 0.2
    assert 0.9 < pulls.std() < 1.1


def test_compute_relative__optimal_weights_bridge_a_missing_comparison_and_the_sum_does_not():
    curves = _simulated_curves()
    curves["flux"][100:150, 3] = np.nan
    added, weighted = (compute_relative(curves, 1, [4, 5, 6], name)["relative_flux"] for name in ("sum", "optimal"))
    assert np.isnan(added[100:150]).all()
    assert np.isfinite(weighted).all()
    step = float(weighted[100:150].mean() / weighted[150:].mean()) - 1.0
    assert abs(step) < 4.0 * float(weighted[150:].std() / weighted[150:].mean()) / np.sqrt(50)


def test_compute_relative__nobody_fit_and_unknown_weighting_are_refused():
    curves = _simulated_curves()
    curves["flags"][:] = np.uint32(SourceFlag.EDGE | SourceFlag.REDUCED)
    with pytest.raises(ValueError, match=r"no source is fit as a comparison for source 1: \d often flagged: 2"):
        compute_relative(curves, 1, "auto")
    with pytest.raises(ValueError, match="weighting must be"):
        compute_relative(curves, 1, [2], "best")
    with pytest.raises(ValueError, match="no source 9"):
        compute_relative(curves, 9, "auto")
