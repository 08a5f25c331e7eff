"""Comparison stars: their mean light curve against truth, and which of them are chosen."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.series import ensemble, lightcurve

N_FRAMES = 1500
LEVELS = np.array([3e4, 1e4, 6e4, 2e4, 4e3])


def _night(seed=0, levels=LEVELS, noise=1.0):
    """Stars behind a sky whose transmission changes, with the noise of their photons."""
    rng = np.random.default_rng(seed)
    sky = 1.0 + 0.3 * np.sin(np.linspace(0.0, 5.0, N_FRAMES))
    truth = sky[:, None] * levels
    error = noise * np.sqrt(truth + 2000.0)
    return truth + error * rng.standard_normal(truth.shape), error, sky


@pytest.mark.parametrize("weighting", ["sum", "optimal"])
def test_combine_stars__follows_the_sky_with_the_right_error(weighting):
    flux, error, sky = _night()
    found = ensemble.combine_stars(flux, error, weighting)
    pulls = (found.flux / np.mean(found.flux) - sky / sky.mean()) / (found.flux_err / np.mean(found.flux))
    assert abs(pulls.mean()) < 0.1
    assert 0.95 < pulls.std() < 1.05
    np.testing.assert_allclose(found.weights.sum(), 1.0)


def test_combine_stars__sum_is_the_sum():
    flux, error, _ = _night(1)
    found = ensemble.combine_stars(flux, error, "sum")
    total, total_err = flux.sum(axis=1), np.sqrt((error**2).sum(axis=1))
    np.testing.assert_allclose(found.flux / total, np.mean(found.flux / total), rtol=1e-12)
    np.testing.assert_allclose(found.flux_err / found.flux, total_err / total, rtol=1e-12)


def test_combine_stars__optimal_weights_are_at_least_as_precise():
    flux, error, sky = _night(2, noise=1.0)
    flux[:, 2] *= 1.0 + 0.05 * np.random.default_rng(3).standard_normal(N_FRAMES)  # the brightest flickers
    scatter = {}
    for weighting in ("sum", "optimal"):
        ratio = ensemble.combine_stars(flux, error, weighting).flux / sky
        scatter[weighting] = np.std(ratio) / np.mean(ratio)
    assert scatter["optimal"] < 0.4 * scatter["sum"]


def test_combine_stars__a_star_that_is_missing_makes_no_jump():
    flux, error, sky = _night(4)
    whole = ensemble.combine_stars(flux, error)
    flux[400:700, 2] = np.nan
    flux[900, :] = np.nan
    found = ensemble.combine_stars(flux, error)
    assert np.flatnonzero(np.isnan(found.flux)).tolist() == [900]
    ratio = found.flux / sky
    inside, outside = ratio[400:700], np.delete(ratio, np.r_[400:700, 900])
    step = inside.mean() / outside.mean() - 1.0
    assert abs(step) < 4.0 * np.std(outside) / np.mean(outside) / np.sqrt(300)
    assert np.median(found.flux_err[400:700]) > np.median(whole.flux_err[400:700])


def test_combine_stars__a_star_without_light_is_refused():
    flux, error, _ = _night()
    flux[:, 1] = np.nan
    with pytest.raises(ValueError, match=r"comparison stars \[2\]"):
        ensemble.combine_stars(flux, error)


def test_relative_flux__pulls_of_a_constant_star():
    flux, error, _ = _night(5)
    mean = ensemble.combine_stars(flux[:, 1:], error[:, 1:])
    ratio, ratio_err = lightcurve.relative_flux(flux[:, 0], error[:, 0], mean.flux[:, None], mean.flux_err[:, None])
    pulls = (ratio - LEVELS[0] / LEVELS[1:].sum()) / ratio_err
    assert abs(pulls.mean()) < 0.15
    assert 0.95 < pulls.std() < 1.05


def _candidates(seed=6, n=9):
    levels = np.geomspace(8e4, 1.7e4, n)
    flux, error, _ = _night(seed, levels)
    return flux, error, np.zeros(flux.shape, dtype=bool)


def test_choose_comparisons__rejects_the_variable_the_flagged_the_faint_and_the_lost():
    flux, error, flagged = _candidates()
    flux[:, 3] *= 1.0 + 0.03 * np.sin(np.arange(N_FRAMES) / 7.0)
    flagged[::4, 4] = True
    flux[:, 5] /= 30.0
    flux[::5, 6] = np.nan
    chosen = ensemble.choose_comparisons(flux, error, flagged, target=0)
    found = {entry.column: entry for entry in chosen}
    assert sorted(found) == list(range(1, 9))
    assert [column for column, entry in found.items() if entry.kind == "chosen"] == [1, 2, 7, 8]
    assert found[3].reason.startswith("varies: scatter")
    assert found[4].reason == "flagged in 25 % of the frames"
    assert "times as bright as the target" in found[5].reason
    assert found[6].reason == "has a flux in 80 % of the frames only"


def test_choose_comparisons__does_not_look_at_the_light_curve_of_the_target():
    flux, error, flagged = _candidates(7)
    before = ensemble.choose_comparisons(flux, error, flagged, target=2)
    changed = flux.copy()
    changed[:, 2] *= 1.0 + 0.3 * np.sin(np.arange(N_FRAMES) / 50.0)
    changed[:, 2] *= np.median(flux[:, 2]) / np.median(changed[:, 2])
    assert ensemble.choose_comparisons(changed, error, flagged, target=2) == before


def test_choose_comparisons__few_candidates_and_at_most_so_many():
    flux, error, flagged = _candidates(8, n=14)
    assert sum(entry.kind == "chosen" for entry in ensemble.choose_comparisons(flux, error, flagged, 0)) == 10
    one = ensemble.choose_comparisons(flux[:, :2], error[:, :2], flagged[:, :2], 0)
    assert [(entry.column, entry.kind) for entry in one] == [(1, "chosen")]
    assert ensemble.choose_comparisons(flux[:, :1], error[:, :1], flagged[:, :1], 0) == []
