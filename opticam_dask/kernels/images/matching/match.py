"""Match the source lists of two frames: which source is which, and the transform that follows.

A list holds sources the other has not (hot pixels, cosmic rays, stars lost in cloud), so some pairs always fall
together by chance. A transform is accepted only when so good a match is improbable between unrelated lists: the
expected number of equally good ones must be below ``max_chance`` (the a-contrario test of Moisan & Stival 2004,
IJCV 57, 201). Positions are complex numbers ``x + iy`` in here: a similarity is then ``frame = a * reference + b``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.spatial import KDTree
from scipy.special import gammaln

from opticam_dask.kernels.images.matching.align import unmoved_transform

#: Fewest pairs that can tell a match with a rotation from chance: one more than fix it.
LEAST_FOR_ROTATION = 3
#: Sources of a list that are used, and those that triangles are made of: the first ones.
_MAX_SOURCES = 100
_MAX_CORNERS = 30
#: Positions are not trusted to be better than this (pixels), however well they agree.
_POSITION_FLOOR = 0.1
#: With fewer pairs than this, the fit follows each of them too much to tell which one is off.
_ENOUGH_TO_CLIP = 6
#: Two pairs leave nothing to judge an outlier by: each must agree with their common shift to this (pixels), so that a
#: centroid that was dragged by a cosmic ray does not shift the frame by more.
_TWO_PAIRS_WITHIN = 0.75
#: A single detection of several stars is told by being nearest to one of them by this factor.
_CLEARLY_NEAREST = 4.0
#: With so many pairs, and half of the list, a likely start that proves good ends the search.
_ENOUGH_TO_STOP = 8
#: What counts as hardly moved: shift of the field in units of its size, and change of rotation (rad) and scale.
_NEAR_SHIFT, _NEAR_TURN = 0.1, 0.03
#: A transform this much (e-folds) more probable than any other is not ambiguous.
_CLEAR = math.log(100)
#: Pairs of similar triangles looked at, starting points counted pair by pair, and refined.
_MAX_SIMILAR, _MAX_COUNTED, _MAX_REFINED = 40_000, 60, 8


class AlignmentError(Exception):
    """Two source lists have no trustworthy match; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class FoundTransform:
    """A transform and the pairs of sources it rests on.

    Attributes
    ----------
    transform : ndarray, shape (3, 3)
        Takes ``(x, y, 1)`` on the reference to ``(x, y, 1)`` on the frame, pixels.
    n_matched : int
        Number of sources that were matched.
    rms : float
        Root mean square distance of the pairs, pixels of the frame; not corrected for the fitted parameters.
    reference_index, frame_index : ndarray of int, shape (n_matched,)
        The pairs, as positions in the two lists, brightest of the reference first.
    """

    transform: np.ndarray
    n_matched: int
    rms: float
    reference_index: np.ndarray
    frame_index: np.ndarray


@dataclass(frozen=True)
class _Problem:
    """Two cleaned lists and the rules of the match."""

    reference: np.ndarray
    frame: np.ndarray
    reference_weights: np.ndarray
    frame_weights: np.ndarray
    area: float
    shift_only: bool
    expected: tuple[complex, complex]
    scale: float
    scale_range: float
    tolerance: float
    is_mirrored: bool = False

    @property
    def least(self) -> int:
        """Fewest pairs that can tell a match from chance: one more than fix the transform."""
        return 2 if self.shift_only else LEAST_FOR_ROTATION


@dataclass(frozen=True)
class _Solution:
    """A transform, its pairs and the logarithm of how many as good are expected by chance."""

    a: complex
    b: complex
    i: np.ndarray
    j: np.ndarray
    log_chance: float
    is_mirrored: bool = False

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.a * points + self.b

    def matrix(self) -> np.ndarray:
        a, b = self.a, self.b
        hand = -1.0 if self.is_mirrored else 1.0
        return np.array([[a.real, -hand * a.imag, b.real], [a.imag, hand * a.real, b.imag], [0.0, 0.0, 1.0]])


