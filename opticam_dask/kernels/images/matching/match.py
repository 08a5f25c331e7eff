"""Match the source lists of two frames: which source is which, and the transform that follows.

A list holds sources the other has not (hot pixels, cosmic rays, stars lost in cloud), so some pairs always fall
together by chance. A transform is accepted only when so good a match is improbable between unrelated lists: the
expected number of equally good ones must be below ``max_chance`` (the a-contrario test of Moisan & Stival 2004,
IJCV 57, 201).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from opticam_dask.kernels.images.matching.align import scale_of, unmoved_transform
from opticam_dask.kernels.images.matching.problem import MAX_REFINED, MatchProblem, PairedTransform
from opticam_dask.kernels.images.matching.refinement import refine
from opticam_dask.kernels.images.matching.triangles import triangle_starts
from opticam_dask.kernels.robust import median

#: At most this many of the first sources of a list are used: distances of all pairs stay few.
_MAX_SOURCES = 100
#: Two pairs leave nothing to judge an outlier by: each must agree with their common shift to this (pixels), so that a
#: centroid that was dragged by a cosmic ray does not shift the frame by more.
_TWO_PAIRS_WITHIN = 0.75
#: The ratio of their fluxes changes by no more than this (natural logarithm) where a third star does not match.
_SAME_RATIO = 0.5
#: A single detection of several stars is told by being nearest to one of them by this factor.
_CLEARLY_NEAREST = 4.0
#: With this many pairs, and half of the list, a likely start that proves good ends the search.
_ENOUGH_TO_STOP = 8
#: Sources at rest on the detector, as hot pixels, have moved together by less than this (pixels) and their scatter.
_AT_REST = 0.05
#: A transform this much (e-folds) more probable than any other is not ambiguous.
_CLEAR = math.log(100)


class AlignmentError(Exception):
    """Two source lists have no trustworthy match; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


#: A scale that is known from elsewhere is refined by no more than this factor.
_KNOWN_SCALE = 1.05


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
    any_rotation: bool = False,
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
    any_rotation : bool
        Nothing is known of the rotation: a frame that hardly turned is not tried first, which is quicker where most
        lists do not match at all. Where the sources leave a choice, a frame that hardly moved is preferred.
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
    problem = MatchProblem(
        *(reference, frame, r_weights, f_weights),
        area=_area(reference * expected_scale, frame),
        shift_only=transform_type == "translation",
        expected=_linear(unmoved_transform(expected_scale)),
        scale=expected_scale,
        scale_range=scale_range or 10.0,
        tolerance=tolerance,
    )
    if shift_of_few and min(len(reference), len(frame)) < problem.least:
        solution = _solve_few(problem, math.log(max_chance))
    else:
        try:
            solution = _solve_all(problem, allow_reflection, math.log(max_chance), any_rotation=any_rotation)
        except AlignmentError:
            if not shift_of_few or (found := _two_of_three(problem)) is None:
                raise
            solution = found
    return _found(problem, solution, r_index, f_index)


def follow_guess(
    reference_xy: np.ndarray,
    frame_xy: np.ndarray,
    guess: np.ndarray,
    *,
    reference_weights: np.ndarray | None = None,
    frame_weights: np.ndarray | None = None,
    tolerance: float = 3.0,
) -> FoundTransform | None:
    """Refine a transform that is known from elsewhere by the sources that lie where it says.

    Parameters
    ----------
    reference_xy, frame_xy, reference_weights, frame_weights
        As :func:`find_transform` takes them.
    guess : ndarray, shape (3, 3)
        The transform, good to twice the tolerance.
    tolerance : float
        Largest distance of a pair, pixels of the frame.

    Returns
    -------
    FoundTransform or None
        None with fewer than three pairs: nobody asks how probable they are by chance, as the transform is known.
    """
    scale = scale_of(guess)
    reference, r_weights, r_index = _clean(reference_xy, reference_weights, tolerance / scale)
    frame, f_weights, f_index = _clean(frame_xy, frame_weights, tolerance)
    problem = MatchProblem(
        *(reference, frame, r_weights, f_weights),
        area=_area(reference * scale, frame),
        shift_only=False,
        expected=_linear(guess),
        scale=scale,
        scale_range=_KNOWN_SCALE,
        tolerance=tolerance,
    )
    if min(len(reference), len(frame)) < problem.least:
        return None
    solution = refine(problem, *_linear(guess))
    return None if solution is None else _found(problem, solution, r_index, f_index)


