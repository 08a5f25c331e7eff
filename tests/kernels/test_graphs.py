"""Pairs of positions that are each other's nearest."""

import numpy as np

from opticam_dask.kernels import graphs


def test_nearest_pairs__are_mutual_near_and_known():
    one = np.array([[0.0, 0.0], [np.nan, 5.0], [1.0, 0.0], [9.0, 9.0]])
    other = np.array([[np.nan, np.nan], [0.9, 0.1], [50.0, 50.0], [0.1, 0.0]])
    pairs, distances = graphs.nearest_pairs(one, other, 2.0)
    assert pairs.tolist() == [[0, 3], [2, 1]]
    np.testing.assert_allclose(distances, [0.1, np.hypot(0.1, 0.1)])


def test_nearest_pairs__of_nothing_are_none():
    nothing, unknown, known = np.empty((0, 2)), np.full((3, 2), np.nan), np.zeros((2, 2))
    for one, other in ((nothing, known), (known, nothing), (unknown, known), (known, unknown)):
        pairs, distances = graphs.nearest_pairs(one, other, 1.0)
        assert pairs.shape == (0, 2)
        assert distances.shape == (0,)
