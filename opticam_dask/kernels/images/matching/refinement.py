"""Refinement of a transform from its first guess, and the probability of such a match by chance."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln

from opticam_dask.kernels.images.matching.problem import MatchProblem, PairedTransform

#: Positions are not trusted to be better than this (pixels), however well they agree.
_POSITION_FLOOR = 0.1
#: With fewer pairs than this, the fit follows each of them too much to tell which one is off.
_ENOUGH_TO_CLIP = 6
#: A field has hardly moved when it shifted by less than this, in units of its size,
_NEAR_SHIFT = 0.1
#: and its rotation (rad) and its scale changed by less than this.
_NEAR_TURN = 0.03


def refine(problem: MatchProblem, a: complex, b: complex) -> PairedTransform | None:
    """Match, drop what is better explained by chance, fit, and again until the pairs stay the same."""
    before: tuple[np.ndarray, np.ndarray] | None = None
    for step in range(10):
        i, j = _match(problem, a, b, problem.tolerance * (2 if step == 0 else 1))
        if len(i) < problem.least:
            return None
        a, b = _robust_fit(problem, i, j)
        kept, log_chance = _most_significant(problem, a, b, i, j)
        i, j = i[kept], j[kept]
        if before is not None and np.array_equal(i, before[0]) and np.array_equal(j, before[1]):
            break
        before = i, j
        a, b = _fit(problem, i, j, np.ones(len(i)))
    distance = np.abs(a * problem.reference[i] + b - problem.frame[j])
    is_regular = distance < 4 * _scatter(distance) if len(i) >= _ENOUGH_TO_CLIP else np.ones(len(i), dtype=bool)
    i, j = i[is_regular], j[is_regular]
    a, b = _fit(problem, i, j, 1 / (1 / problem.reference_weights[i] + 1 / problem.frame_weights[j]))
    in_range = 1 / problem.scale_range < abs(a) / problem.scale < problem.scale_range
    return PairedTransform(a, b, i, j, log_chance, problem.is_mirrored) if in_range else None


def _match(problem: MatchProblem, a: complex, b: complex, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are each other's nearest and within a radius, as indices into the two lists."""
    distance = np.abs((a * problem.reference + b)[:, None] - problem.frame)
    nearest = distance.argmin(axis=1)
    i = np.arange(len(problem.reference))
    is_pair = (distance.argmin(axis=0)[nearest] == i) & (distance[i, nearest] < radius)
    return i[is_pair], nearest[is_pair]


def _fit(problem: MatchProblem, i: np.ndarray, j: np.ndarray, w: np.ndarray) -> tuple[complex, complex]:
    """Weighted least squares over pairs (Umeyama 1991, IEEE PAMI 13, 376, in complex numbers)."""
    r, f = problem.reference[i], problem.frame[j]
    w = w / w.sum()
    r_mean, f_mean = (w * r).sum(), (w * f).sum()
    a = problem.expected[0]
    if not problem.shift_only:
        a = (w * np.conj(r - r_mean) * (f - f_mean)).sum() / (w * np.abs(r - r_mean) ** 2).sum()
    return complex(a), complex(f_mean - a * r_mean)


def _robust_fit(problem: MatchProblem, i: np.ndarray, j: np.ndarray) -> tuple[complex, complex]:
    """Fit that follows the majority, by reweighting with a Cauchy profile.

    Fluxes do not count here: when the telescope jerks, a few bright trailed stars disagree with all the others.
    """
    a, b = _fit(problem, i, j, np.ones(len(i)))
    distance = np.abs(a * problem.reference[i] + b - problem.frame[j])
    for _ in range(15 if len(i) >= _ENOUGH_TO_CLIP else 0):
        before = distance
        a, b = _fit(problem, i, j, 1 / (1 + (distance / _scatter(distance)) ** 2))
        distance = np.abs(a * problem.reference[i] + b - problem.frame[j])
        if np.abs(distance - before).max() < _POSITION_FLOOR / 10:
            break
    return a, b


def _scatter(distance: np.ndarray) -> float:
    """Estimate the standard deviation along one axis from the median distance to a fit of 4 numbers."""
    freedom = 1 - 2 / len(distance)
    median = np.sort(distance)[len(distance) // 2]
    return max(float(median) / math.sqrt(2 * math.log(2) * freedom), _POSITION_FLOOR)


def _most_significant(
    problem: MatchProblem, a: complex, b: complex, i: np.ndarray, j: np.ndarray
) -> tuple[np.ndarray, float]:
    """Which pairs, by distance, make the match that is least probable by chance, and log of that number."""
    r = problem.reference[i]
    squares = np.abs(a * r + b - problem.frame[j]) ** 2
    order = np.argsort(squares, kind="stable")
    k = np.arange(1, len(i) + 1)
    spread = np.cumsum(np.abs(r[order] - r.mean()) ** 2) - np.abs(np.cumsum(r[order] - r.mean())) ** 2 / k
    a0, b0 = problem.expected
    middle = r.mean()
    is_near = abs((a - a0) * middle + b - b0) < _NEAR_SHIFT * math.sqrt(problem.area) and (
        abs(a - a0) < _NEAR_TURN * problem.scale
    )
    log_chance = _log_chance(problem, k, np.cumsum(squares[order]), spread, is_near)[problem.least - 1 :]
    best = int(np.argmin(log_chance))
    return np.sort(order[: best + problem.least]), float(log_chance[best])


def _log_chance(
    problem: MatchProblem, k: np.ndarray, squares: np.ndarray, spread: np.ndarray, is_near: bool
) -> np.ndarray:
    """Log of the expected number of matches of ``k`` pairs as good between unrelated lists.

    The number of ways to choose the pairs, times the share of all arrangements of ``k`` sources on the frame that lie
    within the residual found of some allowed transform of the reference: the volume of the transforms times that of
    a ball in the space of residuals. Transforms near the expected one and all others get half of the chance each.

    Parameters
    ----------
    k, squares, spread : ndarray
        Number of pairs, sum of their squared distances and sum of squared distances of their reference sources from
        the mean.
    is_near : bool
        Whether the transform is near the expected one.
    """
    n, m, area = len(problem.reference), len(problem.frame), problem.area
    ways = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + gammaln(m + 1) - gammaln(m - k + 1)
    sizes = math.log(2 * (min(n, m) - problem.least + 1))
    shifts = area * (math.pi * _NEAR_SHIFT**2 if is_near else 1.0)
    transforms = np.log(k * shifts)
    half = k - 1 if problem.shift_only else k - 2
    if not problem.shift_only:
        low, high = problem.scale / problem.scale_range, problem.scale * problem.scale_range
        turns = (_NEAR_TURN * problem.scale) ** 2 if is_near else high**2 - low**2
        transforms = transforms + np.log(np.maximum(spread, 1.0) * math.pi * min(turns, high**2 - low**2))
    half = np.maximum(half, 0)
    ball = half * np.log(math.pi * (squares + k * _POSITION_FLOOR**2)) - gammaln(half + 1)
    return sizes + ways + transforms + ball - k * math.log(area)
