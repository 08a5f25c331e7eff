"""Refinement of a transform from its first guess, and the probability of such a match by chance."""

from __future__ import annotations

import functools
import math
from types import ModuleType

import numpy as np
from scipy.special import gammaln

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.matching.problem import MatchProblem, PairedTransform

#: Positions are not trusted to be better than this (pixels), however well they agree.
_POSITION_FLOOR = 0.1
#: With fewer pairs than this, the fit follows each of them too much to tell which one is off.
_ENOUGH_TO_CLIP = 6
#: Steps of a refinement at most,
_STEPS = 10
#: and of the reweighting in each of them.
_REWEIGHTED = 15
#: A field has hardly moved when it shifted by less than this, in units of its size,
_NEAR_SHIFT = 0.1
#: and its rotation (rad) and its scale changed by less than this.
_NEAR_TURN = 0.03


def refine(problem: MatchProblem, a: complex, b: complex) -> PairedTransform | None:
    """Match, drop what is better explained by chance, fit, and again until the pairs stay the same."""
    if compiled.native is not None:
        return _compiled_refinement(compiled.native, problem, a, b)
    before: tuple[np.ndarray, np.ndarray] | None = None
    for step in range(_STEPS):
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
    return _in_range(problem, PairedTransform(a, b, i, j, log_chance, problem.is_mirrored))


def _in_range(problem: MatchProblem, found: PairedTransform) -> PairedTransform | None:
    """A transform if its scale may be; None otherwise."""
    is_in_range = 1 / problem.scale_range < abs(found.a) / problem.scale < problem.scale_range
    return found if is_in_range else None


def _compiled_refinement(native: ModuleType, problem: MatchProblem, a: complex, b: complex) -> PairedTransform | None:
    """As :func:`refine`, in C."""
    n, m = len(problem.reference), len(problem.frame)
    if not min(n, m):
        return None
    (a0, b0), least = problem.expected, float(problem.least)
    rules = np.array(
        (
            *(problem.area, problem.scale, problem.scale_range, problem.tolerance, least, problem.shift_only),
            *(a0.real, a0.imag, b0.real, b0.imag),
            *(_POSITION_FLOOR, _ENOUGH_TO_CLIP, _NEAR_SHIFT, _NEAR_TURN, _STEPS, _REWEIGHTED),
        ),
        dtype=float,
    )
    lists = (compiled.ready(points).view(float).reshape(-1, 2) for points in (problem.reference, problem.frame))
    weights = (compiled.ready(of, dtype=float) for of in (problem.reference_weights, problem.frame_weights))
    start, i, j = (
        np.array((a.real, a.imag, b.real, b.imag, 0.0)),
        np.empty(n, dtype=np.int64),
        np.empty(n, dtype=np.int64),
    )
    n_pairs = native.refine_match(*lists, *weights, _log_factorials(max(n, m)), rules, start, i, j)
    if not n_pairs:
        return None
    a, b = complex(start[0], start[1]), complex(start[2], start[3])
    found = PairedTransform(a, b, i[:n_pairs], j[:n_pairs], float(start[4]), problem.is_mirrored)
    return _in_range(problem, found)


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
    for _ in range(_REWEIGHTED if len(i) >= _ENOUGH_TO_CLIP else 0):
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


@functools.lru_cache(maxsize=8)
def _log_factorials(most: int) -> np.ndarray:
    """Logarithms of the factorials of 0 to ``most``."""
    logarithms: np.ndarray = gammaln(np.arange(most + 1) + 1.0)
    logarithms.flags.writeable = False
    return logarithms


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
    log_factorial = _log_factorials(max(n, m))
    ways = log_factorial[n] - log_factorial[k] - log_factorial[n - k] + log_factorial[m] - log_factorial[m - k]
    sizes = math.log(2 * (min(n, m) - problem.least + 1))
    shifts = area * (math.pi * _NEAR_SHIFT**2 if is_near else 1.0)
    transforms = np.log(k * shifts)
    half = k - 1 if problem.shift_only else k - 2
    if not problem.shift_only:
        low, high = problem.scale / problem.scale_range, problem.scale * problem.scale_range
        turns = (_NEAR_TURN * problem.scale) ** 2 if is_near else high**2 - low**2
        transforms = transforms + np.log(np.maximum(spread, 1.0) * math.pi * min(turns, high**2 - low**2))
    half = np.maximum(half, 0)
    ball = half * np.log(math.pi * (squares + k * _POSITION_FLOOR**2)) - log_factorial[half]
    return sizes + ways + transforms + ball - k * math.log(area)