def _found(
    problem: MatchProblem, solution: PairedTransform, r_index: np.ndarray, f_index: np.ndarray
) -> FoundTransform:
    """A solution in terms of the lists that were given, of which some sources were left out."""
    distance = np.abs(_points(problem, solution) - problem.frame[solution.j])
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
    close = np.argwhere(np.abs(points[:, None] - points) < least_distance)
    kept = np.ones(len(points), dtype=bool)
    for brighter, fainter in close[close[:, 0] < close[:, 1]].tolist():
        if kept[brighter]:
            kept[fainter] = False
    points, index = points[kept], index[kept]
    if weights is None:
        return points, np.ones(len(points)), index
    flux = np.asarray(weights, dtype=float).ravel()
    if len(flux) != len(xy):
        raise ValueError(f"as many weights as positions ({len(xy)}) were expected, found {len(flux)}")
    flux = np.where(np.isfinite(flux[index]) & (flux[index] > 0), flux[index], 0.0)
    typical = median(flux[flux > 0]) if (flux > 0).any() else 1.0
    return points, np.minimum(np.maximum(flux / typical, 0.1), 10.0), index


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


def _spread_area(points: np.ndarray) -> float:
    """Pixels over which sources are strewn, judged from their outermost ones."""
    beyond = (len(points) + 1) / max(len(points) - 1, 1)
    width, height = (max(beyond * float(np.ptp(along)), 1.0) for along in (points.real, points.imag))
    return max(width, height / 4) * max(height, width / 4)


def _linear(transform: np.ndarray) -> tuple[complex, complex]:
    """Give the similarity ``a, b`` next to a transform; for a mirrored one, that of conjugate positions."""
    (a, b, x), (d, e, y) = np.asarray(transform, dtype=float)[:2]
    if a * e - b * d < 0:
        b, e = -b, -e
    return complex(a + e, d - b) / 2, complex(x, y)


# ---------------------------------------------------------------- choosing among solutions


def _points(problem: MatchProblem, solution: PairedTransform) -> np.ndarray:
    """Where the solution puts its matched reference sources."""
    return solution(_handed(problem.reference[solution.i], solution.is_mirrored))


def _handed(points: np.ndarray, is_mirrored: bool) -> np.ndarray:
    return np.conj(points) if is_mirrored else points


def _solve_all(
    problem: MatchProblem, reflect: bool, log_limit: float, *, any_rotation: bool = False
) -> PairedTransform:
    """Best trustworthy solution, mirrored or not, that is not the pattern of the detector at rest."""
    smallest = min(len(problem.reference), len(problem.frame))
    if problem.shift_only and smallest == 1:
        return _single_pair(problem)
    if smallest < problem.least:
        raise AlignmentError(
            f"{len(problem.reference)} sources of the reference and {len(problem.frame)} of the frame can be matched, "
            f"at least {problem.least} of each are needed"
        )
    solutions, hands = [], [problem]
    if reflect and not problem.shift_only:
        hands.append(replace(problem, reference=np.conj(problem.reference), is_mirrored=True))
    for hand in hands:
        solutions += _solve(hand, log_limit, any_rotation=any_rotation)
    best = _choose(problem, solutions, log_limit - math.log(len(hands)))
    return _moving(problem, best, log_limit) or best


def _solve_few(problem: MatchProblem, log_limit: float) -> PairedTransform:
    """Shift alone, for lists that are too short for a rotation."""
    tolerance = min(problem.tolerance, _TWO_PAIRS_WITHIN * problem.scale)
    try:
        return _solve_all(replace(problem, shift_only=True, tolerance=tolerance), False, log_limit)
    except AlignmentError as error:
        raise AlignmentError(
            f"{len(problem.reference)} sources of the reference and {len(problem.frame)} of the frame can be matched, "
            f"a rotation needs at least {problem.least} of each; as a shift alone: {error.reason}"
        ) from error


def _two_of_three(problem: MatchProblem) -> PairedTransform | None:
    """Shift of two stars of three, the third of which is dragged by a cosmic ray or cloud; None where it is not clear.

    All three are where a shift puts them, within the tolerance, two of them together and with their ratio of fluxes.
    """
    a, _ = problem.expected
    if len(problem.reference) != 3 or len(problem.frame) != 3:
        return None
    brighter = np.log(problem.frame_weights) - np.log(problem.reference_weights)[:, None]
    shifts, found = problem.frame - a * problem.reference[:, None], []
    for order in itertools.permutations(range(3)):
        pairs = [(i, order[i]) for i in range(3)]
        for (i, j), (k, m) in itertools.combinations(pairs, 2):
            shift = 0.5 * (shifts[i, j] + shifts[k, m])
            is_one = abs(shifts[i, j] - shifts[k, m]) < _TWO_PAIRS_WITHIN * problem.scale
            is_near = all(abs(shifts[pair] - shift) < problem.tolerance for pair in pairs)
            if is_one and is_near and abs(brighter[i, j] - brighter[k, m]) < _SAME_RATIO:
                apart = abs(shifts[i, j] - shifts[k, m])
                found.append((apart, order, PairedTransform(a, shift, np.array([i, k]), np.array([j, m]), 0.0)))
    if len({order for _, order, _ in found}) != 1:
        return None
    return min(found, key=lambda each: each[0])[2]


