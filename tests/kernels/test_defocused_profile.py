"""The profile of defocused stars, which are rings: their light is where it is, and all of it is known."""

import numpy as np
import pytest

from opticam_dask.kernels.sources.profiles.profile import COMPONENTS, RINGS, Profile, Shape, components
from opticam_dask.kernels.sources.profiles.profile_fit import fit_profile
from opticam_dask.kernels.sources.profiles.ring_sums import SKY_REACH, add_rings, measure_rings


def ring_of(outer, inner):
    def light(radius):
        return 1 / (1 + np.exp((radius - outer) / 0.8)) / (1 + np.exp((inner - radius) / 0.8))

    return light


def rings_of(light, sigma, rng, n_frames=6):
    """Sums over the pixels of stars of 3e5 electrons on a sky of 200."""
    shape, half = Shape(sigma, sigma, 0.0), int(np.ceil(SKY_REACH * sigma)) + 1
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    found = []
    for _ in range(n_frames):
        centre = rng.uniform(-0.5, 0.5, 2)
        star = light(np.hypot(columns - centre[0], rows - centre[1]))
        image = 200.0 + 3e5 * star / star.sum()
        image += rng.normal(0.0, 1.0, image.shape) * np.sqrt(image)
        window = image[None], np.full((1, *image.shape), np.sqrt(200.0))
        corner = np.zeros(1, dtype=int)
        found.append(measure_rings(*window, centre[None] + half, corner, corner, shape, stars=np.zeros(1, dtype=int)))
    return add_rings(found)


@pytest.mark.parametrize(("outer", "inner"), [(15.0, 6.0), (8.0, 3.2), (20.0, 13.0), (12.0, 0.0)])
def test_profile__light_of_defocused_stars_in_apertures(outer, inner):
    light = ring_of(outer, inner) if inner else lambda radius: 1 / (1 + np.exp((radius - outer) / 0.8))
    sigma = 0.74 * outer
    fitted = fit_profile(rings_of(light, sigma, np.random.default_rng(7)))
    grid = np.arange(0.0, 40.0, 0.01)
    truth = np.cumsum(grid * light(grid))
    rho = grid / sigma
    ours = np.cumsum(2.0 * np.pi * rho * fitted.at(rho)) * (rho[1] - rho[0])
    error = np.abs(ours - truth / truth[-1])
    assert error.max() < 0.03
    assert error.max() < 3.0 * fitted.total_err + 0.01
    assert fitted.total_err < 0.04


def test_profile__a_ring_has_a_total_of_one():
    rho, number = np.arange(0.0, 5.0, 0.001), len(COMPONENTS)
    for ring in range(len(RINGS)):
        light = components(rho, [number + ring], 0.1)[:, 0]
        assert np.sum(2.0 * np.pi * rho * light) * 0.001 == pytest.approx(1.0, abs=1e-3)


def test_profile__one_of_before_has_no_rings():
    coefficients = np.zeros(len(COMPONENTS))
    coefficients[3] = 1.0
    longer = np.append(coefficients, np.zeros(len(RINGS)))
    assert np.array_equal(Profile(coefficients).table(), Profile(longer).table())
