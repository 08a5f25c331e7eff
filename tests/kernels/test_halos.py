"""Light around saturated stars is taken off without the stars in it."""

import numpy as np
import pytest
from small_nights import add_stars

from opticam_dask.kernels.images.halos import without_halos

SIDE, FWHM, NOISE, SATURATED = 200, 4.0, 6.0, 60000.0
CENTRE = (104.3, 96.8)
STARS = [(140.2, 96.1, 4e3), (104.8, 141.7, 6e3), (78.4, 70.3, 9e3), (30.1, 165.7, 3e3)]
YY, XX = np.mgrid[:SIDE, :SIDE]


def stack(halo, rng):
    light = halo(np.hypot(XX - CENTRE[0], YY - CENTRE[1]))
    add_stars(light, STARS, fwhm=FWHM)
    image = light + rng.normal(0.0, 1.0, light.shape) * np.sqrt(NOISE**2 + light / 16.0)
    image[60:130, 102:107] = SATURATED
    return np.minimum(image, SATURATED)


@pytest.mark.parametrize(
    "halo",
    [
        lambda r: 8000.0 * np.exp(-r / 25.0),
        lambda r: 3e7 / (8.0 + r) ** 2.5,
        lambda r: 3000.0 / (1.0 + np.exp((r - 45.0) / 1.5)) + 1000.0 * np.exp(-r / 10.0),
    ],
    ids=["exponential", "power_law", "reflection"],
)
def test_halos__are_taken_off_and_stars_are_left(halo):
    rng = np.random.default_rng(3)
    image = stack(halo, rng)
    noise, coverage = np.full(image.shape, NOISE), np.full(image.shape, 16, dtype=np.uint32)
    found = without_halos(image, noise, coverage, image >= SATURATED, 1.6 * FWHM, FWHM)
    away = np.hypot(XX - CENTRE[0], YY - CENTRE[1])
    sky = ~found.is_core & (away > 20) & (np.abs(away - 45) > 8)
    for x, y, flux in STARS:
        near = np.hypot(XX - x, YY - y)
        sky &= near > 12
        taken = np.sum((found.image - image + halo(away))[near < 4.0])
        assert abs(taken) < 0.2 * flux
    pull = (found.image / found.noise)[sky]
    assert abs(np.median(pull)) < 0.3
    assert 0.6 < np.std(pull) < 1.3
    assert (found.image[image >= SATURATED] == SATURATED).all()


def test_halos__a_stack_without_saturated_stars_stays_as_it_is():
    image = np.random.default_rng(4).normal(0.0, NOISE, (SIDE, SIDE))
    noise = np.full(image.shape, NOISE)
    found = without_halos(image, noise, np.full(image.shape, 16), np.zeros(image.shape, dtype=bool), 6.0, FWHM)
    assert found.image is image
    assert found.noise is noise
    assert not (found.is_core | found.in_halo).any()
