"""Zero points and colour terms: truth within errors that come from the scatter of the stars."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.series.comparisons.zero_points import fit_zero_point

ZERO, TERM = 24.3, 0.08


def _stars(seed, n_stars=30, scatter=0.03, term=TERM):
    rng = np.random.default_rng(seed)
    known, colour = rng.uniform(12, 17, n_stars), rng.normal(0.7, 0.3, n_stars)
    error = 0.002 * 10 ** (0.2 * (known - 12))
    instrumental = known - ZERO - term * (colour - 0.7) + rng.normal(0, np.hypot(error, scatter))
    return instrumental, error, known, colour


def test_zero_point__errors_are_those_of_the_scatter_and_not_of_photons():
    pulls, terms = [], []
    for seed in range(200):
        instrumental, error, known, colour = _stars(seed)
        found = fit_zero_point(instrumental, error, known, colour)
        value, value_err = found.at(0.7)
        pulls.append((value - ZERO) / value_err)
        terms.append((found.term - TERM) / found.term_err)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.2)
    assert np.std(terms) == pytest.approx(1.0, abs=0.2)
    assert abs(np.mean(pulls)) < 0.25
    # photons alone would have made it 0.001
    assert value_err > 0.004
    assert found.scatter == pytest.approx(0.03, rel=0.4)


@pytest.mark.parametrize("n_stars", [6, 12, 60])
@pytest.mark.parametrize("term", [0.0, 0.3])
def test_zero_point__errors_hold_for_few_stars_and_strong_terms(n_stars, term):
    """68 per cent of zero points and terms are within their errors, also where the term is above the scatter."""
    pulls = []
    for seed in range(150):
        stars = _stars(seed, n_stars, 0.015, term)
        found = fit_zero_point(*stars if term else stars[:3])
        value, value_err = found.at(0.7)
        pulls.append([(value - ZERO) / value_err, (found.term - term) / found.term_err if term else np.nan])
    within = np.mean(np.abs(pulls) < 1.0, axis=0)
    assert within[0] == pytest.approx(0.683, abs=0.11)
    assert not term or within[1] == pytest.approx(0.683, abs=0.11)


def test_zero_point__variables_and_mistaken_stars_are_left_out():
    instrumental, error, known, colour = _stars(1)
    instrumental[[3, 8, 20]] += [1.5, -0.8, 3.0]
    found = fit_zero_point(instrumental, error, known, colour)
    assert np.flatnonzero(~found.is_used).tolist() == [3, 8, 20]
    assert abs(found.at(0.7)[0] - ZERO) < 4 * found.at(0.7)[1]


def test_zero_point__a_bad_star_among_few__is_left_out_though_it_pulls_the_fit():
    n_kept = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        known, error = rng.uniform(12, 17, 6), np.full(6, 0.005)
        instrumental = known - ZERO + rng.normal(0, np.hypot(error, 0.01))
        instrumental[2] += 0.1
        n_kept += bool(fit_zero_point(instrumental, error, known).is_used[2])
    assert n_kept <= 75  # 25 per cent


@pytest.mark.parametrize("n_stars", [4, 5])
def test_zero_point__a_bad_star_that_is_kept_among_very_few__makes_the_error_larger(n_stars):
    pulls = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        known, error = rng.uniform(12, 17, n_stars), np.full(n_stars, 0.005)
        instrumental = known - ZERO + rng.normal(0, np.hypot(error, 0.01))
        instrumental[2] += 0.1
        found = fit_zero_point(instrumental, error, known)
        if found.is_used[2]:
            pulls.append(abs(found.zero - ZERO) / found.zero_err)
    assert len(pulls) > 40, "it is kept in a third of the cases or more"
    assert np.mean(np.array(pulls) < 1.0) > 0.5
    assert np.mean(np.array(pulls) < 2.0) > 0.95


def test_zero_point__a_colour_that_is_not_known_makes_the_error_larger():
    found = fit_zero_point(*_stars(2))
    assert found.at(np.nan)[1] > found.at(found.middle)[1]
    assert found.at(np.nan)[1] == pytest.approx(np.hypot(found.zero_err, found.term * found.spread))
    plain = fit_zero_point(*_stars(2, term=0.0)[:3])
    assert plain.term == 0.0
    assert plain.at(np.nan) == (plain.zero, plain.zero_err)


def test_zero_point__needs_three_stars():
    instrumental, error, known, _ = _stars(3)
    known[2:] = np.nan
    with pytest.raises(ValueError, match="at least 3 stars with a magnitude, got 2"):
        fit_zero_point(instrumental, error, known)
