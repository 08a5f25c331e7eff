"""Kernels in C that compare stars with their profile and lists of sources with each other, against those in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_kernels import needs_compiled

from opticam_dask.kernels import compiled, graphs, robust
from opticam_dask.kernels.images.counts import extremes, unsigned_counts
from opticam_dask.kernels.images.matching import match, star_choice
from opticam_dask.kernels.images.sky import smooth_zoom
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import judging, profile

pytestmark = needs_compiled

TABLE = profile.typical_profile().table()


def _night(seed, *, n=24, size=25):
    """Windows of stars with noise, gaps, saturated pixels and some hits, and the share of the light in each pixel."""
    rng = np.random.default_rng(seed)
    shape, xy = profile.Shape(2.1, 1.7, 0.4), rng.uniform(30.0, 250.0, (n, 2))
    light = profile.profile_weights(TABLE, xy, *photometry.origins(xy, size), size, shape)
    model = 10.0 ** rng.uniform(2.0, 5.5, n)[:, None, None] * light
    electrons = model + np.sqrt(model + 100.0) * rng.standard_normal(light.shape)
    electrons[::5, 10, 12] += 3000.0
    masks = rng.random(light.shape) < 0.99, rng.random(light.shape) < 0.0005
    least = np.interp(4.0, profile.TABLE_STEP * np.arange(len(TABLE)), TABLE) / shape.area_at(xy)
    return rng, light, electrons, masks, least


@pytest.mark.parametrize("seed", range(4))
def test_stars__are_judged_the_same_by_both_forms(both, seed):
    rng, light, electrons, (is_good, saturated), least = _night(seed)
    used = (light > least[:, None, None]) & is_good & ~saturated
    flux, plain = both(judging.fit_fluxes_alone, electrons, light, used)
    np.testing.assert_allclose(flux, plain, rtol=1e-11)
    of = rng.integers(0, len(light), 40)
    pair = both(judging.fit_fluxes_alone, electrons[rng.integers(0, len(light), 40)], light, used, of)
    np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-6)
    foreign = 0.0 if seed % 2 else rng.uniform(0.0, 50.0, light.shape)
    response = rng.normal(1.0, 0.02, light.shape) if seed > 1 else None
    noise = np.full(light.shape, 10.0), np.full(light.shape, 8.0)
    windows = electrons, light, flux, foreign, noise, response
    fast, plain = both(judging.judge_stars, *windows, (is_good, saturated), least, 0.005)
    np.testing.assert_array_equal(fast.judged, plain.judged)
    np.testing.assert_array_equal(fast.deviation, plain.deviation)
    np.testing.assert_array_equal(fast.is_suspect, plain.is_suspect)
    np.testing.assert_allclose(fast.chi2, plain.chi2, rtol=1e-11)
    assert 0 < np.count_nonzero(plain.is_suspect) < len(light)
    assert np.isnan(plain.chi2).any()


def _lists(seed):
    """Sources of a reference frame and of a frame that is moved, turned and scaled, with some lost and others added."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 60))
    reference = rng.uniform(0.0, 512.0, (n, 2))
    angle = rng.uniform(-3.0, 3.0) if seed % 3 == 0 else rng.normal(0.0, 0.01)
    turn = rng.normal(1.0, 0.01) * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    frame = (reference - 256.0) @ turn.T + 256.0 + rng.normal(0.0, 20.0, 2) + rng.normal(0.0, 0.1, reference.shape)
    frame = frame[rng.random(n) < rng.uniform(0.3, 1.0)]
    frame = np.concatenate([frame, rng.uniform(0.0, 512.0, (int(rng.integers(0, 20)), 2))])
    return reference, rng.permutation(frame), rng.uniform(1.0, 100.0, n)


def _matched(reference, frame, **options):
    try:
        return match.find_transform(reference, frame, **options)
    except match.AlignmentError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(40))
def test_transforms__are_the_same_by_both_forms(both, seed):
    reference, frame, weights = _lists(seed)
    kind = "translation" if seed % 5 == 0 else "affine"
    options = {"shift_of_few": seed % 2 == 0, "allow_reflection": seed % 7 == 0, "reference_weights": weights}
    fast, plain = both(_matched, reference, frame, transform_type=kind, **options)
    if isinstance(plain, str):
        assert fast == plain
        return
    np.testing.assert_array_equal(fast.reference_index, plain.reference_index)
    np.testing.assert_array_equal(fast.frame_index, plain.frame_index)
    np.testing.assert_allclose(fast.transform, plain.transform, rtol=1e-10, atol=1e-9)


def test_spline_at_places__is_the_same_bits_by_both_forms(both):
    rng = np.random.default_rng(0)
    mesh, places = rng.normal(100.0, 3.0, (7, 9)), np.sort(rng.choice(100 * 140, 900, replace=False))
    np.testing.assert_array_equal(*both(smooth_zoom.at_places, mesh, (100, 140), (16, 16), places))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7, 60])
def test_numbers_and_positions__are_summed_up_the_same_by_both_forms(both, n):
    rng = np.random.default_rng(n)
    for values in (rng.normal(size=n), np.round(rng.normal(size=n)), np.where(rng.random(n) < 0.2, np.nan, 1.5)):
        np.testing.assert_array_equal(*both(robust.median, values))
        np.testing.assert_allclose(*both(star_choice.mode, values), rtol=1e-15)
    xy, others = rng.uniform(0.0, 50.0, (n, 2)), rng.uniform(0.0, 50.0, (n // 2, 2))
    np.testing.assert_array_equal(*both(graphs.near_pairs, xy, 10.0))
    np.testing.assert_allclose(*both(graphs.nearest_distances, xy, others), rtol=1e-15)


def test_pixels_of_files__are_the_same_counts_by_both_forms(both):
    counts = np.random.default_rng(0).integers(0, 2**16, (13, 37)).astype(np.uint16)
    counts.flat[:3] = 0, 2**15, 2**16 - 1
    stored = (counts.astype(int) - 2**15).astype(">i2")
    for found in both(lambda: unsigned_counts(stored.copy())):
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, counts)
    assert [*map(int, both(extremes, counts[:, ::2])[0])] == [*map(int, both(extremes, counts[:, ::2].copy())[1])]
    assert both(extremes, counts)[0] == (0, 2**16 - 1) == both(extremes, counts)[1]


def test_kernels_that_compare__refuse_what_does_not_belong_together():
    native = compiled.native
    one, two = np.zeros((1, 3, 3)), np.zeros((2, 3, 3))
    with pytest.raises(ValueError, match="do not belong together"):
        native.fluxes_alone(one, two, np.zeros((2, 3, 3), dtype=bool), np.array([2]), np.empty(1))
    with pytest.raises(ValueError, match="do not belong together"):
        native.spline_at(np.zeros((2, 5)), np.full((4, 3), 2), np.zeros((4, 3)), np.array([1]), np.empty(1))
    points, numbers, pairs = np.zeros((3, 2)), np.zeros(3), np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="do not belong together"):
        native.refine_match(points, points, *[numbers] * 4, np.zeros(5), pairs, pairs)
    masks, lone = [np.zeros((1, 3, 3), dtype=bool)] * 3, np.zeros(1)
    with pytest.raises(ValueError, match="do not belong together"):
        native.compare_stars((one, one, one, one, None, None, *masks, two, *[lone] * 3, lone > 0, np.zeros(6)))
