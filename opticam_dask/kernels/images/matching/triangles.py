"""Transforms found without a first guess, from similar triangles in both lists of sources."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.kernels.images.matching.problem import MAX_REFINED, MatchProblem

#: At most this many of the first sources are corners of triangles: 4060 of them.
_MAX_CORNERS = 30
#: This many pairs of similar triangles are looked at: a few milliseconds.
_MAX_SIMILAR = 40_000
#: This many transforms are counted pair by pair: they are the best of a rougher count.
_MAX_COUNTED = 60


# ---------------------------------------------------------------- general search by triangles


@lru_cache(maxsize=64)
def _triples(n: int) -> np.ndarray:
    triples = np.array(list(itertools.combinations(range(n), 3)), dtype=np.intp).reshape(-1, 3)
    triples.flags.writeable = False
    return triples


def _triangles(points: np.ndarray, slack: float) -> tuple[np.ndarray, np.ndarray]:
    """Triangles ``(n, 3)`` with their longest side first, and their shape: the third corner when that side is 0 to 1.

    With ``slack``, both directions of the longest side are given, and sides that are shorter by that share: noise
    may have made another side the longest.
    """
    triples = _triples(min(len(points), _MAX_CORNERS))
    corners, shapes = [], []
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2), (2, 1, 0), (0, 2, 1))[: 6 if slack else 3]:
        triple = triples[:, order]
        first, second, third = points[triple].T
        shape = (third - first) / (second - first)
        is_longest = np.maximum(np.abs(shape), np.abs(shape - 1)) <= 1 + slack
        corners.append(triple[is_longest])
        shapes.append(shape[is_longest])
    return np.concatenate(corners), np.concatenate(shapes)


@dataclass(frozen=True, eq=False)
class _TriangleIndex:
    """Triangles of a list of sources, to be looked up by their shape.

    Attributes
    ----------
    corners : ndarray of int, shape (triangle, 3)
        Sources at the corners, the longest side first.
    sides : ndarray, shape (triangle,)
        Length of that side, pixels.
    tree : KDTree
        Tree of the shapes of the triangles, for searches.
    """

    corners: np.ndarray
    sides: np.ndarray
    tree: KDTree


@lru_cache(maxsize=4)  # a reference frame is that of all frames, and a frame is looked for in many parts of the sky
def _indexed(points: bytes, slack: float) -> _TriangleIndex:
    at = np.frombuffer(points, dtype=complex)
    corners, shapes = _triangles(at, slack)
    sides = np.abs(at[corners[:, 1]] - at[corners[:, 0]])
    plane = np.column_stack([shapes.real, shapes.imag])
    return _TriangleIndex(corners, sides, KDTree(plane, balanced_tree=False, compact_nodes=False))


def triangle_starts(problem: MatchProblem) -> list[tuple[complex, complex]]:
    """Find transforms under which a triangle of each list coincide, those that match most sources first."""
    reference, frame = _indexed(problem.reference.tobytes(), 0.0), _indexed(problem.frame.tobytes(), 0.1)
    n_pairs = len(reference.sides) * len(frame.sides)
    if not n_pairs:
        return []
    # Shapes lie within two overlapping unit circles (area 1.2): a radius that gives about as many pairs as wanted.
    radius = min(0.25, math.sqrt(_MAX_SIMILAR * 1.2 / (math.pi * n_pairs)))
    similar = reference.tree.sparse_distance_matrix(frame.tree, radius, output_type="ndarray")
    side = frame.sides[similar["j"]]
    scale = side / reference.sides[similar["i"]] / problem.scale
    possible = (scale < problem.scale_range) & (scale * problem.scale_range > 1)
    possible &= similar["v"] * side < problem.tolerance
    similar = similar[possible]
    similar = similar[np.lexsort((similar["j"], similar["i"]))]
    r = problem.reference[reference.corners[similar["i"]]]
    f = problem.frame[frame.corners[similar["j"]]]
    r_mean, f_mean = r.mean(axis=1, keepdims=True), f.mean(axis=1, keepdims=True)
    a = (np.conj(r - r_mean) * (f - f_mean)).sum(axis=1) / (np.abs(r - r_mean) ** 2).sum(axis=1)
    b = f_mean[:, 0] - a * r_mean[:, 0]
    best = _best_counts(problem, a, b)
    return list(zip(a[best].tolist(), b[best].tolist(), strict=True))


def _best_counts(problem: MatchProblem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pick the transforms that match most sources, then with the least distances: roughly, then exactly."""
    rough = _rough_counts(problem, a, b)
    chosen = np.argsort(-rough, kind="stable")[:_MAX_COUNTED]
    at = a[chosen, None] * problem.reference + b[chosen, None]
    distance = np.abs(at[:, :, None] - problem.frame)
    nearest = distance.argmin(axis=2)
    is_mutual = np.take_along_axis(distance.argmin(axis=1), nearest, axis=1) == np.arange(len(problem.reference))
    least = distance.min(axis=2)
    is_pair = is_mutual & (least < problem.tolerance)
    squares = np.where(is_pair, least**2, 0.0).sum(axis=1)
    return chosen[np.lexsort((squares, -is_pair.sum(axis=1)))][:MAX_REFINED]


def _rough_counts(problem: MatchProblem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many reference sources each transform puts next to a frame source, on a grid of cells of the tolerance."""
    frame = problem.frame
    corner = complex(frame.real.min(), frame.imag.min())
    size = max(np.ptp(frame.real), np.ptp(frame.imag))
    cell = max(problem.tolerance, size / 1000)
    n_cells = int(size / cell) + 5
    occupied = np.zeros((n_cells, n_cells), dtype=np.uint8)
    # Two empty cells around, so that what falls outside can be put on the border.
    at = (frame - corner) / cell + 2 * (1 + 1j)
    for dx, dy in itertools.product((-1, 0, 1), repeat=2):
        occupied[np.rint(at.imag).astype(int) + dy, np.rint(at.real).astype(int) + dx] = 1
    at = (a[:, None] * problem.reference + (b[:, None] - corner)) / cell + 2 * (1 + 1j)
    x = np.clip(np.rint(at.real), 0, n_cells - 1).astype(int)
    y = np.clip(np.rint(at.imag), 0, n_cells - 1).astype(int)
    return occupied[y, x].sum(axis=1, dtype=int)
