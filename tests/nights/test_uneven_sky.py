"""Stars on a sky that changes between them and the next boxes of its mesh have the right fluxes, or an error."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import add_stars, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, OptimalPhotometer, PSFPhotometer

SIZE, N_FRAMES, SKY = 240, 8, 100.0
#: Far from everything.
EVEN = ((220.3, 30.2, 7e4), (30.1, 210.4, 5e4), (125.4, 215.7, 4e4), (120.2, 22.3, 3e4), (25.4, 120.7, 2.5e4))
#: Where the sky is what.
PLACES = {
    "flank of a nebula": (60.2, 96.4, 3e4),
    "the other flank": (96.7, 60.1, 8e3),
    "beside a step of an amplifier": (173.2, 90.3, 1.5e4),
    "in the shadow of dust": (180.3, 192.4, 3e4),
    "near a galaxy": (64.5, 180.6, 1.5e4),
}


def sky_of(dx, dy):
    """A nebula of the width of a box, a galaxy, and, fixed to the detector, a step and a ring-like shadow."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    sky = SKY + 400.0 * np.exp(-((x - 60.0 - dx) ** 2 + (y - 60.0 - dy) ** 2) / 2.0 / 18.0**2)
    sky += 1500.0 * np.exp(-np.hypot(x - 64.0 - dx, (y - 156.0 - dy) / 0.6) / 7.0)
    sky += 40.0 * ((x > 180.0) & (y < 140.0))
    return sky - 30.0 * np.exp(-(((np.hypot(x - 180.0, y - 180.0) - 15.0) / 4.0) ** 2) / 2.0)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("uneven"), np.random.default_rng(1)
    for frame in range(N_FRAMES):
        dx, dy = rng.normal(0.0, 0.4, 2)
        electrons = sky_of(dx, dy)
        add_stars(electrons, (*EVEN, *PLACES.values()), (dx, dy))
        write_frame(directory / "frames" / f"f{frame}.fits", read_out(electrons, rng), 10.0 * frame)
    return reduce_frames(directory, AperturePhotometer(), OptimalPhotometer(), PSFPhotometer())


@pytest.mark.parametrize("label", ["aperture", "optimal", "psf"])
@pytest.mark.parametrize("place", PLACES)
def test_fluxes_on_an_uneven_sky__are_right_within_their_errors(night, label, place):
    x, y, flux = PLACES[place]
    curve = night.curves(label).isel(source=night.source_at(x, y))
    pull = ((curve["total"] - flux) / curve["total_err"]).to_numpy()
    assert np.abs(pull.mean()) < 1.0
    assert np.abs(pull).max() < 3.0
    # an error that says nothing would be as well
    assert float(curve["total_err"].mean()) < 0.1 * flux


@pytest.mark.parametrize("label", ["aperture", "optimal", "psf"])
def test_stars_on_an_even_sky__have_the_errors_of_their_photons(night, label):
    for x, y, flux in EVEN:
        curve = night.curves(label).isel(source=night.source_at(x, y))
        assert float(curve["total"].mean()) == pytest.approx(flux, rel=0.015)
        # the sky around those that are near something is fitted: its error is in theirs
        assert float(curve["total_err"].mean()) == pytest.approx(np.sqrt(1.5 * flux + 60.0 * SKY), rel=0.6)
