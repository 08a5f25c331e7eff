"""Stars whose form changes over the field: the form is that of the place, and fluxes hold wherever a star stands."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import add_star

from opticam_dask.kernels.sources import moments
from opticam_dask.kernels.sources.profiles import field_form, profile

SIDE, SKY = 400, 100.0


def _places(n_stars):
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(np.linspace(30, SIDE - 31, 5), np.linspace(30, SIDE - 31, 5)), axis=-1).reshape(-1, 2)
    return (grid + rng.uniform(-8, 8, grid.shape))[rng.permutation(25)[:n_stars]]


def _changing(kind, x, y):
    """FWHM, ratio of the axes, and angle at a place."""
    u, v = 2.0 * x / (SIDE - 1.0) - 1.0, 2.0 * y / (SIDE - 1.0) - 1.0
    stretch = 1.0 + 0.12 * (u + 1.0)
    return {
        "tilt": (4.5 * (1.0 + 0.1 * u - 0.08 * v), 1.0, 0.0),
        "curved field": (4.0 * (1.0 + 0.12 * (u * u + v * v)), 1.0, 0.0),
        "elongated to one side": (4.0 * stretch, 1.0 / stretch, 0.5),
        "all alike": (4.5, 0.8, 0.6),
    }[kind]


def _field(kind, n_stars=20, seed=1, *, brightest=3e5):
    xy, rng = _places(n_stars), np.random.default_rng(seed)
    flux = np.geomspace(brightest, 1e4, n_stars)
    image = np.full((SIDE, SIDE), SKY)
    for (x, y), light in zip(xy, flux, strict=True):
        fwhm, ratio, angle = _changing(kind, x, y)
        add_star(image, x, y, light, fwhm, None, ratio=ratio, angle=angle)
    image = rng.poisson(image) - SKY
    shapes = moments.source_shapes(image, xy, np.full(n_stars, 1.9))
    return image, xy, flux, field_form.field_shape(image, xy, shapes, np.sqrt(SKY))


def _shape(form):
    change = profile.FormChange(form.form_terms, (SIDE, SIDE)) if form.form_terms.any() else None
    return profile.Shape(form.semimajor_sigma, form.semiminor_sigma, form.orientation, change)


def _optimal_over_truth(image, xy, flux, shape):
    """Fluxes by Gaussian weights of the form at each place, relative to the truth."""
    size = 2 * 14 + 1
    x0, y0 = (np.floor(xy + 0.5).astype(int) - 14).T
    windows = np.stack([image[y : y + size, x : x + size] for x, y in zip(x0, y0, strict=True)])
    light = profile.profile_weights(profile.gaussian_profile().table(), xy, x0, y0, size, shape)
    return np.sum(light * windows, axis=(1, 2)) / np.sum(light**2, axis=(1, 2)) / flux


@pytest.mark.parametrize("kind", ["tilt", "curved field", "elongated to one side"])
def test_ratios__of_bright_stars_hold_over_the_field(kind):
    image, xy, flux, form = _field(kind)
    bright = slice(0, 10)
    mean_only = profile.Shape(form.semimajor_sigma, form.semiminor_sigma, form.orientation)
    here, everywhere = (_optimal_over_truth(image, xy, flux, s)[bright] for s in (_shape(form), mean_only))
    # photon noise of these stars is 0.2 to 0.45 %
    assert np.std(here) < 0.006
    assert np.std(everywhere) > 2.5 * np.std(here)


def test_form__is_that_of_each_place():
    _, xy, _, form = _field("tilt")
    expected = [_changing("tilt", x, y)[0] for x, y in xy]
    semimajor, semiminor, _ = _shape(form).axes_at(xy)
    found = 2.3548 * np.sqrt(semimajor * semiminor)
    found *= np.mean(expected) / np.mean(found)
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_form__stars_that_are_alike_have_one_form():
    changes = [np.abs(_field("all alike", seed=seed)[3].form_terms).max() for seed in range(8)]
    assert np.count_nonzero(changes) <= 1


@pytest.mark.parametrize("n_stars", [1, 2, 3, 5])
def test_form__few_stars_have_one_form(n_stars):
    assert not _field("tilt", n_stars)[3].form_terms.any()


def test_form__stars_on_a_line_have_one_form():
    xy = np.column_stack([np.linspace(30, 370, 12), np.full(12, 200.0)])
    shapes = np.array([np.full(12, 2.0) + xy[:, 0] / 2000.0, np.full(12, 2.0) + xy[:, 0] / 2000.0, np.zeros(12)])
    image = np.zeros((SIDE, SIDE))
    for x, y in xy:
        add_star(image, x, y, 1e5, 4.7, None)
    assert np.isfinite(field_form.field_shape(image, xy, shapes, 10.0).form_terms).all()


def test_form__no_jump_when_one_star_becomes_wider():
    """The widest star of a frame goes from like the others to three times as wide: nothing flips."""
    image, xy, _, _ = _field("tilt")
    shapes = moments.source_shapes(image, xy, np.full(20, 1.9))
    here = []
    for factor in np.linspace(1.0, 3.0, 81):
        wider = shapes.copy()
        wider[:2, 0] *= factor
        form = field_form.field_shape(image, xy, wider, np.sqrt(SKY))
        here.append(_shape(form).area_at(xy[1:]))
    steps = np.abs(np.diff(np.log(here), axis=0)).max(axis=0)
    assert steps.max() < 0.02
    np.testing.assert_allclose(here[-1], here[0], rtol=0.03)


def test_form__far_from_the_stars_and_without_a_place_is_still_a_form():
    terms = np.zeros((3, 6))
    terms[:2, 3], terms[2, 4] = -8.0, 5.0
    shape = profile.Shape(2.0, 1.5, 0.3, profile.FormChange(terms, (SIDE, SIDE)))
    semimajor, semiminor, _ = shape.axes_at(np.array([[0.0, 0.0], [399.0, 0.0], [1e5, -1e5], [np.nan, 3.0]]))
    assert (semiminor > 0.5).all()
    assert (semimajor < 4.0).all()
    np.testing.assert_allclose([semimajor[3], semiminor[3]], [2.0, 1.5])
