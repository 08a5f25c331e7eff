"""Neighbours, seen or not, do not widen the stars of a frame, spoil no profile, and nothing changes by a jump."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from small_nights import add_star

from opticam_dask.kernels.images.stack import mean_rms, mean_width
from opticam_dask.kernels.sources import moments, photometry
from opticam_dask.kernels.sources.profiles import field_form, profile, profile_fit, ring_sums
from opticam_dask.kernels.sources.profiles.sampling import SAMPLED_AT, sampling_errors

FWHM, SIDE, RMS = 5.0, 240, 15.0
PLACES = np.array([(40.3 + 50 * column, 42.6 + 50 * row) for row in range(4) for column in range(4)])
FLUX = np.geomspace(2e5, 1e4, len(PLACES))


ANGLES = np.random.default_rng(1).uniform(0, 2 * np.pi, len(PLACES))
TOWARDS = FWHM * np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])


@functools.cache
def light_of(separation, n_stars):
    """The first stars, or their companions at random angles, so many FWHM away, as bright as they."""
    image = np.zeros((SIDE, SIDE))
    for (x, y), flux in zip(PLACES[:n_stars] + separation * TOWARDS[:n_stars], FLUX, strict=False):
        add_star(image, x, y, flux, FWHM)
    return image


def image_of(n_pairs, ratio, separation):
    """Sixteen stars, the brightest of them with companions."""
    noise = np.random.default_rng(2).normal(0.0, RMS, (SIDE, SIDE))
    return noise + light_of(0.0, len(PLACES)) + ratio * light_of(separation, n_pairs)


def form_of(image, xy=PLACES, flux=FLUX):
    shapes = moments.source_shapes(image, xy, np.full(len(xy), 2.2))
    doubt = field_form.neighbour_doubt(xy, flux, FWHM)
    return field_form.field_shape(image, xy, shapes, RMS, doubt=doubt)


@pytest.mark.parametrize(("n_pairs", "ratio"), [(6, 0.6), (10, 0.3), (10, 1.0), (13, 0.6)])
def test_field_shape__companions_that_nobody_sees_do_not_widen_the_stars(n_pairs, ratio):
    alone, found = form_of(image_of(0, 0.0, 1.2)), form_of(image_of(n_pairs, ratio, 1.2))
    assert found.fwhm == pytest.approx(alone.fwhm, rel=0.025)
    assert found.semimajor_sigma == pytest.approx(alone.semimajor_sigma, rel=0.025)
    assert found.semiminor_sigma == pytest.approx(alone.semiminor_sigma, rel=0.025)


@pytest.mark.parametrize("n_hit", [5, 8])
def test_field_shape__is_that_of_the_other_stars_where_cosmic_rays_hit_the_cores_of_many(n_hit):
    rng, image = np.random.default_rng(4), image_of(0, 0.0, 1.2)
    clean = form_of(image)
    for x, y in PLACES[rng.permutation(len(PLACES))[:n_hit]]:
        column, row = np.rint(np.array([x, y]) + rng.uniform(-1.0, 1.0, 2)).astype(int)
        image[row, column : column + rng.integers(1, 3)] += rng.uniform(2000.0, 6000.0)
    hit = form_of(image)
    assert hit.fwhm == pytest.approx(clean.fwhm, rel=0.003)
    assert hit.semimajor_sigma == pytest.approx(clean.semimajor_sigma, rel=0.003)


def test_field_shape__changes_without_a_jump_as_neighbours_get_brighter():
    forms = []
    for ratio in np.concatenate([[0.0], np.geomspace(0.02, 1.0, 12)]):
        xy = np.concatenate([PLACES, PLACES[:14] + 2.0 * TOWARDS[:14]])
        flux = np.concatenate([FLUX, ratio * FLUX[:14]])
        forms.append(form_of(image_of(14, ratio, 2.0), xy, flux).semimajor_sigma)
    steps = np.abs(np.diff(np.log(forms)))
    assert steps.max() < 0.05
    assert max(forms) / min(forms) < 1.1


def test_neighbour_doubt__grows_with_their_light_and_falls_with_their_distance():
    xy = np.array([(50.0, 50.0), (56.0, 50.0), (150.0, 50.0), (164.9, 50.0), (np.nan, np.nan)])
    doubt = field_form.neighbour_doubt(xy, np.array([100.0, 50.0, 100.0, 100.0, 100.0]), FWHM)
    assert doubt[1] == pytest.approx(4.0 * doubt[0])
    assert 0.0 < doubt[2] < 0.01 * doubt[0]
    assert doubt[4] == 0.0


@pytest.mark.parametrize("beta", [2.5, 3.0, None])
@pytest.mark.parametrize("separation", [2.2, 2.6])
def test_neighbour_doubt__is_more_than_what_neighbours_change(separation, beta):
    images, xy = np.zeros((2, 121, 121)), np.array([(60.3, 60.7)])
    for image in images:
        add_star(image, *xy[0], 1e5, FWHM, beta)
    alone = moments.source_shapes(images[0], xy, np.array([FWHM / 2.355]))[:2, 0]
    places = np.vstack([xy, xy + separation * alone.mean() * 2.355 * TOWARDS[0] / FWHM])
    add_star(images[1], *places[1], 0.6e5, FWHM, beta)
    found = moments.source_shapes(images[1], xy, np.array([FWHM / 2.355]))[:2, 0]
    doubt = field_form.neighbour_doubt(places, np.array([1.0, 0.6]), 2.355 * alone.mean())[0]
    change = np.sum(found**2) / np.sum(alone**2) - 1.0
    assert 0.0 <= change < doubt < 0.5


def test_field_shape__bright_stars_count_beside_neighbours_almost_three_fwhm_away():
    """The width of a frame is not left to its faintest stars, which alone have no neighbour: it would be noise."""
    scatter = []
    for ratio in (0.0, 0.6):
        image, xy = light_of(0.0, len(PLACES)), PLACES
        if ratio:
            image = image + ratio * light_of(2.6, 10)
            xy = np.concatenate([PLACES, PLACES[:10] + 2.6 * TOWARDS[:10]])
        flux = np.concatenate([FLUX, ratio * FLUX[:10]])[: len(xy)]
        rng = np.random.default_rng(8)
        widths = [form_of(image + rng.normal(0.0, RMS, image.shape), xy, flux).fwhm for _ in range(24)]
        scatter.append(np.std(widths))
    assert scatter[1] < 2.5 * scatter[0]


def stars_of(fwhm, beta, n_stars=40, noise=3.0):
    """Windows of equal stars at random places in their pixels, and where they are."""
    rng = np.random.default_rng(5)
    xy, windows = 30.0 + rng.uniform(-0.5, 0.5, (n_stars, 2)), np.zeros((n_stars, 61, 61))
    for window, (x, y) in zip(windows, xy, strict=True):
        add_star(window, x, y, 1e5, fwhm, beta)
    return windows + rng.normal(0.0, noise, windows.shape), xy


@pytest.mark.parametrize(("fwhm", "beta"), [(1.2, 3.0), (1.45, 3.0), (1.3, 4.0), (1.7, None)])
def test_sampling_errors__are_what_fluxes_scatter_by_with_the_place_in_a_pixel(fwhm, beta):
    windows, xy = stars_of(fwhm, beta)
    corner = np.zeros(len(xy), dtype=int)
    semimajor, semiminor, _, _ = moments.adaptive_moments(windows, corner, corner, xy, np.full(len(xy), 1.0))
    sigma = float(np.sqrt(np.nanmedian(semimajor) * np.nanmedian(semiminor)))
    shape = profile.Shape(sigma, sigma, 0.0)
    fitted = profile_fit.fit_profile(
        ring_sums.measure_rings(windows, np.full(windows.shape, 3.0), xy, corner, corner, shape)
    )
    weights = profile.profile_weights(fitted.table(), xy, corner, corner, 61, shape)
    weights[profile.elliptical_radius(xy, corner, corner, 61, shape) > 4.5] = 0.0
    flux = np.sum(weights * windows, axis=(1, 2)) / np.sum(weights**2, axis=(1, 2))
    measured = np.std(flux) / np.mean(flux)
    told = np.interp(photometry.SIGMA_TO_FWHM * sigma, SAMPLED_AT, sampling_errors(fitted))
    assert told == pytest.approx(measured, rel=0.5, abs=1e-3)


def test_sampling_errors__of_wide_stars_are_nothing_and_of_an_unknown_profile_not_known():
    typical = profile.typical_profile().coefficients
    wide = sampling_errors(profile.Profile(typical, pixel_area=0.1))
    assert not wide.any()
    assert sampling_errors(profile.gaussian_profile()) is None
    assert sampling_errors(profile.Profile(typical, pixel_area=1.5))[-1] == 0.0


def test_measure_rings__a_star_without_a_core_of_its_own_spoils_no_other():
    windows, xy = stars_of(5.0, 3.0, n_stars=4)
    corner, shape = np.zeros(4, dtype=int), profile.Shape(2.4, 2.4, 0.0)
    foreign = np.zeros(windows.shape, dtype=bool)
    rms = np.full(windows.shape, 3.0)
    foreign[0] = profile.elliptical_radius(xy, corner, corner, 61, shape)[0] < 4.0
    found = ring_sums.measure_rings(windows, rms, xy, corner, corner, shape, foreign)
    alone = ring_sums.measure_rings(windows[1:], rms[1:], xy[1:], corner[1:], corner[1:], shape)
    assert found.n_images.tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(found.signal[1:], alone.signal, rtol=1e-9)


def test_mean_rms__of_a_plain_mean_of_frames():
    rng, rms = np.random.default_rng(8), np.array([5.0, 5.0, 5.0, 40.0])
    mean = np.mean(rng.normal(0.0, rms, (200_000, 4)), axis=1)
    assert mean_rms(np.append(rms, np.nan)) / 2.0 == pytest.approx(mean.std(), rel=0.01)
    assert mean_rms(np.array([np.nan])) == 0.0


def test_mean_width__is_that_of_the_frames_whose_stars_have_the_brightest_middles():
    assert mean_width(np.full(5, 4.0)) == pytest.approx(4.0)
    assert mean_width(np.repeat([3.0, 12.0], 20)) == pytest.approx(4.1, abs=0.05)
    assert mean_width(np.r_[1.0, np.full(19, 5.0), np.nan]) == pytest.approx(5.0)  # measured on a cosmic ray
    assert np.isnan(mean_width(np.array([np.nan])))
