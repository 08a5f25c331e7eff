"""What comparisons say of a light curve: trends that they share, night by night, and how often errors hold."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from opticam_dask.lightcurves.differential import compute_relative
from opticam_dask.lightcurves.field.comparison_stars import coverage_card, describe_coverage


def _curves(amplitude=0.006, claimed=1.0, n_frames=100, n_stars=13):
    """Two nights of a field: clouds, a trend with airmass of another size in each star and night, and gains."""
    rng = np.random.default_rng(6)
    nights = np.repeat(np.array(["2024-01-01", "2024-01-02"], dtype=object), n_frames)
    time = np.concatenate([np.linspace(0, 0.25, n_frames), 1.0 + np.linspace(0, 0.25, n_frames)])
    airmass = 1.1 + 6.0 * (time % 1.0 - 0.1) ** 2
    scaled = (airmass - airmass.mean()) / airmass.std()
    flux = np.empty((2 * n_frames, n_stars))
    level = np.exp(rng.normal(11, 0.3, n_stars))
    for night in (0, 1):
        rows = slice(night * n_frames, (night + 1) * n_frames)
        gain = 1.0 + rng.normal(0, 0.02, n_stars)
        flux[rows] = level * gain * (1.0 + amplitude * scaled[rows, None] * rng.normal(0, 1, n_stars))
    clouds = 1.0 - 0.2 * rng.uniform(size=2 * n_frames)
    noise = 0.002
    flux *= clouds[:, None] * (1.0 + noise * rng.standard_normal(flux.shape))
    return xr.Dataset(
        {
            "flux": (("frame", "source"), flux),
            "flux_err": (("frame", "source"), flux * noise * claimed),
            "x": (("frame", "source"), np.full(flux.shape, 50.0)),
            "y": (("frame", "source"), np.full(flux.shape, 50.0)),
            "flags": (("frame", "source"), np.ones(flux.shape, np.uint32)),
        },
        coords={
            "mjd_utc": ("frame", 60310.0 + time),
            "bmjd_tdb": ("frame", 60310.003 + time),
            "night": ("frame", nights),
            "airmass": ("frame", airmass),
            "source_id": ("source", np.arange(1, n_stars + 1)),
        },
        attrs={"key": "1:g", "label": "aperture"},
    )


def _scatter(curve, night):
    rows = curve["night"].to_numpy().astype(object) == night
    flux = curve["relative_flux"].to_numpy()[rows]
    return np.std(flux) / np.mean(flux), np.mean(flux)


def test_shared_trends__are_taken_off_night_by_night_and_levels_stay():
    curves = _curves()
    others = list(range(2, 14))
    plain = compute_relative(curves, 1, others, "optimal")
    corrected = compute_relative(curves, 1, others, "optimal", shared_trends=True)
    for night in ("2024-01-01", "2024-01-02"):
        assert corrected.attrs[f"n_shared_trends_{night}"] == 1
        expected = 0.002 * np.sqrt(1.0 + 1.0 / len(others))
        assert _scatter(corrected, night)[0] < 1.1 * expected
        assert _scatter(plain, night)[0] > _scatter(corrected, night)[0]
        # a level that a night has may be the star's own
        assert _scatter(corrected, night)[1] == pytest.approx(_scatter(plain, night)[1], rel=2e-3)
    pulls = (
        corrected["relative_flux"] / corrected["relative_flux"].groupby("night").mean().sel(night=curves.night)
    ) - 1
    assert np.std(pulls / (corrected["relative_flux_err"] / corrected["relative_flux"])) == pytest.approx(1, abs=0.15)
    assert all(isinstance(value, (int, float, str, list)) for value in corrected.attrs.values())


def test_shared_trends__need_four_comparisons():
    with pytest.raises(ValueError, match="at least 4 of them, got 3"):
        compute_relative(_curves(), 1, [2, 3, 4], shared_trends=True)


@pytest.mark.parametrize(("claimed", "share"), [(1.0, 0.683), (0.5, 0.383)])
def test_coverage__says_how_often_one_sigma_holds(claimed, share):
    card = coverage_card(_curves(amplitude=0.0, claimed=claimed))
    assert card["coverage_one_sigma"] == pytest.approx(share, abs=0.03)
    assert card["coverage_error_factor"] == pytest.approx(1.0 / claimed, rel=0.06)
    assert card["coverage_n_stars"] == 12
    assert f"1 sigma covers {100 * card['coverage_one_sigma']:.0f} %" in describe_coverage(card)[0]
    assert len(describe_coverage(card)) == 1
    warning = describe_coverage(coverage_card(_curves(amplitude=0.0, claimed=0.3)))[1]
    assert "warning: comparisons differ from each other 3.4 times as much as their errors say" in warning


def test_coverage__after_shared_trends_is_that_of_light_curves_without_them():
    curves = _curves(n_frames=120, n_stars=8)
    comparisons = [number for number in curves["source_id"].to_numpy().tolist() if number != 1]
    told = {
        shared: compute_relative(curves, 1, comparisons, shared_trends=shared, coverage=True).attrs
        for shared in (False, True)
    }
    assert told[True]["coverage_one_sigma"] == pytest.approx(0.683, abs=0.03)
    assert told[True]["coverage_error_factor"] == pytest.approx(1.0, rel=0.06)
    assert told[False]["coverage_error_factor"] > 1.15


def test_coverage__of_two_comparisons_is_not_told():
    assert coverage_card(_curves().isel(source=[0, 1, 2])) == {}
    assert list(describe_coverage({})) == []
