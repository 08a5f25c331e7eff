"""Lists of positions by the kernels in C against their form in NumPy: matches, disks, and medians of meshes."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_kernels import needs_compiled

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.sky import background
from opticam_dask.kernels.images.sky.disks import Disks, newly_covered
from opticam_dask.kernels.sources import photometry

pytestmark = needs_compiled

SEEDS = range(12)


def _positions(seed):
    """Positions on a frame of 60 x 80 pixels and beyond it, in every third case on the middles of pixels."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-20.0, 110.0, (5 * seed, 2))
    return rng, (np.rint(xy) if seed % 3 == 0 else xy)


@pytest.mark.parametrize("seed", SEEDS)
def test_matches__are_the_same_by_both_forms(both, seed):
    rng, xy = _positions(seed)
    other = np.concatenate([rng.permutation(xy)[::2] + rng.normal(0.0, 0.3 * (seed % 2), (len(xy[::2]), 2)), xy[:3]])
    xy[2:3] = np.nan
    found, expected = both(photometry.match_one_to_one, xy, other, rng.uniform(0.0, 5.0))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_pixels_of_disks__are_the_same_by_both_forms(both, seed):
    rng, xy = _positions(seed)
    xy[:1] = -1e5  # where a source is put that is not to be seen
    disks, before = (Disks(some, rng.uniform(0.0, 1.0 + 3.0 * seed, len(some))) for some in (xy, xy[::3] + 1.0))
    found, expected = both(newly_covered, disks, before, (60, 80))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (13, 9)])
def test_medians_of_a_mesh__are_the_same_by_both_forms(both, shape):
    mesh = np.random.default_rng(1).normal(size=shape)
    mesh.ravel()[1::3] = np.nan
    np.testing.assert_array_equal(*both(background._median_filter, mesh))


def test_kernels_of_positions__refuse_what_does_not_belong_together():
    native, xy = compiled.native, np.zeros((3, 2))
    with pytest.raises(ValueError, match="each of the first a match"):
        native.match_positions(xy, xy, np.empty(2, dtype=np.int64), 1.0)
    for radius in (np.ones(2), np.full(3, np.nan)):
        with pytest.raises(ValueError, match="a place and a radius"):
            native.disk_stretches(xy, radius, 10, 10)
    with pytest.raises(ValueError, match="one shape"):
        native.mesh_medians(xy, np.empty((2, 3)))