def find_transform(
    reference_xy: np.ndarray,
    frame_xy: np.ndarray,
    *,
    transform_type: Literal["affine", "translation"] = "affine",
    reference_weights: np.ndarray | None = None,
    frame_weights: np.ndarray | None = None,
    expected_scale: float = 1.0,
    scale_range: float | None = 1.1,
    tolerance: float = 3.0,
    allow_reflection: bool = False,
    shift_of_few: bool = False,
    guess: np.ndarray | None = None,
    max_chance: float = 1e-4,
) -> FoundTransform:
    """Find the transform that takes sources of the reference to sources of a frame.

    Parameters
    ----------
    reference_xy, frame_xy : ndarray, shape (n, 2) and (m, 2)
        Positions in pixels, brightest first. NaN positions and all but the brightest of sources closer than
        ``tolerance`` are left out; at most 100 of each list are used, 30 when nothing is known of the transform.
    transform_type : {"affine", "translation"}
        ``affine`` solves for shift, rotation and one scale (a similarity; 3 or more matched sources),
        ``translation`` for the shift alone (2 or more; one when the lists hold hardly more).
    reference_weights, frame_weights : ndarray, optional
        Fluxes. A pair counts in the last fit by both, each capped at 10 times the median of its list.
    expected_scale : float
        Pixels of the frame for one of the reference.
    scale_range : float, optional
        Factor above 1 by which the scale may differ from the expected, either way; None for any (within 10).
    tolerance : float
        Largest distance of a pair, pixels of the frame.
    allow_reflection : bool
        Look for mirrored frames too.
    shift_of_few : bool
        Where ``affine`` has fewer than 3 sources of a list, look for the shift alone, as ``translation`` does. Such a
        match has 1 or 2 pairs; it cannot see a turn of the field: two stars turned by 180 degrees are the same two
        points, so that the caller should look at their fluxes.
    guess : ndarray, shape (3, 3), optional
        Tried first, and preferred where the sources leave a choice; ``translation`` takes its shift only.
        Without it, a frame that hardly moved is preferred.
    max_chance : float
        Expected number of matches as good, between lists of as many sources strewn at random over the frame, at which
        a match is refused. It bounds the probability that unrelated lists are accepted.

    Returns
    -------
    FoundTransform

    Raises
    ------
    AlignmentError
        When there is no trustworthy match.
    ValueError
        For arguments that cannot mean anything.

    Notes
    -----
    Sources at rest on the detector (hot pixels) match perfectly at no shift. When some do, and others moved
    together, the moved ones are the stars. Same lists, same bits: nothing is random.
    """
    _check_arguments(transform_type, expected_scale, scale_range, tolerance, max_chance)
    reference, r_weights, r_index = _clean(reference_xy, reference_weights, tolerance / expected_scale)
    frame, f_weights, f_index = _clean(frame_xy, frame_weights, tolerance)
    problem = _Problem(
        reference,
        frame,
        r_weights,
        f_weights,
        area=_area(reference * expected_scale, frame),
        shift_only=transform_type == "translation",
        expected=_linear(unmoved_transform(expected_scale)),
        scale=expected_scale,
        scale_range=scale_range or 10.0,
        tolerance=tolerance,
    )
    if shift_of_few and min(len(reference), len(frame)) < problem.least:
        solution = _solve_few(problem, guess, math.log(max_chance))
    else:
        solution = _solve_all(problem, guess, allow_reflection, math.log(max_chance))
    distance = np.abs(_points(problem, solution) - frame[solution.j])
    order = np.argsort(r_index[solution.i])
    return FoundTransform(
        transform=solution.matrix(),
        n_matched=len(order),
        rms=float(np.sqrt(np.mean(distance**2))),
        reference_index=r_index[solution.i][order],
        frame_index=f_index[solution.j][order],
    )


