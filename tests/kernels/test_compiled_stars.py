"""Kernels in C that measure stars and the sky under them, against their form in NumPy on the same pixels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from compiled_kernels import needs_compiled

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images import segments
from opticam_dask.kernels.sources import centroids, moments, photometry
from opticam_dask.kernels.sources.profiles import field_form, misfit, profile

pytestmark = needs_compiled

TABLE = profile.typical_profile().table()


def _shape(rng, *, changes):
    change = profile.FormChange(rng.normal(0.0, 0.2, (3, 6)), (300, 400)) if changes else None
    return profile.Shape(rng.uniform(1.5, 3.0), rng.uniform(1.0, 1.5), rng.uniform(0.0, 3.0), change=change)


def _stars(seed, *, size=25, n=24, changes=False):
    """Windows (n, size, size) with a star each, noise, hits, gaps and a flat; and what is known of them."""
    rng = np.random.default_rng(seed)
    shape, xy = _shape(rng, changes=changes), rng.uniform(30.0, 250.0, (n, 2))
    corners = photometry.origins(xy, size)
    flux = 10.0 ** rng.uniform(1.5, 6.0, n)
    light = flux[:, None, None] * profile.profile_weights(TABLE, xy, *corners, size, shape)
    electrons = light + np.sqrt(light + 100.0) * rng.standard_normal(light.shape)
    hit = rng.random(n) < 0.3
    electrons[hit, size // 2 - 3, size // 2 : size // 2 + 4] += rng.uniform(200.0, 3e4, (np.count_nonzero(hit), 1))
    electrons[rng.random(electrons.shape) < 0.002] = np.nan
    electrons[0] = np.nan
    electrons[1] = -50.0
    return rng, shape, xy, corners, electrons


# ---------------------------------------------------------------- light and its slopes


@pytest.mark.parametrize("changes", [False, True])
def test_light_and_slopes__are_the_same_by_both_forms(both, changes):
    _, shape, xy, corners, _ = _stars(1, changes=changes)
    xy[3], xy[4] = np.nan, xy[4] + 1000.0
    fast, plain = both(profile.profile_weights, TABLE, xy, *corners, 25, shape)
    np.testing.assert_allclose(fast, plain, rtol=1e-11, atol=1e-15)
    forms = profile.forms_at(shape, xy)
    np.testing.assert_allclose(*both(profile.position_slopes, TABLE, xy, corners, 25, forms), rtol=1e-9, atol=1e-13)
    assert fast[3].max() < 1e-8


# ---------------------------------------------------------------- the fit of stars


@pytest.mark.parametrize("seed", range(6))
def test_fit_of_stars__is_the_same_by_both_forms(both, seed):
    rng, shape, xy, corners, electrons = _stars(seed, changes=seed % 2 == 1)
    near = np.isfinite(electrons) & (rng.random(electrons.shape) < 0.995)
    near[2] = False
    foreign = np.where(rng.random(len(xy))[:, None, None] < 0.3, 20.0, 0.0) * np.ones(electrons.shape)
    response = rng.normal(1.0, 0.02, electrons.shape) if seed % 3 == 1 else None
    unlike = rng.uniform(0.0, 1e-3, electrons.shape[1:]) if seed % 3 == 2 else None
    windows = electrons, np.broadcast_to(10.0, electrons.shape), near, foreign, response, corners
    stars = misfit.StarWindows(*windows, xy, xy + rng.normal(0.0, 0.2, xy.shape), TABLE, shape, 0.1)
    fast, plain = both(misfit.fit_stars, stars, 0.005, unlike)
    np.testing.assert_array_equal(fast.is_stray, plain.is_stray)
    np.testing.assert_array_equal(fast.is_no_star, plain.is_no_star)
    np.testing.assert_allclose(fast.xy, plain.xy, rtol=0, atol=1e-9)
    np.testing.assert_allclose(fast.flux, plain.flux, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(fast.errors, plain.errors, rtol=1e-9)
    np.testing.assert_allclose(fast.deviation, plain.deviation, rtol=0, atol=1e-6)
    np.testing.assert_allclose(fast.model_error, plain.model_error, rtol=1e-6, atol=1e-9)
    assert fast.is_stray.any()


@pytest.mark.parametrize("seed", range(4))
def test_pixels_of_a_group__are_judged_the_same_by_both_forms(both, seed):
    rng, shape, xy, corners, electrons = _stars(seed)
    for star in np.flatnonzero(np.isfinite(electrons).all(axis=(1, 2))).tolist():
        corner = [values[star : star + 1] for values in corners]
        light = profile.profile_weights(TABLE, xy[star : star + 1], *corner, 25, shape)[0]
        pixels, rms = electrons[star], np.full(light.shape, 10.0)
        model, good = light * np.nansum(pixels), rng.random(light.shape) < 0.95
        response = rng.normal(1.0, 0.02, light.shape) if seed % 2 else None
        unknown = rng.uniform(0.0, 50.0, light.shape) if seed > 1 else None
        fast, plain = both(misfit.judge_pixels, pixels, model, rms, response, good, 0.005, unknown)
        np.testing.assert_allclose(fast[0], plain[0], rtol=1e-12)
        np.testing.assert_array_equal(fast[1], plain[1])


# ---------------------------------------------------------------- centroids and widths


@pytest.mark.parametrize("scale", [0.35, 1.0, 3.0])
def test_adaptive_moments__are_the_same_by_both_forms(both, scale):
    rng, _, xy, corners, _ = _stars(7)
    size = 41
    corners = photometry.origins(xy, size)
    shape = profile.Shape(2.0 * scale, 1.5 * scale, 0.7)
    electrons = 1e4 * profile.profile_weights(TABLE, xy, *corners, size, shape)
    electrons += rng.normal(0.0, 1.0, electrons.shape)
    electrons[0], electrons[1], electrons[2, :, 18:] = np.nan, -1.0, np.nan
    electrons[3, 20, 20] = np.nan
    start, sigma = xy + rng.normal(0.0, 0.3, xy.shape), rng.uniform(0.8, 4.0, len(xy))
    start[4], sigma[5] = np.nan, 0.0
    fast, plain = both(moments.adaptive_moments, electrons, *corners, start, sigma)
    np.testing.assert_array_equal(fast[3], plain[3])
    for found, wanted in zip(fast[:3], plain[:3], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    assert scale < 1.0 or np.count_nonzero(fast[3]) > 15
    assert not fast[3][:3].any()


@pytest.mark.parametrize("sigma", [0.7, 1.1, 2.0])
def test_centroids__are_the_same_by_both_forms(both, sigma):
    rng, _, xy, corners, electrons = _stars(8)
    start = xy + rng.normal(0.0, 0.5, xy.shape)
    start[5] = np.nan
    fast, plain = both(centroids.windowed_centroids, electrons, *corners, start, sigma)
    np.testing.assert_array_equal(fast[1], plain[1])
    np.testing.assert_allclose(fast[0], plain[0], rtol=0, atol=1e-9)
    assert 5 < np.count_nonzero(fast[1]) < len(xy)


# ---------------------------------------------------------------- form of the stars of a frame


@pytest.mark.parametrize("n_stars", [1, 2, 3, 5, 8, 30])
def test_form_of_stars__is_the_same_by_both_forms(both, n_stars):
    rng = np.random.default_rng(n_stars)
    xy = rng.uniform(0.0, 300.0, (n_stars, 2))
    forms = np.stack([2.0 + 1e-3 * xy[:, 0], 1.8 + 1e-3 * xy[:, 1], 0.3 + 0.01 * rng.standard_normal(n_stars)])
    forms[:2] *= 1.0 + 0.01 * rng.standard_normal((2, n_stars))
    forms[0, ::7] *= 1.3
    error, doubt = rng.uniform(1e-3, 0.05, n_stars), np.where(rng.random(n_stars) < 0.3, 0.1, 0.0)
    fast, plain = both(field_form.form_of_stars, xy, forms, error, (300, 300), doubt)
    for found, wanted in zip(fast, plain, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- connected pixels


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.6, 1.0])
def test_connected_pixels__have_the_same_labels_by_both_forms(both, share):
    shape = (40, 31)
    flagged = np.flatnonzero(np.random.default_rng(2).random(shape) < share)
    (labels, n_labels), (wanted, n_wanted) = both(segments.connected, flagged, shape)
    np.testing.assert_array_equal(labels, wanted)
    assert n_labels == n_wanted


# ---------------------------------------------------------------- what they promise


def test_kernels_of_stars__refuse_what_does_not_belong_together():
    native, xy, corner = compiled.native, np.zeros((2, 2)), np.zeros(2, dtype=np.int64)
    settings = (profile.EDGE, profile.TABLE_STEP, 0.25)
    with pytest.raises(ValueError, match="belong together"):
        native.star_light(TABLE, xy, corner, corner, np.ones((2, 4)), np.empty((2, 1, 5, 5)), *settings)
    with pytest.raises(ValueError, match="belong together"):
        native.star_light(TABLE[:100].copy(), xy, corner, corner, np.ones((2, 5)), np.empty((2, 1, 5, 5)), *settings)
    with pytest.raises(TypeError, match="takes 19 arrays"):
        native.fit_stars((xy,), *settings[:2])
    good, limits = np.empty(2, dtype=bool), np.ones(4)
    with pytest.raises(ValueError, match="belong together"):
        native.windowed_centroids(np.ones((2, 5, 6)), np.ones(2), limits, xy, good, 10, 0.05)
    with pytest.raises(ValueError, match="belong together"):
        native.adaptive_moments(np.ones((2, 5, 5)), xy, np.ones(2), limits, np.ones(4), np.empty((2, 3)), good)
    with pytest.raises(ValueError, match="belong together"):
        native.field_form(np.ones((2, 7)), np.ones((3, 2)), *3 * (np.ones(2),), np.empty(4), np.empty((3, 6)))
    with pytest.raises(ValueError, match="edges must join nodes"):
        native.connected_components(np.array([0]), np.array([2]), np.empty(2, dtype=np.int64))
    with pytest.raises(ValueError, match="belong together"):
        native.smooth_course(
            np.ones((4, 5)), np.ones((4, 5)), np.ones((3, 25)), np.ones(12), np.empty((4, 5)), np.empty((4, 5)), 1.0
        )


def test_kernels_of_stars__give_the_same_bits_on_threads_and_alone():
    _, _, xy, corners, electrons = _stars(9)
    electrons = np.nan_to_num(electrons)

    def measured(chosen):
        here = [corner[chosen] for corner in corners]
        found = moments.adaptive_moments(electrons[chosen], *here, xy[chosen], 2.0)
        centres = centroids.windowed_centroids(electrons[chosen], *here, xy[chosen], 2.0)
        return np.column_stack([*found, *centres])

    together = measured(slice(None))
    with ThreadPoolExecutor(4) as pool:
        alone = np.concatenate(list(pool.map(measured, [slice(i, i + 1) for i in range(len(xy))])))
    np.testing.assert_array_equal(alone, together)
