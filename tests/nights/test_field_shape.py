"""The form of the stars of a frame: no single star decides it, and it does not jump between equal frames."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import SIGMA_TO_FWHM, add_star

from opticam_dask.kernels.sources import moments, noise, photometry
from opticam_dask.kernels.sources.profiles import field_form, profile

SKY = 100.0


def _field(sigmas, seed, fluxes=None, *, faintest=5e3):
    """Image without noise, and positions, of Gaussian stars of the given widths, the brightest first."""
    fluxes = np.geomspace(2e5, faintest, len(sigmas)) if fluxes is None else fluxes
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2)[: len(sigmas)]
    xy = 30.0 + 55.0 * places + rng.uniform(-5.0, 5.0, places.shape)
    image = np.zeros((170, 225))
    for (x, y), flux, sigma in zip(xy, fluxes, sigmas, strict=True):
        add_star(image, x, y, flux, sigma * SIGMA_TO_FWHM, None)
    return image, xy


def _forms(image, xy, rng, n_frames=20):
    """Sigma of the form of frames that differ in nothing but their noise."""
    sigmas = []
    for _ in range(n_frames):
        frame = rng.poisson(image + SKY) - SKY
        shapes = moments.source_shapes(frame, xy, np.full(len(xy), 1.6))
        form = field_form.field_shape(frame, xy, shapes, np.sqrt(SKY))
        sigmas.append(np.sqrt(form.semimajor_sigma * form.semiminor_sigma))
    return np.array(sigmas)


@pytest.mark.parametrize("seed", range(4))
def test_field_shape__does_not_flip_with_one_bright_star(seed):
    rng = np.random.default_rng(seed)
    sigmas = np.append(1.87, 1.5 + rng.normal(0.0, 0.16, 11))
    form = _forms(*_field(sigmas, seed), rng)
    # a star of S/N 60, as half of these are, has a width to one per cent or two
    assert form.std() < 0.006 * form.mean()
    assert np.ptp(form) < 0.025 * form.mean()
    assert abs(form.mean() - np.median(sigmas)) < 0.08


def test_field_shape__of_equal_stars_is_as_precise_as_their_light_allows():
    rng = np.random.default_rng(4)
    form = _forms(*_field(np.full(12, 1.5), 4), rng, 40)
    assert form.std() < 0.0015 * form.mean()


@pytest.mark.parametrize("n_doubles", [2, 4])
def test_field_shape__is_that_of_single_stars_among_doubles(n_doubles):
    rng = np.random.default_rng(5)
    single, xy = _field(np.full(12, 1.5), 5)
    image = single.copy()
    for x, y in xy[1 : 1 + 2 * n_doubles : 2]:
        add_star(image, x + 2.2, y + 1.2, 4e4, 1.5 * SIGMA_TO_FWHM, None)
    without, with_doubles = (_forms(some, xy, rng, 5).mean() for some in (single, image))
    assert abs(with_doubles / without - 1.0) < 0.02


def test_field_shape__grows_smoothly_with_the_width_of_one_star():
    rng = np.random.default_rng(6)
    rest = 1.5 + rng.normal(0.0, 0.05, 11)
    form = []
    for sigma in np.linspace(1.5, 2.2, 15):
        image, xy = _field(np.append(sigma, rest), 6)
        shapes = moments.source_shapes(image, xy, np.full(len(xy), 1.6))
        form.append(field_form.field_shape(image, xy, shapes, np.sqrt(SKY)).semimajor_sigma)
    # each step makes one of twelve stars 0.05 pixels wider: the form follows by less than a third of that
    assert np.abs(np.diff(form)).max() < 0.015
    assert abs(form[-1] - form[0]) < 0.02


def test_field_shape__two_stars_and_one():
    image, xy = _field([1.6, 1.4], 7, faintest=2e5)
    shapes = moments.source_shapes(image, xy, np.full(2, 1.5))
    both = field_form.field_shape(image, xy, shapes, 10.0)
    assert both.semimajor_sigma == pytest.approx(np.sqrt(np.mean(shapes[0] ** 2)), rel=0.01)
    alone = field_form.field_shape(image, xy[:1], shapes[:, :1], 10.0)
    assert alone.semimajor_sigma == pytest.approx(shapes[0, 0], rel=1e-9)


def _pull_of_brightest(frame, xy, flux, form):
    """How many errors the optimal flux of the first star is off, with Gaussian weights of the form of its frame."""
    size = 25
    corners = photometry.origins(xy[:1], size)
    shape = profile.Shape(form.semimajor_sigma, form.semiminor_sigma, form.orientation)
    light = profile.profile_weights(profile.gaussian_profile().table(), xy[:1], *corners, size, shape)
    weights = light / np.sum(light**2)
    error = np.sqrt(noise.weighted_variance(weights, flux * light, np.full_like(light, np.sqrt(SKY))))
    return float((np.sum(weights * photometry.cut_out(frame, *corners, size)) - flux) / error[0])


@pytest.mark.parametrize("n_faint", [1, 2, 4, 11])
def test_field_shape__of_one_bright_star_among_faint_ones_keeps_its_flux(n_faint):
    """A bright target and faint comparisons, as fast photometry has them, whose widths differ by 2 %."""
    rng = np.random.default_rng(n_faint)
    widths = np.append(1.0, 1.0 + rng.normal(0.0, 0.02, n_faint))
    fluxes = np.append(4e5, np.geomspace(8e3, 3e3, n_faint))
    pulls = []
    for seeing in np.linspace(1.35, 1.65, 6):
        image, xy = _field(seeing * widths, 8, fluxes)
        for _ in range(16):
            frame = rng.poisson(image + SKY) - SKY
            shapes = moments.source_shapes(frame, xy, np.full(len(xy), seeing))
            form = field_form.field_shape(frame, xy, shapes, np.sqrt(SKY))
            pulls.append(_pull_of_brightest(frame, xy, 4e5, form))
    # faint stars that counted as much as the bright one made it 2 to 3 wide
    assert 0.8 < np.std(pulls) < 1.2
