"""Graphs of sources, runs of pixels and basins: what is near each other, and what hangs together."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from opticam_dask.kernels import compiled

#: The distances of this many pairs are all looked at: that is faster than to build a tree.
_FEW_PAIRS = 2**12
#: The same in C.
_MANY_PAIRS = 2**17


def components(one: np.ndarray, other: np.ndarray, n_nodes: int) -> tuple[int, np.ndarray]:
    """Connected components of a graph given by its edges, numbered in the order of their first nodes.

    Parameters
    ----------
    one, other : ndarray of int, shape (edge,)
        Nodes that the edges join.
    n_nodes : int
        Number of nodes.

    Returns
    -------
    n_components : int
        Number of components.
    numbers : ndarray of int, shape (n_nodes,)
        Component of each node.
    """
    if compiled.native is not None:
        numbers = np.empty(n_nodes, dtype=np.int64)
        edges = (compiled.ready(ends, dtype=np.int64) for ends in (one, other))
        return compiled.native.connected_components(*edges, numbers), numbers
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(n_nodes, n_nodes))
    n_components, numbers = connected_components(graph, directed=False)
    return int(n_components), numbers


def near_pairs(xy: np.ndarray, reach: float) -> np.ndarray:
    """Pairs of positions (n, 2) that are no further apart than ``reach``; shape (pair, 2), ascending.

    Positions that are not finite are near none.
    """
    if compiled.native is not None and len(xy) ** 2 <= _MANY_PAIRS:
        pairs = compiled.native.near_pairs(compiled.ready(xy, dtype=float), reach)
        return np.frombuffer(pairs, dtype=np.int64).reshape(-1, 2)
    known = np.flatnonzero(np.all(np.isfinite(xy), axis=1))
    xy = xy[known]
    if len(xy) ** 2 > _FEW_PAIRS:
        pairs = known[KDTree(xy).query_pairs(reach, output_type="ndarray")]
        return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    dx, dy = xy[:, None, 0] - xy[:, 0], xy[:, None, 1] - xy[:, 1]
    one, other = np.nonzero(dx * dx + dy * dy <= reach * reach)
    is_first = one < other
    return known[np.stack([one[is_first], other[is_first]], axis=1)]


def nearest_pairs(xy: np.ndarray, others: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of positions (n, 2) and (m, 2) that are each other's nearest and nearer than ``reach``.

    Returns
    -------
    pairs : ndarray of int, shape (pair, 2)
        Row in ``xy``, ascending, and row in ``others``. Positions that are not finite are in no pair.
    distances : ndarray, shape (pair,)
        How far apart they are.
    """
    rows, of_others = (np.flatnonzero(np.isfinite(of).all(axis=1)) for of in (xy, others))
    if not len(rows) or not len(of_others):
        return np.empty((0, 2), dtype=np.intp), np.empty(0)
    away, nearest = KDTree(others[of_others]).query(xy[rows])
    back = KDTree(xy[rows]).query(others[of_others])[1]
    is_pair = (back[nearest] == np.arange(len(rows))) & (away < reach)
    return np.column_stack([rows[is_pair], of_others[nearest[is_pair]]]), away[is_pair]


def nearest_distances(xy: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each of some positions (n, 2) to the nearest of others (m, 2); infinite without any.

    Positions that are not finite are infinitely far from all.
    """
    if compiled.native is not None and len(xy) * len(others) <= _MANY_PAIRS:
        away = np.empty(len(xy))
        compiled.native.nearest_distances(*(compiled.ready(of, dtype=float) for of in (xy, others)), away)
        return away
    distances = np.full(len(xy), np.inf)
    is_known, others = np.all(np.isfinite(xy), axis=1), others[np.all(np.isfinite(others), axis=1)]
    if len(others):
        distances[is_known] = KDTree(others).query(xy[is_known])[0]
    return distances