def _choose(problem: MatchProblem, solutions: list[PairedTransform], log_limit: float) -> PairedTransform:
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


def _differ(problem: MatchProblem, one: PairedTransform, other: PairedTransform) -> bool:
    """Whether two solutions disagree by more than the tolerance somewhere around the matched sources."""
    points = problem.reference[one.i]
    size = float(np.sqrt(np.mean(np.abs(points - points.mean()) ** 2))) or 1.0
    around = points.mean() + size * np.array([1, 1j, -1, -1j])
    apart = one(_handed(around, one.is_mirrored)) - other(_handed(around, other.is_mirrored))
    return float(np.abs(apart).max()) > 2 * problem.tolerance


def _moving(problem: MatchProblem, found: PairedTransform, log_limit: float) -> PairedTransform | None:
    """PairedTransform of the sources that moved, when ``found`` is that of sources at rest on the detector."""
    if found.is_mirrored:
        return None
    a, b = _linear(unmoved_transform(problem.scale))
    if not _is_at_rest(problem, found, a, b):
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
        # what is left over may be a clump, as the pieces of a defocused star: alike by chance more often than sources
        # strewn over the frame
        area=max(_spread_area(problem.reference[i] * problem.scale), _spread_area(problem.frame[j])),
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


def _is_at_rest(problem: MatchProblem, found: PairedTransform, a: complex, b: complex) -> bool:
    """Whether the pairs of a transform lie where the unmoved one ``a z + b`` puts them: a shift of all is none."""
    expected = a * problem.reference[found.i] + b
    if np.abs(found(problem.reference[found.i]) - expected).max() > 1:
        return False
    shifts = problem.frame[found.j] - expected
    scatter = float(np.sqrt(np.mean(np.abs(shifts - shifts.mean()) ** 2)))
    return bool(abs(shifts.mean()) < _AT_REST + 3 * scatter / np.sqrt(len(shifts)))


def _single_pair(problem: MatchProblem) -> PairedTransform:
    """Shift from one pair, when neither list holds more than 3.

    One star of the reference is the brightest of the frame, and no other is nearer to its place. One detection is that
    star of the reference whose place is clearly nearest: the others are lost behind cloud, or eclipsed.
    """
    n, m = len(problem.reference), len(problem.frame)
    a, b = problem.expected
    shifts = problem.frame - a * problem.reference[:, None]
    away = np.abs(shifts - b).ravel()
    nearest = int(np.argmin(away))
    i, j = divmod(nearest, m)
    is_clear = j == 0 if n == 1 else away[nearest] * _CLEARLY_NEAREST < np.delete(away, nearest).min()
    if max(n, m) > 3 or not is_clear:
        raise AlignmentError(f"one pair of {n} reference and {m} frame sources cannot be told from chance")
    return PairedTransform(a, complex(shifts[i, j]), np.array([i]), np.array([j]), 0.0)


# ---------------------------------------------------------------- from starting points to solutions


def _solve(problem: MatchProblem, log_limit: float, *, any_rotation: bool = False) -> list[PairedTransform]:
    """Refine the starting points, the probable first; the general search runs only where they do not suffice."""
    solutions: list[PairedTransform] = []
    smallest = min(len(problem.reference), len(problem.frame))
    # Half of a short list may agree by a symmetry of the field: better look at all.
    enough = min(smallest, max(smallest / 2, _ENOUGH_TO_STOP))
    for start in () if any_rotation else _likely_starts(problem):
        solution = refine(problem, *start)
        if solution is not None:
            solutions.append(solution)
            if solution.log_chance < log_limit and len(solution.i) >= enough and not problem.shift_only:
                return solutions
    if not problem.shift_only:
        refined = [refine(problem, *start) for start in triangle_starts(problem)]
        solutions += [solution for solution in refined if solution is not None]
    return solutions


def _likely_starts(problem: MatchProblem) -> Iterator[tuple[complex, complex]]:
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
    for best in np.argsort(-counts, kind="stable")[: 4 * MAX_REFINED]:
        members = shifts[np.flatnonzero(cell == best) % len(shifts)]
        middle = complex(np.median(members.real), np.median(members.imag))
        if len(done) < MAX_REFINED and all(abs(middle - other) > width / 4 for other in done):
            done.append(middle)
            yield a, middle