def _check_arguments(
    transform_type: str, expected_scale: float, scale_range: float | None, tolerance: float, max_chance: float
) -> None:
    if transform_type not in ("affine", "translation"):
        raise ValueError(f"transform_type must be 'affine' or 'translation', got {transform_type!r}")
    if scale_range is not None and not scale_range > 1:
        raise ValueError(f"scale_range must be a factor above 1 (1.1 accepts 0.909 to 1.1), got {scale_range}")
    for name, value in (("expected_scale", expected_scale), ("tolerance", tolerance), ("max_chance", max_chance)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a number above 0, got {value}")


def _clean(
    xy: np.ndarray, weights: np.ndarray | None, least_distance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions as complex numbers, weights 0.1 to 10 and indices of the sources that can be matched."""
    xy = np.asarray(xy, dtype=float).reshape(-1, 2)
    index = np.flatnonzero(np.isfinite(xy).all(axis=1))[:_MAX_SOURCES]
    points = xy[index, 0] + 1j * xy[index, 1]
    close = np.triu(np.abs(points[:, None] - points) < least_distance, 1)
    kept = np.ones(len(points), dtype=bool)
    for row in np.flatnonzero(close.any(axis=1)):
        if kept[row]:
            kept &= ~close[row]
    points, index = points[kept], index[kept]
    if weights is None:
        return points, np.ones(len(points)), index
    flux = np.asarray(weights, dtype=float).ravel()
    if len(flux) != len(xy):
        raise ValueError(f"as many weights as positions ({len(xy)}) were expected, found {len(flux)}")
    flux = np.where(np.isfinite(flux[index]) & (flux[index] > 0), flux[index], 0.0)
    typical = float(np.median(flux[flux > 0])) if (flux > 0).any() else 1.0
    return points, np.clip(flux / typical, 0.1, 10.0), index


def _area(*lists: np.ndarray) -> float:
    """Pixels of the frame, judged from where sources are: pixel (0, 0) is a corner of the detector."""
    width = height = 1.0
    for points in lists:
        if len(points):
            beyond = (len(points) + 1) / len(points)
            width = max(width, beyond * points.real.max() - min(points.real.min(), 0.0))
            height = max(height, beyond * points.imag.max() - min(points.imag.min(), 0.0))
    # Sources on a line do not make the detector one: few are longer than 4 to 1.
    return max(width, height / 4) * max(height, width / 4)


def _linear(transform: np.ndarray) -> tuple[complex, complex]:
    """Give the similarity ``a, b`` next to a transform; for a mirrored one, that of conjugate positions."""
    (a, b, x), (d, e, y) = np.asarray(transform, dtype=float)[:2]
    if a * e - b * d < 0:
        b, e = -b, -e
    return complex(a + e, d - b) / 2, complex(x, y)


# ---------------------------------------------------------------- choosing among solutions


def _points(problem: _Problem, solution: _Solution) -> np.ndarray:
    """Where the solution puts its matched reference sources."""
    return solution(_handed(problem.reference[solution.i], solution.is_mirrored))


def _handed(points: np.ndarray, is_mirrored: bool) -> np.ndarray:
    return np.conj(points) if is_mirrored else points


def _solve_all(problem: _Problem, guess: np.ndarray | None, reflect: bool, log_limit: float) -> _Solution:
    """Best trustworthy solution, mirrored or not, that is not the pattern of the detector at rest."""
    smallest = min(len(problem.reference), len(problem.frame))
    if problem.shift_only and smallest == 1:
        return _single_pair(problem, guess)
    if smallest < problem.least:
        raise AlignmentError(
            f"{len(problem.reference)} sources of the reference and {len(problem.frame)} of the frame can be matched, "
            f"at least {problem.least} of each are needed"
        )
    solutions = []
    hands = (False, True) if reflect and not problem.shift_only else (False,)
    for is_mirrored in hands:
        solutions += _solve(_with_guess(problem, guess, is_mirrored), log_limit)
    best = _choose(problem, solutions, log_limit - math.log(len(hands)))
    return _moving(problem, best, log_limit) or best


def _solve_few(problem: _Problem, guess: np.ndarray | None, log_limit: float) -> _Solution:
    """Shift alone, for lists that are too short for a rotation."""
    tolerance = min(problem.tolerance, _TWO_PAIRS_WITHIN * problem.scale)
    try:
        return _solve_all(replace(problem, shift_only=True, tolerance=tolerance), guess, False, log_limit)
    except AlignmentError as error:
        raise AlignmentError(
            f"{len(problem.reference)} sources of the reference and {len(problem.frame)} of the frame can be matched, "
            f"a rotation needs at least {problem.least} of each; as a shift alone: {error.reason}"
        ) from error


def _with_guess(problem: _Problem, guess: np.ndarray | None, is_mirrored: bool) -> _Problem:
    if is_mirrored:
        problem = replace(problem, reference=np.conj(problem.reference), is_mirrored=True)
    if guess is None:
        return problem
    guess = np.asarray(guess, dtype=float)
    if guess.shape != (3, 3) or not np.isfinite(guess).all():
        raise ValueError(f"a finite 3 x 3 transform was expected as guess, found shape {guess.shape}: {guess.tolist()}")
    a, b = _linear(guess)
    if problem.shift_only:
        a = problem.expected[0]
    guess_is_mirrored = guess[0, 0] * guess[1, 1] < guess[0, 1] * guess[1, 0]
    return replace(problem, expected=(a, b)) if guess_is_mirrored == is_mirrored else problem


def _choose(problem: _Problem, solutions: list[_Solution], log_limit: float) -> _Solution:
    """Pick the solution least probable by chance, unless it is probable or another is about as good."""
    n, m = len(problem.reference), len(problem.frame)
    if not solutions:
        raise AlignmentError(f"no {problem.least} of {n} reference and {m} frame sources form the same pattern")
    best = min(solutions, key=lambda solution: solution.log_chance)
    if best.log_chance > log_limit:
        raise AlignmentError(
            f"the best match pairs {len(best.i)} of {n} reference and {m} frame sources, no more than unrelated lists "
            f"may show by chance: {math.exp(min(best.log_chance, 20)):.2g} such matches expected, "
            f"below {math.exp(log_limit):.2g} needed"
        )
    for other in solutions:
        if other.log_chance < best.log_chance + _CLEAR and _differ(problem, best, other):
            raise AlignmentError(
                f"the match is ambiguous: one transform pairs {len(best.i)} sources, another {len(other.i)} as well"
            )
    return best


def _differ(problem: _Problem, one: _Solution, other: _Solution) -> bool:
    """Whether two solutions disagree by more than the tolerance somewhere around the matched sources."""
    points = problem.reference[one.i]
    size = float(np.sqrt(np.mean(np.abs(points - points.mean()) ** 2))) or 1.0
    around = points.mean() + size * np.array([1, 1j, -1, -1j])
    apart = one(_handed(around, one.is_mirrored)) - other(_handed(around, other.is_mirrored))
    return float(np.abs(apart).max()) > 2 * problem.tolerance


def _moving(problem: _Problem, found: _Solution, log_limit: float) -> _Solution | None:
    """Solution of the sources that moved, when ``found`` is that of sources at rest on the detector."""
    if found.is_mirrored:
        return None
    a, b = _linear(unmoved_transform(problem.scale))
    if np.abs(found(problem.reference[found.i]) - a * problem.reference[found.i] - b).max() > 1:
        return None
    i = np.setdiff1d(np.arange(len(problem.reference)), found.i)
    j = np.setdiff1d(np.arange(len(problem.frame)), found.j)
    if min(len(i), len(j)) < problem.least:
        return None
    rest = replace(
        problem,
        reference=problem.reference[i],
        frame=problem.frame[j],
        reference_weights=problem.reference_weights[i],
        frame_weights=problem.frame_weights[j],
    )
    try:
        other = _choose(rest, _solve(rest, log_limit), log_limit)
    except AlignmentError:
        return None
    shifts = rest.frame[other.j] - a * rest.reference[other.i] - b
    scatter = np.sqrt(np.mean(np.abs(shifts - shifts.mean()) ** 2))
    # Blends and faint stars that missed the match lie near rest too, but not all to one side.
    is_coherent = len(shifts) >= 5 and abs(shifts.mean()) > 3 * scatter
    if np.sqrt(np.mean(np.abs(shifts) ** 2)) > 2 * problem.tolerance or is_coherent:
        return replace(other, i=i[other.i], j=j[other.j])
    return None


def _single_pair(problem: _Problem, guess: np.ndarray | None) -> _Solution:
    """Shift from one pair, when neither list holds more than 3.

    One star of the reference is the brightest of the frame, and no other is nearer to its place. One detection is that
    star of the reference whose place is clearly nearest: the others are lost behind cloud, or eclipsed.
    """
    n, m = len(problem.reference), len(problem.frame)
    a, b = _with_guess(problem, guess, False).expected
    shifts = problem.frame - a * problem.reference[:, None]
    away = np.abs(shifts - b).ravel()
    nearest = int(np.argmin(away))
    i, j = divmod(nearest, m)
    is_clear = j == 0 if n == 1 else away[nearest] * _CLEARLY_NEAREST < np.delete(away, nearest).min()
    if max(n, m) > 3 or not is_clear:
        raise AlignmentError(f"one pair of {n} reference and {m} frame sources cannot be told from chance")
    return _Solution(a, complex(shifts[i, j]), np.array([i]), np.array([j]), 0.0)


# ---------------------------------------------------------------- from starting points to solutions


def _solve(problem: _Problem, log_limit: float) -> list[_Solution]:
    """Refine the starting points, the probable first; the general search runs only where they do not suffice."""
    solutions: list[_Solution] = []
    smallest = min(len(problem.reference), len(problem.frame))
    # Half of a short list may agree by a symmetry of the field: better look at all.
    enough = min(smallest, max(smallest / 2, _ENOUGH_TO_STOP))
    for start in _likely_starts(problem):
        solution = _refine(problem, *start)
        if solution is not None:
            solutions.append(solution)
            if solution.log_chance < log_limit and len(solution.i) >= enough and not problem.shift_only:
                return solutions
    if not problem.shift_only:
        refined = [_refine(problem, *start) for start in _triangle_starts(problem)]
        solutions += [solution for solution in refined if solution is not None]
    return solutions


def _likely_starts(problem: _Problem) -> Iterator[tuple[complex, complex]]:
    """Yield the expected transform, then shifts that many pairs of sources have in common."""
    a, b = problem.expected
    yield a, b
    shifts = (problem.frame - a * problem.reference[:, None]).ravel()
    width = 4 * problem.tolerance
    # Four grids, each half a cell aside: any group of shifts is well inside a cell of one of them.
    cells = [(shifts / width + offset) for offset in (0, 0.5, 0.5j, 0.5 + 0.5j)]
    numbers = np.concatenate([np.floor(c.real) * 2.0**24 + np.floor(c.imag) for c in cells])
    grid = np.repeat(np.arange(4), len(shifts))
    _, cell, counts = np.unique(numbers * 4 + grid, return_inverse=True, return_counts=True)
    done: list[complex] = []
    for best in np.argsort(-counts, kind="stable")[: 4 * _MAX_REFINED]:
        members = shifts[np.flatnonzero(cell == best) % len(shifts)]
        middle = complex(np.median(members.real), np.median(members.imag))
        if len(done) < _MAX_REFINED and all(abs(middle - other) > width / 4 for other in done):
            done.append(middle)
            yield a, middle


def _refine(problem: _Problem, a: complex, b: complex) -> _Solution | None:
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
    return _Solution(a, b, i, j, log_chance, problem.is_mirrored) if in_range else None


def _match(problem: _Problem, a: complex, b: complex, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are each other's nearest and within a radius, as indices into the two lists."""
    distance = np.abs((a * problem.reference + b)[:, None] - problem.frame)
    nearest = distance.argmin(axis=1)
    i = np.arange(len(problem.reference))
    is_pair = (distance.argmin(axis=0)[nearest] == i) & (distance[i, nearest] < radius)
    return i[is_pair], nearest[is_pair]


def _fit(problem: _Problem, i: np.ndarray, j: np.ndarray, w: np.ndarray) -> tuple[complex, complex]:
    """Weighted least squares over pairs (Umeyama 1991, IEEE PAMI 13, 376, in complex numbers)."""
    r, f = problem.reference[i], problem.frame[j]
    w = w / w.sum()
    r_mean, f_mean = (w * r).sum(), (w * f).sum()
    a = problem.expected[0]
    if not problem.shift_only:
        a = (w * np.conj(r - r_mean) * (f - f_mean)).sum() / (w * np.abs(r - r_mean) ** 2).sum()
    return complex(a), complex(f_mean - a * r_mean)


def _robust_fit(problem: _Problem, i: np.ndarray, j: np.ndarray) -> tuple[complex, complex]:
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
    problem: _Problem, a: complex, b: complex, i: np.ndarray, j: np.ndarray
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


def _log_chance(problem: _Problem, k: np.ndarray, squares: np.ndarray, spread: np.ndarray, is_near: bool) -> np.ndarray:
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


def _triangle_starts(problem: _Problem) -> list[tuple[complex, complex]]:
    """Find transforms under which a triangle of each list coincide, those that match most sources first."""
    r_triple, r_shape = _triangles(problem.reference, 0.0)
    f_triple, f_shape = _triangles(problem.frame, 0.1)
    if not (len(r_shape) and len(f_shape)):
        return []
    # Shapes lie within two overlapping unit circles (area 1.2): a radius that gives about as many pairs as wanted.
    radius = min(0.25, math.sqrt(_MAX_SIMILAR * 1.2 / (math.pi * len(r_shape) * len(f_shape))))
    trees = [KDTree(np.column_stack([shape.real, shape.imag])) for shape in (r_shape, f_shape)]
    similar = trees[0].sparse_distance_matrix(trees[1], radius, output_type="ndarray")
    similar = similar[np.lexsort((similar["j"], similar["i"]))]
    r = problem.reference[r_triple[similar["i"]]]
    f = problem.frame[f_triple[similar["j"]]]
    side = f[:, 1] - f[:, 0]
    scale = np.abs(side) / np.abs(r[:, 1] - r[:, 0]) / problem.scale
    possible = (scale < problem.scale_range) & (scale * problem.scale_range > 1)
    possible &= similar["v"] * np.abs(side) < problem.tolerance
    r, f = r[possible], f[possible]
    r_mean, f_mean = r.mean(axis=1, keepdims=True), f.mean(axis=1, keepdims=True)
    a = (np.conj(r - r_mean) * (f - f_mean)).sum(axis=1) / (np.abs(r - r_mean) ** 2).sum(axis=1)
    b = f_mean[:, 0] - a * r_mean[:, 0]
    best = _best_counts(problem, a, b)
    return list(zip(a[best].tolist(), b[best].tolist(), strict=True))


def _best_counts(problem: _Problem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
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
    return chosen[np.lexsort((squares, -is_pair.sum(axis=1)))][:_MAX_REFINED]


def _rough_counts(problem: _Problem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
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
