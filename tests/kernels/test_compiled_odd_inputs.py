"""Kernels in C and in NumPy give the same for numbers that are none, and for arrays that lie oddly in memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from compiled_kernels import needs_compiled

from opticam_dask.kernels import graphs, robust
from opticam_dask.kernels.images import segments
from opticam_dask.kernels.images.counts import Counts, extremes, unsigned_counts
from opticam_dask.kernels.images.sky import subtraction
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import judging

pytestmark = needs_compiled


def _odd(values):
    """The same numbers as arrays that lie oddly: unaligned, strided, read-only, with the order of their bytes."""
    raw = np.zeros(values.nbytes + 1, dtype=np.uint8)
    unaligned = raw[1:].view(values.dtype).reshape(values.shape)
    unaligned[...] = values
    assert not unaligned.flags.aligned
    read_only = values.copy()
    read_only.flags.writeable = False
    # as Zarr gives them: the order of the bytes is said, though it is that of the machine
    told = values.view(values.dtype.newbyteorder("<" if sys.byteorder == "little" else ">"))
    return unaligned, np.repeat(values, 2, axis=-1)[..., ::2], read_only, told


def test_arrays_that_lie_oddly__are_read_by_both_forms(both):
    rng = np.random.default_rng(0)
    values, image = rng.normal(size=20), rng.integers(0, 2**16, (40, 60)).astype(np.uint16)
    corner, mesh = np.array([-3, 7, 50]), rng.normal(100.0, 1.0, (4, 6))
    stored = (image.astype(int) - 2**15).astype(">i2")
    subtracted = subtraction.subtract_sky(Counts(image, 1.5, 0.0), mesh, mesh, (10, 10), 3.0).image
    for numbers, xy in zip(_odd(values), _odd(values.reshape(10, 2)), strict=True):
        assert both(robust.median, numbers) == (np.median(values),) * 2
        np.testing.assert_array_equal(*both(graphs.near_pairs, xy, 1.0))
        np.testing.assert_allclose(*both(graphs.nearest_distances, xy, xy + 1.0), rtol=1e-15)
    for pixels in _odd(image):
        assert both(extremes, pixels) == ((float(image.min()), float(image.max())),) * 2
        np.testing.assert_array_equal(*both(photometry.cut_out, pixels, corner, corner, 9))
        fast, plain = both(subtraction.subtract_sky, Counts(pixels, 1.5, 0.0), mesh, mesh, (10, 10), 3.0)
        np.testing.assert_array_equal(fast.image, subtracted)
        np.testing.assert_allclose(plain.image, subtracted, atol=0.01)
    for which in range(3):
        for found in both(lambda of=which: unsigned_counts(_odd(stored)[of])):
            np.testing.assert_array_equal(found, image)


def test_extremes__are_plain_numbers(both):
    for found in both(extremes, np.arange(6, dtype=np.uint16).reshape(2, 3)):
        assert [type(number) for number in found] == [float, float]
    assert np.isnan(both(extremes, np.zeros((0, 4), dtype=np.uint16))).all()
    assert extremes(np.array([[np.nan, 2.0, 5.0]])) == (2.0, 5.0)


@pytest.mark.parametrize("n", [4, 500])
def test_positions_that_are_none__are_far_from_all(both, n):
    rng = np.random.default_rng(n)
    xy, others = rng.uniform(0.0, 50.0, (n, 2)), rng.uniform(0.0, 50.0, (n, 2))
    xy[1], others[2, 0] = np.nan, np.inf
    known = np.delete(np.arange(n), 1)
    for away in both(graphs.nearest_distances, xy, others):
        assert np.flatnonzero(np.isinf(away)).tolist() == [1]
        expected = np.hypot(*(xy[known, None] - np.delete(others, 2, axis=0)).transpose(2, 0, 1)).min(axis=1)
        np.testing.assert_allclose(away[known], expected, rtol=1e-12)
    fast, plain = both(graphs.near_pairs, xy, 5.0)
    np.testing.assert_array_equal(fast, plain)
    np.testing.assert_array_equal(fast, known[graphs.near_pairs(xy[known], 5.0)])
    assert fast.flags.writeable == plain.flags.writeable
    assert np.isinf(graphs.nearest_distances(xy, np.full((n, 2), np.nan))).all()


@pytest.mark.parametrize("has_neighbours", [False, True])
def test_pixels_of_unknown_noise__do_not_judge_a_star(both, has_neighbours):
    rng, offset = np.random.default_rng(2), np.arange(11) - 5.0
    light = np.exp(-(offset[:, None] ** 2 + offset**2) / 4.0) / (4.0 * np.pi) * np.ones((4, 1, 1))
    foreign = np.full(light.shape, 3.0) if has_neighbours else 0.0
    electrons, rms = 5000.0 * light + foreign + rng.normal(0.0, 5.0, light.shape), np.full(light.shape, 5.0)
    electrons[1:, 5, 7] += 2000.0
    rms[2, 5, 7], rms[3] = np.nan, np.nan
    masks = np.ones(light.shape, dtype=bool), np.zeros(light.shape, dtype=bool)
    given = electrons, light, np.full(4, 5000.0), foreign, (rms, rms), None, masks, np.full(4, 1e-3), 0.005
    fast, plain = both(judging.judge_stars, *given)
    np.testing.assert_array_equal(fast.judged, plain.judged)
    np.testing.assert_allclose(fast.chi2, plain.chi2, rtol=1e-11)
    assert fast.is_suspect.tolist() == plain.is_suspect.tolist() == [False, True, False, False]
    assert np.isfinite(fast.chi2).tolist() == [True, True, True, False]


def test_segments_without_pixels__have_no_moments(both):
    some = segments.Segments(np.array([7, 8, 17]), np.array([1.0, 2.0, 3.0]), np.array([0, 0, 2]), 3)
    for fast, plain in zip(*both(segments._moments, some, 10), strict=True):
        np.testing.assert_array_equal(fast, plain)
    assert segments._moments(some, 10)[0].tolist() == [7, 0, 17]
