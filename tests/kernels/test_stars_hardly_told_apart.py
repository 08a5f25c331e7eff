"""Fluxes of stars whose light overlaps so much that hardly anything tells them apart."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.kernels.sources import joint_fit


def together(shares, alone):
    """Fluxes by the shares (star, star) of each other's light."""
    one, two = np.nonzero(shares)
    return joint_fit.fluxes_together(np.array(alone), one, two, shares[one, two], np.full(len(alone), np.nan))


def in_a_row(distance, n=3):
    """Shares of Gaussian stars in a row; the distance is in their sigma."""
    shares = np.exp(-0.25 * (distance * np.subtract.outer(np.arange(n), np.arange(n))) ** 2)
    return shares - np.eye(n)


@pytest.mark.parametrize("distance", [0.7, 1.0, 1.5])
def test_stars_in_a_row__that_can_be_told_apart_have_their_fluxes(distance):
    flux, shares = np.array([100.0, 250.0, 80.0]), in_a_row(distance)
    np.testing.assert_allclose(together(shares, flux + shares @ flux), flux, rtol=1e-9)


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.3])
def test_stars_in_a_row__that_cannot_have_about_the_same(distance):
    shares = in_a_row(distance)
    flux = together(shares, [300.0, 303.0, 297.0])  # fluxes that differ by more than such stars can
    assert np.isfinite(flux).all()
    assert np.abs(flux).max() < 1000.0
    assert flux.sum() == pytest.approx(300.0, rel=0.05)


def test_stars_of_no_flux_or_share__raise_nothing():
    shares = in_a_row(0.3)
    assert np.isnan(together(shares, [np.nan, 300.0, 300.0])).all()
    shares[0, 1] = np.inf
    assert np.isnan(together(shares, [300.0, 300.0, 300.0])).all()
